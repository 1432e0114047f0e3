//! What both handles have in common: state and life, written once.

/// Writes the methods that do not depend on the types of keys and values.
macro_rules! state_and_life {
    () => {
        /// Removes everything; gives how many entries there were, expired ones included. Waits until
        /// that is durable. The listener is not told.
        ///
        /// # Errors
        ///
        /// `Closed`; `Io` with `ErrorPolicy::Strict`.
        ///
        /// # Examples
        ///
        /// ```
        /// # let cache = larder::ByteCache::builder().memory_max_entries(10).open()?;
        /// cache.insert(b"key", b"value")?;
        /// assert_eq!(cache.clear()?, 1);
        /// assert!(cache.is_empty());
        /// # Ok::<(), larder::Error>(())
        /// ```
        #[doc(alias = "invalidate_all")]
        pub fn clear(&self) -> Result<u64> {
            self.engine.clear()
        }

        /// Entries in either tier, each once, those that have expired and are not yet swept
        /// included. Looks up on disk what is not yet committed, so it costs time in proportion to
        /// `Stats::pending_ops`.
        ///
        /// # Examples
        ///
        /// ```
        /// # let cache = larder::ByteCache::builder().memory_max_entries(10).open()?;
        /// cache.insert(b"key", b"value")?;
        /// assert_eq!((cache.len(), cache.memory_len(), cache.disk_len()), (1, 1, 0));
        /// assert_eq!((cache.memory_bytes(), cache.disk_bytes()), (8, 0));
        /// # Ok::<(), larder::Error>(())
        /// ```
        #[doc(alias = "entry_count")]
        pub fn len(&self) -> u64 {
            self.engine.len()
        }

        /// Whether there is no entry in either tier.
        ///
        /// # Examples
        ///
        /// ```
        /// # let cache = larder::ByteCache::builder().memory_max_entries(10).open()?;
        /// assert!(cache.is_empty());
        /// # Ok::<(), larder::Error>(())
        /// ```
        pub fn is_empty(&self) -> bool {
            self.engine.len() == 0
        }

        /// Entries in memory. For an example see [`Self::len`].
        pub fn memory_len(&self) -> u64 {
            self.engine.memory_held().0
        }

        /// Entries on disk as of the last commit. For an example see [`Self::len`].
        pub fn disk_len(&self) -> u64 {
            self.engine.disk_held().0
        }

        /// The sum of the charges of the entries in memory, in bytes. For an example see
        /// [`Self::len`].
        pub fn memory_bytes(&self) -> u64 {
            self.engine.memory_held().1
        }

        /// The sum of the charges of the entries on disk as of the last commit, in bytes; the file
        /// is larger. For an example see [`Self::len`].
        pub fn disk_bytes(&self) -> u64 {
            self.engine.disk_held().1
        }

        /// What happened so far, and what the cache holds. For an example see [`Stats`].
        pub fn stats(&self) -> Stats {
            self.engine.stats()
        }

        /// Sets the counters of [`Stats`] to zero; what the cache holds stays as it is.
        ///
        /// # Examples
        ///
        /// ```
        /// # let cache = larder::ByteCache::builder().memory_max_entries(10).open()?;
        /// cache.insert(b"key", b"value")?;
        /// cache.reset_stats();
        /// assert_eq!((cache.stats().inserts, cache.stats().memory_entries), (0, 1));
        /// # Ok::<(), larder::Error>(())
        /// ```
        pub fn reset_stats(&self) {
            self.engine.reset_stats();
        }

        /// How the tiers are. For an example see [`Health`].
        pub fn health(&self) -> Health {
            self.engine.health()
        }

        /// Returns when everything acknowledged so far is durable, the order of eviction included.
        /// Takes time in proportion to what was written and read since the last flush.
        ///
        /// # Errors
        ///
        /// `Io` if the disk fails, whatever the error policy: the entries stay queued, and writing
        /// goes on being tried. `Closed`.
        ///
        /// # Examples
        ///
        /// ```
        /// # let folder = tempfile::tempdir()?;
        /// # let path = folder.path().join("cache.larder");
        /// # let cache = larder::ByteCache::builder().path(path).open()?;
        /// cache.insert(b"key", b"value")?;
        /// cache.flush()?;
        /// assert_eq!((cache.disk_len(), cache.stats().pending_ops), (1, 0));
        /// # Ok::<(), Box<dyn std::error::Error>>(())
        /// ```
        pub fn flush(&self) -> Result<()> {
            self.engine.flush()
        }

        /// Flushes, and closes the file, for this handle and all its clones. Using any of them
        /// afterwards gives `Closed`; closing again does nothing. Dropping the last handle closes as
        /// well, and hides what goes wrong.
        ///
        /// # Errors
        ///
        /// `Io` if the disk fails: what was pending is lost, and the cache is closed all the same.
        ///
        /// # Examples
        ///
        /// ```
        /// # let cache = larder::ByteCache::builder().memory_max_entries(10).open()?;
        /// let clone = cache.clone();
        /// cache.close()?;
        /// assert_eq!(clone.get(b"key").unwrap_err().kind(), larder::ErrorKind::Closed);
        /// clone.close()?;
        /// # Ok::<(), larder::Error>(())
        /// ```
        pub fn close(self) -> Result<()> {
            self.engine.close()
        }

        /// Sets the limits of memory, `None` for no limit, and evicts down to them at once, in order.
        ///
        /// # Errors
        ///
        /// `InvalidOption` for 0 without a disk tier; `Closed`.
        ///
        /// # Examples
        ///
        /// ```
        /// # let cache = larder::ByteCache::builder().memory_max_entries(10).open()?;
        /// cache.insert(b"old", b"1")?;
        /// cache.insert(b"new", b"2")?;
        /// cache.set_memory_limits(Some(1), None)?;
        /// assert!(cache.contains_key(b"new")? && !cache.contains_key(b"old")?);
        /// # Ok::<(), larder::Error>(())
        /// ```
        pub fn set_memory_limits(
            &self,
            max_entries: Option<u64>,
            max_bytes: Option<u64>,
        ) -> Result<()> {
            self.engine.set_memory_limits(Limits { entries: max_entries, bytes: max_bytes })
        }

        /// Sets the limits of the disk tier, `None` for no limit, and evicts down to them, in order,
        /// before it returns.
        ///
        /// # Errors
        ///
        /// `InvalidOption` for 0, or for any limit without a disk tier; `Io` if the disk fails; `Closed`.
        ///
        /// # Examples
        ///
        /// ```
        /// # let folder = tempfile::tempdir()?;
        /// # let path = folder.path().join("cache.larder");
        /// # let cache = larder::ByteCache::builder().path(path).open()?;
        /// cache.insert(b"old", b"1")?;
        /// cache.insert(b"new", b"2")?;
        /// cache.set_disk_limits(Some(1), None)?;
        /// assert!(cache.contains_key(b"new")? && !cache.contains_key(b"old")?);
        /// # Ok::<(), Box<dyn std::error::Error>>(())
        /// ```
        pub fn set_disk_limits(
            &self,
            max_entries: Option<u64>,
            max_bytes: Option<u64>,
        ) -> Result<()> {
            self.engine.set_disk_limits(Limits { entries: max_entries, bytes: max_bytes })
        }

        /// Takes out everything that has expired, now instead of when the background sweep comes to
        /// it; gives how many entries left the cache.
        ///
        /// # Errors
        ///
        /// `Closed`; `Io` with `ErrorPolicy::Strict`.
        ///
        /// # Examples
        ///
        /// ```
        /// # use std::time::Duration;
        /// # use larder::{ByteCache, ManualClock, Timestamp};
        /// let clock = ManualClock::new(Timestamp::from_secs(1_000));
        /// let cache = ByteCache::builder()
        ///     .memory_time_to_live(Duration::from_secs(60))
        ///     .clock(clock.clone())
        ///     .open()?;
        /// cache.insert(b"key", b"value")?;
        /// clock.advance(Duration::from_secs(61));
        /// cache.purge_expired()?;
        /// assert_eq!(cache.len(), 0);
        /// # Ok::<(), larder::Error>(())
        /// ```
        #[doc(alias = "run_pending_tasks")]
        pub fn purge_expired(&self) -> Result<u64> {
            self.engine.purge_expired()
        }

        /// Checks the whole file, as of the last commit: checksums and values, that index, order and
        /// deadlines lead to each entry and to nothing else, and the sums. Reads everything, a few
        /// MiB at a time; other operations go on meanwhile. What is not yet committed is not
        /// looked at. In memory only, nothing is found.
        ///
        /// # Errors
        ///
        /// `Io` if the disk fails, whatever the error policy, `Corrupt` if the file is damaged so that
        /// it cannot be read, `Busy` if it was emptied again and again meanwhile, or from within a
        /// verification or a listener that one may be waiting for, `Closed`.
        ///
        /// # Examples
        ///
        /// See [`VerifyReport`].
        pub fn verify(&self) -> Result<VerifyReport> {
            self.engine.verify(VerifyOptions::default())
        }

        /// Likewise, with progress and repair. A repair looks again at what was found, in one
        /// transaction: damaged rows are dropped, and counted in [`Stats::corrupt`]; what is
        /// missing in the order or among the deadlines is put there; what leads nowhere is dropped; the
        /// sums are counted anew. That counting takes some 100 ms per 100,000 entries, during which
        /// nothing is committed. Of more than 65,536 faults of a kind, the rest is for the next time.
        ///
        /// # Errors
        ///
        /// As [`Self::verify`].
        ///
        /// # Examples
        ///
        /// See [`VerifyOptions`].
        pub fn verify_with(&self, options: VerifyOptions<'_>) -> Result<VerifyReport> {
            self.engine.verify(options)
        }

        /// Makes the file as small as it can be: copies it without its dead space, and puts the copy
        /// in its place. Reads and writes go on meanwhile; a write that waits for a commit can wait
        /// some 200 ms when the copy is put in place. The folder needs room for the copy. A crash
        /// leaves the old file or the new one, complete. Damaged rows are left out. In memory only,
        /// nothing is done.
        ///
        /// The cache does this by itself when the file occupies more than 2.1 times as many bytes as its
        /// entries, unless a copy would be hardly smaller.
        ///
        /// # Errors
        ///
        /// `Io` if the copy cannot be made: the old file stays in use. `Closed`.
        ///
        /// # Examples
        ///
        /// See [`CompactReport`].
        pub fn compact(&self) -> Result<CompactReport> {
            self.engine.compact()
        }

        /// Checks every structural invariant of the memory tier, at a quiet moment, and says which
        /// one is broken. For tests: it walks everything.
        ///
        /// # Examples
        ///
        /// ```
        /// # let cache = larder::ByteCache::builder().memory_max_entries(10).open()?;
        /// assert_eq!(cache.validate(), Ok(()));
        /// # Ok::<(), larder::Error>(())
        /// ```
        pub fn validate(&self) -> std::result::Result<(), String> {
            self.engine.validate()
        }
    };
}

pub(crate) use state_and_life;
