//! The queue between a producer and its channels: what waits for what.
//!
//! States of a batch: submitted (queued) -> taken (running) -> done. The queue is *idle* when nothing is queued and
//! nothing runs. Three conditions are waited for, each with its own condition variable:
//!
//! ```text
//!   room   producers   the queue is not full, or it has stopped
//!   work   channels    something is queued, or the queue is closed
//!   idle   sync        nothing queued, nothing running, nothing that was queued still being dropped
//! ```
//!
//! Stopping (an error, a panic, a cancellation) keeps its first reason, empties the queue and lets nothing further in;
//! what runs ends by itself, told by the stop flag. Dropped batches are dropped outside of the lock, for their
//! destructors are not ours.
//!
//! This module knows nothing of threads and system calls; loom runs it in tests/loom.rs.

use std::collections::VecDeque;
use std::mem;

use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Condvar, Mutex, lock, wait};

/// The queue. `B` is a batch, `E` the reason of a stop.
#[derive(Debug)]
pub struct Queue<B, E> {
    state: Mutex<State<B, E>>,
    room: Condvar,
    work: Condvar,
    idle: Condvar,
    /// Set with the first reason; read by running batches between two system calls.
    stopped: AtomicBool,
    depth: usize,
}

#[derive(Debug)]
struct State<B, E> {
    queue: VecDeque<B>,
    running: usize,
    /// How many stops have batches in their hands that they have not dropped yet.
    dropping: usize,
    closed: bool,
    stop: Option<E>,
}

/// What a channel gets.
#[derive(Debug)]
pub enum Take<B> {
    /// A batch to run; [`Queue::done`] must follow.
    Batch(B),
    /// Nothing more will come.
    End,
}

/// A batch that was not taken in, and why.
#[derive(Debug)]
pub struct Refused<B, E> {
    /// The batch, as it was submitted.
    pub batch: B,
    /// The first reason of the stop.
    pub reason: E,
}

impl<B, E: Clone> Queue<B, E> {
    /// A queue of at most `depth` batches.
    pub fn new(depth: usize) -> Self {
        let state = State {
            queue: VecDeque::with_capacity(depth),
            running: 0,
            dropping: 0,
            closed: false,
            stop: None,
        };
        Self {
            state: Mutex::new(state),
            room: Condvar::new(),
            work: Condvar::new(),
            idle: Condvar::new(),
            stopped: AtomicBool::new(false),
            depth,
        }
    }

    /// How many batches are queued at most.
    pub fn depth(&self) -> usize {
        self.depth
    }

    /// Queues `batch`; waits while the queue is full.
    ///
    /// # Errors
    /// The batch and the first reason, once the queue has stopped.
    pub fn submit(&self, batch: B) -> Result<(), Refused<B, E>> {
        let mut state = lock(&self.state);
        loop {
            if let Some(reason) = state.stop.clone() {
                return Err(Refused { batch, reason });
            }
            if state.queue.len() < self.depth {
                state.queue.push_back(batch);
                drop(state);
                self.work.notify_one();
                return Ok(());
            }
            state = wait(&self.room, state);
        }
    }

    /// The next batch for a channel; waits while there is none.
    pub fn take(&self) -> Take<B> {
        let mut state = lock(&self.state);
        loop {
            if let Some(batch) = state.queue.pop_front() {
                state.running += 1;
                drop(state);
                self.room.notify_one();
                return Take::Batch(batch);
            }
            if state.closed {
                return Take::End;
            }
            state = wait(&self.work, state);
        }
    }

    /// Says that a taken batch is over: its channel touches nothing of it any more.
    pub fn done(&self) {
        let mut state = lock(&self.state);
        state.running -= 1;
        if state.running == 0 && state.queue.is_empty() {
            drop(state);
            self.idle.notify_all();
        }
    }

    /// Stops the queue for `reason`, unless it has stopped already.
    pub fn stop(&self, reason: E) {
        let dropped = {
            let mut state = lock(&self.state);
            if state.stop.is_none() {
                state.stop = Some(reason);
                self.stopped.store(true, Ordering::Release);
            }
            state.dropping += 1;
            mem::take(&mut state.queue)
        };
        // Over only behind the drop, for who syncs may rely on dropped batches being gone; and over also if it panics.
        let _over = DroppedOnDrop(self);
        drop(dropped);
    }

    /// Whether the queue has stopped. Cheap enough to ask between two system calls.
    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// Waits until nothing is queued, nothing runs, and what a stop took out of the queue is dropped.
    ///
    /// # Errors
    /// The first reason, if the queue has stopped.
    pub fn sync(&self) -> Result<(), E> {
        let mut state = lock(&self.state);
        while state.running != 0 || state.dropping != 0 || !state.queue.is_empty() {
            state = wait(&self.idle, state);
        }
        state.stop.clone().map_or(Ok(()), Err)
    }

    /// Ends the channels once the queue is empty. Nothing may be submitted any more.
    pub fn close(&self) {
        lock(&self.state).closed = true;
        self.work.notify_all();
    }
}

/// Says that a stop has dropped its batches, and wakes producers and syncs.
struct DroppedOnDrop<'q, B, E>(&'q Queue<B, E>);

impl<B, E> Drop for DroppedOnDrop<'_, B, E> {
    fn drop(&mut self) {
        lock(&self.0.state).dropping -= 1;
        self.0.room.notify_all();
        self.0.idle.notify_all();
    }
}
