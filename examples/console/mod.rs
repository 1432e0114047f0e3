//! What the examples that replay traces have in common: how they end, a progress bar, numbers for people.

use std::error::Error;
use std::io::ErrorKind;
use std::process::ExitCode;

use indicatif::{ProgressBar, ProgressStyle};

pub(crate) type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Says what went wrong, with its causes. That whoever read the output has had enough is no error.
#[expect(clippy::print_stderr, reason = "a command-line program")]
pub(crate) fn exit_code(program: &str, result: Result<()>) -> ExitCode {
    let Err(error) = result else { return ExitCode::SUCCESS };
    if is_broken_pipe(error.as_ref()) {
        return ExitCode::SUCCESS;
    }
    eprint!("{program}: {error}");
    let mut source = error.source();
    while let Some(cause) = source {
        eprint!(": {cause}");
        source = cause.source();
    }
    eprintln!();
    ExitCode::FAILURE
}

fn is_broken_pipe(error: &(dyn Error + 'static)) -> bool {
    let error = error.downcast_ref::<std::io::Error>();
    error.is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
}

/// A bar on standard error, unless that is not a terminal.
pub(crate) fn progress_bar(length: u64, template: &str) -> ProgressBar {
    let progress = ProgressBar::new(length);
    if let Ok(style) = ProgressStyle::with_template(template) {
        progress.set_style(style);
    }
    progress
}

/// A number with a comma between groups of three digits.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}
