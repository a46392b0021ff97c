//! Files that appear at once and whole, whoever reads them meanwhile and whenever this program or the machine stops;
//! what is nobody else's business only the user can read. Knows nothing of what is in them.
#![forbid(unsafe_code)]

use crate::error::{Doing, Error, Result};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::path::Path;
use tempfile::{Builder, NamedTempFile};

/// How the names of unfinished files end, which a killed process leaves.
const UNFINISHED: &str = ".tmp";

/// Who can read a new file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readers {
    /// The user: it tells what was edited.
    User,
    /// Whoever can read the user's other new files.
    AsUsual,
}

/// Puts `bytes` into the file `path`, which only the user can read; its folder is made.
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<()> {
    private_folder(folder(path))?;
    write_by(path, Readers::User, |new| new.write_all(bytes).map_err(Error::file(Doing::Write, path)))
}

/// Puts into the file `path` what `write` puts into the one that it is given, which is empty. The folder has to be
/// there.
pub fn write_whole_by(path: &Path, write: impl FnOnce(&mut File) -> Result<()>) -> Result<()> {
    write_by(path, Readers::AsUsual, write)
}

fn write_by(path: &Path, readers: Readers, write: impl FnOnce(&mut File) -> Result<()>) -> Result<()> {
    let mut new = begin(path, readers)?;
    write(new.as_file_mut())?;
    keep(new, path)
}

/// Puts a finished file in its place, so that also after a power cut it is there whole, or the one before it is.
pub fn keep(new: NamedTempFile, path: &Path) -> Result<()> {
    new.as_file().sync_all().map_err(Error::file(Doing::Write, path))?;
    new.persist(path).map_err(|failed| Error::file(Doing::Write, path)(failed.error))?;
    settle(path);
    Ok(())
}

/// Makes the name `path` outlive a power cut; not every file system can do it, and the file is there already.
pub fn settle(path: &Path) {
    #[cfg(unix)]
    let _ = File::open(folder(path)).and_then(|folder| folder.sync_all());
    #[cfg(not(unix))]
    let _ = path;
}

/// Room on a disk that nobody else gets until this is dropped, or the process ends.
pub struct Room {
    /// Has no name.
    _file: Option<File>,
}

impl Room {
    /// For a file `path` of so many bytes; refuses a path where no file can be written, and a disk that is too full.
    pub fn for_file(path: &Path, bytes: u64) -> Result<Self> {
        drop(begin(path, Readers::AsUsual)?);
        let reserve = |file: File| fs4::FileExt::allocate(&file, bytes).map(|()| file);
        let refusal = match tempfile::tempfile_in(folder(path)).and_then(reserve) {
            Ok(file) => return Ok(Self { _file: Some(file) }),
            Err(error) => error,
        };
        Err(Error::file(Doing::Write, path)(match (refusal.kind(), fs4::available_space(folder(path))) {
            (ErrorKind::StorageFull, Ok(free)) => {
                let megabytes = |bytes: u64| bytes as f64 / 1e6;
                let (need, free) = (megabytes(bytes), megabytes(free));
                io::Error::new(refusal.kind(), format!("it takes up to {need:.1} MB, and {free:.1} MB are free"))
            }
            (ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge, _) => refusal,
            // Not every file system can do it.
            _ => return Ok(Self { _file: None }),
        }))
    }
}

/// A folder in which only the user can look; made if it is not there.
pub fn private_folder(path: &Path) -> Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
        builder.mode(0o700).create(path).map_err(Error::file(Doing::Create, path))?;
        // One that an older version has made, and not one for all users, as the system's folder of temporary files is.
        // Where that is not allowed the folder is another user's, who sees anyway.
        const FOR_ALL: u32 = 0o1000;
        let mode = path.metadata().map_or(0, |about| about.permissions().mode());
        let is_open = mode & 0o077 != 0 && mode & FOR_ALL == 0;
        let _ = is_open.then(|| std::fs::set_permissions(path, PermissionsExt::from_mode(0o700)));
        Ok(())
    }
    #[cfg(not(unix))]
    builder.create(path).map_err(Error::file(Doing::Create, path))
}

/// Opens the file `path` as `options` say: only a real file, no link to one, no device, and no pipe, which would have
/// to be waited for.
pub fn open_plain(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(options, libc::O_NOFOLLOW | libc::O_NONBLOCK);
    only_file(options.open(path)?)
}

/// Opens the file `path`, or the one to which links from there lead, for reading; no device, and no pipe.
pub fn open(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, libc::O_NONBLOCK);
    only_file(options.read(true).open(path)?)
}

/// What is in the file that [`open`] opens.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(path)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The text in the file that [`open`] opens.
pub fn read_text(path: &Path) -> io::Result<String> {
    String::from_utf8(read(path)?).map_err(io::Error::other)
}

fn only_file(file: File) -> io::Result<File> {
    let about = file.metadata()?;
    match (about.is_file(), about.is_dir()) {
        (true, _) => Ok(file),
        (_, true) => Err(ErrorKind::IsADirectory.into()),
        _ => Err(io::Error::other("it is not a file")),
    }
}

/// An empty file beside `path`, which only we write; removed when dropped.
fn begin(path: &Path, readers: Readers) -> Result<NamedTempFile> {
    unfinished(folder(path), UNFINISHED, readers).map_err(Error::file(Doing::Write, path))
}

/// An empty file in `folder` under a name that nobody else gets, with that ending; removed when dropped.
pub fn unfinished(folder: &Path, ending: &str, readers: Readers) -> io::Result<NamedTempFile> {
    // Opened here and not by the library, which would add the name that nobody knows to what the system says.
    Builder::new().prefix(".").suffix(ending).make_in(folder, |path| {
        let mut options = File::options();
        options.read(true).write(true).create_new(true);
        // As any other new file, less what the user's mask takes away; unless told, only the user can read it.
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, if readers == Readers::User { 0o600 } else { 0o666 });
        #[cfg(not(unix))]
        let _ = readers;
        options.open(path)
    })
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
        write_private(&path, b"one").expect("it can be written");
        let failed = write_whole_by(&path, |new| {
            new.write_all(b"half").expect("it can be written");
            Err(Error::Cancelled)
        });
        assert!(failed.is_err());
        assert_eq!(std::fs::read(&path).expect("it is there"), b"one");
        write_private(&path, b"two").expect("it can be written");
        assert_eq!(std::fs::read(&path).expect("it is there"), b"two");
        let room = Room::for_file(&path, 1 << 20).expect("it can be written");
        assert_eq!(std::fs::read_dir(path.parent().expect("a folder")).expect("it is there").count(), 1);
        drop(room);
        assert!(Room::for_file(&folder.path().join("none/file"), 1).is_err());
    }

    #[cfg(unix)]
    #[test]
    fn what_only_the_user_may_read_nobody_else_can() {
        use std::os::unix::fs::PermissionsExt;
        let mode = |path: &Path| path.metadata().expect("it is there").permissions().mode() & 0o777;
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("made/file");
        write_private(&path, b"one").expect("it can be written");
        assert_eq!((mode(&path), mode(path.parent().expect("a folder"))), (0o600, 0o700));
        std::fs::set_permissions(path.parent().expect("a folder"), PermissionsExt::from_mode(0o755)).expect("ours");
        private_folder(path.parent().expect("a folder")).expect("it is there");
        assert_eq!(mode(path.parent().expect("a folder")), 0o700);
        // As /tmp is.
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o1777)).expect("ours");
        write_private(&folder.path().join("file"), b"one").expect("it can be written");
        assert_eq!(mode(folder.path()), 0o777, "nobody else could use it any more");
    }

    #[cfg(unix)]
    #[test]
    fn links_devices_and_pipes_are_not_opened_and_not_waited_for() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("file"), b"one").expect("it can be written");
        std::os::unix::fs::symlink(path("file"), path("link")).expect("links can be made");
        let made = std::process::Command::new("mkfifo").arg(path("pipe")).status().expect("mkfifo is there");
        assert!(made.success());
        let open_plain = |path: &Path| open_plain(path, File::options().read(true));
        assert!(open_plain(&path("file")).is_ok());
        for other in [path("link"), path("pipe"), path("none"), "/dev/null".into(), folder.path().into()] {
            assert!(open_plain(&other).is_err(), "{}", other.display());
        }
        assert_eq!(read(&path("link")).expect("a link to a file"), b"one");
        std::os::unix::fs::symlink(path("pipe"), path("link-to-pipe")).expect("links can be made");
        for other in [path("link-to-pipe"), path("pipe"), path("none"), "/dev/zero".into(), folder.path().into()] {
            assert!(read(&other).is_err(), "{}", other.display());
        }
    }
}
