//! Request traces of any bytes, read in each format, and replayed if they are short.
//!
//! - **T1** reading ends with the first error; no line and no bomb makes it panic or run out of memory.
//! - **T2** the least recently used never hits more often than Belady's optimum, nor that more often than
//!   the one that may refuse newcomers.
#![no_main]

use arbitrary::Arbitrary;
use larder::Strategy;
use larder::simulate::{Ceiling, Format, Report, Simulation, Trace, chart};
use libfuzzer_sys::fuzz_target;

/// More requests than that are not replayed: a line of a few bytes can ask for many blocks.
const REQUESTS_MAX: usize = 2_000;

#[derive(Debug, Arbitrary)]
struct Input<'a> {
    format: u8,
    capacity: u8,
    bytes: &'a [u8],
}

fuzz_target!(|input: Input<'_>| {
    let format = [Format::Text, Format::Arc, Format::Lirs][usize::from(input.format % 3)];
    let trace = Trace::from_bytes("fuzz", input.bytes).format(format);
    let requests = trace.requests().expect("bytes can be read");
    let read: Vec<_> = requests.take(REQUESTS_MAX).collect();
    let errors = read.iter().filter(|request| request.is_err()).count();
    assert!(errors == 0 || errors == 1 && read.last().is_some_and(Result::is_err), "T1");
    if read.len() == REQUESTS_MAX {
        return;
    }
    let capacity = u64::from(input.capacity) + 1;
    let simulation = Simulation::new()
        .strategy(Strategy::Lru)
        .entries([capacity])
        .bytes([capacity])
        .ceilings([Ceiling::Belady, Ceiling::Bypass]);
    if let Ok(report) = simulation.run(&trace.size_bytes(7), |_| {}) {
        check(&report);
    }
});

fn check(report: &Report) {
    let hits: Vec<u64> = report.rows().iter().map(|row| row.hits).collect();
    assert!(hits[..3].is_sorted(), "T2: {report:?}");
    assert!(chart(report).ends_with("</svg>\n"));
}
