//! How often keys were asked for of late, in at most eight bytes for each entry that there is or is to be, or
//! 2 KiB.
//!
//! A count-min sketch (Cormode, Muthukrishnan, 2005) of counters of four bits, of which only the smallest
//! of a key's are raised (Estan, Varghese, 2002). It is halved now and then, so that what was
//! often asked for long ago counts for less (Einziger, Friedman, Manes, 2017).
//!
//! # How it works
//!
//! The counters stand in blocks of eight words, which is one line of a processor's cache. A key has one
//! block, by the upper bits of its hash, and four counters in there: one in each pair of words.
//! An estimate is the least of the four, so that it is too high where keys collide, and never too low but
//! by the halving.
//!
//! A sketch that has become too small is doubled: each block stands there twice then, and whatever a key
//! had counted is found in the block that it has now. Where it is known how many entries there will be, that
//! is done early, for what is counted while the cache fills decides who stays. One that has become far too
//! large, since most entries have left, is halved again, as it is aged: of two counters the larger one stays.
//!
//! # Invariants
//!
//! - **K1** there is at least one block, and there are no parts of blocks.
//! - **K2** but for the least sizes, there is as it grows at most one word for each entry that is there or is
//!   expected, and of those that are there four; once it was aged, four for each that is there.

/// Words of a block.
const BLOCK_WORDS: usize = 8;
/// A sketch has no fewer blocks, which is 2 KiB: in less, for a hundred entries, the keys that come by
/// collide so often that a third of a hit in a hundred is lost.
const BLOCKS_MIN: usize = 32;
/// A sketch for a known number of entries begins with fewer than this many blocks, and doubles from there
/// on to just that number. More, and an empty cache is large; fewer, and rounding leaves more unused.
const FIRST_BLOCKS_MAX: usize = 128;
/// Counters of a key. Three and two let more keys of one hit pass for often asked for.
const ROWS: usize = 4;
/// The most that is counted.
const COUNT_MAX: u64 = 15;
/// All counters are halved after as many additions as this times the entries. Six forgets too early
/// what is asked for seldom, twenty makes too many keys collide.
const ADDITIONS_PER_ENTRY: u64 = 10;
/// A sketch has seen enough for a count of one or two to be chance after as many additions as this
/// times five entries; once it has been halved for the first time, that is so unless many more come. With
/// twenty, one in six hits on a loop of three times the entries is lost; with fifteen, one in fifty on a
/// recorded text search of two and a half times the entries, and more where nearly all that is asked for
/// fits.
const SETTLED_PER_FIVE: u64 = 16;

/// Estimates of how often keys were asked for.
#[derive(Debug)]
pub(super) struct Sketch {
    /// Sixteen counters in each (K1, K2).
    words: Vec<u64>,
    /// Since the beginning; halved with the counters.
    additions: u64,
    /// How many entries will be there, if known.
    expected: u64,
}

impl Sketch {
    /// An empty sketch that will be large enough for so many entries when they have come, if known.
    pub(super) fn new(entries_max: Option<u64>) -> Self {
        let expected = entries_max.and_then(|entries| usize::try_from(entries).ok()).unwrap_or(0);
        let mut blocks = (expected / BLOCK_WORDS).max(BLOCKS_MIN);
        while blocks >= FIRST_BLOCKS_MAX {
            blocks /= 2;
        }
        let words = vec![0; blocks * BLOCK_WORDS];
        Self { words, additions: 0, expected: entries_max.unwrap_or(0) }
    }

    /// Notes that there will be so many entries now, if that is known.
    pub(super) fn expect(&mut self, entries_max: Option<u64>) {
        self.expected = entries_max.unwrap_or(0);
    }

    /// How often this key was asked for, about.
    pub(super) fn estimate(&self, hash: u64) -> u32 {
        let Some(block) = self.words.as_chunks().0.get(self.block(hash)) else { return 0 };
        u32::try_from(least(block, &places(hash))).unwrap_or(0)
    }

    /// Counts that this key was asked for so often more.
    pub(super) fn add(&mut self, hash: u64, times: u32) {
        let (places, nth) = (places(hash), self.block(hash));
        self.additions += u64::from(times);
        let Some(block) = self.words.as_chunks_mut().0.get_mut(nth) else { return };
        let count = (least(block, &places) + u64::from(times)).min(COUNT_MAX);
        for (word, shift) in places {
            let word = &mut block[word % BLOCK_WORDS];
            let now = *word >> shift & 15;
            *word += (now.max(count) - now) << shift;
        }
    }

    /// Where a key's counters are.
    pub(super) fn counters(&self, hash: u64) -> Option<&u64> {
        self.words.get(self.block(hash) * BLOCK_WORDS)
    }

    /// The block of a key.
    fn block(&self, hash: u64) -> usize {
        scale(mixed(hash), self.words.len() / BLOCK_WORDS)
    }

    /// Grows with the number of entries, and halves the counts when it is time.
    pub(super) fn keep_up(&mut self, entries: u64) {
        let room = u64::try_from(self.words.len()).unwrap_or(u64::MAX);
        let is_expected =
            room <= entries.saturating_mul(2) && room.saturating_mul(2) <= self.expected;
        if is_expected || room.saturating_mul(2) <= entries {
            self.words =
                self.words.chunks(BLOCK_WORDS).flat_map(|block| [block, block].concat()).collect();
        }
        if self.additions >= entries.max(1).saturating_mul(ADDITIONS_PER_ENTRY) {
            self.additions /= 2;
            for word in &mut self.words {
                *word = *word >> 1 & 0x7777_7777_7777_7777;
            }
            while self.is_too_large(entries) {
                self.words = self.words.chunks(2 * BLOCK_WORDS).flat_map(merged).collect();
            }
        }
    }

    fn is_too_large(&self, entries: u64) -> bool {
        let words = self.words.len();
        let is_many = u64::try_from(words).is_ok_and(|words| words > entries.saturating_mul(4));
        is_many && words > FIRST_BLOCKS_MAX * BLOCK_WORDS && words.is_multiple_of(2 * BLOCK_WORDS)
    }

    /// Whether it has seen enough for a low count to be chance.
    pub(super) fn is_settled(&self, entries: u64) -> bool {
        self.additions.saturating_mul(5) >= entries.saturating_mul(SETTLED_PER_FIVE)
    }

    /// Words that it takes.
    pub(super) fn len_words(&self) -> usize {
        self.words.len()
    }
}

fn mixed(hash: u64) -> u64 {
    hash.wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

/// The word in its block and the shift of each of a key's counters.
fn places(hash: u64) -> [(usize, u64); ROWS] {
    let mixed = mixed(hash);
    let mut bits = (mixed ^ mixed >> 32).wrapping_mul(0xC2B2_AE3D_27D4_EB4F) >> 32;
    let mut places = [(0, 0); ROWS];
    for (row, place) in places.iter_mut().enumerate() {
        let second = usize::from(bits & 1 == 1);
        *place = (2 * row + second, (bits >> 1 & 15) * 4);
        bits >>= 5;
    }
    places
}

fn least(block: &[u64; BLOCK_WORDS], places: &[(usize, u64); ROWS]) -> u64 {
    places.iter().fold(COUNT_MAX, |least, (word, shift)| {
        // Never more than it has; said so that nothing need be checked.
        least.min(block[word % BLOCK_WORDS] >> shift & 15)
    })
}

/// One block of two that stand side by side, with the larger of each two counters.
fn merged(blocks: &[u64]) -> Vec<u64> {
    let (one, other) = blocks.split_at(BLOCK_WORDS.min(blocks.len()));
    let larger = |(one, other): (&u64, &u64)| {
        let counters = (0..16).map(|nth| 15 << (4 * nth));
        counters.map(|mask| (one & mask).max(other & mask)).fold(0, |word, counter| word | counter)
    };
    one.iter().zip(other).map(larger).collect()
}

/// Where a hash falls among so many, by its upper bits.
pub(super) fn scale(hash: u64, among: usize) -> usize {
    let among = u128::try_from(among).unwrap_or(0);
    usize::try_from((u128::from(hash) * among) >> 64).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_estimate_is_never_too_low_before_the_counts_are_halved() {
        let mut sketch = Sketch::new(Some(1000));
        for key in 0..3000u64 {
            sketch.add(key, u32::try_from(key % 4).unwrap() + 1);
        }
        assert!((0..3000u64).all(|key| u64::from(sketch.estimate(key)) > key % 4));
    }

    #[test]
    fn a_sketch_shrinks_when_most_entries_have_left_and_forgets_no_more_than_by_age() {
        let mut sketch = Sketch::new(None);
        for _ in 0..14 {
            sketch.keep_up(100_000);
        }
        assert_eq!(sketch.len_words(), 65_536);
        for key in 0..100u64 {
            sketch.add(key, 8);
        }
        sketch.additions = 1_000;
        sketch.keep_up(100);
        assert_eq!(sketch.len_words(), FIRST_BLOCKS_MAX * BLOCK_WORDS);
        assert!((0..100u64).all(|key| sketch.estimate(key) >= 4));
        let fresh = (1_000..2_000u64).filter(|key| sketch.estimate(*key) > 0).count();
        assert!(fresh < 100, "{fresh} of 1,000 keys that were never asked for");
    }

    #[test]
    fn a_sketch_at_its_place_tells_most_keys_apart() {
        let mut sketch = Sketch::new(Some(1000));
        sketch.keep_up(1000);
        for key in 0..1000u64 {
            sketch.add(key, 1);
        }
        let wrong = (1000..11_000u64).filter(|key| sketch.estimate(*key) > 0).count();
        assert!(wrong < 500, "{wrong} of 10,000 keys that were never asked for");
    }

    #[test]
    fn a_sketch_for_so_many_entries_has_its_place_when_half_of_them_are_in() {
        let mut sketch = Sketch::new(Some(4096));
        for entries in 1..=1024 {
            sketch.keep_up(entries);
        }
        assert_eq!(sketch.len_words(), 4096);
        sketch.expect(Some(10_000));
        sketch.keep_up(2048);
        assert_eq!(sketch.len_words(), 8192);
    }

    #[test]
    fn growing_keeps_all_counts_and_at_most_eight_bytes_an_entry() {
        for limit in [None, Some(1000), Some(4096), Some(100_000)] {
            let mut sketch = Sketch::new(limit);
            let least = sketch.len_words().max(50);
            for key in 0..50u64 {
                sketch.add(key, 3);
            }
            for entries in 50..100_000u64 {
                sketch.keep_up(entries);
                let words = sketch.len_words();
                let most = entries.max((4 * entries).min(limit.unwrap_or(0)));
                assert!(words <= least.max(usize::try_from(most).unwrap()), "K2: {words} words");
                assert_eq!(words % BLOCK_WORDS, 0, "K1");
            }
            assert!((0..50u64).all(|key| sketch.estimate(key) >= 3));
            assert!(sketch.len_words() > 49_000);
        }
    }

    #[test]
    fn halving_forgets_and_is_due_every_ten_additions_an_entry() {
        let mut sketch = Sketch::new(Some(100));
        sketch.add(1, 12);
        for key in 0..988u64 {
            assert!(!sketch.is_settled(100) || sketch.additions >= 320);
            sketch.add(1000 + key % 90, 1);
        }
        assert_eq!(sketch.estimate(1), 12);
        sketch.keep_up(100);
        assert_eq!((sketch.estimate(1), sketch.additions), (6, 500));
        assert!(sketch.is_settled(100));
    }
}
