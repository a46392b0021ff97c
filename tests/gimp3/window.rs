//! One walk through the dialog with the keyboard alone, in a real window on a virtual screen.
//!
//! The pictures of the screen stay in target/test-output/gimp3. GIMP tells the number of layers in its window's title.

use super::gimp::{
    first_edit, gray_model_is_passed_over, image_closed_meanwhile, other_strengths, photo, refused_and_stopped,
};
use super::screen::{DIALOG, PROGRAMS, Screen, can_run, image_with, tuned_models};
use super::{Account, LAST_VALUES};
use serde_json::json;
use std::fs;
use std::time::Duration;

/// The key of the list of models.
const MODEL: &str = "alt+b";

/// Filters > Imagic Edit... is the last entry of the menu; GIMP offers it some moments after it has shown the image.
fn open_dialog(screen: &Screen, image: &str) {
    screen.activate(image);
    screen.wait_until("the dialog", || {
        screen.keys(&["Escape", "Escape", "Escape", "alt+r", "End"]);
        screen.settle();
        screen.picture("1-menu");
        screen.keys(&["Return"]);
        screen.wait_for_work();
        screen.shows(DIALOG)
    });
    screen.activate(DIALOG);
}

#[test]
fn the_dialog_is_usable_with_the_keyboard_alone() {
    if !can_run(&PROGRAMS) {
        return;
    }
    let Some(account) = Account::new("window") else { return };
    account.add_model("slow", json!({ "embedding_steps": 1, "tuning_steps": 100_000, "sampling_steps": 1 }));
    account.add_model("patient", json!({ "embedding_steps": 1, "tuning_steps": 1500, "sampling_steps": 1 }));
    let photo = photo(&account.folder);

    let mut screen = Screen::start(&account.folder, "gimp3");
    let photo = photo.to_str().expect("a path in UTF-8");
    let gimp = account.command(&screen.display, &["dbus-run-session", "gimp-3", "-n", "-s", photo]);
    screen.run(gimp);
    let (one, two, three) = (image_with("1 layer"), image_with("2 layers"), image_with("3 layers"));

    open_dialog(&screen, &one);
    first_edit(&screen);

    // One step of undo, then another seed from the tuned model that is still in memory.
    screen.activate(&two);
    screen.keys(&["ctrl+z"]);
    screen.wait_until("the undo", || screen.shows(&one));
    let tuned = tuned_models(&account.folder);
    screen.activate(DIALOG);
    screen.keys(&["alt+n"]);
    // GTK presses a button for a quarter of a second; a key for another one in that time lets go of it.
    screen.settle();
    screen.keys(&["alt+e"]);
    screen.wait_until("the result with another seed", || screen.shows(&two));
    screen.settle();
    screen.picture("4-tuned-model-reused");
    assert_eq!(tuned_models(&account.folder), tuned, "another seed tuned a model");

    other_strengths(&screen);

    // Two that are marked come in a group, which counts as a layer; it goes with the last of its layers.
    screen.keys(&["alt+v"]);
    screen.settle();
    screen.keys(&["alt+v"]);
    screen.settle();
    screen.keys(&["Tab", "Tab", "Tab", "space", "Tab", "Tab", "space"]);
    screen.settle();
    screen.picture("4-marked");
    screen.keys(&["alt+i"]);
    screen.settle();
    screen.picture("4-inserted");
    screen.wait_until("the group", || screen.shows(&image_with("5 layers")));
    for left in ["4 layers", "2 layers"] {
        screen.keys(&["alt+t", "shift+Tab", "Down", "Tab", "space"]);
        screen.wait_until("the removal", || screen.shows(&image_with(left)));
        screen.settle();
    }

    refused_and_stopped(&screen, MODEL);

    // The next Escape closes; GIMP keeps the values of the last edit that gave a result, and repeats it without dialog.
    screen.keys(&["Escape"]);
    screen.wait_until("the end of the dialog", || !screen.shows(DIALOG));
    let kept = || fs::read_to_string(account.folder.join(LAST_VALUES)).unwrap_or_default();
    screen.wait_until("the last values", || kept().contains("(prompt \"a red square\")"));
    assert!(kept().contains("(model \"scenes-64\")") && !kept().contains("(seed 0)"), "{}", kept());
    screen.activate(&two);
    screen.keys(&["ctrl+f"]);
    screen.wait_until("the repeated edit", || screen.shows(&three));
    assert_eq!(tuned_models(&account.folder), tuned, "the last values are not those of the last edit");
    screen.keys(&["ctrl+z"]);
    screen.wait_until("the undo of the repeated edit", || screen.shows(&two));

    // Opened again, the dialog knows the values of this image's last edit: Enter repeats it.
    open_dialog(&screen, &two);
    screen.picture("9-opened-again");
    screen.keys(&["Return"]);
    screen.wait_until("the result with the last values", || screen.shows(&three));
    screen.settle();
    screen.picture("10-last-values");
    assert_eq!(tuned_models(&account.folder), tuned, "the dialog does not show the last edit");

    // The window is closed while an edit runs: the edit stops, the image stays.
    screen.activate(DIALOG);
    screen.keys(&[MODEL, "ctrl+a"]);
    screen.write("slow");
    screen.keys(&["alt+e"]);
    std::thread::sleep(Duration::from_secs(2));
    screen.keys(&["alt+F4"]);
    screen.wait_until("the end of the dialog", || !screen.shows(DIALOG));
    screen.settle();
    assert!(screen.shows(&three), "a stopped edit changed the image");

    open_dialog(&screen, &three);
    image_closed_meanwhile(&mut screen, &account.folder, MODEL);
}

#[test]
fn a_model_that_cannot_be_used_is_gray_and_cannot_be_chosen() {
    if !can_run(&PROGRAMS) {
        return;
    }
    let Some(account) = Account::new("window-models") else { return };
    fs::write(account.folder.join("data/imagic-edit/models/broken.gguf"), "GGUF").expect("the home is writable");
    let photo = photo(&account.folder);
    let mut screen = Screen::start(&account.folder, "gimp3-models");
    let photo = photo.to_str().expect("a path in UTF-8");
    let gimp = account.command(&screen.display, &["dbus-run-session", "gimp-3", "-n", "-s", photo]);
    screen.run(gimp);
    open_dialog(&screen, &image_with("1 layer"));
    screen.settle();
    screen.keys(&[MODEL, "alt+Down"]);
    screen.settle();
    screen.picture("2-list");
    gray_model_is_passed_over(&screen);
}
