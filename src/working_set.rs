//! The order in which a guest asked for its pages: kept, written to a small file, and read back.
//!
//! Decided here: what such a list is, how it stands in a file, and what is refused when a file is read. Who records it and
//! who brings pages in by it is decided elsewhere ([`Prefetch`](crate::Prefetch), and the handler of the feature `userfaultfd`).
//!
//! ```text
//!   0   magic "mramwset"
//!   8   u32 version 1
//!  12   u32 number of lists
//!  16   for each list:  u32 length of the block's name, u64 page size, u64 pages, u64 count, name, count x u64 page
//!       u64 check: FNV-1a of every byte before it
//! ```
//!
//! Every integer is big-endian. Pages are counted from the block's start, in the list's own page size, in bytes.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::ops::Range;
use std::path::Path;

use crate::convert::{to_u64, to_usize};
use crate::error::{Error, Result};

const MAGIC: &[u8; 8] = b"mramwset";
const VERSION: u32 = 1;

/// Lists of one file at most: a guest has tens of blocks.
const MOST_LISTS: u32 = 4096;

/// The longest file that is read, in bytes: 32 million pages, a working set of 128 GiB in pages of 4 KiB.
const LONGEST: u64 = 256 << 20;

/// The pages of one block in the order in which they were first asked for, each once.
///
/// ```
/// use mapped_ram::WorkingSet;
///
/// let set = WorkingSet::new("ram0", 4096, 100, vec![7, 3, 4])?;
/// assert_eq!(set.ranges().collect::<Vec<_>>(), [7 * 4096..8 * 4096, 3 * 4096..5 * 4096]);
/// # Ok::<(), mapped_ram::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkingSet {
    block: String,
    page_size: u64,
    pages: u64,
    order: Vec<u64>,
}

impl WorkingSet {
    /// A list for `block`, which has `pages` pages of `page_size` bytes: `order` is the pages as they were asked for.
    ///
    /// # Errors
    /// A page size that is no power of two, pages that overflow 64 bits, a page that the block does not have or that comes
    /// twice, a name that is empty or longer than 255 bytes.
    pub fn new(block: impl Into<String>, page_size: u64, pages: u64, order: Vec<u64>) -> Result<Self> {
        let block = block.into();
        Self::checked(block, page_size, pages, order).map_err(Error::Usage)
    }

    fn checked(block: String, page_size: u64, pages: u64, order: Vec<u64>) -> Result<Self, String> {
        if block.is_empty() || block.len() > 255 {
            return Err(format!("a working set's block name has 1 to 255 bytes, not {}", block.len()));
        }
        if !page_size.is_power_of_two() || pages.checked_mul(page_size).is_none() {
            return Err(format!(
                "the working set of block `{block}` has {pages} pages of {page_size} bytes: no block is like that"
            ));
        }
        let mut seen = HashSet::with_capacity(order.len());
        if let Some(page) = order.iter().find(|page| **page >= pages || !seen.insert(**page)) {
            return Err(format!(
                "the working set of block `{block}` has page {page} twice, or the block of {pages} pages does not have it"
            ));
        }
        Ok(Self { block, page_size, pages, order })
    }

    /// The block's name.
    pub fn block(&self) -> &str {
        &self.block
    }

    /// The size of the list's pages, in bytes: that of the memory in which they were asked for, not that of the file.
    pub fn page_size(&self) -> u64 {
        self.page_size
    }

    /// How many pages the block has, asked for or not.
    pub fn pages(&self) -> u64 {
        self.pages
    }

    /// The pages, in order.
    pub fn order(&self) -> &[u64] {
        &self.order
    }

    /// The same as ranges of bytes from the block's start; pages that follow each other in memory and in the list are one.
    pub fn ranges(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        let mut rest = self.order.iter().copied().peekable();
        std::iter::from_fn(move || {
            let first = rest.next()?;
            let mut end = first + 1;
            while rest.next_if_eq(&end).is_some() {
                end += 1;
            }
            Some(first * self.page_size..end * self.page_size)
        })
    }

    /// Whether the list can be of `block`, which is `length` bytes long.
    ///
    /// # Errors
    /// Another name, or another length: the list was recorded with another guest.
    pub fn check_block(&self, block: &str, length: u64) -> Result<()> {
        if self.block != block
            || length.checked_next_multiple_of(self.page_size) != Some(self.pages * self.page_size)
        {
            return Err(Error::Usage(format!(
                "the working set is of block `{}` of {} bytes, not of `{block}` of {length}: it was recorded with another guest",
                self.block,
                self.pages * self.page_size
            )));
        }
        Ok(())
    }

    /// Writes lists to a file, in place of one that is there.
    ///
    /// # Errors
    /// What the system says, and more lists or longer ones than [`read_file`](Self::read_file) takes.
    pub fn write_file(path: impl AsRef<Path>, lists: &[Self]) -> Result<()> {
        let path = path.as_ref();
        let shown = path.display().to_string();
        let bytes = encode(lists).map_err(Error::Usage)?;
        let failed = |error| Error::io(&shown, "write the working set", error);
        // Under its name when it is whole: a guest that is restored meanwhile reads the old one.
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut file = tempfile::NamedTempFile::new_in(dir).map_err(failed)?;
        file.write_all(&bytes).map_err(failed)?;
        file.persist(path).map_err(|error| failed(error.error))?;
        Ok(())
    }

    /// Reads the lists of a file.
    ///
    /// # Errors
    /// What the system says; a file that is no regular one, is too long, or is not exactly what
    /// [`write_file`](Self::write_file) writes.
    pub fn read_file(path: impl AsRef<Path>) -> Result<Vec<Self>> {
        let path = path.as_ref();
        let shown = path.display().to_string();
        let failed = |error| Error::io(&shown, "read the working set", error);
        let length = fs::metadata(path)
            .and_then(|about| if about.is_file() { Ok(about.len()) } else { Err(no_regular_file()) })
            .map_err(failed)?;
        let damaged = |what| Error::Damaged { file: shown.clone(), what };
        if length > LONGEST {
            return Err(damaged(format!("{length} bytes are no working set; it has {LONGEST} at most")));
        }
        let mut bytes = Vec::with_capacity(to_usize(length));
        File::open(path).and_then(|file| file.take(LONGEST + 1).read_to_end(&mut bytes)).map_err(failed)?;
        Self::from_bytes(&bytes).map_err(damaged)
    }

    /// Decodes what a file holds.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    #[doc(hidden)]
    pub fn from_bytes(bytes: &[u8]) -> Result<Vec<Self>, String> {
        decode(bytes)
    }
}

fn no_regular_file() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "is no regular file")
}

fn encode(lists: &[WorkingSet]) -> Result<Vec<u8>, String> {
    let count = u32::try_from(lists.len()).unwrap_or(u32::MAX);
    let length = lists.iter().map(|list| to_u64(list.order.len()) * 8 + 283).sum::<u64>();
    if count > MOST_LISTS || length + 24 > LONGEST {
        return Err(format!("{count} lists of {length} bytes are too much for a working set's file"));
    }
    let mut bytes = Vec::with_capacity(to_usize(length) + 24);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&VERSION.to_be_bytes());
    bytes.extend_from_slice(&count.to_be_bytes());
    for list in lists {
        let name = u32::try_from(list.block.len()).expect("names have 255 bytes at most");
        bytes.extend_from_slice(&name.to_be_bytes());
        for number in [list.page_size, list.pages, to_u64(list.order.len())] {
            bytes.extend_from_slice(&number.to_be_bytes());
        }
        bytes.extend_from_slice(list.block.as_bytes());
        for page in &list.order {
            bytes.extend_from_slice(&page.to_be_bytes());
        }
    }
    let check = check(&bytes);
    bytes.extend_from_slice(&check.to_be_bytes());
    Ok(bytes)
}

fn decode(bytes: &[u8]) -> Result<Vec<WorkingSet>, String> {
    let (body, told) = bytes.split_last_chunk::<8>().ok_or("too short for a working set")?;
    let mut rest = Rest(body);
    if rest.take(8)? != MAGIC {
        return Err("is no working set: another magic".into());
    }
    let version = rest.u32()?;
    if version != VERSION {
        return Err(format!("is a working set of version {version}, and {VERSION} is read here"));
    }
    if check(body) != u64::from_be_bytes(*told) {
        return Err("is a working set that was changed or cut: its check does not fit".into());
    }
    let count = rest.u32()?;
    if count > MOST_LISTS {
        return Err(format!("has {count} lists, and {MOST_LISTS} are read at most"));
    }
    let mut lists = Vec::new();
    for _ in 0..count {
        let name = rest.u32()?;
        let (page_size, pages, count) = (rest.u64()?, rest.u64()?, rest.u64()?);
        let name = rest.take(u64::from(name))?;
        let block = String::from_utf8(name.to_vec()).map_err(|_| "has a block name that is no UTF-8")?;
        // Taken before it is made a list of, so that no count reserves more than the file has.
        let order = rest.take(count.checked_mul(8).ok_or("has a count that overflows")?)?;
        let (order, _) = order.as_chunks::<8>();
        let order = order.iter().map(|page| u64::from_be_bytes(*page)).collect();
        lists.push(WorkingSet::checked(block, page_size, pages, order)?);
    }
    if rest.0.is_empty() { Ok(lists) } else { Err(format!("has {} bytes behind its lists", rest.0.len())) }
}

struct Rest<'b>(&'b [u8]);

impl<'b> Rest<'b> {
    fn take(&mut self, count: u64) -> Result<&'b [u8], String> {
        let count = usize::try_from(count).ok().filter(|count| *count <= self.0.len());
        let (taken, rest) = self.0.split_at(count.ok_or("ends in the middle of a list")?);
        self.0 = rest;
        Ok(taken)
    }

    fn u32(&mut self) -> Result<u32, String> {
        Ok(u32::from_be_bytes(self.take(4)?.try_into().map_err(|_| "ends in the middle")?))
    }

    fn u64(&mut self) -> Result<u64, String> {
        Ok(u64::from_be_bytes(self.take(8)?.try_into().map_err(|_| "ends in the middle")?))
    }
}

/// FNV-1a: finds what a disk or an editor spoils, not what somebody forges; what is forged is checked field by field.
fn check(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lists() -> impl Strategy<Value = Vec<WorkingSet>> {
        let list = ("[a-z./@é]{1,20}", 0_u32..22, prop::collection::hash_set(0_u64..300, 0..60)).prop_map(
            |(name, shift, pages)| {
                WorkingSet::new(name, 1 << shift, 300, pages.into_iter().collect()).unwrap()
            },
        );
        prop::collection::vec(list, 0..4)
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(lists in lists()) {
            prop_assert_eq!(decode(&encode(&lists).unwrap()).unwrap(), lists);
        }

        #[test]
        fn a_changed_or_cut_file_is_an_error(lists in lists(), at: prop::sample::Index, by in 1_u8..=255) {
            let bytes = encode(&lists).unwrap();
            let at = at.index(bytes.len());
            prop_assert!(decode(&bytes[..at]).is_err());
            let mut changed = bytes.clone();
            changed[at] ^= by;
            prop_assert!(decode(&changed).is_err());
            let longer = [&bytes[..], &[0]].concat();
            prop_assert!(decode(&longer).is_err());
        }

        /// With a check that fits, as somebody would forge it: an error, or a sound list.
        #[test]
        fn a_forged_file_is_an_error_or_sound(lists in lists(), at: prop::sample::Index, by in any::<[u8; 8]>()) {
            let mut bytes = encode(&lists).unwrap();
            bytes.truncate(bytes.len() - 8);
            let at = at.index(bytes.len());
            for (byte, by) in bytes[at..].iter_mut().zip(by) {
                *byte = by;
            }
            let told = check(&bytes);
            bytes.extend_from_slice(&told.to_be_bytes());
            for list in decode(&bytes).unwrap_or_default() {
                prop_assert!(list.order().iter().all(|page| *page < list.pages()));
                prop_assert!(list.ranges().all(|range| range.start < range.end));
            }
        }

        #[test]
        fn ranges_are_the_pages_in_order(lists in lists()) {
            for list in lists {
                let size = list.page_size();
                let pages = |range: Range<u64>| range.start / size..range.end / size;
                let listed: Vec<u64> = list.ranges().flat_map(pages).collect();
                prop_assert_eq!(listed, list.order());
            }
        }
    }

    #[test]
    fn lists_that_cannot_be_are_refused() {
        for (name, page_size, pages, order) in [
            ("", 4096, 1, vec![]),
            ("a", 0, 1, vec![]),
            ("a", 3, 1, vec![]),
            ("a", 4096, u64::MAX, vec![]),
            ("a", 4096, 2, vec![2]),
            ("a", 4096, 2, vec![1, 1]),
        ] {
            assert!(WorkingSet::new(name, page_size, pages, order).is_err());
        }
        assert!(WorkingSet::new("a".repeat(256), 1, 1, vec![]).is_err());
    }

    #[test]
    fn a_folder_and_a_missing_file_are_errors() {
        let dir = tempfile::tempdir().unwrap();
        assert!(WorkingSet::read_file(dir.path()).unwrap_err().to_string().contains("no regular file"));
        assert!(WorkingSet::read_file(dir.path().join("none")).is_err());
        let path = dir.path().join("set");
        let set = WorkingSet::new("ram0", 4096, 9, vec![8, 0]).unwrap();
        WorkingSet::write_file(&path, std::slice::from_ref(&set)).unwrap();
        assert_eq!(WorkingSet::read_file(&path).unwrap(), [set]);
    }
}
