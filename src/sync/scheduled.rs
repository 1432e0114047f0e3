//! The locks, atomics and threads of a model: shuttle's, behind the interface of the usual ones.
//!
//! All tasks of a model are run by one thread, and each operation here is a place where the
//! scheduler may go on with another task. So nothing else may be waited for: a task that stops at one
//! of these while it holds a lock of another kind stops everybody.
//!
//! # Time
//!
//! There is none, except that a wait with a time-out ends: when the others have made as many steps as
//! the scheduler likes, it is the time-out, and [`latest_timeout`] is what the clock shows. So what
//! follows a time-out is tried in all orders, and a wake-up that is lost is noticed only where the
//! wait has no time-out. A thread that parks for a while is not modelled: it parks for ever.

use std::cell::Cell;
use std::ops::{Deref, DerefMut};
use std::sync::{LockResult, PoisonError, TryLockError};
use std::time::Instant;

use shuttle::sync::{RwLockReadGuard, RwLockWriteGuard};

pub(crate) use shuttle::sync::atomic;
pub(crate) use shuttle::thread;

thread_local! {
    /// Of the thread that runs all tasks; it goes on from one run to the next, since only differences
    /// matter.
    static LATEST_TIMEOUT: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// The latest moment to which a wait has moved the time, if one has.
pub(crate) fn latest_timeout() -> Option<Instant> {
    LATEST_TIMEOUT.get()
}

fn unpoisoned<G>(guard: LockResult<G>) -> G {
    guard.unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug, Default)]
pub(crate) struct Mutex<T>(shuttle::sync::Mutex<T>);

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(shuttle::sync::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        MutexGuard { mutex: self, held: Some(unpoisoned(self.0.lock())) }
    }

    pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        let held = match self.0.try_lock() {
            Ok(held) => held,
            Err(TryLockError::Poisoned(held)) => held.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        Some(MutexGuard { mutex: self, held: Some(held) })
    }
}

/// A lock that is held, except while [`Condvar`] has let it go.
#[derive(Debug)]
pub(crate) struct MutexGuard<'a, T> {
    mutex: &'a Mutex<T>,
    held: Option<shuttle::sync::MutexGuard<'a, T>>,
}

const HELD: &str = "nobody sees the guard while it waits";

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    #[expect(clippy::expect_used, reason = "see HELD")]
    fn deref(&self) -> &T {
        self.held.as_ref().expect(HELD)
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    #[expect(clippy::expect_used, reason = "see HELD")]
    fn deref_mut(&mut self) -> &mut T {
        self.held.as_mut().expect(HELD)
    }
}

#[derive(Debug, Default)]
pub(crate) struct Condvar(shuttle::sync::Condvar);

impl Condvar {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn notify_one(&self) {
        self.0.notify_one();
    }

    pub(crate) fn notify_all(&self) {
        self.0.notify_all();
    }

    pub(crate) fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        guard.held = guard.held.take().map(|held| unpoisoned(self.0.wait(held)));
    }

    /// Lets the others go on for a while, and then it is `until`. Gives whether it ended by that.
    #[expect(clippy::unused_self, reason = "the interface of the usual one")]
    pub(crate) fn wait_until<T>(&self, guard: &mut MutexGuard<'_, T>, until: Instant) -> bool {
        guard.held = None;
        thread::yield_now();
        LATEST_TIMEOUT.set(LATEST_TIMEOUT.get().max(Some(until)));
        guard.held = Some(unpoisoned(guard.mutex.0.lock()));
        true
    }
}

#[derive(Debug, Default)]
pub(crate) struct RwLock<T>(shuttle::sync::RwLock<T>);

impl<T> RwLock<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(shuttle::sync::RwLock::new(value))
    }

    pub(crate) fn read(&self) -> RwLockReadGuard<'_, T> {
        unpoisoned(self.0.read())
    }

    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, T> {
        unpoisoned(self.0.write())
    }
}
