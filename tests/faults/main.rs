//! Everything that can fail, at every call where it can: the error says what and where, no thread is left, and an old file is
//! byte for byte what it was.

#[macro_use]
#[path = "../support/forward.rs"]
mod forward;

mod bad_sector;
mod plan;

use std::fs;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use mapped_ram::storage::{AtomicFile, FileSource, IoMode, RecycledFile, Storage};
use mapped_ram::{
    Bridge, Cancel, Destination, Error, ErrorKind, LoadOptions, LoadState, LoadTarget, RamBlock, Reader,
    ReaderOptions, Result, SaveOptions, Tail, VerifyOptions,
};
use proptest::prelude::*;

use crate::plan::{Act, FaultySource, FaultyStorage, Gate, Plan};

const PAGE: usize = 4096;
const OLD: &[u8] = b"the old file";

/// The tests count threads of the whole process, so they take turns.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How many channels are left. A thread that was joined is still listed until the kernel has put it away, an instant later:
/// one that is not gone after ten seconds was never joined.
fn channels_alive() -> usize {
    let begin = std::time::Instant::now();
    loop {
        let alive = channels_listed();
        if alive == 0 || begin.elapsed().as_secs() >= 10 {
            return alive;
        }
        std::thread::yield_now();
    }
}

fn channels_listed() -> usize {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    let name = |task: std::io::Result<fs::DirEntry>| fs::read_to_string(task.unwrap().path().join("comm"));
    tasks.filter_map(|task| name(task).ok()).filter(|name| name.starts_with("mapped-ram-")).count()
}

fn memories() -> [Vec<u8>; 2] {
    let mut one = vec![0; 600 * PAGE];
    // Long enough to have room reserved for it.
    one[200 * PAGE..500 * PAGE].fill(9);
    one[10 * PAGE..40 * PAGE].fill(3);
    one[70 * PAGE..71 * PAGE].fill(4);
    [one, vec![5; 20 * PAGE]]
}

/// A save of two blocks onto `path`, with failures as planned.
fn save(path: &Path, plan: &Plan, channels: usize) -> Result<()> {
    save_into(AtomicFile::create(path).unwrap(), plan, channels)
}

fn save_into(storage: impl Storage + 'static, plan: &Plan, channels: usize) -> Result<()> {
    let [one, two] = memories();
    let storage = FaultyStorage::new(storage, plan.clone());
    let blocks = vec![RamBlock::new("pc.ram", &one), RamBlock::new("pc.rom", &two)];
    let mut writer = SaveOptions::new().channels(channels).with_storage(Box::new(storage), blocks)?;
    let first = writer.write_all();
    if first.is_err() {
        // What is known to be broken is not finished.
        let again = writer.write_all().unwrap_err();
        assert_eq!(again.kind(), ErrorKind::Usage, "{again}");
        let finished = writer.finish(&Tail::minimal()).unwrap_err();
        assert!(matches!(finished.kind(), ErrorKind::Usage | ErrorKind::Io), "{finished}");
        return first;
    }
    writer.finish(&Tail::minimal()).map(drop)
}

fn expect_told(error: &Error, act: Act, path: &Path) {
    let text = error.to_string();
    assert!(text.contains(path.file_name().unwrap().to_str().unwrap()), "no file: {text}");
    let cause = if let Error::Load { source, .. } = error { source } else { error };
    // A read that gives nothing is the end of the file.
    let is_cut = matches!(act, Act::Nothing)
        && matches!(cause, Error::Transfer { source, .. } if source.operation == multifd_pool::Operation::Read);
    assert_eq!(error.kind(), if is_cut { ErrorKind::Damaged } else { ErrorKind::Io }, "{text}");
    if let Error::Transfer { source, .. } = cause {
        let known = ["pc.ram", "pc.rom", "vga.vram", "head", "tail", "magic"];
        assert!(known.contains(&&*source.block), "no block: {text}");
        assert!(text.contains(&format!("offset {:#x}", source.offset + source.done)), "no offset: {text}");
        if let Act::Errno(errno) = act {
            assert_eq!(source.source.raw_os_error(), Some(errno), "{text}");
        }
    }
}

#[test]
fn a_save_that_fails_at_any_call_tells_and_leaves_the_old_file() {
    let _alone = alone();
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = dir.path().join("guest.mram");
    for channels in [1, 3] {
        for act in [Act::Errno(28), Act::Errno(5), Act::Errno(11), Act::Nothing, Act::TooMuch, Act::Panic] {
            let mut failures = 0;
            for n in 0.. {
                fs::write(&path, OLD).unwrap();
                let plan = Plan::at(n, act);
                // A panic of the storage in the caller's own thread is the caller's; one in a channel is an error.
                let result = std::panic::catch_unwind(AssertUnwindSafe(|| save(&path, &plan, channels)));
                assert_eq!(channels_alive(), 0, "{act:?} at call {n}");
                if !plan.is_used() {
                    // Call n does not exist: the save is whole.
                    result.unwrap().unwrap();
                    break;
                }
                failures += 1;
                match result {
                    Ok(result) => {
                        let error = result.unwrap_err();
                        if !matches!(act, Act::Panic) {
                            expect_told(&error, act, &path);
                        }
                    }
                    Err(_) => assert!(matches!(act, Act::Panic), "{act:?} at call {n} became a panic"),
                }
                assert_eq!(fs::read(&path).unwrap(), OLD, "{act:?} at call {n}");
                assert_eq!(
                    fs::read_dir(dir.path()).unwrap().count(),
                    1,
                    "{act:?} at call {n}: something is left"
                );
            }
            // Two heads, the length, runs and the room for one, two bitmaps, the tail, sync, name: fewer calls would mean that not all were tried.
            assert!(failures >= 9, "{act:?}: {failures}");
        }
    }
    let [one, _] = memories();
    let mut back = vec![0xEE; one.len()];
    Reader::open(&path).unwrap().block("pc.ram").unwrap().load(&mut back, Destination::Used).unwrap();
    assert!(back == one);
}

/// Over an expendable file: whatever fails, neither a file under the old name is left, nor one under the passing name, and
/// what stood under the new name is untouched.
#[test]
fn a_save_over_an_old_file_that_fails_at_any_call_leaves_nothing_half_written() {
    let _alone = alone();
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (path, expendable) = (dir.path().join("guest.mram"), dir.path().join("expendable"));
    for act in [Act::Errno(28), Act::Errno(5), Act::Nothing, Act::Panic] {
        let mut failures = 0;
        for n in 0.. {
            fs::write(&path, OLD).unwrap();
            fs::write(&expendable, vec![0xA5; 3 << 20]).unwrap();
            let plan = Plan::at(n, act);
            let storage = RecycledFile::take_over(&expendable, &path).unwrap();
            let result = std::panic::catch_unwind(AssertUnwindSafe(|| save_into(storage, &plan, 2)));
            assert_eq!(channels_alive(), 0, "{act:?} at call {n}");
            assert_eq!(
                fs::read_dir(dir.path()).unwrap().count(),
                1,
                "{act:?} at call {n}: something is left"
            );
            if !plan.is_used() {
                result.unwrap().unwrap();
                break;
            }
            failures += 1;
            if let Ok(result) = result {
                result.unwrap_err();
            }
            assert_eq!(fs::read(&path).unwrap(), OLD, "{act:?} at call {n}");
        }
        // Beside what any save does: the gaps between runs are cleared.
        assert!(failures >= 12, "{act:?}: {failures}");
    }
    let reader = Reader::open(&path).unwrap();
    for (block, memory) in reader.blocks().iter().zip(memories()) {
        let mut back = vec![0xEE; memory.len()];
        block.load(&mut back, Destination::Used).unwrap();
        assert!(back == memory);
    }
    assert!(!fs::read(&path).unwrap().contains(&0xA5), "an old byte is left");
}

#[test]
fn a_load_or_a_look_that_fails_at_any_call_tells() {
    let _alone = alone();
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = dir.path().join("guest.mram");
    save(&path, &Plan::none(), 2).unwrap();
    let [one, two] = memories();
    for act in [Act::Errno(5), Act::Nothing, Act::TooMuch, Act::Panic] {
        for look in [false, true] {
            let mut failures = 0;
            for n in 0.. {
                let plan = Plan::at(n, act);
                let source = FaultySource::new(FileSource::open(&path).unwrap(), plan.clone());
                let reader = ReaderOptions::new().from_source(Arc::new(source)).unwrap();
                let (mut back_one, mut back_two) = (vec![0xEE; one.len()], vec![0xEE; two.len()]);
                let result = if look {
                    reader.verify(VerifyOptions::new().channels(2)).map(drop)
                } else {
                    let mut targets = [
                        LoadTarget::new(&reader.blocks()[0], &mut back_one, Destination::Used),
                        LoadTarget::new(&reader.blocks()[1], &mut back_two, Destination::Used),
                    ];
                    LoadOptions::new().channels(2).load(&mut targets).map(drop)
                };
                assert_eq!(channels_alive(), 0);
                if !plan.is_used() {
                    result.unwrap();
                    assert!(look || (back_one == one && back_two == two));
                    break;
                }
                failures += 1;
                let error = result.unwrap_err();
                if !matches!(act, Act::Panic) {
                    expect_told(&error, act, &path);
                }
            }
            assert!(failures >= 3, "{act:?}: {failures}");
        }
    }
}

/// What a load that failed says of its blocks must be so: a whole one holds the guest's bytes, an untouched one what it held
/// before, of a partly loaded one at least as many pages as it says are the guest's.
#[test]
fn a_load_that_fails_at_any_read_says_what_it_left_of_each_block() {
    let _alone = alone();
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = dir.path().join("guest.mram");
    // Of several chunks, of one, and of a few pages.
    let memories = [vec![7; 3000 * PAGE], vec![8; 900 * PAGE], vec![9; 3 * PAGE]];
    let names = ["pc.ram", "vga.vram", "pc.rom"];
    let blocks = names.iter().zip(&memories).map(|(name, memory)| RamBlock::new(*name, memory)).collect();
    SaveOptions::new().save(&path, blocks).unwrap();
    let mut seen = std::collections::BTreeSet::new();
    let channels_and_modes =
        [1, 2].map(|channels| [IoMode::Buffered, IoMode::Uring].map(|mode| (channels, mode)));
    for (channels, mode) in channels_and_modes.into_iter().flatten() {
        for n in 0.. {
            let plan = Plan::at(n, Act::Errno(5));
            let source = FaultySource::new(FileSource::open(&path).unwrap(), plan.clone());
            let reader = ReaderOptions::new().from_source(Arc::new(source)).unwrap();
            let mut back: Vec<Vec<u8>> = memories.iter().map(|memory| vec![0xEE; memory.len()]).collect();
            let mut targets: Vec<_> = reader
                .blocks()
                .iter()
                .zip(&mut back)
                .map(|(block, back)| LoadTarget::new(block, back, Destination::Used))
                .collect();
            let result = LoadOptions::new().channels(channels).io_mode(mode).load(&mut targets);
            if !plan.is_used() {
                result.unwrap();
                assert!(n >= 5, "{n} reads");
                break;
            }
            let error = result.unwrap_err();
            expect_told(&error, Act::Errno(5), &path);
            let text = error.to_string();
            let Error::Load { source, blocks } = error else { panic!("{text}") };
            assert_eq!(source.kind(), ErrorKind::Io);
            assert_eq!(blocks.len(), 3);
            for ((state, memory), back) in blocks.iter().zip(&memories).zip(&back) {
                let both = memory.chunks(PAGE).zip(back.chunks(PAGE));
                let right = both.filter(|(saved, now)| saved == now).count() as u64;
                seen.insert(format!("{:?}", state.state));
                assert!(right >= state.loaded, "{state:?}, {right} pages are right");
                assert_eq!(state.pages, (memory.len() / PAGE) as u64);
                match state.state {
                    LoadState::Whole => assert!(back == memory, "{text}"),
                    LoadState::Partly => assert!(state.loaded < state.pages, "{text}"),
                    LoadState::Untouched => assert!(back.iter().all(|byte| *byte == 0xEE), "{text}"),
                }
                let word = match state.state {
                    LoadState::Whole => "is wholly loaded",
                    LoadState::Partly => "partly",
                    LoadState::Untouched => "is untouched",
                };
                assert!(text.contains(&format!("block `{}` {word}", state.idstr)), "{text}");
            }
        }
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), ["Partly", "Untouched", "Whole"]);
}

/// Past the page cache, short gaps are read with what surrounds them; if that fails, the runs are read by themselves before it is an error.
#[test]
fn a_gap_that_cannot_be_read_is_nobody_s_loss() {
    let _alone = alone();
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = dir.path().join("guest.mram");
    let mut memory = vec![0; 40 * PAGE];
    for page in (0..40).step_by(2) {
        memory[page * PAGE..][..PAGE].fill(6);
    }
    SaveOptions::new().save(&path, vec![RamBlock::new("pc.ram", &memory)]).unwrap();
    let offset = Reader::open(&path).unwrap().blocks()[0].layout().pages_offset();
    // Stale bytes, which must land nowhere.
    let file = fs::File::options().write(true).open(&path).unwrap();
    for page in (1..40).step_by(2) {
        std::os::unix::fs::FileExt::write_all_at(&file, &[0xBD; PAGE], offset + page * PAGE as u64).unwrap();
    }
    let load = |mode: IoMode, plan: &Plan, destination, byte: u8| {
        let source = FaultySource::new(FileSource::open(&path).unwrap(), plan.clone());
        let reader = ReaderOptions::new().from_source(Arc::new(source)).unwrap();
        // Aligned as direct I/O wants it.
        let mut back = vec![byte; memory.len() + PAGE];
        let skip = back.as_ptr().align_offset(PAGE);
        let target = &mut back[skip..][..memory.len()];
        let target = LoadTarget::new(reader.block("pc.ram").unwrap(), target, destination);
        let result = LoadOptions::new().channels(1).io_mode(mode).load(&mut [target]);
        back.drain(..skip);
        back.truncate(memory.len());
        (result, back)
    };
    for mode in [IoMode::Direct, IoMode::Uring] {
        let (result, back) = load(mode, &Plan::none(), Destination::Zeroed, 0);
        assert_eq!(result.unwrap().totals().calls, 1, "bridged");
        assert!(back == memory);
        for plan in [Plan::none(), Plan::at(0, Act::Errno(5)), Plan::first(vec![Act::Short(5000); 9])] {
            for (destination, byte) in [(Destination::Zeroed, 0), (Destination::Used, 0xEE)] {
                let (result, back) = load(mode, &plan, destination, byte);
                result.unwrap();
                assert!(back == memory);
            }
        }
        let plan = Plan::first(vec![Act::Errno(5); 2]);
        let (result, _) = load(mode, &plan, Destination::Zeroed, 0);
        expect_told(&result.unwrap_err(), Act::Errno(5), &path);
    }
}

/// Pages of 256 bytes, some of them absent with old bytes in their room, which have to be read and hidden.
fn save_with_stale_pages(path: &Path) -> Vec<u8> {
    const SMALL: usize = 256;
    let mut memory = vec![6_u8; 200 * SMALL];
    let start = memory.as_mut_ptr();
    // SAFETY: `memory` outlives the writer, and is changed through `start` alone while there is one.
    let block = unsafe { RamBlock::from_raw("pc.ram", start, memory.len()) };
    let mut writer =
        SaveOptions::new().page_size(SMALL as u64).bridge(Bridge::None).create(path, vec![block]).unwrap();
    writer.write_all().unwrap();
    for page in (3..200).step_by(40) {
        // SAFETY: a page of `memory`; the writer does nothing between two calls.
        unsafe { start.wrapping_add(page * SMALL).write_bytes(0, SMALL) };
    }
    writer.write_all().unwrap();
    writer.finish(&Tail::minimal()).unwrap();
    memory
}

/// Opened, mapped, and loaded: whichever call of the source fails, the error names the file, and nothing stays mapped.
#[test]
fn opening_mapping_and_loading_that_fail_at_any_call_tell() {
    let _alone = alone();
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = dir.path().join("guest.mram");
    let memory = save_with_stale_pages(&path);
    let mapped = || {
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        maps.lines().filter(|line| line.ends_with("guest.mram")).count()
    };
    for act in [Act::Errno(5), Act::Nothing] {
        let mut failures = 0;
        for n in 0.. {
            let plan = Plan::at(n, act);
            let source = FaultySource::everywhere(FileSource::open(&path).unwrap(), plan.clone());
            let mut back = vec![0xEE; memory.len()];
            let result = (|| -> Result<()> {
                let reader = ReaderOptions::new().from_source(Arc::new(source))?;
                let block = &reader.blocks()[0];
                let mapping = block.map()?;
                // SAFETY: all of the mapping, which nobody writes.
                let shown = unsafe { std::slice::from_raw_parts(mapping.as_ptr(), mapping.len()) };
                assert!(shown == memory, "{act:?} at call {n} is an error, or changes nothing");
                mapping.check_file()?;
                drop(mapping);
                assert_eq!(mapped(), 0);
                let mut targets = [LoadTarget::new(block, &mut back, Destination::Used)];
                LoadOptions::new().channels(2).load(&mut targets)?;
                reader.devices().map(drop)
            })();
            assert_eq!((mapped(), channels_alive()), (0, 0), "{act:?} at call {n}");
            if !plan.is_used() {
                result.unwrap();
                assert!(back == memory);
                break;
            }
            failures += 1;
            match result {
                Err(error) => {
                    let text = error.to_string();
                    assert!(text.contains("guest.mram"), "{act:?} at call {n}: {text}");
                }
                // Where a libvirt header is looked for, nothing is an answer too.
                Ok(()) => assert!(matches!(act, Act::Nothing) && n <= 1 && back == memory, "at call {n}"),
            }
        }
        // The structure, its length, holes, stale bytes, channels, pages, the tail.
        assert!(failures >= 12, "{act:?}: {failures}");
    }
}

proptest! {
    #[test]
    fn short_and_interrupted_writes_of_every_length_change_nothing(
        acts in prop::collection::vec(
            prop_oneof![(1_usize..200_000).prop_map(Act::Short), Just(Act::Errno(4))], 0..80),
        channels in 1_usize..4,
    ) {
        let _alone = alone();
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let path = dir.path().join("guest.mram");
        save(&path, &Plan::first(acts.clone()), channels).unwrap();
        let source = FaultySource::new(FileSource::open(&path).unwrap(), Plan::first(acts));
        let reader = ReaderOptions::new().from_source(Arc::new(source)).unwrap();
        for (block, memory) in reader.blocks().iter().zip(memories()) {
            let mut back = vec![0xEE; memory.len()];
            block.load(&mut back, Destination::Used).unwrap();
            prop_assert!(back == memory);
        }
    }
}

#[test]
fn a_channel_that_does_not_answer_is_cancelled_at_its_next_call() {
    let _alone = alone();
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = dir.path().join("guest.mram");
    let memory = vec![9; 5000 * PAGE];
    let gate: Gate = Arc::new((Mutex::new(false), Condvar::new()));
    let cancel = Cancel::new();
    // Call 0 writes the head; call 1 is a channel's.
    let plan = Plan::blocked_at(1, Arc::clone(&gate));
    let storage = FaultyStorage::new(AtomicFile::create(&path).unwrap(), plan.clone());
    let result = std::thread::scope(|scope| {
        let (handle, seen) = (cancel.clone(), plan.clone());
        scope.spawn(move || {
            seen.wait_until_used();
            handle.cancel();
            // Only now does the channel's call return, and it must be its last.
            *gate.0.lock().unwrap() = true;
            gate.1.notify_all();
        });
        let blocks = vec![RamBlock::new("ram0", &memory)];
        let mut writer =
            SaveOptions::new().channels(1).cancel(cancel.clone()).with_storage(Box::new(storage), blocks)?;
        writer.write_all()
    });
    assert_eq!(result.unwrap_err().kind(), ErrorKind::Cancelled);
    assert_eq!(plan.calls(), 2, "calls after the cancellation");
    assert_eq!(channels_alive(), 0);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}
