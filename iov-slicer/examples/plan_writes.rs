//! Prints which writes a dirty bitmap comes down to.

use iov_slicer::{Block, Limits, page_runs, slice_pages};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // 256 KiB of guest memory, which stands in the file from 1 MiB on; pages 0 to 3, 8 and 9 are dirty.
    let block = Block::new(0x7f00_0000_0000, 256 << 10, 1 << 20)?;
    let dirty = [0b11_0000_1111_u64];

    for (how, gap) in [("as they are", 0), ("bridging gaps of up to 4 pages", 4)] {
        println!("{how}:");
        for write in slice_pages(&block, &Limits::new(4096), page_runs(&dirty[..], 64).bridged(gap)) {
            let write = write?;
            println!("  {:6} bytes from {:#x} at file offset {:#x}", write.len, write.addr, write.offset);
        }
    }
    Ok(())
}
