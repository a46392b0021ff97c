//! What an edit needs of memory, counted from the shapes of model and picture before anything is read or run.
//!
//! Every layer counts what its `forward` takes in its `trace`, beside it; a test compares the counts with real graphs.
//! What stages A and B hold then follows from the order in which [`crate::engine::tuning::backward`] makes and frees
//! things.
#![forbid(unsafe_code)]

use crate::engine::device::Precision;
use crate::engine::model::codec::Codec;
use crate::engine::model::family::Family;
use crate::engine::model::lora;
use crate::engine::model::source::{Part, Source};
use crate::engine::model::trace::{Size, Trace, elements};
use crate::engine::model::unet::{Skip, UNet, UNetConfig};
use crate::engine::model::vae::Decoder;
use crate::engine::model::weights::Weights;
use crate::engine::picture::pixels;
use crate::engine::request::EditRequest;
use crate::engine::tuning::backward::Activations;
use crate::engine::tuning::mode::{Mode, Trained};
use crate::error::Result;
use crate::params::Params;
use candle_core::{DType, Device, Tensor};
use std::collections::BTreeSet;

/// Bytes that an edit needs at most in each of its parts, all that the process holds included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needs {
    /// The program and the loaded base model.
    pub model: u64,
    /// Stage A and the encoding before it.
    pub embedding: u64,
    /// Stage B.
    pub tuning: u64,
    /// Stage C and the decoding after it.
    pub generation: u64,
}

impl Needs {
    /// Of the whole edit.
    pub fn peak(&self) -> u64 {
        self.embedding.max(self.tuning).max(self.generation)
    }
}

/// What is to be done.
pub struct Task<'a> {
    /// Its parameters.
    pub params: &'a Params,
    /// Width and height of the layer.
    pub layer: [u32; 2],
    /// Width and height in pixels at which the model works.
    pub size: (usize, usize),
    /// What the device computes in.
    pub precision: Precision,
}

/// A base model without its weights.
pub struct Shapes {
    /// The U-Net's.
    pub config: UNetConfig,
    weights: Weights,
    unet: UNet,
    codec: Codec,
    /// Bytes of the autoencoder's decoder, which stays in memory.
    decoder_bytes: u64,
    tokens: usize,
}

impl Shapes {
    /// Of the model in `source`, which is of `family`, on `device`.
    pub fn new(source: &Source, family: &Family, device: &Device) -> Result<Self> {
        let (mut unet, mut vae) = (source.shapes(Part::UNet, device)?, source.shapes(Part::Vae, device)?);
        vae.tensors.retain(|name, _| Decoder::has(name));
        let config = UNetConfig::read(source, family)?;
        let own = UNet::names(&config, &unet)?;
        unet.tensors.retain(|name, _| own.contains(name));
        Ok(Self {
            unet: UNet::new(&config, &unet)?,
            codec: Codec::shapes(source, family, device)?,
            decoder_bytes: vae.bytes(),
            weights: unet,
            tokens: source.config(Part::TextEncoder).usize("max_position_embeddings", Some(family.tokens))?,
            config,
        })
    }

    /// The U-Net's tensors, which take no memory and whose values mean nothing.
    pub fn network(&self) -> &Weights {
        &self.weights
    }

    /// Bytes of the base model's U-Net in memory.
    pub fn network_bytes(&self) -> u64 {
        self.weights.bytes()
    }

    /// Bytes of the U-Net when all its weights have been tuned, which takes f32.
    pub fn tuned_bytes(&self) -> u64 {
        4 * self.weights.elements() as u64
    }

    /// Side in pixels of the pictures that the model was trained with.
    pub fn own_side(&self) -> usize {
        self.config.sample_size * self.codec.downsampling
    }

    /// Width and height in pixels at which the model works for `request`.
    pub fn size(&self, request: &EditRequest) -> (usize, usize) {
        let (asked, layer) = (request.params.resolution, &request.layer);
        let side = if asked == 0 { self.own_side() } else { asked as usize };
        let multiple = self.codec.downsampling * self.config.latent_multiple();
        pixels::working_size(layer.width(), layer.height(), side, multiple)
    }

    /// What is to be done for `request` on a device that computes in `precision`.
    pub fn task<'a>(&self, request: &'a EditRequest, precision: Precision) -> Task<'a> {
        let layer = [request.layer.width(), request.layer.height()];
        Task { params: &request.params, layer, size: self.size(request), precision }
    }

    /// Bytes of the program with the base model loaded and the layers of `task`. Of the text encoders a layer is there
    /// at a time, before all else.
    pub fn model_bytes(&self, task: &Task<'_>) -> u64 {
        // The program, the tokenizer, and what convolutions and matrix products lay out anew; measured.
        const PROGRAM: usize = 82 << 20;
        // A layer's source and result, and between them the picture at the layer's size, 16 bits a channel.
        const BYTES_PER_PIXEL: usize = 8 + 8 + 6;
        let [width, height] = task.layer;
        let rest = PROGRAM + BYTES_PER_PIXEL * width as usize * height as usize;
        self.network_bytes() + self.decoder_bytes + rest as u64
    }

    /// What `task` needs when it is done in that mode.
    pub fn needs(&self, task: &Task<'_>, mode: Mode) -> Result<Needs> {
        let Task { params, size: (w, h), precision, .. } = *task;
        let latents = [h / self.codec.downsampling, w / self.codec.downsampling];
        let at = |batch: usize| [batch, self.config.in_channels, latents[0], latents[1]];
        let batch = params.batch_size as usize;
        let (mut encode, mut decode) = (Trace::default(), Trace::default());
        self.codec.trace_encode([1, 3, h, w], &mut encode);
        self.codec.trace_decode([1, self.codec.channels, latents[0], latents[1]], &mut decode);
        let passes = if params.guidance == 1.0 { 1 } else { 2 };
        let adapters = lora::shapes(&self.weights, params);
        let adapted;
        let (tuned, unet): (Vec<usize>, _) = match mode.trained() {
            Trained::Weights | Trained::WeightsInEightBits => {
                (self.weights.tensors.values().map(Tensor::elem_count).collect(), &self.unet)
            }
            Trained::Adapters => {
                adapted = UNet::new(&self.config, &lora::with_shapes(&self.weights, &adapters)?)?;
                (adapters.iter().flatten().map(lora::Shape::elements).collect(), &adapted)
            }
        };
        let trains_all = !mode.trained().is_adapters();
        // The allocator keeps a freed gradient for the next one of its size.
        let freed =
            if trains_all { self.weights.tensors.values().map(Tensor::elem_count).collect() } else { BTreeSet::new() };
        let freed: usize = freed.into_iter().sum();
        // In numbers of 4 bytes, as all others here.
        let stored = |values: usize, storage: DType| values * storage.size_in_bytes() / 4;
        let training = |unet, trains_all| {
            stored(self.training(unet, at(batch), mode.activations(), trains_all), precision.training().storage)
        };
        // Copies of frozen weights as factors, see `optimize_text_embedding`.
        let copies = match precision.training().storage {
            DType::F32 => 0,
            storage if mode.trained() == Trained::Weights => stored(self.weights.elements(), storage),
            _ => 0,
        };
        let embedding = if params.embedding_steps == 0 { 0 } else { copies + training(&self.unet, false) };
        // Weights that are trained take the base model's places, where those may have 16 bits; adapters come beside
        // them. With them Adam's two moments.
        let taken = if trains_all { (self.network_bytes() / 4) as usize } else { 0 };
        let places = tuned.iter().sum::<usize>().saturating_sub(taken);
        let moments: usize = tuned.iter().map(|&values| mode.trained().moments().numbers(values)).sum();
        let tuning = if params.tuning_steps == 0 { 0 } else { places + moments + freed + training(unet, trains_all) };
        // What is mixed with the base model's weights stands beside both, and versions are judged by the base model's.
        let mixes = trains_all && params.tuning_share < 1.0;
        let beside = if mixes { self.weights.elements() } else { 0 };
        let judge = if trains_all && (mixes || params.candidates > 1) { taken } else { 0 };
        let pass = stored(self.inference(unet, at(passes)), precision.sampling().storage);
        let encoding = if params.own_noise > 0.0 { encode.alive } else { 0 };
        let generation = places + beside + judge + pass.max(decode.alive).max(encoding);
        let model = self.model_bytes(task);
        let bytes = |values: usize| model + 4 * values as u64;
        Ok(Needs {
            model,
            embedding: bytes(embedding.max(encode.alive)),
            tuning: bytes(tuning),
            generation: bytes(generation),
        })
    }

    /// What a step of stage A or B holds at most beside weights and moments, as
    /// [`crate::engine::tuning::backward::backward`] does it.
    fn training(&self, unet: &UNet, x_t: Size, activations: Activations, trains_weights: bool) -> usize {
        struct Step {
            trace: Trace,
            /// Number of the value it takes from the down path.
            skip: Option<usize>,
        }
        let mut sizes = vec![x_t];
        let (mut steps, mut skips) = (Vec::new(), Vec::new());
        for (i, block) in unet.blocks.iter().enumerate() {
            let skip = (block.skip == Skip::Takes).then(|| skips.pop().expect("the down path gives as many"));
            let mut trace = Trace::default();
            let size = block.trace(sizes[i], skip.map(|skip: usize| sizes[skip]), self.tokens, &mut trace);
            sizes.push(size);
            if block.skip == Skip::Gives {
                skips.push(i + 1);
            }
            steps.push(Step { trace, skip });
        }
        // Backwards from the last block, with its output's gradient there.
        let mut gradients = vec![0; sizes.len()];
        let mut most = 0;
        for (i, Step { trace, skip }) in steps.iter().enumerate().rev() {
            let kept: usize = match activations {
                Activations::Keep => steps[..=i].iter().map(|step| step.trace.kept).sum(),
                Activations::Recompute => trace.kept,
            };
            let inputs: usize = sizes[..=i].iter().copied().map(elements).sum();
            let waiting: usize = gradients[..=i].iter().sum();
            let own = if trains_weights { trace.all_gradients } else { trace.gradients };
            // The output times its gradient, that product's two gradients, and the input's beside its largest
            // operation.
            let ends = 3 * elements(sizes[i + 1]) + elements(sizes[i]);
            most = most.max(kept + inputs + waiting + own + ends);
            for value in [Some(i), *skip].into_iter().flatten() {
                gradients[value] = elements(sizes[value]);
            }
        }
        // Freed results that the allocator has not put to use again, measured: a quarter where they live from the
        // forward to the backward pass, as much again where every block frees its own and the next one wants other
        // sizes.
        match activations {
            Activations::Keep => most + most / 4,
            Activations::Recompute => 2 * most,
        }
    }

    /// What a forward pass alone holds at most.
    fn inference(&self, unet: &UNet, x_t: Size) -> usize {
        let (mut size, mut skips, mut most) = (x_t, Vec::new(), 0);
        for block in &unet.blocks {
            let skip = (block.skip == Skip::Takes).then(|| skips.pop().expect("the down path gives as many"));
            let mut trace = Trace::default();
            let input = size;
            size = block.trace(size, skip, self.tokens, &mut trace);
            most = most.max(skips.iter().copied().map(elements).sum::<usize>() + elements(input) + trace.alive);
            if block.skip == Skip::Gives {
                skips.push(size);
            }
        }
        most
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::model::conditioning::{Added, Conditioning};
    use crate::params::LoraLayers;
    use candle_core::{Storage, Var};
    use std::collections::BTreeMap;
    use std::path::Path;

    /// Numbers in the results that `y` keeps; views of one tensor count once.
    fn kept(y: &Tensor) -> usize {
        let mut seen = BTreeSet::new();
        let results = y.sorted_nodes().into_iter().filter(|tensor| !tensor.is_variable()).map(|tensor| {
            let (storage, _) = tensor.storage_and_layout();
            let Storage::Cpu(storage) = &*storage else { panic!("only CPU tensors here") };
            let numbers = storage.as_slice::<f32>().expect("f32");
            if seen.insert(numbers.as_ptr()) { numbers.len() } else { 0 }
        });
        results.sum()
    }

    #[test]
    fn every_block_keeps_as_much_as_is_counted() {
        for fixture in ["small-sd1", "small-v", "small-sd2", "small-tiny", "small-sdxl", "small-vega"] {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(fixture).join("model");
            let source = Source::open(&folder).expect("a model");
            let shapes = Shapes::new(&source, Family::of(&source).expect("a family"), &Device::Cpu).expect("shapes");
            let weights = source.tensors(Part::UNet, &Device::Cpu).expect("weights");
            let variable = |(name, tensor): (&String, &Tensor)| {
                (name.clone(), Var::from_tensor(tensor).expect("a variable").into_inner())
            };
            let params = Params { lora_layers: LoraLayers::All, ..Params::paper() };
            let adapters = lora::shapes(&weights, &params);
            // Adapters and weights trained at once, so that nothing is left out.
            let adapted = lora::with_shapes(&weights, &adapters).expect("adapters");
            let tensors: BTreeMap<_, _> = adapted.tensors.iter().map(variable).collect();
            let unet = UNet::new(&shapes.config, &Weights { tensors, ..weights }).expect("a U-Net");
            let counted = UNet::new(&shapes.config, &adapted).expect("a U-Net");
            let tensor = |shape: &[usize]| Var::zeros(shape, candle_core::DType::F32, &Device::Cpu).expect("zeros");
            let side = 2 * shapes.config.latent_multiple();
            let mut size = [3, shapes.config.in_channels, side, side];
            let emb =
                candle_core::Tensor::from_vec(unet.sinusoids(&[1, 2, 3]), (3, ()), &Device::Cpu).expect("sinusoids");
            let added = shapes.config.added.map(|width| {
                let part = |width| Tensor::zeros((3, width), DType::F32, &Device::Cpu).expect("zeros");
                Added { pooled: part(1), sizes: part(width - 1) }
            });
            let tokens = tensor(&[3, shapes.tokens, shapes.config.cross_attention_dim]).into_inner();
            let e = Conditioning { tokens, added, beside: None, class: None };
            let emb = unet.embed_timesteps(&emb, &e).expect("an embedding").detach();
            let e = e.tokens;
            let mut skips = Vec::new();
            for (i, block) in unet.blocks.iter().enumerate() {
                let skip = (block.skip == Skip::Takes).then(|| skips.pop().expect("as many"));
                let other: Option<Var> = skip.map(|skip: Size| tensor(&skip));
                let y = block.forward(&tensor(&size), other.as_ref().map(Var::as_tensor), &emb, &e).expect("a result");
                let mut trace = Trace::default();
                size = counted.blocks[i].trace(size, skip, shapes.tokens, &mut trace);
                assert_eq!(y.dims(), size, "{fixture}: size after block {i}");
                assert_eq!(kept(&y), trace.kept, "{fixture}: block {i}");
                if block.skip == Skip::Gives {
                    skips.push(size);
                }
            }
        }
    }
}
