//! Sparse files that claim terabytes.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;

use mapped_ram::{Reader, VerifyOptions};
use reference_model::{Block, Stream};

use crate::allocator::peak_of;

/// The longest file that ext4 takes is a little short of 16 TiB.
const LENGTH: u64 = 1 << 43;

#[test]
fn a_guest_of_8_tib_with_one_page_is_read_in_little_memory() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = dir.path().join("huge.mram");
    // The model's bitmap is made a bit at a time: a small guest, whose length is changed afterwards.
    let block = Block {
        name: b"ram0".to_vec(),
        used_length: 4096,
        address: None,
        left_out: false,
        pages: BTreeMap::new(),
    };
    let stream = Stream::new(vec![block]);
    let small = stream.write();
    let bytes = small.read(0, 4096);
    let record = bytes.windows(5).position(|part| part == b"\x04ram0").unwrap();
    let header = record + 5 + 8;
    let bitmap = header as u64 + 28;
    let pages_offset: u64 = (bitmap + LENGTH / 4096 / 8).next_multiple_of(1 << 20);

    let file = File::create(&path).unwrap();
    file.write_all_at(&bytes[..header + 28], 0).unwrap();
    let total = bytes.windows(4).position(|part| part == b"\x03ram").unwrap() + 12;
    file.write_all_at(&(LENGTH | 4).to_be_bytes(), total as u64).unwrap();
    file.write_all_at(&LENGTH.to_be_bytes(), record as u64 + 5).unwrap();
    file.write_all_at(&pages_offset.to_be_bytes(), header as u64 + 20).unwrap();
    // The last page but one.
    let page = LENGTH / 4096 - 2;
    file.write_all_at(&[1 << (page % 8)], bitmap + page / 8).unwrap();
    file.write_all_at(&[7; 4096], pages_offset + page * 4096).unwrap();
    file.write_all_at(&stream.tail, pages_offset + LENGTH).unwrap();

    let ((), peak) = peak_of(|| {
        let reader = Reader::open(&path).unwrap();
        let block = &reader.blocks()[0];
        assert_eq!(block.present_pages().unwrap(), 1);
        let mut piece = [0xEE; 8192];
        block.read_at(LENGTH - 12_288, &mut piece).unwrap();
        assert_eq!((piece[0], piece[4095], piece[4096], piece[8191]), (0, 0, 7, 7));
        let report = reader.verify(VerifyOptions::new()).unwrap();
        assert_eq!(report.problems, []);
    });
    assert!(peak < 64 << 20, "{peak} bytes");
}

#[test]
fn a_hundred_thousand_blocks_cost_a_small_multiple_of_their_records() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = dir.path().join("blocks.mram");
    // Blocks that are left out need nothing but their record.
    let count: u64 = 100_000;
    let mut bytes =
        b"QEVM\0\0\0\x03\x07\0\0\0\x04none\x05\x1aconfiguration/capabilities\0\0\0\x01\0\0\0\x02".to_vec();
    bytes.extend(b"\x0amapped-ram\x0fx-ignore-shared");
    bytes.extend(b"\x01\0\0\0\x01\x03ram\0\0\0\0\0\0\0\x04");
    bytes.extend(((count * 4096) | 4).to_be_bytes());
    for block in 0..count {
        let name = format!("{block}");
        bytes.push(u8::try_from(name.len()).unwrap());
        bytes.extend(name.as_bytes());
        bytes.extend(4096_u64.to_be_bytes());
        bytes.extend((block * 4096).to_be_bytes());
        bytes.extend(b"\0\0\0\x01\0\0\0\0\0\0\x10\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
    }
    bytes.extend(&Stream::new(Vec::new()).tail);
    let length = bytes.len();
    std::fs::write(&path, bytes).unwrap();
    let (reader, peak) = peak_of(|| Reader::open(&path).unwrap());
    assert_eq!(reader.blocks().len() as u64, count);
    assert!(peak < 10 * length, "{peak} bytes for a file of {length}");
}
