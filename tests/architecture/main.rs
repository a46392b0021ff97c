//! What `src/lib.rs` says of the layers, read off the source files.

mod arrows;

use arrows::Files;
use std::path::{Path, PathBuf};

/// Whoever stands further down imports nobody who stands further up; files of one line are a wing or a room of their
/// own.
const STORIES: [&str; 24] = [
    "host",
    "job",
    "catalog",
    "engine",
    "engine::detail",
    "engine::sampling",
    "engine::candidates",
    "engine::inversion",
    "engine::tuned",
    "engine::auxiliary",
    "engine::imagic",
    "engine::base",
    "engine::about",
    "engine::store",
    "engine::budget",
    "engine::machine",
    "engine::tuning",
    "engine::request",
    "engine::model",
    "engine::picture",
    "engine::ops",
    "engine::device",
    "engine::random",
    "engine::stop",
];

/// What everybody may import, each of them those behind it.
const LEAVES: [&str; 5] = ["params", "files", "error", "image", "text"];

fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    let mut folders = vec![root.join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a source folder").map(|entry| entry.expect("an entry").path()) {
            if entry.is_dir() {
                folders.push(entry);
            } else if entry.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&entry).expect("a source file");
                files.push((entry.strip_prefix(&root).expect("under src").to_owned(), text));
            }
        }
    }
    files.sort();
    files
}

/// Lines that are neither comments nor empty.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("//"))
}

/// No line of code of the files that `concerns` picks contains one of `words`.
fn check(rule: &str, concerns: impl Fn(&str) -> bool, words: &[&str]) {
    let mut seen = 0;
    for (path, text) in sources(".") {
        let path = path.to_string_lossy().replace("./", "");
        if concerns(&path) {
            seen += 1;
            for line in code(&text) {
                for word in words {
                    assert!(!line.contains(word), "{rule}: src/{path} has `{line}`");
                }
            }
        }
    }
    assert!(seen > 0, "{rule}: no file to look at");
}

#[test]
fn the_engine_knows_no_host_and_no_environment() {
    let engine = |path: &str| path == "engine.rs" || path.starts_with("engine/");
    check(
        "the engine knows no host",
        engine,
        &["crate::host", "crate::job", "gimp", "gtk", "dirs::", "std::env", "env::var"],
    );
}

#[test]
fn hosts_know_no_tensor_and_the_worker_neither() {
    let host = |path: &str| path == "host.rs" || path.starts_with("host/");
    check("hosts know no tensor", host, &["candle_", "Tensor", "safetensors::"]);
    check("the worker knows no tensor and no host", |path| path == "job.rs", &["candle_", "Tensor", "crate::host"]);
}

#[test]
fn leaves_know_nobody() {
    let leaf = |path: &str| ["image.rs", "params.rs", "error.rs", "text.rs"].contains(&path);
    check("leaves know nobody", leaf, &["crate::engine", "crate::host", "crate::job"]);
}

#[test]
fn the_catalogue_knows_where_models_are_and_no_tensor() {
    check("the catalogue opens no weights", |path| path == "catalog.rs", &["candle_", "Tensor", "crate::host"]);
}

#[test]
fn unsafe_code_stays_where_it_is_allowed() {
    let outside = |path: &str| {
        // Calls that the compiler cannot check: of the gemm crate, of kernels and cuBLAS, of the driver, of what is
        // found when the program runs.
        let calls = [
            "engine/ops/gemm.rs",
            "engine/ops/gpu/cuda.rs",
            "engine/ops/gpu/tests/host.rs",
            "engine/device/cuda.rs",
            "engine/device/symbols.rs",
        ];
        !(path.starts_with("host/") || path == "main.rs" || path == "lib.rs" || calls.contains(&path))
    };
    check("no unsafe here", outside, &["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern"]);
}

/// What has to do with CUDA stands in two folders; an operation beside them has one line for it at most.
#[test]
fn cuda_is_in_its_two_rooms() {
    const CUDA: &str = "feature = \"cuda\"";
    let in_rooms = |path: &str| path.starts_with("engine/ops/gpu") || path.starts_with("engine/device");
    let is_operation = |path: &str| path == "engine/ops.rs" || path.starts_with("engine/ops/");
    check("CUDA stays in its rooms", |path| !in_rooms(path) && !is_operation(path), &[CUDA]);
    for (path, text) in sources("engine/ops") {
        let lines = code(&text).filter(|line| line.contains(CUDA)).count();
        assert!(lines <= 1 || in_rooms(&path.to_string_lossy()), "src/{} has {lines} lines for CUDA", path.display());
    }
}

#[test]
fn only_one_file_opens_connections() {
    check(
        "no network",
        |path| path != "host/cli/hub.rs",
        &["std::net", "TcpStream", "UdpSocket", "reqwest", "ureq", "hf_hub"],
    );
}

/// Whoever opens a pipe waits for the other end, and a device gives no end: `files::open` refuses both.
#[test]
fn files_are_opened_by_one_file() {
    for (path, text) in sources(".") {
        let path = path.to_string_lossy().replace("./", "");
        // What the system tells of itself under /proc and /sys.
        if path == "files.rs" || path.starts_with("host/system/") {
            continue;
        }
        let without_tests = text.split("#[cfg(test)]\nmod tests").next().expect("a first part");
        for line in code(without_tests) {
            let opens = line.replace("TensorFile::open(", "").contains("File::open(");
            assert!(
                !opens && !line.contains("fs::read(") && !line.contains("fs::read_to_string("),
                "src/{path}: {line}"
            );
        }
    }
}

fn files() -> Files {
    Files::of(sources(".").into_iter().map(|(path, text)| (path.to_string_lossy().replace("./", ""), text)))
}

/// The story of a module: its place in [`STORIES`] and then in [`LEAVES`].
fn story(module: &str) -> Option<usize> {
    let stories = STORIES.iter().chain(&LEAVES).enumerate();
    let holds = |wing: &str| module == wing || module.strip_prefix(wing).is_some_and(|rest| rest.starts_with("::"));
    // The most exact name: `engine::model` before `engine`.
    stories.filter(|(_, wing)| holds(wing)).max_by_key(|(_, wing)| wing.len()).map(|(story, _)| story)
}

#[test]
fn no_file_imports_one_of_a_story_above() {
    let files = files();
    let mut upwards = Vec::new();
    for (module, imports) in files.arrows() {
        // The root declares everybody.
        if module.is_empty() {
            continue;
        }
        let own = story(module).unwrap_or_else(|| panic!("{module} has no story; give it one in STORIES"));
        let is_above = |other: &&&str| story(other).is_some_and(|story| story < own);
        upwards.extend(imports.iter().filter(is_above).map(|other| format!("{module} imports {other}")));
    }
    assert!(upwards.is_empty(), "{upwards:#?}");
}

/// The map at the top of `src/lib.rs` has the stories from above, and every file and folder of the engine is one.
#[test]
fn the_map_is_that_of_the_files() {
    let root = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).expect("the root");
    let map = root.split("```").nth(1).expect("a map");
    let place = |module: &str| {
        let name = module.replace("::", "/");
        let found = [format!(" {name}.rs"), format!(" {name}/")].iter().filter_map(|name| map.find(name)).min();
        found.unwrap_or_else(|| panic!("{name} is not on the map of src/lib.rs"))
    };
    let places = STORIES[1..].iter().chain(&LEAVES).map(|module| (place(module), *module)).collect::<Vec<_>>();
    assert!(places.is_sorted(), "another order on the map of src/lib.rs: {places:#?}");
    for (module, _) in files().arrows() {
        let is_room = module.strip_prefix("engine::").is_some_and(|name| !name.contains("::"));
        assert!(!is_room || STORIES.contains(&module), "{module} has no story of its own");
    }
}

#[test]
fn no_two_files_import_each_other_in_a_loop() {
    let files = files();
    let arrows = files.arrows();
    let mut loops = Vec::new();
    for &start in arrows.keys().filter(|module| !module.is_empty()) {
        // Whom the module leads to, with the one before each.
        let mut before = std::collections::BTreeMap::from([(start, start)]);
        let mut waiting = vec![start];
        while let Some(module) = waiting.pop() {
            for &next in arrows[module].iter().filter(|next| !next.is_empty()) {
                if next == start {
                    let mut way = vec![start];
                    let mut at = module;
                    while at != start {
                        way.push(at);
                        at = before[at];
                    }
                    way.push(start);
                    loops.push(way.into_iter().rev().collect::<Vec<_>>().join(" -> "));
                } else if !before.contains_key(next) {
                    before.insert(next, module);
                    waiting.push(next);
                }
            }
        }
    }
    assert!(loops.is_empty(), "{loops:#?}");
}
