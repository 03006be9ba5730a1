//! Saves and loads as sequences of operations, on disks and files that may fail at any call.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use arbitrary::{Arbitrary, Unstructured};
use mapped_ram::storage::{AtomicFile, InPlaceFile, IoMode, RecycledFile, Storage};
use mapped_ram::{
    Bridge, Cancel, Destination, ErrorKind, PageBitmap, Prefetch, RamBlock, Reader, ReaderOptions,
    SaveOptions, SaveReport, SyncMode, Tail, VerifyOptions, Writer,
};
use reference_model::{Block, Operation, Session, Stream};
use tempfile::TempDir;

use crate::disk::{Countdown, Disk, Failing, Kind};
use crate::folder::{folder, names};
use crate::mapped::expect_mapped;
use crate::memory::{HOST_PAGE, Memory};

/// No page of a guest is full of these: an old byte that is left shows.
const OLD_BYTE: u8 = 0xA5;

/// What stands under the name of a new file before it is finished.
const OLDER: &[u8] = b"an older file";

/// What stands before a stream in place.
const BEFORE: u8 = 0x55;

#[derive(Arbitrary, Debug)]
enum Step {
    Dirty {
        page: u8,
        count: u8,
        byte: u8,
    },
    /// The guest gives memory back.
    Discard {
        page: u8,
        count: u8,
    },
    WriteAll,
    WritePages {
        words: [u64; 2],
    },
    /// Pages that are not the guest's memory.
    WriteFrom {
        page: u8,
        count: u8,
        byte: u8,
    },
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Target {
    New,
    InPlace {
        offset: u8,
    },
    /// Over a file full of old bytes, this many times 16 of them.
    Recycled {
        old: u16,
    },
}

#[derive(Arbitrary, Debug)]
struct Input {
    page_size: u8,
    pages: u8,
    target: Target,
    /// On files of the system's instead of a disk that is a vector.
    is_file: bool,
    options: Options,
    countdown: Option<u16>,
    short: bool,
    /// Before which step the save is cancelled.
    cancel: Option<u8>,
    /// Whether the writer is dropped instead of finished.
    abandoned: bool,
    steps: Vec<Step>,
}

#[derive(Arbitrary, Debug)]
struct Options {
    channels: u8,
    zero_detection: bool,
    skip_untouched: bool,
    bridge: Gaps,
    chunk: Option<u8>,
    sync: u8,
    io_mode: u8,
    limited: bool,
}

#[derive(Arbitrary, Debug)]
enum Gaps {
    Auto,
    None,
    Pages(u8),
}

/// The sizes of what is saved, in bytes but for the pages.
#[derive(Clone, Copy)]
struct Sizes {
    page: usize,
    pages: usize,
    offset: u64,
}

impl Sizes {
    fn length(self) -> usize {
        self.page * self.pages
    }
}

/// Where the bytes go.
enum Place {
    Disk(Disk),
    Files { folder: TempDir, path: PathBuf },
}

/// Either an error and no finished file, or exactly what the model says.
pub fn save_load(data: &[u8]) {
    let Ok(input) = Input::arbitrary(&mut Unstructured::new(data)) else { return };
    // Long enough to have room reserved, and to be asked what of it was touched, only with the largest pages.
    let page = [256, 4096, 16384][usize::from(input.page_size % 3)];
    let offset = match input.target {
        // On a page of the host at times, so that the blocks can be mapped.
        Target::InPlace { offset } if offset % 2 == 0 => u64::from(offset) * 2048,
        Target::InPlace { offset } => u64::from(offset),
        Target::New | Target::Recycled { .. } => 0,
    };
    let sizes = Sizes { page, pages: usize::from(input.pages % 100) + 1, offset };
    let countdown = Countdown::new(input.countdown.map(|calls| u32::from(calls % 512)), input.short);
    let place = place(&input, sizes, &countdown);
    let mut memory = Memory::new(sizes.length());
    let mut model = Session::new(page as u64, sizes.pages as u64, input.options.zero_detection);

    let saved = save(&input, sizes, &place, &countdown, &mut memory, &mut model);
    countdown.mend();
    match saved {
        Ok(Some(report)) => whole(&input, sizes, &place, &model, &report),
        Ok(None) => unfinished(&input, sizes, &place, None),
        Err(error) => {
            let known = match error.kind() {
                ErrorKind::Io => input.countdown.is_some(),
                ErrorKind::Cancelled => input.cancel.is_some(),
                _ => false,
            };
            assert!(known, "{error}");
            unfinished(&input, sizes, &place, Some(&model));
        }
    }
}

/// A whole stream, with what stands before it.
fn older_stream(offset: u64) -> Vec<u8> {
    let mut stream = Stream::new(vec![block("old0", 256, [(0, vec![7; 256])].into())]);
    (stream.page_size, stream.alignment, stream.offset) = (256, 256, offset);
    let file = stream.write();
    let mut bytes = file.read(0, file.length());
    bytes[..usize::try_from(offset).unwrap()].fill(BEFORE);
    bytes
}

fn block(name: &str, used_length: u64, pages: BTreeMap<u64, Vec<u8>>) -> Block {
    Block { name: name.into(), used_length, address: None, left_out: false, pages }
}

fn place(input: &Input, sizes: Sizes, countdown: &Countdown) -> Place {
    if input.is_file {
        let folder = folder();
        let path = folder.path().join("guest.mram");
        match input.target {
            Target::New => fs::write(&path, OLDER).unwrap(),
            Target::InPlace { .. } => fs::write(&path, older_stream(sizes.offset)).unwrap(),
            Target::Recycled { old } => {
                fs::write(folder.path().join("old"), vec![OLD_BYTE; usize::from(old) * 16]).unwrap();
            }
        }
        return Place::Files { folder, path };
    }
    let kind = Kind {
        is_in_place: matches!(input.target, Target::InPlace { .. }),
        is_old: matches!(input.target, Target::Recycled { .. }),
        is_durable: sync(&input.options) != SyncMode::None,
    };
    let bytes = match input.target {
        Target::New => Vec::new(),
        Target::InPlace { .. } => older_stream(sizes.offset),
        Target::Recycled { old } => vec![OLD_BYTE; usize::from(old) * 16],
    };
    Place::Disk(Disk::new(bytes, countdown, kind))
}

fn sync(options: &Options) -> SyncMode {
    [SyncMode::None, SyncMode::Data, SyncMode::Full][usize::from(options.sync % 3)]
}

fn bridge(options: &Options) -> Bridge {
    match options.bridge {
        Gaps::Auto => Bridge::Auto,
        Gaps::None => Bridge::None,
        Gaps::Pages(pages) => Bridge::Pages(u64::from(pages)),
    }
}

fn options(input: &Input, sizes: Sizes) -> SaveOptions<'static> {
    let Options { channels, zero_detection, skip_untouched, chunk, io_mode, limited, .. } = input.options;
    let modes =
        [IoMode::Auto, IoMode::Buffered, IoMode::Direct, IoMode::Uncached, IoMode::Mixed, IoMode::Uring];
    let mut options = SaveOptions::new()
        .channels(usize::from(channels % 3) + 1)
        .zero_detection(zero_detection)
        .skip_untouched(skip_untouched)
        .bridge(bridge(&input.options))
        .sync(sync(&input.options))
        .io_mode(modes[usize::from(io_mode) % modes.len()])
        // So much that nobody waits: only the writes are cut otherwise.
        .max_bandwidth(if limited { 1 << 40 } else { 0 })
        .page_size(sizes.page as u64)
        .alignment(sizes.page.max(HOST_PAGE) as u64)
        .stream_offset(sizes.offset);
    if let Some(chunk) = chunk {
        options = options.chunk((u64::from(chunk) + 1) * sizes.page as u64);
    }
    options
}

fn begin<'m>(
    input: &Input,
    options: SaveOptions<'m>,
    place: &Place,
    countdown: &Countdown,
    block: RamBlock<'m>,
) -> mapped_ram::Result<Writer<'m>> {
    let (folder, path) = match place {
        Place::Disk(disk) => return options.with_storage(Box::new(disk.clone()), vec![block]),
        Place::Files { folder, path } => (folder.path(), path),
    };
    let old = folder.join("old");
    if input.countdown.is_none() {
        return match input.target {
            Target::New => options.create(path, vec![block]),
            Target::InPlace { .. } => options.in_place(path, vec![block]),
            Target::Recycled { .. } => options.recycle(old).create(path, vec![block]),
        };
    }
    let storage: Box<dyn Storage> = match input.target {
        Target::New => Box::new(Failing::new(AtomicFile::create(path).unwrap(), countdown)),
        Target::InPlace { .. } => Box::new(Failing::new(InPlaceFile::open(path).unwrap(), countdown)),
        Target::Recycled { .. } => {
            Box::new(Failing::new(RecycledFile::take_over(&old, path).unwrap(), countdown))
        }
    };
    options.with_storage(storage, vec![block])
}

/// Runs the steps; `None` when the writer was dropped half-way.
fn save(
    input: &Input,
    sizes: Sizes,
    place: &Place,
    countdown: &Countdown,
    memory: &mut Memory,
    model: &mut Session,
) -> mapped_ram::Result<Option<SaveReport>> {
    let cancel = Cancel::new();
    // SAFETY: `memory` outlives the writer, and is changed through raw pointers alone.
    let block = unsafe { RamBlock::from_raw("ram0", memory.start(), sizes.length()) };
    let options = options(input, sizes).cancel(cancel.clone());
    let mut writer = begin(input, options, place, countdown, block)?;
    if let Place::Files { folder, .. } = place {
        assert!(!names(folder.path()).contains(&"old".to_owned()), "the old name goes first");
    }
    for (index, step) in input.steps.iter().take(30).enumerate() {
        if input.cancel.is_some_and(|at| usize::from(at % 32) == index) {
            cancel.cancel();
        }
        take_step(step, sizes, &mut writer, memory, model)?;
    }
    if input.cancel.is_some_and(|at| at % 32 == 31) {
        cancel.cancel();
    }
    if input.abandoned {
        return Ok(None);
    }
    writer.finish(&Tail::minimal()).map(Some)
}

fn take_step(
    step: &Step,
    Sizes { page: size, pages, .. }: Sizes,
    writer: &mut Writer<'_>,
    memory: &mut Memory,
    model: &mut Session,
) -> mapped_ram::Result<()> {
    let some = |page: u8, count: u8| {
        let page = usize::from(page) % pages;
        page..(page + usize::from(count % 80) + 1).min(pages)
    };
    let not_old = |byte: u8| if byte == OLD_BYTE { 1 } else { byte };
    let dirty = |model: &mut Session, range: std::ops::Range<usize>, byte: u8| {
        for page in range {
            model.apply(&Operation::Dirty(page as u64, vec![byte; size]));
        }
    };
    match step {
        Step::Dirty { page, count, byte } => {
            let range = some(*page, *count);
            memory.fill(range.start * size..range.end * size, not_old(*byte));
            dirty(model, range, not_old(*byte));
        }
        Step::Discard { page, count } => {
            let each = (HOST_PAGE / size).max(1);
            let range = some(*page, *count);
            let range = range.start / each * each..range.end / each * each;
            if range.start < range.end {
                memory.discard(range.start * size..range.end * size);
                dirty(model, range, 0);
            }
        }
        Step::WriteAll => {
            model.apply(&Operation::WriteAll);
            writer.write_all()?;
        }
        Step::WritePages { words } => {
            let mut words = words.to_vec();
            words.resize(pages.div_ceil(64), 0);
            let dirty = PageBitmap::from_words(words, pages as u64);
            model.apply(&Operation::WritePages(dirty.runs().flatten().collect()));
            writer.write_pages(0, &dirty)?;
        }
        Step::WriteFrom { page, count, byte } => {
            let range = some(*page, *count);
            // One page more of zeros than of the byte, if there are two.
            let mut bytes = vec![not_old(*byte); range.len() * size];
            bytes[..size * usize::from(range.len() > 1)].fill(0);
            let guest = model.memory[range.clone()].to_vec();
            for (page, bytes) in range.clone().zip(bytes.chunks(size)) {
                model.memory[page] = bytes.to_vec();
            }
            model.apply(&Operation::WritePages(range.clone().map(|page| page as u64).collect()));
            model.memory[range.clone()].clone_from_slice(&guest);
            writer.write_from(0, (range.start * size) as u64, &bytes)?;
        }
    }
    Ok(())
}

fn open(place: &Place, offset: u64) -> mapped_ram::Result<Reader> {
    let options = ReaderOptions::new().stream_offset(offset);
    match place {
        Place::Disk(disk) => options.from_source(Arc::new(disk.clone())),
        Place::Files { path, .. } => options.open(path),
    }
}

fn bytes(place: &Place) -> Vec<u8> {
    match place {
        Place::Disk(disk) => disk.bytes(),
        Place::Files { path, .. } => fs::read(path).unwrap(),
    }
}

fn expect_before(bytes: &[u8], offset: u64) {
    let before = &bytes[..usize::try_from(offset).unwrap()];
    assert!(before.iter().all(|byte| *byte == BEFORE), "what stands before the stream was touched");
}

/// A save that failed, or was dropped: `model` is what a file holds that is whole all the same.
fn unfinished(input: &Input, sizes: Sizes, place: &Place, model: Option<&Session>) {
    match place {
        Place::Disk(disk) => {
            assert!(!disk.is_published(), "published although it failed");
            // A new file has no name yet: nobody looks.
            if matches!(input.target, Target::New) {
                return;
            }
        }
        Place::Files { folder, path } => {
            let expected: &[&str] = match input.target {
                Target::New | Target::InPlace { .. } => &["guest.mram"],
                // The old one is gone, and what was to become the new one.
                Target::Recycled { .. } => &[],
            };
            assert_eq!(names(folder.path()), expected);
            match input.target {
                Target::New => return assert_eq!(fs::read(path).unwrap(), OLDER),
                Target::InPlace { .. } => {}
                Target::Recycled { .. } => return,
            }
        }
    }
    expect_before(&bytes(place), sizes.offset);
    match open(place, sizes.offset) {
        Ok(reader) if reader.blocks()[0].idstr() == "old0" => {
            // Not even the first call was made.
            assert!(bytes(place) == older_stream(sizes.offset), "changed, but not called incomplete");
        }
        // The failing call was one of the last: all is there then, but nobody promised it.
        Ok(reader) => {
            let model = model.expect("a writer that was dropped left a whole stream");
            let mut back = vec![0xEE; sizes.length()];
            reader.blocks()[0].load(&mut back, Destination::Used).unwrap();
            assert!(back == model.readable(), "loaded other bytes than the model's");
        }
        Err(error) => assert_eq!(error.kind(), ErrorKind::Incomplete, "{error}"),
    }
}

fn whole(input: &Input, sizes: Sizes, place: &Place, model: &Session, report: &SaveReport) {
    assert_eq!((report.pages_written(), report.zero_pages()), (model.written, model.zero));
    let pages_written = model.written * sizes.page as u64;
    let moved = report.totals().bytes;
    assert!(moved >= pages_written && (moved == pages_written || bridge(&input.options) != Bridge::None));
    let bytes = bytes(place);
    assert_eq!(report.file_length, bytes.len() as u64);
    match place {
        Place::Disk(disk) => assert!(disk.is_published()),
        Place::Files { folder, .. } => assert_eq!(names(folder.path()), ["guest.mram"]),
    }
    expect_before(&bytes, sizes.offset);

    let reader = open(place, sizes.offset).unwrap();
    let block = &reader.blocks()[0];
    let mut back = vec![0xEE; sizes.length()];
    block.load(&mut back, Destination::Used).unwrap();
    let readable = model.readable();
    assert!(back == readable, "loaded other bytes than the model's");
    let present: Vec<u64> = block.bitmap().unwrap().runs().flatten().collect();
    assert!(present.iter().eq(model.present.keys()), "other bits than the model's");
    assert_eq!(reader.verify(VerifyOptions::new().channels(1)).unwrap().problems, []);
    if matches!(place, Place::Files { .. }) {
        expect_mapped(block, &Prefetch::Nothing, &readable);
    }
    expect_room(sizes, &bytes, block.layout().pages_offset(), model);
    if sizes.page == 256 {
        expect_every_byte(sizes, &bytes, &reader, model);
    }
}

/// The room of each page: its bytes, or zeros; never what an old file held, or an earlier round.
fn expect_room(sizes: Sizes, bytes: &[u8], pages_offset: u64, model: &Session) {
    let start = usize::try_from(pages_offset).unwrap();
    for (page, room) in (0..).zip(bytes[start..].chunks(sizes.page).take(sizes.pages)) {
        if let Some(present) = model.present.get(&page) {
            assert!(room == present, "page {page}");
            continue;
        }
        assert!(room.iter().all(|byte| *byte == 0), "page {page} is absent, and not zero");
    }
}

/// All that is no page of the guest: as the model's stream, with what stood before.
fn expect_every_byte(sizes: Sizes, bytes: &[u8], reader: &Reader, model: &Session) {
    let mut stream = Stream::new(vec![block("ram0", sizes.length() as u64, model.present.clone())]);
    (stream.page_size, stream.alignment, stream.offset) = (256, HOST_PAGE as u64, sizes.offset);
    stream.tail = reader.tail().unwrap();
    let expected = stream.write();
    assert_eq!(bytes.len() as u64, expected.length());
    let mut expected = expected.read(0, expected.length());
    expected[..usize::try_from(sizes.offset).unwrap()].fill(BEFORE);
    let start = usize::try_from(reader.blocks()[0].layout().pages_offset()).unwrap();
    let room = start..start + sizes.length();
    expected[room.clone()].copy_from_slice(&bytes[room]);
    assert!(bytes == expected, "other bytes around the pages than the model's");
}
