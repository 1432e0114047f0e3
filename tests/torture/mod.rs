//! What a cache is put through for as long as one likes: crashes, damaged files, many threads.
//!
//! Included by the example `torture` and by the tests. The crate that includes it provides
//! `crate::support` and `crate::history`, those of `tests/it`. Each mode is a file with a function
//! `run`; `power.rs` and `fault.rs` are to join them.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use larder::Timestamp;

pub(crate) mod fault;
#[cfg(unix)]
pub(crate) mod kill;
pub(crate) mod oracle;
pub(crate) mod power;
pub(crate) mod rot;
pub(crate) mod script;
pub(crate) mod sim;
pub(crate) mod threads;
pub(crate) mod timeline;

/// How long to go on.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Budget {
    Cycles(u64),
    Time(Duration),
}

impl Budget {
    pub(crate) fn start(self) -> Left {
        Left { budget: self, began: Timestamp::now(), cycle: 0 }
    }
}

/// The cycles of a run, by number from 0.
#[derive(Debug)]
pub(crate) struct Left {
    budget: Budget,
    began: Timestamp,
    cycle: u64,
}

impl Iterator for Left {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        let goes_on = match self.budget {
            Budget::Cycles(cycles) => self.cycle < cycles,
            Budget::Time(time) => Timestamp::now() < self.began + time,
        };
        self.cycle += 1;
        goes_on.then_some(self.cycle - 1)
    }
}

/// What a run did, in the order in which it is told.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Figures(Vec<(&'static str, u64)>);

impl Figures {
    pub(crate) fn add(&mut self, name: &'static str, more: u64) {
        match self.0.iter_mut().find(|(known, _)| *known == name) {
            Some((_, sum)) => *sum += more,
            None => self.0.push((name, more)),
        }
    }

    pub(crate) fn of(&self, name: &str) -> u64 {
        self.0.iter().find(|(known, _)| *known == name).map_or(0, |(_, sum)| *sum)
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let told: Vec<String> = self.0.iter().map(|(name, sum)| format!("{sum} {name}")).collect();
        write!(f, "{}", told.join(", "))
    }
}

/// A promise that was not kept.
#[derive(Debug, Clone)]
pub(crate) struct Violation {
    pub(crate) seed: u64,
    pub(crate) cycle: u64,
    /// What was expected and what was found.
    pub(crate) what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed {}, cycle {}: {}", self.seed, self.cycle, self.what)
    }
}

/// Hears of the figures so far, after each cycle.
pub(crate) type Progress<'a> = &'a mut dyn FnMut(&Figures);

/// A folder in memory where the system has that, since a killed process leaves its files whole there
/// as well.
pub(crate) fn scratch() -> std::io::Result<tempfile::TempDir> {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }
}

/// What a panic said.
fn words(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without words")
}
