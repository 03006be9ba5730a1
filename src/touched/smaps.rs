//! Which mappings of this process have nothing behind them: absent pages of those, and only those, are zeros. And which are filled on
//! demand.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::ops::Range;
use std::str::SplitWhitespace;

/// The private anonymous mappings that nobody but the kernel fills, as ranges of addresses in order.
pub(super) fn plain_mappings() -> io::Result<Vec<Range<u64>>> {
    parse(BufReader::new(File::open("/proc/self/smaps")?))
}

/// Whether /proc is there to be asked.
pub(super) fn can_be_asked() -> bool {
    File::open("/proc/self/smaps").is_ok()
}

/// Whether a handler (userfaultfd) brings what is missing of any mapping of this process in `addresses`.
pub(super) fn is_filled_on_demand(addresses: &Range<u64>) -> io::Result<bool> {
    is_filled_by(BufReader::new(File::open("/proc/self/smaps")?), addresses)
}

fn is_filled_by(text: impl BufRead, addresses: &Range<u64>) -> io::Result<bool> {
    let mut is_filled = false;
    for_each(text, |mapping, mut flags| {
        let is_here = mapping.range.start < addresses.end && addresses.start < mapping.range.end;
        is_filled |= is_here && flags.any(|flag| flag == "um");
    })?;
    Ok(is_filled)
}

/// Reads the text of `/proc/PID/smaps`. A mapping whose lines are not as expected is left out.
fn parse(text: impl BufRead) -> io::Result<Vec<Range<u64>>> {
    let mut plain: Vec<Range<u64>> = Vec::new();
    for_each(text, |mapping, mut flags| {
        // um: missing pages are brought by userfaultfd; pf, io: a device's memory; ht: pages of hugetlbfs, which are
        // looked up elsewhere.
        let is_foreign = flags.any(|flag| matches!(flag, "um" | "pf" | "io" | "ht"));
        if mapping.is_plain && !is_foreign {
            match plain.last_mut() {
                Some(last) if last.end == mapping.range.start => last.end = mapping.range.end,
                _ => plain.push(mapping.range),
            }
        }
    })?;
    Ok(plain)
}

/// Hands each mapping of the text that has flags to `each`, with them.
fn for_each(text: impl BufRead, mut each: impl FnMut(Header, SplitWhitespace<'_>)) -> io::Result<()> {
    let mut mapping: Option<Header> = None;
    // Names of files are bytes.
    for line in text.split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        if let Some(flags) = line.strip_prefix("VmFlags:") {
            if let Some(mapping) = mapping.take() {
                each(mapping, flags.split_whitespace());
            }
        } else if let Some(header) = header(&line) {
            mapping = Some(header);
        }
    }
    Ok(())
}

/// The line that begins a mapping.
struct Header {
    range: Range<u64>,
    /// It is private and has no file behind it.
    is_plain: bool,
}

/// `Some` if the line begins a mapping.
fn header(line: &str) -> Option<Header> {
    // 7f0000000000-7f0000001000 rw-p 00000000 00:00 0    [heap]
    let mut words = line.split_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let start = u64::from_str_radix(start, 16).ok()?;
    let end = u64::from_str_radix(end, 16).ok()?;
    let (Some(rights), Some(_), Some(device), Some(inode)) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Some(Header { range: start..end, is_plain: false });
    };
    let is_plain = rights.ends_with('p') && inode == "0" && device.split(':').all(|part| part == "00");
    // Anonymous memory has no name, or one that the kernel gave; a device's may begin with a slash and have no inode.
    let name = words.next().unwrap_or("");
    let named_by_kernel =
        name.is_empty() || name == "[heap]" || name.starts_with("[stack") || name.starts_with("[anon");
    Some(Header { range: start..end, is_plain: is_plain && named_by_kernel && start < end })
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn only_private_memory_without_anything_behind_it_is_plain() {
        let text = "\
10000-12000 rw-p 00000000 00:00 0
Size:                  8 kB
VmFlags: rd wr mr mw me ac
12000-13000 rw-p 00000000 00:00 0                          [heap]
VmFlags: rd wr mr mw me ac
20000-21000 rw-p 00000000 00:00 0
VmFlags: rd wr mr mw me um
30000-31000 rw-s 00000000 00:01 77                         /memfd:guest (deleted)
VmFlags: rd wr sh mr mw me ms
40000-41000 rw-p 00000000 fe:00 12                         /usr/lib/x y.so
VmFlags: rd wr mr mw me ac
50000-51000 rw-p 00000000 00:00 0                          /dev/odd
VmFlags: rd wr
60000-61000 rw-p 00000000 00:00 0                          [anon:guest]
Rss:                   0 kB
70000-71000 rw-p
VmFlags: rd wr
80000-81000 rw-p 00000000 00:00 0
";
        // The mapping at 60000 has no flags line, the last one none either: left out.
        assert!(parse(text.as_bytes()).unwrap().into_iter().eq(std::iter::once(0x10000..0x13000)));
    }

    #[test]
    fn what_a_handler_fills_is_told_apart() {
        let text = "\
10000-12000 rw-s 00000000 00:01 77                         /memfd:guest (deleted)
VmFlags: rd wr sh mr mw me ms
12000-13000 rw-s 00000000 00:01 77                         /memfd:guest (deleted)
VmFlags: rd wr sh mr mw me ms um
";
        for (addresses, expected) in [
            (0x10000..0x12000, false),
            (0x11000..0x12001, true),
            (0x12fff..0x14000, true),
            (0x13000..0x14000, false),
        ] {
            assert_eq!(super::is_filled_by(text.as_bytes(), &addresses).unwrap(), expected, "{addresses:x?}");
        }
    }

    #[test]
    fn this_process_has_some() {
        let heap = vec![0_u8; 8 << 20];
        let address = heap.as_ptr().addr() as u64 + (4 << 20);
        assert!(super::plain_mappings().unwrap().iter().any(|range| range.contains(&address)));
    }
}
