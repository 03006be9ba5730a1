//! What signals do: an interruption ends the work in order, and a limit on file sizes is an error like any other.

use std::ptr;

use mapped_ram::Cancel;
use nix::libc;
use nix::sys::signal::{SigHandler, SigSet, Signal, signal};

/// What ends the work in order.
const INTERRUPTIONS: [Signal; 3] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];

/// Makes a write past `RLIMIT_FSIZE` an error (EFBIG) that can be told with block and offset; the signal that comes first
/// would end the command without a word.
pub(crate) fn ignore_file_size_limit() {
    // The only error is that of an unknown signal; then it cannot come either.
    // SAFETY: ignoring a signal installs no handler, so no code of ours can run at a bad moment.
    let _ = unsafe { signal(Signal::SIGXFSZ, SigHandler::SigIgn) };
}

/// A handle that SIGINT, SIGTERM and SIGHUP use, so that what was begun is cleaned up. Those that whoever started the command had it
/// ignore (`nohup`, a shell's jobs in the background) stay ignored.
///
/// From here on these signals no longer end the command by themselves: whatever may take long must look at the handle.
pub(crate) fn interruptible() -> Cancel {
    let cancel = Cancel::new();
    let handle = cancel.clone();
    let ignored: SigSet = INTERRUPTIONS.into_iter().filter(|signal| is_ignored(*signal)).collect();
    // Held back while all three have the handler. There are no other threads yet that could take one meanwhile, and the one that is
    // begun here inherits this.
    let held = ignored.thread_swap_mask(nix::sys::signal::SigmaskHow::SIG_BLOCK);
    // Without it an interruption still leaves no half-written file: an unfinished one has no name yet.
    let _ = ctrlc::set_handler(move || handle.cancel());
    for ignored in &ignored {
        // As above. What was held back is forgotten with it.
        // SAFETY: ignoring a signal installs no handler.
        let _ = unsafe { signal(ignored, SigHandler::SigIgn) };
    }
    if let Ok(before) = held {
        let _ = before.thread_set_mask();
    }
    cancel
}

/// Whether `signal` is ignored now.
fn is_ignored(signal: Signal) -> bool {
    let mut now = std::mem::MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: asks only, and writes to memory of our own.
    let asked = unsafe { libc::sigaction(signal as libc::c_int, ptr::null(), now.as_mut_ptr()) };
    // SAFETY: filled by the call, which went well.
    asked == 0 && unsafe { now.assume_init() }.sa_sigaction == libc::SIG_IGN
}
