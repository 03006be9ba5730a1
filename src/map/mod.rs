//! A block's memory as a private mapping of the file's own pages: there at once, read when it is touched.
//!
//! Decided here: which pages of the file may show through, and how the others are hidden. The bitmap rules: a page whose
//! bit is clear is zeros. Where its room is a hole the file itself says so; where it holds data (a live save leaves stale
//! bytes, a save that bridges gaps leaves zeros) the room is hidden:
//!
//! ```text
//!   file     | present | stale  | hole   | present | stale | present |
//!   memory   |  file   |  anon  |  file  |  file   | wiped |  file   |
//! ```
//!
//! The longest stale runs are covered by anonymous memory, which reads nothing but costs the process two mappings each;
//! what is left when [`stale::COVERS`] are used up, and what is smaller than a page of the host, is looked at and, unless it is
//! zero already, overwritten in private copies.
//!
//! A file may carry a note that there is nothing to hide ([`Reader::is_noted_clean`](crate::Reader::is_noted_clean)): then nobody looks, and
//! the time that a mapping takes does not depend on the guest at all.
//!
//! - `look` asks the file, `stale` finds the runs and chooses between the two, without touching memory.
//! - `clean` leaves the note on a file that somebody else wrote.
//! - `ahead` asks for what of a cold bitmap `stale` will look at.
//! - `region` makes the system calls; all of this module's addresses are there.
//! - `prefetch` brings pages in before they are asked for.
//!
//! Left to the caller: what is done with the memory, and that nobody cuts or rewrites the file meanwhile.
//!
//! Every offset and length is in bytes from the block's start unless it says otherwise.

mod ahead;
mod clean;
mod look;
mod mapping;
#[expect(unsafe_code, reason = "maps into address ranges that a caller reserved")]
mod options;
mod prefetch;
#[expect(unsafe_code, reason = "makes, changes and ends mappings")]
mod region;
mod stale;

pub use clean::StalePage;
pub use mapping::Mapping;
pub use options::MapOptions;
pub use prefetch::Prefetch;
pub(crate) use region::host_page;
pub(crate) use stale::Plan;
