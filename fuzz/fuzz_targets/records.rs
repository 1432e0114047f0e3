//! Cache files whose rows were replaced, with the storage engine's own writes below them sound.
//!
//! The rows are those of `format.md`. A record that is changed gets its checksum made right again if
//! the input says so, and is then parsed to the end.
//!
//! - **R1** `open` succeeds or fails, and so does every call after it; none panics.
//! - **R2** a value that is found is the one that was stored, unless the file has a row of that key
//!   with a right checksum and something else in it, or is taken for a file of another type.
//! - **R3** a cache that could be written to and closed opens again, with what was written last.
#![no_main]

mod panics;

use std::collections::BTreeSet;
use std::error::Error;
use std::fs;
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use arbitrary::Arbitrary;
use larder::{ByteCache, Cache, DamagePolicy, InsertOptions, ManualClock, SchemaPolicy, Timestamp};
use libfuzzer_sys::fuzz_target;
use redb::{Database, ReadableTable, TableDefinition, WriteTransaction};
use tempfile::TempDir;

const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("larder_meta");
const INDEX: TableDefinition<'_, &[u8], (u64, u64)> = TableDefinition::new("index");
const ROWS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("rows");
const ORDER: TableDefinition<'_, &[u8], ()> = TableDefinition::new("order");
const EXPIRY: TableDefinition<'_, &[u8], ()> = TableDefinition::new("expiry");
const META_NAMES: [&str; 6] = ["format", "rkyv", "key", "value", "schema_version", "totals"];

const KEYS: u8 = 6;
/// When the entries were made.
const NOW: Timestamp = Timestamp::from_secs(1 << 20);
const TTL: Duration = Duration::from_secs(60);
/// A damaged file may have rows of any number; a walk ends after so many.
const WALK_MAX: usize = 100;

type Value = (u32, String, Vec<u8>);
type Failed = Box<dyn Error>;

#[derive(Debug, Arbitrary)]
struct Input<'a> {
    typed: bool,
    /// Whether the cache is opened as one of the other type.
    as_other: bool,
    start_empty: bool,
    keep_damaged: bool,
    limited: bool,
    edits: Vec<Edit<'a>>,
}

#[derive(Debug, Arbitrary)]
enum Edit<'a> {
    /// Changes the record in the row at a place.
    Record {
        place: Place,
        change: Change<'a>,
        sealed: bool,
    },
    /// Puts a row at a place, or takes it out.
    Row {
        place: Place,
        bytes: Option<&'a [u8]>,
    },
    /// Makes a key lead to a place, or nowhere.
    Index {
        key: Key<'a>,
        entry: Option<(Place, Moment)>,
    },
    Order {
        key: Key<'a>,
        moment: Moment,
        there: bool,
    },
    Expiry {
        key: Key<'a>,
        moment: Moment,
        there: bool,
    },
    /// A row of an order or expiry table that may be no moment and key.
    Stray {
        expiry: bool,
        row: &'a [u8],
    },
    Meta {
        name: u8,
        bytes: Option<&'a [u8]>,
    },
    Totals {
        entries: u64,
        bytes: u64,
        batch: u64,
    },
}

/// What becomes of a record.
#[derive(Debug, Arbitrary)]
enum Change<'a> {
    Patch(u16, &'a [u8]),
    Cut(u16),
    Grow(&'a [u8]),
    /// Another value, with the lengths made right.
    Value(&'a [u8]),
    /// A word of the header, by its number.
    Word(u8, u32),
}

/// One that is there, or close by, or any.
#[derive(Debug, Clone, Copy, Arbitrary)]
enum Place {
    Near(u8),
    Any(u64),
}

impl Place {
    fn number(self) -> u64 {
        match self {
            Self::Near(n) => u64::from(n % (KEYS + 2)),
            Self::Any(n) => n,
        }
    }
}

#[derive(Debug, Clone, Copy, Arbitrary)]
enum Key<'a> {
    Stored(u8),
    Any(&'a [u8]),
}

impl Key<'_> {
    fn bytes(self) -> Vec<u8> {
        match self {
            Self::Stored(n) => name(n % KEYS).into_bytes(),
            Self::Any(bytes) => bytes.to_vec(),
        }
    }
}

/// The stamp or the deadline of the entries, or any.
#[derive(Debug, Clone, Copy, Arbitrary)]
enum Moment {
    Stamp(u8),
    Deadline,
    Any(u64),
}

impl Moment {
    fn nanos(self) -> u64 {
        match self {
            Self::Stamp(n) => (NOW + Duration::from_secs(n.into())).as_nanos(),
            Self::Deadline => (NOW + TTL).as_nanos(),
            Self::Any(nanos) => nanos,
        }
    }
}

fn name(n: u8) -> String {
    format!("key {n}")
}

/// Some fit on one page of the file and some do not.
fn bytes(n: u8) -> Vec<u8> {
    vec![n; usize::from(n).pow(5)]
}

/// A cache of either kind, as far as this target uses them.
trait Kind {
    fn open(path: &Path, input: &Input<'_>) -> larder::Result<Self>
    where
        Self: Sized;
    fn put(&self, n: u8, options: &InsertOptions) -> larder::Result<()>;
    /// Whether the value of this key is what was put, or `None` if there is none.
    fn is_right(&self, n: u8) -> larder::Result<Option<bool>>;
    /// Reads all there is in every way, and changes nothing but recency.
    fn read_everything(&self) -> larder::Result<()>;
    fn write_everything(&self) -> larder::Result<()>;
    fn empty(&self) -> larder::Result<()>;
    fn close(self) -> larder::Result<()>;
}

/// Both kinds have the same methods; a macro is what can say so.
macro_rules! kind {
    ($cache:ty, $key:ident, $stored:expr, $n:ident: $value:expr) => {
        impl Kind for $cache {
            fn open(path: &Path, input: &Input<'_>) -> larder::Result<Self> {
                let policy =
                    if input.keep_damaged { DamagePolicy::Fail } else { DamagePolicy::SetAside };
                let other =
                    if input.start_empty { SchemaPolicy::StartEmpty } else { SchemaPolicy::Fail };
                let builder = <$cache>::builder()
                    .path(path)
                    .memory_max_entries(2)
                    .shards(1)
                    .disk_cache_bytes(64 << 10)
                    .on_damage(policy)
                    .on_schema_mismatch(other)
                    .clock(ManualClock::new(NOW));
                if input.limited { builder.disk_max_bytes(10_000).open() } else { builder.open() }
            }

            fn put(&self, $n: u8, options: &InsertOptions) -> larder::Result<()> {
                self.insert_with(name($n).$key(), &$value, options)
            }

            fn is_right(&self, $n: u8) -> larder::Result<Option<bool>> {
                Ok(self.get(name($n).$key())?.map(|entry| entry.to_owned() == $value))
            }

            fn read_everything(&self) -> larder::Result<()> {
                let mut keys = Vec::new();
                for entry in self.iter().take(WALK_MAX) {
                    let Ok(entry) = entry else { continue };
                    let times = (entry.created_at(), entry.accessed_at(), entry.expires_at());
                    let texts = entry.tags().map(str::len).sum::<usize>()
                        + entry
                            .metadata()
                            .map(|(name, text)| name.len() + text.len())
                            .sum::<usize>();
                    let _ = (times, texts, entry.size_bytes(), entry.ttl_remaining());
                    let _ = entry.to_owned();
                }
                for key in self.keys().take(WALK_MAX).flatten() {
                    let _ = (self.peek(&key)?, self.contains_key(&key)?);
                    keys.push(key);
                }
                let _ = self.get_many(keys.iter().map($stored))?;
                let _ = (self.len(), self.disk_len(), self.disk_bytes(), self.stats());
                assert_eq!(self.validate(), Ok(()), "R1");
                Ok(())
            }

            fn write_everything(&self) -> larder::Result<()> {
                for n in 0..KEYS {
                    match n % 3 {
                        0 => self.put(n, &InsertOptions::default())?,
                        1 => drop(self.remove(name(n).$key())?),
                        _ => drop(self.touch(name(n).$key(), TTL)?),
                    }
                }
                self.purge_expired()?;
                self.flush()?;
                self.set_disk_limits(Some(3), None)
            }

            fn empty(&self) -> larder::Result<()> {
                self.clear()?;
                assert_eq!(self.len(), 0, "R3: after clear");
                self.set_disk_limits(None, None)
            }

            fn close(self) -> larder::Result<()> {
                <$cache>::close(self)
            }
        }
    };
}

kind!(Cache<str, Value>, as_str, String::as_str, n: (u32::from(n), name(n), bytes(n)));
kind!(ByteCache, as_bytes, Vec::as_slice, n: bytes(n));

fuzz_target!(init: panics::leave_foreign_ones_to_the_cache(), |input: Input<'_>| {
    let folder = folder();
    let path = folder.path().join("cache.larder");
    fs::write(&path, sound_file(input.typed)).expect("a writable folder");
    let forged = edit(&path, &input.edits).expect("an undamaged file takes rows");
    if input.typed != input.as_other {
        use_it::<Cache<str, Value>>(&path, &input, &forged);
    } else {
        use_it::<ByteCache>(&path, &input, &forged);
    }
});

/// In memory where the system has that.
fn folder() -> TempDir {
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    made.expect("a temporary folder")
}

fn sound_file(typed: bool) -> &'static [u8] {
    static FILES: [OnceLock<Vec<u8>>; 2] = [const { OnceLock::new() }; 2];
    FILES[usize::from(typed)].get_or_init(|| {
        let made = if typed { make::<Cache<str, Value>>() } else { make::<ByteCache>() };
        made.expect("an undamaged disk tier works")
    })
}

/// The bytes of a file in which every key was written once, with every kind of header.
fn make<C: Kind>() -> Result<Vec<u8>, Failed> {
    let folder = folder();
    let path = folder.path().join("sound.larder");
    let input = Input {
        typed: false,
        as_other: false,
        start_empty: false,
        keep_damaged: true,
        limited: false,
        edits: Vec::new(),
    };
    let cache = C::open(&path, &input)?;
    for n in 0..KEYS {
        let options = InsertOptions::default().timestamp(NOW + Duration::from_secs(n.into()));
        let options = match n % 4 {
            0 => options,
            1 => options.ttl(TTL),
            2 => options.weight(100).tags(["red", "blue"]),
            _ => options.ttl(TTL).metadata([("origin", "here")]),
        };
        cache.put(n, &options)?;
    }
    cache.close()?;
    Ok(fs::read(&path)?)
}

/// What the edits make it impossible to tell from what was stored.
struct Forged {
    keys: BTreeSet<Vec<u8>>,
    meta: bool,
}

fn edit(path: &Path, edits: &[Edit<'_>]) -> Result<Forged, Failed> {
    let database = Database::builder().create_with_backend(larder::testing::storage(path)?)?;
    let transaction = database.begin_write()?;
    let before: BTreeSet<Vec<u8>> = rows(&transaction)?;
    for edit in edits {
        apply(&transaction, edit)?;
    }
    let changed = rows(&transaction)?.into_iter().filter(|row| !before.contains(row));
    let keys = changed.filter_map(|row| sealed_key(&row).map(<[u8]>::to_vec)).collect();
    transaction.commit()?;
    let meta = edits.iter().any(|edit| matches!(edit, Edit::Meta { .. }));
    Ok(Forged { keys, meta })
}

fn rows(transaction: &WriteTransaction) -> Result<BTreeSet<Vec<u8>>, Failed> {
    let rows = transaction.open_table(ROWS)?;
    let rows: Result<_, redb::StorageError> =
        rows.iter()?.map(|row| Ok(row?.1.value().to_vec())).collect();
    Ok(rows?)
}

fn apply(transaction: &WriteTransaction, edit: &Edit<'_>) -> Result<(), Failed> {
    match edit {
        Edit::Record { place, change, sealed } => {
            let mut rows = transaction.open_table(ROWS)?;
            let row = rows.get(place.number())?.map(|row| row.value().to_vec());
            if let Some(mut row) = row {
                change.apply(&mut row);
                if *sealed {
                    seal(&mut row);
                }
                rows.insert(place.number(), row.as_slice())?;
            }
        }
        Edit::Row { place, bytes } => {
            let mut rows = transaction.open_table(ROWS)?;
            match bytes {
                Some(bytes) => drop(rows.insert(place.number(), *bytes)?),
                None => drop(rows.remove(place.number())?),
            }
        }
        Edit::Index { key, entry } => {
            let (mut index, key) = (transaction.open_table(INDEX)?, key.bytes());
            match entry {
                Some((place, moment)) => {
                    index.insert(key.as_slice(), (place.number(), moment.nanos()))?;
                }
                None => drop(index.remove(key.as_slice())?),
            }
        }
        Edit::Order { key, moment, there } => set(transaction, ORDER, *key, *moment, *there)?,
        Edit::Expiry { key, moment, there } => set(transaction, EXPIRY, *key, *moment, *there)?,
        Edit::Stray { expiry, row } => {
            let table = if *expiry { EXPIRY } else { ORDER };
            transaction.open_table(table)?.insert(*row, ())?;
        }
        Edit::Meta { name, bytes } => {
            let mut meta = transaction.open_table(META)?;
            let name = META_NAMES[usize::from(*name) % META_NAMES.len()];
            match bytes {
                Some(bytes) => drop(meta.insert(name, *bytes)?),
                None => drop(meta.remove(name)?),
            }
        }
        Edit::Totals { entries, bytes, batch } => {
            let mut row: Vec<u8> =
                [entries, bytes, batch].into_iter().flat_map(|word| word.to_le_bytes()).collect();
            row.extend(crc32fast::hash(&row).to_le_bytes());
            transaction.open_table(META)?.insert("totals", row.as_slice())?;
        }
    }
    Ok(())
}

/// Puts a moment and a key into a table of such, or takes them out.
fn set(
    transaction: &WriteTransaction,
    table: TableDefinition<'_, &'static [u8], ()>,
    key: Key<'_>,
    moment: Moment,
    there: bool,
) -> Result<(), Failed> {
    let mut table = transaction.open_table(table)?;
    let row = [moment.nanos().to_be_bytes().as_slice(), &key.bytes()].concat();
    if there {
        table.insert(row.as_slice(), ())?;
    } else {
        table.remove(row.as_slice())?;
    }
    Ok(())
}

/// Where the record begins in a row of `|key length 2|key|record|`.
fn record_at(row: &[u8]) -> Option<usize> {
    let (len, rest) = row.split_first_chunk()?;
    let len = usize::from(u16::from_le_bytes(*len));
    (len <= rest.len()).then_some(2 + len)
}

fn sum(row: &[u8], at: usize) -> u32 {
    let mut sum = crc32fast::Hasher::new();
    sum.update(&row[2..at]);
    sum.update(row.get(at + 4..).unwrap_or_default());
    sum.finalize()
}

/// Makes the checksum of the record right.
fn seal(row: &mut [u8]) {
    let Some(at) = record_at(row) else { return };
    let sum = sum(row, at);
    if let Some(bytes) = row.get_mut(at..at + 4) {
        bytes.copy_from_slice(&sum.to_le_bytes());
    }
}

/// The key of a row whose checksum is right.
fn sealed_key(row: &[u8]) -> Option<&[u8]> {
    let at = record_at(row)?;
    (row.get(at..at + 4)? == sum(row, at).to_le_bytes()).then(|| &row[2..at])
}

impl Change<'_> {
    fn apply(&self, row: &mut Vec<u8>) {
        match self {
            Self::Patch(at, patch) => {
                let at = usize::from(*at).min(row.len());
                for (byte, new) in row[at..].iter_mut().zip(*patch) {
                    *byte = *new;
                }
            }
            Self::Cut(len) => row.truncate(usize::from(*len)),
            Self::Grow(bytes) => row.extend_from_slice(bytes),
            Self::Value(value) => replace_value(row, value),
            Self::Word(nth, word) => {
                let at = record_at(row).unwrap_or(0) + 4 * usize::from(*nth % 16);
                if let Some(bytes) = row.get_mut(at..at + 4) {
                    bytes.copy_from_slice(&word.to_le_bytes());
                }
            }
        }
    }
}

/// Replaces the value, and what is behind it, in a row whose header is sound.
fn replace_value(row: &mut Vec<u8>, value: &[u8]) {
    let Some(at) = record_at(row).filter(|at| row.len() >= at + 24) else { return };
    let words = (row[at + 5] & 7).count_ones() as usize;
    // Without attributes, whose length is the last of the words.
    row[at + 5] &= 7;
    row.truncate(at + 24 + 8 * words);
    row.resize(at + (24 + 8 * words + 8).next_multiple_of(16) - 8, 0);
    row[at + 8..at + 12].copy_from_slice(&(value.len() as u32).to_le_bytes());
    row.extend_from_slice(value);
}

/// Opens, reads, writes, closes, and opens again.
fn use_it<C: Kind>(path: &Path, input: &Input<'_>, forged: &Forged) {
    // Errors are answers here; only panics and wrong values are findings.
    let Ok(cache) = C::open(path, input) else { return };
    for n in 0..KEYS {
        let may_differ = forged.meta || forged.keys.contains(name(n).as_bytes());
        if let Ok(Some(right)) = cache.is_right(n) {
            assert!(right || may_differ, "R2: another value under {}", name(n));
        }
    }
    let _ = cache.read_everything();
    let _ = cache.write_everything();
    let _ = cache.read_everything();
    let written = cache.empty().and_then(|()| cache.put(KEYS, &InsertOptions::default()));
    if written.and_then(|()| cache.close()).is_ok() {
        let cache = C::open(path, input).expect("R3: it opens again");
        let right = cache.is_right(KEYS).expect("R3: it can be read");
        assert!(right == Some(true) || input.limited, "R3: what was written last");
    }
}
