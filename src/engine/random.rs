//! Every random number of an edit, as a pure function of (seed, purpose, step): the same on every device, whatever ran
//! before.
//!
//! SplitMix64 (Steele, Lea and Flood, OOPSLA 2014) read at a counter, and Box and Muller's transform in f64.
//! `tests/reference/` has the same generator in Python.
#![forbid(unsafe_code)]

use crate::error::Result;
use candle_core::{Device, Tensor};
use std::f64::consts::TAU;

/// What a stream of numbers is for. The numbers are part of the recipe of an edit and never change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Purpose {
    /// Noise of the VAE's sample x.
    VaeSample = 1,
    /// Timesteps of stage A.
    EmbeddingTimesteps = 2,
    /// Noise of stage A.
    EmbeddingNoise = 3,
    /// Timesteps of stage B.
    TuningTimesteps = 4,
    /// Noise of stage B.
    TuningNoise = 5,
    /// Start latents of stage C.
    Latents = 6,
    /// Start of the adapters of stage B.
    Adapters = 7,
    /// Timesteps of the auxiliary model's stage B.
    DetailTimesteps = 8,
    /// Its noise.
    DetailNoise = 9,
    /// Its noise levels of the small picture.
    DetailLevels = 10,
    /// Its noise in the small picture, which stage C has at step [`u32::MAX`].
    DetailSmallNoise = 11,
    /// Which crops of the layer it sees.
    DetailCrops = 12,
    /// Start latents of the enlarged picture.
    DetailLatents = 14,
    /// Noise in which versions of an edit are compared.
    CandidateNoise = 13,
    /// Noise with which it is looked what a network predicts.
    Prediction = 15,
}

/// The golden ratio in 64 bits: SplitMix64's increment.
const GAMMA: u64 = 0x9E37_79B9_7F4A_7C15;

/// SplitMix64's finalizer.
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// One stream of random numbers.
#[derive(Clone, Copy)]
pub struct Stream {
    key: u64,
}

impl Stream {
    /// The stream for `purpose` at `step` (0 where a purpose is drawn once).
    pub fn new(seed: impl Into<u64>, purpose: Purpose, step: u32) -> Self {
        let key = mix(seed.into().wrapping_add(GAMMA));
        let key = mix(key.wrapping_add((purpose as u64).wrapping_mul(GAMMA)));
        Self { key: mix(key.wrapping_add(u64::from(step).wrapping_mul(GAMMA))) }
    }

    /// Number `index` of the stream, uniform in [0, 1).
    fn uniform(self, index: u64) -> f64 {
        let bits = mix(self.key.wrapping_add((index + 1).wrapping_mul(GAMMA)));
        (bits >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// `n` timesteps from 0 to `timesteps - 1`: each uniform in its own `n`th part of the range, so that together they
    /// are uniform in all of it and never all early or all late, and fewer steps do (docs/BENCHMARK.md). For `n` = 1 it
    /// is the same as independent ones.
    pub fn timesteps(self, n: u32, timesteps: u32) -> Vec<u32> {
        let part = f64::from(timesteps) / f64::from(n);
        (0..n).map(|index| ((f64::from(index) + self.uniform(index.into())) * part) as u32).collect()
    }

    /// Numbers uniform in [-bound, bound) in row-major order.
    pub fn uniforms(self, shape: &[usize], bound: f64, device: &Device) -> Result<Tensor> {
        let n: usize = shape.iter().product();
        let values: Vec<f32> = (0..n as u64).map(|i| ((2.0 * self.uniform(i) - 1.0) * bound) as f32).collect();
        Ok(Tensor::from_vec(values, shape, device)?)
    }

    /// Standard normal numbers in row-major order.
    pub fn normals(self, shape: &[usize], device: &Device) -> Result<Tensor> {
        Ok(Tensor::from_vec(self.normal_numbers(shape.iter().product()), shape, device)?)
    }

    /// `n` standard normal numbers.
    pub fn normal_numbers(self, n: usize) -> Vec<f32> {
        let mut values = Vec::with_capacity(n + 1);
        for pair in 0..n.div_ceil(2) as u64 {
            // 1 - u lies in (0, 1], so that the logarithm is finite.
            let radius = (-2.0 * (1.0 - self.uniform(2 * pair)).ln()).sqrt();
            let (sin, cos) = (TAU * self.uniform(2 * pair + 1)).sin_cos();
            values.extend([(radius * cos) as f32, (radius * sin) as f32]);
        }
        values.truncate(n);
        values
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normals_have_mean_0_and_variance_1_and_streams_differ() {
        let draw = |seed: u32, purpose, step| {
            let tensor = Stream::new(seed, purpose, step).normals(&[100_001], &Device::Cpu).expect("100,001 numbers");
            tensor.to_vec1::<f32>().expect("a row")
        };
        let first = draw(0, Purpose::Latents, 0);
        let mean = first.iter().sum::<f32>() / first.len() as f32;
        let variance = first.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / first.len() as f32;
        assert!(mean.abs() < 0.01 && (variance - 1.0).abs() < 0.01, "mean {mean}, variance {variance}");
        assert_eq!(first, draw(0, Purpose::Latents, 0));
        for other in [draw(1, Purpose::Latents, 0), draw(0, Purpose::TuningNoise, 0), draw(0, Purpose::Latents, 1)] {
            let correlation = first.iter().zip(&other).map(|(a, b)| a * b).sum::<f32>() / first.len() as f32;
            assert!(correlation.abs() < 0.02, "correlation {correlation}");
        }
    }

    #[test]
    fn timesteps_cover_the_whole_range_and_each_its_part() {
        let draw = |n, step| Stream::new(7u32, Purpose::TuningTimesteps, step).timesteps(n, 1000);
        for n in [1, 3, 4] {
            let steps: Vec<Vec<u32>> = (0..20_000).map(|step| draw(n, step)).collect();
            assert_eq!(steps.iter().flatten().collect::<std::collections::HashSet<_>>().len(), 1000);
            let own =
                |(index, &t): (usize, &u32)| (t + 1) * n > index as u32 * 1000 && t * n < (index as u32 + 1) * 1000;
            assert!(steps.iter().all(|step| step.iter().enumerate().all(own)), "{:?}", steps[0]);
            let mean = steps.iter().flatten().map(|&t| f64::from(t)).sum::<f64>() / (20_000 * n) as f64;
            assert!((mean - 499.5).abs() < 10.0, "{mean}");
        }
    }
}
