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
//! |[memory 16]| pad |--- key ---|--- control 24 ---|--- row, as on disk ----------------------------|
//!                               ^ the handle's pointer, 16-byte aligned
//!                               |refs 4|taken 4|recency 8|place 4|check 4|
//!                                                  |crc 4|ver 1|flags 1|key_len 2|value_len 4|schema 4|
//!                                                  |stamp 8|
//!                                                  |[created 8][deadline 8][charge 8][attrs_len 8]| pad |
//!                                                  |value|[attributes]|
//! ```
//!
//! The key is in front so that comparing it touches the cache line that the control words and the
//! header are on, whatever the size of the value. What the memory tier keeps of an entry is here too
//! (`held.rs`), since a hit fetches this line anyway; two words of it only in front of records that
//! a tier below may have.
//!
//! The four words in brackets are there when their flag is set. Padding is zero and puts the value
//! on a multiple of 16 from the pointer. Integers are little-endian. The checksum
//! is CRC-32 (IEEE) over the key and the row after the checksum. `format.md` has the same in prose.
//!
//! # Invariants
//!
//! - **R1** `ptr` points `lead()` bytes into an allocation of `lead()`, [`CONTROL`] and `row_len()`
//!   bytes, all initialised except for the padding in front of the key.
//! - **R2** the row, the key and whether there are words of [`Below`] are never written once a second
//!   handle can exist; all other words are atomics.
//! - **R3** the lengths in the header are right: header, padding, value and attributes fill the row
//!   exactly, and attributes parse.
//! - **R4** the allocation is freed by whoever takes the counter to zero, and by nobody else. What
//!   `held.rs` does to the counter keeps it above zero while there is a handle.
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

mod held;

use std::alloc::{self, Layout};
use std::fmt;
use std::mem::ManuallyDrop;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

pub(crate) use held::{FILED_MAX, Held};

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
/// waits for one of them. All but `refs` are the memory tier's.
#[repr(C)]
struct Control {
    refs: AtomicU32,
    taken: AtomicU32,
    recency: AtomicU64,
    place: AtomicU32,
    check: AtomicU32,
}

/// What the memory tier keeps of an entry that a tier below may have; in front of the key.
#[repr(C)]
struct Below {
    leaves: AtomicU64,
    handed: AtomicU64,
}

/// In `Control::place`: there are words of [`Below`].
const HAS_BELOW: u32 = 1 << 31;
const BELOW: usize = size_of::<Below>();
const _: () = assert!(BELOW.is_multiple_of(ALIGN) && align_of::<Below>() <= ALIGN);

const HAS_CREATED: u8 = 1;
const HAS_DEADLINE: u8 = 2;
const HAS_CHARGE: u8 = 4;
const HAS_ATTRIBUTES: u8 = 8;
const FLAGS_KNOWN: u8 = HAS_CREATED | HAS_DEADLINE | HAS_CHARGE | HAS_ATTRIBUTES;

/// For [`Record::fetch_ahead`].
pub(crate) const VALUE_LINE: usize = 64;

/// What stands for "no deadline".
pub(crate) const NEVER: u64 = u64::MAX;

/// A counted handle on one record.
#[repr(transparent)]
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
#[inline]
fn value_at(flags: u8) -> usize {
    usize::from(VALUE_AT[usize::from(flags & FLAGS_KNOWN)])
}

/// By flags.
static VALUE_AT: [u8; 1 + FLAGS_KNOWN as usize] = {
    let mut all = [0; 1 + FLAGS_KNOWN as usize];
    let mut flags = 0;
    while flags < all.len() {
        let header = CONTROL + HEADER + 8 * flags.count_ones() as usize;
        all[flags] = (header.next_multiple_of(ALIGN) - CONTROL).to_le_bytes()[0];
        flags += 1;
    }
    all
};

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

/// Bytes in front of the handle's pointer: the key, padded, and what may be in front of that.
#[inline]
fn lead(key_len: usize, has_below: bool) -> usize {
    key_len.next_multiple_of(ALIGN) + if has_below { BELOW } else { 0 }
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
    /// No value, from the beginning of time, for ever.
    pub(crate) const EMPTY: Self = Self {
        value: &[],
        attributes: &[],
        stamp: 0,
        created: 0,
        deadline: NEVER,
        charge: None,
        schema: 0,
    };

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
        Record::assemble([&head[..head_len], self.value, self.attributes], key, seal)
    }
}

/// Whether a new record gets its checksum, and words about the tier below: only those that may reach
/// a file need them.
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
        Draft::EMPTY.finish(key, Seal::MemoryOnly)
    }

    /// Loads the record of `key` from a disk row: one copy, checked for shape and checksum.
    pub(crate) fn from_row(key: &[u8], row: &[u8]) -> Result<Self, BadRow> {
        Header::check(row, key)?;
        Ok(Self::assemble([row, &[], &[]], key, Seal::Checksummed))
    }

    /// Copies the parts of a row, for which R3 holds, and its key into a new allocation.
    fn assemble(parts: [&[u8]; 3], key: &[u8], seal: Seal) -> Self {
        let has_below = seal == Seal::Checksummed;
        let row_len: usize = parts.iter().map(|p| p.len()).sum();
        let lead = lead(key.len(), has_below);
        let layout = layout(lead + CONTROL + row_len);
        // SAFETY: the size is at least `CONTROL`, so not zero.
        let raw = unsafe { alloc::alloc(layout) };
        let Some(base) = NonNull::new(raw) else { alloc::handle_alloc_error(layout) };
        // SAFETY: `lead` is inside the allocation, which has `CONTROL` bytes more.
        let ptr = unsafe { base.add(lead) };
        if has_below {
            let below = Below { leaves: AtomicU64::new(NEVER), handed: AtomicU64::new(0) };
            // SAFETY: `lead` has room for it, the allocation is 16-aligned; nobody else has it yet.
            unsafe { base.cast::<Below>().write(below) };
        }
        let control = Control {
            refs: AtomicU32::new(1),
            taken: AtomicU32::new(0),
            recency: AtomicU64::new(0),
            place: AtomicU32::new(if has_below { HAS_BELOW } else { 0 }),
            check: AtomicU32::new(0),
        };
        // SAFETY: `ptr` is 16-aligned, as the allocation and `lead` are; nobody else has it yet.
        unsafe { ptr.cast::<Control>().write(control) };
        let mut at = lead - key.len();
        for (part, gap) in [(key, 0), (parts[0], CONTROL), (parts[1], 0), (parts[2], 0)] {
            at += gap;
            assert!(at + part.len() <= layout.size(), "R1: parts fit the allocation");
            if !part.is_empty() {
                // SAFETY: `at` is inside the allocation.
                let target = unsafe { base.add(at) };
                // SAFETY: `part.len()` bytes fit behind `at` by the assertion; a fresh allocation
                // overlaps nothing.
                unsafe { target.copy_from_nonoverlapping(NonNull::from(part).cast(), part.len()) };
            }
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

    /// The handle as a pointer, which is to be made a handle again.
    #[inline]
    pub(crate) fn into_pointer(self) -> NonNull<u8> {
        ManuallyDrop::new(self).ptr
    }

    /// The handle that was made a pointer.
    ///
    /// # Safety
    ///
    /// - `ptr` is from [`Self::into_pointer`], and each is given here once.
    #[inline]
    pub(crate) unsafe fn from_pointer(ptr: NonNull<u8>) -> Self {
        Self { ptr }
    }

    /// The last access, for as long as the memory tier holds the record.
    #[inline]
    pub(crate) fn recency(&self) -> u64 {
        self.control().recency.load(Ordering::Relaxed)
    }

    #[inline]
    fn has_below(&self) -> bool {
        self.control().place.load(Ordering::Relaxed) & HAS_BELOW != 0
    }

    /// The words about the tier below, if there are any.
    #[inline]
    fn below(&self) -> Option<&Below> {
        if !self.has_below() {
            return None;
        }
        // SAFETY: R1, R2: with such words the allocation begins with them, `lead` in front.
        let at = unsafe { self.ptr.sub(lead(self.key_len(), true)) };
        // SAFETY: R1, R2: initialised and aligned; what is written later is atomic.
        Some(unsafe { at.cast().as_ref() })
    }

    fn row_len(&self) -> usize {
        let fixed = self.fixed();
        value_at(fixed[5]) + self.value_len() + self.attributes_len()
    }

    #[inline]
    fn value_len(&self) -> usize {
        let fixed = self.fixed();
        u32::from_le_bytes([fixed[8], fixed[9], fixed[10], fixed[11]]) as usize
    }

    fn attributes_len(&self) -> usize {
        let flags = self.fixed()[5];
        if flags & HAS_ATTRIBUTES == 0 {
            return 0;
        }
        let words = (flags & FLAGS_KNOWN).count_ones() as usize;
        // SAFETY: R3: the last of the words that the flags tell of; all are in front of the value.
        let word = unsafe { self.bytes(HEADER + 8 * (words - 1), 8) };
        let len = word.first_chunk().map_or(0, |len| u64::from_le_bytes(*len));
        usize::try_from(len).unwrap_or_default()
    }

    /// `len` bytes from `at` bytes behind the start of the row.
    ///
    /// # Safety
    ///
    /// - `at + len` is at most `row_len()`.
    #[inline]
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
    #[inline]
    fn fixed(&self) -> &[u8; HEADER] {
        // SAFETY: R1, R3: every row has at least its fixed header.
        let at = unsafe { self.ptr.add(CONTROL) };
        // SAFETY: R1, R2, R3: initialised, immutable bytes; the type has no alignment.
        unsafe { at.cast().as_ref() }
    }

    #[inline]
    fn key_len(&self) -> usize {
        let fixed = self.fixed();
        usize::from(u16::from_le_bytes([fixed[6], fixed[7]]))
    }

    /// The key's bytes.
    #[inline]
    pub(crate) fn key(&self) -> &[u8] {
        // SAFETY: that is its length.
        unsafe { self.key_of(self.key_len()) }
    }

    /// The key's bytes, by a length that is known already.
    ///
    /// # Safety
    ///
    /// - `len` is `key_len()`.
    #[inline]
    unsafe fn key_of(&self, len: usize) -> &[u8] {
        // SAFETY: R1: the key's bytes are right in front of the pointer.
        let start = unsafe { self.ptr.sub(len) };
        // SAFETY: R1 and R2: initialised, immutable, alive for as long as this handle.
        unsafe { std::slice::from_raw_parts(start.as_ptr(), len) }
    }

    /// Has the processor fetch the line of the control words, or with [`VALUE_LINE`] the one behind it,
    /// where a value of a few bytes begins, or the header ends: else it would wait for one after the
    /// other.
    #[inline]
    pub(crate) fn fetch_ahead(&self, offset: usize) {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            let line = self.ptr.as_ptr().wrapping_add(offset);
            // SAFETY: a hint about an address; nothing is read.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(line.cast()) };
        }
    }

    /// Whether this is the record of `key`. Short keys are compared in line, as two words that may
    /// overlap.
    #[inline]
    pub(crate) fn has_key(&self, key: &[u8]) -> bool {
        if self.key_len() != key.len() {
            return false;
        }
        // By the length that was asked for, so the key is fetched beside the header, not after it.
        // SAFETY: both lengths are the same.
        let own = unsafe { self.key_of(key.len()) };
        match (own.first_chunk::<8>(), own.last_chunk::<8>()) {
            (Some(first), Some(last)) if own.len() <= 16 => {
                key.first_chunk() == Some(first) && key.last_chunk() == Some(last)
            }
            _ => own == key,
        }
    }

    /// The value's bytes, 16-byte aligned.
    #[inline]
    pub(crate) fn value(&self) -> &[u8] {
        // SAFETY: R3: the value lies inside the row.
        unsafe { self.bytes(value_at(self.fixed()[5]), self.value_len()) }
    }

    /// The encoded tags and metadata; empty for none.
    pub(crate) fn attributes(&self) -> &[u8] {
        let behind = value_at(self.fixed()[5]) + self.value_len();
        // SAFETY: R3: they are what is behind the value.
        unsafe { self.bytes(behind, self.attributes_len()) }
    }

    /// The stamp that the record was written with.
    pub(crate) fn stamp(&self) -> u64 {
        self.fixed().last_chunk().map_or(0, |stamp| u64::from_le_bytes(*stamp))
    }

    /// What the entry counts against byte limits.
    #[inline]
    pub(crate) fn charge(&self) -> u64 {
        if self.fixed()[5] & HAS_CHARGE == 0 {
            return self.key_len() as u64 + self.value_len() as u64;
        }
        self.header().charge
    }

    /// When the entry is over, or [`NEVER`].
    #[inline]
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
        lead(self.key_len(), self.has_below()) + CONTROL + self.row_len()
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
        if !held::can_count(self.counter().fetch_add(1, Ordering::Relaxed)) {
            self.counter().fetch_sub(1, Ordering::Relaxed);
            return self.copied();
        }
        Self { ptr: self.ptr }
    }
}

impl Drop for Record {
    #[inline]
    fn drop(&mut self) {
        // The only handle: nobody can come to another one meanwhile.
        if self.counter().load(Ordering::Acquire) != 1 {
            if self.counter().fetch_sub(1, Ordering::Release) != 1 {
                return;
            }
            fence(Ordering::Acquire);
        }
        self.free();
    }
}

impl Record {
    /// The same in an allocation of its own.
    #[cold]
    fn copied(&self) -> Self {
        let seal = if self.has_below() { Seal::Checksummed } else { Seal::MemoryOnly };
        Self::assemble([self.row(), &[], &[]], self.key(), seal)
    }

    /// Frees the allocation; only for the last handle.
    fn free(&mut self) {
        let layout = layout(self.allocated_bytes());
        // SAFETY: R1: the allocation starts there.
        let base = unsafe { self.ptr.sub(lead(self.key_len(), self.has_below())) };
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
        for many in [(1 << 28) + 1, (1 << 31) + (1 << 28) + 1] {
            made.counter().store(many, Ordering::Relaxed);
            let copy = made.clone();
            assert_ne!(copy.ptr, made.ptr);
            assert_eq!(copy.value(), b"v");
            assert_eq!(made.counter().load(Ordering::Relaxed), many);
        }
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
