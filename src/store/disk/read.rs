//! Reading: the state after one commit, behind plain functions.
//!
//! A snapshot is held until the next commit at most. It gives out copies, never guards.

use std::ops::Bound;

use redb::{Database, ReadOnlyTable, ReadableDatabase};

use crate::record::{BadRow, Record};
use crate::store::disk::failure::{Failure, guarded};
use crate::store::disk::schema::{INDEX, ROWS, split_row};

/// One read transaction with its tables open.
pub(crate) struct Snapshot {
    index: ReadOnlyTable<&'static [u8], (u64, u64)>,
    rows: ReadOnlyTable<u64, &'static [u8]>,
    schema_version: u32,
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
    pub(super) fn take(database: &Database, schema_version: u32) -> Result<Self, Failure> {
        let transaction = database.begin_read()?;
        let index = transaction.open_table(INDEX)?;
        let rows = transaction.open_table(ROWS)?;
        Ok(Self { index, rows, schema_version })
    }

    /// The entry of `key`, whatever its age.
    pub(crate) fn get(&self, key: &[u8]) -> Result<Lookup, Failure> {
        guarded(|| {
            let Some(entry) = self.index.get(key)? else { return Ok(Lookup::Nothing) };
            let (place, stamp) = entry.value();
            let Some(guard) = self.rows.get(place)? else { return Ok(Lookup::Damaged) };
            let Some((name, row)) = split_row(guard.value()) else { return Ok(Lookup::Damaged) };
            if name != key {
                return Ok(Lookup::Damaged);
            }
            let record = match Record::from_row(key, row) {
                Ok(record) => record,
                Err(BadRow::Newer | BadRow::Shape | BadRow::Checksum) => {
                    return Ok(Lookup::Damaged);
                }
            };
            if record.header().schema != self.schema_version {
                return Ok(Lookup::Nothing);
            }
            Ok(Lookup::Row(Row { record, stamp }))
        })
    }

    /// Whether there is an entry of `key`, whatever its age.
    pub(crate) fn contains(&self, key: &[u8]) -> Result<bool, Failure> {
        guarded(|| Ok(self.index.get(key)?.is_some()))
    }

    /// Up to `limit` keys that start with `prefix`, in order, behind `after`.
    pub(crate) fn keys(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Box<[u8]>>, Failure> {
        guarded(|| {
            let from = after.map_or(Bound::Included(prefix), Bound::Excluded);
            let mut keys = Vec::new();
            for row in self.index.range::<&[u8]>((from, Bound::Unbounded))?.take(limit) {
                let (key, _) = row?;
                if !key.value().starts_with(prefix) {
                    break;
                }
                keys.push(key.value().into());
            }
            Ok(keys)
        })
    }
}
