//! Simulation: how often caches of different strategies and sizes would have hit.
//!
//! [`Simulation`] replays a [`Trace`], which is a record of what was asked for, through real caches of
//! this crate, and compares them with Belady's optimum, which knows what will be asked for. What comes
//! out is a [`Report`]: rows to look at, CSV, or a [`chart()`] of the hit ratio against the capacity.
//! `examples/simulate.rs` does all this from the command line.
//!
//! # Units
//!
//! A capacity is in entries or in bytes ([`Capacity`]). In entries only keys matter. In bytes the size of
//! each request matters, the bytes of its key do not; then there are two ratios: that of requests that
//! were hits, and that of bytes that needed not be fetched.
//!
//! # Examples
//!
//! ```
//! use larder::simulate::{Simulation, Trace, chart};
//!
//! let folder = tempfile::tempdir()?;
//! let path = folder.path().join("pages.txt");
//! std::fs::write(&path, "/\n/about\n/\n/blog\n/\n/about\n")?; // or gzip, or `key size`
//!
//! let trace = Trace::open(&path)?;
//! let report = Simulation::new().entries([1, 2, 3]).run(&trace, |_| {})?;
//! for row in report.rows() {
//!     println!("{} with {}: {:.1} %", row.strategy, row.capacity, 100.0 * row.hit_ratio());
//! }
//! report.to_csv(std::io::stdout())?;
//! std::fs::write(folder.path().join("pages.svg"), chart(&report))?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod belady;
mod chart;
mod format;
mod report;
mod simulation;
mod trace;

pub use belady::Ceiling;
pub use chart::chart;
pub use format::Format;
pub use report::{Capacity, Report, Row};
pub use simulation::{Progress, Simulation};
pub use trace::{Request, Requests, Trace};
