//! mapped-ram-format
