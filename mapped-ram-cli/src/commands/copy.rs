//! `mapped-ram copy`.

use std::path::Path;

use indicatif::ProgressBar;
use mapped_ram::{Block, Bridge, RamBlock, Reader, Tail, Writer};
use rayon::prelude::*;

use super::summary::{Pages, tell};
use super::{begin, expect_marked, open, warn_of_unmarked, write_options};
use crate::args::{CopyArgs, ZeroDetection};
use crate::chunks::{CHUNK, any_present, make_room, threads};
use crate::exit::{Outcome, Problem};
use crate::files::expect_another;
use crate::progress;
use crate::signals::interruptible;

/// How much is read, then written, at a time, in bytes: some chunks for each channel, and small beside any guest.
const WINDOW: u64 = 32 << 20;

/// The largest page that is taken into memory, in bytes: the largest of any processor. A header can say anything.
const MAX_PAGE: u64 = 1 << 30;

pub(crate) fn run(args: &CopyArgs) -> Result<Outcome, Problem> {
    let cancel = interruptible();
    if args.write.in_place().is_some() {
        // A whole new file may take its own place, but a file cannot be read while it is overwritten.
        expect_another(&args.input, &args.out)?;
    }
    if let Some(old) = &args.write.recycle {
        expect_another(&args.input, old)?;
    }
    let reader = open(&args.input, args.in_offset)?;
    if reader.layout().page_size() > MAX_PAGE {
        return Err(Problem::Unsupported {
            file: reader.file().to_owned(),
            what: format!("pages of {} bytes; at most {MAX_PAGE} are copied", reader.layout().page_size()),
        });
    }
    let preamble = Preamble::of(&reader, args)?;
    // A copy must be as whole as it looks: a tail that is cut would come out as one, under a new name.
    let behind = reader.bytes_behind()?;
    if args.discard_unmarked {
        warn_of_unmarked(&reader, &cancel)?;
    } else {
        expect_marked(&reader, std::iter::empty(), "copied", &cancel)?;
    }
    // A copy is made to be small, as a rule.
    let bridge = args.write.bridge.unwrap_or(Bridge::None);
    let options = write_options(&args.write, &cancel).bridge(bridge).head_of(reader.layout());
    let (options, mut notes) = match preamble {
        Preamble::Kept => (options.preamble_of(&reader), Vec::new()),
        Preamble::LeftBehind(notes) => (options, notes),
    };
    let mut writer = begin(options, &args.write, &args.out, blocks_of(&reader))?;
    let held = || reader.blocks().iter().enumerate().filter(|(_, block)| !block.is_left_out());
    let writes_all = args.write.zero_detection == ZeroDetection::None;
    let bar = progress::bar("copy", held().map(|(_, block)| block.used_length()).sum());
    for (index, block) in held() {
        copy_block(&mut writer, index, (block, &args.input), writes_all, &bar)?;
    }
    bar.finish_and_clear();
    let report = writer.finish(&Tail::copied_from(&reader))?;
    let pages = count(&reader, report.pages_written(), writes_all)?;
    notes.extend(behind.map(|problem| format!("{}: {problem}; they are copied as they are", reader.file())));
    tell(&args.out, &args.write, &report, pages, &notes)?;
    Ok(Outcome::Good)
}

/// What becomes of the bytes before IN's stream.
enum Preamble {
    /// They come along: libvirt's header with the domain's XML, without which libvirt takes no file for its own.
    Kept,
    /// They stay behind, and what is to be said of that.
    LeftBehind(Vec<String>),
}

impl Preamble {
    /// # Errors
    /// When the copy would take IN's place, and they would be nowhere any more.
    fn of(reader: &Reader, args: &CopyArgs) -> Result<Self, Problem> {
        let (file, before) = (reader.file(), reader.layout().stream_offset());
        let (is_libvirt, in_place) = (reader.libvirt().is_some(), args.write.in_place());
        if is_libvirt && !args.stream_only && in_place.is_none() {
            return Ok(Self::Kept);
        }
        if before != 0 && expect_another(&args.input, &args.out).is_err() {
            let what =
                if is_libvirt { "libvirt's header with the domain's XML" } else { "which no copy has" };
            return Err(Problem::Usage(format!(
                "the output {} is the input, and the {before} bytes before its stream would be lost ({what}); name another file",
                args.out.display()
            )));
        }
        // Whoever names that very place has them there already.
        if !is_libvirt || args.stream_only || in_place == Some(before) {
            return Ok(Self::LeftBehind(Vec::new()));
        }
        Ok(Self::LeftBehind(vec![format!(
            "{file}: libvirt's header with the domain's XML, {before} bytes, is not copied, and libvirt takes no file without: it is kept \
             by a copy without --offset"
        )]))
    }
}

/// What became of the pages, `written` of which were written. The writer's own counters know of those only that stood in a window
/// with present ones.
fn count(reader: &Reader, written: u64, writes_all: bool) -> Result<Pages, Problem> {
    let (mut pages, mut present) = (0, 0);
    for block in reader.blocks().iter().filter(|block| !block.is_left_out()) {
        pages += block.pages();
        present += block.present_pages()?;
    }
    let untouched = if writes_all { 0 } else { pages - present };
    Ok(Pages { written, zero: pages.saturating_sub(written), untouched })
}

/// The same blocks once more, their memory not in this process.
fn blocks_of<'m>(reader: &Reader) -> Vec<RamBlock<'m>> {
    let again = |block: &Block| {
        let name = block.layout().idstr_bytes();
        match (block.is_left_out(), block.layout().guest_address()) {
            (true, address) => RamBlock::left_out(name, block.used_length(), address.unwrap_or(0)),
            (false, Some(address)) => RamBlock::detached(name, block.used_length()).guest_address(address),
            (false, None) => RamBlock::detached(name, block.used_length()),
        }
    };
    reader.blocks().iter().map(again).collect()
}

fn copy_block(
    writer: &mut Writer<'_>,
    index: usize,
    (block, input): (&Block, &Path),
    writes_all: bool,
    bar: &ProgressBar,
) -> Result<(), Problem> {
    let window = WINDOW.max(block.page_size());
    let mut buffer = Vec::new();
    let mut offset = 0;
    while offset < block.used_length() {
        let length = window.min(block.used_length() - offset);
        if writes_all || any_present(block, offset, length)? {
            // At most the larger of `WINDOW` and `MAX_PAGE`.
            make_room(&mut buffer, input, usize::try_from(length).unwrap_or(usize::MAX))?;
            threads()?.install(|| {
                buffer
                    .par_chunks_mut(CHUNK)
                    .enumerate()
                    .try_for_each(|(piece, bytes)| block.read_at(offset + (piece * CHUNK) as u64, bytes))
            })?;
            writer.write_from(index, offset, &buffer)?;
        }
        bar.inc(length);
        offset += length;
    }
    Ok(())
}
