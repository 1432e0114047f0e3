//! How many hits in memory a second: 10,000 entries of 64 bytes, asked for in random order.

mod common;

use std::hint::black_box;

use common::{Key, Random, Row, Scale, fill, keys, print, seconds};
use larder::ByteCache;

const ENTRIES: usize = 10_000;
const VALUE_BYTES: usize = 64;
const HITS: usize = 4_000_000;
const RUNS: usize = 7;

/// One way to read the keys given; panics on a miss.
type Read = fn(&ByteCache, &[Key], &[u16]);

fn get(cache: &ByteCache, keys: &[Key], order: &[u16]) {
    for index in order {
        let entry = cache.get(&keys[usize::from(*index)]);
        assert!(black_box(entry).is_ok_and(|found| found.is_some()));
    }
}

fn view(cache: &ByteCache, keys: &[Key], order: &[u16]) {
    for index in order {
        let first = cache.view(&keys[usize::from(*index)], |value| value[0]);
        assert!(black_box(first).is_ok_and(|found| found.is_some()));
    }
}

fn get_into(cache: &ByteCache, keys: &[Key], order: &[u16]) {
    let mut buffer = Vec::new();
    for index in order {
        let hit = cache.get_into(&keys[usize::from(*index)], &mut buffer);
        assert!(hit.is_ok_and(|hit| hit));
        black_box(&buffer);
    }
}

fn main() -> larder::Result<()> {
    let scale = Scale::from_args();
    let cache = ByteCache::builder().memory_max_entries(ENTRIES as u64).open()?;
    let keys = keys(ENTRIES);
    let mut value = [0; VALUE_BYTES];
    for (number, key) in keys.iter().enumerate() {
        fill(&mut value, number);
        cache.insert(key, &value)?;
    }
    let mut random = Random(1);
    let order: Vec<u16> = (0..scale.of(HITS))
        .map(|_| u16::try_from(random.index(ENTRIES)).unwrap_or_default())
        .collect();

    let cases: [(Read, usize, &str); 6] = [
        (get, 1, "get, 1 thread"),
        (view, 1, "view, 1 thread"),
        (get_into, 1, "get_into, 1 thread"),
        (get, 2, "get, 2 threads"),
        (view, 2, "view, 2 threads"),
        (get_into, 2, "get_into, 2 threads"),
    ];
    let mut rows: Vec<Row> = cases.iter().map(|case| Row::new(case.2)).collect();
    for _ in 0..scale.runs(RUNS) {
        for ((read, threads, _), row) in cases.iter().zip(&mut rows) {
            let took = seconds(|| {
                std::thread::scope(|scope| {
                    for part in order.chunks(order.len().div_ceil(*threads)) {
                        scope.spawn(|| read(&cache, &keys, part));
                    }
                });
            });
            #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
            row.figures.push(order.len() as f64 / took / 1e6);
        }
    }
    print("million hits a second", &mut rows);
    Ok(())
}
