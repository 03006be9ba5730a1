//! Files that need no look before they are mapped: a clear page's room holds nothing but zeros.
//!
//! Decided here: when that may be written down on a file that somebody else wrote. What the note is, and what takes its force from it,
//! is decided in [`storage`](crate::storage).

use super::look::{not_zero, stale};
use super::mapping::About;
use super::region::host_page;
use super::stale::Room;
use crate::error::{Error, Result};
use crate::read::Reader;

/// A clear page whose room in the file holds bytes that are not zeros: a live save left them.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StalePage {
    /// The block's name.
    pub idstr: String,
    /// The page's number in the block.
    pub page: u64,
    /// Where the page's room begins in the file, in bytes.
    pub offset: u64,
}

impl Reader {
    /// Whether the file carries a note that its clear pages hold nothing but zeros, and nobody has written it since. Then a mapping
    /// of it is there at once, however many runs of pages the guest has.
    ///
    /// Saves of this crate leave the note wherever the file system has extended attributes: a page that becomes zero in a later round
    /// is cleared in the file too. It is lost by copies that leave attributes behind (`cp` without `-a`), and by whoever writes the
    /// file.
    pub fn is_noted_clean(&self) -> bool {
        self.source().is_noted_clean(self.layout().stream_offset())
    }

    /// Looks whether the clear pages hold nothing but zeros in the file and, if so, notes it on the file: for one that
    /// somebody else wrote, and that will be mapped often. Otherwise returns the first page of which it is not true, and leaves no
    /// note; a file written anew has no such pages ([`Tail::copied_from`](crate::Tail::copied_from), or the command's `copy`).
    ///
    /// Reads whatever stands in clear pages. Blocks that the file leaves out have none.
    ///
    /// # Errors
    /// A source that is no file, a file that cannot be read, and one on which no note can be left: its file system has no place for
    /// one (`user.` extended attributes), or this process may not write the file. The error says then that the file was looked at, and
    /// is clean; stale bytes are found in any case.
    pub fn note_clean(&self) -> Result<Option<StalePage>> {
        let source = self.source();
        let failed = |what: &str| {
            let what = what.to_owned();
            move |error| Error::io(self.file(), what, error)
        };
        // Of the state in which it was opened: who writes the file from there on takes the note's force from it.
        let state = source.state().map_err(failed("ask for the file's length and time"))?;
        let Some(state) = state else {
            return Err(Error::Usage(format!("{}: no note can be left on what is no file", self.file())));
        };
        if self.opened_in() != Some(state) {
            return Err(Error::Damaged {
                file: self.file().to_owned(),
                what: "it was written since it was opened; open it again".to_owned(),
            });
        }
        for block in self.blocks().iter().filter(|block| !block.is_left_out()) {
            let layout = block.layout();
            let about = About::of(block);
            about.check_length(&*source)?;
            let page_size = layout.page_size();
            let room = Room { pages_offset: layout.pages_offset(), length: layout.used_length(), page_size };
            for range in stale(block, &about, room)? {
                let mut first = None;
                not_zero(&*source, range, &about, host_page(), |piece| {
                    first = Some(piece.start);
                    false
                })?;
                if let Some(at) = first {
                    let page = at / page_size;
                    let offset = room.pages_offset + page * page_size;
                    return Ok(Some(StalePage { idstr: about.block, page, offset }));
                }
            }
        }
        source
            .note_clean(self.layout().stream_offset(), &state)
            .map_err(failed(
                "its clear pages are zeros in the file, but that cannot be noted on it, so who maps it has to look each time",
            ))?;
        Ok(None)
    }
}
