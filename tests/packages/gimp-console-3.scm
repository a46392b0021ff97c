; For edit-in-gimp, which defines `in` and `out`, in GIMP 3.
(script-fu-use-v3)
(let* ((image (gimp-file-load RUN-NONINTERACTIVE in))
       (source (vector-ref (gimp-image-get-selected-layers image) 0)))
  (plug-in-imagic-edit #:image image #:drawables (vector source) #:prompt "a photo of a blue car on a sandy beach"
                       #:eta 0.9 #:seed 0 #:preset "custom" #:embedding-steps 2 #:tuning-steps 2 #:sampling-steps 2)
  (gimp-image-flatten image)
  (gimp-file-save RUN-NONINTERACTIVE image out))
