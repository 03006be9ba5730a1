//! multifd-pool
