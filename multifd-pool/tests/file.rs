//! Real files, buffered and direct, with every kind of alignment.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::Arc;

use multifd_pool::{Alignment, Cancel, FileChannel, IoVec, read_exact_at, write_all_at};
use proptest::prelude::*;

const LENGTH: usize = 64 << 10;

/// A file on the disk that the build is on, and a direct descriptor where its file system has such a thing.
fn files() -> (File, Option<File>) {
    let named = tempfile::NamedTempFile::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let direct =
        OpenOptions::new().read(true).write(true).custom_flags(libc::O_DIRECT).open(named.path()).ok();
    let buffered = named.into_file();
    buffered.set_len(LENGTH as u64).unwrap();
    (buffered, direct)
}

fn channel(buffered: &File, direct: Option<File>) -> FileChannel {
    let buffered = buffered.try_clone().unwrap();
    match direct {
        Some(direct) => {
            let alignment = Alignment::of(&direct).unwrap();
            assert!(alignment.memory.is_power_of_two() && alignment.offset.is_power_of_two());
            FileChannel::direct(direct, buffered, alignment)
        }
        None => FileChannel::buffered(buffered),
    }
}

proptest! {
    #[test]
    fn any_alignment_reads_back_what_was_written(
        direct in any::<bool>(),
        pieces in prop::collection::vec((0_usize..9000, prop_oneof![0_usize..9000, (0_usize..4).prop_map(|n| n * 4096)]), 1..6),
        offset in prop_oneof![0_u64..9000, (0_u64..4).prop_map(|n| n * 4096)],
        aligned in any::<bool>(),
        byte in 1_u8..255,
    ) {
        let (file, direct_file) = files();
        let mut channel = channel(&file, direct_file.filter(|_| direct));
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
}

#[test]
fn offsets_past_the_largest_are_an_error() {
    let (file, _) = files();
    let byte = [1_u8];
    let vec = IoVec::from_const(byte.as_ptr(), 1);
    let name: Arc<str> = Arc::from("ram0");
    let mut channel = channel(&file, None);
    // SAFETY: `byte` lives until the call returns.
    let result = unsafe { write_all_at(&mut channel, &name, &[vec], u64::MAX - 10, &Cancel::new()) };
    assert!(result.is_err());
}
