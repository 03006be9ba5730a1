//! The model agrees with itself: what it writes it reads.

use std::collections::BTreeMap;

use proptest::prelude::*;
use reference_model::bitmap::Encoding;
use reference_model::{Block, Operation, Session, SparseFile, Stream};

fn encodings() -> impl Strategy<Value = Encoding> {
    (prop_oneof![Just(4), Just(8)], any::<bool>())
        .prop_map(|(word, big_endian)| Encoding { word, big_endian })
}

proptest! {
    #[test]
    fn what_it_writes_it_reads(
        blocks in prop::collection::vec((1_u64..80, prop::collection::btree_map(0_u64..80, 0_u8..3, 0..20)), 0..4),
        encoding in encodings(),
        alignment in prop_oneof![Just(256_u64), Just(4096)],
        offset in 0_u64..3000,
    ) {
        let mut stream = Stream::new(Vec::new());
        (stream.page_size, stream.alignment, stream.encoding, stream.offset) = (256, alignment, encoding, offset);
        for (index, (pages, present)) in blocks.into_iter().enumerate() {
            let pages_of: BTreeMap<u64, Vec<u8>> = present
                .into_iter()
                .filter(|(page, _)| *page < pages)
                .map(|(page, byte)| (page, vec![byte; 256]))
                .collect();
            stream.blocks.push(Block {
                name: format!("block {index}").into_bytes(),
                used_length: pages * 256,
                address: None,
                left_out: false,
                pages: pages_of,
            });
        }
        let file = stream.write();
        let mut back = Stream::read(&file.read(0, file.length()), offset, encoding).unwrap();
        // Nothing in the file says these.
        (back.alignment, back.page_size) = (alignment, 256);
        prop_assert_eq!(back, stream);
    }

    #[test]
    fn bitmaps_decode_to_what_was_encoded(pages in 0_u64..300, encoding in encodings(), seed in any::<u64>()) {
        let is_set = |page: u64| seed.rotate_left((page % 64) as u32).trailing_zeros() >= 2;
        let bytes = encoding.encode(pages, is_set);
        prop_assert_eq!(bytes.len() as u64 % encoding.word, 0);
        prop_assert_eq!(encoding.decode(&bytes, pages), (0..pages).filter(|page| is_set(*page)).collect::<Vec<_>>());
    }

    #[test]
    fn files_read_back_what_was_written_last(writes in prop::collection::vec((0_u64..20_000, 1_u8..255, 1_usize..300), 0..20)) {
        let mut file = SparseFile::new();
        let mut flat = vec![0; 20_300];
        for (offset, byte, length) in writes {
            file.write(offset, &vec![byte; length]);
            flat[usize::try_from(offset).unwrap()..][..length].fill(byte);
        }
        prop_assert_eq!(file.read(0, 20_300), flat);
        prop_assert!(file.st_blocks() <= 5 * 8);
    }
}

#[test]
fn a_page_that_goes_to_zero_loses_its_bit() {
    let mut session = Session::new(4, 3, true);
    for operation in [
        Operation::Dirty(1, vec![7; 4]),
        Operation::WriteAll,
        Operation::Dirty(1, vec![0; 4]),
        Operation::WritePages(vec![1, 1]),
    ] {
        session.apply(&operation);
    }
    assert!(session.present.is_empty());
    assert_eq!((session.written, session.zero), (1, 3));
    assert_eq!(session.readable(), [0; 12]);
}
