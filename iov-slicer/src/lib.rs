//! iov-slicer
