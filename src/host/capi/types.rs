//! Constants, enums and structs of the C ABI; `include/imagic.h` begins with them.
#![forbid(unsafe_code)]

use std::ffi::{c_char, c_void};

/// Version of this interface. It grows with every change that a compiled program would notice.
pub const IMAGIC_ABI_VERSION: u32 = 1;

/// Bytes of the text in `imagic_progress`, its NUL included.
pub const IMAGIC_PROGRESS_TEXT: usize = 256;

/// How a call ended. `imagic_last_error` has the text for everything but OK.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImagicStatus {
    /// All outputs are written.
    Ok = 0,
    /// A NULL, a size or a JSON text that makes no sense; nothing was done.
    Argument = 1,
    /// The buffer is too short; how much is needed is written, nothing else.
    BufferTooSmall = 2,
    /// The job has not ended.
    Running = 3,
    /// The job was cancelled.
    Cancelled = 4,
    /// A parameter is unknown or out of range.
    Parameter = 5,
    /// The base model is missing or cannot be used.
    Model = 6,
    /// The picture cannot be edited.
    Image = 7,
    /// A file could not be read or written.
    File = 8,
    /// The account or system lacks something.
    Host = 9,
    /// The engine failed.
    Engine = 10,
    /// A defect of the library; the handle can still be freed.
    Panic = 11,
    /// The machine has too little memory for what was asked.
    Memory = 12,
}

/// Where a job is.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImagicState {
    /// Waiting or running.
    Running = 0,
    /// `imagic_job_result` has the pixels.
    Done = 1,
    /// Stopped by `imagic_job_cancel` or because the worker was freed.
    Cancelled = 2,
    /// `imagic_job_result` has the reason.
    Failed = 3,
}

/// The stage of a job that runs.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImagicStage {
    /// Not started, or the same edit runs in another program.
    Waiting = 0,
    /// Reading the base model.
    LoadModel = 1,
    /// Stage A.
    OptimizeTextEmbedding = 2,
    /// Stage B.
    FineTune = 3,
    /// Stage C.
    Generate = 4,
    /// Stage B of the model that enlarges.
    FineTuneDetail = 5,
    /// Stage C of the model that enlarges.
    Enlarge = 6,
}

/// Layout of one pixel. Alpha is straight; colors are sRGB.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImagicFormat {
    /// Four bytes: red, green, blue, alpha.
    Rgba8 = 0,
    /// Four bytes: blue, green, red, alpha.
    Bgra8 = 1,
    /// Four 16-bit numbers in the machine's byte order: red, green, blue, alpha; need not be aligned.
    Rgba16 = 2,
    /// As RGBA16: blue, green, red, alpha.
    Bgra16 = 3,
}

/// A picture that a program lends for one call.
#[repr(C)]
pub struct ImagicPicture {
    /// First byte of the top row.
    pub pixels: *const c_void,
    /// Bytes behind `pixels`; at least `stride * (height - 1)` and one row.
    pub pixels_len: usize,
    /// Bytes from one row to the next; at least one row.
    pub stride: usize,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// An `imagic_format`.
    pub format: u32,
}

/// How far a job is.
#[repr(C)]
pub struct ImagicProgress {
    /// An `imagic_state`.
    pub state: u32,
    /// An `imagic_stage`: the latest one.
    pub stage: u32,
    /// Steps of this stage that are done.
    pub step: u32,
    /// Steps of this stage; 0 while unknown.
    pub steps: u32,
    /// Share of the whole job, 0 to 1.
    pub fraction: f64,
    /// Seconds until the job is done; negative while unknown.
    pub seconds_left: f64,
    /// Loss of the last step of stages A and B; negative where there is none.
    pub loss: f64,
    /// What a progress bar says, or why the job failed; UTF-8, cut if too long.
    pub text: [c_char; IMAGIC_PROGRESS_TEXT],
}
