//! Ids and the keys of a family from which they, and the sealing keys, are derived (docs/format/frame.md).

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Deref;

use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::bytes::{put_varint, Cursor};
use crate::error::{Error, Result};
use crate::guarded::Guarded;

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

pub type Secret = [u8; 32];

/// Epochs of master keys that a family may have.
pub const MAX_EPOCHS: usize = 64;

/// The keys of a family. Ids always; sealing when there are master keys.
pub struct Keys {
    pub family: Family,
    secrets: Guarded<Secrets>,
}

/// Master keys by epoch on their way into `Keys`, wiped when they are there.
#[derive(Default)]
pub struct Masters(pub BTreeMap<u32, Secret>);

impl Drop for Masters {
    fn drop(&mut self) {
        self.0.values_mut().for_each(Zeroize::zeroize);
    }
}

/// What a family's keys are derived from, and those that do not depend on a salt.
#[derive(Clone, Copy)]
pub struct Secrets {
    secret: Secret,
    pub chunk: Secret,
    pub node: Secret,
    pub snapshot: Secret,
    pub object: Secret,
    pub chunker: Secret,
    masters: [(u32, Secret); MAX_EPOCHS],
    epochs: usize,
}

impl Default for Secrets {
    fn default() -> Secrets {
        let none = [0; 32];
        let masters = [(0, none); MAX_EPOCHS];
        Secrets {
            secret: none,
            chunk: none,
            node: none,
            snapshot: none,
            object: none,
            chunker: none,
            masters,
            epochs: 0,
        }
    }
}

impl Deref for Keys {
    type Target = Secrets;

    fn deref(&self) -> &Secrets {
        &self.secrets
    }
}

/// An AES key and the key of its nonces.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct SealKeys {
    pub aes: [u8; 32],
    pub nonce: [u8; 32],
}

impl Keys {
    /// `secret` is zero for an unsealed family; `masters` by epoch, 1 or more.
    pub fn new(family: Family, secret: &Secret, masters: &BTreeMap<u32, Secret>) -> Result<Keys> {
        if masters.contains_key(&0) {
            return Err(Error::Invalid("key epochs count from 1".into()));
        }
        if masters.len() > MAX_EPOCHS {
            return Err(Error::Invalid(format!("a family has at most {MAX_EPOCHS} key epochs")));
        }
        let mut secrets = Guarded::<Secrets>::new()?;
        secrets.secret = *secret;
        secrets.chunk = blake3::derive_key("snapstore v1 chunk id", secret);
        secrets.node = blake3::derive_key("snapstore v1 node id", secret);
        secrets.snapshot = blake3::derive_key("snapstore v1 snapshot id", secret);
        secrets.object = blake3::derive_key("snapstore v1 object name", secret);
        secrets.chunker = blake3::derive_key("snapstore v1 chunker", secret);
        for (at, (epoch, master)) in masters.iter().enumerate() {
            secrets.masters[at] = (*epoch, *master);
        }
        secrets.epochs = masters.len();
        Ok(Keys { family, secrets })
    }

    pub fn plain(family: Family) -> Keys {
        Keys::new(family, &[0; 32], &BTreeMap::new()).expect("no epochs, and memory for keys")
    }

    /// New keys of a sealed family, by chance.
    pub fn random(family: Family) -> Result<Keys> {
        let secret = Zeroizing::new(random_bytes()?);
        let masters = Masters(BTreeMap::from([(1, random_bytes()?)]));
        Keys::new(family, &secret, &masters.0)
    }

    /// Keys as `encode` wrote them.
    pub fn decode(bytes: &[u8]) -> Result<Keys> {
        let mut cursor = Cursor::new(bytes, "keys that were handed over");
        let (family, secret) = (cursor.array()?, Zeroizing::new(cursor.array()?));
        let mut masters = Masters::default();
        for _ in 0..cursor.bounded(MAX_EPOCHS as u64)? {
            masters.0.insert(u32::from_le_bytes(cursor.array()?), cursor.array()?);
        }
        cursor.finish()?;
        Keys::new(family, &secret, &masters.0)
    }

    /// All that it takes to make these keys again, for another process of ours.
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        let (secret, masters) = self.material();
        let mut out = Zeroizing::new(Vec::with_capacity(64 + MAX_EPOCHS * 36));
        out.extend_from_slice(&self.family);
        out.extend_from_slice(secret);
        put_varint(&mut out, masters.len() as u64);
        for (epoch, key) in masters {
            out.extend_from_slice(&epoch.to_le_bytes());
            out.extend_from_slice(key);
        }
        out
    }

    /// The family secret and the master keys by epoch: what a password protects.
    pub fn material(&self) -> (&Secret, &[(u32, Secret)]) {
        (&self.secret, &self.masters[..self.epochs])
    }

    pub fn sealed(&self) -> bool {
        self.epochs > 0
    }

    /// The epoch that seals new objects; 0 when the family is not sealed.
    pub fn epoch(&self) -> u32 {
        self.material().1.last().map_or(0, |(epoch, _)| *epoch)
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
        let known = self.material().1.iter().find(|(known, _)| *known == epoch);
        let (_, master) = known.ok_or_else(|| Error::Tampered(format!("no key of the store is of epoch {epoch}")))?;
        let mut material = Zeroizing::new(Vec::with_capacity(68));
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
