//! Memory that is filled on demand: it is the model's with the guest's writes on top, each page is filled once, and whatever
//! goes wrong is told.
//!
//! These tests need a userfaultfd that also serves the kernel's faults: root, or access to /dev/userfaultfd. Without one they FAIL,
//! but for those of `permission`.

#[macro_use]
#[path = "../support/forward.rs"]
mod forward;

mod failing;
mod filled;
mod lost;
mod memory;
mod permission;
mod refused;
mod remote;

use std::path::Path;

use mapped_ram::Reader;
use mapped_ram::fault::{FaultHandler, FaultOptions, FaultTarget};
use memory::{Memory, Page};
use tempfile::TempDir;

/// How many pages the guest of [`pages`] has.
const PAGES: usize = 200;

/// A guest of every kind of page: a quarter is absent, a quarter has stale bytes, the rest is present.
fn pages() -> Vec<Page> {
    let page = |page: usize| match page % 4 {
        0 => Page::Absent,
        1 => Page::Stale(5),
        _ => Page::Present(u8::try_from(page % 99).unwrap() + 1),
    };
    (0..PAGES).map(page).collect()
}

fn dir() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn open(path: &Path) -> Reader {
    Reader::open(path).unwrap()
}

/// Fills `memory` from block `ram0`.
fn start(options: FaultOptions, reader: &Reader, memory: &Memory, page: usize) -> FaultHandler {
    let block = reader.block("ram0").unwrap();
    let target = FaultTarget::new(block, memory.start.as_ptr(), memory.length).page_size(page as u64);
    // SAFETY: mapped by the test, and touched through raw pointers only.
    unsafe { options.start(&[target]) }.unwrap()
}
