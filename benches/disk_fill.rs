//! How fast an empty disk tier is filled through write-behind until all is durable, and how long
//! the caller waits meanwhile: 200,000 entries of 1 KiB, one thread.

mod common;

use common::{Key, Random, Row, Scale, fill, keys, print, seconds};
use larder::ByteCache;

const ENTRIES: usize = 200_000;
const VALUE_BYTES: usize = 1_024;
const MEMORY_ENTRIES: u64 = 10_000;
const RUNS: usize = 5;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let scale = Scale::from_args();
    let mut keys = keys(scale.of(ENTRIES));
    let mut random = Random(3);
    for index in (1..keys.len()).rev() {
        keys.swap(index, random.index(index + 1));
    }
    let mut rates = [Row::new("until durable"), Row::new("until the last call returned")];
    let mut waits =
        ["half of the calls took up to", "99 % took up to", "the longest"].map(Row::new);
    let mut sizes = [Row::new("length of the file")];
    for _ in 0..scale.runs(RUNS) {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("fill.larder");
        let cache = ByteCache::builder().path(&path).memory_max_entries(MEMORY_ENTRIES).open()?;
        let mut micros = Vec::with_capacity(keys.len());
        let mut outcome = Ok(());
        let called = seconds(|| outcome = insert_all(&cache, &keys, &mut micros));
        outcome?;
        let mut outcome = Ok(());
        let flushed = seconds(|| outcome = cache.flush());
        outcome?;
        assert_eq!(cache.disk_len(), keys.len() as u64);

        #[expect(clippy::cast_precision_loss, reason = "figures for people")]
        let (count, length) = (keys.len() as f64, std::fs::metadata(&path)?.len() as f64);
        rates[0].figures.push(count / (called + flushed) / 1e3);
        rates[1].figures.push(count / called / 1e3);
        sizes[0].figures.push(length / f64::from(1 << 20));
        micros.sort_by(f64::total_cmp);
        for (row, percent) in waits.iter_mut().zip([50, 99, 100]) {
            row.figures.push(micros[(micros.len() * percent / 100).min(micros.len() - 1)]);
        }
        cache.close()?;
    }
    print("thousand inserts a second", &mut rates);
    print("microseconds", &mut waits);
    print("MiB", &mut sizes);
    Ok(())
}

/// Inserts an entry per key; adds how long each call took.
fn insert_all(cache: &ByteCache, keys: &[Key], micros: &mut Vec<f64>) -> larder::Result<()> {
    let mut value = [0; VALUE_BYTES];
    for (number, key) in keys.iter().enumerate() {
        fill(&mut value, number);
        let mut outcome = Ok(());
        micros.push(1e6 * seconds(|| outcome = cache.insert(key, &value)));
        outcome?;
    }
    Ok(())
}
