//! A file as redb's storage, with a checksum of each block, so that redb never works on damage.
//!
//! redb verifies nothing on reads, and what it makes of damaged pages can end the process. Here
//! every block is compared with its checksum as it is read.
//!
//! # Layout
//!
//! Blocks of 4 KiB. The first has the head of the file, twice, a sector each: our magic, a number that
//! rises, redb's own header and a checksum of all. Then groups: a block of sums, and the 1,024 blocks
//! that it covers, four bytes each; the head counts as the first block of the first group and has its
//! place in front of the sums (so has the first block of each group). A block that was never written is
//! zeros, and so is its sum.
//!
//! # How it works
//!
//! The sums are in memory, a group of them from the first time that a block of it is asked for. Those
//! that changed are written before redb's header is, and before each sync. redb writes to no block that
//! a durable header leads to, so whatever a crash leaves of the sums, those of such blocks are the same
//! before and after.
//!
//! A block that differs from its sum is damage, and reading it an error, after which redb refuses
//! everything until it is opened anew. So that one block is not the end of a file, [`mildly`] reads
//! rows: redb gets a page instead that has one entry, which leads nowhere. A page of rows of which some
//! are damaged, and whose layout holds, is given out as it is: each row has a checksum of its own. What
//! redb keeps of its own, and what leads to tables, is never read mildly: redb would commit what it
//! makes of that, and does not survive all of it.
//!
//! Such a block can also be what a power cut left of a commit, where the head says that this is to be
//! verified. redb then takes up the commit before, after comparing the checksums of its tree: so when
//! such a file is opened for the second time it gets the other page too.
//!
//! The head is written in turn to one sector and the other, so that a write that fails or is torn leaves
//! the one before. Where one of them is damaged, redb is told to verify all that the other leads to.
//!
//! # Invariants
//!
//! - **B1** each page that redb reads is as redb wrote it, or a page of rows whose layout holds, or one
//!   that leads nowhere; in the last case the file is [hurt](Watch::is_hurt) before redb has it.
//! - **B2** at each sync, and before each write of the head, the file has the sums of all blocks that
//!   were written before.

use std::cell::Cell;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use redb::StorageBackend;
use twox_hash::XxHash3_64;

use crate::record::{Header, Record};
use crate::store::disk::holding::{Holding, Step};
use crate::store::disk::leaf::Leaf;
use crate::store::disk::places::Places;
use crate::store::disk::schema::{FORMAT_VERSION, split_row};
use crate::sync::{Mutex, RwLock};

/// The first bytes of every cache file.
pub(super) const MAGIC: [u8; 8] = *b"LARDER\x1A\n";
/// Both heads.
pub(super) const HEADS_BYTES: usize = 2 * HEAD_BYTES;
/// A head: `|magic 8|version 4|0 4|number 8|0 8|redb's header|..|checksum 4|`.
const HEAD_BYTES: usize = 512;
const VERSION_AT: usize = 8;
const NUMBER_AT: usize = 16;
const THEIRS_AT: usize = 32;
const SUM_AT: usize = HEAD_BYTES - 4;
/// In redb's header: a byte of flags, of which one has it repair the file, and one says that what the
/// last commit wrote needs no verification.
const FLAGS_AT: usize = THEIRS_AT + 9;
const TO_REPAIR: u8 = 2;
const IS_SURE: u8 = 4;

pub(super) const BLOCK: usize = 4096;
pub(super) const BLOCK_BYTES: u64 = BLOCK as u64;
/// Blocks that one block of sums covers.
pub(super) const GROUP: u64 = BLOCK_BYTES / 4;

type Head = [u8; HEAD_BYTES];

/// The number of a head, if it is whole.
fn number_of(head: &Head) -> Option<u64> {
    let (body, sum) = head.split_at_checked(SUM_AT)?;
    let is_whole = body.starts_with(&MAGIC) && sum == Record::plain_checksum(body).to_le_bytes();
    let number = body.get(NUMBER_AT..)?.first_chunk()?;
    is_whole.then(|| u64::from_le_bytes(*number))
}

/// The version in the heads of a file, if one of them is whole.
pub(super) fn version_of(heads: &[u8]) -> Option<u32> {
    let whole = heads.as_chunks().0.iter().filter(|head| number_of(head).is_some());
    let versions = whole.filter_map(|head| head.get(VERSION_AT..)?.first_chunk());
    versions.map(|version| u32::from_le_bytes(*version)).max()
}

/// What is known of a file's damage.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// Whether it is being opened for the second time.
    pub(super) is_lenient: AtomicBool,
    /// Whether redb is going to verify what the head leads to.
    is_unsure: AtomicBool,
    /// Whether it is being made: then nothing in it is read mildly.
    pub(super) is_new: AtomicBool,
    /// Whether nobody will open it again.
    pub(super) is_nobodys: AtomicBool,
    /// Whether nothing may be read or written any more.
    pub(super) is_given_up: AtomicBool,
    hurt: AtomicBool,
    /// Whether a damaged block was met at all.
    is_damaged: AtomicBool,
}

impl Watch {
    /// Whether redb has a page that leads nowhere in the place of another. What it then commits may be
    /// wrong.
    pub(super) fn is_hurt(&self) -> bool {
        self.hurt.load(Ordering::Acquire)
    }

    /// An error if nothing may be read or written any more.
    pub(super) fn check(&self) -> io::Result<()> {
        if self.is_given_up.load(Ordering::Acquire) {
            return Err(io::Error::other("the cache file was given up"));
        }
        Ok(())
    }

    /// After a failure: whether a damaged block was met, which makes the file hurt.
    pub(super) fn hurts(&self) -> bool {
        let hurts = self.is_damaged.load(Ordering::Acquire);
        self.hurt.fetch_or(hurts, Ordering::AcqRel);
        hurts
    }
}

/// How this thread reads.
#[derive(Debug, Clone, Copy)]
struct How {
    is_mild: bool,
    /// In the table of rows of a commit.
    is_of_rows: bool,
}

thread_local! {
    static HOW: Cell<How> = const { Cell::new(How { is_mild: false, is_of_rows: false }) };
}

/// What it was, to be again when this is dropped.
struct Reading(How);

impl Reading {
    fn set(change: impl FnOnce(&mut How)) -> Self {
        let before = HOW.get();
        let mut how = before;
        change(&mut how);
        HOW.set(how);
        Self(before)
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        HOW.set(self.0);
    }
}

/// Reads rows, which may be damaged.
pub(super) fn mildly<R>(read: impl FnOnce() -> R) -> R {
    let _reading = Reading::set(|how| how.is_mild = true);
    read()
}

/// Reads what leads to them, amid that.
pub(super) fn strictly<R>(read: impl FnOnce() -> R) -> R {
    let _reading = Reading::set(|how| how.is_mild = false);
    read()
}

/// Reads in the table of rows of a commit, so that what is met is noted ([`Places::met`]).
pub(super) fn noting<R>(read: impl FnOnce() -> R) -> R {
    let _reading = Reading::set(|how| how.is_of_rows = true);
    read()
}

/// The sums of one group.
#[derive(Debug)]
struct Group {
    sums: [u32; BLOCK / 4],
    /// Whether the file has others.
    is_changed: bool,
}

impl Group {
    /// Takes over what was written from a block on.
    fn set(&mut self, nth: usize, sums: impl Iterator<Item = u32>) {
        self.sums.iter_mut().skip(nth).zip(sums).for_each(|(known, sum)| *known = sum);
        self.is_changed = true;
    }
}

/// The groups of a file, as far as they are known.
#[derive(Debug, Default)]
struct Groups(RwLock<Vec<Option<Box<Group>>>>);

impl Groups {
    /// What `look` makes of the group of a block, and of the block's number in it; `None` if that group is
    /// not known.
    fn with<R>(&self, block: u64, look: impl FnOnce(&Group, usize) -> R) -> Option<R> {
        let (group, nth) = (index(block / GROUP).ok()?, index(block % GROUP).ok()?);
        Some(look(self.0.read().get(group)?.as_ref()?, nth))
    }
}

/// A file, as redb's storage.
#[derive(Debug)]
pub(super) struct Blocks {
    file: Arc<Holding>,
    groups: Groups,
    /// The number of the head that is whole, and in which sector it is.
    head: Mutex<(u64, usize)>,
    watch: Arc<Watch>,
    places: Arc<Places>,
}

fn invalid(what: String) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what)
}

/// Where a block is in the file, in blocks.
pub(super) fn place_of(block: u64) -> u64 {
    let (group, nth) = (block / GROUP, block % GROUP);
    group * (GROUP + 1) + if nth == 0 { 0 } else { nth + 1 }
}

/// Where the sums of a group are.
fn place_of_sums(group: u64) -> u64 {
    group * (GROUP + 1) + 1
}

/// How many blocks redb sees in a file of so many.
fn blocks_in(places: u64) -> u64 {
    let (groups, rest) = (places / (GROUP + 1), places % (GROUP + 1));
    groups * GROUP + if rest < 2 { rest } else { rest - 1 }
}

/// Of how many blocks a file is in which redb sees so many.
fn places_for(blocks: u64) -> u64 {
    let (groups, rest) = (blocks / GROUP, blocks % GROUP);
    groups * (GROUP + 1) + if rest == 0 { 0 } else { rest + 1 }
}

/// The sum of a block: zero if, and only if, it is zeros.
///
/// No CRC: rows and totals have CRCs of their own inside, and where a CRC follows what it is of, that of
/// the whole is the same whatever it is. The figure is half of `XXH3`'s (Yann Collet's xxHash).
fn sum_of(block: &[u8]) -> u32 {
    let [a, b, c, d, ..] = XxHash3_64::oneshot(block).to_le_bytes();
    match u32::from_le_bytes([a, b, c, d]) {
        _ if block.iter().all(|byte| *byte == 0) => 0,
        0 => 1,
        sum => sum,
    }
}

/// Whether a damaged page is one of rows with its layout whole, and rows that are damaged: redb can read
/// it, and each row says whether it is sound. Where all are sound it is a page of another place or time.
fn holds_damaged_rows(page: &[u8]) -> bool {
    let (mut are_rows, mut is_damaged) = (false, false);
    for (_, value) in Leaf::of(page).into_iter().flat_map(Leaf::rows) {
        let Some(value) = value.and_then(|value| page.get(value)) else { return false };
        let row = split_row(value);
        are_rows |= row.is_some_and(|(key, row)| Header::parse(row, key.len()).is_ok());
        is_damaged |= row.is_none_or(|(key, row)| Header::check(row, key).is_err());
    }
    are_rows && is_damaged
}

/// Makes a page of redb's a leaf with one entry that leads nowhere, since redb knows none without any.
/// The same bytes are such an entry for tables with keys and values of any or of a fixed length:
/// `|1|0|count 2|end of the key or value 4|end of the value 4, or what they are|`.
fn empty(page: &mut [u8]) {
    page.fill(0);
    let bytes = [1, 0, 1, 0, 16, 0, 0, 0, 16];
    page.iter_mut().zip(bytes).for_each(|(to, byte)| *to = byte);
}

impl Blocks {
    /// The storage in a file that has a page cache of so many bytes.
    pub(super) fn new(file: Arc<Holding>, watch: Arc<Watch>, cache_bytes: usize) -> Self {
        let places = Places::new(Arc::clone(&file), Arc::clone(&watch), cache_bytes);
        let (places, groups) = (Arc::new(places), Groups::default());
        // The first head goes to the first sector.
        Self { file, groups, head: Mutex::new((0, 1)), watch, places }
    }

    /// Where its rows are.
    pub(super) fn places(&self) -> &Arc<Places> {
        &self.places
    }

    /// Reads the sums of a group, unless they are known.
    fn load(&self, group: u64) -> io::Result<()> {
        let at = index(group)?;
        if self.groups.0.read().get(at).is_some_and(Option::is_some) {
            return Ok(());
        }
        let mut groups = self.groups.0.write();
        if groups.len() <= at {
            groups.resize_with(at + 1, || None);
        }
        if let Some(missing @ None) = groups.get_mut(at) {
            let mut block = [0; BLOCK];
            self.file.read(place_of_sums(group) * BLOCK_BYTES, &mut block)?;
            let mut sums = [0; BLOCK / 4];
            for (sum, bytes) in sums.iter_mut().zip(block.as_chunks().0) {
                *sum = u32::from_le_bytes(*bytes);
            }
            *missing = Some(Box::new(Group { sums, is_changed: false }));
        }
        Ok(())
    }

    /// The first of some blocks, all in one group, that differs from its sum.
    fn damaged_of(&self, first: u64, blocks: &[[u8; BLOCK]]) -> io::Result<Option<u64>> {
        let wrong = |group: &Group, nth: usize| {
            let sums = group.sums.iter().skip(nth);
            blocks.iter().zip(sums).position(|(block, sum)| sum_of(block) != *sum)
        };
        loop {
            if let Some(wrong) = self.groups.with(first, wrong) {
                return Ok(wrong.map(|nth| first + nth as u64));
            }
            self.load(first / GROUP)?;
        }
    }

    /// Writes the sums that changed (B2).
    fn write_sums(&self) -> io::Result<()> {
        let mut changed = Vec::new();
        for (number, group) in self.groups.0.write().iter_mut().enumerate() {
            if let Some(group) = group.as_mut().filter(|group| group.is_changed) {
                group.is_changed = false;
                changed.push((number, group.sums));
            }
        }
        for (nth, (number, sums)) in changed.iter().enumerate() {
            let mut block = [0; BLOCK];
            for (bytes, sum) in block.as_chunks_mut().0.iter_mut().zip(sums) {
                *bytes = sum.to_le_bytes();
            }
            let written = self.file.write(place_of_sums(*number as u64) * BLOCK_BYTES, &block);
            if written.is_err() {
                let mut groups = self.groups.0.write();
                for (number, _) in changed.iter().skip(nth) {
                    if let Some(Some(group)) = groups.get_mut(*number) {
                        group.is_changed = true;
                    }
                }
                return written;
            }
        }
        Ok(())
    }

    fn read_head(&self, out: &mut [u8]) -> io::Result<()> {
        let mut heads = [0; HEADS_BYTES];
        self.file.read(0, &mut heads)?;
        let heads = heads.as_chunks::<HEAD_BYTES>().0;
        let whole = heads.iter().enumerate().filter_map(|(at, head)| Some((number_of(head)?, at)));
        let newest = whole.max().and_then(|newest| Some((newest, heads.get(newest.1)?)));
        let Some((newest, head)) = newest else {
            return Err(invalid("the head of the cache file is damaged".to_owned()));
        };
        *self.head.lock() = newest;
        let mut head = *head;
        // redb writes two as it makes a file.
        let is_spoilt = heads.iter().any(|head| number_of(head).is_none());
        if let Some(flags) = head.get_mut(FLAGS_AT) {
            if is_spoilt {
                *flags = *flags & !IS_SURE | TO_REPAIR;
            }
            self.watch.is_unsure.store(*flags & IS_SURE == 0, Ordering::Release);
        }
        match head.get(THEIRS_AT..SUM_AT).and_then(|theirs| theirs.get(..out.len())) {
            Some(theirs) => out.copy_from_slice(theirs),
            None => return Err(ErrorKind::InvalidInput.into()),
        }
        Ok(())
    }

    fn write_head(&self, bytes: &[u8]) -> io::Result<()> {
        let mut newest = self.head.lock();
        let next = (newest.0 + 1, 1 - newest.1);
        let mut head: Head = [0; HEAD_BYTES];
        let (body, sum) = head.split_at_mut(SUM_AT);
        let parts = [
            (0, &MAGIC[..]),
            (VERSION_AT, &FORMAT_VERSION.to_le_bytes()),
            (NUMBER_AT, &next.0.to_le_bytes()),
            (THEIRS_AT, bytes),
        ];
        for (at, part) in parts {
            match body.get_mut(at..at + part.len()) {
                Some(to) => to.copy_from_slice(part),
                None => return Err(ErrorKind::InvalidInput.into()),
            }
        }
        sum.copy_from_slice(&Record::plain_checksum(body).to_le_bytes());
        self.write_sums()?;
        self.file.write((next.1 * HEAD_BYTES) as u64, &head)?;
        *newest = next;
        Ok(())
    }

    /// What to give redb for a page that has a damaged block (B1).
    #[cold]
    fn damaged(&self, first: u64, block: u64, page: &mut [u8]) -> io::Result<()> {
        self.watch.is_damaged.store(true, Ordering::Release);
        let is_mild = HOW.get().is_mild && !self.watch.is_new.load(Ordering::Acquire);
        let is_lenient = self.watch.is_lenient.load(Ordering::Acquire);
        // With more blocks behind it, the first of another page has rows that look damaged too.
        let is_here = block > first || page.len() == BLOCK;
        if (is_mild || is_lenient) && is_here && holds_damaged_rows(page) {
            return Ok(());
        }
        if is_mild || is_lenient && self.watch.is_unsure.load(Ordering::Acquire) {
            self.watch.hurt.store(true, Ordering::Release);
            empty(page);
            return Ok(());
        }
        Err(invalid(format!("block {block} of the cache file is damaged")))
    }
}

/// Whole blocks in runs that are all in one place in the file: the first, and what part of the bytes.
/// The first block of a group is alone, since its sums are behind it.
fn runs(
    offset: u64,
    len: usize,
) -> io::Result<impl Iterator<Item = (u64, std::ops::Range<usize>)>> {
    if !offset.is_multiple_of(BLOCK_BYTES) || !len.is_multiple_of(BLOCK) {
        return Err(ErrorKind::InvalidInput.into());
    }
    let mut done = 0;
    Ok(std::iter::from_fn(move || {
        let block = offset / BLOCK_BYTES + (done / BLOCK) as u64;
        let nth = block % GROUP;
        let together = if nth == 0 { 1 } else { GROUP - nth };
        let together = usize::try_from(together).unwrap_or(1) * BLOCK;
        let part = done..len.min(done + together);
        done = part.end;
        (!part.is_empty()).then_some((block, part))
    }))
}

fn index(number: u64) -> io::Result<usize> {
    usize::try_from(number).map_err(|_| ErrorKind::InvalidInput.into())
}

impl StorageBackend for Blocks {
    fn len(&self) -> io::Result<u64> {
        self.watch.check()?;
        Ok(blocks_in(self.file.len()? / BLOCK_BYTES) * BLOCK_BYTES)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.watch.check()?;
        if offset == 0 {
            return self.read_head(out);
        }
        let first = offset / BLOCK_BYTES;
        let writes = self.places.writes(first);
        let mut bad = None;
        for (first, part) in runs(offset, out.len())? {
            let Some(out) = out.get_mut(part) else { continue };
            self.file.read(place_of(first) * BLOCK_BYTES, out)?;
            bad = bad.or(self.damaged_of(first, out.as_chunks().0)?);
        }
        if let Some(block) = bad {
            return self.damaged(first, block, out);
        }
        if HOW.get().is_of_rows {
            self.places.met(first, out, writes);
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.watch.check()?;
        let blocks = len.div_ceil(BLOCK_BYTES);
        if !blocks.is_multiple_of(GROUP) && blocks < self.len()? / BLOCK_BYTES {
            self.load(blocks / GROUP)?;
        }
        self.file.step(Step::Len(places_for(blocks) * BLOCK_BYTES))?;
        self.places.set_len(len);
        let mut groups = self.groups.0.write();
        groups.truncate(index(blocks.div_ceil(GROUP))?);
        // What is behind the end is zeros if it ever comes back.
        if let Some(Some(group)) = groups.get_mut(index(blocks / GROUP)?)
            && let Some(behind) = group.sums.get_mut(index(blocks % GROUP)?..)
            && behind.iter().any(|sum| *sum != 0)
        {
            behind.fill(0);
            group.is_changed = true;
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.watch.check()?;
        if self.watch.is_nobodys.load(Ordering::Acquire) {
            return Ok(());
        }
        self.write_sums()?;
        self.file.step(Step::Sync)
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.watch.check()?;
        if offset == 0 {
            return self.write_head(bytes);
        }
        for (first, part) in runs(offset, bytes.len())? {
            let group = first / GROUP;
            self.load(group)?;
            let Some(bytes) = bytes.get(part) else { continue };
            let blocks = bytes.len() / BLOCK;
            self.places.wrote(first, blocks);
            let written = self.file.write(place_of(first) * BLOCK_BYTES, bytes);
            self.places.wrote(first, blocks);
            written?;
            let sums: Vec<u32> =
                bytes.as_chunks::<BLOCK>().0.iter().map(|block| sum_of(block)).collect();
            if let Some(Some(group)) = self.groups.0.write().get_mut(index(group)?) {
                group.set(index(first % GROUP)?, sums.into_iter());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod tests;
