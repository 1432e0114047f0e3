//! What one shard knows of the disk tier besides its memory: operations that are not committed yet,
//! and recency that memory has let go of.
//!
//! # Invariants
//!
//! - **P1** a key that has an operation that was acknowledged and not yet committed has the newest
//!   such operation in `ops`; a look-up that misses memory looks there before it looks on disk.
//! - **P2** an operation leaves `ops` only after the snapshot that readers use contains it; each time
//!   one does, its key's count in `settled` changes.
//! - **P3** `ops` never goes back: an operation is replaced only by one with a larger number.
//! - **P4** the order row that the disk has for a key is not newer than the key's recency in memory
//!   or in `touches`, once the urgent ones of these have been applied.
//!
//! P2 is what makes promotion safe: a reader notes that count before it reads the disk, and what it
//! read is still the newest if, when it comes back, the count is unchanged and the key is neither in
//! memory nor in `ops`.

use hashbrown::HashTable;
use smallvec::SmallVec;

use crate::hash::KeyHash;
use crate::memory::Removed;
use crate::record::Record;
use crate::stats::ShardCounts;
use crate::store::Touch;

/// The side of one shard; guarded by the shard's lock.
#[derive(Debug, Default)]
pub(crate) struct Side {
    /// Newest uncommitted operation by key (P1).
    ops: HashTable<Pending>,
    /// Recency that differs from what the disk has, of entries that memory does not hold; and of
    /// those that it holds, if their recency went back, or a commit takes it along.
    touches: HashTable<Touched>,
    /// The number of a clear that is not committed yet: until then nothing on disk counts.
    pub(crate) cleared: Option<u64>,
    settled: Settled,
    pub(crate) counts: ShardCounts,
}

/// How often operations have left `ops` (P2), by a few bits of their keys' hashes: so a reader need not
/// look again whenever some other key of the shard was settled meanwhile.
#[derive(Debug, Default)]
struct Settled([u32; 32]);

impl Settled {
    fn token(&self, hash: KeyHash) -> u64 {
        u64::from(self.0[Self::index(hash)])
    }

    fn change(&mut self, hash: KeyHash) {
        let count = &mut self.0[Self::index(hash)];
        *count = count.wrapping_add(1);
    }

    fn change_all(&mut self) {
        for count in &mut self.0 {
            *count = count.wrapping_add(1);
        }
    }

    /// Bits that choose neither the shard nor, in a small table, the bucket.
    fn index(hash: KeyHash) -> usize {
        usize::try_from(hash.0 >> 20).unwrap_or_default() % 32
    }
}

/// An operation that is not committed yet.
#[derive(Debug, Clone)]
pub(crate) struct Pending {
    hash: u64,
    pub(crate) seq: u64,
    pub(crate) what: What,
}

/// What an operation makes of its key.
#[derive(Debug, Clone)]
pub(crate) enum What {
    Put(Record),
    /// Holds the key only.
    Gone(Record),
}

impl What {
    pub(crate) fn record(&self) -> &Record {
        match self {
            Self::Put(record) | Self::Gone(record) => record,
        }
    }
}

/// Recency that is noted, with the key in place where it is short: it comes and goes with each entry that is
/// read from disk.
#[derive(Debug)]
struct Touched {
    hash: u64,
    stamp: u64,
    key: SmallVec<[u8; 32]>,
    /// It went back below what the disk has: to be applied with the next commit (P4).
    urgent: bool,
}

impl Touched {
    fn is_of(&self, hash: KeyHash, key: &[u8]) -> bool {
        self.hash == hash.0 && self.key.as_slice() == key
    }
}

/// What the side says of a key that memory does not have.
#[derive(Debug, Clone)]
pub(crate) enum Below {
    /// This is its newest value.
    Value(Record),
    /// It is not there.
    Gone,
    /// The disk knows; the token is to be compared with a new one afterwards.
    Unknown { token: u64 },
}

impl Side {
    pub(crate) fn pending(&self, hash: KeyHash, key: &[u8]) -> Option<&Pending> {
        self.ops.find(hash.0, |p| p.hash == hash.0 && p.what.record().key() == key)
    }

    /// Looks below memory as far as that goes without the disk (P1).
    pub(crate) fn below(&self, hash: KeyHash, key: &[u8]) -> Below {
        match self.pending(hash, key) {
            Some(Pending { what: What::Put(record), .. }) => Below::Value(record.clone()),
            Some(Pending { what: What::Gone(_), .. }) => Below::Gone,
            None if self.cleared.is_some() => Below::Gone,
            None => Below::Unknown { token: self.settled.token(hash) },
        }
    }

    /// Whether an operation newer than `seq` has the key.
    pub(crate) fn is_superseded(&self, hash: KeyHash, key: &[u8], seq: u64) -> bool {
        self.pending(hash, key).is_some_and(|p| p.seq > seq)
    }

    /// Notes an operation (P1, P3). Returns the record it takes the place of, to drop unlocked.
    #[must_use]
    pub(crate) fn note(&mut self, hash: KeyHash, seq: u64, what: What) -> Option<What> {
        let key = what.record().key();
        let same = |p: &Pending| p.hash == hash.0 && p.what.record().key() == key;
        if let Some(pending) = self.ops.find_mut(hash.0, same) {
            if pending.seq > seq {
                return Some(what);
            }
            pending.seq = seq;
            return Some(std::mem::replace(&mut pending.what, what));
        }
        self.ops.insert_unique(hash.0, Pending { hash: hash.0, seq, what }, |p| p.hash);
        None
    }

    /// Takes an operation away that is committed and visible on disk (P2).
    #[must_use]
    pub(crate) fn settle(&mut self, hash: KeyHash, key: &[u8], up_to: u64) -> Option<Pending> {
        let same = |p: &Pending| p.hash == hash.0 && p.seq <= up_to && p.what.record().key() == key;
        let entry = self.ops.find_entry(hash.0, same).ok()?;
        self.settled.change(hash);
        Some(entry.remove().0)
    }

    /// Forgets everything up to and with a clear of this number, and hides the disk until it is
    /// committed. Returns what to drop unlocked, and the change in the number of touches.
    #[must_use]
    pub(crate) fn clear(&mut self, seq: u64) -> (Vec<Pending>, isize) {
        self.cleared = Some(seq);
        let gone = self.ops.extract_if(|p| p.seq < seq).collect();
        (gone, self.lost())
    }

    /// The disk has lost everything, except for what is still to be committed. Returns the change in the
    /// number of touches.
    pub(crate) fn lost(&mut self) -> isize {
        self.settled.change_all();
        let touches = self.touches.len();
        self.touches.clear();
        -isize::try_from(touches).unwrap_or(isize::MAX)
    }

    /// The clear is committed.
    pub(crate) fn clear_settled(&mut self, up_to: u64) {
        if self.cleared.is_some_and(|seq| seq <= up_to) {
            self.cleared = None;
            self.settled.change_all();
        }
    }

    /// All uncommitted operations.
    pub(crate) fn pending_ops(&self) -> impl Iterator<Item = &Pending> {
        self.ops.iter()
    }

    /// The recency of a key that memory does not hold, if it is not what the disk has.
    pub(crate) fn touched(&self, hash: KeyHash, key: &[u8]) -> Option<u64> {
        self.touches.find(hash.0, |t| t.is_of(hash, key)).map(|t| t.stamp)
    }

    /// Memory lets go of an entry: its recency goes here if the disk does not have it. Returns how
    /// many touches there are more.
    #[inline]
    pub(crate) fn let_go(
        &mut self,
        removed: &Removed,
        hash: impl FnOnce(&[u8]) -> KeyHash,
    ) -> isize {
        let stamp = removed.recency();
        match removed.handed().filter(|handed| *handed != stamp) {
            Some(handed) => {
                let key = removed.key();
                self.touch(hash(key), key, stamp, handed)
            }
            None => 0,
        }
    }

    /// Sets the recency of a key of which the disk has `below`. Returns how many touches there are
    /// more.
    pub(crate) fn touch(&mut self, hash: KeyHash, key: &[u8], stamp: u64, below: u64) -> isize {
        let urgent = stamp < below;
        if let Some(touched) = self.touches.find_mut(hash.0, |t| t.is_of(hash, key)) {
            touched.stamp = stamp;
            touched.urgent |= urgent;
            return 0;
        }
        let touched = Touched { hash: hash.0, stamp, key: SmallVec::from_slice(key), urgent };
        self.touches.insert_unique(hash.0, touched, |t| t.hash);
        1
    }

    /// Takes a touch away, since memory or a newer record owns the recency. Returns the change in
    /// the number of touches.
    pub(crate) fn forget_touch(&mut self, hash: KeyHash, key: &[u8]) -> isize {
        self.forget_touch_if(hash, key, |_| true)
    }

    fn forget_touch_if(
        &mut self,
        hash: KeyHash,
        key: &[u8],
        is_meant: impl Fn(u64) -> bool,
    ) -> isize {
        match self.touches.find_entry(hash.0, |t| t.is_of(hash, key) && is_meant(t.stamp)) {
            Ok(entry) => {
                drop(entry.remove());
                -1
            }
            Err(_) => 0,
        }
    }

    /// Touches for a commit of the operations up to `number`: all urgent ones, and others as far as `room`
    /// goes. Those of keys with a newer operation are not for it. They stay until it is out: whoever reads
    /// below meanwhile has the snapshot before.
    pub(crate) fn touches_for(&self, number: u64, room: usize, into: &mut Vec<Touch>) {
        let due = |t: &Touched| {
            let same = |p: &Pending| p.hash == t.hash && p.what.record().key() == t.key.as_slice();
            self.ops.find(t.hash, same).is_none_or(|p| p.seq <= number)
        };
        let mut left = room;
        for t in &self.touches {
            if (t.urgent || left > 0) && due(t) {
                left = left.saturating_sub(1);
                into.push(Touch { record: Record::of_key(&t.key), stamp: t.stamp });
            }
        }
    }

    /// Takes a touch away that the disk has now, if there is none that is newer. Returns the change in the number
    /// of touches.
    pub(crate) fn touch_settled(&mut self, hash: KeyHash, key: &[u8], stamp: u64) -> isize {
        self.forget_touch_if(hash, key, |noted| noted == stamp)
    }
}
