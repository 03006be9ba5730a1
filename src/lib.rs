//! mapped-ram
