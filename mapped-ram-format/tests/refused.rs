//! Corruptions around the blocks, each named after what must be rejected.
//!
//! Each test changes one field of a stream that decodes, and expects the one defect at the place of that field.

mod common;

use common::spoiled::{LENGTH, PAGE, Stream};
use mapped_ram_format::{Configuration, Defect, ErrorKind};

#[test]
fn another_file() {
    let stream = Stream::new().put(0, b"ELF!");
    stream.is(Defect::Magic(*b"ELF!"), 0);
    assert_eq!(stream.refused().kind(), ErrorKind::Damaged);
}

#[test]
fn a_cut_stream_says_inside_of_what_it_ends() {
    let whole = Stream::new();
    let inside = [
        (2, "its magic"),
        (20, "its configuration"),
        (70, "the start of its ram section"),
        (whole.layout.records_offset() + 3, "a block's record"),
    ];
    for (cut, what) in inside {
        let mut stream = Stream::new();
        stream.file.truncate(usize::try_from(cut).unwrap());
        stream.is(Defect::EndsInside(what), cut);
    }
    let mut stream = Stream::new();
    let end = stream.layout.tail_offset();
    stream.file.truncate(usize::try_from(end).unwrap() + 3);
    stream.is(Defect::EndsInside("the end of its ram section"), end + 3);
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
fn no_footer_behind_the_memory() {
    let stream = Stream::new();
    let at = stream.layout.tail_offset() + 8;
    stream.put(at, &[0x7d]).is(Defect::Footer(1), at);
    for next in [1, 2, 3, 4, 8] {
        Stream::new().put(at, &[next]).is(Defect::NoFooters, at);
    }
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
