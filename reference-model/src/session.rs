//! A save in rounds, a page at a time.

use std::collections::BTreeMap;

/// What a monitor does with the writer, for one block.
#[derive(Clone, Debug)]
pub enum Operation {
    /// The guest writes these bytes into a page; nothing is saved yet.
    Dirty(u64, Vec<u8>),
    /// Every page is saved.
    WriteAll,
    /// These pages are saved.
    WritePages(Vec<u64>),
}

/// One block's save: the guest's memory, and what the file must hold.
#[derive(Clone, Debug)]
pub struct Session {
    page_size: u64,
    zero_detection: bool,
    /// The guest's memory.
    pub memory: Vec<Vec<u8>>,
    /// The pages whose bits are set, with their bytes.
    pub present: BTreeMap<u64, Vec<u8>>,
    /// How many pages were written, those that were written again counted again.
    pub written: u64,
    /// How many pages were found to be zero.
    pub zero: u64,
}

impl Session {
    /// A guest of `pages` pages, all zero.
    pub fn new(page_size: u64, pages: u64, zero_detection: bool) -> Self {
        Self {
            page_size,
            zero_detection,
            memory: vec![vec![0; page_size as usize]; pages as usize],
            present: BTreeMap::new(),
            written: 0,
            zero: 0,
        }
    }

    /// Does one thing.
    ///
    /// # Panics
    /// If a page is written with bytes that are not a page.
    pub fn apply(&mut self, operation: &Operation) {
        match operation {
            Operation::Dirty(page, bytes) => {
                assert_eq!(bytes.len() as u64, self.page_size);
                self.memory[*page as usize].clone_from(bytes);
            }
            Operation::WriteAll => {
                for page in 0..self.memory.len() as u64 {
                    self.save(page);
                }
            }
            Operation::WritePages(pages) => {
                let mut pages = pages.clone();
                pages.sort_unstable();
                pages.dedup();
                for page in pages {
                    self.save(page);
                }
            }
        }
    }

    fn save(&mut self, page: u64) {
        let bytes = self.memory[page as usize].clone();
        if self.zero_detection && bytes.iter().all(|byte| *byte == 0) {
            self.present.remove(&page);
            self.zero += 1;
        } else {
            self.present.insert(page, bytes);
            self.written += 1;
        }
    }

    /// What a reader must give for the whole block.
    pub fn readable(&self) -> Vec<u8> {
        let zeros = vec![0; self.page_size as usize];
        (0..self.memory.len() as u64)
            .flat_map(|page| self.present.get(&page).unwrap_or(&zeros).clone())
            .collect()
    }
}
