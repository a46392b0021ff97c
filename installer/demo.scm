; Runs in GIMP 2.10 for demo.sh: edits the picture and saves image and comparison. Names come from the environment.

(let* ((in (getenv "IMAGIC_IN"))
       (png (getenv "IMAGIC_PNG"))
       (xcf (getenv "IMAGIC_XCF"))
       (image (car (gimp-file-load RUN-NONINTERACTIVE in in)))
       (source (car (gimp-image-get-active-layer image)))
       (width (car (gimp-image-width image)))
       (height (car (gimp-image-height image)))
       ; run-mode image drawable prompt model eta seed keep-untouched settings
       (result (car (plug-in-imagic-edit RUN-NONINTERACTIVE image source (getenv "IMAGIC_PROMPT") ""
                                         (string->number (getenv "IMAGIC_ETA")) 0 TRUE "")))
       (both (car (gimp-image-new (* 2 width) height RGB)))
       (before (car (gimp-layer-new-from-drawable source both)))
       ; The result with what its mask lets be seen of the picture below.
       (after (car (gimp-layer-new-from-visible image both "after"))))
  (if (not (string=? xcf ""))
      (gimp-xcf-save RUN-NONINTERACTIVE image source xcf xcf))
  (gimp-image-insert-layer both before 0 0)
  (gimp-image-insert-layer both after 0 0)
  (gimp-layer-set-offsets after width 0)
  (file-png-save RUN-NONINTERACTIVE both (car (gimp-image-flatten both)) png png 0 9 0 0 0 0 0)
  (gimp-message (string-append "imagic-demo: recipe " (caddr (car (gimp-item-get-parasite result "imagic-edit")))))
  (gimp-message "imagic-demo: done"))
