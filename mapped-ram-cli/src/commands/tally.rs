//! Which pages of two memories differ, counted by several threads.

use std::fmt::Write as _;
use std::io;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use mapped_ram::{Block, PageBitmap};

use crate::exit::Problem;

/// How many runs of pages are named; more would hide the number of all.
const NAMED_RUNS: usize = 8;

/// The pages of a block that differ from something else.
pub(super) struct Tally {
    page_size: u64,
    found: Mutex<Found>,
}

struct Found {
    pages: PageBitmap,
    first_byte: u64,
}

impl Tally {
    /// For the pages of `block`, none of which differs yet.
    ///
    /// Reads the block's bitmap, so that a block too large for this machine is refused before as much is taken here.
    pub(super) fn new(block: &Block, path: &Path) -> Result<Self, Problem> {
        block.bitmap()?;
        let Some(pages) = PageBitmap::try_new(block.pages()) else {
            let what = format!(
                "block `{}`: get {} bytes of memory to count its pages in",
                block.idstr(),
                block.pages() / 8
            );
            return Err(Problem::io(path, what, io::ErrorKind::OutOfMemory.into()));
        };
        Ok(Self::with_pages(block.page_size(), pages))
    }

    fn with_pages(page_size: u64, pages: PageBitmap) -> Self {
        Self { page_size, found: Mutex::new(Found { pages, first_byte: u64::MAX }) }
    }

    /// Compares what stands at `offset` of both; a page may come in several pieces.
    pub(super) fn count(&self, one: &[u8], two: &[u8], offset: u64) {
        if one == two {
            return;
        }
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        let mut at = 0;
        while at < one.len() {
            let place = offset + at as u64;
            let left = self.page_size - place % self.page_size;
            let end = usize::try_from(left).map_or(one.len(), |left| one.len().min(at.saturating_add(left)));
            let (one, two) = (&one[at..end], &two[at..end]);
            if one != two {
                let same = one.iter().zip(two).take_while(|(one, two)| one == two).count() as u64;
                let page = place / self.page_size;
                found.pages.insert(page..page + 1);
                found.first_byte = found.first_byte.min(place + same);
            }
            at = end;
        }
    }

    /// Whether there are differences, and in words which.
    pub(super) fn result(self) -> (bool, String) {
        let Found { pages, first_byte } = self.found.into_inner().unwrap_or_else(PoisonError::into_inner);
        let count = pages.count();
        if count == 0 {
            return (true, "the same".to_owned());
        }
        let noun = if count == 1 { "page differs" } else { "pages differ" };
        let mut text = format!("{count} {noun}, the first at offset {first_byte:#x}: page");
        let mut runs = pages.runs();
        for run in runs.by_ref().take(NAMED_RUNS) {
            // Writing to a string cannot fail.
            let _ = match run.end - run.start {
                1 => write!(text, " {},", run.start),
                _ => write!(text, " {}-{},", run.start, run.end - 1),
            };
        }
        match runs.count() {
            0 => text.truncate(text.len() - 1),
            more => {
                let _ = write!(text, " and {more} more runs");
            }
        }
        (false, text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{PageBitmap, Tally};

    proptest! {
        #[test]
        fn pages_are_counted_once_however_the_pieces_are_cut(
            changed in prop::collection::btree_set(0_usize..4096, 0..20),
            page_shift in 6_u32..12,
            piece in 1_usize..5000,
        ) {
            let page = 1_usize << page_shift;
            let one = vec![0_u8; 4096];
            let mut two = one.clone();
            for at in &changed {
                two[*at] = 1;
            }
            let tally = Tally::with_pages(page as u64, PageBitmap::new((4096 / page) as u64));
            for (index, (one, two)) in one.chunks(piece).zip(two.chunks(piece)).enumerate() {
                tally.count(one, two, (index * piece) as u64);
            }
            let (same, text) = tally.result();
            prop_assert_eq!(same, changed.is_empty());
            if let Some(first) = changed.first() {
                let pages = one.chunks(page).zip(two.chunks(page)).filter(|(one, two)| one != two).count();
                let noun = if pages == 1 { "page differs" } else { "pages differ" };
                let start = format!("{pages} {noun}, the first at offset {first:#x}: page {}", first / page);
                prop_assert!(text.starts_with(&start), "{} {}", text, start);
            }
        }
    }

    #[test]
    fn runs_are_named_and_the_rest_is_counted() {
        let tally = Tally::with_pages(1, PageBitmap::new(40));
        let two: Vec<u8> = (0..40).map(|at| u8::from(at % 4 != 0)).collect();
        tally.count(&[0; 40], &two, 0);
        let (_, text) = tally.result();
        assert!(text.starts_with("30 pages differ, the first at offset 0x1: page 1-3, 5-7, 9-11,"), "{text}");
        assert!(text.ends_with("29-31, and 2 more runs"), "{text}");
    }
}
