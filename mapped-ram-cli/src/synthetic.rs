//! A made-up guest: memory that is partly dense, partly sparse, partly zero, the same for the same seed.
//!
//! The memory is made in pieces of 1 MiB, each from a generator of its own, so that they can be filled by many threads and
//! still come out the same. Of ten pieces in a row, the first four are dense, the next three hold runs and gaps of 1 to 16
//! pages, and the last three are zero.

use std::path::Path;

use memmap2::MmapMut;
use rand::{Rng, RngExt, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;
use rayon::prelude::*;

use crate::exit::Problem;

const PIECE: usize = 1 << 20;
const PAGE: usize = 4096;

/// What errors call it.
const WHO: &str = "the made-up guest (--synthetic)";

/// The name of the made-up guest's only block: what QEMU calls `-object memory-backend-ram,id=ram0`.
pub(crate) const NAME: &str = "ram0";

/// `bytes` bytes of memory for `seed`: a mapping of its own, as a guest's memory is, aligned to pages, zero, and untouched
/// where nothing is written. Asks `is_cancelled` before each piece.
pub(crate) fn memory(
    bytes: u64,
    seed: u64,
    is_cancelled: impl Fn() -> bool + Sync,
) -> Result<MmapMut, Problem> {
    // What no machine has is a mistake in the command line; what this one has not is the system's to say.
    let length = usize::try_from(bytes).ok().filter(|length| isize::try_from(*length).is_ok());
    let Some(length) = length else {
        return Err(Problem::Usage(format!(
            "--synthetic: there is no room for {bytes} bytes of memory in any machine"
        )));
    };
    let mut memory = MmapMut::map_anon(length)
        .map_err(|error| Problem::io(Path::new(WHO), format!("get {bytes} bytes of memory for it"), error))?;
    memory.par_chunks_mut(PIECE).enumerate().try_for_each(|(index, piece)| {
        if is_cancelled() {
            return Err(Problem::cancelled(Path::new(WHO)));
        }
        fill(piece, index, seed);
        Ok(())
    })?;
    Ok(memory)
}

fn fill(piece: &mut [u8], index: usize, seed: u64) {
    // The increment is odd, so that no two pieces of one guest share a generator.
    let mix = (index as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mut random = Xoshiro256PlusPlus::seed_from_u64(seed.wrapping_add(mix));
    match index % 10 {
        0..4 => random.fill_bytes(piece),
        4..7 => {
            let mut at = 0;
            while at < piece.len() {
                let end = (at + random.random_range(1..=16) * PAGE).min(piece.len());
                random.fill_bytes(&mut piece[at..end]);
                at = end + random.random_range(1..=16) * PAGE;
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use memmap2::MmapMut;

    use super::PIECE;
    use crate::exit::Problem;

    fn memory(bytes: u64, seed: u64) -> Result<MmapMut, Problem> {
        super::memory(bytes, seed, || false)
    }

    #[test]
    fn the_same_seed_gives_the_same_guest_and_another_seed_another() {
        let one = memory(20 << 20, 1).unwrap();
        assert!(one[..] == memory(20 << 20, 1).unwrap()[..]);
        assert!(one[..] != memory(20 << 20, 2).unwrap()[..]);
        // A longer guest begins like a shorter one.
        assert!(memory(25 << 20, 1).unwrap()[..20 << 20] == one[..]);
    }

    #[test]
    fn parts_are_dense_sparse_and_zero() {
        let memory = memory(10 << 20, 5).unwrap();
        let used: Vec<usize> = memory
            .chunks(PIECE)
            .map(|piece| piece.chunks(4096).filter(|page| page.iter().any(|byte| *byte != 0)).count())
            .collect();
        assert!(used[..4].iter().all(|used| *used == 256), "{used:?}");
        assert!(used[4..7].iter().all(|used| (32..224).contains(used)), "{used:?}");
        assert!(used[7..].iter().all(|used| *used == 0), "{used:?}");
    }

    #[test]
    fn a_guest_that_no_machine_has_room_for_is_refused() {
        let code = |bytes| memory(bytes, 0).unwrap_err().exit_code();
        assert_eq!([u64::MAX, 1 << 63].map(code), [crate::exit::USAGE; 2]);
        // On a larger machine the same is right.
        assert_eq!([1 << 62, 1 << 50].map(code), [crate::exit::IO; 2]);
        let said = memory(1 << 50, 0).unwrap_err().to_string();
        assert!(said.contains(&format!("get {} bytes of memory", 1_u64 << 50)), "{said}");
    }

    #[test]
    fn an_interruption_ends_the_filling() {
        assert_eq!(super::memory(10 << 20, 0, || true).unwrap_err().exit_code(), crate::exit::CANCELLED);
    }
}
