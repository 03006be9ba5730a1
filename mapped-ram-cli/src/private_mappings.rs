//! Who has a RAM file mapped privately: a guest that runs in such a mapping (QEMU's share=off, the default) writes into copies of
//! its own, and its file says nothing of them.
//!
//! Looked up in `/proc`, as far as this process may: what cannot be read is passed over, so that an empty answer means nothing.
//! Files are told apart as the kernel writes them there, which some file systems do otherwise in `stat(2)`.

use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// A process, for people.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Process {
    id: u32,
    name: String,
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} ({})", self.id, self.name)
    }
}

/// The other processes that have the file which is mapped here at `address` mapped privately and writably. Nobody where
/// somebody, perhaps one of them, has it mapped shared and writably too: then the file is memory in use.
pub(crate) fn hiding(address: usize) -> Vec<Process> {
    let proc = Path::new("/proc");
    let Ok(own) = fs::read(proc.join("self/maps")) else { return Vec::new() };
    let Some(file) = lines(&own).find(|line| line.holds(address)).map(|line| line.file) else {
        return Vec::new();
    };
    let Ok(entries) = fs::read_dir(proc) else { return Vec::new() };
    let mut found = Vec::new();
    for entry in entries.flatten() {
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        // Gone meanwhile, or somebody else's.
        let Ok(maps) = fs::read(entry.path().join("maps")) else { continue };
        if id == std::process::id() {
            continue;
        }
        match of_file(&maps, &file) {
            Some(Writes::IntoTheFile) => return Vec::new(),
            Some(Writes::IntoCopies) => {
                let name = fs::read(entry.path().join("comm")).unwrap_or_default();
                let name = OsStr::from_bytes(name.trim_ascii_end()).display().to_string();
                found.push(Process { id, name });
            }
            None => {}
        }
    }
    found.sort_by_key(|process| process.id);
    found
}

/// Where what a process writes to a file's memory goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Writes {
    IntoCopies,
    IntoTheFile,
}

/// How a process with the list `maps` writes `file`; nothing if it does not.
fn of_file(maps: &[u8], file: &File<'_>) -> Option<Writes> {
    let mut writes = None;
    for line in lines(maps).filter(|line| line.is_writable && line.file == *file) {
        if line.is_shared {
            return Some(Writes::IntoTheFile);
        }
        writes = Some(Writes::IntoCopies);
    }
    writes
}

/// Device and inode, as `/proc/PID/maps` writes them.
#[derive(Debug, PartialEq, Eq)]
struct File<'m> {
    device: &'m [u8],
    inode: &'m [u8],
}

/// `start-end perms offset device inode path`
#[derive(Debug)]
struct Line<'m> {
    start: usize,
    end: usize,
    is_writable: bool,
    is_shared: bool,
    file: File<'m>,
}

impl Line<'_> {
    fn holds(&self, address: usize) -> bool {
        (self.start..self.end).contains(&address)
    }
}

/// The lines of files; anonymous memory, which has inode 0, is passed over, and so is what is not understood.
fn lines(maps: &[u8]) -> impl Iterator<Item = Line<'_>> {
    maps.split(|byte| *byte == b'\n').filter_map(line)
}

fn line(text: &[u8]) -> Option<Line<'_>> {
    let mut words = text.split(|byte| *byte == b' ');
    let range = str::from_utf8(words.next()?).ok()?;
    let [_, write, _, kind] = words.next()? else { return None };
    let (device, inode) = (words.nth(1)?, words.next()?);
    let (start, end) = range.split_once('-')?;
    (inode != b"0").then_some(Line {
        start: usize::from_str_radix(start, 16).ok()?,
        end: usize::from_str_radix(end, 16).ok()?,
        is_writable: *write == b'w',
        is_shared: *kind == b's',
        file: File { device, inode },
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RAM: File<'_> = File { device: b"00:1b", inode: b"42" };

    #[test]
    fn only_a_writable_private_mapping_of_the_very_file_hides_memory() {
        for (maps, expected) in [
            (&b"7f00-7f10 rw-p 00000000 00:1b 42      /dev/shm/ram"[..], Some(Writes::IntoCopies)),
            (b"7f00-7f10 rwxp 00001000 00:1b 42      /dev/shm/ram (deleted)\n", Some(Writes::IntoCopies)),
            (b"7f00-7f10 rw-s 00000000 00:1b 42      /dev/shm/ram", Some(Writes::IntoTheFile)),
            (b"7f00-7f10 rw-p 0 00:1b 42 /x\n7f20-7f30 rw-s 0 00:1b 42 /x\n", Some(Writes::IntoTheFile)),
            (b"7f00-7f10 r--p 00000000 00:1b 42      /dev/shm/ram", None),
            (b"7f00-7f10 r--s 00000000 00:1b 42      /dev/shm/ram", None),
            (b"7f00-7f10 rw-p 00000000 00:1b 421     /dev/shm/ram", None),
            (b"7f00-7f10 rw-p 00000000 00:1c 42      /dev/shm/ram", None),
            (b"7f00-7f10 rw-p 00000000 00:00 0 ", None),
            (b"", None),
        ] {
            assert_eq!(of_file(maps, &RAM), expected, "{}", String::from_utf8_lossy(maps));
        }
    }

    proptest! {
        #[test]
        fn no_list_is_too_odd(maps in prop::collection::vec(any::<u8>(), 0..200), text in "[0-9a-f rwxps:\\n-]{0,200}") {
            let _ = (lines(&maps).count(), lines(text.as_bytes()).count());
        }
    }

    #[test]
    fn this_process_is_not_another() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(4096).unwrap();
        let mapping = memmap2::MmapOptions::new().map_raw(&file).unwrap();
        assert_eq!(hiding(mapping.as_ptr().addr()), []);
    }
}
