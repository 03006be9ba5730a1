//! Bitmaps a bit at a time, as each kind of host lays them out.

/// How a host lays out its bitmaps: bytes of a word (4 or 8), and whether the most significant comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Encoding {
    /// 4 or 8.
    pub word: u64,
    /// Whether the host is big-endian.
    pub big_endian: bool,
}

impl Encoding {
    /// A 64-bit little-endian host.
    pub const X86: Self = Self { word: 8, big_endian: false };

    /// How many bytes a bitmap of `pages` pages takes.
    pub fn length(self, pages: u64) -> u64 {
        pages.div_ceil(self.word * 8) * self.word
    }

    /// Which byte the bit of `page` is in, and which bit of it.
    pub fn place(self, page: u64) -> (u64, u32) {
        let word = page / (self.word * 8);
        let bit = page % (self.word * 8);
        let byte = if self.big_endian { self.word - 1 - bit / 8 } else { bit / 8 };
        (word * self.word + byte, (bit % 8) as u32)
    }

    /// The bitmap in which exactly the pages of `set` are set.
    pub fn encode(self, pages: u64, set: impl Fn(u64) -> bool) -> Vec<u8> {
        let mut bytes = vec![0; self.length(pages) as usize];
        for page in (0..pages).filter(|page| set(*page)) {
            let (byte, bit) = self.place(page);
            bytes[byte as usize] |= 1 << bit;
        }
        bytes
    }

    /// The pages that are set.
    pub fn decode(self, bytes: &[u8], pages: u64) -> Vec<u64> {
        let is_set = |page: &u64| {
            let (byte, bit) = self.place(*page);
            bytes[byte as usize] >> bit & 1 == 1
        };
        (0..pages).filter(is_set).collect()
    }
}
