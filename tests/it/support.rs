//! What several tests need: seeded random numbers, and a dog that barks at deadlocks.

use std::io::Write;
use std::sync::mpsc;
use std::time::Duration;

/// Random numbers from a seed (`SplitMix64`, Steele et al., 2014).
#[derive(Debug, Clone)]
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `n`, which is not 0.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    /// A place among `n`.
    pub(crate) fn index(&mut self, n: usize) -> usize {
        usize::try_from(self.below(n as u64)).unwrap()
    }

    /// One of `n` keys, the small ones more often.
    pub(crate) fn key(&mut self, n: u8) -> u8 {
        let (a, b) = (self.below(n.into()), self.below(n.into()));
        u8::try_from(a.min(b)).unwrap()
    }
}

pub(crate) fn number_from_env(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// `LARDER_SEED`, or another one each time; tests print it when they fail.
#[expect(clippy::print_stdout, reason = "shown when a test fails")]
pub(crate) fn seed() -> u64 {
    let seed = number_from_env("LARDER_SEED");
    let seed = seed.unwrap_or_else(|| larder::Timestamp::now().as_nanos());
    println!("LARDER_SEED={seed}");
    seed
}

/// Ends the process with a message if it is not dropped in time: a deadlock must not hang the gate.
#[derive(Debug)]
pub(crate) struct Watchdog(
    #[expect(dead_code, reason = "dropped to say that all is well")] mpsc::Sender<()>,
);

const PATIENCE: Duration = Duration::from_secs(60);

impl Watchdog {
    pub(crate) fn start(what: String) -> Self {
        let (alive, watched) = mpsc::channel();
        std::thread::spawn(move || {
            if watched.recv_timeout(PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout) {
                let _ = writeln!(std::io::stderr(), "no end after {PATIENCE:?}: {what}");
                std::process::abort();
            }
        });
        Self(alive)
    }
}
