//! What a save can be asked for: refused where it makes no sense, fallen back from where the system has not got it, and memory
//! that was never touched is passed over.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::ptr::NonNull;
use std::sync::Arc;

use mapped_ram::storage::{AtomicFile, IoMode, Storage};
use mapped_ram::{
    Bridge, Destination, Error, ErrorKind, PageBitmap, RamBlock, Reader, SaveOptions, SyncMode, Tail,
};
use multifd_pool::Channel;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};
use nix::unistd::{Whence, lseek};
use tempfile::TempDir;

const PAGE: usize = 4096;

fn dir() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn usage(error: &Error, words: &[&str]) {
    assert_eq!(error.kind(), ErrorKind::Usage, "{error}");
    for word in words {
        assert!(error.to_string().contains(word), "no `{word}` in: {error}");
    }
}

#[test]
fn chunks_and_channels_of_nonsense_are_refused_and_leave_no_file() {
    let dir = dir();
    let path = dir.path().join("guest.mram");
    let memory = vec![1; 4 * PAGE];
    let save = |options: SaveOptions<'_>| options.save(&path, vec![RamBlock::new("ram0", &memory)]);
    for chunk in [0, 1, 4095, 6144, 1 << 31, u64::MAX] {
        usage(&save(SaveOptions::new().chunk(chunk)).unwrap_err(), &[&chunk.to_string(), "multiple", "4096"]);
    }
    for channels in [0, 256, usize::MAX] {
        usage(
            &save(SaveOptions::new().channels(channels)).unwrap_err(),
            &[&channels.to_string(), "1 to 255"],
        );
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    for chunk in [4096, 8192, 1 << 20, 1 << 30] {
        save(SaveOptions::new().chunk(chunk)).unwrap();
    }
}

/// A file system that has neither direct nor uncached I/O.
struct Plain(AtomicFile);

impl Storage for Plain {
    fn name(&self) -> String {
        self.0.name()
    }

    fn channel(&mut self, index: usize, mode: IoMode) -> std::io::Result<Box<dyn Channel>> {
        assert_eq!(mode, IoMode::Buffered, "a mode that was refused is not asked for again");
        self.0.channel(index, mode)
    }

    fn effective_mode(&self, _: IoMode) -> IoMode {
        IoMode::Buffered
    }

    fn set_len(&mut self, length: u64) -> std::io::Result<()> {
        self.0.set_len(length)
    }

    fn sync(&mut self) -> std::io::Result<()> {
        self.0.sync()
    }

    fn is_in_place(&self) -> bool {
        false
    }

    fn publish(&mut self, durable: bool) -> std::io::Result<()> {
        self.0.publish(durable)
    }
}

#[test]
fn what_the_file_system_has_not_is_fallen_back_from_and_said() {
    let dir = dir();
    let path = dir.path().join("guest.mram");
    let memory = vec![1; 40 * PAGE];
    for mode in [IoMode::Direct, IoMode::Uncached, IoMode::Mixed, IoMode::Uring] {
        let storage = Plain(AtomicFile::create(&path).unwrap());
        let mut writer = SaveOptions::new()
            .io_mode(mode)
            .with_storage(Box::new(storage), vec![RamBlock::new("ram0", &memory)])
            .unwrap();
        writer.write_all().unwrap();
        let report = writer.finish(&Tail::minimal()).unwrap();
        assert_eq!(report.io_mode, IoMode::Buffered);
        assert_eq!(report.notes.len(), 1);
        assert!(report.notes[0].contains(mode.name()), "{:?}", report.notes);
    }
}

#[test]
fn auto_goes_by_what_must_be_durable_and_never_stays_auto() {
    let dir = dir();
    let memory = vec![1; 40 * PAGE];
    for sync in [SyncMode::None, SyncMode::Data, SyncMode::Full] {
        let report = SaveOptions::new()
            .sync(sync)
            .save(dir.path().join("guest.mram"), vec![RamBlock::new("ram0", &memory)])
            .unwrap();
        assert_ne!(report.io_mode, IoMode::Auto);
        if sync == SyncMode::None {
            assert_eq!(report.io_mode, IoMode::Buffered);
        }
    }
}

#[test]
fn a_file_of_several_names_is_not_recycled() {
    let dir = dir();
    let (old, other) = (dir.path().join("old"), dir.path().join("other"));
    fs::write(&old, "precious").unwrap();
    fs::hard_link(&old, &other).unwrap();
    let memory = vec![1; PAGE];
    let error = SaveOptions::new()
        .recycle(&old)
        .save(dir.path().join("guest.mram"), vec![RamBlock::new("ram0", &memory)])
        .unwrap_err();
    assert!(error.to_string().contains("more than one name"), "{error}");
    assert_eq!(
        (fs::read(&old).unwrap(), fs::read(&other).unwrap()),
        (b"precious".into(), b"precious".into())
    );
}

#[test]
fn what_cannot_be_recycled_is_left_as_it_was() {
    let dir = dir();
    let path = dir.path().join("guest.mram");
    let memory = vec![1; PAGE];
    let block = || vec![RamBlock::new("ram0", &memory)];
    let missing = SaveOptions::new().recycle(dir.path().join("missing")).save(&path, block()).unwrap_err();
    assert!(missing.to_string().contains("missing"), "{missing}");
    let folder = SaveOptions::new().recycle(dir.path()).save(&path, block()).unwrap_err();
    assert_eq!(folder.kind(), ErrorKind::Io, "{folder}");
    let old = dir.path().join("old");
    fs::write(&old, "precious").unwrap();
    // Whatever else is wrong is found before the old file is touched.
    for options in
        [SaveOptions::new().chunk(7), SaveOptions::new().channels(0), SaveOptions::new().page_size(100)]
    {
        options.recycle(&old).save(&path, block()).unwrap_err();
        assert_eq!(fs::read(&old).unwrap(), b"precious");
    }
    usage(&SaveOptions::new().recycle(&old).in_place(&path, block()).unwrap_err(), &["recycled", "in place"]);
    let elsewhere = tempfile::tempdir_in("/dev/shm").unwrap();
    if fs::metadata(&old).unwrap().dev() != fs::metadata(elsewhere.path()).unwrap().dev() {
        let far = elsewhere.path().join("guest.mram");
        let error = SaveOptions::new().recycle(&old).save(&far, block()).unwrap_err();
        assert!(error.to_string().contains("another file system"), "{error}");
    }
    assert_eq!(fs::read(&old).unwrap(), b"precious");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn a_file_may_be_recycled_for_its_own_successor_and_keeps_its_blocks() {
    for bridge in [Bridge::Auto, Bridge::None] {
        let dir = dir();
        let path = dir.path().join("guest.mram");
        let first = vec![1; 4 << 20];
        SaveOptions::new().save(&path, vec![RamBlock::new("ram0", &first)]).unwrap();
        let before = fs::metadata(&path).unwrap();
        let mut second = vec![0; 4 << 20];
        second[PAGE..9 * PAGE].fill(2);
        let options = || SaveOptions::new().bridge(bridge);
        let report = options().recycle(&path).save(&path, vec![RamBlock::new("ram0", &second)]).unwrap();
        let after = fs::metadata(&path).unwrap();
        assert_eq!(after.ino(), before.ino());
        assert_eq!((report.pages_written(), report.zero_pages()), (8, 1016));
        // What the new guest does not need is given back if the file is to be as sparse as it can; else it takes no more than
        // it did, but for the index of its pieces.
        let most = if bridge == Bridge::None { 200_000 / 512 } else { before.blocks() + 64 };
        assert!(after.blocks() <= most, "{} blocks, {} before", after.blocks(), before.blocks());
        let file = fs::File::options().read(true).write(true).open(&path).unwrap();
        let data = |from: i64| lseek(&file, from, Whence::SeekData).unwrap();
        // Room that is kept is a hole to who asks for data.
        let hole = lseek(&file, data(1 << 20), Whence::SeekHole).unwrap();
        assert!(hole <= (1 << 20) + (16 << 12), "data up to {hole}");
        assert!(!fs::read(&path).unwrap()[1 << 20..5 << 20].contains(&1), "an old byte is left");
        let mut back = vec![0xEE; 4 << 20];
        Reader::open(&path).unwrap().block("ram0").unwrap().load(&mut back, Destination::Used).unwrap();
        assert!(back == second);
        if bridge != Bridge::None {
            let zero = FallocateFlags::FALLOC_FL_ZERO_RANGE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
            match fallocate(&file, zero, 1 << 20, 4096) {
                Ok(()) => {
                    assert!(after.blocks() + 64 >= before.blocks(), "only {} blocks kept", after.blocks());
                }
                Err(error) => eprintln!("NOT TESTED that room is kept: no ranges of zeros here: {error}"),
            }
        }
    }
}

/// A file of `pages` pages, each a piece of its own: with a hole behind it, or apart from the next on the disk. Says so if none can be
/// made here.
fn scattered(path: &Path, pages: usize, with_holes: bool) -> bool {
    let file = fs::File::create(path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &vec![7; 2 * pages * PAGE], 0).unwrap();
    file.sync_all().unwrap();
    let how = if with_holes {
        FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE
    } else {
        FallocateFlags::FALLOC_FL_COLLAPSE_RANGE
    };
    for page in (0..pages).rev() {
        let at = i64::try_from(2 * page * PAGE).unwrap();
        if let Err(error) = fallocate(&file, how, at, 4096) {
            eprintln!("NOT TESTED: files in many pieces: none can be made here: {error}");
            return false;
        }
    }
    true
}

#[test]
fn a_file_in_very_many_pieces_is_not_written_over_but_begun_anew() {
    let dir = dir();
    let (old, path) = (dir.path().join("old"), dir.path().join("guest.mram"));
    let mut memory = vec![0; 12 << 20];
    memory[PAGE..6 << 20].fill(2);
    for (pages, with_holes, is_given_back) in
        [(200, false, false), (1500, false, true), (200, true, false), (1500, true, true)]
    {
        if !scattered(&old, pages, with_holes) {
            continue;
        }
        let inode = fs::metadata(&old).unwrap().ino();
        let report =
            SaveOptions::new().recycle(&old).save(&path, vec![RamBlock::new("ram0", &memory)]).unwrap();
        assert_eq!(report.pieces_given_back.is_some(), is_given_back, "{:?}", report.pieces_given_back);
        // The promises of an expendable file are the same.
        assert!(!old.exists());
        assert_eq!(fs::metadata(&path).unwrap().ino(), inode);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        let mut back = vec![0xEE; memory.len()];
        Reader::open(&path).unwrap().block("ram0").unwrap().load(&mut back, Destination::Used).unwrap();
        assert!(back == memory);
        if is_given_back {
            // In large pieces now.
            let again =
                SaveOptions::new().recycle(&path).save(&path, vec![RamBlock::new("ram0", &memory)]).unwrap();
            assert_eq!(again.pieces_given_back, None);
        }
        fs::remove_file(&path).unwrap();
    }
}

/// As in any new file, nobody but its owner may read the guest, whatever the old file's mode was.
#[test]
fn what_is_saved_over_an_expendable_file_is_private() {
    let memory = vec![1; PAGE];
    for mode in [0o600, 0o640, 0o644, 0o666, 0o777] {
        let dir = dir();
        let (old, path) = (dir.path().join("old"), dir.path().join("guest.mram"));
        fs::write(&old, "everybody's").unwrap();
        fs::set_permissions(&old, fs::Permissions::from_mode(mode)).unwrap();
        let save = |to| SaveOptions::new().recycle(&old).save(to, vec![RamBlock::new("ram0", &memory)]);
        // One that is refused stays what it was, its mode too.
        save(dir.path().join("no/such/folder")).unwrap_err();
        assert_eq!(fs::metadata(&old).unwrap().mode() & 0o7777, mode);
        let elsewhere = tempfile::tempdir_in("/dev/shm").unwrap();
        if fs::metadata(&old).unwrap().dev() != fs::metadata(elsewhere.path()).unwrap().dev() {
            save(elsewhere.path().join("guest.mram")).unwrap_err();
            assert_eq!(fs::metadata(&old).unwrap().mode() & 0o7777, mode);
        }
        save(path.clone()).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600, "{mode:o}");
    }
}

/// The old file's owner could read the new guest; whoever may give files away takes it over altogether.
#[test]
fn what_was_anothers_file_is_no_longer_his() {
    const NOBODY: u32 = 65534;
    let dir = dir();
    let (old, path) = (dir.path().join("old"), dir.path().join("guest.mram"));
    fs::write(&old, "somebody's").unwrap();
    let owner = fs::metadata(&old).unwrap().uid();
    if let Err(error) = std::os::unix::fs::chown(&old, Some(NOBODY), None) {
        eprintln!("NOT TESTED: files of other users: {error}");
        return;
    }
    let memory = vec![1; PAGE];
    SaveOptions::new().recycle(&old).save(&path, vec![RamBlock::new("ram0", &memory)]).unwrap();
    let about = fs::metadata(&path).unwrap();
    assert_eq!((about.uid(), about.mode() & 0o7777), (owner, 0o600));
}

/// Holes of the old file stay holes: to clear them must not have room allotted to them.
#[test]
fn recycling_a_sparse_file_takes_no_room_for_its_holes() {
    let dir = dir();
    let path = dir.path().join("guest.mram");
    let length = 1 << 30;
    let memory = Mapping::anonymous(length);
    memory.write(5, 1);
    SaveOptions::new().save(&path, vec![memory.block()]).unwrap();
    let before = fs::metadata(&path).unwrap().blocks();
    // It was touched, so it is looked at, and its place in the old file cleared.
    for page in (0..length / PAGE).step_by(512) {
        memory.write(page, 0);
    }
    for skip in [false, true] {
        let options = SaveOptions::new().recycle(&path).skip_untouched(skip);
        options.save(&path, vec![memory.block()]).unwrap();
        let after = fs::metadata(&path).unwrap().blocks();
        assert!(after <= before + 64, "{after} blocks, {before} before");
    }
}

/// Memory of a mapping of its own.
struct Mapping(NonNull<std::ffi::c_void>, usize);

impl Mapping {
    fn anonymous(length: usize) -> Self {
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE;
        // SAFETY: a new mapping, wherever the kernel likes.
        Self(unsafe { mmap_anonymous(None, length.try_into().unwrap(), protection, flags) }.unwrap(), length)
    }

    fn shared(file: &fs::File, length: usize) -> Self {
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping, wherever the kernel likes.
        let start =
            unsafe { mmap(None, length.try_into().unwrap(), protection, MapFlags::MAP_SHARED, file, 0) }
                .unwrap();
        Self(start, length)
    }

    fn write(&self, page: usize, byte: u8) {
        assert!((page + 1) * PAGE <= self.1);
        // SAFETY: inside the mapping; nobody has a reference to it.
        unsafe { self.0.cast::<u8>().add(page * PAGE).write_bytes(byte, PAGE) };
    }

    fn block(&self) -> RamBlock<'_> {
        // SAFETY: mapped for as long as the block borrows it.
        unsafe { RamBlock::from_raw("ram0", self.0.as_ptr().cast(), self.1) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: a mapping of this type's own, not used any more.
        unsafe { munmap(self.0, self.1) }.unwrap();
    }
}

/// A guest of 64 GiB, of which a few pages were ever touched: nearly all of it is passed over, and comes back as zeros.
#[test]
fn memory_that_was_never_touched_is_not_looked_at() {
    let dir = dir();
    let length: usize = 64 << 30;
    let pages = [0, 77, 1 << 20, length / PAGE - 1];
    let file = Arc::new(tempfile::tempfile_in("/dev/shm").unwrap());
    file.set_len(length as u64).unwrap();
    for backed in [false, true] {
        let memory = if backed { Mapping::shared(&file, length) } else { Mapping::anonymous(length) };
        for page in pages {
            memory.write(page, 9);
        }
        let block = if backed { memory.block().backed_by(Arc::clone(&file), 0) } else { memory.block() };
        let path = dir.path().join("guest.mram");
        let report = SaveOptions::new().sync(SyncMode::None).save(&path, vec![block]).unwrap();
        assert_eq!(report.pages_written(), 4);
        assert_eq!(report.zero_pages(), (length / PAGE - 4) as u64);
        // Huge pages may have been touched whole.
        assert!(report.untouched_pages >= (length / PAGE) as u64 - 4 * 512, "backed: {backed}");
        let reader = Reader::open(&path).unwrap();
        let present: Vec<u64> = reader.blocks()[0].bitmap().unwrap().runs().flatten().collect();
        assert_eq!(present, pages.map(|page| page as u64));
    }
}

/// What lies behind the end of a RAM file is no hole: it must not pass for zeros.
#[test]
fn a_ram_file_that_was_cut_is_an_error_and_leaves_no_file() {
    let dir = dir();
    let path = dir.path().join("guest.mram");
    let length = 64 << 20;
    let file = Arc::new(tempfile::tempfile_in("/dev/shm").unwrap());
    file.set_len(length as u64).unwrap();
    let memory = Mapping::shared(&file, length);
    memory.write(5, 1);
    for left in [length as u64 - PAGE as u64, 6 * PAGE as u64, 0] {
        file.set_len(left).unwrap();
        let block = memory.block().backed_by(Arc::clone(&file), 0).freshly_mapped();
        let error = SaveOptions::new().save(&path, vec![block]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io, "{error}");
        for word in ["guest.mram", "ram0", "cut", "offset"] {
            assert!(error.to_string().contains(word), "no `{word}` in: {error}");
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}

/// A page that was written in one round, and was given back to the system before the next.
#[test]
fn memory_that_was_given_back_reads_as_zeros() {
    let dir = dir();
    let path = dir.path().join("guest.mram");
    let length = 8 << 20;
    let memory = Mapping::anonymous(length);
    memory.write(5, 1);
    memory.write(700, 2);
    let mut writer = SaveOptions::new().create(&path, vec![memory.block()]).unwrap();
    writer.write_all().unwrap();
    // SAFETY: the mapping's own, to which nobody has a reference.
    unsafe { nix::sys::mman::madvise(memory.0, length, nix::sys::mman::MmapAdvise::MADV_DONTNEED) }.unwrap();
    memory.write(900, 3);
    writer.write_all().unwrap();
    let mut dirty = PageBitmap::new((length / PAGE) as u64);
    dirty.insert(0..10);
    writer.write_pages(0, &dirty).unwrap();
    writer.finish(&Tail::minimal()).unwrap();
    let reader = Reader::open(&path).unwrap();
    assert!(reader.blocks()[0].bitmap().unwrap().runs().eq(std::iter::once(900..901)));
}

#[test]
fn bridging_changes_room_and_nothing_that_is_read() {
    let dir = dir();
    let mut memory = vec![0; 1024 * PAGE];
    memory.chunks_mut(2 * PAGE).for_each(|pair| pair[0] = 1);
    let room = |bridge| {
        let path = dir.path().join(format!("{bridge:?}"));
        SaveOptions::new().bridge(bridge).save(&path, vec![RamBlock::new("ram0", &memory)]).unwrap();
        let reader = Reader::open(&path).unwrap();
        assert_eq!(reader.blocks()[0].present_pages().unwrap(), 512);
        let mut back = vec![0xEE; memory.len()];
        reader.blocks()[0].load(&mut back, Destination::Used).unwrap();
        assert!(back == memory);
        fs::metadata(&path).unwrap().blocks() * 512
    };
    let (holes, bridged) = (room(Bridge::None), room(Bridge::Auto));
    assert!(holes < 600 * PAGE as u64, "{holes}");
    assert!(bridged >= 1023 * PAGE as u64, "{bridged}");
}

/// A save may begin in one thread and end in another, with all that it was given.
#[test]
fn saves_and_loads_go_from_thread_to_thread() {
    fn is_send<T: Send>() {}
    is_send::<SaveOptions<'_>>();
    is_send::<mapped_ram::Writer<'_>>();
    is_send::<mapped_ram::LoadOptions<'_>>();
    is_send::<mapped_ram::LoadTarget<'_>>();
    is_send::<mapped_ram::VerifyOptions<'_>>();
    is_send::<mapped_ram::Mapping>();
}
