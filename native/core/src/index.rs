//! What the core asks of the index, whose owner is on the other side of the binding.

use crate::error::{Error, Result};
use crate::id::{checksum, Id, ID_LEN};
use crate::pack::{Kind, Pack};

pub const LOCATION_LEN: usize = 16;

/// Where a chunk or node stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Location {
    /// The pack's number in the index.
    pub pack: u32,
    pub block: u32,
    pub offset: u32,
    pub len: u32,
}

impl Location {
    /// The 16-byte record: pack u32, block u16, offset u24, length u24, check u32 over id and the rest.
    pub fn encode(&self, id: &Id) -> [u8; LOCATION_LEN] {
        let mut out = [0; LOCATION_LEN];
        out[..4].copy_from_slice(&self.pack.to_le_bytes());
        out[4..6].copy_from_slice(&(self.block as u16).to_le_bytes());
        out[6..9].copy_from_slice(&self.offset.to_le_bytes()[..3]);
        out[9..12].copy_from_slice(&self.len.to_le_bytes()[..3]);
        let check = record_check(id, &out[..12]);
        out[12..].copy_from_slice(&check.to_le_bytes());
        out
    }

    /// None for the zeros that mean "unknown". A wrong check value is damage of the index.
    pub fn decode(id: &Id, record: &[u8]) -> Result<Option<Location>> {
        if record.iter().all(|b| *b == 0) {
            return Ok(None);
        }
        let damaged = || Error::Damaged("damaged index: a record's check value is wrong; run `snap reindex`".into());
        let record: &[u8; LOCATION_LEN] = record.try_into().map_err(|_| damaged())?;
        if record_check(id, &record[..12]).to_le_bytes() != record[12..] {
            return Err(damaged());
        }
        Location::fields(record).map(Some)
    }

    /// The fields of a record, unchecked.
    pub fn fields(record: &[u8]) -> Result<Location> {
        if record.len() != LOCATION_LEN {
            return Err(Error::Invalid("a location has 16 bytes".into()));
        }
        let u24 = |at: usize| u32::from_le_bytes([record[at], record[at + 1], record[at + 2], 0]);
        Ok(Location {
            pack: u32::from_le_bytes(record[..4].try_into().expect("4 bytes")),
            block: u32::from(u16::from_le_bytes([record[4], record[5]])),
            offset: u24(6),
            len: u24(9),
        })
    }
}

/// Never zero, so that a record is never all zeros.
fn record_check(id: &Id, fields: &[u8]) -> u32 {
    let mut both = [0; ID_LEN + 12];
    both[..ID_LEN].copy_from_slice(&id.0);
    both[ID_LEN..].copy_from_slice(fields);
    (checksum(&both) as u32).max(1)
}

/// The index. Called from the core's threads.
pub trait Index: Send + Sync {
    /// Where each of `ids` stands, or None where unknown or not to be used.
    fn locate(&self, ids: &[Id]) -> Result<Vec<Option<Location>>>;
    /// The pack with this number.
    fn pack(&self, number: u32) -> Result<(Kind, Id)>;
    /// Takes a pack that is durable under its name. From then on `locate` finds its chunks.
    fn add_pack(&self, pack: Pack) -> Result<()>;
}

/// The records of a pack known as `number`, sorted by id.
pub fn records(pack: &Pack, number: u32) -> Vec<(Id, [u8; LOCATION_LEN])> {
    let mut out = Vec::with_capacity(pack.table.ids.len());
    pack.table.each(|id, block, offset, len| {
        out.push((id, Location { pack: number, block, offset, len }.encode(&id)));
    });
    out.sort_unstable_by_key(|record| record.0);
    out.dedup_by(|a, b| a.0 == b.0);
    out
}
