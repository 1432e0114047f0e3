//! Strategies: which entry leaves a tier when there is no room, and how to write one for memory.
//!
//! [`Strategy`] names those that are built in, [`DiskStrategy`] those of the disk tier. [`EvictionOrder`] is
//! what each of the first is, and what a strategy of your own implements; it sees the entries through
//! [`Entries`].

use std::fmt;
use std::sync::Arc;

use crate::time::Timestamp;

/// Which entry leaves memory when there is no room for a new one.
///
/// The order is one over the whole tier, whatever the number of shards. `Lfu`, `S3Fifo` and `Sieve` only guess at what
/// will be asked for: in a cache that is opened with a limit in entries of 512 a shard or more, and none in bytes, each
/// shard has an order of its own with them, whatever its limits become later. That is about as good a guess, within 0.4
/// points of hits on recorded traces, and lets threads insert side by side. Limits are those of the tier all the same.
///
/// # Examples
///
/// ```
/// use larder::{ByteCache, Strategy};
///
/// let cache = ByteCache::builder().memory_max_entries(2).strategy(Strategy::Sieve).open()?;
/// cache.insert(b"a", b"1")?;
/// cache.insert(b"b", b"2")?;
/// cache.get(b"a")?;
/// cache.insert(b"c", b"3")?;                       // `a` came first, and is spared: it was hit
/// assert!(cache.get(b"a")?.is_some() && cache.get(b"b")?.is_none());
/// # Ok::<(), larder::Error>(())
/// ```
#[derive(Clone, Default)]
#[non_exhaustive]
pub enum Strategy {
    /// The least recently used, exactly: by time of last access, then by key.
    #[default]
    Lru,
    /// W-TinyLFU (Einziger, Friedman, Manes, 2017) with an adaptive window (Einziger, Eytan, Friedman,
    /// Manes, 2018): what is seldom asked for does not push out what is often asked for.
    Lfu,
    /// S3-FIFO (Yang, Zhang, Qiu, Yue, Rashmi, 2023): three queues, the first of them short, so that
    /// what is asked for once leaves soon.
    S3Fifo,
    /// SIEVE (Zhang, Yang, Yue, Vigfusson, Rashmi, 2024): one queue, and a hand that spares what was hit.
    Sieve,
    /// First in, first out: by the time when the value came into memory, which a disk hit brings it into anew, then
    /// by key. A `touch` stores it anew.
    Fifo,
    /// Soonest deadline first; what has the same one, or none, by time of last access. An access with an older
    /// time than the one before is taken for that one until the entry's turn comes.
    Ttl,
    /// GreedyDual-Size-Frequency (Cherkasova, 1998): large and seldom used ones first.
    Size,
    /// A strategy of the user's; see [`Strategy::custom`].
    Custom(CustomStrategy),
}

impl Strategy {
    /// Whether it is a guess at what will be asked for, which several orders of many entries each make as well as one
    /// over all.
    pub(crate) fn is_a_guess(&self) -> bool {
        matches!(self, Self::Lfu | Self::S3Fifo | Self::Sieve)
    }

    /// All that are built in.
    pub const BUILT_IN: [Self; 7] =
        [Self::Lru, Self::Lfu, Self::S3Fifo, Self::Sieve, Self::Fifo, Self::Ttl, Self::Size];

    /// A strategy of your own: `make` gives a new order for each cache that is opened.
    ///
    /// # Examples
    ///
    /// See [`EvictionOrder`].
    pub fn custom<O: EvictionOrder>(make: impl Fn() -> O + Send + Sync + 'static) -> Self {
        Self::Custom(CustomStrategy(Arc::new(move || Box::new(make()))))
    }

    /// Its name, as in the documentation.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Lru => "Lru",
            Self::Lfu => "Lfu",
            Self::S3Fifo => "S3Fifo",
            Self::Sieve => "Sieve",
            Self::Fifo => "Fifo",
            Self::Ttl => "Ttl",
            Self::Size => "Size",
            Self::Custom(_) => "Custom",
        }
    }
}

impl fmt::Debug for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What [`Strategy::custom`] makes.
#[derive(Clone)]
pub struct CustomStrategy(Arc<dyn Fn() -> Box<dyn EvictionOrder> + Send + Sync>);

impl CustomStrategy {
    pub(crate) fn make(&self) -> Box<dyn EvictionOrder> {
        (self.0)()
    }
}

impl fmt::Debug for CustomStrategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CustomStrategy")
    }
}

/// The number of an entry while it is in memory. Numbers are small, and are given again when their entry
/// has left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId(pub(crate) u32);

impl EntryId {
    /// The entry with this number; to try an order out without a cache.
    pub fn new(index: u32) -> Self {
        Self(index)
    }

    /// The number, to index a table with that has one place for each entry.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// The most hits of an entry that are counted until they are asked for.
pub const HITS_MAX: u32 = 7;

/// The entries that are in memory, as an [`EvictionOrder`] sees them.
///
/// What is asked about an entry that is not there is 0, `None` or empty.
pub trait Entries {
    /// How often it was hit, or its value replaced, since it came in or [`Self::take_hits`] was asked: at
    /// most [`HITS_MAX`].
    fn hits(&self, id: EntryId) -> u32;

    /// Likewise, and counts anew from here. What another thread does to the entry in that very moment may be
    /// counted twice.
    fn take_hits(&mut self, id: EntryId) -> u32;

    /// When it was last accessed.
    fn stamp(&self, id: EntryId) -> Timestamp;

    /// When it leaves memory by its deadline.
    fn deadline(&self, id: EntryId) -> Option<Timestamp>;

    /// Its weight, or the bytes of key and value.
    fn charge(&self, id: EntryId) -> u64;

    /// Its key.
    fn key(&self, id: EntryId) -> &[u8];

    /// The hash of its key, seeded at random for each cache.
    fn hash(&self, id: EntryId) -> u64;

    /// How often entries were hit in memory since the cache was opened: it never becomes less, also when
    /// the statistics are reset. Adds up what threads and shards counted, so ask seldom.
    fn hits_so_far(&self) -> u64;

    /// What other threads were given a place for and will tell of by [`EvictionOrder::insert`] in a moment:
    /// how many entries, and the sum of their charges.
    fn coming(&self) -> (u64, u64) {
        (0, 0)
    }
}

/// An entry that is about to come in.
#[derive(Debug, Clone, Copy)]
pub struct NewEntry<'a> {
    pub(crate) key: &'a [u8],
    pub(crate) hash: u64,
    pub(crate) charge: u64,
    pub(crate) stamp: Timestamp,
    pub(crate) deadline: Option<Timestamp>,
}

impl<'a> NewEntry<'a> {
    /// Its key.
    pub fn key(&self) -> &'a [u8] {
        self.key
    }

    /// The hash of its key, as [`Entries::hash`] gives it later.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// Its weight, or the bytes of key and value.
    pub fn charge(&self) -> u64 {
        self.charge
    }

    /// When it is accessed by coming in.
    pub fn stamp(&self) -> Timestamp {
        self.stamp
    }

    /// When it leaves memory by its deadline.
    pub fn deadline(&self) -> Option<Timestamp> {
        self.deadline
    }
}

/// Why an entry left an [`EvictionOrder`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Leaving {
    /// It was the victim.
    Evicted,
    /// It was removed, or is over, or the memory tier cannot hold its new value.
    Removed,
}

/// Who leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Victim {
    /// This entry.
    Entry(EntryId),
    /// The one that is about to come in: it goes no further than the disk, if there is one.
    Newcomer,
}

/// An order of eviction.
///
/// It is told of every entry that comes in and leaves, of hits only when it asks: a hit counts in the
/// entry and touches nothing else, so that hits need no lock of the order's. It is called by one thread at a
/// time, under a lock, and must not call the cache.
///
/// Should it name no victim, or one that is not there, while there is no room, the limits hold all the same:
/// an entry of no particular order leaves. When it panics, that is told in a `WARN` event of `tracing`, and
/// entries leave in no particular order from then on.
///
/// # Examples
///
/// Last in, first out:
///
/// ```
/// use larder::{ByteCache, Entries, EntryId, EvictionOrder, Leaving, NewEntry, Strategy, Victim};
///
/// #[derive(Debug, Default)]
/// struct Stack(Vec<EntryId>);
///
/// impl EvictionOrder for Stack {
///     fn insert(&mut self, id: EntryId, _: &mut dyn Entries) {
///         self.0.push(id);
///     }
///
///     fn remove(&mut self, id: EntryId, _: Leaving, _: &mut dyn Entries) {
///         self.0.retain(|other| *other != id);
///     }
///
///     fn victim(&mut self, _: Option<&NewEntry<'_>>, _: &mut dyn Entries) -> Option<Victim> {
///         self.0.last().copied().map(Victim::Entry)
///     }
/// }
///
/// let strategy = Strategy::custom(Stack::default);
/// let cache = ByteCache::builder().memory_max_entries(2).strategy(strategy).open()?;
/// for key in [b"a", b"b", b"c"] {
///     cache.insert(key, b"value")?;
/// }
/// assert!(cache.get(b"a")?.is_some() && cache.get(b"b")?.is_none());
/// # Ok::<(), larder::Error>(())
/// ```
pub trait EvictionOrder: Send + fmt::Debug + 'static {
    /// The limits of the memory tier, in entries and in bytes: told first of all, and when they change.
    fn set_limits(&mut self, max_entries: Option<u64>, max_bytes: Option<u64>) {
        let _ = (max_entries, max_bytes);
    }

    /// An entry has come in.
    fn insert(&mut self, id: EntryId, entries: &mut dyn Entries);

    /// An entry has another value now, perhaps with another charge and deadline. It also counts as a hit.
    fn replace(&mut self, id: EntryId, entries: &mut dyn Entries) {
        let _ = (id, entries);
    }

    /// An entry leaves; it is still there to be asked about.
    fn remove(&mut self, id: EntryId, leaving: Leaving, entries: &mut dyn Entries);

    /// Who leaves next, to make room for the newcomer if there is one; `None` if nothing is in.
    ///
    /// There is none where limits become smaller, and after a batch, whose entries are all in by then: so an order
    /// that refuses some entries does not refuse those of a batch. [`Victim::Newcomer`] is no answer then. A newcomer
    /// that leaves was never in: [`Self::insert`] and [`Self::remove`] are not called for it.
    ///
    /// Asked again until there is room, also without anything having happened in between; then the
    /// answer is to be the same.
    fn victim(
        &mut self,
        newcomer: Option<&NewEntry<'_>>,
        entries: &mut dyn Entries,
    ) -> Option<Victim>;
}

/// Which entry leaves the disk tier when there is no room for a new one. What leaves disk leaves memory,
/// too.
///
/// A file can be opened with another strategy than before: the new order is made from what the entries
/// say of themselves, in one transaction while the file is opened. Nothing is lost but what only the
/// old one knew.
///
/// # Examples
///
/// ```
/// use larder::{ByteCache, DiskStrategy};
///
/// let folder = tempfile::tempdir()?;
/// let cache = ByteCache::builder()
///     .path(folder.path().join("cache.larder"))
///     .disk_max_entries(2)
///     .disk_strategy(DiskStrategy::Fifo)
///     .open()?;
/// cache.insert(b"first", b"value")?;
/// cache.insert(b"second", b"value")?;
/// assert!(cache.get(b"first")?.is_some());
/// cache.insert(b"third", b"value")?;
/// cache.flush()?;
/// assert!(cache.get(b"first")?.is_none(), "that it was read does not count");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum DiskStrategy {
    /// The least recently used, exactly: by time of last access, then by key.
    #[default]
    Lru,
    /// First in, first out: by the time when the value was stored, then by key.
    Fifo,
    /// Soonest deadline first; what has the same one, or none, by time of last access, then by key. What
    /// has none goes last. Time-to-idle is no deadline.
    Ttl,
    /// GreedyDual-Size-Frequency (Cherkasova, 1998): large and seldom used ones first. An entry counts as
    /// used when it is written, and once when its turn to leave comes if it was read since its
    /// place in the order was found: so a hit costs the disk tier nothing.
    Size,
}

impl DiskStrategy {
    /// Its name, as in the documentation and in the file.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Lru => "Lru",
            Self::Fifo => "Fifo",
            Self::Ttl => "Ttl",
            Self::Size => "Size",
        }
    }
}
