//! libgimp 3 as the contract wants it: images and layers are objects, which are looked up by their number for every
//! call. The object of one that is gone may be gone, too, while an edit runs, and a number stays a number.

use crate::host::gimp::buffer::{Buffer, Rectangle};
use crate::host::gimp::ffi::take_text;
use crate::host::gimp::library::{Image, Keeper, Kind, Layer, Library};
use crate::host::gimp::same_calls::same_calls;
use crate::host::{gimp_sys as shared, gimp3_sys as sys};
use std::ffi::CStr;
use std::marker::PhantomData;
use std::ptr::{null, null_mut};

/// Calls libgimp with plain values, its own objects and C strings that outlive the call.
macro_rules! gimp {
    ($function:ident($($argument:expr),*)) => {
        // SAFETY: objects come from libgimp, which keeps them while the procedure runs, are of the wanted class, or
        // null, which libgimp answers with an error value; strings are live C strings of the caller; who has a `Gimp3`
        // is on the thread that GIMP called.
        unsafe { sys::$function($($argument),*) }
    };
}

pub struct Gimp3(PhantomData<*const ()>);

impl Gimp3 {
    /// # Safety
    /// To be called on the thread on which `gimp_main` called us, while it runs.
    pub unsafe fn on_this_thread() -> &'static dyn Library {
        &Self(PhantomData)
    }
}

/// # Safety
/// `image` is libgimp's.
pub unsafe fn number_of_image(image: *mut sys::GimpImage) -> Image {
    // SAFETY: the caller's promise.
    Image(unsafe { sys::gimp_image_get_id(image) })
}

/// # Safety
/// `item` is null, or a layer, mask or channel of libgimp's.
pub unsafe fn number_of<T>(item: *mut T) -> Option<Layer> {
    // SAFETY: the caller's promise.
    (!item.is_null()).then(|| Layer(unsafe { sys::gimp_item_get_id(item.cast()) }))
}

/// The object of a layer or null, for a call that wants this class, which libgimp or GIMP checks.
pub fn object<T>(layer: Layer) -> *mut T {
    gimp!(gimp_item_get_by_id(layer.0)).cast()
}

fn image_object(image: Image) -> *mut sys::GimpImage {
    gimp!(gimp_image_get_by_id(image.0))
}

/// Of an item that libgimp has answered with.
fn known<T>(item: *mut T) -> Option<Layer> {
    // SAFETY: the callers below hand over what a call of libgimp said.
    unsafe { number_of(item) }
}

/// Takes over a null-ended list of objects, each of which libgimp keeps.
///
/// # Safety
/// `list` is null or such a list from GLib's allocator that nobody else frees.
unsafe fn take_list<T>(list: *mut *mut T) -> Vec<*mut T> {
    if list.is_null() {
        return Vec::new();
    }
    // SAFETY: the caller's promise; the list is read up to its null.
    unsafe {
        let length = (0..).take_while(|&at| !(*list.add(at)).is_null()).count();
        let copy = std::slice::from_raw_parts(list, length).to_vec();
        shared::g_free(list.cast());
        copy
    }
}

impl Library for Gimp3 {
    same_calls!(image_object, object);

    fn keep_refusals_quiet(&self) {
        let (plug_in, handler) = (gimp!(gimp_get_plug_in()), sys::GimpPDBErrorHandler::GIMP_PDB_ERROR_HANDLER_PLUGIN);
        gimp!(gimp_plug_in_set_pdb_error_handler(plug_in, handler));
    }

    fn last_error(&self) -> String {
        let pdb = gimp!(gimp_get_pdb());
        let reason = gimp!(gimp_pdb_get_last_error(pdb));
        // SAFETY: libgimp owns the text until the next call of it; it is copied at once.
        unsafe { CStr::from_ptr(reason) }.to_string_lossy().into_owned()
    }

    fn is_open(&self, image: Image) -> bool {
        gimp!(gimp_image_id_is_valid(image.0)) != 0
    }

    fn base_type(&self, image: Image) -> shared::GimpImageBaseType {
        shared::GimpImageBaseType(gimp!(gimp_image_get_base_type(image_object(image))).0)
    }

    fn selected_layers(&self, image: Image) -> Vec<Layer> {
        let list = gimp!(gimp_image_get_selected_layers(image_object(image)));
        // SAFETY: libgimp gives the list away and keeps the layers.
        unsafe { take_list(list) }.into_iter().filter_map(known).collect()
    }

    fn set_selected_layers(&self, image: Image, layers: &[Layer]) -> bool {
        let objects = layers.iter().map(|&layer| object::<sys::GimpLayer>(layer).cast_const());
        let mut list: Vec<_> = objects.chain([null()]).collect();
        gimp!(gimp_image_set_selected_layers(image_object(image), list.as_mut_ptr())) != 0
    }

    fn create_group(&self, image: Image, name: &CStr) -> Option<Layer> {
        known(gimp!(gimp_group_layer_new(image_object(image), name.as_ptr())))
    }

    fn insert_layer(&self, image: Image, layer: Layer, parent: Option<Layer>, position: i32) -> bool {
        let parent = parent.map_or(null_mut(), object);
        gimp!(gimp_image_insert_layer(image_object(image), object(layer), parent, position)) != 0
    }

    fn exists(&self, layer: Layer) -> bool {
        gimp!(gimp_item_id_is_valid(layer.0)) != 0
    }

    /// Groups, text layers and the link and vector layers of GIMP 3.2 are layers like others: an edit reads what they
    /// show and puts a new layer above.
    fn kind(&self, layer: Layer) -> Kind {
        if gimp!(gimp_item_id_is_layer_mask(layer.0)) != 0 {
            Kind::LayerMask
        } else if gimp!(gimp_item_id_is_layer(layer.0)) == 0 {
            Kind::Channel
        } else if gimp!(gimp_layer_is_floating_sel(object(layer))) != 0 {
            Kind::FloatingSelection
        } else {
            Kind::Layer
        }
    }

    fn children(&self, layer: Layer) -> usize {
        let list = gimp!(gimp_item_get_children(object(layer)));
        // SAFETY: libgimp gives the list away and keeps the layers.
        unsafe { take_list(list) }.len()
    }

    fn bounds(&self, layer: Layer) -> Rectangle {
        let (mut x, mut y, object) = (0, 0, object(layer));
        gimp!(gimp_drawable_get_offsets(object, &mut x, &mut y));
        let (width, height) = (gimp!(gimp_drawable_get_width(object)), gimp!(gimp_drawable_get_height(object)));
        Rectangle { x, y, width, height }
    }

    fn with_effects_merged(&self, layer: Layer) -> Option<Layer> {
        let effects = gimp!(gimp_drawable_get_filters(object(layer)));
        // SAFETY: libgimp gives the list away and keeps the effects.
        if unsafe { take_list(effects) }.is_empty() {
            return None;
        }
        let copy = known(gimp!(gimp_layer_copy(object(layer))))?;
        let merged = gimp!(gimp_drawable_merge_filters(object(copy))) != 0;
        if merged && self.bounds(copy).has_size_of(self.bounds(layer)) {
            return Some(copy);
        }
        self.delete(copy);
        None
    }

    fn parasite(&self, keeper: Keeper, name: &CStr) -> Option<Vec<u8>> {
        let parasite = match keeper {
            Keeper::Image(image) => gimp!(gimp_image_get_parasite(image_object(image), name.as_ptr())),
            Keeper::Layer(layer) => gimp!(gimp_item_get_parasite(object(layer), name.as_ptr())),
        };
        if parasite.is_null() {
            return None;
        }
        let mut size = 0;
        // SAFETY: libgimp gives the parasite away; it holds `size` bytes, and may say null when there are none.
        unsafe {
            let data = sys::gimp_parasite_get_data(parasite, &mut size).cast::<u8>();
            let bytes =
                if data.is_null() { Vec::new() } else { std::slice::from_raw_parts(data, size as usize).to_vec() };
            shared::gimp_parasite_free(parasite.cast());
            Some(bytes)
        }
    }
}
