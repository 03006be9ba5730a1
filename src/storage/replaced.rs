//! The file whose name a new one takes, kept until the new one has it.
//!
//! To give a file's room back takes a file system long (0.17 to 0.2 s for a GiB on ext4 mounted with `discard`), and it is done in the
//! call that takes the last name away. A descriptor that is held meanwhile puts that off until it is closed, and a thread of
//! its own closes it: whoever saved need not wait for the old file's end.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::thread::JoinHandle;

use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

/// A smaller file is given up on the spot: a thread costs as much.
const FROM: u64 = 16 << 20;

/// What `name` stood for, if it is worth a thread.
#[derive(Debug)]
pub(super) struct Replaced(Option<File>);

impl Replaced {
    /// Takes hold of the file that is called `name` in `directory`. Without it, whatever the reason, the time is spent where the name
    /// is taken.
    pub(super) fn hold(directory: impl AsFd, name: &OsStr) -> Self {
        // Opens nothing, and waits for nobody: it only stands for the file.
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let held = openat(directory, name, flags, Mode::empty()).map(File::from);
        Self(held.ok().filter(|file| {
            file.metadata()
                .is_ok_and(|about| about.is_file() && about.nlink() == 1 && about.blocks() * 512 >= FROM)
        }))
    }

    /// Lets the file end, now that its name is another's. Nobody has to wait for the thread.
    pub(super) fn let_go(self) -> Option<JoinHandle<()>> {
        let file = self.0?;
        // Where no thread can be had, the file is closed here.
        std::thread::Builder::new().name("mapped-ram-free".to_owned()).spawn(move || drop(file)).ok()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::fd::AsRawFd;
    use std::path::Path;

    use super::super::open::proc_path;
    use super::*;

    fn hold(path: &Path) -> Replaced {
        Replaced::hold(File::open(path.parent().unwrap()).unwrap(), path.file_name().unwrap())
    }

    #[test]
    fn a_large_file_outlives_its_name_until_it_is_let_go() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("old");
        fs::write(&path, vec![7; usize::try_from(FROM).unwrap()]).unwrap();
        File::open(&path).unwrap().sync_all().unwrap();
        let old = hold(&path);
        fs::write(dir.path().join("new"), b"new").unwrap();
        fs::rename(dir.path().join("new"), &path).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        let held = proc_path(old.0.as_ref().unwrap().as_raw_fd());
        assert!(fs::read_link(&held).unwrap().to_str().unwrap().ends_with("old (deleted)"));
        old.let_go().unwrap().join().unwrap();
        assert!(fs::read_link(&held).is_ok_and(|to| !to.ends_with("old (deleted)")) || !held.exists());
    }

    #[test]
    fn what_is_small_or_lives_on_or_is_no_file_is_not_held() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("old");
        assert!(hold(&path).0.is_none());
        fs::write(&path, b"small").unwrap();
        assert!(hold(&path).0.is_none());
        assert!(hold(&path).let_go().is_none());
        fs::write(&path, vec![7; usize::try_from(FROM).unwrap()]).unwrap();
        File::open(&path).unwrap().sync_all().unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(hold(&link).0.is_none());
        fs::hard_link(&path, dir.path().join("other")).unwrap();
        assert!(hold(&path).0.is_none());
        assert!(hold(dir.path()).0.is_none());
    }
}
