; Calls that must fail; the test writes them to cases.scm.

(define image (image-with RGB RGBA-IMAGE 20 20))
(define layer (source-of image))
(define mask (gimp-layer-create-mask layer ADD-MASK-WHITE))
(gimp-layer-add-mask layer mask)
(define channel (gimp-channel-new image "channel" 80 60 50 '(0 0 0)))
(gimp-image-insert-channel image channel 0 0)

(define indexed (image-with RGB RGB-IMAGE 20 20))
(define dots (source-of indexed))
(gimp-image-convert-indexed indexed CONVERT-DITHER-NONE CONVERT-PALETTE-GENERATE 8 FALSE FALSE "")

(define missed (image-with RGB RGB-IMAGE 20 20))
(define outside (source-of missed))
(gimp-image-select-rectangle missed CHANNEL-OP-REPLACE 40 40 10 10)

(load (string-append folder "/cases.scm"))

(check "refused calls leave no layer" (layers-of image) (list layer))
(check "refused calls leave the image clean of memory"
       (vector-length (list->vector (gimp-image-get-parasite-list missed))) 0)
(finish)
