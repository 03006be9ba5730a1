//! Bytes that nobody vouches for: no panic, no need beyond the stream, and what decodes encodes to the same.

mod common;

use common::{Case, cases, decode_checked, describes, file_with_tail, size};
use mapped_ram_format::tail::Tail;
use mapped_ram_format::{BlockPlan, Configuration, DecodeError, ErrorKind, LayoutPlan, decode, decode_with};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

/// What a mutation does to the bytes that a layout describes.
#[derive(Clone, Debug)]
enum Mutation {
    Byte(Index, u8),
    Bit(Index, u8),
    Word(Index, u64),
    /// A number of the stream, a little off.
    Shift(Index, i8),
    Cut(Index),
    Insert(Index, Vec<u8>),
}

fn mutations() -> impl Strategy<Value = Vec<Mutation>> {
    let number = prop_oneof![
        prop::sample::select(vec![
            0,
            1,
            2,
            4,
            0xff,
            0x100,
            0xfff,
            0x1000,
            1 << 32,
            i64::MAX as u64,
            1 << 63,
            u64::MAX
        ]),
        (0u32..64).prop_map(|bit| 1 << bit),
        any::<u64>(),
    ];
    let bytes = prop_oneof![
        Just(b"\x08\0\x0b\0\0".to_vec()),
        Just(b"\x08\0\x0b\0\x03abc".to_vec()),
        vec(any::<u8>(), 1..5),
    ];
    let mutation = prop_oneof![
        (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Mutation::Byte(at, byte)),
        (any::<Index>(), 0u8..8).prop_map(|(at, bit)| Mutation::Bit(at, bit)),
        (any::<Index>(), number).prop_map(|(at, word)| Mutation::Word(at, word)),
        (any::<Index>(), any::<i8>()).prop_map(|(at, by)| Mutation::Shift(at, by)),
        any::<Index>().prop_map(Mutation::Cut),
        (any::<Index>(), bytes).prop_map(|(at, bytes)| Mutation::Insert(at, bytes)),
    ];
    vec(mutation, 1..4)
}

/// The file with the mutations, which mostly hit bytes that mean something.
fn mutate(case: &Case, mutations: &[Mutation]) -> Vec<u8> {
    let layout = case.plan.clone().build().unwrap();
    let mut file = file_with_tail(&layout);
    let tail = size(layout.tail_offset());
    let mut places: Vec<usize> = (tail..file.len()).collect();
    for piece in layout.pieces() {
        places.extend(size(piece.offset)..size(piece.offset) + piece.bytes.len());
    }
    for mutation in mutations {
        let (Mutation::Byte(at, _)
        | Mutation::Bit(at, _)
        | Mutation::Word(at, _)
        | Mutation::Shift(at, _)
        | Mutation::Cut(at)
        | Mutation::Insert(at, _)) = mutation;
        let at = places[at.index(places.len())].min(file.len().saturating_sub(1));
        if file.is_empty() {
            break;
        }
        let rest = &mut file[at..];
        match mutation {
            Mutation::Byte(_, byte) => rest[0] = *byte,
            Mutation::Bit(_, bit) => rest[0] ^= 1 << bit,
            Mutation::Word(_, word) => {
                rest.iter_mut().zip(word.to_be_bytes()).for_each(|(old, new)| *old = new);
            }
            Mutation::Shift(_, by) => rest[0] = rest[0].wrapping_add_signed(*by),
            Mutation::Cut(_) => file.truncate(at),
            Mutation::Insert(_, bytes) => drop(file.splice(at..at, bytes.iter().copied())),
        }
    }
    file
}

/// Everything that must hold for any bytes.
fn check(file: &[u8], stream_offset: u64) {
    let result = decode_checked(file, stream_offset);
    assert_eq!(decode(file, stream_offset), result);
    match result {
        Ok(layout) => {
            assert!(describes(&layout, file), "encodes to other bytes");
            let _ = Tail::parse(&file[size(layout.tail_offset())..]);
            let mut end = layout.records_offset();
            for block in layout.blocks() {
                assert!(block.record_offset() >= end);
                end = block.end();
            }
            assert_eq!(end, layout.tail_offset());
        }
        Err(error) => {
            assert!(error.offset() <= (file.len() as u64).max(stream_offset), "{error}");
            assert!(!error.to_string().is_empty());
        }
    }
}

proptest! {
    #[test]
    fn mutated_streams(case in cases(), mutations in mutations()) {
        check(&mutate(&case, &mutations), case.stream_offset);
    }

    #[test]
    fn arbitrary_bytes(bytes in vec(any::<u8>(), 0..200), offset in 0u64..300) {
        check(&bytes, offset);
        let mut stream = b"QEVM\0\0\0\x03".to_vec();
        stream.extend(bytes);
        check(&stream, 0);
    }

    #[test]
    fn arbitrary_tails(bytes in vec(any::<u8>(), 0..200)) {
        let _ = Tail::parse(&bytes);
        let mut tail = b"\0\0\0\0\0\0\0\x10\x7e\0\0\0\x01".to_vec();
        tail.extend(bytes);
        let _ = Tail::parse(&tail);
    }

    #[test]
    fn a_stream_cut_anywhere_is_incomplete(case in cases(), at in any::<Index>()) {
        let layout = case.plan.build().unwrap();
        let file = file_with_tail(&layout);
        // The layout needs the stream up to the footer of the first part of the memory.
        let needed = size(layout.tail_offset()) + 13;
        let start = size(case.stream_offset);
        let cut = start + at.index(needed - start);
        for file in [&file[..cut], &file[..needed - 1], &file[..layout.pieces()[0].bytes.len().min(cut)]] {
            let error = decode_checked(file, case.stream_offset).unwrap_err();
            prop_assert_eq!(error.kind(), ErrorKind::Incomplete, "{}", error);
        }
        prop_assert_eq!(decode_checked(&file[..needed], case.stream_offset), Ok(layout));
    }

    #[test]
    fn commands_and_odd_gaps_survive(
        case in cases(), commands in vec((any::<u16>(), vec(any::<u8>(), 0..50)), 0..5), gaps in vec(any::<Index>(), 6),
    ) {
        // Commands go before the ram section; what follows moves to where a plan behind a longer stream offset puts it.
        let layout = case.plan.clone().build().unwrap();
        let inserted: Vec<u8> = commands
            .iter()
            .flat_map(|(command, data)| {
                let len = u16::try_from(data.len()).unwrap().to_be_bytes();
                [&[8], &command.to_be_bytes()[..], &len, data].concat()
            })
            .collect();
        let moved = case.plan.stream_offset(case.stream_offset + inserted.len() as u64).build().unwrap();
        let mut file = file_with_tail(&moved);
        let head = &moved.pieces()[0].bytes;
        let before_ram = size(moved.records_offset() - moved.stream_offset()) - 8 - 17;
        let start = size(case.stream_offset);
        let new = [&head[..before_ram], &inserted].concat();
        file[start..start + new.len()].copy_from_slice(&new);
        // A bitmap may stand anywhere before its pages.
        for (block, gap) in moved.blocks().iter().zip(gaps).filter(|(block, _)| !block.is_left_out()) {
            let room = block.pages_offset() - block.bitmap_offset() - block.bitmap_len(case.word);
            let offset = block.bitmap_offset() + gap.index(size(room) + 1) as u64;
            file[size(block.record_end() - 16)..][..8].copy_from_slice(&offset.to_be_bytes());
        }

        let decoded = decode_checked(&file, case.stream_offset).unwrap();
        prop_assert!(describes(&decoded, &file));
        for (decoded, planned) in decoded.blocks().iter().zip(moved.blocks()) {
            prop_assert!(decoded.has_room_for(case.word));
            prop_assert!(decoded.bitmap_offset() >= planned.bitmap_offset());
            prop_assert_eq!(decoded.pages_offset(), planned.pages_offset());
        }
        prop_assert_eq!(decoded.blocks().len(), moved.blocks().len());
        prop_assert_eq!(decoded.configuration(), layout.configuration());
    }
}

#[test]
fn a_short_answer_is_the_end_of_the_file() {
    let layout = LayoutPlan::new().block(BlockPlan::new("ram0", 4096)).build().unwrap();
    let mut decoder = mapped_ram_format::Decoder::new(0, u64::MAX);
    let need = decoder.need().unwrap();
    assert!(need.len <= 512);
    let error = decoder.supply(&layout.pieces()[0].bytes[..40]).unwrap_err();
    assert_eq!((error.kind(), error.offset()), (ErrorKind::Incomplete, 40));
}

#[test]
fn finishing_early_is_incomplete() {
    let error = mapped_ram_format::Decoder::new(5, 100).finish().unwrap_err();
    assert_eq!((error.kind(), error.offset()), (ErrorKind::Incomplete, 5));
}

#[test]
fn a_stream_that_ends_before_it_begins_is_incomplete() {
    let error = mapped_ram_format::Decoder::new(100, 5).finish().unwrap_err();
    assert_eq!((error.kind(), error.offset()), (ErrorKind::Incomplete, 100));
}

/// The file is never held: 2^40 bytes of memory and ten thousand blocks cost what their records cost.
#[test]
fn memory_is_never_read() {
    let blocks = (0..10_000).map(|index| BlockPlan::new(format!("block{index}"), 1 << 40));
    let layout = LayoutPlan::new().configuration(Configuration::new("pc")).blocks(blocks).build().unwrap();
    let pieces = layout.pieces();
    let end = layout.tail_offset() + 13;
    let mut asked = 0;
    let decoded = decode_with(0, end, |offset, buffer| {
        asked += buffer.len();
        buffer.fill(0);
        let tail = layout.tail_offset();
        if offset == tail {
            buffer.copy_from_slice(b"\0\0\0\0\0\0\0\x10\x7e\0\0\0\x01");
            return Ok(());
        }
        let index = pieces.partition_point(|piece| piece.offset <= offset) - 1;
        let rest = &pieces[index].bytes[size(offset - pieces[index].offset)..];
        let len = rest.len().min(buffer.len());
        buffer[..len].copy_from_slice(&rest[..len]);
        Ok::<(), DecodeError>(())
    });
    assert_eq!(decoded.unwrap(), layout);
    assert!(asked < 520 * 10_002, "{asked} bytes were read");
}

/// A total of 2^64 bytes, and a name, machine and capability list that claim to be long, cost nothing.
#[test]
fn claims_cost_nothing() {
    let head = b"QEVM\0\0\0\x03";
    let claims: [&[u8]; 3] = [
        b"\x07\xff\xff\xff\xff",
        b"\x07\0\0\0\0\x05\x1aconfiguration/capabilities\0\0\0\x01\xff\xff\xff\xff",
        b"\x01\0\0\0\x02\x03ram\0\0\0\0\0\0\0\x04\xff\xff\xff\xff\xff\xff\xff\x04",
    ];
    for claim in claims {
        let stream = [head, claim].concat();
        let mut decoder = mapped_ram_format::Decoder::new(0, u64::MAX);
        let mut largest = 0;
        while let Some(need) = decoder.need() {
            largest = largest.max(need.len);
            let mut bytes = vec![0; need.len];
            let rest = stream.get(size(need.offset)..).unwrap_or_default();
            let len = rest.len().min(need.len);
            bytes[..len].copy_from_slice(&rest[..len]);
            if decoder.supply(&bytes).is_err() {
                break;
            }
        }
        assert!(largest <= 1024, "asked for {largest} bytes at once");
        assert_eq!(decoder.finish().unwrap_err().kind(), ErrorKind::Damaged);
    }
}
