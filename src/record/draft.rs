//! The draft: what goes into a new record, and how its header is written.

use super::row::{
    HAS_ATTRIBUTES, HAS_CHARGE, HAS_CREATED, HAS_DEADLINE, HEADER, NEVER, RECORD_VERSION, checksum,
};
use super::{
    ALIGN, ATTRIBUTE_BYTES_MAX, CONTROL, CRC_AT, Filling, KEY_BYTES_MAX, KEY_LEN_AT, NO_ROW, PLAIN,
    Record, SCHEMA_AT, STAMP, STAMP_AT, VALUE_BYTES_MAX, VALUE_LEN_AT, value_at, words_at,
};

/// What goes into a record besides its key.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Draft<'a> {
    pub(crate) value: &'a [u8],
    /// Encoded by [`crate::entry`]; empty for none.
    pub(crate) attributes: &'a [u8],
    pub(crate) stamp: u64,
    pub(crate) created: u64,
    /// Absolute, or [`NEVER`].
    pub(crate) deadline: u64,
    /// `None`: key bytes plus value bytes.
    pub(crate) charge: Option<u64>,
    pub(crate) schema: u32,
}

impl Draft<'_> {
    /// No value, from the beginning of time, for ever.
    pub(crate) const EMPTY: Self = Self {
        value: &[],
        attributes: &[],
        stamp: 0,
        created: 0,
        deadline: NEVER,
        charge: None,
        schema: 0,
    };

    /// Makes the record of `key`.
    ///
    /// The caller has checked the limits: [`KEY_BYTES_MAX`], [`VALUE_BYTES_MAX`],
    /// [`ATTRIBUTE_BYTES_MAX`] and [`CHARGE_MAX`].
    #[inline]
    pub(crate) fn finish(&self, key: &[u8], seal: Seal) -> Record {
        assert!(key.len() <= KEY_BYTES_MAX && self.value.len() <= VALUE_BYTES_MAX);
        assert!(self.attributes.len() <= ATTRIBUTE_BYTES_MAX);
        let natural = key.len() as u64 + self.value.len() as u64;
        let charge = self.charge.filter(|charge| *charge != natural);
        let has_words = self.created != self.stamp
            || self.deadline != NEVER
            || charge.is_some()
            || !self.attributes.is_empty();
        if has_words || seal == Seal::Checksummed {
            return self.finish_with_words(key, charge, seal);
        }
        let mut filling = Filling::begin(key, PLAIN - CONTROL + self.value.len() + STAMP, seal);
        filling.put_word(self.lengths(key, NO_ROW));
        filling.put(self.value);
        filling.put_word(self.stamp.to_le_bytes());
        filling.finish()
    }

    /// What every header begins with.
    #[inline]
    fn lengths(&self, key: &[u8], flags: u8) -> [u8; 8] {
        let key_len = u16::try_from(key.len()).unwrap_or(u16::MAX).to_le_bytes();
        let value_len = u32::try_from(self.value.len()).unwrap_or(u32::MAX).to_le_bytes();
        let mut lengths = [RECORD_VERSION, flags, 0, 0, 0, 0, 0, 0];
        lengths[KEY_LEN_AT - CONTROL..VALUE_LEN_AT - CONTROL].copy_from_slice(&key_len);
        lengths[VALUE_LEN_AT - CONTROL..].copy_from_slice(&value_len);
        lengths
    }

    /// `charge`: unless it is the natural one.
    #[inline(never)]
    fn finish_with_words(&self, key: &[u8], charge: Option<u64>, seal: Seal) -> Record {
        let has_row = seal == Seal::Checksummed;
        let mut head = [0_u8; HEADER + 4 * 8 + ALIGN];
        let mut flags = if has_row { 0 } else { NO_ROW };
        let mut at = words_at(flags) - CONTROL;
        let mut word = |flag: u8, present: bool, value: u64| {
            if present {
                head[at..at + 8].copy_from_slice(&value.to_le_bytes());
                at += 8;
                flags |= flag;
            }
        };
        word(HAS_CREATED, self.created != self.stamp, self.created);
        word(HAS_DEADLINE, self.deadline != NEVER, self.deadline);
        word(HAS_CHARGE, charge.is_some(), charge.unwrap_or(0));
        word(HAS_ATTRIBUTES, !self.attributes.is_empty(), self.attributes.len() as u64);
        let lengths = self.lengths(key, flags);
        let stamp = self.stamp.to_le_bytes();
        head[..lengths.len()].copy_from_slice(&lengths);
        let head_len = value_at(flags) - CONTROL;
        let rest = head_len + self.value.len() + self.attributes.len();
        let mut put = |at: usize, bytes: &[u8]| {
            head[at - CONTROL..at - CONTROL + bytes.len()].copy_from_slice(bytes);
        };
        if has_row {
            put(SCHEMA_AT, &self.schema.to_le_bytes());
            put(STAMP_AT, &stamp);
            let (lengths, words) = (&head[..CRC_AT - CONTROL], &head[STAMP_AT - CONTROL..head_len]);
            let crc = checksum([key, lengths, words, self.value, self.attributes]).to_le_bytes();
            head[CRC_AT - CONTROL..][..crc.len()].copy_from_slice(&crc);
        }
        let end = if has_row { 0 } else { STAMP };
        let mut filling = Filling::begin(key, rest + end, seal);
        filling.put(&head[..head_len]);
        filling.put(self.value);
        filling.put(self.attributes);
        if !has_row {
            filling.put_word(stamp);
        }
        filling.finish()
    }
}

/// Whether a new record gets a row with its checksum, and words about the tier below: only those that may
/// reach a file need them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seal {
    Checksummed,
    MemoryOnly,
}
