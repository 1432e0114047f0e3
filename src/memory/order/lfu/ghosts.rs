//! What was lately turned away: bits of a key's hash, and when it had come in.
//!
//! A table of sets of four places. What is noted takes a free place of its set, or that of the one who
//! came in first. So eight bytes an entry remember most of as many keys as there are entries. Thirty-two
//! bits tell a key; that one is taken for another now and then is nothing to a statistic.

use super::super::sketch::scale;

/// Places in a set.
const WAYS: usize = 4;

/// Keys that were turned away.
#[derive(Debug, Default)]
pub(super) struct Ghosts {
    /// None until the first is noted.
    places: Vec<Ghost>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Ghost {
    /// Bits of the hash; 0 if the place is free.
    tag: u32,
    /// The owner's clock when the key came in.
    born: u32,
}

impl Ghosts {
    /// Notes a key that came in at `born`; `now` is the owner's clock, `entries` how many are in.
    pub(super) fn note(&mut self, hash: u64, born: u32, now: u32, entries: u64) {
        let wanted = usize::try_from(entries).unwrap_or(0).max(WAYS);
        if self.places.len() * 2 <= wanted || self.places.len() / 2 > wanted {
            self.places = vec![Ghost::default(); wanted - wanted % WAYS];
        }
        let (set, tag) = self.set(hash);
        let age =
            |ghost: &Ghost| if ghost.tag == 0 { u32::MAX } else { now.wrapping_sub(ghost.born) };
        if let Some(place) = self.places[set..set + WAYS].iter_mut().max_by_key(|ghost| age(ghost))
        {
            *place = Ghost { tag, born };
        }
    }

    /// When this key had come in, if it was noted; forgets it.
    pub(super) fn take(&mut self, hash: u64) -> Option<u32> {
        if self.places.is_empty() {
            return None;
        }
        let (set, tag) = self.set(hash);
        let place = self.places[set..set + WAYS].iter_mut().find(|ghost| ghost.tag == tag)?;
        Some(std::mem::take(place).born)
    }

    /// Where the set begins, and the tag.
    fn set(&self, hash: u64) -> (usize, u32) {
        let mixed = hash.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let tag = u32::try_from(mixed & u64::from(u32::MAX)).unwrap_or(0) | 1;
        (scale(mixed, self.places.len() / WAYS) * WAYS, tag)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_remembered_once_and_the_oldest_of_a_set_makes_room() {
        let mut ghosts = Ghosts::default();
        assert_eq!(ghosts.take(7), None);
        for key in 1..=4u64 {
            ghosts.note(key, u32::try_from(key).unwrap(), 5, 4);
        }
        assert_eq!(ghosts.take(3), Some(3));
        assert_eq!(ghosts.take(3), None);
        ghosts.note(5, 5, 5, 4);
        ghosts.note(6, 6, 6, 4);
        assert_eq!((ghosts.take(1), ghosts.take(2), ghosts.take(5)), (None, Some(2), Some(5)));
    }

    #[test]
    fn of_as_many_as_there_are_entries_most_are_remembered_in_eight_bytes_each() {
        let mut ghosts = Ghosts::default();
        for key in 0..10_000u32 {
            ghosts.note(u64::from(key) << 32 | u64::from(key), key, key, 1000);
        }
        assert!(size_of::<Ghost>() == 8 && ghosts.places.len() <= 1000);
        let found = (9000..10_000u64).filter(|key| ghosts.take(key << 32 | key).is_some()).count();
        assert!(found > 700, "{found} of the last 1000");
    }
}
