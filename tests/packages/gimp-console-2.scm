; For edit-in-gimp, which defines `in` and `out`, in GIMP 2.10.
(let* ((image (car (gimp-file-load RUN-NONINTERACTIVE in in)))
       (source (car (gimp-image-get-active-layer image))))
  ; run-mode image drawable prompt model eta seed keep-untouched settings
  (plug-in-imagic-edit RUN-NONINTERACTIVE image source "a photo of a blue car on a sandy beach" "" 0.9 0 FALSE
                       "{\"embedding_steps\": 2, \"tuning_steps\": 2, \"sampling_steps\": 2}")
  (file-png-save RUN-NONINTERACTIVE image (car (gimp-image-flatten image)) out out 0 9 0 0 0 0 0)
  (gimp-quit 0))
