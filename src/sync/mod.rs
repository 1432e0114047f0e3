//! The crate's locks, atomics, threads and padding, from one place, so that they can be exchanged
//! together.
//!
//! The locks do not poison: no caller's code runs under any of them, and every structure they
//! guard is consistent at each point where our own code could panic.
//!
//! Under `cfg(shuttle)` they are those of a scheduler that tries many orders of what the threads do
//! (`scheduled.rs`, for the models in `tests/shuttle.rs`). What is not for exchange says so where it
//! is declared: words that nobody waits for, and what outlives one run of a model.

#[cfg(not(shuttle))]
mod brief;
mod lanes;
#[cfg(shuttle)]
mod scheduled;

#[cfg(not(shuttle))]
pub(crate) use std::{sync::atomic, thread};

#[cfg(not(shuttle))]
pub(crate) use brief::{BriefGuard, BriefMutex};
pub(crate) use crossbeam_utils::CachePadded;
pub(crate) use lanes::{InLane, LANES, LaneCounts, Lanes, lane};
#[cfg(not(shuttle))]
pub(crate) use parking_lot::{Condvar, Mutex, MutexGuard, RwLock};

#[cfg(shuttle)]
pub(crate) use scheduled::{Condvar, Mutex, MutexGuard, RwLock, atomic, latest_timeout, thread};
#[cfg(shuttle)]
pub(crate) use scheduled::{Mutex as BriefMutex, MutexGuard as BriefGuard};

/// For what outlives a cache: never exchanged, so nothing that is may be used under it.
pub(crate) use parking_lot::Mutex as StaticMutex;
