//! What signals do: an interruption ends the work in order, and a limit on file sizes is an error like any other.

use mapped_ram::Cancel;
use nix::sys::signal::{SigHandler, Signal, signal};

/// Makes a write past `RLIMIT_FSIZE` an error (EFBIG) that can be told with block and offset; the signal that comes first
/// would end the command without a word.
pub(crate) fn ignore_file_size_limit() {
    // The only error is that of an unknown signal; then it cannot come either.
    // SAFETY: ignoring a signal installs no handler, so no code of ours can run at a bad moment.
    let _ = unsafe { signal(Signal::SIGXFSZ, SigHandler::SigIgn) };
}

/// A handle that SIGINT, SIGTERM and SIGHUP use, so that what was begun is cleaned up.
///
/// From here on these signals no longer end the command by themselves: whatever may take long must look at the handle.
pub(crate) fn interruptible() -> Cancel {
    let cancel = Cancel::new();
    let handle = cancel.clone();
    // Without it an interruption still leaves no half-written file: an unfinished one has no name yet.
    let _ = ctrlc::set_handler(move || handle.cancel());
    cancel
}
