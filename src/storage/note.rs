//! A note on a file: its clear pages hold no bytes but zeros, so that it can be mapped without a look at it.
//!
//! A save that left no stale bytes behind knows so, and who maps the file would have to find it out again: a question to the
//! file system, and a look at the bitmap, for each run of pages. The note is an extended attribute of the file, for the format
//! has no place for it and the file's bytes stay what QEMU would have written. It says of which state of the file it speaks,
//! length and time of the last change, so that whoever writes the file takes its force from it, as far as the file system tells time:
//! where it counts whole seconds, two changes may be of one time, and there is no note. (Who sets the time back can deceive it.)
//! Lost, by a copy that leaves attributes behind or on a file system that has none, it costs time and nothing else.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;

use rustix::fs::{XattrFlags, fgetxattr, fremovexattr, fsetxattr};

const NAME: &str = "user.mapped-ram.clean";

/// No note is longer, in bytes.
const LONGEST: usize = 128;

/// In which state a file is: the same, as long as nobody writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileState {
    /// The file's length, in bytes.
    pub length: u64,
    /// When its bytes were last changed: seconds since 1970, and nanoseconds.
    pub modified: (i64, i64),
}

impl FileState {
    pub(super) fn of(file: &File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        Ok(Self { length: metadata.len(), modified: (metadata.mtime(), metadata.mtime_nsec()) })
    }

    /// What the note says of a stream that begins at `stream_offset`. Short: an attribute of some ninety bytes has room in an inode of
    /// ext4's, and a longer one takes a block of its own, which a cold file then has to fetch.
    fn note(&self, stream_offset: u64) -> String {
        let Self { length, modified: (seconds, nanoseconds) } = self;
        format!("1 {stream_offset:x} {length:x} {seconds:x}.{nanoseconds:x}")
    }
}

/// Puts the note on `file`, of a stream in it and of the state that the file was in when its clear pages were known to be clean.
pub(super) fn put(file: &File, stream_offset: u64, state: &FileState) -> io::Result<()> {
    if state.modified.1 == 0 {
        let what = "this file system counts the time of changes in whole seconds, or this file's was set";
        return Err(io::Error::new(io::ErrorKind::Unsupported, what));
    }
    Ok(fsetxattr(file, NAME, state.note(stream_offset).as_bytes(), XattrFlags::empty())?)
}

/// Whether there is such a note and nobody has written the file since.
pub(super) fn holds(file: &File, stream_offset: u64) -> bool {
    let mut bytes = [0; LONGEST];
    let Ok(length) = fgetxattr(file, NAME, &mut bytes[..]) else { return false };
    let Ok(state) = FileState::of(file) else { return false };
    bytes[..length] == *state.note(stream_offset).as_bytes()
}

/// Takes the note away, before the file is written over.
pub(super) fn forget(file: &File) {
    // It would have no force any more. This only spares whoever looks at the file's attributes the question.
    let _ = fremovexattr(file, NAME);
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;
    use std::time::{Duration, SystemTime};

    use super::*;

    /// A file on which a note can be left, if there is such a thing here.
    fn file() -> Option<File> {
        let file = tempfile::tempfile_in(env!("CARGO_MANIFEST_DIR").to_owned() + "/target")
            .or_else(|_| tempfile::tempfile())
            .unwrap();
        match fsetxattr(&file, "user.mapped-ram.test", b"1", XattrFlags::empty()) {
            Ok(()) => Some(file),
            Err(error) => {
                eprintln!("NOT TESTED: notes on files: no extended attributes: {error}");
                assert!(
                    std::env::var_os("MAPPED_RAM_REQUIRE_NOTES").is_none(),
                    "notes on files cannot be tested here"
                );
                None
            }
        }
    }

    #[test]
    fn a_note_is_about_one_stream_in_one_state_of_the_file() {
        let Some(file) = file() else { return };
        let age = |file: &File| {
            file.set_modified(SystemTime::UNIX_EPOCH + Duration::new(1_700_000_000, 5)).unwrap();
        };
        file.write_all_at(&[7; 100], 0).unwrap();
        age(&file);
        assert!(!holds(&file, 0));
        let state = FileState::of(&file).unwrap();
        assert_eq!(state, FileState { length: 100, modified: (1_700_000_000, 5) });
        put(&file, 0, &state).unwrap();
        assert!(holds(&file, 0));
        assert!(!holds(&file, 1), "of another stream");

        file.write_all_at(&[7], 50).unwrap();
        assert!(!holds(&file, 0), "written");
        age(&file);
        assert!(holds(&file, 0));
        file.set_len(101).unwrap();
        age(&file);
        assert!(!holds(&file, 0), "longer");
        put(&file, 0, &state).unwrap();
        assert!(!holds(&file, 0), "a note of the state before");
        put(&file, 0, &FileState::of(&file).unwrap()).unwrap();
        assert!(holds(&file, 0));
        forget(&file);
        assert!(!holds(&file, 0));
    }

    #[test]
    fn what_is_no_note_of_ours_has_no_force() {
        let Some(file) = file() else { return };
        let state = FileState::of(&file).unwrap();
        let note = state.note(u64::MAX);
        assert!(note.len() <= LONGEST);
        for wrong in [&b""[..], &[b'1'; 1000], &note.as_bytes()[..note.len() - 1], b"\xff\xfe"] {
            fsetxattr(&file, NAME, wrong, XattrFlags::empty()).unwrap();
            assert!(!holds(&file, u64::MAX));
        }
    }
}
