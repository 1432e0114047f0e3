//! What the last copy of a file took: a meta row, from which the next who opens the file knows what one will take.

use redb::Table;

use crate::record::Record;
use crate::store::disk::failure::Failure;
use crate::store::disk::schema::COPIED_ROW;

/// A ratio further from one than this is not believed.
const RATIO_MAX: u64 = 16;
const LEN: usize = 2 * size_of::<u64>();

/// What a copy occupied, and what it was estimated to need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Copied {
    pub(crate) occupied: u64,
    pub(crate) needed: u64,
}

impl Copied {
    fn encode(self) -> Vec<u8> {
        let mut row = [self.occupied, self.needed].map(u64::to_le_bytes).concat();
        row.extend(Record::plain_checksum(&row).to_le_bytes());
        row
    }

    /// `None` if it is damaged, or cannot be right.
    pub(super) fn decode(row: &[u8]) -> Option<Self> {
        let (numbers, checksum) = row.split_at_checked(LEN)?;
        let ([occupied, needed], []) = numbers.as_chunks() else { return None };
        let [occupied, needed] = [occupied, needed].map(|number| u64::from_le_bytes(*number));
        let is_ratio = occupied > 0
            && occupied / RATIO_MAX <= needed
            && needed > 0
            && needed / RATIO_MAX <= occupied;
        let is_sound = checksum == Record::plain_checksum(numbers).to_le_bytes();
        (is_ratio && is_sound).then_some(Self { occupied, needed })
    }

    pub(super) fn write(
        self,
        meta: &mut Table<'_, &'static str, &'static [u8]>,
    ) -> Result<(), Failure> {
        meta.insert(COPIED_ROW, self.encode().as_slice())?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_damaged_or_cannot_be_is_not_believed() {
        let copied = Copied { occupied: 5_000, needed: 4_000 };
        let row = copied.encode();
        assert_eq!(Copied::decode(&row), Some(copied));
        for at in 0..row.len() {
            let mut other = row.clone();
            other[at] ^= 1;
            assert_eq!((Copied::decode(&other), Copied::decode(&row[..at])), (None, None), "{at}");
        }
        for (occupied, needed) in [(0, 0), (0, 5), (5, 0), (u64::MAX, 9), (9, u64::MAX)] {
            assert_eq!(Copied::decode(&Copied { occupied, needed }.encode()), None);
        }
    }
}
