//! What the dialog shows besides the fields, and where everything lies: the same in every GIMP. Knows no edit.
#![forbid(unsafe_code)]

use super::form::{Form, Parts};
use super::keys;
use super::panel::{self, Panel};
use super::widgets::{self, Bar, Icon, Image, Label, List, Pages, Scroller, Widget};
use crate::host::report::help;
use crate::host::words::{self, BROWSE, EARLIER_EDITS, GET_MODEL, NEW_SEED, TRY_ANYWAY};
use crate::params::{PARAMS, Param};
use crate::text::{Text, text};

/// Width of the texts in pixels. GTK 2 breaks lines there and nowhere else.
const WIDTH: i32 = 540;
/// Width of the field for the target text.
const PROMPT_WIDTH: i32 = 360;
/// Width of the text beside the tabs.
const SUBJECT_WIDTH: i32 = 300;
/// Height of the field for the target text.
const PROMPT_HEIGHT: i32 = 58;
/// Width of the counter below it, and height of it and of what is said of the text: three lines.
const COUNTER_WIDTH: i32 = 150;
const REMARKS_HEIGHT: i32 = 54;
/// Height of three lines: longer messages scroll, so that nothing else moves.
const MESSAGE_HEIGHT: i32 = 54;
/// What can be read beside the buttons of the door.
const DOOR_WIDTH: i32 = 220;
/// The least height of the fields, which scroll.
const LEAST_HEIGHT: i32 = 220;

pub struct Layout {
    pub browse: Widget,
    pub new_seed: Widget,
    pub description: Label,
    pub examples: Label,
    /// What is to be said of the target text, and how much of it fits.
    pub remarks: Label,
    pub counter: Label,
    /// Stands before an edit that a model cannot do: the row, its text and its buttons.
    pub door: Widget,
    pub door_text: Label,
    pub get_model: Widget,
    pub try_anyway: Widget,
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
    /// Everything, and the fields that are always shown with the place where they scroll.
    all: Widget,
    front: Widget,
    place: Scroller,
}

impl Layout {
    /// Fills the dialog. `subject` says what is edited.
    pub fn new(form: &dyn Form, subject: &Text) -> Self {
        let front = widgets::vertical();
        let layout = Self {
            browse: widgets::button(&form.with_key(&BROWSE.label)),
            new_seed: widgets::button(&form.with_key(&NEW_SEED.label)),
            description: Label::new(WIDTH).selectable(),
            examples: Label::new(WIDTH),
            remarks: Label::new(WIDTH - COUNTER_WIDTH).selectable(),
            counter: Label::new(COUNTER_WIDTH),
            door: widgets::horizontal(),
            door_text: Label::new(DOOR_WIDTH),
            get_model: widgets::button(&form.with_key(&GET_MODEL.label)),
            try_anyway: widgets::button(&form.with_key(&TRY_ANYWAY.label)),
            earlier: List::new(),
            earlier_row: widgets::horizontal(),
            remove: widgets::button(&form.with_key(&keys::REMOVE)),
            cost: Label::new(WIDTH),
            bar: Bar::new(),
            curve: Image::new(),
            icon: Icon::new(),
            status: Label::new(WIDTH).selectable(),
            panel: Panel::new(panel::BUTTONS.map(|label| form.with_key(label))),
            all: widgets::columns(),
            place: Scroller::new(&front),
            front,
        };
        let Self { browse, new_seed, earlier, earlier_row, remove, bar, curve, icon, status, .. } = &layout;
        let Self { door, door_text, get_model, try_anyway, .. } = &layout;
        get_model.set_tooltip(&GET_MODEL.tooltip);
        try_anyway.set_tooltip(&TRY_ANYWAY.tooltip);
        let sign = Icon::new();
        sign.set(c"dialog-warning");
        door.pack(&sign.0);
        door.pack_growing(&door_text.0);
        door.pack(get_model);
        door.pack(try_anyway);
        browse.set_tooltip(&BROWSE.tooltip);
        new_seed.set_tooltip(&NEW_SEED.tooltip);
        remove.set_tooltip(&text!("Deletes the layer of this edit and forgets the edit."));
        earlier.widget.set_tooltip(&EARLIER_EDITS.tooltip);
        curve.0.set_tooltip(&words::curve());
        bar.set(0.0, &Text::default());

        earlier_row.pack(&form.label_for(&form.with_key(&EARLIER_EDITS.label), &earlier.widget));
        earlier_row.pack_growing(&earlier.widget);
        earlier_row.pack(remove);
        let advanced = layout.fields(form);
        let subject_line = Label::new(SUBJECT_WIDTH).in_one_line();
        subject_line.set_text(subject);
        subject_line.0.set_tooltip(subject);
        let pages = Pages::new();
        // Each scrolls on its own where the screen is small.
        pages.add(&form.with_key(&keys::FRONT), &layout.place.0);
        pages.add(&form.with_key(&text!("Advanced")), &Scroller::new(&advanced).0);
        pages.add_beside_tabs(&subject_line.0);

        let (progress, message) = (widgets::horizontal(), widgets::horizontal());
        progress.pack_growing(&bar.0);
        progress.pack(&curve.0);
        message.pack(&icon.0);
        let sentences = Scroller::new(&status.0);
        sentences.0.set_size(WIDTH, MESSAGE_HEIGHT);
        message.pack_growing(&sentences.0);
        let left = widgets::vertical();
        left.pack(door);
        left.pack_growing(&pages.0);
        for row in [&layout.cost.0, &progress, &message] {
            left.pack(row);
        }
        let all = &layout.all;
        // What the window gets more is for the pictures.
        all.pack(&left);
        all.pack_growing(&layout.panel.all);
        for widget in [&layout.description.0, &layout.examples.0, earlier_row, &curve.0, door] {
            widget.show_only_on_demand();
        }
        form.parts().content.pack_growing(all);
        all.show_all();
        layout
    }

    /// Makes the window as large as what is in it by now, or as the screen.
    pub fn fit_screen(&self, form: &dyn Form) {
        form.parts().dialog.fit_screen(&self.all, &self.place, &self.front, LEAST_HEIGHT);
    }

    /// Fills in the fields that are always shown, with the buttons and texts that belong to them; the advanced ones in
    /// two columns.
    fn fields(&self, form: &dyn Form) -> Widget {
        let (front, advanced) = (&self.front, widgets::columns());
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
                    let below = widgets::horizontal();
                    below.pack_growing(&self.remarks.0);
                    below.pack(&self.counter.0);
                    below.set_size(-1, REMARKS_HEIGHT);
                    front.pack(&below);
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
        advanced
    }
}
