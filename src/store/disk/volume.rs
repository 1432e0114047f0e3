//! Where the files of a cache are: in the file system, or in what stands in for it in tests.

use std::fmt::Debug;
use std::fs::{self, File};
use std::io::{self, Read};
use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;

use redb::{Builder, Database, DatabaseError, StorageBackend};

use crate::store::disk::failure::{Failure, guarded};

/// Stands in for a file system, so that a test can say what becomes of each write.
pub trait Volume: Debug + Send + Sync + 'static {
    /// Opens a file for reading and writing; `None` if there is none of this name.
    ///
    /// # Errors
    ///
    /// As opening a file has them.
    fn open(&self, path: &Path) -> io::Result<Option<Box<dyn Device>>>;

    /// Makes a file, empty, in the place of any other of its name.
    ///
    /// # Errors
    ///
    /// As making a file has them.
    fn create(&self, path: &Path) -> io::Result<Box<dyn Device>>;

    /// Gives a file another name, which any other file loses.
    ///
    /// # Errors
    ///
    /// As renaming has them.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file, if there is one of this name.
    ///
    /// # Errors
    ///
    /// As removing has them.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Makes the names of the files beside `path` durable.
    ///
    /// # Errors
    ///
    /// As syncing a folder has them.
    fn sync_names(&self, path: &Path) -> io::Result<()>;
}

/// One file of a [`Volume`]; several may be of the same file.
pub trait Device: Debug + Send + Sync + 'static {
    /// Bytes in the file.
    ///
    /// # Errors
    ///
    /// As asking a file has them.
    fn len(&self) -> io::Result<u64>;

    /// Whether the file is empty.
    ///
    /// # Errors
    ///
    /// As [`Self::len`].
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Fills `out` with what is at `offset`.
    ///
    /// # Errors
    ///
    /// `UnexpectedEof` where the file is shorter.
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()>;

    /// Writes `bytes` at `offset`.
    ///
    /// # Errors
    ///
    /// As writing has them; some of the bytes may have been written.
    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Cuts the file, or fills it up with zeros.
    ///
    /// # Errors
    ///
    /// As this has them for a file.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Makes all that was written durable.
    ///
    /// # Errors
    ///
    /// As syncing has them; what was written may be durable or not.
    fn sync(&self) -> io::Result<()>;

    /// Bytes that the file occupies.
    ///
    /// # Errors
    ///
    /// As asking a file has them.
    fn occupied(&self) -> io::Result<u64> {
        self.len()
    }
}

/// redb's view of a device.
#[derive(Debug)]
struct Backend(Box<dyn Device>);

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync()
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write(offset, bytes)
    }
}

/// An open database. Closing one that has failed may fail again, or panic: that stays here.
#[derive(Debug)]
pub(super) struct Base(Option<Database>);

impl Deref for Base {
    type Target = Database;

    fn deref(&self) -> &Database {
        match &self.0 {
            Some(database) => database,
            None => unreachable!("taken by drop only"),
        }
    }
}

impl Drop for Base {
    fn drop(&mut self) {
        let database = self.0.take();
        let _ = guarded(move || {
            drop(database);
            Ok(())
        });
    }
}

/// Where the files are.
#[derive(Debug, Clone, Default)]
pub(crate) enum Place {
    #[default]
    Files,
    Volume(Arc<dyn Volume>),
}

impl Place {
    /// The first bytes of a file, `count` of them or all; `None` if there is no file.
    pub(super) fn head(&self, path: &Path, count: usize) -> io::Result<Option<Vec<u8>>> {
        let mut head = Vec::new();
        match self {
            Self::Files => {
                let mut file = match File::open(path) {
                    Ok(file) => file,
                    Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
                    Err(e) => return Err(e),
                };
                file.by_ref().take(count as u64).read_to_end(&mut head)?;
            }
            Self::Volume(volume) => {
                let Some(device) = volume.open(path)? else { return Ok(None) };
                let len = usize::try_from(device.len()?).unwrap_or(usize::MAX);
                head.resize(count.min(len), 0);
                device.read(0, &mut head)?;
            }
        }
        Ok(Some(head))
    }

    /// Opens the database in a file that exists.
    pub(super) fn open(&self, path: &Path, cache_bytes: usize) -> Result<Base, Failure> {
        let mut builder = Builder::new();
        builder.set_cache_size(cache_bytes);
        Ok(Base(Some(match self {
            Self::Files => builder.open(path)?,
            Self::Volume(volume) => {
                let device = volume.open(path)?;
                let device = device.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
                // redb would make a database of an empty file.
                if device.is_empty()? {
                    return Err(Failure::damage("the file is empty"));
                }
                builder.create_with_backend(Backend(device))?
            }
        })))
    }

    /// Opens the database in a file, which is left as it is; `None` if that cannot be, since the
    /// file was not closed cleanly.
    pub(super) fn open_untouched(
        &self,
        path: &Path,
    ) -> Result<Option<redb::ReadOnlyDatabase>, Failure> {
        match self {
            Self::Files => match Builder::new().open_read_only(path) {
                Ok(database) => Ok(Some(database)),
                Err(DatabaseError::RepairAborted) => Ok(None),
                Err(e) => Err(e.into()),
            },
            Self::Volume(_) => Ok(None),
        }
    }

    /// Makes a new database; what is written to it is durable after [`Self::sync`].
    pub(super) fn create(&self, path: &Path, cache_bytes: usize) -> Result<Base, Failure> {
        let mut builder = Builder::new();
        builder.set_cache_size(cache_bytes);
        Ok(Base(Some(match self {
            Self::Files => builder.create_file(private_file(path)?)?,
            Self::Volume(volume) => builder.create_with_backend(Backend(volume.create(path)?))?,
        })))
    }

    /// Makes durable what was written to a file.
    pub(super) fn sync(&self, path: &Path) -> io::Result<()> {
        match self {
            Self::Files => File::open(path)?.sync_all(),
            Self::Volume(volume) => match volume.open(path)? {
                Some(device) => device.sync(),
                None => Err(io::ErrorKind::NotFound.into()),
            },
        }
    }

    /// Bytes that a file occupies, holes left out where the system tells; 0 if it is not there.
    pub(super) fn occupied(&self, path: &Path) -> io::Result<u64> {
        let occupied = match self {
            Self::Files => fs::metadata(path).map(|metadata| blocks_bytes(&metadata)),
            Self::Volume(volume) => match volume.open(path)? {
                Some(device) => device.occupied(),
                None => Ok(0),
            },
        };
        occupied.or_else(|e| if e.kind() == io::ErrorKind::NotFound { Ok(0) } else { Err(e) })
    }

    pub(super) fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        match self {
            Self::Files => fs::rename(from, to),
            Self::Volume(volume) => volume.rename(from, to),
        }
    }

    /// Removes a file, if it is there.
    pub(super) fn remove(&self, path: &Path) -> io::Result<()> {
        let removed = match self {
            Self::Files => fs::remove_file(path),
            Self::Volume(volume) => volume.remove(path),
        };
        removed.or_else(|e| if e.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(e) })
    }

    /// Makes the names of files beside `path` durable.
    pub(super) fn sync_names(&self, path: &Path) -> io::Result<()> {
        match self {
            Self::Files if cfg!(unix) => {
                File::open(folder(path).unwrap_or(Path::new(".")))?.sync_all()
            }
            Self::Files => Ok(()),
            Self::Volume(volume) => volume.sync_names(path),
        }
    }
}

/// The folder of a file; `None` for the current one.
pub(super) fn folder(path: &Path) -> Option<&Path> {
    path.parent().filter(|parent| !parent.as_os_str().is_empty())
}

#[cfg(unix)]
fn blocks_bytes(metadata: &fs::Metadata) -> u64 {
    // Of 512 bytes each, whatever the file system's own blocks are.
    std::os::unix::fs::MetadataExt::blocks(metadata).saturating_mul(512)
}

#[cfg(not(unix))]
fn blocks_bytes(metadata: &fs::Metadata) -> u64 {
    metadata.len()
}

/// A new file that only its owner may read: it holds whatever the program caches.
fn private_file(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}
