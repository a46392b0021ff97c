//! Whether a network predicts what its files say: the losses of a network that was trained for something else tell it
//! before any time is spent.
#![forbid(unsafe_code)]

use crate::engine::model::conditioning::Conditioning;
use crate::engine::model::schedule::{Prediction, Schedule};
use crate::engine::model::unet::UNet;
use crate::engine::random::{Purpose, Stream};
use crate::error::Result;
use candle_core::Tensor;

/// Timesteps that are looked at, from the middle of as many parts of the range.
const LOOKS: u32 = 4;

/// The share of its target that a network leaves unexplained is below this for what it was trained for, even with a
/// picture that it has never seen: 0.3 to 0.7 with the built-in model. Of anything else it leaves nearly all.
const EXPLAINED: f32 = 0.8;
/// So many times as much is left of what it was not trained for: 1.5 and more with the built-in model.
const CLEARLY: f32 = 1.3;

/// What `unet` predicts instead of what `schedule` says, with its losses by the schedule and by that: noise in place of
/// v or the other way round. `x` and `e` as in stage A; `go_on` is called between two passes.
pub fn mistaken(
    unet: &UNet,
    schedule: &Schedule,
    (x, e): (&Tensor, &Conditioning),
    seed: u32,
    go_on: &mut dyn FnMut() -> Result<()>,
) -> Result<Option<(Prediction, [f32; 2])>> {
    let other = match schedule.prediction {
        Prediction::Epsilon => Prediction::V,
        Prediction::V => Prediction::Epsilon,
        Prediction::Sample => return Ok(None),
    };
    let mut schedules = [schedule.clone(), schedule.clone()];
    schedules[1].prediction = other;
    let (device, mut losses, mut targets) = (x.device(), [0.0; 2], [0.0; 2]);
    for look in 0..LOOKS {
        go_on()?;
        let t = [(2 * look + 1) * schedule.training_timesteps() / (2 * LOOKS)];
        let noise = Stream::new(seed, Purpose::Prediction, look).normals(x.dims(), device)?;
        let scales = Tensor::from_vec(schedule.scales(&t), (2, 1, 1, 1, 1), device)?;
        let sinusoids = Tensor::from_vec(unet.sinusoids(&t), (1, ()), device)?;
        let predicted = unet.forward(&schedule.add_noise(x, &noise, &scales)?, &sinusoids, e)?;
        for ((loss, all), schedule) in losses.iter_mut().zip(&mut targets).zip(&schedules) {
            let target = schedule.target(x, &noise, &scales)?;
            let mean_square = |tensor: &Tensor| tensor.sqr()?.mean_all()?.to_scalar::<f32>();
            *loss += mean_square(&(&predicted - &target)?)? / LOOKS as f32;
            *all += mean_square(&target)? / LOOKS as f32;
        }
    }
    // Not the losses themselves: v varies less than noise does where a picture has little in it.
    let [said, other_left] = [losses[0] / targets[0], losses[1] / targets[1]];
    let is_other = other_left < EXPLAINED && said > CLEARLY * other_left;
    Ok(is_other.then_some((other, losses)))
}
