//! One error type, and with it every text a user reads when something went wrong or is likely to.
#![forbid(unsafe_code)]

use crate::text::{Text, Value, text};
use std::fmt;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// `Result` with this crate's [`enum@Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// Everything that can go wrong in an edit; each variant is something a user or a host can act on.
///
/// Texts are lower case, without a full stop, and name the value, the limit and the remedy.
#[derive(Debug)]
pub enum Error {
    /// A parameter is outside its range or of the wrong kind.
    Parameter(Text),
    /// The base model cannot be used.
    Model {
        /// Folder or file that was looked at.
        path: PathBuf,
        /// What is wrong with it and what to do.
        reason: Text,
    },
    /// The picture cannot be edited.
    Image(Text),
    /// A file could not be read or written.
    File {
        /// What was tried.
        doing: Doing,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The host editor refused something, for example because the image was closed.
    Host(Text),
    /// The machine has too little memory for what was asked.
    Memory(Text),
    /// A tuning went wrong by its parameters: its loss rose.
    Diverged(Text),
    /// A defect of ours or of a library: a tensor operation failed or the worker panicked.
    Engine(Text),
    /// The user stopped the job. Never shown as an error.
    Cancelled,
}

/// What is done with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Doing {
    Read,
    Write,
    Create,
    Remove,
}

impl Error {
    /// For `map_err` on file operations.
    pub fn file(doing: Doing, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { doing, path, source }
    }

    /// The model in `path` cannot be used because of `reason`.
    pub fn model(path: &Path, reason: Text) -> Self {
        Self::Model { path: path.to_owned(), reason }
    }

    /// What went wrong, for people.
    pub fn text(&self) -> Text {
        match self {
            Self::Parameter(text)
            | Self::Image(text)
            | Self::Host(text)
            | Self::Memory(text)
            | Self::Diverged(text) => text.clone(),
            Self::Model { path, reason } => text!("model {path}: {reason}", path, reason = reason.clone()),
            Self::File { doing, path, source } => {
                let problem = match doing {
                    Doing::Read => text!("cannot read {path}: {reason}", path, reason = source),
                    Doing::Write => text!("cannot write {path}: {reason}", path, reason = source),
                    Doing::Create => text!("cannot create {path}: {reason}", path, reason = source),
                    Doing::Remove => text!("cannot remove {path}: {reason}", path, reason = source),
                };
                match remedy(*doing, source.kind()) {
                    Some(remedy) => problem.and_do(remedy),
                    None => problem,
                }
            }
            Self::Engine(reason) => text!("the engine failed: {reason}", reason = reason.clone()),
            Self::Cancelled => text!("stopped"),
        }
    }
}

/// What a user can do about a file that the system refuses, where that is not plain from what it says.
fn remedy(doing: Doing, kind: ErrorKind) -> Option<Text> {
    Some(match kind {
        ErrorKind::StorageFull => text!("free some space on this disk"),
        ErrorKind::QuotaExceeded => text!("this account's share of the disk is used up; remove files of yours"),
        ErrorKind::FileTooLarge => text!("neither this disk nor this account may have a file that large"),
        ErrorKind::ReadOnlyFilesystem => text!("this disk can only be read; use another one"),
        ErrorKind::PermissionDenied if doing == Doing::Read => text!("get the permission to read it"),
        ErrorKind::PermissionDenied => text!("get the permission to write there, or use another folder"),
        ErrorKind::NotADirectory | ErrorKind::AlreadyExists => {
            text!("a file is in the place of a folder; move it away")
        }
        _ => return None,
    })
}

impl From<&Error> for Value {
    fn from(error: &Error) -> Self {
        Self::Text(error.text())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.text().fmt(f)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::File { source, .. } => Some(source),
            _ => None,
        }
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

impl Hint {
    /// The hint, for people.
    pub fn text(self) -> Text {
        let Self::UnfamiliarPicture { .. } = self;
        text!(
            "this picture is unlike what the base model can draw: expect a poor edit; for photographs choose a Stable \
             Diffusion model as base model"
        )
    }
}

impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.text().fmt(f)
    }
}

impl From<candle_core::Error> for Error {
    fn from(error: candle_core::Error) -> Self {
        let text = sentence(&error);
        if text.contains(STOPPED) {
            return Self::Cancelled;
        }
        // As CUDA's driver and cuBLAS call it.
        if ["CUDA_ERROR_OUT_OF_MEMORY", "CUBLAS_STATUS_ALLOC_FAILED"].iter().any(|name| text.contains(name)) {
            return Self::Memory(text!("the GPU's memory was full"));
        }
        Self::Engine(Text::verbatim(text))
    }
}

/// What an operation says that was stopped in the middle.
pub const STOPPED: &str = "the edit was stopped in the middle of an operation";

/// A candle error without the stack trace that it carries where `RUST_BACKTRACE` is set: nothing for a user to read.
pub fn sentence(error: &candle_core::Error) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}
