//! Another process: this test binary once more, doing one task until it is told to end or is killed.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use larder::{ByteCache, WhenFull, WritePolicy};

const TASK: &str = "LARDER_TEST_TASK";
const PATH: &str = "LARDER_TEST_PATH";
/// In front of what a child says, to tell it from what the test harness says.
const MARK: &str = "child: ";

/// A child at work; killed when dropped.
pub(crate) struct Child {
    process: std::process::Child,
    /// Closed to tell it to end.
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl Child {
    /// Starts `task` on the cache file at `path`.
    pub(crate) fn start(task: &str, path: &Path) -> Self {
        Self::spawn(Command::new(std::env::current_exe().unwrap()), task, path)
    }

    /// Likewise, with files that can get this large and no larger, until [`Self::lift_limit`].
    #[cfg(target_os = "linux")]
    pub(crate) fn start_with_small_files(task: &str, path: &Path) -> Self {
        let mut command = Command::new("sh");
        // The signal that a write beyond the limit would otherwise be answered with is ignored. The
        // unit is half a KiB or one, depending on the shell.
        command.args(["-c", "trap '' XFSZ; ulimit -S -f 6000; exec \"$0\" \"$@\""]);
        command.arg(std::env::current_exe().unwrap());
        Self::spawn(command, task, path)
    }

    /// `false` if the system has no command for it.
    #[cfg(target_os = "linux")]
    pub(crate) fn lift_limit(&self) -> bool {
        let mut command = Command::new("prlimit");
        command.args(["--fsize=unlimited:", "--pid"]).arg(self.id().to_string());
        command.status().is_ok_and(|status| status.success())
    }

    fn spawn(mut command: Command, task: &str, path: &Path) -> Self {
        let mut process = command
            .args(["--exact", "child::does_what_its_parent_asks", "--nocapture"])
            .env(TASK, task)
            .env(PATH, path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = process.stdin.take();
        let stdout = BufReader::new(process.stdout.take().unwrap());
        Self { process, stdin, stdout }
    }

    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// The next thing that it says; `None` when it has ended.
    pub(crate) fn hear(&mut self) -> Option<String> {
        loop {
            let mut line = String::new();
            if self.stdout.read_line(&mut line).unwrap() == 0 {
                return None;
            }
            if let Some((_, said)) = line.split_once(MARK) {
                return Some(said.trim().to_owned());
            }
        }
    }

    /// Tells it to go on, after it has waited for that.
    pub(crate) fn go_on(&mut self) {
        drop(self.stdin.take());
    }

    /// Tells it to end, and waits until it has.
    pub(crate) fn end(mut self) {
        self.go_on();
        assert!(self.process.wait().unwrap().success());
    }

    /// Ends it at once, as `kill -9` does.
    pub(crate) fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Runs a test in a process in which no other runs, because it depends on what all threads share.
/// `true` in that process.
pub(crate) fn is_alone(test: &str) -> bool {
    const ALONE: &str = "LARDER_TEST_ALONE";
    if std::env::var(ALONE).is_ok_and(|name| name == test) {
        return true;
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    let output = command.args(["--exact", test, "--nocapture"]).env(ALONE, test).output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(told.contains("1 passed"), "{told}{}", String::from_utf8_lossy(&output.stderr));
    false
}

pub(crate) fn say(what: &str) {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "\n{MARK}{what}").unwrap();
    stdout.flush().unwrap();
}

/// Waits until the parent says to go on or to end.
pub(crate) fn wait() {
    let mut line = String::new();
    while std::io::stdin().read_line(&mut line).unwrap() > 0 {}
}

/// The key and the value of the writing task's n-th insert.
pub(crate) fn nth(n: u64) -> ([u8; 8], Vec<u8>) {
    (n.to_be_bytes(), vec![u8::try_from(n % 251).unwrap(); 100])
}

/// Holds the cache open.
fn hold(path: &Path) {
    let cache = ByteCache::builder().path(path).open().unwrap();
    say("holding");
    wait();
    cache.close().unwrap();
}

/// Inserts entries in order through write-behind, and says after each flush how many there were. Ends
/// by being killed. Meanwhile there is one compaction after the other, if wanted.
fn write(path: &Path, compact: bool) {
    let policy = WritePolicy::Behind {
        max_delay: Duration::from_millis(1),
        max_pending_ops: 1 << 10,
        max_pending_bytes: 1 << 20,
        when_full: WhenFull::default(),
    };
    let builder = ByteCache::builder().path(path).write_policy(policy).memory_max_entries(10);
    let cache = builder.open().unwrap();
    if compact {
        let cache = cache.clone();
        std::thread::spawn(move || {
            loop {
                cache.compact().unwrap();
            }
        });
    }
    for n in 0..10_000_000 {
        let (key, value) = nth(n);
        cache.insert(&key, &value).unwrap();
        if n % 100 == 99 {
            cache.flush().unwrap();
            say(&(n + 1).to_string());
        }
    }
}

/// Nothing, unless a parent asks.
#[test]
fn does_what_its_parent_asks() {
    let (Ok(task), Ok(path)) = (std::env::var(TASK), std::env::var(PATH)) else { return };
    match task.as_str() {
        "hold" => hold(path.as_ref()),
        "write" => write(path.as_ref(), false),
        "write and compact" => write(path.as_ref(), true),
        "fail" => crate::failure::fail_and_recover(path.as_ref()),
        "fail and remove" => crate::failure::fail_and_remove(path.as_ref()),
        "fail strictly" => crate::failure::fail_strictly(path.as_ref()),
        "fail and close" => crate::failure::fail_and_close(path.as_ref()),
        other => panic!("no such task: {other}"),
    }
}
