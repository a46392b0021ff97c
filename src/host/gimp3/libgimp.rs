//! libgimp 3 as safe methods of images and layers: every call of it that is neither registration nor dialog. Knows no edit.
//!
//! An [`Image`] or a [`Layer`] is GIMP's number, not libgimp's object: the object of one that is gone may be gone, too,
//! while an edit runs, and a number stays a number. libgimp answers an object that it does not know, or null, with an error
//! value. The types are not `Send`: libgimp may be called only on the thread that GIMP called.

use super::buffer::{Buffer, MASK, RGBA};
use crate::error::{Error, Result};
use crate::host::gimp::ffi::c_string;
use crate::host::gimp::{Kind, Mode, Rectangle};
use crate::host::gimp3_sys as sys;
use std::ffi::{CStr, c_char};
use std::marker::PhantomData;
use std::ptr::{null, null_mut};

/// Calls libgimp with plain values, its own objects and C strings that outlive the call.
macro_rules! gimp {
    ($function:ident($($argument:expr),*)) => {
        // SAFETY: objects come from libgimp, which keeps them while the procedure runs, are of the wanted class, or null,
        // which libgimp answers with an error value; strings are live `CString`s of the caller; who has an `Image` or a
        // `Layer` is on the thread that GIMP called.
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
        sys::g_free(list.cast());
        copy
    }
}

/// What GIMP said about the call before, which failed while we were `doing` something.
fn refused(doing: &str) -> Error {
    let pdb = gimp!(gimp_get_pdb());
    let reason = gimp!(gimp_pdb_get_last_error(pdb));
    // SAFETY: libgimp owns the text until the next call of it; it is copied at once.
    let reason = unsafe { CStr::from_ptr(reason) }.to_string_lossy();
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
        gimp!(gimp_image_undo_group_end(self.0.object()));
    }
}

impl Image {
    /// # Safety
    /// `image` is libgimp's; to be called on the thread on which `gimp_main` called us, while it runs.
    pub unsafe fn from_object(image: *mut sys::GimpImage) -> Self {
        // SAFETY: the caller's promise.
        Self { id: unsafe { sys::gimp_image_get_id(image) }, thread: PhantomData }
    }

    fn object(self) -> *mut sys::GimpImage {
        gimp!(gimp_image_get_by_id(self.id))
    }

    /// Whether it is still open.
    pub fn is_valid(self) -> bool {
        gimp!(gimp_image_id_is_valid(self.id)) != 0
    }

    /// File name or "Untitled".
    pub fn name(self) -> String {
        let name = gimp!(gimp_image_get_name(self.object()));
        // SAFETY: libgimp gives the text away.
        unsafe { take_text(name) }
    }

    pub fn mode(self) -> Mode {
        match gimp!(gimp_image_get_base_type(self.object())) {
            sys::GimpImageBaseType::GIMP_RGB => Mode::Rgb,
            sys::GimpImageBaseType::GIMP_GRAY => Mode::Gray,
            _ => Mode::Indexed,
        }
    }

    /// What the user works on.
    pub fn selected_layers(self) -> Vec<Layer> {
        let list = gimp!(gimp_image_get_selected_layers(self.object()));
        // SAFETY: libgimp gives the list away and keeps the layers.
        unsafe { take_list(list) }.into_iter().filter_map(Layer::known).collect()
    }

    pub fn select_layers(self, layers: &[Layer]) -> Result<()> {
        let mut list: Vec<_> = layers.iter().map(|layer| layer.object::<sys::GimpLayer>().cast_const()).collect();
        list.push(null());
        done(gimp!(gimp_image_set_selected_layers(self.object(), list.as_mut_ptr())), "select the layers")
    }

    pub fn has_floating_selection(self) -> bool {
        !gimp!(gimp_image_get_floating_sel(self.object())).is_null()
    }

    /// The layer with this lasting number, if it still exists.
    pub fn layer_by_tattoo(self, tattoo: u32) -> Option<Layer> {
        Layer::known(gimp!(gimp_image_get_layer_by_tattoo(self.object(), tattoo)))
    }

    /// Position among the layers with the same parent; 0 is the top.
    pub fn position(self, layer: Layer) -> i32 {
        gimp!(gimp_image_get_item_position(self.object(), layer.object()))
    }

    /// `None` when nothing is selected, which means everything.
    pub fn selection(self) -> Option<Layer> {
        let is_empty = gimp!(gimp_selection_is_empty(self.object())) != 0;
        if is_empty { None } else { Layer::known(gimp!(gimp_image_get_selection(self.object()))) }
    }

    pub fn parasite(self, name: &str) -> Option<Vec<u8>> {
        let name = c_string(name);
        take_parasite(gimp!(gimp_image_get_parasite(self.object(), name.as_ptr())))
    }

    /// Keeps `bytes` with the image, also in its file.
    pub fn set_parasite(self, name: &str, bytes: &[u8]) -> Result<()> {
        with_parasite(name, bytes, |parasite| gimp!(gimp_image_attach_parasite(self.object(), parasite)))
    }

    /// Prepares GEGL, and makes GIMP leave the messages about refused calls to us; before anything else.
    pub fn start(self) {
        gimp!(gegl_init(null_mut(), null_mut()));
        let (plug_in, handler) = (gimp!(gimp_get_plug_in()), sys::GimpPDBErrorHandler::GIMP_PDB_ERROR_HANDLER_PLUGIN);
        gimp!(gimp_plug_in_set_pdb_error_handler(plug_in, handler));
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
        gimp!(gimp_image_undo_group_start(self.object()));
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
        let mode = gimp!(gimp_image_get_default_new_layer_mode(self.object()));
        let layer = gimp!(gimp_layer_new(self.object(), name.as_ptr(), width, height, kind, 100.0, mode));
        Layer::known(layer).ok_or_else(|| refused("make a layer"))
    }

    /// A group of layers that is not in the stack yet.
    pub fn new_group(self, name: &str) -> Result<Layer> {
        let name = c_string(name);
        let group = gimp!(gimp_group_layer_new(self.object(), name.as_ptr()));
        Layer::known(group).ok_or_else(|| refused("make a layer group"))
    }

    /// Takes `layer` out of the stack.
    pub fn remove(self, layer: Layer) -> Result<()> {
        done(gimp!(gimp_image_remove_layer(self.object(), layer.object())), "remove the layer")
    }

    /// Puts `layer` into the stack below `parent` (`None`: the image itself), directly above what is at `position`.
    pub fn insert(self, layer: Layer, parent: Option<Layer>, position: i32) -> Result<()> {
        let parent = parent.map_or(null_mut(), Layer::object);
        done(gimp!(gimp_image_insert_layer(self.object(), layer.object(), parent, position)), "insert the layer")
    }
}

impl Layer {
    /// # Safety
    /// `drawable` is libgimp's; to be called on the thread on which `gimp_main` called us, while it runs.
    pub unsafe fn from_object(drawable: *mut sys::GimpDrawable) -> Self {
        // SAFETY: the caller's promise.
        Self { id: unsafe { sys::gimp_item_get_id(drawable.cast()) }, thread: PhantomData }
    }

    /// Of a layer, mask or channel from libgimp, which says null for none.
    fn known<T>(item: *mut T) -> Option<Self> {
        (!item.is_null()).then(|| Self { id: gimp!(gimp_item_get_id(item.cast())), thread: PhantomData })
    }

    /// For a call that wants another class, which libgimp or GIMP checks.
    pub fn object<T>(self) -> *mut T {
        gimp!(gimp_item_get_by_id(self.id)).cast()
    }

    /// Whether it is still in the image.
    pub fn is_valid(self) -> bool {
        gimp!(gimp_item_id_is_valid(self.id)) != 0
    }

    /// Groups, text layers and the link and vector layers of GIMP 3.2 are layers like others: an edit reads what they show
    /// and puts a new layer above.
    pub fn kind(self) -> Kind {
        if gimp!(gimp_item_id_is_layer_mask(self.id)) != 0 {
            Kind::LayerMask
        } else if gimp!(gimp_item_id_is_layer(self.id)) == 0 {
            Kind::Channel
        } else if gimp!(gimp_layer_is_floating_sel(self.object())) != 0 {
            Kind::FloatingSelection
        } else {
            Kind::Layer
        }
    }

    pub fn name(self) -> String {
        let name = gimp!(gimp_item_get_name(self.object()));
        // SAFETY: libgimp gives the text away.
        unsafe { take_text(name) }
    }

    pub fn parent(self) -> Option<Self> {
        Self::known(gimp!(gimp_item_get_parent(self.object())))
    }

    /// Number of layers in a group.
    pub fn children(self) -> usize {
        let list = gimp!(gimp_item_get_children(self.object()));
        // SAFETY: libgimp gives the list away and keeps the layers.
        unsafe { take_list(list) }.len()
    }

    /// GIMP's number of the layer that lasts over saving and opening.
    pub fn tattoo(self) -> u32 {
        gimp!(gimp_item_get_tattoo(self.object()))
    }

    pub fn has_alpha(self) -> bool {
        gimp!(gimp_drawable_has_alpha(self.object())) != 0
    }

    /// Where it lies in the image, and its size.
    pub fn bounds(self) -> Rectangle {
        let (mut x, mut y) = (0, 0);
        gimp!(gimp_drawable_get_offsets(self.object(), &mut x, &mut y));
        let width = gimp!(gimp_drawable_get_width(self.object()));
        let height = gimp!(gimp_drawable_get_height(self.object()));
        Rectangle { x, y, width, height }
    }

    /// Bounds of the selected part, relative to the layer; `None` when the selection misses it.
    pub fn selected_part(self) -> Option<Rectangle> {
        let (mut x, mut y, mut width, mut height) = (0, 0, 0, 0);
        let meets = gimp!(gimp_drawable_mask_intersect(self.object(), &mut x, &mut y, &mut width, &mut height)) != 0;
        (meets && width > 0 && height > 0).then_some(Rectangle { x, y, width, height })
    }

    pub fn set_offsets(self, x: i32, y: i32) -> Result<()> {
        done(gimp!(gimp_layer_set_offsets(self.object(), x, y)), "move the layer")
    }

    /// Adds a layer mask that hides everything, and keeps the layer itself the one that is painted on.
    pub fn add_black_mask(self) -> Result<Self> {
        let mask = gimp!(gimp_layer_create_mask(self.object(), sys::GimpAddMaskType::GIMP_ADD_MASK_BLACK));
        let mask = Self::known(mask).ok_or_else(|| refused("make a layer mask"))?;
        done(gimp!(gimp_layer_add_mask(self.object(), mask.object())), "add the layer mask")?;
        done(gimp!(gimp_layer_set_edit_mask(self.object(), 0)), "activate the layer")?;
        Ok(mask)
    }

    /// Frees a layer that was never put into an image.
    pub fn delete(self) {
        gimp!(gimp_item_delete(self.object()));
    }

    pub fn parasite(self, name: &str) -> Option<Vec<u8>> {
        let name = c_string(name);
        take_parasite(gimp!(gimp_item_get_parasite(self.object(), name.as_ptr())))
    }

    /// Keeps `bytes` with the layer, also in the image's file.
    pub fn set_parasite(self, name: &str, bytes: &[u8]) -> Result<()> {
        with_parasite(name, bytes, |parasite| gimp!(gimp_item_attach_parasite(self.object(), parasite)))
    }

    fn buffer(self) -> Buffer {
        let buffer = gimp!(gimp_drawable_get_buffer(self.object()));
        // SAFETY: libgimp gives the buffer away, or says null; `Image::start` has prepared GEGL.
        unsafe { Buffer::take(buffer) }
    }

    /// What the user sees of the layer alone: `look` gets its pixels, with the effects that are attached to it. Without them
    /// where GIMP cannot merge them or they change the layer's size.
    fn seen<T>(self, look: impl FnOnce(&Buffer) -> T) -> T {
        let merged = self.with_effects_merged();
        let answer = look(&merged.unwrap_or(self).buffer());
        if let Some(copy) = merged {
            copy.delete();
        }
        answer
    }

    /// A copy outside of the image whose pixels have the effects in them; `None` when there are none to merge.
    fn with_effects_merged(self) -> Option<Self> {
        let effects = gimp!(gimp_drawable_get_filters(self.object()));
        // SAFETY: libgimp gives the list away and keeps the effects.
        if unsafe { take_list(effects) }.is_empty() {
            return None;
        }
        let copy = Self::known(gimp!(gimp_layer_copy(self.object())))?;
        let merged = gimp!(gimp_drawable_merge_filters(copy.object())) != 0;
        let (size, before) = (copy.bounds(), self.bounds());
        if merged && (size.width, size.height) == (before.width, before.height) {
            return Some(copy);
        }
        copy.delete();
        None
    }

    /// sRGB with straight alpha, whatever the image's own mode, precision and profile are.
    pub fn read_rgba(self, part: Rectangle) -> Vec<u16> {
        self.seen(|buffer| buffer.read(part, &RGBA))
    }

    /// Copies pixels of a layer of the same size, whatever the image's precision is.
    pub fn copy_pixels(self, from: Self, parts: &[Rectangle]) {
        from.seen(|buffer| self.buffer().copy(buffer, parts));
        self.update(Rectangle { x: 0, y: 0, ..self.bounds() });
    }

    /// Differs for layers with different pixels, told apart as finely as the image can hold them.
    pub fn digest(self, part: Rectangle) -> u64 {
        self.seen(|buffer| buffer.digest(part))
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
        gimp!(gimp_drawable_update(self.object(), part.x, part.y, part.width, part.height));
    }
}

/// Copies a parasite's data and frees it.
fn take_parasite(parasite: *mut sys::GimpParasite) -> Option<Vec<u8>> {
    if parasite.is_null() {
        return None;
    }
    let mut size = 0;
    // SAFETY: libgimp gave us the parasite; it holds `size` bytes, and may say null when there are none.
    unsafe {
        let data = sys::gimp_parasite_get_data(parasite, &mut size).cast::<u8>();
        let bytes = if data.is_null() { Vec::new() } else { std::slice::from_raw_parts(data, size as usize).to_vec() };
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
