//! The cache under test, told what to do by the same operations as the reference.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use larder::{
    ByteCache, ByteEntry, Error, InsertOptions, ManualClock, Timestamp, WhenFull, WritePolicy,
};

use crate::clock::OwnClock;

use super::{
    Answer, Event, Item, KEY_BYTES_MAX, Key, METADATA, Op, Options, START, Seen, TAGS, weigh,
};

/// The cache under test.
pub(super) struct Subject {
    pub(super) cache: ByteCache,
    pub(super) options: Options,
    time: ManualClock,
    pub(super) events: Arc<Mutex<Vec<Event>>>,
    folder: tempfile::TempDir,
}

impl Subject {
    pub(super) fn open(options: Options) -> Self {
        // Syncing costs nothing where files are in memory.
        let shared = Path::new("/dev/shm");
        let folder = tempfile::tempdir_in(shared).or_else(|_| tempfile::tempdir()).unwrap();
        let time = ManualClock::new(Timestamp::from_nanos(START));
        let events = Arc::default();
        let cache = open(&options, &time, &events, folder.path());
        Self { cache, options, time, events, folder }
    }

    pub(super) fn set_time(&self, now: u64) {
        self.time.set(Timestamp::from_nanos(now));
    }

    fn reopen(&mut self) -> Result<(), Error> {
        self.cache.clone().close()?;
        self.cache = open(&self.options, &self.time, &self.events, self.folder.path());
        Ok(())
    }

    pub(super) fn apply(&mut self, op: &Op, at: Option<u64>) -> Result<Answer, Error> {
        let at = at.map(Timestamp::from_nanos);
        if let Op::Reopen(..) = op {
            return self.reopen().map(Answer::done);
        }
        if let Op::Advance(by) = op {
            let now = self.time.now().as_nanos().saturating_add_signed(*by);
            self.set_time(now);
            return Ok(Answer::Done);
        }
        match op {
            Op::Insert(_) | Op::InsertIfAbsent(_) | Op::InsertMany(_) | Op::Touch(..) => {
                self.write(op, at)
            }
            Op::Get(_)
            | Op::View(_)
            | Op::GetInto(_)
            | Op::GetMany(_)
            | Op::Peek(_)
            | Op::Contains(_)
            | Op::Keys(_)
            | Op::Iter => self.read(op, at),
            _ => self.maintain(op),
        }
    }

    fn write(&self, op: &Op, at: Option<Timestamp>) -> Result<Answer, Error> {
        let cache = &self.cache;
        Ok(match (op, at) {
            (Op::Insert(item), _) => Answer::done(self.insert(item, at)?),
            (Op::InsertIfAbsent(item), _) => {
                Answer::Is(cache.insert_if_absent(item.key.as_bytes(), &item.value)?)
            }
            (Op::InsertMany(items), None) => {
                Answer::done(cache.insert_many(items.iter().map(Item::pair))?)
            }
            (Op::InsertMany(items), Some(at)) => {
                Answer::done(cache.insert_many_at(items.iter().map(Item::pair), at)?)
            }
            (Op::Touch(key, ttl), _) => {
                Answer::Is(cache.touch(key.as_bytes(), ttl.map(Duration::from_nanos))?)
            }
            _ => unreachable!("{op:?} writes nothing"),
        })
    }

    fn insert(&self, item: &Item, at: Option<Timestamp>) -> Result<(), Error> {
        let (key, value) = item.pair();
        let mut options = InsertOptions::default();
        match (item.ttl, item.weight, item.labelled, at) {
            (None, None, false, None) => return self.cache.insert(key, value),
            (None, None, false, Some(at)) => return self.cache.insert_at(key, value, at),
            _ => {}
        }
        if let Some(at) = at {
            options = options.timestamp(at);
        }
        if let Some(ttl) = item.ttl {
            options = options.ttl(Duration::from_nanos(ttl));
        }
        if let Some(weight) = item.weight {
            options = options.weight(weight);
        }
        if item.labelled {
            options = options.tags(TAGS).metadata(METADATA);
        }
        self.cache.insert_with(key, value, &options)
    }

    fn read(&self, op: &Op, at: Option<Timestamp>) -> Result<Answer, Error> {
        let cache = &self.cache;
        let seen = |entry: Option<ByteEntry>| entry.as_ref().map(Seen::of);
        Ok(match (op, at) {
            (Op::Get(key), None) => Answer::Entry(seen(cache.get(key.as_bytes())?)),
            (Op::Get(key), Some(at)) => Answer::Entry(seen(cache.get_at(key.as_bytes(), at)?)),
            (Op::View(key), _) => Answer::Value(cache.view(key.as_bytes(), <[u8]>::to_vec)?),
            (Op::GetInto(key), _) => {
                let mut buffer = b"what was there".to_vec();
                let found = cache.get_into(key.as_bytes(), &mut buffer)?;
                assert!(found || buffer.is_empty(), "the buffer of a miss has {buffer:?}");
                Answer::Value(found.then_some(buffer))
            }
            (Op::GetMany(keys), at) => {
                let keys = keys.iter().map(|key| key.as_bytes());
                let found = match at {
                    None => cache.get_many(keys)?,
                    Some(at) => cache.get_many_at(keys, at)?,
                };
                Answer::Slots(found.into_iter().map(seen).collect())
            }
            (Op::Peek(key), None) => Answer::Entry(seen(cache.peek(key.as_bytes())?)),
            (Op::Peek(key), Some(at)) => Answer::Entry(seen(cache.peek_at(key.as_bytes(), at)?)),
            (Op::Contains(key), None) => Answer::Is(cache.contains_key(key.as_bytes())?),
            (Op::Contains(key), Some(at)) => Answer::Is(cache.contains_key_at(key.as_bytes(), at)?),
            (Op::Keys(prefix), _) => {
                let mut keys: Vec<Key> = match prefix {
                    None => cache.keys().collect::<Result<_, _>>()?,
                    Some(prefix) => {
                        cache.keys_with_prefix(prefix.as_bytes()).collect::<Result<_, _>>()?
                    }
                };
                if !self.options.disk {
                    keys.sort_unstable();
                }
                Answer::Keys(keys)
            }
            (Op::Iter, _) => {
                let mut all: Vec<ByteEntry> = cache.iter().collect::<Result<_, _>>()?;
                if !self.options.disk {
                    all.sort_unstable_by(|a, b| a.key().cmp(b.key()));
                }
                Answer::Slots(all.iter().map(|entry| Some(Seen::of(entry))).collect())
            }
            _ => unreachable!("{op:?} reads nothing"),
        })
    }

    fn maintain(&self, op: &Op) -> Result<Answer, Error> {
        let cache = &self.cache;
        Ok(match op {
            Op::Remove(key) => Answer::Entry(cache.remove(key.as_bytes())?.as_ref().map(Seen::of)),
            Op::Invalidate(key) => Answer::Is(cache.invalidate(key.as_bytes())?),
            Op::RemoveMany(keys) => {
                Answer::Count(cache.remove_many(keys.iter().map(|key| key.as_bytes()))? as u64)
            }
            Op::InvalidatePrefix(prefix) => {
                Answer::Count(cache.invalidate_prefix(prefix.as_bytes())?)
            }
            Op::Clear => Answer::Count(cache.clear()?),
            Op::SetMemoryLimits(limits) => {
                Answer::done(cache.set_memory_limits(limits.entries, limits.bytes)?)
            }
            Op::SetDiskLimits(limits) => {
                Answer::done(cache.set_disk_limits(limits.entries, limits.bytes)?)
            }
            Op::Purge => Answer::Count(cache.purge_expired()?),
            Op::Flush => Answer::done(cache.flush()?),
            Op::ResetStats => {
                cache.reset_stats();
                Answer::Done
            }
            _ => unreachable!("{op:?} maintains nothing"),
        })
    }
}

fn open(
    options: &Options,
    time: &ManualClock,
    events: &Arc<Mutex<Vec<Event>>>,
    folder: &Path,
) -> ByteCache {
    let nanos = Duration::from_nanos;
    let events = Arc::clone(events);
    let mut builder = ByteCache::builder()
        .shards(options.shards)
        .max_key_bytes(KEY_BYTES_MAX)
        .clock(OwnClock::of(time))
        .eviction_listener(move |key, entry, cause| {
            let (value, tier) = (entry.to_owned(), entry.tier());
            let event = Event { key, value, tier, cause };
            events.lock().unwrap_or_else(PoisonError::into_inner).push(event);
        });
    if options.weigher {
        builder = builder.weigher(weigh);
    }
    if let Some(max) = options.memory.entries {
        builder = builder.memory_max_entries(max);
    }
    if let Some(max) = options.memory.bytes {
        builder = builder.memory_max_bytes(max);
    }
    if let Some(ttl) = options.memory_ttl {
        builder = builder.memory_time_to_live(nanos(ttl));
    }
    if let Some(idle) = options.time_to_idle {
        builder = builder.time_to_idle(nanos(idle));
    }
    if options.disk {
        let policy = if options.through {
            WritePolicy::Through
        } else {
            // Large enough that nothing is committed unless an operation asks for it.
            WritePolicy::Behind {
                max_delay: Duration::from_secs(3_600),
                max_pending_ops: 1 << 20,
                max_pending_bytes: 1 << 30,
                when_full: WhenFull::default(),
            }
        };
        let path = folder.join("model.larder");
        builder = builder
            .path(path)
            .write_policy(policy)
            .disk_cache_bytes(1 << 20)
            .disk_slack(None)
            .disk_strategy(options.strategy);
        if let Some(max) = options.disk_limits.entries {
            builder = builder.disk_max_entries(max);
        }
        if let Some(max) = options.disk_limits.bytes {
            builder = builder.disk_max_bytes(max);
        }
        if let Some(ttl) = options.disk_ttl {
            builder = builder.disk_time_to_live(nanos(ttl));
        }
        if let Some(max) = options.max_memory_entry {
            builder = builder.max_memory_entry_bytes(max);
        }
    }
    builder.open().unwrap()
}
