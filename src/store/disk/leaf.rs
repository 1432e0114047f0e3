//! A page of rows as redb lays it out, for those who look into one themselves.
//!
//! redb's leaf with keys of eight bytes: `|1|0|count 2|ends of values 4 each|keys 8 each|values|`, ends
//! counted from the beginning of the page. Pages of other tables may look like one: what they are has to be
//! known from elsewhere.

use std::ops::Range;

/// Bytes in front of the ends.
const HEAD: usize = 4;
const END: usize = 4;
const PLACE: usize = 8;

/// The beginning of a page, if it is laid out so.
#[derive(Debug, Clone, Copy)]
pub(super) struct Leaf<'p> {
    page: &'p [u8],
    count: usize,
}

impl<'p> Leaf<'p> {
    /// `None` if ends and places of what it says to have do not fit.
    pub(super) fn of(page: &'p [u8]) -> Option<Self> {
        let ([1, _, low, high], _) = page.split_first_chunk::<HEAD>()? else { return None };
        let leaf = Self { page, count: usize::from(u16::from_le_bytes([*low, *high])) };
        (leaf.values_at() <= page.len()).then_some(leaf)
    }

    fn values_at(self) -> usize {
        HEAD + self.count * (END + PLACE)
    }

    /// Where the value of one of its rows is, which may be behind what there is of the page.
    fn range(self, nth: usize) -> Option<Range<usize>> {
        let end = |nth: usize| {
            let end = self.page.get(HEAD + END * nth..)?.first_chunk()?;
            usize::try_from(u32::from_le_bytes(*end)).ok()
        };
        let start = nth.checked_sub(1).map_or(Some(self.values_at()), end)?;
        Some(start..end(nth)?).filter(|range| range.start <= range.end)
    }

    /// Its places, and where their values are; `None` where the ends do not rise.
    pub(super) fn rows(self) -> impl Iterator<Item = (u64, Option<Range<usize>>)> {
        let places = self.places().iter().map(|place| u64::from_le_bytes(*place));
        places.enumerate().map(move |(nth, place)| (place, self.range(nth)))
    }

    fn places(self) -> &'p [[u8; PLACE]] {
        let places = self.page.get(HEAD + END * self.count..self.values_at()).unwrap_or_default();
        places.as_chunks().0
    }
}
