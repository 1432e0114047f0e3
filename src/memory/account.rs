//! The account of the tier: what it holds and may hold, and who asks for a place.

use crate::hash::KeyHash;
use crate::memory::ordered::Ordered;
use crate::record::{CHARGES_MAX, Record};
use crate::stats::Limits;

/// What the tier holds and may hold (M2).
#[derive(Debug, Default)]
pub(super) struct Account {
    pub(super) entries: u64,
    pub(super) bytes: u64,
    pub(super) limits: Limits,
    /// The most entries that there are numbers for.
    pub(super) numbers: u64,
    /// Unless the shards keep theirs.
    pub(super) ordered: Option<Ordered>,
}

impl Account {
    /// The sums with what a new entry counts in the place of what an old one does, if there is one; `None` if
    /// there is not as much as the old one counts.
    #[inline]
    pub(super) fn with(&self, old: Option<u64>, new: u64) -> Option<(u64, u64)> {
        let entries = (self.entries + 1).checked_sub(u64::from(old.is_some()))?;
        let bytes = self.bytes.checked_sub(old.unwrap_or(0))?.checked_add(new)?;
        Some((entries, bytes))
    }

    /// Likewise; `None` also if that would exceed a limit.
    #[inline]
    pub(super) fn exchanged(&self, old: Option<u64>, new: u64) -> Option<(u64, u64)> {
        self.with(old, new).filter(|(entries, bytes)| !self.are_too_many(*entries, *bytes))
    }

    /// Whether so much may not be in.
    #[inline]
    pub(super) fn are_too_many(&self, entries: u64, bytes: u64) -> bool {
        entries > self.numbers || bytes > CHARGES_MAX || self.limits.exceeded(entries, bytes)
    }

    /// Exchanges the one for the other; `false`, and no change, if that would exceed a limit.
    #[inline]
    pub(super) fn exchange(&mut self, old: Option<u64>, new: u64) -> bool {
        let Some(sums) = self.exchanged(old, new) else { return false };
        (self.entries, self.bytes) = sums;
        true
    }

    /// Whether a newcomer fits; without one, whether all are within the limits.
    pub(super) fn has_room(&self, newcomer: Option<&Newcomer<'_>>) -> bool {
        match newcomer {
            // More than there is: the old entry has left meanwhile, and who asks is to look again.
            Some(newcomer) if newcomer.old.is_some_and(|old| old > self.bytes) => true,
            Some(newcomer) => self.exchanged(newcomer.old, newcomer.charge).is_some(),
            None => !self.is_over(),
        }
    }

    /// Whether there is more than may be.
    pub(super) fn is_over(&self) -> bool {
        self.are_too_many(self.entries, self.bytes)
    }

    pub(super) fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
        if let Some(ordered) = &mut self.ordered {
            ordered.set_limits(limits);
        }
    }

    pub(super) fn release(&mut self, charge: u64) {
        self.entries -= 1;
        self.bytes -= charge;
    }
}

/// An entry for which there was no room.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Newcomer<'k> {
    pub(super) record: &'k Record,
    pub(super) charge: u64,
    pub(super) hash: KeyHash,
    pub(super) stamp: u64,
    /// When it leaves memory, or [`crate::record::NEVER`].
    pub(super) deadline: u64,
    /// The charge of the entry that it replaces.
    pub(super) old: Option<u64>,
}

impl<'k> Newcomer<'k> {
    /// `old`: the charge of the entry that it replaces.
    #[inline]
    pub(crate) fn new(
        record: &'k Record,
        hash: KeyHash,
        stamp: u64,
        deadline: u64,
        old: Option<u64>,
    ) -> Self {
        Self { record, charge: record.charge(), hash, stamp, deadline, old }
    }

    pub(super) fn key(&self) -> &'k [u8] {
        self.record.key()
    }

    /// Whether it takes the place of this very entry: when that leaves, it is not there to be replaced, and
    /// who asks is to look again.
    pub(super) fn replaces(&self, record: &Record) -> bool {
        self.old.is_some() && record.key() == self.key()
    }
}
