//! What the tests of every GIMP share: a photo, what scripts report, and the steps of a walk that are the same.

use super::screen::{DIALOG, HIGHEST, Screen, image_with, resume_points, tuned_models};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

/// A small photo in `folder`.
pub fn photo(folder: &Path) -> PathBuf {
    let photo = folder.join("photo.png");
    image::RgbImage::from_fn(320, 240, |x, y| image::Rgb([(x / 2) as u8, y as u8, 120]))
        .save(&photo)
        .expect("a picture");
    photo
}

/// What `imagic.json` says of the small model of the fixtures.
pub fn about_model(preset: &Value) -> String {
    let about = json!({
        "description": "Draws noise; made for tests.",
        "examples": ["a red square", "a <bold> & blue square"],
        "preset": preset,
    });
    about.to_string()
}

/// The lines that `script` told in `folder`, none of which is a failure; what GIMP wrote on the console is in
/// console.txt.
pub fn report(folder: &Path, script: &str, console: &Output) -> Vec<String> {
    let console = String::from_utf8_lossy(&console.stderr) + String::from_utf8_lossy(&console.stdout);
    std::fs::write(folder.join("console.txt"), console.as_bytes()).expect("a temporary folder");
    let report = std::fs::read_to_string(folder.join("report.txt")).unwrap_or_default();
    // gimp-console ends with success whatever happens in a script.
    assert!(report.ends_with("the end\n"), "{script} stopped\n{report}\n{console}");
    assert!(!report.contains("FAILED"), "{report}\n{console}");
    report.lines().map(str::to_owned).collect()
}

/// The JSON object in the line that begins with `word`.
pub fn told(lines: &[String], word: &str) -> Value {
    let text =
        lines.iter().find_map(|line| line.strip_prefix(word)).unwrap_or_else(|| panic!("no {word} in {lines:#?}"));
    serde_json::from_str(text.trim()).unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// A picture that a script saved.
pub fn picture(path: &Path) -> image::RgbaImage {
    image::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).into_rgba8()
}

/// The dialog is open: its first edit.
pub fn first_edit(screen: &Screen) {
    screen.write("a red square");
    screen.settle();
    screen.picture("2-dialog");
    screen.keys(&["Return"]);
    screen.wait_until("the first result", || screen.shows(&image_with("2 layers")));
    screen.settle();
    screen.picture("3-first-result");
}

/// Results with other strengths become no layers until one is inserted; one undo takes that back.
pub fn other_strengths(screen: &Screen) {
    let (two, three) = (image_with("2 layers"), image_with("3 layers"));
    screen.keys(&["alt+y"]);
    screen.wait_for_work();
    screen.picture("4-strengths");
    assert!(screen.shows(&two), "a result that is only looked at became a layer");
    // The one that is seen is that of the fields, which is a layer already: the first of the strip is marked.
    screen.keys(&["alt+v"]);
    screen.settle();
    screen.keys(&["alt+v"]);
    screen.settle();
    screen.keys(&["Tab", "Tab", "Tab", "space"]);
    screen.settle();
    screen.picture("4-one-marked");
    screen.keys(&["alt+i"]);
    screen.wait_until("the inserted result", || screen.shows(&three));
    screen.activate(&three);
    screen.keys(&["ctrl+z"]);
    screen.wait_until("the undo", || screen.shows(&two));
    screen.activate(DIALOG);
}

/// What cannot be done is said in the dialog; Escape stops what runs and leaves dialog and image alone. `model` is the
/// key of the list of models.
pub fn refused_and_stopped(screen: &Screen, model: &str) {
    screen.keys(&["alt+t", "ctrl+a", "BackSpace", "Return"]);
    screen.settle();
    screen.picture("5-empty-text-refused");
    screen.write("a blue square");
    screen.keys(&[model, "ctrl+a"]);
    screen.write("slow");
    screen.keys(&["alt+a"]);
    screen.settle();
    screen.picture("6-advanced");
    let height = screen.height(DIALOG);
    assert!(height <= HIGHEST, "the window is {height} pixels high");
    screen.keys(&["alt+e"]);
    std::thread::sleep(Duration::from_secs(3));
    screen.picture("7-running");
    let height = screen.height(DIALOG);
    assert!(height <= HIGHEST, "the window with a curve of losses is {height} pixels high");
    screen.keys(&["Escape"]);
    std::thread::sleep(Duration::from_secs(2));
    screen.picture("8-stopped");
    assert!(screen.shows(DIALOG), "Escape closed the dialog while an edit ran");
    assert!(screen.shows(&image_with("2 layers")), "a stopped edit changed the image");
}

/// The image of three layers is closed while an edit runs: that ends, with a message, and can go on; no crash. `home`
/// is the account's.
pub fn image_closed_meanwhile(screen: &mut Screen, home: &Path, model: &str) {
    let (three, tuned, points) = (image_with("3 layers"), tuned_models(home), resume_points(home));
    screen.keys(&[model, "ctrl+a"]);
    screen.write("patient");
    screen.keys(&["alt+e"]);
    screen.settle();
    screen.activate(&three);
    screen.keys(&["ctrl+w"]);
    screen.settle();
    screen.keys(&["ctrl+d"]);
    screen.wait_until("the closed image", || !screen.shows(&three));
    screen.wait_until("the point to go on from", || resume_points(home) > points);
    std::thread::sleep(Duration::from_secs(2));
    screen.picture("11-image-closed");
    assert_eq!(tuned_models(home), tuned, "the edit went on without its image");
    screen.activate(DIALOG);
    screen.keys(&["alt+c"]);
    screen.wait_until("the end of the dialog", || !screen.shows(DIALOG));
    assert!(screen.last_one_runs(), "GIMP is gone");
}

/// A list of models is open in which the second one cannot be used: the row after it is none to choose.
pub fn gray_model_is_passed_over(screen: &Screen) {
    screen.keys(&["Escape"]);
    screen.keys(&["Down", "Down", "alt+t", "ctrl+a"]);
    screen.write("a red square");
    screen.keys(&["Return"]);
    screen.wait_until("the result of the model before", || screen.shows(&image_with("2 layers")));
    screen.picture("result");
}
