//! Saving a guest's RAM: options, the writer, and what runs in its channels.
//!
//! ```text
//!   SaveOptions --create--> Writer --write_all / write_pages / write_from--> rounds of regions, in channels:
//!                             |               zero scan, slicing, old bytes cleared, room reserved, pwritev
//!                             |
//!                           finish: bitmaps -> tail -> fsync -> name (or, in place, the magic -> fsync)
//! ```
//!
//! A bitmap is written only after all pages were accepted by the system; a page whose write failed fails the save. So whatever point a save is interrupted at, no bit speaks of a page that is not there.

mod copied;
mod frame;
mod mode;
mod options;
mod plan;
mod policy;
#[expect(unsafe_code, reason = "asks the kernel for page tables")]
mod populate;
mod report;
#[expect(unsafe_code, reason = "hands raw pointers to the channels and waits for them")]
mod round;
mod tail;
#[expect(unsafe_code, reason = "memory that a guest may be writing is read through raw pointers")]
mod worker;
mod writer;

pub use options::SaveOptions;
pub use policy::{Bridge, SyncMode};
pub use report::SaveReport;
pub use tail::Tail;
pub use writer::Writer;
