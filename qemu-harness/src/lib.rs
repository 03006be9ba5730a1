//! qemu-harness
