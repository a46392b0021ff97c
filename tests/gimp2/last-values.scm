; RUN-WITH-LAST-VALS takes the values of the last edit, not those that Script-Fu has to give.

(define image (image-with RGB RGB-IMAGE 20 20))
(define result (car (plug-in-imagic-edit RUN-WITH-LAST-VALS image (source-of image) "ignored" "" 0 0 FALSE "")))
(check "the last prompt and eta" (name-of result) "eta 1.5 #0: a last value")
(tell "image " (memory-of image))
(finish)
