//! Classifier-free guidance (Ho and Salimans, arXiv 2207.12598): on from what the network predicts for the empty text,
//! past what it predicts for the text. Knows no schedule.
#![forbid(unsafe_code)]

use super::conditioning::Conditioning;
use super::unet::UNet;
use crate::engine::device::{Launches, RepeatedStep};
use crate::error::Result;
use candle_core::{Device, Tensor};

/// What stage C follows.
pub trait Predict {
    /// Where it computes.
    fn device(&self) -> &Device;

    /// What is predicted of `x_t`, (1, c, h, w), at timestep `t`: noise or v, of the same shape. It holds until the
    /// next prediction.
    fn predict(&mut self, x_t: &Tensor, t: u32) -> Result<Tensor>;
}

/// The network with its guidance.
pub struct Guided<'a> {
    unet: &'a UNet,
    /// Those of the empty text and of the text; without guidance that of the text alone, which is half the work.
    e: Conditioning,
    guidance: Option<f64>,
    step: RepeatedStep,
}

impl<'a> Guided<'a> {
    /// From `e_null`, the empty text's embedding, by `guidance` (1: none) towards `e`.
    pub fn new(
        unet: &'a UNet,
        e: &Conditioning,
        e_null: &Conditioning,
        guidance: f64,
        launches: Launches,
    ) -> Result<Self> {
        let guidance = Some(guidance).filter(|&guidance| guidance != 1.0);
        let step = RepeatedStep::new(e.tokens.device(), launches);
        let e = if guidance.is_some() { e_null.and(e)? } else { e.clone() };
        Ok(Self { unet, e, guidance, step })
    }
}

impl Predict for Guided<'_> {
    fn device(&self) -> &Device {
        self.e.tokens.device()
    }

    fn predict(&mut self, x_t: &Tensor, t: u32) -> Result<Tensor> {
        let Self { unet, e, guidance, step } = self;
        let items = e.tokens.dims()[0];
        let sinusoids = Tensor::from_vec(unet.sinusoids(&vec![t; items]), (items, ()), &Device::Cpu)?;
        step.run([x_t, &sinusoids], |[x_t, sinusoids]| match guidance {
            Some(guidance) => {
                let both = unet.forward(&Tensor::cat(&[x_t, x_t], 0)?, sinusoids, e)?;
                let (null, text) = (both.narrow(0, 0, 1)?, both.narrow(0, 1, 1)?);
                Ok((&null + ((text - &null)? * *guidance)?)?)
            }
            None => unet.forward(x_t, sinusoids, e),
        })
    }
}
