//! Writes the seeds that the fuzzers begin with: `make_seeds [FILE...]`, each FILE saved by real QEMU.
//!
//! Of QEMU's files only the head, the records and the tail are kept, moved together as a stream with pages of their own size
//! would be too large; the tail alone is a seed too.

use std::error::Error;
use std::fs;
use std::path::Path;

use mapped_ram::Reader;
use reference_model::{Block, Stream};

fn put(target: &str, name: &str, bytes: &[u8]) -> Result<(), Box<dyn Error>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds").join(target);
    fs::create_dir_all(&folder)?;
    fs::write(folder.join(name), bytes)?;
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let block = |name: &str, pages: u64| Block {
        name: name.into(),
        used_length: pages * 256,
        address: None,
        left_out: false,
        pages: (0..pages).step_by(3).map(|page| (page, vec![7; 256])).collect(),
    };
    for (name, blocks) in
        [("empty", vec![]), ("one", vec![block("ram0", 3)]), ("two", vec![block("a", 5), block("b", 1)])]
    {
        let mut stream = Stream::new(blocks);
        (stream.page_size, stream.alignment) = (256, 256);
        let file = stream.write();
        put("stream", name, &[&[0], file.read(0, file.length()).as_slice()].concat())?;
        put("tail", name, &stream.tail)?;
    }
    for file in std::env::args().skip(1) {
        let reader = Reader::open(&file)?;
        let name =
            Path::new(&file).file_stem().and_then(|name| name.to_str()).ok_or("a file needs a name")?;
        let tail = reader.tail()?;
        put("tail", name, &tail)?;
        let records = usize::try_from(reader.layout().records_offset())?;
        let head = &fs::read(&file)?[..records];
        put("stream", name, &[&[0], head].concat())?;
    }
    for (number, format) in [6_u32, 0, 5].into_iter().enumerate() {
        let mut header = b"LibvirtQemudSave".to_vec();
        for field in [2, 100, 1, format, 40] {
            header.extend(field.to_le_bytes());
        }
        header.resize(92, 0);
        put("libvirt", &format!("{number}"), &header)?;
    }
    // Structured inputs are made up by the fuzzer; these only have enough bytes to begin with.
    for (target, length) in [("slicer", 200), ("save_load", 120), ("reader", 120)] {
        for fill in [0_u8, 1, 0x55, 0xFF] {
            let bytes: Vec<u8> = (0..length).map(|i: u8| fill ^ i.wrapping_mul(37)).collect();
            put(target, &format!("{fill}"), &bytes)?;
        }
    }
    Ok(())
}
