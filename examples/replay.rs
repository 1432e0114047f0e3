//! Replays a request trace through a cache of two tiers, with a real file on disk.
//!
//! A trace has one request a line, `key` or `key size`, plain or gzip, or is an ARC or LIRS trace. A
//! request that misses is filled with a value of that many bytes, 100 if the trace does not say. The
//! bytes follow from the key, and every hit is checked to have those of its own key.
//!
//! `cargo run --release --example replay -- TRACE`, or `--help` for the options.

mod console;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use larder::simulate::{Request, Trace};
use larder::{ByteCache, Stats, Timestamp, WritePolicy};

use console::{Result, exit_code, grouped, progress_bar};

const KEY_BYTES_MAX: usize = 4096;
/// The largest value that a cache takes.
const VALUE_BYTES_MAX: u64 = 1 << 30;
const VALUE_BYTES_DEFAULT: u64 = 100;
/// Requests between two steps of the progress bar.
const PROGRESS_STEP: usize = 1 << 12;

/// Replays a request trace through a two-tier cache and prints what hit where.
#[derive(Parser)]
#[command(name = "replay")]
struct Options {
    /// The trace: `key` or `key size` a line, plain or gzip.
    file: PathBuf,
    /// The most entries in memory; 0 for disk only.
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    memory_entries: u64,
    /// The most entries on disk.
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    disk_entries: u64,
    /// Shards of memory [default: as many as the cache thinks right].
    #[arg(long, value_name = "N")]
    shards: Option<usize>,
    /// Whether a write returns before it is durable.
    #[arg(long, value_enum, default_value_t = Policy::Behind)]
    write_policy: Policy,
    /// Keep the cache in this file [default: one in a temporary folder].
    #[arg(long, value_name = "FILE")]
    path: Option<PathBuf>,
    /// No disk tier, and so no restart.
    #[arg(long, conflicts_with_all = ["disk_entries", "write_policy", "path"])]
    memory_only: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Policy {
    Behind,
    Through,
}

fn main() -> ExitCode {
    exit_code("replay", run(&Options::parse()))
}

fn run(options: &Options) -> Result<()> {
    let trace = Trace::open(&options.file)?.size_bytes(VALUE_BYTES_DEFAULT);
    let requests: Vec<Request> = trace.requests()?.collect::<larder::Result<_>>()?;
    if requests.is_empty() {
        return Err(format!("{} has no requests", options.file.display()).into());
    }
    let folder = tempfile::tempdir()?; // removed when it is dropped, after errors too
    let path = match (&options.path, options.memory_only) {
        (_, true) => None,
        (Some(path), _) => Some(path.clone()),
        (None, _) => Some(folder.path().join("replay.larder")),
    };
    let path = path.as_deref();

    let mut out = std::io::stdout();
    writeln!(out, "{}: {} requests", options.file.display(), grouped(requests.len() as u64))?;
    let tenth = requests.len().div_ceil(10);
    let first = replay(options, path, &requests, tenth)?;
    show(&mut out, "replay", &first.rows())?;
    if path.is_some() {
        let again = replay(options, path, &requests[..tenth], tenth)?;
        let mut rows = again.rows();
        let cold = hit_percent(first.mark.memory_hits + first.mark.disk_hits, first.mark.gets);
        rows.push(("hit ratio of that tenth at first", cold));
        show(&mut out, "warm restart: the first tenth again", &rows)?;
    }
    Ok(())
}

fn show(out: &mut impl Write, title: &str, rows: &[(&str, String)]) -> std::io::Result<()> {
    writeln!(out, "\n{title}")?;
    rows.iter().try_for_each(|(name, figure)| writeln!(out, "  {name:<34}{figure:>14}"))
}

/// What one replay measured.
struct Figures {
    entries_before: u64,
    stats: Stats,
    /// The statistics after the first tenth of the trace.
    mark: Stats,
    seconds: f64,
    seconds_durable: f64,
    /// Length of the file and bytes of the blocks it occupies, after closing.
    file: Option<(u64, Option<u64>)>,
}

/// Opens the cache, makes the requests, and closes it.
fn replay(
    options: &Options,
    path: Option<&Path>,
    requests: &[Request],
    mark_at: usize,
) -> Result<Figures> {
    let cache = open(options, path)?;
    let entries_before = cache.len();
    let mut mark = Stats::default();
    let mut value = Vec::new();
    let style = "{wide_bar} {human_pos} of {human_len} requests, {per_sec}, {eta} left";
    let progress = progress_bar(requests.len() as u64, style);
    let start = Timestamp::now();
    for (index, request) in requests.iter().enumerate() {
        let key = &request.key;
        match cache.view(key, |found| Content::of(key).matches(found))? {
            Some(true) => {}
            Some(false) => {
                let key = String::from_utf8_lossy(key);
                return Err(format!("request {}: a wrong value for {key}", index + 1).into());
            }
            None => {
                Content::of(key).fill(&mut value, value_len(request)?);
                cache.insert(key, &value)?;
            }
        }
        if index + 1 == mark_at {
            mark = cache.stats();
        }
        if index % PROGRESS_STEP == 0 {
            progress.set_position(index as u64);
        }
    }
    let seconds = seconds_since(start);
    cache.flush()?;
    let seconds_durable = seconds_since(start);
    progress.finish_and_clear();
    let stats = cache.stats();
    cache.close()?;
    let file = path.map(file_bytes).transpose()?;
    Ok(Figures { entries_before, stats, mark, seconds, seconds_durable, file })
}

fn open(options: &Options, path: Option<&Path>) -> larder::Result<ByteCache> {
    let mut builder = ByteCache::builder()
        .max_key_bytes(KEY_BYTES_MAX)
        .memory_max_entries(options.memory_entries);
    if let Some(shards) = options.shards {
        builder = builder.shards(shards);
    }
    if let Some(path) = path {
        builder = builder.path(path).disk_max_entries(options.disk_entries).write_policy(
            match options.write_policy {
                Policy::Behind => WritePolicy::behind(),
                Policy::Through => WritePolicy::Through,
            },
        );
    }
    builder.open()
}

/// The bytes of its value, if a cache takes that many.
fn value_len(request: &Request) -> Result<usize> {
    let size = request.size_bytes.unwrap_or(VALUE_BYTES_DEFAULT);
    if size > VALUE_BYTES_MAX {
        let line = request.line;
        return Err(
            format!("line {line}: the size is {size} bytes, at most {VALUE_BYTES_MAX}").into()
        );
    }
    Ok(usize::try_from(size)?)
}

fn file_bytes(path: &Path) -> std::io::Result<(u64, Option<u64>)> {
    let metadata = std::fs::metadata(path)?;
    #[cfg(unix)]
    let occupied = Some(std::os::unix::fs::MetadataExt::blocks(&metadata) * 512);
    #[cfg(not(unix))]
    let occupied = None;
    Ok((metadata.len(), occupied))
}

fn seconds_since(start: Timestamp) -> f64 {
    let nanos = Timestamp::now().as_nanos().saturating_sub(start.as_nanos());
    std::time::Duration::from_nanos(nanos).as_secs_f64()
}

impl Figures {
    fn rows(&self) -> Vec<(&'static str, String)> {
        let Self { stats, .. } = self;
        let Some((length, occupied)) = self.file else {
            return vec![
                ("requests", grouped(stats.gets)),
                ("memory hits", grouped(stats.memory_hits)),
                ("hit ratio", hit_percent(stats.memory_hits, stats.gets)),
                ("entries in memory", grouped(stats.memory_entries)),
                ("operations a second", per_second(stats, self.seconds)),
            ];
        };
        let mut rows = vec![
            ("requests", grouped(stats.gets)),
            ("memory hits", grouped(stats.memory_hits)),
            ("disk hits", grouped(stats.disk_hits)),
            ("hit ratio", hit_percent(stats.memory_hits + stats.disk_hits, stats.gets)),
            ("hit ratio, memory", hit_percent(stats.memory_hits, stats.gets)),
            ("hit ratio, disk", hit_percent(stats.disk_hits, stats.gets)),
            ("entries found on opening", grouped(self.entries_before)),
            ("entries in memory", grouped(stats.memory_entries)),
            ("entries on disk", grouped(stats.disk_entries)),
            ("operations a second", per_second(stats, self.seconds)),
            ("operations a second until durable", per_second(stats, self.seconds_durable)),
            ("bytes on disk, keys and values", grouped(stats.disk_bytes)),
            ("bytes on disk, length of the file", grouped(length)),
        ];
        rows.extend(occupied.map(|bytes| ("bytes on disk, blocks occupied", grouped(bytes))));
        rows
    }
}

#[expect(clippy::cast_precision_loss, reason = "two decimals are shown")]
fn hit_percent(hits: u64, gets: u64) -> String {
    format!("{:.2} %", 100.0 * hits as f64 / gets.max(1) as f64)
}

/// Gets and inserts a second.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a positive figure for people"
)]
fn per_second(stats: &Stats, seconds: f64) -> String {
    grouped(((stats.gets + stats.inserts) as f64 / seconds.max(1e-9)) as u64)
}

/// The endless bytes that follow from a key (`SplitMix64`, eight at a time); a value is as many of
/// them as it is long.
struct Content {
    state: u64,
}

impl Content {
    fn of(key: &[u8]) -> Self {
        // FNV-1a
        let mix = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        Self { state: key.iter().fold(0xcbf2_9ce4_8422_2325, mix) }
    }

    fn next(&mut self) -> [u8; 8] {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)).to_le_bytes()
    }

    fn fill(mut self, value: &mut Vec<u8>, len: usize) {
        value.clear();
        while value.len() < len {
            let bytes = self.next();
            value.extend_from_slice(&bytes[..bytes.len().min(len - value.len())]);
        }
    }

    fn matches(mut self, value: &[u8]) -> bool {
        value.chunks(8).all(|chunk| self.next()[..chunk.len()] == *chunk)
    }
}
