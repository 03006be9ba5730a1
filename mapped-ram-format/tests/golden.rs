//! The smallest stream that QEMU loads, byte by byte, written down by hand.

mod common;

use common::{FILLER, file};
use mapped_ram_format::tail::{DeviceSection, Tail, TailBuilder};
use mapped_ram_format::{BlockPlan, LayoutPlan, decode};

const HEAD: &str = "
    51 45 56 4d  00 00 00 03                                magic, version
    07  00 00 00 04  6e 6f 6e 65                            configuration of machine none
    05  1a  63 6f 6e 66 69 67 75 72 61 74 69 6f 6e 2f       configuration/
            63 61 70 61 62 69 6c 69 74 69 65 73             capabilities
        00 00 00 01  00 00 00 01                            version, count
        0a  6d 61 70 70 65 64 2d 72 61 6d                   mapped-ram
    01  00 00 00 01  03 72 61 6d  00 00 00 00  00 00 00 04  section start: id, ram, instance, version
        00 00 00 00 00 01 00 04                             total with MEM_SIZE
        04  72 61 6d 30                                     ram0
        00 00 00 00 00 01 00 00                             used length
        00 00 00 01                                         header version
        00 00 00 00 00 00 10 00                             page size
        00 00 00 00 00 00 00 82                             bitmap offset
        00 00 00 00 00 00 10 00                             pages offset
";

const TAIL: &str = "
    00 00 00 00 00 00 00 10  7e  00 00 00 01                EOS, footer
    03  00 00 00 01  00 00 00 00 00 00 00 10                section end: id, EOS
    7e  00 00 00 01                                         footer
    00                                                      end of stream
    06  00 00 00 22                                         vmdescription
        7b 22 70 61 67 65 5f 73 69 7a 65 22 3a 20 34 30     {page_size: 40
        39 36 2c 20 22 64 65 76 69 63 65 73 22 3a 20 5b     96, devices: [
        5d 7d
";

/// The hex pairs at the front of each line: the words behind them are remarks.
fn bytes(listing: &str) -> Vec<u8> {
    let hex = |word: &&str| word.len() == 2 && word.bytes().all(|digit| digit.is_ascii_hexdigit());
    let pairs = listing.lines().flat_map(|line| line.split_whitespace().take_while(hex));
    pairs.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
}

#[test]
fn smallest_stream() {
    let layout = LayoutPlan::new().alignment(4096).block(BlockPlan::new("ram0", 64 << 10)).build().unwrap();
    let written = file(&layout, &TailBuilder::new(&layout).build().unwrap());

    let mut expected = bytes(HEAD);
    assert_eq!(expected.len(), 0x82);
    expected.resize(4096 + (64 << 10), FILLER);
    expected.extend(bytes(TAIL));
    assert_eq!(written, expected);
    assert_eq!(decode(&expected, 0), Ok(layout));
}

/// The first 0x82 bytes and the tail of a file that QEMU 10.0.2 wrote: `-machine none` with 4 MiB of memory `ram0`.
#[test]
fn a_file_that_qemu_wrote() {
    let (head, tail) = (include_bytes!("data/none-10.0.2.head"), include_bytes!("data/none-10.0.2.tail"));
    let mut file = head.to_vec();
    file.resize((1 << 20) + (4 << 20), FILLER);
    file.extend(tail);

    let decoded = decode(&file, 0).unwrap();
    let planned = LayoutPlan::new().block(BlockPlan::new("ram0", 4 << 20)).build().unwrap();
    assert_eq!(decoded, planned);
    assert_eq!(decoded.pieces()[0].bytes, head);

    let tail = Tail::parse(&file[5 << 20..]).unwrap();
    assert_eq!(tail.ram_section_id(), 1);
    assert_eq!(tail.page_size(), Some(4096));
    let found: Vec<_> =
        tail.devices().iter().map(|device| (device.name(), device.version(), device.range().len())).collect();
    assert_eq!(found, [("timer", 2, 24), ("globalstate", 1, 104)]);
    assert!(tail.devices().iter().all(DeviceSection::is_described));
    let state = &file[5 << 20..][tail.device("globalstate", 0).unwrap().range()];
    assert_eq!(&state[..14], b"\0\0\0\x0aprelaunch\0");
}
