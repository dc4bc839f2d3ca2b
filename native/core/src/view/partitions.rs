//! Partition tables of disk images, GPT and MBR: where each partition stands.
//! image > table > **partition**.
//!
//! Whatever is in an image may be hostile: every number is checked before it is used, and chains have bounds.

use std::collections::HashSet;

use crate::error::Result;

/// Lengths of sectors that disks have. An MBR does not tell which: it is read as of the first.
const SECTORS: [u64; 2] = [512, 4096];
const MBR_SECTOR: u64 = SECTORS[0];
const MBR_SLOTS: usize = 446;
const MBR_SIGNATURE: [u8; 2] = [0x55, 0xaa];
const SLOT_LEN: usize = 16;
/// Fills a disk's MBR when the table is a GPT.
const PROTECTIVE: u8 = 0xee;
const EXTENDED: [u8; 3] = [0x05, 0x0f, 0x85];
/// As Linux numbers them.
const FIRST_LOGICAL: u32 = 5;
/// Links of the chains of logical partitions that are followed.
const MAX_LOGICAL: usize = 128;

const GPT_SIGNATURE: &[u8] = b"EFI PART";
const GPT_HEADER_LEN: usize = 92;
const GPT_CRC_AT: usize = 16;
const MAX_GPT_ENTRIES: u32 = 1024;
const GPT_ENTRY_LENS: std::ops::RangeInclusive<u32> = 128..=4096;

/// A part of an image, which lies within it. In bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Partition {
    pub(super) number: u32,
    pub(super) start: u64,
    pub(super) len: u64,
}

/// Fills a buffer with what is in the image from an offset on. Called only for what is within it.
pub(super) type Read<'a> = &'a dyn Fn(u64, &mut [u8]) -> Result<()>;

/// The partitions of an image of `size` bytes; none when it has no table, or a wrong one. Those outside the image, also in
/// part, are left out.
pub(super) fn partitions(size: u64, read: Read) -> Result<Vec<Partition>> {
    let image = Image { size, read };
    let Some(slots) = image.bytes(0, MBR_SECTOR)?.and_then(|sector| slots(&sector)) else { return Ok(Vec::new()) };
    if slots.iter().any(|slot| slot.flags & 0x7f != 0) {
        return Ok(Vec::new()); // A boot sector with code in place of a table.
    }
    match slots.iter().any(|slot| slot.kind == PROTECTIVE) {
        true => gpt(&image),
        false => mbr(&image, &slots),
    }
}

struct Image<'a> {
    size: u64,
    read: Read<'a>,
}

impl Image<'_> {
    /// None for what is not within the image.
    fn bytes(&self, start: u64, len: u64) -> Result<Option<Vec<u8>>> {
        if !self.has(start, len) {
            return Ok(None);
        }
        let mut bytes = vec![0; len as usize];
        (self.read)(start, &mut bytes)?;
        Ok(Some(bytes))
    }

    fn has(&self, start: u64, len: u64) -> bool {
        start.checked_add(len).is_some_and(|end| end <= self.size)
    }

    /// `start` and `count` in sectors. None for what cannot be a partition.
    fn partition(&self, number: u32, sector: u64, start: u64, count: u64) -> Option<Partition> {
        let (start, len) = (start.checked_mul(sector)?, count.checked_mul(sector)?);
        (start > 0 && len > 0 && self.has(start, len)).then_some(Partition { number, start, len })
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// One of the four places in an MBR. In sectors.
struct Slot {
    flags: u8,
    kind: u8,
    start: u64,
    count: u64,
}

impl Slot {
    fn is_extended(&self) -> bool {
        EXTENDED.contains(&self.kind) && self.count > 0
    }

    fn is_partition(&self) -> bool {
        self.kind != 0 && self.count > 0 && !EXTENDED.contains(&self.kind)
    }
}

/// None without the signature.
fn slots(sector: &[u8]) -> Option<Vec<Slot>> {
    let (table, signature) = sector.get(MBR_SLOTS..MBR_SECTOR as usize)?.split_at(4 * SLOT_LEN);
    let slot = |bytes: &[u8]| Slot {
        flags: bytes[0],
        kind: bytes[4],
        start: u32_at(bytes, 8).into(),
        count: u32_at(bytes, 12).into(),
    };
    (signature == MBR_SIGNATURE).then(|| table.chunks_exact(SLOT_LEN).map(slot).collect())
}

fn mbr(image: &Image, slots: &[Slot]) -> Result<Vec<Partition>> {
    let primary = slots.iter().zip(1..).filter(|(slot, _)| slot.is_partition());
    let mut found: Vec<Partition> =
        primary.filter_map(|(slot, number)| image.partition(number, MBR_SECTOR, slot.start, slot.count)).collect();
    let mut logical = Logical { next: FIRST_LOGICAL, seen: HashSet::new(), found: Vec::new() };
    for slot in slots.iter().filter(|slot| slot.is_extended()) {
        logical.follow(image, slot.start)?;
    }
    found.extend(logical.found);
    Ok(found)
}

/// What was found in the chains of boot records in extended partitions.
struct Logical {
    next: u32,
    /// Sectors that were read, so that a loop ends.
    seen: HashSet<u64>,
    found: Vec<Partition>,
}

impl Logical {
    /// `base`: the first sector of the extended partition.
    fn follow(&mut self, image: &Image, base: u64) -> Result<()> {
        let mut at = base;
        while self.seen.len() < MAX_LOGICAL && self.seen.insert(at) {
            let sector = image.bytes(at * MBR_SECTOR, MBR_SECTOR)?;
            let Some(slots) = sector.and_then(|sector| slots(&sector)) else { break };
            if let Some(slot) = slots.iter().find(|slot| slot.is_partition()) {
                self.found.extend(image.partition(self.next, MBR_SECTOR, at + slot.start, slot.count));
                self.next += 1;
            }
            let Some(link) = slots.iter().find(|slot| slot.is_extended()) else { break };
            at = base + link.start;
        }
        Ok(())
    }
}

/// From the first header that is whole: at the beginning, or at the end, where there is another.
fn gpt(image: &Image) -> Result<Vec<Partition>> {
    let first = SECTORS.map(|sector| (sector, 1));
    let last = SECTORS.map(|sector| (sector, (image.size / sector).saturating_sub(1)));
    for (sector, place) in first.into_iter().chain(last) {
        if let Some(found) = gpt_at(image, sector, place)? {
            return Ok(found);
        }
    }
    Ok(Vec::new())
}

/// None when there is no whole table. `place`: of its header, in sectors.
fn gpt_at(image: &Image, sector: u64, place: u64) -> Result<Option<Vec<Partition>>> {
    let header = image.bytes(place.saturating_mul(sector), sector)?;
    let Some(header) = header.and_then(|bytes| Header::parse(&bytes, place)) else { return Ok(None) };
    let Some(start) = header.entries.checked_mul(sector) else { return Ok(None) };
    let len = u64::from(header.count) * u64::from(header.entry_len);
    let Some(entries) = image.bytes(start, len)?.filter(|bytes| crc32(bytes) == header.entries_crc) else {
        return Ok(None);
    };
    let entries = entries.chunks_exact(header.entry_len as usize).zip(1..);
    Ok(Some(entries.filter_map(|(entry, number)| gpt_partition(image, sector, entry, number)).collect()))
}

fn gpt_partition(image: &Image, sector: u64, entry: &[u8], number: u32) -> Option<Partition> {
    let is_used = entry[..16].iter().any(|byte| *byte != 0);
    let (first, last) = (u64_at(entry, 32), u64_at(entry, 40));
    let count = last.checked_sub(first)?.checked_add(1)?;
    image.partition(number, sector, first, count).filter(|_| is_used)
}

/// Of a GPT. `entries`: the sector at which they begin.
struct Header {
    entries: u64,
    count: u32,
    entry_len: u32,
    entries_crc: u32,
}

impl Header {
    /// None unless it is whole, and says that it stands at `place`.
    fn parse(sector: &[u8], place: u64) -> Option<Header> {
        let len = u32_at(sector, 12) as usize;
        if !sector.starts_with(GPT_SIGNATURE) || !(GPT_HEADER_LEN..=sector.len()).contains(&len) {
            return None;
        }
        let mut checked = sector[..len].to_vec();
        checked[GPT_CRC_AT..GPT_CRC_AT + 4].fill(0);
        let header = Header {
            entries: u64_at(sector, 72),
            count: u32_at(sector, 80),
            entry_len: u32_at(sector, 84),
            entries_crc: u32_at(sector, 88),
        };
        let is_whole = crc32(&checked) == u32_at(sector, GPT_CRC_AT) && u64_at(sector, 24) == place;
        let is_bounded = (1..=MAX_GPT_ENTRIES).contains(&header.count) && GPT_ENTRY_LENS.contains(&header.entry_len);
        (is_whole && is_bounded).then_some(header)
    }
}

/// As GPT, gzip and Ethernet have it.
fn crc32(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = crc32_table();
    !bytes.iter().fold(!0, |crc, byte| crc >> 8 ^ TABLE[usize::from(crc as u8 ^ byte)])
}

const fn crc32_table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut at = 0;
    while at < 256 {
        let (mut crc, mut bit) = (at as u32, 0);
        while bit < 8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
            bit += 1;
        }
        table[at] = crc;
        at += 1;
    }
    table
}

#[cfg(test)]
mod tests;
