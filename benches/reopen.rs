//! How long opening takes after a clean close, and after `kill -9` of a process that was writing:
//! 400,000 entries of 1 KiB. The process that is killed is this one, started again.

mod common;

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use common::{Random, Row, Scale, fill, keys, print, seconds};
use larder::ByteCache;

const ENTRIES: usize = 400_000;
const VALUE_BYTES: usize = 1_024;
const RUNS: usize = 5;
const CHILD: &str = "LARDER_BENCH_PATH";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let scale = Scale::from_args();
    if let Some(path) = std::env::var_os(CHILD) {
        return write_for_ever(Path::new(&path), scale.of(ENTRIES));
    }
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("reopen.larder");
    let mut rows = ["after a clean close", "after a kill"].map(Row::new);
    for _ in 0..scale.runs(RUNS) {
        let mut child = Command::new(std::env::current_exe()?)
            .args(std::env::args_os().skip(1))
            .env(CHILD, &path)
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().ok_or("no output")?).read_line(&mut line)?;
        std::thread::sleep(std::time::Duration::from_millis(50));
        child.kill()?;
        child.wait()?;
        for row in rows.iter_mut().rev() {
            let mut opened = None;
            row.figures.push(1e3 * seconds(|| opened = Some(open(&path))));
            let cache = opened.ok_or("not opened")??;
            assert_eq!(cache.len(), scale.of(ENTRIES) as u64);
            cache.close()?;
        }
    }
    print("milliseconds to open", &mut rows);
    Ok(())
}

fn open(path: &Path) -> larder::Result<ByteCache> {
    ByteCache::builder().path(path).memory_max_entries(10_000).open()
}

/// Fills the cache, says so, and writes on until it is killed.
fn write_for_ever(path: &Path, entries: usize) -> Result<(), Box<dyn std::error::Error>> {
    let cache = open(path)?;
    let keys = keys(entries);
    let mut value = [0; VALUE_BYTES];
    for (number, key) in keys.iter().enumerate().skip(usize::try_from(cache.len())?) {
        fill(&mut value, number);
        cache.insert(key, &value)?;
    }
    cache.flush()?;
    std::io::stdout().write_all(b"filled\n")?;
    let mut random = Random(7);
    for number in 0.. {
        fill(&mut value, number);
        cache.insert(&keys[random.index(entries)], &value)?;
    }
    Ok(())
}
