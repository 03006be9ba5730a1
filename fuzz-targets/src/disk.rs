//! A disk in memory that fails when its time has come.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use mapped_ram::storage::{IoMode, Source, Storage};
use multifd_pool::{Channel, IoVec};

/// A file in memory; clones are the same file.
#[derive(Clone, Default)]
pub(crate) struct Disk(Arc<Mutex<State>>);

#[derive(Default)]
#[expect(clippy::struct_excessive_bools, reason = "what has happened to the disk, each by itself")]
struct State {
    bytes: Vec<u8>,
    /// How many calls still succeed; `None` for all.
    countdown: Option<u32>,
    /// How the call fails: by an error, or by less and less of it being done.
    short: bool,
    is_in_place: bool,
    is_synced: bool,
    is_published: bool,
}

/// What a call may do.
enum Fate {
    All,
    Short,
    Fail,
}

impl Disk {
    pub(crate) fn new(bytes: Vec<u8>, countdown: Option<u32>, short: bool, is_in_place: bool) -> Self {
        Self(Arc::new(Mutex::new(State { bytes, countdown, short, is_in_place, ..State::default() })))
    }

    /// No call fails any more.
    pub(crate) fn mend(&self) {
        self.with(|state| state.countdown = None);
    }

    pub(crate) fn is_published(&self) -> bool {
        self.with(|state| state.is_published)
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.with(|state| state.bytes.clone())
    }

    fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn call<T>(&self, work: impl FnOnce(&mut State, bool) -> T) -> io::Result<T> {
        self.with(|state| match state.fate() {
            Fate::Fail => Err(io::Error::from_raw_os_error(28)),
            Fate::Short => Ok(work(state, true)),
            Fate::All => Ok(work(state, false)),
        })
    }
}

impl State {
    fn fate(&mut self) -> Fate {
        match &mut self.countdown {
            None => Fate::All,
            Some(0) => Fate::Fail,
            Some(left) => {
                *left -= 1;
                if self.short { Fate::Short } else { Fate::All }
            }
        }
    }
}

impl Channel for Disk {
    unsafe fn write_at(&mut self, vecs: &[IoVec], offset: u64) -> io::Result<usize> {
        self.call(|state, short| {
            state.is_synced = false;
            let mut at = usize::try_from(offset).unwrap();
            let mut moved = 0;
            for vec in vecs {
                let len = if short { vec.len().min(vec.len() / 2 + 1) } else { vec.len() };
                if state.bytes.len() < at + len {
                    state.bytes.resize(at + len, 0);
                }
                // SAFETY: readable by the caller's promise; the file's bytes are a vector of our own.
                unsafe { vec.addr().copy_to_nonoverlapping(state.bytes[at..].as_mut_ptr(), len) };
                at += len;
                moved += len;
                if len < vec.len() {
                    break;
                }
            }
            moved
        })
    }

    unsafe fn read_at(&mut self, vecs: &[IoVec], offset: u64) -> io::Result<usize> {
        self.call(|state, _| {
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
}

impl Storage for Disk {
    fn name(&self) -> String {
        "disk".to_owned()
    }

    fn channel(&mut self, _index: usize, _mode: IoMode) -> io::Result<Box<dyn Channel>> {
        Ok(Box::new(self.clone()))
    }

    fn set_len(&mut self, length: u64) -> io::Result<()> {
        self.call(|state, _| state.bytes.resize(usize::try_from(length).unwrap(), 0))
    }

    fn sync(&mut self) -> io::Result<()> {
        self.call(|state, _| state.is_synced = true)
    }

    fn is_in_place(&self) -> bool {
        self.with(|state| state.is_in_place)
    }

    fn publish(&mut self, _durable: bool) -> io::Result<()> {
        self.call(|state, _| {
            assert!(state.is_synced, "published before it was synced");
            state.is_published = true;
        })
    }
}

impl Source for Disk {
    fn name(&self) -> String {
        "disk".to_owned()
    }

    fn len(&self) -> io::Result<u64> {
        self.call(|state, _| state.bytes.len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.call(|state, _| {
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
