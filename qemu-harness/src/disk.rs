//! A file system that fills up.

use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use tempfile::TempDir;

use crate::error::{Error, Result};

/// A tmpfs of a given size, unmounted when dropped.
#[derive(Debug)]
pub struct SmallDisk {
    dir: TempDir,
}

impl SmallDisk {
    /// Mounts one of `bytes` bytes.
    ///
    /// # Errors
    /// Where mounting is not allowed.
    pub fn new(bytes: u64) -> Result<Self> {
        Self::mounted(bytes, "")
    }

    /// As [`new`](Self::new), of huge pages wherever they can be had: how a guest's memory lies.
    ///
    /// # Errors
    /// Where mounting is not allowed, and where the kernel has no huge pages for a tmpfs.
    pub fn of_huge_pages(bytes: u64) -> Result<Self> {
        Self::mounted(bytes, ",huge=always")
    }

    fn mounted(bytes: u64, further: &str) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let options = format!("size={bytes},mode=0700{further}");
        mount(Some("tmpfs"), dir.path(), Some("tmpfs"), MsFlags::empty(), Some(options.as_str()))
            .map_err(|error| Error::new(format!("mounting a tmpfs: {error}")))?;
        Ok(Self { dir })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Detached even while something has it open, so that a test that fails leaves no mount behind.
        let _ = umount2(self.dir.path(), MntFlags::MNT_DETACH);
    }
}
