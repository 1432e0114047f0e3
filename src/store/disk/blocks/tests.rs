//! Blocks against a plain file, and with each byte flipped.

use proptest::prelude::*;

use super::*;
use crate::record::{NEVER, Seal};
use crate::store::disk::volume::Device;

/// A file in memory, of which a test has another handle.
#[derive(Debug, Clone, Default)]
pub(in crate::store::disk) struct Memory(Arc<Mutex<Vec<u8>>>);

impl Device for Memory {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let (file, from) = (self.0.lock(), index(offset)?);
        let there = file.get(from..from + out.len()).ok_or(ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(there);
        Ok(())
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let (mut file, from) = (self.0.lock(), index(offset)?);
        let end = from + bytes.len();
        let len = file.len().max(end);
        file.resize(len, 0);
        file[from..end].copy_from_slice(bytes);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.lock().resize(index(len)?, 0);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

pub(in crate::store::disk) fn blocks_and_places(
    file: &Memory,
    is_held: bool,
) -> (Blocks, Arc<Holding>, Arc<Places>) {
    let holding = Holding::new(Box::new(file.clone()), is_held).unwrap();
    let blocks = Blocks::new(Arc::clone(&holding), Arc::default(), 0);
    let places = Arc::clone(blocks.places());
    (blocks, holding, places)
}

fn blocks(file: &Memory, is_held: bool) -> (Blocks, Arc<Holding>) {
    let (blocks, holding, _) = blocks_and_places(file, is_held);
    (blocks, holding)
}

#[derive(Debug, Clone)]
enum Call {
    Write(u64, u64, u8),
    Read(u64, u64),
    Len(u64),
    Head(u8),
    Reopen,
}

fn calls() -> impl Strategy<Value = Vec<Call>> {
    // Where groups meet, and at both ends.
    let block = prop_oneof![1..4_u64, GROUP - 3..GROUP + 3];
    let len = prop_oneof![1..5_u64, GROUP - 2..GROUP + 4];
    let call = prop_oneof![
        4 => (block.clone(), 1..5_u64, any::<u8>()).prop_map(|(at, n, b)| Call::Write(at, n, b)),
        4 => (block, 1..5_u64).prop_map(|(at, n)| Call::Read(at, n)),
        2 => len.prop_map(Call::Len),
        1 => any::<u8>().prop_map(Call::Head),
        1 => Just(Call::Reopen),
    ];
    proptest::collection::vec(call, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// What redb sees is a plain file, also while it is held, and after it is released.
    #[test]
    fn it_is_a_file(calls in calls(), is_held: bool) {
        let file = Memory::default();
        let (mut storage, mut holding) = blocks(&file, is_held);
        let mut model = vec![0; BLOCK];
        storage.set_len(BLOCK_BYTES).unwrap();
        storage.write(0, &[0; 320]).unwrap();
        for call in calls {
            let there = model.len() as u64 / BLOCK_BYTES;
            match call {
                Call::Write(at, count, byte) if at + count <= there => {
                    let range = index(at * BLOCK_BYTES)?..index((at + count) * BLOCK_BYTES)?;
                    model[range.clone()].fill(byte);
                    storage.write(at * BLOCK_BYTES, &model[range]).unwrap();
                }
                Call::Read(at, count) => {
                    let mut out = vec![1; index(count * BLOCK_BYTES)?];
                    let read = storage.read(at * BLOCK_BYTES, &mut out);
                    prop_assert_eq!(read.is_ok(), at + count <= there, "{:?}", read);
                    if at + count <= there {
                        let from = index(at * BLOCK_BYTES)?;
                        prop_assert!(out == model[from..from + out.len()]);
                    }
                }
                Call::Len(count) => {
                    model.resize(index(count * BLOCK_BYTES)?, 0);
                    storage.set_len(count * BLOCK_BYTES).unwrap();
                }
                Call::Head(byte) => {
                    model[..320].fill(byte);
                    storage.write(0, &model[..320]).unwrap();
                }
                Call::Write(..) => {}
                Call::Reopen => {
                    storage.sync_data().unwrap();
                    holding.release().unwrap();
                    (storage, holding) = blocks(&file, is_held);
                }
            }
            prop_assert_eq!(storage.len().unwrap(), model.len() as u64);
            let mut head = [0; 320];
            storage.read(0, &mut head).unwrap();
            // Flags are those of a head that is whole.
            prop_assert!(head == model[..320] || model[9] != head[9]);
        }
    }
}

#[test]
fn a_held_file_stays_as_it_is() {
    let file = Memory::default();
    let (storage, _) = blocks(&file, false);
    storage.set_len(3 * BLOCK_BYTES).unwrap();
    for byte in [1, 2] {
        storage.write(0, &[byte; 320]).unwrap();
    }
    storage.write(BLOCK_BYTES, &[7; BLOCK]).unwrap();
    storage.sync_data().unwrap();
    let before = file.0.lock().clone();
    let (storage, holding) = blocks(&file, true);
    storage.write(0, &[3; 320]).unwrap();
    storage.write(BLOCK_BYTES, &[8; BLOCK]).unwrap();
    storage.set_len(2 * BLOCK_BYTES).unwrap();
    storage.sync_data().unwrap();
    assert!(*file.0.lock() == before);
    let mut out = [0; BLOCK];
    storage.read(BLOCK_BYTES, &mut out).unwrap();
    assert_eq!(out, [8; BLOCK]);
    holding.release().unwrap();
    let (storage, _) = blocks(&file, false);
    storage.read(BLOCK_BYTES, &mut out).unwrap();
    assert_eq!((out, storage.len().unwrap()), ([8; BLOCK], 2 * BLOCK_BYTES));
}

/// Each byte of each block, of the sums and of the heads.
#[test]
fn whatever_is_flipped_is_met() {
    let file = Memory::default();
    let (storage, _) = blocks(&file, false);
    storage.set_len(3 * BLOCK_BYTES).unwrap();
    storage.write(BLOCK_BYTES, &[7; BLOCK]).unwrap();
    storage.write(0, &[4; 320]).unwrap();
    storage.write(0, &[4; 320]).unwrap();
    storage.sync_data().unwrap();
    let sound = file.0.lock().clone();
    // Sums from 4096, then the block that was written and the one that was not.
    for at in (0..16).chain(500..520).chain((4_096..4_108).chain(8_192..16_384).step_by(7)) {
        file.0.lock()[at] ^= 0x10;
        let (storage, _) = blocks(&file, false);
        let mut head = [0; 320];
        assert!(storage.read(0, &mut head).is_ok(), "the other head is whole");
        let is_unsure = head[9] != 4;
        let mut out = [0; 2 * BLOCK];
        let read = storage.read(BLOCK_BYTES, &mut out);
        // The first sum is of the head, and of no use.
        let is_met = at < 1_024 && is_unsure || (4_096..4_100).contains(&at) || read.is_err();
        assert!(is_met, "{at}");
        *file.0.lock() = sound.clone();
    }
}

#[test]
fn rows_are_told_from_other_pages() {
    let mut page = [0; BLOCK];
    assert!(!holds_damaged_rows(&page));
    empty(&mut page);
    assert!(!holds_damaged_rows(&page));
    assert!(!holds_damaged_rows(&[]));
    assert!(!holds_damaged_rows(&[1, 0, 255, 255]));
    let record = Record::of_key(b"key").redated(5, NEVER, Seal::Checksummed);
    let row = [&3_u16.to_le_bytes()[..], b"key", &record.row().concat()].concat();
    let end = u32::try_from(16 + row.len()).unwrap().to_le_bytes();
    let leaf = [&[1, 0, 1, 0][..], &end, &9_u64.to_le_bytes(), &row].concat();
    page[..leaf.len()].copy_from_slice(&leaf);
    assert!(!holds_damaged_rows(&page), "all are sound");
    page[16 + 5] ^= 1;
    assert!(holds_damaged_rows(&page), "its checksum is wrong");
    page[16] = 4;
    assert!(!holds_damaged_rows(&page), "it is no row");
}
