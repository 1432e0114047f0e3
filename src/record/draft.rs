//! The draft: what goes into a new record, and how its header is written.

use super::row::{
    HAS_ATTRIBUTES, HAS_CHARGE, HAS_CREATED, HAS_DEADLINE, HEADER, NEVER, RECORD_VERSION, checksum,
};
use super::{
    ALIGN, ATTRIBUTE_BYTES_MAX, CONTROL, CRC_AT, KEY_BYTES_MAX, KEY_LEN_AT, NO_ROW, Record,
    SCHEMA_AT, STAMP_AT, VALUE_BYTES_MAX, VALUE_LEN_AT, value_at, words_at,
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
        let charge = self.charge.unwrap_or(natural);
        word(HAS_CHARGE, charge != natural, charge);
        word(HAS_ATTRIBUTES, !self.attributes.is_empty(), self.attributes.len() as u64);
        head[0] = RECORD_VERSION;
        head[1] = flags;
        let key_len = u16::try_from(key.len()).unwrap_or(u16::MAX).to_le_bytes();
        let value_len = u32::try_from(self.value.len()).unwrap_or(u32::MAX).to_le_bytes();
        let stamp = self.stamp.to_le_bytes();
        let mut put = |at: usize, bytes: &[u8]| {
            head[at - CONTROL..at - CONTROL + bytes.len()].copy_from_slice(bytes);
        };
        put(KEY_LEN_AT, &key_len);
        put(VALUE_LEN_AT, &value_len);
        let head_len = value_at(flags) - CONTROL;
        if !has_row {
            let parts = [&head[..head_len], self.value, self.attributes, &stamp];
            return Record::assemble(key, parts, seal);
        }
        put(SCHEMA_AT, &self.schema.to_le_bytes());
        put(STAMP_AT, &stamp);
        let (lengths, rest) = (&head[..CRC_AT - CONTROL], &head[STAMP_AT - CONTROL..head_len]);
        let crc = checksum([key, lengths, rest, self.value, self.attributes]).to_le_bytes();
        head[CRC_AT - CONTROL..][..crc.len()].copy_from_slice(&crc);
        Record::assemble(key, [&head[..head_len], self.value, self.attributes, &[]], seal)
    }
}

/// Whether a new record gets a row with its checksum, and words about the tier below: only those that may
/// reach a file need them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seal {
    Checksummed,
    MemoryOnly,
}
