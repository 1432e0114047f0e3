//! The lock file beside the cache file: one process, and one handle in it, owns a cache. The cache file
//! is locked as well, where that does not keep it from being read: it may have other names.
//!
//! An advisory lock of the operating system's, which ends with its holder, however that ends. The
//! file holds the holder's process id, so that whoever is refused can say who has it. It stays
//! behind, unlocked, when the cache is closed: removing it would race with the next one to open.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind, Result};

/// The lock, until it is dropped.
#[derive(Debug)]
pub(super) struct FileLock {
    file: File,
}

/// The name of another file that belongs to the cache file at `path`.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

impl FileLock {
    /// Takes the lock of the cache file at `path`, or says who holds it.
    pub(super) fn take(path: &Path) -> Result<Self> {
        let lock_path = beside(path, ".lock");
        let open =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&lock_path);
        let mut file = open.map_err(|e| {
            let sentence = format!(
                "cannot open the lock file {}: {e}; the cache needs it beside its own file, so the folder must be there \
                 and writable, and the name a little shorter than the longest",
                lock_path.display()
            );
            Error::with_source(ErrorKind::Io, sentence, e)
        })?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(locked(path, &mut file)),
            Err(TryLockError::Error(e)) => {
                let sentence = format!(
                    "cannot lock {}: {e}; put the cache on a file system that supports locks",
                    lock_path.display()
                );
                return Err(Error::with_source(ErrorKind::Io, sentence, e));
            }
        }
        // The id is for people; a full disk must not keep the cache from opening.
        let _ = file.set_len(0);
        let _ = file.seek(SeekFrom::Start(0));
        let _ = file.write_all(std::process::id().to_string().as_bytes());
        Ok(Self { file })
    }

    /// Locks the cache file itself, or says that somebody has it by another name.
    pub(super) fn of(path: &Path) -> Result<Option<Self>> {
        // Elsewhere what is locked cannot be read by others, nor by us.
        if !cfg!(unix) {
            return Ok(None);
        }
        let failed = |e: std::io::Error| {
            let sentence = format!(
                "cannot open {}: {e}; this process has to be able to read and write it",
                path.display()
            );
            Error::with_source(ErrorKind::Io, sentence, e)
        };
        let file = File::open(path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Self { file })),
            Err(TryLockError::WouldBlock) => {
                let sentence = format!(
                    "{} is open in this process or another by another name; close it there",
                    path.display()
                );
                Err(Error::new(ErrorKind::Locked, sentence))
            }
            // The lock file was locked, so this is as good as it gets.
            Err(TryLockError::Error(_)) => Ok(None),
        }
    }
}

impl Drop for FileLock {
    fn drop(&mut self) {
        // Closing the file is not enough while a process that this one is just starting has it too.
        let _ = self.file.unlock();
    }
}

#[cold]
fn locked(path: &Path, file: &mut File) -> Error {
    let mut holder = String::new();
    let _ = file.take(32).read_to_string(&mut holder);
    let holder = match holder.trim() {
        "" => "another process".to_owned(),
        id if id == std::process::id().to_string() => format!("this process (id {id})"),
        id => format!("process {id}"),
    };
    let sentence =
        format!("{} is open in {holder}; close it there, or open another file", path.display());
    Error::new(ErrorKind::Locked, sentence)
}
