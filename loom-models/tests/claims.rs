//! Who fills which page of memory on demand, under the model checker: the library's own `claims`, with channels, the thread of faults
//! and a guest around it that do as `background`, `serve` and `shared` do.
//!
//! The kernel is a page that is there or not, in a lock: it puts a page only where none is. What a page holds is in memory of loom's,
//! whose check fails if anybody who relies on a bit may see less than what was written before it was set.
//!
//! `scripts/check-loom`

#![cfg(loom)]

#[path = "../../src/fault/claims.rs"]
mod claims;
#[path = "../../src/convert.rs"]
#[allow(dead_code, reason = "the library uses all of it")]
mod convert;
#[path = "../../src/zeroed.rs"]
mod zeroed;

use claims::Claims;
use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::sync::{Arc, Mutex, RwLock};
use loom::thread;

/// All pages of the models are in one word: the hardest case.
const PAGE: u64 = 5;

struct Memory {
    claims: Claims,
    /// What was read of the file, by who has claimed the page.
    bytes: UnsafeCell<u8>,
    /// The kernel's: whether the page is there.
    there: Mutex<bool>,
    /// Held for reading by who puts, for writing by who hears of the guest's changes.
    places: RwLock<()>,
    filled: AtomicUsize,
    given_up: AtomicUsize,
    reads: AtomicUsize,
}

// SAFETY: loom itself checks every access to the cell.
unsafe impl Sync for Memory {}

impl Memory {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            claims: Claims::new(8).unwrap(),
            bytes: UnsafeCell::new(0),
            there: Mutex::new(false),
            places: RwLock::new(()),
            filled: AtomicUsize::new(0),
            given_up: AtomicUsize::new(0),
            reads: AtomicUsize::new(0),
        })
    }

    /// As `Shared::resolve`.
    fn resolve(&self, count: &AtomicUsize) {
        if self.claims.finish(PAGE) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// As a channel or the thread of faults: claims, reads, puts. Says whether the page was its to fill. A read may fail.
    fn fill(&self, fails: bool) -> bool {
        if !self.claims.claim(PAGE) {
            return false;
        }
        self.reads.fetch_add(1, Ordering::Relaxed);
        // Two that hold the claim at once would be a race here.
        // SAFETY: the claim is ours.
        self.bytes.with_mut(|bytes| unsafe { *bytes = if fails { 0 } else { 9 } });
        if fails {
            // As `Shared::give_back`.
            if !self.claims.is_done(PAGE) {
                self.claims.release(PAGE);
            }
            return true;
        }
        // As `Shared::put`.
        let _places = self.places.read().unwrap();
        if !self.claims.is_done(PAGE) {
            let was_there = std::mem::replace(&mut *self.there.lock().unwrap(), true);
            assert!(!was_there, "put twice");
            self.resolve(&self.filled);
        }
        true
    }

    /// Whoever believes that the page is filled finds all of it.
    fn look(&self) {
        if self.claims.is_done(PAGE) {
            // Before the lock, which would order what the bit alone must.
            // SAFETY: the page is done: nobody writes it any more.
            self.bytes.with(|bytes| assert_eq!(unsafe { *bytes }, 9));
            assert!(*self.there.lock().unwrap());
        }
    }
}

fn model(test: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(test);
}

fn spawn(memory: &Arc<Memory>, run: impl FnOnce(&Memory) + 'static) -> thread::JoinHandle<()> {
    let memory = Arc::clone(memory);
    thread::spawn(move || run(&memory))
}

#[test]
fn two_channels_and_a_fault_fill_a_page_once() {
    model(|| {
        let memory = Memory::new();
        let channels: Vec<_> = (0..2)
            .map(|_| {
                spawn(&memory, |memory| {
                    memory.fill(false);
                    memory.look();
                })
            })
            .collect();
        memory.fill(false);
        memory.look();
        for channel in channels {
            channel.join().unwrap();
        }
        memory.look();
        assert!(memory.claims.is_done(PAGE) && !memory.claims.claim(PAGE));
        assert_eq!(memory.reads.load(Ordering::Relaxed), 1);
        assert_eq!(memory.filled.load(Ordering::Relaxed), 1);
    });
}

#[test]
fn a_claim_that_failed_can_be_made_again() {
    model(|| {
        let memory = Memory::new();
        let channels = [
            spawn(&memory, |memory| {
                memory.fill(true);
                memory.look();
            }),
            spawn(&memory, |memory| {
                memory.fill(false);
                memory.look();
            }),
        ];
        memory.fill(true);
        memory.look();
        for channel in channels {
            channel.join().unwrap();
        }
        // Who waits for it is woken, and asks again.
        if !memory.claims.is_done(PAGE) {
            assert!(memory.fill(false), "nobody may have it any more");
        }
        memory.look();
        assert!(memory.claims.is_done(PAGE));
        assert_eq!(memory.filled.load(Ordering::Relaxed), 1);
    });
}

#[test]
fn pages_of_one_word_are_claimed_apart() {
    model(|| {
        let claims = Arc::new(Claims::new(8).unwrap());
        let channels: Vec<_> = (0..2)
            .map(|channel| {
                let claims = Arc::clone(&claims);
                thread::spawn(move || {
                    assert!(claims.claim(channel));
                    if channel == 0 {
                        claims.release(channel);
                    } else {
                        assert!(claims.finish(channel));
                    }
                })
            })
            .collect();
        assert!(claims.claim(2));
        assert!(!claims.is_done(2));
        for channel in channels {
            channel.join().unwrap();
        }
        assert!(claims.claim(0) && !claims.claim(1) && !claims.claim(2));
        assert!(!claims.is_done(0) && claims.is_done(1) && !claims.is_done(2));
    });
}

/// The guest gives a page up while a channel reads it, with or without success, and another may try again: it is counted once, and
/// never put afterwards.
#[test]
fn a_page_that_is_given_up_is_never_put_afterwards() {
    for fails in [false, true] {
        model(move || {
            let memory = Memory::new();
            let channels = [
                spawn(&memory, move |memory| {
                    memory.fill(fails);
                }),
                spawn(&memory, |memory| {
                    memory.fill(false);
                }),
            ];
            {
                // As `Server::listen`.
                let _places = memory.places.write().unwrap();
                memory.resolve(&memory.given_up);
                *memory.there.lock().unwrap() = false;
            }
            for channel in channels {
                channel.join().unwrap();
            }
            assert!(!*memory.there.lock().unwrap(), "the guest sees what it gave up");
            assert!(memory.claims.is_done(PAGE));
            let counted = memory.filled.load(Ordering::Relaxed) + memory.given_up.load(Ordering::Relaxed);
            assert_eq!(counted, 1);
        });
    }
}
