//! Configurations as their authors published them, for files that come without any: a single file has no room for
//! them, and some folders lack the scheduler's.
#![forbid(unsafe_code)]

use crate::engine::model::config::Config;
use serde_json::json;
use std::path::Path;

/// The noise schedule of the x4 upscaler, of its latents and of the small picture (Stability-AI/stablediffusion,
/// `configs/stable-diffusion/x4-upscaling.yaml`). `file` is named in messages.
pub fn upscaler_scheduler(file: &Path) -> Config {
    Config::new(
        file,
        json!({
            "num_train_timesteps": 1000,
            "beta_schedule": "scaled_linear",
            "beta_start": 0.0001,
            "beta_end": 0.02,
            "clip_sample": false,
            "set_alpha_to_one": false,
            "steps_offset": 1,
            "timestep_spacing": "leading",
            "prediction_type": "v_prediction",
        }),
    )
}

/// The noise schedule of every Stable Diffusion, 1, 2 and XL (CompVis/stable-diffusion, `v1-inference.yaml`; the same
/// numbers in Stability-AI/stablediffusion and generative-models). What the network predicts is left open. `file` is
/// named in messages.
pub fn scheduler(file: &Path) -> Config {
    Config::new(
        file,
        json!({
            "num_train_timesteps": 1000,
            "beta_schedule": "scaled_linear",
            "beta_start": 0.00085,
            "beta_end": 0.012,
            "clip_sample": false,
            "set_alpha_to_one": false,
            "steps_offset": 1,
            "timestep_spacing": "leading",
        }),
    )
}
