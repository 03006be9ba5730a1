//! A stretch of the file that cannot be read, whatever reads it: one of many reads in flight, or a call by itself.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use mapped_ram::storage::{FileSource, IoMode, Source};
use mapped_ram::{
    Destination, Error, ErrorKind, LoadOptions, LoadState, LoadTarget, RamBlock, ReaderOptions, SaveOptions,
    VerifyOptions,
};
use multifd_pool::{Channel, IoVec, ReadPiece};

use crate::{PAGE, alone, channels_alive};

/// A file of which these bytes are on a bad sector.
struct Scratched {
    inner: FileSource,
    bad: Range<u64>,
}

struct ScratchedChannel {
    inner: Box<dyn Channel>,
    bad: Range<u64>,
}

impl ScratchedChannel {
    fn is_bad(&self, offset: u64, length: u64) -> bool {
        offset < self.bad.end && self.bad.start < offset + length
    }
}

impl Channel for ScratchedChannel {
    unsafe fn write_at(&mut self, _: &[IoVec], _: u64) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }

    unsafe fn read_at(&mut self, vecs: &[IoVec], offset: u64) -> io::Result<usize> {
        if self.is_bad(offset, vecs.iter().map(|vec| vec.len() as u64).sum()) {
            return Err(io::Error::from_raw_os_error(5));
        }
        // SAFETY: the caller's promise, passed on.
        unsafe { self.inner.read_at(vecs, offset) }
    }

    unsafe fn read_many(&mut self, pieces: &mut [ReadPiece<'_>]) -> u64 {
        let good = |piece: &&mut ReadPiece<'_>| !self.is_bad(piece.offset, piece.len());
        let mut asked: Vec<&mut ReadPiece<'_>> = pieces.iter_mut().filter(good).collect();
        let mut copies: Vec<ReadPiece<'_>> = asked.iter().map(|piece| **piece).collect();
        // SAFETY: the caller's promise, passed on for some of the pieces.
        let calls = unsafe { self.inner.read_many(&mut copies) };
        for (piece, copy) in asked.iter_mut().zip(copies) {
            piece.done = copy.done;
        }
        calls
    }
}

impl Source for Scratched {
    forward!(inner: name, len, read_at, effective_mode, file);

    fn channel(&self, index: usize, mode: IoMode) -> io::Result<Box<dyn Channel>> {
        Ok(Box::new(ScratchedChannel { inner: self.inner.channel(index, mode)?, bad: self.bad.clone() }))
    }
}

/// Two blocks; the pages that the first one has. Its gaps are of one page, of several, and longer than any that is read through.
fn save(path: &Path) -> (Vec<Vec<u8>>, Vec<u64>) {
    let present: Vec<u64> = [0..1, 2..3, 4..12, 15..40, 640..644, 645..646].into_iter().flatten().collect();
    let mut one = vec![0; 650 * PAGE];
    for page in &present {
        one[usize::try_from(*page).unwrap() * PAGE..][..PAGE].fill(6);
    }
    let memories = vec![one, vec![8; 20 * PAGE]];
    let names = ["pc.ram", "pc.rom"];
    let blocks = names.iter().zip(&memories).map(|(name, memory)| RamBlock::new(*name, memory)).collect();
    SaveOptions::new().save(path, blocks).unwrap();
    (memories, present)
}

#[test]
fn a_bad_sector_is_an_error_where_a_page_is_on_it_and_nothing_where_none_is() {
    let _alone = alone();
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = dir.path().join("guest.mram");
    let (memories, present) = save(&path);
    let reader = mapped_ram::Reader::open(&path).unwrap();
    let offset = reader.blocks()[0].layout().pages_offset();
    let mut gaps = 0;
    for mode in [IoMode::Buffered, IoMode::Direct, IoMode::Uring] {
        for page in (0..48).chain(638..650) {
            let at = offset + page * PAGE as u64 + 1000;
            let source = Scratched { inner: FileSource::open(&path).unwrap(), bad: at..at + 1 };
            let reader = ReaderOptions::new().from_source(Arc::new(source)).unwrap();
            // Aligned as direct I/O wants it.
            let mut back: Vec<Vec<u8>> =
                memories.iter().map(|memory| vec![0xEE; memory.len() + PAGE]).collect();
            let mut parts: Vec<&mut [u8]> = back
                .iter_mut()
                .map(|back| {
                    let skip = back.as_ptr().align_offset(PAGE);
                    let end = back.len() - PAGE + skip;
                    &mut back[skip..end]
                })
                .collect();
            let blocks = reader.blocks().iter().zip(&mut parts);
            let mut targets: Vec<_> =
                blocks.map(|(block, part)| LoadTarget::new(block, part, Destination::Used)).collect();
            let result = LoadOptions::new().channels(1).io_mode(mode).load(&mut targets);
            assert_eq!(channels_alive(), 0);
            if !present.contains(&page) {
                // Neither of a gap that is read through nor of one that is not is anything needed.
                result.unwrap();
                assert!(
                    parts.iter().zip(&memories).all(|(part, memory)| **part == memory[..]),
                    "{mode}, {page}"
                );
                gaps += 1;
                continue;
            }
            let error = result.unwrap_err();
            let text = error.to_string();
            let Error::Load { source, blocks } = error else { panic!("{text}") };
            let Error::Transfer { source, .. } = *source else { panic!("{text}") };
            assert_eq!((&*source.block, source.source.raw_os_error()), ("pc.ram", Some(5)), "{text}");
            assert!((source.offset..source.offset + source.length).contains(&at), "{mode}, {page}: {text}");
            // The first block is in one part; with one channel the second one is not begun when it fails.
            assert_eq!((blocks[0].state, blocks[0].loaded), (LoadState::Partly, 0), "{text}");
            assert_eq!((blocks[1].state, blocks[1].loaded), (LoadState::Untouched, 0), "{text}");
            assert!(parts[1].iter().all(|byte| *byte == 0xEE), "{mode}, {page}");
        }
    }
    assert!(gaps >= 3 * 10, "{gaps}");
}

/// A file whose channels say of each batch of reads whether any two of them go to the same memory.
struct Watched {
    inner: FileSource,
    shares: Arc<AtomicBool>,
}

struct WatchedChannel {
    inner: Box<dyn Channel>,
    shares: Arc<AtomicBool>,
}

impl Channel for WatchedChannel {
    unsafe fn write_at(&mut self, _: &[IoVec], _: u64) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }

    unsafe fn read_at(&mut self, vecs: &[IoVec], offset: u64) -> io::Result<usize> {
        self.look(vecs.iter());
        // SAFETY: the caller's promise, passed on.
        unsafe { self.inner.read_at(vecs, offset) }
    }

    unsafe fn read_many(&mut self, pieces: &mut [ReadPiece<'_>]) -> u64 {
        self.look(pieces.iter().flat_map(|piece| piece.vecs));
        // SAFETY: the caller's promise, passed on.
        unsafe { self.inner.read_many(pieces) }
    }
}

impl WatchedChannel {
    fn look<'v>(&self, vecs: impl Iterator<Item = &'v IoVec>) {
        let mut ranges: Vec<Range<usize>> =
            vecs.map(|vec| vec.addr().addr()..vec.addr().addr() + vec.len()).collect();
        ranges.sort_by_key(|range| range.start);
        if ranges.windows(2).any(|two| two[1].start < two[0].end) {
            self.shares.store(true, Ordering::Relaxed);
        }
    }
}

impl Source for Watched {
    forward!(inner: name, len, read_at, effective_mode, file);

    fn channel(&self, index: usize, mode: IoMode) -> io::Result<Box<dyn Channel>> {
        Ok(Box::new(WatchedChannel {
            inner: self.inner.channel(index, mode)?,
            shares: Arc::clone(&self.shares),
        }))
    }
}

/// What is read of gaps nobody needs, but a file system that checksums what it reads looks at it where it was read to.
#[test]
fn no_two_reads_of_a_batch_go_to_the_same_memory() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = dir.path().join("guest.mram");
    let (memories, _) = save(&path);
    for mode in [IoMode::Buffered, IoMode::Direct, IoMode::Uring] {
        for destination in [Destination::Used, Destination::Zeroed, Destination::Fresh] {
            let shares = Arc::new(AtomicBool::new(false));
            let source = Watched { inner: FileSource::open(&path).unwrap(), shares: Arc::clone(&shares) };
            let reader = ReaderOptions::new().from_source(Arc::new(source)).unwrap();
            let mut back = vec![0; memories[0].len() + PAGE];
            let skip = back.as_ptr().align_offset(PAGE);
            let memory = &mut back[skip..][..memories[0].len()];
            let target = LoadTarget::new(&reader.blocks()[0], memory, destination);
            LoadOptions::new().io_mode(mode).load(&mut [target]).unwrap();
            assert!(back[skip..][..memories[0].len()] == memories[0]);
            assert!(!shares.load(Ordering::Relaxed), "{mode}, {destination:?}");
        }
    }
}

/// Cut before the bitmap was ever read, which is when a block's pages are first asked for: the hole behind the end is no bitmap of zeros.
#[test]
fn a_bitmap_that_was_cut_off_is_an_error_and_no_guest_of_zeros() {
    let _alone = alone();
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = dir.path().join("guest.mram");
    let (memories, _) = save(&path);
    let layout = mapped_ram::Reader::open(&path).unwrap().blocks()[0].layout().clone();
    let bitmap = layout.bitmap_offset();
    for end in [0, bitmap - 1, bitmap, bitmap + 1] {
        save(&path);
        let reader = mapped_ram::Reader::open(&path).unwrap();
        File::options().write(true).open(&path).unwrap().set_len(end).unwrap();
        let block = &reader.blocks()[0];
        let mut back = vec![0xEE; memories[0].len()];
        for error in [
            block.load(&mut back, Destination::Used).unwrap_err(),
            block.bitmap().unwrap_err(),
            block.map().map(drop).unwrap_err(),
            reader.verify(VerifyOptions::new()).unwrap_err(),
        ] {
            let error = if let Error::Load { source, .. } = error { *source } else { error };
            assert_eq!(error.kind(), ErrorKind::Damaged, "{end:#x}: {error}");
        }
        assert!(back.iter().all(|byte| *byte == 0xEE), "memory was cleared for a file that is gone");
    }
}

/// A file that was cut while it was open: the rest cannot be read, and that is told.
#[test]
fn a_file_that_was_cut_is_an_error_where_it_ends() {
    let _alone = alone();
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = dir.path().join("guest.mram");
    for mode in [IoMode::Buffered, IoMode::Direct, IoMode::Uring] {
        let (memories, _) = save(&path);
        let reader = mapped_ram::Reader::open(&path).unwrap();
        let block = &reader.blocks()[0];
        let end = block.layout().pages_offset() + 30 * PAGE as u64;
        block.bitmap().unwrap();
        File::options().write(true).open(&path).unwrap().set_len(end).unwrap();
        let mut back = vec![0xEE; memories[0].len() + PAGE];
        let skip = back.as_ptr().align_offset(PAGE);
        let target = LoadTarget::new(block, &mut back[skip..][..memories[0].len()], Destination::Used);
        let error = LoadOptions::new().channels(1).io_mode(mode).load(&mut [target]).unwrap_err();
        let text = error.to_string();
        // Whoever reads it says the same of it.
        let of_block = block.read_at(0, &mut vec![0; memories[0].len()]).unwrap_err();
        let verified = reader.verify(VerifyOptions::new().channels(1).io_mode(mode)).unwrap_err();
        for error in [&error, &of_block, &verified] {
            assert_eq!(error.kind(), ErrorKind::Damaged, "{mode}: {error}");
        }
        let Error::Load { source, .. } = error else { panic!("{text}") };
        let Error::Transfer { source, .. } = *source else { panic!("{text}") };
        assert_eq!(source.source.kind(), io::ErrorKind::UnexpectedEof, "{mode}: {text}");
        assert_eq!(source.offset + source.done, end, "{mode}: {text}");
    }
}
