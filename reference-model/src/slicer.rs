//! Which positional writes a list of iovecs means, byte by byte.

/// One positional write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Where in the file.
    pub offset: u64,
    /// The address of its first byte.
    pub addr: u64,
    /// How many bytes.
    pub len: u64,
    /// The iovecs it is made of, as (address, length).
    pub iovecs: Vec<(u64, u64)>,
}

/// The writes for `iovecs` (address, length), all inside a block at `host` that stands in the file at `pages_offset`.
///
/// Every byte is looked at by itself: it goes on with the write before it if it lies right behind in memory and the write
/// would keep within `max_bytes` and `max_iovecs`. A write that a limit ends is cut back to the last page boundary, if that
/// leaves anything of it. With `merge`, the iovecs of a write are one.
pub fn slices(
    host: u64,
    pages_offset: u64,
    page_size: u64,
    (max_iovecs, max_bytes, merge): (u64, u64, bool),
    iovecs: &[(u64, u64)],
) -> Vec<Cut> {
    let bytes: Vec<(usize, u64)> = iovecs
        .iter()
        .enumerate()
        .flat_map(|(index, (addr, len))| (*addr..addr + len).map(move |byte| (index, byte)))
        .collect();
    let mut cuts = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let start = bytes[at].1;
        let mut end = at + 1;
        let mut used = 1;
        let mut limited = false;
        while end < bytes.len() && bytes[end].1 == start + (end - at) as u64 {
            let next = used + u64::from(bytes[end].0 != bytes[end - 1].0);
            if (end - at) as u64 == max_bytes || (!merge && next > max_iovecs) {
                limited = true;
                break;
            }
            used = next;
            end += 1;
        }
        if limited {
            let boundary =
                (at + 1..=end).rev().find(|cut| (start + (cut - at) as u64 - host).is_multiple_of(page_size));
            end = boundary.unwrap_or(end);
        }
        let mut pieces: Vec<(u64, u64)> = Vec::new();
        for (before, now) in (at..end).map(|i| (i.checked_sub(1).filter(|_| i > at), i)) {
            match before {
                Some(before) if merge || bytes[before].0 == bytes[now].0 => {
                    if let Some(last) = pieces.last_mut() {
                        last.1 += 1;
                    }
                }
                _ => pieces.push((bytes[now].1, 1)),
            }
        }
        cuts.push(Cut {
            offset: pages_offset + start - host,
            addr: start,
            len: (end - at) as u64,
            iovecs: pieces,
        });
        at = end;
    }
    cuts
}
