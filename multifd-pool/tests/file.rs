//! Real files, buffered and direct, with every kind of alignment.

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::Arc;

use multifd_pool::{Alignment, Cancel, Channel, FileChannel, IoVec, read_exact_at, write_all_at};
use proptest::prelude::*;

const LENGTH: usize = 64 << 10;
const PAGE: usize = 4096;

/// A file on the disk that the build is on, and a direct descriptor where its file system has such a thing.
fn files() -> (File, Option<File>) {
    let named = tempfile::NamedTempFile::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let direct =
        OpenOptions::new().read(true).write(true).custom_flags(libc::O_DIRECT).open(named.path()).ok();
    let buffered = named.into_file();
    buffered.set_len(LENGTH as u64).unwrap();
    (buffered, direct)
}

/// Calls of fewer than `direct_from` bytes are not direct.
fn channel(buffered: &File, direct: Option<File>, direct_from: usize) -> FileChannel {
    let buffered = buffered.try_clone().unwrap();
    match direct {
        Some(direct) => {
            let alignment = Alignment::of(&direct).unwrap();
            assert!(alignment.memory.is_power_of_two() && alignment.offset.is_power_of_two());
            match direct_from {
                0 => FileChannel::direct(direct, buffered, alignment),
                _ => FileChannel::mixed(direct, buffered, alignment, direct_from),
            }
        }
        None => FileChannel::buffered(buffered),
    }
}

/// A page that the kernel maps for every program, and lets nobody pin: as a device's memory is.
fn unpinnable() -> Option<*const u8> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let line = maps.lines().find(|line| line.ends_with("[vvar]"))?;
    let start = line.split('-').next().unwrap();
    Some(std::ptr::without_provenance(usize::from_str_radix(start, 16).unwrap()))
}

/// What direct I/O refuses though it is aligned, the page cache takes.
#[test]
fn memory_that_cannot_be_pinned_is_written_through_the_page_cache() {
    let (file, direct) = files();
    let (Some(direct), Some(page)) = (direct, unpinnable()) else {
        eprintln!("NOT TESTED: memory that cannot be pinned: none is here, or no direct I/O");
        return;
    };
    // What a direct write says of it, so that this is no test of nothing.
    let vecs = [IoVec::from_const(page, PAGE)];
    // SAFETY: the kernel keeps the page mapped and readable as long as the program runs.
    let refused = unsafe { libc::pwritev(direct.as_raw_fd(), vecs.as_ptr().cast(), 1, 0) };
    if refused >= 0 {
        eprintln!(
            "NOT TESTED: memory that cannot be pinned: direct I/O is none here (tmpfs, for one), and takes it"
        );
        return;
    }
    assert_eq!(std::io::Error::last_os_error().raw_os_error(), Some(libc::EFAULT));
    for direct_from in [0, 1] {
        let mut channel = channel(&file, Some(direct.try_clone().unwrap()), direct_from);
        for offset in [0, 4096] {
            // SAFETY: as above.
            let done = unsafe { channel.write_at(&vecs, offset) };
            assert_eq!(done.unwrap(), PAGE);
        }
    }
}

#[test]
fn in_pages_no_direct_call_shares_a_page_with_a_buffered_one() {
    let of_disk = Alignment { memory: 512, offset: 512 };
    assert_eq!(of_disk.in_pages(65_536), Alignment { memory: 512, offset: 65_536 });
    assert_eq!(Alignment { memory: 4, offset: 1 << 20 }.in_pages(4096).offset, 1 << 20);
}

proptest! {
    #[test]
    fn any_alignment_reads_back_what_was_written(
        direct in any::<bool>(),
        direct_from in prop_oneof![Just(0_usize), 1_usize..20_000],
        pieces in prop::collection::vec((0_usize..9000, prop_oneof![0_usize..9000, (0_usize..4).prop_map(|n| n * 4096)]), 1..6),
        offset in prop_oneof![0_u64..9000, (0_u64..4).prop_map(|n| n * 4096)],
        aligned in any::<bool>(),
        byte in 1_u8..255,
    ) {
        let (file, direct_file) = files();
        let mut channel = channel(&file, direct_file.filter(|_| direct), direct_from);
        let mut memory = vec![0_u8; LENGTH + 8192];
        let base = memory.as_ptr().align_offset(4096) + if aligned { 0 } else { 13 };
        for (i, cell) in memory.iter_mut().enumerate() {
            *cell = byte.wrapping_add(u8::try_from(i % 251).unwrap());
        }
        let mut flat = Vec::new();
        let mut vecs = Vec::new();
        for (at, len) in pieces {
            let at = base + if aligned { at / 4096 * 4096 } else { at };
            flat.extend_from_slice(&memory[at..at + len]);
            vecs.push(IoVec::from_const(memory[at..].as_ptr(), len));
        }
        let name: Arc<str> = Arc::from("ram0");
        // SAFETY: `memory` is not touched meanwhile.
        unsafe { write_all_at(&mut channel, &name, &vecs, offset, &Cancel::new()) }.unwrap();
        let mut written = vec![0; flat.len()];
        file.read_exact_at(&mut written, offset).unwrap();
        prop_assert_eq!(&written, &flat);

        let mut back = vec![0_u8; flat.len() + 8192];
        let shift = back.as_ptr().align_offset(4096) + usize::from(!aligned) * 7;
        let vec = IoVec::new(back[shift..].as_mut_ptr(), flat.len());
        // SAFETY: `back` is not touched meanwhile.
        unsafe { read_exact_at(&mut channel, &name, &[vec], offset, &Cancel::new()) }.unwrap();
        prop_assert_eq!(&back[shift..shift + flat.len()], &flat[..]);
    }

    // The two descriptors are of different files here, so that each byte tells which of them it went through; and neither is
    // `O_DIRECT`, so that any alignment can be asked for.
    #[test]
    fn whole_steps_of_aligned_memory_go_past_the_page_cache_and_nothing_else(
        memory_alignment in prop_oneof![Just(1_usize), Just(4), Just(16), Just(64)],
        step in prop_oneof![Just(1_u64), Just(8), Just(32)],
        pieces in prop::collection::vec(
            (prop_oneof![0_usize..512, (0_usize..8).prop_map(|n| n * 64)], prop_oneof![0_usize..200, (0_usize..6).prop_map(|n| n * 32)]),
            1..6,
        ),
        offset in prop_oneof![0_u64..100, (0_u64..4).prop_map(|n| n * 32)],
    ) {
        let new = || tempfile::tempfile_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let (direct, buffered) = (new(), new());
        let alignment = Alignment { memory: memory_alignment, offset: step };
        let mut channel =
            FileChannel::direct(direct.try_clone().unwrap(), buffered.try_clone().unwrap(), alignment);
        let memory = vec![1_u8; 2048];
        let base = memory.as_ptr().align_offset(64);
        let vecs: Vec<IoVec> =
            pieces.iter().map(|(at, len)| IoVec::from_const(memory[base + at..].as_ptr(), *len)).collect();
        let length: usize = pieces.iter().map(|(_, len)| len).sum();

        let step = usize::try_from(step).unwrap();
        let begin = usize::try_from(offset).unwrap();
        let mut expected = [vec![0_u8; begin + length], vec![0_u8; begin + length]];
        let mut piece_begin = begin;
        for (at, len) in &pieces {
            let first_step = piece_begin.next_multiple_of(step);
            let is_aligned = (at + first_step - piece_begin).is_multiple_of(memory_alignment);
            for place in piece_begin..piece_begin + len {
                let step_begin = place / step * step;
                let is_whole = piece_begin <= step_begin && step_begin + step <= piece_begin + len;
                let [direct, buffered] = &mut expected;
                let taken_by = if is_aligned && is_whole { direct } else { buffered };
                taken_by[place] = 1;
            }
            piece_begin += len;
        }

        // SAFETY: `memory` lives until the call returns.
        unsafe { write_all_at(&mut channel, &Arc::from("ram0"), &vecs, offset, &Cancel::new()) }.unwrap();
        for (file, expected) in [&direct, &buffered].into_iter().zip(expected) {
            // What was not written behind the last byte reads as zeros.
            file.set_len(expected.len() as u64).unwrap();
            let mut written = vec![9; expected.len()];
            file.read_exact_at(&mut written, 0).unwrap();
            prop_assert_eq!(written, expected);
        }
    }
}

/// As above, two files, so that each call tells which of them it went to.
#[test]
fn short_calls_of_a_mixed_channel_are_not_direct() {
    let new = || tempfile::tempfile_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (direct, buffered) = (new(), new());
    for file in [&direct, &buffered] {
        file.set_len(1 << 20).unwrap();
    }
    let alignment = Alignment { memory: 1, offset: 1 };
    let mut channel =
        FileChannel::mixed(direct.try_clone().unwrap(), buffered.try_clone().unwrap(), alignment, 1000);
    let memory = vec![7_u8; 1000];
    let written = |file: &File, length: usize| {
        let mut bytes = vec![0; length];
        file.read_exact_at(&mut bytes, 0).unwrap();
        bytes.iter().all(|byte| *byte == 7)
    };
    for pieces in [&[999][..], &[500, 499], &[1000], &[1, 999], &[0, 400, 0, 600]] {
        let length: usize = pieces.iter().sum();
        let mut at = 0;
        let vecs: Vec<IoVec> = pieces
            .iter()
            .map(|len| {
                at += len;
                IoVec::from_const(memory[at - len..].as_ptr(), *len)
            })
            .collect();
        for file in [&direct, &buffered] {
            file.write_all_at(&[0; 1000], 0).unwrap();
        }
        // SAFETY: `memory` lives until the call returns.
        assert_eq!(unsafe { channel.write_at(&vecs, 0) }.unwrap(), length);
        assert_eq!((written(&direct, length), written(&buffered, length)), (length >= 1000, length < 1000));
    }
}

#[test]
fn the_alignment_is_what_the_system_says() {
    let (_, Some(direct)) = files() else { return };
    // SAFETY: all zeros is a valid `statx`.
    let mut said: libc::statx = unsafe { std::mem::zeroed() };
    // SAFETY: the path is a NUL-terminated empty string, and `said` has room for a `statx`.
    let result = unsafe {
        libc::statx(
            direct.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            libc::STATX_DIOALIGN,
            &raw mut said,
        )
    };
    assert_eq!(result, 0);
    let alignment = Alignment::of(&direct).unwrap();
    // Zeros: a system that does not say.
    let expected = match (said.stx_dio_mem_align, said.stx_dio_offset_align) {
        (0, _) | (_, 0) => (4096, 4096),
        (memory, offset) => (usize::try_from(memory).unwrap(), u64::from(offset)),
    };
    assert_eq!((alignment.memory, alignment.offset), expected);
}

#[test]
fn offsets_past_the_largest_are_an_error() {
    let (file, _) = files();
    let byte = [1_u8];
    let vec = IoVec::from_const(byte.as_ptr(), 1);
    let name: Arc<str> = Arc::from("ram0");
    let mut channel = channel(&file, None, 0);
    // SAFETY: `byte` lives until the call returns.
    let result = unsafe { write_all_at(&mut channel, &name, &[vec], u64::MAX - 10, &Cancel::new()) };
    assert!(result.is_err());
}

/// What a channel was asked for, with offset and length.
type Log = Arc<std::sync::Mutex<Vec<(&'static str, u64, u64)>>>;

/// Says what it was asked for, so that it is seen whether a box passes it on.
#[derive(Default)]
struct Asked(Log);

impl Channel for Asked {
    unsafe fn write_at(&mut self, _: &[IoVec], _: u64) -> std::io::Result<usize> {
        Ok(0)
    }

    unsafe fn read_at(&mut self, _: &[IoVec], _: u64) -> std::io::Result<usize> {
        Ok(0)
    }

    fn reserve(&mut self, offset: u64, length: u64) -> std::io::Result<()> {
        self.0.lock().unwrap().push(("reserve", offset, length));
        Err(std::io::ErrorKind::StorageFull.into())
    }

    fn clear(&mut self, offset: u64, length: u64) -> std::io::Result<()> {
        self.0.lock().unwrap().push(("clear", offset, length));
        Err(std::io::ErrorKind::Other.into())
    }
}

#[test]
fn a_boxed_channel_is_asked_for_room_and_holes_too() {
    let asked = Asked::default();
    let log = Arc::clone(&asked.0);
    let mut boxed: Box<dyn Channel> = Box::new(asked);
    // By the box's own methods, not those of what is in it.
    let channel: &mut Box<dyn Channel> = &mut boxed;
    assert_eq!(Channel::reserve(channel, 1, 2).unwrap_err().kind(), std::io::ErrorKind::StorageFull);
    assert_eq!(Channel::clear(channel, 3, 4).unwrap_err().kind(), std::io::ErrorKind::Other);
    assert_eq!(*log.lock().unwrap(), [("reserve", 1, 2), ("clear", 3, 4)]);
}

/// A channel that has neither, and writes as little as it is told: no byte once that is used up.
struct Bare {
    bytes: Vec<u8>,
    takes: Vec<Result<usize, std::io::ErrorKind>>,
}

impl Channel for Bare {
    unsafe fn write_at(&mut self, vecs: &[IoVec], offset: u64) -> std::io::Result<usize> {
        let most = self.takes.pop().unwrap_or(Ok(0))?;
        let at = usize::try_from(offset).unwrap();
        let count = vecs[0].len().min(most);
        // SAFETY: `write_at`'s contract: readable for its length.
        let bytes = unsafe { std::slice::from_raw_parts(vecs[0].addr(), count) };
        self.bytes[at..at + count].copy_from_slice(bytes);
        Ok(count)
    }

    unsafe fn read_at(&mut self, _: &[IoVec], _: u64) -> std::io::Result<usize> {
        Ok(0)
    }
}

proptest! {
    #[test]
    fn without_more_said_room_is_advice_and_holes_are_zeros_that_are_written(
        (offset, length) in (0_usize..1000, 0_usize..200_000),
        takes in prop::collection::vec(
            prop_oneof![
                8 => (1_usize..100_000).prop_map(Ok),
                2 => Just(Err(std::io::ErrorKind::Interrupted)),
                1 => Just(Err(std::io::ErrorKind::StorageFull)),
            ],
            0..20,
        ),
    ) {
        let mut channel = Bare { bytes: vec![7; 201_000], takes: takes.clone() };
        channel.reserve(0, u64::MAX).unwrap();
        let cleared = channel.clear(offset as u64, length as u64);
        // How far it comes, by the model: until an error that is one, or nothing is taken any more.
        let mut done = 0;
        let mut expected = Ok(());
        let mut takes = takes.into_iter().rev();
        while done < length {
            match takes.next().unwrap_or(Ok(0)) {
                Ok(0) => {
                    expected = Err(std::io::ErrorKind::WriteZero);
                    break;
                }
                Ok(count) => done += count.min(length - done).min(64 << 10),
                Err(std::io::ErrorKind::Interrupted) => {}
                Err(kind) => {
                    expected = Err(kind);
                    break;
                }
            }
        }
        prop_assert_eq!(cleared.map_err(|error| error.kind()), expected);
        let zeros = channel.bytes.iter().position(|byte| *byte == 0).map_or(0, |first| {
            assert_eq!(first, offset);
            channel.bytes[first..].iter().take_while(|byte| **byte == 0).count()
        });
        prop_assert_eq!(zeros, done);
        prop_assert!(channel.bytes[..offset].iter().chain(&channel.bytes[offset + done..]).all(|byte| *byte == 7));
    }

    /// Room changes nothing that is read, holes read as zeros and nothing else changes, whatever the mode.
    #[test]
    fn room_and_holes_leave_the_bytes_that_they_should(
        steps in prop::collection::vec((any::<bool>(), 0_u64..80_000, 1_u64..40_000), 0..8),
        uncached in any::<bool>(),
    ) {
        let (file, direct) = files();
        let mut model: Vec<u8> = (0..LENGTH).map(|i| u8::try_from(i % 250).unwrap() + 1).collect();
        file.write_all_at(&model, 0).unwrap();
        let mut channel = if uncached {
            FileChannel::uncached(file.try_clone().unwrap())
        } else {
            channel(&file, direct, 0)
        };
        for (reserve, offset, length) in steps {
            if reserve {
                channel.reserve(offset, length).unwrap();
            } else {
                channel.clear(offset, length).unwrap();
                let range = |at: u64| usize::try_from(at).unwrap().min(LENGTH);
                model[range(offset)..range(offset + length)].fill(0);
            }
        }
        let mut bytes = vec![0xEE; LENGTH];
        file.read_exact_at(&mut bytes, 0).unwrap();
        prop_assert!(bytes == model);
        prop_assert_eq!(file.metadata().unwrap().len(), LENGTH as u64);
    }
}

#[test]
fn room_is_room_on_the_disk_and_a_hole_gives_it_back() {
    use std::os::unix::fs::MetadataExt;
    let (file, _) = files();
    // Inside the file: what is reserved behind its end stays.
    file.set_len(1 << 20).unwrap();
    let blocks = || file.metadata().unwrap().blocks() * 512;
    let mut channel = FileChannel::buffered(file.try_clone().unwrap());
    assert_eq!(blocks(), 0);
    channel.reserve(0, 1 << 20).unwrap();
    // A file system that cannot reserve is allowed not to.
    let (other, _) = files();
    // SAFETY: a descriptor that is open, and numbers.
    let can_reserve = unsafe { libc::fallocate(other.as_raw_fd(), 0, 0, 1 << 20) } == 0;
    let reserved = blocks();
    assert!(reserved >= if can_reserve { 1 << 20 } else { 0 }, "{reserved}");
    channel.clear(0, 1 << 20).unwrap();
    assert!(blocks() < 1 << 16, "{}", blocks());
    // No file is that long: what cannot be had is advice for room, an error for holes.
    channel.reserve(u64::MAX - 1, 1).unwrap();
    channel.clear(u64::MAX - 1, 1).unwrap_err();
}

#[test]
fn room_that_the_disk_does_not_have_is_an_error() {
    // A tmpfs looks at its size before it takes anything; another file system might be filled up. Where there is none in
    // memory, there is nothing to see.
    let Ok(file) = tempfile::tempfile_in("/dev/shm") else { return };
    // SAFETY: zeros are a valid `statfs`, which the call fills in.
    let mut about: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: as above, and a descriptor that is open.
    let known = unsafe { libc::fstatfs(file.as_raw_fd(), &raw mut about) } == 0;
    if !known || about.f_type != libc::TMPFS_MAGIC || about.f_blocks == 0 {
        return;
    }
    let error = FileChannel::buffered(file).reserve(0, 1 << 46).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
}

#[test]
fn where_there_are_no_holes_room_is_advice_and_clearing_writes() {
    // A regular file of a file system without `fallocate`, and without a byte: zeros go nowhere.
    let Ok(file) = OpenOptions::new().read(true).write(true).open("/proc/self/comm") else { return };
    let mut channel = FileChannel::buffered(file);
    channel.reserve(0, 4096).unwrap();
    channel.clear(0, 4096).unwrap();
}

#[test]
fn uncached_calls_are_taken_where_the_system_takes_them() {
    let (file, _) = files();
    let mut byte = 0_u8;
    let vec = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
    // RWF_DONTCACHE, which the C library does not name yet.
    // SAFETY: `byte` is writable and outlives the call.
    let taken = unsafe { libc::preadv2(file.as_raw_fd(), &raw const vec, 1, 0, 0x80) } >= 0;
    assert_eq!(FileChannel::takes_uncached(&file), taken);
}

#[test]
fn uncached_calls_are_taken_or_fallen_back_from() {
    let (file, _) = files();
    let name: Arc<str> = Arc::from("ram0");
    let mut channel = FileChannel::uncached(file.try_clone().unwrap());
    let bytes = vec![7_u8; 9000];
    // SAFETY: `bytes` is not touched meanwhile.
    unsafe {
        let vec = IoVec::from_const(bytes.as_ptr(), bytes.len());
        write_all_at(&mut channel, &name, &[vec], 100, &Cancel::new()).unwrap();
    }
    let mut back = vec![0; 9000];
    file.read_exact_at(&mut back, 100).unwrap();
    assert!(back == bytes);
    // A descriptor that cannot be read cannot be asked.
    let write_only = tempfile::NamedTempFile::new().unwrap();
    let write_only = OpenOptions::new().write(true).open(write_only.path()).unwrap();
    assert!(!FileChannel::takes_uncached(&write_only));
}

/// Which pages of the first `pages` of `file` the page cache holds, as `mincore(2)` says.
fn resident(file: &File, pages: usize) -> Vec<bool> {
    let length = pages * PAGE;
    let mut resident = vec![0_u8; pages];
    // SAFETY: a mapping of its own, which nobody reads; `resident` has a byte for each page.
    unsafe {
        let start =
            libc::mmap(std::ptr::null_mut(), length, libc::PROT_READ, libc::MAP_SHARED, file.as_raw_fd(), 0);
        assert_ne!(start, libc::MAP_FAILED);
        assert_eq!(libc::mincore(start, length, resident.as_mut_ptr()), 0);
        assert_eq!(libc::munmap(start, length), 0);
    }
    resident.into_iter().map(|page| page & 1 == 1).collect()
}

/// Each page is asked about once: the question may bring it in.
#[test]
fn what_is_cached_is_what_the_kernel_says_of_its_cache() {
    const PAGES: usize = 64;
    let file = tempfile::tempfile_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    file.write_all_at(&vec![7; PAGES * PAGE], 0).unwrap();
    file.sync_all().unwrap();
    let holds = |page: usize| FileChannel::holds_cached(&file, (page * PAGE + 5) as u64);
    assert!((0..PAGES).all(holds));
    // All is thrown out (which a tmpfs does not do), and some are brought in again, alone.
    // SAFETY: a descriptor that is open, and numbers.
    unsafe {
        assert_eq!(libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED), 0);
        assert_eq!(libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_RANDOM), 0);
    }
    for page in [3, 40, 41] {
        file.read_exact_at(&mut [0], (page * PAGE) as u64).unwrap();
    }
    let expected = resident(&file, PAGES);
    assert!(expected[3] && expected[40] && expected[41]);
    assert_eq!((0..PAGES).map(holds).collect::<Vec<_>>(), expected);
}
