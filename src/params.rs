//! The one table of parameters: hosts, dialogs, the C ABI, the command line, the README and the cache key read it.
#![forbid(unsafe_code)]

use crate::error::{Error, Result};
use crate::text::text;
use serde_json::{Map, Value, json};

/// Everything a user can choose for one edit. One field for each row of [`PARAMS`].
#[derive(Clone, Debug, PartialEq)]
pub struct Params {
    /// The target text: what the picture should become.
    pub prompt: String,
    /// Name of an installed base model, or the folder of one.
    pub model: String,
    /// Where the advanced ones come from; one of [`PRESETS`].
    pub preset: String,
    /// The paper's eta: 0 gives back the input, 1 asks for the target text in full.
    pub eta: f64,
    /// Seed of the start latents of stage C.
    pub seed: u32,
    /// Weight of classifier-free guidance in stage C; 1 is none.
    pub guidance: f64,
    /// DDIM steps of stage C.
    pub sampling_steps: u32,
    /// Whether pixels that the edit does not touch are the layer's own.
    pub keep_untouched: bool,
    /// Adam steps of stage A.
    pub embedding_steps: u32,
    /// Learning rate of stage A.
    pub embedding_lr: f64,
    /// Adam steps of stage B.
    pub tuning_steps: u32,
    /// Learning rate of stage B.
    pub tuning_lr: f64,
    /// How stage B tunes; one of [`TUNING_MODES`].
    pub tuning_mode: String,
    /// Rank of the adapters in mode `lora`.
    pub lora_rank: u32,
    /// Layers that get an adapter; one of [`LORA_LAYERS`].
    pub lora_layers: String,
    /// Timesteps and noises averaged in each step of stages A and B.
    pub batch_size: u32,
    /// Side of the square whose area the model works at, in pixels; 0 is the model's own.
    pub resolution: u32,
    /// Seed of the VAE sample and of the timesteps and noises of stages A and B.
    pub tuning_seed: u32,
    /// Threads of the engine; 0 is one for each of the processor's.
    pub threads: u32,
}

/// What a change of the parameter costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
pub enum Domain {
    /// Any text that is not blank.
    Text,
    /// Whole numbers from `min` to `max`.
    Integer {
        /// Smallest value.
        min: u32,
        /// Largest value.
        max: u32,
    },
    /// Finite numbers from `min` to `max`.
    Real {
        /// Smallest value.
        min: f64,
        /// Largest value.
        max: f64,
    },
    /// Yes or no.
    Switch,
    /// One of a few texts.
    Choice {
        /// Each one's name in JSON, on the command line and in procedures, and its label in a dialog.
        options: &'static [(&'static str, &'static str)],
    },
}

/// The field of [`Params`] that belongs to a row.
pub enum Slot<'a> {
    /// A text.
    Text(&'a mut String),
    /// A whole number.
    Integer(&'a mut u32),
    /// A number.
    Real(&'a mut f64),
    /// Yes or no.
    Switch(&'a mut bool),
}

/// One parameter.
pub struct Param {
    /// Stable name in JSON, on the command line (with `-` for `_`) and in procedures.
    pub id: &'static str,
    /// Label in a dialog.
    pub label: &'static str,
    /// One sentence of help.
    pub help: &'static str,
    /// Values it can take.
    pub domain: Domain,
    /// Where the default comes from.
    pub source: &'static str,
    /// What a change costs.
    pub affects: Affects,
    /// Folded away in dialogs.
    pub advanced: bool,
    /// Its field.
    pub slot: fn(&mut Params) -> Slot<'_>,
}

impl Param {
    /// Whether its value comes from the preset unless it is chosen.
    pub fn is_of_preset(&self) -> bool {
        self.advanced && self.affects != Affects::Nothing
    }
}

/// Largest seed; GIMP has only signed numbers of 32 bits.
pub const LARGEST_SEED: u32 = i32::MAX as u32;

/// Values of `preset` and their labels. `custom` stands for settings that are no preset's.
pub const PRESETS: &[(&str, &str)] =
    &[("paper", "As in the paper"), ("balanced", "Balanced"), ("fast", "Fast"), (CUSTOM, "Own settings")];

/// The preset that counts where none is named.
pub const DEFAULT_PRESET: &str = "balanced";

/// The value of `preset` for settings that are no preset's.
pub const CUSTOM: &str = "custom";

/// Values of `tuning_mode` and their labels.
pub const TUNING_MODES: &[(&str, &str)] = &[
    ("automatic", "Automatic"),
    ("full", "Full"),
    ("checkpointed", "Full, with less memory"),
    ("lora", "Adapters (LoRA)"),
];

/// Values of `lora_layers` and their labels.
pub const LORA_LAYERS: &[(&str, &str)] = &[("attention", "Attention"), ("all", "All layers")];

/// All parameters, in the order in which dialogs show them.
pub const PARAMS: &[Param] = &[
    Param {
        id: "prompt",
        label: "Target text",
        help: "What the picture should become, for example \"a bird spreading its wings\".",
        domain: Domain::Text,
        source: "the user",
        affects: Affects::Tuning,
        advanced: false,
        slot: |p| Slot::Text(&mut p.prompt),
    },
    Param {
        id: "model",
        label: "Base model",
        help: "Name of an installed model, or a folder with a Stable Diffusion model in diffusers layout.",
        domain: Domain::Text,
        source: "the built-in model",
        affects: Affects::Tuning,
        advanced: false,
        slot: |p| Slot::Text(&mut p.model),
    },
    Param {
        id: "preset",
        label: "Quality or speed",
        help: "Where the advanced settings come from: fast takes a fraction of the time of balanced, and that a fraction of the paper's.",
        domain: Domain::Choice { options: PRESETS },
        source: "docs/BENCHMARK.md",
        affects: Affects::Parameters,
        advanced: false,
        slot: |p| Slot::Text(&mut p.preset),
    },
    Param {
        id: "eta",
        label: "Strength (eta)",
        help: "0 gives back the picture, larger values follow the text more; most edits sit at 0.6 to 1.",
        domain: Domain::Real { min: 0.0, max: 2.0 },
        source: "paper, section 4: 0.6 to 0.8",
        affects: Affects::Generation,
        advanced: false,
        slot: |p| Slot::Real(&mut p.eta),
    },
    Param {
        id: "seed",
        label: "Seed",
        help: "Another seed gives another version of the edit.",
        domain: Domain::Integer { min: 0, max: LARGEST_SEED },
        source: "ours",
        affects: Affects::Generation,
        advanced: false,
        slot: |p| Slot::Integer(&mut p.seed),
    },
    Param {
        id: "keep_untouched",
        label: "Keep what the edit does not touch",
        help: "Pixels where the edit changes nothing are taken from the layer, with a soft border.",
        domain: Domain::Switch,
        source: "ours",
        affects: Affects::Generation,
        advanced: false,
        slot: |p| Slot::Switch(&mut p.keep_untouched),
    },
    Param {
        id: "guidance",
        label: "Guidance",
        help: "Weight of classifier-free guidance while sampling; 1 is none.",
        domain: Domain::Real { min: 1.0, max: 30.0 },
        source: "Stable Diffusion pipeline of diffusers",
        affects: Affects::Generation,
        advanced: true,
        slot: |p| Slot::Real(&mut p.guidance),
    },
    Param {
        id: "sampling_steps",
        label: "Sampling steps",
        help: "DDIM steps; more are slower and finer.",
        domain: Domain::Integer { min: 1, max: 1000 },
        source: "Stable Diffusion pipeline of diffusers",
        affects: Affects::Generation,
        advanced: true,
        slot: |p| Slot::Integer(&mut p.sampling_steps),
    },
    Param {
        id: "embedding_steps",
        label: "Embedding steps",
        help: "Steps of stage A, which optimizes the text embedding on the picture.",
        domain: Domain::Integer { min: 0, max: 100_000 },
        source: "paper, section 4 (Stable Diffusion)",
        affects: Affects::Tuning,
        advanced: true,
        slot: |p| Slot::Integer(&mut p.embedding_steps),
    },
    Param {
        id: "embedding_lr",
        label: "Embedding learning rate",
        help: "Adam's learning rate in stage A.",
        domain: Domain::Real { min: 0.0, max: 1.0 },
        source: "paper, section 4 (Stable Diffusion)",
        affects: Affects::Tuning,
        advanced: true,
        slot: |p| Slot::Real(&mut p.embedding_lr),
    },
    Param {
        id: "tuning_steps",
        label: "Tuning steps",
        help: "Steps of stage B, which fine-tunes the model on the picture.",
        domain: Domain::Integer { min: 0, max: 100_000 },
        source: "paper, section 4 (Stable Diffusion)",
        affects: Affects::Tuning,
        advanced: true,
        slot: |p| Slot::Integer(&mut p.tuning_steps),
    },
    Param {
        id: "tuning_lr",
        label: "Tuning learning rate",
        help: "Adam's learning rate in stage B; 20 times as much in the tuning mode lora.",
        domain: Domain::Real { min: 0.0, max: 1.0 },
        source: "paper, section 4 (Stable Diffusion)",
        affects: Affects::Tuning,
        advanced: true,
        slot: |p| Slot::Real(&mut p.tuning_lr),
    },
    Param {
        id: "tuning_mode",
        label: "Tuning mode",
        help: "Full is fastest; checkpointed gives the same result with less memory in more time; lora trains small adapters instead of the model, with least memory and another result; automatic takes the first that fits into memory.",
        domain: Domain::Choice { options: TUNING_MODES },
        source: "ours",
        affects: Affects::Tuning,
        advanced: true,
        slot: |p| Slot::Text(&mut p.tuning_mode),
    },
    Param {
        id: "lora_rank",
        label: "LoRA rank",
        help: "Size of the adapters in the tuning mode lora; more can change more.",
        domain: Domain::Integer { min: 1, max: 128 },
        source: "diffusers, train_text_to_image_lora.py",
        affects: Affects::Tuning,
        advanced: true,
        slot: |p| Slot::Integer(&mut p.lora_rank),
    },
    Param {
        id: "lora_layers",
        label: "LoRA layers",
        help: "Layers that get an adapter in the tuning mode lora; attention alone takes less time and memory, and is further from the result of full tuning.",
        domain: Domain::Choice { options: LORA_LAYERS },
        source: "ours, docs/MEMORY.md",
        affects: Affects::Tuning,
        advanced: true,
        slot: |p| Slot::Text(&mut p.lora_layers),
    },
    Param {
        id: "batch_size",
        label: "Batch size",
        help: "Timesteps averaged in each step of stages A and B.",
        domain: Domain::Integer { min: 1, max: 64 },
        source: "paper, section 4 (Stable Diffusion)",
        affects: Affects::Tuning,
        advanced: true,
        slot: |p| Slot::Integer(&mut p.batch_size),
    },
    Param {
        id: "resolution",
        label: "Resolution",
        help: "The model works on as many pixels as a square of this side has; 0 takes the model's own.",
        domain: Domain::Integer { min: 0, max: 2048 },
        source: "the model",
        affects: Affects::Tuning,
        advanced: true,
        slot: |p| Slot::Integer(&mut p.resolution),
    },
    Param {
        id: "tuning_seed",
        label: "Tuning seed",
        help: "Seed of every random number of stages A and B.",
        domain: Domain::Integer { min: 0, max: LARGEST_SEED },
        source: "ours",
        affects: Affects::Tuning,
        advanced: true,
        slot: |p| Slot::Integer(&mut p.tuning_seed),
    },
    Param {
        id: "threads",
        label: "Threads",
        help: "Threads of the processor that the engine uses; 0 takes all. The result is the same.",
        domain: Domain::Integer { min: 0, max: 1024 },
        source: "the machine",
        affects: Affects::Nothing,
        advanced: true,
        slot: |p| Slot::Integer(&mut p.threads),
    },
];

/// Name of the model that is installed with the plug-in.
pub const BUILTIN_MODEL: &str = "scenes-64";

impl Params {
    /// The settings of the paper for Stable Diffusion (preset `paper`), with an empty prompt.
    pub fn paper() -> Self {
        Self {
            prompt: String::new(),
            model: BUILTIN_MODEL.to_owned(),
            preset: "paper".to_owned(),
            eta: 0.7,
            seed: 0,
            guidance: 7.5,
            sampling_steps: 50,
            keep_untouched: false,
            embedding_steps: 1000,
            embedding_lr: 2e-3,
            tuning_steps: 1500,
            tuning_lr: 5e-7,
            tuning_mode: "automatic".to_owned(),
            lora_rank: 4,
            lora_layers: "all".to_owned(),
            batch_size: 1,
            resolution: 0,
            tuning_seed: 0,
            threads: 0,
        }
    }

    /// The settings of `preset` for a Stable Diffusion model, with an empty prompt; [`CUSTOM`] begins with those of the default.
    pub fn of_preset(preset: &str) -> Self {
        let own = match preset {
            "paper" => Self::paper(),
            // The paper's with a fifth of the work: fewer and larger steps, four timesteps in each. Tried on the built-in model
            // only, docs/BENCHMARK.md.
            "fast" => Self {
                embedding_steps: 50,
                embedding_lr: 2e-2,
                tuning_steps: 75,
                tuning_lr: 5e-6,
                batch_size: 4,
                sampling_steps: 25,
                ..Self::paper()
            },
            // What the implementations of Imagic for Stable Diffusion settled on: diffusers,
            // examples/community/imagic_stable_diffusion.py.
            _ => {
                Self { embedding_steps: 500, embedding_lr: 1e-3, tuning_steps: 1000, tuning_lr: 2e-6, ..Self::paper() }
            }
        };
        Self { preset: preset.to_owned(), ..own }
    }

    /// The value of parameter `id`; `None` when there is no such parameter.
    pub fn get(&self, id: &str) -> Option<Value> {
        let param = PARAMS.iter().find(|param| param.id == id)?;
        // `slot` lends mutably because setting is its main use; a clone of a few words is the price of reading.
        Some(match (param.slot)(&mut self.clone()) {
            Slot::Text(text) => json!(text),
            Slot::Integer(number) => json!(number),
            Slot::Real(number) => json!(number),
            Slot::Switch(on) => json!(on),
        })
    }

    /// Sets parameter `id`, checking kind and range. Numbers may come as text.
    pub fn set(&mut self, id: &str, value: &Value) -> Result<()> {
        let Some(param) = PARAMS.iter().find(|param| param.id == id) else {
            let known: Vec<&str> = PARAMS.iter().map(|param| param.id).collect();
            return Err(Error::Parameter(text!(
                "there is no parameter {id}; there are {known}",
                id,
                known = known.join(", ")
            )));
        };
        let shown = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let number = value.as_f64().or_else(|| value.as_str()?.trim().parse().ok());
        match (param.domain, (param.slot)(self)) {
            (Domain::Text, Slot::Text(text)) => {
                let new = value
                    .as_str()
                    .ok_or_else(|| Error::Parameter(text!("{id} is {shown}, must be a text", id, shown)))?;
                new.clone_into(text);
            }
            (Domain::Integer { min, max }, Slot::Integer(integer)) => {
                *integer = number
                    .filter(|n| n.fract() == 0.0 && (f64::from(min)..=f64::from(max)).contains(n))
                    .ok_or_else(|| {
                        Error::Parameter(text!(
                            "{id} is {shown}, must be a whole number from {min} to {max}",
                            id,
                            shown,
                            min,
                            max
                        ))
                    })? as u32;
            }
            (Domain::Real { min, max }, Slot::Real(real)) => {
                *real = number.filter(|n| (min..=max).contains(n)).ok_or_else(|| {
                    Error::Parameter(text!("{id} is {shown}, must be {min} to {max}", id, shown, min, max))
                })?;
            }
            (Domain::Switch, Slot::Switch(on)) => {
                // Hosts without truth values say 0 and 1.
                *on = match (value, number, shown.trim()) {
                    (Value::Bool(on), ..) => *on,
                    (_, Some(0.0), _) | (_, _, "false" | "no") => false,
                    (_, Some(1.0), _) | (_, _, "true" | "yes") => true,
                    _ => return Err(Error::Parameter(text!("{id} is {shown}, must be true or false", id, shown))),
                };
            }
            (Domain::Choice { options }, Slot::Text(text)) => {
                let Some((name, _)) = options.iter().find(|(name, _)| value == name) else {
                    let names: Vec<&str> = options.iter().map(|(name, _)| *name).collect();
                    return Err(Error::Parameter(text!(
                        "{id} is {shown}, must be {options}",
                        id,
                        shown,
                        options = names.join(" or ")
                    )));
                };
                (*name).clone_into(text);
            }
            _ => unreachable!("a test checks that every row's domain fits its field"),
        }
        Ok(())
    }

    /// Sets every parameter that `object` names.
    pub fn set_all(&mut self, object: &Map<String, Value>) -> Result<()> {
        object.iter().try_for_each(|(id, value)| self.set(id, value))
    }

    /// All parameters as a JSON object; [`Params::set_all`] takes it back.
    pub fn to_json(&self) -> Map<String, Value> {
        PARAMS.iter().filter_map(|param| Some((param.id.to_owned(), self.get(param.id)?))).collect()
    }

    /// Refuses what no range can say: a blank prompt or model.
    pub fn check(&self) -> Result<()> {
        if self.prompt.trim().is_empty() {
            return Err(Error::Parameter(text!("the target text is empty; write what the picture should become")));
        }
        if self.model.trim().is_empty() {
            return Err(Error::Parameter(text!("no base model is chosen; give the name or the folder of one")));
        }
        Ok(())
    }
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
}
