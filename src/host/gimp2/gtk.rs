//! What the dialog needs of GTK 2 alone, as safe types; knows neither edit nor parameters.

use super::sys;
use super::widgets::{BORDER, Dialog, NUMBER_WIDTH, SPACING, Widget, gtk};
use crate::host::gimp::ffi::c_string;
use crate::host::language::translate;
use std::ffi::{CStr, c_char, c_int};
use std::ptr::{null, null_mut};

/// Prepares GTK the way GIMP's own dialogs look; before the first widget.
pub fn start(_thread_of: super::Image) {
    // SAFETY: the name is a static C string; called once per process, on GIMP's thread.
    unsafe { sys::gimp_ui_init(c"imagic-edit".as_ptr(), 0) };
}

/// Columns of fields beside each other.
pub fn columns() -> Widget {
    Widget::own(gtk!(gtk_hbox_new(0, BORDER as i32)))
}

/// Rows of a label and a field. Fields take the second and third column.
pub struct Form {
    pub table: Widget,
    row: std::cell::Cell<u32>,
}

impl Form {
    pub fn new(rows: u32) -> Self {
        let table = Widget::own(gtk!(gtk_table_new(rows, 3, 0)));
        gtk!(gtk_table_set_row_spacings(table.as_ptr(), SPACING as u32));
        gtk!(gtk_table_set_col_spacings(table.as_ptr(), SPACING as u32));
        Self { table, row: 0.into() }
    }

    fn next_row(&self) -> u32 {
        self.row.replace(self.row.get() + 1)
    }

    /// A label with a mnemonic (`_` before its letter) that leads to `target`, which is or lies in `field`.
    pub fn add(&self, label: &str, target: &Widget, field: &Widget) {
        let text = c_string(label);
        let label = Widget::own(gtk!(gtk_label_new_with_mnemonic(text.as_ptr())));
        gtk!(gtk_label_set_mnemonic_widget(label.as_ptr(), target.as_ptr()));
        gtk!(gtk_misc_set_alignment(label.as_ptr(), 0.0, 0.5));
        let row = self.next_row();
        let (fill, none) = (sys::GtkAttachOptions::GTK_FILL, sys::GtkAttachOptions(0));
        gtk!(gtk_table_attach(self.table.as_ptr(), label.as_ptr(), 0, 1, row, row + 1, fill, none, 0, 0));
        self.attach(field, row);
    }

    /// Something that belongs to the field above.
    pub fn add_below(&self, field: &Widget) {
        let row = self.next_row();
        self.attach(field, row);
    }

    fn attach(&self, field: &Widget, row: u32) {
        let grow = sys::GtkAttachOptions(sys::GtkAttachOptions::GTK_FILL.0 | sys::GtkAttachOptions::GTK_EXPAND.0);
        let fill = sys::GtkAttachOptions::GTK_FILL;
        gtk!(gtk_table_attach(self.table.as_ptr(), field.as_ptr(), 1, 3, row, row + 1, grow, fill, 0, 0));
    }

    /// GIMP's slider with a number field beside it.
    pub fn add_slider(&self, label: &str, range: std::ops::RangeInclusive<f64>, step: f64, help: &str) -> Slider {
        let (label, help, row) = (c_string(label), c_string(&translate(help)), self.next_row() as c_int);
        let (min, max) = range.into_inner();
        Slider(Widget::own(gtk!(gimp_scale_entry_new(
            self.table.as_ptr(),
            0,
            row,
            label.as_ptr(),
            160,
            6,
            min,
            min,
            max,
            step,
            step * 2.0,
            2,
            1,
            0.0,
            0.0,
            help.as_ptr(),
            null()
        ))))
    }
}

/// A slider with a number field.
pub struct Slider(pub Widget);

impl Slider {
    pub fn value(&self) -> f64 {
        gtk!(gtk_adjustment_get_value(self.0.as_ptr()))
    }

    pub fn set_value(&self, value: f64) {
        gtk!(gtk_adjustment_set_value(self.0.as_ptr(), value));
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

/// A label with a mnemonic that leads to `target`.
pub fn label_for(text: &str, target: &Widget) -> Widget {
    let text = c_string(text);
    let label = Widget::own(gtk!(gtk_label_new_with_mnemonic(text.as_ptr())));
    gtk!(gtk_label_set_mnemonic_widget(label.as_ptr(), target.as_ptr()));
    label
}

/// An icon of the theme by its stock name, in the size of text.
pub struct Icon(pub Widget);

impl Icon {
    pub fn new() -> Self {
        let icon = Widget::own(gtk!(gtk_image_new()));
        gtk!(gtk_misc_set_alignment(icon.as_ptr(), 0.5, 0.0));
        Self(icon)
    }

    pub fn set(&self, stock: &CStr) {
        gtk!(gtk_image_set_from_stock(self.0.as_ptr(), stock.as_ptr(), sys::GtkIconSize::GTK_ICON_SIZE_MENU));
    }
}

/// An empty text of several lines.
pub fn text_view() -> Widget {
    Widget::own(gtk!(gtk_text_view_new()))
}

/// A dialog that GIMP's windows do not cover.
pub fn dialog(title: &str) -> Dialog {
    let title = c_string(title);
    // SAFETY: the strings are copied; no parent, no help function; the list of buttons ends at once.
    let dialog = Widget::own(unsafe {
        let (role, end) = (c"imagic-edit", null::<c_char>());
        sys::gimp_dialog_new()(title.as_ptr(), role.as_ptr(), null_mut(), sys::GtkDialogFlags(0), None, null(), end)
    });
    gtk!(gimp_window_set_transient(dialog.as_ptr()));
    // It fits its content, also after a part of it was folded away.
    gtk!(gtk_window_set_resizable(dialog.as_ptr(), 0));
    Dialog(dialog)
}

impl Dialog {
    /// What Enter means.
    pub fn set_default(&self, number: i32) {
        gtk!(gtk_dialog_set_default_response(self.0.as_ptr(), number));
    }

    /// Runs until [`Dialog::quit_main_loop`].
    pub fn run_main_loop(&self) {
        gtk!(gtk_main());
    }

    /// Ends [`Dialog::run_main_loop`].
    pub fn quit_main_loop(&self) {
        gtk!(gtk_main_quit());
    }
}
