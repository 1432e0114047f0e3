//! Every behaviour, in one binary.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod behaviour;
mod child;
mod clock;
mod damage;
mod device;
mod disk_order;
mod errors;
mod failure;
mod files;
mod golden;
mod history;
mod model;
mod recency;
mod regressions;
mod replay;
#[cfg(feature = "simulate")]
mod simulate;
mod strategies;
mod support;
mod threads;
mod torture;
mod upkeep;
