//! Files that earlier builds wrote, kept in the repository: what is there must stay readable.
//!
//! `LARDER_GOLDEN=write cargo test --test it golden` writes those of the current format anew; the old
//! ones then get the number of their format.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use larder::{ByteCache, Cache, DamagePolicy, DiskStrategy, InsertOptions, Timestamp};

const FORMAT: u32 = 1;
const CENTURY: Duration = Duration::from_secs(100 * 365 * 86_400);
/// In 2026.
const START: Timestamp = Timestamp::from_secs(1_790_000_000);

#[derive(Debug, PartialEq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
struct Page {
    id: u64,
    title: String,
    links: Vec<String>,
    kind: Kind,
    parent: Option<Box<(u64, String)>>,
    sizes: BTreeMap<String, i32>,
}

#[derive(Debug, PartialEq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
enum Kind {
    Plain,
    Redirect(String),
}

fn page(id: u64) -> Page {
    Page {
        id,
        title: format!("page {id}, which has a title of some length"),
        links: (0..id % 5).map(|n| format!("/{n}")).collect(),
        kind: if id.is_multiple_of(2) { Kind::Plain } else { Kind::Redirect("/".to_owned()) },
        parent: (id > 40).then(|| Box::new((id - 40, format!("page {}", id - 40)))),
        sizes: [("small".to_owned(), -1), ("large".to_owned(), 1 << 20)].into(),
    }
}

fn key(n: u32) -> String {
    format!("key {n:05}")
}

fn value(n: u32) -> Vec<u8> {
    n.to_le_bytes().into_iter().cycle().take(7 * n as usize % 9_001).collect()
}

fn stamp(n: u32) -> Timestamp {
    START + Duration::from_millis(n.into())
}

fn options(n: u32) -> InsertOptions {
    let mut options = InsertOptions::default().timestamp(stamp(n));
    if n.is_multiple_of(3) {
        options = options.ttl(CENTURY);
    }
    if n.is_multiple_of(5) {
        options = options.tags(["a tag", "another"]).metadata([("type", "text/html")]);
    }
    if n.is_multiple_of(7) {
        options = options.weight(u64::from(n) + 100);
    }
    options
}

fn open_bytes(path: &Path) -> ByteCache {
    ByteCache::builder().path(path).on_damage(DamagePolicy::Fail).open().unwrap()
}

fn open_pages(path: &Path) -> Cache<u64, Page> {
    let builder = Cache::builder().path(path).schema_version(3);
    builder.on_damage(DamagePolicy::Fail).open().unwrap()
}

/// Writes the file of bytes; gives it as it is while it is open, and after it was closed.
fn write_bytes(path: &Path) -> [Vec<u8>; 2] {
    let cache = open_bytes(path);
    for n in 0..200 {
        cache.insert_with(key(n).as_bytes(), &value(n), &options(n)).unwrap();
    }
    cache.flush().unwrap();
    for n in (0..200).step_by(10) {
        cache.remove(key(n).as_bytes()).unwrap();
        cache.get_at(key(n + 1).as_bytes(), stamp(1_000 + n)).unwrap();
    }
    cache.flush().unwrap();
    let open = fs::read(path).unwrap();
    cache.close().unwrap();
    [open, fs::read(path).unwrap()]
}

fn check_bytes(path: &Path) {
    let cache = open_bytes(path);
    assert_eq!((cache.len(), cache.keys().count()), (180, 180));
    for n in (0..200).filter(|n| n % 10 != 0) {
        let entry = cache.peek(key(n).as_bytes()).unwrap().unwrap();
        assert_eq!(entry[..], value(n)[..]);
        let accessed = if n % 10 == 1 { stamp(999 + n) } else { stamp(n) };
        assert_eq!((entry.created_at(), entry.accessed_at()), (stamp(n), accessed));
        assert_eq!(entry.expires_at(), (n % 3 == 0).then(|| stamp(n) + CENTURY));
        assert_eq!(entry.tags().count(), if n % 5 == 0 { 2 } else { 0 });
        assert_eq!(entry.metadata().next(), (n % 5 == 0).then_some(("type", "text/html")));
        let charge = key(n).len() as u64 + value(n).len() as u64;
        let weight = if n % 7 == 0 { u64::from(n) + 100 } else { charge };
        assert_eq!(entry.size_bytes(), weight);
    }
    assert!(cache.verify().unwrap().is_ok());
    // The order of eviction is that of the last access.
    cache.set_disk_limits(Some(20), None).unwrap();
    let left: Vec<Vec<u8>> = cache.keys().map(Result::unwrap).collect();
    let expected: Vec<Vec<u8>> = (0..20).map(|n| key(10 * n + 1).into_bytes()).collect();
    assert_eq!(left, expected);
}

/// Opened with other strategies, one after the other.
fn check_strategies(path: &Path, bytes: &[u8]) {
    use DiskStrategy::{Fifo, Lru, Size, Ttl};
    fs::write(path, bytes).unwrap();
    for strategy in [Fifo, Size, Ttl, Lru] {
        let cache = ByteCache::builder().path(path).disk_strategy(strategy).open().unwrap();
        assert_eq!(cache.len(), 180);
        assert!(cache.verify().unwrap().is_ok(), "{strategy:?}");
        cache.close().unwrap();
    }
    check_bytes(path);
    fs::write(path, bytes).unwrap();
    let cache = ByteCache::builder().path(path).disk_strategy(Fifo).open().unwrap();
    cache.set_disk_limits(Some(90), None).unwrap();
    let left: Vec<Vec<u8>> = cache.keys().map(Result::unwrap).collect();
    let newer = (100..200).filter(|n| n % 10 != 0).map(|n| key(n).into_bytes());
    assert_eq!(left, newer.collect::<Vec<_>>());
    cache.close().unwrap();
}

fn check_pages(path: &Path) {
    let cache = open_pages(path);
    assert_eq!(cache.len(), 60);
    for id in 0..60 {
        assert_eq!(cache.get(&id).unwrap().unwrap().to_owned(), page(id));
    }
    assert!(cache.verify().unwrap().is_ok());
}

fn golden(name: &str, format: u32) -> PathBuf {
    let file = format!("tests/golden/{name}.{format}.larder.gz");
    Path::new(env!("CARGO_MANIFEST_DIR")).join(file)
}

fn keep(name: &str, bytes: &[u8]) {
    let file = File::create(golden(name, FORMAT)).unwrap();
    let mut writer = GzEncoder::new(file, Compression::best());
    writer.write_all(bytes).unwrap();
    writer.finish().unwrap();
}

#[test]
fn files_of_every_format_until_now_are_read() {
    let folder = tempfile::tempdir().unwrap();
    if std::env::var("LARDER_GOLDEN").is_ok_and(|what| what == "write") {
        let [open, closed] = write_bytes(&folder.path().join("bytes.larder"));
        keep("open", &open);
        keep("closed", &closed);
        let path = folder.path().join("pages.larder");
        let cache = open_pages(&path);
        (0..60).for_each(|id| cache.insert(&id, &page(id)).unwrap());
        cache.close().unwrap();
        keep("pages", &fs::read(&path).unwrap());
    }
    for format in 1..=FORMAT {
        for name in ["open", "closed", "pages"] {
            let path = folder.path().join(format!("{name}.{format}"));
            let mut bytes = Vec::new();
            let file = File::open(golden(name, format)).unwrap();
            GzDecoder::new(file).read_to_end(&mut bytes).unwrap();
            fs::write(&path, &bytes).unwrap();
            if name != "pages" {
                check_strategies(&folder.path().join("strategies"), &bytes);
            }
            if name == "pages" { check_pages(&path) } else { check_bytes(&path) }
        }
    }
}
