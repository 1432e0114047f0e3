//! The orders that entries can be kept in.
//!
//! [`Lru`] is one of a shard each; the others are one over all shards, or of a shard each as well, which [`make`] gives by the name of
//! the strategy.

mod fifo;
mod ghost;
mod heap;
mod lfu;
mod list;
mod lru;
mod s3fifo;
mod segments;
mod sieve;
mod size;
mod sketch;
mod sorted;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod traces;
mod ttl;

use crate::hash::KeyHasher;
use crate::memory::ahead::place_of;
use crate::strategy::{Entries, EntryId, EvictionOrder, Leaving, NewEntry, Strategy, Victim};

pub(super) use lru::Lru;

/// Entries that an order can tell what it will look at for the next one that comes in, so that the processor has
/// fetched it by then.
pub(super) trait Near: Entries {
    /// It will look at this entry, which may have to leave.
    fn foresee(&mut self, id: EntryId) {
        _ = id;
    }

    /// Whether what is behind the next victims is worth telling, too.
    fn has_time(&self) -> bool {
        false
    }

    /// It will look up this entry's number, to foresee it the next time.
    fn foresee_behind(&mut self, id: EntryId) {
        _ = id;
    }

    /// It will look at this, which is its own.
    fn foresee_own<T>(&mut self, of: &T) {
        _ = of;
    }
}

impl Near for dyn Entries + '_ {}

/// What [`EvictionOrder`] is, for entries that the compiler knows: without a call of a pointer for each question
/// and answer, which are some fifteen for an entry that takes the place of another.
pub(super) trait Order {
    fn set_limits(&mut self, max_entries: Option<u64>, max_bytes: Option<u64>) {
        _ = (max_entries, max_bytes);
    }

    fn insert<E: Near + ?Sized>(&mut self, id: EntryId, entries: &mut E);

    fn replace<E: Near + ?Sized>(&mut self, id: EntryId, entries: &mut E) {
        _ = (id, entries);
    }

    fn remove<E: Near + ?Sized>(&mut self, id: EntryId, leaving: Leaving, entries: &mut E);

    fn victim<E: Near + ?Sized>(
        &mut self,
        newcomer: Option<&NewEntry<'_>>,
        entries: &mut E,
    ) -> Option<Victim>;
}

/// An order of any kind.
#[derive(Debug)]
pub(super) enum AnyOrder {
    Lfu(Box<lfu::Lfu>),
    S3Fifo(Box<s3fifo::S3Fifo>),
    Sieve(Box<sieve::Sieve>),
    Other(Box<dyn EvictionOrder>),
}

/// A new order for a strategy; `None` for [`Lru`], which is the shards' own.
pub(super) fn make(strategy: &Strategy) -> Option<AnyOrder> {
    let other: Box<dyn EvictionOrder> = match strategy {
        Strategy::Lru => return None,
        Strategy::Lfu => {
            let lfu = lfu::Lfu::new(KeyHasher::default().hash(b"").0);
            return Some(AnyOrder::Lfu(Box::new(lfu)));
        }
        Strategy::S3Fifo => return Some(AnyOrder::S3Fifo(Box::default())),
        Strategy::Sieve => return Some(AnyOrder::Sieve(Box::default())),
        Strategy::Fifo => Box::new(fifo::Fifo::default()),
        Strategy::Ttl => Box::new(ttl::Ttl::default()),
        Strategy::Size => Box::new(size::Size::default()),
        Strategy::Custom(custom) => custom.make(),
    };
    Some(AnyOrder::Other(other))
}

/// Asks an order of any kind.
macro_rules! ask {
    ($any:expr, $what:ident($($of:expr),*)) => {
        match $any {
            AnyOrder::Lfu(order) => Order::$what(&mut **order, $($of),*),
            AnyOrder::S3Fifo(order) => Order::$what(&mut **order, $($of),*),
            AnyOrder::Sieve(order) => Order::$what(&mut **order, $($of),*),
            AnyOrder::Other(order) => order.$what($($of),*),
        }
    };
}

impl AnyOrder {
    /// Where it is, and stays, if it foresees anything.
    pub(super) fn place(&self) -> Option<(usize, usize)> {
        match self {
            Self::Lfu(order) => Some(place_of(&**order)),
            Self::S3Fifo(order) => Some(place_of(&**order)),
            Self::Sieve(order) => Some(place_of(&**order)),
            Self::Other(_) => None,
        }
    }

    pub(super) fn set_limits(&mut self, max_entries: Option<u64>, max_bytes: Option<u64>) {
        ask!(self, set_limits(max_entries, max_bytes));
    }

    #[inline]
    pub(super) fn insert<E: Near>(&mut self, id: EntryId, entries: &mut E) {
        ask!(self, insert(id, entries));
    }

    pub(super) fn replace<E: Near>(&mut self, id: EntryId, entries: &mut E) {
        ask!(self, replace(id, entries));
    }

    #[inline]
    pub(super) fn remove<E: Near>(&mut self, id: EntryId, leaving: Leaving, entries: &mut E) {
        ask!(self, remove(id, leaving, entries));
    }

    #[inline]
    pub(super) fn victim<E: Near>(
        &mut self,
        newcomer: Option<&NewEntry<'_>>,
        entries: &mut E,
    ) -> Option<Victim> {
        ask!(self, victim(newcomer, entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Timestamp;

    #[test]
    fn every_strategy_has_its_order() {
        let own = [
            Strategy::Lfu,
            Strategy::S3Fifo,
            Strategy::Sieve,
            Strategy::Fifo,
            Strategy::Ttl,
            Strategy::Size,
        ];
        for strategy in own {
            let order = format!("{:?}", make(&strategy));
            assert!(order.contains(&format!("({strategy:?} {{")), "{strategy:?}: {order}");
        }
        assert!(make(&Strategy::custom(sieve::Sieve::default)).is_some());
        assert!(make(&Strategy::Lru).is_none());
    }

    /// Entries that nobody hits, and what was foreseen of them.
    #[derive(Default)]
    struct Watched(Vec<EntryId>);

    impl Near for Watched {
        fn foresee(&mut self, id: EntryId) {
            self.0.push(id);
        }
    }

    impl Entries for Watched {
        fn hits(&self, _: EntryId) -> u32 {
            0
        }

        fn take_hits(&mut self, _: EntryId) -> u32 {
            0
        }

        fn stamp(&self, id: EntryId) -> Timestamp {
            Timestamp::from_nanos(id.0.into())
        }

        fn deadline(&self, _: EntryId) -> Option<Timestamp> {
            None
        }

        fn charge(&self, _: EntryId) -> u64 {
            1
        }

        fn key(&self, _: EntryId) -> &[u8] {
            b"key"
        }

        fn hash(&self, id: EntryId) -> u64 {
            u64::from(id.0) << 32
        }

        fn hits_so_far(&self) -> u64 {
            0
        }
    }

    #[test]
    fn most_who_leave_were_foreseen_when_the_last_entry_came_in() {
        for strategy in [Strategy::Lfu, Strategy::S3Fifo, Strategy::Sieve] {
            let (mut order, mut entries) = (make(&strategy).unwrap(), Watched::default());
            assert!(order.place().is_some(), "{strategy:?}");
            order.set_limits(Some(100), None);
            for number in 0..100 {
                order.insert(EntryId(number), &mut entries);
            }
            let mut foreseen = 0;
            for _ in 0..1_000 {
                let Some(Victim::Entry(id)) = order.victim(None, &mut entries) else { panic!() };
                foreseen += u32::from(entries.0.contains(&id));
                order.remove(id, Leaving::Evicted, &mut entries);
                entries.0.clear();
                order.insert(id, &mut entries);
            }
            // At first, and now and then, `Lfu` moves others before.
            assert!(foreseen > 900, "{strategy:?}: {foreseen} of 1,000");
        }
        assert!(make(&Strategy::Fifo).unwrap().place().is_none());
    }
}
