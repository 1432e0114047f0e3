//! How many keys a second `get_many` reads, 64 at a time, beside `get` one after the other: values of
//! 64 bytes, in memory and on disk, one thread.

mod common;

use std::hint::black_box;

use common::{Key, Random, Row, Scale, fill, keys, print, seconds};
use larder::ByteCache;

const IN_MEMORY: [usize; 2] = [10_000, 1_000_000];
const ON_DISK: usize = 100_000;
const VALUE_BYTES: usize = 64;
const HITS: usize = 2_000_000;
const HITS_ON_DISK: usize = 200_000;
const AT_ONCE: usize = 64;
const RUNS: usize = 5;

fn get(cache: &ByteCache, keys: &[Key], order: &[usize]) -> larder::Result<()> {
    for number in order {
        assert!(black_box(cache.get(&keys[*number])?).is_some(), "every key is there");
    }
    Ok(())
}

fn get_many(cache: &ByteCache, keys: &[Key], order: &[usize]) -> larder::Result<()> {
    for numbers in order.chunks(AT_ONCE) {
        let found = cache.get_many(numbers.iter().map(|number| &keys[*number][..]))?;
        assert!(black_box(found).iter().all(Option::is_some), "every key is there");
    }
    Ok(())
}

fn measure(cache: &ByteCache, entries: usize, hits: usize, runs: usize) -> larder::Result<()> {
    let keys = keys(entries);
    let mut value = [0; VALUE_BYTES];
    for (number, key) in keys.iter().enumerate() {
        fill(&mut value, number);
        cache.insert(key, &value)?;
    }
    cache.flush()?;
    let mut random = Random(5);
    let order: Vec<usize> = (0..hits).map(|_| random.index(keys.len())).collect();
    let mut rows = ["get", "get_many of 64"].map(Row::new);
    for _ in 0..runs {
        for (row, read) in rows.iter_mut().zip([get, get_many]) {
            let mut outcome = Ok(());
            let took = seconds(|| outcome = read(cache, &keys, &order));
            outcome?;
            #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
            row.figures.push(order.len() as f64 / took / 1e3);
        }
    }
    let tier = if cache.memory_len() > 0 { "memory" } else { "on disk" };
    print(&format!("thousand keys a second, {entries} entries, {tier}"), &mut rows);
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let scale = Scale::from_args();
    for entries in IN_MEMORY.map(|entries| scale.of(entries)) {
        let cache = ByteCache::builder().memory_max_entries(entries as u64).open()?;
        measure(&cache, entries, scale.of(HITS), scale.runs(RUNS))?;
    }
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("many.larder");
    let cache = ByteCache::builder().path(path).memory_max_entries(0).open()?;
    measure(&cache, scale.of(ON_DISK), scale.of(HITS_ON_DISK), scale.runs(RUNS))?;
    cache.close()?;
    Ok(())
}
