//! The whole against the reference model: any sequence of operations leaves the bytes, bits, holes and counters that the
//! model says.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;

use mapped_ram::storage::IoMode;
use mapped_ram::{
    Bridge, PageBitmap, RamBlock, Reader, ReaderOptions, SaveOptions, SyncMode, Tail, VerifyOptions,
};
use proptest::prelude::*;
use reference_model::bitmap::Encoding;
use reference_model::{Block, Operation, Session, Stream};
use tempfile::TempDir;

#[path = "support/notes.rs"]
mod notes;

const PAGE: usize = 4096;

fn dir() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// Where a save goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    New,
    InPlace,
    /// Over an older file, full of old bytes.
    Recycled,
}

fn targets() -> impl Strategy<Value = Target> {
    prop_oneof![Just(Target::New), Just(Target::InPlace), Just(Target::Recycled)]
}

fn modes() -> impl Strategy<Value = IoMode> {
    prop_oneof![
        Just(IoMode::Auto),
        Just(IoMode::Buffered),
        Just(IoMode::Direct),
        Just(IoMode::Uncached),
        Just(IoMode::Mixed),
        Just(IoMode::Uring)
    ]
}

fn bridges() -> impl Strategy<Value = Bridge> {
    prop_oneof![Just(Bridge::None), Just(Bridge::Auto), (0_u64..80).prop_map(Bridge::Pages)]
}

fn syncs() -> impl Strategy<Value = SyncMode> {
    prop_oneof![Just(SyncMode::None), Just(SyncMode::Data), Just(SyncMode::Full)]
}

fn operations() -> impl Strategy<Value = Vec<Operation>> {
    let page = || 0_u64..70;
    let bytes = (0_u8..4).prop_map(|byte| vec![byte; PAGE]);
    let operation = prop_oneof![
        6 => (page(), bytes).prop_map(|(page, bytes)| Operation::Dirty(page, bytes)),
        1 => Just(Operation::WriteAll),
        3 => prop::collection::vec(page(), 0..20).prop_map(Operation::WritePages),
    ];
    prop::collection::vec(operation, 0..40)
}

proptest! {
    #[test]
    fn any_sequence_of_operations_leaves_what_the_model_says(
        operations in operations(),
        zero_detection in any::<bool>(),
        channels in 1_usize..4,
        (mode, bridge, sync) in (modes(), bridges(), syncs()),
        chunk in 1_u64..40,
        target in targets(),
        old in prop::collection::vec(1_u8..9, 0..2_000),
    ) {
        let dir = dir();
        let path = dir.path().join("guest.mram");
        let mut model = Session::new(PAGE as u64, 70, zero_detection);
        // Aligned to pages, as a guest's memory is; else nothing would go past the page cache.
        let mut memory = vec![0_u8; 71 * PAGE];
        let start = memory.as_mut_ptr();
        let start = start.wrapping_add(start.align_offset(PAGE));
        // SAFETY: `memory` lives until the end, and is only changed through `start` while the writer has it.
        let block = unsafe { RamBlock::from_raw("ram0", start, 70 * PAGE) };
        let options = SaveOptions::new()
            .channels(channels)
            .zero_detection(zero_detection)
            .io_mode(mode)
            .bridge(bridge)
            .sync(sync)
            .chunk(chunk * PAGE as u64);
        let offset = if target == Target::InPlace { 4096 } else { 0 };
        // What a recycled file keeps, unless it is to be as sparse as it can, in blocks of 512 bytes.
        let mut kept = 0;
        let mut writer = match target {
            Target::New => options.create(&path, vec![block]).unwrap(),
            Target::InPlace => {
                fs::write(&path, vec![9; 100_000]).unwrap();
                options.stream_offset(offset).in_place(&path, vec![block]).unwrap()
            }
            Target::Recycled => {
                let old_path = dir.path().join("old");
                // Up to 2 MB, longer or shorter than the new file.
                let bytes = old.repeat(1000);
                fs::write(&old_path, &bytes).unwrap();
                if bridge != Bridge::None {
                    kept = bytes.len().div_ceil(PAGE) as u64 * PAGE as u64 / 512;
                }
                let writer = options.recycle(&old_path).create(&path, vec![block]).unwrap();
                prop_assert!(!old_path.exists() && !path.exists(), "the old name goes first, the new one comes last");
                writer
            }
        };
        for operation in &operations {
            model.apply(operation);
            match operation {
                Operation::Dirty(page, bytes) => {
                    let at = start.wrapping_add(usize::try_from(*page).unwrap() * PAGE);
                    // SAFETY: a page of `memory`; the writer does nothing meanwhile.
                    unsafe { at.copy_from_nonoverlapping(bytes.as_ptr(), PAGE) };
                }
                Operation::WriteAll => writer.write_all().unwrap(),
                Operation::WritePages(pages) => {
                    let mut dirty = PageBitmap::new(70);
                    for page in pages {
                        dirty.insert(*page..*page + 1);
                    }
                    writer.write_pages(0, &dirty).unwrap();
                }
            }
        }
        let report = writer.finish(&Tail::minimal()).unwrap();
        prop_assert_eq!((report.pages_written(), report.zero_pages()), (model.written, model.zero));
        if bridge == Bridge::None {
            prop_assert_eq!(report.totals().bytes, model.written * PAGE as u64);
        }
        prop_assert!(report.totals().bytes >= model.written * PAGE as u64);
        prop_assert!(report.io_mode != IoMode::Auto && report.sync == sync);
        // A file system that allots late, or regroups its extents, changes its own bookkeeping behind the save's back.
        let taken = fs::metadata(&path).unwrap().blocks() * 512;
        prop_assert!(report.disk_bytes.unwrap().abs_diff(taken) <= 64 << 10);
        prop_assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);

        let reader = ReaderOptions::new().stream_offset(offset).open(&path).unwrap();
        let block = &reader.blocks()[0];
        let mut readable = vec![0xEE; 70 * PAGE];
        block.read_at(0, &mut readable).unwrap();
        prop_assert!(readable == model.readable());
        let present: Vec<u64> = block.bitmap().unwrap().runs().flatten().collect();
        prop_assert_eq!(present, model.present.keys().copied().collect::<Vec<_>>());
        prop_assert_eq!(reader.verify(VerifyOptions::new()).unwrap().problems, []);

        // Every byte of the file: the model's stream with the pages that have their bits set, and what stood before.
        let mut stream = Stream::new(vec![Block {
            name: b"ram0".to_vec(),
            used_length: 70 * PAGE as u64,
            address: None,
            left_out: false,
            pages: model.present.clone(),
        }]);
        (stream.offset, stream.tail) = (offset, reader.tail().unwrap());
        let mut expected = stream.write();
        for at in 0..offset {
            expected.write(at, &[9]);
        }
        let bytes = fs::read(&path).unwrap();
        prop_assert_eq!(bytes.len() as u64, expected.length());
        prop_assert!(bytes == expected.read(0, expected.length()));
        // A file system counts its own index of scattered extents too: one block of it is enough for hundreds.
        let bridged = (report.totals().bytes / PAGE as u64 - model.written) * PAGE as u64 / 512;
        prop_assert!(fs::metadata(&path).unwrap().blocks() <= expected.st_blocks() + bridged + kept + 8);

        // In the room of a zero page stand zeros, also where it was something else before, and the file says so.
        if notes::are_kept(dir.path()) {
            prop_assert!(reader.is_noted_clean());
        }
        prop_assert_eq!(reader.note_clean().ok().flatten(), None);
    }

    #[test]
    fn streams_of_every_kind_of_host_are_read_as_the_model_reads_them(
        blocks in prop::collection::vec((1_u64..200, prop::collection::btree_map(0_u64..200, 1_u8..4, 0..60)), 1..4),
        word in prop_oneof![Just(4_u64), Just(8)],
        big_endian in any::<bool>(),
        offset in 0_u64..5000,
    ) {
        let encoding = Encoding { word, big_endian };
        let blocks = blocks
            .into_iter()
            .enumerate()
            .map(|(index, (pages, set))| Block {
                name: format!("block {index}").into_bytes(),
                used_length: pages * 256,
                address: None,
                left_out: false,
                pages: set
                    .into_iter()
                    .filter(|(page, _)| *page < pages)
                    .map(|(page, byte)| (page, vec![byte; 256]))
                    .collect::<BTreeMap<_, _>>(),
            })
            .collect();
        let mut stream = Stream::new(blocks);
        (stream.page_size, stream.alignment, stream.encoding, stream.offset) = (256, 256, encoding, offset);
        let file = stream.write();
        let dir = dir();
        let path = dir.path().join("guest.mram");
        fs::write(&path, file.read(0, file.length())).unwrap();

        let ours = ours(encoding);
        let reader = ReaderOptions::new().stream_offset(offset).bitmap_encoding(ours).open(&path).unwrap();
        for (block, model) in reader.blocks().iter().zip(&stream.blocks) {
            let present: Vec<u64> = block.bitmap().unwrap().runs().flatten().collect();
            prop_assert_eq!(present, model.pages.keys().copied().collect::<Vec<_>>());
            for page in 0..block.pages() {
                let mut bytes = [0xEE; 256];
                block.read_at(page * 256, &mut bytes).unwrap();
                let expected = model.pages.get(&page).cloned().unwrap_or_else(|| vec![0; 256]);
                prop_assert_eq!(&bytes[..], &expected[..]);
            }
        }
        prop_assert_eq!(reader.tail().unwrap(), stream.tail);
    }
}

fn ours(encoding: Encoding) -> mapped_ram::format::bitmap::BitmapEncoding {
    use mapped_ram::format::bitmap::{BitmapEncoding, ByteOrder, WordSize};
    BitmapEncoding {
        word: if encoding.word == 4 { WordSize::W32 } else { WordSize::W64 },
        order: if encoding.big_endian { ByteOrder::Big } else { ByteOrder::Little },
    }
}

#[test]
fn the_model_reads_what_the_library_writes() {
    let dir = dir();
    let path = dir.path().join("guest.mram");
    let mut memory = vec![0; 100 * PAGE];
    memory[3 * PAGE..7 * PAGE].fill(5);
    SaveOptions::new().save(&path, vec![RamBlock::new("ram0", &memory)]).unwrap();
    let stream = Stream::read(&fs::read(&path).unwrap(), 0, Encoding::X86).unwrap();
    assert_eq!(stream.blocks[0].pages.keys().copied().collect::<Vec<_>>(), [3, 4, 5, 6]);
    assert_eq!(stream.tail, Reader::open(&path).unwrap().tail().unwrap());
}
