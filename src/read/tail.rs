//! What stands behind the last block's pages of an open file: device state, and the vmdescription that names it.

use mapped_ram_format::tail::Tail;

use super::Reader;
use crate::convert::{to_u64, to_usize};
use crate::error::{Error, Result};

/// The longest tail that is taken into memory, in bytes. Device state is a few MiB, with a graphics card some hundred;
/// copying a tail has no such limit.
pub(crate) const MAX_TAIL: u64 = 1 << 30;

/// The state of one device, found by the vmdescription.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeviceState {
    /// The section's name, such as `timer`.
    pub name: String,
    /// Which of several devices of that name.
    pub instance: u32,
    /// The version of the state's layout.
    pub version: u32,
    /// The state, as the device wrote it.
    pub data: Vec<u8>,
}

impl Reader {
    /// The bytes behind the last block's pages: the end of the RAM section, device sections, the vmdescription.
    ///
    /// # Errors
    /// When they cannot be read, are more than 1 GiB, or the file has a [flaw](Self::flaw).
    pub fn tail(&self) -> Result<Vec<u8>> {
        if let Some(flaw) = self.flaw() {
            let what = format!("it was opened to salvage memory, and its tail is not to be had: {flaw}");
            return Err(Error::Damaged { file: self.file().to_owned(), what });
        }
        let (start, end) = self.tail_range();
        let length = end - start;
        if length > MAX_TAIL {
            return Err(Error::Unsupported {
                file: self.file().to_owned(),
                what: format!(
                    "the tail at offset {start:#x} has {length} bytes; at most {MAX_TAIL} are taken into memory"
                ),
            });
        }
        let mut bytes = Vec::new();
        if bytes.try_reserve_exact(to_usize(length)).is_err() {
            return Err(Error::no_memory(self.file(), length, "the tail"));
        }
        bytes.resize(to_usize(length), 0);
        self.shared().read_exactly(start, &mut bytes)?;
        Ok(bytes)
    }

    /// Where the stream ends in the file, in bytes. What stands behind belongs to nothing, and is in [`tail`](Self::tail) too: zeros as
    /// padding, or what a longer file left that stood here before.
    ///
    /// # Errors
    /// As [`devices`](Self::devices).
    pub fn stream_end(&self) -> Result<u64> {
        let bytes = self.tail()?;
        Ok(self.layout().tail_offset() + to_u64(self.parse_tail(&bytes)?.length()))
    }

    /// The device state in the file, in its order. [`Tail::devices`](crate::Tail::devices) has an example.
    ///
    /// # Errors
    /// As [`tail`](Self::tail), and when the tail's sections are cut or damaged.
    pub fn devices(&self) -> Result<Vec<DeviceState>> {
        let bytes = self.tail()?;
        let tail = self.parse_tail(&bytes)?;
        Ok(tail
            .devices()
            .iter()
            .map(|device| DeviceState {
                name: device.name().to_owned(),
                instance: device.instance(),
                version: device.version(),
                data: bytes[device.range()].to_vec(),
            })
            .collect())
    }

    pub(super) fn parse_tail(&self, bytes: &[u8]) -> Result<Tail> {
        let start = self.layout().tail_offset();
        Tail::parse(bytes).map_err(|error| self.shared().decode_error(error.shifted(start)))
    }
}
