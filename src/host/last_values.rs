//! The parameters of the last edit, kept for the next one in any document; knows no host.
#![forbid(unsafe_code)]

use crate::error::{Error, Result};
use crate::files;
use crate::host::recipe::params_from;
use crate::params::Params;
use crate::text::text;
use std::path::PathBuf;

/// The parameters of the last edit in any document; `None` before the first.
pub fn last_values() -> Option<Params> {
    params_from(&serde_json::from_slice(&files::read(&last_values_file()?).ok()?).ok()?)
}

/// Keeps the parameters for the next edit, also in another session.
pub fn remember_values(params: &Params) -> Result<()> {
    let Some(file) = last_values_file() else {
        return Err(Error::Host(text!("this account has no configuration folder; set HOME or XDG_CONFIG_HOME")));
    };
    let text = serde_json::to_string_pretty(&params.to_json()).expect("texts and numbers always become JSON");
    files::write_private(&file, text.as_bytes())
}

fn last_values_file() -> Option<PathBuf> {
    Some(dirs::config_dir()?.join("imagic-edit").join("last-values.json"))
}
