; What the scripts of tests/gimp2.rs share, beside tests/support/report.scm. `folder` is defined before this is loaded.

; The message with which `action` fails.
(define (failure action)
  (let ((message
          (call/cc
            (lambda (return)
              (set! *error-hook* (lambda words (return (apply string-append words))))
              (action)
              "nothing failed"))))
    (set! *error-hook* throw)
    message))

; The new layer of an edit with the built-in model.
(define (edit image layer prompt eta)
  (car (plug-in-imagic-edit RUN-NONINTERACTIVE image layer prompt "" eta 7 FALSE "")))

; An image with one red layer.
(define (image-with base type width height)
  (let* ((image (car (gimp-image-new 80 60 base)))
         (layer (car (gimp-layer-new image width height type "source" 100 LAYER-MODE-NORMAL))))
    (gimp-image-insert-layer image layer 0 0)
    (gimp-context-set-foreground '(200 30 10))
    (gimp-drawable-fill layer FILL-FOREGROUND)
    image))

(define (source-of image) (car (gimp-image-get-active-layer image)))

(define (layers-of image) (vector->list (cadr (gimp-image-get-layers image))))

(define (size-of layer) (append (gimp-drawable-width layer) (gimp-drawable-height layer) (gimp-drawable-offsets layer)))

(define (pixel-of drawable x y) (vector->list (cadr (gimp-drawable-get-pixel drawable x y))))

(define (name-of layer) (car (gimp-item-get-name layer)))

; What the plug-in left with the image or layer.
(define (memory-of image) (caddr (car (gimp-image-get-parasite image "imagic-edit"))))
(define (recipe-of layer) (caddr (car (gimp-item-get-parasite layer "imagic-edit"))))

(define (save-picture image drawable name)
  (let ((file (string-append folder "/" name)))
    (file-png-save RUN-NONINTERACTIVE image drawable file file 0 1 0 0 0 0 0)))
