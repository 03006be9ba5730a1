//! One word at a time, on any machine.

const WORD: usize = size_of::<usize>();

/// How many words are looked at between two decisions: enough to hide the branch, few enough for an early way out.
const UNROLL: usize = 8;

/// Whether the `len` bytes from `start` on are all zero.
///
/// # Safety
/// The bytes must be readable until it returns.
pub(super) unsafe fn is_zero(start: *const u8, len: usize) -> bool {
    // SAFETY: each read below is of a byte or an aligned word between `start` and `start + len`; volatile, because the
    // memory may change meanwhile.
    unsafe {
        let head = start.align_offset(WORD).min(len);
        let mut found = 0;
        for i in 0..head {
            found |= usize::from(start.add(i).read_volatile());
        }
        let words = (len - head) / WORD;
        #[expect(clippy::cast_ptr_alignment, reason = "`align_offset` has aligned it, or no word is left")]
        let first = start.add(head).cast::<usize>();
        let mut i = 0;
        while found == 0 && i + UNROLL <= words {
            for k in 0..UNROLL {
                found |= first.add(i + k).read_volatile();
            }
            i += UNROLL;
        }
        for i in i..words {
            found |= first.add(i).read_volatile();
        }
        for i in head + words * WORD..len {
            found |= usize::from(start.add(i).read_volatile());
        }
        found == 0
    }
}
