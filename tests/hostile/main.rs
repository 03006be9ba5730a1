//! Files that somebody made, or a disk spoiled: each named after what must be rejected, or read safely.
//!
//! The small ones are committed in tests/data/hostile; `cases.rs` says how each was made and what is said of it, and
//! `MAPPED_RAM_BLESS=1 cargo test --test hostile` writes them anew. The huge ones are sparse files made while testing.
//! Whatever a file claims, memory stays bounded by what it holds: an allocator that counts watches over that.

mod allocator;
mod cases;
mod huge;

use std::fs;
use std::path::PathBuf;

use mapped_ram::{Destination, Error, ErrorKind, Reader, ReaderOptions, Result, VerifyOptions};

use crate::allocator::peak_of;
use crate::cases::{Case, cases};

/// What reading a small file may take at most, whatever it claims: some chunks of 4 MiB for each of the channels.
const BOUND: usize = 80 << 20;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/hostile")
}

/// Everything that a reader can be asked about a file. What it gives is checked by the caller; here it only has to end.
fn read_all(path: &PathBuf) -> Result<Vec<String>> {
    let reader = Reader::open(path)?;
    for block in reader.blocks().iter().filter(|block| !block.is_left_out()) {
        block.present_pages()?;
        block.read_at(0, &mut [0; 16])?;
        block.read_at(block.used_length() - 16, &mut [0; 16])?;
        if let Ok(length) = usize::try_from(block.used_length())
            && length <= 1 << 20
        {
            let mut memory = vec![0; length];
            block.load(&mut memory, Destination::Used)?;
        }
    }
    let report = reader.verify(VerifyOptions::new())?;
    Ok(report.problems.iter().map(ToString::to_string).collect())
}

#[test]
fn the_committed_files_are_what_the_cases_say() {
    let bless = std::env::var_os("MAPPED_RAM_BLESS").is_some();
    let mut names = Vec::new();
    for case in cases() {
        let path = folder().join(format!("{}.mram", case.name));
        if bless {
            fs::write(&path, &case.bytes).unwrap();
        }
        assert!(case.bytes.len() < 16 << 10, "{} is large", case.name);
        assert!(fs::read(&path).unwrap() == case.bytes, "{}: made anew it is another file", case.name);
        names.push(path);
    }
    names.sort();
    let mut there: Vec<PathBuf> =
        fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path()).collect();
    there.sort();
    assert_eq!(there, names);
}

#[test]
fn each_is_rejected_or_read_safely_with_the_right_word() {
    let mut wrong = Vec::new();
    for Case { name, expected, words, .. } in cases() {
        let path = folder().join(format!("{name}.mram"));
        let (result, peak) = peak_of(|| read_all(&path));
        let (kind, said) = match result {
            Ok(problems) => (None, problems.join("\n")),
            Err(error) => (Some(error.kind()), error.to_string()),
        };
        let names_file = kind.is_none() || said.contains(&format!("{name}.mram"));
        if kind != expected || !words.iter().all(|word| said.contains(word)) || peak > BOUND || !names_file {
            wrong.push(format!(
                "{name}: expected {expected:?} with {words:?}, got {kind:?} in {peak} bytes: {said}"
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_sound_stream_cut_anywhere_is_never_sound() {
    let sound = cases::sound();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cut.mram");
    // Streams without a vmdescription are whole too: the machine option `suppress-vmdesc` makes them.
    let end_mark = sound.len() - cases::VMDESCRIPTION;
    for length in (0..sound.len()).filter(|length| *length != end_mark) {
        fs::write(&path, &sound[..length]).unwrap();
        match read_all(&path) {
            Ok(problems) => assert!(!problems.is_empty(), "cut to {length} of {} bytes", sound.len()),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Incomplete, "cut to {length}: {error}"),
        }
    }
    fs::write(&path, &sound).unwrap();
    assert_eq!(read_all(&path).unwrap(), Vec::<String>::new());
}

#[test]
fn a_flipped_byte_anywhere_is_read_safely_or_rejected() {
    let sound = cases::sound();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("flipped.mram");
    let mut opened = 0;
    // What pages hold is nobody's business.
    for at in (0..sound.len()).filter(|at| !cases::is_page(*at)) {
        for mask in [0x01, 0x80, 0xFF] {
            let mut bytes = sound.clone();
            bytes[at] ^= mask;
            fs::write(&path, &bytes).unwrap();
            let (result, peak) = peak_of(|| read_all(&path));
            assert!(peak < BOUND, "byte {at} ^ {mask:#x}: {peak} bytes");
            match result {
                Ok(_) => opened += 1,
                Err(Error::Io { .. } | Error::Transfer { .. }) => {
                    panic!("byte {at} ^ {mask:#x} led out of the file")
                }
                Err(_) => {}
            }
        }
    }
    assert!(opened > 0);
}

/// What is salvaged of a file that is cut is right, or an error: a block that is found has the bytes that stand in the file, a tail never
/// comes out as whole.
#[test]
fn what_is_salvaged_of_a_cut_stream_is_what_stands_there() {
    let sound = cases::sound();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cut.mram");
    fs::write(&path, &sound).unwrap();
    let read = |reader: &Reader, index: usize| {
        let block = &reader.blocks()[index];
        let mut bytes = vec![0xEE; usize::try_from(block.used_length()).unwrap()];
        block.read_at(0, &mut bytes).map(|()| bytes)
    };
    let whole = Reader::open(&path).unwrap();
    let memory: Vec<Vec<u8>> = (0..whole.blocks().len()).map(|index| read(&whole, index).unwrap()).collect();
    let mut had = 0;
    for length in 0..sound.len() {
        fs::write(&path, &sound[..length]).unwrap();
        let (result, peak) = peak_of(|| ReaderOptions::new().salvage(true).open(&path));
        assert!(peak < BOUND, "cut to {length}: {peak} bytes");
        let reader = match result {
            Ok(reader) => reader,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Incomplete, "cut to {length}: {error}");
                continue;
            }
        };
        assert_eq!(reader.flaw().is_some(), Reader::open(&path).is_err());
        for (index, block) in reader.blocks().iter().enumerate() {
            match read(&reader, index) {
                Ok(bytes) => {
                    assert!(bytes == memory[index], "cut to {length}: block {index}");
                    had += 1;
                }
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Damaged, "cut to {length}: {error}");
                    assert!((length as u64) < block.layout().end(), "cut to {length}: {error}");
                }
            }
        }
        if reader.flaw().is_some() {
            reader.devices().unwrap_err();
            if length % 64 == 0 {
                reader.verify(VerifyOptions::new()).unwrap_err();
            }
        }
    }
    assert!(had > 0);
}

#[test]
fn what_is_no_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let error = Reader::open(dir.path()).unwrap_err();
    assert!(error.to_string().contains("no regular file"), "{error}");
    let fifo = dir.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    // Nobody waits for a writer.
    let error = Reader::open(&fifo).unwrap_err();
    assert!(error.to_string().contains("no regular file"), "{error}");
}
