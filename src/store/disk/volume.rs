//! Where the files of a cache are: in the file system, or in what stands in for it in tests.

use std::fmt::Debug;
use std::fs::{self, File};
use std::io::{self, Read};
use std::ops::Deref;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use redb::{Builder, Database, StorageBackend};

use crate::store::disk::blocks::{Blocks, Watch};
use crate::store::disk::failure::{Failure, guarded};
use crate::store::disk::holding::Holding;
use crate::store::disk::places::Places;
use crate::sync::atomic::Ordering;
use crate::sync::{LANES, lane};

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

/// A file of the file system. The system counts who reads by a descriptor, so threads that share one write to
/// a common line: each lane of them has one of its own, once it reads.
#[derive(Debug)]
struct InFolder {
    file: File,
    /// Where one cannot be had, threads share the first.
    of_lanes: [OnceLock<Option<File>>; LANES],
}

impl InFolder {
    fn new(file: File) -> Self {
        Self { file, of_lanes: Default::default() }
    }

    /// By which this thread reads.
    fn mine(&self) -> &File {
        let mine =
            self.of_lanes.get(lane()).map(|mine| mine.get_or_init(|| opened_again(&self.file)));
        mine.and_then(Option::as_ref).unwrap_or(&self.file)
    }
}

/// The same file by another descriptor that shares nothing with the first, whatever its name is by now.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn opened_again(file: &File) -> Option<File> {
    use std::os::fd::AsRawFd;
    File::open(format!("/proc/self/fd/{}", file.as_raw_fd())).ok()
}

/// Elsewhere the system gives none of which that is sure.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn opened_again(_: &File) -> Option<File> {
    None
}

impl Device for InFolder {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    #[cfg(unix)]
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(self.mine(), out, offset)
    }

    #[cfg(unix)]
    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        std::os::unix::fs::FileExt::write_all_at(&self.file, bytes, offset)
    }

    #[cfg(windows)]
    fn read(&self, mut offset: u64, mut out: &mut [u8]) -> io::Result<()> {
        while !out.is_empty() {
            let read = std::os::windows::fs::FileExt::seek_read(self.mine(), out, offset)?;
            let rest = out.split_at_mut_checked(read).filter(|_| read > 0);
            out = rest.ok_or(io::ErrorKind::UnexpectedEof)?.1;
            offset += read as u64;
        }
        Ok(())
    }

    #[cfg(windows)]
    fn write(&self, mut offset: u64, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let written = std::os::windows::fs::FileExt::seek_write(&self.file, bytes, offset)?;
            let rest = bytes.split_at_checked(written).filter(|_| written > 0);
            bytes = rest.ok_or(io::ErrorKind::WriteZero)?.1;
            offset += written as u64;
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn occupied(&self) -> io::Result<u64> {
        Ok(blocks_bytes(&self.file.metadata()?))
    }
}

/// A cache file as redb's storage, for tests that look into one, or change one, by hand.
///
/// # Errors
///
/// As opening a file has them.
pub fn storage(path: &Path) -> io::Result<impl StorageBackend> {
    let file = File::options().read(true).write(true).open(path)?;
    let file = Holding::new(Box::new(InFolder::new(file)), false)?;
    Ok(Blocks::new(file, Arc::default(), 0))
}

/// An open database. Closing one that has failed may fail again, or panic: that stays here.
#[derive(Debug)]
pub(super) struct Base {
    database: Option<Database>,
    file: Arc<Holding>,
    watch: Arc<Watch>,
    places: Arc<Places>,
}

impl Base {
    fn over(cache_bytes: usize, file: Arc<Holding>, is_lenient: bool) -> Result<Self, Failure> {
        let watch = Arc::<Watch>::default();
        watch.is_lenient.store(is_lenient, Ordering::Release);
        let blocks = Blocks::new(Arc::clone(&file), Arc::clone(&watch), cache_bytes);
        let places = Arc::clone(blocks.places());
        let mut builder = Builder::new();
        let database = builder.set_cache_size(places.pages_bytes()).create_with_backend(blocks)?;
        Ok(Self { database: Some(database), file, watch, places })
    }

    /// The database as redb left it, opened anew, where there is no damage any more.
    pub(super) fn again(self, cache_bytes: usize) -> Result<Self, Failure> {
        let file = Arc::clone(&self.file);
        self.give_up();
        Self::over(cache_bytes, file, false)
    }

    /// Lets the file have what was kept from it. It is open.
    pub(super) fn release(&self) -> Result<(), Failure> {
        if let Err(e) = self.file.release() {
            // What redb would write as it closes does not belong on half of it.
            self.watch.is_given_up.store(true, Ordering::Release);
            return Err(e.into());
        }
        self.watch.is_lenient.store(false, Ordering::Release);
        Ok(())
    }

    /// Closes it without a write: what redb would write as it closes may rest on damage. It writes
    /// nothing after an error, and its check of the file meets one.
    pub(super) fn give_up(mut self) {
        self.watch.is_given_up.store(true, Ordering::Release);
        if let Some(database) = &mut self.database {
            let _ = guarded(|| Ok(database.check_integrity()?));
        }
    }

    /// Closes a file that has no name any more: nothing in it need be durable.
    pub(super) fn forget(self) {
        self.watch.is_nobodys.store(true, Ordering::Release);
    }

    /// Likewise, for whoever reads it.
    pub(super) fn shared_watch(&self) -> Arc<Watch> {
        Arc::clone(&self.watch)
    }

    /// Where its rows are known to be.
    pub(super) fn places(&self) -> &Arc<Places> {
        &self.places
    }

    /// What is known of the file's damage.
    pub(super) fn watch(&self) -> &Watch {
        &self.watch
    }
}

impl Deref for Base {
    type Target = Database;

    fn deref(&self) -> &Database {
        match &self.database {
            Some(database) => database,
            None => unreachable!("taken by drop only"),
        }
    }
}

impl Drop for Base {
    fn drop(&mut self) {
        let database = self.database.take();
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
    /// A file, open for reading and writing; `None` if there is none.
    fn device(&self, path: &Path) -> io::Result<Option<Box<dyn Device>>> {
        match self {
            Self::Files => match File::options().read(true).write(true).open(path) {
                Ok(file) => Ok(Some(Box::new(InFolder::new(file)))),
                Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(e) => Err(e),
            },
            Self::Volume(volume) => volume.open(path),
        }
    }

    /// The first bytes of a file, `count` of them or all; `None` if there is no file.
    pub(super) fn head(&self, path: &Path, count: usize) -> io::Result<Option<Vec<u8>>> {
        let mut head = Vec::new();
        match self {
            // Which need not be a file of ours, nor one that may be written to.
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

    /// Opens the database in a file that exists, which stays as it is until it is released. Where that is
    /// lenient, redb is to see to damaged pages until then.
    pub(super) fn open(
        &self,
        path: &Path,
        cache_bytes: usize,
        is_lenient: bool,
    ) -> Result<Base, Failure> {
        let device = self.device(path)?.ok_or_else(|| self.gone(path))?;
        // redb would make a database of an empty file.
        if device.is_empty()? {
            return Err(Failure::damage("the file is empty"));
        }
        Base::over(cache_bytes, Holding::new(device, true)?, is_lenient)
    }

    /// A file that was removed is lost; one whose folder is not there may come back with it.
    fn gone(&self, path: &Path) -> Failure {
        match self {
            Self::Files if !folder(path).unwrap_or(Path::new(".")).is_dir() => {
                io::Error::from(io::ErrorKind::NotFound).into()
            }
            _ => Failure::damage("the file was removed"),
        }
    }

    /// What tells the folder of a file from another of its name, such as that which a file system is
    /// mounted on.
    pub(super) fn folder_id(&self, path: &Path) -> Option<(u64, u64)> {
        #[cfg(unix)]
        if matches!(self, Self::Files) {
            use std::os::unix::fs::MetadataExt;
            let metadata = fs::metadata(folder(path).unwrap_or(Path::new("."))).ok()?;
            return Some((metadata.dev(), metadata.ino()));
        }
        let _ = path;
        None
    }

    /// Makes a new database; what is written to it is durable after [`Self::sync`].
    pub(super) fn create(&self, path: &Path, cache_bytes: usize) -> Result<Base, Failure> {
        let device = self.create_device(path)?;
        let base = Base::over(cache_bytes, Holding::new(device, false)?, false)?;
        base.watch.is_new.store(true, Ordering::Release);
        Ok(base)
    }

    /// Makes a file of these bytes, and then cuts it to so many.
    pub(super) fn write(&self, path: &Path, bytes: &[u8], kept: usize) -> io::Result<()> {
        let device = self.create_device(path)?;
        device.write(0, bytes)?;
        device.set_len(kept as u64)
    }

    /// A new file, empty, in the place of any other.
    fn create_device(&self, path: &Path) -> io::Result<Box<dyn Device>> {
        match self {
            Self::Files => Ok(Box::new(InFolder::new(private_file(path)?))),
            Self::Volume(volume) => volume.create(path),
        }
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

#[cfg(test)]
mod tests {
    #[cfg(unix)]
    use super::*;

    #[test]
    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn threads_read_a_file_each_by_a_descriptor_of_its_own() {
        use std::collections::BTreeSet;
        use std::os::fd::AsRawFd;

        let folder = tempfile::tempdir().unwrap();
        let (path, other) = (folder.path().join("file"), folder.path().join("other"));
        let file = InFolder::new(private_file(&path).unwrap());
        file.write(0, b"before").unwrap();
        // Another file has the name by the time that most of them look.
        fs::write(&other, "others").unwrap();
        fs::rename(&other, &path).unwrap();
        let look = || {
            let mut found = [0; 6];
            file.read(0, &mut found).unwrap();
            (found, file.mine().as_raw_fd())
        };
        let see = |expected: &[u8; 6]| -> BTreeSet<i32> {
            std::thread::scope(|scope| {
                let threads: Vec<_> = (0..LANES).map(|_| scope.spawn(look)).collect();
                let seen = threads.into_iter().map(|thread| thread.join().unwrap());
                seen.inspect(|(found, _)| assert_eq!(found, expected)).map(|(_, by)| by).collect()
            })
        };
        let mut all = see(b"before");
        assert!(!all.contains(&file.file.as_raw_fd()));
        file.write(0, b"behind").unwrap();
        all.extend(see(b"behind"));
        // Tests that run meanwhile may take lanes, too.
        assert!((2..=LANES).contains(&all.len()), "{} descriptors", all.len());
    }

    #[test]
    #[cfg(unix)]
    fn where_no_descriptor_is_to_be_had_the_first_is_read() {
        use std::os::fd::AsRawFd;

        let folder = tempfile::tempdir().unwrap();
        let file = InFolder::new(private_file(&folder.path().join("file")).unwrap());
        file.write(0, b"bytes").unwrap();
        for of_lane in &file.of_lanes {
            of_lane.set(None).unwrap();
        }
        let mut found = [0; 5];
        file.read(0, &mut found).unwrap();
        assert_eq!((&found, file.mine().as_raw_fd()), (b"bytes", file.file.as_raw_fd()));
    }
}
