//! Digests of whole files, computed once: a model of gigabytes takes seconds to read. A file is known again by where it
//! is on the disk, its size and the time of its last change.
#![forbid(unsafe_code)]

use crate::error::{Doing, Error, Result};
use crate::files;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// File in the cache folder.
const FILE: &str = "digests.json";

/// Files whose digests are kept.
const MAX_FILES: usize = 500;

/// A file that was changed less than so long ago could be changed once more without another time to show it.
const SETTLED: Duration = Duration::from_secs(2);

/// Of what is read and hashed between two askings whether to go on.
const CHUNK: usize = 8 << 20;

/// Digests that are known.
pub struct Digests {
    folder: Option<PathBuf>,
    /// `None` before the folder was looked at.
    known: RefCell<Option<BTreeMap<String, Known>>>,
    /// What this process has read, by path: enough for a guess, also where the system does not tell files apart.
    read: RefCell<BTreeMap<PathBuf, ReadFile>>,
}

/// When a file was changed last, its bytes and its digest.
type ReadFile = (Option<SystemTime>, u64, String);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Known {
    bytes: u64,
    /// Nanoseconds since 1970.
    changed: u64,
    digest: String,
}

impl Digests {
    /// Kept in `folder`, or in memory only.
    pub fn new(folder: Option<&Path>) -> Self {
        Self { folder: folder.map(Path::to_owned), known: RefCell::default(), read: RefCell::default() }
    }

    /// What [`Digests::of`] says of `file`, where that is known without reading it. A guess where it was changed within
    /// a moment, so no result may depend on it.
    pub fn at_hand(&self, file: &File, path: &Path) -> Option<String> {
        let known = Identity::of(file).ok()?.and_then(|file| self.known(&file));
        known.or_else(|| {
            let about = file.metadata().ok()?;
            let read = self.read.borrow();
            let (changed, bytes, digest) = read.get(path)?;
            ((*changed, *bytes) == (about.modified().ok(), about.len())).then(|| digest.clone())
        })
    }

    /// SHA-256 of all of `file`, which is called `path`. `go_on` is asked while it is read; an error ends the reading.
    pub fn of(&self, mut file: &File, path: &Path, go_on: &mut dyn FnMut() -> Result<()>) -> Result<String> {
        let unread = || Error::file(Doing::Read, path);
        let before = Identity::of(file).map_err(unread())?;
        if let Some(known) = before.as_ref().and_then(|before| self.known(before)) {
            return Ok(known);
        }
        let (mut hash, mut chunk) = (Sha256::new(), vec![0; CHUNK]);
        file.rewind().map_err(unread())?;
        loop {
            go_on()?;
            match file.read(&mut chunk).map_err(unread())? {
                0 => break,
                read => hash.update(&chunk[..read]),
            }
        }
        let digest = format!("{:x}", hash.finalize());
        let about = file.metadata().map_err(unread())?;
        self.read.borrow_mut().insert(path.to_owned(), (about.modified().ok(), about.len(), digest.clone()));
        if let Some(before) = before.filter(|before| before.is_settled())
            && Identity::of(file).map_err(unread())?.as_ref() == Some(&before)
        {
            self.remember(before, &digest);
        }
        Ok(digest)
    }

    fn known(&self, file: &Identity) -> Option<String> {
        let mut known = self.known.borrow_mut();
        let known = known.get_or_insert_with(|| self.read()).get(&file.place)?;
        ((known.bytes, known.changed) == (file.bytes, file.changed)).then(|| known.digest.clone())
    }

    /// Failures are not told: it is computed again.
    fn remember(&self, file: Identity, digest: &str) {
        let Identity { place, bytes, changed } = file;
        // Another program may have added some.
        let mut known = self.read();
        known.extend(self.known.take().unwrap_or_default());
        if known.len() >= MAX_FILES {
            known.clear();
        }
        known.insert(place, Known { bytes, changed, digest: digest.to_owned() });
        if let Some(folder) = &self.folder {
            let text = serde_json::to_vec_pretty(&known).expect("numbers and texts always become JSON");
            let _ = files::write_private(&folder.join(FILE), &text);
        }
        self.known.replace(Some(known));
    }

    fn read(&self) -> BTreeMap<String, Known> {
        let read = |folder: &PathBuf| {
            let mut text = Vec::new();
            files::open_plain(&folder.join(FILE), File::options().read(true)).ok()?.read_to_end(&mut text).ok()?;
            serde_json::from_slice(&text).ok()
        };
        self.folder.as_ref().and_then(read).unwrap_or_default()
    }
}

/// By what a file is known again.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Identity {
    /// Disk and place on it.
    place: String,
    bytes: u64,
    changed: u64,
}

impl Identity {
    /// `None` where the system does not tell one file from another.
    #[cfg(unix)]
    fn of(file: &File) -> io::Result<Option<Self>> {
        use std::os::unix::fs::MetadataExt;
        let about = file.metadata()?;
        // Of a file that was copied over another one, the time of change may be any; that of its entry is not.
        let changed = [(about.mtime(), about.mtime_nsec()), (about.ctime(), about.ctime_nsec())];
        let changed = changed.into_iter().map(|(s, ns)| s as u64 * 1_000_000_000 + ns as u64).max();
        let place = format!("{}:{}", about.dev(), about.ino());
        Ok(Some(Self { place, bytes: about.len(), changed: changed.unwrap_or_default() }))
    }

    /// `None` where the system does not tell one file from another.
    #[cfg(not(unix))]
    fn of(_: &File) -> io::Result<Option<Self>> {
        Ok(None)
    }

    fn is_settled(&self) -> bool {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        now.saturating_sub(Duration::from_nanos(self.changed)) >= SETTLED
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(digests: &Digests, path: &Path) -> (String, u32) {
        let mut reads = 0;
        let digest = digests.of(&File::open(path).expect("it is there"), path, &mut || {
            reads += 1;
            Ok(())
        });
        (digest.expect("it can be read"), reads)
    }

    #[test]
    fn a_file_is_read_once_in_all_programs_and_again_when_it_has_changed() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, cache) = (folder.path().join("model"), folder.path().join("cache"));
        std::fs::write(&path, [1; 100]).expect("it can be written");
        let digests = Digests::new(Some(&cache));
        assert!(digest(&digests, &path).1 > 0);
        assert!(digest(&digests, &path).1 > 0, "it may change once more within the same time");
        std::thread::sleep(SETTLED);
        let (first, reads) = digest(&digests, &path);
        assert!(reads > 0);
        assert_eq!(digest(&digests, &path), (first.clone(), 0));
        assert_eq!(digest(&Digests::new(Some(&cache)), &path), (first.clone(), 0));
        let alone = digest(&Digests::new(None), &path);
        assert!(alone.0 == first && alone.1 > 0);
        // As long, and with the old time.
        let time = path.metadata().and_then(|about| about.modified()).expect("a time");
        std::fs::write(&path, [2; 100]).expect("it can be written");
        File::options().append(true).open(&path).and_then(|file| file.set_modified(time)).expect("it is ours");
        let (second, reads) = digest(&digests, &path);
        assert!(second != first && reads > 0);
    }

    #[test]
    fn reading_ends_when_it_is_told_to() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("model");
        std::fs::write(&path, [1; 100]).expect("it can be written");
        let file = File::open(&path).expect("it is there");
        let stopped = Digests::new(None).of(&file, &path, &mut || Err(Error::Cancelled));
        assert!(matches!(stopped, Err(Error::Cancelled)));
    }

    #[test]
    fn what_is_at_hand_is_what_was_read_before_and_of_a_changed_file_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("model");
        let open = || File::open(&path).expect("it is there");
        std::fs::write(&path, [1; 100]).expect("it can be written");
        let digests = Digests::new(None);
        assert_eq!(digests.at_hand(&open(), &path), None);
        let (read, _) = digest(&digests, &path);
        assert_eq!(digests.at_hand(&open(), &path), Some(read));
        std::fs::write(&path, [1; 101]).expect("it can be written");
        assert_eq!(digests.at_hand(&open(), &path), None);
    }
}
