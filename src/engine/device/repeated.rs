//! A step that is run many times with other numbers: what a GPU needs for its recording (static buffers for what goes
//! in and comes out) is kept here, so that whoever writes the step sees tensors only. Knows no operation and no stage.
#![forbid(unsafe_code)]

use super::graph::{Launches, Place, Replay};
use crate::error::Result;
use candle_core::{Device, Tensor};

/// A step that is run again and again, with inputs and an output of the same shapes each time, all of them f32.
///
/// On the processor a run is a call of the step with the inputs as they are. On a GPU the inputs are copied to static
/// buffers, which are made in the first run, and so is the output, because a recorded step finds its tensors by their
/// addresses.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use imagic_edit::engine::device::{Launches, RepeatedStep};
/// # fn main() -> imagic_edit::error::Result<()> {
/// let device = Device::Cpu;
/// let weight = Tensor::new(&[2f32, 3.0], &device)?;
/// let mut step = RepeatedStep::new(&device, Launches::Eager);
/// for value in [1f32, 10.0] {
///     // An input may be on the processor: it is uploaded where the step runs elsewhere.
///     let x = Tensor::new(&[value, value], &Device::Cpu)?;
///     let y = step.run([&x], |[x]| Ok((x * &weight)?.sum_all()?))?;
///     assert_eq!(y.to_scalar::<f32>()?, 5.0 * value);
/// }
/// # Ok(())
/// # }
/// ```
pub struct RepeatedStep {
    device: Device,
    replay: Replay,
    /// `None` where the step takes its inputs as they are.
    buffers: Option<Buffers>,
}

/// There from the first run on.
#[derive(Default)]
struct Buffers {
    inputs: Vec<Place>,
    output: Option<Place>,
}

impl RepeatedStep {
    /// On `device`, whose kernels are launched as `launches` says.
    pub fn new(device: &Device, launches: Launches) -> Self {
        let buffers = (!device.is_cpu()).then(Buffers::default);
        Self { device: device.clone(), replay: Replay::new(device, launches), buffers }
    }

    /// Runs `step` on the inputs and gives its result, without what it was computed from; that holds until the next
    /// run.
    ///
    /// Everything else that `step` reads must be the same tensors each time. It may be called twice, or, when it is
    /// replayed, not at all, so that it leaves nothing but its result and what it changes on the device.
    pub fn run<const N: usize>(
        &mut self,
        inputs: [&Tensor; N],
        mut step: impl FnMut([&Tensor; N]) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let Some(Buffers { inputs: buffers, output }) = &mut self.buffers else { return Ok(step(inputs)?.detach()) };
        if buffers.is_empty() {
            let buffer = |input: &Tensor| Place::new(input.shape(), &self.device);
            *buffers = inputs.into_iter().map(buffer).collect::<Result<_>>()?;
        }
        for (buffer, input) in buffers.iter().zip(inputs) {
            buffer.set(input)?;
        }
        self.replay.run(|| {
            let result = step(std::array::from_fn(|input| buffers[input].tensor()))?;
            let buffer = match output.take() {
                Some(buffer) => buffer,
                None => Place::new(result.shape(), &self.device)?,
            };
            buffer.copy(&result)?;
            *output = Some(buffer);
            Ok(())
        })?;
        Ok(output.as_ref().expect("the first run made it").tensor().clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The way of a GPU on the processor.
    fn with_buffers() -> RepeatedStep {
        RepeatedStep { buffers: Some(Buffers::default()), ..RepeatedStep::new(&Device::Cpu, Launches::Replayed) }
    }

    #[test]
    fn every_run_takes_its_own_inputs_with_static_buffers_and_without() {
        for mut step in [RepeatedStep::new(&Device::Cpu, Launches::Eager), with_buffers()] {
            for value in [1f32, 2.0, 5.0] {
                let x = Tensor::new(&[[value, 1.0], [0.0, value]], &Device::Cpu).expect("a tensor");
                let shift = Tensor::new(value, &Device::Cpu).expect("a number");
                let sum = step.run([&x, &shift], |[x, shift]| Ok((x.sum_all()? + shift)?)).expect("a sum");
                assert_eq!(sum.to_scalar::<f32>().expect("a number"), 3.0 * value + 1.0);
            }
        }
    }

    #[test]
    fn a_step_finds_static_buffers_where_they_were() {
        let mut step = with_buffers();
        let mut seen = Vec::new();
        let results: Vec<Tensor> = (0..2)
            .map(|value| {
                let x = Tensor::new(&[value as f32], &Device::Cpu).expect("a tensor");
                let run = |[x]: [&Tensor; 1]| {
                    seen.push(x.id());
                    Ok((x + 1.0)?)
                };
                step.run([&x], run).expect("a result")
            })
            .collect();
        assert_eq!(seen[0], seen[1]);
        assert_eq!(results[0].to_vec1::<f32>().expect("a row"), [2.0], "the first result is the second one now");
    }

    #[test]
    fn an_input_of_another_shape_is_refused() {
        let mut step = with_buffers();
        let mut run = |count: usize| {
            let x = Tensor::from_vec(vec![1f32; count], count, &Device::Cpu).expect("a tensor");
            step.run([&x], |[x]| Ok(x.sum_all()?))
        };
        assert!(run(2).is_ok() && run(3).is_err());
    }
}
