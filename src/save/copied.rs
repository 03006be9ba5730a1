//! Bytes of another file that are copied as they are: what stands before its stream, or behind its pages.

use std::sync::Arc;

use crate::convert::{to_u64, to_usize};
use crate::error::{Error, Result};
use crate::storage::Source;

/// How much is copied at a time, in bytes: small beside a channel's chunk, large beside a system call.
const CHUNK: u64 = 256 << 10;

/// A stretch of another file, from `start` to `end`.
#[derive(Clone)]
pub(super) struct Copied {
    pub(super) source: Arc<dyn Source>,
    pub(super) start: u64,
    pub(super) end: u64,
    /// What it is to that file, for messages.
    pub(super) what: &'static str,
}

impl Copied {
    pub(super) fn len(&self) -> u64 {
        self.end - self.start
    }

    /// Hands all bytes to `write`, piece by piece in order, each with its distance from `start`.
    pub(super) fn pour(&self, write: impl FnMut(u64, &[u8]) -> Result<()>) -> Result<()> {
        self.pour_stretch(self.start, self.end, write)
    }

    /// As [`pour`](Self::pour), but passes over holes: their bytes are zeros, and it takes as long as there is data, whatever length a
    /// header says.
    pub(super) fn pour_data(&self, mut write: impl FnMut(u64, &[u8]) -> Result<()>) -> Result<()> {
        let mut at = self.start;
        while at < self.end {
            let data = self.source.next_data(at, self.end).map_err(|error| {
                Error::io(&self.source.name(), format!("look for holes at offset {at:#x}"), error)
            })?;
            let Some((from, to)) = data else { break };
            self.pour_stretch(from, to, &mut write)?;
            at = to;
        }
        Ok(())
    }

    fn pour_stretch(
        &self,
        mut at: u64,
        end: u64,
        mut write: impl FnMut(u64, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let mut buffer = vec![0; to_usize((end - at).min(CHUNK))];
        while at < end {
            let length = to_usize((end - at).min(CHUNK));
            let piece = &mut buffer[..length];
            let (source, what) = (&self.source, self.what);
            let got = source.read_at(piece, at).map_err(|error| {
                Error::io(&source.name(), format!("read {what} at offset {at:#x}"), error)
            })?;
            if got < length {
                return Err(Error::Damaged {
                    file: source.name(),
                    what: format!("the file was cut to less than {end} bytes while {what} was read"),
                });
            }
            write(at - self.start, piece)?;
            at += to_u64(length);
        }
        Ok(())
    }
}
