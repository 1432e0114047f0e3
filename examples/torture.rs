//! Puts caches through crashes, damage and many threads, for as long as one likes.
//!
//! `cargo run --release --example torture -- kill|power|fault|rot|threads --seconds N --seed S`, or `--cycles N`.
//! The figures are on the last line. A promise that was not kept ends the run: what was expected and
//! what was found is told with the seed, which gives the same operations again.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command-line program")]
#![expect(clippy::unwrap_used, reason = "what it shares with the tests gives up where they do")]

#[path = "../tests/it/history.rs"]
#[expect(dead_code, reason = "its own tests need more of it")]
mod history;
#[path = "../tests/it/support.rs"]
#[expect(dead_code, reason = "the tests need more of it")]
mod support;
#[path = "../tests/torture/mod.rs"]
#[expect(dead_code, reason = "the tests need more of it")]
mod torture;

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};

use torture::fault::Plan;
use torture::{Budget, Figures, Progress, Violation};

/// How often progress is told where it is not shown.
const LINE_AFTER: Duration = Duration::from_secs(10);

/// Puts caches through crashes, damage and many threads.
#[derive(Parser)]
#[command(name = "torture")]
struct Options {
    #[arg(value_enum)]
    mode: Mode,
    /// How long to go on.
    #[arg(long, value_name = "N", default_value_t = 10)]
    seconds: u64,
    /// How many cycles to go through instead.
    #[arg(long, value_name = "N")]
    cycles: Option<u64>,
    /// What the random numbers begin with [default: another one each time].
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
}

/// All workloads, with operations enough to open and close a few times.
const EVERYTHING: Plan = Plan { workloads: 3, operations: 40, counts: 3 };

#[derive(Clone, Copy, ValueEnum)]
enum Mode {
    /// Kills a process that writes, and looks at what it leaves.
    #[cfg(unix)]
    Kill,
    /// Cuts the power of a device in memory, at each sync and in between, and opens what is left.
    Power,
    /// Lets each call to a device in memory fail, one by one.
    Fault,
    /// Opens damaged files.
    Rot,
    /// Sixteen threads on one cache.
    Threads,
    // `power` and `fault` have their place here, in `run` below, and in `tests/torture/power.rs` and
    // `tests/torture/fault.rs`.
}

impl Mode {
    fn run(self, seed: u64, budget: Budget, on: Progress<'_>) -> Result<Figures, Violation> {
        match self {
            #[cfg(unix)]
            Self::Kill => torture::kill::run(seed, budget, on),
            Self::Power => torture::power::run(seed, budget, on),
            Self::Fault => torture::fault::run(EVERYTHING, seed, budget, on),
            Self::Rot => torture::rot::run(seed, budget, on),
            Self::Threads => torture::threads::run(seed, budget, on),
        }
    }
}

fn main() -> ExitCode {
    #[cfg(unix)]
    if torture::kill::child().is_some() {
        return ExitCode::SUCCESS;
    }
    let options = Options::parse();
    leave_foreign_panics_to_the_cache();
    let seed = options.seed.unwrap_or_else(|| larder::Timestamp::now().as_nanos());
    let budget = match options.cycles {
        Some(cycles) => Budget::Cycles(cycles),
        None => Budget::Time(Duration::from_secs(options.seconds)),
    };
    let name = options.mode.to_possible_value().map_or_else(String::new, |v| v.get_name().into());
    eprintln!("torture {name} --seed {seed}");
    let bar = ProgressBar::new_spinner();
    let style = ProgressStyle::with_template("{spinner} {elapsed_precise} cycle {pos}: {msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
    // Where nobody watches, a line now and then.
    let is_watched = std::io::stderr().is_terminal();
    let mut next = LINE_AFTER;
    let run = options.mode.run(seed, budget, &mut |figures| {
        if is_watched {
            bar.set_position(figures.of("cycles"));
            bar.set_message(figures.to_string());
            bar.tick();
        } else if bar.elapsed() >= next {
            next = bar.elapsed() + LINE_AFTER;
            eprintln!("{name}: {figures}");
        }
    });
    bar.finish_and_clear();
    match run {
        Ok(figures) => {
            println!("{name}: {figures}, 0 violations (seed {seed})");
            ExitCode::SUCCESS
        }
        Err(violation) => {
            eprintln!("{name}: {violation}");
            println!("{name}: 1 violation (seed {seed})");
            ExitCode::FAILURE
        }
    }
}

/// Says nothing of panics in the storage engine: the cache catches them.
fn leave_foreign_panics_to_the_cache() {
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let file = info.location().map_or("", std::panic::Location::file);
        if !["/registry/", "/rustc/", "/library/"].iter().any(|part| file.contains(part)) {
            tell(info);
        }
    }));
}
