//! The loop over pages with AVX2. Why it is assembly stands in the module above.

use super::{GRAIN, PAGES_AHEAD};
use std::arch::asm;

/// Bytes between two branches: four lines, each of four registers taking two loads. 128, 256 and 512 were equal within
/// 2 percent in memory and in cache; 256 was the best of them outside the cache (30.2, 29.8 and 29.9 GiB/s).
const STEP: usize = 256;
const _: () = assert!(GRAIN.is_multiple_of(STEP));

/// A [`Kernel`](super::Kernel).
///
/// # Safety
///
/// As for every kernel, and the processor has AVX2.
pub(super) unsafe fn pages(start: *const u8, page_size: usize, pages: usize) -> u64 {
    let word;
    // SAFETY: loads only, all of them inside the pages that the caller vouches for: `at` runs in whole steps from a
    // page's start to its end. A prefetch may point anywhere. `vzeroupper` changes all of the registers named.
    unsafe {
        asm!(
            "xor {index:e}, {index:e}",
            "xor {word:e}, {word:e}",
            "2:", // The first line alone, so that a page that starts with data costs one line.
            "vmovdqu ymm0, [{page}]",
            "vpor ymm0, ymm0, [{page} + 32]",
            "vptest ymm0, ymm0",
            "jnz 4f",
            "mov {at}, {page}",
            "lea {end}, [{page} + {size}]",
            "3:",
            "vmovdqu ymm0, [{at}]",
            "vmovdqu ymm1, [{at} + 32]",
            "vmovdqu ymm2, [{at} + 64]",
            "vmovdqu ymm3, [{at} + 96]",
            "vpor ymm0, ymm0, [{at} + 128]",
            "vpor ymm1, ymm1, [{at} + 160]",
            "vpor ymm2, ymm2, [{at} + 192]",
            "vpor ymm3, ymm3, [{at} + 224]",
            "vpor ymm0, ymm0, ymm1",
            "vpor ymm2, ymm2, ymm3",
            "vpor ymm0, ymm0, ymm2",
            "vptest ymm0, ymm0",
            "jnz 4f",
            "add {at}, {step}",
            "cmp {at}, {end}",
            "jne 3b",
            "jmp 5f",
            "4:", // The page holds data.
            "bts {word}, {index}",
            "prefetcht0 [{page} + {size} * {ahead}]",
            "5:", // The next page.
            "add {page}, {size}",
            "inc {index}",
            "cmp {index}, {pages}",
            "jne 2b",
            "vzeroupper",
            page = inout(reg) start => _,
            size = in(reg) page_size,
            pages = in(reg) pages,
            word = out(reg) word,
            index = out(reg) _,
            at = out(reg) _,
            end = out(reg) _,
            step = const STEP,
            ahead = const PAGES_AHEAD,
            out("ymm0") _, out("ymm1") _, out("ymm2") _, out("ymm3") _,
            out("ymm4") _, out("ymm5") _, out("ymm6") _, out("ymm7") _,
            out("ymm8") _, out("ymm9") _, out("ymm10") _, out("ymm11") _,
            out("ymm12") _, out("ymm13") _, out("ymm14") _, out("ymm15") _,
            options(nostack, readonly),
        );
    }
    word
}
