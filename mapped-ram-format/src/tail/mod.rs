//! Everything behind the last page: the device state, and the description of it.
//!
//! The tail must survive a rewrite of the memory byte for byte, so it is handled as bytes. [`TailBuilder`] makes one for
//! a monitor that has device state of its own; [`Tail::parse`] finds the devices in any tail. What a device's bytes mean
//! is the device's business.
//!
//! ```text
//! u64 0x10, 0x7e, u32 ram section id                      ends the section that holds the memory
//! parts, in any order:
//!   0x03 | 0x02, u32 ram section id, u64 0x10, footer
//!   0x01, u32 id, u8 length, name, u32 instance, u32 version, body, footer
//!   0x02 | 0x03, u32 id, body, footer
//!   0x04, u32 id, u8 length, name, u32 instance, u32 version, body, footer
//!   0x08, u16 command, u16 length, that many bytes
//! 0x00
//! [0x06, u32 length, JSON]
//! ```
//!
//! A footer is 0x7e and the section's u32 id. Offsets are from the tail's first byte.

mod build;
mod description;
mod parse;

pub use build::{Device, TailBuilder, TailError};
pub use parse::{DeviceSection, Tail};
