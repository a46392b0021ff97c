//! One walk through the dialog with the keyboard alone, in a real window on a virtual screen.
//!
//! The pictures of the screen stay in target/test-output/gimp2. GIMP tells the number of layers in its window's title.

use super::Account;
use super::gimp::{
    first_edit, gray_model_is_passed_over, image_closed_meanwhile, other_strengths, photo, refused_and_stopped,
};
use super::screen::{DIALOG, HIGHEST, PROGRAMS, Screen, can_run, image_with, tuned_models};
use serde_json::json;
use std::time::Duration;

/// The key of the list of models.
const MODEL: &str = "alt+m";

#[test]
fn the_dialog_is_usable_with_the_keyboard_alone() {
    if !can_run(&[&["gimp-2.10"], PROGRAMS.as_slice()].concat()) {
        return;
    }
    let account = Account::new("window");
    account.add_model("slow", json!({ "embedding_steps": 1, "tuning_steps": 100_000, "sampling_steps": 1 }));
    account.add_model("patient", json!({ "embedding_steps": 1, "tuning_steps": 1500, "sampling_steps": 1 }));
    let photo = photo(&account.folder);

    let mut screen = Screen::start(&account.folder, "gimp2");
    let mut gimp = account.command("gimp-2.10");
    gimp.args(["-n", "-s", "-d"]).arg(&photo);
    screen.run(gimp);
    let (one, two, three) = (image_with("1 layer"), image_with("2 layers"), image_with("3 layers"));

    // Filters > Imagic Edit... is the last entry of the menu: GIMP's own ones have taken all its letters.
    screen.activate(&one);
    screen.keys(&["alt+r", "End"]);
    screen.settle();
    screen.picture("1-menu");
    screen.keys(&["Return"]);
    screen.activate(DIALOG);
    first_edit(&screen);

    // The same edit again is the layer that is there; after an undo, it is made a layer once more.
    screen.activate(DIALOG);
    screen.keys(&["alt+e"]);
    screen.settle();
    screen.picture("3-is-a-layer-already");
    assert!(screen.shows(&two), "an edit became two layers");
    screen.activate(&two);
    screen.keys(&["ctrl+z"]);
    screen.wait_until("the undo", || screen.shows(&one));
    screen.activate(DIALOG);
    screen.keys(&["alt+e"]);
    screen.wait_until("the first result again", || screen.shows(&two));

    // One step of undo, then another seed from the tuned model that is still in memory.
    screen.activate(&two);
    screen.keys(&["ctrl+z"]);
    screen.wait_until("the undo", || screen.shows(&one));
    let tuned = tuned_models(&account.folder);
    screen.activate(DIALOG);
    screen.keys(&["alt+n", "alt+e"]);
    screen.wait_until("the result with another seed", || screen.shows(&two));
    screen.settle();
    screen.picture("4-tuned-model-reused");
    assert_eq!(tuned_models(&account.folder), tuned, "another seed tuned a model");

    other_strengths(&screen);
    refused_and_stopped(&screen, MODEL);

    // The next Escape closes; opened again, the dialog knows the last edit's values: Enter repeats it.
    screen.keys(&["Escape"]);
    screen.wait_until("the end of the dialog", || !screen.shows(DIALOG));
    screen.activate(&two);
    screen.keys(&["alt+r", "End", "Return"]);
    screen.activate(DIALOG);
    screen.picture("9-opened-again");
    screen.keys(&["Return"]);
    screen.wait_until("the result with the last values", || screen.shows(&three));
    screen.settle();
    screen.picture("10-last-values");
    assert_eq!(tuned_models(&account.folder), tuned, "the last values are not those of the last edit");

    screen.activate(DIALOG);
    image_closed_meanwhile(&mut screen, &account.folder, MODEL);
}

/// Shows an image of 400 x 300 pixels with a smaller layer, of which a part is selected; one undo selects what lies
/// beside it.
const SELECTED: &str = r#"(let* ((image (car (gimp-file-load RUN-NONINTERACTIVE "photo.png" "photo.png"))))
  (gimp-image-resize image 400 300 0 0)
  (gimp-image-select-rectangle image CHANNEL-OP-REPLACE 350 260 30 30)
  (gimp-image-select-rectangle image CHANNEL-OP-REPLACE 20 20 100 100)
  (gimp-display-new image))"#;

#[test]
fn results_outlive_a_refused_selection_and_the_group_of_several_goes_with_the_last() {
    if !can_run(&[&["gimp-2.10"], PROGRAMS.as_slice()].concat()) {
        return;
    }
    let account = Account::new("window-selection");
    photo(&account.folder);
    let mut screen = Screen::start(&account.folder, "gimp2-selection");
    let mut gimp = account.command("gimp-2.10");
    gimp.args(["-n", "-s", "-d", "-b", SELECTED]).current_dir(&account.folder);
    screen.run(gimp);
    let (one, two) = (image_with("1 layer"), image_with("2 layers"));
    screen.activate(&one);
    screen.keys(&["alt+r", "End", "Return"]);
    screen.activate(DIALOG);
    screen.write("a red square");
    screen.keys(&["alt+y"]);
    screen.wait_for_work();
    screen.picture("1-strengths");

    // Now the selection lies beside the layer: nothing can be edited there.
    screen.activate(&one);
    screen.keys(&["ctrl+z"]);
    screen.settle();
    screen.activate(DIALOG);
    screen.keys(&["alt+e"]);
    screen.settle();
    screen.picture("2-refused");
    assert!(screen.shows(&one), "an edit of nothing gave a layer");
    // The results of before are still results of what was read then.
    screen.keys(&["alt+i"]);
    screen.wait_until("the inserted result", || screen.shows(&two));
    screen.picture("3-inserted");

    // Two that are marked come in a group, which counts as a layer; the one before is a layer already.
    screen.keys(&["shift+Tab"; 5]);
    for _ in 0..3 {
        screen.keys(&["space", "shift+Tab", "shift+Tab"]);
    }
    screen.settle();
    screen.picture("4-marked");
    screen.keys(&["alt+i"]);
    screen.wait_until("the group", || screen.shows(&image_with("5 layers")));
    // The newest of the earlier edits is removed, and then the other one with the group.
    for left in ["4 layers", "2 layers"] {
        screen.keys(&["alt+t", "shift+Tab", "Down", "Tab", "space"]);
        screen.wait_until("the removal", || screen.shows(&image_with(left)));
        screen.settle();
    }
    screen.picture("5-removed");
    screen.activate(&two);
    screen.keys(&["ctrl+z"]);
    screen.wait_until("the undo", || screen.shows(&image_with("4 layers")));
}

/// Makes the image indexed once there is a file "go", and RGB again once there is a file "back"; says so.
const CONVERTED: &str = r#"(let ((image (car (gimp-file-load RUN-NONINTERACTIVE "photo.png" "photo.png"))))
  (gimp-display-new image)
  (let again () (if (not (file-exists? "go")) (again)))
  (gimp-image-convert-indexed image CONVERT-DITHER-NONE CONVERT-PALETTE-GENERATE 16 FALSE FALSE "")
  (gimp-displays-flush)
  (close-output-port (open-output-file "indexed"))
  (let again () (if (not (file-exists? "back")) (again)))
  (gimp-image-convert-rgb image)
  (gimp-displays-flush)
  (close-output-port (open-output-file "rgb")))"#;

#[test]
fn a_result_that_finds_no_place_is_kept_until_it_finds_one() {
    if !can_run(&[&["gimp-2.10"], PROGRAMS.as_slice()].concat()) {
        return;
    }
    let account = Account::new("window-converted");
    account.add_model("patient", json!({ "embedding_steps": 1, "tuning_steps": 1500, "sampling_steps": 1 }));
    photo(&account.folder);
    let mut screen = Screen::start(&account.folder, "gimp2-converted");
    let mut gimp = account.command("gimp-2.10");
    gimp.args(["-n", "-s", "-d", "-b", CONVERTED]).current_dir(&account.folder);
    screen.run(gimp);
    let (one, two) = (image_with("1 layer"), image_with("2 layers"));
    screen.activate(&one);
    screen.keys(&["alt+r", "End", "Return"]);
    screen.activate(DIALOG);
    screen.write("a red square");
    screen.keys(&[MODEL, "ctrl+a"]);
    screen.write("patient");
    screen.keys(&["alt+e"]);
    screen.settle();
    std::fs::write(account.folder.join("go"), "").expect("a temporary folder");
    screen.wait_until("the indexed image", || account.folder.join("indexed").exists());
    assert_eq!(tuned_models(&account.folder), 0, "the edit ended before the image was converted");
    screen.wait_until("the end of the edit", || tuned_models(&account.folder) == 1);
    std::thread::sleep(Duration::from_secs(2));
    screen.picture("1-indexed");
    assert!(screen.shows(&one), "an indexed image took a layer");
    std::fs::write(account.folder.join("back"), "").expect("a temporary folder");
    screen.wait_until("the image in RGB", || account.folder.join("rgb").exists());
    screen.activate(DIALOG);
    screen.keys(&["alt+i"]);
    screen.wait_until("the inserted result", || screen.shows(&two));
    screen.picture("2-inserted");
}

#[test]
fn the_dialog_speaks_the_language_that_gimp_speaks() {
    if !can_run(&[&["gimp-2.10"], PROGRAMS.as_slice()].concat()) {
        return;
    }
    // The entry in the menu, which is sorted in each language, then letters for text, edit and what is folded away.
    for (language, entry, [text, edit, fold]) in [
        // In German GIMP's "Ziegentraining" comes after it.
        ("de", ["alt+r", "End", "Up", "Return"].as_slice(), ["alt+z", "alt+b", "alt+e"]),
        ("ko", &["alt+r", "End", "Return"], ["alt+t", "alt+e", "alt+a"]),
    ] {
        let account = Account::new(&format!("window-{language}"));
        let photo = photo(&account.folder);
        let mut screen = Screen::start(&account.folder, &format!("gimp2-{language}"));
        let mut gimp = account.command("gimp-2.10");
        gimp.args(["-n", "-s", "-d"]).arg(&photo).env("LANGUAGE", language);
        screen.run(gimp);
        screen.activate("photo.*GIMP");
        screen.settle();
        screen.keys(entry);
        screen.activate(DIALOG);
        screen.settle();
        screen.picture("1-dialog");
        screen.keys(&[text, "ctrl+a"]);
        screen.write("a red square");
        screen.keys(&[fold]);
        screen.settle();
        screen.picture("2-advanced");
        screen.keys(&[edit]);
        screen.wait_until("a tuned model", || tuned_models(&account.folder) == 1);
        screen.settle();
        screen.picture("3-result");
        screen.keys(&[text, "ctrl+a", "BackSpace", "Return"]);
        screen.settle();
        screen.picture("4-empty-text-refused");
    }
}

#[test]
fn a_model_that_cannot_be_used_is_gray_and_cannot_be_chosen() {
    if !can_run(&[&["gimp-2.10"], PROGRAMS.as_slice()].concat()) {
        return;
    }
    let account = Account::new("window-models");
    std::fs::write(account.folder.join("data/imagic-edit/models/broken.gguf"), "GGUF").expect("the home is writable");
    let photo = photo(&account.folder);
    let mut screen = Screen::start(&account.folder, "gimp2-models");
    let mut gimp = account.command("gimp-2.10");
    gimp.args(["-n", "-s", "-d"]).arg(&photo);
    screen.run(gimp);
    screen.activate(&image_with("1 layer"));
    screen.keys(&["alt+r", "End", "Return"]);
    screen.activate(DIALOG);
    screen.settle();
    screen.keys(&[MODEL, "alt+Down"]);
    screen.settle();
    screen.picture("1-list");
    gray_model_is_passed_over(&screen);
}

#[test]
fn a_small_screen_holds_the_dialog_and_a_photograph_meets_a_door() {
    if !can_run(&[&["gimp-2.10"], PROGRAMS.as_slice()].concat()) {
        return;
    }
    let account = Account::new("window-door");
    let about = account.folder.join("data/imagic-edit/models/scenes-64/imagic.json");
    let preset = json!({ "embedding_steps": 1, "tuning_steps": 1, "sampling_steps": 1 });
    let words = ["a", "red", "square"];
    let model = json!({ "photographs": false, "words": words, "examples": ["a red square"], "preset": preset });
    std::fs::write(about, model.to_string()).expect("our own file");
    // Of the kind that photographs are: nothing in it is plain.
    let photo = account.folder.join("photo.png");
    image::RgbImage::from_fn(1200, 800, |x, y| {
        let noise = (x / 8).wrapping_mul(2_654_435_761).wrapping_add((y / 8).wrapping_mul(40_503_217)) >> 13;
        image::Rgb([(noise % 97) as u8 + 90, (noise % 61) as u8 + 60, (y / 5) as u8])
    })
    .save(&photo)
    .expect("a picture");
    let mut screen = Screen::of_size("1024x768", &account.folder, "gimp2-door");
    let mut gimp = account.command("gimp-2.10");
    gimp.args(["-n", "-s", "-d"]).arg(&photo).env("LANGUAGE", "de");
    screen.run(gimp);
    screen.activate("photo.*GIMP");
    screen.settle();
    // In German GIMP's "Ziegentraining" comes after it.
    screen.keys(&["alt+r", "End", "Up", "Return"]);
    screen.activate(DIALOG);
    screen.write(&"a red square ".repeat(9));
    screen.settle();
    screen.settle();
    screen.picture("1-door");
    let [width, height] = [screen.width(DIALOG), screen.height(DIALOG)];
    assert!(width <= 1024 && height <= HIGHEST, "the window is {width} x {height} pixels");
    // Enter edits nothing, and leads to the button that lets one through.
    screen.keys(&["Return"]);
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(tuned_models(&account.folder), 0, "a photograph was edited unasked");
    screen.keys(&["space"]);
    screen.settle();
    screen.keys(&["Return"]);
    screen.wait_until("the edit", || tuned_models(&account.folder) == 1);
    screen.settle();
    screen.picture("2-tried");
    let after = [screen.width(DIALOG), screen.height(DIALOG)];
    assert_eq!(after, [width, height], "the window jumped");
    screen.keys(&["alt+n"]);
    screen.resize(DIALOG, [1000, 560]);
    screen.picture("3-smaller");
    assert!(screen.height(DIALOG) < height, "the window cannot be made smaller");
}
