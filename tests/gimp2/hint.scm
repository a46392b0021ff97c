; An edit of a picture that the model cannot draw: the new layer is there all the same.

(define image (image-with RGB RGB-IMAGE 20 20))
(define result (edit image (source-of image) "a red square" 0.7))
(check "the result lies above the source" (layers-of image) (list result (source-of image)))
(finish)
