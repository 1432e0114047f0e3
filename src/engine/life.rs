//! Opening and closing: the handle on a cache, its threads, and what happens when the last handle
//! goes.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use crate::config::{Config, DamagePolicy, SchemaPolicy, WritePolicy};
use crate::engine::bound::queue_max;
use crate::engine::health::Degraded;
use crate::engine::queue::{Bounds, Queue};
use crate::engine::{CompactReport, Core, DiskSide, Garbage, Lifetimes, sweep, writer};
use crate::entry::Age;
use crate::error::{Error, ErrorKind, Result};
use crate::memory::Memory;
use crate::record::NEVER;
use crate::stats::{Limits, SharedCounts};
use crate::store::disk::{OnDamage, OnOtherType, Opened, Options, Writer};
use crate::sync::atomic::{AtomicBool, AtomicIsize, AtomicU64, Ordering};
use crate::sync::thread::{self, JoinHandle};
use crate::sync::{Condvar, Mutex};
use crate::time::{Ticker, nanos_of};
use crate::trace::trace_op;

/// What a file of this cache holds; the names are made where there is a file.
#[derive(Debug, Clone)]
pub(crate) struct Schema {
    pub(crate) rkyv: fn() -> String,
    pub(crate) key: fn() -> String,
    pub(crate) value: fn() -> String,
    pub(crate) validator: fn(&[u8]) -> bool,
}

/// A handle on a cache; clones are the same cache. When the last one goes, the cache is closed.
#[derive(Debug, Clone)]
pub(crate) struct Engine {
    core: Arc<Core>,
    life: Arc<Life>,
}

impl Deref for Engine {
    type Target = Core;

    #[inline]
    fn deref(&self) -> &Core {
        &self.core
    }
}

/// Ends the threads when it is dropped.
#[derive(Debug)]
struct Life {
    core: Arc<Core>,
    /// Held until they have ended by whoever closes the cache.
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Drop for Life {
    fn drop(&mut self) {
        // Whoever wants to know whether this worked calls `close`.
        let _ = self.end();
    }
}

impl Engine {
    /// Opens a cache and starts its threads.
    pub(crate) fn open(config: Config, schema: &Schema) -> Result<Self> {
        config.validate()?;
        let opened = match &config.path {
            None => None,
            Some(path) => Some(Opened::open(&Options {
                path: path.clone(),
                place: config.place.clone(),
                cache_bytes: config.disk_cache_bytes,
                on_damage: match config.on_damage {
                    DamagePolicy::SetAside => OnDamage::SetAside,
                    DamagePolicy::Fail => OnDamage::Fail,
                },
                on_other_type: match config.on_schema_mismatch {
                    SchemaPolicy::Fail => OnOtherType::Fail,
                    SchemaPolicy::StartEmpty => OnOtherType::StartEmpty,
                },
                rkyv: (schema.rkyv)(),
                key: (schema.key)(),
                value: (schema.value)(),
                schema_version: config.schema_version,
                strategy: config.disk_strategy,
            })?),
        };
        let (disk, writer) = opened.map(|o| (o.disk, o.writer)).unzip();
        let disk = disk.zip(writer.as_ref()).map(|(disk, writer)| DiskSide {
            disk,
            queue: Queue::new(bounds(&config), writer.totals().batch),
            limits: Mutex::new(config.disk),
            room: Mutex::new(None),
            file_limits: Mutex::new(Limits::default()),
            degraded: Degraded::default(),
            compacted: Mutex::new(Ok(CompactReport::default())),
            verifier: Mutex::default(),
            verified: Condvar::default(),
            touched: AtomicIsize::new(0),
            next_deadline: AtomicU64::new(NEVER),
            oldest: AtomicU64::new(NEVER),
        });
        let newest = writer.as_ref().map_or(0, Writer::newest_stamp);
        let core = Arc::new(Core::new(config, disk, schema.validator, newest));
        let life = Life { core: Arc::clone(&core), threads: Mutex::default() };
        let engine = Self { core, life: Arc::new(life) };
        engine.start(writer)?;
        Ok(engine)
    }

    fn start(&self, writer: Option<Writer>) -> Result<()> {
        // In a model no time passes by itself, so there is nothing for this thread to do.
        if cfg!(not(shuttle)) {
            let core = Arc::clone(&self.core);
            let sweeper = spawn("larder-clock", move || sweep::run(&core))?;
            self.core.clock.set_sleeper(sweeper.thread().clone());
            self.life.threads.lock().push(sweeper);
        }
        let Some(writer) = writer else { return Ok(()) };
        let core = Arc::clone(&self.core);
        let thread = spawn("larder-writer", move || writer::run(&core, writer))?;
        self.life.threads.lock().push(thread);
        // Within the limits, and aware of the deadlines in the file, before anybody reads. What has
        // expired meanwhile goes in the same sweep.
        self.core.purge_expired()?;
        self.core.watch_deadlines_of_file();
        Ok(())
    }

    /// Closes the cache for all handles. Everything acknowledged is durable afterwards, unless there
    /// is an error. A second time does nothing.
    pub(crate) fn close(&self) -> Result<()> {
        self.life.end()?;
        trace_op!("close", b"", "done", self.core.lowest().name());
        Ok(())
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    thread::Builder::new().name(name.to_owned()).spawn(run).map_err(|e| {
        Error::with_source(ErrorKind::Io, format!("cannot start the thread {name}: {e}"), e)
    })
}

fn bounds(config: &Config) -> Bounds {
    let policy = config.write_policy;
    let (policy, delay) = match policy {
        WritePolicy::Through => (WritePolicy::behind(), Duration::ZERO),
        // Half of it to wait, half of it to commit; never zero, which is write-through.
        WritePolicy::Behind { max_delay, .. } => {
            (policy, (max_delay / 2).max(Duration::from_nanos(1)))
        }
    };
    match policy {
        WritePolicy::Behind { max_pending_ops, max_pending_bytes, .. } => {
            let (ops, bytes) =
                config.disk_max_file_bytes.map_or((usize::MAX, usize::MAX), queue_max);
            let (ops_max, bytes_max) = (max_pending_ops.min(ops), max_pending_bytes.min(bytes));
            Bounds { ops_max, bytes_max, delay }
        }
        WritePolicy::Through => Bounds { ops_max: 1, bytes_max: 1, delay },
    }
}

impl Life {
    fn end(&self) -> Result<()> {
        let mut threads = if self.core.is_own_thread() {
            // A listener closes the cache, on a thread for which whoever is closing it already waits.
            let Some(threads) = self.threads.try_lock() else { return Ok(()) };
            threads
        } else {
            self.threads.lock()
        };
        self.core.is_plain.store(false, Ordering::Relaxed);
        let was_closed = self.core.closed.swap(true, Ordering::AcqRel);
        if !was_closed {
            self.core.clock.nudge();
            if let Some(disk) = &self.core.disk {
                disk.queue.close();
            }
        }
        // A listener may close the cache on one of these very threads: then whoever closes it next waits for that.
        let own = thread::current().id();
        for thread in threads.extract_if(.., |thread| thread.thread().id() != own) {
            let _ = thread.join();
        }
        if was_closed {
            return Ok(());
        }
        self.core.disk.as_ref().and_then(|disk| disk.queue.left()).map_or(Ok(()), Err)
    }
}

impl Core {
    fn new(
        config: Config,
        disk: Option<DiskSide>,
        validator: fn(&[u8]) -> bool,
        newest_stamp: u64,
    ) -> Self {
        let nanos = |d: Option<Duration>| d.map_or(NEVER, nanos_of);
        let lifetimes = if disk.is_some() {
            Lifetimes {
                entry: nanos(config.disk_time_to_live),
                copy: nanos(config.memory_time_to_live),
                idle: nanos(config.time_to_idle),
            }
        } else {
            Lifetimes {
                entry: nanos(config.memory_time_to_live),
                copy: NEVER,
                idle: nanos(config.time_to_idle),
            }
        };
        let (time_to_idle, clock) = (lifetimes.idle, config.clock.clone());
        let age = (time_to_idle != NEVER || clock.is_some())
            .then(|| Arc::new(Age { time_to_idle, clock: clock.clone() }));
        let hasher = disk.as_ref().map(|disk| disk.disk.hasher().clone()).unwrap_or_default();
        let may_expire = lifetimes.entry.min(lifetimes.copy).min(lifetimes.idle) != NEVER;
        Self {
            memory: Memory::new(
                config.shard_count(),
                config.memory,
                &config.strategy,
                config.time_to_idle.is_some(),
                hasher,
            ),
            disk,
            clock: Ticker::new(clock, newest_stamp),
            lifetimes,
            is_plain: AtomicBool::new(age.is_none()),
            age,
            validator,
            counts: SharedCounts::default(),
            closed: AtomicBool::new(false),
            may_expire: AtomicBool::new(may_expire),
            config,
        }
    }

    fn watch_deadlines_of_file(&self) {
        let next = self.disk.as_ref().map_or(NEVER, |d| d.next_deadline.load(Ordering::Acquire));
        if next != NEVER {
            self.may_expire.store(true, Ordering::Relaxed);
            self.clock.nudge();
        }
    }

    /// Returns when everything acknowledged so far is durable, recency included.
    pub(crate) fn flush(&self) -> Result<()> {
        self.check_open()?;
        self.flush_disk()?;
        trace_op!("flush", b"", "done", self.lowest().name());
        Ok(())
    }

    fn flush_disk(&self) -> Result<()> {
        self.disk.as_ref().map_or(Ok(()), |disk| disk.queue.flush())
    }

    /// Sets the limits of memory and evicts down to them, in order.
    pub(crate) fn set_memory_limits(&self, limits: Limits) -> Result<()> {
        self.check_open()?;
        self.config.validate_memory(limits)?;
        self.memory.set_limits(limits);
        let mut garbage = Garbage::default();
        while self.memory.over_limits() && self.evict_one(None, &mut garbage) {}
        self.dispose(garbage);
        trace_op!("set_memory_limits", b"", "done", "memory");
        Ok(())
    }

    /// Sets the limits of the disk tier and evicts down to them, in order.
    pub(crate) fn set_disk_limits(&self, limits: Limits) -> Result<()> {
        self.check_open()?;
        self.config.validate_disk(limits)?;
        let Some(disk) = &self.disk else { return Ok(()) };
        *disk.limits.lock() = limits;
        *disk.room.lock() = None;
        self.flush_disk()?;
        trace_op!("set_disk_limits", b"", "done", "disk");
        Ok(())
    }

    /// Checks every invariant that can be checked from memory; for tests and fuzzing.
    pub(crate) fn validate(&self) -> std::result::Result<(), String> {
        self.memory.validate()
    }
}
