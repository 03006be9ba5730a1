//! NEON, as inline assembly.

use std::arch::asm;

use super::STEP;

/// # Safety
/// `len` bytes from `start` on must be readable until it returns; `len` is a multiple of `STEP`, at least one.
pub(super) unsafe fn neon(start: *const u8, len: usize) -> bool {
    let left: usize;
    // SAFETY: reads the `len` bytes that are readable by this function's contract and nothing else; writes no memory.
    unsafe {
        asm!(
            "2:",
            "ldp q0, q1, [{at}]",
            "ldp q2, q3, [{at}, #32]",
            "ldp q4, q5, [{at}, #64]",
            "ldp q6, q7, [{at}, #96]",
            "orr v0.16b, v0.16b, v4.16b",
            "orr v1.16b, v1.16b, v5.16b",
            "orr v2.16b, v2.16b, v6.16b",
            "orr v3.16b, v3.16b, v7.16b",
            "ldp q4, q5, [{at}, #128]",
            "ldp q6, q7, [{at}, #160]",
            "orr v0.16b, v0.16b, v4.16b",
            "orr v1.16b, v1.16b, v5.16b",
            "orr v2.16b, v2.16b, v6.16b",
            "orr v3.16b, v3.16b, v7.16b",
            "ldp q4, q5, [{at}, #192]",
            "ldp q6, q7, [{at}, #224]",
            "orr v0.16b, v0.16b, v4.16b",
            "orr v1.16b, v1.16b, v5.16b",
            "orr v2.16b, v2.16b, v6.16b",
            "orr v3.16b, v3.16b, v7.16b",
            "orr v0.16b, v0.16b, v1.16b",
            "orr v2.16b, v2.16b, v3.16b",
            "orr v0.16b, v0.16b, v2.16b",
            "umaxv b0, v0.16b",
            "umov {found:w}, v0.b[0]",
            "cbnz {found:w}, 3f",
            "add {at}, {at}, #{step}",
            "subs {left}, {left}, #{step}",
            "b.ne 2b",
            "3:",
            at = inout(reg) start => _,
            left = inout(reg) len => left,
            found = out(reg) _,
            step = const STEP,
            out("v0") _, out("v1") _, out("v2") _, out("v3") _, out("v4") _, out("v5") _, out("v6") _, out("v7") _,
            options(nostack, readonly),
        );
    }
    left == 0
}
