//! Pages that cannot be read, and handlers that end too early: nothing is ever taken for zeros that is not.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use mapped_ram::fault::{Ending, FaultOptions, FaultTarget, Fill};
use mapped_ram::{Cancel, Destination, Error, ErrorKind, LoadOptions, LoadTarget, Reader, ReaderOptions};
use nix::libc;

use crate::failing::Broken;
use crate::memory::{Kind, Memory, PAGE, Page, expect_same, is_readable, save};
use crate::{dir, open, start};

const PAGES: usize = 600;
const BAD: usize = 301;

/// A guest of which page `BAD` cannot be read.
fn broken(dir: &tempfile::TempDir) -> (Reader, Broken, Vec<u8>) {
    let path = dir.path().join("guest");
    let pages: Vec<Page> =
        (0..PAGES).map(|page| Page::Present(u8::try_from(page % 99).unwrap() + 1)).collect();
    let saved = save(&path, &[("ram0", &pages)]).remove(0);
    let offset = open(&path).block("ram0").unwrap().layout().pages_offset() + (BAD * PAGE) as u64;
    let source = Broken::new(&path, offset..offset + 1);
    let reader = ReaderOptions::new().from_source(Arc::new(source.clone())).unwrap();
    (reader, source, saved)
}

fn expect_told(error: &Error, reader: &Reader, rest: &str) {
    assert_eq!(error.kind(), ErrorKind::Io);
    let text = error.to_string();
    let offset = reader.block("ram0").unwrap().layout().pages_offset() + (BAD * PAGE) as u64;
    for part in [reader.file(), "`ram0`", rest, "os error 5"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let told = text.split("file offset 0x").nth(1).unwrap().split(';').next().unwrap();
    let told = u64::from_str_radix(told, 16).unwrap();
    // The channels say where the read began.
    assert!(told <= offset && offset - told < 1 << 20, "{text}");
}

#[test]
fn a_page_that_cannot_be_read_is_poisoned_and_the_others_are_served() {
    let dir = dir();
    let (reader, _, saved) = broken(&dir);
    for kind in [Kind::Private, Kind::Memfd] {
        let memory = Memory::new(kind, saved.len()).unwrap();
        let handler = start(FaultOptions::new().fill(Fill::Nothing), &reader, &memory, PAGE);
        assert!(!is_readable(&memory, BAD * PAGE));
        expect_told(&handler.wait().unwrap_err(), &reader, "of 600 pages 0 are there, 1 are lost");
        for page in (0..PAGES).filter(|page| *page != BAD) {
            assert_eq!(memory.read(page * PAGE), saved[page * PAGE]);
        }
        // The guest goes on a moment before its page is counted.
        while handler.counters().missing > 0 {
            std::thread::yield_now();
        }
        expect_told(&handler.wait().unwrap_err(), &reader, "of 600 pages 599 are there, 1 are lost");
        assert_eq!(handler.stop().ending, Ending::Stopped);
        assert!(!is_readable(&memory, BAD * PAGE), "still poisoned without a handler");
        assert!(is_readable(&memory, (BAD + 1) * PAGE));
    }
}

/// A page is counted once: one that is lost and then given up, or unmapped, is no loss any more.
#[test]
fn a_lost_page_that_is_given_up_is_not_lost() {
    let dir = dir();
    let (reader, _, saved) = broken(&dir);
    for unmap in [false, true] {
        let memory = Memory::new(Kind::Private, saved.len()).unwrap();
        let handler = start(FaultOptions::new().fill(Fill::Nothing), &reader, &memory, PAGE);
        assert!(!is_readable(&memory, BAD * PAGE));
        // The guest goes on a moment before its page is counted.
        while handler.counters().lost == 0 {
            std::thread::yield_now();
        }
        let counters = handler.counters();
        assert_eq!((counters.lost, counters.missing), (1, 599), "{counters:?}");
        if unmap {
            // A fixed mapping in its place, so that the rest of the test's memory stays in one piece.
            // SAFETY: a page of ours that nobody refers to.
            let done = unsafe { memory.map_anew(BAD * PAGE, PAGE) };
            done.unwrap();
        } else {
            memory.give_up(BAD * PAGE, PAGE);
        }
        for page in 0..PAGES {
            let expected = if page == BAD { 0 } else { saved[page * PAGE] };
            assert_eq!(memory.read(page * PAGE), expected, "page {page}");
        }
        while handler.counters().missing > 0 {
            std::thread::yield_now();
        }
        let report = handler.wait().unwrap();
        let counters = report.counters;
        assert_eq!(report.ending, Ending::Complete);
        assert_eq!((counters.given_up + counters.unmapped, counters.on_demand), (1, 599), "{counters:?}");
        assert_eq!((counters.lost, counters.missing), (0, 0), "{counters:?}");
        assert_eq!(counters.unmapped == 1, unmap);
    }
}

/// What only the channels could not read is left to who touches it.
#[test]
fn the_channels_go_on_behind_what_they_cannot_read() {
    let dir = dir();
    let (reader, source, saved) = broken(&dir);
    let memory = Memory::new(Kind::Memfd, saved.len()).unwrap();
    let handler = start(FaultOptions::new().channels(2), &reader, &memory, PAGE);
    let error = handler.wait().unwrap_err();
    expect_told(&error, &reader, "are missing and tried again");
    assert!(handler.counters().in_background >= 500, "{:?}", handler.counters());
    assert_eq!(handler.counters().lost, 0);
    // The disk is well again: all of it comes.
    source.fails.store(false, Ordering::SeqCst);
    expect_same(&memory.all(), &saved, "memory");
    // The guest goes on a moment before its page is counted.
    while handler.counters().missing > 0 {
        std::thread::yield_now();
    }
    assert_eq!(handler.wait().unwrap().ending, Ending::Complete);
}

#[test]
fn dropped_early_a_handler_leaves_no_page_that_looks_like_zeros() {
    let dir = dir();
    let path = dir.path().join("guest");
    let pages: Vec<Page> =
        (0..PAGES).map(|page| if page % 3 == 0 { Page::Stale(7) } else { Page::Present(8) }).collect();
    let saved = save(&path, &[("ram0", &pages)]).remove(0);
    let reader = open(&path);
    for kind in [Kind::Private, Kind::Anonymous, Kind::Memfd] {
        let memory = Memory::new(kind, saved.len()).unwrap();
        let handler = start(FaultOptions::new().fill(Fill::Nothing), &reader, &memory, PAGE);
        memory.write(PAGE, 99);
        memory.write(3 * PAGE, 98);
        let report = handler.stop();
        assert_eq!((report.ending, report.counters.missing), (Ending::Stopped, 399));
        assert_eq!((memory.read(PAGE), memory.read(PAGE + 1)), (99, 8));
        assert_eq!((memory.read(3 * PAGE), memory.read(3 * PAGE + 1)), (98, 0));
        for page in 4..PAGES {
            assert_eq!(is_readable(&memory, page * PAGE), page % 3 == 0, "page {page}");
        }
    }
}

/// The same of memory in several mappings.
#[test]
fn dropped_early_a_handler_poisons_across_mappings() {
    let dir = dir();
    let path = dir.path().join("guest");
    let saved = save(&path, &[("ram0", &[Page::Present(8); 100])]).remove(0);
    let reader = open(&path);
    for kind in [Kind::Private, Kind::Memfd] {
        let memory = Memory::new(kind, saved.len()).unwrap();
        for page in [7, 9, 64, 99] {
            memory.split_off(page * PAGE);
        }
        let handler = start(FaultOptions::new().fill(Fill::Nothing), &reader, &memory, PAGE);
        assert_eq!(memory.read(30 * PAGE), 8);
        assert_eq!(handler.stop().ending, Ending::Stopped);
        for page in 0..100 {
            assert_eq!(is_readable(&memory, page * PAGE), page == 30, "page {page}");
        }
    }
}

/// Has `UFFDIO_POISON` be unknown to this thread and those that it starts, as before Linux 6.6.
fn forget_poison() {
    const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
    const UNLESS_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
    const RETURN: u16 = 0x06; // BPF_RET | BPF_K
    const POISON: u32 = 0xC020_AA08;
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let ioctl = u32::try_from(libc::SYS_ioctl).unwrap();
    // The low half of the second argument.
    let second = 24 + if cfg!(target_endian = "big") { 4 } else { 0 };
    let mut steps = [
        step(LOAD, 0, 0, 0),
        step(UNLESS_EQUAL, 0, 3, ioctl),
        step(LOAD, 0, 0, second),
        step(UNLESS_EQUAL, 0, 1, POISON),
        step(RETURN, 0, 0, libc::SECCOMP_RET_ERRNO | libc::EINVAL as u32),
        step(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: 6, filter: steps.as_mut_ptr() };
    // SAFETY: the filter is whole, and outlives the calls.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        assert_eq!(libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program), 0);
    }
}

/// Where the kernel cannot poison, whoever touches what is missing waits, and it can still be unmapped. (Of the kernel's own touch, which
/// this handler does not serve, the answer is an error at once: so nobody has to wait here.)
#[test]
fn without_poison_what_is_missing_stays_missing() {
    let dir = dir();
    let path = dir.path().join("guest");
    let saved = save(&path, &[("ram0", &[Page::Present(8); 100])]).remove(0);
    let reader = open(&path);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            forget_poison();
            let memory = Memory::new(Kind::Private, saved.len()).unwrap();
            let options = FaultOptions::new().fill(Fill::Nothing).user_mode_only(true);
            let handler = start(options, &reader, &memory, PAGE);
            assert_eq!(memory.read(30 * PAGE), 8);
            assert_eq!(handler.stop().ending, Ending::Stopped);
            for page in 0..100 {
                assert_eq!(is_readable(&memory, page * PAGE), page == 30, "page {page}");
            }
        });
    });
}

/// Who is refused a handler has memory as before, and may load the block into it.
#[test]
fn memory_for_which_no_handler_could_start_can_be_loaded_into() {
    let dir = dir();
    let (_, mut source, saved) = broken(&dir);
    source.fails.store(false, Ordering::SeqCst);
    let plain = open(&dir.path().join("guest"));
    let whole = plain.block("ram0").unwrap();
    // Numbers 0 to 2 fill in the background, 3 serves faults.
    for refused in 0..4 {
        source.refused = refused..refused + 1;
        let reader = ReaderOptions::new().from_source(Arc::new(source.clone())).unwrap();
        let block = reader.block("ram0").unwrap();
        for kind in [Kind::Private, Kind::Anonymous, Kind::Memfd] {
            let memory = Memory::new(kind, saved.len()).unwrap();
            let target = FaultTarget::new(block, memory.start.as_ptr(), memory.length);
            // SAFETY: mapped by the test, and touched through raw pointers only.
            let error = unsafe { FaultOptions::new().channels(3).start(&[target]) }.unwrap_err();
            assert!(error.to_string().contains("os error 24"), "{error}");
            for page in 0..PAGES {
                assert!(is_readable(&memory, page * PAGE), "page {page}");
            }
            let start = memory.start.as_ptr();
            // SAFETY: as above, and nobody touches it while it is loaded.
            let target = unsafe { LoadTarget::from_raw(whole, start, memory.length, Destination::Zeroed) };
            LoadOptions::new().load(&mut [target]).unwrap();
            expect_same(&memory.all(), &saved, "memory");
        }
    }
}

#[test]
fn cancelled_it_says_so_and_serves_on_until_it_is_dropped() {
    let dir = dir();
    let path = dir.path().join("guest");
    let saved = save(&path, &[("ram0", &[Page::Present(3); 8])]).remove(0);
    let reader = open(&path);
    let memory = Memory::new(Kind::Private, saved.len()).unwrap();
    let cancel = Cancel::new();
    let options = FaultOptions::new().fill(Fill::Nothing).cancel(cancel.clone());
    let handler = start(options, &reader, &memory, PAGE);
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| handler.wait());
        cancel.cancel();
        assert_eq!(waits.join().unwrap().unwrap_err().kind(), ErrorKind::Cancelled);
    });
    assert_eq!(memory.read(5 * PAGE), 3);
}

/// A file that was cut after it was opened.
#[test]
fn a_cut_file_is_an_error_with_its_offset() {
    let dir = dir();
    let path = dir.path().join("guest");
    let saved = save(&path, &[("ram0", &[Page::Present(3); 64])]).remove(0);
    let reader = open(&path);
    let offset = reader.block("ram0").unwrap().layout().pages_offset();
    std::fs::File::options().write(true).open(&path).unwrap().set_len(offset + 10 * PAGE as u64 + 5).unwrap();
    let memory = Memory::new(Kind::Private, saved.len()).unwrap();
    let handler = start(FaultOptions::new().fill(Fill::Nothing), &reader, &memory, PAGE);
    assert!(is_readable(&memory, 9 * PAGE));
    assert!(!is_readable(&memory, 10 * PAGE));
    let error = handler.wait().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Damaged);
    let text = error.to_string();
    assert!(
        text.contains(&format!("{:#x}", offset + 10 * PAGE as u64 + 5)) && text.contains("ends here"),
        "{text}"
    );
}
