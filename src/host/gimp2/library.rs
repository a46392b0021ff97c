//! libgimp 2.10 as the contract wants it: images and layers are numbers in every call.

use crate::host::gimp::buffer::{Buffer, Rectangle};
use crate::host::gimp::ffi::take_text;
use crate::host::gimp::library::{Image, Keeper, Kind, Layer, Library};
use crate::host::gimp::same_calls::same_calls;
use crate::host::{gimp_sys as shared, gimp2_sys as sys};
use std::ffi::CStr;
use std::marker::PhantomData;

/// Calls libgimp with plain values and C strings that outlive the call.
macro_rules! gimp {
    ($function:ident($($argument:expr),*)) => {
        // SAFETY: libgimp checks every number and answers an unknown one with an error value; strings are live C
        // strings of the caller; who has a `Gimp2` is on the thread that GIMP called.
        unsafe { sys::$function($($argument),*) }
    };
}

pub struct Gimp2(PhantomData<*const ()>);

impl Gimp2 {
    /// # Safety
    /// To be called on the thread on which `gimp_main` called us, while it runs.
    pub unsafe fn on_this_thread() -> &'static dyn Library {
        &Self(PhantomData)
    }
}

fn number_of_image(image: Image) -> i32 {
    image.0
}

fn number(layer: Layer) -> i32 {
    layer.0
}

/// Of a number from libgimp, which says -1 for none.
fn known(id: i32) -> Option<Layer> {
    (id != -1).then_some(Layer(id))
}

impl Library for Gimp2 {
    same_calls!(number_of_image, number);

    fn keep_refusals_quiet(&self) {
        gimp!(gimp_plugin_set_pdb_error_handler(sys::GimpPDBErrorHandler::GIMP_PDB_ERROR_HANDLER_PLUGIN));
    }

    fn last_error(&self) -> String {
        // SAFETY: libgimp owns the text until the next call of it; it is copied at once.
        unsafe { CStr::from_ptr(sys::gimp_get_pdb_error()) }.to_string_lossy().into_owned()
    }

    fn is_open(&self, image: Image) -> bool {
        gimp!(gimp_image_is_valid(image.0)) != 0
    }

    fn base_type(&self, image: Image) -> shared::GimpImageBaseType {
        shared::GimpImageBaseType(gimp!(gimp_image_base_type(image.0)).0)
    }

    /// At most one layer in this GIMP.
    fn selected_layers(&self, image: Image) -> Vec<Layer> {
        known(gimp!(gimp_image_get_active_layer(image.0))).into_iter().collect()
    }

    /// Selects the first.
    fn set_selected_layers(&self, image: Image, layers: &[Layer]) -> bool {
        layers.first().is_none_or(|layer| gimp!(gimp_image_set_active_layer(image.0, layer.0)) != 0)
    }

    fn create_group(&self, image: Image, name: &CStr) -> Option<Layer> {
        let group = known(gimp!(gimp_layer_group_new(image.0)))?;
        (gimp!(gimp_item_set_name(group.0, name.as_ptr())) != 0).then_some(group)
    }

    fn insert_layer(&self, image: Image, layer: Layer, parent: Option<Layer>, position: i32) -> bool {
        gimp!(gimp_image_insert_layer(image.0, layer.0, parent.map_or(-1, |parent| parent.0), position)) != 0
    }

    fn exists(&self, layer: Layer) -> bool {
        gimp!(gimp_item_is_valid(layer.0)) != 0
    }

    fn kind(&self, layer: Layer) -> Kind {
        if gimp!(gimp_item_is_layer_mask(layer.0)) != 0 {
            Kind::LayerMask
        } else if gimp!(gimp_item_is_layer(layer.0)) == 0 {
            Kind::Channel
        } else if gimp!(gimp_layer_is_floating_sel(layer.0)) != 0 {
            Kind::FloatingSelection
        } else {
            Kind::Layer
        }
    }

    fn children(&self, layer: Layer) -> usize {
        let mut count = 0;
        let list = gimp!(gimp_item_get_children(layer.0, &raw mut count));
        // SAFETY: libgimp gives the list away.
        unsafe { shared::g_free(list.cast()) };
        count as usize
    }

    fn bounds(&self, layer: Layer) -> Rectangle {
        let (mut x, mut y) = (0, 0);
        gimp!(gimp_drawable_offsets(layer.0, &mut x, &mut y));
        let (width, height) = (gimp!(gimp_drawable_width(layer.0)), gimp!(gimp_drawable_height(layer.0)));
        Rectangle { x, y, width, height }
    }

    fn parasite(&self, keeper: Keeper, name: &CStr) -> Option<Vec<u8>> {
        let parasite = match keeper {
            Keeper::Image(image) => gimp!(gimp_image_get_parasite(image.0, name.as_ptr())),
            Keeper::Layer(layer) => gimp!(gimp_item_get_parasite(layer.0, name.as_ptr())),
        };
        if parasite.is_null() {
            return None;
        }
        // SAFETY: libgimp gives the parasite away; `data` holds `size` bytes, and may be null when there are none.
        unsafe {
            let (data, size) = ((*parasite).data.cast::<u8>(), (*parasite).size as usize);
            let bytes = if data.is_null() { Vec::new() } else { std::slice::from_raw_parts(data, size).to_vec() };
            shared::gimp_parasite_free(parasite.cast());
            Some(bytes)
        }
    }
}
