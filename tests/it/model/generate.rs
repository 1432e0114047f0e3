//! Options and operations at random: mostly what a program would do, and now and then what it
//! should not.

use larder::DiskStrategy;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use super::{At, Item, KEYS, Kind, Limits, Op, Options, PREFIXES, Step};

fn limits(least: u64, entries: u64, bytes: u64) -> impl Strategy<Value = Limits> {
    (option::of(least..=entries), option::of(least.max(8)..=bytes))
        .prop_map(|(entries, bytes)| Limits { entries, bytes })
}

fn memory_limits(kind: Kind) -> impl Strategy<Value = Limits> {
    limits(u64::from(kind == Kind::MemoryOnly), 8, 120)
}

fn disk_limits(kind: Kind) -> impl Strategy<Value = Limits> {
    limits(1, 12, 200).prop_map(move |limits| match kind {
        Kind::MemoryOnly => Limits::default(),
        Kind::Behind | Kind::Through => limits,
    })
}

fn options(kind: Kind) -> impl Strategy<Value = Options> {
    let disk = kind != Kind::MemoryOnly;
    (
        select(vec![1_usize, 2, 8, 64]),
        memory_limits(kind),
        disk_limits(kind),
        option::weighted(0.3, 5_u64..60),
        option::weighted(0.3, 5_u64..60),
        option::weighted(0.3, 5_u64..60),
        option::weighted(0.3, 4_u64..30),
        any::<bool>(),
    )
        .prop_map(
            move |(shards, memory, disk_limits, memory_ttl, disk_ttl, idle, max, weigher)| {
                Options {
                    disk,
                    through: kind == Kind::Through,
                    shards,
                    memory,
                    disk_limits,
                    memory_ttl,
                    disk_ttl,
                    time_to_idle: idle,
                    max_memory_entry: max.filter(|_| disk),
                    weigher,
                    strategy: DiskStrategy::Lru,
                }
            },
        )
}

fn key() -> impl Strategy<Value = &'static str> {
    prop_oneof![60 => select(&KEYS[..]), 1 => select(vec!["", "long!"])]
}

/// A value of some length; [`Op::number`] fills it.
fn plain_item() -> impl Strategy<Value = Item> {
    let len = prop_oneof![6 => 0_usize..24, 2 => 24_usize..60, 1 => 60_usize..300];
    (key(), len).prop_map(|(key, len)| {
        let value = vec![0; len];
        Item { key, value, ttl: None, weight: None, labelled: false }
    })
}

fn item() -> impl Strategy<Value = Item> {
    let weight = prop_oneof![0_u64..40, 0_u64..400];
    let extras = (option::weighted(0.2, 0_u64..60), option::weighted(0.1, weight), any::<u8>());
    (plain_item(), extras).prop_map(|(item, (ttl, weight, label))| Item {
        ttl,
        weight,
        labelled: label < 32,
        ..item
    })
}

fn op(kind: Kind) -> impl Strategy<Value = Op> {
    let keys = || vec(key(), 0..6);
    let ttl = option::weighted(0.8, 0_u64..60);
    let advance = prop_oneof![12 => 1_i64..12, 2 => 12_i64..80, 1 => -10_i64..0];
    let any_limits = || prop_oneof![15 => limits(1, 8, 120), 1 => limits(0, 8, 120)];
    let reopened = option::of((memory_limits(kind), disk_limits(kind)));
    // Boxed, since a choice is otherwise as large as all its alternatives together.
    let writes = prop_oneof![
        12 => item().prop_map(Op::Insert).boxed(),
        3 => plain_item().prop_map(Op::InsertIfAbsent).boxed(),
        3 => vec(plain_item(), 0..6).prop_map(Op::InsertMany).boxed(),
        2 => (key(), ttl).prop_map(|(key, ttl)| Op::Touch(key, ttl)).boxed(),
    ];
    let reads = prop_oneof![
        12 => key().prop_map(Op::Get).boxed(),
        2 => key().prop_map(Op::View).boxed(),
        3 => key().prop_map(Op::GetInto).boxed(),
        2 => keys().prop_map(Op::GetMany).boxed(),
        2 => key().prop_map(Op::Peek).boxed(),
        1 => key().prop_map(Op::Contains).boxed(),
        1 => option::of(select(&PREFIXES[..])).prop_map(Op::Keys).boxed(),
        1 => Just(Op::Iter).boxed(),
    ];
    let removals = prop_oneof![
        4 => key().prop_map(Op::Remove).boxed(),
        2 => key().prop_map(Op::Invalidate).boxed(),
        2 => keys().prop_map(Op::RemoveMany).boxed(),
        1 => select(&PREFIXES[..]).prop_map(Op::InvalidatePrefix).boxed(),
        1 => Just(Op::Clear).boxed(),
    ];
    let maintenance = prop_oneof![
        5 => advance.prop_map(Op::Advance).boxed(),
        4 => (key(), any::<bool>()).prop_map(|(key, over)| Op::AdvanceTo(key, over)).boxed(),
        2 => any_limits().prop_map(Op::SetMemoryLimits).boxed(),
        1 => any_limits().prop_map(Op::SetDiskLimits).boxed(),
        2 => Just(Op::Purge).boxed(),
        3 => Just(Op::Flush).boxed(),
        1 => Just(Op::ResetStats).boxed(),
        1 => reopened.prop_map(|limits| Op::Reopen(limits, None)).boxed(),
    ];
    prop_oneof![
        20 => writes.boxed(),
        20 => reads.boxed(),
        3 => removals.boxed(),
        10 => maintenance.boxed(),
    ]
}

fn step(kind: Kind) -> impl Strategy<Value = Step> {
    let at = prop_oneof![
        6 => Just(At::Clock),
        2 => (-20_i64..20).prop_map(At::Near),
        1 => select(&KEYS[..]).prop_map(At::Same),
    ];
    (op(kind), at).prop_map(|(op, at)| Step { op, at })
}

/// Options, and some steps, at most this many.
pub(super) fn case(kind: Kind, steps: usize) -> impl Strategy<Value = (Options, Vec<Step>)> {
    (options(kind), vec(step(kind), 1..=steps))
}

/// Likewise, with one of these strategies on disk, and after each reopening with any other of them.
pub(super) fn with_strategy(
    strategies: Vec<DiskStrategy>,
    kind: Kind,
    steps: usize,
) -> impl Strategy<Value = (Options, Vec<Step>)> {
    let choices = vec(select(strategies), 1..8);
    (case(kind, steps), choices).prop_map(|((options, mut steps), choices)| {
        let mut next = choices.iter().copied().cycle();
        let options = Options { strategy: next.next().unwrap_or_default(), ..options };
        for step in &mut steps {
            if let Op::Reopen(_, strategy) = &mut step.op {
                *strategy = next.next();
            }
        }
        (options, steps)
    })
}

/// Nothing but [`long_case`] knows these.
const COLD: [&str; 3] = ["q", "r", "s"];

/// So many rounds of a few steps, a batch and a flush, on a disk that has no limits and is not
/// emptied; and before them entries that stay the oldest ones.
pub(super) fn long_case(rounds: usize) -> impl Strategy<Value = (Options, Vec<Step>)> {
    let stays = |step: &Step| !matches!(step.op, Op::Clear | Op::SetDiskLimits(_) | Op::Reopen(..));
    let steps = vec(step(Kind::Behind).prop_filter("empties the disk", stays), 4);
    let batch = vec(plain_item(), 10).prop_map(Op::InsertMany);
    (options(Kind::Behind), vec((steps, batch), rounds)).prop_map(|(options, rounds)| {
        let plain = |op| Step { op, at: At::Clock };
        let item = |key| Item { key, value: vec![0; 3], ttl: None, weight: None, labelled: false };
        let cold = plain(Op::InsertMany(COLD.map(item).to_vec()));
        let round = |(steps, batch): (Vec<Step>, Op)| {
            steps.into_iter().chain([plain(batch), plain(Op::Flush)])
        };
        let rounds = rounds.into_iter().flat_map(round);
        let disk_limits = Limits::default();
        let options = Options { disk_limits, disk_ttl: None, time_to_idle: None, ..options };
        (options, std::iter::once(cold).chain(rounds).collect())
    })
}
