//! Mapped blocks: what shows is what the bitmap says, what is written stays private, and nothing is left behind.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use mapped_ram::storage::{FileSource, Source};
use mapped_ram::{
    Block, ErrorKind, MapOptions, Mapping, PageBitmap, Prefetch, RamBlock, Reader, ReaderOptions,
    SaveOptions, Tail,
};
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use proptest::prelude::*;
use tempfile::TempDir;

#[macro_use]
#[path = "support/forward.rs"]
mod forward;

const PAGE: usize = 4096;

/// The smallest page there is: a long bitmap for little memory.
const SMALL: u64 = 256;

/// One test at a time looks at what the process has mapped and open, or changes it for long.
static ALONE: Mutex<()> = Mutex::new(());

fn dir() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// A saved block `ram0`; each page is filled with its byte.
fn saved(dir: &TempDir, pages: &[u8], page_size: usize) -> PathBuf {
    let memory: Vec<u8> = pages.iter().flat_map(|byte| vec![*byte; page_size]).collect();
    let path = dir.path().join("guest.mram");
    SaveOptions::new().page_size(page_size as u64).save(&path, vec![RamBlock::new("ram0", &memory)]).unwrap();
    path
}

/// Puts what a live save leaves behind into the rooms of absent pages.
fn spoil(path: &Path, pages: &[u8], stale: &[bool], page_size: usize) {
    let offset = Reader::open(path).unwrap().block("ram0").unwrap().layout().pages_offset();
    let file = File::options().write(true).open(path).unwrap();
    for (page, (byte, stale)) in pages.iter().zip(stale).enumerate() {
        if *byte == 0 && *stale {
            file.write_all_at(&vec![0xBD; page_size], offset + (page * page_size) as u64).unwrap();
        }
    }
}

fn bytes(mapping: &Mapping) -> Vec<u8> {
    let mut bytes = vec![0; mapping.len()];
    // SAFETY: the mapping is readable for its length, and nobody else uses it.
    unsafe { bytes.as_mut_ptr().copy_from_nonoverlapping(mapping.as_ptr(), bytes.len()) };
    bytes
}

/// The slow way, which the mapping must equal.
fn model(block: &Block) -> Vec<u8> {
    let mut bytes = vec![0xEE; usize::try_from(block.used_length()).unwrap()];
    block.read_at(0, &mut bytes).unwrap();
    bytes
}

fn runs() -> impl Strategy<Value = Vec<(u8, bool)>> {
    let run = (prop_oneof![Just(0_u8), 0_u8..4], any::<bool>(), 1_usize..30);
    prop::collection::vec(run, 1..20).prop_map(|runs| {
        runs.into_iter().flat_map(|(byte, stale, count)| vec![(byte, stale); count]).collect()
    })
}

fn prefetches() -> impl Strategy<Value = Prefetch> {
    prop_oneof![
        Just(Prefetch::Nothing),
        Just(Prefetch::All),
        prop::collection::btree_set(0_u64..300, 0..40).prop_map(|pages| {
            let mut set = PageBitmap::new(300);
            for page in pages {
                set.insert(page..page + 1);
            }
            Prefetch::WorkingSet(set)
        }),
    ]
}

/// An address range that nobody else gets.
struct Reserved {
    start: std::ptr::NonNull<std::ffi::c_void>,
    length: usize,
}

impl Reserved {
    fn new(length: usize) -> Self {
        let whole = length.next_multiple_of(PAGE).try_into().unwrap();
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE;
        // SAFETY: touches no existing mapping.
        let start = unsafe { mmap_anonymous(None, whole, ProtFlags::PROT_NONE, flags) }.unwrap();
        Self { start, length: whole.get() }
    }

    fn at(&self, offset: usize) -> *mut u8 {
        self.start.as_ptr().cast::<u8>().wrapping_add(offset)
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        // SAFETY: reserved by `new`, and no mapping in it outlives it.
        unsafe { munmap(self.start, self.length) }.unwrap();
    }
}

proptest! {
    #[test]
    fn what_shows_is_what_the_bitmap_says_and_writes_stay_private(
        pages in runs(),
        page_bits in 8_u32..15,
        prefetch in prefetches(),
        reserve in any::<bool>(),
    ) {
        let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let page_size = 1_usize << page_bits;
        let (pages, stale): (Vec<u8>, Vec<bool>) = pages.into_iter().unzip();
        let dir = dir();
        let path = saved(&dir, &pages, page_size);
        spoil(&path, &pages, &stale, page_size);
        let before = fs::read(&path).unwrap();
        let reader = Reader::open(&path).unwrap();
        let block = reader.block("ram0").unwrap();
        let length = pages.len() * page_size;
        let options = MapOptions::new().prefetch(prefetch);
        let reserved = reserve.then(|| Reserved::new(length + 2 * PAGE));
        let mut mapping = match &reserved {
            // SAFETY: inside the reserved range, which is used for this alone.
            Some(reserved) => unsafe { options.map_into(block, reserved.at(PAGE), length) }.unwrap(),
            None => options.map(block).unwrap(),
        };
        if let Some(reserved) = &reserved {
            prop_assert_eq!(mapping.as_ptr(), reserved.at(PAGE));
        }
        let expected = model(block);
        prop_assert!(bytes(&mapping) == expected);
        // SAFETY: all of the mapping, which nobody else uses.
        unsafe { mapping.as_ptr().write_bytes(0x5A, mapping.len()) };
        mapping.wait_for_prefetch().unwrap();
        prop_assert!(bytes(&mapping).iter().all(|byte| *byte == 0x5A));
        mapping.check_file().unwrap();
        let again = block.map().unwrap();
        prop_assert!(bytes(&again) == expected);
        drop(mapping);
        prop_assert!(fs::read(&path).unwrap() == before);
        prop_assert!(model(block) == expected);
    }
}

/// More stale runs than are covered by mappings of their own: the rest is wiped.
#[test]
fn thousands_of_stale_pages() {
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let pages: Vec<u8> = (0..10_000_u32).map(|page| u8::from(page % 2 == 0)).collect();
    let dir = dir();
    let path = saved(&dir, &pages, PAGE);
    spoil(&path, &pages, &vec![true; pages.len()], PAGE);
    let reader = Reader::open(&path).unwrap();
    let block = reader.block("ram0").unwrap();
    let before = mappings(&path);
    let mapping = block.map().unwrap();
    assert!(mappings(&path) - before <= 2049, "{} mappings", mappings(&path));
    assert!(bytes(&mapping) == model(block));
}

/// How often the process has the file mapped.
fn mappings(path: &Path) -> usize {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    maps.lines().filter(|line| line.ends_with(path.to_str().unwrap())).count()
}

fn descriptors(path: &Path) -> usize {
    let open =
        |entry: io::Result<fs::DirEntry>| fs::read_link(entry.unwrap().path()).is_ok_and(|to| to == path);
    fs::read_dir("/proc/self/fd").unwrap().filter_map(|entry| open(entry).then_some(())).count()
}

#[test]
fn ten_thousand_rounds_leave_nothing_behind() {
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let pages = [1, 0, 2, 0, 0, 3, 0];
    let dir = dir();
    let path = saved(&dir, &pages, PAGE);
    spoil(&path, &pages, &[true, true, false, false, true, true, false], PAGE);
    let before = fs::read(&path).unwrap();
    {
        let reserved = Reserved::new(pages.len() * PAGE);
        for round in 0..10_000_u32 {
            // A new reader now and then, so that descriptors would pile up too.
            let reader = Reader::open(&path).unwrap();
            let block = reader.block("ram0").unwrap();
            let mapping = if round % 2 == 0 {
                block.map().unwrap()
            } else {
                // SAFETY: the reserved range is used for this mapping alone.
                unsafe { MapOptions::new().map_into(block, reserved.at(0), pages.len() * PAGE) }.unwrap()
            };
            drop(reader);
            let page = mapping.as_ptr().wrapping_add(round as usize % pages.len() * PAGE);
            // SAFETY: a page of the mapping, which nobody else uses.
            unsafe {
                assert_eq!(page.read(), pages[round as usize % pages.len()]);
                page.write_bytes(0xFF, PAGE);
            }
        }
    }
    assert_eq!((mappings(&path), descriptors(&path)), (0, 0));
    assert!(fs::read(&path).unwrap() == before);
}

/// The kernel must not give a reserved range away when its mapping is dropped.
#[test]
fn a_dropped_mapping_leaves_its_range_reserved() {
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let dir = dir();
    let path = saved(&dir, &[1, 2, 3], PAGE);
    let reader = Reader::open(&path).unwrap();
    let reserved = Reserved::new(3 * PAGE);
    // SAFETY: the reserved range is used for this mapping alone.
    drop(unsafe { MapOptions::new().map_into(&reader.blocks()[0], reserved.at(0), 3 * PAGE) }.unwrap());
    let start = format!("{:x}", reserved.start.addr());
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    // Neighbours without rights may have become one with it.
    let covers = maps.lines().filter(|line| line.contains("---p")).any(|line| {
        let (from, to) = line.split(' ').next().unwrap().split_once('-').unwrap();
        let number = |text| usize::from_str_radix(text, 16).unwrap();
        (number(from)..number(to)).contains(&reserved.start.addr().get())
    });
    assert!(covers, "{start} in {maps}");
}

#[test]
fn the_pages_that_were_touched_are_the_next_working_set() {
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let dir = dir();
    let pages = [7_u8; 512];
    let path = saved(&dir, &pages, PAGE);
    let reader = Reader::open(&path).unwrap();
    let block = reader.block("ram0").unwrap();
    let first = block.map().unwrap();
    assert_eq!(first.touched().unwrap().count(), 0);
    for page in [3, 300] {
        // SAFETY: a byte of the mapping, which nobody else uses.
        unsafe { first.as_ptr().add(page * PAGE).write(1) };
    }
    let touched = first.touched().unwrap();
    assert!(touched.contains(3) && touched.contains(300));
    assert!(touched.count() < 64, "{touched:?}");
    let mut second = MapOptions::new().prefetch(Prefetch::WorkingSet(touched)).map(block).unwrap();
    second.wait_for_prefetch().unwrap();
    let prefetched = second.touched().unwrap();
    assert!(prefetched.contains(3) && prefetched.contains(300));
}

/// A file system that answers with the bytes of a file, and is none.
struct NoFile(FileSource);

impl Source for NoFile {
    forward!(0: name, len, read_at, channel);
}

fn expect_error<T: std::fmt::Debug>(result: mapped_ram::Result<T>, kind: ErrorKind, words: &[&str]) {
    let error = result.unwrap_err();
    assert_eq!(error.kind(), kind, "{error}");
    for word in words {
        assert!(error.to_string().contains(word), "`{word}` in: {error}");
    }
}

#[test]
fn what_cannot_be_mapped_is_told_with_what_to_do() {
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let dir = dir();
    let path = saved(&dir, &[1, 2, 3], PAGE);
    let reader = Reader::open(&path).unwrap();
    let block = reader.block("ram0").unwrap();

    let source = NoFile(FileSource::open(&path).unwrap());
    let without_file = ReaderOptions::new().from_source(std::sync::Arc::new(source)).unwrap();
    expect_error(without_file.blocks()[0].map(), ErrorKind::Usage, &["guest.mram", "`ram0`", "load it"]);

    let reserved = Reserved::new(4 * PAGE);
    let map_into = |offset, length| {
        // SAFETY: the reserved range is used for this alone, and long enough.
        unsafe { MapOptions::new().map_into(block, reserved.at(offset), length) }
    };
    expect_error(map_into(0, 2 * PAGE), ErrorKind::Usage, &["`ram0` has 12288 bytes", "8192"]);
    expect_error(map_into(1, 3 * PAGE), ErrorKind::Usage, &["`ram0`", "page size 4096"]);
    // SAFETY: null is refused before it is used.
    let null = unsafe { MapOptions::new().map_into(block, std::ptr::null_mut(), 3 * PAGE) };
    expect_error(null, ErrorKind::Usage, &["null"]);

    let odd = dir.path().join("odd");
    let memory = vec![1; PAGE];
    let mut writer = SaveOptions::new()
        .alignment(256)
        .page_size(256)
        .in_place(&odd, vec![RamBlock::new("ram0", &memory)])
        .unwrap();
    writer.write_all().unwrap();
    writer.finish(&Tail::minimal()).unwrap();
    let unaligned = Reader::open(&odd).unwrap();
    assert!(
        !unaligned.blocks()[0].layout().pages_offset().is_multiple_of(PAGE as u64),
        "pick another alignment"
    );
    expect_error(unaligned.blocks()[0].map(), ErrorKind::Unsupported, &["`ram0`", "offset 0x", "load them"]);

    let mapping = block.map().unwrap();
    let length = block.layout().pages_offset() + PAGE as u64;
    File::options().write(true).open(&path).unwrap().set_len(length).unwrap();
    let cut = format!("cut at offset {length:#x}");
    expect_error(mapping.check_file(), ErrorKind::Damaged, &["guest.mram", "`ram0`", &cut]);
    expect_error(block.map(), ErrorKind::Damaged, &["guest.mram", "`ram0`", &cut]);
}

/// What [`a_file_cut_while_it_is_mapped`] starts as a process of its own, to be killed.
#[test]
fn touches_behind_the_cut() {
    let Some(path) = std::env::var_os("MAPPED_RAM_TEST_CUT") else { return };
    let path = PathBuf::from(path);
    let reader = Reader::open(&path).unwrap();
    let block = reader.block("ram0").unwrap();
    let mapping = block.map().unwrap();
    let cut = block.layout().pages_offset() + 16 * PAGE as u64;
    File::options().write(true).open(&path).unwrap().set_len(cut).unwrap();
    let error = mapping.check_file().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Damaged);
    println!("{error}");
    // SAFETY: a byte of the mapping, which nobody else uses, before the cut.
    assert_eq!(unsafe { mapping.as_ptr().add(15 * PAGE).read_volatile() }, 9);
    println!("before the cut");
    // SAFETY: none: this ends the process, as is documented, and nothing else.
    unsafe { mapping.as_ptr().add(16 * PAGE).read_volatile() };
    println!("behind the cut");
}

#[test]
fn a_file_cut_while_it_is_mapped() {
    use std::os::unix::process::ExitStatusExt;
    let dir = dir();
    let path = saved(&dir, &[9; 64], PAGE);
    let offset = Reader::open(&path).unwrap().blocks()[0].layout().pages_offset();
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "touches_behind_the_cut", "--nocapture"])
        .env("MAPPED_RAM_TEST_CUT", &path)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.signal(), Some(nix::libc::SIGBUS), "{}\n{said}", output.status);
    let told = format!("block `ram0`: the file was cut at offset {:#x}", offset + 16 * PAGE as u64);
    assert!(said.contains(path.to_str().unwrap()) && said.contains(&told), "{said}");
    assert!(said.contains("before the cut") && !said.contains("behind the cut"), "{said}");
}

/// Guests whose bitmap is longer than what is read of it at a time, in runs that end anywhere: holes, data and stale pages.
#[test]
fn a_bitmap_that_is_read_in_parts_hides_the_same_pages() {
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let pages = 3_u64 << 20;
    let dir = dir();
    let path = dir.path().join("guest.mram");
    // First pages and lengths of runs; among them one longer than all windows, neighbours, and both ends.
    let runs =
        [(0, 3), (700, 64), (764, 1), (4096 * 5 - 1, 2), (100_000, 600_000), (900_017, 4096), (pages - 1, 1)];
    let options = SaveOptions::new().page_size(SMALL);
    let mut writer = options.create(&path, vec![RamBlock::detached("ram0", pages * SMALL)]).unwrap();
    for (first, count) in runs {
        let bytes = vec![0xAB; usize::try_from(count * SMALL).unwrap()];
        writer.write_from(0, first * SMALL, &bytes).unwrap();
    }
    writer.finish(&Tail::minimal()).unwrap();
    let offset = Reader::open(&path).unwrap().blocks()[0].layout().pages_offset();
    let file = File::options().write(true).open(&path).unwrap();
    // Far from all data, right behind a run, and over one that is present.
    let stale = [(50_000, 100), (700_000, 5000), (2_000_000, 1), (2_500_001, 40_000)];
    for (first, count) in stale {
        let bytes = vec![0xBD; usize::try_from(count * SMALL).unwrap()];
        file.write_all_at(&bytes, offset + first * SMALL).unwrap();
    }
    let reader = Reader::open(&path).unwrap();
    let block = reader.block("ram0").unwrap();
    // The bitmap was not read yet; the second time it was.
    for _ in 0..2 {
        let mapping = block.map().unwrap();
        assert!(bytes(&mapping) == model(block));
    }
}

#[test]
fn a_prefetch_of_a_file_that_was_cut_is_an_error_and_no_signal() {
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let dir = dir();
    // The cut may come before or after the pages are in; either way nobody is killed, and nothing but the cut is told.
    for _ in 0..20 {
        let path = saved(&dir, &[9; 64], PAGE);
        let file = File::options().write(true).open(&path).unwrap();
        let reader = Reader::open(&path).unwrap();
        let block = reader.block("ram0").unwrap();
        let mut mapping = MapOptions::new().prefetch(Prefetch::All).map(block).unwrap();
        let end = block.layout().pages_offset() + block.used_length();
        file.set_len(end - 32 * PAGE as u64).unwrap();
        if let Err(error) = mapping.wait_for_prefetch() {
            assert!(error.to_string().contains("block `ram0`: bring its pages in"), "{error}");
        }
    }
}

#[test]
fn a_block_of_64_gib_that_is_mostly_a_hole() {
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let dir = dir();
    let path = dir.path().join("guest.mram");
    let length = 64_u64 << 30;
    let mut writer = SaveOptions::new().create(&path, vec![RamBlock::detached("ram0", length)]).unwrap();
    let last = length - PAGE as u64;
    writer.write_from(0, last, &[7; PAGE]).unwrap();
    writer.finish(&Tail::minimal()).unwrap();
    let reader = Reader::open(&path).unwrap();
    let mapping = reader.blocks()[0].map().unwrap();
    for (offset, expected) in [(0, 0), (last, 7)] {
        let at = mapping.as_ptr().wrapping_add(usize::try_from(offset).unwrap());
        // SAFETY: a byte of the mapping, which nobody else uses.
        assert_eq!(unsafe { at.read_volatile() }, expected);
    }
    let touched = mapping.touched().unwrap();
    assert!(touched.contains(last / PAGE as u64) && touched.count() < 64, "{}", touched.count());
}
