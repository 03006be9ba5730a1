//! Saving and reading back: what comes out is what went in, whatever the pages, channels, modes and rounds.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::sync::Arc;

use mapped_ram::storage::{FileSource, IoMode, Source};
use mapped_ram::{
    Bridge, Destination, Device, Error, ErrorKind, LoadOptions, LoadTarget, PageBitmap, RamBlock, Reader,
    ReaderOptions, SaveOptions, Tail, VerifyOptions,
};
use multifd_pool::Channel;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use proptest::prelude::*;
use tempfile::TempDir;

#[macro_use]
#[path = "support/forward.rs"]
mod forward;

const PAGE: usize = 4096;

/// On the disk that the build is on, for `O_DIRECT` is not to be had everywhere.
fn dir() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// A block's memory: for each page 0 for zeros, else what fills it.
fn memory_of(pages: &[u8], page_size: usize) -> Vec<u8> {
    let mut memory = vec![0; pages.len() * page_size];
    for (page, kind) in memory.chunks_mut(page_size).zip(pages) {
        match kind {
            0 => {}
            // Pages that are zero but for one byte, first or last, are the ones that a scan may miss.
            1 => page[0] = 1,
            2 => page[page_size - 1] = 1,
            byte => page.fill(*byte),
        }
    }
    memory
}

fn pages() -> impl Strategy<Value = Vec<u8>> {
    let run = (prop_oneof![Just(0_u8), 0_u8..5], 1_usize..40);
    prop::collection::vec(run, 1..12)
        .prop_map(|runs| runs.into_iter().flat_map(|(kind, len)| vec![kind; len]).collect())
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

fn expect_block(reader: &Reader, name: &str, memory: &[u8], page_size: usize, zero_detection: bool) {
    let block = reader.block(name).unwrap();
    assert_eq!(block.used_length(), memory.len() as u64);
    let mut back = vec![0xEE; memory.len()];
    block.load(&mut back, Destination::Used).unwrap();
    assert!(back == memory, "block {name} differs after load");
    let mut back = vec![0; memory.len()];
    block.load(&mut back, Destination::Zeroed).unwrap();
    assert!(back == memory, "block {name} differs after a load into zeroed memory");
    for (i, page) in memory.chunks(page_size).enumerate() {
        let is_present = !zero_detection || page.iter().any(|byte| *byte != 0);
        assert_eq!(block.bitmap().unwrap().contains(i as u64), is_present, "page {i} of {name}");
    }
}

proptest! {
    /// Gaps are full of stale bytes, which must land nowhere, whichever of them are read through.
    #[test]
    fn a_load_by_any_mode_shows_what_the_bitmap_says(
        runs in prop::collection::vec((1_usize..20, 0_usize..20), 1..16),
        page_bits in 9_u32..14,
        mode in modes(),
        destination in prop::sample::select(vec![Destination::Used, Destination::Zeroed, Destination::Fresh]),
        // Direct I/O takes memory that is aligned, the page cache takes the rest.
        skip in prop_oneof![Just(0), Just(512), 0..PAGE],
        cold in any::<bool>(),
        channels in 1_usize..4,
    ) {
        let page_size = 1 << page_bits;
        let pages: Vec<u8> =
            runs.into_iter().flat_map(|(run, gap)| [vec![7; run], vec![0; gap]].concat()).collect();
        let memory = memory_of(&pages, page_size);
        let dir = dir();
        let path = dir.path().join("guest.mram");
        let options = SaveOptions::new().page_size(page_size as u64);
        options.save(&path, vec![RamBlock::new("ram0", &memory)]).unwrap();
        let reader = Reader::open(&path).unwrap();
        let block = reader.block("ram0").unwrap();
        let file = File::options().write(true).open(&path).unwrap();
        for page in (0..pages.len()).filter(|page| pages[*page] == 0) {
            let offset = block.layout().pages_offset() + (page * page_size) as u64;
            file.write_all_at(&vec![0xBD; page_size], offset).unwrap();
        }
        if cold {
            file.sync_all().unwrap();
            posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED).unwrap();
        } else {
            fs::read(&path).unwrap();
        }
        let byte = if destination == Destination::Used { 0xEE } else { 0 };
        let mut back = vec![byte; memory.len() + 2 * PAGE];
        let start = back.as_ptr().align_offset(PAGE) + skip;
        let options = LoadOptions::new().io_mode(mode).channels(channels);
        let target = &mut back[start..][..memory.len()];
        let report = options.load(&mut [LoadTarget::new(block, target, destination)]).unwrap();
        prop_assert!(back[start..][..memory.len()] == memory);
        let around = back[..start].iter().chain(&back[start + memory.len()..]);
        prop_assert!(around.copied().all(|around| around == byte), "written outside of the memory");
        match mode {
            IoMode::Auto if !cold => prop_assert_eq!(report.io_mode, IoMode::Buffered),
            IoMode::Auto => prop_assert_ne!(report.io_mode, IoMode::Auto),
            mode => prop_assert_eq!(report.io_mode, FileSource::open(&path).unwrap().effective_mode(mode)),
        }
    }

    #[test]
    fn memory_that_was_promised_to_be_zero_is_checked_if_asked_for(
        pages in pages(),
        spoilt in any::<prop::sample::Index>(),
        at in 0..PAGE,
        fresh in any::<bool>(),
        channels in 1_usize..4,
    ) {
        let memory = memory_of(&pages, PAGE);
        let dir = dir();
        let path = dir.path().join("guest.mram");
        SaveOptions::new().save(&path, vec![RamBlock::new("ram0", &memory)]).unwrap();
        let reader = Reader::open(&path).unwrap();
        let block = reader.block("ram0").unwrap();
        let destination = if fresh { Destination::Fresh } else { Destination::Zeroed };
        let load = |back: &mut [u8], check: bool| {
            let options = LoadOptions::new().channels(channels).check_zeroed(check);
            options.load(&mut [LoadTarget::new(block, back, destination)])
        };
        let mut back = vec![0; memory.len()];
        load(&mut back, true).unwrap();
        prop_assert!(back == memory);

        let page = spoilt.index(pages.len());
        let mut back = vec![0; memory.len()];
        back[page * PAGE + at] = 1;
        if block.bitmap().unwrap().contains(page as u64) {
            // It is read over: the promise is about absent pages.
            load(&mut back, true).unwrap();
            prop_assert!(back == memory);
        } else {
            load(&mut back, false).unwrap();
            prop_assert_eq!(back[page * PAGE + at], 1);
            let error = load(&mut back, true).unwrap_err();
            prop_assert_eq!(error.kind(), ErrorKind::Usage);
            prop_assert!(error.to_string().contains("`ram0`") && error.to_string().contains("Destination::Used"));
        }
    }

    #[test]
    fn what_is_saved_is_read_back(
        blocks in prop::collection::vec(pages(), 1..4),
        channels in 1_usize..5,
        mode in modes(),
        zero_detection in any::<bool>(),
        page_bits in 8_u32..15,
        align_to_page in any::<bool>(),
        bridged in any::<bool>(),
        reads in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 0..10),
    ) {
        let page_size = 1_usize << page_bits;
        let memories: Vec<Vec<u8>> = blocks.iter().map(|pages| memory_of(pages, page_size)).collect();
        let names: Vec<String> = (0..blocks.len()).map(|i| format!("/rom@block {i}")).collect();
        let dir = dir();
        let path = dir.path().join("guest.mram");
        let ram = names.iter().zip(&memories).map(|(name, memory)| RamBlock::new(name.as_str(), memory)).collect();
        let mut options = SaveOptions::new()
            .channels(channels)
            .io_mode(mode)
            .zero_detection(zero_detection)
            .bridge(if bridged { Bridge::Auto } else { Bridge::None })
            .page_size(page_size as u64);
        if align_to_page {
            options = options.alignment(page_size as u64);
        }
        let report = options.save(&path, ram).unwrap();
        let total: usize = blocks.iter().map(Vec::len).sum();
        let used: usize = blocks.iter().flatten().filter(|kind| **kind != 0 || !zero_detection).count();
        prop_assert_eq!(report.pages_written(), used as u64);
        prop_assert_eq!(report.zero_pages(), (total - used) as u64);
        // A bridged gap is written, and stays zero pages.
        let bytes = report.totals().bytes;
        prop_assert!(bytes == (used * page_size) as u64 || bridged && bytes > (used * page_size) as u64);
        prop_assert!(bytes <= (total * page_size) as u64);
        prop_assert_eq!(report.file_length, fs::metadata(&path).unwrap().len());
        prop_assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);

        let reader = Reader::open(&path).unwrap();
        for (name, memory) in names.iter().zip(&memories) {
            expect_block(&reader, name, memory, page_size, zero_detection);
            let block = reader.block(name).unwrap();
            for (from, len) in &reads {
                let from = from.index(memory.len());
                let len = len.index(memory.len() - from);
                let mut piece = vec![0xEE; len];
                block.read_at(from as u64, &mut piece).unwrap();
                prop_assert_eq!(&piece, &memory[from..from + len]);
            }
        }
        let verified = reader.verify(VerifyOptions::new()).unwrap();
        prop_assert_eq!(verified.problems, vec![]);
        prop_assert_eq!(verified.blocks.iter().map(|block| block.present).sum::<u64>(), used as u64);
    }

    #[test]
    fn rounds_leave_what_was_written_last(
        first in pages(),
        rounds in prop::collection::vec(prop::collection::vec((any::<prop::sample::Index>(), 0_u8..5), 0..40), 0..5),
        channels in 1_usize..4,
        in_place in any::<bool>(),
    ) {
        let mut memory = memory_of(&first, PAGE);
        let start = memory.as_mut_ptr();
        let dir = dir();
        let path = dir.path().join("guest.mram");
        // SAFETY: `memory` lives until the end, and is only changed through `start` while the writer has it.
        let block = unsafe { RamBlock::from_raw("ram0", start, memory.len()) };
        let options = SaveOptions::new().channels(channels);
        let mut writer =
            if in_place { options.stream_offset(777).in_place(&path, vec![block]) } else { options.create(&path, vec![block]) }
                .unwrap();
        writer.write_all().unwrap();
        let mut current = first;
        for round in rounds {
            let mut dirty = PageBitmap::new(current.len() as u64);
            for (page, kind) in round {
                let page = page.index(current.len());
                dirty.insert(page as u64..page as u64 + 1);
                current[page] = kind;
                let bytes = memory_of(&[kind], PAGE);
                // SAFETY: a page of `memory`, which nobody looks at while the writer does nothing.
                unsafe { start.add(page * PAGE).copy_from_nonoverlapping(bytes.as_ptr(), PAGE) };
            }
            writer.write_pages(0, &dirty).unwrap();
        }
        writer.finish(&Tail::minimal()).unwrap();
        let offset = if in_place { 777 } else { 0 };
        let reader = ReaderOptions::new().stream_offset(offset).open(&path).unwrap();
        expect_block(&reader, "ram0", &memory_of(&current, PAGE), PAGE, true);
    }

    #[test]
    fn a_copy_is_the_same_guest_with_the_same_tail(
        pages in pages(),
        state in prop::collection::vec(any::<u8>(), 0..300),
        zero_detection in any::<bool>(),
        offset in 0_u64..5000,
    ) {
        let memory = memory_of(&pages, PAGE);
        let dir = dir();
        let (one, two) = (dir.path().join("one"), dir.path().join("two"));
        let device = |name: &str, data: Vec<u8>| Device { name: name.into(), instance: 3, version: 7, data };
        let devices = vec![device("timer", state.clone()), device("serial", vec![1, 2, 3])];
        let mut writer = SaveOptions::new()
            .machine("pc-q35-9.0")
            .zero_detection(zero_detection)
            .create(&one, vec![RamBlock::new("pc.ram", &memory)])
            .unwrap();
        writer.write_all().unwrap();
        writer.finish(&Tail::devices(devices)).unwrap();

        let source = Reader::open(&one).unwrap();
        let found = source.devices().unwrap();
        prop_assert_eq!(found.len(), 2);
        prop_assert_eq!((&*found[0].name, found[0].instance, found[0].version), ("timer", 3, 7));
        prop_assert_eq!(&found[0].data, &state);

        let block = source.block("pc.ram").unwrap();
        let mut writer = SaveOptions::new()
            .head_of(source.layout())
            .stream_offset(offset)
            .in_place(&two, vec![RamBlock::detached("pc.ram", block.used_length())])
            .unwrap();
        let mut page = vec![0; PAGE];
        for at in (0..block.used_length()).step_by(PAGE) {
            block.read_at(at, &mut page).unwrap();
            writer.write_from(0, at, &page).unwrap();
        }
        writer.finish(&Tail::copied_from(&source)).unwrap();

        let copy = ReaderOptions::new().stream_offset(offset).open(&two).unwrap();
        expect_block(&copy, "pc.ram", &memory, PAGE, true);
        prop_assert_eq!(copy.tail().unwrap(), source.tail().unwrap());
        prop_assert_eq!(copy.layout().configuration(), source.layout().configuration());
    }
}

#[test]
fn a_save_that_is_dropped_leaves_the_old_file_and_nothing_else() {
    let dir = dir();
    let path = dir.path().join("guest.mram");
    fs::write(&path, "old").unwrap();
    let memory = memory_of(&[3; 100], PAGE);
    let mut writer = SaveOptions::new().create(&path, vec![RamBlock::new("ram0", &memory)]).unwrap();
    writer.write_all().unwrap();
    drop(writer);
    assert_eq!(fs::read(&path).unwrap(), b"old");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);

    SaveOptions::new().save(&path, vec![RamBlock::new("ram0", &memory)]).unwrap();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    Reader::open(&path).unwrap();
}

#[test]
fn an_unfinished_save_in_place_is_called_incomplete_and_keeps_what_stands_before() {
    let dir = dir();
    let path = dir.path().join("container");
    fs::write(&path, vec![0x55; 5000]).unwrap();
    let memory = memory_of(&[3; 100], PAGE);
    let save = || {
        SaveOptions::new().stream_offset(1234).in_place(&path, vec![RamBlock::new("ram0", &memory)]).unwrap()
    };
    let open = || ReaderOptions::new().stream_offset(1234).open(&path);

    let mut writer = save();
    writer.write_all().unwrap();
    writer.finish(&Tail::minimal()).unwrap();
    open().unwrap();

    for write_all in [false, true] {
        let mut writer = save();
        assert_eq!(open().unwrap_err().kind(), ErrorKind::Incomplete);
        if write_all {
            writer.write_all().unwrap();
        }
        drop(writer);
        let error = open().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Incomplete);
        assert!(error.to_string().contains("container"), "{error}");
    }
    assert_eq!(&fs::read(&path).unwrap()[..1234], &[0x55; 1234]);
}

#[test]
fn an_unfinished_save_in_place_leaves_no_file_that_it_made_and_any_other() {
    let dir = dir();
    let path = dir.path().join("new");
    let memory = memory_of(&[3; 100], PAGE);
    let begin = || {
        let mut writer = SaveOptions::new()
            .stream_offset(1234)
            .in_place(&path, vec![RamBlock::new("ram0", &memory)])
            .unwrap();
        writer.write_all().unwrap();
        writer
    };
    drop(begin());
    assert!(!path.exists());

    // Another one has taken its place, or its name, meanwhile.
    let (writer, moved) = (begin(), dir.path().join("moved"));
    fs::rename(&path, &moved).unwrap();
    fs::write(&path, "another").unwrap();
    drop(writer);
    assert_eq!(fs::read_to_string(&path).unwrap(), "another");
    fs::remove_file(&path).unwrap();
    assert!(moved.exists());

    // What a link leads to is its owner's.
    std::os::unix::fs::symlink(dir.path().join("target"), &path).unwrap();
    drop(begin());
    assert!(dir.path().join("target").exists() && path.is_symlink());
    fs::remove_file(&path).unwrap();

    begin().finish(&Tail::minimal()).unwrap();
    drop(begin());
    let error = ReaderOptions::new().stream_offset(1234).open(&path).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Incomplete, "a file that was there stays");
}

#[test]
fn stale_bytes_under_a_clear_bit_never_show() {
    let dir = dir();
    let path = dir.path().join("guest.mram");
    let memory = memory_of(&[3; 64], PAGE);
    SaveOptions::new().save(&path, vec![RamBlock::new("ram0", &memory)]).unwrap();
    // Clears the bits of pages 8 to 15; their bytes stay where they are.
    let offset = Reader::open(&path).unwrap().block("ram0").unwrap().layout().bitmap_offset();
    File::options().write(true).open(&path).unwrap().write_all_at(&[0], offset + 1).unwrap();

    let mut expected = memory;
    expected[8 * PAGE..16 * PAGE].fill(0);
    expect_block(&Reader::open(&path).unwrap(), "ram0", &expected, PAGE, true);
}

#[test]
fn zero_pages_take_no_room() {
    let dir = dir();
    let path = dir.path().join("guest.mram");
    let mut memory = vec![0; 64 << 20];
    memory[10 << 20] = 1;
    SaveOptions::new().save(&path, vec![RamBlock::new("ram0", &memory)]).unwrap();
    let taken = fs::metadata(&path).unwrap().blocks() * 512;
    assert!(taken <= 64 << 10, "{taken} bytes for one page");
}

#[test]
fn pages_that_were_lost_are_found() {
    let dir = dir();
    let path = dir.path().join("guest.mram");
    let memory = memory_of(&[3; 64], PAGE);
    SaveOptions::new().save(&path, vec![RamBlock::new("ram0", &memory)]).unwrap();
    let reader = Reader::open(&path).unwrap();
    let layout = reader.block("ram0").unwrap().layout().clone();
    // What a full disk leaves: a hole where pages should be. Made by writing the file anew without them.
    let bytes = fs::read(&path).unwrap();
    let lost = usize::try_from(layout.pages_offset()).unwrap() + 10 * PAGE;
    let holed = File::create(dir.path().join("holed")).unwrap();
    holed.write_all_at(&bytes[..lost], 0).unwrap();
    holed.write_all_at(&bytes[lost + 20 * PAGE..], (lost + 20 * PAGE) as u64).unwrap();

    let reader = Reader::open(dir.path().join("holed")).unwrap();
    let report = reader.verify(VerifyOptions::new()).unwrap();
    assert_eq!(report.blocks[0].present_in_holes, 20);
    let text = report.problems[0].to_string();
    assert!(
        text.contains("ram0") && text.contains(&format!("{lost:#x}")) && text.contains("page 10"),
        "{text}"
    );
    assert_eq!(reader.verify(VerifyOptions::new().allow_holes(true)).unwrap().problems, []);
}

#[test]
fn what_cannot_be_saved_is_refused_with_a_word() {
    let dir = dir();
    let path = dir.path().join("guest.mram");
    let memory = vec![0; 8 * PAGE];
    let block = || RamBlock::new("ram0", &memory);
    let usage = |result: Result<mapped_ram::SaveReport, Error>, word: &str| {
        let error = result.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage, "{error}");
        assert!(error.to_string().contains(word), "{error}");
    };
    usage(SaveOptions::new().channels(0).save(&path, vec![block()]), "0 channels");
    usage(SaveOptions::new().channels(256).save(&path, vec![block()]), "256 channels");
    usage(SaveOptions::new().page_size(3000).save(&path, vec![block()]), "3000");
    usage(SaveOptions::new().page_size(0).save(&path, vec![block()]), "0");
    usage(SaveOptions::new().stream_offset(1).save(&path, vec![block()]), "in place");
    usage(SaveOptions::new().save(&path, vec![block(), block()]), "ram0");
    usage(SaveOptions::new().save(&path, vec![RamBlock::new("", &memory)]), "");
    usage(SaveOptions::new().save(&path, vec![RamBlock::new("a\0b", &memory)]), "");
    usage(SaveOptions::new().save(&path, vec![RamBlock::new("x".repeat(256), &memory)]), "");
    usage(SaveOptions::new().save(&path, vec![RamBlock::new("odd", &memory[..5000])]), "odd");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);

    let mut writer = SaveOptions::new().create(&path, vec![block()]).unwrap();
    let bad = [
        writer.write_pages(0, &PageBitmap::new(9)).unwrap_err(),
        writer.write_pages(1, &PageBitmap::new(8)).unwrap_err(),
        writer.write_from(0, 100, &memory[..PAGE]).unwrap_err(),
        writer.write_from(0, 0, &memory[..100]).unwrap_err(),
        writer.write_from(0, 8 * PAGE as u64, &memory[..PAGE]).unwrap_err(),
        writer.write_from(0, u64::MAX - 4095, &memory[..PAGE]).unwrap_err(),
    ];
    assert!(bad.iter().all(|error| error.kind() == ErrorKind::Usage), "{bad:?}");

    let missing = dir.path().join("no/such/dir/guest.mram");
    let error = SaveOptions::new().save(&missing, vec![block()]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
    assert!(error.to_string().contains("no/such/dir"), "{error}");
    let error = SaveOptions::new().save(dir.path(), vec![block()]).unwrap_err();
    assert!(error.to_string().contains("no regular file"), "{error}");
}

#[test]
fn what_cannot_be_loaded_is_refused_with_a_word() {
    let dir = dir();
    let path = dir.path().join("guest.mram");
    let memory = memory_of(&[3; 8], PAGE);
    SaveOptions::new().save(&path, vec![RamBlock::new("ram0", &memory)]).unwrap();
    let reader = Reader::open(&path).unwrap();
    let block = reader.block("ram0").unwrap();
    assert!(reader.block("ram1").is_none());
    let mut small = vec![0; 7 * PAGE];
    let error = block.load(&mut small, Destination::Used).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage);
    for channels in [0, 256] {
        let mut right = vec![0; 8 * PAGE];
        let target = LoadTarget::new(block, &mut right, Destination::Used);
        let error = LoadOptions::new().channels(channels).load(&mut [target]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage);
    }
    let other = Reader::open(&path).unwrap();
    let (mut one, mut two) = (vec![0; 8 * PAGE], vec![0; 8 * PAGE]);
    let mut targets = [
        LoadTarget::new(block, &mut one, Destination::Used),
        LoadTarget::new(&other.blocks()[0], &mut two, Destination::Used),
    ];
    assert_eq!(LoadOptions::new().load(&mut targets).unwrap_err().kind(), ErrorKind::Usage);
    assert_eq!(block.read_at(8 * PAGE as u64 - 1, &mut [0; 2]).unwrap_err().kind(), ErrorKind::Usage);
    assert_eq!(block.read_at(u64::MAX, &mut [0; 2]).unwrap_err().kind(), ErrorKind::Usage);
}

#[test]
fn blocks_that_are_left_out_are_named_and_hold_nothing() {
    let dir = dir();
    let path = dir.path().join("guest.mram");
    let memory = memory_of(&[3; 8], PAGE);
    let blocks =
        vec![RamBlock::left_out("shared", 1 << 30, 1 << 32), RamBlock::new("ram0", &memory).guest_address(0)];
    SaveOptions::new().save(&path, blocks).unwrap();
    let reader = Reader::open(&path).unwrap();
    assert!(reader.layout().configuration().unwrap().has_capability("x-ignore-shared"));
    let shared = reader.block("shared").unwrap();
    assert!(shared.is_left_out());
    assert_eq!(shared.layout().guest_address(), Some(1 << 32));
    assert_eq!(shared.read_at(0, &mut [0]).unwrap_err().kind(), ErrorKind::Usage);
    assert_eq!(shared.load(&mut [], Destination::Used).unwrap_err().kind(), ErrorKind::Usage);
    expect_block(&reader, "ram0", &memory, PAGE, true);
    assert_eq!(reader.verify(VerifyOptions::new()).unwrap().problems, []);
}

/// A file system that has the page cache and nothing else.
struct NoDirect(FileSource);

impl Source for NoDirect {
    forward!(0: name, len, read_at, file);

    fn channel(&self, index: usize, mode: IoMode) -> io::Result<Box<dyn Channel>> {
        assert_eq!(mode, IoMode::Buffered, "a mode that was refused is not asked for again");
        self.0.channel(index, mode)
    }

    fn effective_mode(&self, _: IoMode) -> IoMode {
        IoMode::Buffered
    }
}

/// Then a load goes about it as through the page cache, and says so: each run by itself, no gap read through.
#[test]
fn a_load_says_what_took_the_place_of_a_mode_that_is_not_to_be_had() {
    let dir = dir();
    let path = dir.path().join("guest.mram");
    let memory = memory_of(&[7, 0].repeat(20), PAGE);
    SaveOptions::new().save(&path, vec![RamBlock::new("ram0", &memory)]).unwrap();
    for mode in
        [IoMode::Auto, IoMode::Buffered, IoMode::Direct, IoMode::Uncached, IoMode::Mixed, IoMode::Uring]
    {
        let source = NoDirect(FileSource::open(&path).unwrap());
        let reader = ReaderOptions::new().from_source(Arc::new(source)).unwrap();
        let mut back = vec![0; memory.len()];
        let target = LoadTarget::new(&reader.blocks()[0], &mut back, Destination::Zeroed);
        let report = LoadOptions::new().io_mode(mode).load(&mut [target]).unwrap();
        assert!(back == memory);
        assert_eq!((report.io_mode, report.totals().calls), (IoMode::Buffered, 20), "{mode}");
    }
}
