//! Looking after the file: verification finds what is wrong with it, and puts it right; compaction makes it
//! small and loses nothing.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use larder::testing::{Device, Volume};
use larder::{
    ByteCache, Cache, CompactReport, ErrorKind, InsertOptions, ManualClock, Timestamp,
    VerifyOptions, VerifyReport, WhenFull, WritePolicy,
};
use redb::{ReadableTable, TableDefinition, WriteTransaction};

use crate::errors::refused;
use crate::files::{ENTRIES, INDEX, META, Place, ROWS, content, database, flip, name, place};
use crate::support::{Rng, Watchdog, seed};

const ORDER: TableDefinition<'static, &[u8], ()> = TableDefinition::new("order");
const EXPIRY: TableDefinition<'static, &[u8], ()> = TableDefinition::new("expiry");

/// A file with some entries, every other one with a deadline far away, closed.
fn filled() -> Place {
    let place = place();
    let cache = place.builder().open().unwrap();
    for n in 0..ENTRIES {
        let hour = Duration::from_secs(3_600);
        let options = InsertOptions::default();
        let options = if n % 2 == 0 { options.ttl(hour) } else { options };
        cache.insert_with(&name(n), &content(n), &options).unwrap();
    }
    cache.close().unwrap();
    place
}

/// Changes a closed file by hand.
fn by_hand(place: &Place, change: impl FnOnce(&WriteTransaction)) {
    let database = database(&place.path);
    let transaction = database.begin_write().unwrap();
    change(&transaction);
    transaction.commit().unwrap();
}

fn index_of(transaction: &WriteTransaction, n: u8) -> (u64, u64) {
    let index = transaction.open_table(INDEX).unwrap();
    index.get(&name(n)[..]).unwrap().unwrap().value()
}

/// The row of a table of moments that ends with a name.
fn moment_of(
    transaction: &WriteTransaction,
    table: &TableDefinition<'static, &[u8], ()>,
    n: u8,
) -> Vec<u8> {
    let table = transaction.open_table(*table).unwrap();
    let mut rows = table.iter().unwrap().map(|row| row.unwrap().0.value().to_vec());
    rows.find(|row| row.ends_with(&name(n))).unwrap()
}

fn counts(report: &VerifyReport) -> [u64; 6] {
    let VerifyReport { damaged, missing_rows, stray_rows, unordered, wrong_deadlines, .. } =
        *report;
    [damaged, missing_rows, stray_rows, unordered, wrong_deadlines, report.wrong_totals.into()]
}

fn repair() -> VerifyOptions<'static> {
    VerifyOptions::default().repair(true)
}

/// What a fault looks like: how it is made, what verification counts, how many entries are left.
type Fault = (&'static str, fn(&Place), [u64; 6], u8);

const FAULTS: &[Fault] = &[
    ("nothing", |_| (), [0; 6], ENTRIES),
    ("a value", |place| assert!(flip(place, &content(7)) > 0), [1, 0, 0, 0, 0, 0], ENTRIES - 1),
    (
        "two values",
        |place| assert!(flip(place, &content(8)) * flip(place, &content(9)) > 0),
        [2, 0, 0, 0, 0, 0],
        ENTRIES - 2,
    ),
    (
        "a row that is none",
        |place| {
            by_hand(place, |t| {
                let place = index_of(t, 3).0;
                t.open_table(ROWS).unwrap().insert(place, &b"\xff\xff short"[..]).unwrap();
            });
        },
        [0, 1, 1, 0, 0, 0],
        ENTRIES - 1,
    ),
    (
        "an index that leads nowhere",
        |place| {
            by_hand(place, |t| {
                let stamp = index_of(t, 3).1;
                t.open_table(INDEX).unwrap().insert(&name(3)[..], (1_000_000, stamp)).unwrap();
            });
        },
        [0, 1, 1, 0, 0, 0],
        ENTRIES - 1,
    ),
    (
        "an index that leads to another's row",
        |place| {
            by_hand(place, |t| {
                let (stamp, other) = (index_of(t, 3).1, index_of(t, 4).0);
                t.open_table(INDEX).unwrap().insert(&name(3)[..], (other, stamp)).unwrap();
            });
        },
        [0, 1, 1, 0, 0, 0],
        ENTRIES - 1,
    ),
    (
        "an entry out of the order",
        |place| {
            by_hand(place, |t| {
                let row = moment_of(t, &ORDER, 5);
                t.open_table(ORDER).unwrap().remove(row.as_slice()).unwrap();
            });
        },
        [0, 0, 0, 1, 0, 0],
        ENTRIES,
    ),
    (
        "a deadline that is not there",
        |place| {
            by_hand(place, |t| {
                let row = moment_of(t, &EXPIRY, 6);
                t.open_table(EXPIRY).unwrap().remove(row.as_slice()).unwrap();
            });
        },
        [0, 0, 0, 0, 1, 0],
        ENTRIES,
    ),
    (
        "deadlines of nobody",
        |place| {
            by_hand(place, |t| {
                let mut row = moment_of(t, &EXPIRY, 6);
                row[7] ^= 1;
                let mut expiry = t.open_table(EXPIRY).unwrap();
                expiry.insert(row.as_slice(), ()).unwrap();
                *row.last_mut().unwrap() = 255;
                expiry.insert(row.as_slice(), ()).unwrap();
            });
        },
        [0, 0, 0, 0, 2, 0],
        ENTRIES,
    ),
    (
        "totals",
        |place| {
            by_hand(place, |t| {
                let mut meta = t.open_table(META).unwrap();
                let mut totals = meta.get("totals").unwrap().unwrap().value().to_vec();
                totals[8] ^= 1;
                let crc = crc32(&totals[..24]).to_le_bytes();
                totals[24..].copy_from_slice(&crc);
                meta.insert("totals", totals.as_slice()).unwrap();
            });
        },
        [0, 0, 0, 0, 0, 1],
        ENTRIES,
    ),
];

/// CRC-32 (IEEE), bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xEDB8_8320 * (crc & 1)))
    })
}

#[test]
fn verification_finds_each_kind_of_fault_and_repair_puts_it_right() {
    for (what, plant, wanted, left) in FAULTS {
        let place = filled();
        plant(&place);
        let cache = place.builder().open().unwrap();
        let report = cache.verify().unwrap();
        assert_eq!(counts(&report), *wanted, "{what}: {report:?}");
        assert_eq!((report.rows, report.repaired), (ENTRIES.into(), 0), "{what}");
        assert_eq!(report.is_ok(), *wanted == [0; 6], "{what}");
        assert_eq!(cache.verify().unwrap(), report, "{what}: it was changed");
        let repaired = cache.verify_with(repair()).unwrap();
        let faults = wanted.iter().sum();
        assert_eq!(
            repaired,
            {
                let mut r = report;
                r.repaired = faults;
                r
            },
            "{what}"
        );
        let after = cache.verify().unwrap();
        assert!(after.is_ok(), "{what}: {after:?}");
        assert_eq!(after.entries, u64::from(*left), "{what}");
        let bytes = |cache: &ByteCache| cache.iter().map(|e| e.unwrap().size_bytes()).sum::<u64>();
        assert_eq!((cache.disk_len(), cache.disk_bytes()), (after.entries, after.bytes), "{what}");
        assert_eq!(bytes(&cache), after.bytes, "{what}");
        cache.close().unwrap();
        let cache = place.builder().open().unwrap();
        assert_eq!(cache.verify().unwrap(), after, "{what}: opened again");
        // Order and deadlines are as they were.
        cache.set_disk_limits(Some(3), None).unwrap();
        let kept: Vec<_> = cache.keys().map(Result::unwrap).collect();
        assert_eq!(kept, [name(47), name(48), name(49)], "{what}");
    }
}

#[test]
fn verification_finds_values_that_are_none_of_the_type() {
    let place = place();
    let cache: Cache<str, String> = Cache::builder().path(&place.path).open().unwrap();
    cache.insert("good", &"a text".to_owned()).unwrap();
    cache.insert("bad", &"x".repeat(40)).unwrap();
    cache.close().unwrap();
    // No UTF-8, and a checksum that is right.
    by_hand(&place, |t| {
        let index = t.open_table(INDEX).unwrap();
        let at = index.get(&b"bad"[..]).unwrap().unwrap().value().0;
        let mut rows = t.open_table(ROWS).unwrap();
        let mut row = rows.get(at).unwrap().unwrap().value().to_vec();
        // A single one can be in its stamp.
        let x = row.windows(40).position(|bytes| bytes == [b'x'; 40]).unwrap();
        row[x] = 0xFF;
        let key = 2 + b"bad".len();
        let crc = crc32(&[&row[2..key], &row[key + 4..]].concat()).to_le_bytes();
        row[key..key + 4].copy_from_slice(&crc);
        rows.insert(at, row.as_slice()).unwrap();
    });
    let cache: Cache<str, String> = Cache::builder().path(&place.path).open().unwrap();
    let report = cache.verify_with(repair()).unwrap();
    assert_eq!((counts(&report), report.repaired), ([1, 0, 0, 0, 0, 0], 1));
    assert!(cache.verify().unwrap().is_ok());
    assert_eq!((cache.disk_len(), cache.stats().corrupt), (1, 1));
    assert_eq!(cache.get("good").unwrap().unwrap().as_str(), "a text");
}

#[test]
fn verification_tells_how_far_it_is() {
    let place = place();
    let cache = place.builder().open().unwrap();
    let items: Vec<_> = (0..5_000_u32).map(u32::to_be_bytes).collect();
    cache.insert_many(items.iter().map(|key| (&key[..], &b"value"[..]))).unwrap();
    cache.flush().unwrap();
    let mut seen = Vec::new();
    let options = VerifyOptions::default().progress(|done, total| seen.push((done, total)));
    let report = cache.verify_with(options).unwrap();
    assert!(report.is_ok());
    assert!(seen.len() >= 5 && seen.is_sorted(), "{seen:?}");
    assert_eq!(*seen.last().unwrap(), (5_000, 5_000));
    assert!(seen.iter().all(|(done, total)| done <= total));
}

#[test]
fn verification_without_a_disk_or_after_the_end() {
    let cache = ByteCache::builder().memory_max_entries(10).open().unwrap();
    cache.insert(b"key", b"value").unwrap();
    assert_eq!(cache.verify_with(repair()).unwrap(), VerifyReport::default());
    let place = filled();
    let cache = place.builder().open().unwrap();
    let clone = cache.clone();
    cache.close().unwrap();
    assert_eq!(clone.verify().unwrap_err().kind(), ErrorKind::Closed);
}

/// Ends the threads of a test, also if it fails.
struct SetWhenDropped<'a>(&'a AtomicBool);

impl Drop for SetWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Whatever is committed meanwhile: replaced, removed, evicted, expired, cleared.
#[test]
fn verification_of_a_busy_cache_finds_nothing() {
    let _watchdog = Watchdog::start("verification of a busy cache".to_owned());
    let place = place();
    let cache = place.builder().memory_max_entries(100).disk_max_entries(8_000).open().unwrap();
    let done = AtomicBool::new(false);
    let seed = seed();
    std::thread::scope(|scope| {
        let (cache, done) = (&cache, &done);
        scope.spawn(move || {
            let mut rng = Rng::new(seed);
            while !done.load(Ordering::Acquire) {
                let key = rng.below(10_000).to_be_bytes();
                let options = InsertOptions::default();
                let options = match rng.below(4) {
                    0 => options.ttl(Duration::from_millis(rng.below(200) + 1)),
                    _ => options,
                };
                let value = vec![7; rng.index(300)];
                match rng.below(50_000) {
                    0 => drop(cache.clear().unwrap()),
                    1..10_000 => drop(cache.invalidate(&key).unwrap()),
                    10_000..20_000 => drop(cache.get(&key).unwrap()),
                    _ => cache.insert_with(&key, &value, &options).unwrap(),
                }
            }
        });
        let _ended = SetWhenDropped(done);
        let mut rows = 0;
        while rows < 150_000 {
            match cache.verify() {
                Ok(report) => {
                    assert!(report.is_ok(), "{report:?}");
                    rows += report.rows;
                }
                Err(error) => assert_eq!(error.kind(), ErrorKind::Busy),
            }
        }
    });
    // Until nothing is left that expires by itself.
    std::thread::sleep(Duration::from_millis(250));
    cache.purge_expired().unwrap();
    cache.flush().unwrap();
    let report = cache.verify().unwrap();
    assert!(report.is_ok());
    assert_eq!((report.entries, report.bytes), (cache.disk_len(), cache.disk_bytes()));
}

/// Everything that an entry has, by key.
fn all_of(cache: &ByteCache) -> Vec<String> {
    let line = |entry: larder::ByteEntry| {
        let tags: Vec<_> = entry.tags().collect();
        let metadata: Vec<_> = entry.metadata().collect();
        let times = (entry.created_at(), entry.accessed_at(), entry.expires_at());
        format!("{:?} {:?} {times:?} {tags:?} {metadata:?}", entry.key(), &entry[..])
    };
    cache.iter().map(|entry| line(entry.unwrap())).collect()
}

#[cfg(unix)]
pub(crate) fn occupied(place: &Place) -> u64 {
    std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(&place.path).unwrap()) * 512
}

/// `check` of this cache, and of the same one closed and opened again.
fn now_and_reopened(
    cache: &ByteCache,
    builder: impl Fn() -> larder::Builder<ByteCache>,
    check: impl Fn(&ByteCache),
) -> ByteCache {
    check(cache);
    cache.clone().close().unwrap();
    let cache = builder().open().unwrap();
    check(&cache);
    cache
}

#[test]
#[cfg(unix)]
fn compaction_keeps_everything_and_gives_space_back() {
    let place = place();
    let clock = ManualClock::new(Timestamp::from_secs(1_000_000));
    let builder = || place.builder().memory_max_entries(50).clock(clock.clone());
    let cache = builder().open().unwrap();
    for n in 0..4_000_u32 {
        clock.advance(Duration::from_millis(1));
        let ttl = Duration::from_secs(u64::from(n % 100) + 10);
        let options = InsertOptions::default().metadata([("n", n.to_string())]);
        let options = if n % 3 == 0 { options.ttl(ttl) } else { options };
        let options = if n % 5 == 0 { options.tags(["five"]) } else { options };
        cache.insert_with(&n.to_be_bytes(), &vec![7; 2_000], &options).unwrap();
    }
    cache.flush().unwrap();
    let full = occupied(&place);
    for n in (0..4_000_u32).filter(|n| n % 10 != 0) {
        assert!(cache.invalidate(&n.to_be_bytes()).unwrap());
    }
    // Recency that is not that of the writes.
    for n in (0..4_000_u32).rev().filter(|n| n % 20 == 0) {
        clock.advance(Duration::from_millis(1));
        assert!(cache.get(&n.to_be_bytes()).unwrap().is_some());
    }
    cache.flush().unwrap();
    let (before, held) = (all_of(&cache), (cache.disk_len(), cache.disk_bytes()));
    let report = cache.compact().unwrap();
    // It may have been compacted by itself before.
    assert!(report.occupied_before >= report.occupied_after, "{report:?}");
    assert!(report.occupied_after < full / 4, "{report:?}, {full} when full");
    assert_eq!((report.occupied_after, report.dropped), (occupied(&place), 0));
    assert!(!place.beside(".new").exists());
    let cache = now_and_reopened(&cache, builder, |cache| {
        assert!(all_of(cache) == before);
        assert_eq!((cache.disk_len(), cache.disk_bytes()), held);
        assert!(cache.verify().unwrap().is_ok());
    });
    // What was read last is kept: 0 is the very last one, 20 the one before.
    cache.set_disk_limits(Some(3), None).unwrap();
    let kept: Vec<_> = cache.keys().map(Result::unwrap).collect();
    assert_eq!(kept, [0_u32, 20, 40].map(u32::to_be_bytes));
    clock.advance(Duration::from_secs(1_000));
    cache.purge_expired().unwrap();
    assert_eq!(cache.keys().count(), 2, "0 had a deadline");
    assert!(cache.verify().unwrap().is_ok());
}

#[test]
fn compaction_leaves_damaged_rows_out() {
    let place = filled();
    assert!(flip(&place, &content(7)) * flip(&place, &content(8)) > 0);
    let cache = place.builder().open().unwrap();
    let report = cache.compact().unwrap();
    assert_eq!((report.dropped, cache.stats().corrupt), (2, 2));
    assert_eq!(cache.disk_len(), u64::from(ENTRIES) - 2);
    let verified = cache.verify().unwrap();
    assert!(verified.is_ok(), "{verified:?}");
    for n in 0..ENTRIES {
        let found = cache.get(&name(n)).unwrap();
        assert_eq!(found.is_some(), n != 7 && n != 8);
        assert!(found.is_none_or(|entry| entry[..] == content(n)[..]));
    }
}

#[test]
fn compaction_without_a_disk_or_after_the_end() {
    let cache = ByteCache::builder().memory_max_entries(10).open().unwrap();
    assert_eq!(cache.compact().unwrap(), CompactReport::default());
    let place = filled();
    let cache = place.builder().open().unwrap();
    let clone = cache.clone();
    cache.close().unwrap();
    assert_eq!(clone.compact().unwrap_err().kind(), ErrorKind::Closed);
}

/// The recency of what is copied already changes while the rest is.
#[test]
fn compaction_keeps_the_recency_that_changes_meanwhile() {
    const ENTRIES: u64 = 12_000;
    let _watchdog = Watchdog::start("recency during a compaction".to_owned());
    let place = place();
    let cache = place.builder().memory_max_entries(0).open().unwrap();
    let key = |n: u64| n.to_be_bytes();
    for n in 0..ENTRIES {
        cache.insert(&key(n), &[7; 800]).unwrap();
    }
    cache.flush().unwrap();
    let mut last: BTreeMap<u64, u64> = (0..ENTRIES).map(|n| (n, n)).collect();
    let mut count = ENTRIES;
    let mut rng = Rng::new(seed());
    std::thread::scope(|scope| {
        let compaction = scope.spawn(|| cache.compact().unwrap());
        while !compaction.is_finished() {
            for _ in 0..50 {
                let n = rng.below(ENTRIES);
                assert!(cache.get(&key(n)).unwrap().is_some());
                last.insert(n, count);
                count += 1;
            }
            cache.flush().unwrap();
        }
    });
    // How often depends on the machine.
    assert!(count > ENTRIES, "{count}");
    let mut oldest_first: Vec<u64> = (0..ENTRIES).collect();
    oldest_first.sort_by_key(|n| last[n]);
    let kept = 1_000;
    cache.set_disk_limits(Some(kept), None).unwrap();
    let newest = &oldest_first[oldest_first.len() - usize::try_from(kept).unwrap()..];
    let mut expected: Vec<Vec<u8>> = newest.iter().map(|n| key(*n).to_vec()).collect();
    expected.sort();
    let found: Vec<_> = cache.keys().map(Result::unwrap).collect();
    assert!(found == expected, "{} of {kept} are right", {
        found.iter().filter(|key| expected.contains(key)).count()
    });
}

/// One compaction after the other, while a map says what each key has to be.
fn compact_under_load(policy: WritePolicy, ops: u32) {
    let _watchdog = Watchdog::start(format!("compaction under load, {policy:?}"));
    let place = place();
    let builder = || place.builder().write_policy(policy);
    let cache = builder().memory_max_entries(200).open().unwrap();
    let mut rng = Rng::new(seed());
    let mut model: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (cache, done) = (&cache, &done);
        let compactions = scope.spawn(move || {
            let mut count = 0;
            while !done.load(Ordering::Acquire) {
                let report = cache.compact().unwrap();
                assert_eq!(report.dropped, 0);
                count += 1;
            }
            count
        });
        let _ended = SetWhenDropped(done);
        for n in 0..ops {
            let key = rng.below(3_000);
            match rng.below(10) {
                0..6 => {
                    let value = n.to_be_bytes().repeat(rng.index(300));
                    cache.insert(&key.to_be_bytes(), &value).unwrap();
                    model.insert(key, value);
                }
                6 => {
                    let there = cache.invalidate(&key.to_be_bytes()).unwrap();
                    assert_eq!(there, model.remove(&key).is_some());
                }
                _ => {
                    let found = cache.get(&key.to_be_bytes()).unwrap();
                    assert_eq!(found.as_deref(), model.get(&key).map(Vec::as_slice), "{key}");
                }
            }
            if n % (ops / 16) == ops / 32 {
                cache.clear().unwrap();
                model.clear();
            }
        }
        done.store(true, Ordering::Release);
        assert!(compactions.join().unwrap() > 1);
    });
    cache.flush().unwrap();
    now_and_reopened(&cache, builder, |cache| {
        let report = cache.verify().unwrap();
        assert!(report.is_ok(), "{report:?}");
        let number = |key: &[u8]| u64::from_be_bytes(key.try_into().unwrap());
        let found = cache.iter().map(Result::unwrap);
        let found: BTreeMap<_, _> = found.map(|e| (number(e.key()), e.to_vec())).collect();
        assert!(found == model);
        assert_eq!(cache.stats().corrupt, 0);
    });
}

#[test]
fn compaction_under_load_loses_nothing() {
    let behind = WritePolicy::Behind {
        max_delay: Duration::from_millis(2),
        max_pending_ops: 2_000,
        max_pending_bytes: 1 << 20,
        when_full: WhenFull::default(),
    };
    compact_under_load(behind, 60_000);
    compact_under_load(WritePolicy::Through, 1_500);
}

/// Files in memory, and an operation on a name that fails.
#[derive(Debug, Default)]
pub(crate) struct Fragile {
    files: Mutex<BTreeMap<PathBuf, Arc<Mutex<Vec<u8>>>>>,
    /// What fails, and how often.
    pub(crate) failing: Mutex<Option<(&'static str, u32)>>,
    /// Who has it keeps all files from being synced, unless they have just grown.
    pub(crate) syncing: Mutex<()>,
    /// How many such syncs began.
    pub(crate) syncs: AtomicU64,
}

impl Fragile {
    fn fail(&self, what: &str) -> io::Result<()> {
        let mut failing = self.failing.lock().unwrap();
        match &mut *failing {
            Some((failing, times)) if *failing == what && *times > 0 => {
                *times -= 1;
                Err(io::Error::other(format!("{what} fails")))
            }
            _ => Ok(()),
        }
    }

    fn names(&self) -> Vec<PathBuf> {
        self.files.lock().unwrap().keys().cloned().collect()
    }
}

#[derive(Debug)]
struct FragileFile {
    volume: Arc<Fragile>,
    bytes: Arc<Mutex<Vec<u8>>>,
    is_new: bool,
    /// Since the last sync: the storage engine syncs a longer file amid a commit, before it uses it.
    has_grown: AtomicBool,
}

#[derive(Debug)]
pub(crate) struct FragileVolume(pub(crate) Arc<Fragile>);

impl FragileVolume {
    fn device(&self, path: &Path, bytes: &Arc<Mutex<Vec<u8>>>) -> Box<dyn Device> {
        let is_new = path.extension().is_some_and(|extension| extension == "new");
        let (volume, bytes) = (Arc::clone(&self.0), Arc::clone(bytes));
        Box::new(FragileFile { volume, bytes, is_new, has_grown: AtomicBool::new(false) })
    }
}

impl Volume for FragileVolume {
    fn open(&self, path: &Path) -> io::Result<Option<Box<dyn Device>>> {
        let files = self.0.files.lock().unwrap();
        Ok(files.get(path).map(|bytes| self.device(path, bytes)))
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn Device>> {
        self.0.fail("create")?;
        let bytes = Arc::default();
        self.0.files.lock().unwrap().insert(path.to_owned(), Arc::clone(&bytes));
        Ok(self.device(path, &bytes))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.fail("rename")?;
        let mut files = self.0.files.lock().unwrap();
        let bytes = files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        files.insert(to.to_owned(), bytes);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let removed = self.0.files.lock().unwrap().remove(path);
        removed.map(drop).ok_or(io::ErrorKind::NotFound.into())
    }

    fn sync_names(&self, _: &Path) -> io::Result<()> {
        self.0.fail("sync of the names")
    }
}

impl Device for FragileFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.bytes.lock().unwrap().len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let at = usize::try_from(offset).unwrap();
        let bytes = self.bytes.lock().unwrap();
        let found = bytes.get(at..at + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(found);
        Ok(())
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.volume.fail(if self.is_new { "write" } else { "write to the file" })?;
        let at = usize::try_from(offset).unwrap();
        self.bytes.lock().unwrap()[at..at + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let (mut bytes, len) = (self.bytes.lock().unwrap(), usize::try_from(len).unwrap());
        self.has_grown.fetch_or(len > bytes.len(), Ordering::SeqCst);
        bytes.resize(len, 0);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        if !self.has_grown.swap(false, Ordering::SeqCst) {
            self.volume.syncs.fetch_add(1, Ordering::SeqCst);
            drop(self.volume.syncing.lock().unwrap());
        }
        if self.is_new { self.volume.fail("sync") } else { Ok(()) }
    }
}

#[test]
fn a_compaction_that_fails_leaves_the_file_in_use() {
    for what in ["create", "write", "sync", "rename", "sync of the names"] {
        let fragile = Arc::new(Fragile::default());
        let volume: Arc<dyn Volume> = Arc::new(FragileVolume(Arc::clone(&fragile)));
        let path = Path::new("cache.larder");
        let open = || ByteCache::builder().path(path).volume(Arc::clone(&volume)).open().unwrap();
        let cache = open();
        for n in 0..500_u32 {
            cache.insert(&n.to_be_bytes(), &[7; 1_000]).unwrap();
        }
        cache.flush().unwrap();
        let before = all_of(&cache);
        *fragile.failing.lock().unwrap() = Some((what, 1));
        let error = cache.compact().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io, "{what}");
        let sentence = error.to_string();
        assert!(sentence.contains(what) && sentence.contains("cannot compact"), "{sentence}");
        assert_eq!(fragile.names(), [path], "{what}");
        // It goes on, and a later one works.
        cache.insert(b"more", b"value").unwrap();
        cache.flush().unwrap();
        assert_eq!(cache.stats().pending_ops, 0, "{what}");
        cache.compact().unwrap();
        assert!(cache.invalidate(b"more").unwrap());
        cache.close().unwrap();
        let cache = open();
        assert!(all_of(&cache) == before, "{what}");
        assert!(cache.verify().unwrap().is_ok(), "{what}");
    }
}

/// What the file occupies, and a copy of it that is being made.
#[cfg(unix)]
fn occupied_by_both(place: &Place) -> u64 {
    let copy = std::fs::metadata(place.beside(".new"));
    occupied(place) + copy.map_or(0, |copy| std::os::unix::fs::MetadataExt::blocks(&copy) * 512)
}

/// Writes `count` entries of up to `value_bytes`, half of them under new keys; looks at the file all the
/// time, and gives the most that it occupied.
#[cfg(unix)]
fn churn(place: &Place, cache: &ByteCache, count: u64, value_bytes: usize) -> u64 {
    let done = AtomicBool::new(false);
    let mut rng = Rng::new(seed());
    std::thread::scope(|scope| {
        let done = &done;
        let most = scope.spawn(move || {
            let mut most = 0;
            while !done.load(Ordering::Acquire) {
                most = most.max(occupied_by_both(place));
                std::thread::sleep(Duration::from_micros(200));
            }
            most
        });
        let _ended = SetWhenDropped(done);
        for n in 0..count {
            let key = if rng.below(2) == 0 { n } else { rng.below(n + 1) };
            cache.insert(&key.to_be_bytes(), &vec![7; rng.index(value_bytes)]).unwrap();
            if n % 500 == 0 {
                cache.flush().unwrap();
            }
        }
        cache.flush().unwrap();
        done.store(true, Ordering::Release);
        most.join().unwrap()
    })
}

#[test]
#[cfg(unix)]
fn the_file_stays_within_its_bound_whatever_is_written() {
    const BOUND: u64 = 8 << 20;
    for (count, value_bytes) in [(30_000, 100), (12_000, 2_000), (4_000, 9_000), (400, 200_000)] {
        let place = place();
        let builder = || place.builder().memory_max_entries(100).disk_max_file_bytes(BOUND);
        let cache = builder().open().unwrap();
        let most = churn(&place, &cache, count, value_bytes);
        assert!(most <= BOUND, "{most} with values of {value_bytes}");
        // It is made use of.
        assert!(cache.disk_bytes() > BOUND / 32, "{} with {value_bytes}", cache.disk_bytes());
        assert!(cache.stats().disk_evictions > 0, "{value_bytes}");
        assert!(cache.verify().unwrap().is_ok());
        cache.close().unwrap();
        // With other values.
        let cache = builder().open().unwrap();
        let most = churn(&place, &cache, 1_000, 3_000);
        assert!(most <= BOUND, "{most} with values of 3000 after {value_bytes}");
    }
}

#[test]
#[cfg(unix)]
fn a_file_that_is_larger_than_its_bound_gets_below() {
    const BOUND: u64 = 8 << 20;
    let place = place();
    let cache = place.builder().open().unwrap();
    for n in 0..20_000_u32 {
        cache.insert(&n.to_be_bytes(), &[7; 1_000]).unwrap();
    }
    cache.close().unwrap();
    assert!(occupied(&place) > 2 * BOUND);
    let cache = place.builder().disk_max_file_bytes(BOUND).open().unwrap();
    let _watchdog = Watchdog::start("a file that gets below its bound".to_owned());
    while occupied_by_both(&place) > BOUND {
        std::thread::sleep(Duration::from_millis(5));
    }
    let left = cache.disk_len();
    assert!((500..3_000).contains(&left), "{left}");
    // The newest are left.
    let oldest = 20_000 - u32::try_from(left).unwrap();
    assert!(cache.keys().map(Result::unwrap).eq((oldest..20_000).map(u32::to_be_bytes)));
}

#[test]
#[cfg(unix)]
fn random_overwriting_keeps_the_file_small() {
    let place = place();
    let cache = place.builder().memory_max_entries(10).open().unwrap();
    let mut rng = Rng::new(seed());
    let mut worst: f64 = 0.0;
    for n in 0..120_000_u32 {
        let key = rng.below(15_000).to_be_bytes();
        cache.insert(&key, &[7; 1_000]).unwrap();
        if n % 5_000 == 4_999 {
            cache.flush().unwrap();
            let most = cache.disk_bytes() / 10 * 22 + (4 << 20);
            #[expect(clippy::cast_precision_loss, reason = "for a message")]
            let ratio = occupied(&place) as f64 / cache.disk_bytes() as f64;
            worst = worst.max(ratio);
            assert!(occupied(&place) <= most, "{ratio} after {n}");
        }
    }
    // What is left after most has gone.
    cache.set_disk_limits(Some(100), None).unwrap();
    cache.insert(b"one more", b"to be noticed").unwrap();
    cache.flush().unwrap();
    let _watchdog = Watchdog::start(format!("a compaction by itself, {worst} before"));
    while occupied(&place) > 6 << 20 {
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_bound_for_the_file_that_makes_no_sense_and_what_is_too_large_for_it() {
    let kind = ErrorKind::InvalidOption;
    let open =
        |builder: larder::Builder<ByteCache>, bytes| builder.disk_max_file_bytes(bytes).open();
    refused(open(ByteCache::builder(), 1 << 30), kind, &["disk_max_file_bytes", "set a path"]);
    let place = place();
    refused(open(place.builder(), 8_388_607), kind, &["8388607", "8388608"]);
    let cache = open(place.builder(), 8 << 20).unwrap();
    cache.insert(b"key", b"old").unwrap();
    let (most, parts) = (vec![7; 262_144], ["262145", "262144", "disk_max_file_bytes"]);
    let larger = [&most[..], b"7"].concat();
    refused(cache.insert(b"key", &larger), ErrorKind::TooLarge, &parts);
    let batch = [(&b"key"[..], &larger[..131_072]), (b"other", &larger[..131_065])];
    refused(cache.insert_many(batch), ErrorKind::TooLarge, &parts);
    assert_eq!(cache.get(b"key").unwrap().as_deref(), Some(&b"old"[..]));
    assert_eq!((cache.len(), cache.stats().rejected), (1, 3));
    cache.insert(b"key", &most).unwrap();
    cache.flush().unwrap();
    assert_eq!(cache.disk_len(), 1);
}
