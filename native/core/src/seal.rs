//! AES-256-GCM with nonces that follow from the content, and the padded envelope inside (docs/format/frame.md).

use ring::aead::{Aad, LessSafeKey, Nonce, UnboundKey, AES_256_GCM};
use zeroize::Zeroize;

use crate::error::{Error, Result};
use crate::id::SealKeys;

pub const NONCE_LEN: usize = 12;
pub const TAG_LEN: usize = 16;
/// Bytes that sealing adds: the nonce before and the tag behind.
pub const OVERHEAD: usize = NONCE_LEN + TAG_LEN;
/// Bytes of an envelope before the coded ones: plain length, coded length, codec, three zeros.
const HEAD_LEN: usize = 12;

/// Coded bytes and what it takes to decode them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Coded<'a> {
    pub codec: u8,
    pub plain_len: usize,
    pub bytes: &'a [u8],
}

/// The length of what `Sealer::seal` makes of so many coded bytes.
pub fn sealed_len(coded_len: usize) -> usize {
    OVERHEAD + padded_len(HEAD_LEN + coded_len)
}

/// Padmé (Nikitin et al., "Reducing Metadata Leakage from Encrypted Files and Communication with PURBs", 2019): a length
/// tells only O(log log) bits of itself, for at most 12 % more bytes, 3 % from 64 KiB on.
fn padded_len(len: usize) -> usize {
    let exponent = len.max(2).ilog2();
    let zeros = exponent - (exponent.ilog2() + 1).min(exponent);
    len.next_multiple_of(1 << zeros)
}

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

    /// Appends nonce, ciphertext and tag of `coded` in its envelope to `out`: `sealed_len` bytes.
    pub fn seal(&self, associated: &[u8], coded: Coded, out: &mut Vec<u8>) -> Result<()> {
        let start = out.len();
        let inside = start + NONCE_LEN;
        out.reserve(sealed_len(coded.bytes.len()));
        out.extend_from_slice(&[0; NONCE_LEN]);
        out.extend_from_slice(&(coded.plain_len as u32).to_le_bytes());
        out.extend_from_slice(&(coded.bytes.len() as u32).to_le_bytes());
        out.extend_from_slice(&[coded.codec, 0, 0, 0]);
        out.extend_from_slice(coded.bytes);
        out.resize(inside + padded_len(HEAD_LEN + coded.bytes.len()), 0);
        let mut hasher = blake3::Hasher::new_keyed(&self.nonce_key);
        hasher.update(associated);
        hasher.update(&out[inside..]);
        let nonce: [u8; NONCE_LEN] = hasher.finalize().as_bytes()[..NONCE_LEN].try_into().expect("12 of 32 bytes");
        out[start..inside].copy_from_slice(&nonce);
        let tag = self
            .key
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(associated), &mut out[inside..])
            .map_err(|_| Error::Internal("sealing failed".into()))?;
        out.extend_from_slice(tag.as_ref());
        Ok(())
    }

    /// Opens what `seal` made, in its place. `what` names the object in the error. A broken seal is tampering: whoever calls
    /// has checked the checksum, which finds accidents.
    pub fn open<'a>(&self, associated: &[u8], sealed: &'a mut [u8], what: &str) -> Result<Coded<'a>> {
        if sealed.len() < OVERHEAD + HEAD_LEN {
            return Err(Error::Tampered(format!("damaged {what}: too short to be sealed")));
        }
        let (nonce, inside) = sealed.split_at_mut(NONCE_LEN);
        let nonce: [u8; NONCE_LEN] = (&*nonce).try_into().expect("12 bytes");
        let plain = self
            .key
            .open_in_place(Nonce::assume_unique_for_key(nonce), Aad::from(associated), inside)
            .map_err(|_| Error::Tampered(format!("{what} was tampered with: its seal is broken")))?;
        let field = |at: usize| u32::from_le_bytes(plain[at..at + 4].try_into().expect("4 bytes")) as usize;
        let (plain_len, coded_len, codec) = (field(0), field(4), plain[8]);
        match plain[HEAD_LEN..].get(..coded_len) {
            Some(bytes) => Ok(Coded { codec, plain_len, bytes }),
            None => Err(Error::Damaged(format!("damaged {what}: what is in its seal has a wrong length"))),
        }
    }
}

impl Drop for Sealer {
    fn drop(&mut self) {
        const { assert!(!std::mem::needs_drop::<LessSafeKey>(), "it would be wiped before its destructor runs") };
        self.nonce_key.zeroize();
        // SAFETY: `LessSafeKey` is plain bytes without a destructor, and nobody looks at it again.
        unsafe { wipe(&mut self.key) };
    }
}

/// Overwrites a value with zeros in a way that the compiler keeps.
///
/// # Safety
/// Nobody may use the value afterwards, its destructor included.
unsafe fn wipe<T>(value: &mut T) {
    let bytes = std::ptr::from_mut(value).cast::<u8>();
    std::slice::from_raw_parts_mut(bytes, size_of::<T>()).zeroize();
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sealer(key: u8) -> Sealer {
        Sealer::new(&SealKeys { aes: [key; 32], nonce: [key + 1; 32] })
    }

    proptest! {
        #[test]
        fn what_was_sealed_opens_and_only_under_its_key_and_role(
            bytes in prop::collection::vec(any::<u8>(), 0..5000), plain_len in 0usize..1 << 20, codec in 0u8..2,
        ) {
            let coded = Coded { codec, plain_len, bytes: &bytes };
            let mut sealed = Vec::new();
            sealer(1).seal(b"role", coded, &mut sealed).unwrap();
            prop_assert_eq!(sealed.len(), sealed_len(bytes.len()));
            prop_assert!(matches!(sealer(1).open(b"other", &mut sealed.clone(), "x"), Err(Error::Tampered(_))));
            prop_assert!(matches!(sealer(3).open(b"role", &mut sealed.clone(), "x"), Err(Error::Tampered(_))));
            prop_assert_eq!(sealer(1).open(b"role", &mut sealed, "x").unwrap(), coded);
        }

        #[test]
        fn padding_is_short_and_never_shrinks(len in 1usize..1 << 27) {
            let padded = padded_len(len);
            prop_assert!(padded >= len && padded - len <= len / 8, "{len} -> {padded}");
            prop_assert!(len < 1 << 16 || padded - len <= len / 32, "{len} -> {padded}");
            prop_assert_eq!(padded_len(padded), padded);
        }
    }

    #[test]
    fn lengths_tell_few_sizes() {
        let lens: std::collections::BTreeSet<usize> = (1 << 19..1 << 20).step_by(97).map(padded_len).collect();
        assert!(lens.len() <= 33, "{}", lens.len());
    }
}
