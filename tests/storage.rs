//! Files that appear whole or not at all: with and without the kernel's nameless files.

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;

use mapped_ram::storage::{AtomicFile, IoMode, Storage};
use multifd_pool::{Cancel, IoVec, write_all_at};
use tempfile::TempDir;

type Create = fn(&Path) -> io::Result<AtomicFile>;

const BOTH: [(&str, Create); 2] = [("nameless", AtomicFile::create), ("named", AtomicFile::create_named)];

fn dir() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn write(file: &mut AtomicFile, bytes: &[u8], mode: IoMode) {
    let mut channel = file.channel(0, mode).unwrap();
    let vec = IoVec::from_const(bytes.as_ptr(), bytes.len());
    // SAFETY: `bytes` is borrowed for longer than the call.
    unsafe { write_all_at(&mut *channel, &Arc::from("test"), &[vec], 0, &Cancel::new()) }.unwrap();
}

fn visible(dir: &TempDir) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.starts_with(".mapped-ram-"))
        .collect();
    names.sort();
    names
}

#[test]
fn a_file_has_its_name_once_it_is_published() {
    for (how, create) in BOTH {
        for mode in [IoMode::Buffered, IoMode::Direct] {
            let dir = dir();
            let path = dir.path().join("file");
            let mut file = create(&path).unwrap();
            write(&mut file, b"content", mode);
            assert_eq!(visible(&dir), Vec::<String>::new(), "{how}");
            file.sync().unwrap();
            file.publish(true).unwrap();
            drop(file);
            assert_eq!(fs::read(&path).unwrap(), b"content", "{how}");
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600, "{how}");
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "{how}");
        }
    }
}

#[test]
fn an_older_file_stays_until_then_and_is_replaced_whole() {
    for (how, create) in BOTH {
        let dir = dir();
        let path = dir.path().join("file");
        fs::write(&path, "old").unwrap();
        let mut file = create(&path).unwrap();
        write(&mut file, b"new", IoMode::Buffered);
        file.sync().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"old", "{how}");
        file.publish(true).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new", "{how}");
        drop(file);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "{how}");
    }
}

#[test]
fn a_file_that_is_dropped_before_leaves_nothing() {
    for (how, create) in BOTH {
        let dir = dir();
        let path = dir.path().join("file");
        let mut file = create(&path).unwrap();
        write(&mut file, b"lost", IoMode::Buffered);
        drop(file);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "{how}");
    }
}

#[test]
fn a_name_that_somebody_took_meanwhile_is_replaced_all_the_same() {
    for (how, create) in BOTH {
        let dir = dir();
        let path = dir.path().join("file");
        let mut file = create(&path).unwrap();
        write(&mut file, b"mine", IoMode::Buffered);
        fs::write(&path, "theirs").unwrap();
        file.sync().unwrap();
        file.publish(false).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"mine", "{how}");
    }
}

#[test]
fn a_symbolic_link_stays_and_what_it_points_to_is_replaced() {
    for (how, create) in BOTH {
        let (dir, elsewhere) = (dir(), dir());
        let target = elsewhere.path().join("target");
        fs::write(&target, "old").unwrap();
        let link = dir.path().join("link");
        symlink(&target, &link).unwrap();
        let mut file = create(&link).unwrap();
        write(&mut file, b"new", IoMode::Buffered);
        file.sync().unwrap();
        file.publish(true).unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink(), "{how}");
        assert_eq!(fs::read(&target).unwrap(), b"new", "{how}");
    }
}

#[test]
fn what_cannot_be_replaced_is_refused_at_once() {
    for (how, create) in BOTH {
        let dir = dir();
        let dangling = dir.path().join("dangling");
        symlink("nowhere", &dangling).unwrap();
        let error = create(&dangling).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound, "{how}");
        assert!(error.to_string().contains("a symbolic link to nothing"), "{how}: {error}");
        let error = create(&dir.path().join("new/")).unwrap_err();
        assert!(error.to_string().contains("ends in a slash"), "{how}: {error}");
        assert_eq!(create(dir.path()).unwrap_err().kind(), io::ErrorKind::InvalidInput, "{how}");
        assert!(create(&dir.path().join("missing/file")).is_err(), "{how}");
        assert!(create(Path::new("/")).is_err(), "{how}");
        assert!(create(Path::new("/dev/null")).is_err(), "{how}");
        assert!(create(&dir.path().join("..")).is_err(), "{how}");
        assert_eq!(visible(&dir), ["dangling"], "{how}");
    }
}
