//! The record: one immutable, reference-counted allocation that holds an entry in every tier.
//!
//! The memory tier holds records, the write queue holds them, a disk row is a slice of one, and a
//! disk hit is one copy into a new one. Start with [`Draft`] to make one, [`Record::from_row`] to
//! load one.
//!
//! # How it works
//!
//! ```text
//! allocation, 16-byte aligned
//! | pad |--- key ---|--- control 24 ---|--- row, as on disk ---------------------------------------|
//!                   ^ the handle's pointer, 16-byte aligned
//!                   |refs 4|row_len 4|recency 8|leaves 8|
//!                                      |crc 4|ver 1|flags 1|key_len 2|value_len 4|schema 4|stamp 8|
//!                                      |[created 8][deadline 8][charge 8][attrs_len 8]| pad |
//!                                      |value|[attributes]|
//! ```
//!
//! The key is in front so that comparing it touches the cache line that the control words and the
//! header are on, whatever the size of the value. `recency` and `leaves` are the memory tier's: its
//! last access, and the deadline at which memory lets go. They are here because a hit fetches this
//! line anyway.
//!
//! The four words in brackets are there when their flag is set. Padding is zero and puts the value
//! on a multiple of 16 from the pointer. Integers are little-endian. The checksum
//! is CRC-32 (IEEE) over the key and the row after the checksum. `format.md` has the same in prose.
//!
//! # Invariants
//!
//! - **R1** `ptr` points `lead(key_len)` bytes into an allocation of `size_of_allocation(row_len,
//!   key_len)` bytes, all initialised except for the padding in front of the key.
//! - **R2** the row and the key are never written once a second handle can exist; the counter and
//!   the memory tier's two words are atomics.
//! - **R3** the lengths in the header agree with `row_len`: header, padding, value and attributes
//!   fill the row exactly, and attributes parse.
//! - **R4** the allocation is freed by whoever takes the counter to zero, and by nobody else.
//!
//! # Safety
//!
//! All `unsafe` rests on R1 and R2: [`Draft::finish`] and [`Record::from_row`] are the only makers,
//! both go through `assemble`, which copies the parts of a row whose R3 holds (made so by the one,
//! checked by the other), and no method gives out `&mut` to a record.
//!
//! # Why not `Arc<[u8]>`
//!
//! It has two counters, a fat pointer, and no alignment above 8.
#![expect(unsafe_code, reason = "one aligned allocation behind a thin pointer; argued above")]

use std::alloc::{self, Layout};
use std::fmt;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

/// The record format that this build writes, and the newest that it reads.
pub(crate) const RECORD_VERSION: u8 = 1;
/// The longest key that the format's length field and the documentation allow, in bytes.
pub(crate) const KEY_BYTES_MAX: usize = 4096;
/// The largest value, in bytes: rkyv's 32-bit relative pointers reach 2 GiB, redb's pairs 3.75.
pub(crate) const VALUE_BYTES_MAX: usize = 1 << 30;
/// The most bytes of tags and metadata of one entry.
pub(crate) const ATTRIBUTE_BYTES_MAX: usize = 1 << 20;
/// The largest charge of one entry; leaves room for 256 such in a sum.
pub(crate) const CHARGE_MAX: u64 = 1 << 56;

const ALIGN: usize = 16;
/// Bytes in front of the row.
const CONTROL: usize = size_of::<Control>();
const HEADER: usize = 24;
/// The row's padding, which is part of the file format, counts on this remainder.
const _: () = assert!(CONTROL % ALIGN == 8 && align_of::<Control>() <= ALIGN);

/// What is in front of the row. Its words are never exchanged for a model's, which are larger; nobody
/// waits for one of them.
#[repr(C)]
struct Control {
    refs: AtomicU32,
    row_len: u32,
    recency: AtomicU64,
    leaves: AtomicU64,
}

const HAS_CREATED: u8 = 1;
const HAS_DEADLINE: u8 = 2;
const HAS_CHARGE: u8 = 4;
const HAS_ATTRIBUTES: u8 = 8;
const FLAGS_KNOWN: u8 = HAS_CREATED | HAS_DEADLINE | HAS_CHARGE | HAS_ATTRIBUTES;

/// What stands for "no deadline".
pub(crate) const NEVER: u64 = u64::MAX;

/// A counted handle on one record.
pub(crate) struct Record {
    ptr: NonNull<u8>,
}

// SAFETY: the bytes are immutable while shared (R2) and the counter is atomic (R4), so handles may
// move between threads.
unsafe impl Send for Record {}
// SAFETY: as above; `&Record` only reads.
unsafe impl Sync for Record {}

/// What goes into a record besides its key.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Draft<'a> {
    pub(crate) value: &'a [u8],
    /// Encoded by [`crate::entry`]; empty for none.
    pub(crate) attributes: &'a [u8],
    pub(crate) stamp: u64,
    pub(crate) created: u64,
    /// Absolute, or [`NEVER`].
    pub(crate) deadline: u64,
    /// `None`: key bytes plus value bytes.
    pub(crate) charge: Option<u64>,
    pub(crate) schema: u32,
}

/// The fields of a row's header, decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) stamp: u64,
    pub(crate) created: u64,
    pub(crate) deadline: u64,
    pub(crate) charge: u64,
    pub(crate) schema: u32,
}

/// Why a row was not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BadRow {
    /// Shorter than its header, or lengths that do not add up.
    Shape,
    /// Written by a newer format.
    Newer,
    /// The checksum does not match.
    Checksum,
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// Where the value starts in the row of a record with these flags.
fn value_at(flags: u8) -> usize {
    let words = (flags & FLAGS_KNOWN).count_ones() as usize;
    (CONTROL + HEADER + 8 * words).next_multiple_of(ALIGN) - CONTROL
}

impl Header {
    /// Decodes the header of `row`, whose key has `key_len` bytes, and checks R3 except for the
    /// attributes' content.
    pub(crate) fn parse(row: &[u8], key_len: usize) -> Result<Self, BadRow> {
        Self::parse_fields(row, key_len).ok_or(BadRow::Shape).and_then(|(version, header)| {
            if version > RECORD_VERSION { Err(BadRow::Newer) } else { Ok(header) }
        })
    }

    /// Parses the row of `key` and compares its checksum.
    pub(crate) fn check(row: &[u8], key: &[u8]) -> Result<Self, BadRow> {
        let header = Self::parse(row, key.len())?;
        if u32_at(row, 0) != Some(checksum(key, row, [&[], &[]])) {
            return Err(BadRow::Checksum);
        }
        Ok(header)
    }

    fn parse_fields(row: &[u8], key_len: usize) -> Option<(u8, Self)> {
        let (version, flags) = (*row.get(4)?, *row.get(5)?);
        if usize::from(u16_at(row, 6)?) != key_len || flags & !FLAGS_KNOWN != 0 {
            return None;
        }
        let value_len = usize::try_from(u32_at(row, 8)?).ok()?;
        let stamp = u64_at(row, 16)?;
        let mut at = HEADER;
        let mut word = |flag: u8| -> Option<Option<u64>> {
            if flags & flag == 0 {
                return Some(None);
            }
            at += 8;
            u64_at(row, at - 8).map(Some)
        };
        let created = word(HAS_CREATED)?.unwrap_or(stamp);
        let deadline = word(HAS_DEADLINE)?.unwrap_or(NEVER);
        let natural = key_len as u64 + value_len as u64;
        let charge = word(HAS_CHARGE)?.unwrap_or(natural);
        let attributes_len = usize::try_from(word(HAS_ATTRIBUTES)?.unwrap_or(0)).ok()?;
        let value_at = value_at(flags);
        let end = value_at.checked_add(value_len)?.checked_add(attributes_len)?;
        let padding = row.get(at..value_at)?;
        if end != row.len() || charge > CHARGE_MAX || padding.iter().any(|b| *b != 0) {
            return None;
        }
        let schema = u32_at(row, 12)?;
        let header = Self { stamp, created, deadline, charge, schema };
        Some((version, header))
    }
}

/// The checksum of a row that is made of `head` (its own first four bytes left out) and `rest`.
fn checksum(key: &[u8], head: &[u8], rest: [&[u8]; 2]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(key);
    crc.update(head.get(4..).unwrap_or_default());
    crc.update(rest[0]);
    crc.update(rest[1]);
    crc.finalize()
}

/// Bytes in front of the handle's pointer: the key, padded.
fn lead(key_len: usize) -> usize {
    key_len.next_multiple_of(ALIGN)
}

fn size_of_allocation(row_len: usize, key_len: usize) -> usize {
    lead(key_len) + CONTROL + row_len
}

/// The layout of an allocation of `size` bytes.
///
/// # Panics
///
/// Above `isize::MAX`, which the limits on keys, values and attributes keep far away.
fn layout(size: usize) -> Layout {
    match Layout::from_size_align(size, ALIGN) {
        Ok(layout) => layout,
        Err(_) => unreachable!("R1: record lengths are bounded"),
    }
}

impl Draft<'_> {
    /// Makes the record of `key`.
    ///
    /// The caller has checked the limits: [`KEY_BYTES_MAX`], [`VALUE_BYTES_MAX`],
    /// [`ATTRIBUTE_BYTES_MAX`] and [`CHARGE_MAX`].
    pub(crate) fn finish(&self, key: &[u8], seal: Seal) -> Record {
        assert!(key.len() <= KEY_BYTES_MAX && self.value.len() <= VALUE_BYTES_MAX);
        assert!(self.attributes.len() <= ATTRIBUTE_BYTES_MAX);
        let natural = key.len() as u64 + self.value.len() as u64;
        let mut head = [0_u8; HEADER + 4 * 8 + ALIGN];
        let (mut flags, mut at) = (0_u8, HEADER);
        let mut word = |flag: u8, present: bool, value: u64| {
            if present {
                head[at..at + 8].copy_from_slice(&value.to_le_bytes());
                at += 8;
                flags |= flag;
            }
        };
        word(HAS_CREATED, self.created != self.stamp, self.created);
        word(HAS_DEADLINE, self.deadline != NEVER, self.deadline);
        let charge = self.charge.unwrap_or(natural);
        word(HAS_CHARGE, charge != natural, charge);
        word(HAS_ATTRIBUTES, !self.attributes.is_empty(), self.attributes.len() as u64);
        head[4] = RECORD_VERSION;
        head[5] = flags;
        head[6..8].copy_from_slice(&u16::try_from(key.len()).unwrap_or(u16::MAX).to_le_bytes());
        let value_len = u32::try_from(self.value.len()).unwrap_or(u32::MAX);
        head[8..12].copy_from_slice(&value_len.to_le_bytes());
        head[12..16].copy_from_slice(&self.schema.to_le_bytes());
        head[16..24].copy_from_slice(&self.stamp.to_le_bytes());
        let head_len = value_at(flags);
        if seal == Seal::Checksummed {
            let crc = checksum(key, &head[..head_len], [self.value, self.attributes]);
            head[..4].copy_from_slice(&crc.to_le_bytes());
        }
        Record::assemble([&head[..head_len], self.value, self.attributes], key)
    }
}

/// Whether a new record gets its checksum: only those that may reach a file need one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seal {
    Checksummed,
    MemoryOnly,
}

impl Record {
    /// The checksum of bytes that are not a record's.
    pub(crate) fn plain_checksum(bytes: &[u8]) -> u32 {
        crc32fast::hash(bytes)
    }

    /// A record without a value, which stands for its key in the write queue.
    pub(crate) fn of_key(key: &[u8]) -> Self {
        let draft = Draft {
            value: &[],
            attributes: &[],
            stamp: 0,
            created: 0,
            deadline: NEVER,
            charge: None,
            schema: 0,
        };
        draft.finish(key, Seal::MemoryOnly)
    }

    /// Loads the record of `key` from a disk row: one copy, checked for shape and checksum.
    pub(crate) fn from_row(key: &[u8], row: &[u8]) -> Result<Self, BadRow> {
        Header::check(row, key)?;
        Ok(Self::assemble([row, &[], &[]], key))
    }

    /// Copies the parts of a row, for which R3 holds, and its key into a new allocation.
    fn assemble(parts: [&[u8]; 3], key: &[u8]) -> Self {
        let row_len = parts.iter().map(|p| p.len()).sum();
        let layout = layout(size_of_allocation(row_len, key.len()));
        let row_len = u32::try_from(row_len).unwrap_or_else(|_| unreachable!("R1: bounded"));
        // SAFETY: the size is at least `CONTROL`, so not zero.
        let raw = unsafe { alloc::alloc(layout) };
        let Some(base) = NonNull::new(raw) else { alloc::handle_alloc_error(layout) };
        // SAFETY: `lead` is inside the allocation, which has `CONTROL` bytes more.
        let ptr = unsafe { base.add(lead(key.len())) };
        let (recency, leaves) = (AtomicU64::new(0), AtomicU64::new(NEVER));
        let control = Control { refs: AtomicU32::new(1), row_len, recency, leaves };
        // SAFETY: `ptr` is 16-aligned, as the allocation and `lead` are; nobody else has it yet.
        unsafe { ptr.cast::<Control>().write(control) };
        let mut at = lead(key.len()) - key.len();
        for (part, gap) in [key].into_iter().chain(parts).zip([0, CONTROL, 0, 0]) {
            at += gap;
            assert!(at + part.len() <= layout.size(), "R1: parts fit the allocation");
            // SAFETY: `at` is inside the allocation, or its end where `part` is empty.
            let target = unsafe { base.add(at) };
            // SAFETY: `part.len()` bytes fit behind `at` by the assertion; a fresh allocation
            // overlaps nothing.
            unsafe { target.copy_from_nonoverlapping(NonNull::from(part).cast(), part.len()) };
            at += part.len();
        }
        assert!(at == layout.size(), "R1: the allocation is filled to its end");
        Self { ptr }
    }

    #[inline]
    fn control(&self) -> &Control {
        // SAFETY: R1, R2: initialised and aligned; what is written later is atomic.
        unsafe { self.ptr.cast().as_ref() }
    }

    fn row_len(&self) -> usize {
        self.control().row_len as usize
    }

    /// The last access, as the memory tier has it; only for that tier, under the shard's lock.
    #[inline]
    pub(crate) fn recency(&self) -> u64 {
        self.control().recency.load(Ordering::Relaxed)
    }

    #[inline]
    pub(crate) fn set_recency(&self, stamp: u64) {
        self.control().recency.store(stamp, Ordering::Relaxed);
    }

    /// When the entry leaves memory, or [`NEVER`]; as [`Self::recency`].
    #[inline]
    pub(crate) fn leaves(&self) -> u64 {
        self.control().leaves.load(Ordering::Relaxed)
    }

    pub(crate) fn set_leaves(&self, deadline: u64) {
        self.control().leaves.store(deadline, Ordering::Relaxed);
    }

    /// `len` bytes from `at` bytes behind the start of the row.
    ///
    /// # Safety
    ///
    /// - `at + len` is at most `row_len()`.
    unsafe fn bytes(&self, at: usize, len: usize) -> &[u8] {
        // SAFETY: R1 and the caller's promise: inside the allocation.
        let start = unsafe { self.ptr.add(CONTROL + at) };
        // SAFETY: R1 and R2: initialised, immutable, alive for as long as this handle.
        unsafe { std::slice::from_raw_parts(start.as_ptr(), len) }
    }

    /// The row, as on disk.
    pub(crate) fn row(&self) -> &[u8] {
        // SAFETY: exactly the row.
        unsafe { self.bytes(0, self.row_len()) }
    }

    /// The bytes of the fixed header.
    fn fixed(&self) -> &[u8; HEADER] {
        debug_assert!(self.row_len() >= HEADER, "R3");
        // SAFETY: R1, R3: every row has at least its fixed header.
        let at = unsafe { self.ptr.add(CONTROL) };
        // SAFETY: R1, R2, R3: initialised, immutable bytes; the type has no alignment.
        unsafe { at.cast().as_ref() }
    }

    fn key_len(&self) -> usize {
        let fixed = self.fixed();
        usize::from(u16::from_le_bytes([fixed[6], fixed[7]]))
    }

    /// The key's bytes.
    pub(crate) fn key(&self) -> &[u8] {
        let len = self.key_len();
        // SAFETY: R1: the key's bytes are right in front of the pointer.
        let start = unsafe { self.ptr.sub(len) };
        // SAFETY: R1 and R2: initialised, immutable, alive for as long as this handle.
        unsafe { std::slice::from_raw_parts(start.as_ptr(), len) }
    }

    /// Whether this is the record of `key`. Short keys are compared in line, as two words that may
    /// overlap.
    #[inline]
    pub(crate) fn has_key(&self, key: &[u8]) -> bool {
        let own = self.key();
        if own.len() != key.len() {
            return false;
        }
        match (own.first_chunk::<8>(), own.last_chunk::<8>()) {
            (Some(first), Some(last)) if own.len() <= 16 => {
                key.first_chunk() == Some(first) && key.last_chunk() == Some(last)
            }
            _ => own == key,
        }
    }

    /// The value's bytes, 16-byte aligned.
    pub(crate) fn value(&self) -> &[u8] {
        let fixed = self.fixed();
        let at = value_at(fixed[5]);
        let len = u32::from_le_bytes([fixed[8], fixed[9], fixed[10], fixed[11]]) as usize;
        debug_assert!(at + len <= self.row_len(), "R3");
        // SAFETY: R3: the value lies inside the row.
        unsafe { self.bytes(at, len) }
    }

    /// The encoded tags and metadata; empty for none.
    pub(crate) fn attributes(&self) -> &[u8] {
        let fixed = self.fixed();
        if fixed[5] & HAS_ATTRIBUTES == 0 {
            return &[];
        }
        let value = u32::from_le_bytes([fixed[8], fixed[9], fixed[10], fixed[11]]) as usize;
        self.row().get(value_at(fixed[5]) + value..).unwrap_or_default()
    }

    /// The stamp that the record was written with.
    pub(crate) fn stamp(&self) -> u64 {
        self.fixed().last_chunk().map_or(0, |stamp| u64::from_le_bytes(*stamp))
    }

    /// What the entry counts against byte limits.
    pub(crate) fn charge(&self) -> u64 {
        let fixed = self.fixed();
        if fixed[5] & HAS_CHARGE == 0 {
            let value = u32::from_le_bytes([fixed[8], fixed[9], fixed[10], fixed[11]]);
            return self.key_len() as u64 + u64::from(value);
        }
        self.header().charge
    }

    /// When the entry is over, or [`NEVER`].
    pub(crate) fn deadline(&self) -> u64 {
        if self.fixed()[5] & HAS_DEADLINE == 0 {
            return NEVER;
        }
        self.header().deadline
    }

    /// The whole header.
    pub(crate) fn header(&self) -> Header {
        match Header::parse(self.row(), self.key_len()) {
            Ok(header) => header,
            Err(bad) => unreachable!("R3: {bad:?}"),
        }
    }

    /// The bytes that the record takes up in memory.
    pub(crate) fn allocated_bytes(&self) -> usize {
        size_of_allocation(self.row_len(), self.key_len())
    }

    /// The same entry with another stamp and deadline.
    pub(crate) fn redated(&self, stamp: u64, deadline: u64, seal: Seal) -> Self {
        let header = self.header();
        let draft = Draft {
            value: self.value(),
            attributes: self.attributes(),
            stamp,
            created: header.created,
            deadline,
            charge: Some(header.charge),
            schema: header.schema,
        };
        draft.finish(self.key(), seal)
    }

    /// Whether both are handles on one record.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.ptr == other.ptr
    }

    #[inline]
    fn counter(&self) -> &AtomicU32 {
        &self.control().refs
    }
}

impl Clone for Record {
    #[inline]
    fn clone(&self) -> Self {
        // Half the counter's range is room for every thread that could be between the two lines.
        if self.counter().fetch_add(1, Ordering::Relaxed) > u32::MAX / 2 {
            self.counter().fetch_sub(1, Ordering::Relaxed);
            return Self::assemble([self.row(), &[], &[]], self.key());
        }
        Self { ptr: self.ptr }
    }
}

impl Drop for Record {
    #[inline]
    fn drop(&mut self) {
        if self.counter().fetch_sub(1, Ordering::Release) != 1 {
            return;
        }
        fence(Ordering::Acquire);
        self.free();
    }
}

impl Record {
    /// Frees the allocation; only for the last handle.
    #[cold]
    fn free(&mut self) {
        let layout = layout(self.allocated_bytes());
        // SAFETY: R1: the allocation starts there.
        let base = unsafe { self.ptr.sub(lead(self.key_len())) };
        // SAFETY: R4: this was the last handle. R1: the allocation was made with this very layout,
        // whose lengths have not changed (R2).
        unsafe { alloc::dealloc(base.as_ptr(), layout) };
    }
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.value().len();
        f.debug_struct("Record").field("key", &self.key()).field("value_len", &value).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draft<'a>(value: &'a [u8], attributes: &'a [u8]) -> Draft<'a> {
        Draft { value, attributes, stamp: 7, created: 7, deadline: NEVER, charge: None, schema: 1 }
    }

    #[test]
    fn every_combination_of_fields_survives_a_row() {
        let sizes: &[usize] = if cfg!(miri) { &[0, 17] } else { &[0, 1, 15, 16, 17, 1000] };
        for (bits, size) in (0..16_u8).flat_map(|b| sizes.iter().map(move |s| (b, *s))) {
            let value: Vec<u8> = (0..size).map(|i| u8::try_from(i % 251).unwrap()).collect();
            let draft = Draft {
                created: if bits & 1 == 0 { 7 } else { 3 },
                deadline: if bits & 2 == 0 { NEVER } else { 99 },
                charge: (bits & 4 != 0).then_some(12_345),
                ..draft(&value, if bits & 8 == 0 { &[] } else { b"attributes" })
            };
            let made = draft.finish(b"key", Seal::Checksummed);
            let loaded = Record::from_row(b"key", made.row()).unwrap();
            for record in [&made, &loaded, &made.clone()] {
                assert_eq!(record.key(), b"key");
                assert_eq!(record.value(), value);
                assert_eq!(record.value().as_ptr().addr() % ALIGN, 0);
                assert_eq!(record.attributes(), draft.attributes);
                let charge = draft.charge.unwrap_or(3 + size as u64);
                assert_eq!((record.stamp(), record.charge()), (7, charge));
                let header = record.header();
                let want = Header {
                    stamp: 7,
                    created: draft.created,
                    deadline: draft.deadline,
                    charge,
                    schema: 1,
                };
                assert_eq!(header, want);
            }
        }
    }

    #[test]
    fn a_flipped_bit_anywhere_is_refused() {
        let made = draft(b"some value", b"").finish(b"key", Seal::Checksummed);
        let bits = made.row().len() * 8;
        for bit in (0..bits).step_by(if cfg!(miri) { 37 } else { 1 }) {
            let mut row = made.row().to_vec();
            row[bit / 8] ^= 1 << (bit % 8);
            assert!(Record::from_row(b"key", &row).is_err(), "bit {bit}");
        }
        assert!(Record::from_row(b"kez", made.row()).is_err());
        for len in 0..made.row().len() {
            assert!(Record::from_row(b"key", &made.row()[..len]).is_err(), "length {len}");
        }
    }

    #[test]
    fn a_newer_record_format_is_told_apart_from_damage() {
        let made = draft(b"v", b"").finish(b"key", Seal::Checksummed);
        let mut row = made.row().to_vec();
        row[4] = RECORD_VERSION + 1;
        let crc = checksum(b"key", &row, [&[], &[]]);
        row[..4].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(Record::from_row(b"key", &row).unwrap_err(), BadRow::Newer);
    }

    #[test]
    fn a_full_counter_makes_a_copy_instead_of_wrapping() {
        let made = draft(b"v", b"").finish(b"key", Seal::MemoryOnly);
        made.counter().store(u32::MAX / 2 + 1, Ordering::Relaxed);
        let copy = made.clone();
        assert_ne!(copy.ptr, made.ptr);
        assert_eq!(copy.value(), b"v");
        assert_eq!(made.counter().load(Ordering::Relaxed), u32::MAX / 2 + 1);
        made.counter().store(1, Ordering::Relaxed);
    }

    #[test]
    fn handles_may_be_dropped_on_other_threads() {
        let made = draft(b"value", b"").finish(b"key", Seal::MemoryOnly);
        std::thread::scope(|s| {
            for _ in 0..4 {
                let handle = made.clone();
                s.spawn(move || assert_eq!(handle.value(), b"value"));
            }
        });
        assert_eq!(made.counter().load(Ordering::Relaxed), 1);
    }
}
