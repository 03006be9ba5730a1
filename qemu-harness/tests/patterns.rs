//! Patterns are what they are called, and the same for the same seed.

use proptest::prelude::*;
use qemu_harness::pattern::Pattern;

const PAGE: usize = 4096;

fn fill(pattern: Pattern, pages: usize, seed: u64) -> Vec<u8> {
    let mut memory = vec![0; pages * PAGE];
    pattern.fill(&mut memory, seed);
    memory
}

/// Which pages are in use.
fn used(memory: &[u8]) -> Vec<bool> {
    memory.chunks(PAGE).map(|page| page.iter().any(|&byte| byte != 0)).collect()
}

proptest! {
    #[test]
    fn the_same_seed_gives_the_same_bytes(pages in 0..600_usize, seed: u64, at in 0..Pattern::ALL.len()) {
        let pattern = Pattern::ALL[at];
        let memory = fill(pattern, pages, seed);
        prop_assert_eq!(&memory, &fill(pattern, pages, seed));
        let other = fill(pattern, pages, seed ^ 1);
        prop_assert_eq!(memory != other, pages > 0 && pattern != Pattern::Zero);
    }

    #[test]
    fn pages_lie_as_the_pattern_says(pages in 0..600_usize, seed: u64) {
        let used_in = |pattern| used(&fill(pattern, pages, seed));
        prop_assert!(used_in(Pattern::Dense).iter().all(|&used| used));
        prop_assert!(used_in(Pattern::Zero).iter().all(|&used| !used));
        prop_assert!(used_in(Pattern::Alternating).iter().enumerate().all(|(page, &used)| used == (page % 2 == 0)));
        for (pattern, longest_run, longest_gap) in [(Pattern::Ragged, 16, 16), (Pattern::Sparse, 63, 1199)] {
            for run in used_in(pattern).chunk_by(|one, two| one == two) {
                prop_assert!(run.len() <= if run[0] { longest_run } else { longest_gap }, "{pattern:?}: {}", run.len());
            }
        }
    }
}
