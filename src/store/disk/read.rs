//! Reading: the state after one commit, behind plain functions.
//!
//! A snapshot is held until the next commit at most. It gives out copies, never guards.

use std::ops::Bound;
use std::sync::Arc;

use redb::{ReadOnlyTable, ReadTransaction, ReadableDatabase};

use crate::hash::KeyHash;
use crate::record::{BadRow, Record};
use crate::store::disk::blocks::{Watch, noting};
use crate::store::disk::failure::{Failure, guarded_mildly};
use crate::store::disk::places::{Asked, Lead, Places};
use crate::store::disk::schema::{INDEX, ROWS, split_row};
use crate::store::disk::volume::Base;

/// One read transaction with its tables open.
pub(crate) struct Snapshot {
    pub(super) transaction: ReadTransaction,
    pub(super) index: ReadOnlyTable<&'static [u8], (u64, u64)>,
    pub(super) rows: ReadOnlyTable<u64, &'static [u8]>,
    /// Its number.
    pub(super) epoch: u64,
    /// How many it has.
    pub(crate) entries: u64,
    pub(super) schema_version: u32,
    watch: Arc<Watch>,
    places: Arc<Places>,
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Snapshot").finish_non_exhaustive()
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
        epoch: u64,
        entries: u64,
    ) -> Result<Self, Failure> {
        let transaction = database.begin_read()?;
        let index = transaction.open_table(INDEX)?;
        let rows = transaction.open_table(ROWS)?;
        let (watch, places) = (database.shared_watch(), Arc::clone(database.places()));
        Ok(Self { transaction, index, rows, epoch, entries, schema_version, watch, places })
    }

    /// Whether pages that lead to rows are damaged: those are counted when the file heals.
    pub(crate) fn is_hurt(&self) -> bool {
        self.watch.is_hurt()
    }

    /// Has the processor fetch what [`Self::get`] looks at first.
    #[inline]
    pub(crate) fn fetch_ahead(&self, hash: KeyHash) {
        self.places.fetch_ahead(hash);
    }

    /// The entry of `key`, whatever its age.
    pub(crate) fn get(&self, hash: KeyHash, key: &[u8]) -> Result<Lookup, Failure> {
        let asked = self.places.ask(hash, self.epoch);
        let place = match asked.known {
            Some((stamp, Lead::Spot(spot))) => {
                // While the bytes are read, or the next lock would wait until all of it is written.
                Record::fetch_room_ahead();
                // What is wrong with a row is for redb to find.
                let is_row = |lookup: &Lookup| matches!(lookup, Lookup::Row(_));
                let look = |stored: &[u8]| self.lookup(key, stored, stamp).filter(is_row);
                if let Some(lookup) = self.places.read(spot, look) {
                    return Ok(lookup);
                }
                None
            }
            Some((stamp, Lead::Place(place))) => Some((place, stamp)),
            None => None,
        };
        guarded_mildly(|| {
            if let Some((place, stamp)) = place
                && let Some(lookup) = self.row(asked, key, place, stamp)?
            {
                return Ok(lookup);
            }
            let Some(entry) = self.index.get(key)? else { return Ok(Lookup::Nothing) };
            let (place, stamp) = entry.value();
            Ok(self.row(asked, key, place, stamp)?.unwrap_or(Lookup::Damaged))
        })
    }

    /// The row at a place, which is noted; `None` if it is not this key's.
    fn row(
        &self,
        asked: Asked,
        key: &[u8],
        place: u64,
        stamp: u64,
    ) -> Result<Option<Lookup>, Failure> {
        let Some(row) = noting(|| self.rows.get(place))? else { return Ok(None) };
        let lookup = self.lookup(key, row.value(), stamp);
        let lead = self.places.spot(place).map_or(Lead::Place(place), Lead::Spot);
        if lookup.is_some() && asked.known != Some((stamp, lead)) {
            self.places.note(asked, stamp, lead);
        }
        Ok(lookup)
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
