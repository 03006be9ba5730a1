//! Corruptions of a block's record, each named after what must be rejected.
//!
//! Each test changes one field of a stream that decodes, and expects the one defect at the place of that field.

mod common;

use common::decode_checked;
use common::spoiled::{LENGTH, PAGE, Stream};
use mapped_ram_format::{Configuration, Defect, ErrorKind, IGNORE_SHARED};

#[test]
fn an_empty_name_or_a_nul_in_it() {
    let at = Stream::new().layout.records_offset();
    Stream::new().put(at, &[0]).is(Defect::Name, at + 1);
    Stream::new().put(at + 2, &[0]).is_in("r\\u{0}m0", Defect::Name, at + 1);
}

#[test]
fn two_blocks_of_one_name() {
    let stream = Stream::new();
    let at = stream.layout.blocks()[1].record_offset();
    stream.put(at + 1, b"ram0").is_in("ram0", Defect::DuplicateBlock, at);
}

#[test]
fn another_header_version() {
    for (block, name) in ["ram0", "rom1"].into_iter().enumerate() {
        let stream = Stream::new();
        let at = stream.version(block);
        let stream = stream.put(at + 3, &[2]);
        stream.is_in(name, Defect::Version { of: "a block's header", found: 2 }, at);
        assert_eq!(stream.refused().kind(), ErrorKind::Unsupported);
        assert_eq!(stream.put(at + 3, &[0]).refused().kind(), ErrorKind::Damaged);
    }
}

#[test]
fn a_stream_without_mapped_ram() {
    // A configuration without capabilities, and a record that goes on with something else.
    let mut stream = Stream::new();
    let at = stream.version(0);
    stream = stream.put(at + 3, &[2]);
    stream.file.drain(17..64);
    stream.is_in("ram0", Defect::NotMappedRam, at - 47);
    assert_eq!(stream.refused().kind(), ErrorKind::Unsupported);
}

#[test]
fn a_page_size_of_zero_or_no_power_of_two() {
    for page_size in [0, 1, 2, 128, 4095, 4097, 3 << 12, u64::MAX] {
        for block in 0..2 {
            let stream = Stream::new();
            let at = stream.page_size(block);
            stream.put_u64(at, page_size).is(Defect::PageSize(page_size), at);
        }
    }
}

#[test]
fn blocks_of_different_page_sizes() {
    let stream = Stream::new();
    let at = stream.page_size(1);
    let stream = stream.put_u64(at, 8192);
    stream.is_in("rom1", Defect::MixedPageSizes { first: 4096, found: 8192 }, at);
    assert_eq!(stream.refused().kind(), ErrorKind::Unsupported);
}

#[test]
fn a_length_that_is_no_multiple_of_the_page_size() {
    for length in [0, 1, PAGE - 1, LENGTH + 256] {
        let stream = Stream::new();
        let at = stream.used_length(0);
        stream.put_u64(at, length).is_in("ram0", Defect::UsedLength { length, page_size: PAGE }, at);
    }
}

#[test]
fn a_bitmap_inside_the_header() {
    for back in [1, 28, 100] {
        let stream = Stream::new();
        let at = stream.bitmap_offset(0);
        let header_end = stream.layout.blocks()[0].record_end();
        let offset = header_end - back;
        stream.put_u64(at, offset).is_in("ram0", Defect::BitmapInsideHeader { offset, header_end }, at);
    }
}

#[test]
fn a_bitmap_that_runs_into_the_pages() {
    for bitmap_offset in [4096 - 7, 4096, 1 << 40, u64::MAX] {
        let stream = Stream::new();
        let at = stream.bitmap_offset(0);
        let what = Defect::BitmapIntoPages { bitmap_offset, pages_offset: 4096 };
        stream.put_u64(at, bitmap_offset).is_in("ram0", what, at);
    }
    // 40 pages take 8 bytes with either word: the last place that fits does.
    let stream = Stream::new();
    let at = stream.bitmap_offset(0);
    let stream = stream.put_u64(at, 4096 - 8);
    assert_eq!(decode_checked(&stream.file, 0).unwrap().blocks()[0].bitmap_offset(), 4088);
}

#[test]
fn pages_inside_the_block_before() {
    let stream = Stream::new();
    let (at, bitmap_offset) = (stream.pages_offset(1), stream.layout.blocks()[1].bitmap_offset());
    let pages_offset = stream.layout.blocks()[0].pages_offset();
    let what = Defect::BitmapIntoPages { bitmap_offset, pages_offset };
    let place = stream.bitmap_offset(1);
    stream.put_u64(at, pages_offset).is_in("rom1", what, place);
}

#[test]
fn pages_off_their_alignment() {
    let stream = Stream::new();
    let at = stream.pages_offset(0);
    stream.put_u64(at, 4096 + 512).is_in("ram0", Defect::PagesUnaligned(4608), at);
}

#[test]
fn pages_that_wrap_around() {
    let stream = Stream::new();
    let at = stream.pages_offset(0);
    let offset = 0u64.wrapping_sub(PAGE);
    stream.put_u64(at, offset).is_in("ram0", Defect::Wraps { offset, length: LENGTH }, at);
}

#[test]
fn pages_past_the_end() {
    let stream = Stream::new();
    let at = stream.pages_offset(1);
    let stream = stream.put_u64(at, 1 << 40);
    stream.is_in("rom1", Defect::EndsInside("a block's pages"), at);
    assert_eq!(stream.refused().kind(), ErrorKind::Incomplete);
}

#[test]
fn a_left_out_block_without_the_capability() {
    let stream = Stream::new();
    let at = stream.bitmap_offset(0);
    stream.put(at, &[0; 16]).is_in("ram0", Defect::LeftOut, at);
    // With the capability it is legal, and takes no room: the next record is looked for right behind.
    let stream = Stream::with(Configuration::new("none").with_capability(IGNORE_SHARED));
    let (at, end) = (stream.bitmap_offset(0), stream.layout.blocks()[0].record_end());
    let bitmap = vec![0; 8];
    let error = stream.put(at, &[0; 16]).put(end, &bitmap).refused();
    assert_eq!((error.what(), error.offset()), (&Defect::Name, end + 1));
}

#[test]
fn half_a_left_out_block() {
    let shared = || Stream::with(Configuration::new("none").with_capability(IGNORE_SHARED));
    let stream = shared();
    let (at, header_end) = (stream.bitmap_offset(0), stream.layout.blocks()[0].record_end());
    stream.put(at, &[0; 8]).is_in("ram0", Defect::BitmapInsideHeader { offset: 0, header_end }, at);
    let stream = shared();
    let pages = stream.pages_offset(0);
    let what = Defect::BitmapIntoPages { bitmap_offset: header_end, pages_offset: 0 };
    stream.put(pages, &[0; 8]).is_in("ram0", what, at);
}
