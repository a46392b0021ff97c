//! The widgets of GTK that the dialogs of all GIMP versions are made of, as safe types; knows neither edit nor
//! parameters.
//!
//! A `Widget` holds a reference, so its memory outlives the window it is in; GTK itself checks that a widget is of the
//! kind that a call needs. Widgets are not `Send`: they are made and used on the thread that runs GTK's main loop.
//! Only calls are used here that GTK 2 and GTK 3 have with the same arguments and the same meaning.
//!
//! Texts are translated here, except labels with a key: those are translated before the key is
//! marked. What the user writes or chooses is never translated.

use super::ffi::{c_string, guard, take_path, take_text};
use crate::host::gimp_sys as sys;
use crate::host::language::translate;
use crate::text::Text;
use image::RgbaImage;
use std::cell::Cell;
use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::mem::{MaybeUninit, transmute};
use std::path::{Path, PathBuf};
use std::ptr::{NonNull, null, null_mut};
use std::time::Duration;

/// Distance between widgets in GIMP's dialogs.
pub const SPACING: i32 = 6;
/// Distance between a window's edge and its content in GIMP's dialogs.
pub const BORDER: u32 = 12;
/// Width of a field for a number, in characters.
pub const NUMBER_WIDTH: i32 = 10;

/// Calls GTK with live widgets, plain values and C strings that outlive the call.
macro_rules! gtk {
    ($function:ident($($argument:expr),*)) => {
        // SAFETY: pointers come from `Widget`s, which hold references, or from C strings of the caller, which GTK
        // copies; GTK checks each widget's type; a `Widget` exists only on GTK's thread.
        unsafe { sys::$function($($argument),*) }
    };
}

/// Any widget, and GTK's adjustments, which are objects like them.
pub struct Widget(NonNull<sys::GtkWidget>);

impl Clone for Widget {
    fn clone(&self) -> Self {
        gtk!(g_object_ref(self.as_ptr()));
        Self(self.0)
    }
}

impl Drop for Widget {
    fn drop(&mut self) {
        gtk!(g_object_unref(self.as_ptr()));
    }
}

impl Widget {
    /// Takes part in the ownership of a widget that GTK has just made or already holds.
    pub fn own<T>(object: *mut T) -> Self {
        let object = NonNull::new(object.cast::<sys::GtkWidget>()).expect("GTK ends the process when it has no memory");
        // SAFETY: a GTK constructor gave us the object; sinking its first reference makes it ours, too.
        unsafe { sys::g_object_ref_sink(object.as_ptr().cast()) };
        Self(object)
    }

    /// For a call that wants another type of the class hierarchy, which GTK checks.
    pub fn as_ptr<T>(&self) -> *mut T {
        self.0.as_ptr().cast()
    }

    pub fn set_sensitive(&self, sensitive: bool) {
        gtk!(gtk_widget_set_sensitive(self.as_ptr(), sensitive.into()));
    }

    pub fn set_visible(&self, visible: bool) {
        gtk!(gtk_widget_set_visible(self.as_ptr(), visible.into()));
    }

    /// Keeps the widget's visibility out of [`Dialog::show`].
    pub fn show_only_on_demand(&self) {
        gtk!(gtk_widget_show_all(self.as_ptr()));
        gtk!(gtk_widget_hide(self.as_ptr()));
        gtk!(gtk_widget_set_no_show_all(self.as_ptr(), 1));
    }

    /// Shows it and what is in it.
    pub fn show_all(&self) {
        gtk!(gtk_widget_show_all(self.as_ptr()));
    }

    pub fn set_tooltip(&self, text: &Text) {
        gtk!(gtk_widget_set_tooltip_text(self.as_ptr(), c_string(&translate(text)).as_ptr()));
    }

    /// Size in pixels that the widget asks for, even if its content needs more and is cut off; -1 is the widget's own.
    pub fn set_size(&self, width: i32, height: i32) {
        gtk!(gtk_widget_set_size_request(self.as_ptr(), width, height));
    }

    /// Takes the widget out of where it is, with all that is in it.
    pub fn destroy(&self) {
        gtk!(gtk_widget_destroy(self.as_ptr()));
    }

    pub fn grab_focus(&self) {
        gtk!(gtk_widget_grab_focus(self.as_ptr()));
    }

    pub fn set_border(&self, pixels: u32) {
        gtk!(gtk_container_set_border_width(self.as_ptr(), pixels));
    }

    /// Puts `child` into a container that takes one.
    pub fn add(&self, child: &Self) {
        gtk!(gtk_container_add(self.as_ptr(), child.as_ptr()));
    }

    /// Puts `child` into a box, at its own size.
    pub fn pack(&self, child: &Self) {
        gtk!(gtk_box_pack_start(self.as_ptr(), child.as_ptr(), 0, 0, 0));
    }

    /// Puts `child` into a box, where it gets the free room.
    pub fn pack_growing(&self, child: &Self) {
        gtk!(gtk_box_pack_start(self.as_ptr(), child.as_ptr(), 1, 1, 0));
    }

    /// Calls `body` on a signal that has no arguments and no answer.
    pub fn connect<Body: Fn() + 'static>(&self, signal: &CStr, body: Body) {
        unsafe extern "C" fn call<Body: Fn()>(_widget: *mut c_void, data: *mut c_void) {
            // SAFETY: `connect_raw` hands over the body.
            guard((), unsafe { &*data.cast::<Body>() });
        }
        // SAFETY: signals without arguments call back with the widget and our data.
        unsafe { self.connect_raw(signal, call::<Body> as *const (), body) };
    }

    /// Calls `body` with the key; `true` says that the key is used up.
    pub fn connect_key<Body: Fn(Key) -> bool + 'static>(&self, body: Body) {
        unsafe extern "C" fn call<Body: Fn(Key) -> bool>(
            _widget: *mut c_void,
            event: *mut sys::GdkEventKey,
            data: *mut c_void,
        ) -> c_int {
            // SAFETY: GTK's event lives during the call; `connect_raw` hands over the body.
            let (key, body) = unsafe { (Key { value: (*event).keyval, state: (*event).state }, &*data.cast::<Body>()) };
            guard(false, || body(key)).into()
        }
        // SAFETY: this signal calls back with the widget, the event and our data, and takes a gboolean.
        unsafe { self.connect_raw(c"key-press-event", call::<Body> as *const (), body) };
    }

    /// Calls `body` with the address of a link in a label.
    pub fn connect_link<Body: Fn(&str) + 'static>(&self, body: Body) {
        unsafe extern "C" fn call<Body: Fn(&str)>(
            _widget: *mut c_void,
            address: *const c_char,
            data: *mut c_void,
        ) -> c_int {
            // SAFETY: GTK's text lives during the call; `connect_raw` hands over the body.
            let (address, body) = unsafe { (CStr::from_ptr(address), &*data.cast::<Body>()) };
            guard((), || body(&address.to_string_lossy()));
            // Used up: no browser is started.
            1
        }
        // SAFETY: this signal calls back with the widget, the address and our data, and takes a gboolean.
        unsafe { self.connect_raw(c"activate-link", call::<Body> as *const (), body) };
    }

    /// # Safety
    /// `callback` is a C function with the signal's signature, which expects a pointer to `body` as its last argument.
    pub unsafe fn connect_raw<Body: 'static>(&self, signal: &CStr, callback: *const (), body: Body) {
        unsafe extern "C" fn free<Body>(data: *mut c_void, _closure: *mut sys::GClosure) {
            // SAFETY: GLib calls this once, with the box made below.
            guard((), || drop(unsafe { Box::from_raw(data.cast::<Body>()) }));
        }
        let data = Box::into_raw(Box::new(body)).cast::<c_void>();
        // SAFETY: GLib's type of any callback; it is called as what it is, as the caller promises.
        let callback = Some(unsafe { transmute::<*const (), unsafe extern "C" fn()>(callback) });
        let flags = sys::GConnectFlags(0);
        gtk!(g_signal_connect_data(self.as_ptr(), signal.as_ptr(), callback, data, Some(free::<Body>), flags));
    }
}

/// A key with its modifiers.
#[derive(Clone, Copy)]
pub struct Key {
    value: c_uint,
    state: c_uint,
}

impl Key {
    /// Return or Enter, without Shift or Control.
    pub fn is_plain_enter(self) -> bool {
        // <gdk/gdkkeysyms.h>: GDK_KEY_Return, GDK_KEY_KP_Enter; <gdk/gdktypes.h>: shift, control.
        matches!(self.value, 0xff0d | 0xff8d) && self.state & 0b101 == 0
    }
}

/// A box that puts its children below each other.
pub fn vertical() -> Widget {
    Widget::own(gtk!(gtk_vbox_new(0, SPACING)))
}

/// As [`vertical`] without room between the children, which belong together.
pub fn touching() -> Widget {
    Widget::own(gtk!(gtk_vbox_new(0, 0)))
}

/// A box that puts its children beside each other.
pub fn horizontal() -> Widget {
    Widget::own(gtk!(gtk_hbox_new(0, SPACING)))
}

/// As [`horizontal`], with a gap that tells the children apart.
pub fn columns() -> Widget {
    Widget::own(gtk!(gtk_hbox_new(0, 2 * SPACING)))
}

/// Labels that take the same width.
pub struct Labels(Widget);

impl Labels {
    pub fn new() -> Self {
        Self(Widget::own(gtk!(gtk_size_group_new(sys::GtkSizeGroupMode::GTK_SIZE_GROUP_HORIZONTAL))))
    }

    /// Takes in a label that is there. Groups that share one count as one.
    pub fn add(&self, label: &Widget) {
        gtk!(gtk_size_group_add_widget(self.0.as_ptr(), label.as_ptr()));
    }

    /// A new label with a mnemonic (`_` before its letter) that leads to `target`.
    pub fn label_for(&self, text: &str, target: &Widget) -> Widget {
        let label = Widget::own(gtk!(gtk_label_new_with_mnemonic(c_string(text).as_ptr())));
        gtk!(gtk_label_set_mnemonic_widget(label.as_ptr(), target.as_ptr()));
        gtk!(gtk_misc_set_alignment(label.as_ptr(), 0.0, 0.5));
        self.add(&label);
        label
    }
}

/// Text that is only read; `width` pixels wide, with as many lines as it needs.
pub struct Label(pub Widget);

impl Label {
    pub fn new(width: i32) -> Self {
        let label = Widget::own(gtk!(gtk_label_new(null())));
        gtk!(gtk_label_set_line_wrap(label.as_ptr(), 1));
        gtk!(gtk_misc_set_alignment(label.as_ptr(), 0.0, 0.0));
        // A long text does not ask for more than `width`.
        gtk!(gtk_label_set_max_width_chars(label.as_ptr(), 1));
        label.set_size(width, -1);
        Self(label)
    }

    /// Keeps the text in one line at its right end; what is too long for that ends in dots.
    pub fn in_one_line(self) -> Self {
        gtk!(gtk_label_set_line_wrap(self.0.as_ptr(), 0));
        gtk!(gtk_label_set_ellipsize(self.0.as_ptr(), sys::PangoEllipsizeMode::PANGO_ELLIPSIZE_END));
        gtk!(gtk_misc_set_alignment(self.0.as_ptr(), 1.0, 0.5));
        self
    }

    /// At the left end of its place.
    pub fn align_left(&self) {
        gtk!(gtk_misc_set_alignment(self.0.as_ptr(), 0.0, 0.5));
    }

    /// Lets the user mark and copy the text.
    pub fn selectable(self) -> Self {
        gtk!(gtk_label_set_selectable(self.0.as_ptr(), 1));
        gtk!(gtk_widget_set_can_focus(self.0.as_ptr(), 0));
        self
    }

    pub fn set_text(&self, text: &Text) {
        gtk!(gtk_label_set_text(self.0.as_ptr(), c_string(&translate(text)).as_ptr()));
    }

    /// Pango markup, in which texts of others went through [`escaped`].
    pub fn set_markup(&self, markup: &Text) {
        gtk!(gtk_label_set_markup(self.0.as_ptr(), c_string(&translate(markup)).as_ptr()));
    }
}

/// What shows a part of something higher, with a bar to scroll it.
fn frame() -> Widget {
    let frame = Widget::own(gtk!(gtk_scrolled_window_new(null_mut(), null_mut())));
    let (never, automatic) = (sys::GtkPolicyType::GTK_POLICY_NEVER, sys::GtkPolicyType::GTK_POLICY_AUTOMATIC);
    gtk!(gtk_scrolled_window_set_policy(frame.as_ptr(), never, automatic));
    frame
}

/// A place for something that may be larger: it scrolls then.
#[derive(Clone)]
pub struct Scroller(pub Widget);

impl Scroller {
    pub fn new(child: &Widget) -> Self {
        let frame = frame();
        let automatic = sys::GtkPolicyType::GTK_POLICY_AUTOMATIC;
        gtk!(gtk_scrolled_window_set_policy(frame.as_ptr(), automatic, automatic));
        gtk!(gtk_scrolled_window_add_with_viewport(frame.as_ptr(), child.as_ptr()));
        let viewport = gtk!(gtk_bin_get_child(frame.as_ptr()));
        gtk!(gtk_viewport_set_shadow_type(viewport.cast(), sys::GtkShadowType::GTK_SHADOW_NONE));
        Self(frame)
    }

    /// Width and height that it has on the screen.
    pub fn room(&self) -> [u32; 2] {
        let mut place = MaybeUninit::uninit();
        // SAFETY: GTK fills it.
        let place: sys::GtkAllocation = unsafe {
            sys::gtk_widget_get_allocation(self.0.as_ptr(), place.as_mut_ptr());
            place.assume_init()
        };
        [place.width, place.height].map(|length| length.max(1) as u32)
    }

    /// Calls `body` when it may have got another size; what is in it is not to be changed before that is over.
    pub fn connect_resized<Body: Fn() + 'static>(&self, body: Body) {
        unsafe extern "C" fn call<Body: Fn()>(_widget: *mut c_void, _place: *mut c_void, data: *mut c_void) {
            // SAFETY: `connect_raw` hands over the body.
            guard((), unsafe { &*data.cast::<Body>() });
        }
        // SAFETY: this signal calls back with the widget, its place and our data.
        unsafe { self.0.connect_raw(c"size-allocate", call::<Body> as *const (), body) };
    }
}

/// A bar with a knob between 0 and 1.
pub struct Slide(pub Widget);

impl Slide {
    pub fn new() -> Self {
        let slide = Widget::own(gtk!(gtk_hscale_new_with_range(0.0, 1.0, 0.05)));
        gtk!(gtk_scale_set_draw_value(slide.as_ptr(), 0));
        Self(slide)
    }

    pub fn value(&self) -> f64 {
        gtk!(gtk_range_get_value(self.0.as_ptr()))
    }
}

/// A text of several lines, which scrolls; Tab leaves it.
#[derive(Clone)]
pub struct TextArea {
    pub view: Widget,
    pub frame: Widget,
}

impl TextArea {
    /// Around a text view.
    pub fn around(view: Widget) -> Self {
        gtk!(gtk_text_view_set_wrap_mode(view.as_ptr(), sys::GtkWrapMode::GTK_WRAP_WORD_CHAR));
        gtk!(gtk_text_view_set_accepts_tab(view.as_ptr(), 0));
        let frame = frame();
        gtk!(gtk_scrolled_window_set_shadow_type(frame.as_ptr(), sys::GtkShadowType::GTK_SHADOW_IN));
        frame.add(&view);
        Self { view, frame }
    }

    /// An empty one.
    pub fn new() -> Self {
        Self::around(Widget::own(gtk!(gtk_text_view_new())))
    }

    fn buffer(&self) -> *mut sys::GtkTextBuffer {
        gtk!(gtk_text_view_get_buffer(self.view.as_ptr()))
    }

    pub fn text(&self) -> String {
        let (mut start, mut end) = (MaybeUninit::uninit(), MaybeUninit::uninit());
        // SAFETY: GTK fills both positions before it reads them, and gives the text away.
        unsafe {
            sys::gtk_text_buffer_get_bounds(self.buffer(), start.as_mut_ptr(), end.as_mut_ptr());
            take_text(sys::gtk_text_buffer_get_text(self.buffer(), start.as_ptr(), end.as_ptr(), 0))
        }
    }

    /// Calls `body` when the text has changed.
    pub fn connect_changed(&self, body: impl Fn() + 'static) {
        Widget::own(self.buffer()).connect(c"changed", body);
    }

    pub fn set_text(&self, text: &str) {
        gtk!(gtk_text_buffer_set_text(self.buffer(), c_string(text).as_ptr(), -1));
    }

    /// Marks everything, so that typing replaces it.
    pub fn select_all(&self) {
        let (mut start, mut end) = (MaybeUninit::uninit(), MaybeUninit::uninit());
        // SAFETY: GTK fills both positions before it reads them.
        unsafe {
            sys::gtk_text_buffer_get_bounds(self.buffer(), start.as_mut_ptr(), end.as_mut_ptr());
            sys::gtk_text_buffer_select_range(self.buffer(), start.as_ptr(), end.as_ptr());
        }
    }
}

/// A text of one line; Enter there means the dialog's default button.
#[derive(Clone)]
pub struct Entry(pub Widget);

impl Entry {
    pub fn new() -> Self {
        let entry = Widget::own(gtk!(gtk_entry_new()));
        gtk!(gtk_entry_set_activates_default(entry.as_ptr(), 1));
        gtk!(gtk_entry_set_width_chars(entry.as_ptr(), NUMBER_WIDTH));
        Self(entry)
    }

    pub fn text(&self) -> String {
        let text = gtk!(gtk_entry_get_text(self.0.as_ptr()));
        // SAFETY: the entry's own text, copied at once.
        unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
    }

    pub fn set_text(&self, text: &str) {
        gtk!(gtk_entry_set_text(self.0.as_ptr(), c_string(text).as_ptr()));
    }
}

/// A text that can be typed or chosen from a list.
#[derive(Clone)]
pub struct Chooser {
    pub widget: Widget,
    pub entry: Entry,
}

/// A row of a [`Chooser`].
pub struct Row {
    /// What is chosen with it.
    pub text: String,
    /// What is shown in its place, in gray: it cannot be chosen.
    pub problem: Option<Text>,
}

impl Chooser {
    pub fn new(rows: Vec<Row>) -> Self {
        let widget = Widget::own(gtk!(gtk_combo_box_text_new_with_entry()));
        for row in &rows {
            gtk!(gtk_combo_box_text_append_text(widget.as_ptr(), c_string(&row.text).as_ptr()));
        }
        show_rows(&widget, &rows);
        let entry = Widget::own(gtk!(gtk_bin_get_child(widget.as_ptr())));
        gtk!(gtk_entry_set_activates_default(entry.as_ptr(), 1));
        Self { widget, entry: Entry(entry) }
    }
}

/// What is too long for a cell of a list ends in dots, and asks for no more room.
fn end_in_dots(cell: *mut sys::GtkCellRenderer) {
    const LEAST_CHARACTERS: c_int = 8;
    let (dots, end) = (sys::PangoEllipsizeMode::PANGO_ELLIPSIZE_END, null::<c_char>());
    // SAFETY: properties of a text's cell, of these types; null ends their list.
    unsafe {
        let (ellipsize, width) = (c"ellipsize".as_ptr(), c"width-chars".as_ptr());
        sys::g_object_set()(cell.cast(), ellipsize, dots, width, LEAST_CHARACTERS, end);
    }
}

/// Has the list of a combo box show `rows`, which it has.
fn show_rows(list: &Widget, rows: &[Row]) {
    type Shown = Vec<(CString, c_int)>;
    unsafe extern "C" fn show(
        _list: *mut sys::GtkCellLayout,
        cell: *mut sys::GtkCellRenderer,
        model: *mut sys::GtkTreeModel,
        iter: *mut sys::GtkTreeIter,
        data: *mut c_void,
    ) {
        guard((), || {
            // SAFETY: GTK's row, model and cell live during the call; the row's place in the list is one number, which
            // lives as long as the path; the data are those that `free` takes back with the list; the properties are
            // those of a text's cell, of these types, and null ends their list.
            unsafe {
                let path = sys::gtk_tree_model_get_path(model, iter);
                let row = *sys::gtk_tree_path_get_indices(path) as usize;
                sys::gtk_tree_path_free(path);
                let shown = &*data.cast::<Shown>();
                if let Some((text, sensitive)) = shown.get(row) {
                    let (cell, end) = (cell.cast(), null::<c_char>());
                    let (name, value) = (c"text".as_ptr(), text.as_ptr());
                    sys::g_object_set()(cell, name, value, c"sensitive".as_ptr(), *sensitive, end);
                }
            }
        });
    }
    unsafe extern "C" fn free(data: *mut c_void) {
        // SAFETY: GTK calls this once, with the box made below.
        guard((), || drop(unsafe { Box::from_raw(data.cast::<Shown>()) }));
    }
    let shown = |row: &Row| match &row.problem {
        Some(problem) => (c_string(&translate(problem)), 0),
        None => (c_string(&row.text), 1),
    };
    let data = Box::into_raw(Box::new(rows.iter().map(shown).collect::<Shown>())).cast();
    let cell = gtk!(gtk_cell_renderer_text_new());
    gtk!(gtk_cell_layout_clear(list.as_ptr()));
    gtk!(gtk_cell_layout_pack_start(list.as_ptr(), cell, 1));
    end_in_dots(cell);
    gtk!(gtk_cell_layout_set_cell_data_func(list.as_ptr(), cell, Some(show), data, Some(free)));
}

/// A text that is one of a few.
pub struct Choices {
    pub list: List,
    names: Vec<&'static str>,
}

impl Choices {
    /// `options`: name and label of each.
    pub fn new(options: &'static [(&'static str, Text)]) -> Self {
        let list = List::new();
        list.fill(options.iter().map(|(_, label)| translate(label)));
        Self { list, names: options.iter().map(|(name, _)| *name).collect() }
    }

    /// Name of the chosen one; empty before the first choice.
    pub fn name(&self) -> &'static str {
        self.list.chosen().and_then(|at| self.names.get(at)).copied().unwrap_or_default()
    }

    pub fn choose(&self, name: &str) {
        let at = self.names.iter().position(|known| *known == name).map_or(-1, |at| at as c_int);
        gtk!(gtk_combo_box_set_active(self.list.widget.as_ptr(), at));
    }
}

/// A whole number with arrows beside it.
pub struct Spinner(pub Widget);

impl Spinner {
    pub fn new(min: u32, max: u32) -> Self {
        let spinner = Widget::own(gtk!(gtk_spin_button_new_with_range(min.into(), max.into(), 1.0)));
        gtk!(gtk_spin_button_set_numeric(spinner.as_ptr(), 1));
        gtk!(gtk_entry_set_width_chars(spinner.as_ptr(), NUMBER_WIDTH));
        gtk!(gtk_entry_set_activates_default(spinner.as_ptr(), 1));
        Self(spinner)
    }

    pub fn value(&self) -> u32 {
        // What was typed counts only after an update.
        gtk!(gtk_spin_button_update(self.0.as_ptr()));
        gtk!(gtk_spin_button_get_value(self.0.as_ptr())) as u32
    }

    pub fn set_value(&self, value: u32) {
        gtk!(gtk_spin_button_set_value(self.0.as_ptr(), value.into()));
    }
}

/// A box to tick, with a text that has a mnemonic.
pub struct Tick(pub Widget);

impl Tick {
    pub fn new(label: &str) -> Self {
        Self(Widget::own(gtk!(gtk_check_button_new_with_mnemonic(c_string(label).as_ptr()))))
    }

    pub fn is_on(&self) -> bool {
        gtk!(gtk_toggle_button_get_active(self.0.as_ptr())) != 0
    }

    pub fn set(&self, on: bool) {
        gtk!(gtk_toggle_button_set_active(self.0.as_ptr(), on.into()));
    }
}

/// A picture.
pub struct Image(pub Widget);

impl Image {
    pub fn new() -> Self {
        Self(Widget::own(gtk!(gtk_image_new())))
    }

    pub fn set(&self, picture: &RgbaImage) {
        let (width, height) = picture.dimensions();
        let (rgb, has_alpha, bits) = (sys::GdkColorspace::GDK_COLORSPACE_RGB, 1, 8);
        let pixbuf = gtk!(gdk_pixbuf_new(rgb, has_alpha, bits, width as c_int, height as c_int));
        assert!(!pixbuf.is_null(), "memory for a small picture");
        let stride = gtk!(gdk_pixbuf_get_rowstride(pixbuf)) as usize;
        let pixels = gtk!(gdk_pixbuf_get_pixels(pixbuf));
        for (number, row) in picture.as_raw().chunks_exact(4 * width as usize).enumerate() {
            // SAFETY: the picture has `height` rows of at least 4 * `width` bytes, `stride` bytes apart.
            unsafe { pixels.add(number * stride).copy_from_nonoverlapping(row.as_ptr(), row.len()) };
        }
        gtk!(gtk_image_set_from_pixbuf(self.0.as_ptr(), pixbuf));
        gtk!(g_object_unref(pixbuf.cast()));
    }
}

/// An icon of GIMP's theme by its name, in the size of text.
pub struct Icon(pub Widget);

impl Icon {
    pub fn new() -> Self {
        let icon = Widget::own(gtk!(gtk_image_new()));
        gtk!(gtk_misc_set_alignment(icon.as_ptr(), 0.5, 0.0));
        Self(icon)
    }

    pub fn set(&self, name: &CStr) {
        gtk!(gtk_image_set_from_icon_name(self.0.as_ptr(), name.as_ptr(), sys::GtkIconSize::GTK_ICON_SIZE_MENU));
    }
}

/// A list of texts, one of which can be chosen.
pub struct List {
    pub widget: Widget,
    length: Cell<c_int>,
}

impl List {
    pub fn new() -> Self {
        let widget = Widget::own(gtk!(gtk_combo_box_text_new()));
        let cells = gtk!(gtk_cell_layout_get_cells(widget.as_ptr()));
        // SAFETY: a list of GTK's cells, of which a box of texts has one; the list is ours, the cells are not.
        unsafe {
            if let Some(first) = cells.as_ref() {
                end_in_dots(first.data.cast());
            }
            sys::g_list_free(cells);
        }
        Self { widget, length: Cell::new(0) }
    }

    /// Shows these texts, none of them chosen.
    pub fn fill(&self, texts: impl Iterator<Item = String>) {
        for _ in 0..self.length.take() {
            gtk!(gtk_combo_box_text_remove(self.widget.as_ptr(), 0));
        }
        for text in texts {
            gtk!(gtk_combo_box_text_append_text(self.widget.as_ptr(), c_string(&text).as_ptr()));
            self.length.set(self.length.get() + 1);
        }
    }

    /// Number of the chosen text.
    pub fn chosen(&self) -> Option<usize> {
        usize::try_from(gtk!(gtk_combo_box_get_active(self.widget.as_ptr()))).ok()
    }
}

/// A button with a picture instead of a text.
pub fn button_around(picture: &Widget) -> Widget {
    let button = Widget::own(gtk!(gtk_button_new()));
    button.add(picture);
    button
}

/// A place for a widget that scrolls up and down when it is higher, and to the end when it grows.
pub fn scrolled(child: &Widget, width: i32, height: i32) -> Widget {
    let frame = frame();
    gtk!(gtk_scrolled_window_add_with_viewport(frame.as_ptr(), child.as_ptr()));
    frame.set_size(width, height);
    let place = gtk!(gtk_scrolled_window_get_vadjustment(frame.as_ptr()));
    Widget::own(place).connect(c"changed", move || {
        // The adjustment calls its own handler, so it is there.
        let end = gtk!(gtk_adjustment_get_upper(place)) - gtk!(gtk_adjustment_get_page_size(place));
        gtk!(gtk_adjustment_set_value(place, end.max(0.0)));
    });
    frame
}

/// A button whose text has a mnemonic.
pub fn button(label: &str) -> Widget {
    Widget::own(gtk!(gtk_button_new_with_mnemonic(c_string(label).as_ptr())))
}

/// Parts of the dialog of which one is seen, each below a tab.
pub struct Pages(pub Widget);

impl Pages {
    /// The tabs take no focus, which is to be in the first field when the window opens; their keys reach them.
    pub fn new() -> Self {
        let pages = Widget::own(gtk!(gtk_notebook_new()));
        gtk!(gtk_widget_set_can_focus(pages.as_ptr(), 0));
        Self(pages)
    }

    /// `label` has a mnemonic, which brings `page` to the front.
    pub fn add(&self, label: &str, page: &Widget) {
        let label = Widget::own(gtk!(gtk_label_new_with_mnemonic(c_string(label).as_ptr())));
        page.set_border(SPACING as u32);
        gtk!(gtk_notebook_append_page(self.0.as_ptr(), page.as_ptr(), label.as_ptr()));
    }

    /// Puts `widget` into the line of the tabs.
    pub fn add_beside_tabs(&self, widget: &Widget) {
        widget.show_all();
        gtk!(gtk_notebook_set_action_widget(self.0.as_ptr(), widget.as_ptr(), sys::GtkPackType::GTK_PACK_END));
    }
}

/// A bar with a text in it.
pub struct Bar(pub Widget);

impl Bar {
    pub fn new() -> Self {
        let bar = Widget::own(gtk!(gtk_progress_bar_new()));
        gtk!(gtk_progress_bar_set_ellipsize(bar.as_ptr(), sys::PangoEllipsizeMode::PANGO_ELLIPSIZE_END));
        // GTK 3 shows the text only when asked.
        // SAFETY: a boolean property of both versions' bars; null ends the list.
        unsafe { sys::g_object_set()(bar.as_ptr(), c"show-text".as_ptr(), 1 as c_int, null::<c_char>()) };
        Self(bar)
    }

    /// `fraction`: 0 to 1.
    pub fn set(&self, fraction: f64, text: &Text) {
        let text = c_string(&translate(text));
        gtk!(gtk_progress_bar_set_fraction(self.0.as_ptr(), fraction.clamp(0.0, 1.0)));
        gtk!(gtk_progress_bar_set_text(self.0.as_ptr(), text.as_ptr()));
    }
}

/// A byte of a path as an address has it.
fn escaped_byte(byte: u8) -> String {
    match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'-' | b'_' | b'.' | b'~' | b':' => char::from(byte).into(),
        b'\\' => "/".into(),
        _ => format!("%{byte:02X}"),
    }
}

/// A top-level window with a row of buttons. Dropping it destroys the window.
pub struct Dialog(pub Widget);

impl Drop for Dialog {
    fn drop(&mut self) {
        gtk!(gtk_widget_destroy(self.0.as_ptr()));
    }
}

impl Dialog {
    /// `number`: positive, what [`Dialog::connect_response`] will say.
    pub fn add_button(&self, label: &str, number: i32) -> Widget {
        Widget::own(gtk!(gtk_dialog_add_button(self.0.as_ptr(), c_string(label).as_ptr(), number)))
    }

    /// What Enter means.
    pub fn set_default(&self, number: i32) {
        gtk!(gtk_dialog_set_default_response(self.0.as_ptr(), number));
    }

    /// The box above the buttons.
    pub fn content(&self) -> Widget {
        Widget::own(gtk!(gtk_dialog_get_content_area(self.0.as_ptr())))
    }

    /// Calls `body` with the number of the button that was pressed; negative ones are GTK's own. `true` says that the
    /// press is used up: what GIMP's own dialog does with it is left out.
    pub fn connect_response<Body: Fn(i32) -> bool + 'static>(&self, body: Body) {
        unsafe extern "C" fn call<Body: Fn(i32) -> bool>(dialog: *mut c_void, number: c_int, data: *mut c_void) {
            // SAFETY: `connect_raw` hands over the body.
            let body = unsafe { &*data.cast::<Body>() };
            if guard(false, || body(number)) {
                // SAFETY: the handler runs only while the dialog exists.
                unsafe { sys::g_signal_stop_emission_by_name(dialog, c"response".as_ptr()) };
            }
        }
        // SAFETY: this signal calls back with the dialog, the number and our data.
        unsafe { self.0.connect_raw(c"response", call::<Body> as *const (), body) };
    }

    /// Calls `body` on Escape; `true` says that the dialog is to stay.
    pub fn connect_escape(&self, body: impl Fn() -> bool + 'static) {
        let dialog = self.0.0;
        self.0.connect(c"close", move || {
            if body() {
                // SAFETY: the handler runs only while the dialog exists.
                unsafe { sys::g_signal_stop_emission_by_name(dialog.as_ptr().cast(), c"close".as_ptr()) };
            }
        });
    }

    /// Opens the window as large as `all` that is in it needs, as far as the screen has the room: then `content`
    /// scrolls in `place`, which is at least so high.
    pub fn fit_screen(&self, all: &Widget, place: &Scroller, content: &Widget, least_height: i32) {
        // A panel of the desktop, and the window's frame; what is around `all`, buttons below it among that; and the
        // edge of a place that scrolls, with its bar.
        const TAKEN: [i32; 2] = [8, 64];
        const AROUND: [i32; 2] = [2 * BORDER as i32 + 12, 2 * BORDER as i32 + 64];
        const EDGE: [i32; 2] = [44, 4];
        // Rows that come later: the earlier edits, and sentences of more than one line.
        const LATER: i32 = 56;
        let natural = |widget: &Widget| {
            let mut size = MaybeUninit::uninit();
            // SAFETY: GTK fills it.
            let size: sys::GtkRequisition = unsafe {
                sys::gtk_widget_size_request(widget.as_ptr(), size.as_mut_ptr());
                size.assume_init()
            };
            [size.width, size.height]
        };
        let [width, height] = natural(content);
        let [width, height] = [width + EDGE[0], height + EDGE[1]];
        place.0.set_size(width, height);
        let inside = natural(all);
        let screen = gtk!(gdk_screen_get_default());
        let room = [gtk!(gdk_screen_get_width(screen)) - TAKEN[0], gtk!(gdk_screen_get_height(screen)) - TAKEN[1]];
        let wanted = [inside[0] + AROUND[0], inside[1] + AROUND[1] + LATER];
        place.0.set_size(width - (wanted[0] - room[0]).max(0), least_height);
        let [width, height] = [0, 1].map(|at| wanted[at].min(room[at]));
        gtk!(gtk_window_set_default_size(self.0.as_ptr(), width, height));
    }

    /// Lets GTK do the next thing that is to be done, or wait for it.
    pub fn do_next(&self) {
        gtk!(g_main_context_iteration(null_mut(), 1));
    }

    /// Calls `body` after every `pause` until it says `false`.
    pub fn repeat<Body: Fn() -> bool + 'static>(&self, pause: Duration, body: Body) {
        extern "C" fn tick<Body: Fn() -> bool>(data: *mut c_void) -> c_int {
            // SAFETY: the box made below, which `free` takes back only after the last tick.
            let body = unsafe { &*data.cast::<Body>() };
            guard(false, body).into()
        }
        extern "C" fn free<Body>(data: *mut c_void) {
            // SAFETY: GLib calls this once, with the box made below.
            guard((), || drop(unsafe { Box::from_raw(data.cast::<Body>()) }));
        }
        const DEFAULT_PRIORITY: c_int = 0;
        let (data, milliseconds) = (Box::into_raw(Box::new(body)).cast(), pause.as_millis() as c_uint);
        gtk!(g_timeout_add_full(DEFAULT_PRIORITY, milliseconds, Some(tick::<Body>), data, Some(free::<Body>)));
    }

    /// Opens `page` in the program that the user has for such pages; `false` when there is none.
    pub fn open_page(&self, page: &Path) -> bool {
        let Some(page) = page.to_str() else { return false };
        let escaped: String = page.bytes().map(escaped_byte).collect();
        let address = c_string(&format!("file://{}{escaped}", if escaped.starts_with('/') { "" } else { "/" }));
        gtk!(g_app_info_launch_default_for_uri(address.as_ptr(), null_mut(), null_mut())) != 0
    }

    /// Asks for a file; `None` when the user changed their mind.
    pub fn choose_file(&self, title: &Text) -> Option<PathBuf> {
        let (title, parent) = (c_string(&translate(title)), self.0.as_ptr());
        let (cancel, open) = (sys::GtkResponseType::GTK_RESPONSE_CANCEL.0, sys::GtkResponseType::GTK_RESPONSE_ACCEPT.0);
        let action = sys::GtkFileChooserAction::GTK_FILE_CHOOSER_ACTION_OPEN;
        // SAFETY: the title is copied; the list of buttons ends at once.
        let chooser = unsafe { sys::gtk_file_chooser_dialog_new()(title.as_ptr(), parent, action, null::<c_char>()) };
        let chooser = Self(Widget::own(chooser));
        chooser.add_button("gtk-cancel", cancel);
        chooser.add_button("gtk-open", open);
        chooser.set_default(open);
        if gtk!(gtk_dialog_run(chooser.0.as_ptr())) != open {
            return None;
        }
        let file = gtk!(gtk_file_chooser_get_filename(chooser.0.as_ptr()));
        // SAFETY: GTK gives the path away.
        unsafe { take_path(file) }
    }
}
