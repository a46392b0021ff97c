//! A log that people can send: what every edit's stages took, on what, with which versions; never a picture, and no
//! text of the user's. Two files of limited size that only the user can read; failures are of no consequence.
#![forbid(unsafe_code)]

use crate::files;
use crate::host::system;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Bytes from which on a file becomes the older one: some thousand edits.
const LARGEST: u64 = 256 << 10;

/// The log's file; the older one beside it ends in `.1`. `None` where the account has no place for it.
pub fn file() -> Option<PathBuf> {
    // Only Linux has a folder for such things.
    Some(dirs::state_dir().or_else(dirs::cache_dir)?.join("imagic-edit").join("log.txt"))
}

/// Both files, the older one first.
pub fn files() -> impl Iterator<Item = PathBuf> {
    file().into_iter().flat_map(|file| [older(&file), file])
}

/// Adds one line.
pub fn line(text: &str) {
    if let Some(file) = file() {
        // Whoever wants an edit wants it without a log, too.
        let _ = add(&file, text);
    }
}

/// `text` without what names the user: the home folder.
pub fn without_home(text: &str) -> String {
    let home = dirs::home_dir().filter(|home| home.parent().is_some());
    home.map_or_else(|| text.to_owned(), |home| text.replace(&*home.to_string_lossy(), "~"))
}

fn older(file: &Path) -> PathBuf {
    file.with_extension("txt.1")
}

fn add(file: &Path, text: &str) -> std::io::Result<()> {
    let folder = file.parent().expect("it is in a folder");
    files::private_folder(folder).map_err(|error| std::io::Error::other(error.to_string()))?;
    if file.symlink_metadata().is_ok_and(|about| about.len() >= LARGEST) {
        std::fs::rename(file, older(file))?;
    }
    let mut options = File::options();
    options.append(true).create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let memory = system::own_memory()
        .map_or_else(String::new, |[now, most]| format!("; {} MB, at most {} MB", now / 1_000_000, most / 1_000_000));
    let text = without_home(&text.replace(['\n', '\r'], " "));
    let (version, process) = (env!("CARGO_PKG_VERSION"), std::process::id());
    // In one piece: others may write, too.
    let line = format!("{} {version} {process} {text}{memory}\n", utc(seconds));
    files::open_plain(file, &mut options)?.write_all(line.as_bytes())
}

/// A time in seconds since 1970 as "2026-11-30T06:13:22Z".
fn utc(seconds: u64) -> String {
    // From days to a date: Howard Hinnant, "chrono-compatible low-level date algorithms".
    let (days, rest) = ((seconds / 86_400) as i64 + 719_468, seconds % 86_400);
    let era = days / 146_097;
    let day_of_era = days - era * 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let (day, month) =
        (day_of_year - (153 * shifted + 2) / 5 + 1, if shifted < 10 { shifted + 3 } else { shifted - 9 });
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        assert_eq!(utc(0), "1970-01-01T00:00:00Z");
        assert_eq!(utc(951_782_399), "2000-02-28T23:59:59Z");
        assert_eq!(utc(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(utc(4_102_444_799), "2099-12-31T23:59:59Z");
    }

    #[cfg(unix)]
    #[test]
    fn the_log_keeps_to_its_limit_and_to_its_user_and_follows_no_link() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("made/log.txt");
        let text = "x".repeat(1000);
        for _ in 0..3 * LARGEST / 1000 {
            add(&file, &text).expect("it can be written");
        }
        let size = |file: &Path| file.metadata().expect("it is there").len();
        assert!(size(&file) < LARGEST + 2000 && size(&older(&file)) < LARGEST + 2000);
        assert_eq!(std::fs::read_dir(folder.path().join("made")).expect("it is there").count(), 2);
        assert_eq!(file.metadata().expect("it is there").permissions().mode() & 0o777, 0o600);
        let last = std::fs::read_to_string(&file).expect("a text");
        let last = last.lines().last().expect("a line");
        assert!(
            last.contains(concat!("Z ", env!("CARGO_PKG_VERSION"), " ")) && last.contains(" MB, at most "),
            "{last}"
        );

        let victim = folder.path().join("victim");
        std::fs::write(&victim, "precious").expect("it can be written");
        std::fs::remove_file(&file).expect("it is ours");
        std::os::unix::fs::symlink(&victim, &file).expect("links can be made");
        assert!(add(&file, "one\nline").is_err());
        assert_eq!(std::fs::read_to_string(&victim).expect("it is there"), "precious");
    }
}
