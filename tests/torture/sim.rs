//! A volume in memory that notes every change, so that the power can be cut at any of them, and that
//! can be told to fail.
//!
//! # How it works
//!
//! A file is what it was when it was last synced, and the changes since then. After a power cut each
//! of those may be there or not: a write whole, in some of its sectors, or not at all; a new length
//! or the old one. Names are as they were at the last sync of names, and of the changes of names
//! since then the first so many have happened, as on a file system with a journal.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use larder::testing::{Device, Volume};

use crate::support::Rng;

const PAGE: usize = 4096;
/// What a device writes whole or not at all.
const SECTOR: usize = 512;

/// The bytes of a file, in pages that copies share until they are written to.
#[derive(Debug, Clone, Default)]
struct Content {
    pages: Vec<Option<Arc<[u8; PAGE]>>>,
    len: usize,
}

impl Content {
    fn set_len(&mut self, len: usize) {
        if len < self.len {
            let cut = len % PAGE;
            self.pages.truncate(len.div_ceil(PAGE));
            if let Some(Some(page)) = self.pages.get_mut(len / PAGE)
                && cut > 0
            {
                Arc::make_mut(page)[cut..].fill(0);
            }
        }
        self.pages.resize(len.div_ceil(PAGE), None);
        self.len = len;
    }

    /// How many pages more there are after such a write.
    fn grows(&self, at: usize, len: usize) -> usize {
        let pages = at / PAGE..(at + len).div_ceil(PAGE);
        pages.into_iter().filter(|page| self.pages.get(*page).is_none_or(Option::is_none)).count()
    }

    fn written(&self) -> usize {
        self.pages.iter().flatten().count()
    }

    fn write(&mut self, mut at: usize, mut bytes: &[u8]) {
        self.set_len(self.len.max(at + bytes.len()));
        while !bytes.is_empty() {
            let (page, within) = (at / PAGE, at % PAGE);
            let (now, rest) = bytes.split_at(bytes.len().min(PAGE - within));
            let page = self.pages[page].get_or_insert_with(|| Arc::new([0; PAGE]));
            Arc::make_mut(page)[within..within + now.len()].copy_from_slice(now);
            (at, bytes) = (at + now.len(), rest);
        }
    }

    fn read(&self, mut at: usize, mut out: &mut [u8]) -> io::Result<()> {
        if at + out.len() > self.len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        while !out.is_empty() {
            let (page, within) = (at / PAGE, at % PAGE);
            let (now, rest) = out.split_at_mut(out.len().min(PAGE - within));
            match &self.pages[page] {
                Some(page) => now.copy_from_slice(&page[within..within + now.len()]),
                None => now.fill(0),
            }
            (at, out) = (at + now.len(), rest);
        }
        Ok(())
    }
}

type FileId = usize;
type Names = BTreeMap<PathBuf, FileId>;

/// A change, or a sync, in the order in which they came.
#[derive(Debug, Clone)]
enum Event {
    Write { file: FileId, at: usize, bytes: Arc<[u8]> },
    SetLen { file: FileId, len: usize },
    Sync { file: FileId },
    Create { name: PathBuf, file: FileId },
    Rename { from: PathBuf, to: PathBuf },
    Remove { name: PathBuf },
    SyncNames,
}

impl Event {
    fn rename(&self, names: &mut Names) {
        match self {
            Self::Create { name, file } => _ = names.insert(name.clone(), *file),
            Self::Rename { from, to } => {
                if let Some(file) = names.remove(from) {
                    names.insert(to.clone(), file);
                }
            }
            Self::Remove { name } => _ = names.remove(name),
            Self::Write { .. } | Self::SetLen { .. } | Self::Sync { .. } | Self::SyncNames => {}
        }
    }
}

/// Which call is to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    Read,
    Write,
    Sync,
    SetLen,
    /// Opening, making, renaming, removing, and syncing names.
    Names,
    /// Writing where the file has no page yet.
    Grow,
}

/// How it fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    Io,
    Full,
    /// Half of it is done.
    Short,
}

/// From the `first` call of a kind on, counted from 0, `count` calls fail.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fault {
    pub(crate) call: Call,
    pub(crate) how: How,
    pub(crate) first: u64,
    pub(crate) count: u64,
}

#[derive(Debug, Default)]
struct State {
    names: Names,
    contents: Vec<Content>,
    log: Vec<Event>,
    calls: [u64; 6],
    fault: Option<Fault>,
    /// Pages that the device has room for.
    room: Option<usize>,
}

impl State {
    fn has_room(&self, pages: usize) -> bool {
        self.room.is_none_or(|room| {
            let files = self.names.values().map(|file| self.contents[*file].written());
            files.sum::<usize>() + pages <= room
        })
    }
}

/// See the module.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sim {
    state: Arc<Mutex<State>>,
    events: Arc<AtomicU64>,
    /// Whether a fault has come up.
    failed: Arc<AtomicBool>,
}

impl Sim {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// How many events there were: the moment, for [`Cutter::image`].
    pub(crate) fn moment(&self) -> u64 {
        self.events.load(Ordering::SeqCst)
    }

    pub(crate) fn set_fault(&self, fault: Option<Fault>) {
        self.state().fault = fault;
    }

    /// Gives the device room for so many bytes in all files together; holes take none.
    pub(crate) fn set_room(&self, bytes: usize) {
        self.state().room = Some(bytes / PAGE);
    }

    /// Whether the fault has come up since this was asked last.
    pub(crate) fn has_failed(&self) -> bool {
        self.failed.swap(false, Ordering::SeqCst)
    }

    /// Calls of a kind until now.
    pub(crate) fn calls(&self, call: Call) -> u64 {
        self.state().calls[call as usize]
    }

    /// Every moment at which a power cut is told apart from the one before: around each sync.
    pub(crate) fn sync_edges(&self) -> Vec<u64> {
        let state = self.state();
        let events = (0..).zip(&state.log);
        let syncs = events.filter(|(_, e)| matches!(e, Event::Sync { .. } | Event::SyncNames));
        syncs.flat_map(|(nth, _)| [nth, nth + 1]).collect()
    }

    /// Whether there is a file of this name.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.state().names.contains_key(Path::new(name))
    }

    /// What is there now, on a volume of its own, with nothing noted.
    pub(crate) fn copy(&self) -> Self {
        let state = self.state();
        Self::of(state.names.clone(), state.contents.clone())
    }

    fn of(names: Names, contents: Vec<Content>) -> Self {
        let state = State { names, contents, ..State::default() };
        Self { state: Arc::new(Mutex::new(state)), ..Self::default() }
    }

    fn note(&self, state: &mut State, event: Event) {
        state.log.push(event);
        self.events.store(state.log.len() as u64, Ordering::SeqCst);
    }

    /// Counts a call, and says how it is to fail.
    fn count(&self, state: &mut State, call: Call) -> Option<How> {
        let nth = state.calls[call as usize];
        state.calls[call as usize] += 1;
        let fault = state.fault.filter(|fault| {
            fault.call == call && nth >= fault.first && nth - fault.first < fault.count
        })?;
        self.failed.store(true, Ordering::SeqCst);
        Some(fault.how)
    }

    fn count_names(&self, state: &mut State) -> io::Result<()> {
        self.count(state, Call::Names).map_or(Ok(()), |how| Err(how.error()))
    }
}

impl How {
    fn error(self) -> io::Error {
        match self {
            Self::Io => io::Error::other("the device does not answer"),
            Self::Full => io::ErrorKind::StorageFull.into(),
            Self::Short => io::ErrorKind::WriteZero.into(),
        }
    }
}

impl Volume for Sim {
    fn open(&self, path: &Path) -> io::Result<Option<Box<dyn Device>>> {
        let mut state = self.state();
        self.count_names(&mut state)?;
        let file = state.names.get(path).copied();
        Ok(file.map(|file| Box::new(File { sim: self.clone(), file }) as Box<dyn Device>))
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn Device>> {
        let mut state = self.state();
        self.count_names(&mut state)?;
        let file = state.contents.len();
        state.contents.push(Content::default());
        let event = Event::Create { name: path.to_owned(), file };
        event.rename(&mut state.names);
        self.note(&mut state, event);
        Ok(Box::new(File { sim: self.clone(), file }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        self.count_names(&mut state)?;
        if !state.names.contains_key(from) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let event = Event::Rename { from: from.to_owned(), to: to.to_owned() };
        event.rename(&mut state.names);
        self.note(&mut state, event);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        self.count_names(&mut state)?;
        let event = Event::Remove { name: path.to_owned() };
        event.rename(&mut state.names);
        self.note(&mut state, event);
        Ok(())
    }

    fn sync_names(&self, _path: &Path) -> io::Result<()> {
        let mut state = self.state();
        self.count_names(&mut state)?;
        self.note(&mut state, Event::SyncNames);
        Ok(())
    }
}

/// An open file of a [`Sim`].
#[derive(Debug)]
struct File {
    sim: Sim,
    file: FileId,
}

fn size(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

impl Device for File {
    fn len(&self) -> io::Result<u64> {
        Ok(self.sim.state().contents[self.file].len as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut state = self.sim.state();
        match self.sim.count(&mut state, Call::Read) {
            None => state.contents[self.file].read(size(offset), out),
            Some(How::Short) => Err(io::ErrorKind::UnexpectedEof.into()),
            Some(how) => Err(how.error()),
        }
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.sim.state();
        let mut how = self.sim.count(&mut state, Call::Write);
        let more = state.contents[self.file].grows(size(offset), bytes.len());
        if more > 0 {
            how = how.or(self.sim.count(&mut state, Call::Grow));
            how = how.or((!state.has_room(more)).then_some(How::Full));
        }
        let done = match how {
            None => bytes,
            Some(How::Short) => &bytes[..bytes.len() / 2],
            Some(how) => return Err(how.error()),
        };
        state.contents[self.file].write(size(offset), done);
        let event = Event::Write { file: self.file, at: size(offset), bytes: done.into() };
        self.sim.note(&mut state, event);
        how.map_or(Ok(()), |how| Err(how.error()))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.sim.state();
        if let Some(how) = self.sim.count(&mut state, Call::SetLen) {
            return Err(how.error());
        }
        state.contents[self.file].set_len(size(len));
        self.sim.note(&mut state, Event::SetLen { file: self.file, len: size(len) });
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.sim.state();
        if let Some(how) = self.sim.count(&mut state, Call::Sync) {
            return Err(how.error());
        }
        self.sim.note(&mut state, Event::Sync { file: self.file });
        Ok(())
    }
}

/// Cuts the power at moments that never go back.
pub(crate) struct Cutter {
    log: Vec<Event>,
    at: usize,
    durable_names: Names,
    durable: Vec<Content>,
    /// Changes since the last sync, by file.
    pending: Vec<Vec<usize>>,
    pending_names: Vec<usize>,
}

impl Cutter {
    /// Of a volume that held `before` when its log began.
    pub(crate) fn new(before: &Sim, sim: &Sim) -> Self {
        let (before, state) = (before.state(), sim.state());
        let files = state.contents.len();
        let mut durable = before.contents.clone();
        durable.resize_with(files, Content::default);
        Self {
            durable,
            log: state.log.clone(),
            at: 0,
            durable_names: before.names.clone(),
            pending: vec![Vec::new(); files],
            pending_names: Vec::new(),
        }
    }

    pub(crate) fn events(&self) -> u64 {
        self.log.len() as u64
    }

    fn apply(content: &mut Content, event: &Event) {
        match event {
            Event::Write { at, bytes, .. } => content.write(*at, bytes),
            Event::SetLen { len, .. } => content.set_len(*len),
            _ => {}
        }
    }

    fn advance(&mut self, moment: usize) {
        assert!(moment >= self.at && moment <= self.log.len(), "moments go forward");
        for at in self.at..moment {
            match &self.log[at] {
                Event::Write { file, .. } | Event::SetLen { file, .. } => {
                    self.pending[*file].push(at);
                }
                Event::Sync { file } => {
                    for event in self.pending[*file].drain(..) {
                        Self::apply(&mut self.durable[*file], &self.log[event]);
                    }
                }
                Event::Create { .. } | Event::Rename { .. } | Event::Remove { .. } => {
                    self.pending_names.push(at);
                }
                Event::SyncNames => {
                    for event in self.pending_names.drain(..) {
                        self.log[event].rename(&mut self.durable_names);
                    }
                }
            }
        }
        self.at = moment;
    }

    /// What may be there after a power cut before event number `moment`.
    pub(crate) fn image(&mut self, moment: u64, rng: &mut Rng) -> Sim {
        self.advance(size(moment));
        let mut names = self.durable_names.clone();
        let kept = rng.index(self.pending_names.len() + 1);
        for event in &self.pending_names[..kept] {
            self.log[*event].rename(&mut names);
        }
        let mut contents = self.durable.clone();
        // Sometimes nothing is lost, or everything; mostly some of it.
        let keep = [0, 10, 50, 90, 100][rng.index(5)];
        for (content, pending) in contents.iter_mut().zip(&self.pending) {
            for event in pending {
                match &self.log[*event] {
                    event if rng.below(100) < keep => Self::apply(content, event),
                    Event::Write { at, bytes, .. } if rng.below(4) == 0 => {
                        tear(content, *at, bytes, rng);
                    }
                    _ => {}
                }
            }
        }
        Sim::of(names, contents)
    }
}

/// Writes some sectors of `bytes`.
fn tear(content: &mut Content, at: usize, bytes: &[u8], rng: &mut Rng) {
    let mut from = 0;
    while from < bytes.len() {
        let to = ((at + from) / SECTOR * SECTOR + SECTOR - at).min(bytes.len());
        if rng.below(2) == 0 {
            content.write(at + from, &bytes[from..to]);
        }
        from = to;
    }
}
