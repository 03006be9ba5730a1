//! The guest: a program of 96 bytes, and what it must have left in memory after so and so many pages.
//!
//! In 64-bit mode, through page tables of its own, it goes through all pages but the first four, which hold the program and these
//! tables, in waves. A page that it comes to must hold the value of the wave before in each of its 1024 words, else it reports the
//! page as bad and halts; then it fills the page with this wave's value, and reports it as done. The value is the page's address plus
//! the number of the wave, or zero for the pages that the mask chooses: others in each wave, so that what was zero is set and what
//! was set is zero again.

use kvm_bindings::{kvm_regs, kvm_sregs};

use crate::memory::{PAGE, Ram};

/// A page is done: its address plus the number of the wave.
pub(crate) const DONE: u16 = 0x10;
/// A page did not hold what the wave before left there: its address.
pub(crate) const BAD: u16 = 0x11;

/// The pages of its own: the program, with parameters and stack, and three levels of page tables.
pub(crate) const OWN: u32 = 4;

/// Where the program finds its mask, and behind it where memory ends; the stack grows down from here.
const PARAMETERS: usize = 0x800;

const CODE: [u8; 96] = [
    // wave:
    0xBE, 0x00, 0x40, 0x00, 0x00, // mov esi, 0x4000           the first page
    // page:
    0x8D, 0x53, 0xFF, // lea edx, [rbx-1]
    0xE8, 0x38, 0x00, 0x00, 0x00, // call value
    0x89, 0xF7, // mov edi, esi
    0xB9, 0x00, 0x04, 0x00, 0x00, // mov ecx, 1024
    0xF3, 0xAF, // repe scasd
    0x75, 0x28, // jne bad
    0x89, 0xDA, // mov edx, ebx
    0xE8, 0x26, 0x00, 0x00, 0x00, // call value
    0x89, 0xF7, // mov edi, esi
    0xB9, 0x00, 0x04, 0x00, 0x00, // mov ecx, 1024
    0xF3, 0xAB, // rep stosd
    0x8D, 0x04, 0x1E, // lea eax, [rsi+rbx]
    0xE7, 0x10, // out DONE, eax
    0x81, 0xC6, 0x00, 0x10, 0x00, 0x00, // add esi, 0x1000
    0x3B, 0x34, 0x25, 0x04, 0x08, 0x00, 0x00, // cmp esi, [0x804]       the end of memory
    0x72, 0xC9, // jb page
    0xFF, 0xC3, // inc ebx
    0xEB, 0xC0, // jmp wave
    // bad:
    0x89, 0xF0, // mov eax, esi
    0xE7, 0x11, // out BAD, eax
    0xF4, // hlt
    // value:
    0x89, 0xF0, // mov eax, esi
    0xC1, 0xE8, 0x0C, // shr eax, 12
    0x01, 0xD0, // add eax, edx
    0x85, 0x04, 0x25, 0x00, 0x08, 0x00, 0x00, // test [0x800], eax      the mask
    0x74, 0x08, // jz zero
    0x85, 0xD2, // test edx, edx
    0x74, 0x04, // jz zero
    0x8D, 0x04, 0x16, // lea eax, [rsi+rdx]
    0xC3, // ret
    // zero:
    0x31, 0xC0, // xor eax, eax
    0xC3, // ret
];

/// The upper two tables have one entry, the table below it; the third maps 1 GiB in pages of 2 MiB where they are. Both flags that the
/// processor would set (accessed, dirty) are set already: only the guest's program writes.
const TABLES: [u64; 2] = [0x2000 | 0x27, 0x3000 | 0x27];
const LARGE_PAGE: u64 = 2 << 20;
const LARGE_PAGE_FLAGS: u64 = 0xE7;

/// Which guest: how many pages it has (up to 1 GiB), its own included, and which of them are zero when.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Guest {
    pub(crate) pages: u32,
    pub(crate) mask: u32,
    /// Whether it is a kernel, in ring 0, or a program that may do I/O, in ring 3. Where there is no help of the hardware's, KVM runs
    /// the one by emulating it, instruction by instruction, and only the other natively.
    pub(crate) is_kernel: bool,
}

/// Where a page begins.
const fn address(page: u32) -> u32 {
    page << 12
}

impl Guest {
    pub(crate) fn length(self) -> usize {
        self.pages as usize * PAGE
    }

    /// Puts the program and its tables into memory that is all zeros.
    pub(crate) fn put(self, ram: &Ram) {
        let put = |at: usize, bytes: &[u8]| {
            for (at, byte) in (at..).zip(bytes) {
                ram.write(at, *byte);
            }
        };
        put(0, &CODE);
        put(PARAMETERS, &self.mask.to_le_bytes());
        put(PARAMETERS + 4, &address(self.pages).to_le_bytes());
        for (page, entry) in (1..).zip(TABLES) {
            put(page * PAGE, &entry.to_le_bytes());
        }
        for (at, number) in (3 * PAGE..).step_by(8).zip(0..512) {
            let entry = LARGE_PAGE_FLAGS + number * LARGE_PAGE;
            put(at, &entry.to_le_bytes());
        }
    }

    /// The registers that it begins with. `sregs` are those of a processor that was just made.
    pub(crate) fn registers(self, mut sregs: kvm_sregs) -> (kvm_regs, kvm_sregs) {
        let ring = if self.is_kernel { 0 } else { 3 };
        for segment in [&mut sregs.ds, &mut sregs.es, &mut sregs.ss] {
            (segment.base, segment.limit, segment.type_) = (0, u32::MAX, 3);
            (segment.s, segment.present, segment.db, segment.g) = (1, 1, 1, 1);
            (segment.dpl, segment.selector) = (ring, 0x20 + u16::from(ring));
        }
        sregs.cs = sregs.ds;
        (sregs.cs.type_, sregs.cs.l, sregs.cs.db, sregs.cs.selector) = (11, 1, 0, 0x30 + u16::from(ring));
        sregs.cr3 = PAGE as u64;
        // Paging and protection, with long entries, in long mode.
        (sregs.cr0, sregs.cr4, sregs.efer) = (sregs.cr0 | 0x8000_0001, sregs.cr4 | 0x20, sregs.efer | 0x500);
        // With the flag that lets ring 3 do I/O.
        (kvm_regs { rip: 0, rbx: 1, rsp: PARAMETERS as u64, rflags: 0x3002, ..kvm_regs::default() }, sregs)
    }

    /// What the guest reports, when it has reported `done` pages before.
    pub(crate) fn report(self, done: u64) -> u32 {
        let (wave, page) = self.position(done);
        address(page) + wave
    }

    /// The wave that it is at, and the page, when it has reported `done` pages.
    fn position(self, done: u64) -> (u32, u32) {
        let each = u64::from(self.pages - OWN);
        let number = |n: u64| u32::try_from(n).expect("a guest of few waves");
        (number(done / each + 1), number(done % each) + OWN)
    }

    fn value(self, wave: u32, page: u32) -> u32 {
        let is_zero = wave == 0 || (page + wave) & self.mask == 0;
        if is_zero { 0 } else { address(page) + wave }
    }

    /// Whether `words`, all of memory, are what the guest must have left when it stands still and has reported `done` pages: below
    /// the page that it is at, all words are this wave's; above it, all are those of the wave before; in it, the one up to some
    /// word, the other from there on.
    pub(crate) fn check(self, words: &[u32], done: u64) -> Result<(), String> {
        let (wave, at) = self.position(done);
        let (pages, _) = words.as_chunks::<{ PAGE / 4 }>();
        for (page, words) in (0..self.pages).zip(pages).skip(OWN as usize) {
            let (new, old) = (self.value(wave, page), self.value(wave - 1, page));
            let cut = match page.cmp(&at) {
                std::cmp::Ordering::Less => words.len(),
                std::cmp::Ordering::Equal => words.iter().take_while(|word| **word == new).count(),
                std::cmp::Ordering::Greater => 0,
            };
            let expected = |word: usize| if word < cut { new } else { old };
            if let Some(word) = (0..words.len()).find(|word| words[*word] != expected(*word)) {
                let (found, wanted) = (words[word], expected(word));
                return Err(format!(
                    "wave {wave} at page {at}: word {word} of page {page} is {found:#x}, not {wanted:#x}"
                ));
            }
        }
        if pages.len() == self.pages as usize { Ok(()) } else { Err(format!("{} pages", pages.len())) }
    }
}
