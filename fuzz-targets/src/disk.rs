//! Disks that fail when their time has come: one in memory, and any other one.

use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use mapped_ram_format::INCOMPLETE_MAGIC;

use mapped_ram::storage::{IoMode, Source, Storage};
use multifd_pool::{Channel, IoVec, Piece};

/// How many calls still succeed. Clones count together.
#[derive(Clone, Debug)]
pub(crate) struct Countdown {
    /// `NONE` when no call fails.
    left: Arc<AtomicU32>,
    /// How the calls before the last are: less and less of them is done.
    short: bool,
}

const NONE: u32 = u32::MAX;

/// What a call may do.
enum Fate {
    All,
    Short,
}

impl Countdown {
    pub(crate) fn new(calls: Option<u32>, short: bool) -> Self {
        Self { left: Arc::new(AtomicU32::new(calls.unwrap_or(NONE))), short }
    }

    /// No call fails any more.
    pub(crate) fn mend(&self) {
        self.left.store(NONE, Ordering::Relaxed);
    }

    fn next(&self) -> io::Result<Fate> {
        let less = |left: u32| if left == NONE { None } else { left.checked_sub(1) };
        match self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less) {
            Ok(_) if self.short => Ok(Fate::Short),
            Ok(_) | Err(NONE) => Ok(Fate::All),
            Err(_) => Err(io::Error::from_raw_os_error(ENOSPC)),
        }
    }
}

const ENOSPC: i32 = 28;

/// The iovecs of which a short call does something.
fn shortened(vecs: &[IoVec]) -> Vec<IoVec> {
    let first = vecs.iter().find(|vec| !vec.is_empty());
    first.map(|vec| IoVec::new(vec.addr(), vec.len().min(vec.len() / 2 + 1))).into_iter().collect()
}

/// What a disk in memory is to be.
#[derive(Clone, Copy, Default)]
pub(crate) struct Kind {
    pub(crate) is_in_place: bool,
    /// Whether it is full of old bytes, which the writer must clear.
    pub(crate) is_old: bool,
    /// Whether it must be synced before it is published.
    pub(crate) is_durable: bool,
}

/// A file in memory; clones are the same file.
#[derive(Clone)]
pub(crate) struct Disk {
    state: Arc<Mutex<State>>,
    countdown: Countdown,
    kind: Kind,
}

#[derive(Default)]
struct State {
    bytes: Vec<u8>,
    is_synced: bool,
    is_published: bool,
}

impl Disk {
    /// An old one's magic is broken, as by whoever took it over.
    pub(crate) fn new(mut bytes: Vec<u8>, countdown: &Countdown, kind: Kind) -> Self {
        if kind.is_old {
            bytes.resize(bytes.len().max(INCOMPLETE_MAGIC.len()), 0);
            bytes[..INCOMPLETE_MAGIC.len()].copy_from_slice(&INCOMPLETE_MAGIC);
        }
        let state = Arc::new(Mutex::new(State { bytes, ..State::default() }));
        Self { state, countdown: countdown.clone(), kind }
    }

    pub(crate) fn is_published(&self) -> bool {
        self.with(|state| state.is_published)
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.with(|state| state.bytes.clone())
    }

    fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        work(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn call<T>(&self, work: impl FnOnce(&mut State) -> T) -> io::Result<T> {
        self.countdown.next()?;
        Ok(self.with(work))
    }
}

impl State {
    fn fill(&mut self, range: Range<u64>) {
        let end = usize::try_from(range.end).unwrap().min(self.bytes.len());
        let start = usize::try_from(range.start).unwrap().min(end);
        self.bytes[start..end].fill(0);
        self.is_synced = false;
    }
}

impl Channel for Disk {
    unsafe fn write_at(&mut self, vecs: &[IoVec], offset: u64) -> io::Result<usize> {
        let vecs = match self.countdown.next()? {
            Fate::All => vecs.to_vec(),
            Fate::Short => shortened(vecs),
        };
        Ok(self.with(|state| {
            state.is_synced = false;
            let mut at = usize::try_from(offset).unwrap();
            let mut moved = 0;
            for vec in vecs {
                let len = vec.len();
                if state.bytes.len() < at + len {
                    state.bytes.resize(at + len, 0);
                }
                // SAFETY: readable by the caller's promise; the file's bytes are a vector of our own.
                unsafe { vec.addr().copy_to_nonoverlapping(state.bytes[at..].as_mut_ptr(), len) };
                at += len;
                moved += len;
            }
            moved
        }))
    }

    unsafe fn read_at(&mut self, vecs: &[IoVec], offset: u64) -> io::Result<usize> {
        self.call(|state| {
            let mut at = usize::try_from(offset).unwrap_or(usize::MAX);
            let mut moved = 0;
            for vec in vecs {
                let len = vec.len().min(state.bytes.len().saturating_sub(at));
                if len == 0 {
                    break;
                }
                // SAFETY: writable by the caller's promise; the file's bytes are a vector of our own.
                unsafe { vec.addr().copy_from_nonoverlapping(state.bytes[at..].as_ptr(), len) };
                at += len;
                moved += len;
            }
            moved
        })
    }

    fn reserve(&mut self, offset: u64, length: u64) -> io::Result<()> {
        assert!(length > 0 && offset.checked_add(length).is_some(), "room for {length} bytes at {offset}");
        self.call(|_| ())
    }

    fn clear(&mut self, offset: u64, length: u64) -> io::Result<()> {
        assert!(length > 0, "a hole of no bytes is an error of the system's");
        self.call(|state| state.fill(offset..offset + length))
    }
}

impl Storage for Disk {
    fn name(&self) -> String {
        "disk".to_owned()
    }

    fn channel(&mut self, _index: usize, _mode: IoMode) -> io::Result<Box<dyn Channel>> {
        Ok(Box::new(self.clone()))
    }

    fn prepare(&mut self, length: u64, pages: &[Range<u64>]) -> io::Result<()> {
        self.set_len(length)?;
        if self.kind.is_old {
            let mut at = INCOMPLETE_MAGIC.len() as u64;
            for place in pages {
                self.with(|state| state.fill(at..place.start));
                at = place.end;
            }
            self.with(|state| state.fill(at..length));
        }
        Ok(())
    }

    fn holds_old_bytes(&self) -> bool {
        self.kind.is_old
    }

    fn set_len(&mut self, length: u64) -> io::Result<()> {
        self.call(|state| state.bytes.resize(usize::try_from(length).unwrap(), 0))
    }

    fn sync(&mut self) -> io::Result<()> {
        self.call(|state| state.is_synced = true)
    }

    fn is_in_place(&self) -> bool {
        self.kind.is_in_place || self.kind.is_old
    }

    fn publish(&mut self, durable: bool) -> io::Result<()> {
        let must_be_synced = self.kind.is_durable;
        assert!(must_be_synced || !durable, "a name is made durable that nobody asked for");
        self.call(|state| {
            assert!(state.is_synced || !must_be_synced, "published before it was synced");
            state.is_published = true;
        })
    }
}

impl Source for Disk {
    fn name(&self) -> String {
        "disk".to_owned()
    }

    fn len(&self) -> io::Result<u64> {
        self.call(|state| state.bytes.len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.call(|state| {
            let start = usize::try_from(offset).unwrap_or(usize::MAX).min(state.bytes.len());
            let len = buffer.len().min(state.bytes.len() - start);
            buffer[..len].copy_from_slice(&state.bytes[start..start + len]);
            len
        })
    }

    fn channel(&self, _index: usize, _mode: IoMode) -> io::Result<Box<dyn Channel>> {
        Ok(Box::new(self.clone()))
    }
}

/// Any storage, with calls that fail.
pub(crate) struct Failing<S> {
    inner: S,
    countdown: Countdown,
}

impl<S: Storage> Failing<S> {
    pub(crate) fn new(inner: S, countdown: &Countdown) -> Self {
        Self { inner, countdown: countdown.clone() }
    }
}

impl Channel for Failing<Box<dyn Channel>> {
    unsafe fn write_at(&mut self, vecs: &[IoVec], offset: u64) -> io::Result<usize> {
        match self.countdown.next()? {
            // SAFETY: the caller's promise, passed on.
            Fate::All => unsafe { self.inner.write_at(vecs, offset) },
            // SAFETY: the same, for a part of it.
            Fate::Short => unsafe { self.inner.write_at(&shortened(vecs), offset) },
        }
    }

    unsafe fn read_at(&mut self, vecs: &[IoVec], offset: u64) -> io::Result<usize> {
        self.countdown.next()?;
        // SAFETY: the caller's promise, passed on.
        unsafe { self.inner.read_at(vecs, offset) }
    }

    unsafe fn begin_writes(&mut self, pieces: &mut Vec<Piece>) -> u64 {
        // What it does not take is written one by one, and may fail there.
        let Ok(Fate::All) = self.countdown.next() else { return 0 };
        // SAFETY: the caller's promise, passed on.
        unsafe { self.inner.begin_writes(pieces) }
    }

    fn end_writes(&mut self, left: &mut Vec<Piece>) -> u64 {
        self.inner.end_writes(left)
    }

    fn reserve(&mut self, offset: u64, length: u64) -> io::Result<()> {
        self.countdown.next()?;
        self.inner.reserve(offset, length)
    }

    fn clear(&mut self, offset: u64, length: u64) -> io::Result<()> {
        self.countdown.next()?;
        self.inner.clear(offset, length)
    }
}

impl<S: Storage> Storage for Failing<S> {
    fn name(&self) -> String {
        self.inner.name()
    }

    fn channel(&mut self, index: usize, mode: IoMode) -> io::Result<Box<dyn Channel>> {
        self.countdown.next()?;
        let inner = self.inner.channel(index, mode)?;
        Ok(Box::new(Failing { inner, countdown: self.countdown.clone() }))
    }

    fn effective_mode(&self, mode: IoMode) -> IoMode {
        self.inner.effective_mode(mode)
    }

    fn prepare(&mut self, length: u64, pages: &[Range<u64>]) -> io::Result<()> {
        self.countdown.next()?;
        self.inner.prepare(length, pages)
    }

    fn holds_old_bytes(&self) -> bool {
        self.inner.holds_old_bytes()
    }

    fn disk_bytes(&self) -> Option<u64> {
        self.inner.disk_bytes()
    }

    fn set_len(&mut self, length: u64) -> io::Result<()> {
        self.countdown.next()?;
        self.inner.set_len(length)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.countdown.next()?;
        self.inner.sync()
    }

    fn sync_data(&mut self) -> io::Result<()> {
        self.countdown.next()?;
        self.inner.sync_data()
    }

    fn is_in_place(&self) -> bool {
        self.inner.is_in_place()
    }

    fn publish(&mut self, durable: bool) -> io::Result<()> {
        self.countdown.next()?;
        self.inner.publish(durable)
    }
}
