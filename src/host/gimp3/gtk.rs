//! What the dialog needs of GTK 3 and of GIMP's procedure dialog, as safe types; knows neither edit nor the parameters'
//! meaning.

use super::config::{Config, property};
use super::libgimp::Image;
use super::sys;
use super::widgets::{self, Bar, Dialog, Label, SPACING, Widget, gtk};
use crate::host::gimp::ffi::c_string;
use std::ffi::CStr;
use std::ptr::null_mut;

/// Prepares GTK the way GIMP's own dialogs look; before the first widget.
pub fn start(_thread_of: Image) {
    gtk!(gimp_ui_init(c"imagic-edit".as_ptr()));
}

/// GIMP's dialog for the arguments of a procedure: it makes their fields and brings buttons for edit, cancel, reset, help
/// and presets.
pub struct ProcedureDialog {
    pub dialog: Dialog,
}

impl ProcedureDialog {
    /// # Safety
    /// `procedure` is the one that runs, `config` its arguments.
    pub unsafe fn new(procedure: *mut sys::GimpProcedure, config: &Config, title: &str, edit: &str) -> Self {
        let (title, edit) = (c_string(title), c_string(edit));
        // SAFETY: the caller's promise; the texts are copied.
        let dialog = Widget::own(unsafe { sys::gimp_procedure_dialog_new(procedure, config.object(), title.as_ptr()) });
        gtk!(gimp_procedure_dialog_set_ok_label(dialog.as_ptr(), edit.as_ptr()));
        // It fits its content, also after a part of it was folded away.
        gtk!(gtk_window_set_resizable(dialog.as_ptr(), 0));
        Self { dialog: Dialog(dialog) }
    }

    fn field(&self, id: &str, kind: sys::GType) -> Widget {
        let name = property(id);
        Widget::own(gtk!(gimp_procedure_dialog_get_widget(self.dialog.0.as_ptr(), name.as_ptr(), kind)))
    }

    /// A text of several lines, without label.
    pub fn text_view(&self, id: &str) -> Widget {
        self.field(id, gtk!(gtk_text_view_get_type()))
    }

    /// A slider with a number beside it and a label.
    pub fn slider(&self, id: &str) -> Widget {
        self.field(id, gtk!(gimp_scale_entry_get_type()))
    }

    /// A number with arrows and a label.
    pub fn spinner(&self, id: &str) -> Widget {
        self.field(id, gtk!(gimp_label_spin_get_type()))
    }

    /// As [`ProcedureDialog::spinner`] for numbers far below 1.
    pub fn small_number(&self, id: &str) -> Widget {
        let spinner = self.spinner(id);
        gtk!(gimp_label_spin_set_digits(spinner.as_ptr(), 8));
        gtk!(gimp_label_spin_set_increments(spinner.as_ptr(), 1e-5, 1e-3));
        spinner
    }

    /// A box to tick, with its text.
    pub fn tick(&self, id: &str) -> Widget {
        self.field(id, gtk!(gtk_check_button_get_type()))
    }

    /// A list of a few texts with a label.
    pub fn choices(&self, id: &str) -> Widget {
        // <gobject/gtype.h>: G_TYPE_NONE, GIMP's own choice, which is a list with a label.
        const NONE: sys::GType = 1 << 2;
        self.field(id, NONE)
    }

    /// Gives the button with GIMP's number `response` another text.
    pub fn rename_button(&self, response: sys::GtkResponseType, label: &str) {
        let label = c_string(label);
        let button = gtk!(gtk_dialog_get_widget_for_response(self.dialog.0.as_ptr(), response.0));
        gtk!(gtk_button_set_label(button.cast(), label.as_ptr()));
    }

    pub fn set_button_sensitive(&self, response: sys::GtkResponseType, sensitive: bool) {
        gtk!(gtk_dialog_set_response_sensitive(self.dialog.0.as_ptr(), response.0, sensitive.into()));
    }

    /// Shows the dialog until a response comes through that nobody has used up.
    pub fn run(&self) {
        gtk!(gimp_procedure_dialog_run(self.dialog.0.as_ptr()));
    }

    /// Lets GTK do the next thing that is to be done, or wait for it.
    pub fn do_next(&self) {
        gtk!(g_main_context_iteration(null_mut(), 1));
    }

    /// Keeps the response that is being told from ending [`ProcedureDialog::run`].
    pub fn use_up_response(&self) {
        gtk!(g_signal_stop_emission_by_name(self.dialog.0.as_ptr(), c"response".as_ptr()));
    }
}

/// The label of a field that [`ProcedureDialog`] made.
fn label_of(field: &Widget) -> Widget {
    Widget::own(gtk!(gimp_labeled_get_label(field.as_ptr())))
}

/// A label with a mnemonic that leads to `target`, as wide as those of the fields like `beside`.
pub fn label_for(text: &str, target: &Widget, beside: &Widget) -> Widget {
    let text = c_string(text);
    let label = Widget::own(gtk!(gtk_label_new_with_mnemonic(text.as_ptr())));
    gtk!(gtk_label_set_mnemonic_widget(label.as_ptr(), target.as_ptr()));
    gtk!(gtk_misc_set_alignment(label.as_ptr(), 0.0, 0.5));
    // Sizes of groups that share a widget are the same.
    let group = gtk!(gtk_size_group_new(sys::GtkSizeGroupMode::GTK_SIZE_GROUP_HORIZONTAL));
    gtk!(gtk_size_group_add_widget(group, label.as_ptr()));
    gtk!(gtk_size_group_add_widget(group, label_of(beside).as_ptr()));
    gtk!(g_object_unref(group.cast()));
    label
}

/// Keeps a long text from asking for more than the width that the label was made with.
pub fn keep_narrow(label: &Label) {
    gtk!(gtk_label_set_max_width_chars(label.0.as_ptr(), 1));
}

/// An icon of the theme, in the size of text.
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

/// A bar with a text in it, which GTK 3 shows only when asked.
pub fn bar() -> Bar {
    let bar = Bar::new();
    gtk!(gtk_progress_bar_set_show_text(bar.0.as_ptr(), 1));
    bar
}

/// A box that puts its children beside each other, with a gap that tells them apart.
pub fn columns() -> Widget {
    let columns = widgets::horizontal();
    gtk!(gtk_box_set_spacing(columns.as_ptr(), 2 * SPACING));
    columns
}

/// Two boxes beside each other, whose children lie below each other.
pub fn two_columns() -> (Widget, [Widget; 2]) {
    let both = widgets::horizontal();
    gtk!(gtk_box_set_spacing(both.as_ptr(), 2 * SPACING));
    let columns = [widgets::vertical(), widgets::vertical()];
    columns.iter().for_each(|column| both.pack_growing(column));
    (both, columns)
}
