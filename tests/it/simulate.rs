//! Simulations: what traces are read as, and what is counted, against slow models and other simulators.

use std::collections::{HashMap, VecDeque};
use std::fs;
use std::io::Write;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use larder::simulate::{Capacity, Ceiling, Format, Progress, Report, Simulation, Trace, chart};
use larder::{Entries, EntryId, ErrorKind, EvictionOrder, Leaving, NewEntry, Strategy, Victim};
use proptest::test_runner::{Config, TestRunner};

use crate::support::{Rng, seed};

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    packed.write_all(bytes).unwrap();
    packed.finish().unwrap()
}

/// The requests as text: `key` or `key size`.
fn requests(trace: &Trace) -> larder::Result<Vec<String>> {
    let show = |key: &[u8], size: Option<u64>| {
        let key = String::from_utf8_lossy(key).into_owned();
        size.map_or(key.clone(), |size| format!("{key} {size}"))
    };
    trace.requests()?.map(|request| request.map(|r| show(&r.key, r.size_bytes))).collect()
}

#[track_caller]
fn check_read(trace: &Trace, expected: &[&str]) {
    assert_eq!(requests(trace).unwrap(), expected, "{}", trace.name());
}

#[test]
fn the_name_of_a_file_tells_its_format() {
    let folder = tempfile::tempdir().unwrap();
    let packed = gzip(b"7 2 0 1\n");
    let cases: [(&str, &[u8], &[&str]); 6] = [
        ("a.txt", b"7 2\n", &["7 2"]),
        ("a.lis", b"7 2 0 1\n9 1 0 2\n", &["7", "8", "9"]),
        ("A.LIS.GZ", &packed, &["7", "8"]),
        ("a.trc", b"7\n*\n07\n", &["7", "7"]),
        ("no-ending", b"/a/b 12\n/c\n", &["/a/b 12", "/c"]),
        ("misnamed.gz", b"plain 1\n", &["plain 1"]),
    ];
    for (name, bytes, expected) in cases {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        check_read(&Trace::open(&path).unwrap(), expected);
        check_read(&Trace::from_bytes(name, bytes), expected);
    }
    check_read(&Trace::from_bytes("a.txt", "7 2 0 1\n").format(Format::Arc), &["7", "8"]);
}

#[test]
fn lines_may_end_and_be_packed_in_any_way() {
    let text = "a 1\nb 2\n\nc 3\n";
    let mut twice = gzip(b"a 1\nb");
    twice.extend(gzip(b" 2\nc 3"));
    let ways: [&[u8]; 6] = [
        text.as_bytes(),
        b"a 1\r\nb 2\r\n\r\nc 3",
        b"\xef\xbb\xbfa\t1 \n  b   2\nc 3\n",
        &gzip(text.as_bytes()),
        &twice,
        b"\n\na 1\nb 2\nc 3",
    ];
    for bytes in ways {
        check_read(&Trace::from_bytes("ways", bytes), &["a 1", "b 2", "c 3"]);
    }
}

#[test]
fn sizes_that_a_trace_does_not_say_can_be_given() {
    let trace = Trace::from_bytes("t", "a 1\nb\n").size_bytes(512);
    check_read(&trace, &["a 1", "b 512"]);
    check_read(&Trace::from_bytes("t.lis", "7 2 0 1").size_bytes(512), &["7 512", "8 512"]);
}

#[track_caller]
fn check_error(bytes: &[u8], kind: ErrorKind, parts: &[&str]) {
    let trace = Trace::from_bytes("the trace", bytes);
    let error = Simulation::new().bytes([100]).run(&trace, |_| {}).unwrap_err();
    let sentence = error.to_string();
    assert_eq!(error.kind(), kind, "{sentence}");
    for part in [&["the trace"], parts].concat() {
        assert!(sentence.contains(part), "no `{part}`: {sentence}");
    }
    assert!(sentence.len() < 500, "{sentence}");
}

#[test]
fn what_is_wrong_with_a_trace_is_told_with_line_and_text() {
    let invalid = ErrorKind::InvalidTrace;
    check_error(b"", invalid, &["has no requests"]);
    check_error(b"\r\n \n", invalid, &["has no requests"]);
    check_error(b"a 1\nb 1 x\n", invalid, &["line 2", "\"b 1 x\"", "write `key` or `key size`"]);
    check_error(b"a 1\n\nb -1\n", invalid, &["line 3", "\"b -1\"", "not a whole number"]);
    check_error(b"a 1\nb 1e3", invalid, &["line 2", "\"b 1e3\""]);
    check_error(b"a 99999999999999999999999", invalid, &["line 1", "from 0 to"]);
    check_error(b"a 1\nb", invalid, &["line 2", "has no size", "size_bytes"]);
    check_error(b"\x7fELF\0\x01", invalid, &["line 1", "\\x7fELF", "NUL"]);
    check_error(&[b'k'; 5_000], invalid, &["line 1", "\"kkkk", "5000 bytes, at most 4096"]);
    check_error(&vec![b'k'; 5 << 20], invalid, &["line 1", "kk..\"", "more than 8192 bytes"]);
    check_error(&[b' '; 9_000], invalid, &["line 1", "more than 8192 bytes"]);
    let packed = gzip("key 12\n".repeat(10_000).as_bytes());
    check_error(&packed[..packed.len() - 1], invalid, &["line 10001", "damaged or cut short"]);
    check_error(&packed[..15], invalid, &["line 1", "damaged or cut short"]);
    check_error(&[&packed[..], b"more"].concat(), invalid, &["damaged or cut short"]);
    let mut flipped = packed.clone();
    *flipped.last_mut().unwrap() ^= 1;
    check_error(&flipped, invalid, &["damaged or cut short"]);
}

#[test]
fn what_cannot_be_opened_or_makes_no_sense_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let error = Trace::open(folder.path().join("missing.txt")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
    assert!(error.to_string().contains("missing.txt"), "{error}");
    let error = Trace::open(folder.path()).unwrap_err();
    assert!(error.to_string().contains("is a folder"), "{error}");
    if cfg!(unix) {
        // No file that can be read twice, as a pipe is none.
        let error = Simulation::new().run(&Trace::open("/dev/null").unwrap(), |_| {}).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidOption, "{error}");
        assert!(error.to_string().contains("read only once"), "{error}");
    }
    let trace = Trace::from_bytes("t", "a 1");
    for simulation in [Simulation::new().entries([1, 0]), Simulation::new().bytes([0])] {
        let error = simulation.run(&trace, |_| {}).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidOption, "{error}");
    }
}

/// 100 MB of one line, and a line that asks for all numbers, both in a few bytes.
#[test]
fn a_bomb_goes_off_in_nobodys_hands() {
    let bomb = Trace::from_bytes("bomb.gz", gzip(&vec![b'k'; 100_000_000]));
    let mut requests = bomb.requests().unwrap();
    assert!(requests.next().unwrap().is_err() && requests.next().is_none());
    let (read_bytes, len_bytes) = requests.progress_bytes();
    assert!(read_bytes < len_bytes / 2, "{read_bytes} of {len_bytes} bytes were unpacked");

    let all = Trace::from_bytes("all.lis", "0 18446744073709551615 0 1\n");
    assert!(all.requests().unwrap().next().unwrap().is_err());
}

#[test]
fn no_bytes_make_reading_panic() {
    let mut runner = TestRunner::new(Config { failure_persistence: None, ..Config::default() });
    let line = proptest::collection::vec(proptest::num::u8::ANY, 0..400);
    // Half of them are digits, blanks and ends of lines, of which lines are made.
    let texts =
        proptest::collection::vec(proptest::sample::select(b"0179 \n\r*a".as_slice()), 0..400);
    let inputs = proptest::strategy::Union::new([
        proptest::strategy::Strategy::boxed(line),
        proptest::strategy::Strategy::boxed(texts),
    ]);
    let checked = runner.run(&inputs, |bytes| {
        let behind_magic = [&[0x1f, 0x8b, 8, 0], bytes.as_slice()].concat();
        for bytes in [gzip(&bytes), behind_magic, bytes] {
            for format in [Format::Text, Format::Arc, Format::Lirs] {
                let trace = Trace::from_bytes("any", &bytes).format(format);
                let results: Vec<_> = trace.requests().unwrap().take(1_000).collect();
                let errors = results.iter().filter(|result| result.is_err()).count();
                assert!(errors == 0 || errors == 1 && results.last().unwrap().is_err());
                if results.len() < 1_000 {
                    let simulation = Simulation::new().strategy(Strategy::Lru).bytes([3]);
                    let _ = simulation.entries([2]).run(&trace, |_| {});
                }
            }
        }
        Ok(())
    });
    checked.unwrap();
}

/// A few keys at random, as a trace and as numbers and sizes.
fn random_requests(rng: &mut Rng, count: usize, keys: u64, sizes: u64) -> (Trace, Vec<(u64, u64)>) {
    let requests: Vec<_> = (0..count).map(|_| (rng.below(keys), rng.below(sizes))).collect();
    let lines: Vec<_> = requests.iter().map(|(key, size)| format!("{key} {size}")).collect();
    (Trace::from_bytes("random", lines.join("\n")), requests)
}

#[track_caller]
fn hits(report: &Report, strategy: &str) -> u64 {
    let row = report.rows().iter().find(|row| row.strategy == strategy);
    row.unwrap_or_else(|| panic!("no {strategy}")).hits
}

/// The most hits that any choice of victims gives, by trying all of them.
struct Choices<'a> {
    requests: &'a [(u64, u64)],
    capacity: Capacity,
    ceiling: Ceiling,
    known: HashMap<(usize, u64), u64>,
}

impl Choices<'_> {
    fn charge(&self, key: u64) -> u64 {
        match self.capacity {
            Capacity::Entries(_) => 1,
            Capacity::Bytes(_) => self.requests.iter().find(|request| request.0 == key).unwrap().1,
        }
    }

    /// From this request on, with these keys held, one bit each.
    fn most(&mut self, position: usize, held: u64) -> u64 {
        let Some((key, _)) = self.requests.get(position) else { return 0 };
        if let Some(most) = self.known.get(&(position, held)) {
            return *most;
        }
        let bit = 1 << key;
        let most = if held & bit != 0 {
            1 + self.most(position + 1, held)
        } else if self.charge(*key) > self.capacity.amount() {
            self.most(position + 1, held)
        } else {
            let refused = (self.ceiling == Ceiling::Bypass).then(|| self.most(position + 1, held));
            // Every part of what is held that leaves room.
            let parts = (0..=held).filter(|part| part & !held == 0).map(|part| part | bit);
            let fits = |part: &u64| {
                let charges =
                    (0..64).filter(|key| part >> key & 1 == 1).map(|key| self.charge(key));
                charges.sum::<u64>() <= self.capacity.amount()
            };
            let parts: Vec<u64> = parts.filter(fits).collect();
            parts
                .into_iter()
                .map(|part| self.most(position + 1, part))
                .chain(refused)
                .max()
                .unwrap()
        };
        self.known.insert((position, held), most);
        most
    }
}

fn most_hits(requests: &[(u64, u64)], capacity: Capacity, ceiling: Ceiling) -> u64 {
    Choices { requests, capacity, ceiling, known: HashMap::new() }.most(0, 0)
}

#[test]
fn no_choice_of_victims_hits_more_often_than_belady() {
    let mut rng = Rng::new(seed());
    for _ in 0..300 {
        let keys = 2 + rng.below(5);
        let (trace, requests) = random_requests(&mut rng, 16, keys, 10);
        let entries = 1 + rng.below(4);
        let ceilings = [Ceiling::Belady, Ceiling::Bypass];
        let report = Simulation::new().entries([entries]).ceilings(ceilings).run(&trace, |_| {});
        let report = report.unwrap();
        for (name, ceiling) in ["Belady", "Belady-bypass"].into_iter().zip(ceilings) {
            let expected = most_hits(&requests, Capacity::Entries(entries), ceiling);
            assert_eq!(hits(&report, name), expected, "{name}, {entries} of {requests:?}");
        }
    }
}

/// As its name says, and as its documentation does: the optimum in bytes is another.
#[test]
fn the_farthest_first_is_not_the_optimum_in_bytes() {
    let requests = [(0, 1), (1, 1), (2, 2), (2, 2), (0, 1), (1, 1)];
    let trace = Trace::from_bytes("t", "0 1\n1 1\n2 2\n2 2\n0 1\n1 1\n");
    let simulation = Simulation::new().bytes([2]).ceilings([Ceiling::Belady, Ceiling::Bypass]);
    let report = simulation.run(&trace, |_| {}).unwrap();
    assert_eq!((hits(&report, "Farthest"), hits(&report, "Farthest-bypass")), (1, 1));
    assert_eq!(most_hits(&requests, Capacity::Bytes(2), Ceiling::Bypass), 2);
}

/// Least recently used first; gives the hits, and their bytes.
fn hits_of_a_list(requests: &[(u64, u64)], max: u64) -> (u64, u64) {
    let mut held: Vec<(u64, u64)> = Vec::new();
    let (mut hits, mut hit_bytes) = (0, 0);
    for (key, size) in requests {
        let found = held.iter().position(|entry| entry.0 == *key).map(|at| held.remove(at));
        if *size > max {
            continue;
        }
        if found.is_some() {
            hits += 1;
            hit_bytes += size;
        }
        held.push((*key, *size));
        while held.iter().map(|entry| entry.1).sum::<u64>() > max {
            held.remove(0);
        }
    }
    (hits, hit_bytes)
}

#[test]
fn sizes_that_change_and_sizes_above_the_capacity_count_as_in_a_list() {
    let mut rng = Rng::new(seed());
    for max in [1, 7, 40, 200] {
        let (trace, requests) = random_requests(&mut rng, 2_000, 30, 50);
        let report =
            Simulation::new().strategy(Strategy::Lru).bytes([max]).run(&trace, |_| {}).unwrap();
        let row = &report.rows()[0];
        assert_eq!((row.hits, row.hit_bytes), hits_of_a_list(&requests, max), "{max} bytes");
        assert_eq!(row.requested_bytes, requests.iter().map(|request| request.1).sum::<u64>());
    }
}

#[test]
fn many_capacities_at_once_hit_like_each_alone() {
    let (trace, _) = random_requests(&mut Rng::new(seed()), 40_000, 500, 50);
    let simulation = Simulation::new().strategy(Strategy::Lru).named("again", Strategy::Lru);
    let together = simulation.clone().entries([300, 10]).bytes([99, 5_000]).run(&trace, |_| {});
    let mut apart = Report::default();
    apart.extend(simulation.clone().entries([10]).run(&trace, |_| {}).unwrap());
    apart.extend(simulation.clone().entries([300, 300]).run(&trace, |_| {}).unwrap());
    apart.extend(simulation.clone().bytes([99]).run(&trace, |_| {}).unwrap());
    apart.extend(simulation.bytes([5_000]).run(&trace, |_| {}).unwrap());
    assert_eq!(together.unwrap(), apart);
    let names: Vec<_> = apart.rows().iter().take(3).map(|row| row.strategy.as_str()).collect();
    assert_eq!(names, ["Lru", "again", "Belady"]);
}

#[test]
fn without_capacities_there_are_eight_parts_of_the_keys() {
    let keys: Vec<_> = (0..25_600).map(|key| key.to_string()).collect();
    let trace = Trace::from_bytes("t", keys.join("\n"));
    let report = Simulation::new().run(&trace, |_| {}).unwrap();
    let strategies = report.rows().iter().map(|row| row.strategy.as_str()).take(8);
    let expected = ["Lru", "Lfu", "S3Fifo", "Sieve", "Fifo", "Ttl", "Size", "Belady"];
    assert!(strategies.eq(expected));
    let mut entries: Vec<_> = report.rows().iter().map(|row| row.capacity.amount()).collect();
    entries.dedup();
    assert_eq!(entries, [100, 200, 400, 800, 1_600, 3_200, 6_400, 12_800]);
    assert!(report.rows().iter().all(|row| row.hits == 0 && row.keys == 25_600));
    let report = Simulation::new().run(&Trace::from_bytes("t", "a\nb\n"), |_| {}).unwrap();
    assert_eq!(report.rows().iter().map(|row| row.capacity.amount()).max(), Some(1));
}

#[test]
fn progress_goes_on_to_the_end_of_the_file() {
    let bytes = gzip("key 1\n".repeat(100_000).as_bytes());
    let mut seen = Vec::new();
    let trace = Trace::from_bytes("t.gz", &bytes);
    Simulation::new().run(&trace, |progress| seen.push(progress)).unwrap();
    assert!(matches!(seen[0], Progress::Counting { .. }), "{seen:?}");
    let replayed: Vec<_> = seen
        .iter()
        .filter_map(|progress| match progress {
            Progress::Replaying { read_bytes, len_bytes } => Some((*read_bytes, *len_bytes)),
            _ => None,
        })
        .collect();
    let len_bytes = bytes.len() as u64;
    assert!(replayed.is_sorted() && replayed.last() == Some(&(len_bytes, len_bytes)), "{seen:?}");
    assert!(matches!(seen.last(), Some(Progress::Ceilings { done: 0, total: 1 })), "{seen:?}");
}

fn drawn() -> Report {
    let trace = Trace::from_bytes("<a> & \"b\",\u{7}c", "x 10\ny 20\nx 10\nz 4000\ny 20\nx 10\n");
    let simulation = Simulation::new().strategy(Strategy::Lru);
    let simulation = simulation.named("another", Strategy::custom(Queue::default));
    let simulation = simulation.ceilings([Ceiling::Belady, Ceiling::Bypass]);
    simulation.entries([1, 2, 3]).bytes([20, 30, 5_000]).run(&trace, |_| {}).unwrap()
}

/// `LARDER_GOLDEN=write cargo test --test it simulate` draws it anew.
#[test]
fn a_chart_is_drawn_as_it_was() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/chart.svg");
    let drawn = chart(&drawn());
    if std::env::var("LARDER_GOLDEN").is_ok_and(|golden| golden == "write") {
        fs::write(&path, &drawn).unwrap();
    }
    assert_eq!(drawn, fs::read_to_string(&path).unwrap());
    assert!(
        drawn.contains("&lt;a&gt; &amp; \"b\",\u{fffd}c: byte hit ratio, 6 requests of 3 keys<")
    );
    assert!(chart(&Report::default()).ends_with("</svg>\n"));
}

#[test]
fn names_in_csv_are_quoted() {
    let mut csv = Vec::new();
    drawn().to_csv(&mut csv).unwrap();
    let csv = String::from_utf8(csv).unwrap();
    let row = "\"<a> & \"\"b\"\",\u{7}c\",3,Lru,entries,2,6,1,16.67,4070,10,0.25\n";
    assert!(csv.contains(row), "{csv}");
    assert_eq!(csv.lines().count(), 1 + drawn().rows().len());
}

/// A strategy of one's own: first in, first out.
#[derive(Debug, Default)]
struct Queue(VecDeque<EntryId>);

impl EvictionOrder for Queue {
    fn insert(&mut self, id: EntryId, _: &mut dyn Entries) {
        self.0.push_back(id);
    }

    fn remove(&mut self, id: EntryId, _: Leaving, _: &mut dyn Entries) {
        let at = self.0.iter().position(|held| *held == id);
        at.and_then(|at| self.0.remove(at));
    }

    fn victim(&mut self, _: Option<&NewEntry<'_>>, _: &mut dyn Entries) -> Option<Victim> {
        self.0.front().map(|id| Victim::Entry(*id))
    }
}

/// Against `LRU`, `FIFO` and `Belady` of an independent simulator, where the folder with the traces is there.
#[test]
fn recorded_traces_hit_like_the_reference() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/traces");
    let Ok(reference) = fs::read_to_string(folder.join("reference.csv")) else { return };
    for name in ["gli", "cpp", "apache", "web12", "adaptsize"] {
        let rows: Vec<Vec<&str>> =
            reference.lines().map(|line| line.split(',').collect()).collect();
        let rows =
            rows.iter().filter(|row| row[0] == name && ["LRU", "FIFO", "Belady"].contains(&row[2]));
        let capacities = rows.clone().map(|row| row[1].parse().unwrap());
        let trace = Trace::open(folder.join(format!("{name}.txt.gz"))).unwrap();
        let simulation = Simulation::new().strategy(Strategy::Lru).entries(capacities);
        let simulation = simulation.named("FIFO", Strategy::custom(Queue::default));
        let report = simulation.run(&trace, |_| {}).unwrap();
        let mut compared = 0;
        for row in rows {
            let found = report.rows().iter().find(|found| {
                found.strategy.eq_ignore_ascii_case(row[2])
                    && found.capacity.amount().to_string() == row[1]
            });
            let percent = format!("{:.2}", 100.0 * found.unwrap().hit_ratio());
            assert_eq!(percent, row[3], "{row:?}");
            compared += 1;
        }
        assert_eq!(compared, report.rows().len(), "{name}");
    }
}
