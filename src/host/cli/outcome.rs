//! How a command ends: what it prints, or why it fails.
#![forbid(unsafe_code)]

use crate::error::{Doing, Error};
use crate::text::{Text, tell};
use std::ffi::c_int;
use std::io::{IsTerminal, Write, stderr, stdin};

/// Why a command ended without success.
pub enum Failure {
    /// The arguments make no sense; exit status 2.
    Usage(String),
    /// It was tried and failed; exit status 1.
    Failed(Error),
    /// `doctor` found something that is wrong and has said it; exit status 1.
    Unwell,
    /// A signal asked to stop; exit status 128 and its number, 130 for Ctrl+C.
    Stopped(c_int),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl Failure {
    /// Tells the person why and returns the exit status.
    pub fn tell(self) -> c_int {
        let (message, status) = match self {
            Self::Usage(message) => (format!("{message}\nimagic-edit --help says how to use it"), 2),
            Self::Failed(error) => (error.to_string(), 1),
            Self::Unwell => return 1,
            Self::Stopped(signal) => ("stopped".to_owned(), 128 + signal),
        };
        tell(format_args!("imagic-edit: {message}"));
        status
    }
}

/// Writes to stdout; a reader that has seen enough (`| head`) is not an error.
pub fn print(text: &str) -> Result<(), Error> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Error::file(Doing::Write, "standard output".as_ref())(error))
        }
        _ => Ok(()),
    }
}

/// What only the command line says.
pub fn said(reason: impl Into<String>) -> Error {
    Error::Host(Text::verbatim(reason))
}

/// Asks before something that cannot be taken back, or that somebody has to agree to, unless `is_agreed`.
pub fn ask(is_agreed: bool, question: &str) -> Result<(), Failure> {
    if is_agreed {
        return Ok(());
    }
    if !stdin().is_terminal() {
        return Err(Failure::Usage(format!("{question} Nobody can be asked here; add --yes")));
    }
    let _ = write!(stderr(), "{question} [y/N] ");
    let mut answer = String::new();
    stdin().read_line(&mut answer).map_err(Error::file(Doing::Read, "standard input".as_ref()))?;
    let yes = ["y", "yes"].contains(&answer.trim().to_lowercase().as_str());
    if yes { Ok(()) } else { Err(said("nothing was done").into()) }
}
