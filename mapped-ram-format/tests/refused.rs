//! Corruptions, each named after what must be rejected.
//!
//! Each test changes one field of a stream that decodes, and expects the one defect at the place of that field.

#![allow(clippy::needless_pass_by_value, reason = "defects are written where they are expected")]

mod common;

use common::{decode_checked, file_with_tail, size};
use mapped_ram_format::{
    BlockPlan, Configuration, DecodeError, Defect, ErrorKind, IGNORE_SHARED, Layout, LayoutPlan,
};

const PAGE: u64 = 4096;
const LENGTH: u64 = 40 * PAGE;

fn layout(configuration: Configuration) -> Layout {
    let shared = configuration.has_capability(IGNORE_SHARED);
    let block = |name: &str| {
        let block = BlockPlan::new(name, LENGTH);
        if shared { block.guest_address(0) } else { block }
    };
    let plan = LayoutPlan::new().configuration(configuration).alignment(PAGE);
    plan.block(block("ram0")).block(block("rom1")).build().unwrap()
}

/// A stream of two blocks that decodes, to be spoiled.
struct Stream {
    file: Vec<u8>,
    layout: Layout,
}

impl Stream {
    fn new() -> Self {
        Self::with(Configuration::new("none"))
    }

    fn with(configuration: Configuration) -> Self {
        let layout = layout(configuration);
        let file = file_with_tail(&layout);
        assert_eq!(decode_checked(&file, 0).as_ref(), Ok(&layout));
        Self { file, layout }
    }

    /// Where a field of a block's record stands, counted from the end of the record.
    fn field(&self, block: usize, from_end: u64) -> u64 {
        self.layout.blocks()[block].record_end() - from_end
    }

    fn used_length(&self, block: usize) -> u64 {
        self.field(block, 36)
    }

    fn version(&self, block: usize) -> u64 {
        self.field(block, 28)
    }

    fn page_size(&self, block: usize) -> u64 {
        self.field(block, 24)
    }

    fn bitmap_offset(&self, block: usize) -> u64 {
        self.field(block, 16)
    }

    fn pages_offset(&self, block: usize) -> u64 {
        self.field(block, 8)
    }

    fn total(&self) -> u64 {
        self.layout.records_offset() - 8
    }

    fn put(mut self, at: u64, bytes: &[u8]) -> Self {
        self.file[size(at)..][..bytes.len()].copy_from_slice(bytes);
        self
    }

    fn put_u64(self, at: u64, value: u64) -> Self {
        self.put(at, &value.to_be_bytes())
    }

    fn insert(mut self, at: u64, bytes: &[u8]) -> Self {
        self.file.splice(size(at)..size(at), bytes.iter().copied());
        self
    }

    fn refused(&self) -> DecodeError {
        decode_checked(&self.file, 0).unwrap_err()
    }

    #[track_caller]
    fn is(&self, what: Defect, at: u64) {
        let error = self.refused();
        assert_eq!((error.what(), error.offset()), (&what, at), "{error}");
    }

    #[track_caller]
    fn is_in(&self, block: &str, what: Defect, at: u64) {
        self.is(what, at);
        assert_eq!(self.refused().block(), Some(block));
    }
}

#[test]
fn another_file() {
    let stream = Stream::new().put(0, b"ELF!");
    stream.is(Defect::Magic(*b"ELF!"), 0);
    assert_eq!(stream.refused().kind(), ErrorKind::Damaged);
}

#[test]
fn a_stream_that_was_never_finished() {
    for magic in [b"part", b"\0\0\0\0"] {
        let stream = Stream::new().put(0, magic);
        stream.is(Defect::NeverFinished, 0);
        assert_eq!(stream.refused().kind(), ErrorKind::Incomplete);
    }
}

#[test]
fn another_stream_version() {
    let stream = Stream::new().put(7, &[4]);
    stream.is(Defect::Version { of: "the stream", found: 4 }, 4);
    assert_eq!(stream.refused().kind(), ErrorKind::Unsupported);
    assert_eq!(Stream::new().put(7, &[0]).refused().kind(), ErrorKind::Damaged);
}

#[test]
fn a_machine_name_without_end() {
    Stream::new()
        .put(9, &5000u32.to_be_bytes())
        .is(Defect::Configuration("the machine name is longer than 4096 bytes"), 9);
    Stream::new().put(14, &[0]).is(Defect::Configuration("a NUL in the machine name"), 13);
    Stream::new().put(14, &[0xff]).is(Defect::Configuration("the machine name is no UTF-8"), 13);
}

#[test]
fn an_unknown_subsection() {
    let stream = Stream::new().put(19, b"C");
    stream.is(Defect::UnknownSubsection("Configuration/capabilities".into()), 19);
    assert_eq!(stream.refused().kind(), ErrorKind::Unsupported);
}

#[test]
fn endless_subsections() {
    let stream = Stream::new();
    let subsection = stream.file[17..64].to_vec();
    let stream = stream.insert(64, &subsection.repeat(3));
    stream.is(Defect::TwiceInConfiguration("configuration/capabilities".into()), 66);
}

#[test]
fn a_capability_twice_or_without_name_or_by_the_million() {
    let list = |count: u32, names: &[u8]| {
        let mut stream = Stream::new();
        let new = [&count.to_be_bytes()[..], names].concat();
        stream.file.splice(49..64, new);
        stream
    };
    list(2, b"\x0amapped-ram\x0amapped-ram").is(Defect::TwiceInConfiguration("mapped-ram".into()), 65);
    let nameless = Defect::Configuration("a capability's name is empty or has a NUL in it");
    list(2, b"\x0amapped-ram\0").is(nameless, 65);
    list(257, b"").is(Defect::Configuration("more than 256 capabilities"), 49);
    list(1, b"\x07multifd").is(Defect::NotMappedRam, 61);
    list(0, b"").is(Defect::NotMappedRam, 53);
}

#[test]
fn another_subsection_version() {
    let what = Defect::Version { of: "a configuration subsection", found: 2 };
    Stream::new().put(48, &[2]).is(what, 45);
}

#[test]
fn page_bits_out_of_range() {
    let stream = || Stream::with(Configuration::new("none").with_target_page_bits(12));
    let at = stream().file.windows(4).position(|four| four == [0, 0, 0, 12]).unwrap();
    let out = Defect::Configuration("target-page-bits out of range");
    stream().put(at as u64 + 3, &[7]).is(out.clone(), at as u64);
    stream().put(at as u64 + 3, &[64]).is(out, at as u64);
    let stream = stream().put(at as u64 + 3, &[13]);
    stream.is_in("ram0", Defect::PageSizeContradiction { bits: 13, found: PAGE }, stream.page_size(0));
}

#[test]
fn an_unknown_section_before_the_memory() {
    for kind in [0, 2, 3, 4, 5, 6, 7, 9, 0x7e, 0xff] {
        let stream = Stream::new().put(64, &[kind]);
        match kind {
            5 => stream.is(Defect::UnknownSubsection("".into()), 66),
            _ => stream.is(Defect::UnexpectedSection(kind), 64),
        }
    }
    let stream = Stream::new().put(70, b"rat");
    stream.is(Defect::ForeignSection("rat".into()), 70);
    Stream::new().put(76, &[1]).is(Defect::RamInstance(1), 73);
    Stream::new().put(80, &[5]).is(Defect::Version { of: "the ram section", found: 5 }, 77);
}

#[test]
fn commands_without_end() {
    let command = [&[8, 0, 11, 0xff, 0xff][..], &vec![0; 0xffff]].concat();
    let error = Stream::new().insert(64, &command.repeat(17)).refused();
    assert_eq!(error.what(), &Defect::HeadTooLong(1 << 20));
}

#[test]
fn illegal_ram_flags() {
    for illegal in [0x2u64, 0x8, 0x10, 0x20, 0x40, 0x80, 0x1] {
        let stream = Stream::new();
        let at = stream.total();
        stream.put_u64(at, (2 * LENGTH) | 4 | illegal).is(Defect::RamFlags(4 | illegal), at);
    }
    let stream = Stream::new();
    let at = stream.total();
    stream.put_u64(at, 2 * LENGTH).is(Defect::RamFlags(0), at);
    // Not to be told from a length before the page size is known.
    for illegal in [0x100, 0x200, 0x400] {
        let stream = Stream::new();
        stream.put_u64(at, (2 * LENGTH) | 4 | illegal).is(Defect::RamFlags(4 | illegal), at);
    }
    let stream = Stream::new();
    let tail = stream.layout.tail_offset();
    for illegal in [0x2, 0x8, 0x40, 0x80, 0x208] {
        let stream = Stream::new();
        stream.put_u64(tail, 0x5000 | illegal).is(Defect::RamFlags(illegal), tail);
    }
}

#[test]
fn a_total_too_small() {
    let stream = Stream::new();
    let (at, tail) = (stream.total(), stream.layout.blocks()[0].end());
    let word = u64::from_be_bytes(*b"\x04rom1\0\0\0");
    stream.put_u64(at, LENGTH | 4).is(Defect::EndOfRam(word), tail);

    let stream = Stream::new();
    let at = stream.used_length(1);
    let total = stream.total();
    let what = Defect::Total { length: LENGTH, left: LENGTH - PAGE };
    stream.put_u64(total, (2 * LENGTH - PAGE) | 4).is_in("rom1", what, at);
}

#[test]
fn a_total_too_large() {
    let stream = Stream::new();
    let (at, tail) = (stream.total(), stream.layout.tail_offset());
    // The end mark is read as a record, whose name has no bytes.
    stream.put_u64(at, (3 * LENGTH) | 4).is(Defect::Name, tail + 1);
}

#[test]
fn a_total_that_wraps() {
    let stream = Stream::new();
    let at = stream.used_length(1);
    let length = 0u64.wrapping_sub(LENGTH);
    stream.put_u64(at, length).is_in("rom1", Defect::Total { length, left: LENGTH }, at);
}

#[test]
fn an_empty_name_or_a_nul_in_it() {
    let at = Stream::new().layout.records_offset();
    Stream::new().put(at, &[0]).is(Defect::Name, at + 1);
    Stream::new().put(at + 2, &[0]).is_in("r\0m0", Defect::Name, at + 1);
}

#[test]
fn two_blocks_of_one_name() {
    let stream = Stream::new();
    let at = stream.layout.blocks()[1].record_offset();
    stream.put(at + 1, b"ram0").is_in("ram0", Defect::DuplicateBlock, at);
}

#[test]
fn another_header_version() {
    let stream = Stream::new();
    let at = stream.version(1);
    let stream = stream.put(at + 3, &[2]);
    stream.is_in("rom1", Defect::Version { of: "a block's header", found: 2 }, at);
    assert_eq!(stream.refused().kind(), ErrorKind::Unsupported);
    assert_eq!(stream.put(at + 3, &[0]).refused().kind(), ErrorKind::Damaged);
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

#[test]
fn no_footer_behind_the_memory() {
    let stream = Stream::new();
    let at = stream.layout.tail_offset() + 8;
    stream.put(at, &[0x7d]).is(Defect::Footer(1), at);
    Stream::new().put(at + 4, &[3]).is(Defect::Footer(1), at);
}

#[test]
fn errors_say_what_and_where() {
    let stream = Stream::new();
    let at = stream.page_size(1);
    let error = stream.put_u64(at, 0).refused();
    assert_eq!(error.to_string(), format!("damaged at offset {at:#x}: block `rom1`: page size 0"));
    assert_eq!(error.shifted(5).offset(), at + 5);
}
