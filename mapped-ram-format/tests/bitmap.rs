//! Bitmap encodings against one that sets bit by bit.

use mapped_ram_format::bitmap::{BitmapEncoding, ByteOrder, WordSize, clear_padding, encoded_len, guess};
use proptest::collection::vec;
use proptest::prelude::*;

/// Where the bit of a page stands: the word that has it, then the byte of the word, then the bit of the byte.
fn naive(pages: &[bool], encoding: BitmapEncoding) -> Vec<u8> {
    let width = match encoding.word {
        WordSize::W32 => 4,
        WordSize::W64 => 8,
    };
    let mut bytes = vec![0; pages.len().div_ceil(width * 8) * width];
    for (page, _) in pages.iter().enumerate().filter(|(_, set)| **set) {
        let (word, bit) = (page / (width * 8), page % (width * 8));
        let byte = match encoding.order {
            ByteOrder::Little => bit / 8,
            ByteOrder::Big => width - 1 - bit / 8,
        };
        bytes[word * width + byte] |= 1 << (bit % 8);
    }
    bytes
}

fn words(pages: &[bool]) -> Vec<u64> {
    let mut words = vec![0; pages.len().div_ceil(64)];
    for (page, _) in pages.iter().enumerate().filter(|(_, set)| **set) {
        words[page / 64] |= 1 << (page % 64);
    }
    words
}

proptest! {
    #[test]
    fn encodings_equal_the_naive_one(pages in vec(any::<bool>(), 0..300)) {
        let words = words(&pages);
        for encoding in BitmapEncoding::ALL {
            let expected = naive(&pages, encoding);
            prop_assert_eq!(encoded_len(pages.len() as u64, encoding.word), expected.len() as u64);
            let mut bytes = vec![0xff; expected.len()];
            encoding.encode(&words, &mut bytes);
            prop_assert_eq!(&bytes, &expected);
            let mut decoded = vec![u64::MAX; words.len()];
            encoding.decode(&bytes, &mut decoded);
            prop_assert_eq!(&decoded, &words);
        }
    }

    #[test]
    fn windows_equal_the_whole(pages in vec(any::<bool>(), 65..300), cut in 1usize..4) {
        let words = words(&pages);
        let cut = cut.min(words.len() - 1);
        for encoding in BitmapEncoding::ALL {
            let whole = naive(&pages, encoding);
            let mut bytes = vec![0; whole.len()];
            encoding.encode(&words[..cut], &mut bytes[..cut * 8]);
            encoding.encode(&words[cut..], &mut bytes[cut * 8..]);
            prop_assert_eq!(&bytes, &whole);
            let mut decoded = vec![0; words.len() - cut];
            encoding.decode(&whole[cut * 8..], &mut decoded);
            prop_assert_eq!(&decoded, &words[cut..]);
        }
    }

    #[test]
    fn a_guess_is_never_wrong(pages in vec(any::<bool>(), 1..200)) {
        for encoding in BitmapEncoding::ALL {
            let bytes = naive(&pages, encoding);
            let width = usize::try_from(encoding.word.bytes()).unwrap();
            let last = &bytes[bytes.len() - width..];
            let other = match encoding.order {
                ByteOrder::Little => ByteOrder::Big,
                ByteOrder::Big => ByteOrder::Little,
            };
            // It knows exactly where the other order would set padding.
            let mut misread = vec![0; pages.len().div_ceil(64)];
            BitmapEncoding { order: other, ..encoding }.decode(&bytes, &mut misread);
            let mut cleared = misread.clone();
            clear_padding(&mut cleared, pages.len() as u64);
            let expected = (misread != cleared).then_some(encoding);
            prop_assert_eq!(guess(last, pages.len() as u64), expected);
        }
    }

    #[test]
    fn padding_is_cleared(words in vec(any::<u64>(), 0..4), pages in 0u64..300) {
        let mut cleared = words.clone();
        clear_padding(&mut cleared, pages);
        for page in 0..words.len() as u64 * 64 {
            let bit = |words: &[u64]| words[usize::try_from(page / 64).unwrap()] >> (page % 64) & 1;
            prop_assert_eq!(bit(&cleared), if page < pages { bit(&words) } else { 0 });
        }
    }
}

#[test]
fn lengths_do_not_wrap() {
    assert_eq!(encoded_len(u64::MAX, WordSize::W64), 1 << 61);
    assert_eq!(encoded_len(u64::MAX, WordSize::W32), 1 << 61);
    assert_eq!(encoded_len(0, WordSize::W64), 0);
    clear_padding(&mut [1], u64::MAX);
}

#[test]
fn words_of_other_lengths_are_not_guessed() {
    for len in [0, 1, 3, 5, 7, 9, 16] {
        assert_eq!(guess(&vec![0x80; len], 1), None);
    }
    assert_eq!(guess(&[0xff; 8], 3), None, "neither order fits");
}

#[test]
#[should_panic(expected = "no bitmap of 2 words")]
fn a_window_of_another_length_is_a_bug() {
    BitmapEncoding::ALL[0].encode(&[0; 2], &mut [0; 12]);
}
