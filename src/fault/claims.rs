//! Who fills which page: two bits a page.
//!
//! ```text
//!              claim           done
//!   missing ----------> claimed ------> done      filled, given up by the guest, or unmapped
//!      ^------ release ----'              a page that is done and missing again is zeros
//! ```
//!
//! A page is claimed by one alone, who reads and puts it. Nothing else orders by these bits: what a page holds is published by the
//! kernel, and that a page given up while it is read is not put is the lock's business ([`super::places`]).

#[cfg(loom)]
use loom::sync::atomic::{AtomicU64, Ordering};
#[cfg(not(loom))]
use std::sync::atomic::{AtomicU64, Ordering};

use crate::convert::to_usize;
use crate::zeroed::try_zeroed;

#[derive(Debug)]
pub(super) struct Claims {
    claimed: Vec<AtomicU64>,
    done: Vec<AtomicU64>,
}

impl Claims {
    /// For `pages` pages, all of them missing; or `None` if the system has no room for the bits.
    pub(super) fn new(pages: u64) -> Option<Self> {
        let words = usize::try_from(pages.div_ceil(64)).ok()?;
        let bits = || Some(try_zeroed(words)?.into_iter().map(AtomicU64::new).collect());
        Some(Self { claimed: bits()?, done: bits()? })
    }

    /// Whether the page was nobody's, and is now the caller's to fill.
    pub(super) fn claim(&self, page: u64) -> bool {
        let (word, bit) = at(page);
        self.claimed[word].fetch_or(bit, Ordering::AcqRel) & bit == 0
    }

    /// Lets another fill a page that was claimed.
    pub(super) fn release(&self, page: u64) {
        let (word, bit) = at(page);
        self.claimed[word].fetch_and(!bit, Ordering::AcqRel);
    }

    /// Nothing of the file has to go there any more. Says whether that is new.
    pub(super) fn finish(&self, page: u64) -> bool {
        let (word, bit) = at(page);
        self.claimed[word].fetch_or(bit, Ordering::AcqRel);
        self.done[word].fetch_or(bit, Ordering::AcqRel) & bit == 0
    }

    pub(super) fn is_done(&self, page: u64) -> bool {
        let (word, bit) = at(page);
        self.done[word].load(Ordering::Acquire) & bit != 0
    }
}

fn at(page: u64) -> (usize, u64) {
    (to_usize(page / 64), 1 << (page % 64))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;

    /// Threads take and give back pages at random; no page is ever held by two, and each is finished once.
    #[test]
    fn a_page_is_held_by_one_and_finished_once() {
        const PAGES: u64 = 200;
        let seed: u64 = rand::random();
        println!("seed {seed}");
        let claims = Claims::new(PAGES).unwrap();
        let holders: Vec<AtomicU32> = (0..PAGES).map(|_| AtomicU32::new(0)).collect();
        let finished = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (claims, holders, finished) = (&claims, &holders, &finished);
                scope.spawn(move || {
                    let mut random = (seed ^ thread) | 1;
                    while finished.load(Ordering::Relaxed) < PAGES {
                        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                        let page = (random >> 33) % PAGES;
                        if !claims.claim(page) {
                            continue;
                        }
                        assert!(!claims.is_done(page));
                        assert_eq!(holders[to_usize(page)].fetch_add(1, Ordering::SeqCst), 0);
                        std::hint::spin_loop();
                        holders[to_usize(page)].fetch_sub(1, Ordering::SeqCst);
                        if random >> 60 == 0 {
                            assert!(claims.finish(page));
                            finished.fetch_add(1, Ordering::Relaxed);
                        } else {
                            claims.release(page);
                        }
                    }
                });
            }
        });
        assert!((0..PAGES).all(|page| claims.is_done(page) && !claims.claim(page) && !claims.finish(page)));
    }
}
