//! A tiny monitor that has a saved guest's memory at once: maps its blocks, reads a little, writes a little.
//!
//! Run without arguments it saves a made-up guest first; with the path of a file (QEMU's, libvirt's or ours), that one is mapped.

use std::path::PathBuf;
use std::time::Instant;

use mapped_ram::{RamBlock, Reader, SaveOptions};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let path = if let Some(path) = std::env::args_os().nth(1) {
        PathBuf::from(path)
    } else {
        let path = dir.path().join("guest.mram");
        let mut guest = vec![0_u8; 64 << 20];
        guest[..8].copy_from_slice(b"a guest!");
        SaveOptions::new().save(&path, vec![RamBlock::new("ram0", &guest)])?;
        path
    };

    let reader = Reader::open(&path)?;
    for block in reader.blocks().iter().filter(|block| !block.is_left_out()) {
        let began = Instant::now();
        let mapping = block.map()?;
        // SAFETY: the first byte of a mapping that nobody else uses; the file is left alone meanwhile.
        let first = unsafe { mapping.as_ptr().read_volatile() };
        let took = began.elapsed();
        println!(
            "{}: {} bytes, the first is {first:#04x}, read after {took:?}",
            block.idstr(),
            mapping.len()
        );

        // Now a virtual processor would run in it. What it writes is this process's own:
        // SAFETY: as above.
        unsafe { mapping.as_ptr().write_volatile(!first) };
        let mut in_file = [0];
        block.read_at(0, &mut in_file)?;
        assert_eq!(in_file, [first]);
    }
    Ok(())
}
