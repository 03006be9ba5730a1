//! The files that a command is given: that they are ones it can work with, and not each other.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::sys::stat::fstat;
use nix::sys::statfs::{HUGETLBFS_MAGIC, statfs};

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

/// An error where `path` cannot be written: something stands there that is no regular file, or is what the command prints to.
pub(crate) fn expect_writable(path: &Path) -> Result<(), Problem> {
    if path.exists() {
        expect_regular(path)?;
    } else if path.as_os_str().as_bytes().ends_with(b"/") {
        return Err(Problem::Usage(format!(
            "{} ends in a slash, so it names a folder, and there is none; name a file",
            path.display()
        )));
    } else if fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_symlink()) {
        return Err(Problem::Usage(format!(
            "{} is a symbolic link to nothing; remove it, or name another file",
            path.display()
        )));
    }
    expect_no_printing_to(path)
}

/// An error where `path` is on hugetlbfs: the system's own, "Invalid argument", says nothing.
pub(crate) fn expect_no_hugetlbfs(path: &Path) -> Result<(), Problem> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if statfs(folder).is_ok_and(|about| about.filesystem_type() == HUGETLBFS_MAGIC) {
        return Err(Problem::Usage(format!(
            "{} is on hugetlbfs, whose files are mapped and never written; name another place, or fill a guest's memory there with \
             `mapped-ram restore`",
            path.display()
        )));
    }
    Ok(())
}

/// An error where `path` is standard output or standard error: what is printed would stand among what is written.
fn expect_no_printing_to(path: &Path) -> Result<(), Problem> {
    let Ok(file) = fs::metadata(path) else { return Ok(()) };
    for (name, stream) in
        [("standard output", io::stdout().as_fd()), ("standard error", io::stderr().as_fd())]
    {
        if fstat(stream).is_ok_and(|about| (about.st_dev, about.st_ino) == (file.dev(), file.ino())) {
            return Err(Problem::Usage(format!(
                "the output {} is {name} too, and what is printed would stand in it; name another file",
                path.display()
            )));
        }
    }
    Ok(())
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
