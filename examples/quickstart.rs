//! A cache of recipes: insert, read in place, expire, close, open again, look at the statistics.
//!
//! Run it with `cargo run --release --example quickstart`.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;
use std::path::Path;
use std::time::Duration;

use larder::{Cache, InsertOptions, ManualClock, Stats, Timestamp};

/// What the cache keeps. Any type that derives these three traits will do.
#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
struct Recipe {
    title: String,
    minutes: u32,
    rating: f64,
    ingredients: Vec<String>,
}

fn recipe(title: &str, minutes: u32, rating: f64, ingredients: &[&str]) -> Recipe {
    let ingredients = ingredients.iter().map(|&name| name.to_owned()).collect();
    Recipe { title: title.to_owned(), minutes, rating, ingredients }
}

/// Opens the cache: two recipes in memory, a hundred on disk, none older than a day.
fn open(path: &Path, clock: &ManualClock) -> larder::Result<Cache<str, Recipe>> {
    Cache::builder()
        .path(path)
        .memory_max_entries(2)
        .disk_max_entries(100)
        .disk_time_to_live(Duration::from_secs(24 * 3600))
        .clock(clock.clone()) // leave it out, and the cache uses the system's clock
        .open()
}

fn main() -> Result<(), Box<dyn Error>> {
    // The folder is removed at the end. Time stands still until we move it.
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("recipes.larder");
    let clock = ManualClock::new(Timestamp::now());
    let cache = open(&path, &clock)?;

    // Insert. Writes reach the disk a moment later, together; `flush` would wait for that.
    cache.insert("soup", &recipe("Leek soup", 35, 4.5, &["leek", "potato", "cream"]))?;
    cache.insert("bread", &recipe("Rye bread", 240, 4.9, &["rye", "water", "salt"]))?;
    let for_lunch = InsertOptions::default().ttl(Duration::from_secs(1800));
    let salad = recipe("Today's salad", 10, 4.0, &["lettuce", "oil"]);
    cache.insert_with("salad", &salad, &for_lunch)?;
    println!("{} recipes, {} of them in memory", cache.len(), cache.memory_len());

    // Read. The entry is the recipe as it was stored: nothing is copied or deserialized. The first
    // read finds it on disk and brings it back to memory.
    for _ in 0..2 {
        if let Some(soup) = cache.get("soup")? {
            println!("{}: {} minutes, rated {}", soup.title, soup.minutes, soup.rating);
            println!("  with {}, {} more", soup.ingredients[0], soup.ingredients.len() - 1);
            println!("  from {:?}, {} bytes", soup.tier(), soup.size_bytes());
        }
    }
    // A copy that is a `Recipe` again, for those who want to change it.
    if let Some(bread) = cache.get("bread")? {
        let mut bread = bread.to_owned();
        bread.ingredients.push("caraway".to_owned());
        cache.insert("bread", &bread)?;
    }

    // Expire. After 31 minutes the salad is gone.
    clock.advance(Duration::from_secs(31 * 60));
    let salad = if cache.get("salad")?.is_some() { "still there" } else { "gone" };
    println!("salad after 31 minutes: {salad}");

    // Close and open again. What was on disk is there, the change included.
    let before = cache.stats();
    cache.close()?;
    let cache = open(&path, &clock)?;
    let ingredients = cache.view("bread", |bread| bread.ingredients.len())?;
    println!("bread after a restart: {} ingredients\n", ingredients.unwrap_or(0));
    print_table(&before, &cache.stats());
    cache.close()?;
    Ok(())
}

fn print_table(before: &Stats, after: &Stats) {
    println!("{:<18}{:>8}{:>16}", "", "at first", "after restart");
    let rows = [
        ("inserts", before.inserts, after.inserts),
        ("gets", before.gets, after.gets),
        ("memory hits", before.memory_hits, after.memory_hits),
        ("disk hits", before.disk_hits, after.disk_hits),
        ("misses", before.misses, after.misses),
        ("memory evictions", before.memory_evictions, after.memory_evictions),
        ("entries in memory", before.memory_entries, after.memory_entries),
    ];
    for (name, before, after) in rows {
        println!("{name:<18}{before:>8}{after:>16}");
    }
    let (before, after) = (100.0 * before.hit_ratio(), 100.0 * after.hit_ratio());
    println!("{:<18}{before:>6.1} %{after:>14.1} %", "hit ratio");
}
