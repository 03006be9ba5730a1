//! Whether the file system that the tests run on keeps notes on its files.

use std::path::Path;

use rustix::fs::{XattrFlags, fsetxattr};

/// Whether files in `folder` may have `user.` extended attributes. Says so if not: what is tested with them is not tested then.
pub(crate) fn are_kept(folder: &Path) -> bool {
    let file = tempfile::tempfile_in(folder).unwrap();
    match fsetxattr(&file, "user.mapped-ram.test", b"1", XattrFlags::empty()) {
        Ok(()) => true,
        Err(error) => {
            eprintln!(
                "NOT TESTED: notes on files, since those in {} have no extended attributes: {error}",
                folder.display()
            );
            assert!(
                std::env::var_os("MAPPED_RAM_REQUIRE_NOTES").is_none(),
                "notes on files cannot be tested here"
            );
            false
        }
    }
}
