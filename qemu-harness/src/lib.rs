//! Runs real QEMU for tests and benches: guests whose RAM is a file, saved and loaded over QMP.
//!
//! Nothing here knows our own code: QEMU is the judge, and this is its voice.
//!
//! - [`Qemu::for_test`] finds the program, or says aloud that a test cannot run.
//! - [`Guest`] is a running QEMU; it is killed when dropped.
//! - [`pattern`] fills RAM files, [`boot`] has boot sectors that keep a guest's memory moving.
//! - [`SmallDisk`] is a file system that fills up.

pub mod boot;
mod disk;
mod error;
mod guest;
mod migration;
pub mod pattern;
mod qemu;
mod ram_block;

pub use disk::SmallDisk;
pub use error::{Error, Result};
pub use guest::{Guest, GuestBuilder};
pub use migration::{Migration, Transfer};
pub use qemu::Qemu;
pub use ram_block::RamBlock;
