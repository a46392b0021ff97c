//! Folders in which other programs keep models: which files and folders of theirs may be one. Changes nothing there,
//! goes only so deep and looks at only so much.
#![forbid(unsafe_code)]

use crate::engine::model::source::{Source, is_safetensors};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Folders within each other.
const DEPTH: usize = 3;

/// Entries of folders that are looked at, in all of them together: more than two hundred models with their previews and
/// notes.
const ENTRIES: usize = 5000;

/// Models that are found at most.
const MODELS: usize = 500;

/// What is smaller and no model of ours is none of anybody's: a LoRA, a VAE, an embedding.
pub const LEAST: u64 = 300_000_000;

/// Folders of what no base model is, by their names in lower case.
const OTHERS: [&str; 17] = [
    "lora",
    "loras",
    "lycoris",
    "vae",
    "vae_approx",
    "embedding",
    "embeddings",
    "controlnet",
    "control_lora",
    "t2i_adapter",
    "ip_adapter",
    "clip",
    "clip_vision",
    "hypernetworks",
    "upscale_models",
    "esrgan",
    "node_modules",
];

/// A folder of another program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shelf {
    /// Whose it is, as people call the program.
    pub program: &'static str,
    /// The folder.
    pub folder: PathBuf,
    /// What lies in it.
    pub kind: Kind,
}

/// How a folder is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Files and folders of models, also in folders.
    Checkpoints,
    /// The cache of Hugging Face: `models--OWNER--NAME`.
    HubCache,
}

/// What may be models on `shelves`, in their order, each once.
pub fn candidates(shelves: &[Shelf]) -> Vec<(&'static str, PathBuf)> {
    let mut search = Search { seen: BTreeSet::new(), entries: 0, found: Vec::new() };
    for shelf in shelves {
        let mut found = Vec::new();
        match shelf.kind {
            Kind::Checkpoints => search.look(&shelf.folder, DEPTH, &mut found),
            Kind::HubCache => search.look_at_cache(&shelf.folder, &mut found),
        }
        let left = MODELS.saturating_sub(search.found.len());
        search.found.extend(found.into_iter().take(left).map(|path| (shelf.program, path)));
    }
    search.found
}

struct Search {
    /// Folders that were looked at: links may lead in circles.
    seen: BTreeSet<PathBuf>,
    entries: usize,
    found: Vec<(&'static str, PathBuf)>,
}

impl Search {
    /// The entries of `folder`, sorted; none where it was looked at before.
    fn entries(&mut self, folder: &Path) -> Vec<PathBuf> {
        let Ok(real) = folder.canonicalize() else { return Vec::new() };
        if !self.seen.insert(real) {
            return Vec::new();
        }
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let mut paths: Vec<_> = entries.take(ENTRIES - self.entries).map(|entry| entry.path()).collect();
        self.entries += paths.len();
        paths.sort();
        paths
    }

    fn look(&mut self, folder: &Path, depth: usize, found: &mut Vec<PathBuf>) {
        for path in self.entries(folder) {
            let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
            if name.starts_with('.') || OTHERS.contains(&name.as_str()) {
                continue;
            }
            if path.is_dir() {
                if path.join("model_index.json").is_file() || path.join("unet").is_dir() {
                    found.push(path);
                } else if depth > 0 {
                    self.look(&path, depth - 1, found);
                }
            } else if is_checkpoint(&path) {
                found.push(path);
            }
        }
    }

    /// Of the many models in this cache, those of diffusers, and single checkpoints.
    fn look_at_cache(&mut self, folder: &Path, found: &mut Vec<PathBuf>) {
        let is_model = |path: &PathBuf| path.file_name().unwrap_or_default().to_string_lossy().starts_with("models--");
        for path in self.entries(folder).into_iter().filter(is_model) {
            let place = Source::place(&path);
            if place.join("model_index.json").is_file() || Source::is_model(&place) {
                found.push(path);
            }
        }
    }
}

/// Whether a file of that name may be a checkpoint, of which kind so ever.
pub fn is_checkpoint(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    let is_other = [".ckpt", ".gguf"].iter().any(|ending| name.ends_with(ending));
    (is_safetensors(path) && !name.ends_with(".vae.safetensors") || is_other) && path.is_file()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(path: &Path) {
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        std::fs::write(path, "x").expect("a file");
    }

    #[test]
    fn models_are_found_in_folders_and_circles_end() {
        let place = tempfile::tempdir().expect("a folder");
        let at = |name: &str| place.path().join(name);
        for file in
            ["b/a.safetensors", "a.ckpt", "a.vae.safetensors", "a.png", "loras/l.safetensors", ".h/h.safetensors"]
        {
            put(&at("shelf").join(file));
        }
        put(&at("shelf/d/unet/config.json"));
        put(&at("shelf/1/2/3/near.safetensors"));
        put(&at("shelf/1/2/3/4/far.safetensors"));
        #[cfg(unix)]
        std::os::unix::fs::symlink(at("shelf"), at("shelf/b/circle")).expect("a link");
        let shelf = |folder| Shelf { program: "ComfyUI", folder, kind: Kind::Checkpoints };
        let found = candidates(&[shelf(at("shelf")), shelf(at("none")), shelf(at("shelf"))]);
        let names: Vec<_> = found.iter().map(|(_, path)| path.strip_prefix(at("shelf")).expect("there")).collect();
        assert_eq!(names, ["1/2/3/near.safetensors", "a.ckpt", "b/a.safetensors", "d"].map(Path::new));
    }

    #[test]
    fn only_so_much_is_looked_at() {
        let place = tempfile::tempdir().expect("a folder");
        for number in 0..MODELS + 10 {
            put(&place.path().join(format!("{number}.safetensors")));
        }
        let shelf = Shelf { program: "Forge", folder: place.path().to_owned(), kind: Kind::Checkpoints };
        assert_eq!(candidates(&[shelf]).len(), MODELS);
        let mut search = Search { seen: BTreeSet::new(), entries: ENTRIES - 5, found: Vec::new() };
        assert_eq!(search.entries(place.path()).len(), 5);
        assert!(search.entries(place.path()).is_empty());
    }

    #[test]
    fn of_the_cache_of_hugging_face_only_checkpoints_count() {
        let place = tempfile::tempdir().expect("a folder");
        let at = |name: &str| place.path().join(name);
        put(&at("models--a--sd/snapshots/1/unet/config.json"));
        put(&at("models--a--flux/snapshots/1/model_index.json"));
        put(&at("models--a--one/snapshots/1/one.safetensors"));
        put(&at("models--a--llm/snapshots/1/model-00001-of-00002.safetensors"));
        put(&at("models--a--llm/snapshots/1/model-00002-of-00002.safetensors"));
        put(&at("datasets--a--b/snapshots/1/one.safetensors"));
        let shelf = Shelf { program: "Hugging Face", folder: place.path().to_owned(), kind: Kind::HubCache };
        let found: Vec<_> = candidates(&[shelf]).into_iter().map(|(_, path)| path).collect();
        assert_eq!(found, ["models--a--flux", "models--a--one", "models--a--sd"].map(at));
    }
}
