//! A process that writes is killed, again and again; what it leaves must be a prefix of what it did.
//!
//! # How it works
//!
//! The child is this executable once more. It does the steps of a script and notes in a small file,
//! by position, how many it has begun, how many have returned, and how many of them are durable: what
//! is written to a file outlives the process that wrote it. The parent kills it after a while, opens
//! the cache, and asks the oracle. What was found is what the next cycle begins with; now and then a
//! new file is begun. Half of the time the parent looks at a copy, so that the next child opens what
//! the crash left.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use larder::{ByteCache, DiskStrategy, ManualClock, Timestamp};

use super::oracle::{Content, Found, Key, Log, Op, Stamps, check_order, examine};
use super::script::{Kind, Plan, Script, mixed, prefix};
use super::{Budget, Figures, Progress, Violation, scratch};
use crate::support::{Rng, Watchdog};

const TASK: &str = "LARDER_TORTURE_TASK";
const FOLDER: &str = "LARDER_TORTURE_FOLDER";
/// Among the tests, the one that is the child. The example looks at the environment only.
const TEST: &str = "torture::does_what_its_parent_asks";
/// How many cycles a file lives, on average.
const LIFE_CYCLES: u64 = 12;
/// How many steps each thread of a child does at most.
const STEPS_MAX: usize = 3_000;
const OPEN_SECONDS_MAX: Duration = Duration::from_secs(30);

/// The file through which a child tells how far it is: three numbers for each thread, and in front
/// of them whether the cache is open.
struct Account(File);

/// How far a thread is, in steps.
#[derive(Debug, Clone, Copy, Default)]
struct Steps {
    begun: u64,
    returned: u64,
    durable: u64,
}

impl Account {
    const BEGUN: u64 = 0;
    const RETURNED: u64 = 1;
    const DURABLE: u64 = 2;

    fn open(folder: &Path) -> std::io::Result<Self> {
        let file = folder.join("account");
        let options = File::options().read(true).write(true).create(true).truncate(false).clone();
        Ok(Self(options.open(file)?))
    }

    fn set(&self, place: u64, number: u64) -> Result<(), String> {
        let written = self.0.write_all_at(&number.to_le_bytes(), place * 8);
        written.map_err(|error| format!("cannot note a number: {error}"))
    }

    /// What was not written yet is 0.
    fn get(&self, place: u64) -> u64 {
        let mut number = [0; 8];
        let _ = self.0.read_exact_at(&mut number, place * 8);
        u64::from_le_bytes(number)
    }

    fn is_open(&self) -> bool {
        self.get(0) == 1
    }

    fn note(&self, thread: u8, which: u64, number: u64) -> Result<(), String> {
        self.set(1 + 3 * u64::from(thread) + which, number)
    }

    fn steps(&self, thread: u8) -> Steps {
        let get = |which| self.get(1 + 3 * u64::from(thread) + which);
        // In this order, so that a number that rises meanwhile is not below a smaller one.
        let (durable, returned) = (get(Self::DURABLE), get(Self::RETURNED));
        Steps { begun: get(Self::BEGUN), returned, durable }
    }
}

/// This executable, also where another one has taken its place meanwhile, as a build does.
fn executable() -> std::io::Result<PathBuf> {
    let own = Path::new("/proc/self/exe");
    if own.exists() { Ok(own.into()) } else { std::env::current_exe() }
}

fn cache_path(folder: &Path) -> PathBuf {
    folder.join("cache.larder")
}

/// What the child does; `None` if this process is none. It ends by being killed, or with an error.
pub(crate) fn child() -> Option<Result<(), String>> {
    let (Ok(task), Some(folder)) = (std::env::var(TASK), std::env::var_os(FOLDER)) else {
        return None;
    };
    let done = work(&task, folder.as_ref());
    if let Err(error) = &done {
        let _ = writeln!(std::io::stderr(), "{error}");
        std::process::exit(1);
    }
    Some(done)
}

fn work(task: &str, folder: &Path) -> Result<(), String> {
    let numbers: Vec<u64> = task.split(' ').filter_map(|number| number.parse().ok()).collect();
    let [seed, life, cycle] = numbers[..] else { return Err(format!("no such task: {task}")) };
    let plan = Plan::new(seed, life, cycle);
    let clock = plan.clock();
    let opened = plan.builder(&cache_path(folder), &clock).open();
    let cache = opened.map_err(|error| format!("cannot open: {error}"))?;
    let account = Account::open(folder).map_err(|error| error.to_string())?;
    account.set(0, 1)?;
    std::thread::scope(|scope| {
        let follow = |thread| {
            let (plan, cache, clock, account) = (&plan, &cache, &clock, &account);
            let script = Script::new(plan, seed, cycle, thread);
            let rng = mixed(seed, cycle, 200 + u64::from(thread));
            scope.spawn(move || follow(script, thread, plan, cache, clock, account, rng))
        };
        let threads: Vec<_> = (0..plan.threads).map(follow).collect();
        threads.into_iter().try_for_each(|thread| thread.join().unwrap_or(Err("a panic".into())))
    })?;
    // Nothing is closed: what is pending goes on being written until the end comes.
    std::thread::sleep(4 * OPEN_SECONDS_MAX);
    Err("nobody ended this process".to_owned())
}

/// Does the steps of one thread.
fn follow(
    script: Script,
    thread: u8,
    plan: &Plan,
    cache: &ByteCache,
    clock: &ManualClock,
    account: &Account,
    mut rng: Rng,
) -> Result<(), String> {
    let mut latest = BTreeMap::new();
    for (number, step) in (1..).zip(script.take(STEPS_MAX)) {
        account.note(thread, Account::BEGUN, number)?;
        step.perform(cache, clock)?;
        account.note(thread, Account::RETURNED, number)?;
        if plan.is_durable(&step) {
            account.note(thread, Account::DURABLE, number)?;
        }
        step.note(&mut latest);
        read_back(plan, cache, &latest, clock.now(), &mut rng)?;
    }
    Ok(())
}

/// Read your writes: what was written in this cycle, or less where limits take out.
fn read_back(
    plan: &Plan,
    cache: &ByteCache,
    latest: &BTreeMap<Key, Option<(Content, u64)>>,
    now: Timestamp,
    rng: &mut Rng,
) -> Result<(), String> {
    if latest.is_empty() || rng.below(4) > 0 {
        return Ok(());
    }
    let Some((key, expected)) = latest.iter().nth(rng.index(latest.len())) else { return Ok(()) };
    let found = cache.peek(key).map_err(|error| error.to_string())?;
    let found = found.map(|entry| Content::of(&entry));
    let expected = expected.filter(|(_, deadline)| *deadline >= now.as_nanos());
    let limited = plan.kind != Kind::Unlimited && plan.kind != Kind::Threads;
    let expected = expected.map(|(content, _)| content);
    if found == expected || limited && found.is_none() {
        return Ok(());
    }
    let key = key.escape_ascii();
    Err(format!("key \"{key}\" was not read back: expected {expected:?}, found {found:?}"))
}

/// Kills children until the budget is used up.
pub(crate) fn run(seed: u64, budget: Budget, progress: Progress<'_>) -> Result<Figures, Violation> {
    let mut figures = Figures::default();
    let mut life = None;
    for cycle in budget.start() {
        let watchdog = Watchdog::start(format!("kill, seed {seed}, cycle {cycle}"));
        let mut rng = mixed(seed, cycle, 2);
        let violation = |what| Violation { seed, cycle, what };
        if life.is_none() || rng.below(LIFE_CYCLES) == 0 {
            let new = Life::new(cycle).map_err(|error| violation(error.to_string()))?;
            life = Some(new);
            figures.add("files", 1);
        }
        if let Some(life) = &mut life {
            life.cycle(seed, cycle, &mut rng, &mut figures).map_err(violation)?;
        }
        figures.add("cycles", 1);
        progress(&figures);
        drop(watchdog);
    }
    Ok(figures)
}

/// A cache file, from one crash to the next.
struct Life {
    folder: tempfile::TempDir,
    /// The cycle in which it was new.
    born: u64,
    /// What it holds.
    held: Found,
}

impl Life {
    fn new(born: u64) -> std::io::Result<Self> {
        Ok(Self { folder: scratch()?, born, held: Found::default() })
    }

    fn cycle(
        &mut self,
        seed: u64,
        cycle: u64,
        rng: &mut Rng,
        figures: &mut Figures,
    ) -> Result<(), String> {
        let plan = Plan::new(seed, self.born, cycle);
        let io = |error: std::io::Error| error.to_string();
        let _ = fs::remove_file(self.folder.path().join("account"));
        let account = Account::open(self.folder.path()).map_err(io)?;
        let child = self.start(seed, cycle);
        let child = child.map_err(|error| format!("cannot start the process to kill: {error}"))?;
        kill_in_time(child, &account, rng, self.folder.path())?;
        figures.add("killed before they had opened", u64::from(!account.is_open()));
        let path = cache_path(self.folder.path());
        // Opening takes out what smaller limits have no room for: a file that was not opened and its
        // copy that was would not be the same.
        let copies = account.is_open() && rng.below(2) == 0;
        let looked_at = if copies {
            let copy = self.folder.path().join("copy.larder");
            fs::copy(&path, &copy).map_err(io)?;
            copy
        } else {
            path
        };
        let found = look(&looked_at, &plan, copies, rng)?;
        for thread in 0..plan.threads {
            let steps = account.steps(thread);
            let kept = self.explain(&plan, seed, cycle, thread, &found, steps);
            let kept =
                kept.map_err(|error| format!("{:?}, thread {thread}: {error}", plan.kind))?;
            figures.add("operations", steps.returned);
            figures.add("lost", steps.returned.saturating_sub(kept));
        }
        self.held = found;
        Ok(())
    }

    fn start(&self, seed: u64, cycle: u64) -> std::io::Result<Child> {
        let told = File::create(self.folder.path().join("stderr"))?;
        Command::new(executable()?)
            .args(["--exact", TEST, "--nocapture"])
            .env(TASK, format!("{seed} {} {cycle}", self.born))
            .env(FOLDER, self.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(told)
            .spawn()
    }

    /// How many steps of a thread are kept.
    fn explain(
        &self,
        plan: &Plan,
        seed: u64,
        cycle: u64,
        thread: u8,
        found: &Found,
        steps: Steps,
    ) -> Result<u64, String> {
        let count = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        let script = Script::new(plan, seed, cycle, thread);
        let ops: Vec<Op> = script.take(count(steps.begun)).map(|step| step.op()).collect();
        let of_thread = |found: &Found| match plan.threads {
            1 => found.clone(),
            _ => found.with_prefix(&prefix(thread)),
        };
        let log = Log {
            before: of_thread(&self.held),
            ops,
            limits: plan.limits,
            commits: plan.commits(),
            stamps: Stamps::Known,
        };
        let (durable, begun) = (count(steps.durable), count(steps.begun));
        Ok(log.explain(&of_thread(found), durable, begun, plan.end())? as u64)
    }
}

/// What is in the file after the crash; once more after it was closed, now and then.
fn look(path: &Path, plan: &Plan, is_copy: bool, rng: &mut Rng) -> Result<Found, String> {
    let clock = plan.clock();
    clock.set(Timestamp::from_nanos(plan.end()));
    let open = || plan.builder(path, &clock).open().map_err(|error| error.to_string());
    let cache = open().map_err(|error| format!("cannot open what was left: {error}"))?;
    let found = examine(&cache, plan.limits)?;
    if rng.below(4) == 0 {
        cache.close().map_err(|error| error.to_string())?;
        let again = examine(&open()?, plan.limits)?;
        if again != found {
            return Err("what was found is not there when opened once more".to_owned());
        }
    } else if is_copy && !found.0.is_empty() && plan.strategy == DiskStrategy::Lru {
        check_order(&cache, &found, rng.below(found.0.len() as u64) + 1)?;
    }
    Ok(found)
}

/// Kills the child, most often while it writes, now and then while it opens.
fn kill_in_time(
    mut child: Child,
    account: &Account,
    rng: &mut Rng,
    folder: &Path,
) -> Result<(), String> {
    let waits_for_open = rng.below(10) > 0;
    let pause = Duration::from_micros((1 << rng.below(15)) + rng.below(500));
    let give_up = Timestamp::now() + OPEN_SECONDS_MAX;
    let mut ended = None;
    while waits_for_open && !account.is_open() && ended.is_none() {
        std::thread::sleep(Duration::from_micros(100));
        ended = child.try_wait().map_err(|error| error.to_string())?;
        if Timestamp::now() > give_up {
            let _ = child.kill();
            let _ = child.wait();
            return Err(format!("the child has not opened within {OPEN_SECONDS_MAX:?}"));
        }
    }
    std::thread::sleep(pause);
    // It may have ended by itself, in which case its status says so.
    let _ = child.kill();
    let status: ExitStatus = child.wait().map_err(|error| error.to_string())?;
    if let Some(code) = status.code() {
        let told = fs::read_to_string(folder.join("stderr")).unwrap_or_default();
        return Err(format!("the child ended by itself with code {code}: {told}"));
    }
    Ok(())
}
