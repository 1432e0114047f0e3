//! Hit counts of replayed requests, against what an exact LRU must give.
//!
//! Recorded traces are compared with the figures of an independent simulator, where the folder with
//! both is there; generated ones with a list that is searched from end to end.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use larder::{ByteCache, Stats, WritePolicy};

/// What a trace asks for: a get that fills a miss, or a write.
#[derive(Clone)]
struct Request {
    key: Vec<u8>,
    value_len: usize,
    verb: Verb,
}

#[derive(Clone, Copy, PartialEq)]
enum Verb {
    Get,
    Insert,
}

fn replay(cache: &ByteCache, requests: &[Request]) -> Stats {
    let value = vec![7; requests.iter().map(|r| r.value_len).max().unwrap_or(0)];
    let mut buffer = Vec::new();
    for Request { key, value_len, verb } in requests {
        if *verb == Verb::Insert || !cache.get_into(key, &mut buffer).unwrap() {
            cache.insert(key, &value[..*value_len]).unwrap();
        }
    }
    let stats = cache.stats();
    assert_eq!(cache.validate(), Ok(()));
    stats
}

fn memory_only(entries: u64, shards: usize) -> ByteCache {
    ByteCache::builder().memory_max_entries(entries).shards(shards).open().unwrap()
}

/// The folder of recorded traces, if it is there.
fn traces() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/traces");
    folder.join("reference.csv").exists().then_some(folder)
}

/// A recorded trace, its sizes ignored: capacities count entries.
fn recorded(folder: &Path, name: &str) -> Vec<Request> {
    let file = File::open(folder.join(format!("{name}.txt.gz"))).unwrap();
    let mut text = String::new();
    flate2::read::GzDecoder::new(file).read_to_string(&mut text).unwrap();
    let key = |line: &str| line.split(' ').next().unwrap_or_default().as_bytes().to_vec();
    text.lines().map(|line| Request { key: key(line), value_len: 8, verb: Verb::Get }).collect()
}

/// The capacities and hit percentages of an exact LRU on a recorded trace.
fn reference(folder: &Path, name: &str) -> Vec<(u64, String)> {
    let rows = fs::read_to_string(folder.join("reference.csv")).unwrap();
    let row = |line: &str| match line.split(',').collect::<Vec<_>>()[..] {
        [trace, entries, "LRU", percent] if trace == name => {
            Some((entries.parse().unwrap(), percent.to_owned()))
        }
        _ => None,
    };
    let rows: Vec<_> = rows.lines().filter_map(row).collect();
    assert!(!rows.is_empty(), "no LRU rows of {name}");
    rows
}

#[expect(clippy::cast_precision_loss, reason = "two decimals are compared")]
fn percent(hits: u64, gets: u64) -> f64 {
    100.0 * hits as f64 / gets as f64
}

const SHARDS: [usize; 3] = [1, 8, 256];

/// Compares all capacities: at every number of shards, or, to save time, each at one of them.
fn check_recorded(name: &str, each: Each) {
    let Some(folder) = traces() else { return };
    let requests = recorded(&folder, name);
    for (row, (entries, expected)) in reference(&folder, name).into_iter().enumerate() {
        let shards = match each {
            Each::AtAll => &SHARDS[..],
            Each::AtOne => &SHARDS[row % 3..][..1],
        };
        for shards in shards {
            let stats = replay(&memory_only(entries, *shards), &requests);
            let found = format!("{:.2}", percent(stats.memory_hits, stats.gets));
            assert_eq!(found, expected, "{name}, {entries} entries, {shards} shards");
        }
    }
}

#[derive(Clone, Copy)]
enum Each {
    AtAll,
    AtOne,
}

#[test]
fn small_traces_hit_like_the_reference_lru() {
    for name in ["gli", "cpp", "apache"] {
        check_recorded(name, Each::AtAll);
    }
}

#[test]
fn a_shop_a_network_and_a_vault_hit_like_the_reference_lru() {
    for name in ["web12", "adaptsize", "corda"] {
        check_recorded(name, Each::AtOne);
    }
}

#[test]
fn a_loop_that_does_not_fit_never_hits() {
    // As the reference says of every capacity below 1,011; a tenth of it tells as much as all.
    let Some(folder) = traces() else { return };
    let requests = recorded(&folder, "loop");
    for shards in SHARDS {
        let stats = replay(&memory_only(1_000, shards), &requests[..requests.len() / 10]);
        assert_eq!(stats.memory_hits, 0, "{shards} shards");
    }
}

#[test]
fn a_database_hits_like_the_reference_lru() {
    let Some(folder) = traces() else { return };
    let requests = recorded(&folder, "OLTP");
    let stats = replay(&memory_only(1_000, 8), &requests);
    assert_eq!(format!("{:.2}", percent(stats.memory_hits, stats.gets)), "32.83");
}

/// What a tier may hold at most.
#[derive(Clone, Copy)]
enum Limit {
    Entries(usize),
    Bytes(usize),
}

/// The model: keys and charges, least recently used first.
struct Lru {
    limit: Limit,
    held: Vec<(Vec<u8>, usize)>,
}

impl Lru {
    fn take(&mut self, key: &[u8]) -> Option<(Vec<u8>, usize)> {
        let at = self.held.iter().rposition(|held| held.0 == key)?;
        Some(self.held.remove(at))
    }

    fn is_over(&self) -> bool {
        match self.limit {
            Limit::Entries(max) => self.held.len() > max,
            Limit::Bytes(max) => self.held.iter().map(|held| held.1).sum::<usize>() > max,
        }
    }

    /// Serves a request; gives whether it was a hit.
    fn serve(&mut self, request: &Request) -> bool {
        let found = self.take(&request.key);
        let hit = request.verb == Verb::Get && found.is_some();
        let fresh = (request.key.clone(), request.key.len() + request.value_len);
        self.held.push(found.filter(|_| hit).unwrap_or(fresh));
        while self.is_over() {
            self.held.remove(0);
        }
        hit
    }
}

fn hits_of_model(limit: Limit, requests: &[Request]) -> u64 {
    let mut lru = Lru { limit, held: Vec::new() };
    requests.iter().map(|request| u64::from(lru.serve(request))).sum()
}

/// `SplitMix64`.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }
}

/// Skewed draws, scans over keys in turn, re-reads of what was asked a moment ago, and, in one case
/// of `writes_one_in`, a write that changes the size.
fn generated(count: usize, writes_one_in: u64) -> Vec<Request> {
    const KEYS: u64 = 2_000;
    let mut random = Random(1);
    let mut requests: Vec<Request> = Vec::with_capacity(count + 256);
    while requests.len() < count {
        let length = match random.below(100) {
            0 => random.below(200),
            _ => 1,
        };
        // A product of uniform draws is small most of the time.
        let start = random.below(KEYS) * random.below(KEYS) / KEYS * random.below(KEYS) / KEYS;
        for step in 0..length {
            let number = (start + step) % KEYS;
            let mut request = Request {
                key: format!("key {number}").into_bytes(),
                value_len: usize::try_from(number * 7_919 % 500).unwrap(),
                verb: Verb::Get,
            };
            if random.below(writes_one_in) == 0 {
                request.value_len = usize::try_from(random.below(500)).unwrap();
                request.verb = Verb::Insert;
            }
            requests.push(request);
        }
        if random.below(5) == 0 {
            let recent = u64::try_from(requests.len()).unwrap().min(100);
            let back = usize::try_from(random.below(recent)).unwrap();
            let again = requests[requests.len() - 1 - back].clone();
            requests.push(Request { verb: Verb::Get, ..again });
        }
    }
    requests
}

#[test]
fn memory_hits_like_a_list_at_every_number_of_shards() {
    let requests = generated(10_000, 20);
    let limits = [Limit::Entries(1), Limit::Entries(50), Limit::Entries(300)];
    for limit in limits.into_iter().chain([Limit::Bytes(1_000), Limit::Bytes(60_000)]) {
        let expected = hits_of_model(limit, &requests);
        // Gets have less to look at where nothing may be idle for too long.
        let idle = [None, Some(Duration::from_secs(1_000_000_000))];
        for (shards, idle) in [1, 2, 8, 64, 256].into_iter().flat_map(|n| idle.map(|i| (n, i))) {
            let builder = ByteCache::builder().shards(shards);
            let builder = match idle {
                Some(idle) => builder.time_to_idle(idle),
                None => builder,
            };
            let (name, builder) = match limit {
                Limit::Entries(max) => ("entries", builder.memory_max_entries(max as u64)),
                Limit::Bytes(max) => ("bytes", builder.memory_max_bytes(max as u64)),
            };
            let stats = replay(&builder.open().unwrap(), &requests);
            assert_eq!(stats.memory_hits, expected, "limit by {name}, {shards} shards, {idle:?}");
        }
    }
}

const MEMORY_ENTRIES: usize = 50;
const DISK_ENTRIES: usize = 400;

fn two_tiers(folder: &Path, policy: WritePolicy) -> ByteCache {
    two_tiers_of(folder, policy, MEMORY_ENTRIES, DISK_ENTRIES)
}

fn two_tiers_of(folder: &Path, policy: WritePolicy, memory: usize, disk: usize) -> ByteCache {
    ByteCache::builder()
        .path(folder.join("cache.larder"))
        .memory_max_entries(memory as u64)
        .disk_max_entries(disk as u64)
        .write_policy(policy)
        .open()
        .unwrap()
}

#[test]
fn two_tiers_hit_like_one_list_with_write_through() {
    let requests = generated(2_500, 1_000);
    let folder = tempfile::tempdir().unwrap();
    let stats = replay(&two_tiers(folder.path(), WritePolicy::Through), &requests);
    assert_eq!(stats.memory_hits, hits_of_model(Limit::Entries(MEMORY_ENTRIES), &requests));
    let both = hits_of_model(Limit::Entries(DISK_ENTRIES), &requests);
    assert_eq!(stats.memory_hits + stats.disk_hits, both);
}

/// With write-behind the disk evicts when it commits, so what is pending is on top of its limit.
/// Flushing every so many requests bounds that from both sides.
#[test]
fn two_tiers_hit_like_a_list_longer_by_what_is_pending_with_write_behind() {
    const PENDING_MAX: usize = 32;
    let requests = generated(6_000, 1_000);
    let folder = tempfile::tempdir().unwrap();
    let cache = two_tiers(folder.path(), WritePolicy::behind());
    for part in requests.chunks(PENDING_MAX) {
        replay(&cache, part);
        cache.flush().unwrap();
    }
    let stats = cache.stats();
    assert_eq!(stats.memory_hits, hits_of_model(Limit::Entries(MEMORY_ENTRIES), &requests));
    let least = hits_of_model(Limit::Entries(DISK_ENTRIES), &requests);
    let most = hits_of_model(Limit::Entries(DISK_ENTRIES + PENDING_MAX), &requests);
    let both = stats.memory_hits + stats.disk_hits;
    assert!((least..=most).contains(&both), "{both} hits, not {least} to {most}");
}

/// What is pending is bounded by a share of the disk tier as well, so nobody has to flush for that.
#[test]
fn two_tiers_hit_like_one_list_within_a_fifth_of_a_point_with_write_behind() {
    let (memory, disk) = (200, 1_000);
    let requests = generated(60_000, 1_000);
    let folder = tempfile::tempdir().unwrap();
    let stats =
        replay(&two_tiers_of(folder.path(), WritePolicy::behind(), memory, disk), &requests);
    assert_eq!(stats.memory_hits, hits_of_model(Limit::Entries(memory), &requests));
    let expected = percent(hits_of_model(Limit::Entries(disk), &requests), stats.gets);
    let both = percent(stats.memory_hits + stats.disk_hits, stats.gets);
    assert!((both - expected).abs() <= 0.2, "{both} % hits, not {expected} %");
}
