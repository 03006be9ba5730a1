//! What was touched is found whatever the kernel, and nothing that holds a byte is ever passed over.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use proptest::prelude::*;

use super::{Memory, Method, Touched, WORD_PAGES};

const PAGE: usize = 4096;

/// Anonymous memory of its own mapping, which nobody has touched.
struct Anonymous(std::ptr::NonNull<std::ffi::c_void>, usize);

impl Anonymous {
    #[expect(unsafe_code, reason = "a mapping of the test's own")]
    fn new(length: usize) -> Self {
        use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous};
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let length_given = length.try_into().unwrap();
        // SAFETY: a new mapping, wherever the kernel likes.
        let start = unsafe { mmap_anonymous(None, length_given, protection, MapFlags::MAP_PRIVATE) }.unwrap();
        // SAFETY: the mapping just made. With huge pages a touch would be of 512 pages.
        unsafe { madvise(start, length, MmapAdvise::MADV_NOHUGEPAGE) }.unwrap();
        Self(start, length)
    }

    #[expect(unsafe_code, reason = "a mapping of the test's own")]
    fn touch(&self, page: usize) {
        assert!((page + 1) * PAGE <= self.1);
        // SAFETY: inside the mapping, and nobody else has it.
        unsafe { self.0.cast::<u8>().add(page * PAGE).write_volatile(1) };
    }

    fn memory(&self, method: Method) -> Memory<'static> {
        Memory {
            start: self.0.as_ptr().cast(),
            length: self.1 as u64,
            page_size: PAGE as u64,
            backing: None,
            is_fresh: false,
            method,
        }
    }
}

impl Drop for Anonymous {
    #[expect(unsafe_code, reason = "a mapping of the test's own")]
    fn drop(&mut self) {
        // SAFETY: made in `new`, and not used any more.
        unsafe { nix::sys::mman::munmap(self.0, self.1) }.unwrap();
    }
}

/// The words of the bitmap that any of `pages` is in, as ranges of pages, neighbours joined.
fn words(touched: &[usize], pages: u64) -> Vec<std::ops::Range<u64>> {
    let mut found: Vec<std::ops::Range<u64>> = Vec::new();
    let mut sorted: Vec<u64> = touched.iter().map(|page| *page as u64 / WORD_PAGES).collect();
    sorted.sort_unstable();
    sorted.dedup();
    for word in sorted {
        let (start, end) = (word * WORD_PAGES, ((word + 1) * WORD_PAGES).min(pages));
        match found.last_mut() {
            Some(last) if last.end == start => last.end = end,
            _ => found.push(start..end),
        }
    }
    found
}

/// A file that is cut while its holes are asked for: what is behind its end is no hole.
#[test]
fn what_was_cut_off_is_not_untouched() {
    let length = 3000 * PAGE as u64;
    let file = Arc::new(tempfile::tempfile_in("/dev/shm").unwrap());
    file.set_len(length).unwrap();
    for page in [0, 1500] {
        file.write_all_at(&[1], page * PAGE as u64).unwrap();
    }
    let backing = (Arc::clone(&file), 0);
    let memory = Memory {
        start: std::ptr::null(),
        length,
        page_size: PAGE as u64,
        backing: Some(&backing),
        is_fresh: false,
        method: Method::Best,
    };
    let mut touched = Touched::of(&memory);
    // The look is one part ahead.
    assert!(touched.next().is_some_and(|part| part.contains(&0)));
    file.set_len(1600 * PAGE as u64).unwrap();
    let rest: Vec<u64> = touched.flatten().collect();
    assert!((1600..3000).all(|page| rest.contains(&page)), "{rest:?}");
}

/// Nobody knows of other file systems whether their holes are told of what is in memory only.
#[test]
fn holes_are_believed_of_known_file_systems_only() {
    let known = tempfile::tempfile_in("/dev/shm").unwrap();
    assert!(super::Holes::new(&known, 0, 0).is_some());
    let other = File::open("/proc/self/status").unwrap();
    assert!(super::Holes::new(&other, 0, 0).is_none());
}

proptest! {
    #[test]
    fn anonymous_memory_by_every_method(
        touched in prop::collection::vec(0_usize..3000, 0..60),
        read in any::<bool>(),
    ) {
        let memory = Anonymous::new(3000 * PAGE);
        for page in &touched {
            memory.touch(*page);
        }
        let method = if read { Method::Read } else { Method::Best };
        let found: Vec<_> = Touched::of(&memory.memory(method)).collect();
        prop_assert_eq!(&found, &words(&touched, 3000));
        let all: Vec<_> = Touched::of(&memory.memory(Method::None)).collect();
        prop_assert_eq!(all, vec![0..3000]);
    }

    #[test]
    fn the_holes_of_a_file(touched in prop::collection::vec(0_usize..3000, 0..60), before in 0_u64..3) {
        let file = tempfile::tempfile_in("/dev/shm").unwrap();
        let offset = before * 4 * PAGE as u64;
        file.set_len(offset + 3000 * PAGE as u64).unwrap();
        for page in &touched {
            file.write_all_at(&[1], offset + (page * PAGE) as u64).unwrap();
        }
        let backing = (Arc::new(file), offset);
        let memory = Memory {
            start: std::ptr::null(),
            length: 3000 * PAGE as u64,
            page_size: PAGE as u64,
            backing: Some(&backing),
            is_fresh: false,
            method: Method::Best,
        };
        prop_assert_eq!(Touched::of(&memory).collect::<Vec<_>>(), words(&touched, 3000));
    }
}

thread_local! {
    static MEMORY: std::cell::RefCell<Option<Anonymous>> = const { std::cell::RefCell::new(None) };
}

/// Pages that a handler of userfaultfd's puts there, giving its mapping up, after they were found absent and before it is asked what
/// the mapping is: they were missing, not zeros, and no dirty bitmap has them.
#[test]
fn what_a_handler_fills_between_two_questions_is_seen() {
    for method in [Method::Best, Method::Read] {
        let memory = Anonymous::new(3000 * PAGE);
        let mut touched = Touched::of(&memory.memory(method));
        MEMORY.set(Some(memory));
        let super::Source::Pagemap(pagemap) = &mut touched.source else { panic!("it is asked") };
        pagemap.ask_plain = || {
            MEMORY.with_borrow(|memory| (0..3000).for_each(|page| memory.as_ref().unwrap().touch(page)));
            super::smaps::plain_mappings()
        };
        assert_eq!(touched.collect::<Vec<_>>(), vec![0..3000], "{method:?}");
    }
}

/// More stretches than one scan gives.
#[test]
fn thousands_of_stretches() {
    let memory = Anonymous::new(4000 * 64 * PAGE);
    let touched: Vec<usize> = (0..2000).map(|word| word * 128).collect();
    for page in &touched {
        memory.touch(*page);
    }
    for method in [Method::Best, Method::Read] {
        let found: Vec<_> = Touched::of(&memory.memory(method)).collect();
        assert_eq!(found, words(&touched, 4000 * 64), "{method:?}");
    }
}

/// A private mapping of a file has the file behind its absent pages: nothing of it may be passed over.
#[test]
#[expect(unsafe_code, reason = "a mapping of the test's own")]
fn a_private_file_mapping_counts_as_touched() {
    use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
    let file: File = tempfile::tempfile().unwrap();
    let length = 1000 * PAGE;
    file.set_len(length as u64).unwrap();
    let protection = ProtFlags::PROT_READ;
    // SAFETY: a new mapping, wherever the kernel likes.
    let start =
        unsafe { mmap(None, length.try_into().unwrap(), protection, MapFlags::MAP_PRIVATE, &file, 0) }
            .unwrap();
    let memory = Memory {
        start: start.as_ptr().cast(),
        length: length as u64,
        page_size: PAGE as u64,
        backing: None,
        is_fresh: false,
        method: Method::Best,
    };
    assert_eq!(Touched::of(&memory).collect::<Vec<_>>(), vec![0..1000]);
    // SAFETY: made above, and not used any more.
    unsafe { munmap(start, length) }.unwrap();
}

#[test]
fn what_could_not_be_had_is_said() {
    let memory = Anonymous::new(4 << 20);
    let words = |method| Touched::of(&memory.memory(method)).shortcoming();
    assert!(words(Method::Read).unwrap().contains("PAGEMAP_SCAN"));
    assert!(words(Method::None).unwrap().contains("cannot be found out"));

    let file = Arc::new(tempfile::tempfile_in("/dev/shm").unwrap());
    let backing = (Arc::clone(&file), 4096);
    let of_file = || Memory { backing: Some(&backing), ..memory.memory(Method::Best) };
    file.set_len((4 << 20) + 4095).unwrap();
    let cut = Touched::of(&of_file());
    assert!(cut.shortcoming().unwrap().contains("shorter"));
    assert!(cut.eq(std::iter::once(0..1024)), "what is behind the end is no hole");
    file.set_len((4 << 20) + 4096).unwrap();
    let whole = Touched::of(&of_file());
    assert_eq!(whole.shortcoming(), None);
    assert_eq!(whole.count(), 0);
}
