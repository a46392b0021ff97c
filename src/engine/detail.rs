//! The auxiliary model of one edit: which one, what it is tuned on, and the edit enlarged by it.
#![forbid(unsafe_code)]

use super::auxiliary::tiles::{self, Tiled};
use super::auxiliary::{Crops, Enlarger, Sees};
use super::base::{self, BaseModel};
use super::budget::clock::Clock;
use super::budget::cost;
use super::budget::memory::Shapes;
use super::budget::plan::Plan;
use super::imagic;
use super::machine::Machine;
use super::model::conditioning::Conditioning;
use super::model::family::UPSCALER_X4;
use super::model::source::Source;
use super::model::unet::UNet;
use super::model::weights::Weights;
use super::picture::pixels::{self, Picture};
use super::random::{Purpose, Stream};
use super::request::{EditRequest, Stage};
use super::sampling::Drawn;
use super::store::digests::Digests;
use super::store::key::Keys;
use super::tuned::{Enlarging, TunedModels};
use super::tuning::mode::Mode;
use crate::error::Result;
use crate::image::Mask;
use crate::params::Params;
use candle_core::{Device, Tensor};
use std::cell::{Cell, RefCell};
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

/// How one edit is enlarged.
pub struct Enlargement {
    source: Source,
    /// Differs for models with different weights.
    fingerprint: String,
    enlarger: Enlarger,
    /// The model's.
    shapes: Shapes,
    /// Whether it is tuned on the layer.
    tunes: bool,
    /// Width and height of the small picture.
    small: (usize, usize),
    /// Those of the large one.
    large: (usize, usize),
}

/// What enlarging an edit would take.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outlook {
    /// Passes of stages B and C, in those of the base model.
    pub passes: [f32; 2],
    /// Bytes of the whole process while it is tuned; 0 where that need not be.
    pub need: u64,
}

/// The model that enlarged the last edit, and what edits with it have left for the next ones.
#[derive(Default)]
pub struct Detail {
    model: Option<BaseModel>,
    tuned: TunedModels,
}

impl Enlargement {
    /// How the edit that `base` makes of `request` is enlarged, if it is; `clock` is told what that costs.
    pub fn of_edit(
        base: &BaseModel,
        request: &EditRequest,
        machine: &Machine,
        digests: &Digests,
        clock: &mut Clock<'_, '_>,
    ) -> Result<Option<Self>> {
        let go_on = &mut || clock.step(Stage::LoadModel, 0, 0, None);
        let digest = &mut |file: &File, path: &Path| digests.of(file, path, go_on);
        let found = Self::of(request, (&base.fingerprint, &base.shapes), machine.device(), digest)?;
        if let Some(enlargement) = &found {
            let [b, c] = enlargement.costs(request, &base.shapes);
            clock.takes(Stage::FineTuneDetail, b.0, b.1);
            clock.takes(Stage::Enlarge, c.0, c.1);
        }
        Ok(found)
    }

    /// Of `request`, whose edit the model of that fingerprint and of those shapes makes; `None` where nothing enlarges
    /// it, because nobody asked for that or because the layer is no larger. `digest`: see [`Source::fingerprint`].
    fn of(
        request: &EditRequest,
        (base_fingerprint, base): (&str, &Shapes),
        device: &Device,
        digest: &mut dyn FnMut(&File, &Path) -> Result<String>,
    ) -> Result<Option<Self>> {
        let (w, h) = base.size(request);
        let layer = [request.layer.width() as usize, request.layer.height() as usize];
        let Some((source, tunes)) = request.enlarger()?.filter(|_| layer[0] * layer[1] > w * h) else {
            return Ok(None);
        };
        let enlarger = Enlarger::read(&source)?;
        let shapes = Shapes::new(&source, &UPSCALER_X4, device)?;
        let factor = enlarger.factor;
        let small = match enlarger.sees {
            // It was trained on pictures as the base model makes them.
            Sees::Enlarged { .. } => (w, h),
            // The layer's own size, but nothing of the edit is thrown away.
            Sees::Pixels => {
                let multiple = shapes.config.latent_multiple();
                let side = |length: usize, least: usize| length.div_ceil(factor).max(least).next_multiple_of(multiple);
                (side(layer[0], w), side(layer[1], h))
            }
        };
        let large = (factor * small.0, factor * small.1);
        let mut fingerprint = source.fingerprint(digest)?;
        if enlarger.sees != Sees::Pixels {
            // It is tuned on small pictures as the base model gives them back.
            fingerprint = format!("{fingerprint} with {base_fingerprint}");
        }
        Ok(Some(Self { fingerprint, source, enlarger, shapes, tunes, small, large }))
    }

    /// What its tuning is asked for as: stage B alone, on crops of the layer, whose sides are half of those of the
    /// pictures that the model was trained with.
    fn request(&self, request: &EditRequest) -> EditRequest {
        let asked = &request.params;
        let params = Params {
            prompt: asked.prompt.clone(),
            model: asked.model.clone(),
            embedding_steps: 0,
            tuning_steps: if self.tunes { asked.detail_steps } else { 0 },
            tuning_lr: asked.detail_lr,
            tuning_mode: asked.tuning_mode,
            tuning_seed: asked.tuning_seed,
            batch_size: asked.batch_size,
            lora_rank: asked.lora_rank,
            lora_layers: asked.lora_layers,
            threads: asked.threads,
            resolution: (self.shapes.own_side() / 2) as u32,
            ..Params::paper()
        };
        EditRequest { params, familiar_psnr: None, previews: 0, ..request.clone() }
    }

    /// Steps of stages B and C, and what one costs in passes of the base model of the shapes `base`.
    fn costs(&self, request: &EditRequest, base: &Shapes) -> [(u32, f32); 2] {
        // Most of a network's products are those of its convolutions: as many as weights, at each place.
        let places = |(w, h): (usize, usize), shapes: &Shapes| {
            w as f32 * h as f32 * (shapes.config.sample_size as f32 / shapes.own_side() as f32).powi(2)
        };
        let work = |size, shapes: &Shapes| places(size, shapes) * shapes.network().elements() as f32;
        let pass = work(base.size(request), base);
        let own = self.request(request);
        let [_, b, _] = cost::passes(&own.params, Mode::Full);
        let c = if self.enlarger.guidance == 1.0 { 1.0 } else { 2.0 };
        let crop = self.shapes.size(&own);
        [
            (own.params.tuning_steps, b * work(crop, &self.shapes) / pass),
            (self.enlarger.steps, c * work(self.large, &self.shapes) / pass),
        ]
    }

    /// Crops of the layer, all over it, and what the network sees of the same places of the layer made small.
    fn crops(&self, model: &BaseModel, base: &BaseModel, own: &EditRequest, device: &Device) -> Result<Crops> {
        let Self { enlarger, small, large, .. } = self;
        let layer = encode(model, &pixels::to_tensor(&own.layer, *large, device)?)?;
        let seen = match enlarger.sees {
            Sees::Pixels => pixels::to_tensor(&own.layer, *small, device)?,
            Sees::Enlarged { .. } => {
                // As the base model would give it back.
                let small = pixels::to_tensor(&own.layer, *small, device)?;
                let small = Picture::of(&decode(base, &encode(base, &small)?)?)?.opaque();
                encode(model, &pixels::to_tensor(&small, *large, device)?)?
            }
        };
        let layer = enlarger.lacking(layer, &seen)?;
        let (_, _, h, w) = layer.dims4()?;
        let [_, _, crop_h, crop_w] = model.latents(model.shapes.size(own));
        let (crop_h, crop_w) = (crop_h.min(h), crop_w.min(w));
        let (mut of_layer, mut of_seen) = (Vec::new(), Vec::new());
        for y in tiles::places(h, crop_h) {
            for x in tiles::places(w, crop_w) {
                of_layer.push(layer.narrow(2, y, crop_h)?.narrow(3, x, crop_w)?);
                of_seen.push(seen.narrow(2, y, crop_h)?.narrow(3, x, crop_w)?);
            }
        }
        Ok(Crops { large: Tensor::cat(&of_layer, 0)?, seen: Tensor::cat(&of_seen, 0)? })
    }
}

impl Detail {
    /// `drawn`, which `base` has made of `request`, enlarged by the auxiliary model, after that was tuned on the layer;
    /// itself where nothing enlarges it. Meanwhile there is a picture to be seen.
    pub fn enlarge(
        &mut self,
        enlargement: Option<Enlargement>,
        drawn: Drawn,
        base: &BaseModel,
        request: &EditRequest,
        machine: &Machine,
        clock: &mut Clock<'_, '_>,
    ) -> Result<Drawn> {
        let Some(enlargement) = &enlargement else {
            *self = Self::default();
            return Ok(drawn);
        };
        if request.previews > 0 {
            clock.preview = Some(Arc::new(request.picture(&drawn.picture)?.forming()));
        }
        let network = self.network(enlargement, base, request, machine, clock)?;
        let picture = self.paint(enlargement, &drawn, &network, request, clock);
        // Behind the picture, and also where that was stopped.
        self.tuned.write(&enlargement.request(request), machine)?;
        Ok(Drawn { picture: picture?, ..drawn })
    }

    /// Stage B: the network that enlarges the edits that `base` makes of `request`, tuned on the layer, here or before,
    /// or as it is.
    fn network(
        &mut self,
        enlargement: &Enlargement,
        base: &BaseModel,
        request: &EditRequest,
        machine: &Machine,
        clock: &mut Clock<'_, '_>,
    ) -> Result<Weights> {
        let device = machine.device();
        if self.model.as_ref().is_none_or(|model| model.fingerprint != enlargement.fingerprint) {
            *self = Self::default();
            let (source, fingerprint) = (enlargement.source.clone(), enlargement.fingerprint.clone());
            self.model = Some(BaseModel::of_family(&UPSCALER_X4, source, fingerprint, device)?);
        }
        let model = self.model.as_ref().expect("read above");
        if !enlargement.tunes || request.params.detail_steps == 0 {
            return model.network(device);
        }
        let own = enlargement.request(request);
        let crops = enlargement.crops(model, base, &own, device)?;
        let enlarging = Enlarging { enlarger: &enlargement.enlarger, crops: &crops, size: enlargement.large };
        let (e_tgt, _) = model.embed(&own.params.prompt, enlargement.large)?;
        let found = self.tuned.find_or_make(model, &own, &e_tgt, Some(&enlarging), machine, clock)?;
        Ok(found.model.unet.clone())
    }

    /// What `request` would take now beside what the base model of that fingerprint and of those shapes does. `digest`
    /// knows the digests of files that have been read.
    pub fn outlook(
        &self,
        request: &EditRequest,
        (base_fingerprint, base): (&str, &Shapes),
        machine: &Machine,
        digest: &mut dyn FnMut(&File, &Path) -> Result<String>,
    ) -> Result<Outlook> {
        let chosen = machine.chosen();
        let Some(with) = Enlargement::of(request, (base_fingerprint, base), &chosen.device, digest)? else {
            return Ok(Outlook::default());
        };
        let [(steps, b), (sampling_steps, c)] = with.costs(request, base);
        let own = with.request(request);
        // A tokenizer takes longer to make than the rest of an estimate.
        let tokens = match self.model.as_ref().filter(|model| model.fingerprint == with.fingerprint) {
            Some(model) => model.tokens(&own.params.prompt)?,
            None => base::tokenizer_of(&UPSCALER_X4, &with.source)?.tokenize(&own.params.prompt)?.ids,
        };
        let fingerprint = Enlarging::fingerprint(&with.fingerprint, with.large);
        let allowed = Mode::allowed(&own.params, chosen);
        let keys = Keys::of(&own, &tokens, allowed, &fingerprint);
        let progress = self.tuned.progress(&keys, machine);
        let left = if progress.tuned { 0 } else { steps - progress.steps[1].min(steps) };
        let task = with.shapes.task(&own, chosen.precision);
        let plan = || Plan::new(&with.shapes, &task, allowed, 0, machine.free_memory());
        // Meanwhile the base model's tuned network is kept for stage C.
        let need = if left > 0 { plan()?.need + base.tuned_bytes() } else { 0 };
        Ok(Outlook { passes: [b * left as f32, c * sampling_steps as f32], need })
    }

    /// Waits until what edits have left for later ones is on the disk.
    pub fn settle(&mut self) {
        self.tuned.settle();
    }

    /// Stage C: the picture that was drawn, enlarged by the network of those `weights`, (1, 3, h, w), only where its
    /// mask lets it be seen.
    fn paint(
        &self,
        enlargement: &Enlargement,
        drawn: &Drawn,
        weights: &Weights,
        request: &EditRequest,
        clock: &mut Clock<'_, '_>,
    ) -> Result<Tensor> {
        let Enlargement { enlarger, large, .. } = enlargement;
        let model = self.model.as_ref().expect("its network was asked for");
        let (params, device) = (&request.params, drawn.picture.device());
        let timesteps = model.schedule.timesteps(enlarger.steps);
        let all = timesteps.len() as u32;
        clock.step(Stage::Enlarge, 0, all, None)?;
        let picture = Picture::of(&drawn.picture)?;
        let plain = pixels::to_tensor(&picture.opaque(), *large, device)?;
        let seen = match enlarger.sees {
            Sees::Enlarged { .. } => encode(model, &plain)?,
            Sees::Pixels => pixels::to_tensor(&picture.opaque(), enlargement.small, device)?,
        };
        let unet = UNet::new(&model.shapes.config, weights)?;
        let noise = |purpose, shape: &[usize]| Stream::new(params.seed, purpose, u32::MAX).normals(shape, device);
        let levels = enlarger.levels(&unet, &[enlarger.level], device)?;
        let small_noise = noise(Purpose::DetailSmallNoise, seen.dims())?;
        let beside = |e: &Conditioning| enlarger.condition(e, &seen, &small_noise, &levels);
        let e = beside(&model.embed(&params.prompt, *large)?.0)?;
        // Without guidance nobody asks for it.
        let e_null = if enlarger.guidance == 1.0 { e.clone() } else { beside(&model.unconditional(*large)?)? };
        let shape = model.latents(*large);
        let x_t = noise(Purpose::DetailLatents, &shape)?;
        let [_, _, h, w] = shape;
        let wanted = |(y, x): (usize, usize), (th, tw): (usize, usize)| {
            drawn.mask.as_ref().is_none_or(|mask| is_seen(mask, [(y, y + th), (x, x + tw)], [h, w]))
        };
        let (clock, done) = (RefCell::new(clock), Cell::new(0));
        let go_on = &mut || clock.borrow_mut().step(Stage::Enlarge, done.get(), all, None);
        let mut tiled = Tiled::new(&unet, [&e, &e_null], enlarger.guidance, side(model, h, w), wanted, go_on)?;
        let latents =
            imagic::sample(&mut tiled, &model.schedule, (enlarger.steps, &timesteps), x_t, &mut |step, _| {
                done.set(step);
                clock.borrow_mut().step(Stage::Enlarge, step, all, None)
            })?;
        pixels::with_colors_of(&decode(model, &enlarger.complete(latents, &seen)?)?, &plain)
    }
}

/// Side of the tiles of a canvas of `h` x `w` latents: that of what the model was trained with, or the canvas in
/// one piece where that is hardly larger.
fn side(model: &BaseModel, h: usize, w: usize) -> usize {
    let own = model.shapes.config.sample_size;
    if h * w <= 2 * own * own { h.max(w) } else { own }
}

/// The mean of the latents of `pixels`, (1, 3, h, w), tile by tile.
fn encode(model: &BaseModel, pixels: &Tensor) -> Result<Tensor> {
    let codec = &model.codec;
    let n = codec.downsampling;
    let (_, _, h, w) = pixels.dims4()?;
    tiles::joined((h / n, w / n), side(model, h / n, w / n), |(y, x), (th, tw)| {
        let tile = pixels.narrow(2, n * y, n * th)?.narrow(3, n * x, n * tw)?.contiguous()?;
        let latents = codec.encode(&tile)?;
        codec.sample(&latents, &latents.mean.zeros_like()?)
    })
}

/// `latents` to pixels, tile by tile.
fn decode(model: &BaseModel, latents: &Tensor) -> Result<Tensor> {
    let (_, _, h, w) = latents.dims4()?;
    tiles::joined((h, w), side(model, h, w), |(y, x), (th, tw)| {
        model.codec.decode(&latents.narrow(2, y, th)?.narrow(3, x, tw)?.contiguous()?)
    })
}

/// Whether `mask` lets anything be seen between these rows and columns of a canvas of `h` x `w`.
fn is_seen(mask: &Mask, [rows, columns]: [(usize, usize); 2], [h, w]: [usize; 2]) -> bool {
    let (mask_w, mask_h) = mask.dimensions();
    let part = |(from, to): (usize, usize), own: usize, side: u32| {
        let side = side as usize;
        (from * side / own) as u32..(to * side).div_ceil(own).min(side) as u32
    };
    let columns = part(columns, w, mask_w);
    part(rows, h, mask_h).any(|y| columns.clone().any(|x| mask[(x, y)].0[0] > 0.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::Luma;

    #[test]
    fn only_tiles_of_which_something_is_seen_are_painted() {
        let mut mask = Mask::new(8, 4);
        mask.put_pixel(5, 1, Luma([0.01]));
        // A canvas of 32 x 16 places: four of them for a pixel.
        let seen = |rows, columns| is_seen(&mask, [rows, columns], [16, 32]);
        assert!(seen((0, 16), (0, 32)) && seen((4, 8), (20, 24)) && seen((7, 8), (23, 24)));
        assert!(!seen((0, 4), (0, 32)) && !seen((8, 16), (0, 32)) && !seen((0, 16), (0, 20)));
        assert!(!seen((0, 16), (24, 32)));
    }
}
