//! Requests of which few keys get most.

use crate::common::Random;

/// Numbers below `keys`, drawn with probability proportional to 1 / (number + 1).
#[expect(clippy::cast_precision_loss, reason = "weights of a draw")]
pub(crate) fn zipf(keys: usize, count: usize) -> Vec<usize> {
    let mut sum = 0.0;
    let rising: Vec<f64> = (1..=keys)
        .map(|rank| {
            sum += 1.0 / rank as f64;
            sum
        })
        .collect();
    let mut random = Random(2);
    let mut draw = || {
        let at = random.index(1 << 30) as f64 / f64::from(1 << 30) * sum;
        rising.partition_point(|below| *below <= at).min(keys - 1)
    };
    (0..count).map(|_| draw()).collect()
}
