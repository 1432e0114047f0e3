//! A file that can be held: what is written to it is kept in memory until it is released, so that a file
//! that is refused as it is opened stays as it was.
//!
//! # Invariants
//!
//! - **H1** while a file is held, nothing in it changes, and what is read is what it would be.
//! - **H2** what was kept back is done in the order in which it was asked for, each sync included.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::store::disk::blocks::{BLOCK, BLOCK_BYTES};
use crate::store::disk::volume::Device;
use crate::sync::Mutex;

/// What a file that is held would be.
#[derive(Debug)]
struct Held {
    len: u64,
    /// What is behind this in the device is not there any more.
    kept: u64,
    blocks: BTreeMap<u64, Box<[u8; BLOCK]>>,
    steps: Vec<Step>,
}

#[derive(Debug)]
pub(super) enum Step {
    Write(u64, Box<[u8]>),
    Len(u64),
    Sync,
}

/// A device that can be held: what is written to it is kept back until it is released.
#[derive(Debug)]
pub(super) struct Holding {
    device: Box<dyn Device>,
    is_held: AtomicBool,
    held: Mutex<Option<Held>>,
}

impl Holding {
    /// A device; held, if it is to be released when it is known to be wanted.
    pub(super) fn new(device: Box<dyn Device>, is_held: bool) -> io::Result<Arc<Self>> {
        let len = device.len()?;
        let held =
            is_held.then(|| Held { len, kept: len, blocks: BTreeMap::new(), steps: Vec::new() });
        let is_held = AtomicBool::new(is_held);
        Ok(Arc::new(Self { device, is_held, held: Mutex::new(held) }))
    }

    pub(super) fn len(&self) -> io::Result<u64> {
        if self.is_held.load(Ordering::Acquire)
            && let Some(held) = &*self.held.lock()
        {
            return Ok(held.len);
        }
        self.device.len()
    }

    pub(super) fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        if self.is_held.load(Ordering::Acquire)
            && let Some(held) = &*self.held.lock()
        {
            return held.read(&*self.device, offset, out);
        }
        self.device.read(offset, out)
    }

    pub(super) fn step(&self, step: Step) -> io::Result<()> {
        if self.is_held.load(Ordering::Acquire)
            && let Some(held) = &mut *self.held.lock()
        {
            return held.step(&*self.device, step);
        }
        self.take(&step)
    }

    pub(super) fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if self.is_held.load(Ordering::Acquire) {
            return self.step(Step::Write(offset, bytes.into()));
        }
        self.device.write(offset, bytes)
    }

    fn take(&self, step: &Step) -> io::Result<()> {
        match step {
            Step::Write(offset, bytes) => self.device.write(*offset, bytes),
            Step::Len(len) => self.device.set_len(*len),
            Step::Sync => self.device.sync(),
        }
    }

    /// Does what was kept back, in order.
    pub(super) fn release(&self) -> io::Result<()> {
        let mut held = self.held.lock();
        for step in held.take().map(|held| held.steps).unwrap_or_default() {
            self.take(&step)?;
        }
        self.is_held.store(false, Ordering::Release);
        Ok(())
    }
}

impl Held {
    fn step(&mut self, device: &dyn Device, step: Step) -> io::Result<()> {
        match &step {
            Step::Write(offset, bytes) => {
                for (block, at, part) in parts(*offset, bytes.len()) {
                    let mut content = Box::new([0; BLOCK]);
                    if part.len() < BLOCK {
                        self.read_block(device, block, &mut content[..])?;
                    }
                    if let (Some(to), Some(from)) =
                        (content.get_mut(at..at + part.len()), bytes.get(part))
                    {
                        to.copy_from_slice(from);
                    }
                    self.blocks.insert(block, content);
                }
                self.len = self.len.max(*offset + bytes.len() as u64);
            }
            Step::Len(len) => {
                self.len = *len;
                self.kept = self.kept.min(*len);
                self.blocks.retain(|block, _| block * BLOCK_BYTES < *len);
            }
            Step::Sync => {}
        }
        self.steps.push(step);
        Ok(())
    }

    fn read(&self, device: &dyn Device, offset: u64, out: &mut [u8]) -> io::Result<()> {
        if offset.saturating_add(out.len() as u64) > self.len {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        for (block, at, part) in parts(offset, out.len()) {
            let mut content = [0; BLOCK];
            self.read_block(device, block, &mut content)?;
            if let (Some(from), Some(to)) = (content.get(at..at + part.len()), out.get_mut(part)) {
                to.copy_from_slice(from);
            }
        }
        Ok(())
    }

    /// A block as it would be; zeros behind the end.
    fn read_block(&self, device: &dyn Device, block: u64, out: &mut [u8]) -> io::Result<()> {
        if let Some(content) = self.blocks.get(&block) {
            out.copy_from_slice(&content[..]);
            return Ok(());
        }
        let there = self.kept.saturating_sub(block * BLOCK_BYTES);
        let there = usize::try_from(there).unwrap_or(BLOCK).min(out.len());
        match out.get_mut(..there) {
            Some([]) | None => Ok(()),
            Some(out) => device.read(block * BLOCK_BYTES, out),
        }
    }
}

/// The blocks of some bytes: number, where they begin in it, and what part of the bytes is in it.
fn parts(offset: u64, len: usize) -> impl Iterator<Item = (u64, usize, Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let at = offset + done as u64;
        let within = usize::try_from(at % BLOCK_BYTES).unwrap_or(0);
        let part = done..len.min(done + BLOCK - within);
        done = part.end;
        (!part.is_empty()).then_some((at / BLOCK_BYTES, within, part))
    })
}
