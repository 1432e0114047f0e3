//! Operations, and when they were, in events of a volume: what a power cut may leave of them.

use super::oracle::{Log, Op};
use super::sim::Sim;

/// See the module.
pub(crate) struct Timeline {
    pub(crate) log: Log,
    /// When each operation began.
    began: Vec<u64>,
    /// From which event on so many operations were durable.
    durable: Vec<(u64, usize)>,
}

impl Timeline {
    pub(crate) fn new(log: Log) -> Self {
        Self { log, began: Vec::new(), durable: Vec::new() }
    }

    /// An operation begins.
    pub(crate) fn begin(&mut self, sim: &Sim) {
        self.began.push(sim.moment());
    }

    /// The operation that began last has returned.
    pub(crate) fn end(&mut self, sim: &Sim, op: Op, durable: bool) {
        self.log.ops.push(op);
        if durable {
            self.durable.push((sim.moment(), self.log.ops.len()));
        }
    }

    /// The fewest and the most operations that may be there after a cut at `moment`.
    pub(crate) fn range(&self, moment: u64) -> (usize, usize) {
        let least = self.durable.iter().take_while(|(at, _)| *at <= moment).last();
        let most = self.began.iter().take_while(|at| **at <= moment).count();
        (least.map_or(0, |(_, count)| *count), most)
    }
}
