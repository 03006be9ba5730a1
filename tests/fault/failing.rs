//! A source that cannot read a part of its file.

use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use mapped_ram::storage::{FileSource, IoMode, Source};
use multifd_pool::{Channel, IoVec};
use nix::libc;

#[derive(Clone)]
pub(crate) struct Broken {
    file: Arc<FileSource>,
    bad: Range<u64>,
    pub(crate) fails: Arc<AtomicBool>,
    /// The channels that it does not give, by their numbers.
    pub(crate) refused: Range<usize>,
}

impl Broken {
    pub(crate) fn new(path: &Path, bad: Range<u64>) -> Self {
        let file = Arc::new(FileSource::open(path).unwrap());
        Self { file, bad, fails: Arc::new(AtomicBool::new(true)), refused: 0..0 }
    }

    fn check(&self, offset: u64, length: usize) -> io::Result<()> {
        let touches = offset < self.bad.end && self.bad.start < offset + length as u64;
        if touches && self.fails.load(Ordering::SeqCst) {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        Ok(())
    }
}

impl Source for Broken {
    forward!(file: name, len, read_at, file);

    fn channel(&self, index: usize, mode: IoMode) -> io::Result<Box<dyn Channel>> {
        if self.refused.contains(&index) {
            return Err(io::Error::from_raw_os_error(libc::EMFILE));
        }
        Ok(Box::new(BrokenChannel { source: self.clone(), inner: self.file.channel(index, mode)? }))
    }
}

struct BrokenChannel {
    source: Broken,
    inner: Box<dyn Channel>,
}

impl Channel for BrokenChannel {
    unsafe fn write_at(&mut self, _vecs: &[IoVec], _offset: u64) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }

    unsafe fn read_at(&mut self, vecs: &[IoVec], offset: u64) -> io::Result<usize> {
        self.source.check(offset, vecs.iter().map(IoVec::len).sum())?;
        // SAFETY: the caller's promise, passed on.
        unsafe { self.inner.read_at(vecs, offset) }
    }
}
