//! reference-model
