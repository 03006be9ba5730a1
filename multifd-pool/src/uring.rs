//! A file as a channel with many writes and reads in flight: io_uring, past the page cache.
//!
//! One thread keeps them all in flight, and the kernel's own threads, not ours, wait for the file system. Decided here is only which
//! of the transfers that are given together are a ring's ([`Ring`] carries them out); short writes, what is not aligned, all else, and
//! whatever a ring does not bring to its end, are the [`FileChannel`]'s that it is built on.
//!
//! Reads are waited for by the call that was given them, writes by [`Channel::end_writes`], and by dropping the channel.
//!
//! Writes, measured by `cargo bench --bench side_by_side -- --only ours/` (1 GiB, dense, synced, 2 channels, medians of 7, beside the
//! same without a ring): 0.518 and 0.529 s, at 0.014 and 0.022 s of processor time. Which writes are too short for a ring is its
//! maker's to say. Reads of every length are the ring's: the page cache has nothing to gather there, and reads ahead what nobody asked
//! for.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::OnceLock;

use io_uring::squeue::Entry;
use io_uring::{opcode, types};

use crate::channel::Channel;
use crate::file::{Alignment, FileChannel};
use crate::iovec::IoVec;
use crate::piece::Piece;
use crate::read_piece::ReadPiece;
use crate::ring::Ring;

/// The most that one entry of a ring has, in bytes. Longer ones go the usual way.
const LONGEST: u64 = 1 << 30;

/// The most iovecs that one entry of a ring has (`IOV_MAX`).
const MOST_VECS: usize = 1024;

/// A file, past the page cache with many transfers in flight: reads, and long writes. All else as the [`FileChannel`] that it was made
/// with.
pub struct UringChannel {
    /// `None` when it failed: then all goes through `files`. Dropped before them.
    ring: Option<Ring>,
    direct: Direct,
    /// Writes that the ring was given, and how much of each is done; its number in the list is its entry's user data.
    begun: Vec<Piece>,
    files: FileChannel,
}

impl UringChannel {
    /// Over two descriptors of the same file, as [`FileChannel::mixed`]; only writes of `direct_from` bytes and more are the ring's.
    ///
    /// # Errors
    /// What `io_uring_setup(2)` says: `ENOSYS` or `EPERM` where the kernel has it not, or not for this process.
    pub fn new(direct: File, buffered: File, alignment: Alignment, direct_from: usize) -> io::Result<Self> {
        let ring = Some(Ring::new()?);
        let file = types::Fd(direct.as_raw_fd());
        let files = FileChannel::mixed(direct, buffered, alignment, direct_from);
        Ok(Self {
            ring,
            direct: Direct { file, alignment, from: direct_from as u64 },
            begun: Vec::new(),
            files,
        })
    }

    /// As [`FileChannel::keeping_room`].
    #[must_use]
    pub fn keeping_room(mut self, on: bool) -> Self {
        self.files = self.files.keeping_room(on);
        self
    }

    /// Whether the kernel lets this process have such rings, with the operations that they are for. Asked once.
    pub fn is_available() -> bool {
        static AVAILABLE: OnceLock<bool> = OnceLock::new();
        *AVAILABLE
            .get_or_init(|| Ring::knows(&[opcode::Write::CODE, opcode::Read::CODE, opcode::Readv::CODE]))
    }

    /// Waits for the writes that were begun. Gives the number of system calls.
    fn settle(&mut self) -> u64 {
        let Some(ring) = &mut self.ring else { return 0 };
        let calls = ring.finish(advance(&mut self.begun));
        self.drop_broken();
        calls
    }

    fn drop_broken(&mut self) {
        self.ring.take_if(|ring| ring.is_broken());
    }
}

/// Moves the piece that an entry's user data numbers on by what the entry's result says.
fn advance(pieces: &mut [Piece]) -> impl FnMut(u64, i32) {
    |number, result| {
        // An error is told by the call that tries once more.
        if let (Ok(number), Ok(bytes)) = (usize::try_from(number), usize::try_from(result))
            && let Some(piece) = pieces.get_mut(number)
        {
            piece.done = piece.done.saturating_add(bytes).min(piece.vec.len());
        }
    }
}

/// The descriptor of a ring's transfers, and what it takes.
struct Direct {
    /// One of the channel's `files`, which outlives the ring.
    file: types::Fd,
    alignment: Alignment,
    /// Writes with fewer bytes than this are not the ring's.
    from: u64,
}

impl Direct {
    /// Whether direct I/O takes the memory of `vecs` at `offset`, `length` bytes altogether, in one entry.
    fn takes(&self, vecs: &[IoVec], offset: u64, length: u64) -> bool {
        let is_aligned = |vec: &IoVec| {
            vec.addr().addr().is_multiple_of(self.alignment.memory)
                && (vec.len() as u64).is_multiple_of(self.alignment.offset)
        };
        (1..=LONGEST).contains(&length)
            && vecs.len() <= MOST_VECS
            && offset.is_multiple_of(self.alignment.offset)
            && vecs.iter().all(is_aligned)
    }

    /// The write of `piece`, if a ring can take it.
    fn write(&self, piece: &Piece) -> Option<Entry> {
        let (vec, offset) = piece.rest();
        let length = vec.len() as u64;
        if length < self.from || !self.takes(&[vec], offset, length) {
            return None;
        }
        Some(opcode::Write::new(self.file, vec.addr(), u32::try_from(length).ok()?).offset(offset).build())
    }

    /// The read of `piece`, if a ring can take it: of a whole one, since what was read in part is rare.
    fn read(&self, piece: &ReadPiece<'_>) -> Option<Entry> {
        let ReadPiece { vecs, offset, done } = *piece;
        if done != 0 || !self.takes(vecs, offset, piece.len()) {
            return None;
        }
        Some(if let [one] = vecs {
            opcode::Read::new(self.file, one.addr(), u32::try_from(one.len()).ok()?).offset(offset).build()
        } else {
            let count = u32::try_from(vecs.len()).ok()?;
            opcode::Readv::new(self.file, IoVec::as_libc(vecs), count).offset(offset).build()
        })
    }
}

impl std::fmt::Debug for UringChannel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UringChannel").field("files", &self.files).finish_non_exhaustive()
    }
}

impl Channel for UringChannel {
    unsafe fn write_at(&mut self, vecs: &[IoVec], offset: u64) -> io::Result<usize> {
        // SAFETY: the caller's promise, passed on.
        unsafe { self.files.write_at(vecs, offset) }
    }

    unsafe fn read_at(&mut self, vecs: &[IoVec], offset: u64) -> io::Result<usize> {
        // SAFETY: the caller's promise, passed on.
        unsafe { self.files.read_at(vecs, offset) }
    }

    unsafe fn begin_writes(&mut self, pieces: &mut Vec<Piece>) -> u64 {
        let Some(ring) = &mut self.ring else { return 0 };
        let mut entries = Vec::new();
        pieces.retain(|piece| {
            let Some(entry) = self.direct.write(piece) else { return true };
            entries.push(entry.user_data(self.begun.len() as u64));
            self.begun.push(*piece);
            false
        });
        // SAFETY: the memory is readable until `end_writes` has returned or this channel is dropped, by this function's contract; either
        // waits for the ring. The descriptor is open as long.
        unsafe { ring.begin(&entries, advance(&mut self.begun)) }
    }

    fn end_writes(&mut self, left: &mut Vec<Piece>) -> u64 {
        let calls = self.settle();
        left.extend(self.begun.drain(..).filter(|piece| piece.done < piece.vec.len()));
        calls
    }

    unsafe fn read_many(&mut self, pieces: &mut [ReadPiece<'_>]) -> u64 {
        // Whatever ends from here on is a read.
        let mut calls = self.settle();
        let Some(ring) = &mut self.ring else { return calls };
        let numbered = (0_u64..).zip(&*pieces);
        let entries: Vec<Entry> =
            numbered.filter_map(|(number, piece)| Some(self.direct.read(piece)?.user_data(number))).collect();
        let mut ended = |number, result| {
            // An error is told by the call that tries once more.
            if let (Ok(number), Ok(bytes)) = (usize::try_from(number), u64::try_from(result))
                && let Some(piece) = pieces.get_mut::<usize>(number)
            {
                piece.done = piece.done.saturating_add(bytes).min(piece.len());
            }
        };
        // SAFETY: the memory is writable until this function returns, by its contract, and so long the lists of it are borrowed; it does
        // not return before `finish` has.
        calls += unsafe { ring.begin(&entries, &mut ended) };
        calls += ring.finish(ended);
        self.drop_broken();
        calls
    }

    fn reserve(&mut self, offset: u64, length: u64) -> io::Result<()> {
        self.files.reserve(offset, length)
    }

    fn clear(&mut self, offset: u64, length: u64) -> io::Result<()> {
        self.files.clear(offset, length)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use super::*;

    const PAGE: usize = 4096;
    /// Several times what is in flight at a time.
    const PAGES: usize = 100;

    /// A channel whose ring answers so many calls and refuses all others; `None` where the kernel gives no rings.
    fn breaking(file: &File, calls: u64) -> Option<UringChannel> {
        if !UringChannel::is_available() {
            eprintln!("NOT TESTED: this kernel, or its settings, gives no io_uring");
            return None;
        }
        let alignment = Alignment { memory: 1, offset: PAGE as u64 };
        let (direct, buffered) = (file.try_clone().unwrap(), file.try_clone().unwrap());
        let mut channel = UringChannel::new(direct, buffered, alignment, 0).unwrap();
        channel.ring.as_mut().unwrap().calls_left = Some(calls);
        Some(channel)
    }

    fn bytes() -> Vec<u8> {
        (0..PAGES * PAGE).map(|at| u8::try_from(at / PAGE % 250).unwrap() + 1).collect()
    }

    /// Of a ring that breaks after so many calls, what must be true of the pieces that it says are done, and how many they are.
    fn expect_some_done(calls: u64, done: &[bool], is_there: &[bool], ring: bool) {
        let count = done.iter().filter(|done| **done).count();
        assert!(
            done.iter().zip(is_there).all(|(done, there)| !done || *there),
            "{calls}: done, and is not there"
        );
        assert_eq!(ring, count == PAGES, "{calls} calls, {count} done: a ring that broke is not asked again");
        match calls {
            0 => assert_eq!(count, 0),
            // No more were taken than there is room for.
            1 => assert!((1..PAGES).contains(&count), "{count}"),
            _ => {}
        }
    }

    #[test]
    fn a_ring_that_breaks_among_writes_has_done_what_it_says_and_the_rest_is_left() {
        let bytes = bytes();
        for calls in 0.. {
            let file = tempfile::tempfile().unwrap();
            let Some(mut channel) = breaking(&file, calls) else { return };
            let piece = |(page, at): (&[u8], u64)| Piece::new(IoVec::from_const(page.as_ptr(), PAGE), at);
            let offsets = (0..).step_by(PAGE);
            let mut left: Vec<Piece> = bytes.chunks(PAGE).zip(offsets).map(piece).collect();
            // SAFETY: `bytes` outlives the channel, and is only read.
            unsafe { channel.begin_writes(&mut left) };
            channel.end_writes(&mut left);
            let mut now = vec![0; bytes.len()];
            let read = file.read_at(&mut now, 0).unwrap();
            now.truncate(read);
            now.resize(bytes.len(), 0);
            let is_left = |page: usize| left.iter().any(|piece| piece.offset == (page * PAGE) as u64);
            let done: Vec<bool> = (0..PAGES).map(|page| !is_left(page)).collect();
            let is_there: Vec<bool> = now.chunks(PAGE).zip(bytes.chunks(PAGE)).map(|(a, b)| a == b).collect();
            expect_some_done(calls, &done, &is_there, channel.ring.is_some());
            if channel.ring.is_some() {
                return;
            }
            let before = left.len();
            // SAFETY: as above.
            let calls = unsafe { channel.begin_writes(&mut left) } + channel.end_writes(&mut left);
            assert_eq!((calls, left.len()), (0, before), "a ring that broke is not asked again");
        }
    }

    #[test]
    fn a_ring_that_breaks_among_reads_has_done_what_it_says_and_the_rest_is_left() {
        let bytes = bytes();
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&bytes, 0).unwrap();
        for calls in 0.. {
            let Some(mut channel) = breaking(&file, calls) else { return };
            let mut memory = vec![0_u8; bytes.len()];
            let start = memory.as_mut_ptr();
            let vec = |page: usize| [IoVec::new(start.wrapping_add(page * PAGE), PAGE)];
            let vecs: Vec<[IoVec; 1]> = (0..PAGES).map(vec).collect();
            let mut pieces: Vec<ReadPiece<'_>> =
                vecs.iter().zip((0..).step_by(PAGE)).map(|(vecs, at)| ReadPiece::new(vecs, at)).collect();
            // SAFETY: `memory` lives on, and nobody looks at it meanwhile.
            unsafe { channel.read_many(&mut pieces) };
            let is_broken = channel.ring.is_none();
            if is_broken {
                let before: Vec<u64> = pieces.iter().map(|piece| piece.done).collect();
                // SAFETY: as above.
                let calls = unsafe { channel.read_many(&mut pieces) };
                assert_eq!(calls, 0, "a ring that broke is not asked again");
                assert_eq!(pieces.iter().map(|piece| piece.done).collect::<Vec<_>>(), before);
            }
            let done: Vec<bool> = pieces.iter().map(|piece| piece.done == PAGE as u64).collect();
            let is_there: Vec<bool> =
                memory.chunks(PAGE).zip(bytes.chunks(PAGE)).map(|(a, b)| a == b).collect();
            expect_some_done(calls, &done, &is_there, !is_broken);
            if !is_broken {
                return;
            }
        }
    }
}
