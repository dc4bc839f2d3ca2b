//! The frame around every small object (docs/format/frame.md).
//! store > **frame** > payload.

use crate::compress::{Codec, RAW, ZSTD};
use crate::error::{Error, Result};
use crate::id::{checksum, random_bytes, Keys, Salt};
use crate::seal::{sealed_len, Coded, Sealer};

pub const MAGIC: &[u8; 4] = b"SNAP";
pub const VERSION: u8 = 1;
pub const HEADER_LEN: usize = 32;
const MAX_LEN: usize = 64 << 20;
const CONFIG: u8 = 1;
const KEY: u8 = 2;

fn associated(header: &[u8], keys: &Keys, name: &str) -> Vec<u8> {
    let mut data = header.to_vec();
    data.extend_from_slice(&keys.family);
    data.extend_from_slice(name.as_bytes());
    data
}

fn may_be_sealed(kind: u8) -> bool {
    kind != CONFIG && kind != KEY
}

/// Frames `payload` as object `name` of type `kind`; sealed when the keys seal and the type may be.
pub fn write(keys: Option<&Keys>, kind: u8, name: &str, nonce: &[u8; 16], payload: &[u8]) -> Result<Vec<u8>> {
    let salt = match keys {
        Some(keys) if keys.sealed() && may_be_sealed(kind) => Some(random_bytes::<32>()?),
        _ => None,
    };
    write_with(keys, kind, name, nonce, payload, salt)
}

/// As `write`, with a chosen salt: for golden vectors.
pub fn write_with(
    keys: Option<&Keys>,
    kind: u8,
    name: &str,
    nonce: &[u8; 16],
    payload: &[u8],
    salt: Option<Salt>,
) -> Result<Vec<u8>> {
    if payload.len() > MAX_LEN {
        return Err(Error::Invalid(format!("{name} is too large: {} bytes", payload.len())));
    }
    let mut scratch = Vec::new();
    let (codec, coded) = Codec::new(3)?.encode(payload, &mut scratch)?;
    let coded = Coded { codec, plain_len: payload.len(), bytes: coded };
    let body_len = salt.map_or(coded.bytes.len(), |_| 4 + 32 + sealed_len(coded.bytes.len()));
    let (shown_codec, shown_len) = salt.map_or((codec, payload.len()), |_| (0, 0));
    let mut out = Vec::with_capacity(HEADER_LEN + body_len + 8);
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&[VERSION, kind, shown_codec, salt.is_some() as u8]);
    out.extend_from_slice(nonce);
    out.extend_from_slice(&(shown_len as u32).to_le_bytes());
    out.extend_from_slice(&(body_len as u32).to_le_bytes());
    match (salt, keys) {
        (Some(salt), Some(keys)) => {
            let associated = associated(&out, keys, name);
            let epoch = keys.epoch();
            out.extend_from_slice(&epoch.to_le_bytes());
            out.extend_from_slice(&salt);
            Sealer::new(&keys.frame_keys(epoch, &salt)?).seal(&associated, coded, &mut out)?;
        }
        _ => out.extend_from_slice(coded.bytes),
    }
    let sum = checksum(&out);
    out.extend_from_slice(&sum.to_le_bytes());
    Ok(out)
}

/// (writer nonce, payload) of the frame `data` that was read as object `name` of type `kind`.
pub fn read(keys: Option<&Keys>, kind: u8, name: &str, data: &[u8]) -> Result<([u8; 16], Vec<u8>)> {
    let bad = |why: &str| Error::Damaged(format!("damaged {name}: {why}"));
    if data.len() < HEADER_LEN + 8 || &data[..4] != MAGIC {
        return Err(bad("not an object of a store"));
    }
    if data[4] > VERSION {
        return Err(Error::TooNew(format!("{name} has format version {}, which needs a newer snapstore", data[4])));
    }
    let (content, sum) = data.split_at(data.len() - 8);
    if checksum(content).to_le_bytes() != sum {
        return Err(bad("its checksum is wrong"));
    }
    let header = &content[..HEADER_LEN];
    let body = &content[HEADER_LEN..];
    let nonce: [u8; 16] = header[8..24].try_into().expect("16 bytes");
    let plain_len = u32::from_le_bytes(header[24..28].try_into().expect("4 bytes")) as usize;
    let body_len = u32::from_le_bytes(header[28..32].try_into().expect("4 bytes")) as usize;
    let (codec, sealed) = (header[6], header[7]);
    if header[4] != VERSION || header[5] != kind || sealed > 1 || codec > ZSTD {
        return Err(bad("its header is wrong"));
    }
    if body_len != body.len() || plain_len > MAX_LEN || body_len > MAX_LEN {
        return Err(bad("its length is wrong"));
    }
    let mut opened = Vec::new();
    let coded = match (sealed, keys) {
        (0, Some(keys)) if keys.sealed() && may_be_sealed(kind) => {
            return Err(bad("it is not sealed, but the store is"))
        }
        (0, _) => Coded { codec, plain_len, bytes: body },
        (_, None) => return Err(bad("it is sealed")),
        (_, Some(_)) if !may_be_sealed(kind) => return Err(bad("it is sealed")),
        (_, Some(_)) if codec != 0 || plain_len != 0 => return Err(bad("its header is wrong")),
        (_, Some(keys)) => {
            opened.extend_from_slice(body);
            open_body(keys, header, &mut opened, name)?
        }
    };
    if coded.plain_len > MAX_LEN || (coded.codec == RAW && coded.bytes.len() != coded.plain_len) {
        return Err(bad("its length is wrong"));
    }
    let mut payload = Vec::new();
    Codec::new(0)?.decode(coded.codec, coded.bytes, coded.plain_len, &mut payload, name)?;
    Ok((nonce, payload))
}

fn open_body<'a>(keys: &Keys, header: &[u8], body: &'a mut [u8], name: &str) -> Result<Coded<'a>> {
    if body.len() < 36 {
        return Err(Error::Damaged(format!("damaged {name}: too short to be sealed")));
    }
    let epoch = u32::from_le_bytes(body[..4].try_into().expect("4 bytes"));
    let salt: Salt = body[4..36].try_into().expect("32 bytes");
    Sealer::new(&keys.frame_keys(epoch, &salt)?).open(&associated(header, keys, name), &mut body[36..], name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn keys(sealed: bool) -> Keys {
        let masters = if sealed { BTreeMap::from([(1, [7; 32])]) } else { BTreeMap::new() };
        Keys::new([1; 16], &[2; 32], &masters).unwrap()
    }

    #[test]
    fn round_trip_and_every_flip_is_found() {
        for sealed in [false, true] {
            let keys = keys(sealed);
            let payload = b"payload payload payload payload payload".repeat(4);
            let data = write(Some(&keys), 3, "snap/x", &[9; 16], &payload).unwrap();
            let (nonce, back) = read(Some(&keys), 3, "snap/x", &data).unwrap();
            assert_eq!((nonce, back), ([9; 16], payload));
            for bit in 0..data.len() * 8 {
                let mut flipped = data.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert!(read(Some(&keys), 3, "snap/x", &flipped).is_err(), "bit {bit}");
            }
        }
    }

    #[test]
    fn role_is_bound_when_sealed() {
        let keys = keys(true);
        let data = write(Some(&keys), 3, "snap/x", &[0; 16], b"a").unwrap();
        assert!(read(Some(&keys), 3, "snap/y", &data).is_err());
        assert!(read(Some(&keys), 4, "snap/x", &data).is_err());
        let other = Keys::new([5; 16], &[2; 32], &BTreeMap::from([(1, [7; 32])])).unwrap();
        assert!(read(Some(&other), 3, "snap/x", &data).is_err());
        let plain = write(None, 3, "snap/x", &[0; 16], b"a").unwrap();
        assert!(read(Some(&keys), 3, "snap/x", &plain).is_err(), "unsealed in a sealed store");
    }
}
