//! Where entries are: rows in the order in which they came, and an index of them by key.
//!
//! # How it works
//!
//! A row is put behind all others, so a batch fills whole pages one after the other, and what was
//! written together is evicted together. The index has, for each key, the place of its row and the
//! stamp of its last access.
//!
//! # Invariants
//!
//! - **D5** every key in the index has a row at its place, which names that key, and every row is in
//!   the index. Damage can break this; [`Rows::mend`] drops what leads nowhere.
//!
//! # Why not rows by key
//!
//! A put of a random key writes the page that its neighbours are on, with three rows of 1 KiB on a
//! page: measured, 38,000 puts a second against 130,000, whatever the size of the page cache. An
//! eviction is another such page.

use std::ops::Bound;

use redb::{ReadableTable, ReadableTableMetadata, Table, WriteTransaction};

use crate::hash::{KeyHash, KeyHasher};
use crate::record::{BadRow, Header, Record};
use crate::store::Totals;
use crate::store::disk::blocks::mildly;
use crate::store::disk::changes::Changes;
use crate::store::disk::failure::Failure;
use crate::store::disk::places::{Change, Places};
use crate::store::disk::schema::{INDEX, NUMBER_MAX, ROWS, join_row, split_row};

/// Both tables of a transaction, open.
pub(super) struct Rows<'t, 'b> {
    index: Table<'t, &'static [u8], (u64, u64)>,
    stored: Table<'t, u64, &'static [u8]>,
    /// The first free place behind all rows.
    end: u64,
    /// Rows that are in the index and not yet in the table.
    new: Vec<(u64, &'b Record)>,
    /// What changed, if somebody watches.
    changes: Option<Changes>,
    /// What readers are to be told of keys that were in the index already.
    told: Told,
}

/// What a commit changes of what readers may remember of the index.
#[derive(Debug, Default)]
pub(super) struct Told {
    hasher: KeyHasher,
    changes: Vec<(KeyHash, Change)>,
    all: bool,
}

impl Told {
    fn add(&mut self, key: &[u8], change: Change) {
        self.changes.push((self.hasher.hash(key), change));
    }

    /// Tells it.
    pub(super) fn tell(self, places: &Places) {
        if self.all {
            places.change_all();
        } else {
            self.changes.into_iter().for_each(|(hash, change)| places.change(hash, change));
        }
    }
}

/// An entry whose row was taken out.
#[derive(Debug)]
pub(super) struct Gone {
    /// What its header said, if it could be believed.
    pub(super) header: Result<Header, BadRow>,
    /// The stamp of its last access.
    pub(super) stamp: u64,
    /// The record, if it was wanted and sound.
    pub(super) record: Option<Record>,
}

/// What [`Rows::mend`] found.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mended {
    /// The number of the batch is left at zero.
    pub(super) totals: Totals,
    /// Keys that lost their row, or never had one.
    pub(super) lost: u64,
    /// Rows that no key led to.
    pub(super) stray: u64,
}

/// What `read` makes of a key's row; `None` if the key is not in the index, or its row is not there or
/// another key's.
pub(super) fn with_row<R>(
    index: &impl ReadableTable<&'static [u8], (u64, u64)>,
    rows: &impl ReadableTable<u64, &'static [u8]>,
    key: &[u8],
    read: impl FnOnce(&[u8]) -> R,
) -> Result<Option<R>, Failure> {
    let Some(entry) = index.get(key)? else { return Ok(None) };
    let row = rows.get(entry.value().0)?;
    let row = row.as_ref().and_then(|row| split_row(row.value())).filter(|(k, _)| *k == key);
    Ok(row.map(|(_, row)| read(row)))
}

/// The deadline that a key's row says, damaged or not.
pub(super) fn deadline_of(
    index: &impl ReadableTable<&'static [u8], (u64, u64)>,
    rows: &impl ReadableTable<u64, &'static [u8]>,
    key: &[u8],
) -> Result<Option<u64>, Failure> {
    let deadline = |row: &[u8]| Some(Header::parse(row, key.len()).ok()?.deadline);
    Ok(with_row(index, rows, key, deadline)?.flatten())
}

impl<'t, 'b> Rows<'t, 'b> {
    pub(super) fn open(transaction: &'t WriteTransaction) -> Result<Self, Failure> {
        let stored = transaction.open_table(ROWS)?;
        let last = mildly(|| stored.last())?.map(|(place, _)| place.value());
        if last.is_some_and(|place| place > NUMBER_MAX) {
            return Err(Failure::damage("there is no place behind the last row"));
        }
        let end = last.map_or(0, |place| place + 1);
        let index = transaction.open_table(INDEX)?;
        Ok(Self { index, stored, end, new: Vec::new(), changes: None, told: Told::default() })
    }

    /// Likewise, and notes what changes if somebody watches.
    pub(super) fn watched(
        transaction: &'t WriteTransaction,
        hasher: KeyHasher,
        changes: Option<Changes>,
    ) -> Result<Self, Failure> {
        let told = Told { hasher, ..Told::default() };
        Ok(Self { changes, told, ..Self::open(transaction)? })
    }

    /// Leaves places free, so that none is used twice while somebody may have seen it.
    pub(super) fn skip_to(&mut self, place: u64) {
        self.end = self.end.max(place);
    }

    /// The first free place behind all rows.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// What changed so far, for who watches and for readers.
    pub(super) fn finish(self) -> (Option<Changes>, Told) {
        (self.changes, self.told)
    }

    /// Notes a row for [`Self::append`], `nth` behind the end; takes out the one that it replaces.
    pub(super) fn put(
        &mut self,
        nth: u64,
        record: &'b Record,
        wanted: bool,
    ) -> Result<Option<Gone>, Failure> {
        let (key, place) = (record.key(), self.end + nth);
        let old = self.index.insert(key, (place, record.stamp()))?.map(|old| old.value());
        self.new.push((place, record));
        old.map(|old| self.take_row(old, key, wanted)).transpose()
    }

    /// Puts the noted rows into the table, and moves the end by `count` places.
    pub(super) fn append(&mut self, count: u64) -> Result<(), Failure> {
        // They were noted by key, and are wanted in the order in which they came.
        self.new.sort_unstable_by_key(|(place, _)| *place);
        let first = self.new.first().map(|(place, _)| *place);
        let mut end = self.stored.upper_bound_mut(Bound::<u64>::Unbounded)?;
        let mut buffer = Vec::new();
        for (place, record) in self.new.drain(..) {
            join_row(&mut buffer, record.key(), record.row());
            end.insert_before(place, buffer.as_slice())?;
        }
        end.close()?;
        self.end += count;
        // A page in another's place can lead away from what was put behind all others.
        if let Some(first) = first
            && self.stored.get(first)?.is_none()
        {
            return Err(Failure::damage("a row is not found where it was put"));
        }
        Ok(())
    }

    /// Takes out the entry of a key.
    pub(super) fn remove(&mut self, key: &[u8], wanted: bool) -> Result<Option<Gone>, Failure> {
        let old = self.index.remove(key)?.map(|old| old.value());
        old.map(|old| self.take_row(old, key, wanted)).transpose()
    }

    fn take_row(
        &mut self,
        (place, stamp): (u64, u64),
        key: &[u8],
        wanted: bool,
    ) -> Result<Gone, Failure> {
        self.told.add(key, Change::Gone);
        let lost = Gone { header: Err(BadRow::Shape), stamp, record: None };
        let Some(row) = self.stored.remove(place)? else { return Ok(lost) };
        // If it is another key's, that one is damaged as well.
        let Some(row) = split_row(row.value()).filter(|(k, _)| *k == key).map(|(_, r)| r) else {
            return Ok(lost);
        };
        let record = if wanted { Record::from_row(key, row).ok() } else { None };
        let header = Header::check(row, key);
        if let (Some(changes), Ok(header)) = (&mut self.changes, &header) {
            changes.taken.push((place, header.charge));
        }
        Ok(Gone { header, stamp, record })
    }

    /// The record of a key, if it is there and sound.
    pub(super) fn record(&self, key: &[u8]) -> Result<Option<Result<Record, BadRow>>, Failure> {
        if self.index.get(key)?.is_none() {
            return Ok(None);
        }
        Ok(Some(self.own_record(key)?.unwrap_or(Err(BadRow::Shape))))
    }

    /// The record of a key, sound or not, if it has a row of its own.
    pub(super) fn own_record(&self, key: &[u8]) -> Result<Option<Result<Record, BadRow>>, Failure> {
        with_row(&self.index, &self.stored, key, |row| Record::from_row(key, row))
    }

    /// The deadline that a key's row says, damaged or not.
    pub(super) fn deadline(&self, key: &[u8]) -> Result<Option<u64>, Failure> {
        deadline_of(&self.index, &self.stored, key)
    }

    /// The header of a key's row, damaged or not, and the stamp of its last access.
    pub(super) fn header(&self, key: &[u8]) -> Result<Option<(Header, u64)>, Failure> {
        let Some((_, stamp)) = self.index.get(key)?.map(|entry| entry.value()) else {
            return Ok(None);
        };
        let header = |row: &[u8]| Header::parse(row, key.len()).ok();
        let header = with_row(&self.index, &self.stored, key, header)?.flatten();
        Ok(header.map(|header| (header, stamp)))
    }

    /// How many entries there are.
    pub(super) fn len(&self) -> Result<u64, Failure> {
        Ok(self.index.len()?)
    }

    /// Hands each key that has a row of its own to `visit`, by place, with the header of the row, damaged
    /// or not, and the stamp of the last access.
    pub(super) fn for_each(
        &self,
        mut visit: impl FnMut(&[u8], &Header, u64) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        for row in self.stored.iter()? {
            let (place, row) = row?;
            let Some((key, row)) = split_row(row.value()) else { continue };
            let known = self.index.get(key)?.map(|entry| entry.value());
            if let Some((_, stamp)) = known.filter(|entry| entry.0 == place.value())
                && let Ok(header) = Header::parse(row, key.len())
            {
                visit(key, &header, stamp)?;
            }
        }
        Ok(())
    }

    /// The stamp of a key's last access; `None` if there is no such entry.
    pub(super) fn stamp(&self, key: &[u8]) -> Result<Option<u64>, Failure> {
        Ok(self.index.get(key)?.map(|entry| entry.value().1))
    }

    /// Sets the stamp of a key's last access; `false` if there is no such entry.
    pub(super) fn set_stamp(&mut self, key: &[u8], stamp: u64) -> Result<bool, Failure> {
        let Some(mut entry) = self.index.get_mut(key)? else { return Ok(false) };
        let (place, old) = entry.value();
        entry.insert((place, stamp))?;
        drop(entry);
        self.told.add(key, Change::Stamp(old, stamp));
        self.moved(key);
        Ok(true)
    }

    /// Notes that a key has another place in the order of eviction.
    pub(super) fn moved(&mut self, key: &[u8]) {
        if let Some(changes) = &mut self.changes {
            changes.touched.push(key.into());
        }
    }

    /// Some key, if there is one.
    pub(super) fn any_key(&self) -> Result<Option<Vec<u8>>, Failure> {
        Ok(self.index.first()?.map(|(key, _)| key.value().to_vec()))
    }

    pub(super) fn everything_changed(&mut self) {
        self.told.all = true;
        if let Some(changes) = &mut self.changes {
            *changes = Changes { all: true, ..Changes::default() };
        }
    }

    /// Takes everything out, what is noted included.
    pub(super) fn clear(&mut self) -> Result<(), Failure> {
        self.new.clear();
        self.everything_changed();
        self.index.retain(|_, _| false)?;
        self.stored.retain(|_, _| false)?;
        Ok(())
    }

    /// Drops what leads nowhere (D5), and counts the rest.
    pub(super) fn mend(&mut self) -> Result<Mended, Failure> {
        self.everything_changed();
        let (before, rows_before) = (self.index.len()?, self.stored.len()?);
        let (index, rows) = (&mut self.index, &mut self.stored);
        // What fails inside is kept, and the failure given afterwards.
        let mut failed = None;
        rows.retain(|place, row| {
            let Some((key, _)) = split_row(row) else { return false };
            match index.get(key) {
                Ok(entry) => entry.is_some_and(|entry| entry.value().0 == place),
                Err(e) => {
                    failed = Some(e);
                    true
                }
            }
        })?;
        // Counted as they are found by key: damage can make a place stand in the table twice.
        let mut counted = Totals::default();
        index.retain(|key, (place, _)| match rows.get(place) {
            Ok(row) => {
                let row = row.as_ref().and_then(|row| split_row(row.value()));
                let Some((_, row)) = row.filter(|(k, _)| *k == key) else { return false };
                let charge = Header::parse(row, key.len()).map_or(0, |h| h.charge);
                counted.entries += 1;
                counted.bytes = counted.bytes.saturating_add(charge);
                true
            }
            Err(e) => {
                failed = Some(e);
                true
            }
        })?;
        if let Some(e) = failed {
            return Err(e.into());
        }
        let lost = before.saturating_sub(counted.entries);
        let stray = rows_before.saturating_sub(self.stored.len()?);
        Ok(Mended { totals: counted, lost, stray })
    }
}
