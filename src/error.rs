//! One error type, and with it every text a user reads when something went wrong or is likely to.
#![forbid(unsafe_code)]

use std::fmt;
use std::path::{Path, PathBuf};

/// `Result` with this crate's [`enum@Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// Everything that can go wrong in an edit; each variant is something a user or a host can act on.
///
/// Texts are lower case, without a full stop, and name the value, the limit and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A parameter is outside its range or of the wrong kind.
    #[error("{0}")]
    Parameter(String),
    /// The base model cannot be used.
    #[error("model {}: {reason}", path.display())]
    Model {
        /// Folder or file that was looked at.
        path: PathBuf,
        /// What is wrong with it and what to do.
        reason: String,
    },
    /// The picture cannot be edited.
    #[error("{0}")]
    Image(String),
    /// A file could not be read or written.
    #[error("cannot {doing} {}: {source}", path.display())]
    File {
        /// "read", "write", "create".
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The host editor refused something, for example because the image was closed.
    #[error("{0}")]
    Host(String),
    /// The machine has too little memory for what was asked.
    #[error("{0}")]
    Memory(String),
    /// A defect of ours or of a library: a tensor operation failed or the worker panicked.
    #[error("the engine failed: {0}")]
    Engine(String),
    /// The user stopped the job. Never shown as an error.
    #[error("stopped")]
    Cancelled,
}

impl Error {
    /// For `map_err` on file operations.
    pub fn file(doing: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { doing, path, source }
    }

    /// The model in `path` cannot be used because of `reason`.
    pub fn model(path: &Path, reason: impl Into<String>) -> Self {
        Self::Model { path: path.to_owned(), reason: reason.into() }
    }
}

/// What the user should know of an edit before its time is spent; the edit goes on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Hint {
    /// The base model cannot draw pictures like this one.
    UnfamiliarPicture {
        /// How well the base model's autoencoder gives the picture back: peak signal-to-noise ratio in dB.
        psnr: f64,
        /// From this many dB on a picture is familiar to the base model.
        familiar_psnr: f64,
    },
}

impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnfamiliarPicture { psnr, familiar_psnr } => write!(
                f,
                "this picture is unlike what the base model can draw (its autoencoder gives it back at {psnr:.1} dB, below \
                 {familiar_psnr} dB): expect a poor edit; for photographs choose a Stable Diffusion model as base model"
            ),
        }
    }
}

impl From<candle_core::Error> for Error {
    fn from(error: candle_core::Error) -> Self {
        let text = sentence(&error);
        // As CUDA's driver and cuBLAS call it.
        if ["CUDA_ERROR_OUT_OF_MEMORY", "CUBLAS_STATUS_ALLOC_FAILED"].iter().any(|name| text.contains(name)) {
            return Self::Memory("the GPU's memory was full".into());
        }
        Self::Engine(text)
    }
}

/// A candle error without the stack trace that it carries where `RUST_BACKTRACE` is set: nothing for a user to read.
pub fn sentence(error: &candle_core::Error) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}
