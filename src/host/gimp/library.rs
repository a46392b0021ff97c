//! The contract with the library of one GIMP version: what it gives of images and layers, and what every version gives
//! in the same way. Knows neither edit nor dialog.

use super::buffer::{Buffer, MASK, RGBA, Rectangle};
use super::ffi::c_string;
use crate::error::{Error, Result};
use crate::host::gimp_sys as sys;
use crate::text::{Text, text};
use std::ffi::CStr;
use std::marker::PhantomData;
use std::ptr::null_mut;

/// GIMP's number of an image, which the user may close at any time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Image(pub i32);

/// GIMP's number of a layer or another drawable, which the user may delete at any time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layer(pub i32);

/// What can keep bytes of ours that are saved with it.
#[derive(Clone, Copy)]
pub enum Keeper {
    Image(Image),
    Layer(Layer),
}

/// What a drawable is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Layer,
    FloatingSelection,
    LayerMask,
    Channel,
}

/// The calls of libgimp that differ between its versions. Who has a `Library` is on the thread that GIMP called, with
/// libgimp loaded: an implementation is made by an unsafe function and is not `Send`. libgimp checks every number and
/// answers an unknown one with an error value; `false` and `None` of a call that changes something stand for a refusal.
pub trait Library {
    /// Makes GIMP leave the messages about refused calls to us.
    fn keep_refusals_quiet(&self);
    /// What GIMP said about the call before, which it refused.
    fn last_error(&self) -> String;

    /// Whether the image is still open.
    fn is_open(&self, image: Image) -> bool;
    /// File name or "Untitled".
    fn image_name(&self, image: Image) -> String;
    fn base_type(&self, image: Image) -> sys::GimpImageBaseType;
    /// What the user works on.
    fn selected_layers(&self, image: Image) -> Vec<Layer>;
    fn set_selected_layers(&self, image: Image, layers: &[Layer]) -> bool;
    fn has_floating_selection(&self, image: Image) -> bool;
    /// The layer with this lasting number, if it still exists.
    fn layer_by_tattoo(&self, image: Image, tattoo: u32) -> Option<Layer>;
    /// Position among the layers with the same parent; 0 is the top.
    fn position(&self, image: Image, layer: Layer) -> i32;
    /// `None` when nothing is selected, which means everything.
    fn selection(&self, image: Image) -> Option<Layer>;
    fn begin_undo_step(&self, image: Image);
    fn end_undo_step(&self, image: Image);
    /// Transparent or black, in the image's default mode, and not in the stack yet.
    fn create_layer(&self, image: Image, name: &CStr, size: [i32; 2], kind: sys::GimpImageType) -> Option<Layer>;
    /// Not in the stack yet.
    fn create_group(&self, image: Image, name: &CStr) -> Option<Layer>;
    fn insert_layer(&self, image: Image, layer: Layer, parent: Option<Layer>, position: i32) -> bool;
    fn remove_layer(&self, image: Image, layer: Layer) -> bool;

    /// Whether the layer still exists.
    fn exists(&self, layer: Layer) -> bool;
    fn kind(&self, layer: Layer) -> Kind;
    fn layer_name(&self, layer: Layer) -> String;
    fn parent(&self, layer: Layer) -> Option<Layer>;
    /// Number of layers in a group.
    fn children(&self, layer: Layer) -> usize;
    /// GIMP's number of the layer that lasts over saving and opening.
    fn tattoo(&self, layer: Layer) -> u32;
    fn has_alpha(&self, layer: Layer) -> bool;
    /// Where it lies in the image, and its size.
    fn bounds(&self, layer: Layer) -> Rectangle;
    /// Bounds of the selected part, relative to the layer; `None` when the selection misses it.
    fn selected_part(&self, layer: Layer) -> Option<Rectangle>;
    fn move_layer(&self, layer: Layer, x: i32, y: i32) -> bool;
    /// A layer mask that hides everything, not in use yet.
    fn create_mask(&self, layer: Layer) -> Option<Layer>;
    /// Gives the layer its mask, and keeps the layer itself the one that is painted on.
    fn add_mask(&self, layer: Layer, mask: Layer) -> bool;
    /// Frees a layer that was never put into an image.
    fn delete(&self, layer: Layer);
    /// A copy outside of the image whose pixels have the effects in them that are attached to the layer; `None` where
    /// there are none, or GIMP cannot merge them, or they change the layer's size.
    fn with_effects_merged(&self, _layer: Layer) -> Option<Layer> {
        None
    }
    fn buffer(&self, layer: Layer) -> Buffer;
    /// Makes GIMP draw `part` anew, after its buffer was dropped.
    fn update(&self, layer: Layer, part: Rectangle);

    /// The bytes that were kept under this name.
    fn parasite(&self, keeper: Keeper, name: &CStr) -> Option<Vec<u8>>;
    /// Keeps a copy of the parasite.
    ///
    /// # Safety
    /// `parasite` is one that libgimp has made.
    unsafe fn attach_parasite(&self, keeper: Keeper, parasite: *mut sys::GimpParasite) -> bool;
}

/// Calls a function that every libgimp has with the same arguments.
macro_rules! gimp {
    ($function:ident($($argument:expr),*)) => {
        // SAFETY: arguments are plain values, live C strings of the caller, or what libgimp has made; who has a
        // `Library` is on the thread that GIMP called.
        unsafe { sys::$function($($argument),*) }
    };
}

impl dyn Library {
    /// Prepares GEGL and the messages; before anything else.
    pub fn start(&self) {
        gimp!(gegl_init(null_mut(), null_mut()));
        self.keep_refusals_quiet();
    }

    /// What GIMP said about the call before, which failed while we were `doing` something.
    fn refused(&self, doing: Text) -> Error {
        Error::Host(text!("GIMP refused to {doing}: {reason}", doing, reason = self.last_error()))
    }

    fn done(&self, success: bool, doing: Text) -> Result<()> {
        if success { Ok(()) } else { Err(self.refused(doing)) }
    }

    /// Whether the image has few colors, into which no edit would fit.
    pub fn is_indexed(&self, image: Image) -> bool {
        !matches!(self.base_type(image), sys::GimpImageBaseType::GIMP_RGB | sys::GimpImageBaseType::GIMP_GRAY)
    }

    /// Selects the layers that the user works on.
    pub fn select_layers(&self, image: Image, layers: &[Layer]) -> Result<()> {
        self.done(self.set_selected_layers(image, layers), text!("select the layers"))
    }

    /// Everything that is done while the answer lives is one step of undo.
    pub fn undo_step(&'static self, image: Image) -> UndoStep {
        self.begin_undo_step(image);
        UndoStep(self, image)
    }

    /// A new layer that is not in the stack yet; transparent or black.
    pub fn new_layer(&self, image: Image, name: &str, size: [i32; 2], has_alpha: bool) -> Result<Layer> {
        use sys::{GimpImageBaseType as Base, GimpImageType as Type};
        let kind = match (self.base_type(image), has_alpha) {
            (Base::GIMP_RGB, true) => Type::GIMP_RGBA_IMAGE,
            (Base::GIMP_RGB, false) => Type::GIMP_RGB_IMAGE,
            (Base::GIMP_GRAY, true) => Type::GIMP_GRAYA_IMAGE,
            (Base::GIMP_GRAY, false) => Type::GIMP_GRAY_IMAGE,
            _ => return Err(Error::Host(text!("the image is indexed; choose Image > Mode > RGB first"))),
        };
        self.create_layer(image, &c_string(name), size, kind).ok_or_else(|| self.refused(text!("make a layer")))
    }

    /// A group of layers that is not in the stack yet.
    pub fn new_group(&self, image: Image, name: &str) -> Result<Layer> {
        self.create_group(image, &c_string(name)).ok_or_else(|| self.refused(text!("make a layer group")))
    }

    /// Puts `layer` into the stack below `parent` (`None`: the image itself), directly above what is at `position`.
    pub fn insert(&self, image: Image, layer: Layer, parent: Option<Layer>, position: i32) -> Result<()> {
        self.done(self.insert_layer(image, layer, parent, position), text!("insert the layer"))
    }

    /// Takes `layer` out of the stack.
    pub fn remove(&self, image: Image, layer: Layer) -> Result<()> {
        self.done(self.remove_layer(image, layer), text!("remove the layer"))
    }

    /// Puts the layer's corner there.
    pub fn set_offsets(&self, layer: Layer, x: i32, y: i32) -> Result<()> {
        self.done(self.move_layer(layer, x, y), text!("move the layer"))
    }

    /// Gives the layer a mask with these values in `part`, which hides everything else.
    pub fn mask_with(&self, layer: Layer, part: Rectangle, values: &[u16]) -> Result<()> {
        let mask = self.create_mask(layer).ok_or_else(|| self.refused(text!("make a layer mask")))?;
        self.done(self.add_mask(layer, mask), text!("add the layer mask"))?;
        self.buffer(mask).write(part, &MASK, values);
        self.update(mask, part);
        Ok(())
    }

    /// Keeps `bytes` with the image or the layer, in its file and as part of the undo history.
    pub fn set_parasite(&self, keeper: Keeper, name: &CStr, bytes: &[u8]) -> Result<()> {
        let size = u32::try_from(bytes.len()).expect("a history is some kilobytes");
        let flags = sys::GIMP_PARASITE_PERSISTENT | sys::GIMP_PARASITE_UNDOABLE;
        let parasite = gimp!(gimp_parasite_new(name.as_ptr(), flags, size, bytes.as_ptr().cast()));
        // SAFETY: libgimp has made it in the line above.
        let kept =
            self.done(unsafe { self.attach_parasite(keeper, parasite) }, text!("keep the settings with the image"));
        gimp!(gimp_parasite_free(parasite));
        kept
    }

    /// What the user sees of the layer alone: `look` gets its pixels, with the effects that are attached to it, if
    /// possible.
    fn seen<T>(&self, layer: Layer, look: impl FnOnce(&Buffer) -> T) -> T {
        let merged = self.with_effects_merged(layer);
        let answer = look(&self.buffer(merged.unwrap_or(layer)));
        if let Some(copy) = merged {
            self.delete(copy);
        }
        answer
    }

    /// sRGB with straight alpha, whatever the image's own mode, precision and profile are.
    pub fn read_rgba(&self, layer: Layer, part: Rectangle) -> Vec<u16> {
        self.seen(layer, |buffer| buffer.read(part, &RGBA))
    }

    /// Writes sRGB with straight alpha.
    pub fn write_rgba(&self, layer: Layer, part: Rectangle, rgba: &[u16]) {
        self.buffer(layer).write(part, &RGBA, rgba);
        self.update(layer, part);
    }

    /// Differs for layers with different pixels, told apart as finely as the image can hold them.
    pub fn digest(&self, layer: Layer, part: Rectangle) -> u64 {
        self.seen(layer, |buffer| buffer.digest(part))
    }

    /// Values of a mask or of the selection.
    pub fn read_mask(&self, mask: Layer, part: Rectangle) -> Vec<u16> {
        self.buffer(mask).read(part, &MASK)
    }

    /// Shows all changes in GIMP's windows.
    pub fn flush_displays(&self) {
        gimp!(gimp_displays_flush());
    }

    /// Tells the user something in GIMP's way: a window, or a line on the console.
    pub fn tell(&self, text: &str) {
        gimp!(gimp_message(c_string(text).as_ptr()));
    }

    /// Starts GIMP's own progress bar, in the image window or on the console.
    pub fn progress_bar(&self, text: &str) -> ProgressBar {
        gimp!(gimp_progress_init(c_string(text).as_ptr()));
        ProgressBar(PhantomData)
    }
}

/// Everything that is done while it lives is one step of undo. It ends when dropped, so on every path.
pub struct UndoStep(&'static dyn Library, Image);

impl Drop for UndoStep {
    fn drop(&mut self) {
        self.0.end_undo_step(self.1);
    }
}

/// GIMP's own progress bar; gone when dropped. Not `Send`: see [`Library`].
pub struct ProgressBar(PhantomData<*const ()>);

impl ProgressBar {
    /// `fraction`: 0 to 1.
    pub fn show(&self, text: &str, fraction: f32) {
        gimp!(gimp_progress_set_text(c_string(text).as_ptr()));
        gimp!(gimp_progress_update(fraction.into()));
    }
}

impl Drop for ProgressBar {
    fn drop(&mut self) {
        gimp!(gimp_progress_end());
    }
}
