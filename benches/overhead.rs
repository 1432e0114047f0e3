//! What an entry takes beyond its key and value bytes: memory by the resident size of the process,
//! disk by the blocks that the file occupies. Linux only; elsewhere it prints nothing.

#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]

#[expect(dead_code, reason = "counts bytes, so times and chooses nothing")]
mod common;

use common::{Row, Scale, fill, keys, print};
use larder::ByteCache;

const ENTRIES: usize = 1_000_000;
const DISK_ENTRIES: usize = 200_000;
/// In front of the size of the values, where this program is to measure memory only.
const CHILD: &str = "--memory-of=";
const PAGE_BYTES: f64 = 4_096.0;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let scale = Scale::from_args();
    if let Some(bytes) = std::env::args().find_map(|a| a.strip_prefix(CHILD)?.parse().ok()) {
        return in_memory(&scale, bytes);
    }
    let mut memory = [64, 1_024, 16_384].map(|bytes| (bytes, Row::new(name_of(bytes))));
    for (bytes, row) in &mut memory {
        // A process each: what one has freed would be used by the next, unseen.
        let mut child = std::process::Command::new(std::env::current_exe()?);
        child.arg(format!("{CHILD}{bytes}")).args(std::env::args().skip(1));
        let output = child.stderr(std::process::Stdio::inherit()).output()?;
        row.figures.extend(String::from_utf8(output.stdout)?.trim().parse::<f64>());
    }
    print("bytes of memory on top of key and value, an entry", &mut memory.map(|(_, row)| row));

    let mut disk = [64, 1_024, 16_384].map(|bytes| (bytes, Row::new(name_of(bytes))));
    for (bytes, row) in &mut disk {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("overhead.larder");
        let cache = ByteCache::builder().path(&path).memory_max_entries(1_000).open()?;
        let count = scale.of(DISK_ENTRIES) / (*bytes / 1_024).max(1);
        insert_all(&cache, &keys(count), *bytes)?;
        cache.flush()?;
        let live = number(cache.disk_bytes());
        cache.close()?;
        row.figures.push(occupied_bytes(&path)? / live);
    }
    print("bytes occupied per byte of key and value on disk", &mut disk.map(|(_, row)| row));
    Ok(())
}

/// Prints what an entry takes in memory on top of its key and value.
fn in_memory(scale: &Scale, bytes: usize) -> Result<(), Box<dyn std::error::Error>> {
    let count = scale.of(ENTRIES) / (bytes / 1_024).max(1);
    let keys = keys(count);
    let cache = ByteCache::builder().memory_max_entries(count as u64).open()?;
    let Some(before) = resident_bytes() else { return Ok(()) };
    insert_all(&cache, &keys, bytes)?;
    let after = resident_bytes().unwrap_or(before);
    println!("{}", (after - before - number(cache.memory_bytes())) / number(count as u64));
    Ok(())
}

fn name_of(bytes: usize) -> &'static str {
    match bytes {
        64 => "values of 64 bytes",
        1_024 => "values of 1 KiB",
        _ => "values of 16 KiB",
    }
}

fn insert_all(cache: &ByteCache, keys: &[common::Key], bytes: usize) -> larder::Result<()> {
    let mut value = vec![0; bytes];
    for (number, key) in keys.iter().enumerate() {
        fill(&mut value, number);
        cache.insert(key, &value)?;
    }
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn number(count: u64) -> f64 {
    count as f64
}

/// The resident size of this process.
fn resident_bytes() -> Option<f64> {
    let pages = std::fs::read_to_string("/proc/self/statm").ok()?;
    Some(pages.split(' ').nth(1)?.parse::<f64>().ok()? * PAGE_BYTES)
}

/// The blocks that a file occupies, which are fewer than its length where it is sparse.
#[cfg(unix)]
fn occupied_bytes(path: &std::path::Path) -> std::io::Result<f64> {
    Ok(number(std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(path)?) * 512))
}

#[cfg(not(unix))]
fn occupied_bytes(path: &std::path::Path) -> std::io::Result<f64> {
    Ok(number(std::fs::metadata(path)?.len()))
}
