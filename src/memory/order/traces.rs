//! Hit percentages of replayed traces, beside those of an independent simulator.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use crate::memory::order::testing::{Driver, Key};
use crate::strategy::EvictionOrder;

/// Compares all rows of a policy, where the folder with traces and rows is there: those of short
/// traces, and of all in a release build.
pub(super) fn check_traces<O: EvictionOrder + Default>(policy: &str, points_max: f64) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/traces");
    let Ok(rows) = fs::read_to_string(folder.join("reference.csv")) else { return };
    let mut trace: (String, Vec<Key>) = Default::default();
    let mut wrong = Vec::new();
    for row in rows.lines() {
        let [name, entries, of, expected] = row.split(',').collect::<Vec<_>>()[..] else {
            continue;
        };
        let is_short = ["gli", "cpp", "apache", "web12"].contains(&name);
        if of != policy || cfg!(debug_assertions) && !is_short {
            continue;
        }
        if trace.0 != name {
            trace = (name.to_owned(), requests(&folder, name));
        }
        let mut driver = Driver::<O>::new(Some(entries.parse().expect(row)), None);
        trace.1.iter().for_each(|key| driver.ask(*key));
        let percent = percent(driver.hits, driver.gets);
        let off = percent - expected.parse::<f64>().expect(row);
        // Both have two decimals; `zipf` was drawn with other dice than ours.
        let points_max = if name == "zipf" { 0.3 } else { points_max };
        if off.abs() > points_max + 0.005 {
            wrong.push(format!("{row}, here {percent:.2}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[expect(clippy::cast_precision_loss, reason = "two decimals are compared")]
fn percent(hits: u64, gets: u64) -> f64 {
    100.0 * hits as f64 / gets as f64
}

fn requests(folder: &Path, name: &str) -> Vec<Key> {
    match name {
        "zipf" => zipf(),
        "mixed" => {
            let corda = recorded(folder, "corda");
            let mut mixed = corda.clone();
            mixed.extend(recorded(folder, "loop").iter().map(|key| key + (1 << 20)));
            mixed.extend(corda);
            mixed
        }
        _ => recorded(folder, name),
    }
}

/// The keys of a recorded trace, by when they are first asked for.
fn recorded(folder: &Path, name: &str) -> Vec<Key> {
    let file = File::open(folder.join(format!("{name}.txt.gz"))).expect(name);
    let mut text = String::new();
    flate2::read::GzDecoder::new(file).read_to_string(&mut text).expect(name);
    let mut numbers = HashMap::new();
    let keys = text.lines().map(|line| line.split(' ').next().unwrap_or_default());
    let mut number = |key| {
        let next = Key::try_from(numbers.len()).expect("few keys");
        *numbers.entry(key).or_insert(next)
    };
    keys.map(&mut number).collect()
}

/// A million draws of k up to 50,000,000 with probability proportional to (10 + k)^-1.0001.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a random number"
)]
fn zipf() -> Vec<Key> {
    const POWER: f64 = 1.0 - 1.0001;
    let integral = |k: f64| (k + 10.0).powf(POWER) / POWER;
    let (from, until) = (integral(-0.5), integral(50_000_000.5));
    let draw = |n: u64| {
        let mixed = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let uniform = ((mixed ^ (mixed >> 32)) >> 11) as f64 / (1_u64 << 53) as f64;
        let at = (from + uniform * (until - from)) * POWER;
        (at.powf(1.0 / POWER) - 10.0).round().max(0.0) as Key
    };
    (1..=1_000_000).map(draw).collect()
}
