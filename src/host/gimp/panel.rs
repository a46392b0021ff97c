//! The right half of the dialog: the layer and its results in size, the results as a strip; knows neither engine nor
//! GIMP.
#![forbid(unsafe_code)]

use super::widgets::{self, Image, Label, SPACING, Scroller, Slide, Tick, Widget};
use crate::host::language::language;
use crate::host::thumbnail::{fit, fit_in, framed, in_size, split};
use crate::host::words::{COMPARE_SEEDS, COMPARE_STRENGTHS, INSERT, SHOW_ORIGINAL, SPLIT, ZOOM};
use crate::image::LayerImage;
use crate::text::{Text, text};
use image::RgbaImage;
use std::cell::{Cell, OnceCell, RefCell};
use std::sync::Arc;

/// Sides of the large picture in pixels, as long as nobody makes the window larger.
const PICTURE: i32 = 288;
/// The smallest that it becomes.
const LEAST_PICTURE: i32 = 200;
/// Room that the edge of the place of the large picture takes.
const EDGE: u32 = 4;
/// Side of a small picture.
const SMALL: u32 = 64;
/// Small ones beside each other.
const COLUMNS: usize = 4;
/// Height of the strip: two rows with their captions.
const STRIP: i32 = 220;

/// What can be pressed, in the order in which it gets its key.
pub const BUTTONS: [&Text; 4] = [&SHOW_ORIGINAL.label, &INSERT.label, &COMPARE_STRENGTHS.label, &COMPARE_SEEDS.label];

/// What the strip says of a result.
pub struct Caption {
    /// The target text in one line.
    pub text: String,
    pub eta: f64,
    pub seed: u32,
    pub tooltip: Text,
}

/// A result in the strip.
struct Entry {
    small: RgbaImage,
    caption: Caption,
    tick: Tick,
    image: Image,
}

/// Makes of a result's number what a click on it does.
type Clicked = dyn Fn(usize) -> Box<dyn Fn()>;

pub struct Panel {
    pub all: Widget,
    pub strengths: Widget,
    pub seeds: Widget,
    pub insert: Widget,
    pub original: Tick,
    /// Shows the picture pixel by pixel.
    pub zoom: Tick,
    /// How much of the original lies beside the edit.
    pub split: Slide,
    /// Where the large picture is.
    pub place: Scroller,
    picture: Image,
    strip: Widget,
    rows: RefCell<Vec<Widget>>,
    /// By number.
    entries: RefCell<Vec<Entry>>,
    clicked: OnceCell<Box<Clicked>>,
    /// The layer, and what is to be seen of a result or of one that forms.
    layer: RefCell<Option<Arc<LayerImage>>>,
    shown: RefCell<Option<LayerImage>>,
    /// Number of the result that is shown.
    pub number: Cell<Option<usize>>,
    /// The result that is shown, as large as the layer.
    whole: RefCell<Option<LayerImage>>,
    /// The room for which the large picture was drawn.
    drawn_for: Cell<[u32; 2]>,
    /// Both as they were drawn last, so that the knob moves lightly.
    before: RefCell<Option<Drawn>>,
    after: RefCell<Option<Drawn>>,
}

/// A picture in the room that there was, or pixel by pixel.
struct Drawn {
    room: Option<[u32; 2]>,
    picture: RgbaImage,
}

impl Panel {
    /// `labels`: [`BUTTONS`] with their keys.
    pub fn new(labels: [String; 4]) -> Self {
        let [original, insert, strengths, seeds] = labels;
        let (original, zoom, slide) = (Tick::new(&original), Tick::new("100 %"), Slide::new());
        let [strengths, seeds, insert] = [strengths, seeds, insert].map(|label| widgets::button(&label));
        original.0.set_tooltip(&SHOW_ORIGINAL.tooltip);
        zoom.0.set_tooltip(&ZOOM);
        slide.0.set_tooltip(&SPLIT);
        strengths.set_tooltip(&COMPARE_STRENGTHS.tooltip);
        seeds.set_tooltip(&COMPARE_SEEDS.tooltip);
        insert.set_tooltip(&INSERT.tooltip);
        let (picture, strip, all) = (Image::new(), widgets::vertical(), widgets::vertical());
        let place = Scroller::new(&picture.0);
        place.0.set_size(PICTURE, LEAST_PICTURE);
        let (views, top, bottom) = (widgets::horizontal(), widgets::horizontal(), widgets::vertical());
        views.pack_growing(&slide.0);
        views.pack(&zoom.0);
        top.pack_growing(&original.0);
        top.pack(&insert);
        // Below each other: in German they are as wide as the strip.
        bottom.pack(&strengths);
        bottom.pack(&seeds);
        let width = COLUMNS as i32 * (SMALL as i32 + 2 * SPACING) + 4 * SPACING;
        let results = widgets::scrolled(&strip, width, STRIP);
        all.pack_growing(&place.0);
        for widget in [&views, &top, &results, &bottom] {
            all.pack(widget);
        }
        Self {
            all,
            strengths,
            seeds,
            insert,
            original,
            zoom,
            split: slide,
            place,
            picture,
            strip,
            rows: RefCell::default(),
            entries: RefCell::default(),
            clicked: OnceCell::new(),
            layer: RefCell::default(),
            shown: RefCell::default(),
            number: Cell::new(None),
            whole: RefCell::default(),
            drawn_for: Cell::default(),
            before: RefCell::default(),
            after: RefCell::default(),
        }
    }

    /// `clicked` makes of a result's number what a click on it does.
    pub fn connect_clicked(&self, clicked: impl Fn(usize) -> Box<dyn Fn()> + 'static) {
        let _ = self.clicked.set(Box::new(clicked));
    }

    /// The layer that is edited; results of another one are gone.
    pub fn set_layer(&self, layer: &Arc<LayerImage>) {
        let is_known = self.layer.borrow().as_ref().is_some_and(|known| Arc::ptr_eq(known, layer));
        if !is_known {
            *self.layer.borrow_mut() = Some(layer.clone());
            *self.shown.borrow_mut() = None;
            *self.whole.borrow_mut() = None;
            self.number.set(None);
            self.before.take();
            self.after.take();
            self.entries.take();
            self.fill();
            self.draw();
        }
    }

    /// Shows a picture that forms, or result `number`.
    pub fn show(&self, picture: LayerImage, number: Option<usize>) {
        *self.shown.borrow_mut() = Some(picture);
        *self.whole.borrow_mut() = None;
        self.after.take();
        self.number.set(number);
        self.original.set(false);
        self.mark();
        self.draw();
    }

    /// Whether the result that is shown is to be seen pixel by pixel, and is not there in this size.
    pub fn wants_whole(&self) -> Option<usize> {
        self.number.get().filter(|_| self.zoom.is_on() && self.whole.borrow().is_none())
    }

    /// The result that is shown, as large as the layer.
    pub fn set_whole(&self, picture: LayerImage) {
        *self.whole.borrow_mut() = Some(picture);
        self.after.take();
    }

    /// Whether the place for the large picture has another size than it was drawn for.
    pub fn is_resized(&self) -> bool {
        !self.zoom.is_on() && self.drawn_for.get() != self.place.room()
    }

    /// Draws what is to be seen: the layer where it is asked for or nothing else is there, or both side by side.
    pub fn draw(&self) {
        let (layer, shown, whole) = (self.layer.borrow(), self.shown.borrow(), self.whole.borrow());
        let room = self.place.room();
        self.drawn_for.set(room);
        let after = if self.zoom.is_on() { whole.as_ref().or(shown.as_ref()) } else { shown.as_ref() };
        let room = (!self.zoom.is_on()).then(|| room.map(|side| side.max(2 * EDGE) - EDGE));
        let drawn = |known: &RefCell<Option<Drawn>>, picture: &LayerImage| {
            let mut known = known.borrow_mut();
            if let Some(known) = known.as_ref().filter(|known| known.room == room) {
                return known.picture.clone();
            }
            let picture = room.map_or_else(|| in_size(picture), |room| fit_in(picture, room));
            *known = Some(Drawn { room, picture: picture.clone() });
            picture
        };
        let share = if self.original.is_on() { 1.0 } else { self.split.value() };
        let before = layer.as_deref().filter(|_| share > 0.0 || after.is_none());
        let after = after.filter(|_| share < 1.0 || layer.is_none());
        let before = before.map(|picture| drawn(&self.before, picture));
        let after = after.map(|picture| drawn(&self.after, picture));
        let picture = match (before, after) {
            // One that forms may have another shape by a pixel.
            (Some(before), Some(after)) if before.dimensions() == after.dimensions() => {
                Some(split(&before, after, share))
            }
            (before, after) => after.or(before),
        };
        if let Some(picture) = picture {
            self.picture.set(&picture);
        }
        self.original.0.set_sensitive(shown.is_some());
        self.split.0.set_sensitive(shown.is_some());
        let has_results = !self.entries.borrow().is_empty();
        self.insert.set_sensitive(has_results && (self.number.get().is_some() || !self.ticked().is_empty()));
    }

    /// Adds the next result to the strip.
    pub fn add(&self, picture: &LayerImage, caption: Caption) {
        let (small, tick) = (fit(picture, SMALL), Tick::new(&language().number(caption.eta)));
        self.entries.borrow_mut().push(Entry { small, caption, tick, image: Image::new() });
        self.fill();
    }

    /// Lays the strip out anew, sorted: those of one text below each other, by seed and strength.
    fn fill(&self) {
        let mut entries = self.entries.borrow_mut();
        for row in self.rows.take() {
            row.destroy();
        }
        for entry in entries.iter_mut() {
            let (tick, is_on) = (Tick::new(&language().number(entry.caption.eta)), entry.tick.is_on());
            tick.set(is_on);
            tick.0.set_tooltip(&text!("Insert makes layers of all results that are marked."));
            (entry.tick, entry.image) = (tick, Image::new());
        }
        let mut rows = self.rows.borrow_mut();
        let mut add = |row: Widget| {
            self.strip.pack(&row);
            rows.push(row.clone());
            row
        };
        let groups = groups(&entries.iter().map(|entry| &entry.caption).collect::<Vec<_>>());
        let has_seeds = entries.iter().any(|entry| entry.caption.seed != entries[0].caption.seed);
        for group in &groups {
            if groups.len() > 1 {
                let heading = Label::new(SMALL as i32 * COLUMNS as i32).in_one_line();
                heading.align_left();
                heading.set_text(&Text::verbatim(&entries[group[0]].caption.text));
                add(heading.0);
            }
            for numbers in group.chunks(COLUMNS) {
                let row = add(widgets::horizontal());
                for &number in numbers {
                    let Entry { caption, tick, image, .. } = &entries[number];
                    let (button, cell) = (widgets::button_around(&image.0), widgets::touching());
                    button.set_tooltip(&caption.tooltip);
                    if let Some(clicked) = self.clicked.get() {
                        button.connect(c"clicked", clicked(number));
                    }
                    cell.pack(&button);
                    cell.pack(&tick.0);
                    if has_seeds {
                        let seed = Label::new(SMALL as i32).in_one_line();
                        seed.align_left();
                        seed.set_text(&Text::verbatim(format!("#{}", caption.seed)));
                        cell.pack(&seed.0);
                    }
                    row.pack(&cell);
                }
            }
        }
        drop(entries);
        self.mark();
        self.strip.show_all();
    }

    /// The one that is shown in size has a frame.
    fn mark(&self) {
        for (number, entry) in self.entries.borrow().iter().enumerate() {
            let small = entry.small.clone();
            entry.image.set(&if self.number.get() == Some(number) { framed(small) } else { small });
        }
    }

    /// Results in the strip.
    pub fn len(&self) -> usize {
        self.entries.borrow().len()
    }

    /// Results that are ticked; else the one that is shown.
    pub fn chosen(&self) -> Vec<usize> {
        let ticked = self.ticked();
        if ticked.is_empty() { self.number.get().into_iter().collect() } else { ticked }
    }

    fn ticked(&self) -> Vec<usize> {
        let entries = self.entries.borrow();
        entries.iter().enumerate().filter(|(_, entry)| entry.tick.is_on()).map(|(number, _)| number).collect()
    }

    /// Takes all ticks away.
    pub fn untick(&self) {
        self.entries.borrow().iter().for_each(|entry| entry.tick.set(false));
    }

    pub fn set_busy(&self, busy: bool) {
        self.strengths.set_sensitive(!busy);
        self.seeds.set_sensitive(!busy);
    }
}

/// Numbers of results by their texts, in the order in which texts came; those of one text by seed and strength.
fn groups(captions: &[&Caption]) -> Vec<Vec<usize>> {
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for (number, caption) in captions.iter().enumerate() {
        match groups.iter_mut().find(|group| captions[group[0]].text == caption.text) {
            Some(group) => group.push(number),
            None => groups.push(vec![number]),
        }
    }
    for group in &mut groups {
        group.sort_by(|&one, &other| {
            let (one, other) = (captions[one], captions[other]);
            one.seed.cmp(&other.seed).then(one.eta.total_cmp(&other.eta))
        });
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_sorted_by_text_seed_and_strength() {
        let caption = |(text, seed, eta): &(&str, u32, f64)| Caption {
            text: (*text).into(),
            seed: *seed,
            eta: *eta,
            tooltip: Text::default(),
        };
        let came = [("a dog", 3, 0.8), ("a cat", 3, 0.7), ("a dog", 3, 0.2), ("a dog", 1, 0.9), ("a cat", 3, 0.0)];
        let captions: Vec<_> = came.iter().map(caption).collect();
        assert_eq!(groups(&captions.iter().collect::<Vec<_>>()), [vec![3, 2, 0], vec![4, 1]]);
        assert!(groups(&[]).is_empty());
    }
}
