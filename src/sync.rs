//! The crate's locks and padding, from one place, so that they can be exchanged together.
//!
//! The locks do not poison: no caller's code runs under any of them, and every structure they
//! guard is consistent at each point where our own code could panic.

pub(crate) use crossbeam_utils::CachePadded;
pub(crate) use parking_lot::{Condvar, Mutex, MutexGuard, RwLock};
