//! What overwriting random entries at full speed does to the caller's waits and to the file: 100,000
//! entries of 1 KiB, one thread; and the same while the file is compacted again and again.

mod common;

use std::sync::atomic::{AtomicBool, Ordering};

use common::{Key, Random, Row, Scale, fill, keys, print, seconds};
use larder::ByteCache;

const ENTRIES: usize = 100_000;
const VALUE_BYTES: usize = 1_024;
const WRITES: usize = 200_000;
const RUNS: usize = 3;
/// The occupied blocks are looked at after so many writes.
const LOOK: usize = 2_000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let scale = Scale::from_args();
    let keys = keys(scale.of(ENTRIES));
    let mut waits = ["the longest call", "the longest call, compacting"].map(Row::new);
    let mut percents = ["99.9 % took up to", "99.9 % took up to, compacting"].map(Row::new);
    let mut rates =
        ["thousand writes a second", "thousand writes a second, compacting"].map(Row::new);
    let mut ratios = [Row::new("occupied by bytes of entries, at most")];
    let mut counts = [Row::new("compactions")];
    for _ in 0..scale.runs(RUNS) {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("churn.larder");
        let cache = ByteCache::builder().path(&path).memory_max_entries(1_000).open()?;
        let mut value = [0; VALUE_BYTES];
        for (number, key) in keys.iter().enumerate() {
            fill(&mut value, number);
            cache.insert(key, &value)?;
        }
        cache.flush()?;
        let ended = AtomicBool::new(false);
        for (nth, is_compacted) in [false, true].into_iter().enumerate() {
            let (mut micros, mut most) = (Vec::new(), 0.0_f64);
            let mut done = 0_u32;
            let mut outcome = Ok(());
            let mut compacted = Ok(());
            ended.store(false, Ordering::Relaxed);
            let took = std::thread::scope(|scope| {
                if is_compacted {
                    scope.spawn(|| {
                        while !ended.load(Ordering::Relaxed) && compacted.is_ok() {
                            compacted = cache.compact().map(drop);
                            done += 1;
                        }
                    });
                }
                let took = seconds(|| {
                    outcome = overwrite(&cache, &path, &keys, &scale, &mut micros, &mut most);
                });
                ended.store(true, Ordering::Relaxed);
                took
            });
            outcome?;
            compacted?;
            micros.sort_by(f64::total_cmp);
            #[expect(clippy::cast_precision_loss, reason = "figures for people")]
            rates[nth].figures.push(micros.len() as f64 / took / 1e3);
            waits[nth].figures.push(micros[micros.len() - 1] / 1e3);
            percents[nth].figures.push(micros[micros.len() - 1 - micros.len() / 1_000]);
            if is_compacted {
                counts[0].figures.push(done.into());
            } else {
                ratios[0].figures.push(most);
            }
        }
        cache.close()?;
    }
    print("milliseconds", &mut waits);
    print("microseconds", &mut percents);
    print("rate", &mut rates);
    print("ratio", &mut ratios);
    print("number", &mut counts);
    Ok(())
}

/// Overwrites random entries; adds how long each call took, and notes what the file occupies at most by
/// the bytes of its entries.
fn overwrite(
    cache: &ByteCache,
    path: &std::path::Path,
    keys: &[Key],
    scale: &Scale,
    micros: &mut Vec<f64>,
    most: &mut f64,
) -> larder::Result<()> {
    let (mut random, mut value) = (Random(9), [0; VALUE_BYTES]);
    for number in 0..scale.of(WRITES) {
        let key = &keys[random.index(keys.len())];
        fill(&mut value, number);
        let mut outcome = Ok(());
        micros.push(1e6 * seconds(|| outcome = cache.insert(key, &value)));
        outcome?;
        if number % LOOK == 0 {
            #[expect(clippy::cast_precision_loss, reason = "figures for people")]
            let live = (keys.len() * (16 + VALUE_BYTES)) as f64;
            *most = most.max(occupied(path) / live);
        }
    }
    Ok(())
}

/// Bytes that the file occupies.
fn occupied(path: &std::path::Path) -> f64 {
    #[cfg(unix)]
    let bytes =
        |metadata: std::fs::Metadata| 512 * std::os::unix::fs::MetadataExt::blocks(&metadata);
    #[cfg(not(unix))]
    let bytes = |metadata: std::fs::Metadata| metadata.len();
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    std::fs::metadata(path).map_or(0.0, |metadata| bytes(metadata) as f64)
}
