//! What others wrote and we ship: their licenses are ones that allow it, and their notices are shipped, too.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const NOTICES: &str = "installer/THIRD-PARTY.txt";

/// A package that is part of the library or the launcher.
struct Package {
    name: String,
    version: String,
    license: String,
    folder: PathBuf,
}

/// Sorted by name and version. What only builds or tests is not shipped.
static SHIPPED: LazyLock<Vec<Package>> = LazyLock::new(|| {
    let mut command = Command::new(env!("CARGO"));
    command.args(["metadata", "--format-version", "1", "--locked", "--offline"]);
    command
        .args(["--filter-platform", "x86_64-unknown-linux-gnu", "--manifest-path"])
        .arg(Path::new(ROOT).join("Cargo.toml"));
    let output = command.output().expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let by_id =
        |items: &Value| list(items).into_iter().map(|item| (text(&item["id"]), item)).collect::<BTreeMap<_, _>>();
    let (packages, nodes) = (by_id(&metadata["packages"]), by_id(&metadata["resolve"]["nodes"]));
    let root = text(&metadata["resolve"]["root"]);
    let (mut shipped, mut waiting) = (BTreeSet::new(), vec![root.clone()]);
    while let Some(id) = waiting.pop() {
        for dependency in list(&nodes[&id]["deps"]) {
            let is_shipped = list(&dependency["dep_kinds"]).iter().any(|kind| kind["kind"].is_null());
            let id = text(&dependency["pkg"]);
            if is_shipped && shipped.insert(id.clone()) {
                waiting.push(id);
            }
        }
    }
    let package = |id: &String| {
        let package = &packages[id];
        Package {
            name: text(&package["name"]),
            version: text(&package["version"]),
            license: text(&package["license"]),
            folder: PathBuf::from(text(&package["manifest_path"])).parent().expect("a folder").to_owned(),
        }
    };
    let mut shipped: Vec<Package> = shipped.iter().map(package).collect();
    shipped.sort_by(|a, b| (&a.name, &a.version).cmp(&(&b.name, &b.version)));
    assert!(shipped.len() > 100, "only {} packages", shipped.len());
    shipped
});

/// Texts of licenses and notices in a folder and those in it: libraries in C have their own.
fn texts_in(folder: &Path, depth: usize) -> Vec<String> {
    let mut entries: Vec<PathBuf> =
        std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()).collect();
    entries.sort();
    let is_notice = |path: &Path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_uppercase();
        ["LICENSE", "LICENCE", "COPYING", "NOTICE", "UNLICENSE"].iter().any(|start| name.starts_with(start))
    };
    let (folders, files): (Vec<PathBuf>, Vec<PathBuf>) = entries.into_iter().partition(|path| path.is_dir());
    let read = |path: &PathBuf| String::from_utf8_lossy(&std::fs::read(path).expect("it can be read")).into_owned();
    let own = files.iter().filter(|path| is_notice(path)).map(read);
    let inner = folders.iter().filter(|_| depth > 0).flat_map(|folder| texts_in(folder, depth - 1));
    own.chain(inner.collect::<Vec<_>>()).collect()
}

fn notices() -> String {
    let mut all = String::from(
        "Imagic Edit contains the packages below, each under the license that its line names. The texts of these\n\
         licenses, with the notices of their authors, follow. Written by tests/notices.rs.\n\n",
    );
    // Texts that differ in blanks and ends of lines only are one.
    let mut texts: BTreeMap<String, (String, Vec<String>)> = BTreeMap::new();
    for Package { name, version, license, folder } in &*SHIPPED {
        all += &format!("{name} {version}: {license}\n");
        for text in texts_in(folder, 3) {
            let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
            let lines = text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n");
            let users = &mut texts.entry(words).or_insert((lines, Vec::new())).1;
            if !users.contains(name) {
                users.push(name.clone());
            }
        }
    }
    let mut texts: Vec<(String, Vec<String>)> = texts.into_values().collect();
    texts.sort_by(|a, b| (&a.1, &a.0).cmp(&(&b.1, &b.0)));
    for (text, users) in texts {
        all += &format!("\n{}\n{}\n\n{}\n", "-".repeat(100), users.join(", "), text.trim_matches('\n'));
    }
    all
}

#[test]
fn the_notices_of_everybody_whose_work_is_shipped_are_shipped() {
    let path = Path::new(ROOT).join(NOTICES);
    let new = notices();
    if std::fs::read_to_string(&path).ok().as_ref() != Some(&new) {
        std::fs::write(&path, new).expect("it can be written");
        panic!("{NOTICES} was out of date and has been written anew; look at the change and commit it");
    }
    let installer = std::fs::read_to_string(Path::new(ROOT).join("installer/install.sh")).expect("the installer");
    assert!(installer.contains(NOTICES));
}

/// What stands between quotation marks in the list `name` of deny.toml.
fn listed(name: &str) -> Vec<String> {
    let text = std::fs::read_to_string(Path::new(ROOT).join("deny.toml")).expect("deny.toml");
    let list = text.split_once(&format!("\n{name} = [")).expect(name).1;
    let list = list.split_once("\n]").expect("its end").0;
    let lines = list.lines().map(str::trim).filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.split('"').nth(1).map(str::to_owned)).collect()
}

/// Whether the expression can be met with licenses of `allowed`.
fn is_met(expression: &str, allowed: &[String]) -> bool {
    // The slash is an older way to write OR; brackets only stand around an OR before an AND.
    let expression = expression.replace(" / ", " OR ").replace('/', " OR ");
    let one = |name: &str| allowed.iter().any(|allowed| allowed == name.trim());
    expression.split(" AND ").all(|part| part.trim_matches(['(', ')', ' ']).split(" OR ").any(one))
}

#[test]
fn every_license_is_allowed_and_no_package_is_there_twice_without_a_reason() {
    let allowed = listed("allow");
    for Package { name, license, .. } in &*SHIPPED {
        assert!(is_met(license, &allowed), "{name} is licensed as {license}, and deny.toml allows {allowed:?}");
    }
    let used = |allowed: &String| {
        SHIPPED.iter().any(|package| {
            is_met(&package.license, std::slice::from_ref(allowed)) || package.license.contains(&**allowed)
        })
    };
    for license in &allowed {
        assert!(used(license), "nobody needs {license} in deny.toml");
    }
    assert!(!is_met("GPL-3.0", &allowed) && !is_met("(MIT OR Zlib) AND GPL-3.0", &allowed));

    let (mut twice, mut last) = (Vec::new(), "");
    for Package { name, .. } in &*SHIPPED {
        if name == last && twice.last() != Some(name) {
            twice.push(name.clone());
        }
        last = name;
    }
    let skipped: BTreeSet<String> =
        listed("skip").iter().map(|name| name.split('@').next().unwrap_or_default().to_owned()).collect();
    assert_eq!(BTreeSet::from_iter(twice), skipped, "packages in two versions, and those that deny.toml explains");
}
