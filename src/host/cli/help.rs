//! Every help text of the command line; what can be generated from the parameter table is.
#![forbid(unsafe_code)]

use crate::catalog;
use crate::host::installed::places;
use crate::params::{Affects, DEFAULT_PRESET, Domain, PARAMS, Param, Params};
use serde_json::Value;

/// Columns of a usual terminal.
const WIDTH: usize = 80;

/// `imagic-edit --help`.
pub fn overview() -> String {
    "\
Imagic Edit changes a picture as a text says, on this machine
(Imagic, Kawar et al., CVPR 2023).

Usage:
  imagic-edit edit IN --prompt TEXT -o OUT.png [options]
                                     edit a picture
  imagic-edit models [--json]        what models there are
  imagic-edit models download NAME   get one, for example photo
  imagic-edit models --help          add, remove, default, check
  imagic-edit cache list [--json]    tuned models that are kept on disk
  imagic-edit cache remove NAME      remove those of a picture
  imagic-edit cache clear            remove all of them
  imagic-edit cache limit [SIZE]     how much disk they may take
  imagic-edit doctor                 check the installation
  imagic-edit serve                  for host programs: edit by messages
  imagic-edit COMMAND --help         more about one of these
  imagic-edit --version

In GIMP and Krita the same is under Filters: Imagic Edit.

Example:
  imagic-edit edit dog.png --prompt \"a dog sitting\" -o out.png --eta 0.6 --eta 0.8

Exit status: 0 done, 1 failed, 2 wrong usage, 130 stopped with Ctrl+C.
"
    .to_owned()
}

/// `imagic-edit COMMAND --help`; `None` when there is no such command.
pub fn of_command(command: &str) -> Option<String> {
    Some(match command {
        "edit" => edit(),
        "models" => "\
imagic-edit models [list] [--json]
imagic-edit models add PATH
imagic-edit models remove NAME [--yes]
imagic-edit models default [NAME]
imagic-edit models check [NAME|PATH ...]
imagic-edit models download [NAME|OWNER/NAME|OWNER/NAME/FILE] [--yes]

'list' shows the models that --model and the dialogs know: where they lie, what
they are, where they came from, their licence as far as their files tell it, and
the settings that fit them; then what cannot be used, and why. There are those
in ~/.local/share/imagic-edit/models (or $XDG_DATA_HOME/imagic-edit/models),
those that were added, and those of ComfyUI, A1111, Forge, InvokeAI, Krita AI
Diffusion and Hugging Face's cache in their usual places, where nothing is
changed.

'add' puts a file or folder into the list and leaves it where it lies. 'remove'
takes it out of the list again; of a model that was downloaded it deletes the
files, and asks before. 'default' says or sets what the dialogs begin with and
what is taken without --model. 'check' reads the headers and says what a model
is; files that were downloaded are compared with their SHA-256.

'download' gets a model from Hugging Face: one of those that it lists without a
name, or any other. It shows the licence and asks, unless --yes is given, sees
that the disk has room, and checks size and SHA-256. What was cut off goes on
where it was. No other command opens a connection. HF_ENDPOINT names another
server, HF_TOKEN (or the file of Hugging Face's own programs) an account,
HTTPS_PROXY and NO_PROXY a proxy. After IMAGIC_DOWNLOAD_SECONDS (60) without a
byte a server counts as silent.
"
        .to_owned(),
        "cache" => "\
imagic-edit cache list [--json]
imagic-edit cache remove NAME|ID [NAME|ID ...]
imagic-edit cache clear
imagic-edit cache limit [SIZE|automatic]

Tuning a model to a picture and a text takes most of the time of an edit, so the
tuned models are kept in ~/.cache/imagic-edit (or $XDG_CACHE_HOME/imagic-edit):
another eta, seed or guidance then takes little time. So is what a stopped or
killed edit has done of it: the same edit goes on from there.

'list' shows size, age and text, then ID, name and size of the picture and where
it is. 'remove' removes what is shown with an ID, or all of a picture that is
named, 'clear' everything that is not in use. The ones not used for longest go
first when the folder grows too large: 'limit' shows the limit, and sets it to a
size such as 20GB. Unless that was done it follows the free disk: a fifth of it,
at least 1 GB and at most 50 GB.
"
        .to_owned(),
        "doctor" => "\
imagic-edit doctor [--report FILE [--texts]]

Checks the installation: which host editors are there and whether the plug-in is
installed in them, whether all installed copies are of one version, the
processor, the models (each draws a tiny picture), memory, disk and cache.
Says how to mend what is wrong; exit status 1 if something is.

--report FILE also writes that into FILE, with the system's version and the log
of the last edits: what each stage took, on what, and why one failed. There is
no picture in it, and no text of yours unless you say --texts, which adds the
list of tuned models.
"
        .to_owned(),
        "serve" => "\
imagic-edit serve

For programs, such as the Krita plug-in, that want the engine in a process of
its own: if it dies, the program lives. Both sides send messages: one line, a
JSON object, and after it as many bytes of pixels as its 'bytes' says (no
'bytes', no pixels). Errors and progress come as texts for people. Standard
input ends: serve ends, whatever runs. Protocol version 6:

First comes
  {\"event\": \"hello\", \"protocol\": 6, \"version\", \"parameters\", \"models\",
   \"default_model\", \"builtin_model\", \"last_values\", \"policy\", \"texts\",
   \"help\", \"translations\"}
'parameters' is the table for a dialog, 'models' what 'imagic-edit models
--json' lists ('problem' says why one cannot be used), 'default_model' the name
of the one that counts without a name, 'last_values' the parameters of the last
edit or null, 'policy' what all dialogs do alike: which strengths and how many
seeds are compared, times, sizes; 'texts' what they say alike, the words on
buttons among it, with places such as {seed} for values. Texts are in the
language that LANGUAGE or the locale names; 'translations' has what a dialog may
want to say besides, from English, and is empty where that is English.

  {\"do\": \"edit\", \"job\": 1, \"params\": {\"prompt\": \"...\"}, \"document\": \"...\",
   \"width\": W, \"height\": H, \"format\": \"bgra8\", \"bytes\": W*H*4}
Missing parameters come from the model's preset. Formats: rgba8, bgra8, rgba16,
bgra16 (numbers in the machine's byte order); straight alpha, sRGB. Without
width, height, format and bytes the picture that came last is meant. With
\"selection\": true W*H more bytes follow, how much of each pixel is selected;
the picture is to reach as far around that as it is long, so that the model sees
its surroundings. Edits run one after the other; each is answered by any number
of
  {\"event\": \"progress\", \"job\", \"stage\", \"step\", \"steps\", \"loss\", \"fraction\",
   \"seconds_left\", \"text\", \"hint\"}
      with \"previews\": N in the order up to N times also \"preview\": {\"width\",
      \"height\"} and \"bytes\": the picture as it forms follows, in the same format
and then by one of
  {\"event\": \"done\", \"job\", \"name\", \"summary\", \"report\", \"width\",
   \"height\", \"mask\", \"bytes\"}
      the edited pixels follow, in the same format; 'name' is for the layer.
      With 'mask' W*H more bytes follow: how much of the edit is to be seen.
      With \"side\": N in the order they are no larger than N on a side, to be
      looked at, in their place; the same order without it then brings all.
      'unlike' says that the result at eta 0 is not the picture, if so
  {\"event\": \"stopped\", \"job\"}
  {\"event\": \"failed\", \"job\", \"message\"}

  {\"do\": \"estimate\", ...}           as 'edit', but answered only by
                                    {\"event\": \"estimate\", \"job\", \"tuned\",
                                    \"goes_on\", \"steps\", \"seconds\", \"text\",
                                    \"door\"}: what it costs; 'steps' are [done,
                                    all] of the tuning where it was stopped, or
                                    null; 'door' says why the model should not
                                    be tried on this picture, or is null
  {\"do\": \"stop\", \"job\": 1}          ends with 'stopped' within one step
  {\"do\": \"models\"}                  {\"event\": \"models\", \"models\"}
  {\"do\": \"model\", \"name\": \"/a/b\"}  {\"event\": \"model\", \"name\", \"model\"}, or with
                                    \"model\": null and \"message\"
  {\"do\": \"text\", \"text\", \"model\"}   {\"event\": \"text\", \"text\", \"remarks\",
                                    \"length\"}: what is to be said of a target
                                    text, and how much of the room it takes
  {\"do\": \"remember\", \"params\": {}}  the next dialog, in any host, starts with
                                    these

What cannot be understood is answered by 'failed', its job null if none was
named. After a line that is not a JSON object the program ends with status 1,
because nobody knows where the next message begins.
"
        .to_owned(),
        _ => return None,
    })
}

fn edit() -> String {
    let places = places();
    let model = catalog::default(&places);
    let (defaults, source) = match model.and_then(|model| model.params(DEFAULT_PRESET)) {
        Ok(params) => (params, format!("of the model {}", places.default_name())),
        Err(_) => (Params::paper(), "of the paper for Stable Diffusion".to_owned()),
    };
    let mut text = "\
imagic-edit edit IN --prompt TEXT -o OUT.png [options]

Tunes the model to the picture IN and the text (stages A and B of Imagic), then
draws the edited picture (stage C). The tuned model is kept, so the same picture
and text with another --eta or --seed takes only stage C. IN is a PNG, JPEG,
WebP, TIFF or GIF file and is never changed. OUT has the same size, colors
(profile), alpha channel and 8 or 16 bits, and keeps EXIF, resolution and texts,
as far as its format can; what it cannot is said.

Options:
  -o, --output OUT.png
      Where the result goes: a .png, .jpg, .webp or .tif file. With several
      --eta each value gets its own file: OUT-eta0.60.png.
  --force
      Replace OUT if it is there already.
  --strength F
      The same as --eta; dialogs call it so.
  --selection MASK.png
      Edit a part: a gray picture of the size of IN, white where it is to be
      edited and black where it stays as it is. The model sees the part in its
      surroundings (--margin), so the text may speak of all that is to be seen.
  --private
      Keep nothing: no tuned model, no resume point. Another --eta tunes again
      unless it is given in the same call.
  --json
      Print one JSON object on standard output: files, parameters, seconds per
      stage, seed of the version that was taken, losses, notes, hint.

"
    .to_owned();
    for (affects, title) in [
        (Affects::Parameters, "Where the parameters below come from, unless they are given:"),
        (Affects::Generation, "Parameters of stage C; changing them is quick:"),
        (Affects::Tuning, "Parameters of the tuning; changing them tunes again:"),
        (Affects::Nothing, "Parameters on which no result depends:"),
    ] {
        text += &format!("{title}\n");
        for param in PARAMS.iter().filter(|param| param.affects == affects) {
            text += &parameter(param, &defaults);
        }
        text.push('\n');
    }
    text += &wrapped(
        &format!("Defaults shown are those {source}; 'imagic-edit models' lists the settings of every model."),
        0,
    );
    text
}

fn parameter(param: &Param, defaults: &Params) -> String {
    let (kind, range) = match param.domain {
        Domain::Text => ("TEXT", String::new()),
        Domain::Integer { min, max } => ("N", format!("{min} to {max}")),
        Domain::Real { min, max } => ("F", format!("{min} to {max}")),
        Domain::Switch => ("YES", "yes or no".to_owned()),
        Domain::Choice { options } => ("NAME", options.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(" or ")),
    };
    let default = match defaults.get(param.id) {
        Some(value) if value == "" => if param.id == "prompt" { "required" } else { "" }.to_owned(),
        Some(Value::Bool(on)) => format!("default {}", if on { "yes" } else { "no" }),
        Some(value) => format!("default {}", value.as_str().map_or_else(|| value.to_string(), str::to_owned)),
        None => String::new(),
    };
    let facts = [range, default].into_iter().filter(|fact| !fact.is_empty()).collect::<Vec<_>>().join(", ");
    let repeat = if param.id == "eta" { " Can be given several times." } else { "" };
    let facts = if facts.is_empty() { facts } else { format!(" ({facts})") };
    format!("  --{} {kind}\n{}", param.id.replace('_', "-"), wrapped(&format!("{}{repeat}{facts}", param.help), 6))
}

/// `text` in lines of at most [`WIDTH`] columns, each behind `indent` spaces.
pub fn wrapped(text: &str, indent: usize) -> String {
    let (mut lines, mut line) = (String::new(), String::new());
    for word in text.split_whitespace() {
        if !line.is_empty() && indent + line.chars().count() + 1 + word.chars().count() > WIDTH {
            lines += &format!("{:indent$}{line}\n", "");
            line.clear();
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line += word;
    }
    lines + &format!("{:indent$}{line}\n", "")
}

/// "512 MB", "3.4 GB".
pub fn size(bytes: u64) -> String {
    let megabytes = bytes as f64 / 1e6;
    if megabytes < 1000.0 { format!("{megabytes:.0} MB") } else { format!("{:.1} GB", megabytes / 1000.0) }
}
