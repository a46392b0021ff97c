//! The folder that all programs of one user share: who may write what, what is removed when there is too little room,
//! and what a killed process has left. Knows nothing of what is in the files.
//!
//! Locks are the system's, on open files: they end with the process that has them, however it ends. Where a file system
//! has none, everything works as if nobody else were there.
#![forbid(unsafe_code)]

use crate::error::{Doing, Error, Result};
use crate::files::{self, Readers};
use fs4::{FileExt, TryLockError};
use std::fs::{File, Metadata};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use tempfile::NamedTempFile;

/// How a tuned model's name ends.
pub const TUNED: &str = "safetensors";
/// How a resume point's name ends.
pub const RESUME: &str = "resume";
/// How the name of a file ends that was moved aside because its content is wrong.
pub const BAD: &str = "bad";
/// How the name of a file ends that is being written.
const UNFINISHED: &str = ".part";
/// How the name of a file ends that only its lock counts of.
const LOCK: &str = "lock";

/// Held for moments by whoever adds or removes files, so that nobody takes a new file for one that was left.
const GATE: &str = ".gate";

/// Disk that is left to others.
const RESERVE: u64 = 64 << 20;

/// A file in the folder that counts.
#[derive(Clone, Debug)]
pub struct Kept {
    /// Where it is.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// When it was last written or used.
    pub used: SystemTime,
}

impl Kept {
    /// Whether its name ends so.
    pub fn is(&self, ending: &str) -> bool {
        self.path.extension().is_some_and(|extension| extension == ending)
    }
}

/// Tuned models, resume points and what was moved aside, least recently used first. A missing folder is empty.
pub fn list(folder: &Path) -> Result<Vec<Kept>> {
    let mut kept: Vec<Kept> = files(folder)?
        .into_iter()
        .filter(|(_, about)| !about.is_dir())
        .map(|(path, about)| {
            let used = about.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            Kept { path, bytes: about.len(), used }
        })
        .filter(|file| [TUNED, RESUME, BAD].iter().any(|ending| file.is(ending)))
        .collect();
    kept.sort_by_key(|file| file.used);
    Ok(kept)
}

/// Everything in the folder; links are what they are.
fn files(folder: &Path) -> Result<Vec<(PathBuf, Metadata)>> {
    match std::fs::read_dir(folder) {
        Ok(files) => Ok(files.flatten().filter_map(|file| Some((file.path(), file.metadata().ok()?))).collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(Error::file(Doing::Read, folder)(error)),
    }
}

/// A file that is being written under a name that nobody else gets; removed when dropped, and by whoever comes next if
/// the process ends before.
pub struct NewFile(NamedTempFile);

impl NewFile {
    /// An empty one in `folder`, which is made.
    pub fn begin(folder: &Path) -> Result<Self> {
        files::private_folder(folder)?;
        let _gate = gate(folder);
        remove_orphans(folder);
        let new = files::unfinished(folder, UNFINISHED, Readers::User);
        let new = new.map_err(Error::file(Doing::Write, folder))?;
        // Nobody else knows its name yet.
        let _ = FileExt::try_lock(new.as_file());
        Ok(Self(new))
    }

    /// To be written.
    pub fn file(&mut self) -> &mut File {
        self.0.as_file_mut()
    }

    /// Puts it in its place.
    pub fn keep(self, path: &Path) -> Result<()> {
        files::keep(self.0, path)
    }
}

/// Removes the least recently used files that nobody uses, what was moved aside first, until `bytes` more fit into
/// `limit` and onto the disk, of which some is left to others; `own` stays. Whether they fit onto the disk now.
pub fn make_room(folder: &Path, limit: u64, bytes: u64, own: &Path) -> Result<bool> {
    let _gate = gate(folder);
    let mut kept = list(folder)?;
    kept.sort_by_key(|file| !file.is(BAD));
    let others = |file: &&Kept| file.path != own;
    let mut total: u64 = kept.iter().filter(others).map(|file| file.bytes).sum();
    // A disk that does not say has room.
    let has_disk = |bytes: u64| fs4::available_space(folder).map_or(true, |free| free >= bytes);
    for file in kept.iter().filter(others) {
        if total.saturating_add(bytes) <= limit && has_disk(bytes.saturating_add(RESERVE)) {
            break;
        }
        if remove_unused(&file.path).map_err(Error::file(Doing::Remove, &file.path))? {
            total -= file.bytes;
        }
    }
    Ok(has_disk(bytes))
}

/// Removes everything that nobody uses, also what is not listed; the bytes of what was listed.
pub fn clear(folder: &Path) -> Result<u64> {
    let _gate = gate(folder);
    let mut freed = 0;
    for file in list(folder)? {
        if remove_unused(&file.path).map_err(Error::file(Doing::Remove, &file.path))? {
            freed += file.bytes;
        }
    }
    remove_orphans(folder);
    for (path, _) in files(folder)?.iter().filter(|(path, _)| is_of_older_version(path)) {
        std::fs::remove_file(path).map_err(Error::file(Doing::Remove, path))?;
    }
    Ok(freed)
}

/// Removes `path` unless somebody uses it; whether it did.
pub fn remove_unused(path: &Path) -> io::Result<bool> {
    let lock = path.with_extension(LOCK);
    if matches!(open_lock(&lock, false).map(|file| FileExt::try_lock(&file)), Ok(Err(TryLockError::WouldBlock))) {
        return Ok(false);
    }
    let open = files::open_plain(path, File::options().read(true));
    if matches!(open.map(|file| FileExt::try_lock(&file)), Ok(Err(TryLockError::WouldBlock))) {
        return Ok(false);
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(true),
    }
}

/// Marks an open file as in use until it is closed, and as used now.
pub fn use_now(file: &File) {
    let _ = FileExt::try_lock_shared(file);
    // One that cannot be marked is only forgotten earlier.
    let _ = file.set_modified(SystemTime::now());
}

/// Moves `path` aside, where it is found no more but counts until there is no room for it.
pub fn move_aside(path: &Path) {
    let aside = path.with_extension(BAD);
    // If that fails it is found once more, and refused once more.
    let _ = std::fs::rename(path, &aside)
        .or_else(|_| std::fs::remove_file(&aside).and_then(|()| std::fs::rename(path, &aside)));
}

/// A name that one process has for itself until this is dropped or the process ends.
pub struct Lock {
    path: PathBuf,
    /// `None` where there are no locks.
    file: Option<File>,
}

impl Lock {
    /// Where nobody else can be.
    pub fn none() -> Self {
        Self { path: PathBuf::new(), file: None }
    }

    /// The lock `name` in `folder`, which is made; `None` while somebody else has it.
    pub fn of(folder: &Path, name: &str) -> Option<Self> {
        let path = folder.join(name).with_extension(LOCK);
        // Where that fails there is nothing to share.
        let _ = files::private_folder(folder);
        let without = |path| Some(Self { path, file: None });
        for _ in 0..10 {
            let Ok(file) = open_lock(&path, true) else { return without(path) };
            match FileExt::try_lock(&file) {
                Err(TryLockError::WouldBlock) => return None,
                Err(TryLockError::Error(_)) => return without(path),
                // Whoever had it before may have removed the file since it was opened here.
                Ok(()) if is_still(&file, &path) => return Some(Self { path, file: Some(file) }),
                Ok(()) => {}
            }
        }
        None
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if self.file.is_some() {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn open_lock(path: &Path, make: bool) -> io::Result<File> {
    let mut options = File::options();
    options.read(true).write(true).create(make);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    files::open_plain(path, &mut options)
}

/// Whether `path` is the file that was opened.
#[cfg(unix)]
fn is_still(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let number = |about: Metadata| (about.dev(), about.ino());
    file.metadata().ok().map(number) == path.symlink_metadata().ok().map(number)
}

/// Whether `path` is the file that was opened: an open one keeps its name here.
#[cfg(not(unix))]
fn is_still(_: &File, _: &Path) -> bool {
    true
}

/// The folder for us alone, for a moment; without it after a second, in which somebody else was stopped in the middle.
fn gate(folder: &Path) -> Option<File> {
    let file = open_lock(&folder.join(GATE), folder.is_dir()).ok()?;
    for _ in 0..100 {
        match FileExt::try_lock(&file) {
            Ok(()) => return Some(file),
            Err(TryLockError::Error(_)) => return None,
            Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
    None
}

/// Removes what was being written by processes that are gone, and locks that nobody has. Under the gate nobody is
/// between making a file and locking it.
fn remove_orphans(folder: &Path) {
    /// An older version locks nothing, and may be at work.
    const OLD: Duration = Duration::from_secs(3600);
    for (path, about) in files(folder).unwrap_or_default() {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let is_ours = name.ends_with(UNFINISHED) || (name.ends_with(LOCK) && name != GATE);
        let is_orphan = match files::open_plain(&path, File::options().read(true)) {
            Ok(file) if is_ours => FileExt::try_lock(&file).is_ok(),
            _ if is_of_older_version(&path) => {
                about.modified().is_ok_and(|at| at.elapsed().is_ok_and(|passed| passed >= OLD))
            }
            _ => false,
        };
        if is_orphan {
            // Tidying up: if it fails, nothing but space is lost, and the next one tries again.
            let _ = std::fs::remove_file(&path);
        }
    }
}

/// Whether an older version or its libraries called unfinished files so.
fn is_of_older_version(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.starts_with(".tmp") || name.ends_with(".tmp")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(folder: &Path, name: &str, bytes: usize) -> PathBuf {
        let mut new = NewFile::begin(folder).expect("a new file");
        std::io::Write::write_all(new.file(), &vec![0; bytes]).expect("it can be written");
        new.keep(&folder.join(name)).expect("it can be kept");
        folder.join(name)
    }

    fn names(folder: &Path) -> Vec<String> {
        let files = std::fs::read_dir(folder).expect("a folder").flatten();
        let mut names: Vec<String> = files.map(|file| file.file_name().to_string_lossy().into_owned()).collect();
        names.retain(|name| name != GATE);
        names.sort();
        names
    }

    #[test]
    fn what_a_killed_process_has_left_goes_and_what_a_living_one_writes_stays() {
        let folder = tempfile::tempdir().expect("a folder");
        let folder = folder.path();
        let alive = NewFile::begin(folder).expect("a new file");
        let held = Lock::of(folder, "held").expect("nobody has it");
        for left in [".abc.part", "left.lock", ".tmpAbCdEf", ".old.tmp"] {
            std::fs::write(folder.join(left), "left").expect("it can be written");
        }
        let hours_ago = SystemTime::now() - Duration::from_secs(7200);
        let old = File::options().append(true).open(folder.join(".tmpAbCdEf")).expect("it is there");
        old.set_modified(hours_ago).expect("it is ours");
        drop(NewFile::begin(folder).expect("a new file"));
        let written = alive.0.path().file_name().expect("a name").to_string_lossy().into_owned();
        let mut expected = vec![written, ".old.tmp".into(), "held.lock".into()];
        expected.sort();
        assert_eq!(names(folder), expected, "an older version's file may be in use for an hour");
        drop((alive, held));
        clear(folder).expect("it can be cleared");
        assert!(names(folder).is_empty(), "{:?}", names(folder));
    }

    #[test]
    fn room_is_made_by_what_was_moved_aside_then_by_the_oldest_and_never_by_what_is_used() {
        let folder = tempfile::tempdir().expect("a folder");
        let folder = folder.path();
        let age = |path: &Path, seconds| {
            let file = File::options().append(true).open(path).expect("it is there");
            file.set_modified(SystemTime::now() - Duration::from_secs(seconds)).expect("it is ours");
        };
        for (name, seconds) in [("a.safetensors", 50), ("b.safetensors", 40), ("c.safetensors", 30), ("d.resume", 20)] {
            age(&write(folder, name, 100), seconds);
        }
        let bad = write(folder, "e.safetensors", 100);
        move_aside(&bad);
        let reader = File::open(folder.join("a.safetensors")).expect("it is there");
        let _ = FileExt::try_lock_shared(&reader);
        let tuning = Lock::of(folder, "d").expect("nobody has it");
        let own = folder.join("own.safetensors");
        let left = |limit| {
            make_room(folder, limit, 100, &own).expect("it can be removed");
            let names = names(folder);
            names.into_iter().filter(|name| !name.ends_with(LOCK)).map(|name| name[..1].to_owned()).collect::<String>()
        };
        assert_eq!(left(600), "abcde");
        assert_eq!(left(500), "abcd");
        assert_eq!(left(400), "acd", "the oldest is being read");
        assert_eq!(left(0), "ad", "one is read, one is still being tuned");
        drop((reader, tuning));
        assert_eq!(left(0), "");
    }

    #[test]
    fn one_has_a_lock_at_a_time_and_the_file_goes_with_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let folder = folder.path();
        let first = Lock::of(folder, "name").expect("nobody has it");
        assert!(Lock::of(folder, "name").is_none());
        drop(first);
        assert!(names(folder).is_empty());
        assert!(Lock::of(folder, "name").is_some());
        // Where no file can be made, nobody is waited for.
        assert!(Lock::of(Path::new("/dev/null/at/all"), "name").is_some());
    }
}
