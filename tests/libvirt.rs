//! libvirt's images, and whatever else stands before a stream: a new file takes it over byte for byte.
//!
//! The header is a real one (`tests/data/libvirt`), what is around it made up. That libvirt takes such copies only
//! `scripts/check-libvirt` can show.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;

use mapped_ram::format::bitmap::BitmapEncoding;
use mapped_ram::storage::{FileSource, Source};
use mapped_ram::{
    Error, ErrorKind, RamBlock, Reader, ReaderOptions, Result, SaveOptions, SaveReport, Tail, VerifyOptions,
};
use proptest::prelude::*;
use tempfile::TempDir;

#[macro_use]
#[path = "support/forward.rs"]
mod forward;

const PAGE: usize = 4096;

/// What libvirt 11.3.0 wrote before a stream, but for the padding.
const HEAD: &[u8] = include_bytes!("data/libvirt/11.3.0.head");

/// How much there was of it with the padding, in bytes.
const HEAD_LENGTH: usize = 67_245;

fn dir() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn libvirt_head() -> Vec<u8> {
    let mut head = HEAD.to_vec();
    head.resize(HEAD_LENGTH, 0);
    head
}

fn memory_of(pages: &[u8]) -> Vec<u8> {
    pages.iter().flat_map(|kind| [*kind; PAGE]).collect()
}

/// A file with `before` and then a stream; its zeros before the stream are holes as far as the file system has them.
fn image(path: &Path, before: &[u8], memory: &[u8]) {
    let file = File::create(path).unwrap();
    for (at, piece) in before.chunks(PAGE).enumerate() {
        if piece.iter().any(|byte| *byte != 0) {
            file.write_all_at(piece, (at * PAGE) as u64).unwrap();
        }
    }
    let mut writer = SaveOptions::new()
        .stream_offset(before.len() as u64)
        .in_place(path, vec![RamBlock::new("pc.ram", memory)])
        .unwrap();
    writer.write_all().unwrap();
    writer.finish(&Tail::minimal()).unwrap();
}

/// Writes what `reader` reads into a new file, with all that stands before the stream; all blocks are read whole.
fn copy(reader: &Reader, out: &Path, recycle: Option<&Path>) -> Result<SaveReport> {
    let mut options = SaveOptions::new().channels(2).head_of(reader.layout()).preamble_of(reader);
    if let Some(old) = recycle {
        options = options.recycle(old);
    }
    let blocks = reader.blocks().iter();
    let again = blocks.map(|block| RamBlock::detached(block.layout().idstr_bytes(), block.used_length()));
    let mut writer = options.create(out, again.collect())?;
    for (index, block) in reader.blocks().iter().enumerate() {
        let mut bytes = vec![0; usize::try_from(block.used_length()).unwrap()];
        block.read_at(0, &mut bytes)?;
        writer.write_from(index, 0, &bytes)?;
    }
    writer.finish(&Tail::copied_from(reader))
}

fn names(dir: &TempDir) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Bytes that stand before a stream: none, few, and stretches of zeros and of others, long and ragged.
fn before() -> impl Strategy<Value = Vec<u8>> {
    let stretch = (prop_oneof![Just(0_u8), 1_u8..], prop_oneof![0_usize..9, 0_usize..20_000, Just(300_000)]);
    prop_oneof![
        prop::collection::vec(stretch, 0..5).prop_map(|stretches| {
            stretches.into_iter().flat_map(|(byte, length)| vec![byte; length]).collect()
        }),
        Just(libvirt_head()),
    ]
}

proptest! {
    #[test]
    fn what_stands_before_a_stream_comes_along_byte_for_byte(
        before in before(),
        pages in prop::collection::vec(0_u8..3, 1..100),
        recycled in prop::option::of(prop_oneof![0_usize..9, 0_usize..2_000_000]),
        onto_itself in any::<bool>(),
    ) {
        let dir = dir();
        let (one, old) = (dir.path().join("one"), dir.path().join("old"));
        let two = if onto_itself { one.clone() } else { dir.path().join("two") };
        let memory = memory_of(&pages);
        image(&one, &before, &memory);
        if let Some(length) = recycled {
            fs::write(&old, vec![0xA5; length]).unwrap();
        }
        let offset = before.len() as u64;
        let source = ReaderOptions::new().stream_offset(offset).open(&one).unwrap();
        copy(&source, &two, recycled.map(|_| old.as_path())).unwrap();

        let bytes = fs::read(&two).unwrap();
        prop_assert!(bytes[..before.len()] == before[..]);
        let read = ReaderOptions::new().stream_offset(offset).open(&two).unwrap();
        let mut back = vec![0xEE; memory.len()];
        read.blocks()[0].read_at(0, &mut back).unwrap();
        prop_assert!(back == memory);
        prop_assert_eq!(read.tail().unwrap(), source.tail().unwrap());
        // The pages are where they were: the layout follows from where the stream begins.
        prop_assert_eq!(read.layout().blocks(), source.layout().blocks());
        prop_assert!(read.layout().blocks()[0].pages_offset().is_multiple_of(1 << 20));
        let report = read.verify(VerifyOptions::new()).unwrap();
        prop_assert!(report.problems.is_empty(), "{:?}", report.problems);
        prop_assert_eq!(names(&dir), if onto_itself { vec!["one"] } else { vec!["one", "two"] });
    }

    /// As long as the file is not whole it is nobody's image: one that was cut, or is gone half way, is an error, and no file.
    #[test]
    fn a_file_that_is_cut_while_it_is_copied_leaves_no_copy(
        cut in 0_u64..HEAD_LENGTH as u64,
        recycled in any::<bool>(),
    ) {
        let dir = dir();
        let (one, two, old) = (dir.path().join("one"), dir.path().join("two"), dir.path().join("old"));
        image(&one, &vec![7; HEAD_LENGTH], &memory_of(&[1]));
        fs::write(&old, [0xA5; 9000]).unwrap();
        let source = ReaderOptions::new().stream_offset(HEAD_LENGTH as u64).open(&one).unwrap();
        File::options().write(true).open(&one).unwrap().set_len(cut).unwrap();
        let error = copy(&source, &two, recycled.then_some(old.as_path())).unwrap_err();
        prop_assert_eq!(error.kind(), ErrorKind::Damaged);
        prop_assert_eq!(names(&dir), if recycled { vec!["one"] } else { vec!["old", "one"] });
    }
}

#[test]
fn a_real_header_is_read_and_kept() {
    let dir = dir();
    let (one, two) = (dir.path().join("guest.save"), dir.path().join("copy.save"));
    let memory = memory_of(&[1, 0, 2]);
    image(&one, &libvirt_head(), &memory);
    let source = Reader::open(&one).unwrap();
    let header = *source.libvirt().unwrap();
    assert_eq!((header.stream_offset(), header.was_running()), (HEAD_LENGTH as u64, true));
    copy(&source, &two, None).unwrap();
    let read = Reader::open(&two).unwrap();
    assert_eq!(read.libvirt(), Some(&header));
    assert!(read.is_noted_clean() == source.is_noted_clean(), "the note speaks of the stream where it is");
    // The stream begins anywhere, its pages at whole ones: they can be mapped.
    let mapping = read.blocks()[0].map().unwrap();
    // SAFETY: a mapping that nobody writes, of a file that nobody writes.
    assert!(unsafe { std::slice::from_raw_parts(mapping.as_ptr(), mapping.len()) } == memory);
}

/// A header from a host of the other byte order says how the bitmaps are, which nothing in the stream does; a copy keeps both.
#[test]
fn the_header_tells_the_byte_order_of_the_bitmaps() {
    let dir = dir();
    let (one, two, old) = (dir.path().join("one"), dir.path().join("two"), dir.path().join("old"));
    let memory =
        memory_of(&(0..200).map(|page| u8::from(page % 3 == 0 || page > 150) * 7).collect::<Vec<_>>());
    let mut head = libvirt_head();
    for number in head[16..36].chunks_mut(4) {
        number.reverse();
    }
    image(&one, &head, &memory);
    let native = ReaderOptions::new().stream_offset(HEAD_LENGTH as u64).open(&one).unwrap();
    let bitmap = native.blocks()[0].layout().bitmap_offset();
    let file = File::options().read(true).write(true).open(&one).unwrap();
    let mut words = [0; 4 * 8];
    file.read_exact_at(&mut words, bitmap).unwrap();
    words.chunks_mut(8).for_each(<[u8]>::reverse);
    file.write_all_at(&words, bitmap).unwrap();

    let source = Reader::open(&one).unwrap();
    for recycle in [None, Some(old.as_path())] {
        fs::write(&old, [0xA5; 9000]).unwrap();
        copy(&source, &two, recycle).unwrap();
        let read = Reader::open(&two).unwrap();
        assert_eq!(read.libvirt(), source.libvirt());
        for reader in [&source, &read] {
            let mut back = vec![0xEE; memory.len()];
            reader.blocks()[0].read_at(0, &mut back).unwrap();
            assert!(back == memory);
        }
    }
    // What is said of the bitmaps is more than what the header tells.
    let reader = ReaderOptions::new().bitmap_encoding(BitmapEncoding::NATIVE).open(&one).unwrap();
    let mut back = vec![0xEE; memory.len()];
    reader.blocks()[0].read_at(0, &mut back).unwrap();
    assert!(back != memory);
}

/// A header can say 4 GiB, all of it a hole: that costs neither memory nor time nor room.
#[test]
fn a_header_of_4_gib_of_nothing_takes_no_room() {
    let dir = dir();
    let (one, two, old) = (dir.path().join("one"), dir.path().join("two"), dir.path().join("old"));
    let memory = memory_of(&[1, 2]);
    let mut head = HEAD.to_vec();
    head[20..24].copy_from_slice(&u32::MAX.to_le_bytes());
    fs::write(&one, &head).unwrap();
    let offset = u64::from(u32::MAX) + 92;
    let mut writer = SaveOptions::new()
        .stream_offset(offset)
        .in_place(&one, vec![RamBlock::new("pc.ram", &memory)])
        .unwrap();
    writer.write_all().unwrap();
    writer.finish(&Tail::minimal()).unwrap();
    let room = |path: &Path| fs::metadata(path).unwrap().blocks() * 512;
    let before = room(&one);
    fs::write(&old, [0xA5; 9000]).unwrap();
    let source = Reader::open(&one).unwrap();
    assert_eq!(source.layout().stream_offset(), offset);
    for recycle in [None, Some(old.as_path())] {
        copy(&source, &two, recycle).unwrap();
        assert!(room(&two) <= before + (1 << 20), "{} bytes of room, {before} before", room(&two));
        let mut back = vec![0; memory.len()];
        Reader::open(&two).unwrap().blocks()[0].read_at(0, &mut back).unwrap();
        assert!(back == memory);
    }
}

#[test]
fn only_a_new_file_takes_over_what_stands_before_another_s_stream() {
    let dir = dir();
    let (one, two) = (dir.path().join("one"), dir.path().join("two"));
    image(&one, &libvirt_head(), &memory_of(&[1]));
    fs::write(&two, "precious").unwrap();
    let source = Reader::open(&one).unwrap();
    let options = || SaveOptions::new().head_of(source.layout()).preamble_of(&source);
    let block = || vec![RamBlock::detached("pc.ram", PAGE as u64)];
    let file = || File::options().read(true).write(true).open(&two).unwrap();
    let storage = || Box::new(mapped_ram::storage::InPlaceFile::open(&two).unwrap());
    for result in [
        options().in_place(&two, block()),
        options().in_file(file(), "two", block()),
        options().with_storage(storage(), block()),
    ] {
        let error = result.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage, "{error}");
        assert!(error.to_string().contains("before its stream"), "{error}");
    }
    assert_eq!(fs::read_to_string(&two).unwrap(), "precious");
    // The last word counts.
    let mut writer = options().stream_offset(8).in_place(&two, block()).unwrap();
    writer.write_from(0, 0, &[1; PAGE]).unwrap();
    writer.finish(&Tail::copied_from(&source)).unwrap();
    assert_eq!(fs::read(&two).unwrap()[..8], *b"precious");
}

/// A disk that loses what stands before the stream.
struct Lost(FileSource);

impl Source for Lost {
    forward!(0: name, len, channel, effective_mode, next_data);

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        if offset < 60_000 && buffer.len() > 92 {
            return Err(io::Error::from_raw_os_error(nix::libc::EIO));
        }
        self.0.read_at(buffer, offset)
    }
}

#[test]
fn a_read_that_fails_before_the_stream_is_told_with_its_place() {
    let dir = dir();
    let (one, two) = (dir.path().join("one"), dir.path().join("two"));
    image(&one, &libvirt_head(), &memory_of(&[1]));
    let source = Lost(FileSource::open(&one).unwrap());
    let source = ReaderOptions::new().from_source(Arc::new(source)).unwrap();
    let error = copy(&source, &two, None).unwrap_err();
    let said = error.to_string();
    assert!(matches!(error, Error::Io { .. }), "{error:?}");
    assert!(
        said.contains("one") && said.contains("before the stream") && said.contains("offset 0x0"),
        "{said}"
    );
    assert!(!two.exists());
}
