//! A strategy of one's own: pages under `/static/` stay as long as anything else can leave.
//!
//! Run it with `cargo run --release --example custom_strategy`.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::collections::BTreeSet;
use std::error::Error;

use larder::{
    ByteCache, Entries, EntryId, EvictionOrder, Leaving, NewEntry, Strategy, Timestamp, Victim,
};

const PINNED: &[u8] = b"/static/";

/// By whether the key is pinned, then by when it was last accessed, as far as the order knows.
type Rank = (bool, Timestamp);

/// Least recently used, but what is pinned leaves last.
#[derive(Debug, Default)]
struct PinnedLast {
    filed: BTreeSet<(Rank, EntryId)>,
    /// By number of the entry: what it is filed under.
    ranks: Vec<Rank>,
}

impl PinnedLast {
    fn file(&mut self, id: EntryId, entries: &dyn Entries) {
        let rank = (entries.key(id).starts_with(PINNED), entries.stamp(id));
        if self.ranks.len() <= id.index() {
            self.ranks.resize(id.index() + 1, rank);
        }
        self.ranks[id.index()] = rank;
        self.filed.insert((rank, id));
    }

    fn unfile(&mut self, id: EntryId) {
        self.filed.remove(&(self.ranks[id.index()], id));
    }
}

impl EvictionOrder for PinnedLast {
    fn insert(&mut self, id: EntryId, entries: &mut dyn Entries) {
        self.file(id, entries);
    }

    fn remove(&mut self, id: EntryId, _: Leaving, _: &mut dyn Entries) {
        self.unfile(id);
    }

    fn victim(&mut self, _: Option<&NewEntry<'_>>, entries: &mut dyn Entries) -> Option<Victim> {
        loop {
            let (_, id) = *self.filed.first()?;
            // A hit tells the order nothing: it is asked for here, and only for who would leave.
            if entries.take_hits(id) == 0 {
                return Some(Victim::Entry(id));
            }
            self.unfile(id);
            self.file(id, entries);
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let cache = ByteCache::builder()
        .memory_max_entries(4)
        .strategy(Strategy::custom(PinnedLast::default))
        .open()?;

    let pages = ["/static/logo", "/home", "/static/style", "/news/1", "/news/2", "/news/3"];
    for page in pages {
        cache.insert(page.as_bytes(), b"...")?;
        cache.get(b"/home")?; // everybody begins there
    }

    for page in pages {
        let kept = if cache.contains_key(page.as_bytes())? { "kept" } else { "gone" };
        println!("{kept}  {page}");
    }
    // kept: the two that are pinned, the home page that is asked for all the time, and the last one
    assert_eq!(cache.len(), 4);
    assert!(cache.contains_key(b"/static/logo")? && cache.contains_key(b"/static/style")?);
    assert!(cache.contains_key(b"/home")? && cache.contains_key(b"/news/3")?);
    Ok(())
}
