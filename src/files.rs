//! Files that appear at once and whole, whoever reads them meanwhile and whenever this program or the machine stops;
//! knows nothing of what is in them.
#![forbid(unsafe_code)]

use crate::error::{Doing, Error, Result};
use std::fs::File;
use std::path::Path;
use tempfile::{Builder, TempPath};

/// How the names of unfinished files end, which a killed process leaves.
pub const UNFINISHED: &str = ".tmp";

/// Puts `bytes` into the file `path`; its folder is made.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    std::fs::create_dir_all(folder(path)).map_err(Error::file(Doing::Create, folder(path)))?;
    write_whole_by(path, |new| std::fs::write(new, bytes).map_err(Error::file(Doing::Write, path)))
}

/// As [`write_whole`] with what `write` puts into the file that it is given, which is there and empty. The folder has
/// to be there.
pub fn write_whole_by(path: &Path, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let new = begin(path)?;
    write(&new)?;
    // Opened for writing, because Windows asks for that.
    let synced = File::options().write(true).open(&new).and_then(|file| file.sync_all());
    synced.map_err(Error::file(Doing::Write, path))?;
    new.persist(path).map_err(|failed| Error::file(Doing::Write, path)(failed.error))?;
    // Without it a power cut may take the name; not every file system can do it, and the file is there already.
    #[cfg(unix)]
    let _ = File::open(folder(path)).and_then(|folder| folder.sync_all());
    Ok(())
}

/// Refuses a `path` where no file can be written.
pub fn check(path: &Path) -> Result<()> {
    begin(path).map(drop)
}

/// An empty file beside `path`, which only we write; removed when dropped.
fn begin(path: &Path) -> Result<TempPath> {
    let mut builder = Builder::new();
    builder.prefix(".").suffix(UNFINISHED);
    // As any other new file, less what the user's mask takes away.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let new = builder.tempfile_in(folder(path)).map_err(|error| Error::file(Doing::Write, path)(error))?;
    Ok(new.into_temp_path())
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_or_left_alone_and_nothing_else_stays() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("made/file");
        write_whole(&path, b"one").expect("it can be written");
        let failed = write_whole_by(&path, |new| {
            std::fs::write(new, b"half").expect("it can be written");
            Err(Error::Cancelled)
        });
        assert!(failed.is_err());
        assert_eq!(std::fs::read(&path).expect("it is there"), b"one");
        write_whole(&path, b"two").expect("it can be written");
        assert_eq!(std::fs::read(&path).expect("it is there"), b"two");
        check(&path).expect("it can be written");
        assert_eq!(std::fs::read_dir(path.parent().expect("a folder")).expect("it is there").count(), 1);
        assert!(check(&folder.path().join("none/file")).is_err());
    }
}
