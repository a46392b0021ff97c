//! The calls of the contract [`Library`](super::library::Library) whose functions have the same names in GIMP 2.10 and
//! 3, though with other arguments: numbers there, objects here.

/// A part of an implementation: `$image` and `$layer` make what stands for an image or a layer there; `known`, `gimp!`,
/// `sys` and what else is named here are those of the file that calls this.
macro_rules! same_calls {
    ($image:ident, $layer:ident) => {
        fn image_name(&self, image: Image) -> String {
            // SAFETY: libgimp gives the text away.
            unsafe { take_text(sys::gimp_image_get_name($image(image))) }
        }

        fn has_floating_selection(&self, image: Image) -> bool {
            known(gimp!(gimp_image_get_floating_sel($image(image)))).is_some()
        }

        fn layer_by_tattoo(&self, image: Image, tattoo: u32) -> Option<Layer> {
            known(gimp!(gimp_image_get_layer_by_tattoo($image(image), tattoo as _)))
        }

        fn position(&self, image: Image, layer: Layer) -> i32 {
            gimp!(gimp_image_get_item_position($image(image), $layer(layer)))
        }

        fn selection(&self, image: Image) -> Option<Layer> {
            let is_empty = gimp!(gimp_selection_is_empty($image(image))) != 0;
            if is_empty { None } else { known(gimp!(gimp_image_get_selection($image(image)))) }
        }

        fn begin_undo_step(&self, image: Image) {
            gimp!(gimp_image_undo_group_start($image(image)));
        }

        fn end_undo_step(&self, image: Image) {
            gimp!(gimp_image_undo_group_end($image(image)));
        }

        fn create_layer(
            &self,
            image: Image,
            name: &CStr,
            [w, h]: [i32; 2],
            kind: shared::GimpImageType,
        ) -> Option<Layer> {
            let (image, kind) = ($image(image), sys::GimpImageType(kind.0));
            let mode = gimp!(gimp_image_get_default_new_layer_mode(image));
            known(gimp!(gimp_layer_new(image, name.as_ptr(), w, h, kind, 100.0, mode)))
        }

        fn remove_layer(&self, image: Image, layer: Layer) -> bool {
            gimp!(gimp_image_remove_layer($image(image), $layer(layer))) != 0
        }

        fn layer_name(&self, layer: Layer) -> String {
            // SAFETY: libgimp gives the text away.
            unsafe { take_text(sys::gimp_item_get_name($layer(layer))) }
        }

        fn parent(&self, layer: Layer) -> Option<Layer> {
            known(gimp!(gimp_item_get_parent($layer(layer))))
        }

        fn tattoo(&self, layer: Layer) -> u32 {
            gimp!(gimp_item_get_tattoo($layer(layer))) as _
        }

        fn has_alpha(&self, layer: Layer) -> bool {
            gimp!(gimp_drawable_has_alpha($layer(layer))) != 0
        }

        fn selected_part(&self, layer: Layer) -> Option<Rectangle> {
            let (mut x, mut y, mut width, mut height) = (0, 0, 0, 0);
            let meets =
                gimp!(gimp_drawable_mask_intersect($layer(layer), &mut x, &mut y, &mut width, &mut height)) != 0;
            (meets && width > 0 && height > 0).then_some(Rectangle { x, y, width, height })
        }

        fn move_layer(&self, layer: Layer, x: i32, y: i32) -> bool {
            gimp!(gimp_layer_set_offsets($layer(layer), x, y)) != 0
        }

        fn create_mask(&self, layer: Layer) -> Option<Layer> {
            known(gimp!(gimp_layer_create_mask($layer(layer), sys::GimpAddMaskType::GIMP_ADD_MASK_BLACK)))
        }

        fn add_mask(&self, layer: Layer, mask: Layer) -> bool {
            let (layer, mask) = ($layer(layer), $layer(mask));
            gimp!(gimp_layer_add_mask(layer, mask)) != 0 && gimp!(gimp_layer_set_edit_mask(layer, 0)) != 0
        }

        fn delete(&self, layer: Layer) {
            gimp!(gimp_item_delete($layer(layer)));
        }

        fn buffer(&self, layer: Layer) -> Buffer {
            // SAFETY: libgimp gives the buffer away, or says null; `Library::start` has prepared GEGL.
            unsafe { Buffer::take(sys::gimp_drawable_get_buffer($layer(layer)).cast()) }
        }

        fn update(&self, layer: Layer, part: Rectangle) {
            gimp!(gimp_drawable_update($layer(layer), part.x, part.y, part.width, part.height));
        }

        unsafe fn attach_parasite(&self, keeper: Keeper, parasite: *mut shared::GimpParasite) -> bool {
            let attached = match keeper {
                Keeper::Image(image) => gimp!(gimp_image_attach_parasite($image(image), parasite.cast())),
                Keeper::Layer(layer) => gimp!(gimp_item_attach_parasite($layer(layer), parasite.cast())),
            };
            attached != 0
        }
    };
}
pub(crate) use same_calls;
