//! Storages, sources and channels that fail by plan, around real ones.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use mapped_ram::storage::{IoMode, Source, Storage};
use multifd_pool::{Channel, IoVec};

/// What a call does instead of what it should.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Act {
    Errno(i32),
    /// Moves at most this many bytes.
    Short(usize),
    Nothing,
    /// Says that it moved more than it was asked to.
    TooMuch,
    Panic,
}

/// Closed until the bool is true.
pub(crate) type Gate = Arc<(Mutex<bool>, Condvar)>;

/// What fails when. All channels of a storage, and its own calls, count together.
#[derive(Clone)]
pub(crate) struct Plan(Arc<(Mutex<State>, Condvar)>);

#[derive(Default)]
struct State {
    calls: usize,
    /// Call `n` does this.
    at: Option<(usize, Act)>,
    /// Call `n` waits for this first.
    blocked: Option<(usize, Gate)>,
    /// The first calls do these.
    first: VecDeque<Act>,
    used: bool,
}

impl Plan {
    fn new(state: State) -> Self {
        Self(Arc::new((Mutex::new(state), Condvar::new())))
    }

    pub(crate) fn none() -> Self {
        Self::new(State::default())
    }

    pub(crate) fn at(n: usize, act: Act) -> Self {
        Self::new(State { at: Some((n, act)), ..State::default() })
    }

    pub(crate) fn first(acts: Vec<Act>) -> Self {
        Self::new(State { first: acts.into(), ..State::default() })
    }

    pub(crate) fn blocked_at(n: usize, gate: Gate) -> Self {
        Self::new(State { blocked: Some((n, gate)), ..State::default() })
    }

    /// Whether the planned call was made.
    pub(crate) fn is_used(&self) -> bool {
        self.state().used
    }

    pub(crate) fn calls(&self) -> usize {
        self.state().calls
    }

    pub(crate) fn wait_until_used(&self) {
        let mut state = self.state();
        while !state.used {
            state = self.0.1.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What this call does; `None` for what it should. Never called with the lock held.
    fn next(&self) -> Option<Act> {
        let mut state = self.state();
        let n = state.calls;
        state.calls += 1;
        if let Some((at, gate)) = state.blocked.clone()
            && at == n
        {
            state.used = true;
            drop(state);
            self.0.1.notify_all();
            let mut open = gate.0.lock().unwrap_or_else(PoisonError::into_inner);
            while !*open {
                open = gate.1.wait(open).unwrap_or_else(PoisonError::into_inner);
            }
            return None;
        }
        if let Some((at, act)) = state.at
            && at == n
        {
            state.used = true;
            return Some(act);
        }
        state.first.pop_front()
    }

    /// For calls that move no bytes.
    fn simple(&self) -> io::Result<()> {
        match self.next() {
            None | Some(Act::Short(_) | Act::Errno(4)) => Ok(()),
            Some(Act::Errno(errno)) => Err(io::Error::from_raw_os_error(errno)),
            Some(Act::Panic) => panic!("as planned"),
            Some(Act::Nothing | Act::TooMuch) => Err(io::Error::other("as planned")),
        }
    }
}

struct FaultyChannel {
    inner: Box<dyn Channel>,
    plan: Plan,
}

impl FaultyChannel {
    fn call(
        &mut self,
        vecs: &[IoVec],
        real: impl FnOnce(&mut dyn Channel, &[IoVec]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        match self.plan.next() {
            None => real(&mut *self.inner, vecs),
            Some(Act::Errno(errno)) => Err(io::Error::from_raw_os_error(errno)),
            Some(Act::Nothing) => Ok(0),
            Some(Act::TooMuch) => Ok(vecs.iter().map(IoVec::len).sum::<usize>() + 1),
            Some(Act::Panic) => panic!("as planned"),
            Some(Act::Short(most)) => {
                let Some(first) = vecs.iter().find(|vec| !vec.is_empty()) else { return Ok(0) };
                real(&mut *self.inner, &[IoVec::new(first.addr(), first.len().min(most))])
            }
        }
    }
}

impl Channel for FaultyChannel {
    unsafe fn write_at(&mut self, vecs: &[IoVec], offset: u64) -> io::Result<usize> {
        // SAFETY: the caller's promise, passed on for the same memory or a part of it.
        self.call(vecs, |inner, vecs| unsafe { inner.write_at(vecs, offset) })
    }

    unsafe fn read_at(&mut self, vecs: &[IoVec], offset: u64) -> io::Result<usize> {
        // SAFETY: the caller's promise, passed on for the same memory or a part of it.
        self.call(vecs, |inner, vecs| unsafe { inner.read_at(vecs, offset) })
    }

    fn reserve(&mut self, offset: u64, length: u64) -> io::Result<()> {
        self.plan.simple()?;
        self.inner.reserve(offset, length)
    }

    fn clear(&mut self, offset: u64, length: u64) -> io::Result<()> {
        self.plan.simple()?;
        self.inner.clear(offset, length)
    }
}

pub(crate) struct FaultyStorage<S> {
    inner: S,
    plan: Plan,
}

impl<S: Storage> FaultyStorage<S> {
    pub(crate) fn new(inner: S, plan: Plan) -> Self {
        Self { inner, plan }
    }
}

impl<S: Storage> Storage for FaultyStorage<S> {
    fn name(&self) -> String {
        self.inner.name()
    }

    fn channel(&mut self, index: usize, mode: IoMode) -> io::Result<Box<dyn Channel>> {
        Ok(Box::new(FaultyChannel { inner: self.inner.channel(index, mode)?, plan: self.plan.clone() }))
    }

    fn prepare(&mut self, length: u64, pages: &[Range<u64>]) -> io::Result<()> {
        self.plan.simple()?;
        self.inner.prepare(length, pages)
    }

    fn holds_old_bytes(&self) -> bool {
        self.inner.holds_old_bytes()
    }

    fn set_len(&mut self, length: u64) -> io::Result<()> {
        self.plan.simple()?;
        self.inner.set_len(length)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.plan.simple()?;
        self.inner.sync()
    }

    fn is_in_place(&self) -> bool {
        self.inner.is_in_place()
    }

    fn publish(&mut self, durable: bool) -> io::Result<()> {
        self.plan.simple()?;
        self.inner.publish(durable)
    }
}

/// Its channels fail; the structure is read without failures, so that there is something to load, unless it is
/// [`everywhere`](Self::everywhere).
pub(crate) struct FaultySource<S> {
    inner: S,
    plan: Plan,
    everywhere: bool,
}

impl<S: Source> FaultySource<S> {
    pub(crate) fn new(inner: S, plan: Plan) -> Self {
        Self { inner, plan, everywhere: false }
    }

    /// Each of its own calls fails by plan too.
    pub(crate) fn everywhere(inner: S, plan: Plan) -> Self {
        Self { inner, plan, everywhere: true }
    }

    fn simple(&self) -> io::Result<()> {
        if self.everywhere { self.plan.simple() } else { Ok(()) }
    }
}

impl<S: Source> Source for FaultySource<S> {
    fn name(&self) -> String {
        self.inner.name()
    }

    fn len(&self) -> io::Result<u64> {
        self.simple()?;
        self.inner.len()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        match self.everywhere.then(|| self.plan.next()).flatten() {
            None => self.inner.read_at(buffer, offset),
            // As at the file's end.
            Some(Act::Nothing) => Ok(0),
            Some(Act::Errno(errno)) => Err(io::Error::from_raw_os_error(errno)),
            Some(act) => panic!("{act:?} is not planned for a source"),
        }
    }

    fn channel(&self, index: usize, mode: IoMode) -> io::Result<Box<dyn Channel>> {
        self.simple()?;
        Ok(Box::new(FaultyChannel { inner: self.inner.channel(index, mode)?, plan: self.plan.clone() }))
    }

    fn effective_mode(&self, mode: IoMode) -> IoMode {
        self.inner.effective_mode(mode)
    }

    fn file(&self) -> Option<&File> {
        self.inner.file()
    }

    fn next_data(&self, offset: u64, end: u64) -> io::Result<Option<(u64, u64)>> {
        self.simple()?;
        self.inner.next_data(offset, end)
    }
}
