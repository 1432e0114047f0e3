//! What all benchmarks share: seeded workloads, values that are unique per key, runs in turn, and a
//! table of medians.
//!
//! Every benchmark is a plain program. With `--test` it makes one small run of each case, to show
//! that it works; other arguments are ignored.
#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]

use larder::Timestamp;

/// How much to do: all of it, or as little as shows that it works.
pub(crate) struct Scale {
    is_test: bool,
}

impl Scale {
    pub(crate) fn from_args() -> Self {
        Self { is_test: std::env::args().any(|argument| argument == "--test") }
    }

    /// A number of operations or entries; a hundredth in a test.
    pub(crate) fn of(&self, count: usize) -> usize {
        if self.is_test { count / 100 } else { count }
    }

    /// A number of runs; one in a test.
    pub(crate) fn runs(&self, count: usize) -> usize {
        if self.is_test { 1 } else { count }
    }
}

/// `SplitMix64`.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// An index below `limit`.
    #[expect(clippy::cast_possible_truncation, reason = "below a usize")]
    pub(crate) fn index(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }
}

/// A key: 16 letters and digits, side by side with the others, so that reading the list of them
/// costs next to nothing.
pub(crate) type Key = [u8; 16];

/// The key of a number; their order is not that of the numbers.
pub(crate) fn key(number: usize) -> Key {
    let digit = |nibble: u64| b"0123456789abcdef"[usize::try_from(nibble & 15).unwrap_or_default()];
    let spread = (number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    std::array::from_fn(|place| digit(spread >> (4 * place)))
}

/// The keys of the numbers below `count`.
pub(crate) fn keys(count: usize) -> Vec<Key> {
    (0..count).map(key).collect()
}

/// Fills `value` with bytes that no other number has.
pub(crate) fn fill(value: &mut [u8], number: usize) {
    let mut random = Random(number as u64);
    for chunk in value.chunks_mut(8) {
        chunk.copy_from_slice(&random.next().to_le_bytes()[..chunk.len()]);
    }
}

/// Runs `work`; gives how long it took in seconds.
pub(crate) fn seconds(work: impl FnOnce()) -> f64 {
    let start = Timestamp::now();
    work();
    let nanos = Timestamp::now().as_nanos().saturating_sub(start.as_nanos());
    std::time::Duration::from_nanos(nanos.max(1)).as_secs_f64()
}

/// One row of the table: what was measured, run by run.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) figures: Vec<f64>,
}

impl Row {
    pub(crate) fn new(name: &'static str) -> Self {
        Self { name, figures: Vec::new() }
    }
}

/// Prints median, least and most of every row.
pub(crate) fn print(unit: &str, rows: &mut [Row]) {
    println!("{unit:<44}{:>12}{:>12}{:>12}", "median", "least", "most");
    for Row { name, figures } in rows {
        figures.sort_by(f64::total_cmp);
        let [least, .., most] = figures[..] else {
            println!("{name:<44}{:>12.2}", figures.first().copied().unwrap_or(f64::NAN));
            continue;
        };
        let median = figures[figures.len() / 2];
        println!("{name:<44}{median:>12.2}{least:>12.2}{most:>12.2}");
    }
}
