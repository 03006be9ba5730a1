//! A file as a channel: `pwritev` and `preadv`, through the page cache or past it.
//!
//! `O_DIRECT` takes only memory, offsets and lengths that are aligned as the file system wants. A direct channel has a
//! second, buffered descriptor: what is aligned goes past the page cache, and the few bytes before and behind go through
//! it. It does so by short calls: one call transfers either a stretch that is not aligned or one that is, and
//! whoever called goes on behind it.
//!
//! An uncached channel goes through the page cache and leaves nothing there (`RWF_DONTCACHE`, Linux 6.14 and later); where
//! the kernel or the file system does not know that, it is a buffered one.
//!
//! A mixed channel is a direct one whose short calls are uncached: the page cache gathers many short writes into few requests
//! to the disk, and does not keep the caller waiting for each.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use crate::channel::Channel;
use crate::iovec::IoVec;
use crate::room::{clear, reserve};

/// What direct I/O on a file asks of memory and of offsets, in bytes. Lengths are aligned as offsets are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alignment {
    /// What addresses must be a multiple of.
    pub memory: usize,
    /// What file offsets and lengths must be a multiple of.
    pub offset: u64,
}

/// What is assumed where the system does not say: no disk in use has larger blocks.
const ASSUMED: Alignment = Alignment { memory: 4096, offset: 4096 };

impl Alignment {
    /// The same, with offsets and lengths that are whole pages of `page` bytes, a power of two, as well.
    ///
    /// For writing, with the system's page size: where a direct write and a buffered one share a page of the page cache, the kernel takes the
    /// buffered one's page for stale, and a later sync fails with EIO.
    #[must_use]
    pub fn in_pages(self, page: u64) -> Self {
        Self { offset: self.offset.max(page), ..self }
    }

    /// What direct I/O on `file` asks for, as `statx(2)` says (Linux 6.1 and later); 4096 for both where it does not.
    ///
    /// # Errors
    /// What `statx(2)` says about the descriptor.
    pub fn of(file: &File) -> io::Result<Self> {
        let mut answer = std::mem::MaybeUninit::<libc::statx>::zeroed();
        // SAFETY: the path is a NUL-terminated empty string, and `answer` has room for a `statx`.
        let result = unsafe {
            libc::statx(
                file.as_raw_fd(),
                c"".as_ptr(),
                libc::AT_EMPTY_PATH,
                libc::STATX_DIOALIGN,
                answer.as_mut_ptr(),
            )
        };
        if result != 0 {
            let error = io::Error::last_os_error();
            // Filters that are older than the call.
            return match error.raw_os_error() {
                Some(libc::ENOSYS | libc::EPERM) => Ok(ASSUMED),
                _ => Err(error),
            };
        }
        // SAFETY: all zeros is a valid `statx`, and the call has filled it in.
        let answer = unsafe { answer.assume_init() };
        if answer.stx_mask & libc::STATX_DIOALIGN == 0 {
            return Ok(ASSUMED);
        }
        let memory = usize::try_from(answer.stx_dio_mem_align).unwrap_or(ASSUMED.memory);
        let offset = u64::from(answer.stx_dio_offset_align);
        // Zeros mean that direct I/O is not to be had; the descriptor was opened for it, so the system errs.
        if memory.is_power_of_two() && offset.is_power_of_two() {
            Ok(Self { memory, offset })
        } else {
            Ok(ASSUMED)
        }
    }
}

/// A file, read and written at offsets.
#[derive(Debug)]
pub struct FileChannel {
    buffered: File,
    direct: Option<(File, Alignment)>,
    /// Calls with fewer bytes than this are never direct.
    direct_from: usize,
    /// The flags of buffered calls: 0 or [`RWF_DONTCACHE`].
    flags: libc::c_int,
    keeps_room: bool,
}

/// Drop what a call brought into the page cache as soon as it is on the disk. The C library does not name it yet.
const RWF_DONTCACHE: libc::c_int = 0x80;

impl FileChannel {
    /// Through the page cache.
    pub fn buffered(file: File) -> Self {
        Self { buffered: file, direct: None, direct_from: 0, flags: 0, keeps_room: false }
    }

    /// Through the page cache, leaving nothing there; as [`buffered`](Self::buffered) where
    /// [`takes_uncached`](Self::takes_uncached) says no.
    pub fn uncached(file: File) -> Self {
        let flags = if Self::takes_uncached(&file) { RWF_DONTCACHE } else { 0 };
        Self { flags, ..Self::buffered(file) }
    }

    /// Whether kernel and file system know uncached calls on `file`, which must be open for reading.
    pub fn takes_uncached(file: &File) -> bool {
        let mut byte = 0_u8;
        let vec = [IoVec::new(&raw mut byte, 1)];
        // The flag is judged before anything is read, for reads as for writes.
        // SAFETY: `byte` is writable and outlives the call.
        unsafe { positional(file, &vec, 0, libc::preadv2, RWF_DONTCACHE) }.is_ok()
    }

    /// Whether the byte at `offset` of `file`, which must be open for reading, can be read without waiting for the disk:
    /// whether the page cache holds it. Yes for a hole, and where kernel or file system do not say.
    ///
    /// Asked by `cachestat(2)` (Linux 6.5, of files that are this user's or that it may write), else by a read that does not wait
    /// (`RWF_NOWAIT`). That read begins to fetch what is not there, and where the disk answered before it was looked at, which happened for
    /// whole runs of looks on a machine that shares its processors, a file that was cold was called cached.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// let path = std::env::temp_dir().join(format!("holds_cached-{}", std::process::id()));
    /// std::fs::write(&path, "just written")?;
    /// let cached = multifd_pool::FileChannel::holds_cached(&std::fs::File::open(&path)?, 3);
    /// std::fs::remove_file(&path)?;
    /// assert!(cached);
    /// # Ok(())
    /// # }
    /// ```
    pub fn holds_cached(file: &File, offset: u64) -> bool {
        match cached_pages(file, offset) {
            Some(0) if keeps_its_own_pages(file) => return is_hole(file, offset),
            // Of files that are another one's (overlayfs), it may be none although there are.
            Some(0) | None => {}
            Some(_) => return true,
        }
        let mut byte = 0_u8;
        let vec = [IoVec::new(&raw mut byte, 1)];
        // SAFETY: `byte` is writable and outlives the call.
        let read = unsafe { positional(file, &vec, offset, libc::preadv2, libc::RWF_NOWAIT) };
        !read.is_err_and(|error| error.raw_os_error() == Some(libc::EAGAIN))
    }

    /// Past the page cache where memory and offset are aligned, through it where they are not. Both descriptors are of
    /// the same file; `direct` was opened with `O_DIRECT`, `buffered` without.
    pub fn direct(direct: File, buffered: File, alignment: Alignment) -> Self {
        Self { direct: Some((direct, alignment)), ..Self::buffered(buffered) }
    }

    /// As [`direct`](Self::direct), but calls of fewer than `direct_from` bytes, and what is not aligned, are
    /// [`uncached`](Self::uncached).
    pub fn mixed(direct: File, buffered: File, alignment: Alignment, direct_from: usize) -> Self {
        Self { direct: Some((direct, alignment)), direct_from, ..Self::uncached(buffered) }
    }

    /// For writing over old data: clears without giving room back to the file system, where that is possible (what was data reads as
    /// zeros and as a hole, and keeps its blocks for the next who writes there). Off unless said otherwise.
    ///
    /// To give room back costs time, above all where the file system tells the disk of it (mounted with `discard`).
    #[must_use]
    pub fn keeping_room(mut self, on: bool) -> Self {
        self.keeps_room = on;
        self
    }

    /// One call on one of the descriptors, with as much of `vecs` as it takes.
    ///
    /// # Safety
    /// As the system call of `call` asks of `vecs`.
    unsafe fn transfer(&mut self, vecs: &[IoVec], offset: u64, call: SystemCall) -> io::Result<usize> {
        let direct = self.direct.as_ref().filter(|_| {
            // Nothing to add up where every call may be direct.
            self.direct_from == 0 || vecs.iter().map(IoVec::len).sum::<usize>() >= self.direct_from
        });
        if let Some((direct, alignment)) = direct {
            match route(vecs, offset, *alignment) {
                Route::Direct(one) => {
                    // SAFETY: a part of `vecs`, see above.
                    match unsafe { positional(direct, &[one], offset, call, 0) } {
                        Err(error) if is_refused(&error) => {}
                        other => return other,
                    }
                }
                Route::Buffered(one) => {
                    // SAFETY: a part of `vecs`, see above.
                    return unsafe { positional(&self.buffered, &[one], offset, call, self.flags) };
                }
                Route::All => {
                    // SAFETY: see above.
                    match unsafe { positional(direct, vecs, offset, call, 0) } {
                        Err(error) if is_refused(&error) => {}
                        other => return other,
                    }
                }
            }
        }
        // SAFETY: see above.
        unsafe { positional(&self.buffered, vecs, offset, call, self.flags) }
    }
}

/// Whether the page cache may take what direct I/O did not, though it was aligned as the system asked: some file systems ask for more at
/// times (compressed or encrypted files), and a device's memory cannot be pinned.
fn is_refused(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EFAULT))
}

/// How many pages of the page cache hold the byte at `offset` of `file`: one or none. `None` where the system does not say.
fn cached_pages(file: &File, offset: u64) -> Option<u64> {
    /// `cachestat(2)`, on every processor; the C libraries do not name it yet.
    const CACHESTAT: libc::c_long = 451;
    // `struct cachestat_range` and `struct cachestat`, of which the first field counts the pages.
    let (range, mut counts) = ([offset, 1], [0_u64; 5]);
    // SAFETY: the call reads the one and fills the other, which are as the kernel defines them.
    let result = unsafe {
        libc::syscall(CACHESTAT, file.as_raw_fd(), range.as_ptr(), counts.as_mut_ptr(), libc::c_uint::MIN)
    };
    (result == 0).then_some(counts[0])
}

/// Whether the pages of a file's content are counted as that file's: of no file system that is made of others'.
fn keeps_its_own_pages(file: &File) -> bool {
    // ext2 to ext4, xfs, btrfs, tmpfs.
    const THOSE: [i128; 4] = [0xEF53, 0x5846_5342, 0x9123_683E, 0x0102_1994];
    let mut about = std::mem::MaybeUninit::<libc::statfs>::zeroed();
    // SAFETY: there is room for the answer.
    if unsafe { libc::fstatfs(file.as_raw_fd(), about.as_mut_ptr()) } != 0 {
        return false;
    }
    // SAFETY: all zeros is a valid `statfs`, and the call has filled it in.
    let kind = i128::from(unsafe { about.assume_init() }.f_type);
    THOSE.contains(&kind)
}

/// Whether there is no data at `offset` of `file`.
fn is_hole(file: &File, offset: u64) -> bool {
    let Ok(offset) = libc::off_t::try_from(offset) else { return false };
    // SAFETY: moves the descriptor's own position, by which nothing here reads.
    let data = unsafe { libc::lseek(file.as_raw_fd(), offset, libc::SEEK_DATA) };
    data > offset || (data < 0 && io::Error::last_os_error().raw_os_error() == Some(libc::ENXIO))
}

/// Which descriptor takes how much.
enum Route {
    /// All is aligned.
    All,
    /// An aligned stretch of the first iovec.
    Direct(IoVec),
    /// A stretch of the first iovec that is not aligned.
    Buffered(IoVec),
}

fn route(vecs: &[IoVec], offset: u64, alignment: Alignment) -> Route {
    let step = usize::try_from(alignment.offset).unwrap_or(usize::MAX);
    let fits =
        |vec: &IoVec| vec.addr().addr().is_multiple_of(alignment.memory) && vec.len().is_multiple_of(step);
    if offset.is_multiple_of(alignment.offset) && vecs.iter().all(fits) {
        return Route::All;
    }
    let Some(first) = vecs.iter().find(|vec| !vec.is_empty()) else { return Route::All };
    let past = usize::try_from(offset % alignment.offset).unwrap_or(0);
    if past != 0 {
        // Up to the next aligned offset; whether memory is aligned there shows then.
        return Route::Buffered(first.first(step - past));
    }
    if !first.addr().addr().is_multiple_of(alignment.memory) || first.len() < step {
        return Route::Buffered(*first);
    }
    Route::Direct(first.first(first.len() - first.len() % step))
}

impl Channel for FileChannel {
    unsafe fn write_at(&mut self, vecs: &[IoVec], offset: u64) -> io::Result<usize> {
        // SAFETY: the caller's promise, passed on; `pwritev` only reads the memory.
        unsafe { self.transfer(vecs, offset, libc::pwritev2) }
    }

    unsafe fn read_at(&mut self, vecs: &[IoVec], offset: u64) -> io::Result<usize> {
        // SAFETY: the caller's promise, passed on.
        unsafe { self.transfer(vecs, offset, libc::preadv2) }
    }

    fn reserve(&mut self, offset: u64, length: u64) -> io::Result<()> {
        reserve(&self.buffered, offset, length)
    }

    fn clear(&mut self, offset: u64, length: u64) -> io::Result<()> {
        clear(&self.buffered, offset, length, self.keeps_room)
    }
}

type SystemCall = unsafe extern "C" fn(
    libc::c_int,
    *const libc::iovec,
    libc::c_int,
    libc::off_t,
    libc::c_int,
) -> libc::ssize_t;

/// One `pwritev2` or `preadv2`.
///
/// # Safety
/// As the system call asks of `vecs`.
unsafe fn positional(
    file: &File,
    vecs: &[IoVec],
    offset: u64,
    call: SystemCall,
    flags: libc::c_int,
) -> io::Result<usize> {
    let too_large = || io::Error::from_raw_os_error(libc::EFBIG);
    let offset = libc::off_t::try_from(offset).map_err(|_| too_large())?;
    let count = libc::c_int::try_from(vecs.len()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    // SAFETY: `vecs` has the layout of `libc::iovec`, and the memory it describes is the caller's promise.
    let done = unsafe { call(file.as_raw_fd(), IoVec::as_libc(vecs), count, offset, flags) };
    usize::try_from(done).map_err(|_| io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const STEP: u64 = 512;
    const ALIGNMENT: Alignment = Alignment { memory: 64, offset: STEP };

    proptest! {
        /// One call takes as much as goes by one descriptor: up to the next step, or all whole steps.
        #[test]
        fn a_call_takes_as_much_as_goes_one_way(
            offset in prop_oneof![0_u64..4 * STEP, (0_u64..4).prop_map(|n| n * STEP)],
            pieces in prop::collection::vec(
                (prop_oneof![Just(0_usize), 0_usize..128], prop_oneof![0_usize..1500, (0_usize..4).prop_map(|n| n * 512)]),
                0..4),
        ) {
            // Addresses only: nothing is read.
            let at = |past: usize| std::ptr::without_provenance_mut::<u8>(4096 + past);
            let vecs: Vec<IoVec> = pieces.iter().map(|(past, len)| IoVec::new(at(*past), *len)).collect();
            let first = vecs.iter().find(|vec| !vec.is_empty());
            let is_aligned = |vec: &IoVec| vec.addr().addr().is_multiple_of(64) && vec.len().is_multiple_of(512);
            let taken = |vec: &IoVec| (vec.addr(), vec.len());
            match (route(&vecs, offset, ALIGNMENT), first) {
                (Route::All, first) => {
                    let all = offset.is_multiple_of(STEP) && vecs.iter().all(is_aligned);
                    prop_assert!(all || first.is_none());
                }
                (Route::Direct(one), Some(first)) => {
                    prop_assert!(offset.is_multiple_of(STEP) && first.addr().addr().is_multiple_of(64));
                    prop_assert_eq!(taken(&one), (first.addr(), first.len() / 512 * 512));
                    prop_assert!(!one.is_empty());
                }
                (Route::Buffered(one), Some(first)) if !offset.is_multiple_of(STEP) => {
                    let to_the_next = usize::try_from(offset.next_multiple_of(STEP) - offset).unwrap();
                    prop_assert_eq!(taken(&one), (first.addr(), first.len().min(to_the_next)));
                }
                (Route::Buffered(one), Some(first)) => {
                    prop_assert!(!first.addr().addr().is_multiple_of(64) || first.len() < 512);
                    prop_assert_eq!(taken(&one), taken(first));
                }
                (_, None) => prop_assert!(false, "a part of nothing"),
            }
        }
    }
}
