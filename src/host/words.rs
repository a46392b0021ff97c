//! What the dialogs of all hosts say alike: the words on their buttons, and sentences. GIMP's dialogs read them and
//! `serve` tells them to Krita's; knows no host. `tests/language.rs` lists what only one of them says.
#![forbid(unsafe_code)]

use super::policy::AVERAGED;
use crate::text::{Text, Value, text};

/// A button or switch that more than one host has; its texts are translated where they are shown. In GIMP 3's window
/// every text that is always shown has a key of its own, for which there are few letters: a test sees to it.
pub struct Button {
    /// Its name in `serve`'s greeting.
    pub id: &'static str,
    pub label: Text,
    pub tooltip: Text,
}

pub static COMPARE_STRENGTHS: Button = Button {
    id: "compare_strengths",
    label: text!("Try strengths"),
    tooltip: text!("Computes this edit with strengths from 0 to 1.2; none becomes a layer yet."),
};
pub static COMPARE_SEEDS: Button = Button {
    id: "compare_seeds",
    label: text!("Five more seeds"),
    tooltip: text!("Computes this edit with this seed and the five after it; none becomes a layer yet."),
};
pub static INSERT: Button = Button {
    id: "insert",
    label: text!("Insert"),
    tooltip: text!("Makes a layer of the result that is shown, or layers of all that are marked, in a group."),
};
pub static SHOW_ORIGINAL: Button = Button {
    id: "show_original",
    label: text!("View original"),
    tooltip: text!("Shows what is edited in place of the edit."),
};
pub static NEW_SEED: Button =
    Button { id: "new_seed", label: text!("New seed"), tooltip: text!("Another version of the edit.") };
pub static EARLIER_EDITS: Button = Button {
    id: "earlier_edits",
    label: text!("Previous edits"),
    tooltip: text!("Takes text and settings of an earlier edit of this document."),
};
pub static BROWSE: Button = Button {
    id: "browse",
    label: text!("Browse..."),
    tooltip: text!("Choose a Stable Diffusion model: a .safetensors file, or model_index.json in a diffusers folder."),
};

/// All of them, for `serve`'s greeting.
pub const BUTTONS: [&Button; 7] =
    [&COMPARE_STRENGTHS, &COMPARE_SEEDS, &INSERT, &SHOW_ORIGINAL, &NEW_SEED, &EARLIER_EDITS, &BROWSE];

/// On opening, in an image without earlier edits.
pub const FIRST_EDIT: Text = text!(
    "The first edit tunes the model to the layer; after that, another strength or seed takes only the last stage."
);

/// On opening, in an image that knows its last edit.
pub const KNOWN_IMAGE: Text =
    text!("These are the settings of this image's last edit. Another strength or seed takes only the last stage.");

/// On opening, on a layer that an edit has made.
pub const OF_LAYER: Text =
    text!("These are the settings with which the active layer was made; the layer below it is edited again.");

/// Follows the built-in model's description where there are others, and where there are none yet.
const OTHER_MODELS: Text = text!("For photographs choose a Stable Diffusion model, in the list or with Browse...");
const GET_MODEL: Text = text!(
    "For photographs: get a model (2 GB). Run \"imagic-edit models download photo\" in a terminal, or choose a file \
     that you have with Browse..."
);
pub fn other_models(has_more_models: bool) -> Text {
    if has_more_models { OTHER_MODELS } else { GET_MODEL }
}

/// A model of the list that cannot be chosen.
pub fn unusable(name: Value, reason: Value) -> Text {
    text!("{name}: {reason}", name, reason)
}

/// Title of the window that [`BROWSE`] opens.
pub const CHOOSE_MODEL: Text = text!("Choose the file of a base model");

/// Follows the help of the target text.
pub const ENTER: Text = text!("Enter starts the edit.");

/// The progress bar before the first step, and after the last.
pub const STARTING: Text = text!("Starting");
pub const DONE: Text = text!("Done");

/// When an edit has started.
pub const RUNNING: Text = text!("The editor and this window stay usable; changes here count for the next edit.");

/// After Stop was pressed, and when the edit has stopped.
pub const STOPPING: Text = text!("Stopping after this step.");
pub const STOPPED: Text = text!("Stopped; the image is as it was. Edit goes on from here.");

/// When an edit was stopped because nothing is left that its result could be put into.
pub const CLOSED: Text =
    text!("The image was closed, so its edit was stopped. Open it and edit again: that goes on from here.");

/// While results to compare are computed.
pub fn to_come(count: Value) -> Text {
    text!("Results that are still to come: {count}.", count)
}

/// When all of them are there.
pub const COMPARED: Text = text!("Click a result to see it; Insert makes a layer of it, or of all that are marked.");

/// When a strength or seed was chosen and its result came at once.
pub const ONLY_SHOWN: Text = text!("Only a look: Edit makes a layer of it.");

/// When a result that was there has become a layer, or several have; or when each has been one before.
pub const NEW_LAYER: Text = text!("The result is a new layer.");
pub fn new_layers(count: Value) -> Text {
    text!("{count} results are new layers in a group.", count)
}
pub const IS_LAYER: Text = text!("There is a layer of this already; another strength or seed gives another one.");

/// Behind the reason why a result did not become a layer, while its document is there.
pub const KEPT: Text = text!("The result is kept here: when that is mended, Insert makes a layer of it.");

/// When a result was removed.
pub const REMOVED: Text = text!("Removed. Undo brings back what was deleted.");

/// A result, with what tells it from the others of a strip.
pub fn result(eta: Value, seed: Value) -> Text {
    text!("Strength {eta}, seed {seed}", eta, seed)
}

/// An entry in the list of earlier edits.
pub fn earlier_edit(text: Value, eta: Value, seed: Value) -> Text {
    text!("{text} (eta {eta}, seed {seed})", text, eta, seed)
}

/// The curve of losses.
pub fn curve() -> Text {
    text!("Loss of stages A and B, averaged over {steps} steps.", steps = AVERAGED)
}

/// All sentences by their names in `serve`'s greeting; the places for values are still in them.
pub fn sentences(has_more_models: bool) -> [(&'static str, Text); 24] {
    [
        ("first_edit", FIRST_EDIT),
        ("known_image", KNOWN_IMAGE),
        ("of_layer", OF_LAYER),
        ("other_models", other_models(has_more_models)),
        ("unusable", unusable("{name}".into(), "{reason}".into())),
        ("choose_model", CHOOSE_MODEL),
        ("enter", ENTER),
        ("starting", STARTING),
        ("done", DONE),
        ("running", RUNNING),
        ("stopping", STOPPING),
        ("stopped", STOPPED),
        ("closed", CLOSED),
        ("to_come", to_come("{count}".into())),
        ("compared", COMPARED),
        ("only_shown", ONLY_SHOWN),
        ("new_layer", NEW_LAYER),
        ("new_layers", new_layers("{count}".into())),
        ("is_layer", IS_LAYER),
        ("kept", KEPT),
        ("removed", REMOVED),
        ("result", result("{eta}".into(), "{seed}".into())),
        ("earlier_edit", earlier_edit("{text}".into(), "{eta}".into(), "{seed}".into())),
        ("curve", curve()),
    ]
}
