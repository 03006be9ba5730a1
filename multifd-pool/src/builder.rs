//! What a pool is made with: how many channels, how long a queue, which names. Starting the threads is the last step, and all or
//! nothing.

use std::io;
use std::marker::PhantomData;
use std::sync::Arc;

use crate::cancel::Cancel;
use crate::counters::SharedCounters;
use crate::error::PoolError;
use crate::pool::{Pool, Shared, Worker, run_channel};
use crate::queue::Queue;
use crate::sync::thread;

/// The most channels that a pool has: what QEMU's `multifd-channels` takes.
const MAX_CHANNELS: usize = 255;

/// What a pool is made with. Made by [`Pool::builder`].
#[derive(Debug)]
#[must_use = "a builder does nothing until `spawn` is called"]
pub struct Builder<B> {
    channels: usize,
    queue_depth: usize,
    name: String,
    cancel: Cancel,
    batch: PhantomData<fn(B)>,
}

impl<B: Send + 'static> Builder<B> {
    pub(crate) fn new() -> Self {
        Self {
            channels: 2,
            queue_depth: 0,
            name: "channel".to_owned(),
            cancel: Cancel::new(),
            batch: PhantomData,
        }
    }

    /// How many channels, 1 to 255; 2 unless said otherwise.
    pub fn channels(mut self, channels: usize) -> Self {
        self.channels = channels;
        self
    }

    /// How many batches wait at most; two for each channel unless said otherwise. A 0 is taken for 1.
    pub fn queue_depth(mut self, depth: usize) -> Self {
        self.queue_depth = depth.max(1);
        self
    }

    /// What the threads are called: `{name}-{index}`.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// The handle that ends the work from outside.
    pub fn cancel(mut self, cancel: Cancel) -> Self {
        self.cancel = cancel;
        self
    }

    /// Starts the threads, each with the worker that `make` gives for its index. `make` runs in the calling thread.
    ///
    /// # Errors
    /// A number of channels that is not 1 to 255, a worker that `make` could not give, a thread that the system
    /// refused. Threads that were started already have then ended.
    pub fn spawn<W, F>(self, mut make: F) -> Result<Pool<B>, PoolError>
    where
        W: Worker<Batch = B> + 'static,
        F: FnMut(usize) -> io::Result<W>,
    {
        if !(1..=MAX_CHANNELS).contains(&self.channels) {
            return Err(PoolError::BadChannelCount(self.channels));
        }
        let depth = if self.queue_depth == 0 { 2 * self.channels } else { self.queue_depth };
        let counters = (0..self.channels).map(|_| SharedCounters::default()).collect();
        let shared = Arc::new(Shared { queue: Queue::new(depth), counters });
        let mut threads = Vec::with_capacity(self.channels);
        for index in 0..self.channels {
            let started = make(index).and_then(|worker| {
                let shared = Arc::clone(&shared);
                thread::Builder::new()
                    .name(format!("{}-{index}", self.name))
                    .spawn(move || run_channel(index, worker, &shared))
            });
            match started {
                Ok(thread) => threads.push(thread),
                Err(source) => {
                    // Dropping the pool ends and joins those that were started.
                    drop(Pool::begin(shared, threads, self.cancel));
                    return Err(PoolError::Spawn { channel: index, source: Arc::new(source) });
                }
            }
        }
        Ok(Pool::begin(shared, threads, self.cancel))
    }
}
