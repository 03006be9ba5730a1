//! The reader on a sound stream of which fields were changed, so that it gets deep before anything is wrong.

use std::collections::BTreeMap;
use std::sync::Arc;

use arbitrary::{Arbitrary, Unstructured};
use mapped_ram::storage::IoMode;
use mapped_ram::{
    Destination, ErrorKind, LoadOptions, LoadTarget, PageBitmap, Prefetch, Reader, ReaderOptions,
    VerifyOptions,
};
use reference_model::{Block, Stream};

use crate::disk::{Countdown, Disk, Kind};
use crate::folder::sparse_file;
use crate::mapped::expect_mapped;
use crate::memory::HOST_PAGE;

#[derive(Arbitrary, Debug)]
enum Change {
    /// A field of a block's record becomes this number.
    Field { block: u8, field: u8, value: u64 },
    /// A field of a block's record moves by a little.
    Nudge { block: u8, field: u8, by: i8 },
    /// A byte anywhere.
    Byte { at: u16, value: u8 },
    /// The file ends here.
    Cut { at: u16 },
    /// A page's bit: where it goes, the page's bytes are still there, and the other way round.
    Bit { block: u8, page: u8 },
    /// A page's bytes become zeros; in a file, a hole.
    Zero { block: u8, page: u8 },
    /// Bytes of the tail.
    Tail { at: u16, bytes: Vec<u8> },
}

#[derive(Arbitrary, Debug)]
struct Input {
    offset: u8,
    explicit: bool,
    /// On a page of the host, as blocks must be to be mapped.
    aligned: bool,
    page_size: u8,
    blocks: Vec<(u8, u64)>,
    changes: Vec<Change>,
    source: Source,
    load: Load,
}

#[derive(Arbitrary, Debug)]
enum Source {
    /// A disk that is a vector, and may fail.
    Disk { countdown: Option<u16> },
    /// A file of the system's, sparse, that blocks are mapped from too.
    File { prefetch: Ahead },
}

#[derive(Arbitrary, Debug)]
enum Ahead {
    Nothing,
    All,
    Some { words: [u64; 2] },
}

#[derive(Arbitrary, Debug)]
struct Load {
    channels: u8,
    io_mode: u8,
    check_zeroed: bool,
}

fn page_size(input: &Input) -> u64 {
    // Now and then as large as the host's: each byte of it costs the model an entry.
    if input.page_size.is_multiple_of(8) { HOST_PAGE as u64 } else { 256 }
}

fn build(input: &Input) -> (Stream, Vec<u8>) {
    let page_size = page_size(input);
    let page_bytes = usize::try_from(page_size).unwrap();
    let blocks = input.blocks.iter().take(4).enumerate().map(|(index, (pages, set))| {
        let pages = u64::from(*pages % 64) + 1;
        let present: BTreeMap<u64, Vec<u8>> = (0..pages)
            .filter(|page| set >> page & 1 == 1)
            .map(|page| (page, vec![page.to_le_bytes()[0]; page_bytes]))
            .collect();
        Block {
            name: format!("block{index}").into_bytes(),
            used_length: pages * page_size,
            address: None,
            left_out: false,
            pages: present,
        }
    });
    let mut stream = Stream::new(blocks.collect());
    stream.page_size = page_size;
    stream.alignment = if input.aligned { page_size.max(HOST_PAGE as u64) } else { page_size };
    stream.offset = if input.explicit { u64::from(input.offset) } else { 0 };
    let file = stream.write();
    let bytes = file.read(0, file.length());
    (stream, bytes)
}

/// Where a field of a block's record is: length, version and page size, bitmap offset, pages offset, bitmap.
fn place(bytes: &[u8], block: u8, field: u8) -> Option<usize> {
    let name = format!("\x06block{}", block % 4);
    let record = bytes.windows(name.len()).position(|part| part == name.as_bytes())? + name.len();
    Some(record + [0, 8, 12, 20, 28, 36][usize::from(field % 6)])
}

/// What of the stream a change needs to know.
struct Shape {
    tail: usize,
    page_size: usize,
    /// Where the bitmap of each block is, its pages, and how many.
    blocks: Vec<(usize, usize, usize)>,
}

fn change(bytes: &mut Vec<u8>, shape: &Shape, change: &Change) {
    let page_of = |block: u8, page: u8| {
        let blocks = &shape.blocks;
        let (bitmap, start, pages) = *blocks.get(usize::from(block) % blocks.len().max(1))?;
        let page = usize::from(page) % pages;
        Some((bitmap + page / 8, 1 << (page % 8), start + page * shape.page_size))
    };
    let mut put = |at: usize, new: &[u8]| {
        for (old, new) in bytes.iter_mut().skip(at).zip(new) {
            *old = *new;
        }
    };
    match change {
        Change::Field { block, field, value } => {
            if let Some(at) = place(bytes, *block, *field) {
                put_at(bytes, at, &value.to_be_bytes());
            }
        }
        Change::Nudge { block, field, by } => {
            if let Some(at) = place(bytes, *block, *field)
                && let Some(old) = bytes.get(at..at + 8)
            {
                let old = u64::from_be_bytes(old.try_into().unwrap());
                let new = old.wrapping_add_signed(i64::from(*by) * if by % 2 == 0 { 128 } else { 1 });
                put_at(bytes, at, &new.to_be_bytes());
            }
        }
        Change::Byte { at, value } => put(usize::from(*at), &[*value]),
        Change::Bit { block, page } => {
            if let Some((at, bit, _)) = page_of(*block, *page)
                && let Some(byte) = bytes.get_mut(at)
            {
                *byte ^= bit;
            }
        }
        Change::Zero { block, page } => {
            if let Some((_, _, start)) = page_of(*block, *page) {
                put(start, &vec![0; shape.page_size]);
            }
        }
        Change::Cut { at } => bytes.truncate(usize::from(*at)),
        Change::Tail { at, bytes: new } => put(shape.tail + usize::from(*at % 200), new),
    }
}

fn put_at(bytes: &mut [u8], at: usize, new: &[u8]) {
    for (old, new) in bytes.iter_mut().skip(at).zip(new) {
        *old = *new;
    }
}

/// No panic, whatever is changed; an unchanged stream reads as the model says; a block is the same bytes by every way to it.
pub fn reader(data: &[u8]) {
    let Ok(input) = Input::arbitrary(&mut Unstructured::new(data)) else { return };
    let (stream, mut bytes) = build(&input);
    let sound = mapped_ram::format::decode(&bytes, stream.offset);
    let at = |offset: u64| usize::try_from(offset).unwrap();
    let shape = Shape {
        tail: bytes.len() - stream.tail.len(),
        page_size: at(stream.page_size),
        blocks: sound.map_or_else(
            |_| Vec::new(),
            |layout| {
                let blocks = layout.blocks().iter();
                blocks.map(|b| (at(b.bitmap_offset()), at(b.pages_offset()), at(b.pages()))).collect()
            },
        ),
    };
    for each in input.changes.iter().take(20) {
        change(&mut bytes, &shape, each);
    }
    let mut options = ReaderOptions::new();
    if input.explicit {
        options = options.stream_offset(stream.offset);
    }
    let (opened, fails) = match &input.source {
        Source::Disk { countdown } => {
            let fails = Countdown::new(countdown.map(u32::from), false);
            let disk = Disk::new(bytes, &fails, Kind::default());
            (options.from_source(Arc::new(disk)), countdown.is_some())
        }
        Source::File { .. } => (options.from_file(sparse_file(&bytes), "disk"), false),
    };
    let untouched = input.changes.is_empty() && !fails;
    match opened {
        Ok(reader) => {
            if untouched {
                as_the_model(&reader, &stream);
            }
            match everything(&reader, &input) {
                Ok(()) => {}
                // Whatever comes out is fine, as long as something does.
                Err(error) => assert!(!untouched, "{error}"),
            }
        }
        Err(error) => {
            assert!(!untouched || stream.blocks.is_empty(), "{error}");
            assert!(error.to_string().contains("disk"));
        }
    }
}

fn everything(reader: &Reader, input: &Input) -> mapped_ram::Result<()> {
    for block in reader.blocks().iter().filter(|block| !block.is_left_out()) {
        block.present_pages()?;
        block.read_at(block.used_length() - 1, &mut [0])?;
        if block.used_length() <= 1 << 20 {
            every_way(block, input)?;
        }
    }
    reader.devices()?;
    reader.verify(VerifyOptions::new().channels(1)).map(drop)
}

/// Read, loaded into each kind of memory, and mapped: the same bytes.
fn every_way(block: &mapped_ram::Block, input: &Input) -> mapped_ram::Result<()> {
    let length = usize::try_from(block.used_length()).unwrap();
    let mut read = vec![0xEE; length];
    block.read_at(0, &mut read)?;
    let modes = [IoMode::Auto, IoMode::Buffered, IoMode::Direct, IoMode::Uncached, IoMode::Uring];
    let options = || {
        LoadOptions::new()
            .channels(usize::from(input.load.channels % 3) + 1)
            .io_mode(modes[usize::from(input.load.io_mode) % modes.len()])
            .check_zeroed(input.load.check_zeroed)
    };
    for destination in [Destination::Used, Destination::Zeroed, Destination::Fresh] {
        let fill = if destination == Destination::Used { 0xEE } else { 0 };
        let mut memory = vec![fill; length];
        let report = options().load(&mut [LoadTarget::new(block, &mut memory, destination)])?;
        assert!(memory == read, "loaded other bytes than read, {destination:?}");
        assert_eq!(report.totals().pages, block.present_pages()?);
        assert_eq!(report.totals().pages + report.totals().zero_pages, block.pages());
    }
    if input.load.check_zeroed && block.present_pages()? < block.pages() {
        let mut memory = vec![0xEE; length];
        let broken = options().load(&mut [LoadTarget::new(block, &mut memory, Destination::Zeroed)]);
        assert_eq!(broken.unwrap_err().kind(), ErrorKind::Usage, "a broken promise");
    }
    let Source::File { prefetch } = &input.source else { return Ok(()) };
    let prefetch = match prefetch {
        Ahead::Nothing => Prefetch::Nothing,
        Ahead::All => Prefetch::All,
        Ahead::Some { words } => Prefetch::WorkingSet(PageBitmap::from_words(words.to_vec(), 128)),
    };
    if block.layout().pages_offset().is_multiple_of(HOST_PAGE as u64) {
        expect_mapped(block, &prefetch, &read);
    } else {
        assert_eq!(block.map().unwrap_err().kind(), ErrorKind::Unsupported);
    }
    Ok(())
}

fn as_the_model(reader: &Reader, stream: &Stream) {
    assert_eq!(reader.blocks().len(), stream.blocks.len());
    let page_size = usize::try_from(stream.page_size).unwrap();
    for (block, model) in reader.blocks().iter().zip(&stream.blocks) {
        for page in 0..block.pages() {
            let mut bytes = vec![0xEE; page_size];
            block.read_at(page * stream.page_size, &mut bytes).unwrap();
            let zeros = vec![0; page_size];
            assert!(&bytes == model.pages.get(&page).unwrap_or(&zeros), "page {page}");
        }
    }
    assert_eq!(reader.tail().unwrap(), stream.tail);
}
