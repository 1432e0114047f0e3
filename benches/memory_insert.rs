//! How many inserts a second into a memory tier that is full, and how many requests a second of a
//! skewed workload that fills its misses.

mod common;
#[path = "common/zipf.rs"]
mod zipf;

use common::{Key, Row, Scale, fill, keys, print, seconds};
use larder::ByteCache;
use zipf::zipf;

const ENTRIES: usize = 10_000;
const VALUE_BYTES: usize = 64;
/// The cache holds a tenth of the keys.
const KEYS: usize = 10 * ENTRIES;
const REQUESTS: usize = 2_000_000;
const RUNS: usize = 7;

/// Every key is new to a cache that is full of others.
fn insert(cache: &ByteCache, keys: &[Key], count: usize) -> larder::Result<()> {
    let mut value = [0; VALUE_BYTES];
    fill(&mut value, count);
    for key in keys.iter().cycle().take(count) {
        cache.insert(key, &value)?;
    }
    Ok(())
}

fn get_or_insert(cache: &ByteCache, keys: &[Key], requests: &[usize]) -> larder::Result<()> {
    let mut value = [0; VALUE_BYTES];
    let mut buffer = Vec::new();
    for number in requests {
        let key = &keys[*number];
        if !cache.get_into(key, &mut buffer)? {
            fill(&mut value, *number);
            cache.insert(key, &value)?;
        }
    }
    Ok(())
}

fn main() -> larder::Result<()> {
    let scale = Scale::from_args();
    let keys = keys(KEYS);
    let requests = zipf(KEYS, scale.of(REQUESTS));
    let mut rows = [Row::new("insert, full"), Row::new("get or insert, Zipf, a tenth fits")];
    let mut ratio = 0.0;
    for _ in 0..scale.runs(RUNS) {
        let caches =
            [(); 2].map(|()| ByteCache::builder().memory_max_entries(ENTRIES as u64).open());
        let [full, skewed] = caches;
        let (full, skewed) = (full?, skewed?);
        insert(&full, &keys, ENTRIES)?;
        let mut outcome = Ok(());
        let took = seconds(|| outcome = insert(&full, &keys, requests.len()));
        outcome?;
        rows[0].figures.push(millions(requests.len(), took));

        get_or_insert(&skewed, &keys, &requests)?;
        skewed.reset_stats();
        let mut outcome = Ok(());
        let took = seconds(|| outcome = get_or_insert(&skewed, &keys, &requests));
        outcome?;
        rows[1].figures.push(millions(requests.len(), took));
        ratio = skewed.stats().hit_ratio();
    }
    print("million a second", &mut rows);
    print(
        "percent",
        &mut [Row { name: "hits of the Zipf requests", figures: vec![100.0 * ratio] }],
    );
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
fn millions(count: usize, seconds: f64) -> f64 {
    count as f64 / seconds / 1e6
}
