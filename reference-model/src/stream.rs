//! A whole stream, to bytes and from bytes.

use std::collections::BTreeMap;

use crate::bitmap::Encoding;
use crate::file::SparseFile;

/// A RAM block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// The idstr.
    pub name: Vec<u8>,
    /// A multiple of the page size.
    pub used_length: u64,
    /// Where in the guest's physical memory, if the stream says so.
    pub address: Option<u64>,
    /// Named, but not held.
    pub left_out: bool,
    /// The pages that are present.
    pub pages: BTreeMap<u64, Vec<u8>>,
}

/// A whole stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stream {
    /// Where in the file it begins.
    pub offset: u64,
    /// Everything between the version and the RAM section, as it is: configuration, commands.
    pub head: Vec<u8>,
    /// The RAM section's id.
    pub section: u32,
    /// The target's page size.
    pub page_size: u64,
    /// What pages are aligned to in the file.
    pub alignment: u64,
    /// How bitmaps are laid out.
    pub encoding: Encoding,
    /// The blocks, in order.
    pub blocks: Vec<Block>,
    /// Everything behind the last block's pages.
    pub tail: Vec<u8>,
}

impl Stream {
    /// A stream for machine `none` with the capability `mapped-ram`, and the smallest tail.
    pub fn new(blocks: Vec<Block>) -> Self {
        Self {
            offset: 0,
            head: configuration("none", &["mapped-ram"]),
            section: 1,
            page_size: 4096,
            alignment: 1 << 20,
            encoding: Encoding::X86,
            blocks,
            tail: smallest_tail(1, 4096),
        }
    }

    /// The stream in a file.
    pub fn write(&self) -> SparseFile {
        let mut file = SparseFile::new();
        let mut head = b"QEVM\0\0\0\x03".to_vec();
        head.extend(&self.head);
        head.push(1);
        head.extend(self.section.to_be_bytes());
        head.extend(b"\x03ram\0\0\0\0\0\0\0\x04");
        let total: u64 = self.blocks.iter().map(|block| block.used_length).sum();
        head.extend((total | 4).to_be_bytes());
        file.write(self.offset, &head);
        let mut at = self.offset + head.len() as u64;
        for block in &self.blocks {
            at = self.write_block(&mut file, block, at);
        }
        file.write(at, &self.tail);
        file
    }

    /// Writes the block whose record begins at `at`; gives where the next one begins.
    fn write_block(&self, file: &mut SparseFile, block: &Block, at: u64) -> u64 {
        let mut record = vec![block.name.len() as u8];
        record.extend(&block.name);
        record.extend(block.used_length.to_be_bytes());
        if let Some(address) = block.address {
            record.extend(address.to_be_bytes());
        }
        let end = at + record.len() as u64 + 28;
        let pages = block.used_length / self.page_size;
        let bitmap = self.encoding.encode(pages, |page| block.pages.contains_key(&page));
        let pages_at = (end + bitmap.len() as u64).next_multiple_of(self.alignment);
        let (bitmap_at, pages_at) = if block.left_out { (0, 0) } else { (end, pages_at) };
        record.extend(1_u32.to_be_bytes());
        record.extend(self.page_size.to_be_bytes());
        record.extend(bitmap_at.to_be_bytes());
        record.extend(pages_at.to_be_bytes());
        file.write(at, &record);
        if block.left_out {
            return end;
        }
        for (index, byte) in bitmap.iter().enumerate().filter(|(_, byte)| **byte != 0) {
            file.write(bitmap_at + index as u64, &[*byte]);
        }
        for (page, bytes) in &block.pages {
            file.write(pages_at + page * self.page_size, bytes);
        }
        pages_at + block.used_length
    }

    /// Reads a stream that begins at `offset` of `bytes`. Takes sound streams only; what is wrong with others it says in a
    /// few words, if it notices.
    ///
    /// # Errors
    /// What does not fit.
    pub fn read(bytes: &[u8], offset: u64, encoding: Encoding) -> Result<Self, String> {
        let mut input = Input { bytes, at: offset as usize };
        if input.take(8)? != b"QEVM\0\0\0\x03" {
            return Err("no stream of version 3".into());
        }
        let head_start = input.at;
        let addressed = read_head(&mut input)?;
        let head = bytes[head_start..input.at].to_vec();
        input.take(1)?;
        let section = input.u32()?;
        if input.take(12)? != b"\x03ram\0\0\0\0\0\0\0\x04" {
            return Err("no RAM section of version 4".into());
        }
        let mut left = input.u64()? & !0xFF;
        let mut stream = Self {
            offset,
            head,
            section,
            page_size: 4096,
            alignment: 1 << 20,
            encoding,
            blocks: Vec::new(),
            tail: Vec::new(),
        };
        while left > 0 {
            let block = stream.read_block(&mut input, addressed)?;
            left = left.checked_sub(block.used_length).ok_or("the total is too small")?;
            stream.blocks.push(block);
        }
        stream.tail = bytes[input.at..].to_vec();
        Ok(stream)
    }

    fn read_block(&mut self, input: &mut Input<'_>, addressed: bool) -> Result<Block, String> {
        let length = input.take(1)?[0];
        let name = input.take(usize::from(length))?.to_vec();
        let used_length = input.u64()?;
        let address = if addressed { Some(input.u64()?) } else { None };
        if input.u32()? != 1 {
            return Err("a mapped-ram header of another version".into());
        }
        self.page_size = input.u64()?;
        let (bitmap_at, pages_at) = (input.u64()? as usize, input.u64()? as usize);
        let mut block = Block { name, used_length, address, left_out: pages_at == 0, pages: BTreeMap::new() };
        if block.left_out {
            return Ok(block);
        }
        let pages = used_length / self.page_size;
        let bitmap_end = bitmap_at + self.encoding.length(pages) as usize;
        let bitmap = input.bytes.get(bitmap_at..bitmap_end).ok_or("the bitmap is cut")?;
        for page in self.encoding.decode(bitmap, pages) {
            let start = pages_at + (page * self.page_size) as usize;
            let end = start + self.page_size as usize;
            block.pages.insert(page, input.bytes.get(start..end).ok_or("a page is cut")?.to_vec());
        }
        input.at = pages_at + used_length as usize;
        Ok(block)
    }
}

/// A configuration section.
fn configuration(machine: &str, capabilities: &[&str]) -> Vec<u8> {
    let mut bytes = vec![7];
    bytes.extend((machine.len() as u32).to_be_bytes());
    bytes.extend(machine.as_bytes());
    bytes.extend(b"\x05\x1aconfiguration/capabilities\0\0\0\x01");
    bytes.extend((capabilities.len() as u32).to_be_bytes());
    for capability in capabilities {
        bytes.push(capability.len() as u8);
        bytes.extend(capability.as_bytes());
    }
    bytes
}

/// The smallest tail that QEMU loads.
fn smallest_tail(section: u32, page_size: u64) -> Vec<u8> {
    let mut bytes = 0x10_u64.to_be_bytes().to_vec();
    bytes.push(0x7e);
    bytes.extend(section.to_be_bytes());
    bytes.push(3);
    bytes.extend(section.to_be_bytes());
    bytes.extend(0x10_u64.to_be_bytes());
    bytes.push(0x7e);
    bytes.extend(section.to_be_bytes());
    bytes.push(0);
    let json = format!("{{\"page_size\": {page_size}, \"devices\": []}}");
    bytes.push(6);
    bytes.extend((json.len() as u32).to_be_bytes());
    bytes.extend(json.as_bytes());
    bytes
}

/// Skips what stands before the RAM section; says whether blocks have addresses.
fn read_head(input: &mut Input<'_>) -> Result<bool, String> {
    let mut addressed = false;
    loop {
        match input.peek()? {
            1 => return Ok(addressed),
            7 => {
                input.take(1)?;
                let length = input.u32()?;
                input.take(length as usize)?;
            }
            5 => {
                input.take(1)?;
                let length = input.take(1)?[0];
                let name = input.take(usize::from(length))?.to_vec();
                input.u32()?;
                match name.as_slice() {
                    b"configuration/capabilities" => {
                        for _ in 0..input.u32()? {
                            let length = input.take(1)?[0];
                            addressed |= input.take(usize::from(length))? == b"x-ignore-shared";
                        }
                    }
                    b"configuration/target-page-bits" => drop(input.u32()?),
                    b"configuration/uuid" => drop(input.take(16)?),
                    _ => return Err("an unknown subsection".into()),
                }
            }
            8 => {
                input.take(3)?;
                let length = u16::from_be_bytes([input.take(1)?[0], input.take(1)?[0]]);
                input.take(usize::from(length))?;
            }
            other => return Err(format!("section type {other:#x} before the RAM")),
        }
    }
}

struct Input<'b> {
    bytes: &'b [u8],
    at: usize,
}

impl<'b> Input<'b> {
    fn take(&mut self, length: usize) -> Result<&'b [u8], String> {
        let end = self.at.checked_add(length).ok_or("a length that wraps")?;
        let taken = self.bytes.get(self.at..end).ok_or("the stream is cut")?;
        self.at = end;
        Ok(taken)
    }

    fn peek(&self) -> Result<u8, String> {
        self.bytes.get(self.at).copied().ok_or_else(|| "the stream is cut".into())
    }

    fn u32(&mut self) -> Result<u32, String> {
        let mut bytes = [0; 4];
        bytes.copy_from_slice(self.take(4)?);
        Ok(u32::from_be_bytes(bytes))
    }

    fn u64(&mut self) -> Result<u64, String> {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(self.take(8)?);
        Ok(u64::from_be_bytes(bytes))
    }
}
