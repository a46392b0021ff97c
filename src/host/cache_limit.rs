//! How much disk tuned models may take: what the user has set, or a share of what is free. Knows no host.
#![forbid(unsafe_code)]

use crate::engine::store::cache;
use crate::error::{Error, Result};
use crate::files;
use crate::text::text;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Unless the user says more: a tuned model of Stable Diffusion 1.5 has 0.4 GB, a resume point of it 10.
const MOST: u64 = 50_000_000_000;
/// Unless the user says less: many adapters, or tuned models of the built-in model.
const LEAST: u64 = 1_000_000_000;
/// One part in so many of the disk that is free or taken by tuned models.
const SHARE: u64 = 5;

/// Bytes that `folder` may hold.
pub fn limit(folder: &Path) -> u64 {
    set_limit().unwrap_or_else(|| automatic(folder))
}

/// What the user has set; `None` if nothing was.
pub fn set_limit() -> Option<u64> {
    let text = files::read(&file()?).ok()?;
    serde_json::from_slice::<Value>(&text).ok()?["cache_limit"].as_u64()
}

/// Sets it, or lets it follow the free disk.
pub fn set(limit: Option<u64>) -> Result<()> {
    let Some(file) = file() else {
        return Err(Error::Host(text!("this account has no configuration folder; set HOME or XDG_CONFIG_HOME")));
    };
    files::write_private(&file, json!({ "cache_limit": limit }).to_string().as_bytes())
}

fn automatic(folder: &Path) -> u64 {
    // The folder is made by the first edit; until then its parents tell.
    let existing = folder.ancestors().find(|folder| folder.exists());
    let Some(Ok(free)) = existing.map(fs4::available_space) else { return MOST };
    ((free + cache::bytes(folder)) / SHARE).clamp(LEAST, MOST)
}

fn file() -> Option<PathBuf> {
    Some(dirs::config_dir()?.join("imagic-edit").join("settings.json"))
}
