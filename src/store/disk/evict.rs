//! Who leaves a transaction's tables by a limit or because it is idle.
//!
//! # How it works
//!
//! While over a limit, whoever is first in the order of eviction leaves. With `Lru`, and for what has no
//! rank, that is the oldest live row of the order by recency; a stale one is dropped. Of a live one the
//! tiers above are asked first, and what they have seen more recently gets a new row.
//!
//! With another strategy it is the first row of the ranks:
//!
//! - `Fifo`: it leaves. The tiers above are told, not asked.
//! - `Ttl`: the tiers above are asked; what they have seen at another time moves among those of its
//!   deadline.
//! - `Size`: if its recency is another than it was filed with, by what was handed down or by what the tiers
//!   above answer, it was used: it is filed anew with one use more, at the level of now. Else it leaves, and
//!   the level is its rank.
//!
//! So each row is looked at once more at most for each time that its entry was accessed.

use redb::ReadableTable;

use crate::record::CHARGES_MAX;
use crate::store::disk::commit::{SWEEP_ROWS_MAX, Work};
use crate::store::disk::failure::Failure;
use crate::store::disk::ranks::{Rank, Ranks};
use crate::store::disk::schema::{moment_key, split_moment};
use crate::store::{Above, Sweep, Totals, Verdict, Why};
use crate::strategy::DiskStrategy;

/// Who is first in the order of eviction.
struct First {
    key: Vec<u8>,
    /// Its recency, as stored.
    stamp: u64,
    charge: u64,
    rank: Rank,
}

impl Work<'_, '_> {
    /// Takes out entries until the rest is within the limits.
    pub(super) fn evict(&mut self, above: &mut dyn Above) -> Result<(), Failure> {
        while self.outcome.totals.bytes > CHARGES_MAX
            || self.batch.limits.exceeded(self.outcome.totals.entries, self.outcome.totals.bytes)
        {
            match self.first_ranked()? {
                Some(first) => self.evict_ranked(&first, above)?,
                None => self.evict_oldest(above)?,
            }
        }
        Ok(())
    }

    /// The first row of the ranks, if there is one; what is no entry's is dropped.
    fn first_ranked(&mut self) -> Result<Option<First>, Failure> {
        let Some(ranks) = &mut self.ranks else { return Ok(None) };
        while let Some((rank, key)) = ranks.first()? {
            if let Some((header, stamp)) = self.rows.header(&key)?
                && ranks.is_of(rank, &key, &header, stamp)?
            {
                return Ok(Some(First { key, stamp, charge: header.charge, rank }));
            }
            ranks.drop_first()?;
        }
        Ok(None)
    }

    /// Evicts the first entry of the ranks, or finds that it is not the first.
    fn evict_ranked(&mut self, first: &First, above: &mut dyn Above) -> Result<(), Failure> {
        let First { key, stamp, charge, rank } = first;
        if self.refile_if_used(key, *charge, *stamp)? {
            return Ok(());
        }
        let is_fifo = self.ranks.as_ref().map(Ranks::strategy) == Some(DiskStrategy::Fifo);
        match above.ask(key, *stamp, if is_fifo { Why::Turn } else { Why::Size }) {
            Verdict::Accessed(other) => {
                self.move_in_order(*stamp, other, key)?;
                self.refile_if_used(key, *charge, other)?;
            }
            verdict @ (Verdict::Leave | Verdict::Superseded | Verdict::Told) => {
                if let Some(ranks) = &mut self.ranks {
                    ranks.leaves(*rank);
                }
                self.leave_by_limit(*stamp, key, verdict)?;
            }
        }
        Ok(())
    }

    fn refile_if_used(&mut self, key: &[u8], charge: u64, stamp: u64) -> Result<bool, Failure> {
        let Some(ranks) = &mut self.ranks else { return Ok(false) };
        let is_refiled = ranks.refile_if_used(key, charge, stamp)?;
        if is_refiled {
            self.rows.moved(key);
        }
        Ok(is_refiled)
    }

    /// Evicts the least recently used entry, or finds that it is not.
    fn evict_oldest(&mut self, above: &mut dyn Above) -> Result<(), Failure> {
        let Some((stamp, key)) = self.oldest_live()? else {
            // D3 is broken, so the file is damaged: be within the limits all the same (D1).
            let Some(key) = self.rows.any_key()? else {
                let batch = self.batch.number;
                (self.outcome.totals, self.beyond) = (Totals { batch, ..Totals::default() }, 0);
                return Ok(());
            };
            let _ = above.ask(&key, 0, Why::Expired);
            let record = self.remove(&key)?;
            self.outcome.evicted.extend(record);
            return Ok(());
        };
        match above.ask(&key, stamp, Why::Size) {
            Verdict::Accessed(other) => self.move_in_order(stamp, other, &key),
            verdict @ (Verdict::Leave | Verdict::Superseded | Verdict::Told) => {
                self.leave_by_limit(stamp, &key, verdict)
            }
        }
    }

    fn leave_by_limit(&mut self, stamp: u64, key: &[u8], verdict: Verdict) -> Result<(), Failure> {
        self.drop_order(stamp, key)?;
        let record = self.remove(key)?;
        self.outcome.evicted.extend(record.filter(|_| verdict != Verdict::Told));
        Ok(())
    }

    /// Takes out what was not accessed for so long.
    pub(super) fn expire_idle(
        &mut self,
        sweep: Sweep,
        above: &mut dyn Above,
    ) -> Result<(), Failure> {
        for _ in 0..SWEEP_ROWS_MAX {
            let Some((stamp, key)) = self.oldest_live()? else { return Ok(()) };
            if stamp.saturating_add(sweep.time_to_idle) >= sweep.now {
                return Ok(());
            }
            match above.ask(&key, stamp, Why::Idle) {
                Verdict::Leave => {
                    self.drop_order(stamp, &key)?;
                    let record = self.remove(&key)?;
                    self.outcome.expired.extend(record);
                }
                Verdict::Accessed(other) => self.move_in_order(stamp, other, &key)?,
                // A newer operation has the key; everything behind it can wait for the next time.
                Verdict::Superseded | Verdict::Told => return Ok(()),
            }
        }
        self.outcome.more_expired = true;
        Ok(())
    }

    fn drop_order(&mut self, stamp: u64, key: &[u8]) -> Result<(), Failure> {
        moment_key(&mut self.buffer, stamp, key);
        self.order.remove(self.buffer.as_slice())?;
        Ok(())
    }

    fn move_in_order(&mut self, from: u64, to: u64, key: &[u8]) -> Result<(), Failure> {
        self.drop_order(from, key)?;
        self.set_recency(key, to)?;
        self.append_order()
    }

    /// The oldest live row of the order; stale ones in front of it are dropped.
    fn oldest_live(&mut self) -> Result<Option<(u64, Vec<u8>)>, Failure> {
        loop {
            let row = match self.order.first()? {
                Some((row, _)) => row.value().to_vec(),
                None => return Ok(None),
            };
            if let Some((stamp, key)) = split_moment(&row)
                && self.rows.stamp(key)? == Some(stamp)
            {
                return Ok(Some((stamp, key.to_vec())));
            }
            self.order.remove(row.as_slice())?;
        }
    }
}
