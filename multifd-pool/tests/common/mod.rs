//! A file in memory behind the channel trait, which does as a plan says.

#![allow(dead_code, reason = "each test uses a part")]

use std::io;
use std::sync::{Arc, Mutex};

use multifd_pool::{Channel, IoVec};

/// What a call does.
#[derive(Clone, Copy, Debug)]
pub enum Act {
    /// Everything that was asked for.
    All,
    /// At most this many bytes.
    Short(usize),
    /// An error of the system.
    Errno(i32),
    /// Says that it moved nothing.
    Nothing,
    /// Says that it moved more than it was asked to.
    TooMuch,
    /// Panics.
    Panic,
}

/// A file in memory; clones are the same file.
#[derive(Clone, Default)]
pub struct MemoryFile {
    pub bytes: Arc<Mutex<Vec<u8>>>,
    /// What the next calls do, of all channels together; when none is left, everything.
    pub plan: Arc<Mutex<std::collections::VecDeque<Act>>>,
    pub calls: Arc<Mutex<u64>>,
}

impl MemoryFile {
    pub fn new(length: usize) -> Self {
        Self { bytes: Arc::new(Mutex::new(vec![0; length])), ..Self::default() }
    }

    pub fn planned(length: usize, plan: impl IntoIterator<Item = Act>) -> Self {
        let file = Self::new(length);
        file.plan.lock().unwrap().extend(plan);
        file
    }

    pub fn content(&self) -> Vec<u8> {
        self.bytes.lock().unwrap().clone()
    }

    fn call(
        &mut self,
        vecs: &[IoVec],
        offset: u64,
        move_bytes: impl Fn(*mut u8, &mut [u8]),
    ) -> io::Result<usize> {
        *self.calls.lock().unwrap() += 1;
        let act = self.plan.lock().unwrap().pop_front().unwrap_or(Act::All);
        let asked: usize = vecs.iter().map(IoVec::len).sum();
        let most = match act {
            Act::All => asked,
            Act::Short(most) => most,
            Act::Errno(errno) => return Err(io::Error::from_raw_os_error(errno)),
            Act::Nothing => return Ok(0),
            Act::TooMuch => return Ok(asked + 1),
            Act::Panic => panic!("as planned"),
        };
        let mut file = self.bytes.lock().unwrap();
        let mut at = usize::try_from(offset).unwrap();
        let mut moved = 0;
        for vec in vecs {
            let len = vec.len().min(most - moved).min(file.len().saturating_sub(at));
            move_bytes(vec.addr(), &mut file[at..at + len]);
            (at, moved) = (at + len, moved + len);
        }
        Ok(moved)
    }
}

impl Channel for MemoryFile {
    unsafe fn write_at(&mut self, vecs: &[IoVec], offset: u64) -> io::Result<usize> {
        // SAFETY: readable for as long as the slice of the file, by the caller's promise.
        self.call(vecs, offset, |memory, file| unsafe {
            memory.copy_to_nonoverlapping(file.as_mut_ptr(), file.len());
        })
    }

    unsafe fn read_at(&mut self, vecs: &[IoVec], offset: u64) -> io::Result<usize> {
        // SAFETY: writable for as long as the slice of the file, by the caller's promise.
        self.call(vecs, offset, |memory, file| unsafe {
            memory.copy_from_nonoverlapping(file.as_ptr(), file.len());
        })
    }
}
