//! Rows where they were seen, and where they are no more.

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

fn there(places: &Places, place: u64) -> Option<Vec<u8>> {
    places.look(place, |stored| Some(stored.to_vec()))
}

fn file(blocks: u64) -> (Memory, Blocks, Arc<Places>) {
    let file = Memory::default();
    let (storage, _, places) = blocks_and_places(&file, false);
    storage.set_len(blocks * BLOCK_BYTES).unwrap();
    (file, storage, places)
}

/// Has redb read a page in the table of rows.
fn look_up(storage: &Blocks, block: u64, page: &[u8]) {
    let mut out = vec![0; page.len()];
    noting(|| storage.read(block * BLOCK_BYTES, &mut out)).unwrap();
    assert!(out == page);
}

fn write(storage: &Blocks, block: u64, page: &[u8]) {
    storage.write(block * BLOCK_BYTES, page).unwrap();
}

#[test]
fn rows_are_found_on_the_pages_that_were_looked_up() {
    let (_, storage, places) = file(2 * GROUP + 8);
    let mut place = 1 << 50;
    for block in [1, 2, GROUP - 1, GROUP, GROUP + 1, 2 * GROUP - 3, 2 * GROUP - 2] {
        for len in [10, 1_000, 3_900, 5_000] {
            let rows = [(place, stored(b"a", len)), (place + 3, stored(b"b", len))];
            let page = page(&rows);
            write(&storage, block, &page);
            storage.read(block * BLOCK_BYTES, &mut vec![0; page.len()]).unwrap();
            assert_eq!(there(&places, place), None, "who read it did not look for rows");
            look_up(&storage, block, &page);
            let mut end = 4 + 24;
            for (place, stored) in rows {
                end += stored.len();
                let found = there(&places, place);
                assert_eq!(found, (end <= BLOCK).then_some(stored), "{block}, {len}");
                assert_eq!(there(&places, place + 1), None, "no row has that place");
            }
            place += 8;
        }
    }
}

#[test]
fn what_has_gone_from_a_page_is_forgotten() {
    let (file, storage, places) = file(8);
    let first = page(&[(7, stored(b"a", 9))]);
    let found = Some(stored(b"a", 9));
    write(&storage, 3, &first);
    look_up(&storage, 3, &first);
    assert_eq!(there(&places, 7), found);
    assert_eq!(places.look(7, |_| None::<()>), None);
    assert_eq!(there(&places, 7), None, "whoever looked did not like it");
    look_up(&storage, 3, &first);
    let second = page(&[(6, stored(b"a", 8))]);
    write(&storage, 3, &second);
    assert_eq!(there(&places, 7), None);
    look_up(&storage, 3, &second);
    assert_eq!(there(&places, 6), Some(stored(b"a", 8)));
    // Two that share a slot.
    let far = 6 + slots_for(0) as u64;
    let third = page(&[(far, stored(b"b", 9))]);
    write(&storage, 4, &third);
    look_up(&storage, 4, &third);
    assert_eq!(there(&places, 6), None);
    assert_eq!(there(&places, far), Some(stored(b"b", 9)));
    // A write that went elsewhere, or never came.
    Device::write(&file, place_of(4) * BLOCK_BYTES, &first).unwrap();
    assert_eq!(there(&places, far), None);
    Device::write(&file, place_of(4) * BLOCK_BYTES, &third).unwrap();
    look_up(&storage, 4, &third);
    storage.set_len(2 * BLOCK_BYTES).unwrap();
    assert_eq!(there(&places, far), None, "the file ends before that");
    storage.set_len(8 * BLOCK_BYTES).unwrap();
    write(&storage, 3, &first);
    look_up(&storage, 3, &first);
    places.is_cached.store(true, Ordering::Relaxed);
    assert_eq!(there(&places, 7), None, "redb has the page");
    places.set_len(BLOCK_BYTES);
    assert_eq!(there(&places, 7), found);
    places.watch.is_given_up.store(true, Ordering::Release);
    assert_eq!(there(&places, 7), None);
}

/// Keys and values may have any bytes, those of a page with a sound row included.
#[test]
fn bytes_that_look_like_a_page_are_none() {
    let (_, storage, places) = file(8);
    let honest = page(&[(7, stored(b"a", 9))]);
    write(&storage, 3, &honest);
    look_up(&storage, 3, &honest);
    let forged = page(&[(7, stored(b"a", 10))]);
    // Where the honest one was, and where none was.
    write(&storage, 3, &forged);
    write(&storage, 4, &forged);
    for block in [3, 4] {
        storage.read(block * BLOCK_BYTES, &mut vec![0; forged.len()]).unwrap();
        assert_eq!(there(&places, 7), None);
    }
    // The same bytes in the same place, but nobody has said since what they are.
    write(&storage, 3, &honest);
    look_up(&storage, 3, &honest);
    write(&storage, 3, &honest);
    assert_eq!(there(&places, 7), None);
}

#[test]
fn a_thread_that_ends_may_still_look() {
    struct Last(Arc<Places>);
    impl Drop for Last {
        fn drop(&mut self) {
            assert_eq!(there(&self.0, 7), Some(stored(b"a", 9)));
        }
    }
    thread_local! {
        static FIRST: Cell<Option<Last>> = const { Cell::new(None) };
        static SECOND: Cell<Option<Last>> = const { Cell::new(None) };
    }
    let (_, storage, places) = file(8);
    let page = page(&[(7, stored(b"a", 9))]);
    write(&storage, 3, &page);
    look_up(&storage, 3, &page);
    let run = move || {
        FIRST.set(Some(Last(Arc::clone(&places))));
        assert!(there(&places, 7).is_some());
        SECOND.set(Some(Last(places)));
    };
    std::thread::spawn(run).join().unwrap();
}

proptest! {
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
        for (place, _) in leaf.into_iter().flat_map(Leaf::rows) {
            let range = leaf.and_then(|leaf| leaf.find(place));
            prop_assert!(range.is_none_or(|range| range.start <= range.end));
        }
        let (_, storage, places) = file(4);
        bytes.resize(BLOCK, 0);
        write(&storage, 1, &bytes);
        look_up(&storage, 1, &bytes);
        let leaf = Leaf::of(&bytes);
        for (place, _) in leaf.into_iter().flat_map(Leaf::rows) {
            if let Some(found) = there(&places, place) {
                let row = leaf.and_then(|leaf| leaf.find(place));
                prop_assert_eq!(row.and_then(|row| bytes.get(row)), Some(&found[..]));
            }
        }
    }
}
