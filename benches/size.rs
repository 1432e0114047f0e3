//! What a hit, an insert into a full memory tier and opening a file cost, from few entries to many:
//! values of 64 bytes, random order, one thread. Beside it what memory itself costs: the same in a
//! `HashMap` of boxed values, where an insert takes another entry out.

mod common;

use std::collections::HashMap;
use std::hint::black_box;
use std::path::Path;

use common::{Key, Random, Row, Scale, fill, key, keys, print, seconds};
use larder::{Builder, ByteCache};

const IN_MEMORY: [(usize, &str); 4] = [
    (10_000, "10,000"),
    (100_000, "100,000"),
    (1_000_000, "1,000,000"),
    (10_000_000, "10,000,000"),
];
const ON_DISK: [(usize, &str); 3] =
    [(10_000, "10,000"), (100_000, "100,000"), (1_000_000, "1,000,000")];
const VALUE_BYTES: usize = 64;
type Map = HashMap<Key, Box<[u8; VALUE_BYTES]>>;

const OPERATIONS: usize = 1_000_000;
const RUNS: usize = 5;

fn filled(builder: Builder<ByteCache>, entries: usize) -> larder::Result<ByteCache> {
    let cache = builder.open()?;
    let mut value = [0; VALUE_BYTES];
    for (number, key) in keys(entries).iter().enumerate() {
        fill(&mut value, number);
        cache.insert(key, &value)?;
    }
    Ok(cache)
}

#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
fn nanos(operations: usize, seconds: f64) -> f64 {
    1e9 * seconds / operations as f64
}

/// Nanoseconds a hit. Keys are made as they are needed, so that no list of them competes for the
/// processor's caches.
fn hit(cache: &ByteCache, entries: usize, count: usize, random: &mut Random) -> f64 {
    let took = seconds(|| {
        for _ in 0..count {
            let found = cache.get(&key(random.index(entries)));
            assert!(black_box(found).is_ok_and(|hit| hit.is_some()), "all fit");
        }
    });
    nanos(count, took)
}

/// Nanoseconds an insert of a key that was not there.
fn insert(cache: &ByteCache, first: usize, count: usize) -> larder::Result<f64> {
    let (value, mut outcome) = ([1; VALUE_BYTES], Ok(()));
    let took = seconds(|| {
        outcome = (first..first + count).try_for_each(|number| cache.insert(&key(number), &value));
    });
    outcome.map(|()| nanos(count, took))
}

/// Likewise in a plain map.
fn hit_in_map(map: &Map, entries: usize, count: usize, random: &mut Random) -> f64 {
    let took = seconds(|| {
        for _ in 0..count {
            assert!(black_box(map.get(&key(random.index(entries)))).is_some_and(|v| v[0] < 255));
        }
    });
    nanos(count, took)
}

/// Likewise; takes out the keys from `first - entries` on.
fn exchange_in_map(map: &mut Map, entries: usize, first: usize, count: usize) -> f64 {
    let took = seconds(|| {
        for number in first..first + count {
            map.remove(&key(number - entries));
            map.insert(key(number), Box::new([1; VALUE_BYTES]));
        }
    });
    nanos(count, took)
}

/// Milliseconds to open a file.
fn opening(path: &Path) -> larder::Result<f64> {
    let mut opened = None;
    let took = seconds(|| opened = Some(ByteCache::builder().path(path).open()));
    if let Some(cache) = opened {
        cache?.close()?;
    }
    Ok(1e3 * took)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let scale = Scale::from_args();
    let (runs, count, mut random) = (scale.runs(RUNS), scale.of(OPERATIONS), Random(6));
    let mut rows = [(); 4].map(|()| IN_MEMORY.map(|case| Row::new(case.1)));
    let [hits, inserts, map_hits, map_inserts] = &mut rows;
    let mut both = Vec::new();
    for (entries, _) in IN_MEMORY {
        let entries = scale.of(entries);
        let builder = ByteCache::builder().memory_max_entries(entries as u64).shards(8);
        let mut map = Map::with_capacity(entries);
        map.extend((0..entries).map(|number| (key(number), Box::new([1; VALUE_BYTES]))));
        both.push((filled(builder, entries)?, map, entries));
    }
    for _ in 0..runs {
        for (nth, (cache, map, entries)) in both.iter().enumerate() {
            hits[nth].figures.push(hit(cache, *entries, count, &mut random));
            map_hits[nth].figures.push(hit_in_map(map, *entries, count, &mut random));
        }
    }
    for run in 0..runs {
        for (nth, (cache, map, entries)) in both.iter_mut().enumerate() {
            let first = *entries + run * count;
            inserts[nth].figures.push(insert(cache, first, count)?);
            map_inserts[nth].figures.push(exchange_in_map(map, *entries, first, count));
        }
    }
    print("nanoseconds a hit, entries in memory", hits);
    print("a hit in a HashMap", map_hits);
    print("nanoseconds an insert that evicts", inserts);
    print("an insert and a removal in a HashMap", map_inserts);
    drop(both);

    let folder = tempfile::tempdir()?;
    let mut opened = ON_DISK.map(|case| Row::new(case.1));
    let path = |name: &str| folder.path().join(name);
    for (entries, name) in ON_DISK {
        filled(ByteCache::builder().path(path(name)), scale.of(entries))?.close()?;
    }
    for _ in 0..scale.runs(RUNS) {
        for ((_, name), row) in ON_DISK.iter().zip(&mut opened) {
            row.figures.push(opening(&path(name))?);
        }
    }
    print("milliseconds to open, entries on disk", &mut opened);
    Ok(())
}
