//! Which pages of this process' memory are present or swapped out, as the kernel's page tables say.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use nix::errno::Errno;

use super::{bytes, smaps};
use crate::map::host_page;

/// How the kernel is asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(not(test), expect(dead_code, reason = "tests force the ways of older kernels"))]
pub(crate) enum Method {
    /// The best that it knows.
    #[default]
    Best,
    /// `/proc/self/pagemap`, as on kernels before Linux 6.7.
    Read,
    /// Not at all, as where /proc is not mounted.
    None,
}

/// How many stretches one `PAGEMAP_SCAN` gives at most: 12 KiB, some hundred microseconds of a fragmented guest.
const REGIONS: usize = 512;

/// How many entries of `/proc/self/pagemap` are read at a time: 64 KiB, for 32 MiB of memory.
const ENTRIES: usize = 8 << 10;

// `PAGEMAP_SCAN`: `_IOWR('f', 16, struct pm_scan_arg)`, from the kernel's manual (admin-guide/mm/pagemap).
nix::ioctl_readwrite!(pagemap_scan, b'f', 16, ScanArg);

const PAGE_IS_PRESENT: u64 = 1 << 3;
const PAGE_IS_SWAPPED: u64 = 1 << 4;
const PAGE_IS_PFNZERO: u64 = 1 << 5;

/// In `/proc/self/pagemap`: the page is in memory, or in swap.
const ENTRY_PRESENT: u64 = 1 << 63;
const ENTRY_SWAPPED: u64 = 1 << 62;

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Region {
    start: u64,
    end: u64,
    categories: u64,
}

#[repr(C)]
#[derive(Default)]
struct ScanArg {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

const _: () = assert!(size_of::<ScanArg>() == 96 && size_of::<Region>() == 24);

/// What is present of one stretch of memory, in bytes from its start.
pub(super) struct Pagemap {
    file: File,
    scan: bool,
    start: u64,
    length: u64,
    page: u64,
    /// Present stretches that were found and not given out yet, as addresses, the next one last.
    found: Vec<Range<u64>>,
    /// Addresses below this one were asked for.
    asked: u64,
    /// Mappings in which what is absent is zero; asked for once something is.
    plain: Option<Vec<Range<u64>>>,
    /// How they are asked for: tests do something meanwhile.
    pub(super) ask_plain: fn() -> io::Result<Vec<Range<u64>>>,
}

impl Pagemap {
    /// Nothing where the kernel does not say.
    pub(super) fn new(start: usize, length: u64, method: Method) -> Option<Self> {
        if method == Method::None {
            return None;
        }
        let start = bytes(start);
        let page = host_page();
        let file = File::open("/proc/self/pagemap").ok()?;
        let mut this = Self {
            file,
            scan: method == Method::Best,
            start,
            length,
            page,
            found: Vec::new(),
            asked: start / page * page,
            plain: None,
            ask_plain: smaps::plain_mappings,
        };
        if this.scan && this.scan_from(this.asked, this.asked + page).is_err() {
            this.scan = false;
        }
        Some(this)
    }

    /// Whether the kernel knows `PAGEMAP_SCAN`.
    pub(super) fn scans(&self) -> bool {
        self.scan
    }

    fn end(&self) -> u64 {
        self.start + self.length
    }

    /// The first bytes from `from` on that may hold something.
    pub(super) fn next(&mut self, from: u64) -> io::Result<Option<Range<u64>>> {
        let from = self.start + from;
        loop {
            // Asked from further on than so far: what lies between was given out already, being in the same word.
            if self.asked < from {
                self.asked = from / self.page * self.page;
                self.found.clear();
            }
            while let Some(range) = self.found.pop() {
                let range = range.start.max(from)..range.end.min(self.end());
                if range.start < range.end {
                    return Ok(Some(range.start - self.start..range.end - self.start));
                }
            }
            if self.asked >= self.end() {
                return Ok(None);
            }
            let from_here = self.asked;
            let (mut present, mut walked) = self.look_from(from_here)?;
            if !covers(&present, &(from_here..walked.min(self.end()))) && self.plain.is_none() {
                self.plain = Some((self.ask_plain)()?);
                // Looked at again: a handler of userfaultfd's may have brought what was missing at the first look, and have given up
                // the mapping, which then is as plain as any.
                (present, walked) = self.look_from(from_here)?;
            }
            self.asked = walked;
            self.add_what_is_not_plain(from_here..walked.min(self.end()), &mut present);
            present.reverse();
            self.found = present;
        }
    }

    fn look_from(&self, from: u64) -> io::Result<(Vec<Range<u64>>, u64)> {
        if self.scan { self.scan_from(from, self.end()) } else { self.read_from(from) }
    }

    /// What of `window` is absent, but in a mapping where that proves nothing, counts as present.
    fn add_what_is_not_plain(&self, window: Range<u64>, present: &mut Vec<Range<u64>>) {
        // Not asked for: nothing was absent yet.
        let Some(plain) = &self.plain else { return };
        if covers(present, &window) {
            return;
        }
        let mut at = window.start;
        for range in plain {
            if range.end <= at || range.start >= window.end {
                continue;
            }
            if at < range.start {
                present.push(at..range.start);
            }
            at = range.end;
        }
        if at < window.end {
            present.push(at..window.end);
        }
        present.sort_unstable_by_key(|range| range.start);
    }

    /// Stretches of present pages from the address `from` on, and how far was looked.
    fn scan_from(&self, from: u64, end: u64) -> io::Result<(Vec<Range<u64>>, u64)> {
        let mut regions = [Region::default(); REGIONS];
        let end = end.next_multiple_of(self.page);
        let mut arg = ScanArg {
            size: size_of::<ScanArg>() as u64,
            start: from,
            end,
            vec: bytes(regions.as_mut_ptr().expose_provenance()),
            vec_len: REGIONS as u64,
            // Present or swapped, and not the kernel's own page of zeros, which a mere look at untouched memory maps.
            category_inverted: PAGE_IS_PFNZERO,
            category_mask: PAGE_IS_PFNZERO,
            category_anyof_mask: PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
            return_mask: PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
            ..ScanArg::default()
        };
        let count = loop {
            // SAFETY: `arg` is the argument of this ioctl, of the size that it says, and `regions` has room for `vec_len`
            // regions; both outlive the call. Pages are only looked at: no flag asks for more.
            match unsafe { pagemap_scan(self.file.as_raw_fd(), &raw mut arg) } {
                Ok(count) => break usize::try_from(count).unwrap_or(0),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        };
        let found = regions[..count.min(REGIONS)].iter().map(|region| region.start..region.end).collect();
        // A scan that makes no headway would never end.
        if arg.walk_end <= from {
            return Err(io::Error::other("the scan of the page tables stands still"));
        }
        Ok((found, arg.walk_end))
    }

    fn read_from(&self, from: u64) -> io::Result<(Vec<Range<u64>>, u64)> {
        let mut entries = vec![0; ENTRIES * 8];
        let left = (self.end() - from).div_ceil(self.page);
        let count = usize::try_from(left).unwrap_or(usize::MAX).min(ENTRIES);
        self.file.read_exact_at(&mut entries[..count * 8], from / self.page * 8)?;
        let mut found: Vec<Range<u64>> = Vec::new();
        let mut at = from;
        for entry in entries[..count * 8].chunks_exact(8) {
            let mut word = [0; 8];
            word.copy_from_slice(entry);
            #[expect(clippy::host_endian_bytes, reason = "the kernel's own words, not a file's")]
            let entry = u64::from_ne_bytes(word);
            if entry & (ENTRY_PRESENT | ENTRY_SWAPPED) != 0 {
                match found.last_mut() {
                    Some(last) if last.end == at => last.end += self.page,
                    _ => found.push(at..at + self.page),
                }
            }
            at += self.page;
        }
        Ok((found, at))
    }
}

/// Whether nothing of `window` is absent.
fn covers(present: &[Range<u64>], window: &Range<u64>) -> bool {
    let covered: u64 =
        present.iter().map(|range| range.end.min(window.end) - range.start.max(window.start)).sum();
    covered == window.end - window.start
}
