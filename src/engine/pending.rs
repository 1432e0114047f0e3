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
//!   or in `touches`, once the urgent ones of these have been applied. What a commit under way hands down
//!   counts as what the disk has for whoever asks if recency went back, and as the key's recency for
//!   whoever sees the snapshot before.
//!
//! P2 is what makes promotion safe: a reader notes that count before it reads the disk, and what it
//! read is still the newest if, when it comes back, the count is unchanged and the key is neither in
//! memory nor in `ops`.

use hashbrown::HashTable;
use smallvec::SmallVec;

use crate::hash::KeyHash;
use crate::memory::Removed;
use crate::record::{Record, fetch_line_ahead};
use crate::stats::ShardCounts;
use crate::store::Touch;

/// The side of one shard; guarded by the shard's lock.
#[derive(Debug, Default)]
pub(crate) struct Side {
    /// Newest uncommitted operation by key (P1).
    ops: HashTable<Pending>,
    /// Recency that differs from what the snapshot has that readers use, of entries that memory does not
    /// hold; and of those that it holds, if their recency went back, or a commit hands it down.
    touches: HashTable<Touched>,
    /// Whether one of them may be urgent.
    is_urgent: bool,
    /// The newest recency that commits have handed down.
    newest_down: u64,
    /// While a commit is under way that hands down the recency of all that memory holds: the newest stamp
    /// when it began.
    flushing: Option<u64>,
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
    /// The newest operation that tells the listener only when it is committed what the disk had of the key,
    /// or 0.
    tells: u64,
}

impl Pending {
    /// Whether the listener has heard of what the disk has of the key once the operations up to `number` are
    /// committed.
    pub(crate) fn has_told(&self, number: u64) -> bool {
        self.tells <= number
    }
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
    /// What a commit under way hands down.
    down: Option<u64>,
    key: SmallVec<[u8; 32]>,
    /// It went back below what the disk has: to be applied with the next commit (P4).
    urgent: bool,
}

impl Touched {
    /// 1 if it waits for a commit, so counts as a touch, else 0.
    fn waits(&self) -> isize {
        isize::from(self.down != Some(self.stamp))
    }

    /// Returns how much more it counts.
    fn set_down(&mut self, down: Option<u64>) -> isize {
        let waited = self.waits();
        self.down = down;
        self.waits() - waited
    }

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
    ///
    /// `is_told`: whether the listener has heard of what the disk has of the key, or nobody listens.
    #[must_use]
    pub(crate) fn note(
        &mut self,
        hash: KeyHash,
        seq: u64,
        what: What,
        is_told: bool,
    ) -> Option<What> {
        let key = what.record().key();
        let same = |p: &Pending| p.hash == hash.0 && p.what.record().key() == key;
        if let Some(pending) = self.ops.find_mut(hash.0, same) {
            if pending.seq > seq {
                return Some(what);
            }
            pending.seq = seq;
            if !is_told {
                pending.tells = seq;
            }
            return Some(std::mem::replace(&mut pending.what, what));
        }
        let tells = if is_told { 0 } else { seq };
        self.ops.insert_unique(hash.0, Pending { hash: hash.0, seq, what, tells }, |p| p.hash);
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
        let waited = self.touches.iter().map(Touched::waits).sum::<isize>();
        self.touches.clear();
        -waited
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

    /// Has the processor fetch what [`Self::touched`] and [`Self::take_over_touch`] look at.
    #[inline]
    pub(crate) fn fetch_touch_ahead(&self, hash: KeyHash) {
        let fetch = |touched: &Touched| {
            fetch_line_ahead(touched);
            false
        };
        let _ = self.touches.find(hash.0, fetch);
    }

    /// Memory lets go of an entry: its recency goes here if the disk does not have it, or readers do not see
    /// that yet. Returns how many touches there are more.
    #[inline]
    pub(crate) fn let_go(
        &mut self,
        removed: &Removed,
        hash: impl FnOnce(&[u8]) -> KeyHash,
    ) -> isize {
        let (key, stamp) = (removed.key(), removed.recency());
        match removed.handed() {
            Some(handed) if handed != stamp => self.touch(hash(key), key, stamp, handed),
            Some(_) if self.flushing.is_some_and(|newest| stamp <= newest) => {
                // What is noted is at least as new: it went back, or was asked for, since.
                let hash = hash(key);
                if self.touched(hash, key).is_none() { self.hand_down(hash, key, stamp) } else { 0 }
            }
            Some(_) | None => 0,
        }
    }

    /// What the disk has at most of a key of which a reader saw that it had `seen`, for whoever accesses it at
    /// `stamp`: a commit that came out since may have handed a newer one down.
    pub(crate) fn below_at_most(&self, seen: u64, stamp: u64) -> u64 {
        if stamp < self.newest_down { seen.max(self.newest_down) } else { seen }
    }

    fn touch_of(&mut self, hash: KeyHash, key: &[u8]) -> Option<&mut Touched> {
        self.touches.find_mut(hash.0, |t| t.is_of(hash, key))
    }

    /// Sets the recency of a key of which the disk has `below`. Returns how many touches there are
    /// more.
    pub(crate) fn touch(&mut self, hash: KeyHash, key: &[u8], stamp: u64, below: u64) -> isize {
        if let Some(touched) = self.touch_of(hash, key) {
            let waited = touched.waits();
            touched.stamp = stamp;
            touched.urgent |= stamp < touched.down.unwrap_or(below);
            let (more, urgent) = (touched.waits() - waited, touched.urgent);
            self.is_urgent |= urgent;
            return more;
        }
        self.add_touch(hash, key, stamp, None, stamp < below)
    }

    /// Notes that a commit under way makes this what the disk has of a key. Returns how many touches there
    /// are more.
    pub(crate) fn hand_down(&mut self, hash: KeyHash, key: &[u8], stamp: u64) -> isize {
        let Some(touched) = self.touch_of(hash, key) else {
            return self.add_touch(hash, key, stamp, Some(stamp), false);
        };
        let waited = touched.waits();
        (touched.stamp, touched.down, touched.urgent) = (stamp, Some(stamp), false);
        -waited
    }

    fn add_touch(
        &mut self,
        hash: KeyHash,
        key: &[u8],
        stamp: u64,
        down: Option<u64>,
        urgent: bool,
    ) -> isize {
        let touched = Touched { hash: hash.0, stamp, down, key: SmallVec::from_slice(key), urgent };
        let waits = touched.waits();
        self.is_urgent |= urgent;
        self.touches.insert_unique(hash.0, touched, |t| t.hash);
        waits
    }

    /// Memory has the recency of a key from now on. Returns the change in the number of touches, and what a
    /// commit under way makes the disk have.
    pub(crate) fn take_over_touch(&mut self, hash: KeyHash, key: &[u8]) -> (isize, Option<u64>) {
        let Some(touched) = self.touch_of(hash, key) else { return (0, None) };
        let Some(down) = touched.down else { return (self.forget_touch(hash, key), None) };
        let waited = touched.waits();
        (touched.stamp, touched.urgent) = (down, false);
        (-waited, Some(down))
    }

    /// Takes a touch away, since the entry is gone or a newer record has the recency. Returns the change in
    /// the number of touches.
    pub(crate) fn forget_touch(&mut self, hash: KeyHash, key: &[u8]) -> isize {
        match self.touches.find_entry(hash.0, |t| t.is_of(hash, key)) {
            Ok(entry) => -entry.remove().0.waits(),
            Err(_) => 0,
        }
    }

    /// Touches for a commit of the operations up to `number`: all urgent ones, and others as far as `room`
    /// goes. Those of keys with a newer operation are not for it. They stay until it is out: whoever reads
    /// below meanwhile has the snapshot before. Returns the change in the number of touches.
    pub(crate) fn touches_for(&mut self, number: u64, room: usize, into: &mut Vec<Touch>) -> isize {
        let ops = &self.ops;
        let due = |t: &Touched| {
            let same = |p: &Pending| p.hash == t.hash && p.what.record().key() == t.key.as_slice();
            ops.find(t.hash, same).is_none_or(|p| p.seq <= number)
        };
        let (mut left, mut change) = (room, 0);
        let mut is_urgent = false;
        for t in &mut self.touches {
            // All of them would be looked at under the lock, for few that are taken.
            if left == 0 && !self.is_urgent {
                break;
            }
            if (t.urgent || left > 0) && t.waits() > 0 && due(t) {
                left = left.saturating_sub(1);
                change += t.set_down(Some(t.stamp));
                t.urgent = false;
                into.push(Touch { record: Record::of_key(&t.key), stamp: t.stamp });
            }
            is_urgent |= t.urgent;
        }
        self.is_urgent = is_urgent;
        change
    }

    /// A commit hands down the recency of all that memory holds here; no stamp is newer than that.
    pub(crate) fn begin_flush(&mut self, newest: u64) {
        self.flushing = Some(newest);
    }

    /// That commit is out, and so is all that was handed down.
    pub(crate) fn end_flush(&mut self) {
        if self.flushing.take().is_some() {
            self.touches.retain(|t| {
                let waits = t.waits() > 0;
                t.down = None;
                waits
            });
            // There may have been as many as memory had entries.
            self.touches.shrink_to(2 * self.touches.len(), |t| t.hash);
        }
    }

    /// A commit that handed this down is out. Returns the change in the number of touches.
    pub(crate) fn touch_settled(&mut self, hash: KeyHash, key: &[u8], stamp: u64) -> isize {
        self.newest_down = self.newest_down.max(stamp);
        match self.touch_of(hash, key) {
            Some(touched) if touched.stamp == stamp => self.forget_touch(hash, key),
            Some(touched) => touched.set_down(None),
            None => 0,
        }
    }

    /// It came to nothing. Returns the change in the number of touches.
    pub(crate) fn touch_stays(&mut self, hash: KeyHash, key: &[u8], stamp: u64) -> isize {
        match self.touch_of(hash, key) {
            Some(touched) if touched.down == Some(stamp) => touched.set_down(None),
            Some(_) | None => 0,
        }
    }
}
