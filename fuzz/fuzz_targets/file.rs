//! Cache files that are damaged or never were cache files.
//!
//! - **F1** `open` succeeds or fails, and so does every call after it; none panics.
//! - **F2** a value that is found is the value that was stored. Held only while the damage is a patch
//!   of at most four bytes: the fuzzer sees what checksums are compared with and can forge them.
//!
//! Panics in foreign code are not findings in themselves, because the cache catches them; one that
//! comes through to the caller is.
#![no_main]

mod panics;

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use arbitrary::Arbitrary;
use larder::{ByteCache, Error};
use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;

const ENTRIES: u8 = 40;
const SMALL_PATCH_BYTES: usize = 4;

#[derive(Debug, Arbitrary)]
enum Input<'a> {
    /// The file is these bytes.
    Whole(&'a [u8]),
    /// The file is a real one, patched at these offsets.
    Patched(Vec<(u32, &'a [u8])>),
    /// The file is the beginning of a real one.
    Cut(u32),
}

fuzz_target!(init: panics::leave_foreign_ones_to_the_cache(), |input: Input<'_>| {
    let folder = TempDir::new().expect("a temporary folder");
    let path = folder.path().join("cache.larder");
    fs::write(&path, file_bytes(&input)).expect("a writable temporary folder");
    let sound = match &input {
        Input::Whole(_) => false,
        Input::Patched(patches) => match patches.as_slice() {
            [] => true,
            [(_, patch)] => patch.len() <= SMALL_PATCH_BYTES,
            _ => false,
        },
        Input::Cut(_) => true,
    };
    // Errors are answers here; only panics and wrong values are findings.
    if let Ok(cache) = open(&path) {
        read_everything(&cache, sound);
        let _ = write_something(&cache);
        let _ = cache.close();
    }
});

fn open(path: &Path) -> Result<ByteCache, Error> {
    ByteCache::builder().path(path).memory_max_entries(4).open()
}

fn key(n: u8) -> [u8; 2] {
    [b'k', n]
}

/// Some values fit on one page of the file and some do not.
fn value(n: u8) -> Vec<u8> {
    vec![n; usize::from(n % 8).pow(4) + 1]
}

fn file_bytes(input: &Input<'_>) -> Vec<u8> {
    static REAL: OnceLock<Vec<u8>> = OnceLock::new();
    let real = REAL.get_or_init(|| real_file().expect("an undamaged disk tier works"));
    match input {
        Input::Whole(bytes) => bytes.to_vec(),
        Input::Patched(patches) => {
            let mut bytes = real.clone();
            for (offset, patch) in patches {
                let start = *offset as usize % bytes.len();
                for (byte, new) in bytes[start..].iter_mut().zip(*patch) {
                    *byte = *new;
                }
            }
            bytes
        }
        Input::Cut(len) => real[..*len as usize % real.len()].to_vec(),
    }
}

/// The bytes of a file in which every key was written once.
fn real_file() -> Result<Vec<u8>, Box<dyn std::error::Error>> {
    let folder = TempDir::new()?;
    let path = folder.path().join("real.larder");
    let cache = open(&path)?;
    for n in 0..ENTRIES {
        cache.insert(&key(n), &value(n))?;
    }
    cache.close()?;
    Ok(fs::read(&path)?)
}

fn read_everything(cache: &ByteCache, sound: bool) {
    for n in 0..ENTRIES {
        if let Ok(Some(entry)) = cache.get(&key(n)) {
            assert!(!sound || entry[..] == value(n)[..], "F2: another value under key {n}");
        }
    }
    // Damage may invent rows, so the walk is cut at twice what was stored.
    let walked = cache.keys().take(2 * usize::from(ENTRIES)).count();
    let _ = (walked, cache.len(), cache.disk_bytes(), cache.stats());
}

fn write_something(cache: &ByteCache) -> Result<(), Error> {
    cache.insert(b"new", b"value")?;
    cache.remove(&key(0))?;
    cache.flush()?;
    cache.clear()?;
    cache.flush()
}
