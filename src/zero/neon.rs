//! The loop over pages with NEON. Why it is assembly stands in the module above.
//!
//! The constants are those of SSE2, which has registers of the same width; nobody has measured them on Arm yet.

use super::{GRAIN, PAGES_AHEAD};
use std::arch::asm;

/// Bytes between two branches.
const STEP: usize = 128;
const _: () = assert!(GRAIN.is_multiple_of(STEP));

/// A [`Kernel`](super::Kernel).
///
/// # Safety
///
/// As for every kernel, and the processor has NEON.
pub(super) unsafe fn pages(start: *const u8, page_size: usize, pages: usize) -> u64 {
    let word;
    // SAFETY: loads only, all of them inside the pages that the caller vouches for: `at` runs in whole steps from a
    // page's start to its end. A prefetch may point anywhere.
    unsafe {
        asm!(
            "mov {index}, #0",
            "mov {word}, #0",
            "2:", // The first line alone, so that a page that starts with data costs one line.
            "ldp q0, q1, [{page}]",
            "ldp q2, q3, [{page}, #32]",
            "orr v0.16b, v0.16b, v1.16b",
            "orr v2.16b, v2.16b, v3.16b",
            "orr v0.16b, v0.16b, v2.16b",
            "umaxp v0.4s, v0.4s, v0.4s",
            "fmov {bits}, d0",
            "cbnz {bits}, 4f",
            "mov {at}, {page}",
            "add {end}, {page}, {size}",
            "3:",
            "ldp q0, q1, [{at}]",
            "ldp q2, q3, [{at}, #32]",
            "ldp q4, q5, [{at}, #64]",
            "ldp q6, q7, [{at}, #96]",
            "orr v0.16b, v0.16b, v4.16b",
            "orr v1.16b, v1.16b, v5.16b",
            "orr v2.16b, v2.16b, v6.16b",
            "orr v3.16b, v3.16b, v7.16b",
            "orr v0.16b, v0.16b, v1.16b",
            "orr v2.16b, v2.16b, v3.16b",
            "orr v0.16b, v0.16b, v2.16b",
            "umaxp v0.4s, v0.4s, v0.4s",
            "fmov {bits}, d0",
            "cbnz {bits}, 4f",
            "add {at}, {at}, #{step}",
            "cmp {at}, {end}",
            "b.ne 3b",
            "b 5f",
            "4:", // The page holds data.
            "mov {bits}, #1",
            "lsl {bits}, {bits}, {index}",
            "orr {word}, {word}, {bits}",
            "mov {bits}, #{ahead}",
            "madd {at}, {size}, {bits}, {page}",
            "prfm pldl1keep, [{at}]",
            "5:", // The next page.
            "add {page}, {page}, {size}",
            "add {index}, {index}, #1",
            "cmp {index}, {pages}",
            "b.ne 2b",
            page = inout(reg) start => _,
            size = in(reg) page_size,
            pages = in(reg) pages,
            word = out(reg) word,
            index = out(reg) _,
            at = out(reg) _,
            end = out(reg) _,
            bits = out(reg) _,
            step = const STEP,
            ahead = const PAGES_AHEAD,
            out("v0") _, out("v1") _, out("v2") _, out("v3") _,
            out("v4") _, out("v5") _, out("v6") _, out("v7") _,
            options(nostack, readonly),
        );
    }
    word
}
