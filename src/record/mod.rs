//! The record: one immutable, reference-counted allocation that holds an entry in every tier.
//!
//! The memory tier holds records, the write queue holds them, a disk row is three slices of one, and a
//! disk hit is one copy into a new one. Start with [`Draft`] to make one, [`Record::from_row`] to
//! load one.
//!
//! # How it works
//!
//! ```text
//! allocation, 16-byte aligned
//! |[below 16]| pad |--- key ---|--- control 24 ---|--- header --------| pad |value|[attributes]|[stamp 8]|
//!                              ^ the handle's pointer, 16-byte aligned
//!                              |refs 4|taken 4|recency 8|place 4|check 4|
//!                                                 |ver 1|flags 1|key_len 2|value_len 4|[row 16][words]|
//! row:                                            |schema 4|crc 4|stamp 8|
//! words:                                          |[created 8][deadline 8][charge 8][attributes_len 8]|
//! ```
//!
//! The key is in front so that comparing it touches the cache line that the control words and the
//! header are on, whatever the size of the value. What the memory tier keeps of an entry is here too
//! (`held.rs`), since a hit fetches this line anyway. Only a record that may reach a file has what a file
//! needs, and the tier above it: a schema, a checksum, words of [`Below`]. Such a record is said to have a
//! row; the others have their stamp at the end, where nobody passes it by.
//!
//! The four words are there when their flag is set. Padding is zero and puts the value on a multiple of 16.
//! Integers are little-endian. On disk the checksum comes first, and the rest follows in this order; it is
//! CRC-32 (IEEE) over the key and what follows the checksum there. `format.md` has the same in prose.
//!
//! # Invariants
//!
//! - **R1** `ptr` points `lead()` bytes into an allocation that is filled by what is drawn above, all
//!   initialised except for the padding in front of the key.
//! - **R2** the key, the header and what follows are never written once a second handle can exist; all other
//!   words are atomics.
//! - **R3** the lengths in the header are right, [`NO_ROW`] says what there is, and attributes parse.
//! - **R4** the allocation is freed by whoever takes the counter to zero, and by nobody else. What
//!   `held.rs` does to the counter keeps it above zero while there is a handle.
//!
//! # Safety
//!
//! All `unsafe` rests on R1 and R2: [`Draft::finish`] and [`Record::from_row`] are the only makers,
//! both go through `Filling`, into which they copy parts for which R3 holds (made so by the one, checked by
//! the other), and no method gives out `&mut` to a record.
//!
//! # Why not `Arc<[u8]>`
//!
//! It has two counters, a fat pointer, and no alignment above 8.
#![expect(unsafe_code, reason = "one aligned allocation behind a thin pointer; argued above")]

mod draft;
mod fill;
mod held;
mod row;
mod spare;

use std::alloc::Layout;
use std::fmt;
use std::mem::ManuallyDrop;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use fill::Filling;
use row::{FLAGS_KNOWN, HAS_ATTRIBUTES, HAS_CHARGE, HAS_DEADLINE, HEADER, Words};

pub(crate) use draft::{Draft, Seal};
pub(crate) use held::{FILED_MAX, Held, UNFILED};
pub(crate) use row::{BadRow, CHARGE_MAX, CHARGES_MAX, Header, NEVER, RECORD_VERSION};

/// The longest key that the format's length field and the documentation allow, in bytes.
pub(crate) const KEY_BYTES_MAX: usize = 4096;
/// The largest value, in bytes: rkyv's 32-bit relative pointers reach 2 GiB, redb's pairs 3.75.
pub(crate) const VALUE_BYTES_MAX: usize = 1 << 30;
/// The most bytes of tags and metadata of one entry.
pub(crate) const ATTRIBUTE_BYTES_MAX: usize = 1 << 20;

/// Of an allocation, and of a value.
const ALIGN: usize = 16;
const CONTROL: usize = size_of::<Control>();
/// Where the header has its lengths, behind version and flags.
const KEY_LEN_AT: usize = CONTROL + 2;
const VALUE_LEN_AT: usize = CONTROL + 4;
/// Where a header with a row has more.
const SCHEMA_AT: usize = CONTROL + 8;
const CRC_AT: usize = CONTROL + 12;
const STAMP_AT: usize = CONTROL + 16;
const STAMP: usize = size_of::<u64>();
const _: () = {
    assert!(align_of::<Control>() <= ALIGN);
    // A row has its first value where it does as part of the file format, and in memory it is aligned.
    assert!((STAMP_AT + STAMP - CONTROL == HEADER) && value_at(0) - CONTROL == row::value_at(0));
};

/// What is between key and header. Its words are never exchanged for a model's, which are larger; nobody
/// waits for one of them. All but `refs` are the memory tier's.
#[repr(C)]
struct Control {
    refs: AtomicU32,
    taken: AtomicU32,
    recency: AtomicU64,
    place: AtomicU32,
    check: AtomicU32,
}

/// What the memory tier keeps of an entry that a tier below may have; the allocation begins with it.
#[repr(C)]
struct Below {
    leaves: AtomicU64,
    handed: AtomicU64,
}

const BELOW: usize = size_of::<Below>();
const _: () = assert!(BELOW.is_multiple_of(ALIGN) && align_of::<Below>() <= ALIGN);

/// In the flags of a record in memory: it has no row. None of a file's.
const NO_ROW: u8 = 16;
const _: () = assert!(NO_ROW == FLAGS_KNOWN + 1);

/// Where the value of a record begins that has neither a row nor words, which is that of most.
const PLAIN: usize = value_at(NO_ROW);
const _: () = assert!(PLAIN == SCHEMA_AT);

/// What a processor fetches at once, in bytes.
pub(crate) const LINE: usize = 64;

/// For [`Record::fetch_ahead`].
pub(crate) const VALUE_LINE: usize = LINE;

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

/// Where the words start, from the pointer.
const fn words_at(flags: u8) -> usize {
    if flags & NO_ROW == 0 { STAMP_AT + STAMP } else { SCHEMA_AT }
}

/// Where the value starts, from the pointer.
#[inline]
const fn value_at(flags: u8) -> usize {
    VALUE_AT[(flags & (FLAGS_KNOWN | NO_ROW)) as usize] as usize
}

/// By flags.
static VALUE_AT: [u8; 2 * NO_ROW as usize] = {
    let mut all = [0; 2 * NO_ROW as usize];
    let mut flags = 0;
    while flags < 2 * NO_ROW {
        let end = words_at(flags) + 8 * row::word_count(flags);
        all[flags as usize] = end.next_multiple_of(ALIGN).to_le_bytes()[0];
        flags += 1;
    }
    all
};

/// Bytes in front of the pointer: the key, padded, and what may be in front of that.
#[inline]
fn lead(key_len: usize, has_row: bool) -> usize {
    key_len.next_multiple_of(ALIGN) + if has_row { BELOW } else { 0 }
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

/// Has the processor fetch the line at this address.
#[inline]
fn fetch_ahead(line: *const u8) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a hint about an address; nothing is read.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.cast()) };
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    let _ = line;
}

/// Likewise, where only the address is known.
#[inline]
pub(crate) fn fetch_address_ahead(address: usize) {
    fetch_ahead(std::ptr::without_provenance(address));
}

/// Has the processor fetch the line at which something begins that is looked at soon.
#[inline]
pub(crate) fn fetch_line_ahead<T>(of: &T) {
    fetch_ahead(std::ptr::from_ref(of).cast());
}

impl Record {
    /// The checksum of bytes that are not a record's.
    pub(crate) fn plain_checksum(bytes: &[u8]) -> u32 {
        crc32fast::hash(bytes)
    }

    /// Has the processor fetch what the next record is likely to be written to.
    pub(crate) fn fetch_room_ahead() {
        spare::fetch_rest_ahead();
    }

    /// A record without a value, which stands for its key in the write queue.
    pub(crate) fn of_key(key: &[u8]) -> Self {
        Draft::EMPTY.finish(key, Seal::MemoryOnly)
    }

    /// Loads the record of `key` from a disk row: one copy, checked for shape and checksum.
    pub(crate) fn from_row(key: &[u8], row: &[u8]) -> Result<Self, BadRow> {
        Header::check(row, key)?;
        let [crc, lengths, rest] = row::parts(row).ok_or(BadRow::Shape)?;
        let (stamp, rest) = rest.split_at_checked(STAMP).ok_or(BadRow::Shape)?;
        let mut head = [0; HEADER];
        for (target, source) in [(0, lengths), (CRC_AT - CONTROL, crc), (STAMP_AT - CONTROL, stamp)]
        {
            head[target..target + source.len()].copy_from_slice(source);
        }
        let mut filling = Filling::begin(key, head.len() + rest.len(), Seal::Checksummed);
        filling.put(&head);
        filling.put(rest);
        Ok(filling.finish())
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

    /// Whether there is a row, and words of [`Below`].
    #[inline]
    fn has_row(&self) -> bool {
        self.flags() & NO_ROW == 0
    }

    /// The words about the tier below, if there are any.
    #[inline]
    fn below(&self) -> Option<&Below> {
        if !self.has_row() {
            return None;
        }
        // SAFETY: R1: with a row the allocation begins with such words, `lead` in front.
        let at = unsafe { self.ptr.sub(lead(self.key_len(), true)) };
        // SAFETY: R1, R2: initialised and aligned; what is written later is atomic.
        Some(unsafe { at.cast().as_ref() })
    }

    /// The bytes from the pointer to the end of the allocation.
    fn len(&self) -> usize {
        let stamp = if self.has_row() { 0 } else { STAMP };
        value_at(self.flags()) + self.value_len() + self.attributes_len() + stamp
    }

    /// `N` bytes from `at` bytes behind the pointer.
    ///
    /// # Safety
    ///
    /// - They are behind [`CONTROL`] and inside the allocation.
    #[inline]
    unsafe fn word_at<const N: usize>(&self, at: usize) -> [u8; N] {
        // SAFETY: R1 and the caller's promise: inside the allocation.
        let start = unsafe { self.ptr.add(at) };
        // SAFETY: R1, R2: initialised, immutable bytes; the type has no alignment.
        unsafe { *start.cast().as_ref() }
    }

    #[inline]
    fn flags(&self) -> u8 {
        // SAFETY: every header begins with its version and its flags.
        let [_, flags] = unsafe { self.word_at(CONTROL) };
        flags
    }

    #[inline]
    fn key_len(&self) -> usize {
        // SAFETY: every header has it.
        usize::from(u16::from_le_bytes(unsafe { self.word_at(KEY_LEN_AT) }))
    }

    #[inline]
    fn value_len(&self) -> usize {
        // SAFETY: every header has it.
        u32::from_le_bytes(unsafe { self.word_at(VALUE_LEN_AT) }) as usize
    }

    /// The words whose flags are set.
    fn words(&self) -> Words {
        let flags = self.flags();
        // SAFETY: R3: all words are in front of the value.
        let bytes = unsafe { self.bytes(words_at(flags), 8 * row::word_count(flags)) };
        match Words::parse(flags, bytes) {
            Some(words) => words,
            None => unreachable!("R3: a word for each flag"),
        }
    }

    fn attributes_len(&self) -> usize {
        if self.flags() & HAS_ATTRIBUTES == 0 {
            return 0;
        }
        let len = self.words().attributes_len;
        len.and_then(|len| usize::try_from(len).ok()).unwrap_or_default()
    }

    /// `len` bytes from `at` bytes behind the pointer.
    ///
    /// # Safety
    ///
    /// - They are behind [`CONTROL`], and `at + len` is at most `self.len()`.
    #[inline]
    unsafe fn bytes(&self, at: usize, len: usize) -> &[u8] {
        // SAFETY: R1 and the caller's promise: inside the allocation.
        let start = unsafe { self.ptr.add(at) };
        // SAFETY: R1 and R2: initialised, immutable, alive for as long as this handle.
        unsafe { std::slice::from_raw_parts(start.as_ptr(), len) }
    }

    /// The parts of the row, as on disk; they are empty without one.
    pub(crate) fn row(&self) -> [&[u8]; 3] {
        if !self.has_row() {
            return [&[]; 3];
        }
        let parts = [CRC_AT..STAMP_AT, CONTROL..CRC_AT, STAMP_AT..self.len()];
        // SAFETY: R1: with a row the header has all that.
        parts.map(|part| unsafe { self.bytes(part.start, part.len()) })
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

    /// Has the processor fetch the line of the control words, or with [`VALUE_LINE`] the one behind it, where
    /// a value of a few bytes begins or ends: else it would wait for one after the other.
    #[inline]
    pub(crate) fn fetch_ahead(&self, offset: usize) {
        fetch_ahead(self.ptr.as_ptr().wrapping_add(offset));
    }

    /// Where it begins, for who has that fetched.
    #[inline]
    pub(crate) fn address(&self) -> usize {
        self.ptr.as_ptr().addr()
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
        // SAFETY: R3: that is where the value is.
        unsafe { self.bytes(value_at(self.flags()), self.value_len()) }
    }

    /// The encoded tags and metadata; empty for none.
    pub(crate) fn attributes(&self) -> &[u8] {
        let behind = value_at(self.flags()) + self.value_len();
        // SAFETY: R3: they are what is behind the value.
        unsafe { self.bytes(behind, self.attributes_len()) }
    }

    /// The stamp that the record was written with.
    pub(crate) fn stamp(&self) -> u64 {
        let at = if self.has_row() { STAMP_AT } else { self.len() - STAMP };
        // SAFETY: R1: it is in the header, or else the last of all.
        u64::from_le_bytes(unsafe { self.word_at(at) })
    }

    /// The version of the schema, which only a record with a row has.
    fn schema(&self) -> u32 {
        if !self.has_row() {
            return 0;
        }
        // SAFETY: with a row it is in the header.
        u32::from_le_bytes(unsafe { self.word_at(SCHEMA_AT) })
    }

    /// What the entry counts if nothing else is said.
    #[inline]
    fn natural(&self) -> u64 {
        self.key_len() as u64 + self.value_len() as u64
    }

    /// What the entry counts against byte limits.
    #[inline]
    pub(crate) fn charge(&self) -> u64 {
        if self.flags() & HAS_CHARGE == 0 {
            return self.natural();
        }
        self.header().charge
    }

    /// When the entry is over, or [`NEVER`].
    #[inline]
    pub(crate) fn deadline(&self) -> u64 {
        if self.flags() & HAS_DEADLINE == 0 {
            return NEVER;
        }
        self.header().deadline
    }

    /// The whole header.
    pub(crate) fn header(&self) -> Header {
        self.words().header(self.stamp(), self.natural(), self.schema())
    }

    /// The bytes that the record takes up in memory.
    #[inline]
    pub(crate) fn allocated_bytes(&self) -> usize {
        if self.flags() == NO_ROW {
            return lead(self.key_len(), false) + PLAIN + self.value_len() + STAMP;
        }
        lead(self.key_len(), self.has_row()) + self.len()
    }

    fn seal(&self) -> Seal {
        if self.has_row() { Seal::Checksummed } else { Seal::MemoryOnly }
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
        let header = self.header();
        self.redated(header.stamp, header.deadline, self.seal())
    }

    /// Frees the allocation; only for the last handle.
    fn free(&mut self) {
        let layout = layout(self.allocated_bytes());
        // SAFETY: R1: the allocation starts there.
        let base = unsafe { self.ptr.sub(lead(self.key_len(), self.has_row())) };
        // SAFETY: R4: this was the last handle. R1: the allocation was made with this very layout,
        // whose lengths have not changed (R2).
        unsafe { spare::free(base, layout) };
    }
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.value().len();
        f.debug_struct("Record").field("key", &self.key()).field("value_len", &value).finish()
    }
}

#[cfg(test)]
mod tests;
