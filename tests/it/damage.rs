//! Damage met while a cache is in use, alone and together with a device that fails: what it costs, and
//! that everything comes to an end.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use larder::testing::{Device, Volume};
use larder::{Builder, ByteCache, DamagePolicy, TierHealth, WritePolicy};
use redb::{ReadableDatabase, ReadableTable, StorageBackend, TableDefinition};

use crate::files::{INDEX, ROWS, place};
use crate::support::Watchdog;
use crate::torture::modes::sim::{Call, Fault, How, Sim};

const BLOCK: u64 = 4_096;
const SIZE: usize = 4_096;
const PATH: &str = "cache.larder";

/// Where a block of redb's is in the file.
fn offset_of(block: u64) -> u64 {
    let sums = u64::from(!block.is_multiple_of(1_024));
    (block / 1_024 * 1_025 + block % 1_024 + sums) * BLOCK
}

/// Notes which blocks are read.
#[derive(Debug)]
struct Noted<S>(S, Arc<Mutex<Vec<(u64, usize)>>>);

impl<S: StorageBackend> StorageBackend for Noted<S> {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.1.lock().unwrap().push((offset, out.len()));
        self.0.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write(offset, bytes)
    }
}

/// The pages of a table in the order of its keys.
struct Pages {
    /// One that leads to the first of them, and is not the root.
    branch: u64,
    /// With the number of entries up to the end of each.
    leaves: Vec<(u64, u32)>,
}

fn pages_of<K: redb::Key, V: redb::Value>(path: &Path, table: TableDefinition<'_, K, V>) -> Pages {
    let log = Arc::default();
    let backend = Noted(larder::testing::storage(path).unwrap(), Arc::clone(&log));
    let base = redb::Builder::new().set_cache_size(0).create_with_backend(backend).unwrap();
    let read = base.begin_read().unwrap();
    let table = read.open_table(table).unwrap();
    let read_now = || std::mem::take(&mut *log.lock().unwrap());
    read_now();
    let mut pages = Pages { branch: 0, leaves: Vec::new() };
    for row in table.iter().unwrap() {
        drop(row.unwrap());
        let read = read_now();
        if let Some((offset, _)) = read.last().filter(|(_, len)| *len as u64 == BLOCK) {
            pages.leaves.push((offset / BLOCK, 0));
            if pages.branch == 0 {
                pages.branch = read[1].0 / BLOCK;
            }
        }
        if let Some((_, entries)) = pages.leaves.last_mut() {
            *entries += 1;
        }
    }
    let mut sum = 0;
    for (_, entries) in &mut pages.leaves {
        sum += *entries;
        *entries = sum;
    }
    pages
}

/// Spoils a block of redb's.
fn spoil(path: &Path, block: u64) {
    let mut bytes = std::fs::read(path).unwrap();
    let at = usize::try_from(offset_of(block)).unwrap();
    bytes[at] = 0xEE;
    std::fs::write(path, bytes).unwrap();
}

fn key(n: u32) -> Vec<u8> {
    format!("key {n:06}").into_bytes()
}

fn fill(builder: Builder<ByteCache>, count: u32) -> ByteCache {
    let cache = builder.memory_max_entries(10).open().unwrap();
    for n in 0..count {
        cache.insert(&key(n), &[7; 100]).unwrap();
    }
    cache.flush().unwrap();
    cache
}

fn found(cache: &ByteCache, count: u32) -> u32 {
    (0..count).map(|n| u32::from(cache.peek(&key(n)).unwrap().is_some())).sum()
}

/// Walks give each key once, or verification comes to an end, a flush has what is sound copied, and
/// everything agrees after that. Gives what is left of `count`.
#[track_caller]
fn comes_to_an_end(path: &Path, count: u32, walks_first: bool, what: &str) -> u32 {
    let _dog = Watchdog::start(what.to_owned());
    let cache = ByteCache::builder().path(path).memory_max_entries(10).open().unwrap();
    // Whichever is first meets the damage; what is sound may be copied before the other.
    if walks_first {
        let mut last = Vec::new();
        for key in cache.keys() {
            let key = key.unwrap();
            assert!(last < key, "{what}: {key:?} comes after {last:?}");
            last = key;
        }
    } else {
        cache.verify().unwrap();
    }
    cache.insert(b"new", b"value").unwrap();
    cache.flush().unwrap();
    let left = found(&cache, count);
    assert_eq!((cache.keys().count(), cache.len()), (left as usize + 1, u64::from(left) + 1));
    let report = cache.verify().unwrap();
    assert!(report.is_ok(), "{what}: {report:?}");
    // Nothing is counted of a file that is set aside.
    let lost = if left == 0 { 0 } else { count - left };
    assert_eq!(cache.stats().corrupt, u64::from(lost), "{what}");
    assert_eq!(cache.health().disk, Some(TierHealth::Ok), "{what}");
    cache.close().unwrap();
    left
}

#[test]
fn walks_verification_and_healing_end_whatever_page_is_damaged() {
    const MANY: u32 = 40_000;
    let place = place();
    fill(place.builder(), MANY).close().unwrap();
    let sound = place.bytes();
    let (index, rows) = (pages_of(&place.path, INDEX), pages_of(&place.path, ROWS));
    let counts = (index.leaves.len(), rows.leaves.len());
    assert!(counts.0 > 200 && counts.1 > 500, "{counts:?}");
    let costs = |block, what: &str| {
        let costs = [false, true].map(|walks_first| {
            std::fs::write(&place.path, &sound).unwrap();
            spoil(&place.path, block);
            MANY - comes_to_an_end(&place.path, MANY, walks_first, what)
        });
        assert_eq!(costs[0], costs[1], "{what}");
        costs[0]
    };
    // Keys are walked 256 at a time, rows 1,024: the page that ends where such a page does.
    let end = |pages: &Pages, page: u32| {
        let is_near =
            |(_, entries): &&(u64, u32)| entries % page > page - 60 || entries % page == 0;
        pages.leaves.iter().find(is_near).map(|(block, _)| *block).unwrap()
    };
    let middle = |pages: &Pages| pages.leaves[pages.leaves.len() / 2].0;
    for block in [end(&index, 256), middle(&index)] {
        let cost = costs(block, "a leaf of the index");
        assert!((50..300).contains(&cost), "{cost}");
    }
    for block in [end(&rows, 1_024), middle(&rows)] {
        let cost = costs(block, "a leaf of the rows");
        assert!((10..60).contains(&cost), "{cost}");
    }
    for block in [index.branch, rows.branch] {
        let cost = costs(block, "a page that leads to leaves");
        assert!((500..MANY / 2).contains(&cost), "{cost}");
    }
    // The sums of a thousand blocks.
    std::fs::write(&place.path, &sound).unwrap();
    let mut bytes = sound.clone();
    let sums = (1_025 + 1) * SIZE;
    bytes[sums..sums + SIZE].fill(0xEE);
    std::fs::write(&place.path, bytes).unwrap();
    comes_to_an_end(&place.path, MANY, true, "a block of sums");
}

#[test]
fn what_healing_leaves_out_is_in_memory_alone_until_it_is_written_again() {
    const MANY: u32 = 5_000;
    for of_rows in [false, true] {
        let place = place();
        fill(place.builder(), MANY).close().unwrap();
        let pages =
            if of_rows { pages_of(&place.path, ROWS) } else { pages_of(&place.path, INDEX) };
        let builder = place.builder().memory_max_entries(10_000).disk_cache_bytes(0);
        let cache = builder.open().unwrap();
        // All of it is in memory now.
        (0..MANY).for_each(|n| assert!(cache.get(&key(n)).unwrap().is_some()));
        // In place, since the cache has the file open.
        let file = std::fs::File::options().read(true).write(true).open(&place.path).unwrap();
        let block = pages.leaves[pages.leaves.len() / 2].0;
        write_at(&file, offset_of(block));
        drop(file);
        cache.compact().unwrap();
        let lost = MANY - u32::try_from(cache.disk_len()).unwrap();
        assert!(!of_rows || lost > 10, "{lost}");
        assert_eq!((found(&cache, MANY), cache.len()), (MANY, u64::from(MANY)));
        assert_eq!(cache.keys().count(), MANY as usize);
        assert_eq!(cache.validate(), Ok(()));
        // An entry that is only in memory can be removed, like any other.
        for n in 0..MANY {
            assert!(cache.invalidate(&key(n)).unwrap(), "{n}");
        }
        assert_eq!((cache.len(), cache.keys().count()), (0, 0));
        cache.close().unwrap();
        assert!(place.builder().open().unwrap().is_empty());
    }
}

#[cfg(unix)]
fn write_at(file: &std::fs::File, offset: u64) {
    std::os::unix::fs::FileExt::write_all_at(file, &[0xEE], offset).unwrap();
}

#[cfg(windows)]
fn write_at(file: &std::fs::File, offset: u64) {
    std::os::windows::fs::FileExt::seek_write(file, &[0xEE], offset).unwrap();
}

fn on(sim: &Sim) -> Builder<ByteCache> {
    ByteCache::builder().path(PATH).volume(Arc::new(sim.clone()))
}

/// The blocks of a file on a simulated device that are not empty, heads and first sums left out.
fn blocks_of(device: &dyn Device) -> Vec<(u64, [u8; SIZE])> {
    let mut block = [0; SIZE];
    let mut all = Vec::new();
    for nth in 2..device.len().unwrap() / BLOCK {
        device.read(nth * BLOCK, &mut block).unwrap();
        if block != [0; SIZE] {
            all.push((nth * BLOCK, block));
        }
    }
    all
}

#[test]
fn a_device_that_fails_while_a_file_heals_costs_nothing_more() {
    const MANY: u32 = 3_000;
    let filled = Sim::default();
    fill(on(&filled), MANY).close().unwrap();
    let cases = [
        (Call::Grow, How::Io),
        (Call::Grow, How::Full),
        (Call::Sync, How::Io),
        (Call::SetLen, How::Io),
        (Call::Read, How::Io),
    ];
    for (call, how) in cases {
        for count in [1, 4, 7] {
            let what = format!("{call:?} {how:?} {count}");
            let _dog = Watchdog::start(what.clone());
            let sim = filled.copy();
            let device = sim.open(Path::new(PATH)).unwrap().unwrap();
            for (at, block) in blocks_of(&*device) {
                if block[0] == 1 && block.windows(10).any(|bytes| bytes == key(1_500)) {
                    device.write(at, &[0xEE]).unwrap();
                }
            }
            let builder = on(&sim).memory_max_entries(3).disk_cache_bytes(0);
            let cache = builder.open().unwrap();
            assert!(cache.peek(&key(1_500)).unwrap().is_none());
            sim.set_fault(Some(Fault { call, how, first: sim.calls(call), count }));
            cache.insert(&key(1_500), b"new").unwrap();
            // Each flush has it tried once more.
            while cache.flush().is_err() {}
            assert!(sim.has_failed(), "{what}");
            sim.set_fault(None);
            let left = found(&cache, MANY);
            assert!((2_700..3_000).contains(&left), "{what}: {left}");
            assert!(!sim.has("cache.larder.damaged"), "{what}");
            assert_eq!(cache.stats().disk_evictions, 0, "{what}");
            assert_eq!(cache.get(&key(1_500)).unwrap().as_deref(), Some(&b"new"[..]), "{what}");
            cache.close().unwrap();
            assert_eq!(found(&on(&sim).open().unwrap(), MANY), left, "{what}");
        }
    }
}

#[test]
fn a_file_that_is_gone_comes_back_by_itself() {
    for count in [1, 5] {
        let _dog = Watchdog::start(format!("{count} calls fail"));
        let sim = Sim::default();
        let cache = fill(on(&sim), 100);
        sim.remove(Path::new(PATH)).unwrap();
        let fault = Fault { call: Call::Write, how: How::Io, first: sim.calls(Call::Write), count };
        sim.set_fault(Some(fault));
        cache.insert(b"new", b"value").unwrap();
        while cache.flush().is_err() {}
        assert!(sim.has_failed());
        assert_eq!(cache.get(b"new").unwrap().as_deref(), Some(&b"value"[..]));
        cache.close().unwrap();
        assert_eq!(on(&sim).open().unwrap().get(b"new").unwrap().as_deref(), Some(&b"value"[..]));
    }
}

/// A file system that goes away and comes back: nothing is made in its place, nor over what was there.
#[test]
#[cfg(unix)]
fn a_folder_that_goes_away_comes_back_with_all_that_was_in_it() {
    use std::fs;

    for stands_in in [false, true] {
        for on_damage in [DamagePolicy::Fail, DamagePolicy::SetAside] {
            let top = tempfile::tempdir().unwrap();
            let (folder, away) = (top.path().join("folder"), top.path().join("away"));
            let builder = ByteCache::builder().path(folder.join(PATH)).on_damage(on_damage);
            let cache = fill(builder.clone().disk_cache_bytes(0), 2_000);
            // A read that fails has the file opened anew.
            let file = fs::File::options().write(true).open(folder.join(PATH)).unwrap();
            let len = file.metadata().unwrap().len();
            fs::rename(&folder, &away).unwrap();
            if stands_in {
                fs::create_dir(&folder).unwrap();
            }
            let sound = fs::read(away.join(PATH)).unwrap();
            file.set_len(BLOCK).unwrap();
            while found(&cache, 2_000) > 10 {}
            std::os::unix::fs::FileExt::write_all_at(&file, &sound, 0).unwrap();
            file.set_len(len).unwrap();
            cache.insert(b"new", b"value").unwrap();
            assert!(cache.flush().is_err());
            assert!(matches!(cache.health().disk, Some(TierHealth::Degraded { .. })));
            if stands_in {
                assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
                fs::remove_dir(&folder).unwrap();
            }
            fs::rename(&away, &folder).unwrap();
            let _dog = Watchdog::start("the folder is back".to_owned());
            while cache.flush().is_err() {}
            assert_eq!(found(&cache, 2_000), 2_000);
            cache.close().unwrap();
            assert_eq!(builder.open().unwrap().len(), 2_001);
        }
    }
}

#[test]
#[cfg(unix)]
fn a_file_of_another_type_that_came_in_the_place_of_ours_is_left_alone() {
    let place = place();
    let other = place.beside(".other");
    larder::Cache::<str, u64>::builder().path(&other).open().unwrap().close().unwrap();
    let bytes = std::fs::read(&other).unwrap();
    let cache = fill(place.builder().disk_cache_bytes(0), 100);
    let ours = place.beside(".ours");
    std::fs::rename(&place.path, &ours).unwrap();
    let file = std::fs::File::options().write(true).open(&ours).unwrap();
    std::fs::rename(&other, &place.path).unwrap();
    // What was ours fails, and has the file of this name opened.
    file.set_len(BLOCK).unwrap();
    while found(&cache, 100) > 10 {}
    cache.insert(b"new", b"value").unwrap();
    assert!(cache.flush().is_err());
    let Some(TierHealth::Degraded { reason, .. }) = cache.health().disk else {
        panic!("it is not well")
    };
    assert!(reason.contains("another cache's file"), "{reason}");
    assert!(cache.close().is_err());
    assert!(std::fs::read(&place.path).unwrap() == bytes);
}

#[test]
fn one_bit_never_takes_an_open_file_back_to_an_earlier_commit() {
    let through = |sim: &Sim| {
        let builder = on(sim).memory_max_entries(0).disk_cache_bytes(0);
        builder.write_policy(WritePolicy::Through).on_damage(DamagePolicy::SetAside)
    };
    let (mut nth, mut set_aside, mut kept) = (0, 0, 0);
    loop {
        let sim = Sim::default();
        let cache = through(&sim).open().unwrap();
        (0..50).for_each(|n| cache.insert(&key(n), b"first").unwrap());
        cache.insert(b"a", b"old").unwrap();
        cache.insert(b"b", b"to be removed").unwrap();
        cache.flush().unwrap();
        cache.insert_many([(&b"a"[..], &b"new"[..]), (b"c", b"other")]).unwrap();
        cache.insert(b"a", b"newest").unwrap();
        cache.remove(b"b").unwrap();
        let device = sim.open(Path::new(PATH)).unwrap().unwrap();
        let Some((at, block)) = blocks_of(&*device).into_iter().nth(nth) else { break };
        nth += 1;
        let within = block.iter().position(|byte| *byte != 0).unwrap();
        device.write(at + within as u64, &[block[within] ^ 1]).unwrap();
        cache.insert(b"z", b"z").unwrap();
        let is_right = |cache: &ByteCache, what: &str| {
            let a = cache.peek(b"a").unwrap();
            assert!(a.as_deref().is_none_or(|a| a == b"newest"), "{what}, block at {at}: {a:?}");
            assert!(cache.peek(b"b").unwrap().is_none(), "{what}, block at {at}");
            assert!(cache.peek(b"z").unwrap().is_some(), "{what}, block at {at}");
            a.is_some()
        };
        let has_a = is_right(&cache, "open");
        // As kill -9 leaves it, after a flush.
        cache.flush().unwrap();
        let image = sim.copy();
        cache.close().unwrap();
        is_right(&through(&image).open().unwrap(), "killed");
        is_right(&through(&sim).open().unwrap(), "closed");
        set_aside += u32::from(sim.has("cache.larder.damaged"));
        kept += u32::from(has_a);
    }
    assert!(
        nth > 10 && kept > 3 && set_aside > 0,
        "{nth} blocks, {kept} kept, {set_aside} set aside"
    );
}

#[test]
fn what_could_not_be_evicted_from_a_full_device_is_still_there() {
    for count in 1..12 {
        let sim = Sim::default();
        let open = || on(&sim).memory_max_entries(10).write_policy(WritePolicy::Through).open();
        let cache = open().unwrap();
        (0..100_u32).for_each(|n| cache.insert(&key(n), &[7; 1_000]).unwrap());
        let fault = Fault { call: Call::Grow, how: How::Full, first: sim.calls(Call::Grow), count };
        sim.set_fault(Some(fault));
        let _ = cache.insert(b"large", &vec![7; 200_000]);
        while cache.flush().is_err() {}
        sim.set_fault(None);
        let (left, gone) = (u64::from(found(&cache, 100)), cache.stats().disk_evictions);
        assert_eq!((left + gone, cache.len()), (100, left + 1), "{count}");
        assert!(count > 1 || gone == 0);
        // The oldest of those that are left.
        for n in u32::try_from(gone).unwrap()..100 {
            assert!(n % 2 == 0 || cache.invalidate(&key(n)).unwrap(), "{count}, {n}");
        }
        cache.flush().unwrap();
        assert!(cache.verify().unwrap().is_ok(), "{count}");
        let keys: BTreeSet<_> = cache.keys().map(Result::unwrap).collect();
        cache.close().unwrap();
        let again: BTreeSet<_> = open().unwrap().keys().map(Result::unwrap).collect();
        assert_eq!(keys, again, "{count}");
    }
}

/// The call that is made when a file as a kill left it is opened, each in turn, fails, and the process
/// ends: after that the device is well, and everything is there.
#[test]
fn whatever_call_fails_as_a_file_is_opened_nothing_is_lost() {
    let open = |sim: &Sim, policy| {
        let builder = on(sim).memory_max_entries(3).write_policy(WritePolicy::Through);
        builder.on_damage(policy).open()
    };
    let sim = Sim::default();
    let cache = open(&sim, DamagePolicy::Fail).unwrap();
    for n in 0..60_u32 {
        let len = [10, 500, 6_000, 50_000][n as usize % 4];
        cache.insert(&key(n % 25), &vec![n.to_le_bytes()[0]; len]).unwrap();
        if n % 5 == 0 {
            cache.remove(&key(n % 7)).unwrap();
        }
    }
    let expected: Vec<_> =
        (0..25).map(|n| cache.peek(&key(n)).unwrap().map(|e| e.to_vec())).collect();
    let image = sim.copy();
    drop(cache);
    let calm = image.copy();
    open(&calm, DamagePolicy::Fail).unwrap().close().unwrap();
    let mut failed = 0;
    for call in [Call::Read, Call::Write, Call::Sync, Call::SetLen, Call::Names] {
        for first in 0..calm.calls(call) {
            for (how, count) in [(How::Io, 1), (How::Full, 3), (How::Short, 1), (How::Io, 1_000)] {
                for policy in [DamagePolicy::Fail, DamagePolicy::SetAside] {
                    let what = format!("{call:?} {first} {how:?} {count} {policy:?}");
                    let sim = image.copy();
                    sim.set_fault(Some(Fault { call, how, first, count }));
                    let opened = open(&sim, policy);
                    failed += u32::from(sim.has_failed());
                    sim.set_fault(None);
                    drop(opened);
                    let cache = open(&sim, policy).unwrap();
                    for (n, expected) in (0..).zip(&expected) {
                        let entry = cache.peek(&key(n)).unwrap();
                        assert_eq!(entry.as_deref(), expected.as_deref(), "{what}");
                    }
                    assert!(cache.verify().unwrap().is_ok(), "{what}");
                    assert!(!sim.has("cache.larder.damaged"), "{what}");
                }
            }
        }
    }
    assert!(failed > 200, "{failed}");
}

#[test]
fn reads_beside_compactions_find_every_key() {
    const MANY: u32 = 10_000;
    let place = place();
    // A page cache that is smaller than the file: reads go to the file.
    let cache = fill(place.builder().disk_cache_bytes(200_000), MANY);
    let (stop, reads) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut compactions = 0;
    std::thread::scope(|scope| {
        for thread in 0..2 {
            let (cache, stop, reads) = (&cache, &stop, &reads);
            scope.spawn(move || {
                let mut n = thread;
                while !stop.load(Ordering::SeqCst) {
                    n = (n + 7_919) % MANY;
                    assert!(cache.peek(&key(n)).unwrap().is_some(), "{n}");
                    reads.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        let (cache, stop) = (&cache, &stop);
        scope.spawn(move || {
            while !stop.load(Ordering::SeqCst) {
                assert_eq!(cache.keys().flatten().count(), MANY as usize);
                assert!(cache.verify().unwrap().is_ok());
            }
        });
        while compactions < 30 || reads.load(Ordering::SeqCst) < 10_000 {
            cache.compact().unwrap();
            compactions += 1;
        }
        stop.store(true, Ordering::SeqCst);
    });
    let stats = cache.stats();
    assert_eq!((stats.disk_errors, stats.corrupt), (0, 0));
}
