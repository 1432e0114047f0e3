//! Files that a cache cannot or must not open as its own: refused with a sentence that says what to
//! do, and untouched; or damaged, and set aside.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use larder::{Builder, ByteCache, Cache, DamagePolicy, ErrorKind, Result, SchemaPolicy};
use redb::{ReadableDatabase, ReadableTable, TableDefinition};

use crate::child::Child;
use crate::errors::refused;
use crate::support::{Rng, seed};

pub(crate) const META: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("larder_meta");
pub(crate) const INDEX: TableDefinition<'static, &[u8], (u64, u64)> = TableDefinition::new("index");
pub(crate) const ROWS: TableDefinition<'static, u64, &[u8]> = TableDefinition::new("rows");

/// A folder with the path of a cache file in it.
pub(crate) struct Place {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) path: PathBuf,
}

pub(crate) fn place() -> Place {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cache.larder");
    Place { folder, path }
}

impl Place {
    pub(crate) fn builder(&self) -> Builder<ByteCache> {
        ByteCache::builder().path(&self.path)
    }

    pub(crate) fn beside(&self, suffix: &str) -> PathBuf {
        let name = format!("cache.larder{suffix}");
        self.folder.path().join(name)
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        fs::read(&self.path).unwrap()
    }

    /// Opening as `open` does is refused, and leaves the file byte for byte as it is.
    #[track_caller]
    fn refuses<T>(&self, open: impl FnOnce() -> Result<T>, kind: ErrorKind, parts: &[&str]) {
        let before = self.bytes();
        refused(open(), kind, parts);
        assert!(self.bytes() == before, "the file was touched");
        assert!(!self.beside(".damaged").exists() && !self.beside(".new").exists());
    }
}

pub(crate) fn name(n: u8) -> [u8; 4] {
    [b'k', b'e', b'y', n]
}

/// Something that occurs nowhere else in the file.
pub(crate) fn content(n: u8) -> Vec<u8> {
    format!("the content of number {n:03}, which is like no other").into_bytes()
}

pub(crate) const ENTRIES: u8 = 50;

/// A file with some entries, closed.
fn filled() -> Place {
    let place = place();
    let cache = place.builder().open().unwrap();
    for n in 0..ENTRIES {
        cache.insert(&name(n), &content(n)).unwrap();
    }
    cache.close().unwrap();
    place
}

#[test]
fn folders_that_cannot_be_written_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "a regular file").unwrap();
    let open = |path: &Path| ByteCache::builder().path(path).open();
    let below = file.join("cache.larder");
    refused(open(&below), ErrorKind::Io, &[file.to_str().unwrap(), "choose another path"]);
    let deeper = file.join("sub").join("cache.larder");
    refused(open(&deeper), ErrorKind::Io, &["cannot make the folder", "choose another path"]);
    if cfg!(target_os = "linux") {
        refused(open(Path::new("/proc/cache.larder")), ErrorKind::Io, &["/proc/cache.larder"]);
        let sub = Path::new("/proc/sub/cache.larder");
        refused(open(sub), ErrorKind::Io, &["cannot make the folder /proc/sub"]);
    }
    assert_eq!(fs::read(&file).unwrap(), b"a regular file");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn a_path_that_is_no_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("folder");
    fs::create_dir(&path).unwrap();
    let open = |path: &Path| ByteCache::builder().path(path).open();
    refused(open(&path), ErrorKind::Io, &["folder is a folder", "name a file in it"]);
    #[cfg(unix)]
    {
        let device = folder.path().join("device");
        std::os::unix::fs::symlink("/dev/null", &device).unwrap();
        refused(open(&device), ErrorKind::Io, &["is not a regular file", "choose another path"]);
        assert!(device.is_symlink());
        fs::remove_file(&device).unwrap();
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "something was made");
    refused(open(Path::new("")), ErrorKind::InvalidOption, &["path is empty"]);
}

#[test]
fn folders_on_the_way_are_made() {
    let place = place();
    let path = place.folder.path().join("a").join("b").join("cache.larder");
    let cache = ByteCache::builder().path(&path).open().unwrap();
    cache.insert(b"key", b"value").unwrap();
    cache.close().unwrap();
    assert!(path.is_file());
}

#[test]
fn a_file_that_this_process_has_open_is_locked_until_it_is_closed() {
    let place = place();
    let cache = place.builder().open().unwrap();
    cache.insert(b"key", b"value").unwrap();
    cache.flush().unwrap();
    let id = format!("this process (id {})", std::process::id());
    let parts = ["cache.larder", id.as_str(), "close it there"];
    place.refuses(|| place.builder().open(), ErrorKind::Locked, &parts);
    let typed = || Cache::<str, u64>::builder().path(&place.path).open();
    place.refuses(typed, ErrorKind::Locked, &parts);
    // Whoever holds it does not notice.
    assert!(cache.get(b"key").unwrap().is_some());
    cache.insert(b"other", b"value").unwrap();
    cache.close().unwrap();
    let cache = place.builder().open().unwrap();
    assert_eq!(cache.len(), 2);
    drop(cache);
    place.builder().open().unwrap();
}

#[test]
fn a_file_that_another_process_has_open_is_locked_until_that_ends() {
    let place = place();
    let mut child = Child::start("hold", &place.path);
    assert_eq!(child.hear().as_deref(), Some("holding"));
    let id = format!("process {}", child.id());
    place.refuses(|| place.builder().open(), ErrorKind::Locked, &[&id, "close it there"]);
    child.end();
    place.builder().open().unwrap().close().unwrap();
    // However it ends.
    let mut child = Child::start("hold", &place.path);
    assert_eq!(child.hear().as_deref(), Some("holding"));
    child.kill();
    place.builder().open().unwrap();
}

/// Until it runs its own program, a process that is being started has all files of its parent's.
#[test]
fn a_closed_file_is_free_though_processes_are_being_started() {
    let (place, done) = (place(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(Ordering::Acquire) {
                    let mut command = Command::new(std::env::current_exe().unwrap());
                    assert!(command.arg("--help").output().unwrap().status.success());
                }
            });
        }
        let opened: Result<Vec<()>> = (0..25).map(|_| place.builder().open()?.close()).collect();
        done.store(true, Ordering::Release);
        opened.unwrap();
    });
}

#[test]
fn files_of_other_programs_are_refused() {
    for text in ["r", "redb", "some text that is longer than what cache files begin with\n"] {
        let place = place();
        fs::write(&place.path, text).unwrap();
        let parts = ["cache.larder", "is no cache file", "choose another path"];
        place.refuses(|| place.builder().open(), ErrorKind::Foreign, &parts);
        let any = || {
            let builder = place.builder().on_schema_mismatch(SchemaPolicy::StartEmpty);
            builder.on_damage(DamagePolicy::SetAside).open()
        };
        place.refuses(any, ErrorKind::Foreign, &parts);
        assert_eq!(fs::read_dir(place.folder.path()).unwrap().count(), 1, "nothing is beside it");
    }
}

#[test]
fn a_database_of_another_program_is_refused() {
    let place = place();
    let database = redb::Database::create(&place.path).unwrap();
    let transaction = database.begin_write().unwrap();
    let table = TableDefinition::<&str, &str>::new("data");
    transaction.open_table(table).unwrap().insert("their", "data").unwrap();
    transaction.commit().unwrap();
    drop(database);
    place.refuses(|| place.builder().open(), ErrorKind::Foreign, &["is no cache file"]);
}

/// It cannot be looked at before it is repaired, as the other program would do it; no data changes.
#[test]
fn a_database_of_another_program_that_crashed_is_refused_with_its_data_there() {
    let (place, running) = (place(), place());
    let database = redb::Database::create(&running.path).unwrap();
    let transaction = database.begin_write().unwrap();
    let table = TableDefinition::<&str, &str>::new("theirs");
    transaction.open_table(table).unwrap().insert("their", "data").unwrap();
    transaction.commit().unwrap();
    fs::copy(&running.path, &place.path).unwrap();
    refused(place.builder().open(), ErrorKind::Foreign, &["is no cache file"]);
    let database = redb::Database::open(&place.path).unwrap();
    let theirs = database.begin_read().unwrap().open_table(table).unwrap();
    assert_eq!(theirs.get("their").unwrap().unwrap().value(), "data");
    assert!(!place.beside(".damaged").exists());
}

#[cfg(unix)]
#[test]
fn a_file_with_two_names_is_locked_by_both() {
    let place = filled();
    let names =
        [place.folder.path().join("linked.larder"), place.folder.path().join("soft.larder")];
    fs::hard_link(&place.path, &names[0]).unwrap();
    std::os::unix::fs::symlink(&place.path, &names[1]).unwrap();
    let by = |path: &PathBuf| ByteCache::builder().path(path).open();
    let cache = place.builder().open().unwrap();
    for name in &names {
        refused(by(name), ErrorKind::Locked, &["is open", "close it there"]);
    }
    assert_eq!(is_sound(&cache), usize::from(ENTRIES));
    cache.close().unwrap();
    // A link stays one, whatever takes the place of the file.
    let cache = by(&names[1]).unwrap();
    refused(place.builder().open(), ErrorKind::Locked, &["close it there"]);
    cache.compact().unwrap();
    refused(place.builder().open(), ErrorKind::Locked, &["close it there"]);
    cache.insert(b"by the link", b"value").unwrap();
    cache.close().unwrap();
    assert!(fs::symlink_metadata(&names[1]).unwrap().is_symlink());
    let cache = place.builder().open().unwrap();
    assert!(cache.get(b"by the link").unwrap().is_some());
}

#[cfg(unix)]
#[test]
fn a_file_is_made_where_a_link_leads() {
    use std::os::unix::fs::symlink;
    let folder = tempfile::tempdir().unwrap();
    let [first, second, file] = ["first.larder", "links/second.larder", "there/cache.larder"]
        .map(|p| folder.path().join(p));
    fs::create_dir(folder.path().join("links")).unwrap();
    symlink("links/second.larder", &first).unwrap();
    symlink("../there/cache.larder", &second).unwrap();
    let cache = ByteCache::builder().path(&first).open().unwrap();
    cache.insert(b"key", b"value").unwrap();
    cache.compact().unwrap();
    cache.close().unwrap();
    for link in [&first, &second] {
        assert!(fs::symlink_metadata(link).unwrap().is_symlink());
    }
    assert_eq!(ByteCache::builder().path(&file).open().unwrap().len(), 1);
    // Links that lead nowhere.
    let [one, other] = ["one", "other"].map(|name| folder.path().join(name));
    symlink(&one, &other).unwrap();
    symlink(&other, &one).unwrap();
    refused(ByteCache::builder().path(&one).open(), ErrorKind::Io, &["one"]);
    assert!(fs::symlink_metadata(&one).unwrap().is_symlink());
}

#[test]
fn an_empty_file_is_as_good_as_none() {
    let place = place();
    fs::write(&place.path, "").unwrap();
    let cache = place.builder().open().unwrap();
    cache.insert(b"key", b"value").unwrap();
    cache.close().unwrap();
    assert_eq!(place.builder().open().unwrap().len(), 1);
}

/// The database in a closed file.
pub(crate) fn database(path: &Path) -> redb::Database {
    let storage = larder::testing::storage(path).unwrap();
    redb::Builder::new().create_with_backend(storage).unwrap()
}

/// Writes a row of the file's facts about itself.
fn set_meta(place: &Place, row: &str, value: &[u8]) {
    let database = database(&place.path);
    let transaction = database.begin_write().unwrap();
    transaction.open_table(META).unwrap().insert(row, value).unwrap();
    transaction.commit().unwrap();
}

#[test]
fn a_newer_format_is_refused() {
    let place = filled();
    set_meta(&place, "format", &2_u32.to_le_bytes());
    let parts = ["has format 2", "reads up to 1", "newer version of larder"];
    place.refuses(|| place.builder().open(), ErrorKind::Version, &parts);
    let any = || place.builder().on_schema_mismatch(SchemaPolicy::StartEmpty).open();
    place.refuses(any, ErrorKind::Version, &parts);
    set_meta(&place, "format", &1_u32.to_le_bytes());
    assert_eq!(place.builder().open().unwrap().len(), u64::from(ENTRIES));
}

#[test]
fn other_format_features_of_rkyv_are_refused() {
    let place = place();
    let open = || Cache::<str, u64>::builder().path(&place.path).open();
    open().unwrap().close().unwrap();
    set_meta(&place, "rkyv", b"big-endian unaligned pointer64");
    let parts = ["'big-endian unaligned pointer64'", "build with the same ones"];
    place.refuses(open, ErrorKind::Version, &parts);
}

#[test]
fn a_file_of_another_type_is_refused_and_kept() {
    let place = place();
    let open = || Cache::<str, u64>::builder().path(&place.path).open();
    let cache = open().unwrap();
    cache.insert("key", &7).unwrap();
    cache.close().unwrap();
    let path = &place.path;
    let kind = ErrorKind::Schema;
    let parts = ["cache.larder maps str to u64", "maps str to String", "choose another path"];
    place.refuses(|| Cache::<str, String>::builder().path(path).open(), kind, &parts);
    let parts = ["maps u32 to u64"];
    place.refuses(|| Cache::<u32, u64>::builder().path(path).open(), kind, &parts);
    place.refuses(|| ByteCache::builder().path(path).open(), kind, &["maps bytes to bytes"]);
    // As is one of the same shape and another name.
    place.refuses(|| Cache::<str, i64>::builder().path(path).open(), kind, &["to i64"]);
    assert_eq!(open().unwrap().get("key").unwrap().unwrap().to_owned(), 7);
}

/// Two types of one name, as a type is before and after its fields are moved.
mod before {
    #[derive(Debug, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
    pub struct Page {
        pub size: u32,
        pub title: String,
    }
}

mod after {
    #[derive(Debug, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
    pub struct Page {
        pub title: String,
        pub size: u32,
    }
}

#[test]
fn a_type_whose_fields_moved_is_another_type() {
    let place = place();
    let path = &place.path;
    let cache = Cache::<str, Vec<before::Page>>::builder().path(path).open().unwrap();
    let page = before::Page { size: 3, title: "a title that is not short".to_owned() };
    cache.insert("key", &vec![page]).unwrap();
    cache.close().unwrap();
    let other = || Cache::<str, Vec<after::Page>>::builder().path(path).open();
    place.refuses(other, ErrorKind::Schema, &["Vec<Page> (archived: 8 bytes", "layout"]);
    let cache = Cache::<str, Vec<before::Page>>::builder().path(path).open().unwrap();
    assert_eq!(cache.get("key").unwrap().unwrap()[0].size, 3);
}

#[test]
fn a_file_of_another_type_starts_empty_where_that_was_chosen() {
    let place = filled();
    let open = || {
        let builder = Cache::<str, String>::builder().path(&place.path);
        builder.on_schema_mismatch(SchemaPolicy::StartEmpty).open()
    };
    let cache = open().unwrap();
    assert_eq!((cache.len(), cache.disk_bytes(), cache.keys().count()), (0, 0, 0));
    cache.insert("key", &"value".to_owned()).unwrap();
    cache.close().unwrap();
    assert_eq!(open().unwrap().get("key").unwrap().unwrap().as_str(), "value");
    place.refuses(|| place.builder().open(), ErrorKind::Schema, &["maps str to String"]);
}

#[test]
fn another_schema_version_opens_and_has_none_of_the_old_entries() {
    let place = filled();
    let cache = place.builder().schema_version(2).open().unwrap();
    assert_eq!((cache.len(), cache.disk_len(), cache.disk_bytes()), (0, 0, 0));
    assert_eq!((cache.get(&name(1)).unwrap().is_none(), cache.keys().count()), (true, 0));
    cache.insert(&name(1), b"new").unwrap();
    cache.close().unwrap();
    let cache = place.builder().schema_version(2).open().unwrap();
    assert_eq!(cache.get(&name(1)).unwrap().as_deref(), Some(&b"new"[..]));
    cache.close().unwrap();
    assert_eq!(place.builder().open().unwrap().len(), 0, "nor does the way back");
}

/// Nothing that is found differs from what was stored, and the cache works.
fn is_sound(cache: &ByteCache) -> usize {
    let mut found = 0;
    for n in 0..ENTRIES {
        if let Some(entry) = cache.get(&name(n)).unwrap() {
            assert_eq!(&*entry, &content(n)[..], "a wrong value");
            found += 1;
        }
    }
    for entry in cache.iter().map(Result::unwrap) {
        assert_eq!(&*entry, &content(entry.key()[3])[..], "a wrong value");
    }
    cache.insert(b"new", b"value").unwrap();
    cache.flush().unwrap();
    assert!(cache.remove(b"new").unwrap().is_some());
    cache.flush().unwrap();
    assert_eq!((cache.validate(), cache.stats().pending_ops), (Ok(()), 0));
    found
}

/// The writer stopped for good once it could not count on.
#[test]
fn a_last_batch_that_none_can_follow_is_not_believed() {
    let place = filled();
    let database = database(&place.path);
    let meta = database.begin_read().unwrap().open_table(META).unwrap();
    let mut totals = meta.get("totals").unwrap().unwrap().value().to_vec();
    drop((meta, database));
    totals[16..24].fill(u8::MAX);
    let sum = crc32fast::hash(&totals[..24]);
    totals[24..].copy_from_slice(&sum.to_le_bytes());
    set_meta(&place, "totals", &totals);
    let cache = place.builder().open().unwrap();
    assert_eq!(is_sound(&cache), usize::from(ENTRIES));
    cache.close().unwrap();
    assert_eq!(is_sound(&place.builder().open().unwrap()), usize::from(ENTRIES));
}

/// There was no place for what came behind it.
#[test]
fn a_last_place_that_none_can_follow_is_damage() {
    let place = filled();
    let database = database(&place.path);
    let transaction = database.begin_write().unwrap();
    {
        let mut index = transaction.open_table(INDEX).unwrap();
        let mut rows = transaction.open_table(ROWS).unwrap();
        let (from, stamp) = index.get(&name(7)[..]).unwrap().unwrap().value();
        let row = rows.remove(from).unwrap().unwrap().value().to_vec();
        rows.insert(u64::MAX, &row[..]).unwrap();
        index.insert(&name(7)[..], (u64::MAX, stamp)).unwrap();
    }
    transaction.commit().unwrap();
    drop(database);
    let cache = place.builder().open().unwrap();
    assert_eq!(is_sound(&cache), 0);
    cache.close().unwrap();
    assert!(place.beside(".damaged").exists());
}

/// What no open can make sense of.
fn hopeless(bytes: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let magic = bytes[..9].to_vec();
    let with = |from: usize, to: usize, byte: u8| {
        let mut damaged = bytes.to_vec();
        damaged[from..to].fill(byte);
        damaged
    };
    vec![
        ("the first bytes only", magic),
        ("cut in its header", bytes[..100].to_vec()),
        ("cut after a page", bytes[..4096].to_vec()),
        ("cut in half", bytes[..bytes.len() / 2].to_vec()),
        ("all after the first bytes zero", with(9, bytes.len(), 0)),
        ("both its heads overwritten", with(9, 1024, 0xAA)),
        ("all after its header overwritten", with(4096, bytes.len(), 0xAA)),
    ]
}

#[test]
fn a_damaged_file_is_set_aside_and_the_cache_starts_empty() {
    let place = filled();
    let aside = place.beside(".damaged");
    for (how, damaged) in hopeless(&place.bytes()) {
        fs::write(&place.path, &damaged).unwrap();
        let cache = place.builder().open().unwrap_or_else(|e| panic!("{how}: {e}"));
        assert_eq!((cache.len(), is_sound(&cache)), (0, 0), "{how}");
        cache.insert(&name(1), &content(1)).unwrap();
        cache.close().unwrap();
        // The last one that was damaged, and no other.
        assert_eq!(fs::read(&aside).unwrap().len(), damaged.len(), "{how}");
        let files = fs::read_dir(place.folder.path()).unwrap().count();
        assert_eq!(files, 3, "{how}: the file, its lock, and what was set aside");
        let cache = place.builder().open().unwrap();
        assert_eq!(is_sound(&cache), 1, "{how}");
        cache.close().unwrap();
    }
}

#[test]
fn a_damaged_file_is_refused_where_that_was_chosen() {
    let place = filled();
    let sound = place.bytes();
    for (how, damaged) in hopeless(&sound) {
        fs::write(&place.path, &damaged).unwrap();
        let before = place.bytes();
        let open = || place.builder().on_damage(DamagePolicy::Fail).open();
        let parts = ["cache.larder is damaged", "let damaged files be set aside"];
        refused(open(), ErrorKind::Corrupt, &parts);
        assert!(place.bytes() == before, "{how}: the file was touched");
        assert!(!place.beside(".damaged").exists());
    }
    fs::write(&place.path, &sound).unwrap();
    assert_eq!(is_sound(&place.builder().open().unwrap()), usize::from(ENTRIES));
}

/// Whatever bytes are wrong: it opens or is set aside, and what is found is right.
#[test]
fn damage_anywhere_is_never_a_wrong_value() {
    let place = filled();
    let sound = place.bytes();
    let seed = seed();
    let mut rng = Rng::new(seed);
    for _ in 0..60 {
        let mut bytes = sound.clone();
        // Not the first bytes, which say whose file it is.
        let from = 9 + rng.index(bytes.len() - 9);
        let scale = 1 << rng.index(13);
        let to = bytes.len().min(from + 1 + rng.index(scale));
        for byte in &mut bytes[from..to] {
            *byte ^= u8::try_from(1 + rng.below(255)).unwrap();
        }
        if rng.below(8) == 0 {
            bytes.truncate(to.max(9));
        }
        fs::write(&place.path, &bytes).unwrap();
        let cache = place.builder().memory_max_entries(5).open();
        let cache = cache.unwrap_or_else(|e| panic!("LARDER_SEED={seed}, {from} to {to}: {e}"));
        is_sound(&cache);
        cache.close().unwrap();
        let _ = fs::remove_file(place.beside(".damaged"));
    }
}

/// A head is there twice: what is torn or spoilt of one is made good by the other.
#[test]
fn a_spoilt_head_is_made_good() {
    let place = filled();
    let sound = place.bytes();
    for head in [0, 512] {
        for (from, to) in [(9, 512), (9, 60), (300, 301), (256, 512)] {
            let mut bytes = sound.clone();
            bytes[head + from..head + to].iter_mut().for_each(|byte| *byte ^= 0x55);
            fs::write(&place.path, &bytes).unwrap();
            for _ in 0..2 {
                let cache = place.builder().open().unwrap();
                assert_eq!(is_sound(&cache), usize::from(ENTRIES), "{head}, {from} to {to}");
                cache.close().unwrap();
            }
            assert!(!place.beside(".damaged").exists(), "{head}, {from} to {to}");
        }
    }
}

/// Whatever block is damaged: only what is on it is lost, or the file is set aside as it is opened;
/// in a file that is open, what is sound is copied into a new one.
#[test]
fn a_damaged_block_costs_what_is_on_it() {
    const BLOCK: usize = 4_096;
    const MANY: u32 = 3_000;
    let place = place();
    let cache = place.builder().open().unwrap();
    let key = |n: u32| format!("key {n:06}").into_bytes();
    let value = |n: u32| n.to_be_bytes().repeat(50);
    for n in 0..MANY {
        cache.insert(&key(n), &value(n)).unwrap();
    }
    cache.close().unwrap();
    let sound = place.bytes();
    let (mut healed, mut set_aside) = (0, 0);
    for block in (1..sound.len() / BLOCK).step_by(3) {
        let bytes_of = block * BLOCK..(block + 1) * BLOCK;
        if sound[bytes_of.clone()].iter().all(|byte| *byte == 0) {
            continue;
        }
        let mut bytes = sound.clone();
        bytes[bytes_of].fill(0xA5);
        fs::write(&place.path, &bytes).unwrap();
        let cache = place.builder().memory_max_entries(5).open().unwrap();
        let there = |cache: &ByteCache| {
            let right = |n: &u32| match cache.get(&key(*n)).unwrap() {
                Some(entry) => {
                    assert_eq!(*entry, value(*n)[..], "block {block}, {n}");
                    true
                }
                None => false,
            };
            (0..MANY).filter(right).count()
        };
        // It is met by a read, or by the commit.
        let before = if block % 2 == 0 { there(&cache) } else { MANY as usize };
        cache.insert(b"new", b"value").unwrap();
        cache.flush().unwrap();
        assert_eq!(cache.get(b"new").unwrap().as_deref(), Some(&b"value"[..]), "block {block}");
        assert_eq!(cache.health().disk, Some(larder::TierHealth::Ok), "block {block}");
        let after = there(&cache);
        assert_eq!(cache.validate(), Ok(()), "block {block}");
        cache.close().unwrap();
        if fs::remove_file(place.beside(".damaged")).is_ok() {
            set_aside += 1;
            continue;
        }
        let cache = place.builder().memory_max_entries(5).open().unwrap();
        assert_eq!((there(&cache), cache.stats().disk_errors), (after, 0), "block {block}");
        assert_eq!(cache.disk_len(), after as u64 + 1, "block {block}");
        // A page of the index has some hundred keys; one that leads to other pages, more.
        assert!(after <= before, "block {block}");
        healed += usize::from(after < MANY as usize && after > MANY as usize / 2);
    }
    assert!(healed > 50 && set_aside < healed / 4, "{healed} healed, {set_aside} set aside");
}

/// Flips a bit wherever `text` stands in the file; gives how often that was.
pub(crate) fn flip(place: &Place, text: &[u8]) -> usize {
    let mut bytes = place.bytes();
    let at: Vec<usize> =
        (0..bytes.len() - text.len()).filter(|i| bytes[*i..].starts_with(text)).collect();
    for i in &at {
        bytes[i + text.len() / 2] ^= 4;
    }
    fs::write(&place.path, bytes).unwrap();
    at.len()
}

#[test]
fn a_flipped_bit_in_a_value_is_a_miss_and_counted_and_its_row_goes() {
    let place = filled();
    assert!(flip(&place, &content(7)) > 0);
    let cache = place.builder().open().unwrap();
    let bytes = cache.disk_bytes();
    assert!(cache.get(&name(7)).unwrap().is_none());
    let stats = cache.stats();
    assert_eq!((stats.corrupt, stats.misses, stats.disk_hits, stats.disk_errors), (1, 1, 0, 0));
    cache.flush().unwrap();
    assert_eq!(cache.disk_len(), u64::from(ENTRIES) - 1);
    assert_eq!(cache.disk_bytes(), bytes - 4 - content(7).len() as u64);
    assert!(cache.get(&name(7)).unwrap().is_none());
    assert_eq!(cache.stats().corrupt, 1, "met once");
    assert_eq!(is_sound(&cache), usize::from(ENTRIES) - 1);
    // The key is not spoilt for good.
    cache.insert(&name(7), &content(7)).unwrap();
    cache.close().unwrap();
    let cache = place.builder().open().unwrap();
    assert_eq!(is_sound(&cache), usize::from(ENTRIES));
    assert_eq!(cache.disk_bytes(), bytes);
}

#[test]
fn a_flipped_bit_is_met_by_every_kind_of_read() {
    type Read = fn(&ByteCache, &[u8]) -> bool;
    let reads: &[(&str, Read)] = &[
        ("get_into", |c, k| c.get_into(k, &mut Vec::new()).unwrap()),
        ("view", |c, k| c.view(k, <[u8]>::len).unwrap().is_some()),
        ("get_many", |c, k| c.get_many([k]).unwrap()[0].is_some()),
        ("peek", |c, k| c.peek(k).unwrap().is_some()),
        ("contains_key", |c, k| c.contains_key(k).unwrap()),
        ("touch", |c, k| c.touch(k, None).unwrap()),
        ("remove", |c, k| c.remove(k).unwrap().is_some()),
        ("invalidate", |c, k| c.invalidate(k).unwrap()),
        ("remove_many", |c, k| c.remove_many([k]).unwrap() > 0),
        ("insert_if_absent", |c, k| !c.insert_if_absent(k, &content(7)).unwrap()),
        ("iter", |c, k| c.iter().any(|e| e.unwrap().key() == k)),
    ];
    let place = filled();
    flip(&place, &content(7));
    let damaged = place.bytes();
    for (how, read) in reads {
        fs::write(&place.path, &damaged).unwrap();
        let cache = place.builder().open().unwrap();
        assert!(!read(&cache, &name(7)), "{how}");
        assert_eq!(cache.stats().corrupt, 1, "{how}");
        cache.flush().unwrap();
        let expected = if *how == "insert_if_absent" { ENTRIES } else { ENTRIES - 1 };
        assert_eq!(cache.disk_len(), u64::from(expected), "{how}");
        assert_eq!(is_sound(&cache), usize::from(expected), "{how}");
        cache.close().unwrap();
    }
}

/// The checksum is right, so it is rkyv's validation that refuses the bytes.
#[test]
fn a_row_that_is_no_archive_of_the_type_is_a_miss() {
    let place = place();
    let cache = Cache::<str, Vec<u8>>::builder().path(&place.path).open().unwrap();
    cache.insert("key", &b"0123456789".to_vec()).unwrap();
    cache.insert("short", &Vec::new()).unwrap();
    cache.close().unwrap();
    let strings = Place { folder: tempfile::tempdir().unwrap(), path: PathBuf::new() };
    let path = strings.folder.path().join("cache.larder");
    Cache::<str, Vec<String>>::builder().path(&path).open().unwrap().close().unwrap();
    let database = database(&path);
    let transaction = database.begin_read().unwrap();
    let meta = transaction.open_table(META).unwrap();
    let value = meta.get("value").unwrap().unwrap().value().to_vec();
    drop((meta, transaction, database));
    set_meta(&place, "value", &value);
    let cache = Cache::<str, Vec<String>>::builder().path(&place.path).open().unwrap();
    assert!(cache.get("key").unwrap().is_none());
    assert_eq!((cache.stats().corrupt, cache.stats().misses), (1, 1));
    cache.flush().unwrap();
    assert_eq!(cache.disk_len(), 1);
    // An empty list of bytes is an empty list of strings.
    assert_eq!(cache.get("short").unwrap().unwrap().len(), 0);
}

/// Rows of other keys, as a bug or a hand in the file could leave them: the checksum covers the key.
#[test]
fn a_row_under_another_key_is_a_miss() {
    let place = filled();
    {
        let database = database(&place.path);
        let transaction = database.begin_write().unwrap();
        {
            let mut index = transaction.open_table(INDEX).unwrap();
            let mut rows = transaction.open_table(ROWS).unwrap();
            let entry = |n| index.get(&name(n)[..]).unwrap().unwrap().value();
            let (one, two, three, four) = (entry(1), entry(2), entry(3), entry(4));
            let row = rows.get(one.0).unwrap().unwrap().value()[2 + name(1).len()..].to_vec();
            let row_of = |key: &[u8]| {
                let length = u16::try_from(key.len()).unwrap().to_le_bytes();
                [&length[..], key, row.as_slice()].concat()
            };
            rows.insert(two.0, row_of(&name(2)).as_slice()).unwrap();
            rows.insert(1000, row_of(b"stray").as_slice()).unwrap();
            let five = index.remove(&name(5)[..]).unwrap().unwrap().value();
            rows.remove(five.0).unwrap();
            index.insert(&b"stray"[..], (1000, 1)).unwrap();
            // Each of these two leads to the other's row.
            index.insert(&name(3)[..], four).unwrap();
            index.insert(&name(4)[..], three).unwrap();
        }
        transaction.commit().unwrap();
    }
    let cache = place.builder().open().unwrap();
    assert!(cache.get(&name(2)).unwrap().is_none());
    assert!(cache.get(b"stray").unwrap().is_none());
    assert!(cache.get(&name(3)).unwrap().is_none());
    assert!(cache.get(&name(4)).unwrap().is_none());
    cache.flush().unwrap();
    // Removing the first of them mends the file, which takes along those that were not read yet;
    // one that is read while that goes on is counted twice.
    assert!((4..=7).contains(&cache.stats().corrupt), "{}", cache.stats().corrupt);
    assert_eq!(is_sound(&cache), usize::from(ENTRIES) - 4);
    assert_eq!(cache.disk_len(), u64::from(ENTRIES) - 4);
}
