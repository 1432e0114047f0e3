//! What a type's archived bytes look like, told by what its validation asks and accepts.
//!
//! # How it works
//!
//! A program cannot list the fields of a type, but the type's validation knows them: it asks
//! whether a pointer to so many bytes of such an alignment may be followed, and refuses a `bool`
//! that is 2, an enum's variant that there is not, or text that is not UTF-8. So archives made up
//! in a fixed way are shown to it, all zeros at first, then with one byte or one pointer changed;
//! what lies behind an accepted pointer, or behind the tag of another variant, is gone through in the
//! same way. The fingerprint is the hash of all questions and answers.
//!
//! Types that differ only in what any bits are valid for (`i32` for `u32`, two numbers swapped, a
//! field's name) have the same fingerprint, and so may types that differ only far inside: the
//! number of archives, and the depth, are limited.

#![expect(unsafe_code, reason = "rkyv's validation trusts its context; argued at each place")]

use std::alloc::Layout;
use std::any::TypeId;
use std::fmt;
use std::ops::Range;

use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::{BoxedError, Source, Strategy, fail};
use rkyv::util::AlignedVec;
use rkyv::validation::shared::SharedValidator;
use rkyv::validation::{ArchiveContext, Validator};

use crate::record::Record;
use crate::sync::StaticMutex;

/// What is validated with: pointers go through a [`Pointers`].
pub(crate) type LayoutValidator<'a, E> = Strategy<Validator<Pointers<'a>, SharedValidator>, E>;

/// Bytes between what pointers of one depth and of the next point to.
const WINDOW_BYTES: usize = 256;
/// The depth to which pointers and variants are followed.
const DEPTH_MAX: usize = 4;
/// Bytes behind the value that pointers can point to.
const ROOM_BYTES: usize = WINDOW_BYTES * (DEPTH_MAX + 1);
/// The most bytes gone through of the value, and on both sides of where a pointer points.
const VALUE_BYTES: usize = 512;
const POINTED_BYTES: usize = 32;
/// The most archives shown, and the most bytes of them.
const ARCHIVES_MAX: usize = 2048;
const ARCHIVES_BYTES_MAX: usize = 16 << 20;
/// The most pointers within pointers, as of a box that is made to point to itself.
const NESTED_MAX: usize = 32;

/// What every byte is set to. The highest byte of a word has the second and third only: if the word
/// were a length, of elements without a size, validation would take long with others.
const BYTES: [u8; 16] = [0x80, 2, 1, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 16, 0x20, 0xff];

/// The fingerprint of an archived type.
pub(crate) fn fingerprint<A>() -> u32
where
    A: 'static + for<'a> CheckBytes<LayoutValidator<'a, BoxedError>>,
{
    /// Those already made: a program has few types and may open many caches.
    static MADE: StaticMutex<Vec<(TypeId, u32)>> = StaticMutex::new(Vec::new());
    const { assert!(align_of::<A>() <= 16, "archived values align to 16 bytes at most") }
    let id = TypeId::of::<A>();
    if let Some(made) = MADE.lock().iter().find(|made| made.0 == id) {
        return made.1;
    }
    let fingerprint = fingerprint_by(size_of::<A>(), &|bytes, log| {
        debug_assert!(bytes.len() >= size_of::<A>() && bytes.as_ptr().addr() % 16 == 0);
        let mut validator =
            Validator::new(Pointers { bytes, log, nested: 0 }, SharedValidator::new());
        // SAFETY: `bytes` are 16-byte aligned, which suffices for `A`, and begin with as many as an
        // `A` has; they are initialized.
        unsafe { A::check_bytes(bytes.as_ptr().cast(), Strategy::wrap(&mut validator)) }.is_ok()
    });
    MADE.lock().push((id, fingerprint));
    fingerprint
}

/// `is_valid` is given 16-byte aligned bytes that begin with `size` bytes of a value.
fn fingerprint_by(size: usize, is_valid: &dyn Fn(&[u8], &mut Vec<u8>) -> bool) -> u32 {
    let mut bytes = AlignedVec::with_capacity(size + ROOM_BYTES);
    bytes.resize(size + ROOM_BYTES, 0);
    let left = ARCHIVES_MAX.min(ARCHIVES_BYTES_MAX / bytes.len());
    let room = size.next_multiple_of(16);
    let mut probe = Probe { is_valid, bytes, room, log: Vec::new(), left };
    let end = size.min(VALUE_BYTES);
    if !probe.accepts() {
        probe.make_valid(end);
    }
    probe.explore(0..end, 1);
    Record::plain_checksum(&probe.log)
}

struct Probe<'a> {
    is_valid: &'a dyn Fn(&[u8], &mut Vec<u8>) -> bool,
    bytes: AlignedVec,
    /// Where the room behind the value begins.
    room: usize,
    /// All questions and answers.
    log: Vec<u8>,
    /// How many more archives are shown.
    left: usize,
}

impl Probe<'_> {
    fn accepts(&mut self) -> bool {
        if self.left == 0 {
            return false;
        }
        self.left -= 1;
        let valid = (self.is_valid)(&self.bytes, &mut self.log);
        self.log.push(valid.into());
        valid
    }

    fn put(&mut self, at: usize, word: u32) {
        self.bytes[at..at + 4].copy_from_slice(&word.to_le_bytes());
    }

    /// Zeros are valid for most types. For one with a `NonZero` the words are set to 1 from the first
    /// to the last, as long as validation does not end earlier for it.
    fn make_valid(&mut self, end: usize) {
        let mut longest = self.log.len();
        for at in (0..end / 4 * 4).step_by(4) {
            let start = self.log.len();
            self.put(at, 1);
            if self.accepts() {
                return;
            }
            let asked = self.log.len() - start;
            if asked < longest {
                self.put(at, 0);
            }
            longest = longest.max(asked);
        }
    }

    /// Goes through the words of `range`, and through what they may stand for. Afterwards the bytes
    /// are as before.
    fn explore(&mut self, range: Range<usize>, depth: usize) {
        for at in range.clone().step_by(4) {
            let mut refuses = false;
            for byte in at..range.end.min(at + 4) {
                refuses |= self.explore_byte(byte, range.end, depth);
            }
            if refuses && at + 4 <= range.end {
                self.explore_pointer(at, range.end, depth);
            }
        }
    }

    /// Whether some values of one byte are refused.
    fn explore_byte(&mut self, at: usize, end: usize, depth: usize) -> bool {
        let before = self.bytes[at];
        let mut accepted = Vec::new();
        let mut refuses = false;
        for &value in &BYTES[if at % 4 == 3 { 1..3 } else { 0..BYTES.len() }] {
            self.bytes[at] = value;
            if self.accepts() {
                accepted.push(value);
            } else {
                refuses = true;
            }
        }
        if refuses && depth < DEPTH_MAX {
            // Each of the accepted may be the tag of a variant with fields of its own.
            for value in accepted {
                self.bytes[at] = value;
                self.explore(at / 4 * 4 + 4..end, depth + 1);
            }
        }
        self.bytes[at] = before;
        refuses
    }

    /// Tries the word at `at` as a pointer: alone, with a length of one behind it, and with a length
    /// and a capacity of one.
    fn explore_pointer(&mut self, at: usize, end: usize, depth: usize) {
        let before: Vec<u8> = self.bytes[at..end.min(at + 12)].to_vec();
        let target = self.room + depth * WINDOW_BYTES - WINDOW_BYTES / 2;
        self.put(at, u32::try_from(target - at).unwrap_or(0));
        for behind in (at..at + before.len() / 4 * 4).step_by(4) {
            if behind != at {
                self.put(behind, 1);
            }
            if self.accepts() && depth < DEPTH_MAX {
                self.explore(target - POINTED_BYTES..target + POINTED_BYTES, depth + 1);
            }
        }
        self.bytes[at..at + before.len()].copy_from_slice(&before);
    }
}

/// Lets validation follow any aligned pointer within `bytes`, and notes each.
///
/// Unlike an archive that is read, what is pointed to may be pointed to twice: nothing is made of it.
#[derive(Debug)]
pub struct Pointers<'a> {
    bytes: &'a [u8],
    log: &'a mut Vec<u8>,
    nested: usize,
}

#[derive(Debug)]
struct Refused;

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a made-up archive points to where nothing is")
    }
}

impl std::error::Error for Refused {}

// SAFETY: a pointer is accepted only if all it points to lies within `bytes`, which are borrowed
// for as long as this value lives, are initialized, and are only read.
unsafe impl<E: Source> ArchiveContext<E> for Pointers<'_> {
    fn check_subtree_ptr(&mut self, ptr: *const u8, layout: &Layout) -> Result<(), E> {
        let offset = ptr.addr().wrapping_sub(self.bytes.as_ptr().addr());
        for number in [offset, layout.size(), layout.align()] {
            self.log.extend_from_slice(&(number.cast_signed() as i64).to_le_bytes());
        }
        let within = offset.checked_add(layout.size()).is_some_and(|end| end <= self.bytes.len());
        if !within || !ptr.addr().is_multiple_of(layout.align()) || self.nested > NESTED_MAX {
            fail!(Refused);
        }
        Ok(())
    }

    unsafe fn push_subtree_range(
        &mut self,
        _root: *const u8,
        _end: *const u8,
    ) -> Result<Range<usize>, E> {
        self.nested += 1;
        Ok(0..0)
    }

    unsafe fn pop_subtree_range(&mut self, _range: Range<usize>) -> Result<(), E> {
        self.nested -= 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![expect(dead_code, reason = "the types are looked at, and never made")]

    use std::collections::HashMap;
    use std::num::NonZeroU32;

    use rkyv::{Archive, Archived};

    use super::*;

    mod first {
        #[derive(rkyv::Archive)]
        pub(super) struct Item {
            pub(super) id: u32,
            pub(super) name: String,
        }

        #[derive(rkyv::Archive)]
        pub(super) enum Kind {
            Empty,
            Named(String),
        }
    }

    mod second {
        #[derive(rkyv::Archive)]
        pub(super) struct Item {
            pub(super) name: String,
            pub(super) id: u32,
        }

        #[derive(rkyv::Archive)]
        pub(super) enum Kind {
            Empty,
            Named(String),
            Other,
        }
    }

    fn of<T: Archive<Archived: 'static>>() -> u32
    where
        Archived<T>: for<'a> CheckBytes<LayoutValidator<'a, BoxedError>>,
    {
        fingerprint::<Archived<T>>()
    }

    #[test]
    fn fields_that_move_change_the_fingerprint_wherever_they_are() {
        use {first as a, second as b};
        let pairs = [
            (of::<a::Item>(), of::<b::Item>()),
            (of::<Vec<a::Item>>(), of::<Vec<b::Item>>()),
            (of::<[a::Item; 3]>(), of::<[b::Item; 3]>()),
            (of::<Option<a::Item>>(), of::<Option<b::Item>>()),
            (of::<Option<Vec<a::Item>>>(), of::<Option<Vec<b::Item>>>()),
            (of::<Box<a::Item>>(), of::<Box<b::Item>>()),
            (of::<(u64, Box<a::Item>, NonZeroU32)>(), of::<(u64, Box<b::Item>, NonZeroU32)>()),
            (of::<a::Kind>(), of::<b::Kind>()),
            (of::<Vec<a::Kind>>(), of::<Vec<b::Kind>>()),
            (of::<HashMap<String, a::Item>>(), of::<HashMap<String, u64>>()),
        ];
        for (at, (a, b)) in pairs.iter().enumerate() {
            assert_ne!(a, b, "pair {at}");
        }
    }

    #[test]
    fn types_of_one_size_differ() {
        let mut made = vec![
            of::<u64>(),
            of::<String>(),
            of::<Vec<u8>>(),
            of::<Vec<u16>>(),
            of::<Vec<u64>>(),
            of::<Vec<String>>(),
            of::<(u32, bool)>(),
            of::<(bool, u32)>(),
            of::<(u32, char)>(),
            of::<(u32, NonZeroU32)>(),
        ];
        made.sort_unstable();
        made.dedup();
        assert_eq!(made.len(), 10);
    }

    #[test]
    fn what_any_bits_are_valid_for_is_not_told_apart() {
        assert_eq!(of::<u64>(), of::<i64>());
        assert_eq!(of::<u64>(), of::<(f32, u32)>());
    }

    /// Files keep fingerprints: if these change with a new version of rkyv, the format did.
    #[test]
    fn fingerprints_stay_what_they_are() {
        let made = [of::<u64>(), of::<String>(), of::<Vec<first::Item>>()];
        assert_eq!(made.map(|f| format!("{f:08x}")), ["5e31cb4f", "21e6b50c", "2db330d4"]);
    }
}
