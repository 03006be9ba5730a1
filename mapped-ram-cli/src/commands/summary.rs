//! What `save` and `copy` say in the end: lines for people, or one JSON object for programs.

use std::path::Path;
use std::time::Duration;

use mapped_ram::SaveReport;
use serde_json::json;

use crate::args::{Mode, Stats, WriteArgs};
use crate::exit::Problem;
use crate::say;
use crate::size::{gib_per_second, show};

/// What became of the pages of all blocks that the file holds: each is either written or zero.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pages {
    pub(crate) written: u64,
    pub(crate) zero: u64,
    /// Those of the zero ones that were known to be so without a look.
    pub(crate) untouched: u64,
}

impl Pages {
    /// By the counters of a save.
    pub(crate) fn of(report: &SaveReport) -> Self {
        Self { written: report.pages_written(), zero: report.zero_pages(), untouched: report.untouched_pages }
    }
}

/// Sums up what was written to `out`. `warnings` are notes that everybody is told.
pub(crate) fn tell(
    out: &Path,
    args: &WriteArgs,
    report: &SaveReport,
    pages: Pages,
    warnings: &[String],
) -> Result<(), Problem> {
    let scattered = report.pieces_given_back.map(|pieces| {
        format!(
            "the file to recycle was in {pieces} small pieces, and takes longer to write over than new room: its room was given back, and \
             new room taken"
        )
    });
    let warnings: Vec<String> = warnings.iter().cloned().chain(scattered).collect();
    for warning in &warnings {
        say::note(warning);
    }
    // Who asked for a mode is told that it could not be had, and who asked for nothing need not know.
    if args.verbose || args.direct_io || args.mode != Mode::Auto {
        for note in &report.notes {
            say::note(note);
        }
    }
    match args.stats {
        Stats::Text => say::line(&text(out, report, pages)),
        Stats::Json => say::json_line(&json(out, report, pages, &warnings)),
    }
}

fn total_time(report: &SaveReport) -> Duration {
    report.write_time + report.sync_time
}

/// Bytes of guest memory a second, in GiB.
fn rate(report: &SaveReport) -> f64 {
    gib_per_second(report.guest_bytes, total_time(report))
}

fn text(out: &Path, report: &SaveReport, pages: Pages) -> String {
    let room = report.disk_bytes.map_or(String::new(), |bytes| format!(", {} on disk", show(bytes)));
    format!(
        "{}: {} of guest memory, {} pages written, {} zero; file of {}{room}; {:.2} s ({:.2} s to write, {:.2} s to \
         sync), {:.2} GiB/s, {}",
        out.display(),
        show(report.guest_bytes),
        pages.written,
        pages.zero,
        show(report.file_length),
        total_time(report).as_secs_f64(),
        report.write_time.as_secs_f64(),
        report.sync_time.as_secs_f64(),
        rate(report),
        report.io_mode,
    )
}

fn json(out: &Path, report: &SaveReport, pages: Pages, warnings: &[String]) -> serde_json::Value {
    let totals = report.totals();
    json!({
        "file": out.to_string_lossy(),
        "guest_bytes": report.guest_bytes,
        "pages_written": pages.written,
        "zero_pages": pages.zero,
        "untouched_pages": pages.untouched,
        "bytes_written": totals.bytes,
        "write_calls": totals.calls,
        "file_bytes": report.file_length,
        "disk_bytes": report.disk_bytes,
        "seconds": total_time(report).as_secs_f64(),
        "write_seconds": report.write_time.as_secs_f64(),
        "sync_seconds": report.sync_time.as_secs_f64(),
        "gib_per_second": rate(report),
        "channels": report.channels.len(),
        "mode": report.io_mode.name(),
        "sync": report.sync.name(),
        "notes": warnings.iter().chain(&report.notes).collect::<Vec<_>>(),
    })
}
