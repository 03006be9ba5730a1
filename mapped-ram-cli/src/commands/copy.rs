//! `mapped-ram copy`.

use indicatif::ProgressBar;
use mapped_ram::{Block, Cancel, RamBlock, Tail, Writer};

use super::{interruptible, open, tell, write_options};
use crate::args::CopyArgs;
use crate::chunks::{self, any_present};
use crate::exit::{Outcome, Problem};
use crate::progress;

/// How much is read, then written, at a time, in bytes: some chunks for each channel, and small beside any guest.
const WINDOW: u64 = 32 << 20;

pub(crate) fn run(args: &CopyArgs) -> Result<Outcome, Problem> {
    let cancel = interruptible();
    let reader = open(&args.input, args.in_offset)?;
    // A copy must be as whole as it looks: a tail that is cut would come out as one, under a new name.
    reader.devices()?;
    let blocks = reader
        .blocks()
        .iter()
        .map(|block| {
            let name = block.layout().idstr_bytes();
            match (block.is_left_out(), block.layout().guest_address()) {
                (true, address) => RamBlock::left_out(name, block.used_length(), address.unwrap_or(0)),
                (false, Some(address)) => {
                    RamBlock::detached(name, block.used_length()).guest_address(address)
                }
                (false, None) => RamBlock::detached(name, block.used_length()),
            }
        })
        .collect();
    let options = write_options(&args.write, &cancel).head_of(reader.layout());
    let mut writer = match args.write.offset {
        Some(_) => options.in_place(&args.out, blocks)?,
        None => options.create(&args.out, blocks)?,
    };
    let total = reader.blocks().iter().filter(|block| !block.is_left_out()).map(Block::used_length).sum();
    let bar = progress::bar("copy", total);
    for (index, block) in reader.blocks().iter().enumerate() {
        if !block.is_left_out() {
            copy_block(&mut writer, index, block, &cancel, &bar)?;
        }
    }
    bar.finish_and_clear();
    let report = writer.finish(&Tail::copied_from(&reader))?;
    tell(&args.out, &args.write, &report);
    Ok(Outcome::Good)
}

fn copy_block(
    writer: &mut Writer<'_>,
    index: usize,
    block: &Block,
    cancel: &Cancel,
    bar: &ProgressBar,
) -> Result<(), Problem> {
    let window = WINDOW.max(block.page_size());
    let mut buffer = Vec::new();
    let mut offset = 0;
    while offset < block.used_length() {
        let length = window.min(block.used_length() - offset);
        if any_present(block, offset, length)? {
            let room = usize::try_from(length).unwrap_or(usize::MAX);
            if buffer.try_reserve_exact(room).is_err() {
                return Err(Problem::Usage(format!(
                    "pages of {length} bytes do not fit into this machine's memory"
                )));
            }
            buffer.clear();
            buffer.resize(room, 0);
            let pieces =
                std::sync::Mutex::new(buffer.chunks_mut(usize::try_from(chunks::CHUNK).unwrap_or(1 << 20)));
            let hidden = ProgressBar::hidden();
            let start = offset;
            let next = std::sync::atomic::AtomicU64::new(0);
            chunks::for_each(length, cancel, &hidden, |_, _| {
                // Pieces are handed out in order, whichever thread asks.
                let (at, piece) = {
                    let mut pieces = pieces.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    let Some(piece) = pieces.next() else { return Ok(()) };
                    (next.fetch_add(piece.len() as u64, std::sync::atomic::Ordering::Relaxed), piece)
                };
                Ok(block.read_at(start + at, piece)?)
            })?;
            writer.write_from(index, offset, &buffer)?;
        }
        bar.inc(length);
        offset += length;
    }
    Ok(())
}
