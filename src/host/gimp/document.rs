//! One layer of a GIMP document as a [`Host`]: which layer is meant, what is read, where the result goes and what the
//! document remembers; knows neither dialog nor procedure.
#![forbid(unsafe_code)]

use super::libgimp::{Image, Layer, ProgressBar};
use crate::engine::{Edit, Progress};
use crate::error::{Error, Result};
use crate::host::gimp::{History, Kind, Mode, PARASITE, Recipe, Rectangle};
use crate::host::report::{layer_name, progress_text, stage_seconds};
use crate::host::{self, Host};
use crate::image::{LayerImage, MAX_AREA};
use crate::job::Worker;
use crate::params::Params;
use std::ops::ControlFlow;
use std::path::PathBuf;

/// The layer that an edit reads, and the place where its result goes.
pub struct Document {
    pub image: Image,
    /// What is edited; stays the same when its results become active.
    pub source: Layer,
    /// The newest result.
    pub result: Option<Layer>,
    /// What the user should know about the place of the result.
    pub note: Option<&'static str>,
    id: String,
    picture: Picture,
    progress: Option<ProgressBar>,
}

/// What `read_layer` found, for the insertion of the result: the user may change everything while the edit runs.
struct Picture {
    bounds: Rectangle,
    has_alpha: bool,
    tattoo: u32,
    selection: Option<Selection>,
}

/// The selected part of the layer.
struct Selection {
    part: Rectangle,
    mask: Vec<u16>,
}

impl Document {
    /// `drawable` is what GIMP calls active; one of our results stands for the layer it was made from.
    pub fn open(image: Image, drawable: Layer) -> Result<Self> {
        match drawable.kind() {
            Kind::Layer => {}
            Kind::LayerMask => {
                return Err(refused("a layer mask is active; click the layer's picture in the Layers dialog"));
            }
            Kind::Channel => return Err(refused("a channel is active; click a layer in the Layers dialog")),
            Kind::FloatingSelection => {
                return Err(refused("the selection floats; choose Layer > Anchor Layer or > To New Layer"));
            }
        }
        if image.mode() == Mode::Indexed {
            return Err(refused("the image is indexed; choose Image > Mode > RGB"));
        }
        let made_from = drawable.parasite(PARASITE).and_then(|bytes| Recipe::from_bytes(&bytes));
        let source = made_from.and_then(|recipe| image.layer_by_tattoo(recipe.source)).unwrap_or(drawable);
        let picture = Picture::of(source);
        let id = History::from_bytes(image.parasite(PARASITE)).document;
        Ok(Self { image, source, result: None, note: None, id, picture, progress: None })
    }

    /// What the document remembers now.
    pub fn history(&self) -> History {
        let mut history = History::from_bytes(self.image.parasite(PARASITE));
        if history.runs.is_empty() {
            // After an undo of the first edit its tuned model is still this document's.
            history.document.clone_from(&self.id);
        }
        history
    }

    /// Edits and waits for it, with GIMP's own progress bar; what the user should know comes as messages.
    pub fn edit_without_dialog(mut self, worker: &Worker, params: &Params, folders: &[PathBuf]) -> Result<Layer> {
        self.progress = Some(self.image.progress_bar("Imagic Edit"));
        let edit = host::edit_active_layer(&mut self, worker, params, folders)?;
        let hint = edit.hint.map(|hint| hint.to_string());
        for note in edit.notes.iter().chain(&hint).map(String::as_str).chain(self.note) {
            self.image.tell(note);
        }
        self.result.ok_or_else(|| Error::Host("the image has no result".into()))
    }

    /// The newest result of the same source that still lies above it, or the source.
    fn newest(&self, history: &History) -> Layer {
        let (parent, position) = (self.source.parent(), self.image.position(self.source));
        let is_above = |layer: &Layer| layer.parent() == parent && self.image.position(*layer) < position;
        let mut results = history.runs.iter().rev().filter(|run| run.source == self.picture.tattoo);
        results.find_map(|run| self.image.layer_by_tattoo(run.layer).filter(is_above)).unwrap_or(self.source)
    }

    /// Makes the result layer with pixels, mask and place.
    fn insert(&mut self, edit: &Edit, params: &Params, history: &mut History) -> Result<Layer> {
        let Picture { bounds, has_alpha, tattoo, selection } = &self.picture;
        let whole = Rectangle { x: 0, y: 0, ..*bounds };
        let part = selection.as_ref().map_or(whole, |selection| selection.part);
        let layer =
            self.image.new_layer(&layer_name(params), whole.width, whole.height, *has_alpha || part != whole)?;
        layer.write_rgba(part, edit.layer.rgba());

        let selected = self.image.selected_layers();
        self.note = None;
        let (parent, position, place) = if self.source.is_valid() {
            let newest = self.newest(history);
            let now = self.source.bounds();
            // A source that was moved takes its result along.
            let place = if (now.width, now.height) == (bounds.width, bounds.height) { now } else { *bounds };
            (newest.parent(), self.image.position(newest), place)
        } else {
            self.note = Some("The edited layer is gone, so the result lies on top of the image.");
            (None, 0, *bounds)
        };
        self.image.insert(layer, parent, position).inspect_err(|_| layer.delete())?;
        layer.set_offsets(place.x, place.y)?;
        if let Some(selection) = selection {
            layer.add_black_mask()?.write_mask(selection.part, &selection.mask);
        }

        let recipe = Recipe {
            layer: layer.tattoo(),
            source: *tattoo,
            tuned: edit.tuned.into(),
            params: params.to_json(),
            seconds: stage_seconds(edit),
        };
        layer.set_parasite(PARASITE, &recipe.to_bytes())?;
        history.push(recipe);
        self.image.set_parasite(PARASITE, &history.to_bytes())?;

        // Whatever the user works on stays selected, except that a result gives way to its source.
        let is_ours = |layer: &Layer| layer.parasite(PARASITE).is_some();
        let mut selected: Vec<_> = selected.into_iter().filter(|layer| !is_ours(layer)).collect();
        if selected.is_empty() {
            selected.push(self.source);
        }
        selected.retain(|layer| layer.is_valid());
        self.image.select_layers(&selected)?;
        Ok(layer)
    }
}

impl Host for Document {
    fn read_layer(&mut self) -> Result<LayerImage> {
        if !self.image.is_valid() {
            return Err(refused("the image was closed; open it and choose Filters > Imagic Edit again"));
        }
        if !self.source.is_valid() {
            return Err(refused("the layer was deleted; click another one and choose Filters > Imagic Edit again"));
        }
        self.picture = Picture::of(self.source);
        let Rectangle { x, y, width, height } = self.picture.bounds;
        let mut part = Rectangle { x: 0, y: 0, width, height };
        if let Some(selection) = self.image.selection() {
            part = self.source.selected_part().ok_or_else(|| {
                refused("the selection lies outside of the layer; choose Select > None, or select a part of the layer")
            })?;
            let mask = selection.read_mask(Rectangle { x: x + part.x, y: y + part.y, ..part });
            self.picture.selection = Some(Selection { part, mask });
        }
        let refuse = || {
            let Rectangle { width, height, .. } = part;
            Error::Image(format!(
                "{width} x {height} pixels are to be edited, must be 1 to {MAX_AREA}; select a part of the layer"
            ))
        };
        // Checked before the memory is asked for.
        if part.area() as u64 > MAX_AREA {
            return Err(refuse());
        }
        LayerImage::new(part.width as u32, part.height as u32, self.source.read_rgba(part)).ok_or_else(refuse)
    }

    fn document(&mut self) -> String {
        self.history().document
    }

    fn progress(&mut self, progress: &Progress) -> ControlFlow<()> {
        if let Some(bar) = &self.progress {
            bar.show(&progress_text(progress), progress.fraction);
        }
        // GIMP's own Cancel ends the whole process.
        ControlFlow::Continue(())
    }

    fn insert_layer(&mut self, edit: &Edit, params: &Params) -> Result<()> {
        self.progress = None;
        if !self.image.is_valid() {
            return Err(refused("the image was closed while the edit ran, so the result has no place"));
        }
        if self.image.has_floating_selection() {
            return Err(refused("a selection floats, so no layer can be added; anchor it and edit again"));
        }
        let mut history = self.history();
        let step = self.image.undo_group();
        let inserted = self.insert(edit, params, &mut history);
        drop(step);
        self.image.flush_displays();
        self.result = Some(inserted?);
        Ok(())
    }
}

impl Picture {
    fn of(source: Layer) -> Self {
        Self { bounds: source.bounds(), has_alpha: source.has_alpha(), tattoo: source.tattoo(), selection: None }
    }
}

fn refused(reason: &str) -> Error {
    Error::Host(reason.to_owned())
}
