//! Rows where they were seen, and where they are no more.

use proptest::prelude::*;
use redb::StorageBackend;

use super::*;
use crate::record::{Draft, Record, Seal};
use crate::store::disk::blocks::tests::{Memory, blocks_and_places};
use crate::store::disk::blocks::{BLOCK_BYTES, Blocks, GROUP};
use crate::store::disk::schema::join_row;

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

fn there(places: &Places, place: u64) -> Option<Vec<u8>> {
    places.look(place, |stored| Some(stored.to_vec()))
}

fn file(blocks: u64) -> (Memory, Blocks, Arc<Places>) {
    let file = Memory::default();
    let (storage, _, places) = blocks_and_places(&file, false);
    storage.set_len(blocks * BLOCK_BYTES).unwrap();
    (file, storage, places)
}

#[test]
fn rows_are_found_on_the_pages_that_were_written() {
    let (file, storage, places) = file(2 * GROUP + 8);
    let mut place = 1 << 50;
    for block in [1, 2, GROUP - 1, GROUP, GROUP + 1, 2 * GROUP - 3, 2 * GROUP - 2] {
        for len in [10, 1_000, 3_900, 5_000, 9_000] {
            let rows = [(place, stored(b"a", len)), (place + 3, stored(b"b", len))];
            let page = page(&rows);
            storage.write(block * BLOCK_BYTES, &page).unwrap();
            for (place, stored) in rows {
                let end = 4 + 24 + stored.len() * if place % 8 == 0 { 1 } else { 2 };
                let last = block % GROUP + (end.div_ceil(BLOCK) as u64);
                let is_one_place = end <= BLOCK || !block.is_multiple_of(GROUP) && last <= GROUP;
                let found = there(&places, place);
                assert_eq!(found, is_one_place.then_some(stored), "{block}, {len}");
                assert_eq!(there(&places, place + 1), None, "no row has that place");
            }
            place += 8;
        }
    }
    storage.sync_data().unwrap();
    // Whoever has read a page for redb knows its rows, too.
    let (again, _, places) = blocks_and_places(&file, false);
    assert_eq!(there(&places, place - 8), None);
    let mut out = vec![0; page(&[(place, stored(b"a", 9_000)), (0, stored(b"b", 9_000))]).len()];
    again.read((2 * GROUP - 2) * BLOCK_BYTES, &mut out).unwrap();
    assert_eq!(there(&places, place - 8), None, "it reaches into the next group");
    storage.write(BLOCK_BYTES, &page(&[(5, stored(b"a", 9))])).unwrap();
    storage.sync_data().unwrap();
    let (again, _, places) = blocks_and_places(&file, false);
    again.read(BLOCK_BYTES, &mut out[..BLOCK]).unwrap();
    assert_eq!(there(&places, 5), Some(stored(b"a", 9)));
}

#[test]
fn what_has_gone_from_a_page_is_forgotten() {
    let (_, storage, places) = file(8);
    let first = page(&[(7, stored(b"a", 9))]);
    storage.write(3 * BLOCK_BYTES, &first).unwrap();
    assert_eq!(places.look(7, |_| None::<()>), None);
    assert_eq!(there(&places, 7), None, "whoever looked did not like it");
    storage.write(3 * BLOCK_BYTES, &first).unwrap();
    assert_eq!(there(&places, 7), Some(stored(b"a", 9)));
    storage.write(3 * BLOCK_BYTES, &page(&[(6, stored(b"a", 8))])).unwrap();
    assert_eq!(there(&places, 7), None);
    assert_eq!(there(&places, 6), Some(stored(b"a", 8)));
    // Two that share a slot.
    let (near, far) = (6, 6 + slots_for(0) as u64);
    storage.write(4 * BLOCK_BYTES, &page(&[(far, stored(b"b", 9))])).unwrap();
    assert_eq!(there(&places, near), None);
    assert_eq!(there(&places, far), Some(stored(b"b", 9)));
    storage.set_len(2 * BLOCK_BYTES).unwrap();
    assert_eq!(there(&places, far), None, "the file ends before that");
    storage.set_len(8 * BLOCK_BYTES).unwrap();
    storage.write(3 * BLOCK_BYTES, &first).unwrap();
    places.is_cached.store(true, Ordering::Relaxed);
    assert_eq!(there(&places, 7), None, "redb has the page");
    places.set_len(BLOCK_BYTES);
    assert_eq!(there(&places, 7), Some(stored(b"a", 9)));
    places.watch.is_given_up.store(true, Ordering::Release);
    assert_eq!(there(&places, 7), None);
}

#[test]
fn pages_of_other_tables_leave_nothing() {
    let (_, storage, places) = file(8);
    // Keys of any length in front of values of sixteen bytes; and a value that is no row.
    let index = [&[1, 0, 1, 0, 11, 0, 0, 0][..], b"key", &[5; 16]].concat();
    let other = page(&[(9, b"no row".to_vec())]);
    for mut page in [index, other] {
        page.resize(BLOCK, 0);
        storage.write(BLOCK_BYTES, &page).unwrap();
    }
    assert!(places.slots.iter().all(|slots| slots.get().is_none()));
}

proptest! {
    /// What the file says is only looked at.
    #[test]
    fn a_page_of_any_bytes_is_read(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..200),
        is_leaf: bool,
        few in 0..16_u8,
    ) {
        if let Some(head) = bytes.first_chunk_mut().filter(|_| is_leaf) {
            *head = [1, 0, few, 0];
        }
        if let Some(leaf) = Leaf::of(&bytes) {
            let _ = (leaf.has_rows(), leaf.values().count(), leaf.places().count());
            for place in leaf.places() {
                let range = leaf.find(place);
                prop_assert!(range.is_none_or(|range| range.start <= range.end));
            }
        }
        let (_, storage, places) = file(4);
        storage.write(BLOCK_BYTES, &page(&[(1, stored(b"a", 9))])).unwrap();
        bytes.resize(BLOCK, 0);
        let known = places.slot(1).0.and_then(OnceLock::get).unwrap();
        let before = known[1].load(Ordering::Relaxed);
        storage.write(BLOCK_BYTES, &bytes).unwrap();
        known[1].store(before, Ordering::Relaxed);
        let is_record = |stored: &[u8]| {
            let (key, row) = crate::store::disk::schema::split_row(stored)?;
            Record::from_row(key, row).ok()
        };
        prop_assert!(places.look(1, is_record).is_none());
    }
}
