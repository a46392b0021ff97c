; What a document remembers, and what the second edit reuses.

(let* ((image (image-with RGB RGB-IMAGE 64 64))
       (source (source-of image))
       (first (edit image source "a red square" 0.6))
       (second (edit image source "a red square" 1.1))
       ; A result stands for the layer it was made from.
       (third (edit image second "a red square" 0))
       (other (edit image source "a blue square" 0.6))
       (file (string-append folder "/memory.xcf")))
  (check "each result lies above the one before" (layers-of image) (list other third second first source))
  (check "the source is selected, although a result was given" (source-of image) source)
  (save-picture first RGB "first.png")
  (save-picture third RGB "third.png")
  ; The next result must not hide below the source.
  (gimp-image-lower-item-to-bottom image other)
  (tell "image " (memory-of image))
  (tell "layer " (recipe-of second))
  (gimp-file-save RUN-NONINTERACTIVE image file)
  (gimp-image-delete image)
  (let* ((image (gimp-file-load RUN-NONINTERACTIVE file)) (source (gimp-image-get-layer-by-name image "source")))
    (tell "opened " (memory-of image))
    (let ((again (edit image source "a red square" 0.6)))
      (tell "reused " (memory-of image))
      (check "the next result lies on top" (car (layers-of image)) again)
      (save-picture again RGB "again.png"))
    (gimp-image-delete image)))

(finish)
