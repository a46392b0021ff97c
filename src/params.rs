//! The one table of parameters: hosts, dialogs, the C ABI, the command line, the README and the cache key read it.
#![forbid(unsafe_code)]

use crate::error::{Error, Result};
use crate::text::{Text, clipped, plain, text};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::fmt;

/// Enums of the choices of one parameter, with the name of each in JSON, on the command line and in procedures, and its
/// label in a dialog.
macro_rules! choices {
    ($($(#[$about:meta])* $Choice:ident { $($(#[$doc:meta])* $One:ident = $name:literal, $label:expr;)+ })+) => {$(
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
        pub enum $Choice { $($(#[$doc])* #[serde(rename = $name)] $One),+ }

        impl $Choice {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$One),+];
            /// Name and label of each.
            pub const OPTIONS: &'static [(&'static str, Text)] = &[$(($name, $label)),+];

            /// Its name in JSON.
            pub fn name(self) -> &'static str {
                Self::OPTIONS[self as usize].0
            }

            /// The one with this name.
            pub fn named(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|one| one.name() == name)
            }
        }

        impl fmt::Display for $Choice {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }

        impl From<$Choice> for Value {
            fn from(choice: $Choice) -> Self {
                choice.name().into()
            }
        }

        impl From<&$Choice> for Slot<'_> {
            fn from(choice: &$Choice) -> Self {
                Self::Text(choice.name())
            }
        }
    )+};
}

choices! {
    /// Where the advanced parameters come from.
    Preset {
        /// The paper's settings.
        Paper = "paper", text!("As in the paper");
        /// Those of the implementations for Stable Diffusion, or of the model.
        Balanced = "balanced", text!("Balanced");
        /// A fifth of the paper's work.
        Fast = "fast", text!("Fast");
        /// Settings that are no preset's.
        Custom = "custom", text!("Own settings");
    }
    /// How stage B tunes.
    TuningMode {
        /// The first of the others that fits into memory.
        Automatic = "automatic", text!("Automatic");
        /// All weights, intermediate results kept.
        Full = "full", text!("Full");
        /// All weights, intermediate results computed twice.
        Checkpointed = "checkpointed", text!("Full, with less memory");
        /// Adapters.
        Lora = "lora", text!("Adapters (LoRA)");
    }
    /// What a base model predicts.
    PredictionType {
        /// What its configuration says, or what the network does.
        Automatic = "auto", text!("Automatic");
        /// The noise.
        Epsilon = "epsilon", text!("Noise (epsilon)");
        /// v.
        V = "v_prediction", text!("Velocity (v)");
    }
    /// What stage A optimizes of the embedding of a Stable Diffusion XL model.
    OptimizedEmbedding {
        /// The embeddings of all tokens and that of the whole text.
        All = "all", text!("Both");
        /// Those of the tokens; that of the whole text stays the target's.
        Tokens = "tokens", text!("Tokens only");
    }
    /// What enlarges the edit to the layer's size.
    Detail {
        /// A tuned model where the base model has one for it or one is named; otherwise the picture is only resized.
        Automatic = "automatic", text!("Automatic");
        /// The picture is only resized.
        Off = "off", text!("Off");
        /// A model, as it is.
        Pretrained = "pretrained", text!("With a model, not tuned");
        /// A model that is tuned on the layer, as in the paper.
        Tuned = "tuned", text!("With a model, tuned on the layer");
    }
    /// Layers that get an adapter.
    LoraLayers {
        /// Those of attention.
        Attention = "attention", text!("Attention");
        /// Convolutions and all others, too.
        All = "all", text!("All layers");
    }
}

/// What a change of the parameter costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Affects {
    /// Nothing by itself: other parameters change with it.
    Parameters,
    /// Nothing: no result depends on it.
    Nothing,
    /// Stages A and B run again.
    Tuning,
    /// Only stage C runs again.
    Generation,
}

/// Values a parameter can take.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs, reason = "the variants tell of their fields")]
pub enum Domain {
    /// Any text that is not blank.
    Text,
    /// Whole numbers from `min` to `max`.
    Integer { min: u32, max: u32 },
    /// Finite numbers from `min` to `max`.
    Real { min: f64, max: f64 },
    /// Yes or no.
    Switch,
    /// One of a few texts: each one's name in JSON, on the command line and in procedures, and its label in a dialog.
    Choice { options: &'static [(&'static str, Text)] },
}

/// The value of a field of [`Params`].
#[derive(Serialize)]
#[serde(untagged)]
pub enum Slot<'a> {
    /// A text, or the name of a choice.
    Text(&'a str),
    /// A whole number.
    Integer(u32),
    /// A number.
    Real(f64),
    /// Yes or no.
    Switch(bool),
}

/// One parameter.
pub struct Param {
    /// Stable name in JSON, on the command line (with `-` for `_`) and in procedures.
    pub id: &'static str,
    /// Label in a dialog.
    pub label: Text,
    /// One sentence of help.
    pub help: Text,
    /// Values it can take.
    pub domain: Domain,
    /// Where the default comes from.
    pub source: &'static str,
    /// What a change costs.
    pub affects: Affects,
    /// Folded away in dialogs.
    pub advanced: bool,
    get: fn(&Params) -> Slot<'_>,
    set: fn(&mut Params, Value) -> Option<()>,
}

impl Param {
    /// Its value in `params`.
    pub fn slot<'a>(&self, params: &'a Params) -> Slot<'a> {
        (self.get)(params)
    }

    /// `value` as the field takes it: numbers may come as text, and truth values as numbers or text. Refuses other
    /// kinds and what is outside of the range.
    fn accept(&self, value: &Value) -> Result<Value> {
        let given = clipped(&value.as_str().map_or_else(|| value.to_string(), str::to_owned));
        let is_whole = matches!(self.domain, Domain::Integer { .. });
        let number = value.as_f64().or_else(|| number_in(value.as_str()?, is_whole));
        let id = self.id;
        let accepted = match self.domain {
            Domain::Text if value.is_string() => Ok(value.clone()),
            Domain::Text => Err(text!("{id} is {given}, must be a text", id, given)),
            Domain::Integer { min, max } => number
                .filter(|number| number.fract() == 0.0 && (f64::from(min)..=f64::from(max)).contains(number))
                .map(|number| json!(number as u32))
                .ok_or_else(|| {
                    text!("{id} is {given}, must be a whole number from {min} to {max}", id, given, min, max)
                }),
            Domain::Real { min, max } => number
                .filter(|number| (min..=max).contains(number))
                .map(|number| json!(number))
                .ok_or_else(|| text!("{id} is {given}, must be {min} to {max}", id, given, min, max)),
            // Hosts without truth values say 0 and 1.
            Domain::Switch => match (value, number, given.trim()) {
                (Value::Bool(on), ..) => Ok(json!(on)),
                (_, Some(0.0), _) | (_, _, "false" | "no") => Ok(json!(false)),
                (_, Some(1.0), _) | (_, _, "true" | "yes") => Ok(json!(true)),
                _ => Err(text!("{id} is {given}, must be true or false", id, given)),
            },
            Domain::Choice { options } if options.iter().any(|(name, _)| value == name) => Ok(value.clone()),
            Domain::Choice { options } => {
                let names: Vec<&str> = options.iter().map(|(name, _)| *name).collect();
                Err(text!("{id} is {given}, must be {options}", id, given, options = names.join(" or ")))
            }
        };
        accepted.map_err(Error::Parameter)
    }

    /// Whether its value comes from the preset unless it is chosen.
    pub fn is_of_preset(&self) -> bool {
        self.advanced && self.affects != Affects::Nothing
    }
}

/// The number that `text` is, with a decimal point or comma; where it has to be a whole one 1.000 and 1,000 are none,
/// because they are a thousand to some and one to others.
fn number_in(text: &str, is_whole: bool) -> Option<f64> {
    let text = text.trim();
    let (before, after) = text.split_once([',', '.']).unwrap_or((text, ""));
    if text.len() == before.len() {
        return text.parse().ok();
    }
    if is_whole && after.len() == 3 && after.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    format!("{before}.{after}").parse().ok()
}

/// Largest seed; GIMP has only signed numbers of 32 bits.
pub const LARGEST_SEED: u32 = i32::MAX as u32;

/// The preset that counts where none is named.
pub const DEFAULT_PRESET: Preset = Preset::Balanced;

/// Declares every parameter once, by what a change of it costs: a field of [`Params`], its value in the paper's
/// settings and where that comes from, and the rest of its row of [`PARAMS`].
macro_rules! parameters {
    ($(advanced: $advanced:literal, affects: $Affects:ident {
        $($(#[$doc:meta])* $field:ident: $Kind:ty = $paper:expr, $source:literal {
            $($member:ident: $value:expr),+ $(,)?
        })+
    })+) => {
        /// Everything a user can choose for one edit. One field for each row of [`PARAMS`].
        #[derive(Clone, Debug, PartialEq)]
        pub struct Params { $($($(#[$doc])* pub $field: $Kind,)+)+ }

        /// All parameters, in the order in which dialogs show them.
        pub const PARAMS: &[Param] = &[$($(Param {
            id: stringify!($field),
            $($member: $value,)+
            source: $source,
            affects: Affects::$Affects,
            advanced: $advanced,
            get: |params| Slot::from(&params.$field),
            set: |params, value| {
                params.$field = serde_json::from_value(value).ok()?;
                Some(())
            },
        },)+)+];

        impl Params {
            /// The settings of the paper for Stable Diffusion (preset `paper`), with an empty prompt.
            pub fn paper() -> Self {
                Self { $($($field: $paper,)+)+ }
            }
        }
    };
}

parameters! {
    advanced: false, affects: Tuning {
        /// The target text: what the picture should become.
        prompt: String = String::new(), "the user" {
            label: text!("Target text"),
            help: text!("What the picture should become, for example \"a bird spreading its wings\"."),
            domain: Domain::Text,
        }
        /// Name of an installed base model, or the folder of one.
        model: String = BUILTIN_MODEL.to_owned(), "the built-in model" {
            label: text!("Base model"),
            help: text!(
                "Name of an installed model, or a Stable Diffusion model: a .safetensors file or a folder in diffusers \
                 layout."
            ),
            domain: Domain::Text,
        }
    }
    advanced: false, affects: Parameters {
        /// Where the advanced ones come from.
        preset: Preset = Preset::Paper, "docs/BENCHMARK.md" {
            label: text!("Quality or speed"),
            help: text!(
                "Where the advanced settings come from: fast takes a fraction of the time of balanced, and that a \
                 fraction of the paper's."
            ),
            domain: Domain::Choice { options: Preset::OPTIONS },
        }
    }
    advanced: false, affects: Generation {
        /// The paper's eta: 0 gives back the input, 1 asks for the target text in full.
        eta: f64 = 0.7, "paper, section 4: 0.6 to 0.8" {
            label: text!("Strength (eta)"),
            help: text!("0 gives back the picture, larger values follow the text more; most edits sit at 0.6 to 1."),
            domain: Domain::Real { min: 0.0, max: 2.0 },
        }
        /// Seed of the start latents of stage C.
        seed: u32 = 0, "ours" {
            label: text!("Seed"),
            help: text!("Another seed gives another version of the edit."),
            domain: Domain::Integer { min: 0, max: LARGEST_SEED },
        }
        /// Whether pixels that the edit does not touch are the layer's own.
        keep_untouched: bool = false, "ours" {
            label: text!("Keep what the edit does not touch"),
            help: text!("Pixels where the edit changes nothing are taken from the layer, with a soft border."),
            domain: Domain::Switch,
        }
    }
    advanced: true, affects: Generation {
        /// Versions, of the seed and those after it, of which the best is taken.
        candidates: u32 = 1, "ours; the paper, section 4, picks from 8 by hand" {
            label: text!("Versions to choose from"),
            help: text!(
                "Draws so many versions, with the seed and those after it, and takes the one that shows best what the \
                 text says; 1 takes the seed's own."
            ),
            domain: Domain::Integer { min: 1, max: 64 },
        }
        /// What enlarges the edit to the layer's size.
        detail: Detail = Detail::Automatic, "paper, section 3.2" {
            label: text!("Detail"),
            help: text!(
                "What gives the edit the layer's size: a second model that paints fine detail, tuned on the layer \
                 or not, or plain resizing (off). Automatic tunes where the base model comes with such a model or \
                 one is named."
            ),
            domain: Domain::Choice { options: Detail::OPTIONS },
        }
        /// File or folder of the model that enlarges; empty: the one that comes with the base model.
        enlarger: String = String::new(), "the model" {
            label: text!("Detail model"),
            help: text!(
                "The model that enlarges the edit: a .safetensors file or a folder of Stable Diffusion's x4 upscaler; \
                 empty takes the one that comes with the base model."
            ),
            domain: Domain::Text,
        }
        /// Adam steps of the model that enlarges.
        detail_steps: u32 = 1500, "paper, section 4 (Imagen)" {
            label: text!("Detail tuning steps"),
            help: text!("Steps in which the model that enlarges is tuned on the layer."),
            domain: Domain::Integer { min: 0, max: 100_000 },
        }
        /// Learning rate of the model that enlarges.
        detail_lr: f64 = 5e-7, "as in stage B" {
            label: text!("Detail learning rate"),
            help: text!("Adam's learning rate for the model that enlarges; 20 times as much in the tuning mode lora."),
            domain: Domain::Real { min: 0.0, max: 1.0 },
        }
        /// Weight of classifier-free guidance in stage C; 1 is none.
        guidance: f64 = 7.5, "Stable Diffusion pipeline of diffusers" {
            label: text!("Guidance"),
            help: text!("Weight of classifier-free guidance while sampling; 1 is none."),
            domain: Domain::Real { min: 1.0, max: 30.0 },
        }
        /// Share of stage B's changes to the weights with which stage C draws from eta 1 on; at eta 0 it is all of
        /// them, and between evenly more.
        tuning_share: f64 = 1.0, "paper" {
            label: text!("Share of the tuning"),
            help: text!(
                "How much of the tuning the model draws with at full strength: less leaves the text more room and \
                 keeps less of the picture; 1 is the paper's."
            ),
            domain: Domain::Real { min: 0.0, max: 1.0 },
        }
        /// Share of the picture's own noise in what stage C starts from; the rest is the seed's.
        own_noise: f64 = 0.0, "paper" {
            label: text!("The picture's own noise"),
            help: text!(
                "How much of what sampling starts from is the noise that gives the picture back: more keeps the layout \
                 and what the text leaves alone, and makes seeds alike; 0 is the paper's."
            ),
            domain: Domain::Real { min: 0.0, max: 1.0 },
        }
        /// DDIM steps of stage C.
        sampling_steps: u32 = 50, "Stable Diffusion pipeline of diffusers" {
            label: text!("Sampling steps"),
            help: text!("DDIM steps; more are slower and finer."),
            domain: Domain::Integer { min: 1, max: 1000 },
        }
    }
    advanced: true, affects: Tuning {
        /// Adam steps of stage A.
        embedding_steps: u32 = 1000, "paper, section 4 (Stable Diffusion)" {
            label: text!("Embedding steps"),
            help: text!("Steps of stage A, which optimizes the text embedding on the picture."),
            domain: Domain::Integer { min: 0, max: 100_000 },
        }
        /// Learning rate of stage A.
        embedding_lr: f64 = 2e-3, "paper, section 4 (Stable Diffusion)" {
            label: text!("Embedding learning rate"),
            help: text!("Adam's learning rate in stage A."),
            domain: Domain::Real { min: 0.0, max: 1.0 },
        }
        /// Adam steps of stage B.
        tuning_steps: u32 = 1500, "paper, section 4 (Stable Diffusion)" {
            label: text!("Tuning steps"),
            help: text!("Steps of stage B, which fine-tunes the model on the picture."),
            domain: Domain::Integer { min: 0, max: 100_000 },
        }
        /// Learning rate of stage B.
        tuning_lr: f64 = 5e-7, "paper, section 4 (Stable Diffusion)" {
            label: text!("Tuning learning rate"),
            help: text!("Adam's learning rate in stage B; 20 times as much in the tuning mode lora."),
            domain: Domain::Real { min: 0.0, max: 1.0 },
        }
        /// How stage B tunes.
        tuning_mode: TuningMode = TuningMode::Automatic, "ours" {
            label: text!("Tuning mode"),
            help: text!(
                "Full is fastest; checkpointed gives the same result with less memory in more time; lora trains small \
                 adapters instead of the model, with least memory and another result; automatic takes the first that \
                 fits into memory."
            ),
            domain: Domain::Choice { options: TuningMode::OPTIONS },
        }
        /// Rank of the adapters in mode `lora`.
        lora_rank: u32 = 4, "diffusers, train_text_to_image_lora.py" {
            label: text!("LoRA rank"),
            help: text!("Size of the adapters in the tuning mode lora; more can change more."),
            domain: Domain::Integer { min: 1, max: 128 },
        }
        /// Layers that get an adapter.
        lora_layers: LoraLayers = LoraLayers::All, "ours, docs/MEMORY.md" {
            label: text!("LoRA layers"),
            help: text!(
                "Layers that get an adapter in the tuning mode lora; attention alone takes less time and memory, and \
                 is further from the result of full tuning."
            ),
            domain: Domain::Choice { options: LoraLayers::OPTIONS },
        }
        /// Timesteps and noises averaged in each step of stages A and B.
        batch_size: u32 = 1, "paper, section 4 (Stable Diffusion)" {
            label: text!("Batch size"),
            help: text!("Timesteps averaged in each step of stages A and B."),
            domain: Domain::Integer { min: 1, max: 64 },
        }
        /// Side of the square whose area the model works at, in pixels; 0 is the model's own.
        resolution: u32 = 0, "the model" {
            label: text!("Resolution"),
            help: text!("The model works on as many pixels as a square of this side has; 0 takes the model's own."),
            domain: Domain::Integer { min: 0, max: 2048 },
        }
        /// What the model sees around a selection, in percent of its longer side; 0 is automatic.
        margin: u32 = 0, "ours" {
            label: text!("Margin"),
            help: text!(
                "How much the model sees around a selection on each side, in percent of the selection's longer side; 0 \
                 takes what the model sees well."
            ),
            domain: Domain::Integer { min: 0, max: 100 },
        }
        /// What stage A optimizes, in the Stable Diffusion XL family.
        optimized_embedding: OptimizedEmbedding = OptimizedEmbedding::All, "ours, docs/MODELS.md" {
            label: text!("Embeddings"),
            help: text!(
                "Stable Diffusion XL only: whether stage A also optimizes the embedding of the whole text beside those \
                 of its tokens, and the strength (eta) goes between both."
            ),
            domain: Domain::Choice { options: OptimizedEmbedding::OPTIONS },
        }
        /// What the base model predicts.
        prediction_type: PredictionType = PredictionType::Automatic, "the model" {
            label: text!("Prediction"),
            help: text!(
                "What the base model predicts; automatic takes what its files say. If results are only noise, try the \
                 others."
            ),
            domain: Domain::Choice { options: PredictionType::OPTIONS },
        }
        /// File or folder of the autoencoder that takes the place of the model's; empty: the model's own.
        vae: String = String::new(), "the model" {
            label: text!("VAE"),
            help: text!(
                "The autoencoder to use in place of the model's own: a .safetensors file, or the folder of a VAE or of \
                 a model; empty takes the model's."
            ),
            domain: Domain::Text,
        }
        /// Seed of the VAE sample and of the timesteps and noises of stages A and B.
        tuning_seed: u32 = 0, "ours" {
            label: text!("Tuning seed"),
            help: text!("Seed of every random number of stages A and B."),
            domain: Domain::Integer { min: 0, max: LARGEST_SEED },
        }
    }
    advanced: true, affects: Nothing {
        /// Threads of the engine; 0 is one for each of the processor's.
        threads: u32 = 0, "the machine" {
            label: text!("Threads"),
            help: text!("Threads of the processor that the engine uses; 0 takes all. The result is the same."),
            domain: Domain::Integer { min: 0, max: 1024 },
        }
    }
}

/// Name of the model that is installed with the plug-in.
pub const BUILTIN_MODEL: &str = "scenes-64";

impl Params {
    /// The settings of `preset` for a Stable Diffusion model, with an empty prompt; [`Preset::Custom`] begins with
    /// those of the default.
    pub fn of_preset(preset: Preset) -> Self {
        let own = match preset {
            Preset::Paper => Self::paper(),
            // The paper's with a fifth of the work: fewer and larger steps, four timesteps in each. Tried on the
            // built-in model only, docs/BENCHMARK.md.
            Preset::Fast => Self {
                embedding_steps: 50,
                embedding_lr: 2e-2,
                tuning_steps: 75,
                tuning_lr: 5e-6,
                detail_steps: 75,
                detail_lr: 5e-6,
                batch_size: 4,
                sampling_steps: 25,
                ..Self::paper()
            },
            // What the implementations of Imagic for Stable Diffusion settled on: diffusers,
            // examples/community/imagic_stable_diffusion.py.
            Preset::Balanced | Preset::Custom => {
                let (tuning_steps, tuning_lr) = (1000, 2e-6);
                Self {
                    embedding_steps: 500,
                    embedding_lr: 1e-3,
                    tuning_steps,
                    tuning_lr,
                    detail_steps: tuning_steps,
                    detail_lr: tuning_lr,
                    ..Self::paper()
                }
            }
        };
        Self { preset, ..own }
    }

    /// The value of parameter `id`; `None` when there is no such parameter.
    pub fn get(&self, id: &str) -> Option<Value> {
        PARAMS.iter().find(|param| param.id == id).map(|param| json!(param.slot(self)))
    }

    /// Sets parameter `id`, checking kind and range. Numbers may come as text.
    pub fn set(&mut self, id: &str, value: &Value) -> Result<()> {
        let Some(param) = PARAMS.iter().find(|param| param.id == id) else {
            let known: Vec<&str> = PARAMS.iter().map(|param| param.id).collect();
            let known = known.join(", ");
            return Err(Error::Parameter(text!("there is no parameter {id}; there are {known}", id, known)));
        };
        (param.set)(self, param.accept(value)?).expect("a test sets every row to what its domain accepts");
        Ok(())
    }

    /// Sets every parameter that `object` names.
    pub fn set_all(&mut self, object: &Map<String, Value>) -> Result<()> {
        object.iter().try_for_each(|(id, value)| self.set(id, value))
    }

    /// All parameters as a JSON object; [`Params::set_all`] takes it back.
    pub fn to_json(&self) -> Map<String, Value> {
        PARAMS.iter().map(|param| (param.id.to_owned(), json!(param.slot(self)))).collect()
    }

    /// Refuses a blank prompt or model, and what is outside of its range: fields can be set without [`Params::set`].
    pub fn check(&self) -> Result<()> {
        if plain(&self.prompt).is_empty() {
            return Err(Error::Parameter(text!("the target text is empty; write what the picture should become")));
        }
        if self.model.trim().is_empty() {
            return Err(Error::Parameter(text!("no base model is chosen; give the name or the folder of one")));
        }
        PARAMS.iter().try_for_each(|param| param.accept(&json!(param.slot(self))).map(drop))
    }
}

macro_rules! slots {
    ($($Field:ty => |$value:ident| $slot:expr;)+) => {
        $(impl<'a> From<&'a $Field> for Slot<'a> {
            fn from($value: &'a $Field) -> Self {
                $slot
            }
        })+
    };
}
slots! {
    String => |text| Self::Text(text);
    u32 => |number| Self::Integer(*number);
    f64 => |number| Self::Real(*number);
    bool => |on| Self::Switch(*on);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_fits_its_field_and_its_default_is_in_range() {
        let mut params = Params::paper();
        for (id, value) in Params::paper().to_json() {
            params.set(&id, &value).unwrap_or_else(|error| panic!("{error}"));
        }
        assert_eq!(params, Params::paper());
        assert_eq!(params.to_json().len(), PARAMS.len(), "two rows share an id");
        for param in PARAMS {
            let Domain::Choice { options } = param.domain else { continue };
            for (name, _) in options {
                params.set(param.id, &json!(name)).unwrap_or_else(|error| panic!("{error}"));
                assert_eq!(params.get(param.id), Some(json!(name)));
            }
        }
    }

    #[test]
    fn a_switch_understands_every_host() {
        for (value, on) in [(json!(true), true), (json!(1), true), (json!("yes"), true), (json!("0"), false)] {
            let mut params = Params { keep_untouched: !on, ..Params::paper() };
            params.set("keep_untouched", &value).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(params.keep_untouched, on, "{value}");
        }
    }

    #[test]
    fn a_wrong_value_is_refused_with_value_and_limit() {
        for (id, value, message) in [
            ("eta", json!(3), "eta is 3, must be 0 to 2"),
            ("eta", json!("x"), "eta is x, must be 0 to 2"),
            ("seed", json!(0.5), "seed is 0.5, must be a whole number from 0 to 2147483647"),
            ("seed", json!(-1), "seed is -1, must be a whole number from 0 to 2147483647"),
            ("prompt", json!(1), "prompt is 1, must be a text"),
            ("keep_untouched", json!("maybe"), "keep_untouched is maybe, must be true or false"),
            ("keep_untouched", json!(2), "keep_untouched is 2, must be true or false"),
        ] {
            let error = Params::paper().set(id, &value).expect_err(message);
            assert_eq!(error.to_string(), message);
        }
        assert!(Params::paper().set("alpha", &json!(1)).is_err());
        assert!(Params::paper().check().is_err(), "an empty prompt");
    }

    #[test]
    fn a_literal_is_checked_like_what_is_set() {
        let known = Params { prompt: "a bird".into(), ..Params::paper() };
        assert!(known.check().is_ok());
        for (wrong, message) in [
            (Params { eta: f64::NAN, ..known.clone() }, "eta is null, must be 0 to 2"),
            (Params { lora_rank: 0, ..known.clone() }, "lora_rank is 0, must be a whole number from 1 to 128"),
            (Params { batch_size: 65, ..known.clone() }, "batch_size is 65, must be a whole number from 1 to 64"),
        ] {
            assert_eq!(wrong.check().expect_err(message).to_string(), message);
        }
    }
}
