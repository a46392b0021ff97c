//! The command line: which command runs, and what its exit status and messages are; knows no tensors.
#![forbid(unsafe_code)]

mod arguments;
mod doctor;
mod download;
mod edit;
mod help;
mod hub;
mod models;
mod outcome;
pub(super) mod picture;
mod progress;
mod selection;

use super::cache_limit;
use super::installed::engine_options;
use super::serve;
use crate::engine::store::cache::{self, Kind, Listed};
use crate::error::Error;
use crate::text::{Text, clipped};
use arguments::{Arguments, did_you_mean};
pub use outcome::Failure;
use outcome::print;
use serde_json::json;
use std::ffi::OsString;
use std::path::Path;

/// Commands in the order in which help lists them.
const COMMANDS: [&str; 5] = ["edit", "models", "cache", "doctor", "serve"];

/// Letters by which a tuned model is named; two with the same ones are not to be expected.
const ID_LENGTH: usize = 8;

/// Runs the command that `arguments` (without the program's name) ask for.
pub fn run(arguments: &[OsString]) -> Result<(), Failure> {
    let Some((command, rest)) = arguments.split_first() else {
        return Err(Failure::Usage("say what to do: edit, models, cache or doctor".into()));
    };
    let command = command.to_string_lossy();
    let help_wanted = rest.iter().take_while(|arg| *arg != "--").any(|arg| arg == "--help" || arg == "-h");
    match command.as_ref() {
        "--help" | "-h" | "help" => {
            let topic = rest.first().map(|topic| topic.to_string_lossy());
            print(&topic.and_then(|topic| help::of_command(&topic)).unwrap_or_else(help::overview))?;
        }
        "--version" | "-V" => print(concat!("imagic-edit ", env!("CARGO_PKG_VERSION"), "\n"))?,
        name if COMMANDS.contains(&name) && help_wanted => {
            print(&help::of_command(name).expect("every command has a help text"))?
        }
        "edit" => edit::run(&edit::Order::parse(rest)?)?,
        "models" => models::run(rest)?,
        "cache" => cache(Arguments::parse(rest, &["json"], &[])?)?,
        "doctor" => {
            let arguments = Arguments::parse(rest, &["texts"], &["report"])?;
            arguments.no_more_words()?;
            let (text, well) = doctor::examine();
            print(&text)?;
            if let Some(file) = arguments.one("report")? {
                let texts = if arguments.has("texts") {
                    cache_list(
                        &engine_options()?.cache_folder.expect("the command line keeps tuned models on disk"),
                        false,
                    )?
                } else {
                    String::new()
                };
                doctor::report(Path::new(file), &text, &texts)?;
                print(&format!("\nwrote {}; read it before you send it\n", Path::new(file).display()))?;
            } else if arguments.has("texts") {
                return Err(Failure::Usage("--texts says what goes into a report: --report FILE".into()));
            }
            return if well { Ok(()) } else { Err(Failure::Unwell) };
        }
        "serve" => {
            Arguments::parse(rest, &[], &[])?.no_more_words()?;
            serve::run()?;
        }
        other => {
            let hint = did_you_mean("", other, COMMANDS.into_iter());
            return Err(Failure::Usage(format!("there is no command {other}{hint}")));
        }
    }
    Ok(())
}

fn cache(arguments: Arguments) -> Result<(), Failure> {
    let folder = engine_options()?.cache_folder.expect("the command line keeps tuned models on disk");
    let words: Vec<_> = arguments.words().iter().map(|word| word.to_string_lossy()).collect();
    match words.iter().map(|word| word.as_ref()).collect::<Vec<_>>()[..] {
        ["list"] => Ok(print(&cache_list(&folder, arguments.has("json"))?)?),
        ["clear"] => {
            let freed = cache::clear(&folder)?;
            Ok(print(&format!("removed {} of tuned models from {}\n", help::size(freed), folder.display()))?)
        }
        ["remove"] => Err(Failure::Usage("say what to remove: a picture, or letters, as cache list shows them".into())),
        ["remove", ref ids @ ..] => remove(&folder, ids),
        ["limit"] => Ok(print(&limit_text(&folder))?),
        ["limit", limit] => {
            cache_limit::set(bytes(limit)?)?;
            Ok(print(&limit_text(&folder))?)
        }
        [] => Err(Failure::Usage("say what to do with the cache: list or clear, remove or limit".into())),
        [other, ..] => Err(Failure::Usage(format!("the cache can list or clear, remove or limit, not {other}"))),
    }
}

/// Removes what `cache list` shows with `names`, pictures or letters, all of them or nothing.
fn remove(folder: &Path, names: &[&str]) -> Result<(), Failure> {
    let entries = cache::list(folder)?;
    let mut chosen: Vec<&Listed> = Vec::new();
    for wanted in names {
        let is_meant = |entry: &&Listed| {
            let document = entry.document.as_deref().unwrap_or_default();
            id(entry) == *wanted || document == *wanted || picture_name(entry).as_deref() == Some(*wanted)
        };
        let of_id: Vec<&Listed> = entries.iter().filter(is_meant).collect();
        if of_id.is_empty() {
            let hint = "imagic-edit cache list shows what there is";
            return Err(Error::Host(Text::verbatim(format!("there is no tuned model {wanted}; {hint}"))).into());
        }
        chosen.extend(
            of_id.into_iter().filter(|entry| chosen.iter().all(|known| known.file != entry.file)).collect::<Vec<_>>(),
        );
    }
    let count = chosen.len();
    let mut freed = 0;
    for entry in chosen {
        if !cache::remove(entry)? {
            let id = id(entry);
            return Err(Error::Host(Text::verbatim(format!("{id} is in use; try again when the edit is done"))).into());
        }
        freed += entry.bytes;
    }
    let what = if count == 1 { "one".to_owned() } else { count.to_string() };
    Ok(print(&format!("removed {what}, {} from {}\n", help::size(freed), folder.display()))?)
}

fn limit_text(folder: &Path) -> String {
    let (limit, set) = (help::size(cache_limit::limit(folder)), cache_limit::set_limit());
    let why = if set.is_some() { "as it was set" } else { "a fifth of the free disk" };
    format!("tuned models may take {limit} ({why}) in {}\n", folder.display())
}

/// "20GB", "500 MB" or "5000B"; `None` for "automatic".
fn bytes(text: &str) -> Result<Option<u64>, Failure> {
    if text == "automatic" {
        return Ok(None);
    }
    let upper = text.to_uppercase();
    let number = upper.trim_end_matches(|letter: char| letter.is_alphabetic());
    let unit = match &upper[number.len()..] {
        "B" => Some(1.0),
        "MB" | "M" => Some(1e6),
        "GB" | "G" => Some(1e9),
        "TB" | "T" => Some(1e12),
        _ => None,
    };
    let bytes = unit.zip(number.trim().parse::<f64>().ok()).map(|(unit, number)| unit * number);
    let wrong = || Failure::Usage(format!("the limit is {text}, must be a size such as 20GB, or automatic"));
    bytes.filter(|bytes| (0.0..1e18).contains(bytes)).map(|bytes| Some(bytes as u64)).ok_or_else(wrong)
}

fn cache_list(folder: &Path, as_json: bool) -> Result<String, Error> {
    let entries = cache::list(folder)?;
    let days = |entry: &Listed| entry.used.elapsed().unwrap_or_default().as_secs() / 86_400;
    if as_json {
        let row = |entry: &Listed| {
            let (kind, steps) = match entry.kind {
                Kind::Tuned => ("tuned", None),
                Kind::Unfinished { done, all } => ("unfinished", Some([done, all])),
                Kind::Unusable => ("unusable", None),
            };
            json!({
                "kind": kind,
                "steps": steps,
                "id": id(entry),
                "file": entry.file.to_string_lossy(),
                "picture": entry.picture,
                "bytes": entry.bytes,
                "days_unused": days(entry),
                "prompt": entry.prompt,
                "model": entry.model,
                "document": entry.document,
                "name": picture_name(entry),
            })
        };
        return Ok(format!("{:#}\n", json!({ "tuned_models": entries.iter().map(row).collect::<Vec<_>>() })));
    }
    let mut text = String::new();
    for entry in &entries {
        let prompt = entry.prompt.as_deref().unwrap_or("(damaged)");
        let state = match entry.kind {
            Kind::Unfinished { done, all } => format!(" (stopped at step {done} of {all})"),
            Kind::Unusable if entry.prompt.is_some() => " (of another version, or damaged)".to_owned(),
            _ => String::new(),
        };
        let age = match days(entry) {
            0 => "used today".to_owned(),
            1 => "used yesterday".to_owned(),
            days => format!("used {days} days ago"),
        };
        text += &format!("{:>8}  {age}  {}{state}\n", help::size(entry.bytes), clipped(prompt));
        let picture = entry.picture.map(|[width, height]| format!("{width}x{height}"));
        let name = picture_name(entry);
        let document =
            entry.document.clone().filter(|document| !document.is_empty() && Some(document) != name.as_ref());
        let more: Vec<String> = [Some(id(entry)), name, picture, document].into_iter().flatten().collect();
        text += &format!("          {}\n", more.join("  "));
    }
    let total = entries.iter().map(|entry| entry.bytes).sum();
    let tuned = entries.iter().filter(|entry| entry.kind == Kind::Tuned).count();
    Ok(text + &format!("{tuned} tuned models, {} in {}\n", help::size(total), folder.display()))
}

/// The name of the picture's file, or "document" and the first digits of a document of an editor.
fn picture_name(entry: &Listed) -> Option<String> {
    const DIGITS: usize = 32;
    let document = entry.document.as_deref().filter(|document| !document.is_empty())?;
    if document.len() == DIGITS && document.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return Some(format!("document-{}", &document[..ID_LENGTH]));
    }
    Some(Path::new(document).file_name()?.to_string_lossy().into_owned())
}

/// What `cache remove` knows an entry by.
fn id(entry: &Listed) -> String {
    entry.file.file_stem().unwrap_or_default().to_string_lossy().chars().take(ID_LENGTH).collect()
}
