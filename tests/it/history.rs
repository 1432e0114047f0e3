//! A checker of concurrent histories: is every answer explained by some write?
//!
//! Threads record when each operation began and ended, in ticks of one counter, and what it did or
//! saw. Every value that is written is unique, so that what was seen names its write. Keys are
//! independent of each other and are checked one by one.
//!
//! 1. A write explains an answer if it began before the answer came, and no other write or removal
//!    began after it had ended and ended before the question was asked.
//! 2. Values do not come back: from the first to the last time that a value is known to be the
//!    key's, no other write or removal lies wholly in between, and no other value has such a span that
//!    overlaps (Gibbons and Korach, 1997, for registers whose values are unique).
//!
//! A cache may forget: where entries can be evicted or expire, finding nothing needs no explanation.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

/// Names a write: its thread and its place among that thread's writes.
pub(crate) type WriteId = u64;

/// What one operation did to one key, or saw of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    Put(WriteId),
    Gone,
    Saw(WriteId),
    /// Something was there; it was not told what.
    SawSome,
    SawNothing,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Event {
    pub(crate) key: u8,
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) what: What,
}

/// The counter that orders events.
#[derive(Debug, Default)]
pub(crate) struct Ticks(AtomicU64);

impl Ticks {
    pub(crate) fn next(&self) -> u64 {
        self.0.fetch_add(1, Ordering::SeqCst)
    }
}

/// Whether the cache may lose entries by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Memory {
    Keeps,
    Forgets,
}

/// Checks all events; the error has the offending event and everything that happened around it.
pub(crate) fn check(events: &[Event], memory: Memory) -> Result<(), String> {
    let mut keys: BTreeMap<u8, Vec<Event>> = BTreeMap::new();
    for event in events {
        keys.entry(event.key).or_default().push(*event);
    }
    for events in keys.values_mut() {
        events.sort_by_key(|e| e.start);
        explain(events, memory)?;
        no_value_comes_back(events)?;
    }
    Ok(())
}

fn changes(events: &[Event]) -> impl Iterator<Item = &Event> {
    events.iter().filter(|e| matches!(e.what, What::Put(_) | What::Gone))
}

/// Some changes, for questions about the latest of them.
struct Latest(Vec<(u64, u64)>);

impl Latest {
    /// From two ticks of each change: gives the largest second one of all whose first is below.
    fn new(pairs: impl Iterator<Item = (u64, u64)>) -> Self {
        let mut pairs: Vec<_> = pairs.collect();
        pairs.sort_unstable();
        let mut largest = 0;
        for (_, second) in &mut pairs {
            largest = largest.max(*second);
            *second = largest;
        }
        Self(pairs)
    }

    fn below(&self, first: u64) -> Option<u64> {
        let count = self.0.partition_point(|pair| pair.0 < first);
        Some(self.0[count.checked_sub(1)?].1)
    }
}

/// Rule 1.
fn explain(events: &[Event], memory: Memory) -> Result<(), String> {
    let starts_by_end = Latest::new(changes(events).map(|e| (e.end, e.start)));
    let ends_by_start = |which: fn(&What) -> bool| {
        Latest::new(changes(events).filter(|e| which(&e.what)).map(|e| (e.start, e.end)))
    };
    let puts = ends_by_start(|what| matches!(what, What::Put(_)));
    let removals = ends_by_start(|what| *what == What::Gone);
    let by_id: BTreeMap<WriteId, &Event> = events
        .iter()
        .filter_map(|e| if let What::Put(id) = e.what { Some((id, e)) } else { None })
        .collect();
    for answer in events {
        // Whatever ended before this was overwritten or removed before the question was asked.
        let overwritten = starts_by_end.below(answer.start);
        let explains = |end: Option<u64>| end.is_some_and(|e| overwritten.is_none_or(|o| e >= o));
        let explained = match answer.what {
            What::Put(_) | What::Gone => true,
            What::Saw(id) => {
                let write = by_id.get(&id).filter(|write| write.start <= answer.end);
                explains(write.map(|write| write.end))
            }
            What::SawSome => explains(puts.below(answer.end + 1)),
            What::SawNothing => {
                memory == Memory::Forgets
                    || overwritten.is_none()
                    || explains(removals.below(answer.end + 1))
            }
        };
        if !explained {
            return Err(format!("no write explains {answer:?}\n{}", around(events, answer)));
        }
    }
    Ok(())
}

/// Rule 2.
fn no_value_comes_back(events: &[Event]) -> Result<(), String> {
    // By value: the first end and the last start of its write and of the reads that saw it.
    let mut spans: BTreeMap<WriteId, (u64, u64)> = BTreeMap::new();
    for event in events {
        if let What::Put(id) | What::Saw(id) = event.what {
            let span = spans.entry(id).or_insert((event.end, event.start));
            *span = (span.0.min(event.end), span.1.max(event.start));
        }
    }
    let (mut known, open): (Vec<_>, Vec<_>) =
        spans.into_iter().partition(|(_, (first, last))| first < last);
    known.sort_unstable_by_key(|(_, span)| *span);
    for pair in known.windows(2) {
        let [(a, (_, a_last)), (b, (b_first, _))] = [pair[0], pair[1]];
        if b_first < a_last {
            let told = of_values(events, &[a, b]);
            return Err(format!("values {a:#x} and {b:#x} were there in turns\n{told}"));
        }
    }
    // What may have happened at one moment, that lies wholly inside a span.
    let moments = open.iter().map(|(id, (end, start))| (Some(*id), *start, *end));
    let removals = events.iter().filter(|e| e.what == What::Gone).map(|e| (None, e.start, e.end));
    for (id, start, end) in moments.chain(removals) {
        let at = known.partition_point(|(_, (first, _))| *first < start);
        let Some((other, (_, last))) = at.checked_sub(1).map(|i| known[i]) else { continue };
        if end < last {
            let told = of_values(events, &[other, id.unwrap_or(other)]);
            let what = id.map_or_else(|| "a removal".to_owned(), |id| format!("value {id:#x}"));
            return Err(format!(
                "value {other:#x} came back after {what} at {start} to {end}\n{told}"
            ));
        }
    }
    Ok(())
}

fn around(events: &[Event], of: &Event) -> String {
    let near = events.iter().filter(|e| e.start <= of.end && e.end + 2_000 >= of.start);
    let mut near: Vec<String> = near.map(|e| format!("{e:?}")).collect();
    let skipped = near.len().saturating_sub(60);
    near.drain(..skipped).count();
    near.join("\n")
}

fn of_values(events: &[Event], ids: &[WriteId]) -> String {
    let told = events.iter().filter(|e| match e.what {
        What::Put(id) | What::Saw(id) => ids.contains(&id),
        What::Gone | What::SawSome | What::SawNothing => false,
    });
    told.map(|e| format!("{e:?}")).collect::<Vec<_>>().join("\n")
}

/// Writes `(start, end, what)` rows of one key.
fn told(rows: &[(u64, u64, What)]) -> Vec<Event> {
    rows.iter()
        .map(|(start, end, what)| Event { key: 0, start: *start, end: *end, what: *what })
        .collect()
}

#[test]
fn the_checker_accepts_what_can_have_happened() {
    use What::{Gone, Put, Saw, SawNothing, SawSome};
    let fine: &[&[(u64, u64, What)]] = &[
        &[(1, 2, SawNothing), (3, 4, Put(1)), (5, 6, Saw(1)), (7, 8, SawSome)],
        // A read that overlaps a write may see either value.
        &[(1, 2, Put(1)), (3, 8, Put(2)), (4, 5, Saw(1)), (6, 7, Saw(2)), (9, 10, Saw(2))],
        &[(1, 2, Put(1)), (3, 6, Gone), (4, 5, Saw(1)), (7, 8, SawNothing)],
        // Two writes at the same time: either may be the last.
        &[(1, 4, Put(1)), (2, 3, Put(2)), (5, 6, Saw(1))],
        &[(1, 4, Put(1)), (2, 3, Put(2)), (5, 6, Saw(2))],
    ];
    for rows in fine {
        check(&told(rows), Memory::Keeps).unwrap();
    }
    check(&told(&[(1, 2, Put(1)), (3, 4, SawNothing)]), Memory::Forgets).unwrap();
}

#[test]
fn the_checker_catches_what_cannot_have_happened() {
    use What::{Gone, Put, Saw, SawNothing, SawSome};
    type Rows = [(u64, u64, What)];
    let wrong: &[(&str, &Rows)] = &[
        ("lost", &[(1, 2, Put(1)), (3, 4, SawNothing)]),
        ("stale", &[(1, 2, Put(1)), (3, 4, Put(2)), (5, 6, Saw(1))]),
        ("back from removal", &[(1, 2, Put(1)), (3, 4, Gone), (5, 6, Saw(1))]),
        ("back from removal, untold", &[(1, 2, Put(1)), (3, 4, Gone), (5, 6, SawSome)]),
        ("from the future", &[(1, 2, Saw(1)), (3, 4, Put(1))]),
        ("never written", &[(1, 2, Saw(1))]),
        (
            "back and forth",
            &[(1, 20, Put(1)), (2, 21, Put(2)), (3, 4, Saw(1)), (5, 6, Saw(2)), (7, 8, Saw(1))],
        ),
        (
            "back after an overwrite that was under way",
            &[(1, 2, Put(1)), (3, 10, Put(2)), (4, 5, Saw(2)), (6, 7, Saw(1))],
        ),
    ];
    for (name, rows) in wrong {
        assert!(check(&told(rows), Memory::Keeps).is_err(), "{name}");
    }
}
