//! Replays request traces through caches of several strategies and sizes, and compares how often they hit.
//!
//! A trace is a file with one request a line, `key` or `key size`, or one of the ARC (`.lis`) or LIRS
//! (`.trc`) traces; plain or gzip. Each is read once, whatever the number of strategies and sizes, or twice
//! if no sizes are given. Tables are on standard output, `--csv` and `--svg` write files.
//!
//! `cargo run --release --example simulate -- FILE...`, or `--help` for the options.

mod console;

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use indicatif::ProgressBar;
use larder::Strategy;
use larder::simulate::{
    Capacity, Ceiling, Format, Progress, Report, Row, Simulation, Trace, chart,
};

use console::{Result, exit_code, grouped, progress_bar};

/// Replays request traces through caches of several strategies and sizes.
#[derive(Parser)]
#[command(name = "simulate")]
struct Options {
    /// Traces: `key` or `key size` a line, ARC (.lis) or LIRS (.trc), plain or gzip.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Strategies, as `lru,lfu` [default: all].
    #[arg(long, value_name = "NAMES", value_delimiter = ',', value_parser = strategy)]
    strategies: Vec<Strategy>,
    /// Capacities in entries, as `250,500` [default: eight of them, 1/256 to 1/2 of the keys].
    #[arg(long, value_name = "NUMBERS", value_delimiter = ',')]
    entries: Vec<u64>,
    /// Capacities in bytes, as `1MiB,500kB,7000`.
    #[arg(long, value_name = "SIZES", value_delimiter = ',', value_parser = bytes)]
    bytes: Vec<u64>,
    /// What to compare with.
    #[arg(long, value_name = "NAMES", value_delimiter = ',', value_enum, default_value = "belady")]
    ceilings: Vec<CeilingName>,
    /// The format of all files [default: by the name of each].
    #[arg(long, value_enum)]
    format: Option<FormatName>,
    /// What a request without a size counts, in bytes; 512 for ARC traces.
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    size: Option<u64>,
    /// Write all figures to this file, as comma-separated values.
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Draw hit ratio against capacity into this file.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum CeilingName {
    /// Belady's optimum: every newcomer comes in.
    Belady,
    /// Likewise, and may refuse newcomers.
    Bypass,
    /// Nothing; takes less memory.
    None,
}

#[derive(Clone, Copy, ValueEnum)]
enum FormatName {
    Text,
    Arc,
    Lirs,
}

fn main() -> ExitCode {
    exit_code("simulate", run(&Options::parse()))
}

fn run(options: &Options) -> Result<()> {
    let simulation = simulation(options);
    let mut out = std::io::stdout();
    let mut all = Report::default();
    for (file, name) in options.files.iter().zip(names(&options.files)) {
        let trace = trace(options, file)?.named(name);
        let bar = progress_bar(0, "{msg} {wide_bar} {percent} %, {eta} left");
        let report = simulation.run(&trace, |progress| show(&bar, trace.name(), progress));
        bar.finish_and_clear();
        let report = report?;
        write_tables(&mut out, report.rows())?;
        all.extend(report);
    }
    if let Some(path) = &options.csv {
        all.to_csv(BufWriter::new(create(path)?)).map_err(|error| unwritable(path, &error))?;
    }
    if let Some(path) = &options.svg {
        fs::write(path, chart(&all)).map_err(|error| unwritable(path, &error))?;
    }
    Ok(())
}

/// A name for each file: its own without folders, or what tells files of one name apart.
fn names(files: &[PathBuf]) -> Vec<String> {
    let short = |file: &PathBuf| file.file_name().unwrap_or(file.as_os_str()).display().to_string();
    let is_alone = |name: &String| files.iter().filter(|file| short(file) == *name).count() == 1;
    let mut names: Vec<String> = Vec::new();
    for file in files {
        let name = Some(short(file)).filter(is_alone).unwrap_or_else(|| file.display().to_string());
        let before = files[..names.len()].iter().filter(|other| *other == file).count();
        names.push(if before == 0 { name } else { format!("{name} ({})", before + 1) });
    }
    names
}

fn simulation(options: &Options) -> Simulation {
    let ceilings = options.ceilings.iter().filter_map(|name| match name {
        CeilingName::Belady => Some(Ceiling::Belady),
        CeilingName::Bypass => Some(Ceiling::Bypass),
        CeilingName::None => None,
    });
    let simulation = Simulation::new()
        .entries(options.entries.iter().copied())
        .bytes(options.bytes.iter().copied())
        .ceilings(ceilings);
    options.strategies.iter().cloned().fold(simulation, Simulation::strategy)
}

fn trace(options: &Options, file: &Path) -> Result<Trace> {
    let mut trace = Trace::open(file)?;
    if let Some(format) = options.format {
        trace = trace.format(match format {
            FormatName::Text => Format::Text,
            FormatName::Arc => Format::Arc,
            FormatName::Lirs => Format::Lirs,
        });
    }
    Ok(match options.size {
        Some(size) => trace.size_bytes(size),
        None => trace,
    })
}

fn create(path: &Path) -> Result<File> {
    Ok(File::create(path).map_err(|error| unwritable(path, &error))?)
}

fn unwritable(path: &Path, error: &std::io::Error) -> String {
    format!("cannot write {}: {error}", path.display())
}

fn show(bar: &ProgressBar, trace: &str, progress: Progress) {
    let (what, done, total) = match progress {
        Progress::Counting { read_bytes, len_bytes } => ("counting keys", read_bytes, len_bytes),
        Progress::Replaying { read_bytes, len_bytes } => ("replaying", read_bytes, len_bytes),
        Progress::Ceilings { done, total } => ("looking ahead", done, total),
        _ => return,
    };
    bar.set_message(format!("{trace}: {what}"));
    bar.set_length(total);
    bar.set_position(done);
}

/// A table for each unit, and one more for the ratio of bytes.
fn write_tables(out: &mut impl Write, rows: &[Row]) -> Result<()> {
    let Some(first) = rows.first() else { return Ok(()) };
    let (requests, keys) = (grouped(first.requests), grouped(first.keys));
    writeln!(out, "{}: {requests} requests of {keys} keys", first.trace)?;
    for rows in rows.chunk_by(|a, b| a.capacity.unit() == b.capacity.unit()) {
        write_table(out, "hits, % of requests", rows, |row| Some(row.hit_ratio()))?;
        if rows.iter().any(|row| matches!(row.capacity, Capacity::Bytes(_))) {
            write_table(out, "hits, % of bytes", rows, Row::byte_hit_ratio)?;
        }
    }
    Ok(())
}

/// A line for each capacity, a column for each strategy.
fn write_table(
    out: &mut impl Write,
    title: &str,
    rows: &[Row],
    ratio: impl Fn(&Row) -> Option<f64>,
) -> Result<()> {
    let width = |row: &Row| row.strategy.chars().count().max(6) + 2;
    let mut lines = rows.chunk_by(|a, b| a.capacity == b.capacity).peekable();
    let Some(heads) = lines.peek() else { return Ok(()) };
    write!(out, "\n{:>20}", heads.first().map_or("", |row| row.capacity.unit()))?;
    for row in *heads {
        write!(out, "{:>1$}", row.strategy, width(row))?;
    }
    writeln!(out, "    {title}")?;
    for line in lines {
        write!(
            out,
            "{:>20}",
            line.first().map_or(String::new(), |row| grouped(row.capacity.amount()))
        )?;
        for row in line {
            let percent =
                ratio(row).map_or("-".to_owned(), |ratio| format!("{:.2}", 100.0 * ratio));
            write!(out, "{percent:>0$}", width(row))?;
        }
        writeln!(out)?;
    }
    Ok(writeln!(out)?)
}

fn strategy(name: &str) -> std::result::Result<Strategy, String> {
    let is_named = |strategy: &Strategy| strategy.name().eq_ignore_ascii_case(name);
    Strategy::BUILT_IN.into_iter().find(is_named).ok_or_else(|| {
        let names: Vec<_> = Strategy::BUILT_IN.iter().map(Strategy::name).collect();
        format!("there is no such strategy; there are {}", names.join(", "))
    })
}

/// A number of bytes, with or without a unit.
fn bytes(text: &str) -> std::result::Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor: u64 = match text.get(digits.len()..).unwrap_or_default() {
        "" | "B" => 1,
        "kB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        unit => return Err(format!("`{unit}` is no unit; there are B, kB, MB, GB, KiB, MiB, GiB")),
    };
    let number: u64 = digits.parse().map_err(|_| format!("`{digits}` is not a whole number"))?;
    number.checked_mul(factor).ok_or_else(|| "it is above what 64 bits hold".to_owned())
}
