//! Reading: the state after one commit, behind plain functions.
//!
//! A snapshot is held until the next commit at most. It gives out copies, never guards.

use std::ops::Bound;

use redb::{Database, ReadOnlyTable, ReadableDatabase, ReadableTableMetadata};

use crate::record::{BadRow, Header, Record};
use crate::store::disk::failure::{Failure, guarded};
use crate::store::disk::schema::{DATA, TOUCH};

/// One read transaction with its tables open.
pub(crate) struct Snapshot {
    data: ReadOnlyTable<&'static [u8], &'static [u8]>,
    /// `None` if no recency was handed down: one look-up less.
    touch: Option<ReadOnlyTable<&'static [u8], u64>>,
    schema_version: u32,
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Snapshot").field("touched", &self.touch.is_some()).finish_non_exhaustive()
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
        let data = transaction.open_table(DATA)?;
        let touch = transaction.open_table(TOUCH)?;
        let touch = if touch.is_empty()? { None } else { Some(touch) };
        Ok(Self { data, touch, schema_version })
    }

    /// The entry of `key`, whatever its age.
    pub(crate) fn get(&self, key: &[u8]) -> Result<Lookup, Failure> {
        guarded(|| {
            let Some(guard) = self.data.get(key)? else { return Ok(Lookup::Nothing) };
            let record = match Record::from_row(key, guard.value()) {
                Ok(record) => record,
                Err(BadRow::Newer | BadRow::Shape | BadRow::Checksum) => {
                    return Ok(Lookup::Damaged);
                }
            };
            if record.header().schema != self.schema_version {
                return Ok(Lookup::Nothing);
            }
            let stamp = self.stamp(key, &record)?;
            Ok(Lookup::Row(Row { record, stamp }))
        })
    }

    fn stamp(&self, key: &[u8], record: &Record) -> Result<u64, Failure> {
        let Some(touch) = &self.touch else { return Ok(record.stamp()) };
        Ok(touch.get(key)?.map_or_else(|| record.stamp(), |guard| guard.value()))
    }

    /// Whether there is a row for `key`, whatever its age.
    pub(crate) fn contains(&self, key: &[u8]) -> Result<bool, Failure> {
        guarded(|| {
            let Some(guard) = self.data.get(key)? else { return Ok(false) };
            let header = Header::parse(guard.value(), key.len());
            Ok(header.is_ok_and(|h| h.schema == self.schema_version))
        })
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
            for row in self.data.range::<&[u8]>((from, Bound::Unbounded))?.take(limit) {
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
