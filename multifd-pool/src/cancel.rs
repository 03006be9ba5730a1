//! A handle that ends the work from outside.
//!
//! It is a flag, and a list of those that may be asleep when it is raised. The list holds weak references: a handle keeps no pool
//! alive.

use std::fmt;
use std::sync::{Arc, Weak};

use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Mutex, MutexGuard, lock};

/// Something that must be told at once, since it may be asleep.
pub(crate) trait Wake: Send + Sync {
    fn wake(&self);
}

/// A handle that ends the work from outside. Clones are the same handle; one handle may serve several pools.
///
/// Cancelling is final. Whoever waits for a full queue, or for a sync, is told at once; a channel stops before its next
/// system call. A system call that has begun is waited for: the kernel may still be writing to or reading from memory.
///
/// ```
/// use multifd_pool::{Cancel, FileChannel, IoBatch, IoWorker, Pool, PoolError};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let file = tempfile::tempfile()?;
/// let cancel = Cancel::new();
/// let pool: Pool<IoBatch> = Pool::builder()
///     .cancel(cancel.clone())
///     .spawn(|_| Ok(IoWorker::new(FileChannel::buffered(file.try_clone()?))))?;
/// // From any thread, such as one that waits for a signal.
/// std::thread::spawn(move || cancel.cancel()).join().unwrap();
/// assert!(matches!(pool.sync(), Err(PoolError::Cancelled)));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Default)]
pub struct Cancel {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    cancelled: AtomicBool,
    sleepers: Mutex<Vec<Weak<dyn Wake>>>,
}

impl fmt::Debug for Cancel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cancel").field("cancelled", &self.is_cancelled()).finish()
    }
}

impl Cancel {
    /// A handle that nobody has used yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Ends the work of every pool that has this handle.
    pub fn cancel(&self) {
        self.shared.cancelled.store(true, Ordering::Release);
        let sleepers = std::mem::take(&mut *self.sleepers());
        for sleeper in sleepers.iter().filter_map(Weak::upgrade) {
            sleeper.wake();
        }
    }

    /// Whether [`cancel`](Self::cancel) was called.
    pub fn is_cancelled(&self) -> bool {
        self.shared.cancelled.load(Ordering::Acquire)
    }

    /// Has `sleeper` told when the handle is used; at once if it was.
    pub(crate) fn register(&self, sleeper: &Arc<dyn Wake>) {
        {
            let mut sleepers = self.sleepers();
            sleepers.retain(|other| other.strong_count() != 0);
            sleepers.push(Arc::downgrade(sleeper));
        }
        // Asked after the entry was made, so that no cancellation falls between the two.
        if self.is_cancelled() {
            sleeper.wake();
        }
    }

    fn sleepers(&self) -> MutexGuard<'_, Vec<Weak<dyn Wake>>> {
        lock(&self.shared.sleepers)
    }
}
