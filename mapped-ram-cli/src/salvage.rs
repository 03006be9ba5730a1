//! What can be had of a block in a file that is cut, or cannot be read in places.
//!
//! A page is written as it stands in the file, or it is lost: then it is zeros in the image, and named. There is nothing between, for a
//! page of which a part was read is not what the guest had.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use mapped_ram::storage::{AtomicFile, Storage};
use mapped_ram::{Block, Cancel, Error, ErrorKind, PageBitmap};
use nix::errno::Errno;

use crate::chunks::{CHUNK, any_data, any_present, buffer};
use crate::exit::Problem;
use crate::files::open_regular;
use crate::output::write_used;

/// Writes the memory of `block`, of the file at `from`, to a new file at `path`, and returns the pages that are lost. Its bitmap can be
/// read.
pub(crate) fn write_salvaged(
    block: &Block,
    from: &Path,
    path: &Path,
    cancel: &Cancel,
) -> Result<PageBitmap, Problem> {
    let fail = |what: &str| {
        let what = format!("{what} (block `{}`)", block.idstr());
        move |error| Problem::io(path, what, error)
    };
    let page = block.page_size();
    let Some(mut lost) = PageBitmap::try_new(block.pages()) else {
        return Err(fail("count its lost pages")(io::ErrorKind::OutOfMemory.into()));
    };
    let (source, _) = open_regular(from)?;
    let is_data = |at: u64, length: u64| {
        any_data(&source, block.layout().pages_offset() + at, length).map_err(|error| {
            Problem::io(from, format!("look for data at offset {at:#x} of the block"), error)
        })
    };
    let mut storage = AtomicFile::create(path).map_err(fail("create the file"))?;
    storage.set_len(block.used_length()).map_err(fail("set the file's length"))?;
    let file = File::from(storage.as_fd().try_clone_to_owned().map_err(fail("open the file once more"))?);
    // Whole pages at a time, some of which are larger than a chunk.
    let step = (CHUNK as u64).max(page);
    let mut at = 0;
    while at < block.used_length() {
        if cancel.is_cancelled() {
            return Err(Problem::cancelled(path));
        }
        let length = step.min(block.used_length() - at);
        if any_present(block, at, length)? {
            let mut bytes = buffer(path, usize::try_from(length).unwrap_or(usize::MAX))?;
            let present = block.bitmap()?.runs_within(at / page..(at + length) / page);
            let present: Vec<u64> = present.flatten().collect();
            let pages = present.iter().map(|number| number * page);
            let gone = read_what_can_be_had(
                at,
                page,
                pages,
                &mut bytes,
                |at, bytes| block.read_at(at, bytes),
                is_data,
            )?;
            for number in gone {
                lost.insert(number..number + 1);
            }
            write_used(&file, &bytes, at).map_err(|(at, error)| {
                Problem::io(path, format!("write block `{}` at offset {at:#x}", block.idstr()), error)
            })?;
        }
        at += length;
    }
    storage.sync().map_err(fail("make the file durable"))?;
    storage.publish(true).map_err(fail("give the finished file its name"))?;
    Ok(lost)
}

/// Fills `bytes`, zeros that stand for the block from `start` on, with those of its present `pages` (offsets in the block) that can be
/// had; returns the numbers of the others, which stay zeros.
fn read_what_can_be_had(
    start: u64,
    page: u64,
    pages: impl Iterator<Item = u64>,
    bytes: &mut [u8],
    read: impl Fn(u64, &mut [u8]) -> Result<(), Error>,
    is_data: impl Fn(u64, u64) -> Result<bool, Problem>,
) -> Result<Vec<u64>, Problem> {
    let mut lost = Vec::new();
    for at in pages {
        let from = usize::try_from(at - start).unwrap_or(usize::MAX);
        let place = &mut bytes[from..from + usize::try_from(page).unwrap_or(usize::MAX)];
        let is_had = match read(at, place) {
            Ok(()) => is_data(at, page)?,
            Err(error) if is_of_the_file(&error) => false,
            Err(error) => return Err(error.into()),
        };
        if !is_had {
            place.fill(0);
            lost.push(at / page);
        }
    }
    Ok(lost)
}

/// Whether an error is the file's own: cut, or not to be read there. Others, of memory that cannot be had for instance, say nothing
/// about the page.
pub(crate) fn is_of_the_file(error: &Error) -> bool {
    const OF_THE_DISK: [Errno; 5] =
        [Errno::EIO, Errno::ENODATA, Errno::EILSEQ, Errno::EUCLEAN, Errno::EREMOTEIO];
    match error {
        Error::Io { source, .. } => {
            source.raw_os_error().is_some_and(|code| OF_THE_DISK.contains(&Errno::from_raw(code)))
        }
        error => matches!(error.kind(), ErrorKind::Damaged | ErrorKind::Incomplete),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn failure(code: Errno) -> Error {
        Error::Io { file: "disk".to_owned(), operation: "read".to_owned(), source: code.into() }
    }

    proptest! {
        /// A page is had, byte for byte, or lost, and zeros: also one of which a part was read before the disk failed.
        #[test]
        fn every_present_page_is_had_or_lost(
            kinds in prop::collection::vec(0_u8..5, 1..60),
            first in 0_u64..10,
            page in prop_oneof![Just(1_u64), Just(16), Just(256)],
        ) {
            let start = first * page;
            let kind_of = |at: u64| kinds[usize::try_from((at - start) / page).unwrap()];
            let mut bytes = vec![0; kinds.len() * usize::try_from(page).unwrap()];
            let present = (first..).zip(&kinds).filter(|(_, kind)| **kind != 0).map(|(number, _)| number * page);
            let lost = read_what_can_be_had(start, page, present, &mut bytes, |at, place| {
                place[0] = 9;
                match kind_of(at) {
                    1 => return Err(failure(Errno::EIO)),
                    2 => return Err(Error::Damaged { file: "f".to_owned(), what: "cut".to_owned() }),
                    _ => place.fill(7),
                }
                Ok(())
            }, |at, _| Ok(kind_of(at) != 3)).unwrap();
            let expected: BTreeSet<u64> =
                (first..).zip(&kinds).filter(|(_, kind)| (1..4).contains(*kind)).map(|(number, _)| number).collect();
            prop_assert_eq!(lost.into_iter().collect::<BTreeSet<_>>(), expected);
            for (kind, place) in kinds.iter().zip(bytes.chunks(usize::try_from(page).unwrap())) {
                let expected = if *kind == 4 { 7 } else { 0 };
                prop_assert!(place.iter().all(|byte| *byte == expected), "{:?}", place);
            }
        }
    }

    #[test]
    fn what_is_no_loss_ends_it() {
        for code in [Errno::ENOMEM, Errno::EBADF, Errno::EACCES] {
            let result = read_what_can_be_had(
                0,
                4,
                [0].into_iter(),
                &mut [0; 4],
                |_, _| Err(failure(code)),
                |_, _| Ok(true),
            );
            assert_eq!(result.unwrap_err().exit_code(), crate::exit::IO, "{code}");
        }
    }
}
