//! What the dialogs of all hosts say alike: the words on their buttons, and sentences. GIMP's dialogs read them and
//! `serve` tells them to Krita's; knows no host. `tests/language.rs` lists what only one of them says.
#![forbid(unsafe_code)]

use super::policy::AVERAGED;
use crate::params::BUILTIN_MODEL;
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
/// Switches and knobs below the large picture.
pub const ZOOM: Text = text!("Shows every pixel of the layer.");
pub const SPLIT: Text = text!("Before and after: left of the knob is the original.");

pub static GET_MODEL: Button = Button {
    id: "get_model",
    label: text!("Get a model..."),
    tooltip: text!("Says how to come by a model for photographs."),
};
pub static TRY_ANYWAY: Button = Button {
    id: "try_anyway",
    label: text!("Try anyway"),
    tooltip: text!("Lets this model edit the layer all the same."),
};

/// All of them, for `serve`'s greeting.
pub const BUTTONS: [&Button; 9] = [
    &COMPARE_STRENGTHS,
    &COMPARE_SEEDS,
    &INSERT,
    &SHOW_ORIGINAL,
    &NEW_SEED,
    &EARLIER_EDITS,
    &BROWSE,
    &GET_MODEL,
    &TRY_ANYWAY,
];

/// The button that opens our page, and what is said where no program opens it.
pub const HELP: Text = text!("Help");
pub fn help_is_in(page: String) -> Text {
    text!("The help is in {page}; open it in a browser.", page)
}

/// What the button that edits says where the result that it stands for is there and no layer yet.
pub const INSERT_RESULT: Text = text!("Insert the result");

/// Before anything is spent on a photograph with a model that draws none, with [`GET_MODEL`] and [`TRY_ANYWAY`].
pub fn door(model: &str) -> Text {
    if model == BUILTIN_MODEL {
        text!("The built-in model draws small scenes, not photographs.")
    } else {
        text!("The model {model} draws no photographs.", model)
    }
}

/// Behind the summary of an edit that should have given the layer back and did not.
pub const NOT_GIVEN_BACK: Text = text!(
    "At strength 0 the result should be the layer, and it is another picture: this model cannot draw this layer, with \
     other strengths neither."
);

/// Of a target text, before time is spent on it. The example is one of the model's, in English as they all are.
pub const AN_EXAMPLE: &str = "a photo of a blue car on a sandy beach";
pub fn describe(example: String) -> Text {
    text!("Describe the whole picture, for example “{example}”.", example)
}
pub fn in_english(example: String) -> Text {
    text!("Write the text in English, for example “{example}”.", example)
}
pub fn unknown(words: String) -> Text {
    text!("Unknown words: {words}.", words)
}
pub fn means_nothing(parts: String) -> Text {
    text!("{parts} means nothing here and is read as it stands; say it in words.", parts)
}

/// How much of the room for a text is used: a usual word is a token, a rare one several.
pub fn length(used: usize, room: usize) -> Text {
    if used > room {
        text!("{used} of {room} tokens; the end is cut off", used, room)
    } else {
        text!("{used} of {room} tokens", used, room)
    }
}

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
const WAYS_TO_A_MODEL: Text = text!(
    "For photographs: get a model (2 GB). Run \"imagic-edit models download photo\" in a terminal, or choose a file \
     that you have with Browse..."
);
pub fn other_models(has_more_models: bool) -> Text {
    if has_more_models { OTHER_MODELS } else { WAYS_TO_A_MODEL }
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
pub const ONLY_SHOWN: Text = text!("Only a look: Insert the result makes a layer of it.");

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

/// What a model sees of a layer that is much larger.
pub fn seen([seen_width, seen_height]: [usize; 2], [width, height]: [u32; 2]) -> Text {
    text!(
        "The model sees {seen_width} x {seen_height} pixels of your {width} x {height}: select a part for sharper \
         results.",
        seen_width,
        seen_height,
        width,
        height
    )
}

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
pub fn sentences(has_more_models: bool) -> [(&'static str, Text); 28] {
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
        ("insert_result", INSERT_RESULT),
        ("split", SPLIT),
        ("help", HELP),
        ("help_is_in", help_is_in("{page}".to_owned())),
    ]
}
