; RUN-WITH-LAST-VALS takes the values that GIMP has kept for the procedure.

(define image (image-with RGB RGB-IMAGE 20 20))
(define result (plug-in-imagic-edit #:run-mode RUN-WITH-LAST-VALS #:image image #:drawables (vector (source-of image))))
(tell "image " (memory-of image))
(finish)
