//! Plans a small stream and prints where everything stands; or, given a file, prints what stands in it.
//!
//! ```text
//! cargo run --example layout                     plan, encode, decode
//! cargo run --example layout -- FILE [OFFSET]    decode a file whose stream begins at OFFSET
//! ```

use std::error::Error;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};

use mapped_ram_format::libvirt::SaveHeader;
use mapped_ram_format::tail::{Device, Tail, TailBuilder};
use mapped_ram_format::{BlockPlan, Layout, LayoutPlan, decode, decode_with};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    match arguments.next() {
        Some(path) => {
            let offset = arguments.next().map(|offset| offset.parse()).transpose()?;
            inspect(File::open(path)?, offset)
        }
        None => plan(),
    }
}

fn plan() -> Result<(), Box<dyn Error>> {
    let layout = LayoutPlan::new()
        .machine("microvm")
        .block(BlockPlan::new("microvm.ram", 64 << 10))
        .block(BlockPlan::new("/rom@etc/acpi/tables", 8 << 10))
        .build()?;
    let device = Device { name: "clock".into(), instance: 0, version: 1, data: vec![1, 2, 3] };
    let tail = TailBuilder::new(&layout).device(device).build()?;

    // No page is marked as present, so the bitmaps and the pages are holes.
    let mut file = vec![0; usize::try_from(layout.tail_offset())?];
    for piece in layout.pieces() {
        let start = usize::try_from(piece.offset)?;
        file[start..start + piece.bytes.len()].copy_from_slice(&piece.bytes);
    }
    file.extend(&tail);

    let decoded = decode(&file, 0)?;
    assert_eq!(decoded, layout);
    print(&decoded, &tail)
}

fn inspect(mut file: File, offset: Option<u64>) -> Result<(), Box<dyn Error>> {
    let end = file.seek(SeekFrom::End(0))?;
    let mut first = Vec::new();
    file.rewind()?;
    file.by_ref().take(SaveHeader::LEN as u64).read_to_end(&mut first)?;
    let offset = match (offset, SaveHeader::decode(&first)?) {
        (Some(offset), _) => offset,
        (None, Some(header)) => header.stream_offset(),
        (None, None) => 0,
    };
    let layout = decode_with(offset, end, |offset, buffer| {
        file.seek(SeekFrom::Start(offset))?;
        file.read_exact(buffer)
    })?;
    let mut tail = Vec::new();
    file.seek(SeekFrom::Start(layout.tail_offset()))?;
    file.read_to_end(&mut tail)?;
    print(&layout, &tail)
}

fn print(layout: &Layout, tail: &[u8]) -> Result<(), Box<dyn Error>> {
    let machine = layout.configuration().map_or("(none)", |configuration| configuration.machine());
    println!(
        "stream at {:#x}, machine {machine}, pages of {} bytes",
        layout.stream_offset(),
        layout.page_size()
    );
    println!("{:>12} {:>12} {:>12} {:>12}  block", "record", "bitmap", "pages", "length");
    for block in layout.blocks() {
        let offsets =
            [block.record_offset(), block.bitmap_offset(), block.pages_offset(), block.used_length()];
        for offset in offsets {
            print!("{offset:>#12x} ");
        }
        println!(" {}", block.idstr());
    }
    let devices = Tail::parse(tail).map_err(|error| error.shifted(layout.tail_offset()))?;
    println!("{:>#12x}  tail of {} bytes", layout.tail_offset(), devices.length());
    for device in devices.devices() {
        let described = if device.is_described() { "" } else { ", length not described" };
        let range = device.range();
        let start = layout.tail_offset() + range.start as u64;
        println!(
            "{start:>#12x}  {} bytes of {}/{}{described}",
            range.len(),
            device.name(),
            device.instance()
        );
    }
    Ok(())
}
