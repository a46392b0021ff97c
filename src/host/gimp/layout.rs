//! What the dialog shows besides the fields, and where everything lies: the same in every GIMP. Knows no edit.
#![forbid(unsafe_code)]

use super::form::{Form, Parts};
use super::keys;
use super::panel::{self, Panel};
use super::widgets::{self, Bar, Icon, Image, Label, List, Pages, Widget};
use crate::host::report::help;
use crate::host::words::{self, BROWSE, EARLIER_EDITS, NEW_SEED};
use crate::params::{PARAMS, Param};
use crate::text::{Text, text};

/// Width of the texts in pixels: that of the page with the advanced settings, which is the widest. GTK 2 breaks lines
/// there and nowhere else.
const WIDTH: i32 = 672;
/// Width of the field for the target text.
const PROMPT_WIDTH: i32 = 460;
/// Width of the text beside the tabs.
const SUBJECT_WIDTH: i32 = 380;
/// Height of the field for the target text.
const PROMPT_HEIGHT: i32 = 70;
/// Height of two lines: with most messages the window keeps its size; longer ones make it grow.
const ICON_HEIGHT: i32 = 36;

pub struct Layout {
    pub browse: Widget,
    pub new_seed: Widget,
    pub description: Label,
    pub examples: Label,
    /// The edits that the document remembers, and the row that holds them.
    pub earlier: List,
    pub earlier_row: Widget,
    pub remove: Widget,
    pub cost: Label,
    pub bar: Bar,
    pub curve: Image,
    pub icon: Icon,
    pub status: Label,
    pub panel: Panel,
}

impl Layout {
    /// Fills the dialog. `subject` says what is edited.
    pub fn new(form: &dyn Form, subject: &Text) -> Self {
        let layout = Self {
            browse: widgets::button(&form.with_key(&BROWSE.label)),
            new_seed: widgets::button(&form.with_key(&NEW_SEED.label)),
            description: Label::new(WIDTH).selectable(),
            examples: Label::new(WIDTH),
            earlier: List::new(),
            earlier_row: widgets::horizontal(),
            remove: widgets::button(&form.with_key(&keys::REMOVE)),
            cost: Label::new(WIDTH),
            bar: Bar::new(),
            curve: Image::new(),
            icon: Icon::new(),
            status: Label::new(WIDTH).selectable(),
            panel: Panel::new(panel::BUTTONS.map(|label| form.with_key(label))),
        };
        let Self { browse, new_seed, earlier, earlier_row, remove, bar, curve, icon, status, .. } = &layout;
        browse.set_tooltip(&BROWSE.tooltip);
        new_seed.set_tooltip(&NEW_SEED.tooltip);
        remove.set_tooltip(&text!("Deletes the layer of this edit and forgets the edit."));
        earlier.widget.set_tooltip(&EARLIER_EDITS.tooltip);
        curve.0.set_tooltip(&words::curve());
        bar.set(0.0, &Text::default());
        icon.0.set_size(-1, ICON_HEIGHT);

        earlier_row.pack(&form.label_for(&form.with_key(&EARLIER_EDITS.label), &earlier.widget));
        earlier_row.pack_growing(&earlier.widget);
        earlier_row.pack(remove);
        let (front, advanced) = layout.fields(form);
        let subject_line = Label::new(SUBJECT_WIDTH).in_one_line();
        subject_line.set_text(subject);
        subject_line.0.set_tooltip(subject);
        let pages = Pages::new();
        pages.add(&form.with_key(&keys::FRONT), &front);
        pages.add(&form.with_key(&text!("Advanced")), &advanced);
        pages.add_beside_tabs(&subject_line.0);

        let (progress, message) = (widgets::horizontal(), widgets::horizontal());
        progress.pack_growing(&bar.0);
        progress.pack(&curve.0);
        message.pack(&icon.0);
        message.pack_growing(&status.0);
        let left = widgets::vertical();
        for row in [&pages.0, &layout.cost.0, &progress, &message] {
            left.pack(row);
        }
        let all = widgets::columns();
        all.pack_growing(&left);
        all.pack(&layout.panel.all);
        for widget in [&layout.description.0, &layout.examples.0, earlier_row, &curve.0] {
            widget.show_only_on_demand();
        }
        form.parts().content.pack_growing(&all);
        all.show_all();
        layout
    }

    /// The fields that are always shown, with the buttons and texts that belong to them, and the advanced ones in two
    /// columns.
    fn fields(&self, form: &dyn Form) -> (Widget, Widget) {
        let (front, advanced) = (widgets::vertical(), widgets::columns());
        let columns = [widgets::vertical(), widgets::vertical()];
        columns.iter().for_each(|column| advanced.pack_growing(column));
        let column_length = PARAMS.iter().filter(|param| param.advanced).count().div_ceil(columns.len());
        let Parts { prompt, model, .. } = form.parts();
        prompt.frame.set_size(PROMPT_WIDTH, PROMPT_HEIGHT);
        let labelled = |param: &Param, target: &Widget, field: &Widget| {
            let row = widgets::horizontal();
            row.pack(&form.label_for(&form.with_key(&param.label), target));
            row.pack_growing(field);
            row
        };
        front.pack(&self.earlier_row);
        let mut number = 0;
        for param in PARAMS {
            match param.id {
                "prompt" => {
                    prompt.view.set_tooltip(&help(param).and(words::ENTER));
                    front.pack(&labelled(param, &prompt.view, &prompt.frame));
                    front.pack(&self.examples.0);
                }
                "model" => {
                    model.entry.0.set_tooltip(&help(param));
                    let row = labelled(param, &model.entry.0, &model.widget);
                    row.pack(&self.browse);
                    front.pack(&row);
                    front.pack(&self.description.0);
                }
                "seed" => {
                    let row = widgets::horizontal();
                    row.pack_growing(&form.row(param));
                    row.pack(&self.new_seed);
                    front.pack(&row);
                }
                _ if !param.advanced => front.pack(&form.row(param)),
                _ => {
                    columns[number / column_length].pack(&form.row(param));
                    number += 1;
                }
            }
        }
        (front, advanced)
    }
}
