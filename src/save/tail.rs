//! What stands behind the last block's pages: the end of the RAM section, device state, the vmdescription.
//!
//! The tail is opaque to whoever saves RAM: the smallest one that QEMU loads, one with the device state of the
//! monitor that saves, or the bytes of another file's tail as they are.

use mapped_ram_format::Layout;
use mapped_ram_format::tail::{Device, TailBuilder};

use super::copied::Copied;
use crate::convert::to_u64;
use crate::error::{Error, Result};
use crate::read::{MAX_TAIL, Reader};

/// What is written behind the last block's pages.
#[derive(Clone)]
pub struct Tail(Kind);

#[derive(Clone)]
enum Kind {
    Devices(Vec<Device>),
    Copied(Copied),
    /// That of a file that is not whole.
    Lost {
        file: String,
    },
}

impl Tail {
    /// The smallest tail that QEMU loads (with `-machine none`): no devices.
    pub fn minimal() -> Self {
        Self(Kind::Devices(Vec::new()))
    }

    /// A tail that holds device state, found again by [`Reader::devices`]: at most 1 GiB of it, or the save fails when it is finished.
    ///
    /// ```
    /// # fn main() -> mapped_ram::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("guest.mram");
    /// use mapped_ram::{Device, RamBlock, Reader, SaveOptions, Tail};
    ///
    /// let memory = vec![7_u8; 1 << 16];
    /// let clock = Device { name: "clock".into(), instance: 0, version: 1, data: vec![1, 2, 3] };
    /// let mut writer = SaveOptions::new().create(&path, vec![RamBlock::new("ram0", &memory)])?;
    /// writer.write_all()?;
    /// writer.finish(&Tail::devices(vec![clock]))?;
    ///
    /// let devices = Reader::open(&path)?.devices()?;
    /// assert_eq!((&*devices[0].name, &*devices[0].data), ("clock", &[1, 2, 3][..]));
    /// # Ok(())
    /// # }
    /// ```
    pub fn devices(devices: Vec<Device>) -> Self {
        Self(Kind::Devices(devices))
    }

    /// The tail of the file that `reader` reads, byte for byte. Use it together with
    /// [`SaveOptions::head_of`](crate::SaveOptions::head_of): the tail repeats ids that the head gave out.
    pub fn copied_from(reader: &Reader) -> Self {
        if reader.flaw().is_some() {
            return Self(Kind::Lost { file: reader.file().to_owned() });
        }
        let (start, end) = reader.tail_range();
        Self(Kind::Copied(Copied { source: reader.source(), start, end, what: "the tail" }))
    }

    /// Hands the tail's bytes to `write`, piece by piece in order, and returns how many there were.
    pub(crate) fn pour(
        &self,
        layout: &Layout,
        mut write: impl FnMut(u64, &[u8]) -> Result<()>,
    ) -> Result<u64> {
        match &self.0 {
            Kind::Devices(devices) => {
                let mut builder = TailBuilder::new(layout);
                for device in devices {
                    builder = builder.device(device.clone());
                }
                let bytes = builder
                    .build()
                    .map_err(|error| Error::Usage(format!("these devices make no tail: {error}")))?;
                let length = to_u64(bytes.len());
                if length > MAX_TAIL {
                    return Err(Error::Usage(format!(
                        "the state of the devices makes a tail of {length} bytes, of which no reader takes more than {MAX_TAIL}"
                    )));
                }
                write(0, &bytes)?;
                Ok(length)
            }
            Kind::Lost { file } => Err(Error::Damaged {
                file: file.clone(),
                what: "it was opened to salvage memory, and its tail is not to be had".to_owned(),
            }),
            Kind::Copied(copied) => {
                copied.pour(write)?;
                Ok(copied.len())
            }
        }
    }
}
