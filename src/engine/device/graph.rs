//! Steps with the same kernels each time can be recorded once and replayed (a CUDA graph), because launching kernels
//! one after the other takes the processor longer than some cards take to run them. Knows no operation and no stage.
//!
//! A recording holds addresses. So what differs between steps is in static buffers ([`Place`]), and so is what comes
//! out.
#![forbid(unsafe_code)]

use crate::error::{Error, Result};
use crate::text::Text;
use candle_core::{CpuStorage, DType, Device, InplaceOp1, Layout, Shape, Tensor, bail};
#[cfg(feature = "cuda")]
use candle_core::{CudaStorage, backend::BackendStorage};

/// How the kernels of a step are launched on a GPU; numbers do not depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Launches {
    /// One after the other.
    Eager,
    /// All at once, from a recording (a CUDA graph); eager where the GPU cannot. Never run on a card.
    Replayed,
}

/// A static buffer: a tensor of f32 that keeps its address while its elements change.
#[derive(Clone)]
pub struct Place(Tensor);

impl Place {
    /// Zeros.
    pub fn new(shape: impl Into<Shape>, device: &Device) -> Result<Self> {
        Ok(Self(Tensor::zeros(shape, DType::F32, device)?))
    }

    /// The tensor, with its elements of the moment.
    pub fn tensor(&self) -> &Tensor {
        &self.0
    }

    /// Uploads `values`, as many as it has elements.
    pub fn write(&self, values: &[f32]) -> Result<()> {
        Ok(self.0.inplace_op1(&Write { values })?)
    }

    /// Takes the elements of a contiguous tensor on its device, of its shape.
    pub fn copy(&self, tensor: &Tensor) -> Result<()> {
        let (given, own) = (tensor.dims(), self.0.dims());
        if given != own {
            return Err(Error::Engine(Text::verbatim(format!("{given:?} elements do not fit {own:?}"))));
        }
        Ok(self.0.flatten_all()?.slice_set(&tensor.detach().flatten_all()?, 0, 0)?)
    }

    /// Takes the elements of a tensor of its shape, on its device or on the processor.
    pub fn set(&self, tensor: &Tensor) -> Result<()> {
        if tensor.device().is_cpu() { self.write(&tensor.flatten_all()?.to_vec1()?) } else { self.copy(tensor) }
    }
}

struct Write<'a> {
    values: &'a [f32],
}

impl Write<'_> {
    fn check(&self, layout: &Layout) -> candle_core::Result<()> {
        if layout.contiguous_offsets() != Some((0, self.values.len())) {
            bail!("{} elements do not fit a static buffer of shape {:?}", self.values.len(), layout.shape())
        }
        Ok(())
    }
}

impl InplaceOp1 for Write<'_> {
    fn name(&self) -> &'static str {
        "write"
    }

    fn cpu_fwd(&self, place: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        self.check(layout)?;
        match place {
            CpuStorage::F32(place) => place.copy_from_slice(self.values),
            _ => bail!("a static buffer is of f32"),
        }
        Ok(())
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, place: &mut CudaStorage, layout: &Layout) -> candle_core::Result<()> {
        self.check(layout)?;
        let device = place.device().clone();
        device.memcpy_htod(self.values, place.as_cuda_slice_mut::<f32>()?)
    }
}

/// Work that is done again and again; [`super::RepeatedStep`] is the plain way to it.
pub struct Replay {
    #[cfg(feature = "cuda")]
    gpu: Option<gpu::Replay>,
}

impl Replay {
    /// Of work on `device`.
    #[cfg_attr(not(feature = "cuda"), expect(unused_variables, reason = "the processor needs no recording"))]
    pub fn new(device: &Device, launches: Launches) -> Self {
        Self {
            #[cfg(feature = "cuda")]
            gpu: match device {
                Device::Cuda(device) if launches == Launches::Replayed => Some(gpu::Replay::new(device)),
                _ => None,
            },
        }
    }

    /// Does `work`, which must be the same each time: it reads the same tensors, leaves its results in static buffers,
    /// and what it allocates is free again when it returns. It may be called twice, or not at all.
    pub fn run(&mut self, mut work: impl FnMut() -> Result<()>) -> Result<()> {
        #[cfg(feature = "cuda")]
        if let Some(gpu) = &mut self.gpu {
            return gpu.run(&mut work);
        }
        work()
    }
}

#[cfg(feature = "cuda")]
mod gpu {
    use super::super::cuda;
    use crate::error::Result;
    use candle_core::CudaDevice;
    use candle_core::cuda_backend::cudarc::driver::{CudaGraph, DriverError, sys};
    use std::sync::Once;

    type Work<'a> = dyn FnMut() -> Result<()> + 'a;

    /// Memory that has to stay free beside a graph, for what is done between its launches: pictures while they form.
    const RESERVE: u64 = 1 << 30;

    pub struct Replay {
        device: CudaDevice,
        state: State,
    }

    enum State {
        /// The first step loads kernels, makes what stays, and shows how much memory is taken.
        Begins,
        Records,
        Replays(CudaGraph),
        Eager,
    }

    impl Replay {
        pub fn new(device: &CudaDevice) -> Self {
            Self { device: device.clone(), state: State::Begins }
        }

        pub fn run(&mut self, work: &mut Work<'_>) -> Result<()> {
            match self.state {
                State::Begins => {
                    cuda::forget_most_memory(&self.device);
                    work()?;
                    self.state = State::Records;
                    return Ok(());
                }
                State::Records => match record(&self.device, work) {
                    Ok(graph) => self.state = State::Replays(graph),
                    Err(reason) => self.give_up(&reason),
                },
                State::Replays(_) | State::Eager => {}
            }
            if let State::Replays(graph) = &self.state {
                match graph.launch() {
                    Ok(()) => return Ok(()),
                    Err(error) => self.give_up(&cuda::said(error)),
                }
            }
            work()
        }

        /// Falls back to eager launches.
        fn give_up(&mut self, reason: &str) {
            static SAID: Once = Once::new();
            SAID.call_once(|| {
                crate::text::tell(format_args!("imagic-edit: steps are not replayed, which can be slower: {reason}"));
            });
            self.state = State::Eager;
            forget_errors(&self.device);
            cuda::give_back_memory(&self.device);
        }
    }

    impl Drop for Replay {
        fn drop(&mut self) {
            if let State::Replays(graph) = std::mem::replace(&mut self.state, State::Eager) {
                drop(graph);
                // What comes next finds the graph's memory only if the graph gives it back.
                cuda::give_back_memory(&self.device);
            }
        }
    }

    /// A graph of `work`, ready to be launched, or why there is none; nothing of `work` has been done.
    fn record(device: &CudaDevice, work: &mut Work<'_>) -> std::result::Result<CudaGraph, String> {
        let stream = device.cuda_stream();
        // A graph cannot take what the pool keeps for later.
        cuda::give_back_memory(device);
        if let Some((free, taken)) = cuda::memory_of_a_run(device)
            && free < taken + RESERVE
        {
            let mb = |bytes: u64| bytes >> 20;
            return Err(format!(
                "a recording would take {} MB of memory, and {} MB are free, of which {} MB stay free",
                mb(taken),
                mb(free),
                mb(RESERVE)
            ));
        }
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        stream.begin_capture(mode).map_err(cuda::said)?;
        let mut capture = Capture { device, ended: false };
        let done = work();
        let graph = capture.end();
        done.map_err(|error| format!("{error}"))?;
        let graph = graph.map_err(cuda::said)?.ok_or("the driver recorded nothing")?;
        // Here memory that is too small is found out, and not in the middle of a step.
        graph.upload().map_err(cuda::said)?;
        Ok(graph)
    }

    /// A stream that records. It is ended whatever happens, because nothing else could be done on the stream.
    struct Capture<'a> {
        device: &'a CudaDevice,
        ended: bool,
    }

    impl Capture<'_> {
        fn end(&mut self) -> std::result::Result<Option<CudaGraph>, DriverError> {
            self.ended = true;
            forget_errors(self.device);
            // All that is allocated in it is free at its end, so nothing has to be freed before it is launched again.
            self.device.cuda_stream().end_capture(sys::CUgraphInstantiate_flags(0))
        }
    }

    impl Drop for Capture<'_> {
        fn drop(&mut self) {
            if !self.ended {
                // Something panicked, and that is what is reported.
                let _ = self.end();
            }
        }
    }

    /// cudarc keeps an error of a destructor for the next call, which has nothing to do with it. A capture that failed
    /// has some.
    fn forget_errors(device: &CudaDevice) {
        let _ = device.cuda_stream().context().check_err();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_takes_values_and_stays_where_it_is() {
        let place = Place::new((2, 2), &Device::Cpu).expect("a place");
        let same = place.tensor().clone();
        place.write(&[1.0, 2.0, 3.0, 4.0]).expect("four values");
        assert_eq!(same.to_vec2::<f32>().expect("values"), [[1.0, 2.0], [3.0, 4.0]]);
        place.copy(&(&same * 2.0).expect("a tensor")).expect("the same shape");
        assert_eq!(same.to_vec2::<f32>().expect("values"), [[2.0, 4.0], [6.0, 8.0]]);
        assert!(place.write(&[1.0]).is_err());
    }

    #[test]
    fn the_processor_just_works() {
        let mut replay = Replay::new(&Device::Cpu, Launches::Replayed);
        let mut times = 0;
        for _ in 0..4 {
            let work = || {
                times += 1;
                Ok(())
            };
            replay.run(work).expect("work");
        }
        assert_eq!(times, 4);
    }
}
