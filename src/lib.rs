//! An embedded two-tier cache: an exact-LRU memory tier in front of a crash-safe disk tier, behind
//! one handle.
//!
//! Start with [`Cache`], or [`ByteCache`] for plain bytes; both are made by a [`Builder`].
//!
//! # Examples
//!
//! ```
//! use larder::Cache;
//!
//! #[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
//! struct Page { title: String, links: Vec<String> }
//!
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().join("pages.larder");
//! let cache: Cache<str, Page> = Cache::builder()
//!     .path(path)                          // for memory only leave out this and what says `disk`
//!     .memory_max_bytes(64 << 20)
//!     .disk_max_bytes(10 << 30)
//!     .open()?;
//! cache.insert("/", &Page { title: "Home".into(), links: vec!["/about".into()] })?;
//! let page = cache.get("/")?.expect("just inserted");
//! assert_eq!(page.links[0], "/about");     // read in place, from either tier
//! cache.close()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Features
//!
//! - `serde`: [`Stats`] implements `serde::Serialize`. Off by default.
//! - `simulate`: the module `simulate`, which replays request traces. Off by default.
//!
//! # Events
//!
//! `tracing` events have the target `larder`: TRACE for each operation (`operation`, `key`, `outcome`, `tier`), WARN with a
//! `detail` where something went wrong below and what was done about it (the disk fails, a file was set aside or healed, a
//! listener panicked), INFO when it is well again.
//!
//! How it is built is in [`_design`], the file's bytes are in [`_format`].

mod attributes;
mod builder;
mod bytes;
mod cache;
mod config;
mod engine;
mod entry;
mod error;
mod handle;
mod hash;
mod health;
mod key;
mod layout;
mod memory;
mod record;
mod stats;
mod store;
mod strategy;
mod sync;
mod time;
mod trace;
mod value;

pub use attributes::InsertOptions;
pub use builder::Builder;
pub use bytes::ByteCache;
pub use cache::Cache;
pub use config::{DamagePolicy, ErrorPolicy, SchemaPolicy, WhenFull, WritePolicy};
pub use engine::{CompactReport, VerifyOptions, VerifyReport};
pub use entry::{ByteEntry, Entry, RemovalCause, Tier};
pub use error::{Error, ErrorKind, Result};
pub use health::{Health, TierHealth};
pub use key::CacheKey;
pub use stats::Stats;
pub use strategy::{
    CustomStrategy, DiskStrategy, Entries, EntryId, EvictionOrder, HITS_MAX, Leaving, NewEntry,
    Strategy, Victim,
};
pub use time::{Clock, ManualClock, Timestamp};
pub use value::CacheValue;

#[cfg(feature = "simulate")]
pub mod simulate;

/// What tests can put in the place of the file system; no part of what versions promise.
#[doc(hidden)]
pub mod testing {
    pub use crate::store::disk::{Device, Volume, storage};
}

#[cfg(doc)]
#[doc = include_str!("design.md")]
pub mod _design {}

#[cfg(doc)]
#[doc = include_str!("format.md")]
pub mod _format {}

/// The examples of the README run as tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
