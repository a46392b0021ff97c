//! One layer of a GIMP document: which layer is meant, what is read, where the result goes and what the document
//! remembers; knows neither dialog nor procedure.
#![forbid(unsafe_code)]

use super::buffer::Rectangle;
use super::library::{Image, Keeper, Kind, Layer, Library, ProgressBar};
use crate::engine::picture::selection::{Selection, surroundings};
use crate::engine::request::Edit;
use crate::error::{Error, Result};
use crate::host::language::translate;
use crate::host::recipe::{History, PARASITE, Recipe, to_bytes};
use crate::host::report::{layer_name, layer_name_in_group, short_prompt, stage_seconds};
use crate::image::{LayerImage, MAX_AREA, Part};
use crate::params::Params;
use crate::text::{Text, text};
use std::collections::VecDeque;

/// The layer that an edit reads, and the place where its result goes.
pub struct Document {
    gimp: &'static dyn Library,
    image: Image,
    /// What is edited; stays the same when its results become active.
    source: Layer,
    /// Layers that were made, oldest first; undo may have taken some back.
    made: Vec<Layer>,
    /// What the user should know about the place of the result.
    pub note: Option<Text>,
    /// How the layer was made that was active at first, if it is one of our results.
    pub opened_from: Option<Recipe>,
    id: String,
    picture: Picture,
}

/// What `read_layer` found, for the insertion of the result: the user may change everything while the edit runs.
struct Picture {
    bounds: Rectangle,
    has_alpha: bool,
    tattoo: u32,
    /// What was read of it: all, or a selection in its surroundings.
    part: Rectangle,
    selection: Option<Selection>,
    /// Of the pixels that were read, to tell whether they are the same later.
    digest: u64,
}

/// One result of the layer, in the layer stack or not.
pub struct Outcome {
    pub params: Params,
    pub edit: Edit,
    /// Its layer, once it has become one; undo may have taken that back.
    pub layer: Option<Layer>,
}

impl Document {
    /// `drawable` is what GIMP calls active; one of our results stands for the layer it was made from.
    pub fn open(gimp: &'static dyn Library, image: Image, drawable: Layer) -> Result<Self> {
        let problem = match gimp.kind(drawable) {
            Kind::Layer if !gimp.is_indexed(image) => None,
            Kind::Layer => Some(text!("the image is indexed; choose Image > Mode > RGB")),
            Kind::LayerMask => Some(text!("a layer mask is active; click the layer's picture in the Layers dialog")),
            Kind::Channel => Some(text!("a channel is active; click a layer in the Layers dialog")),
            Kind::FloatingSelection => {
                Some(text!("the selection floats; choose Layer > Anchor Layer or > To New Layer"))
            }
        };
        if let Some(problem) = problem {
            return Err(Error::Host(problem));
        }
        let made_from = gimp.parasite(Keeper::Layer(drawable), PARASITE).and_then(|bytes| Recipe::from_bytes(&bytes));
        let of_result = made_from.and_then(|recipe| Some((gimp.layer_by_tattoo(image, recipe.source)?, recipe)));
        let (source, opened_from) = of_result.map_or((drawable, None), |(source, recipe)| (source, Some(recipe)));
        let picture = Picture::of(gimp, source);
        let id = History::from_bytes(gimp.parasite(Keeper::Image(image), PARASITE)).document;
        Ok(Self { gimp, image, source, made: Vec::new(), note: None, opened_from, id, picture })
    }

    /// What the layer and its image are called.
    pub fn subject(&self) -> Text {
        let (layer, image) = (self.gimp.layer_name(self.source), self.gimp.image_name(self.image));
        text!("Layer “{layer}” of {image}", layer, image)
    }

    /// `text`, and where the last result lies, if that is not above its layer.
    pub fn with_note(&self, text: Text) -> Text {
        self.note.iter().cloned().fold(text, Text::and_below)
    }

    /// The newest result that is still there.
    pub fn result(&self) -> Option<Layer> {
        self.made.iter().rev().copied().find(|&layer| self.gimp.exists(layer))
    }

    /// Whether a result is a layer now.
    pub fn has(&self, result: &Outcome) -> bool {
        self.gimp.is_open(self.image) && result.layer.is_some_and(|layer| self.gimp.exists(layer))
    }

    /// Whether its image still is.
    pub fn is_open(&self) -> bool {
        self.gimp.is_open(self.image)
    }

    /// What the document remembers now.
    pub fn history(&self) -> History {
        let mut history = History::from_bytes(self.gimp.parasite(Keeper::Image(self.image), PARASITE));
        if history.runs.is_empty() {
            // After an undo of the first edit its tuned model is still this document's.
            history.document.clone_from(&self.id);
        }
        history
    }

    /// GIMP's own progress bar.
    pub fn progress_bar(&self) -> ProgressBar {
        self.gimp.progress_bar("Imagic Edit")
    }

    /// Tells the user something in GIMP's way.
    pub fn tell(&self, text: &Text) {
        self.gimp.tell(&translate(text));
    }

    /// The newest result of the same source that still lies above it, or its group; else the source.
    fn newest(&self, history: &History) -> Layer {
        let position = |layer| self.gimp.position(self.image, layer);
        let (parent, below) = (self.gimp.parent(self.source), position(self.source));
        // Several results lie in a group.
        let beside_source = |layer: Layer| {
            std::iter::successors(Some(layer), |&layer| self.gimp.parent(layer))
                .find(|&layer| self.gimp.parent(layer) == parent)
        };
        let is_above = |layer: &Layer| position(*layer) < below;
        let mut results = history.runs.iter().rev().filter(|run| run.source == self.picture.tattoo);
        let place =
            |run: &Recipe| self.gimp.layer_by_tattoo(self.image, run.layer).and_then(beside_source).filter(is_above);
        results.find_map(place).unwrap_or(self.source)
    }

    /// Pixels of the layer; with a selection those of it and of its surroundings.
    pub fn read_layer(&mut self) -> Result<LayerImage> {
        if !self.gimp.is_open(self.image) {
            return Err(Error::Host(text!("the image was closed; open it and choose Filters > Imagic Edit again")));
        }
        if !self.gimp.exists(self.source) {
            return Err(Error::Host(text!(
                "the layer was deleted; click another one and choose Filters > Imagic Edit again"
            )));
        }
        let refuse = |Rectangle { width, height, .. }: Rectangle| {
            Error::Image(text!(
                "{width} x {height} pixels are to be edited, must be {min} to {max}; select a part of the layer",
                width,
                height,
                min = 1,
                max = MAX_AREA
            ))
        };
        let mut picture = Picture::of(self.gimp, self.source);
        let whole = picture.bounds;
        if let Some(selection) = self.gimp.selection(self.image) {
            let outside = || {
                Error::Host(text!(
                    "the selection lies outside of the layer; choose Select > None, or select a part of the layer"
                ))
            };
            let selected = self.gimp.selected_part(self.source).ok_or_else(outside)?;
            if selected.area() as u64 > MAX_AREA {
                return Err(refuse(selected));
            }
            let part = surroundings(part_of(selected), [whole.width as u32, whole.height as u32]);
            let Part { x, y, width, height } = part;
            picture.part = Rectangle { x: x as i32, y: y as i32, width: width as i32, height: height as i32 };
            let of_image = Rectangle { x: whole.x + picture.part.x, y: whole.y + picture.part.y, ..picture.part };
            let selection = Selection::new(width, height, self.gimp.read_mask(selection, of_image));
            picture.selection = Some(selection.ok_or_else(outside)?).filter(|selection| !selection.is_whole());
        }
        let part = picture.part;
        // Checked before the memory is asked for.
        if part.area() as u64 > MAX_AREA {
            return Err(refuse(part));
        }
        picture.digest = self.gimp.digest(self.source, part);
        let rgba = self.gimp.read_rgba(self.source, part);
        let layer = LayerImage::new(part.width as u32, part.height as u32, rgba).ok_or_else(|| refuse(part))?;
        // Only now: after a refusal the results that are there still belong to what was read before.
        self.picture = picture;
        Ok(layer)
    }

    /// What is selected of the pixels that were read last; `None` is everything.
    pub fn selection(&self) -> Option<&Selection> {
        self.picture.selection.as_ref()
    }

    /// Of the pixels that were read last. GIMP converts the same pixels a little differently from one time to the next.
    pub fn digest(&self) -> u64 {
        self.picture.digest
    }

    /// Makes layers of results of `source`, in a group when they are several, in one step of undo. They lie above the
    /// newest one, with their recipes.
    pub fn insert_layers(&mut self, new: &[&Outcome], source: &LayerImage) -> Result<Vec<Layer>> {
        if !self.gimp.is_open(self.image) {
            return Err(Error::Host(text!(
                "the image was closed while the edit ran; open it and edit again: the tuned model is kept, so that \
                 takes only the last stage"
            )));
        }
        if self.gimp.has_floating_selection(self.image) {
            return Err(Error::Host(text!("a selection floats, so no layer can be added; anchor it and edit again")));
        }
        let mut history = self.history();
        let step = self.gimp.undo_step(self.image);
        let inserted = self.insert(new, source, &mut history);
        drop(step);
        self.gimp.flush_displays();
        let inserted = inserted?;
        self.made.extend(&inserted);
        Ok(inserted)
    }

    /// The new layers. Each is complete before it goes into the image, where a lock may forbid what is left to do; if
    /// one finds no place, none stays.
    fn insert(&mut self, new: &[&Outcome], source: &LayerImage, history: &mut History) -> Result<Vec<Layer>> {
        let (gimp, image) = (self.gimp, self.image);
        let selected = gimp.selected_layers(image);
        self.note = None;
        let (mut parent, mut position, place) = if gimp.exists(self.source) {
            let newest = self.newest(history);
            let now = gimp.bounds(self.source);
            // A source that was moved takes its result along.
            let place = if now.has_size_of(self.picture.bounds) { now } else { self.picture.bounds };
            (gimp.parent(newest), gimp.position(image, newest), place)
        } else {
            self.note = Some(text!("The edited layer is gone, so the result lies on top of the image."));
            (None, 0, self.picture.bounds)
        };
        let group = match new {
            [first, _, ..] => Some(gimp.new_group(image, &short_prompt(&first.params))?),
            _ => None,
        };
        let mut unplaced = Unplaced { gimp, layers: group.into_iter().collect() };
        for Outcome { params, edit, .. } in new {
            let name = if group.is_some() { layer_name_in_group(params) } else { layer_name(params) };
            let layer = self.make(&name)?;
            unplaced.layers.push_back(layer);
            let (pixels, share) = edit.picture.apart(source);
            gimp.write_rgba(layer, self.picture.part, pixels.rgba());
            gimp.set_offsets(layer, place.x, place.y)?;
            if let Some(share) = share {
                let values: Vec<u16> =
                    share.pixels().map(|share| (share.0[0] * f32::from(u16::MAX)).round() as u16).collect();
                gimp.mask_with(layer, self.picture.part, &values)?;
            }
            let recipe = Recipe {
                layer: gimp.tattoo(layer),
                source: self.picture.tattoo,
                group: group.map(|group| gimp.tattoo(group)),
                tuned: edit.tuned,
                params: params.to_json(),
                seconds: stage_seconds(edit),
            };
            gimp.set_parasite(Keeper::Layer(layer), PARASITE, &to_bytes(&recipe))?;
            history.push(recipe);
        }
        let mut results = Vec::new();
        let mut place_all = || {
            while let Some(layer) = unplaced.layers.front().copied() {
                gimp.insert(image, layer, parent, position)?;
                unplaced.layers.pop_front();
                results.push(layer);
                if group == Some(layer) {
                    (parent, position) = (Some(layer), 0);
                } else {
                    position += 1;
                }
            }
            gimp.set_parasite(Keeper::Image(image), PARASITE, &to_bytes(history))
        };
        if let Err(error) = place_all() {
            for layer in results.into_iter().rev() {
                // One that cannot be removed either is there with its recipe, as after an undo of our note.
                let _ = gimp.remove(image, layer);
            }
            return Err(error);
        }
        results.retain(|layer| group != Some(*layer));

        // Whatever the user works on stays selected, except that a result gives way to its source.
        let is_ours = |layer: &Layer| gimp.parasite(Keeper::Layer(*layer), PARASITE).is_some();
        let mut selected: Vec<_> = selected.into_iter().filter(|layer| !is_ours(layer)).collect();
        if selected.is_empty() {
            selected.push(self.source);
        }
        selected.retain(|&layer| gimp.exists(layer));
        gimp.select_layers(image, &selected)?;
        Ok(results)
    }

    /// An empty layer for a result, not in the image yet.
    fn make(&self, name: &str) -> Result<Layer> {
        let Picture { bounds, has_alpha, .. } = &self.picture;
        let whole = bounds.at_origin();
        // Of what the model did not see there is nothing.
        let has_alpha = *has_alpha || self.picture.part != whole || self.picture.selection.is_some();
        self.gimp.new_layer(self.image, name, [whole.width, whole.height], has_alpha)
    }

    /// Deletes the layer of an edit of this document, if it is there, and forgets the edit, in one step of undo. The
    /// group that was made around several results goes with the last layer in it.
    pub fn remove(&mut self, run: &Recipe) -> Result<()> {
        if !self.gimp.is_open(self.image) {
            return Err(Error::Host(text!("the image was closed")));
        }
        let mut history = self.history();
        let step = self.gimp.undo_step(self.image);
        let (gimp, image) = (self.gimp, self.image);
        let layer = gimp.layer_by_tattoo(image, run.layer);
        let group = layer.and_then(|layer| gimp.parent(layer)).filter(|&group| Some(gimp.tattoo(group)) == run.group);
        let mut removed = [layer, group.filter(|&group| gimp.children(group) == 1)].into_iter().flatten();
        let removed = removed.try_for_each(|layer| gimp.remove(image, layer));
        history.runs.retain(|known| known.layer != run.layer);
        let kept = removed.and_then(|()| gimp.set_parasite(Keeper::Image(image), PARASITE, &to_bytes(&history)));
        drop(step);
        self.gimp.flush_displays();
        kept
    }
}

/// Layers that are in no image yet; freed when dropped.
struct Unplaced {
    gimp: &'static dyn Library,
    layers: VecDeque<Layer>,
}

impl Drop for Unplaced {
    fn drop(&mut self) {
        self.layers.iter().for_each(|&layer| self.gimp.delete(layer));
    }
}

/// What libgimp reports is never negative.
fn part_of(Rectangle { x, y, width, height }: Rectangle) -> Part {
    Part { x: x as u32, y: y as u32, width: width as u32, height: height as u32 }
}

impl Picture {
    fn of(gimp: &dyn Library, source: Layer) -> Self {
        let bounds = gimp.bounds(source);
        Self {
            bounds,
            part: bounds.at_origin(),
            has_alpha: gimp.has_alpha(source),
            tattoo: gimp.tattoo(source),
            selection: None,
            digest: 0,
        }
    }
}
