//! Writes a tail around the device state of a monitor.

use alloc::boxed::Box;
use alloc::collections::BTreeSet;
use alloc::string::String;
use alloc::vec::Vec;

use crate::layout::Layout;
use crate::output::{put_short_name, put_u32, put_u64};
use crate::wire::{flag, section};

use super::description;

/// A device's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Name of the device, 1 to 255 bytes without NUL.
    pub name: String,
    /// Tells devices of one name apart.
    pub instance: u32,
    /// Version of the data's layout.
    pub version: u32,
    /// The state, whatever it means to the device.
    pub data: Vec<u8>,
}

/// Why a tail was not built.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TailError {
    /// The device's name is empty, longer than 255 bytes, or has a control character in it.
    #[error("device name {0:?} is empty, longer than 255 bytes or has a control character in it")]
    Name(Box<str>),
    /// Two devices of the same name and instance.
    #[error("two devices `{0}` of instance {1}")]
    Duplicate(Box<str>, u32),
    /// The description of the devices is longer than 4 GiB.
    #[error("the description of the devices is too long")]
    TooLong,
}

/// Writes everything behind the last page.
///
/// ```
/// use mapped_ram_format::tail::{Device, Tail, TailBuilder};
///
/// let clock = Device { name: "clock".into(), instance: 0, version: 1, data: vec![7; 12] };
/// let bytes = TailBuilder::with_section(2, 4096).device(clock).build()?;
///
/// let tail = Tail::parse(&bytes)?;
/// let clock = tail.device("clock", 0).unwrap();
/// assert_eq!(bytes[clock.range()], [7; 12]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct TailBuilder {
    ram_section_id: u32,
    page_size: u64,
    devices: Vec<Device>,
}

impl TailBuilder {
    /// The tail of this layout.
    pub fn new(layout: &Layout) -> Self {
        Self::with_section(layout.ram_section_id(), layout.page_size())
    }

    /// The tail of a stream with this number of the `ram` section and this page size.
    pub fn with_section(ram_section_id: u32, page_size: u64) -> Self {
        Self { ram_section_id, page_size, devices: Vec::new() }
    }

    /// Adds a device behind those before it.
    pub fn device(mut self, device: Device) -> Self {
        self.devices.push(device);
        self
    }

    /// Adds devices behind those before them.
    pub fn devices(mut self, devices: impl IntoIterator<Item = Device>) -> Self {
        self.devices.extend(devices);
        self
    }

    /// The bytes, in the order that the [module](super) shows: the end of the memory, one full section for each
    /// device, the end mark, and the description.
    ///
    /// # Errors
    ///
    /// [`TailError`] if a device cannot be found again.
    pub fn build(&self) -> Result<Vec<u8>, TailError> {
        let mut out = Vec::new();
        put_u64(&mut out, flag::EOS);
        put_footer(&mut out, self.ram_section_id);
        out.push(section::END);
        put_u32(&mut out, self.ram_section_id);
        put_u64(&mut out, flag::EOS);
        put_footer(&mut out, self.ram_section_id);

        let mut seen = BTreeSet::new();
        let mut id = self.ram_section_id;
        for device in &self.devices {
            let name = device.name.as_bytes();
            if name.is_empty() || name.len() > 255 || device.name.contains(char::is_control) {
                return Err(TailError::Name(device.name.as_str().into()));
            }
            if !seen.insert((name, device.instance)) {
                return Err(TailError::Duplicate(device.name.as_str().into(), device.instance));
            }
            // The numbers that follow the memory's, so that none is the memory's.
            id = id.wrapping_add(1);
            out.push(section::FULL);
            put_u32(&mut out, id);
            put_short_name(&mut out, name);
            put_u32(&mut out, device.instance);
            put_u32(&mut out, device.version);
            out.extend_from_slice(&device.data);
            put_footer(&mut out, id);
        }

        let json = description::write(self.page_size, &self.devices);
        out.push(section::END_OF_STREAM);
        out.push(section::DESCRIPTION);
        put_u32(&mut out, u32::try_from(json.len()).map_err(|_| TailError::TooLong)?);
        out.extend_from_slice(json.as_bytes());
        Ok(out)
    }
}

fn put_footer(out: &mut Vec<u8>, id: u32) {
    out.push(section::FOOTER);
    put_u32(out, id);
}
