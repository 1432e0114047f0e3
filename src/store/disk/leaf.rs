//! A page of rows as redb lays it out, for those who look into one themselves.
//!
//! redb's leaf with keys of eight bytes: `|1|0|count 2|ends of values 4 each|keys 8 each|values|`, ends
//! counted from the beginning of the page. Whoever is told of something by a page that is no such leaf,
//! or not any more, finds that out by what is in the row.

use std::ops::Range;

use crate::record::Header;
use crate::store::disk::schema::split_row;

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

    /// The values, for as long as they follow each other within the page; `None` for the first that does
    /// not.
    pub(super) fn values(self) -> impl Iterator<Item = Option<&'p [u8]>> {
        (0..self.count).map(move |nth| self.page.get(self.range(nth)?))
    }

    /// The places of its rows.
    pub(super) fn places(self) -> impl Iterator<Item = u64> {
        let places = self.page.get(HEAD + END * self.count..self.values_at()).unwrap_or_default();
        places.as_chunks::<PLACE>().0.iter().map(|place| u64::from_le_bytes(*place))
    }

    /// Where the row of a place is.
    pub(super) fn find(self, place: u64) -> Option<Range<usize>> {
        let places = self.page.get(HEAD + END * self.count..self.values_at())?;
        let places = places.as_chunks::<PLACE>().0;
        let found = places.binary_search_by_key(&place, |place| u64::from_le_bytes(*place));
        self.range(found.ok()?)
    }

    /// Whether its first value looks like a row of ours, as far as there is one.
    pub(super) fn has_rows(self) -> bool {
        let first = self.values().next().flatten().and_then(split_row);
        first.is_some_and(|(key, row)| Header::parse(row, key.len()).is_ok())
    }
}
