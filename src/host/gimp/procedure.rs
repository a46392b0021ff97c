//! The procedure `plug-in-imagic-edit` as every GIMP registers it, and what its arguments mean. Knows no image.
#![forbid(unsafe_code)]

use crate::catalog::{self, Places};
use crate::error::{Error, Result};
use crate::params::{DEFAULT_PRESET, PARAMS, Params, Preset};
use crate::text::{Text, text};
use std::ffi::CStr;

pub const NAME: &CStr = c"plug-in-imagic-edit";
pub const MENU_LABEL: &CStr = c"_Imagic Edit...";
/// Of the menu entry, an icon that every theme of GIMP has: a letter, as for the tool that writes.
pub const ICON: &CStr = c"gimp-tool-text";
pub const MENU_PATH: &CStr = c"<Image>/Filters";
/// Every layer but indexed ones, whose few colors no edit would fit into.
pub const IMAGE_TYPES: &CStr = c"RGB*, GRAY*";
pub const SUMMARY: Text = text!("Edit the layer by a text");
pub const AUTHORS: &CStr = c"The Imagic Edit authors";
pub const YEAR: &CStr = c"2026";

/// What a call answers after a panic.
pub fn panicked() -> Error {
    Error::Engine(text!("the plug-in panicked; the text before this one on the console says where"))
}

/// What a call with the values of the last edit answers before the first edit.
pub fn no_last_values() -> Error {
    Error::Host(text!("there are no values of a last edit; choose Filters > Imagic Edit once"))
}

/// What a dialog begins with when nobody has said anything: what fits the default model.
pub fn defaults(places: &Places) -> Result<Params> {
    catalog::default(places)?.params(DEFAULT_PRESET)
}

/// The parameters that `given` means: its own, or those of the preset that it names. No model means the default one.
pub fn params_of(given: &Params, places: &Places) -> Result<Params> {
    let mut values = given.to_json();
    if given.preset != Preset::Custom {
        PARAMS.iter().filter(|param| param.is_of_preset()).for_each(|param| drop(values.remove(param.id)));
    }
    Ok(catalog::params_of(&values, places)?.0)
}
