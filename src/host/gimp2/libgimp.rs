//! libgimp 2.10 as safe methods of images and layers: every call of it that is not registration. Knows no edit.
//!
//! The types are not `Send`: libgimp may be called only on the thread that GIMP called.

use super::buffer::{Buffer, MASK, RGBA};
use crate::error::{Error, Result};
use crate::host::gimp::ffi::c_string;
use crate::host::gimp::{Kind, Mode, Rectangle};
use crate::host::gimp2_sys as sys;
use std::ffi::{CStr, c_char};
use std::marker::PhantomData;
use std::ptr::null_mut;

/// Calls libgimp with plain values and C strings that outlive the call.
macro_rules! gimp {
    ($function:ident($($argument:expr),*)) => {
        // SAFETY: libgimp checks every id and answers an unknown one with an error value; strings are live
        // `CString`s of the caller; who has an `Image` or a `Layer` is on the thread that GIMP called.
        unsafe { sys::$function($($argument),*) }
    };
}

/// Takes over a text that libgimp or GTK has allocated; null is an empty text.
///
/// # Safety
/// `text` is null or a C string from GLib's allocator that nobody else frees.
pub unsafe fn take_text(text: *mut c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: the caller's promise.
    unsafe {
        let copy = CStr::from_ptr(text).to_string_lossy().into_owned();
        sys::g_free(text.cast());
        copy
    }
}

/// What GIMP said about the call before, which failed while we were `doing` something.
fn refused(doing: &str) -> Error {
    // SAFETY: libgimp owns the text until the next call of it; it is copied at once.
    let reason = unsafe { CStr::from_ptr(sys::gimp_get_pdb_error()) }.to_string_lossy();
    Error::Host(format!("GIMP refused to {doing}: {reason}").into())
}

fn done(success: sys::gboolean, doing: &str) -> Result<()> {
    if success != 0 { Ok(()) } else { Err(refused(doing)) }
}

/// An image in GIMP, which the user may close at any time.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Image {
    id: i32,
    thread: PhantomData<*const ()>,
}

/// A layer or another drawable, which the user may delete at any time.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Layer {
    id: i32,
    thread: PhantomData<*const ()>,
}

/// Everything that is done while it lives is one step of undo. It ends when dropped, so on every path.
pub struct UndoGroup(Image);

impl Drop for UndoGroup {
    fn drop(&mut self) {
        gimp!(gimp_image_undo_group_end(self.0.id));
    }
}

impl Image {
    /// # Safety
    /// To be called on the thread on which `gimp_main` called us, while it runs.
    pub unsafe fn from_id(id: i32) -> Self {
        Self { id, thread: PhantomData }
    }

    /// Whether it is still open.
    pub fn is_valid(self) -> bool {
        gimp!(gimp_image_is_valid(self.id)) != 0
    }

    /// File name or "Untitled".
    pub fn name(self) -> String {
        let name = gimp!(gimp_image_get_name(self.id));
        // SAFETY: libgimp gives the text away.
        unsafe { take_text(name) }
    }

    pub fn mode(self) -> Mode {
        match gimp!(gimp_image_base_type(self.id)) {
            sys::GimpImageBaseType::GIMP_RGB => Mode::Rgb,
            sys::GimpImageBaseType::GIMP_GRAY => Mode::Gray,
            _ => Mode::Indexed,
        }
    }

    /// What the user works on: at most one layer in this GIMP.
    pub fn selected_layers(self) -> Vec<Layer> {
        Layer::known(gimp!(gimp_image_get_active_layer(self.id))).into_iter().collect()
    }

    /// Selects the first of `layers`.
    pub fn select_layers(self, layers: &[Layer]) -> Result<()> {
        let Some(layer) = layers.first() else { return Ok(()) };
        done(gimp!(gimp_image_set_active_layer(self.id, layer.id)), "activate the layer")
    }

    pub fn has_floating_selection(self) -> bool {
        gimp!(gimp_image_get_floating_sel(self.id)) != -1
    }

    /// The layer with this lasting number, if it still exists.
    pub fn layer_by_tattoo(self, tattoo: u32) -> Option<Layer> {
        Layer::known(gimp!(gimp_image_get_layer_by_tattoo(self.id, tattoo as i32)))
    }

    /// Position among the layers with the same parent; 0 is the top.
    pub fn position(self, layer: Layer) -> i32 {
        gimp!(gimp_image_get_item_position(self.id, layer.id))
    }

    /// `None` when nothing is selected, which means everything.
    pub fn selection(self) -> Option<Layer> {
        let is_empty = gimp!(gimp_selection_is_empty(self.id)) != 0;
        if is_empty { None } else { Layer::known(gimp!(gimp_image_get_selection(self.id))) }
    }

    pub fn parasite(self, name: &str) -> Option<Vec<u8>> {
        let name = c_string(name);
        take_parasite(gimp!(gimp_image_get_parasite(self.id, name.as_ptr())))
    }

    /// Keeps `bytes` with the image, also in its file.
    pub fn set_parasite(self, name: &str, bytes: &[u8]) -> Result<()> {
        with_parasite(name, bytes, |parasite| gimp!(gimp_image_attach_parasite(self.id, parasite)))
    }

    /// Prepares GEGL, and makes GIMP leave the messages about refused calls to us; before anything else.
    pub fn start(self) {
        // SAFETY: null pointers stand for no arguments; `self` tells that this is the thread that GIMP called.
        unsafe { sys::gegl_init(null_mut(), null_mut()) };
        gimp!(gimp_plugin_set_pdb_error_handler(sys::GimpPDBErrorHandler::GIMP_PDB_ERROR_HANDLER_PLUGIN));
    }

    /// Shows all changes in GIMP's windows.
    pub fn flush_displays(self) {
        gimp!(gimp_displays_flush());
    }

    /// Tells the user something in GIMP's way: a window, or a line on the console.
    pub fn tell(self, text: &str) {
        let text = c_string(text);
        gimp!(gimp_message(text.as_ptr()));
    }

    /// Starts GIMP's own progress bar, in the image window or on the console.
    pub fn progress_bar(self, text: &str) -> ProgressBar {
        let text = c_string(text);
        gimp!(gimp_progress_init(text.as_ptr()));
        ProgressBar(PhantomData)
    }

    pub fn undo_group(self) -> UndoGroup {
        gimp!(gimp_image_undo_group_start(self.id));
        UndoGroup(self)
    }

    /// A new layer that is not in the stack yet; transparent or black.
    pub fn new_layer(self, name: &str, width: i32, height: i32, has_alpha: bool) -> Result<Layer> {
        let kind = match (self.mode(), has_alpha) {
            (Mode::Rgb, true) => sys::GimpImageType::GIMP_RGBA_IMAGE,
            (Mode::Rgb, false) => sys::GimpImageType::GIMP_RGB_IMAGE,
            (Mode::Gray, true) => sys::GimpImageType::GIMP_GRAYA_IMAGE,
            (Mode::Gray, false) => sys::GimpImageType::GIMP_GRAY_IMAGE,
            (Mode::Indexed, _) => {
                return Err(Error::Host("the image is indexed; choose Image > Mode > RGB first".into()));
            }
        };
        let name = c_string(name);
        let mode = gimp!(gimp_image_get_default_new_layer_mode(self.id));
        let layer = gimp!(gimp_layer_new(self.id, name.as_ptr(), width, height, kind, 100.0, mode));
        Layer::known(layer).ok_or_else(|| refused("make a layer"))
    }

    /// A group of layers that is not in the stack yet.
    pub fn new_group(self, name: &str) -> Result<Layer> {
        let group = Layer::known(gimp!(gimp_layer_group_new(self.id))).ok_or_else(|| refused("make a layer group"))?;
        let name = c_string(name);
        done(gimp!(gimp_item_set_name(group.id, name.as_ptr())), "name the layer group")?;
        Ok(group)
    }

    /// Takes `layer` out of the stack.
    pub fn remove(self, layer: Layer) -> Result<()> {
        done(gimp!(gimp_image_remove_layer(self.id, layer.id)), "remove the layer")
    }

    /// Puts `layer` into the stack below `parent` (`None`: the image itself), directly above what is at `position`.
    pub fn insert(self, layer: Layer, parent: Option<Layer>, position: i32) -> Result<()> {
        let parent = parent.map_or(-1, |parent| parent.id);
        done(gimp!(gimp_image_insert_layer(self.id, layer.id, parent, position)), "insert the layer")
    }
}

impl Layer {
    /// # Safety
    /// To be called on the thread on which `gimp_main` called us, while it runs.
    pub unsafe fn from_id(id: i32) -> Self {
        Self { id, thread: PhantomData }
    }

    /// Of an id from libgimp, which says -1 for none.
    fn known(id: i32) -> Option<Self> {
        (id != -1).then_some(Self { id, thread: PhantomData })
    }

    pub fn id(self) -> i32 {
        self.id
    }

    /// Whether it is still in the image.
    pub fn is_valid(self) -> bool {
        gimp!(gimp_item_is_valid(self.id)) != 0
    }

    pub fn kind(self) -> Kind {
        if gimp!(gimp_item_is_layer_mask(self.id)) != 0 {
            Kind::LayerMask
        } else if gimp!(gimp_item_is_layer(self.id)) == 0 {
            Kind::Channel
        } else if gimp!(gimp_layer_is_floating_sel(self.id)) != 0 {
            Kind::FloatingSelection
        } else {
            Kind::Layer
        }
    }

    pub fn name(self) -> String {
        let name = gimp!(gimp_item_get_name(self.id));
        // SAFETY: libgimp gives the text away.
        unsafe { take_text(name) }
    }

    pub fn parent(self) -> Option<Self> {
        Self::known(gimp!(gimp_item_get_parent(self.id)))
    }

    /// Number of layers in a group.
    pub fn children(self) -> usize {
        let mut count = 0;
        let list = gimp!(gimp_item_get_children(self.id, &raw mut count));
        // SAFETY: libgimp gives the list away.
        unsafe { sys::g_free(list.cast()) };
        count as usize
    }

    /// GIMP's number of the layer that lasts over saving and opening.
    pub fn tattoo(self) -> u32 {
        gimp!(gimp_item_get_tattoo(self.id)) as u32
    }

    pub fn has_alpha(self) -> bool {
        gimp!(gimp_drawable_has_alpha(self.id)) != 0
    }

    /// Where it lies in the image, and its size.
    pub fn bounds(self) -> Rectangle {
        let (mut x, mut y) = (0, 0);
        gimp!(gimp_drawable_offsets(self.id, &mut x, &mut y));
        Rectangle { x, y, width: gimp!(gimp_drawable_width(self.id)), height: gimp!(gimp_drawable_height(self.id)) }
    }

    /// Bounds of the selected part, relative to the layer; `None` when the selection misses it.
    pub fn selected_part(self) -> Option<Rectangle> {
        let (mut x, mut y, mut width, mut height) = (0, 0, 0, 0);
        let meets = gimp!(gimp_drawable_mask_intersect(self.id, &mut x, &mut y, &mut width, &mut height)) != 0;
        (meets && width > 0 && height > 0).then_some(Rectangle { x, y, width, height })
    }

    pub fn set_offsets(self, x: i32, y: i32) -> Result<()> {
        done(gimp!(gimp_layer_set_offsets(self.id, x, y)), "move the layer")
    }

    /// Adds a layer mask that hides everything, and keeps the layer itself the one that is painted on.
    pub fn add_black_mask(self) -> Result<Self> {
        let mask = gimp!(gimp_layer_create_mask(self.id, sys::GimpAddMaskType::GIMP_ADD_MASK_BLACK));
        let mask = Self::known(mask).ok_or_else(|| refused("make a layer mask"))?;
        done(gimp!(gimp_layer_add_mask(self.id, mask.id)), "add the layer mask")?;
        done(gimp!(gimp_layer_set_edit_mask(self.id, 0)), "activate the layer")?;
        Ok(mask)
    }

    /// Frees a layer that was never put into an image.
    pub fn delete(self) {
        gimp!(gimp_item_delete(self.id));
    }

    pub fn parasite(self, name: &str) -> Option<Vec<u8>> {
        let name = c_string(name);
        take_parasite(gimp!(gimp_item_get_parasite(self.id, name.as_ptr())))
    }

    /// Keeps `bytes` with the layer, also in the image's file.
    pub fn set_parasite(self, name: &str, bytes: &[u8]) -> Result<()> {
        with_parasite(name, bytes, |parasite| gimp!(gimp_item_attach_parasite(self.id, parasite)))
    }

    fn buffer(self) -> Buffer {
        let buffer = gimp!(gimp_drawable_get_buffer(self.id));
        // SAFETY: libgimp gives the buffer away, or says null; `Image::start` has prepared GEGL.
        unsafe { Buffer::take(buffer) }
    }

    /// sRGB with straight alpha, whatever the image's own mode, precision and profile are.
    pub fn read_rgba(self, part: Rectangle) -> Vec<u16> {
        self.buffer().read(part, &RGBA)
    }

    /// Copies pixels of a layer of the same size, whatever the image's precision is.
    pub fn copy_pixels(self, from: Self, parts: &[Rectangle]) {
        self.buffer().copy(&from.buffer(), parts);
        self.update(Rectangle { x: 0, y: 0, ..self.bounds() });
    }

    /// Differs for layers with different pixels, told apart as finely as the image can hold them.
    pub fn digest(self, part: Rectangle) -> u64 {
        self.buffer().digest(part)
    }

    /// Writes sRGB with straight alpha.
    pub fn write_rgba(self, part: Rectangle, rgba: &[u16]) {
        self.buffer().write(part, &RGBA, rgba);
        self.update(part);
    }

    /// Values of a mask or of the selection.
    pub fn read_mask(self, part: Rectangle) -> Vec<u16> {
        self.buffer().read(part, &MASK)
    }

    /// Sets values of a mask.
    pub fn write_mask(self, part: Rectangle, values: &[u16]) {
        self.buffer().write(part, &MASK, values);
        self.update(part);
    }

    /// Makes GIMP draw `part` anew, after its buffer was dropped.
    fn update(self, part: Rectangle) {
        gimp!(gimp_drawable_update(self.id, part.x, part.y, part.width, part.height));
    }
}

/// Copies a parasite's data and frees it.
fn take_parasite(parasite: *mut sys::GimpParasite) -> Option<Vec<u8>> {
    if parasite.is_null() {
        return None;
    }
    // SAFETY: libgimp gave us the parasite; `data` holds `size` bytes, and may be null when there are none.
    unsafe {
        let (data, size) = ((*parasite).data.cast::<u8>(), (*parasite).size as usize);
        let bytes = if data.is_null() { Vec::new() } else { std::slice::from_raw_parts(data, size).to_vec() };
        sys::gimp_parasite_free(parasite);
        Some(bytes)
    }
}

/// Lends `attach` a parasite that is saved with the file and part of the undo history.
fn with_parasite(name: &str, bytes: &[u8], attach: impl Fn(*const sys::GimpParasite) -> sys::gboolean) -> Result<()> {
    let name = c_string(name);
    let size = u32::try_from(bytes.len()).expect("a history is some kilobytes");
    let flags = sys::GIMP_PARASITE_PERSISTENT | sys::GIMP_PARASITE_UNDOABLE;
    let parasite = gimp!(gimp_parasite_new(name.as_ptr(), flags, size, bytes.as_ptr().cast()));
    let result = done(attach(parasite), "keep the settings with the image");
    gimp!(gimp_parasite_free(parasite));
    result
}

/// GIMP's own progress bar; gone when dropped.
pub struct ProgressBar(PhantomData<*const ()>);

impl ProgressBar {
    /// `fraction`: 0 to 1.
    pub fn show(&self, text: &str, fraction: f32) {
        let text = c_string(text);
        gimp!(gimp_progress_set_text(text.as_ptr()));
        gimp!(gimp_progress_update(fraction.into()));
    }
}

impl Drop for ProgressBar {
    fn drop(&mut self) {
        gimp!(gimp_progress_end());
    }
}
