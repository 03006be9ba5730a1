//! A storage that writes down what happens to it, and what a disk may hold of that after a power cut.

use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use mapped_ram::storage::{IoMode, Source, Storage};
use multifd_pool::{Channel, IoVec};
use rand::{RngExt, SeedableRng};

/// What a disk writes whole or not at all.
const SECTOR: usize = 512;

#[derive(Clone, Debug)]
pub(crate) enum Event {
    Write { offset: usize, bytes: Vec<u8> },
    SetLen(usize),
    Clear { offset: usize, length: usize },
    Sync,
    Publish,
}

/// Everything that was done, over what stood there before.
pub(crate) struct Log {
    base: Vec<u8>,
    pub(crate) events: Vec<Event>,
}

impl Log {
    /// What the disk may hold if the power is cut behind the first `cut` events: all that was synced by then, and of the
    /// rest any sectors of any writes, and any of the cuts of the file.
    pub(crate) fn after_a_cut(&self, cut: usize, seed: u64) -> Vec<u8> {
        let mut random = rand::rngs::StdRng::seed_from_u64(seed);
        let done = &self.events[..cut];
        let synced = done.iter().rposition(|event| matches!(event, Event::Sync)).map_or(0, |at| at + 1);
        // Some cuts keep nearly all, some nearly nothing.
        let odds = [0.0, 0.1, 0.5, 0.9, 1.0][random.random_range(0..5)];
        let mut disk = self.base.clone();
        for (at, event) in done.iter().enumerate() {
            let mut is_kept = || at < synced || random.random_bool(odds);
            match event {
                Event::Write { offset, bytes } => {
                    let mut from = 0;
                    while from < bytes.len() {
                        // Up to the end of the sector that the byte is in.
                        let to = (from + SECTOR - (offset + from) % SECTOR).min(bytes.len());
                        if is_kept() {
                            put(&mut disk, offset + from, &bytes[from..to]);
                        }
                        from = to;
                    }
                }
                Event::SetLen(length) if is_kept() => disk.resize(*length, 0),
                Event::Clear { offset, length } if is_kept() => {
                    let end = (offset + length).min(disk.len());
                    if *offset < end {
                        disk[*offset..end].fill(0);
                    }
                }
                Event::Clear { .. } | Event::SetLen(_) | Event::Sync | Event::Publish => {}
            }
        }
        disk
    }
}

fn put(disk: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    if disk.len() < offset + bytes.len() {
        disk.resize(offset + bytes.len(), 0);
    }
    disk[offset..offset + bytes.len()].copy_from_slice(bytes);
}

/// The storage. What is written is only written down; nobody reads it back.
#[derive(Clone)]
pub(crate) struct Recorder {
    base: Vec<u8>,
    events: Arc<Mutex<Vec<Event>>>,
    is_in_place: bool,
    is_recycled: bool,
}

impl Recorder {
    pub(crate) fn new(base: Vec<u8>, is_in_place: bool) -> Recorder {
        Self { base, events: Arc::default(), is_in_place, is_recycled: false }
    }

    /// An older file that is written over: its old name is gone and its magic broken, durably, before anything else.
    pub(crate) fn recycled(mut base: Vec<u8>) -> Recorder {
        put(&mut base, 0, &mapped_ram::format::INCOMPLETE_MAGIC);
        Self { base, events: Arc::default(), is_in_place: true, is_recycled: true }
    }

    /// What was done, once the storage is gone.
    pub(crate) fn log(&self) -> LogHandle {
        LogHandle { base: self.base.clone(), events: Arc::clone(&self.events) }
    }

    fn note(&self, event: Event) {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).push(event);
    }
}

pub(crate) struct LogHandle {
    base: Vec<u8>,
    events: Arc<Mutex<Vec<Event>>>,
}

impl LogHandle {
    pub(crate) fn read(&self) -> Log {
        let events = self.events.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Log { base: self.base.clone(), events }
    }
}

impl Channel for Recorder {
    unsafe fn write_at(&mut self, vecs: &[IoVec], offset: u64) -> io::Result<usize> {
        let mut bytes = Vec::new();
        for vec in vecs {
            // SAFETY: readable by the caller's promise, and not written in these tests.
            bytes.extend_from_slice(unsafe { std::slice::from_raw_parts(vec.addr(), vec.len()) });
        }
        let length = bytes.len();
        self.note(Event::Write { offset: usize::try_from(offset).unwrap(), bytes });
        Ok(length)
    }

    unsafe fn read_at(&mut self, _: &[IoVec], _: u64) -> io::Result<usize> {
        Err(io::Error::other("nobody reads from a recorder"))
    }

    fn clear(&mut self, offset: u64, length: u64) -> io::Result<()> {
        let (offset, length) = (usize::try_from(offset).unwrap(), usize::try_from(length).unwrap());
        self.note(Event::Clear { offset, length });
        Ok(())
    }
}

impl Storage for Recorder {
    fn name(&self) -> String {
        "recorder".to_owned()
    }

    fn channel(&mut self, _index: usize, _mode: IoMode) -> io::Result<Box<dyn Channel>> {
        Ok(Box::new(self.clone()))
    }

    fn set_len(&mut self, length: u64) -> io::Result<()> {
        self.note(Event::SetLen(usize::try_from(length).unwrap()));
        Ok(())
    }

    fn prepare(&mut self, length: u64, pages: &[Range<u64>]) -> io::Result<()> {
        self.set_len(length)?;
        if self.is_recycled {
            let mut at = mapped_ram::format::INCOMPLETE_MAGIC.len() as u64;
            for place in pages {
                self.clear(at, place.start - at)?;
                at = place.end;
            }
        }
        Ok(())
    }

    fn holds_old_bytes(&self) -> bool {
        self.is_recycled
    }

    fn sync(&mut self) -> io::Result<()> {
        self.note(Event::Sync);
        Ok(())
    }

    fn is_in_place(&self) -> bool {
        self.is_in_place
    }

    fn publish(&mut self, _durable: bool) -> io::Result<()> {
        if !self.is_in_place || self.is_recycled {
            self.note(Event::Publish);
        }
        Ok(())
    }
}

/// A disk as it was found after the cut.
pub(crate) struct Snapshot(pub(crate) Vec<u8>);

impl Source for Snapshot {
    fn name(&self) -> String {
        "snapshot".to_owned()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(self.0.len());
        let length = buffer.len().min(self.0.len() - start);
        buffer[..length].copy_from_slice(&self.0[start..start + length]);
        Ok(length)
    }

    fn channel(&self, _index: usize, _mode: IoMode) -> io::Result<Box<dyn Channel>> {
        Ok(Box::new(Reading(self.0.clone())))
    }
}

struct Reading(Vec<u8>);

impl Channel for Reading {
    unsafe fn write_at(&mut self, _: &[IoVec], _: u64) -> io::Result<usize> {
        Err(io::Error::other("nobody writes to a snapshot"))
    }

    unsafe fn read_at(&mut self, vecs: &[IoVec], offset: u64) -> io::Result<usize> {
        let mut at = usize::try_from(offset).unwrap();
        let mut moved = 0;
        for vec in vecs {
            let length = vec.len().min(self.0.len().saturating_sub(at));
            if length == 0 {
                break;
            }
            // SAFETY: writable by the caller's promise.
            unsafe { vec.addr().copy_from_nonoverlapping(self.0[at..].as_ptr(), length) };
            (at, moved) = (at + length, moved + length);
        }
        Ok(moved)
    }
}
