//! The files that a command is given: that they are ones it can work with, and not each other.

use std::fs::{self, File, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::exit::Problem;

/// Opens `path` for reading; anything but a regular file is an error.
pub(crate) fn open_regular(path: &Path) -> Result<(File, Metadata), Problem> {
    // Asked for before it is opened: opening a pipe waits for a writer, perhaps for ever.
    expect_regular(path)?;
    let file = File::open(path).map_err(|error| Problem::io(path, "open the file for reading", error))?;
    let metadata = file.metadata().map_err(|error| Problem::io(path, "look at the file", error))?;
    Ok((file, metadata))
}

/// An error where `path` is a directory, a pipe, a device or a socket, or nothing at all.
pub(crate) fn expect_regular(path: &Path) -> Result<(), Problem> {
    let metadata =
        fs::metadata(path).map_err(|error| Problem::io(path, "open the file for reading", error))?;
    if metadata.is_file() {
        return Ok(());
    }
    Err(Problem::Usage(format!(
        "{} is no regular file; name one, since pages have fixed offsets in it",
        path.display()
    )))
}

/// An error where something stands at `path` that is no regular file.
pub(crate) fn expect_regular_or_nothing(path: &Path) -> Result<(), Problem> {
    if path.exists() { expect_regular(path) } else { Ok(()) }
}

/// An error where `output` is the very file that is to be read: writing it would destroy what is read, or put something
/// else in its place.
pub(crate) fn expect_another(input: &Path, output: &Path) -> Result<(), Problem> {
    let identity = |path: &Path| fs::metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()));
    match (identity(input), identity(output)) {
        (Some(one), Some(two)) if one == two => Err(Problem::Usage(format!(
            "the output {} is the input {}; name another file",
            output.display(),
            input.display()
        ))),
        _ => Ok(()),
    }
}

/// An error where `path` is a symbolic link: what is written there would land in another folder.
pub(crate) fn expect_no_link(path: &Path) -> Result<(), Problem> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_symlink() => Err(Problem::Usage(format!(
            "{} is a symbolic link, and would be followed out of the folder; remove it, or name another folder",
            path.display()
        ))),
        _ => Ok(()),
    }
}
