//! The bitmap of present pages, as the writer's `unsigned long` array lay in its memory.
//!
//! Here a bitmap is a slice of `u64`: bit `i % 64` of word `i / 64` is page `i`. In the file it is an array of the
//! writer's words in the writer's byte order, and nothing in the file says which; [`guess`] can sometimes tell. This
//! module is the one place that knows the host's own word and order ([`BitmapEncoding::NATIVE`]), because QEMU on the
//! same host reads the bitmap that way. Everything else in the file is big-endian on every host.
//!
//! Bits at and above the block's number of pages are padding: nobody may rely on them ([`clear_padding`]).

/// Size of the `unsigned long` of the host that wrote a bitmap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WordSize {
    /// 32 bits.
    W32,
    /// 64 bits.
    W64,
}

impl WordSize {
    /// Bytes in a word.
    pub const fn bytes(self) -> u64 {
        match self {
            Self::W32 => 4,
            Self::W64 => 8,
        }
    }

    /// Bits in a word.
    pub const fn bits(self) -> u64 {
        8 * self.bytes()
    }

    const fn len(self) -> usize {
        match self {
            Self::W32 => 4,
            Self::W64 => 8,
        }
    }
}

/// Order of the bytes in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ByteOrder {
    /// Least significant byte first.
    Little,
    /// Most significant byte first.
    Big,
}

/// Length of the encoded bitmap of `pages` pages, padding included: `ceil(pages / W) * W / 8` for words of W bits.
///
/// ```
/// use mapped_ram_format::bitmap::{WordSize, encoded_len};
///
/// assert_eq!(encoded_len(65, WordSize::W64), 16);
/// assert_eq!(encoded_len(65, WordSize::W32), 12);
/// ```
pub const fn encoded_len(pages: u64, word: WordSize) -> u64 {
    pages.div_ceil(word.bits()) * word.bytes()
}

/// Sets the bits at and above `pages` to 0.
///
/// ```
/// let mut words = [u64::MAX; 2];
/// mapped_ram_format::bitmap::clear_padding(&mut words, 65);
/// assert_eq!(words, [u64::MAX, 1]);
/// ```
pub fn clear_padding(words: &mut [u64], pages: u64) {
    // A bitmap that fits in memory has an index that fits in usize; one that does not has no padding here.
    let Ok(full) = usize::try_from(pages / 64) else { return };
    let Some(rest) = words.get_mut(full..) else { return };
    if let Some((last, behind)) = rest.split_first_mut() {
        *last &= (1 << (pages % 64)) - 1;
        behind.fill(0);
    }
}

/// How a bitmap stands in the file.
///
/// ```
/// use mapped_ram_format::bitmap::{BitmapEncoding, ByteOrder, WordSize};
///
/// let pages_0_and_9 = [0x0201];
/// let mut bytes = [0; 8];
/// BitmapEncoding { word: WordSize::W64, order: ByteOrder::Little }.encode(&pages_0_and_9, &mut bytes);
/// assert_eq!(bytes, [1, 2, 0, 0, 0, 0, 0, 0]);
/// BitmapEncoding { word: WordSize::W64, order: ByteOrder::Big }.encode(&pages_0_and_9, &mut bytes);
/// assert_eq!(bytes, [0, 0, 0, 0, 0, 0, 2, 1]);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BitmapEncoding {
    /// The writer's word.
    pub word: WordSize,
    /// The writer's byte order.
    pub order: ByteOrder,
}

impl Default for BitmapEncoding {
    /// [`BitmapEncoding::NATIVE`].
    fn default() -> Self {
        Self::NATIVE
    }
}

impl BitmapEncoding {
    /// What QEMU on this host writes and reads: 64 bits, little-endian, on nearly every machine.
    pub const NATIVE: Self = Self {
        word: if cfg!(target_pointer_width = "64") { WordSize::W64 } else { WordSize::W32 },
        order: if cfg!(target_endian = "big") { ByteOrder::Big } else { ByteOrder::Little },
    };

    /// Every encoding there is.
    pub const ALL: [Self; 4] = [
        Self { word: WordSize::W64, order: ByteOrder::Little },
        Self { word: WordSize::W64, order: ByteOrder::Big },
        Self { word: WordSize::W32, order: ByteOrder::Little },
        Self { word: WordSize::W32, order: ByteOrder::Big },
    ];

    /// Writes `words` to `out` as they stand in the file.
    ///
    /// Works on any window that begins at a multiple of 64 pages: word `n` of the window goes to bytes `8 * n` on.
    /// With 32-bit words `out` may lack the last half word.
    ///
    /// # Panics
    ///
    /// If `out` is not [`encoded_len`] bytes for some number of pages that takes `words.len()` words.
    pub fn encode(&self, words: &[u64], out: &mut [u8]) {
        self.check(words.len(), out.len());
        let (whole, half) = out.as_chunks_mut::<8>();
        // Of a length that the compiler knows, so that on most hosts this is a copy.
        for (word, out) in words.iter().zip(&mut *whole) {
            *out = self.swap(word.to_le_bytes());
        }
        if let Some(word) = words.get(whole.len()) {
            half.copy_from_slice(&self.swap(word.to_le_bytes())[..half.len()]);
        }
    }

    /// Reads `words` from `bytes` of the file, the reverse of [`encode`](Self::encode). A half word that `bytes` lacks
    /// reads as 0.
    ///
    /// # Panics
    ///
    /// If `bytes` is not [`encoded_len`] bytes for some number of pages that takes `words.len()` words.
    pub fn decode(&self, bytes: &[u8], words: &mut [u64]) {
        self.check(words.len(), bytes.len());
        let (whole, half) = bytes.as_chunks::<8>();
        // As in `encode`; swapping is its own reverse.
        for (word, bytes) in words.iter_mut().zip(whole) {
            *word = u64::from_le_bytes(self.swap(*bytes));
        }
        if let Some(word) = words.get_mut(whole.len()) {
            let mut padded = [0; 8];
            padded[..half.len()].copy_from_slice(half);
            *word = u64::from_le_bytes(self.swap(padded));
        }
    }

    fn check(self, words: usize, bytes: usize) {
        assert!(
            bytes.div_ceil(8) == words && bytes.is_multiple_of(self.word.len()),
            "{bytes} bytes are no bitmap of {words} words"
        );
    }

    /// From little-endian 64 bits to this encoding, or back.
    fn swap(self, bytes: [u8; 8]) -> [u8; 8] {
        let mut swapped = bytes;
        if self.order == ByteOrder::Big {
            swapped.chunks_exact_mut(self.word.len()).for_each(<[u8]>::reverse);
        }
        swapped
    }
}

/// The encoding, if the padding tells it: `last_word` is the last word of a bitmap of `pages` pages as it stands in the
/// file, 4 or 8 bytes. Writers leave padding 0, so an order that puts a set bit there is not the writer's.
///
/// `None` if both orders fit (no padding, or too few pages set), if neither does, or if `last_word` is of another length.
///
/// ```
/// use mapped_ram_format::bitmap::{ByteOrder, guess};
///
/// assert_eq!(guess(&[0, 0, 0, 0, 0, 0, 0, 1], 10).unwrap().order, ByteOrder::Big);
/// assert_eq!(guess(&[0; 8], 10), None);
/// ```
pub fn guess(last_word: &[u8], pages: u64) -> Option<BitmapEncoding> {
    let word = match last_word.len() {
        4 => WordSize::W32,
        8 => WordSize::W64,
        _ => return None,
    };
    let used = pages % word.bits();
    if used == 0 {
        return None;
    }
    let mut fitting = [ByteOrder::Little, ByteOrder::Big]
        .map(|order| BitmapEncoding { word, order })
        .into_iter()
        .filter(|encoding| {
            let mut bits = [0];
            encoding.decode(last_word, &mut bits);
            bits[0] >> used == 0
        });
    match (fitting.next(), fitting.next()) {
        (Some(only), None) => Some(only),
        _ => None,
    }
}
