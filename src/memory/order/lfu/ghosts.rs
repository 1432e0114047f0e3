//! What was lately evicted: bits of a key's hash, when it had come in or was last accessed, and whether it
//! was in the window or in the main part.
//!
//! A table of sets of four places. What is noted takes a free place of its set, or that of the one whose
//! time is the oldest. So eight bytes an entry remember most of as many keys as there are entries. Thirty
//! bits tell a key; that one is taken for another now and then is nothing to a statistic.

use std::hint::select_unpredictable;

use super::super::sketch::scale;

/// Places in a set.
const WAYS: usize = 4;

/// Set in the tag of every key.
const IS_TAKEN: u32 = 1;
/// Set in that of one that was in the main part.
const WAS_MAIN: u32 = 2;

/// Keys that were evicted.
#[derive(Debug, Default)]
pub(super) struct Ghosts {
    /// None until the first is noted.
    places: Vec<Ghost>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Ghost {
    /// Bits of the hash, `IS_TAKEN` and `WAS_MAIN`; 0 if the place is free.
    tag: u32,
    /// The owner's clock when the key came in, or was accessed.
    born: u32,
}

impl Ghosts {
    /// Notes a key that came in or was accessed at `born`; `now` is the owner's clock, `entries` how many
    /// are in.
    pub(super) fn note(&mut self, hash: u64, born: u32, was_main: bool, now: u32, entries: u64) {
        let wanted = usize::try_from(entries).unwrap_or(0).max(WAYS);
        if self.places.len() * 2 <= wanted || self.places.len() / 2 > wanted {
            self.places = vec![Ghost::default(); wanted - wanted % WAYS];
        }
        let (set, tag) = self.set(hash);
        let Some(places) = self.places.as_chunks_mut().0.get_mut(set) else { return };
        *oldest(places, now) = Ghost { tag: if was_main { tag | WAS_MAIN } else { tag }, born };
    }

    /// What was noted of this key: the time, and whether it was in the main part; forgets it.
    pub(super) fn take(&mut self, hash: u64) -> Option<(u32, bool)> {
        let (set, tag) = self.set(hash);
        let places: &mut [Ghost; WAYS] = self.places.as_chunks_mut().0.get_mut(set)?;
        // Which place it is cannot be predicted, so all are looked at.
        let are: [_; WAYS] = places.each_ref().map(|ghost| ghost.tag & !WAS_MAIN == tag);
        let bits = (0..WAYS).fold(0_usize, |bits, way| bits | usize::from(are[way]) << way);
        let place = places.get_mut(bits.trailing_zeros() as usize)?;
        let Ghost { tag, born } = std::mem::take(place);
        Some((born, tag & WAS_MAIN != 0))
    }

    /// Where a key is noted.
    pub(super) fn of(&self, hash: u64) -> Option<&impl Sized> {
        self.places.as_chunks::<WAYS>().0.get(self.set(hash).0)
    }

    /// The number of the set, and the tag.
    fn set(&self, hash: u64) -> (usize, u32) {
        let mixed = hash.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let tag = u32::try_from(mixed & u64::from(u32::MAX)).unwrap_or(0) & !WAS_MAIN | IS_TAKEN;
        (scale(mixed, self.places.len() / WAYS), tag)
    }
}

/// The place of a set that is free, or whose time is the oldest; of several the last.
fn oldest(places: &mut [Ghost; WAYS], now: u32) -> &mut Ghost {
    let age = |ghost: &Ghost| if ghost.tag == 0 { u32::MAX } else { now.wrapping_sub(ghost.born) };
    let (mut at, mut most) = (0, 0);
    for (way, ghost) in places.iter().enumerate() {
        let age = age(ghost);
        let is_older = age >= most;
        // Which one it is cannot be predicted.
        at = select_unpredictable(is_older, way, at);
        most = select_unpredictable(is_older, age, most);
    }
    &mut places[at]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_remembered_once_and_the_oldest_of_a_set_makes_room() {
        let mut ghosts = Ghosts::default();
        assert_eq!(ghosts.take(7), None);
        for key in 1..=4u64 {
            ghosts.note(key, u32::try_from(key).unwrap(), key == 3, 5, 4);
        }
        assert_eq!(ghosts.take(3), Some((3, true)));
        assert_eq!(ghosts.take(3), None);
        ghosts.note(5, 5, false, 5, 4);
        ghosts.note(6, 6, false, 6, 4);
        assert_eq!((ghosts.take(1), ghosts.take(2)), (None, Some((2, false))));
    }

    #[test]
    fn of_as_many_as_there_are_entries_most_are_remembered_in_eight_bytes_each() {
        let mut ghosts = Ghosts::default();
        for key in 0..10_000u32 {
            ghosts.note(u64::from(key) << 32 | u64::from(key), key, false, key, 1000);
        }
        assert!(size_of::<Ghost>() == 8 && ghosts.places.len() <= 1000);
        let found = (9000..10_000u64).filter(|key| ghosts.take(key << 32 | key).is_some()).count();
        assert!(found > 700, "{found} of the last 1000");
    }
}
