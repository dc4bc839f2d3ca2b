//! Ids and the keys of a family from which they, and the sealing keys, are derived (docs/format/frame.md).

use std::collections::BTreeMap;
use std::fmt;

use crate::error::{Error, Result};

pub const ID_LEN: usize = 32;

/// The name of a chunk, node or pack: 32 bytes of BLAKE3.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id(pub [u8; ID_LEN]);

/// Stands for a zero run in chunk lists; never the id of anything stored.
pub const ZERO_ID: Id = Id([0; ID_LEN]);

impl Id {
    pub fn from_slice(bytes: &[u8]) -> Result<Id> {
        bytes.try_into().map(Id).map_err(|_| Error::Invalid("an id has 32 bytes".into()))
    }

    /// The first 8 bytes as a little-endian number: uniformly distributed.
    pub fn low64(&self) -> u64 {
        u64::from_le_bytes(self.0[..8].try_into().expect("8 of 32 bytes"))
    }

    pub fn hex(&self) -> String {
        blake3::Hash::from_bytes(self.0).to_hex().to_string()
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.hex())
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.hex()[..8])
    }
}

pub type Family = [u8; 16];
pub type Salt = [u8; 32];

/// The keys of a family. Ids always; sealing when there are master keys.
pub struct Keys {
    pub family: Family,
    pub chunk: [u8; 32],
    pub node: [u8; 32],
    pub snapshot: [u8; 32],
    pub object: [u8; 32],
    pub chunker: [u8; 32],
    masters: BTreeMap<u32, [u8; 32]>,
}

/// An AES key and the key of its nonces.
pub struct SealKeys {
    pub aes: [u8; 32],
    pub nonce: [u8; 32],
}

impl Keys {
    /// `secret` is zero for an unsealed family; `masters` by epoch, 1 or more.
    pub fn new(family: Family, secret: &[u8; 32], masters: BTreeMap<u32, [u8; 32]>) -> Result<Keys> {
        if masters.contains_key(&0) {
            return Err(Error::Invalid("key epochs count from 1".into()));
        }
        Ok(Keys {
            family,
            chunk: blake3::derive_key("snapstore v1 chunk id", secret),
            node: blake3::derive_key("snapstore v1 node id", secret),
            snapshot: blake3::derive_key("snapstore v1 snapshot id", secret),
            object: blake3::derive_key("snapstore v1 object name", secret),
            chunker: blake3::derive_key("snapstore v1 chunker", secret),
            masters,
        })
    }

    pub fn plain(family: Family) -> Keys {
        Keys::new(family, &[0; 32], BTreeMap::new()).expect("no epochs")
    }

    pub fn sealed(&self) -> bool {
        !self.masters.is_empty()
    }

    /// The epoch that seals new objects; 0 when the family is not sealed.
    pub fn epoch(&self) -> u32 {
        self.masters.keys().next_back().copied().unwrap_or(0)
    }

    pub fn chunk_id(&self, data: &[u8]) -> Id {
        Id(*blake3::keyed_hash(&self.chunk, data).as_bytes())
    }

    pub fn node_id(&self, data: &[u8]) -> Id {
        Id(*blake3::keyed_hash(&self.node, data).as_bytes())
    }

    pub fn snapshot_id(&self, payload: &[u8]) -> Id {
        Id(*blake3::keyed_hash(&self.snapshot, payload).as_bytes())
    }

    /// For the names of objects that are not named by their content.
    pub fn object_hash(&self, data: &[u8]) -> Id {
        Id(*blake3::keyed_hash(&self.object, data).as_bytes())
    }

    fn seal_keys(&self, epoch: u32, salt: &Salt, aes: &str, nonce: &str) -> Result<SealKeys> {
        let master = self.masters.get(&epoch).ok_or_else(|| Error::Damaged(format!("no key for epoch {epoch}")))?;
        let mut material = Vec::with_capacity(68);
        material.extend_from_slice(master);
        material.extend_from_slice(&epoch.to_le_bytes());
        material.extend_from_slice(salt);
        Ok(SealKeys { aes: blake3::derive_key(aes, &material), nonce: blake3::derive_key(nonce, &material) })
    }

    pub fn pack_keys(&self, epoch: u32, salt: &Salt) -> Result<SealKeys> {
        self.seal_keys(epoch, salt, "snapstore v1 pack key", "snapstore v1 pack nonce")
    }

    pub fn frame_keys(&self, epoch: u32, salt: &Salt) -> Result<SealKeys> {
        self.seal_keys(epoch, salt, "snapstore v1 frame key", "snapstore v1 frame nonce")
    }
}

/// Names a pack from its bytes.
pub fn pack_hasher() -> blake3::Hasher {
    blake3::Hasher::new()
}

pub fn random_bytes<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|e| Error::Internal(format!("no random bytes: {e}")))?;
    Ok(bytes)
}

pub fn checksum(bytes: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64(bytes)
}
