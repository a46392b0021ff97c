; How the scripts of every GIMP report; the test reads report.txt in `folder`, which is defined before this is loaded.

(define report (open-output-file (string-append folder "/report.txt")))

(define (tell . words)
  (for-each (lambda (word) (display word report)) words)
  (newline report))

(define (check sentence got wanted)
  (if (equal? got wanted)
    (tell "ok " sentence)
    (tell "FAILED " sentence ": " got " instead of " wanted)))

(define (finish)
  (tell "the end")
  (close-output-port report))
