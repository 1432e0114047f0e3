//! What the last copy of a file took: a meta row, from which the next who opens the file knows what one will take.

use redb::Table;

use crate::store::disk::failure::Failure;
use crate::store::disk::schema::{COPIED_ROW, seal_numbers, unseal_numbers};

/// A ratio further from one than this is not believed.
const RATIO_MAX: u64 = 16;

/// What a copy occupied, and what it was estimated to need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Copied {
    pub(crate) occupied: u64,
    pub(crate) needed: u64,
}

impl Copied {
    fn encode(self) -> Vec<u8> {
        seal_numbers(&[self.occupied, self.needed])
    }

    /// `None` if it is damaged, or cannot be right.
    pub(super) fn decode(row: &[u8]) -> Option<Self> {
        let [occupied, needed] = unseal_numbers(row)?;
        let is_ratio = occupied > 0
            && occupied / RATIO_MAX <= needed
            && needed > 0
            && needed / RATIO_MAX <= occupied;
        is_ratio.then_some(Self { occupied, needed })
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
