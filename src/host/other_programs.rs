//! Where other programs keep their models, on every system: their usual folders, and those that their environment
//! variables and files of settings name. Reads nothing else of theirs.
#![forbid(unsafe_code)]

use crate::catalog::shelves::{Kind, Shelf};
use crate::files;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Bytes of a file of settings that are read.
const MOST_SETTINGS: u64 = 1 << 20;

/// All folders of other programs that are there.
pub fn shelves() -> Vec<Shelf> {
    let folders = Folders {
        home: dirs::home_dir(),
        documents: dirs::document_dir(),
        data: dirs::data_dir(),
        config: dirs::config_dir(),
        variable: |name| std::env::var_os(name).filter(|value| !value.is_empty()),
    };
    folders.shelves()
}

/// The folder in which Hugging Face's programs keep the token and the cache:
/// <https://huggingface.co/docs/huggingface_hub/package_reference/environment_variables>.
pub fn hugging_face_home(variable: impl Fn(&str) -> Option<OsString>, home: Option<PathBuf>) -> Option<PathBuf> {
    let cache = || variable("XDG_CACHE_HOME").map(PathBuf::from).or_else(|| Some(home?.join(".cache")));
    variable("HF_HOME").map(PathBuf::from).or_else(|| Some(cache()?.join("huggingface")))
}

/// What the places follow from.
struct Folders {
    home: Option<PathBuf>,
    documents: Option<PathBuf>,
    data: Option<PathBuf>,
    config: Option<PathBuf>,
    variable: fn(&str) -> Option<OsString>,
}

impl Folders {
    fn shelves(&self) -> Vec<Shelf> {
        let in_home = |names: &[&str]| names.iter().filter_map(|name| Some(self.home.as_ref()?.join(name))).collect();
        let mut shelves = Vec::new();
        let mut add = |program, folder: PathBuf, kind| {
            if folder.is_dir() {
                shelves.push(Shelf { program, folder, kind });
            }
        };

        // Where its manual, comfy-cli and the desktop program put it.
        let mut comfy: Vec<PathBuf> =
            in_home(&["ComfyUI", "comfy/ComfyUI", "Documents/ComfyUI", "Documents/comfy/ComfyUI"]);
        comfy.extend(self.documents.iter().map(|documents| documents.join("ComfyUI")));
        for root in &comfy {
            add("ComfyUI", root.join("models/checkpoints"), Kind::Checkpoints);
            for folder in extra_checkpoints(&root.join("extra_model_paths.yaml")) {
                add("ComfyUI", folder, Kind::Checkpoints);
            }
        }
        // The desktop program's own settings.
        let settings = self.config.iter().map(|config| config.join("ComfyUI/extra_models_config.yaml"));
        for folder in settings.flat_map(|settings| extra_checkpoints(&settings)) {
            add("ComfyUI", folder, Kind::Checkpoints);
        }

        let webuis: [(&str, &[&str]); 2] = [
            ("A1111", &["stable-diffusion-webui", "sd-webui", "automatic1111"]),
            ("Forge", &["stable-diffusion-webui-forge", "sd-webui-forge", "webui_forge/webui"]),
        ];
        for (program, names) in webuis {
            let roots: Vec<PathBuf> = in_home(names);
            for root in roots {
                add(program, root.join("models/Stable-diffusion"), Kind::Checkpoints);
            }
        }

        let invoke = (self.variable)("INVOKEAI_ROOT").map(PathBuf::from);
        if let Some(root) = invoke.or_else(|| Some(self.home.as_ref()?.join("invokeai"))) {
            add("InvokeAI", root.join("models"), Kind::Checkpoints);
        }

        // Qt's AppDataLocation of Krita, or the package's own folder where there is none.
        for name in ["krita/ai_diffusion", "krita-ai-diffusion"] {
            let server = self.data.iter().map(|data| data.join(name).join("server"));
            for server in server {
                for models in ["models/checkpoints", "ComfyUI/models/checkpoints"] {
                    add("Krita AI Diffusion", server.join(models), Kind::Checkpoints);
                }
            }
        }

        let cache = ["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"].into_iter().find_map(self.variable).map(PathBuf::from);
        let home = || Some(hugging_face_home(self.variable, self.home.clone())?.join("hub"));
        if let Some(cache) = cache.or_else(home) {
            add("Hugging Face", cache, Kind::HubCache);
        }
        shelves
    }
}

/// The folders of checkpoints that ComfyUI's `extra_model_paths.yaml` names: in each block of it paths below
/// `base_path`, one behind the key or several in the lines below it.
fn extra_checkpoints(file: &Path) -> Vec<PathBuf> {
    let is_short = file.metadata().is_ok_and(|about| about.is_file() && about.len() <= MOST_SETTINGS);
    let text = if is_short { files::read_text(file).unwrap_or_default() } else { String::new() };
    let (mut base, mut folders) = (PathBuf::new(), Vec::new());
    // How far the key stands in below which paths come.
    let mut list: Option<usize> = None;
    for line in text.lines() {
        let (indent, line) = (line.len() - line.trim_start().len(), line.trim());
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if indent == 0 {
            (base, list) = (file.parent().unwrap_or(Path::new("")).to_owned(), None);
        }
        if list.is_some_and(|key| indent > key) {
            folders.push(base.join(path(line)));
            continue;
        }
        list = None;
        match line.split_once(':').map(|(key, value)| (key, value.trim())) {
            Some(("base_path", value)) => base = base.join(path(value)),
            Some(("checkpoints", "|" | "|-" | ">" | "")) => list = Some(indent),
            Some(("checkpoints", value)) => folders.push(base.join(path(value))),
            _ => {}
        }
    }
    folders
}

/// A path of YAML: without quotes and the dash of a list, `~` as the home.
fn path(text: &str) -> PathBuf {
    let text = text.strip_prefix("- ").unwrap_or(text).trim();
    crate::catalog::written::path_of(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn make(folder: &Path) {
        std::fs::create_dir_all(folder).expect("a folder");
    }

    #[test]
    fn the_usual_places_of_other_programs_are_known() {
        let place = tempfile::tempdir().expect("a folder");
        let home = place.path();
        let expected = [
            ("ComfyUI", "ComfyUI/models/checkpoints"),
            ("ComfyUI", "more/ckpt"),
            ("ComfyUI", "Documents/ComfyUI/models/checkpoints"),
            ("A1111", "stable-diffusion-webui/models/Stable-diffusion"),
            ("Forge", "stable-diffusion-webui-forge/models/Stable-diffusion"),
            ("InvokeAI", "invokeai/models"),
            ("Krita AI Diffusion", "share/krita/ai_diffusion/server/models/checkpoints"),
            ("Hugging Face", ".cache/huggingface/hub"),
        ];
        for (_, folder) in expected {
            make(&home.join(folder));
        }
        let yaml = format!("comfyui:\n  base_path: {}\n  checkpoints: ckpt\n", home.join("more").display());
        std::fs::write(home.join("ComfyUI/extra_model_paths.yaml"), yaml).expect("a file");
        let folders = |variable| Folders {
            home: Some(home.to_owned()),
            documents: None,
            data: Some(home.join("share")),
            config: None,
            variable,
        };
        let found = folders(|_| None).shelves();
        let found: Vec<_> = found.iter().map(|shelf| (shelf.program, shelf.folder.clone())).collect();
        assert_eq!(found, expected.map(|(program, folder)| (program, home.join(folder))));
        let moved = folders(|name| (name == "HF_HUB_CACHE").then(|| "/dev".into())).shelves();
        assert_eq!(moved.last().map(|shelf| shelf.folder.as_path()), Some(Path::new("/dev")));
        let none = Folders { home: None, documents: None, data: None, config: None, variable: |_| None };
        assert_eq!(none.shelves(), []);
    }

    #[test]
    fn settings_of_comfyui_are_read() {
        let place = tempfile::tempdir().expect("a folder");
        let file = place.path().join("extra_model_paths.yaml");
        std::fs::write(
            &file,
            "#comment\na111:\n    base_path: /webui/\n    checkpoints: models/Stable-diffusion\n    loras: x\n\n\
             comfyui:\n    base_path: \"/data/models\"\n    is_default: true\n    checkpoints: |\n        checkpoints\n\
             \x20       /other/checkpoints\n    vae: vae\nthird:\n  checkpoints: here\n",
        )
        .expect("a file");
        let expected = ["/webui/models/Stable-diffusion", "/data/models/checkpoints", "/other/checkpoints"];
        let here = place.path().join("here");
        let expected: Vec<_> = expected.iter().map(PathBuf::from).chain([here]).collect();
        assert_eq!(extra_checkpoints(&file), expected);
        assert!(extra_checkpoints(place.path()).is_empty());
    }

    #[test]
    fn the_home_of_hugging_face_follows_its_variables() {
        let home = Some(PathBuf::from("/home/a"));
        let at = |names: &'static [(&'static str, &'static str)]| {
            let variable = move |name: &str| names.iter().find(|(known, _)| *known == name).map(|(_, v)| v.into());
            hugging_face_home(variable, home.clone())
        };
        assert_eq!(at(&[]), Some("/home/a/.cache/huggingface".into()));
        assert_eq!(at(&[("XDG_CACHE_HOME", "/c")]), Some("/c/huggingface".into()));
        assert_eq!(at(&[("XDG_CACHE_HOME", "/c"), ("HF_HOME", "/h")]), Some("/h".into()));
    }
}
