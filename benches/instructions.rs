//! How many instructions the core operations take, counted by callgrind, beside what they took when
//! `instructions.csv` was written: `cargo bench --bench instructions` fails where one takes 3 % more.
//!
//! Counts do not depend on how busy a machine is, but on compiler, C library and valgrind: with others
//! than those that the file names, they are shown and not compared. `-- --write` writes the file anew.
#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]

#[expect(dead_code, reason = "this one counts, the others time")]
mod common;

use std::error::Error;
use std::fmt::Write as _;
use std::hint::black_box;
use std::path::Path;
use std::process::{Command, ExitCode};

use common::{Key, Random, fill, keys};
use larder::{ByteCache, WhenFull, WritePolicy};

const ENTRIES: usize = 10_000;
/// How often each is done; the figure is for one.
const TIMES: usize = 20_000;
const VALUE_BYTES: usize = 64;
/// More than this much more is a regression, in per cent; less is to be written down.
const TOLERANCE: f64 = 3.0;

/// What is counted.
type Operation = (&'static str, fn(&Material) -> Result<(), Box<dyn Error>>);

const OPERATIONS: [Operation; 9] = [
    ("hit", |material| material.count(|cache, key, _| found(cache.get(key)?.as_ref()))),
    ("hit, get_into", |material| {
        let mut buffer = Vec::with_capacity(VALUE_BYTES);
        material.count(|cache, key, _| cache.get_into(key, &mut buffer))
    }),
    ("hit, view", |material| {
        material.count(|cache, key, _| found(cache.view(key, |value| value[0])?.as_ref()))
    }),
    ("miss", |material| material.count(|cache, key, _| Ok(cache.get(&key[1..])?.is_none()))),
    ("insert with eviction", |material| {
        material.cache.set_memory_limits(Some(ENTRIES as u64 / 10), None)?;
        material.count(|cache, key, value| cache.insert(key, value).map(|()| true))
    }),
    ("removal and insert", |material| {
        material.count(|cache, key, value| {
            let was = cache.invalidate(key)?;
            cache.insert(key, value)?;
            Ok(was)
        })
    }),
    ("disk hit", |material| material.count_disk_hits(PAGES_BYTES)),
    ("disk hit, long file", |material| material.count_disk_hits(FEW_PAGES_BYTES)),
    ("write encode", |material| {
        let folder = tempfile::tempdir()?;
        let cache = on_disk(folder.path(), PAGES_BYTES)?;
        material.count_in(&cache, |cache, key, value| cache.insert(key, value).map(|()| true))
    }),
];

/// A page cache that holds the whole file.
const PAGES_BYTES: usize = 64 << 20;
/// One that holds the index, and is shorter than the file.
const FEW_PAGES_BYTES: usize = 4 << 20;

/// Nothing in memory, and a queue that takes all there is.
fn on_disk(folder: &Path, pages_bytes: usize) -> larder::Result<ByteCache> {
    ByteCache::builder()
        .path(folder.join("instructions.larder"))
        .disk_cache_bytes(pages_bytes)
        .memory_max_entries(0)
        .write_policy(WritePolicy::Behind {
            max_delay: std::time::Duration::from_secs(3600),
            max_pending_ops: 10 * TIMES,
            max_pending_bytes: 1 << 30,
            when_full: WhenFull::default(),
        })
        .open()
}

#[expect(clippy::unnecessary_wraps, reason = "what the operations give")]
fn found<T>(entry: Option<&T>) -> larder::Result<bool> {
    Ok(black_box(entry).is_some())
}

/// A cache in memory that is full, and whom it is asked for.
struct Material {
    cache: ByteCache,
    keys: Vec<Key>,
    order: Vec<usize>,
}

impl Material {
    fn new() -> larder::Result<Self> {
        let mut random = Random(3);
        let material = Self {
            cache: ByteCache::builder().memory_max_entries(ENTRIES as u64).shards(8).open()?,
            keys: keys(ENTRIES),
            order: (0..TIMES).map(|_| random.index(ENTRIES)).collect(),
        };
        material.fill(&material.cache)?;
        Ok(material)
    }

    fn fill(&self, cache: &ByteCache) -> larder::Result<()> {
        let mut value = [0; VALUE_BYTES];
        for (number, key) in self.keys.iter().enumerate() {
            fill(&mut value, number);
            cache.insert(key, &value)?;
        }
        Ok(())
    }

    fn count(
        &self,
        operation: impl FnMut(&ByteCache, &Key, &[u8]) -> larder::Result<bool>,
    ) -> Result<(), Box<dyn Error>> {
        self.count_in(&self.cache, operation)
    }

    fn count_disk_hits(&self, pages_bytes: usize) -> Result<(), Box<dyn Error>> {
        let folder = tempfile::tempdir()?;
        let cache = on_disk(folder.path(), pages_bytes)?;
        self.fill(&cache)?;
        cache.flush()?;
        self.count_in(&cache, |cache, key, _| found(cache.get(key)?.as_ref()))
    }

    fn count_in(
        &self,
        cache: &ByteCache,
        mut operation: impl FnMut(&ByteCache, &Key, &[u8]) -> larder::Result<bool>,
    ) -> Result<(), Box<dyn Error>> {
        let mut value = [0; VALUE_BYTES];
        fill(&mut value, 1);
        for index in &self.order {
            let done = counted(|| operation(cache, &self.keys[*index], &value));
            assert!(done?, "an operation found what it should not have");
        }
        Ok(())
    }
}

/// What callgrind counts is what is called from here.
#[inline(never)]
fn counted<R>(operation: impl FnOnce() -> R) -> R {
    black_box(operation())
}

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    if let Some(at) = arguments.iter().position(|argument| argument == "--only") {
        let name = arguments.get(at + 1).ok_or("--only needs a name")?;
        let (_, run) = OPERATIONS.iter().find(|(known, _)| known == name).ok_or("no such")?;
        run(&Material::new()?)?;
        return Ok(ExitCode::SUCCESS);
    }
    if arguments.iter().any(|argument| argument == "--test") {
        for (_, run) in OPERATIONS {
            run(&Material::new()?)?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let Some(setting) = setting() else {
        println!("valgrind is not installed: nothing is counted");
        return Ok(ExitCode::SUCCESS);
    };
    let counts: Vec<(&str, f64)> = OPERATIONS
        .iter()
        .map(|(name, _)| Ok((*name, count(name)?)))
        .collect::<Result<_, Box<dyn Error>>>()?;
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/instructions.csv");
    if arguments.iter().any(|argument| argument == "--write") {
        let mut text = format!("# {setting}\n");
        for (name, count) in counts {
            writeln!(text, "{name};{count:.0}")?;
        }
        std::fs::write(path, text)?;
        return Ok(ExitCode::SUCCESS);
    }
    Ok(compare(&std::fs::read_to_string(path)?, &setting, &counts))
}

/// Prints what was counted beside what was, and says whether that is well.
fn compare(written: &str, setting: &str, counts: &[(&str, f64)]) -> ExitCode {
    let is_same = written.lines().next() == Some(&format!("# {setting}"));
    println!("{:<24}{:>12}{:>12}{:>10}", "instructions", "now", "written", "change %");
    let mut worst = 0.0_f64;
    for (name, now) in counts {
        let line = written.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(';'));
        let was: f64 = line.and_then(|line| line.parse().ok()).unwrap_or(f64::NAN);
        let change = 100.0 * (now - was) / was;
        worst = if change.is_nan() { f64::INFINITY } else { worst.max(change) };
        println!("{name:<24}{now:>12.0}{was:>12.0}{change:>10.1}");
    }
    if !is_same {
        println!("counted with another setting than the file: {setting}; nothing is compared");
        return ExitCode::SUCCESS;
    }
    if worst > TOLERANCE {
        println!("more than {TOLERANCE} % more: if that is meant, run it with --write and say why");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// What counts depend on; `None` without valgrind.
fn setting() -> Option<String> {
    let first = |program: &str, argument: &str| {
        let output = Command::new(program).arg(argument).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        output.status.success().then(|| text.lines().next().unwrap_or_default().trim().to_owned())
    };
    let valgrind = first("valgrind", "--version")?;
    let rustc = first("rustc", "--version")?;
    let library = first("getconf", "GNU_LIBC_VERSION").unwrap_or_default();
    Some(format!("{rustc}, {library}, {valgrind}, {}", std::env::consts::ARCH))
}

/// Instructions of one operation.
fn count(name: &str) -> Result<f64, Box<dyn Error>> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--cache-sim=no"])
        .arg("--toggle-collect=instructions::counted*")
        .arg(std::env::current_exe()?)
        .args(["--only", name])
        .output()?;
    let text = String::from_utf8_lossy(&output.stderr);
    let collected = text.lines().find_map(|line| line.split_once("Collected :"));
    let Some((_, collected)) = collected.filter(|_| output.status.success()) else {
        return Err(format!("valgrind failed for {name}: {text}").into());
    };
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    let each = collected.trim().parse::<u64>()? as f64 / TIMES as f64;
    Ok(each)
}
