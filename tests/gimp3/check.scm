; What the scripts of tests/gimp3.rs share, beside tests/support/report.scm. `folder` is defined before this is loaded.
(script-fu-use-v3)

; The message with which `action` fails.
(define (failure action)
  (call/cc
    (lambda (return)
      (set! *error-hook* (lambda words (return (apply string-append words))))
      (action)
      "nothing failed")))

; The new layer of an edit with the built-in model.
(define (edit image layer prompt eta)
  (plug-in-imagic-edit #:image image #:drawables (vector layer) #:prompt prompt #:eta eta #:seed 7))

(define (new-layer image name width height type)
  (gimp-layer-new image name width height type 100 LAYER-MODE-NORMAL))

; An image with one red layer.
(define (image-with base type width height)
  (let* ((image (gimp-image-new 80 60 base)) (layer (new-layer image "source" width height type)))
    (gimp-image-insert-layer image layer 0 0)
    (gimp-context-set-foreground '(200 30 10))
    (gimp-drawable-fill layer FILL-FOREGROUND)
    image))

; The selected layer.
(define (source-of image) (vector-ref (gimp-image-get-selected-layers image) 0))

(define (layers-of image) (vector->list (gimp-image-get-layers image)))

(define (size-of layer)
  (list (gimp-drawable-get-width layer) (gimp-drawable-get-height layer) (gimp-drawable-get-offsets layer)))

(define (name-of layer) (gimp-item-get-name layer))

; What the plug-in left with the image or layer.
(define (memory-of image) (caddr (gimp-image-get-parasite image "imagic-edit")))
(define (recipe-of layer) (caddr (gimp-item-get-parasite layer "imagic-edit")))

; One drawable alone as a picture; a mask or gray layer becomes a gray one.
(define (save-picture drawable base name)
  (let* ((image (gimp-image-new (gimp-drawable-get-width drawable) (gimp-drawable-get-height drawable) base))
         (copy (gimp-layer-new-from-drawable drawable image)))
    (gimp-image-insert-layer image copy 0 0)
    (gimp-layer-set-offsets copy 0 0)
    (gimp-file-save RUN-NONINTERACTIVE image (string-append folder "/" name))
    (gimp-image-delete image)))
