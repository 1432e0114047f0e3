//! Records of every shape, with a row and without, and rows that are not one.

use super::row::checksum;
use super::*;

fn draft<'a>(value: &'a [u8], attributes: &'a [u8]) -> Draft<'a> {
    Draft { value, attributes, stamp: 7, created: 7, deadline: NEVER, charge: None, schema: 1 }
}

/// One with the words that the lowest four bits tell of.
fn draft_of(bits: u8, value: &[u8]) -> Draft<'_> {
    Draft {
        created: if bits & 1 == 0 { 7 } else { 3 },
        deadline: if bits & 2 == 0 { NEVER } else { 99 },
        charge: (bits & 4 != 0).then_some(12_345),
        ..draft(value, if bits & 8 == 0 { &[] } else { b"attributes" })
    }
}

#[test]
fn every_combination_of_fields_survives_a_row() {
    let sizes: &[usize] = if cfg!(miri) { &[0, 17] } else { &[0, 1, 15, 16, 17, 1000] };
    for (bits, size) in (0..16_u8).flat_map(|b| sizes.iter().map(move |s| (b, *s))) {
        let value: Vec<u8> = (0..size).map(|i| u8::try_from(i % 251).unwrap()).collect();
        let draft = draft_of(bits, &value);
        let made = draft.finish(b"key", Seal::Checksummed);
        let loaded = Record::from_row(b"key", &made.row().concat()).unwrap();
        for record in [&made, &loaded, &made.clone()] {
            assert_eq!(record.key(), b"key");
            assert_eq!(record.value(), value);
            assert_eq!(record.value().as_ptr().addr() % ALIGN, 0);
            assert_eq!(record.attributes(), draft.attributes);
            let charge = draft.charge.unwrap_or(3 + size as u64);
            assert_eq!((record.stamp(), record.charge()), (7, charge));
            let header = record.header();
            let want = Header {
                stamp: 7,
                created: draft.created,
                deadline: draft.deadline,
                charge,
                schema: 1,
            };
            assert_eq!(header, want);
        }
    }
}

#[test]
fn a_record_without_a_row_has_the_same_fields_and_is_smaller() {
    for (bits, size) in (0..16_u8).flat_map(|b| [0, 17, 64].map(|s| (b, s))) {
        let value: Vec<u8> = (0..size).collect();
        let draft = Draft { schema: 0, ..draft_of(bits, &value) };
        let with = draft.finish(b"a key of 16 byte", Seal::Checksummed);
        let made = draft.finish(b"a key of 16 byte", Seal::MemoryOnly);
        made.counter().store(1 << 30, Ordering::Relaxed);
        let copy = made.clone();
        made.counter().store(1, Ordering::Relaxed);
        assert!(!copy.is_same(&made));
        for record in [&made, &copy] {
            assert_eq!((record.header(), record.key()), (with.header(), with.key()));
            assert_eq!((record.value(), record.attributes()), (&value[..], with.attributes()));
            assert_eq!(record.value().as_ptr().addr() % ALIGN, 0);
            assert_eq!((record.stamp(), record.charge()), (7, with.charge()));
            assert_eq!((record.deadline(), record.row().concat()), (draft.deadline, vec![]));
        }
        let saved = with.allocated_bytes() - made.allocated_bytes();
        assert_eq!(saved, BELOW + 8);
    }
}

#[test]
fn a_flipped_bit_anywhere_is_refused() {
    let made = draft(b"some value", b"").finish(b"key", Seal::Checksummed);
    let sound = made.row().concat();
    for bit in (0..sound.len() * 8).step_by(if cfg!(miri) { 37 } else { 1 }) {
        let mut row = sound.clone();
        row[bit / 8] ^= 1 << (bit % 8);
        assert!(Record::from_row(b"key", &row).is_err(), "bit {bit}");
    }
    assert!(Record::from_row(b"kez", &sound).is_err());
    for len in 0..sound.len() {
        assert!(Record::from_row(b"key", &sound[..len]).is_err(), "length {len}");
    }
}

#[test]
fn a_newer_record_format_is_told_apart_from_damage() {
    let made = draft(b"v", b"").finish(b"key", Seal::Checksummed);
    let mut row = made.row().concat();
    row[4] = RECORD_VERSION + 1;
    let crc = checksum([b"key", &row[4..]]);
    row[..4].copy_from_slice(&crc.to_le_bytes());
    assert_eq!(Record::from_row(b"key", &row).unwrap_err(), BadRow::Newer);
}

#[test]
fn a_full_counter_makes_a_copy_instead_of_wrapping() {
    let made = draft(b"v", b"").finish(b"key", Seal::MemoryOnly);
    for many in [(1 << 28) + 1, (1 << 31) + (1 << 28) + 1] {
        made.counter().store(many, Ordering::Relaxed);
        let copy = made.clone();
        assert_ne!(copy.ptr, made.ptr);
        assert_eq!(copy.value(), b"v");
        assert_eq!(made.counter().load(Ordering::Relaxed), many);
    }
    made.counter().store(1, Ordering::Relaxed);
}

#[test]
fn handles_may_be_dropped_on_other_threads() {
    let made = draft(b"value", b"").finish(b"key", Seal::MemoryOnly);
    std::thread::scope(|s| {
        for _ in 0..4 {
            let handle = made.clone();
            s.spawn(move || assert_eq!(handle.value(), b"value"));
        }
    });
    assert_eq!(made.counter().load(Ordering::Relaxed), 1);
}

#[test]
fn a_row_that_is_larger_than_any_that_is_written_is_refused() {
    let attributes = vec![1; ATTRIBUTE_BYTES_MAX];
    let mut row = draft(b"v", &attributes).finish(b"key", Seal::Checksummed).row().concat();
    assert!(Record::from_row(b"key", &row).is_ok());
    row.push(1);
    row[HEADER..HEADER + 8].copy_from_slice(&(attributes.len() as u64 + 1).to_le_bytes());
    let crc = checksum([b"key", &row[4..]]).to_le_bytes();
    row[..4].copy_from_slice(&crc);
    assert_eq!(Record::from_row(b"key", &row).unwrap_err(), BadRow::Shape);
}
