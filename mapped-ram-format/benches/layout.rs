//! What a layout of 1000 blocks costs, beside the same records read by `binrw`, which checks nothing but the magic.
//!
//! A stream has a handful of blocks, so this only has to be nothing beside the memory's transfer. The time that counts is
//! how many reads the decoder asks for: one a record.

use std::hint::black_box;
use std::io::Cursor;

use binrw::{BinRead, binread};
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use mapped_ram_format::tail::TailBuilder;
use mapped_ram_format::{BlockPlan, Layout, LayoutPlan, decode};

const BLOCKS: usize = 1000;

#[binread]
#[br(big, magic = b"QEVM")]
struct Stream {
    _version: u32,
    _start: [u8; 17],
    _total: u64,
    #[br(count = BLOCKS)]
    records: Vec<Record>,
}

#[binread]
#[br(big)]
struct Record {
    #[br(temp)]
    len: u8,
    #[br(count = len)]
    _idstr: Vec<u8>,
    used_length: u64,
    _version: u32,
    _page_size: u64,
    _bitmap_offset: u64,
    pages_offset: u64,
    #[br(temp, seek_before = std::io::SeekFrom::Start(pages_offset + used_length))]
    _next: (),
}

fn plan(blocks: Vec<BlockPlan>) -> Layout {
    LayoutPlan::new().no_configuration().alignment(4096).blocks(blocks).build().unwrap()
}

fn blocks() -> Vec<BlockPlan> {
    (0..BLOCKS).map(|index| BlockPlan::new(format!("/rom@etc/block{index}"), 4096)).collect()
}

fn file() -> Vec<u8> {
    let layout = plan(blocks());
    let mut file = vec![0; usize::try_from(layout.tail_offset()).unwrap()];
    for piece in layout.pieces() {
        let start = usize::try_from(piece.offset).unwrap();
        file[start..start + piece.bytes.len()].copy_from_slice(&piece.bytes);
    }
    file.extend(TailBuilder::new(&layout).build().unwrap());
    file
}

fn layouts(criterion: &mut Criterion) {
    let file = file();
    let layout = decode(&file, 0).unwrap();
    let peer = Stream::read(&mut Cursor::new(&file)).unwrap();
    assert_eq!(peer.records.len(), layout.blocks().len());
    assert!(
        peer.records
            .iter()
            .zip(layout.blocks())
            .all(|(peer, ours)| peer.pages_offset + peer.used_length == ours.end())
    );

    let mut group = criterion.benchmark_group("layout of 1000 blocks");
    group.bench_function("plan", |bencher| bencher.iter_batched(blocks, plan, BatchSize::SmallInput));
    group.bench_function("pieces", |bencher| bencher.iter(|| black_box(&layout).pieces()));
    group.bench_function("decode", |bencher| bencher.iter(|| decode(black_box(&file), 0).unwrap()));
    group.bench_function("decode by binrw, unchecked", |bencher| {
        bencher.iter(|| Stream::read(&mut Cursor::new(black_box(&file))).unwrap());
    });
    group.finish();
}

criterion_group!(benches, layouts);
criterion_main!(benches);
