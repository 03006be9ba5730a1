//! Decoders on arbitrary bytes.

use mapped_ram::WorkingSet;
use mapped_ram_format::libvirt::SaveHeader;
use mapped_ram_format::tail::Tail;
use mapped_ram_format::{Decoder, decode};

use crate::allocator::bounded;

/// A decoder may allocate this much whatever the input: a machine name, an error.
const BASE: usize = 64 << 10;

/// What a decoder may allocate for each byte of input: a block that is left out has a record of 46 bytes.
const PER_BYTE: usize = 64;

/// A whole stream, at any offset: no panic, bounded memory, and what decodes encodes again to the same bytes.
pub fn stream(data: &[u8]) {
    let Some((shift, data)) = data.split_first() else { return };
    let offset = usize::from(*shift).min(data.len());
    let result = bounded(BASE + PER_BYTE * data.len(), || decode(data, offset as u64));
    match result {
        Ok(layout) => {
            for piece in layout.pieces() {
                let start = usize::try_from(piece.offset).unwrap();
                assert_eq!(
                    &data[start..start + piece.bytes.len()],
                    &piece.bytes[..],
                    "encodes to other bytes"
                );
            }
            for block in layout.blocks() {
                assert!(block.is_left_out() || block.end() <= data.len() as u64, "a block past the end");
            }
        }
        Err(error) => {
            let _ = (error.kind(), error.to_string());
        }
    }
    step_by_step(data, offset);
}

/// The decoder never asks for what is not there, and always ends.
fn step_by_step(data: &[u8], offset: usize) {
    let mut decoder = Decoder::new(offset as u64, data.len() as u64);
    let mut steps = 0;
    while let Some(need) = decoder.need() {
        let start = usize::try_from(need.offset).unwrap();
        let end = start.checked_add(need.len).unwrap();
        assert!(end <= data.len(), "asks for {need:?} of {} bytes", data.len());
        if decoder.supply(&data[start..end]).is_err() {
            return;
        }
        steps += 1;
        assert!(steps <= data.len() + 16, "asks without end");
    }
    let _ = decoder.finish();
}

/// A libvirt header.
pub fn libvirt(data: &[u8]) {
    if let Ok(Some(header)) = SaveHeader::decode(data) {
        assert!(header.stream_offset() >= SaveHeader::LEN as u64);
        assert!(header.xml_range().end <= header.stream_offset());
        let again = SaveHeader::decode(&header.encode()).unwrap().unwrap();
        assert_eq!(again, header);
    }
}

/// A tail, with its vmdescription.
pub fn tail(data: &[u8]) {
    // JSON of many small fields costs more for each byte than a stream does.
    let result = bounded(BASE + 4 * PER_BYTE * data.len(), || Tail::parse(data));
    if let Ok(tail) = result {
        assert!(tail.length() <= data.len());
        let mut end = 0;
        for device in tail.devices() {
            assert!(device.range().start >= end && device.range().end <= data.len(), "{device:?}");
            end = device.range().end;
        }
        if let Some(description) = tail.description() {
            assert!(description.end <= data.len());
        }
    }
}

/// The file of a working set, and one with a check that fits made of any bytes: an error, or lists whose pages their blocks have.
pub fn working_set(data: &[u8]) {
    let hash = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    let check: u64 = data.iter().fold(0xcbf2_9ce4_8422_2325, hash);
    let forged = [data, &check.to_be_bytes()].concat();
    for bytes in [data, &forged] {
        // The list itself, what finds a page that comes twice, and a name.
        let result = bounded(BASE + PER_BYTE * bytes.len(), || WorkingSet::from_bytes(bytes));
        for set in result.unwrap_or_default() {
            assert!(set.order().iter().all(|page| *page < set.pages()));
            assert_eq!(
                set.ranges().map(|range| (range.end - range.start) / set.page_size()).sum::<u64>(),
                set.order().len() as u64
            );
        }
    }
}
