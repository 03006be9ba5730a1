//! The header that libvirt puts before the stream in a save image.
//!
//! This module decides what the header says and where the stream begins. The XML is libvirt's.
//!
//! ```text
//!  0  16 bytes   "LibvirtQemudPart" while it is written, "LibvirtQemudSave" once complete
//! 16  u32        version, 1 or 2
//! 20  u32        data_len: XML and NUL, cookie and NUL, zero padding
//! 24  u32        was_running
//! 28  u32        format: 6 is the one that holds mapped-ram
//! 32  u32        cookie_offset from the XML's first byte; 0 = none
//! 36  u32 x 14   unused
//! 92             data, then the stream
//! ```
//!
//! The numbers are in the writer's byte order, which the version tells.

use core::ops::Range;

use crate::bitmap::{BitmapEncoding, ByteOrder};
use crate::error::{DecodeError, Defect};

const PREFIX: &[u8] = b"LibvirtQemud";
const SAVE: &[u8; 16] = b"LibvirtQemudSave";
const PART: &[u8; 16] = b"LibvirtQemudPart";
const SPARSE: u32 = 6;
const VERSION: u32 = 2;

/// The header of a complete libvirt image that holds a mapped-ram stream.
///
/// ```
/// use mapped_ram_format::libvirt::SaveHeader;
///
/// let header = SaveHeader::new(1000);
/// let bytes = header.encode();
/// assert_eq!(SaveHeader::decode(&bytes)?, Some(header));
/// assert_eq!(header.stream_offset(), 1092);
/// assert_eq!(SaveHeader::decode(b"QEVM")?, None);
/// # Ok::<(), mapped_ram_format::DecodeError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SaveHeader {
    order: ByteOrder,
    version: u32,
    data_len: u32,
    was_running: u32,
    cookie_offset: u32,
    unused: [u8; 56],
}

impl SaveHeader {
    /// Bytes of the header.
    pub const LEN: usize = 92;

    /// A header in this host's byte order for `data_len` bytes of XML and padding, without a cookie, of a guest that did
    /// not run.
    pub fn new(data_len: u32) -> Self {
        let order = BitmapEncoding::NATIVE.order;
        Self { order, version: VERSION, data_len, was_running: 0, cookie_offset: 0, unused: [0; 56] }
    }

    /// In this byte order.
    #[must_use]
    pub fn with_byte_order(mut self, order: ByteOrder) -> Self {
        self.order = order;
        self
    }

    /// Of a guest that ran, or did not.
    #[must_use]
    pub fn with_was_running(mut self, was_running: bool) -> Self {
        self.was_running = was_running.into();
        self
    }

    /// With a cookie this far into the data; 0 for none.
    ///
    /// # Errors
    ///
    /// [`Defect::LibvirtCookie`] if that is not inside the data.
    pub fn with_cookie_offset(mut self, offset: u32) -> Result<Self, DecodeError> {
        self.cookie_offset = offset;
        self.check_cookie()?;
        Ok(self)
    }

    /// The header in the first bytes of a file, of which [`LEN`](Self::LEN) are looked at; `None` if the file is no libvirt
    /// image at all.
    ///
    /// # Errors
    ///
    /// - Incomplete: libvirt never finished the image, or the file ends inside the header.
    /// - Unsupported: another format than 6, or a version above 2.
    /// - Damaged: neither of the two magics, version 0, or a cookie outside of the data.
    pub fn decode(bytes: &[u8]) -> Result<Option<Self>, DecodeError> {
        if !bytes.starts_with(PREFIX) {
            return Ok(None);
        }
        let Some(bytes) = bytes.first_chunk::<{ Self::LEN }>() else {
            return Err(DecodeError::new(Defect::EndsInside("the libvirt header"), bytes.len() as u64));
        };
        if bytes.starts_with(PART) {
            return Err(DecodeError::new(Defect::NeverFinished, 0));
        }
        if !bytes.starts_with(SAVE) {
            let mut magic = [0; 4];
            magic.copy_from_slice(&bytes[PREFIX.len()..PREFIX.len() + 4]);
            return Err(DecodeError::new(Defect::Magic(magic), PREFIX.len() as u64));
        }
        let known = |order: &ByteOrder| (0..=VERSION).contains(&field(bytes, 16, *order));
        let orders = [ByteOrder::Little, ByteOrder::Big];
        let order = orders.into_iter().find(known).unwrap_or(ByteOrder::Little);
        let version = field(bytes, 16, order);
        if !(1..=VERSION).contains(&version) {
            return Err(DecodeError::new(Defect::Version { of: "the libvirt header", found: version }, 16));
        }
        let format = field(bytes, 28, order);
        if format != SPARSE {
            return Err(DecodeError::new(Defect::LibvirtFormat(format), 28));
        }
        let mut unused = [0; 56];
        unused.copy_from_slice(&bytes[36..]);
        let header = Self {
            order,
            version,
            data_len: field(bytes, 20, order),
            was_running: field(bytes, 24, order),
            cookie_offset: field(bytes, 32, order),
            unused,
        };
        header.check_cookie()?;
        Ok(Some(header))
    }

    /// The bytes of a complete image's header: the reverse of [`decode`](Self::decode).
    pub fn encode(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..16].copy_from_slice(SAVE);
        let fields = [self.version, self.data_len, self.was_running, SPARSE, self.cookie_offset];
        for (place, value) in bytes[16..36].chunks_exact_mut(4).zip(fields) {
            place.copy_from_slice(&match self.order {
                ByteOrder::Little => value.to_le_bytes(),
                ByteOrder::Big => value.to_be_bytes(),
            });
        }
        bytes[36..].copy_from_slice(&self.unused);
        bytes
    }

    /// Where the stream begins: behind header and data, at no particular alignment.
    pub fn stream_offset(&self) -> u64 {
        Self::LEN as u64 + u64::from(self.data_len)
    }

    /// Where the XML stands in the file, with the NUL and perhaps padding behind it.
    pub fn xml_range(&self) -> Range<u64> {
        let len = if self.cookie_offset == 0 { self.data_len } else { self.cookie_offset };
        let start = Self::LEN as u64;
        start..start + u64::from(len)
    }

    /// Where the cookie stands in the file, with what is behind it.
    pub fn cookie_range(&self) -> Option<Range<u64>> {
        (self.cookie_offset != 0).then(|| self.xml_range().end..self.stream_offset())
    }

    /// Whether the guest ran when it was saved.
    pub fn was_running(&self) -> bool {
        self.was_running != 0
    }

    /// The writer's byte order; its bitmaps have the same.
    pub fn byte_order(&self) -> ByteOrder {
        self.order
    }

    fn check_cookie(&self) -> Result<(), DecodeError> {
        let Self { cookie_offset, data_len, .. } = *self;
        if cookie_offset != 0 && cookie_offset >= data_len {
            return Err(DecodeError::new(Defect::LibvirtCookie { cookie_offset, data_len }, 32));
        }
        Ok(())
    }
}

fn field(bytes: &[u8; SaveHeader::LEN], at: usize, order: ByteOrder) -> u32 {
    let mut field = [0; 4];
    field.copy_from_slice(&bytes[at..at + 4]);
    match order {
        ByteOrder::Little => u32::from_le_bytes(field),
        ByteOrder::Big => u32::from_be_bytes(field),
    }
}
