//! Which mode the channels of a save get: what was asked for, what suits the save, what the file system takes.

use super::options::SaveOptions;
use super::policy::SyncMode;
use crate::ram_block::{Place, RamBlock};
use crate::read::DIRECT_ALIGNMENT;
use crate::storage::{IoMode, Storage, open};

/// The mode that the channels get, and what is to be said of it.
pub(super) fn pick_mode(
    options: &SaveOptions<'_>,
    storage: &dyn Storage,
    memory: &[RamBlock<'_>],
) -> (IoMode, Vec<String>) {
    let mut notes = Vec::new();
    let wanted = match options.io_mode {
        IoMode::Auto if options.sync == SyncMode::None => IoMode::Buffered,
        IoMode::Auto => {
            let is_aligned = |block: &RamBlock<'_>| match block.place {
                Place::Here(start) => start.addr().is_multiple_of(DIRECT_ALIGNMENT),
                Place::Detached | Place::LeftOut => true,
            };
            let is_large = options.page_size.is_multiple_of(DIRECT_ALIGNMENT as u64);
            if !is_large || !memory.iter().all(is_aligned) {
                IoMode::Uncached
            } else if storage.effective_mode(IoMode::Uring) == IoMode::Uring {
                IoMode::Uring
            } else {
                IoMode::Mixed
            }
        }
        other => other,
    };
    let got = storage.effective_mode(wanted);
    if got != wanted {
        notes.push(shortfall(wanted, got, open::can_reopen()));
    } else if options.io_mode == IoMode::Auto {
        notes.push(format!("wrote {got}, which suits a save with --sync {}", options.sync));
    }
    (got, notes)
}

/// Why `wanted` could not be had.
fn shortfall(wanted: IoMode, got: IoMode, can_reopen: bool) -> String {
    match wanted {
        // These take a descriptor of their own.
        IoMode::Direct | IoMode::Mixed | IoMode::Uring if !can_reopen => {
            format!("/proc is not mounted, and without it there are no {wanted} writes; wrote {got}")
        }
        _ => format!("the file system or kernel has no {wanted} writes here; wrote {got}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_is_blamed_where_it_is_missed_and_matters() {
        use IoMode::{Buffered, Direct, Mixed, Uncached, Uring};
        for mode in [Direct, Mixed, Uring] {
            assert!(
                shortfall(mode, Buffered, false)
                    .starts_with(&format!("/proc is not mounted, and without it there are no {mode}"))
            );
            assert!(shortfall(mode, Buffered, true).starts_with("the file system or kernel"));
        }
        assert!(shortfall(Uncached, Buffered, false).starts_with("the file system or kernel"));
    }
}
