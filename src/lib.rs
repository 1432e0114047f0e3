//! An embedded two-tier cache engine: an exact-LRU memory tier in front of a crash-safe disk tier.
mod entry;
mod error;
mod hash;
mod key;
mod memory;
mod record;
mod stats;
mod sync;
mod time;
mod trace;
mod value;
pub use entry::{ByteEntry, Entry, InsertOptions, RemovalCause, Tier};
pub use error::{Error, ErrorKind, Result};
pub use key::CacheKey;
pub use stats::Stats;
pub use time::{Clock, ManualClock, Timestamp};
pub use value::CacheValue;
