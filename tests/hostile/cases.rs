//! How each small file is made, and what must be said of it.
//!
//! Each begins as a sound stream, written by the reference model: pages of 256 bytes, two blocks, `ram0` of 16 pages (1, 2
//! and 9 present) and `rom` of 4 (all present). Then something is changed.

use std::collections::BTreeMap;

use mapped_ram::ErrorKind;
use reference_model::{Block, Stream};

const PAGE: u64 = 256;

/// One file.
pub(crate) struct Case {
    /// What is wrong with it.
    pub(crate) name: &'static str,
    pub(crate) bytes: Vec<u8>,
    /// What it is called; `None` if it is read safely.
    pub(crate) expected: Option<ErrorKind>,
    /// What the message, or the problems that `verify` finds, must contain.
    pub(crate) words: &'static [&'static str],
}

fn stream() -> Stream {
    let block = |name: &str, pages: u64, present: &[u64]| Block {
        name: name.into(),
        used_length: pages * PAGE,
        address: None,
        left_out: false,
        pages: present
            .iter()
            .map(|page| (*page, vec![u8::try_from(*page).unwrap() + 1; 256]))
            .collect::<BTreeMap<_, _>>(),
    };
    let mut stream = Stream::new(vec![block("ram0", 16, &[1, 2, 9]), block("rom", 4, &[0, 1, 2, 3])]);
    (stream.page_size, stream.alignment) = (PAGE, PAGE);
    let at = stream.tail.windows(4).position(|bytes| bytes == b"4096").unwrap();
    stream.tail.splice(at..at + 4, *b"0256");
    stream.tail[at] = b' ';
    stream
}

/// The stream with nothing wrong.
pub(crate) fn sound() -> Vec<u8> {
    let file = stream().write();
    file.read(0, file.length())
}

/// How long the vmdescription is, with its type and length.
pub(crate) const VMDESCRIPTION: usize = 5 + 34;

/// Whether a byte of the sound stream is in the room of a page.
pub(crate) fn is_page(at: usize) -> bool {
    [("ram0", 16), ("rom", 4)].into_iter().any(|(name, pages)| {
        let start = Maker(sound()).get(name, PAGES_OFFSET);
        (start..start + pages * PAGE).contains(&(at as u64))
    })
}

/// Where the record of a block begins: its name's length.
fn record(bytes: &[u8], name: &str) -> usize {
    let length = u8::try_from(name.len()).unwrap();
    let mark = [&[length], name.as_bytes()].concat();
    bytes.windows(mark.len()).position(|part| part == mark).unwrap()
}

/// Fields of a record, by their distance from the end of the name.
const USED_LENGTH: usize = 0;
const VERSION: usize = 8;
const PAGE_SIZE: usize = 12;
const BITMAP_OFFSET: usize = 20;
const PAGES_OFFSET: usize = 28;
const BITMAP: usize = 36;

struct Maker(Vec<u8>);

impl Maker {
    fn field(&mut self, name: &str, field: usize) -> &mut [u8] {
        let at = record(&self.0, name) + 1 + name.len() + field;
        &mut self.0[at..at + 8]
    }

    fn set(mut self, name: &str, field: usize, value: u64) -> Self {
        self.field(name, field).copy_from_slice(&value.to_be_bytes());
        self
    }

    fn get(&mut self, name: &str, field: usize) -> u64 {
        u64::from_be_bytes(self.field(name, field).try_into().unwrap())
    }

    /// Where the total stands: behind "ram", instance and version.
    fn total(mut self, value: u64) -> Self {
        let at = self.0.windows(12).position(|part| part == b"\x03ram\0\0\0\0\0\0\0\x04").unwrap() + 12;
        self.0[at..at + 8].copy_from_slice(&value.to_be_bytes());
        self
    }

    fn replace(mut self, old: &[u8], new: &[u8]) -> Self {
        let at = self.0.windows(old.len()).position(|part| part == old).unwrap();
        self.0.splice(at..at + old.len(), new.iter().copied());
        self
    }

    fn write(mut self, at: usize, bytes: &[u8]) -> Self {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    fn cut(mut self, length: usize) -> Self {
        self.0.truncate(length);
        self
    }
}

fn sound_maker() -> Maker {
    Maker(sound())
}

/// A libvirt header before the sound stream.
fn libvirt(magic: &[u8; 16], version: u32, data_len: u32, format: u32) -> Maker {
    let mut bytes = magic.to_vec();
    for field in [version, data_len, 1, format, 0] {
        bytes.extend(field.to_le_bytes());
    }
    bytes.resize(92 + usize::try_from(data_len.min(64)).unwrap(), 0);
    Maker([bytes, sound()].concat())
}

/// All of them.
pub(crate) fn cases() -> Vec<Case> {
    use ErrorKind::{Damaged, Incomplete, Unsupported};
    let mut cases = Vec::new();
    let mut add = |name, maker: Maker, expected, words| {
        cases.push(Case { name, bytes: maker.0, expected, words });
    };
    let ok = sound_maker;
    let pages_of = |name: &str| usize::try_from(ok().get(name, PAGES_OFFSET)).unwrap();
    let record_of = |name: &str| record(&sound(), name);

    // What QEMU 10.0.2 is killed by, or does not notice.
    add("page_size_0", ok().set("ram0", PAGE_SIZE, 0), Some(Damaged), &["ram0", "page size"]);
    add("cut_inside_a_block", ok().cut(pages_of("ram0") + 1000), Some(Incomplete), &[]);
    add(
        "start_inside_and_end_outside_of_the_file",
        ok().set("rom", USED_LENGTH, 60 * PAGE).total((76 * PAGE) | 4),
        Some(Incomplete),
        &["rom"],
    );
    add("zeroed_bitmap", ok().set("ram0", BITMAP, 0), None, &[]);
    add("bits_for_pages_that_were_never_written", ok().set("ram0", BITMAP, 0xFFFF << 48), None, &[]);

    // Page sizes.
    add("page_size_1", ok().set("ram0", PAGE_SIZE, 1), Some(Damaged), &["page size"]);
    add("page_size_3000", ok().set("ram0", PAGE_SIZE, 3000), Some(Damaged), &["page size"]);
    add("page_size_2_to_the_63", ok().set("ram0", PAGE_SIZE, 1 << 63), Some(Damaged), &[]);
    add(
        "page_size_of_the_second_block_differs",
        ok().set("rom", PAGE_SIZE, 512),
        Some(Unsupported),
        &["rom", "page size 512"],
    );

    // Lengths and places.
    add("used_length_0", ok().set("ram0", USED_LENGTH, 0), Some(Damaged), &["ram0"]);
    add(
        "used_length_no_multiple_of_the_page_size",
        ok().set("ram0", USED_LENGTH, 16 * PAGE + 1),
        Some(Damaged),
        &["ram0"],
    );
    add("used_length_2_to_the_63", ok().set("ram0", USED_LENGTH, 1 << 63), Some(Damaged), &["ram0"]);
    add("used_length_all_ones", ok().set("ram0", USED_LENGTH, u64::MAX), Some(Damaged), &["ram0"]);
    add("total_too_small", ok().total(16 * PAGE + 4), Some(Damaged), &["0x1100"]);
    add("total_too_large", ok().total(21 * PAGE + 4), Some(Damaged), &["0x1601"]);
    add("total_that_wraps", ok().total(!0xFF), Some(Damaged), &[]);
    add("total_0", ok().total(4), Some(Damaged), &[]);
    add("bitmap_inside_the_head", ok().set("ram0", BITMAP_OFFSET, 8), Some(Damaged), &["ram0"]);
    add(
        "bitmap_over_the_pages",
        ok().set("ram0", BITMAP_OFFSET, pages_of("ram0") as u64),
        Some(Damaged),
        &["ram0"],
    );
    add("bitmap_past_the_end", ok().set("ram0", BITMAP_OFFSET, 1 << 40), Some(Damaged), &["ram0", "bitmap"]);
    add(
        "bitmap_at_the_end_of_the_numbers",
        ok().set("ram0", BITMAP_OFFSET, u64::MAX - 3),
        Some(Damaged),
        &["ram0", "bitmap"],
    );
    add("pages_at_0", ok().set("ram0", PAGES_OFFSET, 0), Some(Damaged), &["ram0"]);
    add(
        "pages_not_aligned",
        ok().set("ram0", PAGES_OFFSET, pages_of("ram0") as u64 + 1),
        Some(Damaged),
        &["ram0", "not aligned"],
    );
    add("pages_past_the_end", ok().set("ram0", PAGES_OFFSET, 1 << 40), Some(Incomplete), &["ram0"]);
    add(
        "pages_at_the_end_of_the_numbers",
        ok().set("ram0", PAGES_OFFSET, u64::MAX - 255),
        Some(Damaged),
        &["ram0", "wrap"],
    );
    add(
        "second_block_over_the_first",
        ok().set("rom", PAGES_OFFSET, pages_of("ram0") as u64),
        Some(Damaged),
        &["rom"],
    );
    add(
        "left_out_without_the_capability",
        ok().set("ram0", BITMAP_OFFSET, 0).set("ram0", PAGES_OFFSET, 0),
        Some(Damaged),
        &["ram0"],
    );
    let version_2 = [0, 0, 0, 2];
    add(
        "header_of_version_2",
        ok().write(record_of("ram0") + 5 + VERSION, &version_2),
        Some(Unsupported),
        &["ram0", "version"],
    );

    // Names.
    add("name_empty", ok().write(record_of("ram0"), &[0]), Some(Damaged), &["empty name"]);
    add("name_with_nul", ok().replace(b"\x04ram0", b"\x04ra\x000"), Some(Damaged), &[]);
    add("name_with_slashes", ok().replace(b"\x04ram0", b"\x04../x"), None, &[]);
    add("name_that_clears_the_screen", ok().replace(b"\x04ram0", b"\x04\x1b[2J"), None, &[]);
    add("name_not_utf_8", ok().replace(b"\x04ram0", b"\x04\xFF\xFEm0"), None, &[]);
    let twice = {
        let mut stream = stream();
        stream.blocks[1].name = b"ram0".to_vec();
        let file = stream.write();
        Maker(file.read(0, file.length()))
    };
    add("name_twice", twice, Some(Damaged), &["ram0"]);

    // The head.
    add("empty", ok().cut(0), Some(Incomplete), &[]);
    add("three_bytes", ok().cut(3), Some(Incomplete), &[]);
    add("all_zeros", Maker(vec![0; 4096]), Some(Incomplete), &[]);
    add("marked_as_unfinished", ok().write(0, b"part"), Some(Incomplete), &["unfinished"]);
    add("no_magic", ok().write(0, b"ELF?"), Some(Damaged), &[]);
    add("stream_version_2", ok().write(4, &version_2), Some(Unsupported), &["version 2"]);
    add("cut_inside_the_head", ok().cut(40), Some(Incomplete), &[]);
    add("cut_inside_the_bitmap", ok().cut(record_of("ram0") + 5 + BITMAP + 3), Some(Incomplete), &["ram0"]);
    add("machine_name_of_4_gib", ok().write(9, &[0xFF; 4]), Some(Damaged), &["machine name"]);
    add("an_endless_chain_of_subsections", endless_subsections(), Some(Damaged), &["target-page-bits"]);
    add(
        "capabilities_without_end",
        ok().replace(b"\0\0\0\x01\x0amapped-ram", b"\xFF\xFF\xFF\xFF\x0amapped-ram"),
        Some(Damaged),
        &["256 capabilities"],
    );
    add("an_illegal_ram_flag", ok().total((20 * PAGE) | 0x8), Some(Damaged), &["0x8"]);
    add(
        "another_section_instead_of_ram",
        ok().replace(b"\x03ram", b"\x03rom"),
        Some(Unsupported),
        &["`rom`"],
    );

    // Bits.
    add(
        "set_bits_in_the_padding",
        ok().set(
            "rom",
            BITMAP,
            u64::from_le_bytes([0, 0, 0, 0, 0, 0, 0xFF, 0x0F]).swap_bytes() | 0x0F00_0000_0000_00FF,
        ),
        None,
        &[],
    );
    let stale = pages_of("ram0");
    add("stale_bytes_under_a_clear_bit", ok().write(stale, &[0xEE; 256]), None, &[]);

    // The tail.
    let tail = sound().len() - stream().tail.len();
    add("no_tail", ok().cut(tail), Some(Incomplete), &[]);
    add("cut_inside_the_tail", ok().cut(tail + 20), None, &[]);
    add(
        "no_end_of_the_ram_section",
        ok().write(tail + 7, &[0x11]),
        Some(Damaged),
        &["ram section should end"],
    );
    add("footer_of_another_section", ok().write(tail + 12, &[9]), Some(Damaged), &["footer"]);
    add("vmdescription_of_4_gib", vmdescription(u32::MAX, b"{}"), None, &["tail"]);
    add("vmdescription_that_is_no_json", vmdescription(5, b"[[[[["), None, &["tail"]);
    add("vmdescription_nested_too_deeply", vmdescription(3000, &[b'['; 3000]), None, &["tail"]);

    // libvirt.
    let save = b"LibvirtQemudSave";
    add("libvirt_that_never_finished", libvirt(b"LibvirtQemudPart", 2, 32, 6), Some(Incomplete), &[]);
    add("libvirt_of_format_raw", libvirt(save, 2, 32, 0), Some(Unsupported), &[]);
    add("libvirt_of_format_zstd", libvirt(save, 2, 32, 5), Some(Unsupported), &[]);
    add("libvirt_of_format_77", libvirt(save, 2, 32, 77), Some(Unsupported), &["77"]);
    add("libvirt_of_version_3", libvirt(save, 3, 32, 6), Some(Unsupported), &["version 3"]);
    add("libvirt_with_xml_past_the_end", libvirt(save, 2, u32::MAX, 6), Some(Incomplete), &[]);
    add("libvirt_cut_inside_its_header", libvirt(save, 2, 32, 6).cut(60), Some(Incomplete), &[]);
    cases
}

fn endless_subsections() -> Maker {
    let one = b"\x05\x1econfiguration/target-page-bits\0\0\0\x01\0\0\0\x0c";
    let head = &sound()[..8];
    let mut bytes = head.to_vec();
    bytes.extend(b"\x07\0\0\0\x04none");
    for _ in 0..150 {
        bytes.extend(one);
    }
    Maker(bytes)
}

/// The sound stream with another vmdescription.
fn vmdescription(length: u32, json: &[u8]) -> Maker {
    let mut bytes = sound();
    let at = bytes.windows(5).rposition(|part| part[0] == 6 && part[1..4] == [0, 0, 0]).unwrap();
    bytes.truncate(at + 1);
    bytes.extend(length.to_be_bytes());
    bytes.extend(json);
    Maker(bytes)
}
