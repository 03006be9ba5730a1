//! The slicer against the reference model.

use arbitrary::{Arbitrary, Unstructured};
use iov_slicer::{Block, Limits, check, page_runs, slice};
use reference_model::slices;

#[derive(Arbitrary, Debug)]
struct Input {
    host: u32,
    used: u16,
    pages_offset: u32,
    page_bits: u8,
    max_iovecs: u8,
    max_bytes: u16,
    merge: bool,
    /// How far each iovec begins behind the end of the one before, and its length.
    steps: Vec<(i8, u8)>,
    words: Vec<u64>,
    within: (u16, u16),
    gap: u8,
}

/// The writes are the model's; iovecs that leave the block are errors; runs are those of a look at each bit.
pub fn slicer(data: &[u8]) {
    let Ok(input) = Input::arbitrary(&mut Unstructured::new(data)) else { return };
    let host = usize::try_from(input.host).unwrap();
    let block = Block::new(host, u64::from(input.used), u64::from(input.pages_offset)).unwrap();
    let page_size = 1_u64 << (input.page_bits % 8);
    let max_iovecs = input.max_iovecs.max(1);
    let max_bytes = input.max_bytes.max(1);
    let limits = Limits::new(page_size)
        .max_iovecs(usize::from(max_iovecs))
        .max_bytes(u64::from(max_bytes))
        .merge(input.merge);

    let mut end = host;
    let mut iovecs = Vec::new();
    for (gap, len) in input.steps.iter().take(200) {
        // Mostly back to back: small numbers are no gap at all.
        let gap = if gap.unsigned_abs() < 100 { 0 } else { isize::from(*gap) };
        let addr = end.saturating_add_signed(gap);
        iovecs.push((addr, usize::from(*len)));
        end = addr + usize::from(*len);
    }
    let inside = |(addr, len): &(usize, usize)| {
        *len == 0 || (*addr >= host && addr + len <= host + usize::from(input.used))
    };
    let sound = iovecs.iter().take_while(|iovec| inside(iovec)).count();
    assert_eq!(
        check(&block, &iovecs).err().map(|error| error.index),
        (sound < iovecs.len()).then_some(sound)
    );

    let before: Vec<(u64, u64)> =
        iovecs[..sound].iter().map(|(addr, len)| (*addr as u64, *len as u64)).collect();
    if sound == iovecs.len() {
        let parameters = (u64::from(max_iovecs), u64::from(max_bytes), input.merge);
        let expected = slices(host as u64, u64::from(input.pages_offset), page_size, parameters, &before);
        let got: Vec<_> = slice(&block, &limits, &iovecs).map(|write| write.unwrap()).collect();
        assert_eq!(got.len(), expected.len());
        for (got, expected) in got.iter().zip(&expected) {
            let iovecs: Vec<(u64, u64)> = got.iovecs().map(|(addr, len)| (addr as u64, len as u64)).collect();
            assert_eq!(
                (got.offset, got.addr as u64, got.len),
                (expected.offset, expected.addr, expected.len)
            );
            assert_eq!(iovecs, expected.iovecs);
        }
    } else {
        let total: u64 = before.iter().map(|(_, len)| len).sum();
        let mut written = 0;
        let mut failed = None;
        for write in slice(&block, &limits, &iovecs) {
            match write {
                Ok(write) => written += write.len,
                Err(error) => failed = Some(error.index),
            }
        }
        assert_eq!((written, failed), (total, Some(sound)));
    }
    runs(&input);
}

fn runs(input: &Input) {
    let words = &input.words[..input.words.len().min(8)];
    let pages = words.len() as u64 * 64;
    let range = u64::from(input.within.0) % 600..u64::from(input.within.1) % 600;
    let gap = u64::from(input.gap);
    let mut expected: Vec<std::ops::Range<u64>> = Vec::new();
    for page in range.start..range.end.min(pages) {
        if words[usize::try_from(page / 64).unwrap()] >> (page % 64) & 1 == 1 {
            match expected.last_mut() {
                Some(run) if page - run.end <= gap => run.end = page + 1,
                _ => expected.push(page..page + 1),
            }
        }
    }
    let got: Vec<_> = page_runs(words, pages).within(range).bridged(gap).collect();
    assert_eq!(got, expected);
}
