//! What the fuzzers call, one function a target.
//!
//! They are plain functions of a plain crate, so that `cargo test` replays every committed seed and every crash that was
//! ever found, without a fuzzer. Each panics when a promise is broken.

#![deny(unsafe_code)]
#![expect(clippy::missing_panics_doc, reason = "a panic is how a target says that a promise is broken")]

#[expect(unsafe_code, reason = "an allocator that counts")]
mod allocator;
#[expect(unsafe_code, reason = "a channel copies raw memory")]
mod disk;
mod folder;
#[cfg(feature = "userfaultfd")]
mod made_message;
#[expect(unsafe_code, reason = "a mapping is looked at through raw pointers")]
mod mapped;
#[expect(unsafe_code, reason = "maps memory, and gives it back")]
mod memory;
#[cfg(feature = "userfaultfd")]
mod message;
mod reader;
#[expect(unsafe_code, reason = "a guest writes its memory while it is saved")]
mod save_load;
mod slicer;
mod stream;

#[cfg(feature = "userfaultfd")]
pub use message::message;
pub use reader::reader;
pub use save_load::save_load;
pub use slicer::slicer;
pub use stream::{libvirt, stream, tail, working_set};

/// What a fuzzer calls with each input.
pub type Target = fn(&[u8]);

/// Every target by its name.
pub const TARGETS: &[(&str, Target)] = &[
    ("stream", stream),
    ("libvirt", libvirt),
    ("tail", tail),
    ("working_set", working_set),
    ("slicer", slicer),
    ("save_load", save_load),
    ("reader", reader),
    #[cfg(feature = "userfaultfd")]
    ("message", message),
];
