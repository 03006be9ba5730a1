//! Notes on files that their clear pages are zero: where they are left, what they spare a mapping, and what takes their force.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use mapped_ram::storage::{FileSource, FileState, IoMode, Source};
use mapped_ram::{
    ErrorKind, Mapping, PageBitmap, RamBlock, Reader, ReaderOptions, SaveOptions, StalePage, Tail,
};
use multifd_pool::Channel;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use proptest::prelude::*;
use tempfile::TempDir;

#[macro_use]
#[path = "support/forward.rs"]
mod forward;

#[path = "support/notes.rs"]
mod notes;

const PAGE: usize = 4096;

fn dir() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn memory(pages: &[u8]) -> Vec<u8> {
    pages.iter().flat_map(|byte| vec![*byte; PAGE]).collect()
}

fn bytes(mapping: &Mapping) -> Vec<u8> {
    let mut bytes = vec![0; mapping.len()];
    // SAFETY: the mapping is readable for its length, and nobody else uses it.
    unsafe { bytes.as_mut_ptr().copy_from_nonoverlapping(mapping.as_ptr(), bytes.len()) };
    bytes
}

/// A file that counts what it is asked.
struct Counted {
    file: FileSource,
    questions: AtomicU64,
}

impl Counted {
    fn open(path: &Path) -> (Arc<Self>, Reader) {
        let counted = Arc::new(Self { file: FileSource::open(path).unwrap(), questions: AtomicU64::new(0) });
        let reader = ReaderOptions::new().from_source(Arc::<Self>::clone(&counted)).unwrap();
        counted.questions();
        (counted, reader)
    }

    /// How many since the last time.
    fn questions(&self) -> u64 {
        self.questions.swap(0, Ordering::Relaxed)
    }

    fn count(&self) {
        self.questions.fetch_add(1, Ordering::Relaxed);
    }
}

impl Source for Counted {
    forward!(file: name, len, channel, file, state, is_noted_clean, note_clean);

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.count();
        self.file.read_at(buffer, offset)
    }

    fn next_data(&self, offset: u64, end: u64) -> io::Result<Option<(u64, u64)>> {
        self.count();
        self.file.next_data(offset, end)
    }

    fn first_data(&self, offset: u64, end: u64) -> io::Result<Option<u64>> {
        self.count();
        self.file.first_data(offset, end)
    }
}

/// A guest in many short runs, with gaps that are bridged.
fn scattered() -> Vec<u8> {
    memory(&(0..500_u32).map(|page| u8::try_from(page % 3).unwrap()).collect::<Vec<_>>())
}

#[test]
fn a_noted_file_is_mapped_without_a_look() {
    let dir = dir();
    if !notes::are_kept(dir.path()) {
        return;
    }
    let path = dir.path().join("guest.mram");
    let memory = scattered();
    SaveOptions::new().save(&path, vec![RamBlock::new("ram0", &memory)]).unwrap();
    let (counted, reader) = Counted::open(&path);
    assert!(reader.is_noted_clean());
    let mapping = reader.blocks()[0].map().unwrap();
    assert_eq!(counted.questions(), 0);
    assert!(bytes(&mapping) == memory);

    // A copy without the note shows the same, after a look; what was found is kept.
    let copy = dir.path().join("copy.mram");
    fs::write(&copy, fs::read(&path).unwrap()).unwrap();
    let (counted, reader) = Counted::open(&copy);
    assert!(!reader.is_noted_clean());
    let first = reader.blocks()[0].map().unwrap();
    assert_ne!(counted.questions(), 0);
    let second = reader.blocks()[0].map().unwrap();
    assert_eq!(counted.questions(), 0);
    assert!(bytes(&first) == memory && bytes(&second) == memory);

    // Until the file is another one. (The mappings are gone by then.)
    drop((first, second));
    let clear = reader.blocks()[0].layout().pages_offset() + 3 * PAGE as u64;
    File::options().write(true).open(&copy).unwrap().write_all_at(b"stale", clear).unwrap();
    let third = reader.blocks()[0].map().unwrap();
    assert_ne!(counted.questions(), 0);
    assert!(bytes(&third) == memory);
}

/// What was read of a file that somebody has written over since says nothing of the new one: neither that it is clean, nor what is to be
/// hidden of it.
#[test]
fn a_file_that_was_written_over_since_is_neither_noted_nor_mapped() {
    let dir = dir();
    let path = dir.path().join("guest.mram");
    let save = |kinds: &[u8]| {
        let memory = memory(kinds);
        let mut writer = SaveOptions::new().in_place(&path, vec![RamBlock::new("ram0", &memory)]).unwrap();
        writer.write_all().unwrap();
        writer.finish(&Tail::minimal()).unwrap();
    };
    save(&[1; 50]);
    let reader = Reader::open(&path).unwrap();
    assert_eq!(reader.blocks()[0].present_pages().unwrap(), 50);
    save(&[0; 50]);
    // As a live save leaves it.
    let stale = reader.blocks()[0].layout().pages_offset() + 3 * PAGE as u64;
    let file = File::options().write(true).open(&path).unwrap();
    file.write_all_at(b"stale", stale).unwrap();
    // A clock that ticks slowly may tell the same time of both saves.
    file.set_modified(std::time::SystemTime::UNIX_EPOCH + std::time::Duration::new(1_700_000_000, 5))
        .unwrap();
    for error in [reader.note_clean().unwrap_err(), reader.blocks()[0].map().map(drop).unwrap_err()] {
        assert!(error.to_string().contains("open it again"), "{error}");
    }
    let again = Reader::open(&path).unwrap();
    assert!(!again.is_noted_clean());
    assert_eq!(again.note_clean().unwrap().unwrap().page, 3);
}

/// What an earlier round left in the room of a page that is zero now is gone at the end.
#[test]
fn what_became_zero_in_a_later_round_is_cleared() {
    let dir = dir();
    let expect_clean = |path: &Path, expected: &[u8]| {
        let reader = Reader::open(path).unwrap();
        assert_eq!(reader.is_noted_clean(), notes::are_kept(dir.path()));
        let offset = usize::try_from(reader.blocks()[0].layout().pages_offset()).unwrap();
        assert!(fs::read(path).unwrap()[offset..offset + expected.len()] == *expected);
        assert!(bytes(&reader.blocks()[0].map().unwrap()) == expected);
    };
    for recycled in [false, true] {
        let path = dir.path().join("guest.mram");
        let options = SaveOptions::new();
        let options = if recycled { options.recycle(&path) } else { options };
        let set = memory(&[1; 100]);
        let block = RamBlock::detached("ram0", set.len() as u64);
        let mut writer = options.create(&path, vec![block]).unwrap();
        writer.write_from(0, 0, &set).unwrap();
        writer.write_from(0, 70 * PAGE as u64, &memory(&[0, 2])).unwrap();
        writer.finish(&Tail::minimal()).unwrap();
        let mut expected = set;
        expected[70 * PAGE..72 * PAGE].copy_from_slice(&memory(&[0, 2]));
        expect_clean(&path, &expected);
    }

    // Memory that was given back after it was saved is passed over by the next round, which clears it nevertheless.
    for recycled in [false, true] {
        let path = dir.path().join("given-back.mram");
        let ram = dir.path().join("ram");
        fs::write(&ram, memory(&[1; 512])).unwrap();
        let file = Arc::new(File::options().read(true).write(true).open(&ram).unwrap());
        let length = std::num::NonZeroUsize::new(512 * PAGE).unwrap();
        // SAFETY: touches no existing mapping.
        let start =
            unsafe { mmap(None, length, ProtFlags::PROT_READ, MapFlags::MAP_SHARED, &*file, 0) }.unwrap();
        // SAFETY: mapped until the end.
        let block = unsafe { RamBlock::from_raw("ram0", start.as_ptr().cast(), 512 * PAGE) };
        let options = SaveOptions::new();
        let options = if recycled { options.recycle(&path) } else { options };
        let mut writer = options.create(&path, vec![block.backed_by(Arc::clone(&file), 0)]).unwrap();
        writer.write_all().unwrap();
        file.set_len(100 * PAGE as u64).unwrap();
        file.set_len(512 * PAGE as u64).unwrap();
        writer.write_all().unwrap();
        writer.finish(&Tail::minimal()).unwrap();
        // SAFETY: mapped above, used by nobody any more.
        unsafe { munmap(start, 512 * PAGE) }.unwrap();
        expect_clean(&path, &memory(&[vec![1; 100], vec![0; 412]].concat()));
    }
}

/// A gap that was zero when it was looked at, and something else when its neighbours were written, comes again with what the guest
/// dirtied: zero by then, it is cleared.
#[test]
fn a_bridged_page_that_changed_meanwhile_is_cleared_when_it_comes_again() {
    let dir = dir();
    let path = dir.path().join("guest.mram");
    let mut memory = memory(&[1, 0, 1, 1]);
    let start = memory.as_mut_ptr();
    // SAFETY: `memory` lives until the end, and is only changed through `start`.
    let block = unsafe { RamBlock::from_raw("ram0", start, 4 * PAGE) };
    let mut writer = SaveOptions::new().create(&path, vec![block]).unwrap();
    writer.write_all().unwrap();
    let offset = writer.layout().blocks()[0].pages_offset();
    // As if it had been written in that moment. The file has no name yet.
    let open = fs::read_dir("/proc/self/fd").unwrap().map(|entry| entry.unwrap().path());
    let mine = |fd: &std::path::PathBuf| {
        fs::read_link(fd)
            .is_ok_and(|to| to.starts_with(dir.path()) && to.to_str().unwrap().contains("deleted"))
    };
    let file = open.into_iter().find(mine).expect("a file system with nameless files");
    File::options().write(true).open(file).unwrap().write_all_at(b"changed", offset + PAGE as u64).unwrap();
    let mut dirty = PageBitmap::new(4);
    dirty.insert(1..2);
    writer.write_pages(0, &dirty).unwrap();
    writer.finish(&Tail::minimal()).unwrap();
    let at = usize::try_from(offset).unwrap();
    let expected = [vec![1; PAGE], vec![0; PAGE], vec![1; 2 * PAGE]].concat();
    assert!(fs::read(&path).unwrap()[at..at + 4 * PAGE] == expected);
}

proptest! {
    /// A note that somebody's look left is as good as the writer's; and where there is anything but zeros, none is left.
    #[test]
    fn a_look_finds_the_first_stale_page(
        pages in prop::collection::vec(0_u8..2, 1..200),
        spoilt in prop::collection::btree_set(0_usize..200, 0..4),
        byte in 0_usize..PAGE,
    ) {
        let dir = dir();
        let path = dir.path().join("guest.mram");
        let memory = memory(&pages);
        SaveOptions::new().save(&path, vec![RamBlock::new("a", &[5; PAGE]), RamBlock::new("ram0", &memory)]).unwrap();
        let offset = Reader::open(&path).unwrap().block("ram0").unwrap().layout().pages_offset();
        let room = |page: usize| offset + (page * PAGE) as u64;
        let stale: Vec<usize> = spoilt.into_iter().filter(|page| pages.get(*page) == Some(&0)).collect();
        let file = File::options().write(true).open(&path).unwrap();
        // Zeros where there was a hole do no harm.
        for page in (0..pages.len()).filter(|page| pages[*page] == 0).step_by(3) {
            file.write_all_at(&[0; PAGE], room(page)).unwrap();
        }
        for page in &stale {
            file.write_all_at(b"x", room(*page) + byte as u64).unwrap();
        }
        if notes::are_kept(dir.path()) {
            let reader = Reader::open(&path).unwrap();
            let found = reader.note_clean().unwrap();
            let place = |StalePage { idstr, page, offset, .. }| (idstr, page, offset);
            let first = stale.first().map(|page| ("ram0".to_owned(), *page as u64, room(*page)));
            prop_assert_eq!(found.map(place), first);
            prop_assert_eq!(reader.is_noted_clean(), stale.is_empty());
        }
        let reader = Reader::open(&path).unwrap();
        let mapping = reader.block("ram0").unwrap().map().unwrap();
        prop_assert!(bytes(&mapping) == memory);
    }
}

/// However it is written, by whom and where: the note has no force any more.
#[test]
fn a_file_that_was_written_is_looked_at_again() {
    let dir = dir();
    if !notes::are_kept(dir.path()) {
        return;
    }
    let path = dir.path().join("guest.mram");
    let memory = memory(&[1, 0, 2, 0]);
    let save = || SaveOptions::new().save(&path, vec![RamBlock::new("ram0", &memory)]).unwrap();
    let reader = || Reader::open(&path).unwrap();
    save();
    let offset = reader().blocks()[0].layout().pages_offset();
    let file = || File::options().write(true).open(&path).unwrap();
    let ways: [&dyn Fn(); 4] = [
        &|| file().write_all_at(b"x", offset + PAGE as u64).unwrap(),
        &|| file().set_len(file().metadata().unwrap().len() + 1).unwrap(),
        &|| {
            let bytes = fs::read(&path).unwrap();
            fs::write(&path, bytes).unwrap();
        },
        &|| file().set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap(),
    ];
    for (index, way) in ways.iter().enumerate() {
        save();
        assert!(reader().is_noted_clean());
        way();
        assert!(!ReaderOptions::new().open(&path).is_ok_and(|reader| reader.is_noted_clean()), "way {index}");
    }
    // In place, the old note goes at once and the new one comes at the end.
    save();
    let (counted, _) = Counted::open(&path);
    let mut writer = SaveOptions::new().in_place(&path, vec![RamBlock::new("ram0", &memory)]).unwrap();
    assert!(!counted.is_noted_clean(0));
    writer.write_all().unwrap();
    assert!(!counted.is_noted_clean(0));
    writer.finish(&Tail::minimal()).unwrap();
    assert!(counted.is_noted_clean(0) && !counted.is_noted_clean(4096));

    // What touches no byte of the file takes nothing.
    let moved = dir.path().join("moved.mram");
    fs::rename(&path, &moved).unwrap();
    fs::set_permissions(&moved, std::os::unix::fs::PermissionsExt::from_mode(0o400)).unwrap();
    assert!(Reader::open(&moved).unwrap().is_noted_clean());
}

/// Bytes that are in no file.
struct Bytes(Vec<u8>);

impl Source for Bytes {
    fn name(&self) -> String {
        "these bytes".to_owned()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let from = usize::try_from(offset).unwrap().min(self.0.len());
        let count = buffer.len().min(self.0.len() - from);
        buffer[..count].copy_from_slice(&self.0[from..from + count]);
        Ok(count)
    }

    fn channel(&self, _index: usize, _mode: IoMode) -> io::Result<Box<dyn Channel>> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

#[test]
fn where_no_note_can_be_left_that_is_an_error() {
    let dir = dir();
    let path = dir.path().join("guest.mram");
    SaveOptions::new().save(&path, vec![RamBlock::new("ram0", &memory(&[1, 0]))]).unwrap();
    let source = Arc::new(Bytes(fs::read(&path).unwrap()));
    let reader = ReaderOptions::new().from_source(source).unwrap();
    assert!(!reader.is_noted_clean());
    let error = reader.note_clean().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage);
    assert!(error.to_string().contains("these bytes"), "{error}");

    // A file system without attributes: what was found out by the look is told all the same.
    let reader =
        ReaderOptions::new().from_source(Arc::new(Unnoted(FileSource::open(&path).unwrap()))).unwrap();
    let error = reader.note_clean().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
    let said = error.to_string();
    assert!(
        said.contains("guest.mram: its clear pages are zeros in the file, but that cannot be noted"),
        "{said}"
    );
    assert!(said.contains("os error 95"), "{said}");

    let offset = reader.blocks()[0].layout().pages_offset() + PAGE as u64;
    File::options().write(true).open(&path).unwrap().write_all_at(b"x", offset).unwrap();
    let reader =
        ReaderOptions::new().from_source(Arc::new(Unnoted(FileSource::open(&path).unwrap()))).unwrap();
    let StalePage { page, offset: at, .. } = reader.note_clean().unwrap().unwrap();
    assert_eq!((page, at), (1, offset));
}

/// A file on which no note can be left.
struct Unnoted(FileSource);

impl Source for Unnoted {
    forward!(0: name, len, read_at, channel, file, state, next_data, first_data);

    fn note_clean(&self, _stream_offset: u64, _state: &FileState) -> io::Result<()> {
        Err(nix::errno::Errno::EOPNOTSUPP.into())
    }
}
