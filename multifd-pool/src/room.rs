//! The room that a file takes on its file system: had before it is written, and emptied.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// In how many pieces a range is cleared that keeps its room. Where old data lies in more, all of the rest is given back to the file
/// system: one call for it costs less than one for each piece.
const PIECES: usize = 64;

/// Has room found for `length` bytes at `offset`, as far as the file system can do that.
pub(crate) fn reserve(file: &File, offset: u64, length: u64) -> io::Result<()> {
    match fallocate(file, libc::FALLOC_FL_KEEP_SIZE, offset, length) {
        // A disk that is full, or broken, is told as early as it is known. All else is a file system that has no such
        // thing, or not here.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT | libc::EIO)) => {
            Err(error)
        }
        _ => Ok(()),
    }
}

/// Makes `length` bytes at `offset` read as zeros; the file's length stays as it is. What is data keeps its blocks if `keeps_room`,
/// as far as the file system can do that and there are few pieces of it.
pub(crate) fn clear(file: &File, offset: u64, length: u64, keeps_room: bool) -> io::Result<()> {
    clear_by(fallocate, file, offset, length, keeps_room)
}

/// `fallocate(2)`, or what a test puts in its place: file, mode, offset and length.
type Fallocate = fn(&File, libc::c_int, u64, u64) -> io::Result<()>;

fn clear_by(fallocate: Fallocate, file: &File, offset: u64, length: u64, keeps_room: bool) -> io::Result<()> {
    let end = offset.saturating_add(length);
    let at = if keeps_room { zero_data(fallocate, file, offset, end)? } else { offset };
    if at == end {
        return Ok(());
    }
    let punch = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    match fallocate(file, punch, at, end - at) {
        Err(error) if is_unknown(&error) => write_zeros(file, at, end - at),
        other => other,
    }
}

/// Zeros the data from `at` to `end` where it stands, and says up to where that was done.
///
/// Only data: where nothing was written there is nothing to clear, and the call would have blocks allotted there.
fn zero_data(fallocate: Fallocate, file: &File, mut at: u64, end: u64) -> io::Result<u64> {
    for _ in 0..PIECES {
        // Where the file system does not say, nothing is kept: then a hole is made, and that tells what is wrong, if anything is.
        let Ok(data) = seek(file, at, libc::SEEK_DATA) else { return Ok(at) };
        let Some(start) = data.filter(|start| *start < end) else { return Ok(end) };
        let Ok(hole) = seek(file, start, libc::SEEK_HOLE) else { return Ok(at) };
        let stop = hole.map_or(end, |stop| stop.min(end));
        let zero = libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE;
        match fallocate(file, zero, start, stop.saturating_sub(start)) {
            Err(error) if is_unknown(&error) => return Ok(at),
            other => other?,
        }
        at = stop;
        if at >= end {
            return Ok(end);
        }
    }
    Ok(at)
}

/// Whether the file system has no such thing. EOPNOTSUPP as a rule, but fuse2fs says EINVAL, and those who write files in user
/// space may say what they like.
fn is_unknown(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EINVAL | libc::ENOSYS | libc::EPERM))
}

/// `lseek(2)` for data or holes; `None` where there is none any more before the file ends. A file system that knows no holes
/// says that all is data.
fn seek(file: &File, offset: u64, whence: libc::c_int) -> io::Result<Option<u64>> {
    // SAFETY: a descriptor that is open, and numbers.
    let found = unsafe { libc::lseek(file.as_raw_fd(), off(offset)?, whence) };
    u64::try_from(found).map(Some).or_else(|_| {
        let error = io::Error::last_os_error();
        if error.raw_os_error() == Some(libc::ENXIO) { Ok(None) } else { Err(error) }
    })
}

/// `fallocate(2)`, again and again while it is interrupted.
fn fallocate(file: &File, mode: libc::c_int, offset: u64, length: u64) -> io::Result<()> {
    let (offset, length) = (off(offset)?, off(length)?);
    loop {
        // SAFETY: a descriptor that is open, and numbers.
        if unsafe { libc::fallocate(file.as_raw_fd(), mode, offset, length) } == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

fn off(value: u64) -> io::Result<libc::off_t> {
    libc::off_t::try_from(value).map_err(|_| io::Error::from_raw_os_error(libc::EFBIG))
}

/// Zeros where there are no holes, up to the file's end: behind it there is nothing to clear.
fn write_zeros(file: &File, offset: u64, length: u64) -> io::Result<()> {
    use std::os::unix::fs::FileExt;
    static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
    let end = (offset + length).min(file.metadata()?.len());
    let mut at = offset;
    while at < end {
        let count = usize::try_from(end - at).unwrap_or(usize::MAX).min(ZEROS.len());
        file.write_all_at(&ZEROS[..count], at)?;
        at += count as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileExt as _, MetadataExt as _};

    use proptest::prelude::*;

    use super::*;

    const BLOCK: u64 = 4096;

    /// Whether the file system can keep the room of what is cleared: asked behind the file's end, where nothing is.
    fn knows_ranges_of_zeros(file: &File) -> bool {
        let end = file.metadata().unwrap().len().next_multiple_of(BLOCK);
        let known =
            fallocate(file, libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE, end, BLOCK).is_ok();
        if known {
            fallocate(file, libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE, end, BLOCK).unwrap();
        }
        known
    }

    /// A file system that takes of the modes of `fallocate(2)` only those that `takes` has, and says `error` to others.
    macro_rules! fussy {
        ($takes:expr, $error:expr) => {
            |file: &File, mode, offset, length| {
                let takes: &[libc::c_int] = $takes;
                if takes.iter().any(|taken| mode & taken != 0) {
                    super::fallocate(file, mode, offset, length)
                } else {
                    Err(io::Error::from_raw_os_error($error))
                }
            }
        };
    }

    const ZERO: libc::c_int = libc::FALLOC_FL_ZERO_RANGE;
    const PUNCH: libc::c_int = libc::FALLOC_FL_PUNCH_HOLE;

    /// Bytes of 7, of which `offset` to `offset + length` were cleared, must be those that are expected.
    fn expect_cleared(fallocate: Fallocate, offset: u64, length: u64, keeps_room: bool) {
        let file = tempfile::tempfile().unwrap();
        let mut expected = vec![7; 100_000];
        file.write_all_at(&expected, 0).unwrap();
        clear_by(fallocate, &file, offset, length, keeps_room).unwrap();
        let within = |at: u64| usize::try_from(at).unwrap().min(expected.len());
        let cleared = within(offset)..within(offset + length);
        expected[cleared].fill(0);
        let mut bytes = vec![0xEE; expected.len()];
        file.read_exact_at(&mut bytes, 0).unwrap();
        assert!(bytes == expected);
        assert_eq!(file.metadata().unwrap().len(), expected.len() as u64);
    }

    #[test]
    fn a_disk_that_is_full_or_broken_is_told() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&[7; 10_000], 0).unwrap();
        let broken: [(Fallocate, libc::c_int); 3] = [
            (fussy!(&[], libc::ENOSPC), libc::ENOSPC),
            (fussy!(&[], libc::EDQUOT), libc::EDQUOT),
            (fussy!(&[], libc::EIO), libc::EIO),
        ];
        for ((fallocate, error), keeps_room) in broken.iter().flat_map(|one| [(one, false), (one, true)]) {
            let told = clear_by(*fallocate, &file, 0, 10_000, keeps_room).unwrap_err();
            assert_eq!(told.raw_os_error(), Some(*error));
        }
    }

    proptest! {
        #[test]
        fn what_a_file_system_refuses_is_done_in_another_way(
            offset in 0_u64..100_000,
            length in 1_u64..150_000,
            keeps_room in any::<bool>(),
        ) {
            let fussy: [Fallocate; 7] = [
                fussy!(&[PUNCH], libc::EOPNOTSUPP),
                // fuse2fs.
                fussy!(&[PUNCH], libc::EINVAL),
                fussy!(&[PUNCH], libc::EPERM),
                fussy!(&[ZERO], libc::EINVAL),
                fussy!(&[], libc::EOPNOTSUPP),
                fussy!(&[], libc::EINVAL),
                fussy!(&[], libc::ENOSYS),
            ];
            for fallocate in fussy {
                expect_cleared(fallocate, offset, length, keeps_room);
            }
        }

        #[test]
        fn zeros_are_written_up_to_the_end_and_no_further(
            length in 0_usize..300_000,
            offset in prop_oneof![1 => Just(0), 1 => Just(1), 3 => 0_u64..300_000],
            count in 0_u64..300_000,
        ) {
            let file = tempfile::tempfile().unwrap();
            let mut expected = vec![7; length];
            file.write_all_at(&expected, 0).unwrap();
            write_zeros(&file, offset, count).unwrap();
            let within = |at: u64| usize::try_from(at).unwrap().min(length);
            expected[within(offset)..within(offset + count)].fill(0);
            let mut bytes = vec![0xEE; length];
            file.read_exact_at(&mut bytes, 0).unwrap();
            prop_assert!(bytes == expected);
            prop_assert_eq!(file.metadata().unwrap().len(), length as u64);
        }

        /// More pieces of data than are zeroed one by one, sometimes; on a file system that can keep room, and on one that cannot.
        #[test]
        fn what_is_cleared_reads_as_zeros_and_takes_no_more_room(
            runs in prop::collection::vec((0_u64..4, 1_u64..4), 0..2 * PIECES),
            (offset, count) in prop_oneof![
                (0_u64..500 * BLOCK, 0_u64..500 * BLOCK),
                (0_u64..200, 0_u64..200).prop_map(|(offset, count)| (offset * BLOCK, count * BLOCK)),
            ],
            (keeps_room, in_memory) in any::<(bool, bool)>(),
        ) {
            let file = if in_memory { tempfile::tempfile_in("/dev/shm") } else { tempfile::tempfile() }.unwrap();
            let mut expected = Vec::new();
            let pieces = runs.len();
            for (gap, length) in runs {
                expected.resize(expected.len() + usize::try_from(gap * BLOCK).unwrap(), 0);
                let run = vec![7; usize::try_from(length * BLOCK).unwrap()];
                file.write_all_at(&run, expected.len() as u64).unwrap();
                expected.extend(run);
            }
            // The file system gives blocks to what is written only when it must say how many there are.
            file.sync_all().unwrap();
            let keeps = keeps_room && pieces <= PIECES && knows_ranges_of_zeros(&file);
            let before = file.metadata().unwrap().blocks();
            clear(&file, offset, count, keeps_room).unwrap();
            let within = |at: u64| usize::try_from(at).unwrap().min(expected.len());
            let cleared = within(offset)..within(offset + count);
            expected[cleared].fill(0);
            let mut bytes = vec![0xEE; expected.len()];
            file.read_exact_at(&mut bytes, 0).unwrap();
            prop_assert!(bytes == expected);
            prop_assert_eq!(file.metadata().unwrap().len(), expected.len() as u64);
            // A tree of extents takes a block or two.
            let after = file.metadata().unwrap().blocks();
            prop_assert!(after <= before + 32, "{after} blocks, {before} before");
            prop_assert!(!keeps || after + 32 >= before, "{after} blocks, {before} before");
        }
    }
}
