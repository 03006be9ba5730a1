//! Reading a mapped-ram file: its structure, its pages, its tail, and whether it is whole.
//!
//! Opening a file decodes its structure and nothing else; a block's bitmap is read when it is first asked for, pages
//! when they are read or loaded. The bitmap rules: what the file holds in the room of a page that is not set is never
//! shown.

mod block;
mod chunks;
mod load;
mod options;
mod part;
mod reader;
mod tail;
mod unmarked;
mod verify;

pub use block::Block;
pub(crate) use chunks::DIRECT_ALIGNMENT;
#[cfg(feature = "userfaultfd")]
pub(crate) use chunks::default_channels;
pub use load::{Destination, LoadOptions, LoadReport, LoadState, LoadTarget, LoadedBlock};
pub use options::ReaderOptions;
pub(crate) use part::BitmapPart;
pub use reader::Reader;
pub use tail::DeviceState;
pub(crate) use tail::MAX_TAIL;
pub use unmarked::UnmarkedBlock;
pub use verify::{BlockReport, Problem, VerifyOptions, VerifyReport};
