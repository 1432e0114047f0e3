//! Opening: lock, look, create or open, compare what the file says with what the program expects.
//!
//! # How it works
//!
//! 1. What is at the path must be nothing, an empty file, or begin as our files do.
//! 2. The lock file is taken, and what a crash left half-made is removed.
//! 3. A new file is made under a temporary name, synced and renamed: a crash while redb creates a
//!    file would leave one that cannot be opened.
//! 4. The database is opened and the meta rows are read while the file is held (`blocks.rs`), so that one
//!    that is refused stays as it is.
//! 5. The file is released, and its totals are compared with the number of rows.
//!
//! A file that begins as ours and cannot be opened or read is damaged: it is set aside under the
//! name `*.damaged`, in the place of the one before, or refused, as the caller chose.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use redb::{
    Database, ReadOnlyTable, ReadTransaction, ReadableDatabase, ReadableTableMetadata,
    WriteTransaction,
};

use crate::error::{Error, ErrorKind, Result};
use crate::hash::KeyHasher;
use crate::store::Totals;
use crate::store::disk::adopt::Known;
use crate::store::disk::blocks::{HEADS_BYTES, MAGIC, mildly, version_of};
use crate::store::disk::changes::Log;
use crate::store::disk::copied::Copied;
use crate::store::disk::failure::{Failure, guarded};
use crate::store::disk::lock::{FileLock, beside};
use crate::store::disk::reserve::Reserve;
use crate::store::disk::rows::Rows;
use crate::store::disk::schema::{
    COPIED_ROW, EXPIRY, FILED, FORMAT_ROW, FORMAT_VERSION, INDEX, KEY_ROW, META, NEWEST_ROW, ORDER,
    RANKS, RKYV_ROW, ROWS, SCHEMA_VERSION_ROW, TOTALS_ROW, VALUE_ROW, decode_newest,
};
use crate::store::disk::volume::{Base, Place, folder};
use crate::store::disk::{Disk, Writer};
use crate::strategy::DiskStrategy;
use crate::sync::Lanes;
use crate::trace;

/// As many links lead to one another, at most.
const LINKS_MAX: usize = 40;

/// What to do with a damaged file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnDamage {
    SetAside,
    Fail,
}

/// What to do with a file of another type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnOtherType {
    Fail,
    StartEmpty,
}

/// How to open a file, and what it should hold.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) path: PathBuf,
    pub(crate) place: Place,
    pub(crate) cache_bytes: usize,
    pub(crate) on_damage: OnDamage,
    pub(crate) on_other_type: OnOtherType,
    /// rkyv's format features, as compiled in.
    pub(crate) rkyv: String,
    pub(crate) key: String,
    pub(crate) value: String,
    pub(crate) schema_version: u32,
    pub(crate) strategy: DiskStrategy,
}

/// An open disk tier.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) disk: Arc<Disk>,
    pub(crate) writer: Writer,
}

/// Why a file that exists was not accepted.
enum Refused {
    Damaged(Failure),
    Error(Error),
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

impl Opened {
    /// Opens the cache file, or makes it.
    pub(crate) fn open(options: &Options) -> Result<Self> {
        let files = matches!(options.place, Place::Files);
        let mut options = options.clone();
        if files {
            options.path = led_to(&options.path);
            make_folder(&options.path)?;
        }
        let (options, path) = (&options, &options.path);
        let exists = is_there(options)?;
        let lock = if files { Some(FileLock::take(path)?) } else { None };
        let _ = options.place.remove(&beside(path, ".new"));
        if !exists {
            create(options)?;
        }
        let mut file_lock = lock_by_inode(options)?;
        let (database, totals) = match accept_or_accept_again(options) {
            Ok(accepted) => accepted,
            Err(Refused::Error(error)) => return Err(error),
            Err(Refused::Damaged(failure)) => {
                set_aside(options, failure)?;
                create(options)?;
                file_lock = lock_by_inode(options)?;
                accept(options, false).map_err(|refused| match refused {
                    Refused::Error(error) => error,
                    Refused::Damaged(failure) => failure.into_error("cannot open a new file"),
                })?
            }
        };
        let copied = noted(&database, COPIED_ROW).and_then(|row| Copied::decode(&row));
        let newest = noted(&database, NEWEST_ROW).map_or(0, |row| decode_newest(&row));
        let disk = Arc::new(Disk {
            snapshot: Lanes::default(),
            entries: AtomicU64::new(totals.entries),
            bytes: AtomicU64::new(totals.bytes),
            epoch: AtomicU64::new(0),
            changes: Log::default(),
            strategy: options.strategy,
            hasher: KeyHasher::default(),
        });
        let mut writer = Writer {
            disk: Arc::clone(&disk),
            database: Some(database),
            totals,
            next_place: 0,
            sweep_from: Vec::new(),
            order: Known::Nothing,
            copied,
            newest,
            compaction: None,
            closing: None,
            unsynced_names: false,
            options: options.clone(),
            is_missing: false,
            folder_id: options.place.folder_id(path),
            reserve: Reserve::Unknown,
            is_unsure: false,
            file_lock,
            _lock: lock,
        };
        let read = writer.refresh().or_else(|_| writer.reopen().map(drop));
        read.map_err(|f| f.into_error(format!("cannot read {}", path.display())))?;
        Ok(Self { disk, writer })
    }
}

/// Locks the file that has the name now, which may have others.
pub(super) fn lock_by_inode(options: &Options) -> Result<Option<FileLock>> {
    match options.place {
        Place::Files => FileLock::of(&options.path),
        Place::Volume(_) => Ok(None),
    }
}

/// The file that a link leads to, or is to lead to: what is renamed takes the place of a link, not of what it leads
/// to. The path itself where that is no link.
fn led_to(path: &Path) -> PathBuf {
    let mut led_to = path.to_owned();
    for _ in 0..LINKS_MAX {
        let Ok(next) = fs::read_link(&led_to) else { return led_to };
        led_to = led_to.parent().unwrap_or(Path::new("")).join(next);
    }
    path.to_owned()
}

fn make_folder(path: &Path) -> Result<()> {
    let Some(parent) = folder(path) else { return Ok(()) };
    fs::create_dir_all(parent).map_err(|e| {
        let folder = parent.display();
        let sentence = format!("cannot make the folder {folder}: {e}; choose another path");
        Error::with_source(ErrorKind::Io, sentence, e)
    })
}

/// What a device or a pipe is.
const NO_FILE: &str = "not a regular file; choose another path";

/// Whether there is a file to open; an error if it is no file of ours.
fn is_there(options: &Options) -> Result<bool> {
    let path = &options.path;
    let failed = |e: std::io::Error| {
        let sentence =
            format!("cannot read {}: {e}; check the path and its permissions", path.display());
        Error::with_source(ErrorKind::Io, sentence, e)
    };
    if matches!(options.place, Place::Files) {
        // Before it is opened: that can wait for ever on a pipe.
        let kind = match fs::metadata(path) {
            Ok(metadata) => metadata.file_type(),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(false),
            Err(e) => return Err(failed(e)),
        };
        if !kind.is_file() {
            let what = if kind.is_dir() { "a folder; name a file in it" } else { NO_FILE };
            return Err(Error::new(ErrorKind::Io, format!("{} is {what}", path.display())));
        }
    }
    let start = options.place.head(path, HEADS_BYTES).map_err(failed)?.unwrap_or_default();
    if start.is_empty() {
        return Ok(false);
    }
    if !start.starts_with(&MAGIC) {
        return Err(foreign(path));
    }
    match version_of(&start) {
        Some(format) if format > FORMAT_VERSION => Err(newer(path, format)),
        _ => Ok(true),
    }
}

#[cold]
fn foreign(path: &Path) -> Error {
    let sentence = format!(
        "{} exists and is no cache file; choose another path, or remove it if it is not needed",
        path.display()
    );
    Error::new(ErrorKind::Foreign, sentence)
}

#[cold]
fn newer(path: &Path, format: u32) -> Error {
    let sentence = format!(
        "{} has format {format}, this build reads up to {FORMAT_VERSION}; open it with a newer \
         version of larder, or choose another path",
        path.display()
    );
    Error::new(ErrorKind::Version, sentence)
}

/// Makes a new file: temporary name, commit, sync, rename, sync of the folder.
fn create(options: &Options) -> Result<()> {
    let (path, new, place) = (&options.path, beside(&options.path, ".new"), &options.place);
    let made = guarded(|| {
        let database = place.create(&new, options.cache_bytes)?;
        start_empty(&database, options)?;
        drop(database);
        place.sync(&new)?;
        place.rename(&new, path)?;
        place.sync_names(path)?;
        Ok(())
    });
    made.map_err(|failure| {
        let _ = place.remove(&new);
        // What is new cannot be damaged: the device errs.
        let failure = Failure { damaged: false, ..failure };
        failure.into_error(format!("cannot make the cache file {}", path.display()))
    })
}

/// Writes the meta rows and empties the tables, in one transaction: entries of another schema
/// version or type must never be taken for ours.
fn start_empty(database: &Database, options: &Options) -> Result<(), Failure> {
    let transaction = database.begin_write()?;
    {
        write_meta(&transaction, options, Totals::default())?;
        transaction.delete_table(INDEX)?;
        transaction.delete_table(ROWS)?;
        transaction.delete_table(ORDER)?;
        transaction.delete_table(EXPIRY)?;
        transaction.delete_table(RANKS)?;
        transaction.delete_table(FILED)?;
        transaction.open_table(INDEX)?;
        transaction.open_table(ROWS)?;
        transaction.open_table(ORDER)?;
        transaction.open_table(EXPIRY)?;
    }
    transaction.commit()?;
    Ok(())
}

/// Writes all meta rows.
pub(super) fn write_meta(
    transaction: &WriteTransaction,
    options: &Options,
    totals: Totals,
) -> Result<(), Failure> {
    let mut meta = transaction.open_table(META)?;
    meta.insert(FORMAT_ROW, FORMAT_VERSION.to_le_bytes().as_slice())?;
    meta.insert(RKYV_ROW, options.rkyv.as_bytes())?;
    meta.insert(KEY_ROW, options.key.as_bytes())?;
    meta.insert(VALUE_ROW, options.value.as_bytes())?;
    meta.insert(SCHEMA_VERSION_ROW, options.schema_version.to_le_bytes().as_slice())?;
    meta.insert(TOTALS_ROW, totals.encode().as_slice())?;
    Ok(())
}

/// A device that errs once can look like damage, and a file that is set aside is lost to the cache. So
/// can what a power cut left of a commit: at the second attempt redb sees to that.
fn accept_or_accept_again(options: &Options) -> Result<(Base, Totals), Refused> {
    match accept(options, false) {
        Err(Refused::Damaged(_)) => accept(options, true),
        other => other,
    }
}

/// Opens a file that exists, if it holds what it should.
fn accept(options: &Options, is_lenient: bool) -> Result<(Base, Totals), Refused> {
    let path = &options.path;
    let opened = guarded(|| {
        let database = options.place.open(path, options.cache_bytes, is_lenient)?;
        let look = guarded(|| look(&database.begin_read()?, options));
        let look = look.map_err(|f| refuse(path, f)).and_then(|look| Ok(look.verdict(options)?));
        Ok((database, look))
    });
    let (database, verdict) = opened.map_err(|f| refuse(path, f))?;
    let outdated = match verdict {
        Ok(outdated) => outdated,
        Err(refused) => {
            database.give_up();
            return Err(refused);
        }
    };
    let read = guarded(|| {
        let database = sure(database, options)?;
        if outdated {
            // What is held is in memory.
            database.release()?;
            start_empty(&database, options)?;
        }
        let totals = totals(&database)?;
        database.release()?;
        Ok((database, totals))
    });
    read.map_err(|f| refuse(path, f))
}

/// Sorts what redb says of a file into damage and everything else.
fn refuse(path: &Path, failure: Failure) -> Refused {
    if failure.damaged {
        return Refused::Damaged(failure);
    }
    Refused::Error(match failure.source.downcast_ref::<redb::Error>() {
        Some(redb::Error::DatabaseAlreadyOpen) => {
            let sentence = format!("{} is open in another program; close it there", path.display());
            Error::new(ErrorKind::Locked, sentence)
        }
        Some(redb::Error::UpgradeRequired(version)) => {
            let sentence = format!(
                "{} has file format {version} of the storage engine, which this build does not \
                 read; open it with the version that wrote it, or choose another path",
                path.display()
            );
            Error::new(ErrorKind::Version, sentence)
        }
        _ => failure.into_error(format!("cannot open {}", path.display())),
    })
}

/// Opens a file that was accepted before.
pub(super) fn open_database(options: &Options) -> Result<Base, Failure> {
    let open =
        |is_lenient| guarded(|| options.place.open(&options.path, options.cache_bytes, is_lenient));
    let database = match open(false) {
        Err(failure) if failure.damaged => open(true)?,
        other => other?,
    };
    let database = sure(database, options)?;
    let is_ours = guarded(|| {
        let look = look(&database.begin_read()?, options)?;
        Ok(look.verdict(options).is_ok_and(|is_outdated| !is_outdated))
    });
    if is_ours? {
        database.release()?;
        return Ok(database);
    }
    database.give_up();
    Err(Failure::because("another cache's file is in the place of the one that was open"))
}

/// A database that is open and reads nothing damaged: what a power cut left of a commit is not led to
/// any more, since redb saw to that.
fn sure(database: Base, options: &Options) -> Result<Base, Failure> {
    if database.watch().is_hurt() {
        return database.again(options.cache_bytes);
    }
    Ok(database)
}

/// What the meta rows of a file say.
#[derive(Debug)]
struct Look {
    format: u32,
    rkyv: String,
    key: String,
    value: String,
    schema_version: u32,
}

fn look(transaction: &ReadTransaction, options: &Options) -> Result<Look, Failure> {
    let meta = transaction.open_table(META)?;
    let number = |row: Option<Vec<u8>>| Some(u32::from_le_bytes(row?.try_into().ok()?));
    let text =
        |row: Option<Vec<u8>>| String::from_utf8(row.unwrap_or_default()).unwrap_or_default();
    let format = number(row(&meta, FORMAT_ROW)?)
        .ok_or_else(|| Failure::damage("the file does not say its format"))?;
    let look = Look {
        format,
        rkyv: text(row(&meta, RKYV_ROW)?),
        key: text(row(&meta, KEY_ROW)?),
        value: text(row(&meta, VALUE_ROW)?),
        schema_version: number(row(&meta, SCHEMA_VERSION_ROW)?).unwrap_or(options.schema_version),
    };
    Ok(look)
}

fn row(
    meta: &ReadOnlyTable<&'static str, &'static [u8]>,
    name: &str,
) -> Result<Option<Vec<u8>>, Failure> {
    Ok(meta.get(name)?.map(|guard| guard.value().to_vec()))
}

impl Look {
    /// Whether the file is to be emptied; an error if it is to be left alone.
    fn verdict(&self, options: &Options) -> Result<bool> {
        let path = options.path.display();
        if self.format > FORMAT_VERSION {
            return Err(newer(&options.path, self.format));
        }
        let same = (&self.key, &self.value) == (&options.key, &options.value);
        if same && self.rkyv != options.rkyv {
            let sentence = format!(
                "{path} was written with the rkyv format features '{}', this program has '{}'; \
                 build with the same ones, or choose another path",
                self.rkyv, options.rkyv
            );
            return Err(Error::new(ErrorKind::Version, sentence));
        }
        if !same && options.on_other_type == OnOtherType::Fail {
            let sentence = format!(
                "{path} maps {} to {}, this cache maps {} to {}; choose another path, or let a \
                 file of another type start empty (on_schema_mismatch)",
                self.key, self.value, options.key, options.value
            );
            return Err(Error::new(ErrorKind::Schema, sentence));
        }
        Ok(!same || self.schema_version != options.schema_version)
    }
}

/// A meta row that one can do without; nothing, where it cannot be read.
fn noted(database: &Base, name: &'static str) -> Option<Vec<u8>> {
    guarded(|| row(&database.begin_read()?.open_table(META)?, name)).ok().flatten()
}

/// The totals of a file; counted if their row is damaged or disagrees with the tables.
pub(super) fn totals(database: &Base) -> Result<Totals, Failure> {
    guarded(|| {
        let transaction = database.begin_read()?;
        let stored = match row(&transaction.open_table(META)?, TOTALS_ROW)? {
            Some(row) => Totals::decode(&row),
            None => None,
        };
        let entries = transaction.open_table(INDEX)?.len()?;
        let rows = transaction.open_table(ROWS)?.len()?;
        if let Some(totals) = stored.filter(|t| t.entries == entries && entries == rows) {
            return Ok(totals);
        }
        drop(transaction);
        trace::warn("the totals of the cache file were wrong and are counted anew", &"");
        let batch = stored.map_or(0, |totals| totals.batch);
        let transaction = database.begin_write()?;
        let mut rows = Rows::open(&transaction)?;
        let mended = mildly(|| rows.mend())?;
        drop(rows);
        let totals = Totals { batch, ..mended.totals };
        if database.watch().is_hurt() {
            // They are counted once more as it heals.
            return Ok(totals);
        }
        transaction.open_table(META)?.insert(TOTALS_ROW, totals.encode().as_slice())?;
        transaction.commit()?;
        Ok(totals)
    })
}

/// Sets a damaged file aside, if the caller chose that.
pub(super) fn make_way(options: &Options, failure: Failure) -> Result<(), Failure> {
    told(set_aside(options, failure))
}

/// Makes a new file where there is none, or an empty one; whatever else came there meanwhile is set
/// aside.
pub(super) fn make_anew(options: &Options) -> Result<(), Failure> {
    if options.place.head(&options.path, 1)?.is_some_and(|head| !head.is_empty()) {
        let held = open_database(options).and_then(|database| totals(&database));
        if held.is_ok_and(|totals| totals == Totals::default()) {
            return Ok(());
        }
        let came = Failure::damage("another file came in the place of one that was lost");
        make_way(options, came)?;
    }
    told(create(options))
}

fn told(done: Result<()>) -> Result<(), Failure> {
    done.map_err(|e| Failure { damaged: e.kind() == ErrorKind::Corrupt, source: Box::new(e) })
}

fn set_aside(options: &Options, failure: Failure) -> Result<()> {
    let path = &options.path;
    let head = options.place.head(path, 0).map_err(|e| {
        let sentence = format!("cannot look at {}: {e}", path.display());
        Error::with_source(ErrorKind::Io, sentence, e)
    })?;
    if head.is_none() {
        trace::warn("the cache file was removed; the cache starts empty", &failure);
        return Ok(());
    }
    if options.on_damage == OnDamage::Fail {
        let sentence = format!(
            "{} is damaged; remove it, restore it, or let damaged files be set aside",
            path.display()
        );
        return Err(failure.into_error(sentence));
    }
    trace::warn("the cache file is damaged; it is set aside and the cache starts empty", &failure);
    options.place.rename(path, &beside(path, ".damaged")).map_err(|e| {
        let sentence = format!("cannot set the damaged file {} aside: {e}", path.display());
        Error::with_source(ErrorKind::Io, sentence, e)
    })
}
