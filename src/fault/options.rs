//! How memory is filled on demand: by which descriptor, from what, and by whom beside the one thread that is told of faults.

use std::io;
use std::marker::PhantomData;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;

use multifd_pool::Cancel;

use super::background::{self, Plan};
use super::handler::FaultHandler;
use super::message::GuestRegion;
use super::pages::BlockPages;
use super::region::{Wanted, check};
use super::serve::{Server, Setup};
use super::shared::Shared;
use super::socket::Received;
use super::uffd::Descriptor;
use crate::convert::to_u64;
use crate::error::{Error, Result};
use crate::map::host_page;
use crate::read::{Block, Reader, default_channels};
use crate::storage::IoMode;
use crate::working_set::WorkingSet;

/// What is filled beside what is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fill {
    /// Nothing: memory holds what was touched.
    Nothing,
    /// The rest, by the channels, from the start on.
    #[default]
    All,
}

/// Memory of this process that is to hold a block, or a part of one.
#[derive(Debug)]
#[must_use = "memory is filled only when `FaultOptions::start` is given it"]
pub struct FaultTarget<'b> {
    block: &'b Block,
    offset: u64,
    start: *mut u8,
    length: usize,
    page_size: Option<u64>,
    memory: PhantomData<*mut [u8]>,
}

impl<'b> FaultTarget<'b> {
    /// The block's first `length` bytes into the memory at `start`, which is in pages of the host's usual size.
    pub fn new(block: &'b Block, start: *mut u8, length: usize) -> Self {
        Self { block, offset: 0, start, length, page_size: None, memory: PhantomData }
    }

    /// The memory holds the block from this offset on, in bytes.
    pub fn offset(mut self, offset: u64) -> Self {
        self.offset = offset;
        self
    }

    /// The memory's page size in bytes: 2 MiB for huge pages of hugetlbfs.
    pub fn page_size(mut self, bytes: u64) -> Self {
        self.page_size = Some(bytes);
        self
    }
}

/// How memory is filled on demand.
///
/// ```no_run
/// # fn main() -> mapped_ram::Result<()> {
/// use mapped_ram::Reader;
/// use mapped_ram::fault::{FaultOptions, FaultTarget};
/// # let (start, length) = (std::ptr::null_mut(), 0);
///
/// let reader = Reader::open("guest.mram")?;
/// let block = reader.block("ram0").unwrap();
/// // SAFETY: `start` to `start + length` is a memfd that was mapped for this and that nobody has touched.
/// let handler = unsafe { FaultOptions::new().start(&[FaultTarget::new(block, start, length)]) }?;
/// // The guest runs from here on; its pages come as it touches them.
/// handler.wait()?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use = "options do nothing until `start` or `serve` is called"]
pub struct FaultOptions {
    fill: Fill,
    channels: usize,
    io_mode: IoMode,
    prefetch: Vec<WorkingSet>,
    record: bool,
    user_mode_only: bool,
    block: Option<Vec<u8>>,
    cancel: Cancel,
}

impl Default for FaultOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl FaultOptions {
    /// The rest is filled by as many channels as there are cores, at most 8, through the page cache.
    pub fn new() -> Self {
        Self {
            fill: Fill::All,
            channels: default_channels(),
            io_mode: IoMode::Buffered,
            prefetch: Vec::new(),
            record: false,
            user_mode_only: false,
            block: None,
            cancel: Cancel::new(),
        }
    }

    /// What is filled beside what is asked for.
    pub fn fill(mut self, fill: Fill) -> Self {
        self.fill = fill;
        self
    }

    /// How many threads fill the rest, 1 to 255.
    pub fn channels(mut self, channels: usize) -> Self {
        self.channels = channels;
        self
    }

    /// How the channels read: through the page cache or past it. What is asked for always comes through it.
    pub fn io_mode(mut self, mode: IoMode) -> Self {
        self.io_mode = mode;
        self
    }

    /// What is filled first, in this order: what an earlier guest asked for. Lists of blocks that are not filled are passed over.
    pub fn prefetch(mut self, sets: Vec<WorkingSet>) -> Self {
        self.prefetch = sets;
        self
    }

    /// Whether the order of the first asks is kept ([`FaultHandler::working_sets`]). What the channels fill before anybody asks for
    /// it is not in it: record with [`Fill::Nothing`] to have all.
    pub fn record(mut self, on: bool) -> Self {
        self.record = on;
        self
    }

    /// Handles faults of programs alone, which everybody may. Those of the kernel are not served: a system call that is passed a
    /// missing page (`read(2)` into it, `write(2)` from it) fails with EFAULT, or comes short where the page begins, and a guest in
    /// KVM cannot run on it: `KVM_RUN` fails with EFAULT, or worse ([Who may](super#who-may)), until the page is there. A page that was
    /// touched once is as any other. Never chosen by itself: without permission for both, starting fails.
    pub fn user_mode_only(mut self, on: bool) -> Self {
        self.user_mode_only = on;
        self
    }

    /// For [`serve`](Self::serve): offsets that name no block count in this one, by the bytes of its name.
    pub fn block(mut self, name: impl Into<Vec<u8>>) -> Self {
        self.block = Some(name.into());
        self
    }

    /// A handle that ends the filling, and [`FaultHandler::wait`], from outside; within a tenth of a second. What is asked for is
    /// served until the handler is dropped.
    pub fn cancel(mut self, cancel: Cancel) -> Self {
        self.cancel = cancel;
        self
    }

    /// Fills memory of this process from here on. All targets are of one file.
    ///
    /// # Errors
    /// After any of these nobody serves the memory, and nothing of it is poisoned: the block can be loaded into it.
    /// - Memory that is not aligned to its pages, overlaps, or is longer than its block; blocks of several files, or left out of
    ///   theirs; a working set of another block.
    /// - No permission, or a kernel that has no such thing: the error says what to do.
    ///
    /// # Safety
    /// Each target must be memory that was mapped for this, readable and writable: private or shared, anonymous, of a memfd or of
    /// hugetlbfs. What of it was never touched appears to change from then on, so that no Rust reference to it may exist that was made
    /// before.
    pub unsafe fn start(self, targets: &[FaultTarget<'_>]) -> Result<FaultHandler> {
        let host_page = host_page();
        let mut wanted = Vec::new();
        for target in targets {
            if target.block.file() != targets[0].block.file()
                || !Arc::ptr_eq(target.block.source(), targets[0].block.source())
            {
                return Err(Error::Usage("one handler fills memory from one file only".into()));
            }
            wanted.push(Wanted {
                pages: BlockPages::new(target.block)?,
                offset: target.offset,
                start: to_u64(target.start.addr()),
                length: to_u64(target.length),
                unit: target.page_size.unwrap_or(host_page),
            });
        }
        let ranges: Vec<_> = wanted.iter().map(|wanted| (wanted.start, wanted.length)).collect();
        self.begin(wanted, None, || {
            let uffd = create(self.user_mode_only)?;
            for (start, length) in ranges {
                register_one(&uffd, start, length)?;
            }
            Ok((uffd, true))
        })
    }

    /// Fills memory of another process from here on, which has handed over a userfaultfd and its layout ([`receive`](super::receive)).
    ///
    /// # Errors
    /// A layout that does not fit the file, or itself: regions that are not aligned, overlap, run past the end of their block or of all
    /// blocks; a block that the file does not have or hold; a descriptor that is no userfaultfd; a working set of another block.
    pub fn serve(self, reader: &Reader, guest: Received) -> Result<FaultHandler> {
        let Received { fd, regions, stream } = guest;
        let wanted = place(reader, self.block.as_deref(), &regions)?;
        let file = reader.file().to_owned();
        self.begin(wanted, stream, move || {
            let uffd = Descriptor::adopt(fd)
                .map_err(|error| Error::io(&file, "take the guest's descriptor", error))?;
            Ok((uffd, false))
        })
    }

    fn begin(
        &self,
        wanted: Vec<Wanted>,
        watched: Option<UnixStream>,
        descriptor: impl FnOnce() -> Result<(Descriptor, bool)>,
    ) -> Result<FaultHandler> {
        let host_page = host_page();
        let (regions, places) = check(wanted, host_page)?;
        for set in &self.prefetch {
            if let Some(region) = regions.iter().find(|region| *region.pages.name == *set.block()) {
                set.check_block(&region.pages.name, region.pages.length)?;
            }
        }
        if !(1..=255).contains(&self.channels) {
            return Err(Error::Usage(format!("{} channels; a handler has 1 to 255", self.channels)));
        }
        let file = Arc::clone(&regions[0].pages.file);
        let source = Arc::clone(&regions[0].pages.source);
        let failed = |what: &str, error: io::Error| Error::io(&file, what, error);
        let channel = source
            .channel(self.channels, IoMode::Buffered)
            .map_err(|error| failed("open a channel for faults", error))?;
        let fills = self.fill == Fill::All || !self.prefetch.is_empty();
        let (uffd, is_ours) = descriptor()?;
        let shared = Shared::new(uffd, regions, places, !fills)
            .map_err(|error| failed("make a bell for the thread of faults", error))?;
        let shared = Arc::new(shared);
        let setup =
            Setup { channel, host_page, record: self.record, watched, cancel: self.cancel.clone(), is_ours };
        let server = Server::new(&shared, setup);
        let mut handler = FaultHandler::new(Arc::clone(&shared), self.cancel.clone());
        // Before the thread of faults: once that runs, what is missing when it ends is poisoned, and who cannot be served on demand
        // may want to load the block into this memory.
        if fills {
            let plan = Plan {
                channels: self.channels,
                io_mode: self.io_mode,
                first: self.prefetch.clone(),
                rest: self.fill == Fill::All,
            };
            handler.feed(background::begin(&shared, plan)?);
        }
        let server = thread::Builder::new()
            .name("mapped-ram-fault".into())
            .spawn(move || server.run())
            .map_err(|error| failed("start the thread of faults", error))?;
        handler.serve(server);
        Ok(handler)
    }
}

/// Makes a userfaultfd and registers memory of this process with it, for a handler elsewhere: [`send`](super::send) hands it over.
/// Only address and size of the regions are looked at. With `user_mode_only` as [`FaultOptions::user_mode_only`], which the handler
/// elsewhere then need not set.
///
/// # Errors
/// No permission, or a kernel that has no such thing; memory that is not mapped, not aligned, or of a kind that cannot be filled.
///
/// # Safety
/// As [`FaultOptions::start`]. Keep the descriptor open as long as the memory is used.
pub unsafe fn register(regions: &[GuestRegion], user_mode_only: bool) -> Result<OwnedFd> {
    let uffd = create(user_mode_only)?;
    for region in regions {
        register_one(&uffd, region.base_host_virt_addr, region.size)?;
    }
    Ok(uffd.into_owned())
}

const THIS: &str = "userfaultfd";

fn create(user_mode_only: bool) -> Result<Descriptor> {
    Descriptor::create(user_mode_only).map_err(|error| {
        let advice = match error.kind() {
            io::ErrorKind::PermissionDenied => {
                "not permitted: give this process access to /dev/userfaultfd or CAP_SYS_PTRACE, or set the sysctl \
                 vm.unprivileged_userfaultfd to 1; a seccomp filter, as containers have, may forbid it too. If neither KVM nor \
                 system calls use missing memory, handle faults of user mode only (`user_mode_only`)"
            }
            io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported => {
                "this kernel lacks a part that is needed (Linux 4.14, userfaultfd with shared memory and huge pages): load the block or \
                 map it"
            }
            _ => "make one",
        };
        Error::io(THIS, advice, error)
    })
}

fn register_one(uffd: &Descriptor, start: u64, length: u64) -> Result<()> {
    uffd.register(start, length).map_err(|error| {
        let what = format!(
            "register {length:#x} bytes at {start:#x}; it must be mapped, private or shared: anonymous, of a memfd or of hugetlbfs, and \
             no other handler's"
        );
        Error::io(THIS, what, error)
    })
}

/// Which parts of which blocks a layout speaks of.
fn place(reader: &Reader, block: Option<&[u8]>, regions: &[GuestRegion]) -> Result<Vec<Wanted>> {
    let named = |name: &[u8]| {
        reader.blocks().iter().find(|block| block.layout().idstr_bytes() == name).ok_or_else(|| {
            Error::Usage(format!(
                "{}: the guest wants block `{}`, which the file does not have",
                reader.file(),
                String::from_utf8_lossy(name)
            ))
        })
    };
    let mut wanted = Vec::new();
    for region in regions {
        let (block, offset) = match region.block.as_deref().map(str::as_bytes).or(block) {
            Some(name) => (named(name)?, region.offset),
            None => behind_each_other(reader, region.offset)?,
        };
        wanted.push(Wanted {
            pages: BlockPages::new(block)?,
            offset,
            start: region.base_host_virt_addr,
            length: region.size,
            unit: region.page_size,
        });
    }
    Ok(wanted)
}

/// The block at an offset in the memory of all blocks that the file holds, and the offset in it.
fn behind_each_other(reader: &Reader, offset: u64) -> Result<(&Block, u64)> {
    let mut rest = offset;
    for block in reader.blocks().iter().filter(|block| !block.is_left_out()) {
        match rest.checked_sub(block.used_length()) {
            Some(behind) => rest = behind,
            None => return Ok((block, rest)),
        }
    }
    Err(Error::Usage(format!(
        "{}: the guest wants memory from offset {offset:#x} on, behind all blocks of the file",
        reader.file()
    )))
}
