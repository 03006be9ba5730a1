//! The threads around the queue: how they begin, run and end.
//!
//! What is waited for, and who is woken, is the queue's business; here a panic becomes an error, and the end of a pool a join.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crate::builder::Builder;
use crate::cancel::{Cancel, Wake};
use crate::context::ChannelContext;
use crate::counters::{ChannelCounters, SharedCounters};
use crate::error::{PoolError, SubmitError, WorkError};
use crate::queue::{Queue, Take};
use crate::sync::thread::JoinHandle;

/// What one channel does with a batch. Each channel has a worker of its own, which stays in its thread.
///
/// [`IoWorker`](crate::IoWorker) is the ready-made one. Any other work will do:
///
/// ```
/// use multifd_pool::{ChannelContext, Pool, WorkError, Worker};
///
/// /// Counts the pages of a batch that are zero.
/// struct Look;
///
/// impl Worker for Look {
///     type Batch = Vec<u8>;
///
///     fn run(&mut self, batch: Vec<u8>, context: &mut ChannelContext<'_>) -> Result<(), WorkError> {
///         for page in batch.chunks(4096) {
///             context.counters().zero_pages += u64::from(page.iter().all(|byte| *byte == 0));
///         }
///         Ok(())
///     }
/// }
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let pool = Pool::builder().channels(2).spawn(|_| Ok(Look))?;
/// pool.submit(vec![0; 8192])?;
/// pool.submit(vec![1; 8192])?;
/// let zero: u64 = pool.finish()?.iter().map(|channel| channel.zero_pages).sum();
/// assert_eq!(zero, 2);
/// # Ok(())
/// # }
/// ```
pub trait Worker: Send {
    /// What is submitted to the pool.
    type Batch: Send;

    /// Deals with one batch. When it returns, in success or failure, nothing may touch what the batch points to.
    ///
    /// # Errors
    /// Any error stops the pool. A panic does the same.
    fn run(&mut self, batch: Self::Batch, context: &mut ChannelContext<'_>) -> Result<(), WorkError>;
}

/// Channels that run batches of type `B`. Made by [`Pool::builder`].
///
/// Dropping it drops what is queued, waits for what runs, and joins the threads.
pub struct Pool<B: Send + 'static> {
    shared: Arc<Shared<B>>,
    threads: Vec<JoinHandle<()>>,
    cancel: Cancel,
}

pub(crate) struct Shared<B> {
    pub(crate) queue: Queue<B, PoolError>,
    pub(crate) counters: Vec<SharedCounters>,
}

impl<B: Send + 'static> std::fmt::Debug for Pool<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("channels", &self.channels()).finish_non_exhaustive()
    }
}

impl<B: Send> Wake for Shared<B> {
    fn wake(&self) {
        self.queue.stop(PoolError::Cancelled);
    }
}

impl<B: Send + 'static> Pool<B> {
    /// Begins to describe a pool.
    pub fn builder() -> Builder<B> {
        Builder::new()
    }

    pub(crate) fn begin(shared: Arc<Shared<B>>, threads: Vec<JoinHandle<()>>, cancel: Cancel) -> Self {
        let sleeper: Arc<dyn Wake> = Arc::clone(&shared) as _;
        cancel.register(&sleeper);
        Self { shared, threads, cancel }
    }

    /// Queues a batch for whichever channel is free first; waits while the queue is full.
    ///
    /// # Errors
    /// The batch, and the first thing that went wrong, once the pool has stopped.
    pub fn submit(&self, batch: B) -> Result<(), SubmitError<B>> {
        self.shared
            .queue
            .submit(batch)
            .map_err(|refused| SubmitError { batch: refused.batch, error: refused.reason })
    }

    /// Waits until no batch is queued or running. After an error the queue is dropped, and what runs is waited for: when
    /// this returns, whatever it returns, no channel touches what the submitted batches point to.
    ///
    /// # Errors
    /// The first thing that went wrong since the pool began.
    pub fn sync(&self) -> Result<(), PoolError> {
        self.shared.queue.sync()
    }

    /// Waits as [`sync`](Self::sync) does, ends the threads, and gives what each channel did.
    ///
    /// # Errors
    /// As [`sync`](Self::sync).
    pub fn finish(mut self) -> Result<Vec<ChannelCounters>, PoolError> {
        let result = self.sync();
        self.join();
        result.map(|()| self.counters())
    }

    /// What each channel has done so far, as of the batches that are over.
    pub fn counters(&self) -> Vec<ChannelCounters> {
        self.shared.counters.iter().map(SharedCounters::read).collect()
    }

    /// How many channels there are.
    pub fn channels(&self) -> usize {
        self.shared.counters.len()
    }

    /// How many batches wait at most before [`submit`](Self::submit) does.
    pub fn queue_depth(&self) -> usize {
        self.shared.queue.depth()
    }

    /// A handle that ends the work from any thread.
    pub fn cancel_handle(&self) -> Cancel {
        self.cancel.clone()
    }

    fn join(&mut self) {
        self.shared.queue.close();
        for thread in self.threads.drain(..) {
            // A channel catches what its worker panics with; should one panic all the same, there is nobody to tell.
            let _ = thread.join();
        }
    }
}

impl<B: Send + 'static> Drop for Pool<B> {
    fn drop(&mut self) {
        if !self.threads.is_empty() {
            self.shared.queue.stop(PoolError::Cancelled);
            self.join();
            // A cancel handle in another thread may still be dropping batches.
            let _ = self.shared.queue.sync();
        }
    }
}

/// What a channel's thread does until the queue is closed.
pub(crate) fn run_channel<W: Worker>(index: usize, mut worker: W, shared: &Shared<W::Batch>) {
    let is_stopped = || shared.queue.is_stopped();
    while let Take::Batch(batch) = shared.queue.take() {
        let over = Done(&shared.queue);
        let mut context =
            ChannelContext { index, counters: ChannelCounters::default(), is_stopped: &is_stopped };
        // A worker that panicked is never run again: the pool has stopped.
        let result = catch_unwind(AssertUnwindSafe(|| worker.run(batch, &mut context)));
        shared.counters[index].add(&context.counters);
        if let Some(reason) = reason(index, result) {
            shared.queue.stop(reason);
        }
        drop(over);
    }
}

/// Says that a batch is over, whatever way its channel takes.
struct Done<'c, B, E: Clone>(&'c Queue<B, E>);

impl<B, E: Clone> Drop for Done<'_, B, E> {
    fn drop(&mut self) {
        self.0.done();
    }
}

/// Why the pool must stop, if it must.
fn reason(channel: usize, result: std::thread::Result<Result<(), WorkError>>) -> Option<PoolError> {
    Some(match result {
        Ok(Ok(())) => return None,
        Ok(Err(WorkError::Transfer(error))) => PoolError::Transfer(Arc::new(error)),
        // If another channel stopped the pool, its reason stands: only the first is kept.
        Ok(Err(WorkError::Cancelled)) => PoolError::Cancelled,
        Ok(Err(WorkError::Other(source))) => PoolError::Other { channel, source: Arc::from(source) },
        Err(panic) => PoolError::Panicked { channel, message: message(&*panic) },
    })
}

fn message(panic: &(dyn std::any::Any + Send)) -> String {
    if let Some(text) = panic.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = panic.downcast_ref::<String>() {
        text.clone()
    } else {
        "(no message)".to_owned()
    }
}
