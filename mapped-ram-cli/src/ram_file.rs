//! A file that holds a guest's RAM, as memory: QEMU's `memory-backend-file`, a memfd under /proc, a raw image.
//!
//! The guest may be running, so the mapping is never a Rust slice. If the file is cut while it is saved, that is an error as
//! a rule; cut in the moment between the check and the look, the kernel ends the command with SIGBUS. Nothing is left under the
//! output's name either way.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mapped_ram::{Block, Destination, Error, LoadTarget, RamBlock};
use memmap2::{MmapOptions, MmapRaw};
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::statfs::{HUGETLBFS_MAGIC, fstatfs};
use nix::sys::statvfs::fstatvfs;

use crate::args::NamedFile;
use crate::exit::Problem;
use crate::files::open_regular;
use crate::private_mappings;

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

    /// What is to be said of a guest that does not write into the file, but into copies of its own.
    pub(crate) fn hidden_memory(&self, path: &Path) -> Option<String> {
        let processes = private_mappings::hiding(self.mapping.as_ptr().addr());
        let (first, more) = (processes.first()?, processes.len() - 1);
        let more = if more == 0 { String::new() } else { format!(" and {more} more") };
        Some(format!(
            "block `{}`: {first}{more} has {} mapped privately: what it writes to this memory is not in the file, and is not saved; QEMU \
             needs share=on for its memory-backend",
            String::from_utf8_lossy(&self.name),
            path.display()
        ))
    }

    /// What is to be said when no page of the block was anything but zeros.
    pub(crate) fn emptiness(&self, path: &Path) -> String {
        format!(
            "block `{}`: {} has no page that is not zero; QEMU's memory must be mapped with share=on to be saved from its file",
            String::from_utf8_lossy(&self.name),
            path.display()
        )
    }

    /// The block that is saved.
    pub(crate) fn block(&self) -> RamBlock<'_> {
        // SAFETY: the mapping is readable for its length, and stays so for longer than the block: the block borrows it.
        let block =
            unsafe { RamBlock::from_raw(self.name.as_slice(), self.mapping.as_ptr(), self.mapping.len()) };
        block.backed_by(Arc::clone(&self.file), 0).freshly_mapped()
    }
}

/// A file that a block is restored into, shared with whoever has it mapped.
pub(crate) struct GuestRam<'b> {
    block: &'b Block,
    path: PathBuf,
    file: File,
    mapping: MmapRaw,
    /// Whether the file was made here.
    is_new: bool,
    /// Whether something of what it held is gone.
    is_changed: bool,
}

impl<'b> GuestRam<'b> {
    /// Opens the file at `path`, or makes it, for the memory of `block`. Changes nothing in a file that is there.
    pub(crate) fn open(path: &Path, block: &'b Block) -> Result<Self, Problem> {
        let fail = |what: &str| {
            let what = format!("{what} for block `{}`", block.idstr());
            move |error| Problem::io(path, what, error)
        };
        let mut options = File::options();
        options.read(true).write(true).mode(0o600);
        let (file, is_new) = match options.open(path) {
            Ok(file) => (file, false),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                (options.create_new(true).open(path).map_err(fail("make the file"))?, true)
            }
            Err(error) => return Err(fail("open the file for reading and writing")(error)),
        };
        let mapping = map_for(&file, path, block, is_new);
        match mapping {
            Ok(mapping) => {
                Ok(Self { block, path: path.to_owned(), file, mapping, is_new, is_changed: false })
            }
            Err(problem) => {
                if is_new {
                    // Empty, and of no use to anybody.
                    let _ = fs::remove_file(path);
                }
                Err(problem)
            }
        }
    }

    /// Device and number of the file: the same for every path that leads to it.
    pub(crate) fn identity(&self) -> Result<(u64, u64), Problem> {
        let about =
            self.file.metadata().map_err(|error| Problem::io(&self.path, "look at the file", error))?;
        Ok((about.dev(), about.ino()))
    }

    /// Gives up what the file holds; then it is ready to be filled.
    pub(crate) fn target(&mut self) -> Result<LoadTarget<'_>, Problem> {
        self.is_changed = true;
        // All of it becomes a hole, which is zeros and takes no memory. Absent pages stay so.
        let all = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        let length = i64::try_from(self.block.used_length()).unwrap_or(i64::MAX);
        let destination = match fallocate(&self.file, all, 0, length) {
            Ok(()) => Destination::Zeroed,
            // A file system without holes.
            Err(Errno::EOPNOTSUPP) => Destination::Used,
            Err(error) => {
                let what = format!("clear the memory of block `{}`", self.block.idstr());
                return Err(Problem::io(&self.path, what, error.into()));
            }
        };
        let (start, length) = (self.mapping.as_mut_ptr(), self.mapping.len());
        // SAFETY: the mapping is writable for its length, outlives the target, which borrows it, and is never a reference.
        Ok(unsafe { LoadTarget::from_raw(self.block, start, length, destination) })
    }

    /// The error behind `problem`, if that is only how this file looks to who reads into its memory: memory that the file system has
    /// no room for is a bad address to the system.
    pub(crate) fn cause_of(&self, problem: &Problem) -> Option<Problem> {
        let Problem::Library(Error::Load { source, blocks }) = problem else { return None };
        let Error::Transfer { source: transfer, .. } = &**source else { return None };
        let is_here = *transfer.block == *self.block.idstr();
        if !is_here || transfer.source.raw_os_error() != Some(Errno::EFAULT as i32) {
            return None;
        }
        let loaded: Vec<String> = blocks.iter().map(ToString::to_string).collect();
        Some(Problem::Unfilled {
            file: self.path.display().to_string(),
            block: self.block.idstr().into_owned(),
            cause: self.shortage(),
            loaded: loaded.join(", "),
        })
    }

    /// Why the file's memory cannot be written, as well as that can be found out now.
    fn shortage(&self) -> String {
        let wanted = self.block.used_length();
        let about = self.file.metadata();
        if let Some(length) = about.as_ref().ok().map(Metadata::len).filter(|length| *length < wanted) {
            return format!("somebody cut it to {length} bytes meanwhile");
        }
        // Asked for before room is made below.
        let held = about.map_or(0, |about| about.blocks() * 512);
        let present = self.block.present_pages().map_or(0, |pages| pages * self.block.page_size());
        let wanted = present.saturating_sub(held);
        let free =
            fstatvfs(&self.file).map(|about| about.blocks_available().saturating_mul(about.fragment_size()));
        let room = match free {
            Ok(free) if free < wanted => {
                format!(" ({free} bytes are free on its file system, and {wanted} more are needed)")
            }
            _ => String::new(),
        };
        match self.make_room() {
            Err(error) => format!("{}{room}", io::Error::from(error)),
            Ok(()) => format!("its memory cannot be written; has its file system room for it?{room}"),
        }
    }

    /// Asks for the room of all present pages, to hear what the system says. The content is given up already.
    fn make_room(&self) -> Result<(), Errno> {
        let page_size = self.block.page_size();
        let Ok(runs) = self.block.runs_within(0..self.block.pages()) else { return Ok(()) };
        for run in runs {
            let (Ok(start), Ok(length)) =
                (i64::try_from(run.start * page_size), i64::try_from((run.end - run.start) * page_size))
            else {
                return Ok(());
            };
            match fallocate(&self.file, FallocateFlags::FALLOC_FL_KEEP_SIZE, start, length) {
                Ok(()) => {}
                // It does not know, or was not let.
                Err(Errno::EOPNOTSUPP | Errno::EINTR) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Takes a file away that was made here. Otherwise says which file is spoilt, if it is.
    pub(crate) fn abandon(self) -> Option<String> {
        if self.is_new && fs::remove_file(&self.path).is_ok() {
            return None;
        }
        self.is_changed.then(|| self.path.display().to_string())
    }
}

/// Maps `file` for the memory of `block`, and gives it its length if it is new.
fn map_for(file: &File, path: &Path, block: &Block, is_new: bool) -> Result<MmapRaw, Problem> {
    let name = block.idstr();
    if block.is_left_out() {
        return Err(Problem::Usage(format!(
            "block `{name}` is left out of the file (x-ignore-shared); its memory is elsewhere"
        )));
    }
    let wanted = block.used_length();
    if is_new {
        file.set_len(wanted).map_err(|error| {
            refused(file, path, format!("set the file's length for block `{name}`"), wanted, error)
        })?;
    }
    let length =
        file.metadata().map_err(|error| Problem::io(path, "look at the file".to_owned(), error))?.len();
    if length != wanted {
        return Err(Problem::Usage(format!(
            "{} has {length} bytes, block `{name}` {wanted}; they must be the same: give the guest as much memory as the saved one \
             had, or name a file that is not there, and it is made",
            path.display()
        )));
    }
    MmapOptions::new()
        .map_raw(file)
        .map_err(|error| refused(file, path, format!("map the file for block `{name}`"), wanted, error))
}

/// An error of a file that is to hold `wanted` bytes; what hugetlbfs means by it is not in the system's words.
fn refused(file: &File, path: &Path, what: String, wanted: u64, error: io::Error) -> Problem {
    let huge = fstatfs(file).ok().filter(|about| about.filesystem_type() == HUGETLBFS_MAGIC);
    #[allow(clippy::useless_conversion, reason = "signed with glibc, unsigned with musl")]
    let page = huge.and_then(|about| u64::try_from(about.block_size()).ok()).filter(|page| *page > 0);
    let what = match (page, error.raw_os_error().map(Errno::from_raw)) {
        (Some(page), Some(Errno::EINVAL)) => {
            format!("{what}: it has {wanted} bytes, and the file system huge pages of {page}")
        }
        (Some(page), Some(Errno::ENOMEM)) => {
            let pages = wanted.div_ceil(page);
            format!("{what}: that takes {pages} free huge pages of {page} bytes (/proc/sys/vm/nr_hugepages)")
        }
        _ => what,
    };
    Problem::io(path, what, error)
}
