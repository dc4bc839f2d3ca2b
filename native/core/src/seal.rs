//! AES-256-GCM with nonces that follow from the content (docs/format/frame.md).

use ring::aead::{Aad, LessSafeKey, Nonce, UnboundKey, AES_256_GCM};

use crate::error::{Error, Result};
use crate::id::SealKeys;

pub const NONCE_LEN: usize = 12;
pub const TAG_LEN: usize = 16;
/// Bytes that sealing adds: the nonce before and the tag behind.
pub const OVERHEAD: usize = NONCE_LEN + TAG_LEN;

/// Seals and opens under one pair of keys.
pub struct Sealer {
    key: LessSafeKey,
    nonce_key: [u8; 32],
}

impl Sealer {
    pub fn new(keys: &SealKeys) -> Sealer {
        let key = UnboundKey::new(&AES_256_GCM, &keys.aes).expect("32 bytes are an AES-256 key");
        Sealer { key: LessSafeKey::new(key), nonce_key: keys.nonce }
    }

    /// Appends nonce, ciphertext and tag of `plain` to `out`.
    pub fn seal(&self, associated: &[u8], plain: &[u8], out: &mut Vec<u8>) -> Result<()> {
        let mut hasher = blake3::Hasher::new_keyed(&self.nonce_key);
        hasher.update(associated);
        hasher.update(plain);
        let nonce: [u8; NONCE_LEN] = hasher.finalize().as_bytes()[..NONCE_LEN].try_into().expect("12 of 32 bytes");
        out.extend_from_slice(&nonce);
        let start = out.len();
        out.extend_from_slice(plain);
        let tag = self
            .key
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(associated), &mut out[start..])
            .map_err(|_| Error::Internal("sealing failed".into()))?;
        out.extend_from_slice(tag.as_ref());
        Ok(())
    }

    /// Opens what `seal` made. `what` names the object in the error.
    pub fn open(&self, associated: &[u8], sealed: &[u8], what: &str) -> Result<Vec<u8>> {
        if sealed.len() < OVERHEAD {
            return Err(Error::Damaged(format!("damaged {what}: too short to be sealed")));
        }
        let nonce: [u8; NONCE_LEN] = sealed[..NONCE_LEN].try_into().expect("12 bytes");
        let mut plain = sealed[NONCE_LEN..].to_vec();
        self.key
            .open_in_place(Nonce::assume_unique_for_key(nonce), Aad::from(associated), &mut plain)
            .map_err(|_| Error::Damaged(format!("damaged {what}: its seal is broken")))?;
        plain.truncate(sealed.len() - OVERHEAD);
        Ok(plain)
    }
}
