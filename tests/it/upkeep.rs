//! Looking after the file: verification finds what is wrong with it, and puts it right.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use larder::{ByteCache, Cache, ErrorKind, InsertOptions, VerifyOptions, VerifyReport};
use redb::{ReadableTable, TableDefinition, WriteTransaction};

use crate::files::{ENTRIES, INDEX, META, Place, ROWS, content, flip, name, place};
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
    let database = redb::Database::open(&place.path).unwrap();
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
        let x = row.iter().position(|byte| *byte == b'x').unwrap();
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
