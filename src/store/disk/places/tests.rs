//! Rows where they were seen, and where they are no more; and what is known of keys while commits change it.

use std::collections::HashMap;

use proptest::prelude::*;
use redb::StorageBackend;

use super::*;
use crate::record::{Draft, Seal};
use crate::store::disk::blocks::tests::{Memory, blocks_and_places};
use crate::store::disk::blocks::{BLOCK_BYTES, Blocks, GROUP, noting};
use crate::store::disk::schema::join_row;
use crate::store::disk::volume::Device;

/// What is stored of a key, with a value of so many bytes.
fn stored(key: &[u8], len: usize) -> Vec<u8> {
    let draft = Draft { value: &vec![7; len], ..Draft::EMPTY };
    let mut stored = Vec::new();
    join_row(&mut stored, key, draft.finish(key, Seal::Checksummed).row());
    stored
}

/// A page of redb's with these rows, filled up to whole blocks.
fn page(rows: &[(u64, Vec<u8>)]) -> Vec<u8> {
    let mut page = vec![1, 0];
    page.extend(u16::try_from(rows.len()).unwrap().to_le_bytes());
    let mut end = 4 + 12 * rows.len();
    for (_, stored) in rows {
        end += stored.len();
        page.extend(u32::try_from(end).unwrap().to_le_bytes());
    }
    page.extend(rows.iter().flat_map(|(place, _)| place.to_le_bytes()));
    page.extend(rows.iter().flat_map(|(_, stored)| stored));
    page.resize(page.len().next_multiple_of(BLOCK), 0);
    page
}

fn there(places: &Places, spot: Spot) -> Option<Vec<u8>> {
    places.read(spot, |stored| Some(stored.to_vec()))
}

fn file(blocks: u64) -> (Memory, Blocks, Arc<Places>) {
    let file = Memory::default();
    let (storage, _, places) = blocks_and_places(&file, false);
    storage.set_len(blocks * BLOCK_BYTES).unwrap();
    (file, storage, places)
}

/// Has redb read a page in the table of rows, looking for a place.
fn look_up(storage: &Blocks, block: u64, page: &[u8], place: u64) -> Option<Spot> {
    let mut out = vec![0; page.len()];
    noting(|| storage.read(block * BLOCK_BYTES, &mut out)).unwrap();
    assert!(out == page);
    storage.places().spot(place)
}

fn write(storage: &Blocks, block: u64, page: &[u8]) {
    storage.write(block * BLOCK_BYTES, page).unwrap();
}

#[test]
fn rows_are_found_where_they_were_looked_up() {
    let (_, storage, places) = file(2 * GROUP + 8);
    let mut place = 1 << 50;
    for block in [1, 2, GROUP - 1, GROUP, GROUP + 1, 2 * GROUP - 3, 2 * GROUP - 2] {
        for len in [10, 1_000, 3_900, 5_000] {
            let rows = [(place, stored(b"a", len)), (place + 3, stored(b"b", len))];
            let page = page(&rows);
            write(&storage, block, &page);
            let mut end = 4 + 24;
            for (place, stored) in rows {
                end += stored.len();
                let found = look_up(&storage, block, &page, place).map(|spot| there(&places, spot));
                assert_eq!(found, (end <= BLOCK).then_some(Some(stored)), "{block}, {len}");
                assert_eq!(places.spot(place + 1), None, "no row has that place");
            }
            place += 8;
        }
    }
    let page = page(&[(7, stored(b"a", 9))]);
    write(&storage, 3, &page);
    storage.read(3 * BLOCK_BYTES, &mut vec![0; BLOCK]).unwrap();
    assert_eq!(places.spot(7), None, "who read it did not look for rows");
    places.is_cached.store(true, Ordering::Relaxed);
    assert_eq!(look_up(&storage, 3, &page, 7), None, "redb keeps the page");
    places.set_len(BLOCK_BYTES);
    assert!(look_up(&storage, 3, &page, 7).is_some());
    assert!(places.spot(7).is_some());
    // Of another file, and by another thread.
    assert_eq!(file(8).2.spot(7), None);
    let theirs = std::thread::spawn(move || (places.spot(7), places)).join().unwrap();
    assert_eq!(theirs.0, None);
    write(&storage, 3, &page);
    assert_eq!(theirs.1.spot(7), None, "it was written since");
}

#[test]
fn what_has_gone_from_its_spot_is_not_found() {
    let (file, storage, places) = file(8);
    let (first, second) = (page(&[(7, stored(b"a", 9))]), page(&[(8, stored(b"a", 9))]));
    write(&storage, 3, &first);
    let spot = look_up(&storage, 3, &first, 7).unwrap();
    let found = Some(stored(b"a", 9));
    assert_eq!(there(&places, spot), found);
    assert_eq!(places.read(spot, |_| None::<()>), None);
    assert_eq!(there(&places, spot), found);
    // The very same bytes, but nobody has said what they are since they were written.
    write(&storage, 3, &second);
    assert_eq!(there(&places, spot), None);
    write(&storage, 3, &first);
    assert_eq!(there(&places, spot), None);
    let spot = look_up(&storage, 3, &first, 7).unwrap();
    assert_eq!(there(&places, spot), found);
    // A write that went elsewhere, or never came.
    let other = Draft { value: &[8; 9], ..Draft::EMPTY }.finish(b"a", Seal::Checksummed);
    let mut older = Vec::new();
    join_row(&mut older, b"a", other.row());
    let mut bytes = vec![0; BLOCK];
    Device::read(&file, place_of(3) * BLOCK_BYTES, &mut bytes).unwrap();
    Device::write(&file, place_of(3) * BLOCK_BYTES, &page(&[(7, older)])).unwrap();
    assert_eq!(there(&places, spot), None);
    Device::write(&file, place_of(3) * BLOCK_BYTES, &bytes).unwrap();
    assert_eq!(there(&places, spot), found);
    storage.set_len(2 * BLOCK_BYTES).unwrap();
    assert_eq!(there(&places, spot), None, "the file ends before that");
    storage.set_len(8 * BLOCK_BYTES).unwrap();
    write(&storage, 3, &first);
    let spot = look_up(&storage, 3, &first, 7).unwrap();
    places.watch.is_given_up.store(true, Ordering::Release);
    assert_eq!(there(&places, spot), None);
}

#[test]
fn a_write_counts_for_each_of_its_blocks() {
    let (_, storage, places) = file(8);
    let first = page(&[(7, stored(b"a", 9))]);
    write(&storage, 3, &first);
    let spot = look_up(&storage, 3, &first, 7).unwrap();
    let before = [places.writes(3), places.writes(4)];
    write(&storage, 3, &[first.clone(), first].concat());
    assert_eq!(there(&places, spot), None);
    assert!(before.iter().zip([3, 4]).all(|(before, block)| *before != places.writes(block)));
}

#[test]
fn a_thread_that_ends_may_still_look() {
    struct Last(Arc<Places>, Spot);
    impl Drop for Last {
        fn drop(&mut self) {
            assert_eq!(there(&self.0, self.1), Some(stored(b"a", 9)));
        }
    }
    thread_local! {
        static FIRST: Cell<Option<Last>> = const { Cell::new(None) };
        static SECOND: Cell<Option<Last>> = const { Cell::new(None) };
    }
    let (_, storage, places) = file(8);
    let page = page(&[(7, stored(b"a", 9))]);
    write(&storage, 3, &page);
    let spot = look_up(&storage, 3, &page, 7).unwrap();
    let run = move || {
        FIRST.set(Some(Last(Arc::clone(&places), spot)));
        assert!(there(&places, spot).is_some());
        SECOND.set(Some(Last(places, spot)));
    };
    std::thread::spawn(run).join().unwrap();
}

const SPOT: Spot = Spot { block: u32::MAX, start: 4_095, len: 4_095, writes: 1 << 15, print: 0 };

#[test]
fn a_slot_gives_what_it_was_given() {
    for hash in [0, 1, u64::MAX, 0xFEDC_BA98_7654_3210].map(KeyHash) {
        for lead in [Lead::Spot(SPOT), Lead::Place(0), Lead::Place((1 << 56) - 2)] {
            for stamp in [0, 1, u64::MAX] {
                let slot = Slot::new(hash, stamp, lead).unwrap();
                assert_eq!((slot.stamp(), slot.lead()), (stamp, lead));
                assert!(slot.is_of(hash) && !slot.is_free());
                let others = (BUCKET_BITS..u64::BITS).map(|bit| KeyHash(hash.0 ^ 1 << bit));
                assert!(others.into_iter().all(|other| !slot.is_of(other)));
            }
        }
        assert!(!Slot::default().is_of(hash) && Slot::default().is_free());
        for far in [(1 << 56) - 1, u64::MAX] {
            assert!(Slot::new(hash, 1, Lead::Place(far)).is_none());
        }
    }
}

#[test]
fn what_was_seen_before_a_commit_is_not_noted_after_it() {
    let (_, _, places) = file(8);
    let (hash, lead) = (KeyHash(1 << 50), Lead::Place(3));
    let known = || places.ask(hash, 1).known;
    places.begin(1);
    // Told in between, with no bucket before, and with one.
    for _ in 0..2 {
        let asked = places.ask(hash, 1);
        places.change(hash, Change::Gone);
        places.note(asked, 7, lead);
        assert_eq!(known(), None);
    }
    let asked = places.ask(hash, 1);
    places.change_all();
    places.note(asked, 7, lead);
    assert_eq!(known(), None);
    // An older snapshot, or one that is not the newest yet.
    for epoch in [0, 2] {
        places.note(places.ask(hash, epoch), 7, lead);
        assert_eq!(known(), None);
    }
    places.note(places.ask(hash, 1), 7, lead);
    assert_eq!(known(), Some((7, lead)));
    places.change(hash, Change::Stamp(7, 9));
    assert_eq!(known(), Some((9, lead)));
    places.change(hash, Change::Stamp(7, 11));
    assert_eq!(known(), None, "that was of another key");
}

/// What happens to a few keys, of which many share a bucket.
#[derive(Debug, Clone)]
enum Step {
    /// Asks for a key; what comes of it is noted some steps later.
    Ask(u64),
    /// The oldest of those that asked notes what its snapshot says.
    Note,
    /// A commit of some keys: gone, or with other stamps, or everything.
    Commit(Vec<(u64, bool)>, bool),
    /// Twice as many buckets are used.
    Grow,
}

fn step() -> impl Strategy<Value = Step> {
    let commit = (proptest::collection::vec((0..40_u64, any::<bool>()), 0..4), 0..20_u8);
    prop_oneof![
        4 => (0..40_u64).prop_map(Step::Ask),
        4 => Just(Step::Note),
        1 => commit.prop_map(|(keys, all)| Step::Commit(keys, all == 0)),
        1 => (0..20_u8).prop_map(|nth| if nth == 0 { Step::Grow } else { Step::Note }),
    ]
}

proptest! {
    /// Whatever is asked, noted and committed in whatever order: what is known is what the newest index has.
    #[test]
    fn what_is_known_is_so(steps in proptest::collection::vec(step(), 0..300)) {
        let (_, _, places) = file(8);
        // In up to eight buckets, with tags that differ in any bit.
        let hash = |key: u64| KeyHash((key & 7) << 21 | 1 << (24 + key));
        places.used.store(1, Ordering::Relaxed);
        // What the index has of each key, per epoch.
        let mut index = HashMap::new();
        let (mut asking, mut epoch, mut next) = (Vec::new(), 1, 1);
        places.begin(epoch);
        for step in steps {
            match step {
                Step::Ask(key) => {
                    let asked = places.ask(hash(key), epoch);
                    let has = *index.entry(key).or_insert_with(|| {
                        next += 1;
                        (next, Lead::Place(next))
                    });
                    prop_assert!(asked.known.is_none_or(|known| known == has));
                    asking.push((asked, has));
                }
                Step::Grow => {
                    let used = places.used.load(Ordering::Relaxed);
                    places.used.store((2 * used).min(TOGETHER - 1), Ordering::Relaxed);
                }
                Step::Note if asking.is_empty() => {}
                Step::Note => {
                    let (asked, (stamp, lead)) = asking.remove(0);
                    places.note(asked, stamp, lead);
                }
                Step::Commit(keys, all) => {
                    epoch += 1;
                    places.begin(epoch);
                    for (key, gone) in keys {
                        next += 1;
                        let Some((stamp, lead)) = index.get_mut(&key) else { continue };
                        // By who has the snapshot before still, and is not done soon.
                        asking.push((places.ask(hash(key), epoch - 1), (*stamp, *lead)));
                        if gone {
                            *lead = Lead::Place(next);
                            places.change(hash(key), Change::Gone);
                        } else {
                            places.change(hash(key), Change::Stamp(*stamp, next));
                        }
                        *stamp = next;
                    }
                    if all {
                        index.clear();
                        places.change_all();
                    }
                }
            }
        }
    }

    /// What a page says is only looked at.
    #[test]
    fn a_page_of_any_bytes_is_read(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..200),
        is_leaf: bool,
        few in 0..16_u8,
    ) {
        if let Some(head) = bytes.first_chunk_mut().filter(|_| is_leaf) {
            *head = [1, 0, few, 0];
        }
        let leaf = Leaf::of(&bytes);
        for (_, range) in leaf.into_iter().flat_map(Leaf::rows) {
            prop_assert!(range.is_none_or(|range| range.start <= range.end));
        }
        let (_, storage, places) = file(4);
        bytes.resize(BLOCK, 0);
        write(&storage, 1, &bytes);
        let leaf = Leaf::of(&bytes);
        for (place, _) in leaf.into_iter().flat_map(Leaf::rows) {
            if let Some(spot) = look_up(&storage, 1, &bytes, place) {
                let row = leaf.and_then(|leaf| leaf.rows().find(|row| row.0 == place)?.1);
                let found = there(&places, spot);
                prop_assert_eq!(row.and_then(|row| bytes.get(row)), found.as_deref());
            }
        }
    }
}
