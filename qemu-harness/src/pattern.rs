//! What guest memory looks like: dense, sparse, ragged. The same bytes for the same seed.

use rand::{Rng, RngExt, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;

const PAGE: usize = 4096;

/// How the pages that are in use lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// All of them, random.
    Dense,
    /// About one in twenty, in runs.
    Sparse,
    /// Runs and gaps of 1 to 16 pages.
    Ragged,
    /// Every other page.
    Alternating,
    /// None.
    Zero,
}

impl Pattern {
    /// Every pattern.
    pub const ALL: [Self; 5] = [Self::Dense, Self::Sparse, Self::Ragged, Self::Alternating, Self::Zero];

    /// Fills `memory`, which was zero.
    pub fn fill(self, memory: &mut [u8], seed: u64) {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
        let pages = memory.len() / PAGE;
        let mut at = 0;
        while at < pages {
            let (used, gap) = match self {
                Self::Dense => (pages, 0),
                Self::Sparse => (random.random_range(1..64), random.random_range(64..1200)),
                Self::Ragged => (random.random_range(1..=16), random.random_range(1..=16)),
                Self::Alternating => (1, 1),
                Self::Zero => (0, pages),
            };
            let end = (at + used).min(pages);
            random.fill_bytes(&mut memory[at * PAGE..end * PAGE]);
            at = end + gap;
        }
    }
}
