//! Transfers that are given together, and what becomes of them, whatever the ring makes of them.
#![cfg(feature = "io-uring")]

mod reads;
mod writes;

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;

use multifd_pool::{Alignment, Channel, FileChannel, UringChannel};

const LENGTH: usize = 256 << 10;

fn memory() -> Arc<Vec<u8>> {
    Arc::new((0..LENGTH).map(|i| u8::try_from(i % 251).unwrap() + 1).collect())
}

/// Two descriptors of a file on the disk that the build is on; neither is direct where its file system has no such thing.
fn files() -> (File, File) {
    let named = tempfile::NamedTempFile::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let open = |flags| OpenOptions::new().read(true).write(true).custom_flags(flags).open(named.path());
    let direct = open(libc::O_DIRECT).or_else(|_| open(0)).unwrap();
    (direct, named.into_file())
}

/// A ring. Where the kernel gives this process none (a container, often), what takes its place is tested, and that is said.
fn ring(direct: &File, buffered: &File, alignment: Alignment, direct_from: usize) -> Box<dyn Channel> {
    let (direct, buffered) = (direct.try_clone().unwrap(), buffered.try_clone().unwrap());
    if UringChannel::is_available() {
        return Box::new(UringChannel::new(direct, buffered, alignment, direct_from).unwrap());
    }
    eprintln!(
        "NOT TESTED: this kernel, or its settings, gives no io_uring; the mixed channel was tested in its place"
    );
    Box::new(FileChannel::mixed(direct, buffered, alignment, direct_from))
}

/// Linux 5.6 and later know all that a ring is for, if they give one at all.
#[test]
fn rings_are_available_where_one_can_be_had() {
    let (direct, buffered) = files();
    let alignment = Alignment { memory: 4096, offset: 4096 };
    let ring = UringChannel::new(direct, buffered, alignment, 0);
    assert_eq!(UringChannel::is_available(), ring.is_ok());
}
