//! Imagic Edit: text-based editing of one layer, inside GIMP, Krita and other programs, on the user's own machine.
//!
//! # Bird's eye
//!
//! Input: one layer's pixels, a target text, parameters. Output: one new layer above it. In between Imagic
//! (Kawar et al., CVPR 2023, arXiv 2210.09276): A, optimize the text's embedding on the picture; B, fine-tune the
//! diffusion model on it; C, interpolate the embeddings with eta and sample. A and B are the expensive part and depend
//! on pixels, text, tuning parameters and base model; their product, the
//! [`TunedModel`](engine::tuning::tuned_model::TunedModel), is kept in memory and on disk. C is cheap: another eta or
//! seed repeats only C.
//!
//! ```text
//!   GIMP 2.10     GIMP 3      C program     shell     Krita (plugin-manifest/krita)
//!       |           |             |           |           |  messages over pipes
//!  host/gimp2   host/gimp3    host/capi   host/cli   host/serve      unsafe, C and files: only under host
//!        \  host/gimp /           |           |           |
//!         \____________\__________|___________|___________/
//!                  host.rs       layer in, new layer out
//!                  job.rs        one thread owns the engine: submit, poll, cancel
//!                 catalog.rs     which base models can be chosen
//!                 engine.rs      the order of the stages, and what is kept between edits
//!
//!  engine/detail.rs              the auxiliary model of one edit
//!  engine/sampling.rs            stage C of one edit
//!  engine/candidates.rs          which of several versions shows best what the text says
//!  engine/inversion.rs           the noise from which the picture comes back
//!  engine/tuned.rs               stages A and B of one edit, or what is kept of them; memory that runs short
//!  engine/auxiliary.rs           the paper's super-resolution model: how it sees, its stage B, tiles
//!  engine/imagic.rs              THE PAPER: A, B, C and their loss
//!  engine/base.rs                a base model, loaded
//!  engine/about.rs               what is known of a base model before it is loaded
//!  engine/store/                 tuned models and resume points on disk
//!  engine/budget/                memory and time: counted before, measured after
//!  engine/machine.rs             what it computes on, and what it may use
//!  engine/tuning/                Adam's loop, the backward pass, the ways to tune
//!  engine/request.rs             what host and engine say to each other
//!  engine/model/                 files, family, tokenizer, text encoder, codec, U-Net, schedule, conditioning
//!  engine/picture/               pixels to tensors and back; a selection; what an edit touches
//!  engine/ops/                   differentiable operations, Adam
//!  engine/device/                processor or GPU
//!  engine/random.rs              every random number
//!  engine/stop.rs                whether the edit is to stop, asked in the middle of long operations
//!
//!  leaves for all: params.rs, files.rs, error.rs, image.rs, text.rs
//! ```
//!
//! Arrows of `use` point downwards only, and no two files import each other: `tests/architecture` reads them.
//!
//! # One edit
//!
//! 1. The launcher (`main.rs`) loads this library and calls `imagic_main`, which sees who started it: a GIMP or a
//!    person. The adapter loads that GIMP's libraries at run time; what is written once for all GIMPs is in
//!    `host/gimp`. Another program loads the library itself and calls the functions of `include/imagic.h`, or starts
//!    `imagic-edit serve`, as the Krita package does, and sends messages: the engine is then a child that may die
//!    without its host.
//! 2. The host adapter reads the layer ([`image::LayerImage`]: sRGB, straight alpha, 16 bits) and the parameters
//!    ([`params::Params`], one row of [`params::PARAMS`] each) into an [`engine::request::EditRequest`].
//! 3. [`job::Worker::submit`] hands it to the engine's thread; the host polls the [`job::Job`].
//! 4. [`engine::Engine::edit`] embeds the text, then calls
//!    [`TunedModels::find_or_make`](engine::tuned::TunedModels::find_or_make), which runs
//!    [`engine::imagic::optimize_text_embedding`] and [`engine::imagic::fine_tune`] where no tuned model is kept, and
//!    [`Sampler::draw`](engine::sampling::Sampler::draw), which runs [`engine::imagic::interpolate`] and
//!    [`engine::imagic::generate`]. Where a model enlarges the edit, [`engine::detail`] does the same for it: stage B
//!    before the picture is drawn, stage C after it.
//! 5. The host adapter renders the [`engine::request::Edit`]'s picture at the layer's size and inserts it as a new
//!    layer with its recipe.
//!
//! # Invariants
//!
//! - `engine` knows no host; `host` knows no tensor; `job` knows neither. Tests read the `use` lines.
//! - `unsafe` stands in `host`, in the launcher, once in `engine::ops` around the matrix product, and where CUDA is
//!   called: the kernels in `engine::ops::gpu`, the driver in [`engine::device`].
//! - Everything an edit needs is in its request and in what was chosen to compute on: the engine reads no environment.
//!   Its globals are scratch memory of its operations, whose content no result depends on, for each thread what stops
//!   its edit, and with a GPU the addresses of CUDA's functions, which are found once, and candle's own switch for
//!   TF32, which is set when the GPU is opened.
//! - Host functions are called only on the thread on which the host called us.
//! - No network connection is opened, but by the command `models download`, in `host/cli/hub.rs`.
//! - The document is only added to: new layers and a note in the document, in one undo step (Krita's undo leaves the
//!   note). A stopped or failed edit adds nothing. Only layers that we made are removed, and only when the user asks
//!   for it.
//!
//! # Cross-cutting
//!
//! **Languages**: what people read is a [`text::Text`], an English key with values; [`host`] translates it where it
//! goes to a toolkit, from one catalogue for all hosts.
//!
//! **Stopping**, and whatever else ends a program, keeps what stages A and B have done: the next edit with the same
//! settings goes on from there, in any program, to the same bytes. Resume points are written while it is tuned, tuned
//! models behind the picture ([`engine::store`]); who tunes has a lock.
//!
//! **Progress and cancelling**: [`engine::request::Watch`] is called after every training and sampling step and answers
//! whether to go on. A step may take minutes, so the worker also tells the threads of an edit what stops it
//! ([`engine::stop`]), and operations look there; from a step's first changed weight on it is taken to its end.
//!
//! **Memory** is counted from shapes before anything is tuned ([`engine::budget::memory`]); the best mode that fits is
//! taken, and those that train every weight give the same bytes ([`engine::tuning::mode`],
//! [`engine::tuning::backward`]). Fine-tuning uses the base network up: it is read again for the next picture or text.
//! Weights that are not tuned have 16 bits where the file has them so, and are widened block by block where they are
//! used; text encoders are read for a text and go again.
//!
//! **GPU**: with the feature `cuda` an engine takes an NVIDIA GPU where there is one ([`engine::device`]) and says why
//! not where there is none. One library serves both: CUDA is looked for when the program runs. What no card has run yet
//! is off by default, see `docs/CUDA.md`. Kernels and products of every operation (`engine::ops::gpu`) are tested on
//! the processor, with the same source compiled as C++; `docs/CUDA.md` says what was run.
//!
//! **Determinism**: every random number is a function of seed, purpose and step ([`engine::random`]), and sums are
//! taken in a fixed order, so the same request gives the same bytes on the same kind of processor.
//!
//! **Gradients** are checked by name against PyTorch in `tests/parity.rs`, because a gradient that is silently cut
//! still lets the loss fall; [`engine::ops::adam::Adam`] refuses a variable without one.
//!
//! **Hints** ([`error::Hint`]) are what the user should know before an edit's time is spent; they come with the
//! progress and stay with the result: a picture that the base model's autoencoder cannot give back is one that it
//! cannot draw.
//!
//! **Errors** are sentences with value, limit and remedy, all through [`error::Error`]. A panic becomes one in three
//! places: the engine's thread, the callbacks that GIMP calls, and the functions of the C interface.

#![deny(unsafe_op_in_unsafe_fn)]

pub mod catalog;
pub mod engine;
pub mod error;
pub mod files;
pub mod host;
pub mod image;
pub mod job;
pub mod params;
pub mod text;

/// Training frees and allocates the same large buffers in every step; see `Cargo.toml`.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
