//! A file system that fills up.

use std::path::Path;

use nix::mount::{MsFlags, mount, umount};
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
        let dir = tempfile::tempdir()?;
        let options = format!("size={bytes},mode=0700");
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
        // Left to the system if something still has it open.
        let _ = umount(self.dir.path());
    }
}
