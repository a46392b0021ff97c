//! The right half of the dialog: the layer and its results in size, the results as a strip; knows neither engine nor
//! GIMP.
#![forbid(unsafe_code)]

use super::widgets::{self, Image, SPACING, Tick, Widget};
use crate::host::thumbnail::fit;
use crate::host::words::{COMPARE_SEEDS, COMPARE_STRENGTHS, INSERT, SHOW_ORIGINAL};
use crate::image::LayerImage;
use crate::text::{Text, text};
use image::RgbaImage;
use std::cell::{Cell, RefCell};
use std::sync::Arc;

/// Side of the large picture in pixels.
const PICTURE: u32 = 288;
/// Side of a small one.
const SMALL: u32 = 60;
/// Small ones beside each other.
const COLUMNS: usize = 4;
/// Height of the strip: two rows with their captions.
const STRIP: i32 = 200;

/// What can be pressed, in the order in which it gets its key.
pub const BUTTONS: [&Text; 4] = [&SHOW_ORIGINAL.label, &INSERT.label, &COMPARE_STRENGTHS.label, &COMPARE_SEEDS.label];

pub struct Panel {
    pub all: Widget,
    pub strengths: Widget,
    pub seeds: Widget,
    pub insert: Widget,
    pub original: Tick,
    picture: Image,
    strip: Widget,
    rows: RefCell<Vec<Widget>>,
    ticks: RefCell<Vec<Tick>>,
    /// The layer, and what is to be seen of a result or of one that forms.
    layer: RefCell<Option<Arc<LayerImage>>>,
    shown: RefCell<Option<LayerImage>>,
    /// Number of the result that is shown.
    pub number: Cell<Option<usize>>,
}

impl Panel {
    /// `labels`: [`BUTTONS`] with their keys.
    pub fn new(labels: [String; 4]) -> Self {
        let [original, insert, strengths, seeds] = labels;
        let original = Tick::new(&original);
        let [strengths, seeds, insert] = [strengths, seeds, insert].map(|label| widgets::button(&label));
        original.0.set_tooltip(&SHOW_ORIGINAL.tooltip);
        strengths.set_tooltip(&COMPARE_STRENGTHS.tooltip);
        seeds.set_tooltip(&COMPARE_SEEDS.tooltip);
        insert.set_tooltip(&INSERT.tooltip);
        let (picture, strip, all) = (Image::new(), widgets::vertical(), widgets::vertical());
        picture.0.set_size(PICTURE as i32, PICTURE as i32);
        let (top, bottom) = (widgets::horizontal(), widgets::horizontal());
        top.pack_growing(&original.0);
        top.pack(&insert);
        bottom.pack_growing(&strengths);
        bottom.pack_growing(&seeds);
        let width = COLUMNS as i32 * (SMALL as i32 + 2 * SPACING) + 4 * SPACING;
        for widget in [&picture.0, &top, &widgets::scrolled(&strip, width, STRIP), &bottom] {
            all.pack(widget);
        }
        Self {
            all,
            strengths,
            seeds,
            insert,
            original,
            picture,
            strip,
            rows: RefCell::default(),
            ticks: RefCell::default(),
            layer: RefCell::default(),
            shown: RefCell::default(),
            number: Cell::new(None),
        }
    }

    /// The layer that is edited; results of another one are gone.
    pub fn set_layer(&self, layer: &Arc<LayerImage>) {
        let is_known = self.layer.borrow().as_ref().is_some_and(|known| Arc::ptr_eq(known, layer));
        if !is_known {
            *self.layer.borrow_mut() = Some(layer.clone());
            *self.shown.borrow_mut() = None;
            self.number.set(None);
            for row in self.rows.take() {
                row.destroy();
            }
            self.ticks.take();
            self.draw();
        }
    }

    /// Shows a picture that forms, or result `number`.
    pub fn show(&self, picture: LayerImage, number: Option<usize>) {
        *self.shown.borrow_mut() = Some(picture);
        self.number.set(number);
        self.original.set(false);
        self.draw();
    }

    /// Draws what is to be seen: the layer where it is asked for or nothing else is there.
    pub fn draw(&self) {
        let (layer, shown) = (self.layer.borrow(), self.shown.borrow());
        let picture = shown.as_ref().filter(|_| !self.original.is_on()).or(layer.as_deref());
        if let Some(picture) = picture {
            self.picture.set(&fit(picture, PICTURE));
        }
        self.original.0.set_sensitive(shown.is_some());
        let has_results = !self.ticks.borrow().is_empty();
        self.insert.set_sensitive(has_results && (self.number.get().is_some() || !self.ticked().is_empty()));
    }

    /// Adds result number so many to the strip; `clicked` shows it.
    pub fn add(&self, picture: &LayerImage, caption: &str, tooltip: &Text, clicked: impl Fn() + 'static) {
        let small: RgbaImage = fit(picture, SMALL);
        let (button, tick, cell) = (widgets::picture_button(&small), Tick::new(caption), widgets::touching());
        button.set_tooltip(tooltip);
        button.connect(c"clicked", clicked);
        tick.0.set_tooltip(&text!("Insert makes layers of all results that are marked."));
        cell.pack(&button);
        cell.pack(&tick.0);
        let mut ticks = self.ticks.borrow_mut();
        if ticks.len().is_multiple_of(COLUMNS) {
            let row = widgets::horizontal();
            self.strip.pack(&row);
            self.rows.borrow_mut().push(row);
        }
        self.rows.borrow().last().expect("pushed above").pack(&cell);
        self.strip.show_all();
        ticks.push(tick);
    }

    /// Results in the strip.
    pub fn len(&self) -> usize {
        self.ticks.borrow().len()
    }

    /// Results that are ticked; else the one that is shown.
    pub fn chosen(&self) -> Vec<usize> {
        let ticked = self.ticked();
        if ticked.is_empty() { self.number.get().into_iter().collect() } else { ticked }
    }

    fn ticked(&self) -> Vec<usize> {
        self.ticks.borrow().iter().enumerate().filter(|(_, tick)| tick.is_on()).map(|(number, _)| number).collect()
    }

    /// Takes all ticks away.
    pub fn untick(&self) {
        self.ticks.borrow().iter().for_each(|tick| tick.set(false));
    }

    pub fn set_busy(&self, busy: bool) {
        self.strengths.set_sensitive(!busy);
        self.seeds.set_sensitive(!busy);
    }
}
