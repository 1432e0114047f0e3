//! Time: the stamps that order entries, the wall time that deadlines are measured against.
//!
//! [`Timestamp`] is nanoseconds since the Unix epoch. A cache reads a [`Clock`]: the system's, or
//! one that is injected, such as [`ManualClock`].
//!
//! # How it works
//!
//! No hit reads a clock. [`Ticker`] keeps two words: `wall`, the time as last read, refreshed every
//! few milliseconds by the maintenance thread; and `last`, the largest stamp that was given out or set
//! aside, which that thread raises to the wall time. This is a hybrid logical clock (Kulkarni et al.,
//! 2014) with one shared counter.
//!
//! A thread sets some stamps aside, its *lease*, and uses them for as long as `last` is the end of its
//! lease, so for as long as nobody else has set any aside. One thread alone thus pays for a locked
//! instruction once in [`LEASE_STAMPS`] operations; of several, each takes its stamps one by one, and does not
//! look first: that would fetch the word's line from another processor twice.
//!
//! When nothing has happened for a while, `wall` is set to [`PARKED`] and the thread sleeps; the
//! next operation sees that, reads the clock itself and wakes the thread.
//!
//! # Invariants
//!
//! - **T1** no two stamps of one cache's clock are equal, and a stamp taken after another (in one
//!   thread, or by happens-before between threads) is larger.
//! - **T2** a stamp is at least the wall time as known when it was taken, less what a lease has.
//! - **T3** time moves by the monotonic clock: the system's wall clock is read once per process.
//!
//! # Why a lease keeps the order
//!
//! Let an operation with stamp `a` happen before one with stamp `b`, on two threads. If the lease of `b`
//! was taken after that of `a`, it begins above the end of the other. If it was taken before, then the
//! taking of `a`'s lease, which changed `last`, happens before the look at `last` that was to find the
//! end of `b`'s lease there; so that finds something newer, and `b` is from a new lease. (Coherence of
//! one word is enough, which any ordering gives.)
//!
//! # Why not a word of its own for each thread
//!
//! Each stamp larger than what all threads show: no locked instruction, but two lines of others' for each
//! operation of two busy threads instead of one: 22.6 million hits a second instead of 28.7.
//!
//! # Why not thread-local stamps
//!
//! The largest of the thread's, the shard's and the wall's last stamp costs no locked
//! instruction, but two threads that hand work to each other within one refresh would be ordered
//! wrongly when they use different shards.
#![expect(
    clippy::disallowed_methods,
    reason = "the one place that reads the system's clocks for everybody else"
)]

use std::cell::Cell;
use std::fmt;
use std::ops::Add;
use std::sync::{Arc, LazyLock, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::thread::{Thread, current as current_thread};
use crate::sync::{CachePadded, StaticMutex};

/// A moment: nanoseconds since the Unix epoch (until the year 2554).
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use larder::Timestamp;
///
/// let noon = Timestamp::from_secs(1_700_000_000);
/// assert_eq!((noon + Duration::from_millis(5)).as_nanos(), 1_700_000_000_005_000_000);
/// assert!(Timestamp::from_millis(1) < Timestamp::now());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The current time.
    ///
    /// # Examples
    ///
    /// ```
    /// use larder::Timestamp;
    /// assert!(Timestamp::now() > Timestamp::from_secs(1_700_000_000));
    /// ```
    pub fn now() -> Self {
        Self(system_nanos())
    }

    /// A timestamp from nanoseconds since the Unix epoch.
    ///
    /// # Examples
    ///
    /// ```
    /// use larder::Timestamp;
    /// assert_eq!(Timestamp::from_nanos(7).as_nanos(), 7);
    /// ```
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// A timestamp from milliseconds since the Unix epoch. Saturates at the latest timestamp.
    ///
    /// # Examples
    ///
    /// ```
    /// use larder::Timestamp;
    /// assert_eq!(Timestamp::from_millis(2).as_nanos(), 2_000_000);
    /// ```
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis.saturating_mul(1_000_000))
    }

    /// A timestamp from seconds since the Unix epoch. Saturates at the latest timestamp.
    ///
    /// # Examples
    ///
    /// ```
    /// use larder::Timestamp;
    /// assert_eq!(Timestamp::from_secs(2), Timestamp::from_millis(2_000));
    /// ```
    pub const fn from_secs(secs: u64) -> Self {
        Self(secs.saturating_mul(1_000_000_000))
    }

    /// Nanoseconds since the Unix epoch.
    ///
    /// # Examples
    ///
    /// ```
    /// use larder::Timestamp;
    /// assert_eq!(Timestamp::from_secs(1).as_nanos(), 1_000_000_000);
    /// ```
    pub const fn as_nanos(self) -> u64 {
        self.0
    }
}

impl Add<Duration> for Timestamp {
    type Output = Self;

    /// Saturates at the latest timestamp.
    fn add(self, rhs: Duration) -> Self {
        Self(self.0.saturating_add(nanos_of(rhs)))
    }
}

/// A duration in nanoseconds, saturating (584 years).
pub(crate) fn nanos_of(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Where a cache gets its time from.
///
/// `now` is called by many threads and often: it must be cheap, must not panic and must not use
/// the cache. A clock that goes backwards does no harm to the order: stamps never do.
pub trait Clock: Send + Sync + 'static {
    /// The current time.
    fn now(&self) -> Timestamp;
}

/// A clock that stands still until it is told to move; clones share their time.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use larder::{ByteCache, ManualClock, Timestamp};
///
/// let clock = ManualClock::new(Timestamp::from_secs(1_000));
/// let cache = ByteCache::builder()
///     .memory_max_entries(10)
///     .memory_time_to_live(Duration::from_secs(60))
///     .clock(clock.clone())
///     .open()?;
/// cache.insert(b"key", b"value")?;
/// clock.advance(Duration::from_secs(61));
/// assert!(cache.get(b"key")?.is_none());
/// # Ok::<(), larder::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct ManualClock(Arc<AtomicU64>);

impl ManualClock {
    /// A clock that shows `start`.
    ///
    /// # Examples
    ///
    /// ```
    /// use larder::{ManualClock, Timestamp};
    /// assert_eq!(ManualClock::new(Timestamp::from_secs(5)).now(), Timestamp::from_secs(5));
    /// ```
    pub fn new(start: Timestamp) -> Self {
        Self(Arc::new(AtomicU64::new(start.0)))
    }

    /// The time it shows.
    ///
    /// # Examples
    ///
    /// ```
    /// use larder::{ManualClock, Timestamp};
    /// let clock = ManualClock::new(Timestamp::from_secs(5));
    /// assert_eq!(clock.now(), clock.clone().now());
    /// ```
    pub fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::SeqCst))
    }

    /// Moves it to `time`, forwards or backwards.
    ///
    /// # Examples
    ///
    /// ```
    /// use larder::{ManualClock, Timestamp};
    /// let clock = ManualClock::new(Timestamp::from_secs(5));
    /// clock.set(Timestamp::from_secs(3));
    /// assert_eq!(clock.now(), Timestamp::from_secs(3));
    /// ```
    pub fn set(&self, time: Timestamp) {
        self.0.store(time.0, Ordering::SeqCst);
    }

    /// Moves it forwards. Saturates at the latest timestamp.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use larder::{ManualClock, Timestamp};
    /// let clock = ManualClock::new(Timestamp::from_secs(5));
    /// clock.advance(Duration::from_secs(2));
    /// assert_eq!(clock.now(), Timestamp::from_secs(7));
    /// ```
    pub fn advance(&self, by: Duration) {
        let by = nanos_of(by);
        let _ =
            self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |t| Some(t.saturating_add(by)));
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Self::now(self)
    }
}

impl<C: Clock + ?Sized> Clock for Arc<C> {
    fn now(&self) -> Timestamp {
        (**self).now()
    }
}

/// The wall and the monotonic clock, read together once per process (T3).
static ANCHOR: LazyLock<(Instant, u64)> = LazyLock::new(|| {
    let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    (Instant::now(), nanos_of(wall))
});

fn system_nanos() -> u64 {
    let (start, wall) = *ANCHOR;
    wall.saturating_add(nanos_of(start.elapsed()))
}

/// A monotonic reading for timeouts inside the crate; never stored, never compared with stamps.
#[cfg(not(shuttle))]
pub(crate) fn monotonic() -> Instant {
    Instant::now()
}

/// In a model, time passes only where somebody waits for it.
#[cfg(shuttle)]
pub(crate) fn monotonic() -> Instant {
    crate::sync::latest_timeout().unwrap_or(ANCHOR.0)
}

/// `wall` while the maintenance thread sleeps.
const PARKED: u64 = 0;

/// How many stamps a thread sets aside, if nobody else did since it did so last. Few, so that stamps do
/// not run ahead of the time.
const LEASE_STAMPS: u64 = 16;

/// Stamps that a thread has set aside: from `next` to `end`, of the clock with this number.
#[derive(Debug)]
struct Lease {
    clock: Cell<u64>,
    next: Cell<u64>,
    end: Cell<u64>,
    /// Nobody had set any aside between this lease and the one before.
    is_alone: Cell<bool>,
}

thread_local! {
    /// Of the clock that the thread used last.
    static LEASE: Lease =
        const {
            Lease {
                clock: Cell::new(0),
                next: Cell::new(1),
                end: Cell::new(0),
                is_alone: Cell::new(false),
            }
        };
}

/// The number of the newest clock.
static CLOCKS: StaticMutex<u64> = StaticMutex::new(0);

/// The words that every operation reads; each has a line of its own, since `last` goes from one busy thread to
/// the other, and `wall` need not.
#[derive(Debug)]
struct Words {
    /// The system time as last refreshed, or [`PARKED`]. Unused with an injected clock.
    wall: CachePadded<AtomicU64>,
    /// The largest stamp that was given out or set aside.
    last: CachePadded<AtomicU64>,
}

/// The clock of one cache: wall time and stamps (T1, T2).
pub(crate) struct Ticker {
    words: Words,
    /// Tells leases of other clocks apart.
    number: u64,
    injected: Option<Arc<dyn Clock>>,
    /// The maintenance thread, to be woken when time is needed again.
    sleeper: OnceLock<Thread>,
}

impl fmt::Debug for Ticker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticker")
            .field("words", &self.words)
            .field("injected", &self.injected.is_some())
            .finish_non_exhaustive()
    }
}

impl Ticker {
    /// All stamps will be newer than `newest`: what the clock of the same cache gave in an earlier process, when
    /// the time was perhaps set to something later.
    pub(crate) fn new(injected: Option<Arc<dyn Clock>>, newest: u64) -> Self {
        let now = injected.as_ref().map_or_else(system_nanos, |c| c.now().0);
        let start = now.saturating_sub(1).max(newest);
        let mut newest = CLOCKS.lock();
        *newest += 1;
        let number = *newest;
        drop(newest);
        Self {
            words: Words {
                wall: CachePadded::new(AtomicU64::new(PARKED)),
                last: CachePadded::new(AtomicU64::new(start)),
            },
            number,
            injected,
            sleeper: OnceLock::new(),
        }
    }

    /// The clock that entries of this cache measure their age with; `None` is the system's.
    pub(crate) fn injected(&self) -> Option<Arc<dyn Clock>> {
        self.injected.clone()
    }

    pub(crate) fn is_injected(&self) -> bool {
        self.injected.is_some()
    }

    /// Names the thread that calls [`Self::tick`].
    pub(crate) fn set_sleeper(&self, thread: Thread) {
        let _ = self.sleeper.set(thread);
    }

    /// Whether this is that thread.
    pub(crate) fn is_kept_here(&self) -> bool {
        self.sleeper.get().is_some_and(|sleeper| sleeper.id() == current_thread().id())
    }

    /// The wall time in nanoseconds, at most one refresh old.
    pub(crate) fn wall(&self) -> u64 {
        if let Some(clock) = &self.injected {
            return clock.now().0;
        }
        match self.words.wall.load(Ordering::Relaxed) {
            PARKED => self.read_now(),
            wall => wall,
        }
    }

    /// The next stamp (T1), and the wall time that goes with it.
    #[inline]
    pub(crate) fn stamp_and_wall(&self) -> (u64, u64) {
        if let Some(clock) = &self.injected {
            return self.injected_stamp(clock.now().0);
        }
        self.system_stamp_and_wall()
    }

    /// Likewise, where no clock is injected.
    #[inline]
    pub(crate) fn system_stamp_and_wall(&self) -> (u64, u64) {
        // Before `last`, which is raised first (T2).
        let mut wall = self.words.wall.load(Ordering::Acquire);
        if wall == PARKED {
            wall = self.read_now();
        }
        let set_aside = LEASE.with(|lease| {
            let next = lease.next.get();
            let is_there = next <= lease.end.get()
                && lease.clock.get() == self.number
                && self.words.last.load(Ordering::Acquire) == lease.end.get();
            is_there.then(|| lease.next.replace(next + 1))
        });
        (set_aside.unwrap_or_else(|| self.lease()), wall)
    }

    /// Sets stamps aside, and gives the first of them.
    #[inline(never)]
    fn lease(&self) -> u64 {
        LEASE.with(|lease| {
            // A thread takes more than one if it was alone the last time.
            let is_same = lease.clock.get() == self.number;
            let stamps = if is_same && lease.is_alone.get() { LEASE_STAMPS } else { 1 };
            let before = self.words.last.fetch_add(stamps, Ordering::AcqRel);
            let first = before.saturating_add(1);
            lease.is_alone.set(is_same && before == lease.end.get());
            lease.clock.set(self.number);
            lease.next.set(first + 1);
            lease.end.set(before + stamps);
            first
        })
    }

    /// No stamp that was given out is newer.
    pub(crate) fn newest(&self) -> u64 {
        self.words.last.load(Ordering::Acquire)
    }

    fn injected_stamp(&self, now: u64) -> (u64, u64) {
        let next = |last: u64| Some(now.max(last.saturating_add(1)));
        let last = self.words.last.fetch_update(Ordering::AcqRel, Ordering::Acquire, next);
        (next(last.unwrap_or(now)).unwrap_or(now), now)
    }

    /// Reads the clock for somebody who has to know it now; gives the wall time. Whoever takes the place of
    /// [`PARKED`] has to wake the maintenance thread: nobody else sees it any more.
    #[cold]
    pub(crate) fn read_now(&self) -> u64 {
        let now = self.tick();
        self.nudge();
        now
    }

    /// Reads the clock and refreshes both words; gives the wall time. For the maintenance thread, which goes on
    /// doing so.
    pub(crate) fn tick(&self) -> u64 {
        if let Some(clock) = &self.injected {
            return clock.now().0;
        }
        let now = system_nanos().max(PARKED + 1);
        self.words.last.fetch_max(now, Ordering::AcqRel);
        self.words.wall.store(now, Ordering::Release);
        now
    }

    /// Wakes the maintenance thread: there is something new to keep an eye on.
    pub(crate) fn nudge(&self) {
        if let Some(thread) = self.sleeper.get() {
            thread.unpark();
        }
    }

    /// Says that nobody refreshes the wall time from now on, until someone asks for it.
    pub(crate) fn park(&self) {
        self.words.wall.store(PARKED, Ordering::Release);
    }
}

/// The time as entries see it: the injected clock's, or the system's, read now.
pub(crate) fn read(injected: Option<&Arc<dyn Clock>>) -> u64 {
    injected.map_or_else(system_nanos, |c| c.now().0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_are_unique_and_rise_across_threads() {
        let ticker = Arc::new(Ticker::new(None, 0));
        let mut all: Vec<u64> = std::thread::scope(|s| {
            let take = || (0..10_000).map(|_| ticker.stamp_and_wall().0).collect::<Vec<_>>();
            let threads: Vec<_> = (0..4).map(|_| s.spawn(take)).collect();
            threads
                .into_iter()
                .flat_map(|t| {
                    let stamps = t.join().unwrap();
                    assert!(stamps.is_sorted());
                    stamps
                })
                .collect()
        });
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 40_000);
        let latest = all.last().copied().unwrap();
        assert!(ticker.stamp_and_wall().0 > latest);
    }

    #[test]
    fn an_injected_clock_that_goes_back_does_not_take_stamps_with_it() {
        let clock = ManualClock::new(Timestamp(100));
        let ticker = Ticker::new(Some(Arc::new(clock.clone())), 0);
        let (first, _) = ticker.stamp_and_wall();
        clock.set(Timestamp(7));
        let (second, wall) = ticker.stamp_and_wall();
        assert!(second > first);
        assert_eq!((wall, ticker.wall()), (7, 7));
    }
}
