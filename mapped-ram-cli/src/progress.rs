//! Progress bars, on a terminal alone.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use mapped_ram::Progress;

/// A bar on stderr; nothing where stderr is no terminal.
pub(crate) fn bar(what: &'static str, total: u64) -> ProgressBar {
    // indicatif draws to a terminal only.
    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
    let template = "{msg} [{wide_bar}] {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec}";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.set_message(what);
    bar
}

/// What the library calls while it works.
pub(crate) fn callback(bar: &ProgressBar) -> impl FnMut(&Progress) + Send + '_ {
    |progress| {
        bar.set_length(progress.total_bytes);
        bar.set_position(progress.done_bytes);
    }
}
