//! A file that holds a guest's RAM, as memory: QEMU's `memory-backend-file`, a memfd under /proc, a raw image.
//!
//! The guest may be running, so the mapping is never a Rust slice. If the file is cut while it is saved, the kernel ends
//! the command with SIGBUS; nothing is left under the output's name then.

use std::fs::File;
use std::sync::Arc;

use mapped_ram::RamBlock;
use memmap2::{MmapOptions, MmapRaw};

use crate::args::NamedFile;
use crate::exit::Problem;
use crate::files::open_regular;

/// A mapped RAM file.
pub(crate) struct RamFile {
    name: Vec<u8>,
    mapping: MmapRaw,
    /// Whose holes say what the guest never touched.
    file: Arc<File>,
}

impl RamFile {
    /// Maps the file for reading, shared with whoever writes it.
    pub(crate) fn open(named: &NamedFile, page_size: u64) -> Result<Self, Problem> {
        let path = &named.path;
        let (file, metadata) = open_regular(path)?;
        let length = metadata.len();
        if length == 0 || !length.is_multiple_of(page_size) {
            return Err(Problem::Usage(format!(
                "--ram {}={}: the file has {length} bytes, which is no multiple of the page size {page_size} (and not 0)",
                named.shown(),
                path.display()
            )));
        }
        let mapping = MmapOptions::new()
            .map_raw_read_only(&file)
            .map_err(|error| Problem::io(path, "map the file into memory", error))?;
        Ok(Self { name: named.name.clone(), mapping, file: Arc::new(file) })
    }

    /// The block that is saved.
    pub(crate) fn block(&self) -> RamBlock<'_> {
        // SAFETY: the mapping is readable for its length, and stays so for longer than the block: the block borrows it.
        let block =
            unsafe { RamBlock::from_raw(self.name.as_slice(), self.mapping.as_ptr(), self.mapping.len()) };
        block.backed_by(Arc::clone(&self.file), 0)
    }
}
