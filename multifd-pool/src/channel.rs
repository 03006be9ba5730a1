//! What carries the I/O of one channel: the seam between the pool and the system.
//!
//! An implementation makes single calls and may fail, come short or be interrupted as the system does. What to do about that is
//! decided in [`transfer`](crate::transfer), once for all of them, so a test can put a failing channel in a file's place.
//!
//! Every offset and length is in bytes.

use std::io;

use crate::iovec::IoVec;
use crate::piece::Piece;
use crate::read_piece::ReadPiece;

/// What carries the I/O of one channel: one call is one system call, as short or interrupted as the system likes.
/// [`write_all_at`](crate::write_all_at) and [`read_exact_at`](crate::read_exact_at) make whole transfers of them.
///
/// Between the memory of a call and the rest of the program nothing is assumed: it may be a guest's, which changes it
/// at any time. So an implementation never makes a Rust reference to it.
pub trait Channel: Send {
    /// Writes the memory of `vecs`, in order, to the file at `offset`; says how many bytes it wrote.
    ///
    /// # Errors
    /// What `pwritev(2)` says.
    ///
    /// # Safety
    /// Each of `vecs` must be readable for its length until the call returns.
    unsafe fn write_at(&mut self, vecs: &[IoVec], offset: u64) -> io::Result<usize>;

    /// Reads the file from `offset` on into the memory of `vecs`, in order; says how many bytes it read, 0 at the
    /// file's end.
    ///
    /// # Errors
    /// What `preadv(2)` says.
    ///
    /// # Safety
    /// Each of `vecs` must be writable for its length until the call returns.
    unsafe fn read_at(&mut self, vecs: &[IoVec], offset: u64) -> io::Result<usize>;

    /// Begins to write as many of `pieces` as it likes, and takes those out of the list; they go on, in any order, while the caller does
    /// something else, until [`end_writes`](Self::end_writes) waits for them. Gives the number of system calls it took.
    ///
    /// It is an offer: what is left in the list is written by [`write_at`](Self::write_at). The default begins nothing.
    ///
    /// # Safety
    /// Each piece's memory must be readable for its length until [`end_writes`](Self::end_writes) has returned, or the channel was
    /// dropped.
    unsafe fn begin_writes(&mut self, pieces: &mut Vec<Piece>) -> u64 {
        let _ = pieces;
        0
    }

    /// Waits for all writes that were begun: when it returns, nothing reads their memory any more. Those that came short, or failed, are
    /// appended to `left`, each with how much of it was written; [`write_at`](Self::write_at) then writes the rest, or tells the error.
    /// Gives the number of system calls it took.
    fn end_writes(&mut self, left: &mut Vec<Piece>) -> u64 {
        let _ = left;
        0
    }

    /// Reads as much as it likes of `pieces`, many at a time and in any order; says in each how much of it was read, and gives the
    /// number of system calls it took. When it returns, nothing writes to the memory any more.
    ///
    /// It is an offer: what is left, and what failed, is read by [`read_at`](Self::read_at) afterwards, which then tells the
    /// error. The default reads nothing.
    ///
    /// # Safety
    /// Each piece's memory must be writable for its length until the call returns. No two pieces may share memory:
    /// a file system that checksums what it reads looks at it.
    unsafe fn read_many(&mut self, pieces: &mut [ReadPiece<'_>]) -> u64 {
        let _ = pieces;
        0
    }

    /// Asks for room for the `length` bytes from `offset` on, which are about to be written: so that the file system
    /// finds it in one piece, and writes need not wait for each other while it is found. The file's length and what can be
    /// read stay as they are.
    ///
    /// It is advice: where it cannot be followed nothing happens, which is what the default does.
    ///
    /// # Errors
    /// That there is no room (`ENOSPC`, `EDQUOT`), or that the device failed.
    fn reserve(&mut self, offset: u64, length: u64) -> io::Result<()> {
        let _ = (offset, length);
        Ok(())
    }

    /// Makes the `length` bytes from `offset` on read as zeros, as a hole where the file can have one. The file's length
    /// stays as it is.
    ///
    /// The default knows no holes, and no file length: it writes zeros.
    ///
    /// # Errors
    /// What the system says.
    fn clear(&mut self, offset: u64, length: u64) -> io::Result<()> {
        static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
        let mut done = 0;
        while done < length {
            let count = usize::try_from(length - done).unwrap_or(usize::MAX).min(ZEROS.len());
            let vec = IoVec::from_const(ZEROS.as_ptr(), count);
            // SAFETY: a part of `ZEROS`, which lives for ever.
            match unsafe { self.write_at(&[vec], offset + done) } {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => done += written as u64,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl<C: Channel + ?Sized> Channel for Box<C> {
    unsafe fn write_at(&mut self, vecs: &[IoVec], offset: u64) -> io::Result<usize> {
        // SAFETY: the caller's promise, passed on.
        unsafe { (**self).write_at(vecs, offset) }
    }

    unsafe fn read_at(&mut self, vecs: &[IoVec], offset: u64) -> io::Result<usize> {
        // SAFETY: the caller's promise, passed on.
        unsafe { (**self).read_at(vecs, offset) }
    }

    unsafe fn begin_writes(&mut self, pieces: &mut Vec<Piece>) -> u64 {
        // SAFETY: the caller's promise, passed on.
        unsafe { (**self).begin_writes(pieces) }
    }

    fn end_writes(&mut self, left: &mut Vec<Piece>) -> u64 {
        (**self).end_writes(left)
    }

    unsafe fn read_many(&mut self, pieces: &mut [ReadPiece<'_>]) -> u64 {
        // SAFETY: the caller's promise, passed on.
        unsafe { (**self).read_many(pieces) }
    }

    fn reserve(&mut self, offset: u64, length: u64) -> io::Result<()> {
        (**self).reserve(offset, length)
    }

    fn clear(&mut self, offset: u64, length: u64) -> io::Result<()> {
        (**self).clear(offset, length)
    }
}
