//! Which mappings of this process have nothing behind them: absent pages of those, and only those, are zeros.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::ops::Range;

/// The private anonymous mappings that nobody but the kernel fills, as ranges of addresses in order.
pub(super) fn plain_mappings() -> io::Result<Vec<Range<u64>>> {
    parse(BufReader::new(File::open("/proc/self/smaps")?))
}

/// Reads the text of `/proc/PID/smaps`. A mapping whose lines are not as expected is left out.
fn parse(text: impl BufRead) -> io::Result<Vec<Range<u64>>> {
    let mut plain: Vec<Range<u64>> = Vec::new();
    let mut mapping: Option<Range<u64>> = None;
    // Names of files are bytes.
    for line in text.split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        if let Some(flags) = line.strip_prefix("VmFlags:") {
            // um: missing pages are brought by userfaultfd; pf, io: a device's memory; ht: pages of hugetlbfs, which are
            // looked up elsewhere.
            let foreign = flags.split_whitespace().any(|flag| matches!(flag, "um" | "pf" | "io" | "ht"));
            if let Some(range) = mapping.take()
                && !foreign
            {
                match plain.last_mut() {
                    Some(last) if last.end == range.start => last.end = range.end,
                    _ => plain.push(range),
                }
            }
        } else if let Some(header) = header(&line) {
            mapping = header.plain;
        }
    }
    Ok(plain)
}

/// The line that begins a mapping.
struct Header {
    /// Its addresses, if it is private and has no file behind it.
    plain: Option<Range<u64>>,
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
        return Some(Header { plain: None });
    };
    let plain = rights.ends_with('p') && inode == "0" && device.split(':').all(|part| part == "00");
    // Anonymous memory has no name, or one that the kernel gave; a device's may begin with a slash and have no inode.
    let name = words.next().unwrap_or("");
    let named_by_kernel =
        name.is_empty() || name == "[heap]" || name.starts_with("[stack") || name.starts_with("[anon");
    Some(Header { plain: (plain && named_by_kernel && start < end).then_some(start..end) })
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
    fn this_process_has_some() {
        let heap = vec![0_u8; 8 << 20];
        let address = heap.as_ptr().addr() as u64 + (4 << 20);
        assert!(super::plain_mappings().unwrap().iter().any(|range| range.contains(&address)));
    }
}
