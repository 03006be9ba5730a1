//! Finds the layout of a stream that it does not trust.
//!
//! The [`Decoder`] does no I/O: it names the bytes that it needs and is given them. It skips bitmaps and pages, so a
//! stream of many GiB is decoded from a few hundred bytes a block. It never asks for bytes outside of the stream, and
//! keeps no more than a small multiple of the bytes that it was given, whatever a header claims.
//!
//! Decoding ends with the RAM section's end mark and footer, which it checks but leaves to the tail.

mod head;
mod record;

use alloc::vec;
use alloc::vec::Vec;

use crate::configuration::Configuration;
use crate::error::{DecodeError, Defect};
use crate::input::{Input, Stop};
use crate::layout::{Head, Layout, order_by_name};
use crate::wire::{DEFAULT_PAGE_SIZE, MAGIC};
use record::Records;

/// Bytes asked for at a time where fewer would do: any record fits (at most 300 bytes), and most heads.
const WINDOW: usize = 512;

/// No sane stream has more before its memory; commands could go on for ever.
const MAX_HEAD: usize = 1 << 20;

/// Bytes that a [`Decoder`] waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Need {
    /// From the file's first byte.
    pub offset: u64,
    /// How many, never 0.
    pub len: usize,
}

/// What the next bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Magic,
    Configuration,
    Subsection,
    Section,
    Total,
    Record,
    End,
    Done,
}

impl Step {
    fn what(self) -> &'static str {
        match self {
            Self::Magic => "its magic",
            Self::Configuration | Self::Subsection => "its configuration",
            Self::Section | Self::Total => "the start of its ram section",
            Self::Record => "a block's record",
            Self::End | Self::Done => "the end of its ram section",
        }
    }
}

/// Decodes a stream piece by piece, without I/O.
///
/// ```
/// use mapped_ram_format::{BlockPlan, Decoder, LayoutPlan, tail::TailBuilder};
///
/// # let plan = LayoutPlan::new().block(BlockPlan::new("ram0", 4096)).build()?;
/// # let mut file = vec![0; plan.tail_offset() as usize];
/// # for piece in plan.pieces() {
/// #     file[piece.offset as usize..][..piece.bytes.len()].copy_from_slice(&piece.bytes);
/// # }
/// # file.extend(TailBuilder::new(&plan).build()?);
/// let mut decoder = Decoder::new(0, file.len() as u64);
/// while let Some(need) = decoder.need() {
///     let start = usize::try_from(need.offset)?;
///     decoder.supply(&file[start..start + need.len])?;
/// }
/// let layout = decoder.finish()?;
/// assert_eq!(layout.blocks()[0].idstr(), "ram0");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Decoder {
    stream_offset: u64,
    stream_end: u64,
    cursor: u64,
    want: usize,
    step: Step,
    failed: Option<DecodeError>,
    head: Head,
    records: Records,
    by_name: Vec<usize>,
}

impl Decoder {
    /// For the stream that begins at `stream_offset` of a file and ends at `stream_end` or before.
    pub fn new(stream_offset: u64, stream_end: u64) -> Self {
        let mut decoder = Self {
            stream_offset,
            stream_end,
            cursor: stream_offset,
            want: 0,
            step: Step::Magic,
            failed: None,
            head: Head { bytes: Vec::new(), configuration: None, ram_section_id: 0 },
            records: Records::default(),
            by_name: Vec::new(),
        };
        decoder.failed = decoder.ask(MAGIC.len()).err();
        decoder
    }

    /// The bytes to bring next; `None` once all is known, or an error was found.
    pub fn need(&self) -> Option<Need> {
        let waits = self.failed.is_none() && self.step != Step::Done;
        waits.then_some(Need { offset: self.cursor, len: self.want })
    }

    /// Takes the bytes that [`need`](Self::need) asked for. Fewer mean that the file ends there; more are ignored.
    ///
    /// # Errors
    ///
    /// [`DecodeError`] if the bytes are refused. The error stays: the decoder asks for nothing more.
    pub fn supply(&mut self, bytes: &[u8]) -> Result<(), DecodeError> {
        if let Some(need) = self.need() {
            let bytes = &bytes[..bytes.len().min(need.len)];
            if bytes.len() < need.len {
                self.stream_end = need.offset + bytes.len() as u64;
            }
            self.failed = self.run(bytes).err();
        }
        self.failed.clone().map_or(Ok(()), Err)
    }

    /// The layout, once [`need`](Self::need) is `None`.
    ///
    /// # Errors
    ///
    /// The error that was found; [`Defect::EndsInside`] if bytes are still needed.
    pub fn finish(self) -> Result<Layout, DecodeError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        if self.step != Step::Done {
            return Err(DecodeError::new(Defect::EndsInside(self.step.what()), self.cursor));
        }
        let configured = self.head.configuration.as_ref().and_then(Configuration::target_page_bits);
        let page_size = match (self.records.blocks.first(), configured) {
            (Some(block), _) => block.page_size,
            (None, Some(bits)) => 1 << bits,
            (None, None) => DEFAULT_PAGE_SIZE,
        };
        Ok(Layout {
            stream_offset: self.stream_offset,
            page_size,
            head: self.head,
            blocks: self.records.blocks,
            by_name: self.by_name,
            tail_offset: self.cursor,
        })
    }

    /// The layout of the blocks that were found so far and whose records end at `file_end` or before, for a file of which the rest is
    /// gone; `None` if there are none.
    ///
    /// Its [`pieces`](Layout::pieces) are those of a stream of these blocks alone, and its [`tail_offset`](Layout::tail_offset) the end of the
    /// last of them.
    ///
    /// Blocks are found without their pages being there if the end that [`new`](Self::new) is given is behind the file's, and what is
    /// missing of the bytes that are asked for is supplied as zeros.
    ///
    /// ```
    /// use mapped_ram_format::{BlockPlan, Decoder, LayoutPlan};
    ///
    /// let plan = LayoutPlan::new().block(BlockPlan::new("ram0", 4096)).build()?;
    /// let head = &plan.pieces()[0].bytes;
    /// let mut decoder = Decoder::new(0, u64::MAX);
    /// while let Some(need) = decoder.need() {
    ///     let start = usize::try_from(need.offset)?;
    ///     let mut bytes = head.get(start..).unwrap_or_default().to_vec();
    ///     bytes.resize(need.len, 0);
    ///     if decoder.supply(&bytes).is_err() {
    ///         break;
    ///     }
    /// }
    /// let layout = decoder.finish_early(head.len() as u64).unwrap();
    /// assert_eq!(layout.blocks(), plan.blocks());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn finish_early(mut self, file_end: u64) -> Option<Layout> {
        let blocks = &mut self.records.blocks;
        let found = blocks.iter().take_while(|block| block.record_end() <= file_end).count();
        blocks.truncate(found);
        let end = blocks.last()?.end();
        self.by_name = order_by_name(blocks).ok()?;
        (self.failed, self.step, self.cursor) = (None, Step::Done, end);
        self.finish().ok()
    }

    /// Takes as many items as `bytes`, which begin at the cursor, hold; then asks for more.
    fn run(&mut self, bytes: &[u8]) -> Result<(), DecodeError> {
        let base = self.cursor;
        while self.step != Step::Done {
            // Behind a block's pages the cursor is usually far beyond these bytes.
            let skipped = usize::try_from(self.cursor - base).unwrap_or(usize::MAX);
            let rest = bytes.get(skipped..).unwrap_or_default();
            match self.item(rest) {
                Ok(()) => {}
                Err(Refusal::Short(len)) => return self.ask(len),
                Err(Refusal::Error(error)) => return Err(error),
            }
        }
        Ok(())
    }

    /// Takes one item off `bytes`, which begin at the cursor.
    fn item(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        let mut input = Input::new(bytes);
        match self.step {
            Step::Record => {
                return self.records.take(&mut input, &mut self.cursor, self.stream_end, &mut self.step);
            }
            Step::End => {
                self.check_end(&mut input).map_err(|stop| self.refuse(stop))?;
                self.step = Step::Done;
                // The end mark and the footer belong to the tail: the cursor stays before them.
                return self.order();
            }
            _ => {}
        }
        self.step = self.head_item(&mut input).map_err(|stop| self.refuse(stop))?;
        let taken = &bytes[..input.at()];
        if self.step != Step::Record && self.step != Step::End {
            if self.head.bytes.len() + taken.len() > MAX_HEAD {
                return Err(Refusal::Error(DecodeError::new(Defect::HeadTooLong(MAX_HEAD), self.cursor)));
            }
            self.head.bytes.extend_from_slice(taken);
        }
        self.cursor += taken.len() as u64;
        Ok(())
    }

    fn order(&mut self) -> Result<(), Refusal> {
        match order_by_name(&self.records.blocks) {
            Ok(by_name) => self.by_name = by_name,
            Err(second) => {
                let block = &self.records.blocks[second];
                let error =
                    DecodeError::new(Defect::DuplicateBlock, block.record_offset).in_block(&block.idstr);
                return Err(Refusal::Error(error));
            }
        }
        Ok(())
    }

    fn refuse(&self, stop: Stop) -> Refusal {
        match stop {
            Stop::Short(len) => Refusal::Short(len),
            Stop::Bad { what, at } => Refusal::Error(DecodeError::new(what, self.cursor + at as u64)),
        }
    }

    /// Asks for `len` bytes at the cursor or a few more, if the stream has that many.
    fn ask(&mut self, len: usize) -> Result<(), DecodeError> {
        let left = self.stream_end.saturating_sub(self.cursor);
        if left < len as u64 {
            let end = self.stream_end.max(self.stream_offset);
            return Err(DecodeError::new(Defect::EndsInside(self.step.what()), end));
        }
        self.want = usize::try_from(left).unwrap_or(usize::MAX).min(len.max(WINDOW));
        Ok(())
    }
}

/// Why an item was not taken, with the place known.
#[derive(Debug)]
enum Refusal {
    Short(usize),
    Error(DecodeError),
}

/// Why a stream was not decoded while it was being read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeWithError<E> {
    /// The bytes were refused.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The bytes could not be read.
    #[error("read failed")]
    Read(#[source] E),
}

/// Decodes the stream between two offsets of a file, with `read` to fill a buffer from an offset.
///
/// ```
/// use mapped_ram_format::{DecodeWithError, ErrorKind, decode_with};
///
/// let file = b"QEVM\0\0\0\x03";
/// let result = decode_with(0, 8, |offset, buffer: &mut [u8]| {
///     let start = usize::try_from(offset).map_err(drop)?;
///     buffer.copy_from_slice(&file[start..start + buffer.len()]);
///     Ok::<(), ()>(())
/// });
/// let Err(DecodeWithError::Decode(error)) = result else { unreachable!() };
/// assert_eq!(error.kind(), ErrorKind::Incomplete);
/// ```
///
/// # Errors
///
/// [`DecodeWithError::Decode`] if the bytes are refused, [`DecodeWithError::Read`] with the error of `read`.
pub fn decode_with<E>(
    stream_offset: u64,
    stream_end: u64,
    mut read: impl FnMut(u64, &mut [u8]) -> Result<(), E>,
) -> Result<Layout, DecodeWithError<E>> {
    let mut decoder = Decoder::new(stream_offset, stream_end);
    let mut buffer = vec![];
    while let Some(need) = decoder.need() {
        buffer.resize(need.len, 0);
        read(need.offset, &mut buffer).map_err(DecodeWithError::Read)?;
        decoder.supply(&buffer)?;
    }
    Ok(decoder.finish()?)
}

/// Decodes the stream that begins at `stream_offset` of a whole file in memory.
///
/// # Errors
///
/// [`DecodeError`] if the bytes are refused.
pub fn decode(bytes: &[u8], stream_offset: u64) -> Result<Layout, DecodeError> {
    let mut decoder = Decoder::new(stream_offset, bytes.len() as u64);
    while let Some(need) = decoder.need() {
        // The decoder stays inside of the stream, hence of the slice.
        let window = usize::try_from(need.offset).ok().and_then(|start| bytes.get(start..start + need.len));
        decoder.supply(window.unwrap_or_default())?;
    }
    decoder.finish()
}
