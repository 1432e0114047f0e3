//! How many hits on disk a second, of a file that was just read: 100,000 entries of 1 KiB, in
//! random order, one thread.

mod common;

use std::hint::black_box;

use common::{Key, Random, Row, Scale, fill, keys, print, seconds};
use larder::ByteCache;

const ENTRIES: usize = 100_000;
const VALUE_BYTES: usize = 1_024;
const HITS: usize = 200_000;
const RUNS: usize = 5;
/// Where some are promoted, memory holds this many.
const MEMORY_ENTRIES: u64 = 1_000;
/// More than the file is long.
const WHOLE_FILE_BYTES: usize = 1 << 30;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let scale = Scale::from_args();
    let keys = keys(scale.of(ENTRIES));
    let mut random = Random(4);
    let order: Vec<usize> = (0..scale.of(HITS)).map(|_| random.index(keys.len())).collect();
    let folder = tempfile::tempdir()?;
    let builder = ByteCache::builder().path(folder.path().join("hit.larder")).memory_max_entries(0);

    let cache = builder.clone().open()?;
    let mut value = [0; VALUE_BYTES];
    for (number, key) in keys.iter().enumerate() {
        fill(&mut value, number);
        cache.insert(key, &value)?;
    }
    cache.close()?;

    let mut rows = [
        "get, disk only",
        "get_into, disk only",
        "get, promoted to 1,000 in memory",
        "get_into, promoted to 1,000 in memory",
    ]
    .map(Row::new);
    for (title, builder) in [
        ("thousand a second, pages in memory: default", builder.clone()),
        ("thousand a second, pages in memory: all", builder.disk_cache_bytes(WHOLE_FILE_BYTES)),
    ] {
        let cache = builder.open()?;
        ask(&cache, &keys, &order, Read::GetInto)?; // what is measured is a warm file
        for row in &mut rows {
            row.figures.clear();
        }
        for _ in 0..scale.runs(RUNS) {
            for (index, row) in rows.iter_mut().enumerate() {
                cache.set_memory_limits(Some(if index < 2 { 0 } else { MEMORY_ENTRIES }), None)?;
                let read = if index % 2 == 0 { Read::Get } else { Read::GetInto };
                let mut outcome = Ok(());
                let took = seconds(|| outcome = ask(&cache, &keys, &order, read));
                outcome?;
                #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
                row.figures.push(order.len() as f64 / took / 1e3);
            }
        }
        print(title, &mut rows);
        cache.close()?;
    }
    Ok(())
}

#[derive(Clone, Copy)]
enum Read {
    Get,
    GetInto,
}

/// Asks for all of `order`, which must be hits.
fn ask(cache: &ByteCache, keys: &[Key], order: &[usize], read: Read) -> larder::Result<()> {
    let mut buffer = Vec::new();
    for number in order {
        let key = &keys[*number];
        let hit = match read {
            Read::Get => black_box(cache.get(key)?).is_some(),
            Read::GetInto => cache.get_into(key, &mut buffer)?,
        };
        assert!(hit, "every key is there");
    }
    Ok(())
}
