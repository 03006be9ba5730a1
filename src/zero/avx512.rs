//! The loop over pages with AVX-512F. Why it is assembly stands in the module above.

use super::{GRAIN, PAGES_AHEAD};
use std::arch::asm;

/// Bytes between two branches. Longer bursts of wide loads are slower outside the cache: 64, 128, 256 bytes gave 29.5, 29.0,
/// 28.0 GiB/s with huge pages and 22.7, 21.8, 19.2 with 4 KiB pages, but 81, 91, 94 in cache.
const STEP: usize = 128;
const _: () = assert!(GRAIN.is_multiple_of(STEP));

/// A [`Kernel`](super::Kernel).
///
/// # Safety
///
/// As for every kernel, and the processor has AVX-512F.
pub(super) unsafe fn pages(start: *const u8, page_size: usize, pages: usize) -> u64 {
    let word;
    // SAFETY: loads only, all of them inside the pages that the caller vouches for: `at` runs in whole steps from a
    // page's start to its end. A prefetch may point anywhere. `vzeroupper` changes all of the registers named.
    unsafe {
        asm!(
            "xor {index:e}, {index:e}",
            "xor {word:e}, {word:e}",
            "2:", // The first line alone, so that a page that starts with data costs one line.
            "vmovdqu64 zmm0, [{page}]",
            "vptestmq k1, zmm0, zmm0",
            "kortestw k1, k1",
            "jnz 4f",
            "mov {at}, {page}",
            "lea {end}, [{page} + {size}]",
            "3:",
            "vmovdqu64 zmm0, [{at}]",
            "vporq zmm0, zmm0, [{at} + 64]",
            "vptestmq k1, zmm0, zmm0",
            "kortestw k1, k1",
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
            out("k1") _,
            out("zmm0") _, out("zmm1") _, out("zmm2") _, out("zmm3") _,
            out("zmm4") _, out("zmm5") _, out("zmm6") _, out("zmm7") _,
            out("zmm8") _, out("zmm9") _, out("zmm10") _, out("zmm11") _,
            out("zmm12") _, out("zmm13") _, out("zmm14") _, out("zmm15") _,
            options(nostack, readonly),
        );
    }
    word
}
