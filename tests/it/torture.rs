//! Short runs of what `examples/torture.rs` does for as long as one likes.

use std::time::Duration;

use larder::{ByteCache, InsertOptions, Timestamp};

use crate::support::{number_from_env, seed};

#[path = "../torture/mod.rs"]
pub(crate) mod modes;

use modes::Budget;
use modes::oracle::{
    Commits, Content, Found, Key, Limits, Log, NEVER, Op, Put, Stamps, check_order, examine,
};

fn put(key: &str, value: &str, stamp: u64) -> Put {
    let content = Content::of(value.as_bytes());
    Put { key: key.into(), content, stamp, deadline: NEVER }
}

fn log(ops: Vec<Op>, entries: Option<u64>, commits: Commits) -> Log {
    let limits = Limits { entries, bytes: None };
    Log { before: Found::default(), ops, limits, commits, stamps: Stamps::Known }
}

/// What a cache has after these entries, and the cache.
fn found(entries: &[(&str, &str, u64)]) -> (Found, ByteCache, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let cache = ByteCache::builder().path(folder.path().join("cache.larder")).open().unwrap();
    for (key, value, stamp) in entries {
        let at = InsertOptions::default().timestamp(Timestamp::from_nanos(*stamp));
        cache.insert_with(key.as_bytes(), value.as_bytes(), &at).unwrap();
    }
    let found = examine(&cache, Limits::NONE).unwrap();
    (found, cache, folder)
}

#[test]
fn the_oracle_tells_the_prefix_and_refuses_what_is_none() {
    let remove = |key: &str| Op::Remove(Key::from(key));
    let ops = vec![
        Op::Put(put("a", "1", 1)),
        Op::PutMany(vec![put("b", "2", 2), put("c", "2", 2)]),
        remove("a"),
        Op::Put(put("b", "3", 4)),
        Op::Touch("c".into(), 5),
        Op::Flush,
        Op::RemoveMany(vec!["b".into(), "x".into()]),
        Op::Clear,
    ];
    let log = log(ops, None, Commits::Anywhere);
    let explain = |entries: &[_], durable| log.explain(&found(entries).0, durable, 99, 0);
    assert_eq!(explain(&[], 0), Ok(0));
    assert_eq!(explain(&[], 1), Ok(8));
    assert_eq!(explain(&[("a", "1", 1)], 0), Ok(1));
    assert_eq!(explain(&[("b", "2", 2), ("c", "2", 2)], 1), Ok(3));
    // The recency of a read need not be there before the flush, and must be after it.
    assert_eq!(explain(&[("b", "3", 4), ("c", "2", 2)], 0), Ok(4));
    assert_eq!(explain(&[("b", "3", 4), ("c", "2", 2)], 5), Ok(5));
    assert_eq!(explain(&[("b", "3", 4), ("c", "2", 5)], 5), Ok(5));
    assert_eq!(explain(&[("b", "3", 4), ("c", "2", 5)], 6), Ok(6));
    assert!(explain(&[("b", "3", 4), ("c", "2", 2)], 6).is_err());
    // Half a batch, another value, another stamp, a hole, and what was durable and is lost.
    for wrong in [
        &[("a", "1", 1), ("b", "2", 2)][..],
        &[("a", "2", 1)],
        &[("a", "1", 2)],
        &[("a", "1", 1), ("b", "3", 4), ("c", "2", 2)],
    ] {
        let told = explain(wrong, 0).unwrap_err();
        assert!(told.contains("after no number"), "{told}");
    }
    let told = explain(&[("a", "1", 1)], 2).unwrap_err();
    assert!(told.contains("those after 1,"), "{told}");
}

#[test]
fn the_oracle_knows_what_limits_take_out() {
    let puts = |keys: &[(&str, u64)]| -> Vec<Op> {
        keys.iter().map(|(key, stamp)| Op::Put(put(key, "1", *stamp))).collect()
    };
    let explain = |ops: Vec<Op>, commits, entries: &[_]| {
        log(ops, Some(2), commits).explain(&found(entries).0, 0, 99, 0)
    };
    let (a, b, c) = (("a", "1", 1), ("b", "1", 2), ("c", "1", 3));
    let mut ops = puts(&[("a", 1), ("b", 2), ("c", 3)]);
    assert_eq!(explain(ops.clone(), Commits::EachOperation, &[b, c]), Ok(3));
    assert!(explain(ops.clone(), Commits::EachOperation, &[a, c]).is_err());
    ops.push(Op::Remove("c".into()));
    // With one commit for both, the newcomer that went again evicted nobody.
    assert_eq!(explain(ops.clone(), Commits::Anywhere, &[b]), Ok(4));
    assert!(explain(ops.clone(), Commits::EachOperation, &[a, b]).is_ok_and(|n| n == 2));
    assert!(
        log(ops.clone(), Some(2), Commits::EachOperation)
            .explain(&found(&[a, b]).0, 4, 4, 0)
            .is_err()
    );
    let both = log(ops.clone(), Some(2), Commits::Anywhere);
    assert_eq!(both.explain(&found(&[a, b]).0, 4, 4, 0), Ok(4));
    assert!(both.explain(&found(&[a]).0, 4, 4, 0).is_err());
    assert!(both.explain(&found(&[]).0, 4, 4, 0).is_err());
    ops.push(Op::Flush);
    assert_eq!(explain(ops.clone(), Commits::AtFlush, &[a, b]), Ok(5));
    assert!(explain(ops, Commits::AtFlush, &[b]).is_err());
    // An entry that is older than all others is its own victim.
    let ops = puts(&[("b", 2), ("c", 3), ("a", 1)]);
    assert_eq!(explain(ops, Commits::EachOperation, &[b, c]), Ok(2));
}

#[test]
fn the_order_on_disk_is_told_by_what_leaves() {
    let (found, cache, _folder) = found(&[("a", "1", 3), ("b", "1", 1), ("c", "1", 2)]);
    assert_eq!(check_order(&cache, &found, 2), Ok(()));
    assert_eq!(cache.keys().map(Result::unwrap).collect::<Vec<_>>(), [b"a", b"c"]);
    let (mut found, cache, _folder) = self::found(&[("a", "1", 3), ("b", "1", 1)]);
    found.0.entry("b".into()).and_modify(|seen| seen.stamp = 9);
    assert!(check_order(&cache, &found, 1).is_err());
    assert!(examine(&cache, Limits { entries: None, bytes: Some(1) }).is_err());
    assert_eq!(found.with_prefix(b"b").0.len(), 1);
}

/// Nothing, unless a parent asks.
#[cfg(unix)]
#[test]
fn does_what_its_parent_asks() {
    if let Some(done) = modes::kill::child() {
        done.unwrap();
    }
}

/// So many cycles, or `LARDER_TORTURE_SECONDS`.
fn budget(cycles: u64) -> Budget {
    let seconds = number_from_env("LARDER_TORTURE_SECONDS").map(Duration::from_secs);
    seconds.map_or(Budget::Cycles(cycles), Budget::Time)
}

#[cfg(unix)]
#[test]
fn a_killed_process_leaves_a_prefix_of_what_it_did() {
    let figures = modes::kill::run(seed(), budget(200), &mut |_| {});
    let figures = figures.unwrap_or_else(|violation| panic!("{violation}"));
    assert!(figures.of("operations") > 0 && figures.of("lost") > 0, "{figures}");
}

#[test]
fn a_power_cut_leaves_a_prefix_of_what_was_done() {
    let figures = modes::power::run(seed(), budget(13), &mut |_| {});
    let figures = figures.unwrap_or_else(|violation| panic!("{violation}"));
    assert!(figures.of("images") >= 5_000 || number_from_env("LARDER_TORTURE_SECONDS").is_some());
}

#[test]
fn whatever_call_fails_nothing_is_lost() {
    let plan = modes::fault::Plan { workloads: 1, operations: 14, counts: 1 };
    let figures = modes::fault::run(plan, 1, Budget::Cycles(u64::MAX), &mut |_| {});
    let figures = figures.unwrap_or_else(|violation| panic!("{violation}"));
    assert_eq!(figures.of("sweeps done"), 1);
    assert_eq!(figures.of("came up"), figures.of("cycles"));
}

#[test]
fn a_damaged_file_is_never_a_wrong_value_a_panic_or_a_hang() {
    let seed = number_from_env("LARDER_SEED").unwrap_or(1);
    let figures = modes::rot::run(seed, Budget::Cycles(1_000), &mut |_| {});
    let figures = figures.unwrap_or_else(|violation| panic!("{violation}"));
    assert!(figures.of("corrupt records") > 0 && figures.of("set aside") > 0, "{figures}");
}

#[test]
fn sixteen_threads_are_exact_and_explained() {
    let seed = seed();
    let budget = budget(20);
    let figures = modes::threads::run(seed, budget, &mut |_| {});
    let figures = figures.unwrap_or_else(|violation| panic!("{violation}"));
    assert!(figures.of("events") > 0, "{figures}");
}
