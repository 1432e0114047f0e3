//! larder beside other caches: the same keys, values and capacity, in turn, in one run.
//!
//! `cargo run --release --manifest-path benches/peers/Cargo.toml` prints the table; `--csv FILE` and
//! `--svg FILE` write it down and draw it, `--only TEXT` takes the workloads whose names have it (`disk`: all of the stores on disk),
//! `--quick` shows in a minute that everything works, and measures nothing.

mod count;
mod disk;
mod limits;
mod memory;
mod report;
mod workload;

use std::path::PathBuf;

use clap::Parser;

/// larder beside other caches, in turn, in one run.
#[derive(Debug, Parser)]
struct Options {
    /// Only workloads whose names have this text in them.
    #[arg(long, default_value = "")]
    only: String,
    /// Runs of each; the table gives the median.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// A hundredth of everything, once: shows that it works.
    #[arg(long)]
    quick: bool,
    /// Writes the table to a file.
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Draws the table.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let options = Options::parse();
    let scale = workload::Scale {
        divisor: if options.quick { 100 } else { 1 },
        rounds: if options.quick { 1 } else { options.rounds.max(1) },
    };
    let mut report = report::Report::default();
    memory::run(&scale, &options.only, &mut report);
    disk::run(&scale, &options.only, &mut report);
    if let Some(path) = &options.csv {
        report.write_csv(path)?;
    }
    if let Some(path) = &options.svg {
        report.draw(path)?;
    }
    Ok(())
}
