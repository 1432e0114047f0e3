//! What each strategy costs: hits, inserts into a full memory tier, and a skewed workload that fills its
//! misses, with its hit ratio; on one thread and on two.

mod common;
#[path = "common/zipf.rs"]
mod zipf;

use common::{Key, Row, Scale, fill, keys, print, seconds};
use larder::{ByteCache, Strategy};
use zipf::zipf;

const ENTRIES: usize = 10_000;
const VALUE_BYTES: usize = 64;
/// The cache holds a tenth of the keys.
const KEYS: usize = 10 * ENTRIES;
const REQUESTS: usize = 2_000_000;
const RUNS: usize = 5;

/// One way to use a cache; gives nothing, and panics where it must not fail.
type Work = fn(&ByteCache, &[Key], &[usize]);

fn hits(cache: &ByteCache, keys: &[Key], requests: &[usize]) {
    for number in requests {
        let found = cache.get(&keys[number % ENTRIES]);
        assert!(std::hint::black_box(found).is_ok_and(|found| found.is_some()), "all fit");
    }
}

fn inserts(cache: &ByteCache, keys: &[Key], requests: &[usize]) {
    let first = requests.first().copied().unwrap_or_default();
    for key in keys.iter().cycle().skip(first).take(requests.len()) {
        assert!(cache.insert(key, &[1; VALUE_BYTES]).is_ok(), "there is nothing to fail");
    }
}

fn get_or_insert(cache: &ByteCache, keys: &[Key], requests: &[usize]) {
    let mut value = [0; VALUE_BYTES];
    for number in requests {
        let key = &keys[*number];
        let hit = cache.get(key).map(|found| found.is_some());
        if !hit.unwrap_or_default() {
            fill(&mut value, *number);
            assert!(cache.insert(key, &value).is_ok(), "there is nothing to fail");
        }
    }
}

fn main() -> larder::Result<()> {
    let scale = Scale::from_args();
    let keys = keys(KEYS);
    let requests = zipf(KEYS, scale.of(REQUESTS));
    let mut ratios = Strategy::BUILT_IN.map(|strategy| Row::new(strategy.name()));
    let cases: [(Work, usize, &str); 6] = [
        (hits, 1, "million hits a second, 1 thread"),
        (inserts, 1, "million inserts a second, full, 1 thread"),
        (get_or_insert, 1, "million requests, Zipf, a tenth fits, 1 thread"),
        (hits, 2, "million hits a second, 2 threads"),
        (inserts, 2, "million inserts a second, full, 2 threads"),
        (get_or_insert, 2, "million requests, Zipf, a tenth fits, 2 threads"),
    ];
    let mut tables = cases.map(|_| Strategy::BUILT_IN.map(|strategy| Row::new(strategy.name())));
    for _ in 0..scale.runs(RUNS) {
        for (nth, strategy) in Strategy::BUILT_IN.iter().enumerate() {
            for ((work, threads, title), table) in cases.iter().zip(&mut tables) {
                let builder = ByteCache::builder().memory_max_entries(ENTRIES as u64);
                let cache = builder.strategy(strategy.clone()).open()?;
                for key in &keys[..ENTRIES] {
                    cache.insert(key, &[1; VALUE_BYTES])?;
                }
                cache.reset_stats();
                let took = seconds(|| {
                    std::thread::scope(|scope| {
                        for part in requests.chunks(requests.len().div_ceil(*threads)) {
                            let (cache, keys) = (&cache, &keys);
                            scope.spawn(move || work(cache, keys, part));
                        }
                    });
                });
                #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
                table[nth].figures.push(requests.len() as f64 / took / 1e6);
                if title.starts_with("million requests") && *threads == 1 {
                    ratios[nth].figures.push(100.0 * cache.stats().hit_ratio());
                }
            }
        }
    }
    for ((.., title), table) in cases.iter().zip(&mut tables) {
        print(title, table);
    }
    print("percent of the Zipf requests that hit", &mut ratios);
    Ok(())
}
