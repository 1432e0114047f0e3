//! Reading: the state after one commit, behind plain functions.
//!
//! A snapshot is held until the next commit at most. It gives out copies, never guards.

use std::ops::Bound;
use std::sync::{Arc, OnceLock};

use redb::{ReadOnlyTable, ReadTransaction, ReadableDatabase};

use crate::hash::KeyHash;
use crate::record::{BadRow, Record};
use crate::store::disk::blocks::{Watch, noting};
use crate::store::disk::failure::{Failure, guarded_mildly};
use crate::store::disk::places::Places;
use crate::store::disk::schema::{INDEX, ROWS, split_row};
use crate::store::disk::volume::Base;
use crate::sync::Mutex;

/// One read transaction with its tables open.
pub(crate) struct Snapshot {
    pub(super) transaction: ReadTransaction,
    pub(super) index: ReadOnlyTable<&'static [u8], (u64, u64)>,
    pub(super) rows: ReadOnlyTable<u64, &'static [u8]>,
    memo: Arc<Memo>,
    /// Its number, for the memo.
    pub(super) epoch: u64,
    pub(super) schema_version: u32,
    watch: Arc<Watch>,
    places: Arc<Places>,
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Snapshot").finish_non_exhaustive()
    }
}

/// Where the index led for keys that were read lately: a hit need not go there again. What was found
/// in one snapshot is good for that one only, so commits need not tell this anything; and a row names
/// its key, so two keys of one hash do no harm.
#[derive(Debug)]
pub(super) struct Memo {
    /// Made by the first read.
    slots: OnceLock<Box<[Mutex<Slot>]>>,
    count: usize,
}

#[derive(Debug, Default)]
struct Slot {
    epoch: u64,
    hash: u64,
    place: u64,
    stamp: u64,
}

/// The page cache has a slot for so many of its bytes: slots take up a 25th of it.
const BYTES_PER_SLOT: usize = 1 << 10;
/// Of more there is no use.
const SLOTS_MAX: usize = 1 << 22;

impl Memo {
    /// A memo beside a page cache of so many bytes.
    pub(super) fn new(cache_bytes: usize) -> Self {
        Self { slots: OnceLock::new(), count: (cache_bytes / BYTES_PER_SLOT).clamp(1, SLOTS_MAX) }
    }

    fn slot(&self, hash: KeyHash) -> Option<&Mutex<Slot>> {
        let slots = self.slots.get_or_init(|| (0..self.count).map(|_| Mutex::default()).collect());
        slots.get(usize::try_from(hash.0 % slots.len() as u64).unwrap_or(0))
    }

    fn recall(&self, epoch: u64, hash: KeyHash) -> Option<(u64, u64)> {
        let slot = self.slot(hash)?.lock();
        (slot.epoch == epoch && slot.hash == hash.0).then_some((slot.place, slot.stamp))
    }

    fn note(&self, epoch: u64, hash: KeyHash, place: u64, stamp: u64) {
        if let Some(slot) = self.slot(hash) {
            *slot.lock() = Slot { epoch, hash: hash.0, place, stamp };
        }
    }
}

/// An entry as stored.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) record: Record,
    /// Its recency, which may be newer than the record's own stamp.
    pub(crate) stamp: u64,
}

/// What a look-up found.
#[derive(Debug)]
pub(crate) enum Lookup {
    Row(Row),
    Nothing,
    /// Something that is not a valid record of this key.
    Damaged,
}

impl Snapshot {
    pub(super) fn take(
        database: &Base,
        schema_version: u32,
        memo: Arc<Memo>,
        epoch: u64,
    ) -> Result<Self, Failure> {
        let transaction = database.begin_read()?;
        let index = transaction.open_table(INDEX)?;
        let rows = transaction.open_table(ROWS)?;
        let (watch, places) = (database.shared_watch(), database.shared_places());
        Ok(Self { transaction, index, rows, memo, epoch, schema_version, watch, places })
    }

    /// Whether pages that lead to rows are damaged: those are counted when the file heals.
    pub(crate) fn is_hurt(&self) -> bool {
        self.watch.is_hurt()
    }

    /// The entry of `key`, whatever its age.
    pub(crate) fn get(&self, hash: KeyHash, key: &[u8]) -> Result<Lookup, Failure> {
        guarded_mildly(|| {
            if let Some((place, stamp)) = self.memo.recall(self.epoch, hash)
                && let Some(lookup) = self.row(key, place, stamp)?
            {
                return Ok(lookup);
            }
            let Some(entry) = self.index.get(key)? else { return Ok(Lookup::Nothing) };
            let (place, stamp) = entry.value();
            self.memo.note(self.epoch, hash, place, stamp);
            Ok(self.row(key, place, stamp)?.unwrap_or(Lookup::Damaged))
        })
    }

    /// The row at a place; `None` if it is not this key's.
    fn row(&self, key: &[u8], place: u64, stamp: u64) -> Result<Option<Lookup>, Failure> {
        // What is wrong with a row is for redb to find.
        let is_row = |lookup: &Lookup| matches!(lookup, Lookup::Row(_));
        let look = |stored: &[u8]| self.lookup(key, stored, stamp).filter(is_row);
        if let Some(lookup) = self.places.look(place, look) {
            return Ok(Some(lookup));
        }
        let Some(guard) = noting(|| self.rows.get(place))? else { return Ok(None) };
        Ok(self.lookup(key, guard.value(), stamp))
    }

    /// What is stored at a place; `None` if it is not this key's.
    fn lookup(&self, key: &[u8], stored: &[u8], stamp: u64) -> Option<Lookup> {
        let (_, row) = split_row(stored).filter(|(name, _)| *name == key)?;
        Some(match Record::from_row(key, row) {
            Ok(record) if record.header().schema == self.schema_version => {
                Lookup::Row(Row { record, stamp })
            }
            Ok(_) => Lookup::Nothing,
            Err(BadRow::Newer | BadRow::Shape | BadRow::Checksum) => Lookup::Damaged,
        })
    }

    /// Whether there is an entry of `key`, whatever its age.
    pub(crate) fn contains(&self, key: &[u8]) -> Result<bool, Failure> {
        guarded_mildly(|| Ok(self.index.get(key)?.is_some()))
    }

    /// Up to `limit` keys that start with `prefix`, in order, behind `after`.
    pub(crate) fn keys(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Box<[u8]>>, Failure> {
        guarded_mildly(|| {
            let from = after.map_or(Bound::Included(prefix), Bound::Excluded);
            let mut keys: Vec<Box<[u8]>> = Vec::new();
            for row in self.index.range::<&[u8]>((from, Bound::Unbounded))? {
                let (key, entry) = row?;
                // What stands for a damaged page is in nobody's order.
                let last = keys.last().map(AsRef::as_ref).or(after);
                if self.is_hurt() && (entry.value() == (0, 0) || last >= Some(key.value())) {
                    continue;
                }
                if keys.len() == limit {
                    break;
                }
                if !key.value().starts_with(prefix) {
                    break;
                }
                keys.push(key.value().into());
            }
            Ok(keys)
        })
    }
}
