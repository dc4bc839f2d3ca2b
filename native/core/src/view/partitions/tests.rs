use super::*;
use crate::testing::noise;

const MIB: usize = 1 << 20;
const LINUX: u8 = 0x83;

fn found(image: &[u8]) -> Vec<(u32, u64, u64)> {
    let read = |start: u64, out: &mut [u8]| {
        // Panics when more is asked for than there is.
        out.copy_from_slice(&image[start as usize..start as usize + out.len()]);
        Ok(())
    };
    let found = partitions(image.len() as u64, &read).unwrap();
    found.iter().map(|one| (one.number, one.start, one.len)).collect()
}

/// Writes slot `number` of the boot record at `sector`.
fn put_slot(image: &mut [u8], sector: usize, number: usize, kind: u8, start: u32, count: u32) {
    let record = &mut image[sector * 512..][..512];
    record[510..].copy_from_slice(&MBR_SIGNATURE);
    let slot = &mut record[MBR_SLOTS + number * SLOT_LEN..][..SLOT_LEN];
    slot[4] = kind;
    slot[8..12].copy_from_slice(&start.to_le_bytes());
    slot[12..16].copy_from_slice(&count.to_le_bytes());
}

fn put(image: &mut [u8], at: usize, bytes: &[u8]) {
    image[at..at + bytes.len()].copy_from_slice(bytes);
}

/// A header at the sector `place`, of the entries at the sector `entries`, with the right checksums.
fn put_header(image: &mut [u8], sector: usize, place: usize, entries: usize, count: u32, entry_len: u32) {
    let entries_crc = crc32(&image[entries * sector..][..(count * entry_len) as usize]);
    let at = place * sector;
    put(image, at, GPT_SIGNATURE);
    put(image, at + 12, &92u32.to_le_bytes());
    put(image, at + 24, &(place as u64).to_le_bytes());
    put(image, at + 72, &(entries as u64).to_le_bytes());
    put(image, at + 80, &count.to_le_bytes());
    put(image, at + 84, &entry_len.to_le_bytes());
    put(image, at + 88, &entries_crc.to_le_bytes());
    seal_header(image, at);
}

fn seal_header(image: &mut [u8], at: usize) {
    put(image, at + GPT_CRC_AT, &[0; 4]);
    let crc = crc32(&image[at..at + GPT_HEADER_LEN]);
    put(image, at + GPT_CRC_AT, &crc.to_le_bytes());
}

/// An image with a table at both ends. `parts`: number, first and last sector.
fn gpt_image(sector: usize, parts: &[(usize, u64, u64)]) -> Vec<u8> {
    let (mut image, entry_len) = (vec![0; 4 * MIB], 128);
    put_slot(&mut image, 0, 0, PROTECTIVE, 1, u32::MAX);
    let (entries_sectors, last) = (128 * entry_len / sector, 4 * MIB / sector - 1);
    for (place, entries) in [(1, 2), (last, last - entries_sectors)] {
        for (number, first, last) in parts {
            let at = entries * sector + (number - 1) * entry_len;
            put(&mut image, at, &[7; 16]);
            put(&mut image, at + 32, &first.to_le_bytes());
            put(&mut image, at + 40, &last.to_le_bytes());
        }
        put_header(&mut image, sector, place, entries, 128, entry_len as u32);
    }
    image
}

#[test]
fn the_checksum_is_the_usual_one() {
    assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    assert_eq!(crc32(b""), 0);
}

#[test]
fn primary_partitions_have_the_number_of_their_slot() {
    let mut image = vec![0; MIB];
    put_slot(&mut image, 0, 0, LINUX, 8, 100);
    put_slot(&mut image, 0, 2, 0x0c, 200, 50);
    image[MBR_SLOTS] = 0x80;
    assert_eq!(found(&image), [(1, 8 * 512, 100 * 512), (3, 200 * 512, 50 * 512)]);
}

#[test]
fn what_is_no_table_has_no_partitions() {
    assert_eq!(found(&[]), []);
    assert_eq!(found(&vec![0; MIB]), []);
    assert_eq!(found(&[0; 100]), []);
    let mut image = vec![0; MIB];
    put_slot(&mut image, 0, 0, LINUX, 8, 100);
    image[511] = 0;
    assert_eq!(found(&image), []);
    image[511] = 0xaa;
    assert_eq!(found(&image).len(), 1);
    image[MBR_SLOTS + SLOT_LEN] = b'N'; // A boot sector's message.
    assert_eq!(found(&image), []);
}

#[test]
fn partitions_outside_the_image_are_left_out() {
    let mut image = vec![0; MIB];
    put_slot(&mut image, 0, 0, LINUX, 2048 - 10, 10);
    put_slot(&mut image, 0, 1, LINUX, 2048 - 10, 11);
    put_slot(&mut image, 0, 2, LINUX, u32::MAX, u32::MAX);
    put_slot(&mut image, 0, 3, LINUX, 0, 100);
    assert_eq!(found(&image), [(1, (2048 - 10) * 512, 10 * 512)]);
}

#[test]
fn logical_partitions_are_numbered_from_five_on() {
    let mut image = vec![0; MIB];
    put_slot(&mut image, 0, 0, LINUX, 8, 8);
    put_slot(&mut image, 0, 1, 0x05, 100, 1000);
    put_slot(&mut image, 100, 0, LINUX, 2, 10); // Relative to its record.
    put_slot(&mut image, 100, 1, 0x05, 50, 100); // Relative to the extended partition.
    put_slot(&mut image, 150, 0, LINUX, 3, u32::MAX); // Counted, though it is outside.
    put_slot(&mut image, 150, 1, 0x05, 80, 100);
    put_slot(&mut image, 180, 0, LINUX, 4, 12);
    assert_eq!(found(&image), [(1, 8 * 512, 8 * 512), (5, 102 * 512, 10 * 512), (7, 184 * 512, 12 * 512)]);
}

#[test]
fn a_loop_of_logical_partitions_ends() {
    let mut image = vec![0; MIB];
    put_slot(&mut image, 0, 3, 0x0f, 100, 1000);
    put_slot(&mut image, 0, 2, 0x85, 100, 1000);
    for (at, link) in [(100, 20), (120, 0)] {
        put_slot(&mut image, at, 0, LINUX, 2, 10);
        put_slot(&mut image, at, 1, 0x05, link, 100);
    }
    assert_eq!(found(&image), [(5, 102 * 512, 10 * 512), (6, 122 * 512, 10 * 512)]);
}

#[test]
fn a_long_chain_of_logical_partitions_is_cut() {
    let mut image = vec![0; MIB];
    put_slot(&mut image, 0, 0, 0x05, 100, 1000);
    for at in 0..500 {
        put_slot(&mut image, 100 + at, 0, LINUX, 1, 1);
        put_slot(&mut image, 100 + at, 1, 0x05, at as u32 + 1, 10);
    }
    assert_eq!(found(&image).len(), MAX_LOGICAL);
    put_slot(&mut image, 100, 1, 0x05, u32::MAX, 10);
    assert_eq!(found(&image).len(), 1);
}

#[test]
fn gpt_with_sectors_of_both_lengths() {
    for sector in [512u64, 4096] {
        let image = gpt_image(sector as usize, &[(1, 40, 99), (128, 100, 100)]);
        assert_eq!(found(&image), [(1, 40 * sector, 60 * sector), (128, 100 * sector, sector)]);
    }
}

#[test]
fn the_last_header_serves_when_the_first_is_damaged() {
    for sector in [512, 4096] {
        let whole = gpt_image(sector, &[(2, 40, 99)]);
        let end = whole.len() - sector;
        for damaged in [sector + 40, sector + GPT_CRC_AT, 2 * sector + 128 + 32] {
            let mut image = whole.clone();
            image[damaged] ^= 1;
            assert_eq!(found(&image), found(&whole), "{damaged}");
            image[end] ^= 1;
            assert_eq!(found(&image), [], "{damaged}");
        }
    }
}

#[test]
fn a_header_that_stands_elsewhere_is_none() {
    let mut image = gpt_image(512, &[(1, 40, 99)]);
    image[4 * MIB - 512..].fill(0);
    put(&mut image, 512 + 24, &7u64.to_le_bytes());
    seal_header(&mut image, 512);
    assert_eq!(found(&image), []);
}

#[test]
fn gpt_partitions_outside_the_image_are_left_out() {
    let last = (4 * MIB / 512) as u64 - 1;
    let odd = [(1, 40, last + 1), (2, 99, 40), (3, 0, u64::MAX), (4, u64::MAX, u64::MAX), (5, u64::MAX / 2, u64::MAX)];
    assert_eq!(found(&gpt_image(512, &odd)), []);
    let fine = gpt_image(512, &[(1, 40, last + 1), (2, 40, last)]);
    assert_eq!(found(&fine), [(2, 40 * 512, (last - 39) * 512)]);
}

#[test]
fn the_number_and_length_of_entries_have_bounds() {
    let tried = [(1, 128), (1024, 128), (10, 200), (1, 4096), (0, 128), (1025, 128), (1, 127), (1, 4097)];
    for (count, entry_len) in tried {
        let mut image = gpt_image(512, &[(1, 1000, 1099)]);
        image[4 * MIB - 512..].fill(0);
        put_header(&mut image, 512, 1, 2, count, entry_len);
        let is_fine = (1..=1024).contains(&count) && (128..=4096).contains(&entry_len);
        assert_eq!(found(&image).len(), usize::from(is_fine), "{count} {entry_len}");
    }
    let mut image = gpt_image(512, &[(1, 1000, 1099)]);
    image[4 * MIB - 512..].fill(0);
    for entries in [u64::MAX, u64::MAX / 512, 4 * MIB as u64 / 512] {
        put(&mut image, 512 + 72, &entries.to_le_bytes());
        seal_header(&mut image, 512);
        assert_eq!(found(&image), []);
    }
}

#[test]
fn a_protective_record_without_a_table_has_no_partitions() {
    let mut image = vec![0; MIB];
    put_slot(&mut image, 0, 0, PROTECTIVE, 1, 2047);
    put_slot(&mut image, 0, 1, LINUX, 8, 8);
    assert_eq!(found(&image), []);
}

#[test]
fn a_read_that_fails_is_an_error() {
    let read = |_: u64, _: &mut [u8]| Err(crate::error::Error::damaged("x"));
    assert!(partitions(MIB as u64, &read).is_err());
}

#[test]
fn random_bytes_do_no_harm() {
    let gpt = gpt_image(512, &[(1, 40, 99), (2, 100, 2000)]);
    for seed in 0..3000u64 {
        let bytes = noise(seed, 2048);
        let mut image = if seed % 2 == 0 { gpt[..64 << 10].to_vec() } else { vec![0; 64 << 10] };
        let size = 64 + (u64::from_le_bytes(bytes[..8].try_into().unwrap()) % (64 << 10)) as usize;
        for change in bytes[8..].chunks_exact(4).take(1 + seed as usize % 400) {
            let at = u16::from_le_bytes([change[0], change[1]]) as usize % 1200;
            image[at] = change[2];
        }
        put(&mut image, 510, &MBR_SIGNATURE);
        (0..4).for_each(|slot| image[MBR_SLOTS + slot * SLOT_LEN] &= 0x80);
        if seed % 4 == 0 {
            image[MBR_SLOTS + 4] = PROTECTIVE;
            put(&mut image, 512, GPT_SIGNATURE);
            put(&mut image, 512 + 12, &92u32.to_le_bytes());
            seal_header(&mut image, 512);
        } else if seed % 4 == 1 {
            image[MBR_SLOTS + 4] = 0x05;
        }
        image.truncate(size);
        for (_, start, len) in found(&image) {
            assert!(start > 0 && len > 0 && start + len <= size as u64);
        }
    }
}
