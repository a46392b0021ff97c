//! What is known of a base model before it is loaded: read off its configurations and the headers of its weights, all
//! of which are checked against each other as before an edit.
#![forbid(unsafe_code)]

use super::budget::memory::Shapes;
use super::model::family::{Family, FamilyPrediction};
use super::model::schedule::{Prediction, Schedule};
use super::model::source::{Part, Source};
use crate::error::Result;
use candle_core::Device;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Words in the name of a model that was distilled to be sampled in a few steps.
const FEW_STEPS: [&str; 6] = ["turbo", "lightning", "lcm", "hyper-sd", "hyper_sd", "hypersd"];

/// A base model that can be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// What people call its family.
    pub family: String,
    /// Of all its files.
    pub bytes: u64,
    /// Side in pixels of the pictures that it was trained with.
    pub side: usize,
    /// What its network predicts, as the parameter `prediction_type` says it; `None` where the network itself has to be
    /// asked.
    pub prediction: Option<String>,
    /// What its files say of their licence.
    pub licence: Option<String>,
    /// Whether its name says that it was made for a few sampling steps.
    pub few_steps: bool,
    /// Whether it is one for inpainting.
    pub inpainting: bool,
}

impl About {
    /// Of the model at `path`; an error where an edit would refuse it.
    pub fn of(path: &Path) -> Result<Self> {
        let source = Source::open(path)?;
        let family = Family::of(&source)?;
        let shapes = Shapes::new(&source, family, &Device::Cpu)?;
        let schedule = Schedule::read(source.scheduler())?;
        let says = !source.scheduler().value("prediction_type").is_null();
        let is_known = says || family.prediction == FamilyPrediction::Noise;
        let prediction = is_known.then_some(match schedule.prediction {
            Prediction::Epsilon => "epsilon",
            Prediction::V => "v_prediction",
            Prediction::Sample => "sample",
        });
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let names = [name.as_ref(), source.note("modelspec.title").unwrap_or_default()];
        let few_steps = names.iter().any(|name| FEW_STEPS.iter().any(|word| name.to_lowercase().contains(word)));
        let channels = |key| source.config(Part::UNet).usize(key, Some(family.latent_channels));
        let inpainting = channels("in_channels")? > channels("out_channels")?;
        Ok(Self {
            family: family.name.to_owned(),
            bytes: source.bytes(),
            side: shapes.own_side(),
            prediction: prediction.map(str::to_owned),
            licence: source.licence(),
            few_steps,
            inpainting,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_tells_what_it_is() {
        let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
        let about = |name: &str| About::of(&models.join(name).join("model")).expect("a model");
        let one = about("small-sd1");
        assert_eq!((one.family.as_str(), one.prediction.as_deref()), ("Stable Diffusion 1", Some("epsilon")));
        assert!(one.bytes > 100_000 && one.side > 0 && one.licence.is_none() && !one.few_steps && !one.inpainting);
        // Its latents have other channels than those of its family.
        let builtin = About::of(&Path::new(env!("CARGO_MANIFEST_DIR")).join("models/scenes-64")).expect("a model");
        assert!(!builtin.inpainting);
        assert_eq!(about("small-v").prediction.as_deref(), Some("v_prediction"));
        assert_eq!(about("small-sdxl").family, "Stable Diffusion XL");
        assert!(About::of(&models.join("adam8.safetensors")).is_err());
    }
}
