//! mapped-ram-cli
