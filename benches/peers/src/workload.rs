//! Keys, values, orders of asking, and the clock.

use std::sync::Barrier;
use std::time::Duration;

use larder::Timestamp;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rand_distr::Zipf;

/// How much to do.
#[derive(Debug, Clone, Copy)]
pub struct Scale {
    /// Entries and operations are divided by this.
    pub divisor: usize,
    pub rounds: usize,
}

impl Scale {
    pub fn of(&self, count: usize) -> usize {
        (count / self.divisor).max(1_000)
    }
}

/// Which key comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Skew {
    Uniform,
    /// With exponent 0.99.
    Zipf,
    /// One after the other.
    Sequence,
    /// Always the same.
    One,
}

/// Keys that are strings, in an order that is not that of their popularity.
pub fn keys(count: usize) -> Vec<String> {
    let spread = |number: usize| (number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (0..count).map(|number| format!("{:016x}", spread(number))).collect()
}

/// Fills `value` with bytes that no other number has.
pub fn fill(value: &mut [u8], number: usize) {
    let mut state = number as u64;
    for chunk in value.chunks_mut(8) {
        state = state.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        chunk.copy_from_slice(&(state ^ state >> 29).to_le_bytes()[..chunk.len()]);
    }
}

/// Numbers below `keys`.
pub fn order(skew: Skew, keys: usize, count: usize, seed: u64) -> Vec<u32> {
    let mut random = StdRng::seed_from_u64(seed);
    let number = |n: usize| u32::try_from(n).expect("fewer than 2^32 keys");
    match skew {
        Skew::Uniform => (0..count).map(|_| number(random.random_range(0..keys))).collect(),
        Skew::Zipf => {
            let zipf = Zipf::new(keys as f64, 0.99).expect("sound parameters");
            let mut draw = || (random.sample(zipf) as usize - 1).min(keys - 1);
            (0..count).map(|_| number(draw())).collect()
        }
        Skew::Sequence => (0..count).map(|n| number(n % keys)).collect(),
        Skew::One => vec![0; count],
    }
}

fn since(start: Timestamp) -> f64 {
    let nanos = Timestamp::now().as_nanos().saturating_sub(start.as_nanos());
    Duration::from_nanos(nanos.max(1)).as_secs_f64()
}

/// Runs `work` on so many threads, which begin together; gives how long that took in seconds.
pub fn seconds(threads: usize, work: impl Fn(usize) + Sync) -> f64 {
    if threads == 1 {
        let start = Timestamp::now();
        work(0);
        return since(start);
    }
    let barrier = Barrier::new(threads + 1);
    std::thread::scope(|scope| {
        let handles: Vec<_> = (0..threads)
            .map(|thread| {
                let (barrier, work) = (&barrier, &work);
                scope.spawn(move || {
                    barrier.wait();
                    work(thread);
                })
            })
            .collect();
        // The last to come: the others wait already.
        let start = Timestamp::now();
        barrier.wait();
        for handle in handles {
            handle.join().expect("no panic in a peer");
        }
        since(start)
    })
}
