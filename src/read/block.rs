//! One RAM block of an open file: its bitmap, read whole or in parts, and any bytes of its pages. All pages at once are `load`'s
//! business, showing them without reading them is `map`'s.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use mapped_ram_format::BlockLayout;
use mapped_ram_format::bitmap::BitmapEncoding;

use super::reader::Shared;
use crate::bitmap::PageBitmap;
use crate::convert::{to_u64, to_usize};
use crate::error::{Error, Result};
use crate::map::Plan;
use crate::storage::{FileState, Source};
use crate::zeroed::try_zeroed;

/// How much of a bitmap is read and decoded at a time, in bytes.
const WINDOW: u64 = 64 << 10;

/// One RAM block of an open file. Offsets and lengths are in bytes from the block's start.
pub struct Block {
    shared: Arc<Shared>,
    index: usize,
    encoding: BitmapEncoding,
    bitmap: OnceLock<Arc<PageBitmap>>,
    /// How its stale bytes were hidden when it was mapped last, and in which state the file was.
    hidden: Mutex<Option<(FileState, Arc<Plan>)>>,
}

impl std::fmt::Debug for Block {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Block").field(self.layout()).finish()
    }
}

impl Block {
    pub(super) fn new(shared: Arc<Shared>, index: usize, encoding: BitmapEncoding) -> Self {
        Self { shared, index, encoding, bitmap: OnceLock::new(), hidden: Mutex::default() }
    }

    /// Where the block stands in the file.
    pub fn layout(&self) -> &BlockLayout {
        &self.shared.layout.blocks()[self.index]
    }

    /// The block's name; bytes that are not UTF-8 are replaced.
    pub fn idstr(&self) -> Cow<'_, str> {
        self.layout().idstr()
    }

    /// The block's length.
    pub fn used_length(&self) -> u64 {
        self.layout().used_length()
    }

    /// The target's page size.
    pub fn page_size(&self) -> u64 {
        self.layout().page_size()
    }

    /// How many pages the block has, present or not.
    pub fn pages(&self) -> u64 {
        self.layout().pages()
    }

    /// Whether the file names the block without holding it (`x-ignore-shared`).
    pub fn is_left_out(&self) -> bool {
        self.layout().is_left_out()
    }

    /// How many pages stand in the file; the others are zeros.
    ///
    /// # Errors
    /// As [`bitmap`](Self::bitmap).
    pub fn present_pages(&self) -> Result<u64> {
        Ok(self.bitmap()?.count())
    }

    /// Which pages stand in the file; the others are zeros. Read from the file once, when first asked for.
    ///
    /// # Errors
    /// When the bitmap cannot be read, or this machine has no room for it (one bit a page).
    pub fn bitmap(&self) -> Result<&Arc<PageBitmap>> {
        if let Some(bitmap) = self.bitmap.get() {
            return Ok(bitmap);
        }
        let bitmap = Arc::new(self.read_bitmap()?);
        Ok(self.bitmap.get_or_init(|| bitmap))
    }

    /// Reads the bytes from `offset` on into `buffer`; absent pages are zeros, whatever the file holds in their room.
    ///
    /// # Errors
    /// A range outside of the block, a block that the file leaves out, and what the system says to reading.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.check_held()?;
        let length = to_u64(buffer.len());
        let end = offset.checked_add(length).filter(|end| *end <= self.used_length()).ok_or_else(|| {
            Error::Usage(format!(
                "{length} bytes at offset {offset:#x} run past the end of block `{}` at {:#x}",
                self.idstr(),
                self.used_length()
            ))
        })?;
        if buffer.is_empty() {
            return Ok(());
        }
        let page_size = self.page_size();
        let mut at = offset;
        for run in self.bitmap()?.runs_within(offset / page_size..end.div_ceil(page_size)) {
            let from = (run.start * page_size).max(offset);
            let to = (run.end * page_size).min(end);
            buffer[to_usize(at - offset)..to_usize(from - offset)].fill(0);
            let piece = &mut buffer[to_usize(from - offset)..to_usize(to - offset)];
            self.shared.read_exactly(self.layout().pages_offset() + from, piece)?;
            at = to;
        }
        buffer[to_usize(at - offset)..].fill(0);
        Ok(())
    }

    /// The runs of present pages inside `pages`, in order, each as long as it can be.
    ///
    /// # Errors
    /// As [`bitmap`](Self::bitmap).
    pub fn runs_within(&self, pages: Range<u64>) -> Result<impl Iterator<Item = Range<u64>> + '_> {
        Ok(self.bitmap()?.runs_within(pages))
    }

    pub(crate) fn check_held(&self) -> Result<()> {
        if self.is_left_out() {
            return Err(Error::Usage(format!(
                "{}: block `{}` is left out of the file (x-ignore-shared); its memory is elsewhere",
                self.shared.file,
                self.idstr()
            )));
        }
        Ok(())
    }

    /// Where the stream that the block is in begins in the file.
    pub(crate) fn stream_offset(&self) -> u64 {
        self.shared.layout.stream_offset()
    }

    /// An error where what was read of the block's bitmap is of another state of the file than `now`: pages that are present since would
    /// be hidden, and stale ones shown.
    pub(crate) fn expect_state(&self, now: Option<FileState>) -> Result<()> {
        if self.bitmap.get().is_none() || now == self.shared.state {
            return Ok(());
        }
        Err(Error::Damaged {
            file: self.shared.file.clone(),
            what: format!(
                "block `{}`: the file was written since it was opened; open it again",
                self.idstr()
            ),
        })
    }

    /// What hides the block's stale bytes: what `find` finds, once as long as the file stays in `state`.
    pub(crate) fn hidden(
        &self,
        state: Option<FileState>,
        find: impl FnOnce() -> Result<Plan>,
    ) -> Result<Arc<Plan>> {
        // A plan is put in whole or not at all, whatever panics.
        let known = || self.hidden.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(state) = state
            && let Some((of, plan)) = &*known()
            && *of == state
        {
            return Ok(Arc::clone(plan));
        }
        let plan = Arc::new(find()?);
        if let Some(state) = state {
            *known() = Some((state, Arc::clone(&plan)));
        }
        Ok(plan)
    }

    /// The file, as the caller named it.
    pub(crate) fn file(&self) -> &str {
        &self.shared.file
    }

    pub(crate) fn source(&self) -> &Arc<dyn Source> {
        &self.shared.source
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Hands each window of the encoded bitmap that is not a hole of the file to `window`, with the number of the
    /// window's first page.
    pub(super) fn for_each_window(&self, mut window: impl FnMut(u64, &[u8])) -> Result<()> {
        let start = self.layout().bitmap_offset();
        let end = start + self.layout().bitmap_len(self.encoding.word);
        let mut bytes = vec![0; to_usize(WINDOW.min(end - start))];
        let mut at = start;
        while at < end {
            // A bitmap of a huge guest is mostly a hole; a hole is all clear bits.
            let data =
                self.shared.source.next_data(at, end).map_err(|error| {
                    Error::io(&self.shared.file, format!("look for data at {at:#x}"), error)
                })?;
            let Some((data, stop)) = data else {
                // Behind the end of a file that was cut meanwhile there is a hole too, to who asks.
                self.check_length(end)?;
                break;
            };
            // Whole words of the bitmap: back to a multiple of eight bytes from its start.
            at = start + (data.max(at) - start) / 8 * 8;
            while at < stop {
                let length = WINDOW.min(end - at);
                let piece = &mut bytes[..to_usize(length)];
                self.shared.read_exactly(at, piece)?;
                window((at - start) * 8, piece);
                at += length;
            }
        }
        Ok(())
    }

    /// The bitmap, if [`bitmap`](Self::bitmap) has read it already.
    pub(super) fn bitmap_if_read(&self) -> Option<&Arc<PageBitmap>> {
        self.bitmap.get()
    }

    /// Where the bitmap stands in the file; nowhere, if [`bitmap`](Self::bitmap) has read it already.
    pub(crate) fn unread_bitmap(&self) -> Range<u64> {
        let start = self.layout().bitmap_offset();
        let is_read = self.bitmap.get().is_some();
        start..start + if is_read { 0 } else { self.layout().bitmap_len(self.encoding.word) }
    }

    /// Reads the bitmap's words from number `first` on, by way of `bytes`; they are all inside the bitmap.
    pub(super) fn read_bitmap_words(&self, first: u64, words: &mut [u64], bytes: &mut Vec<u8>) -> Result<()> {
        self.check_bitmap()?;
        let skip = first * 8;
        let length = (to_u64(words.len()) * 8).min(self.layout().bitmap_len(self.encoding.word) - skip);
        bytes.resize(to_usize(length), 0);
        self.shared.read_exactly(self.layout().bitmap_offset() + skip, bytes)?;
        self.encoding.decode(bytes, words);
        Ok(())
    }

    /// Whether the file still goes as far as `end`.
    fn check_length(&self, end: u64) -> Result<()> {
        let file = &self.shared.file;
        let length = self.shared.source.len();
        let length = length.map_err(|error| Error::io(file, "ask for the file's length", error))?;
        if length < end {
            return Err(Error::Damaged {
                file: file.clone(),
                what: format!(
                    "block `{}`: the file was cut while it was read: it ends at {length:#x}, before the end of the bitmap at {end:#x}",
                    self.idstr()
                ),
            });
        }
        Ok(())
    }

    /// Whether there is a bitmap to read, and room for it in the file.
    fn check_bitmap(&self) -> Result<()> {
        self.check_held()?;
        if !self.layout().has_room_for(self.encoding.word) {
            return Err(Error::Unsupported {
                file: self.shared.file.clone(),
                what: format!(
                    "block `{}`: its bitmap has no room for words of 64 bits; the file was written by a 32-bit host, say \
                     so when opening it",
                    self.idstr()
                ),
            });
        }
        // Only a reader that salvages has such blocks. Behind the end of a file there is a hole to who asks, and no page is absent for it.
        let end = self.layout().bitmap_offset() + self.layout().bitmap_len(self.encoding.word);
        if end > self.shared.length {
            return Err(Error::Damaged {
                file: self.shared.file.clone(),
                what: format!(
                    "block `{}`: the file ends at {:#x}, before the end of its bitmap at {end:#x}",
                    self.idstr(),
                    self.shared.length
                ),
            });
        }
        Ok(())
    }

    fn read_bitmap(&self) -> Result<PageBitmap> {
        self.check_bitmap()?;
        let pages = self.pages();
        let count = usize::try_from(pages.div_ceil(64)).unwrap_or(usize::MAX);
        let Some(mut words) = try_zeroed(count) else {
            let what = format!("the bitmap of block `{}`", self.idstr());
            return Err(Error::no_memory(&self.shared.file, pages.div_ceil(64) * 8, &what));
        };
        let encoding = self.encoding;
        self.for_each_window(|first_page, bytes| {
            let first = to_usize(first_page / 64);
            let last = (first + bytes.len().div_ceil(8)).min(count);
            encoding.decode(bytes, &mut words[first..last]);
        })?;
        Ok(PageBitmap::from_words(words, pages))
    }
}
