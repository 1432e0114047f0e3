//! A mutex for what takes some dozens of nanoseconds: one locked instruction to take it, none to let it
//! go.
//!
//! Letting go is a plain store, so nobody can be woken by it, and who waits has to look: first without
//! a pause, then letting others run, then at intervals that grow to 0.1 ms. That suits locks
//! that are nearly always free and soon free again; where one is held longer, as by a batch, waiting may
//! take that much longer. The usual mutex exchanges a word to let go, since somebody may be asleep: 5 ns
//! of the 30 that a hit takes.
//!
//! # Safety
//!
//! [`RawBrief`] upholds what `RawMutex` asks for: `held` goes from false to true only in one exchange,
//! which one caller sees, and back only in `unlock`, which only that caller may call. The exchange
//! acquires what the store released.
#![expect(unsafe_code, reason = "the trait of a mutex is unsafe to implement; argued above")]

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::lock_api::{self, GuardSend, RawMutex};

/// Looks without a pause before others are let run, doubling the pauses between them.
const SPINS: u32 = 6;
/// Looks between which others are let run before it sleeps.
const YIELDS: u32 = 32;
/// A thread sleeps once after it has waited so many times in a row for the same lock. Four are as good, but are reached
/// by chance.
const WAITS: u32 = 64;
/// ... if the second half of them took no longer than this each: a thread that asks for a key every two microseconds,
/// beside others that do all the time, would else have one call in 600 take 0.1 ms.
const WAIT: Duration = Duration::from_micros(1);
const SLEEP_MIN: Duration = Duration::from_micros(20);
const SLEEP_MAX: Duration = Duration::from_micros(100);

/// Whether somebody has the lock.
#[derive(Debug)]
pub(crate) struct RawBrief {
    held: AtomicBool,
}

pub(crate) type BriefMutex<T> = lock_api::Mutex<RawBrief, T>;
pub(crate) type BriefGuard<'a, T> = lock_api::MutexGuard<'a, RawBrief, T>;

// SAFETY: see the module: one caller at a time has it.
unsafe impl RawMutex for RawBrief {
    const INIT: Self = Self { held: AtomicBool::new(false) };
    type GuardMarker = GuardSend;

    #[inline]
    fn lock(&self) {
        if !self.try_lock() {
            self.wait();
        }
    }

    #[inline]
    fn try_lock(&self) -> bool {
        self.held.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    #[inline]
    unsafe fn unlock(&self) {
        self.held.store(false, Ordering::Release);
    }
}

/// What a thread has waited for.
#[derive(Debug, Clone, Copy)]
struct Waited {
    /// The address of the lock that it waited for last.
    lock: usize,
    /// How many times in a row.
    times: u32,
    /// When it was half of [`WAITS`].
    since: Option<Instant>,
}

thread_local! {
    static WAITED: Cell<Waited> = const { Cell::new(Waited { lock: 0, times: 0, since: None }) };
}

impl RawBrief {
    #[cold]
    fn wait(&self) {
        let mut sleep = SLEEP_MIN;
        if self.is_waited_for_again_and_again() {
            std::thread::sleep(sleep);
        }
        for look in 0_u32.. {
            if look < SPINS {
                (0..1 << look).for_each(|_| std::hint::spin_loop());
            } else if look < SPINS + YIELDS {
                std::thread::yield_now();
            } else {
                std::thread::sleep(sleep);
                sleep = (2 * sleep).min(SLEEP_MAX);
            }
            if !self.held.load(Ordering::Relaxed) && self.try_lock() {
                return;
            }
        }
    }

    /// Whether the thread is to sleep once; counts that it waits.
    fn is_waited_for_again_and_again(&self) -> bool {
        let lock = std::ptr::from_ref(self).addr();
        WAITED.with(|waited| {
            let Waited { lock: last, times, since } = waited.get();
            let times = if last == lock { times + 1 } else { 1 };
            let since = if times == WAITS / 2 { Some(now()) } else { since };
            waited.set(Waited { lock, times: times % WAITS, since });
            let passed = || since.map(|since| now().saturating_duration_since(since));
            times == WAITS && passed().is_some_and(|passed| passed <= WAIT * (WAITS / 2))
        })
    }
}

/// Read twice in [`WAITS`] waits in a row.
#[expect(clippy::disallowed_methods, reason = "what reads the clock for everybody else has locks")]
fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_sleeps_once_for_a_lock_that_it_waits_for_all_the_time() {
        let [one, other] = [RawBrief::INIT, RawBrief::INIT];
        let sleeps = |lock: &RawBrief, times| {
            (0..times).filter(|_| lock.is_waited_for_again_and_again()).count()
        };
        // On a busy machine half of the waits may take long by themselves.
        let sleeps_once = || (sleeps(&one, WAITS - 1), sleeps(&one, 1)) == (0, 1);
        assert!(cfg!(miri) || (0..100).any(|_| sleeps_once() && sleeps_once()));
        // Not with another lock in between, ...
        assert_eq!((sleeps(&one, WAITS - 1), sleeps(&other, 1), sleeps(&one, 1)), (0, 0, 0));
        // ... nor with anything else.
        assert_eq!(sleeps(&one, WAITS - 2), 0);
        std::thread::sleep(WAIT * WAITS);
        assert_eq!(sleeps(&one, 2), 0);
    }

    #[test]
    fn one_at_a_time_has_it_however_long() {
        let sum = BriefMutex::new(0_u64);
        let rounds = if cfg!(miri) { 20 } else { 10_000 };
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for round in 0..rounds {
                        let mut sum = sum.lock();
                        let before = *sum;
                        if round % (rounds / 2) == 0 {
                            // Long enough for the others to sleep.
                            std::thread::sleep(Duration::from_millis(3));
                        }
                        *sum = before + 1;
                    }
                });
            }
        });
        assert_eq!(sum.into_inner(), 4 * rounds);
        let lock = BriefMutex::new(());
        let held = lock.lock();
        assert!(lock.try_lock().is_none());
        drop(held);
        assert!(lock.try_lock().is_some());
    }
}
