//! A password: what opens the keys of a family in an object `key/<id>` (docs/format/config.md).

use std::collections::BTreeMap;

use argon2::{Algorithm, Argon2, Params, Version};
use ring::aead::{Aad, LessSafeKey, Nonce, UnboundKey, AES_256_GCM};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::error::{Error, Result};
use crate::id::{Family, Keys, Masters, Secret};

const CONTEXT: &[u8] = b"snapstore v1 key";
const MEMORY_KIB: std::ops::RangeInclusive<u32> = 8_192..=4_194_304;
const PASSES: std::ops::RangeInclusive<u32> = 1..=64;
const LANES: std::ops::RangeInclusive<u32> = 1..=16;
const SALT_LEN: std::ops::RangeInclusive<usize> = 16..=64;

/// How a key is made of a password: Argon2id, version 1.3 (RFC 9106).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kdf {
    pub memory_kib: u32,
    pub passes: u32,
    pub lanes: u32,
    pub salt: Vec<u8>,
}

/// What a password protects, as JSON.
#[derive(Serialize, Deserialize)]
struct Record<'a> {
    config: &'a str,
    family_secret: &'a str,
    masters: BTreeMap<&'a str, &'a str>,
}

impl Kdf {
    /// Memory and time that somebody else's object asks for are bounded, and so is how little.
    fn params(&self) -> Result<Params> {
        let within = MEMORY_KIB.contains(&self.memory_kib)
            && PASSES.contains(&self.passes)
            && LANES.contains(&self.lanes)
            && SALT_LEN.contains(&self.salt.len());
        let refused = || Error::Damaged("a key is derived with parameters that are out of bounds".into());
        if !within {
            return Err(refused());
        }
        Params::new(self.memory_kib, self.passes, self.lanes, Some(32)).map_err(|_| refused())
    }

    /// The key that wraps, of a password.
    pub fn derive(&self, password: &[u8]) -> Result<Zeroizing<Secret>> {
        let argon = Argon2::new(Algorithm::Argon2id, Version::V0x13, self.params()?);
        let mut key = Zeroizing::new([0; 32]);
        argon
            .hash_password_into(password, &self.salt, &mut key[..])
            .map_err(|error| Error::Internal(format!("no key can be made of the password: {error}")))?;
        Ok(key)
    }
}

fn cipher(key: &Secret) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).expect("32 bytes are an AES-256 key"))
}

fn associated(family: &Family) -> Vec<u8> {
    [CONTEXT, family].concat()
}

/// Wraps the keys of a sealed family under a password, and binds them to the config whose hash is `config`.
pub fn wrap(keys: &Keys, config: &Secret, password: &[u8], kdf: &Kdf, nonce: &[u8; 12]) -> Result<Vec<u8>> {
    let (secret, masters) = keys.material();
    let plain = {
        let hexed = |bytes: &Secret| Zeroizing::new(hex(bytes));
        let (config, secret) = (hex(config), hexed(secret));
        let masters: Vec<_> = masters.iter().map(|(epoch, key)| (epoch.to_string(), hexed(key))).collect();
        let record = Record {
            config: &config,
            family_secret: &secret,
            masters: masters.iter().map(|(epoch, key)| (&epoch[..], &key[..])).collect(),
        };
        let mut plain = Zeroizing::new(Vec::with_capacity(16 << 10));
        serde_json::to_writer(&mut *plain, &record).map_err(|e| Error::Internal(format!("keys: {e}")))?;
        plain
    };
    let key = kdf.derive(password)?;
    let mut wrapped = Vec::with_capacity(plain.len() + 16);
    wrapped.extend_from_slice(&plain);
    cipher(&key)
        .seal_in_place_append_tag(
            Nonce::assume_unique_for_key(*nonce),
            Aad::from(associated(&keys.family)),
            &mut wrapped,
        )
        .map_err(|_| Error::Internal("sealing failed".into()))?;
    Ok(wrapped)
}

/// The keys that `wrap` wrapped; None when the password is not the one, or the object is not whole: nobody can tell which.
pub fn unwrap(
    family: Family,
    config: &Secret,
    password: &[u8],
    kdf: &Kdf,
    nonce: &[u8; 12],
    wrapped: &[u8],
) -> Result<Option<Keys>> {
    let mut plain = Zeroizing::new(wrapped.to_vec());
    let key = kdf.derive(password)?;
    let (nonce, associated) = (Nonce::assume_unique_for_key(*nonce), Aad::from(associated(&family)));
    let Ok(plain) = cipher(&key).open_in_place(nonce, associated, &mut plain) else { return Ok(None) };
    decode(family, config, plain).map(Some)
}

fn decode(family: Family, config: &Secret, plain: &[u8]) -> Result<Keys> {
    let bad = || Error::Damaged("a key holds something else than keys".into());
    let record: Record = serde_json::from_slice(plain).map_err(|_| bad())?;
    if unhex(record.config).as_deref() != Some(config) {
        return Err(Error::Tampered("the store's config is not the one that its key was made for".into()));
    }
    let secret = unhex(record.family_secret).ok_or_else(bad)?;
    let mut masters = Masters::default();
    for (epoch, key) in record.masters {
        let epoch = epoch.parse::<u32>().ok().filter(|number| number.to_string() == epoch).ok_or_else(bad)?;
        masters.0.insert(epoch, *unhex(key).ok_or_else(bad)?);
    }
    if masters.0.is_empty() {
        return Err(bad());
    }
    Keys::new(family, &secret, &masters.0).map_err(|_| bad())
}

fn hex(bytes: &Secret) -> String {
    let digit = |nibble: u8| char::from(b"0123456789abcdef"[nibble as usize]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

fn unhex(text: &str) -> Option<Zeroizing<Secret>> {
    let digit = |at: u8| match at {
        b'0'..=b'9' => Some(at - b'0'),
        b'a'..=b'f' => Some(at - b'a' + 10),
        _ => None,
    };
    let mut bytes = Zeroizing::new([0; 32]);
    if text.len() != 64 {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kdf() -> Kdf {
        Kdf { memory_kib: 8192, passes: 1, lanes: 2, salt: vec![3; 16] }
    }

    #[test]
    fn a_password_opens_what_it_wrapped_and_nothing_else_does() {
        let (family, config, nonce) = ([1; 16], [2; 32], [4; 12]);
        let keys = Keys::random(family).unwrap();
        let wrapped = wrap(&keys, &config, b"secret", &kdf(), &nonce).unwrap();
        let open = |family, config: &Secret, password: &[u8], kdf: &Kdf, wrapped: &[u8]| {
            unwrap(family, config, password, kdf, &nonce, wrapped)
        };
        let back = open(family, &config, b"secret", &kdf(), &wrapped).unwrap().unwrap();
        assert_eq!(back.material(), keys.material());
        assert!(open(family, &config, b"Secret", &kdf(), &wrapped).unwrap().is_none());
        assert!(open([9; 16], &config, b"secret", &kdf(), &wrapped).unwrap().is_none());
        let other = Kdf { passes: 2, ..kdf() };
        assert!(open(family, &config, b"secret", &other, &wrapped).unwrap().is_none());
        for at in 0..wrapped.len() {
            let mut flipped = wrapped.clone();
            flipped[at] ^= 1;
            assert!(matches!(open(family, &config, b"secret", &kdf(), &flipped), Ok(None)), "byte {at}");
        }
        assert!(matches!(open(family, &[5; 32], b"secret", &kdf(), &wrapped), Err(Error::Tampered(_))));
    }

    #[test]
    fn parameters_are_bounded_both_ways() {
        let out = [
            Kdf { memory_kib: 8191, ..kdf() },
            Kdf { memory_kib: 4_194_305, ..kdf() },
            Kdf { passes: 0, ..kdf() },
            Kdf { passes: 65, ..kdf() },
            Kdf { lanes: 0, ..kdf() },
            Kdf { lanes: 17, ..kdf() },
            Kdf { salt: vec![0; 15], ..kdf() },
            Kdf { salt: vec![0; 65], ..kdf() },
        ];
        for kdf in out {
            assert!(matches!(kdf.derive(b"x"), Err(Error::Damaged(_))), "{kdf:?}");
        }
    }

    #[test]
    fn what_is_wrapped_keeps_what_it_does_not_know_out_of_the_way() {
        let hex32 = "ab".repeat(32);
        let config = [0xab; 32];
        let record = |masters: &str| {
            format!(r#"{{"config":"{hex32}","family_secret":"{hex32}","later":[1],"masters":{{{masters}}}}}"#)
        };
        let keys = decode([1; 16], &config, record(&format!(r#""3":"{hex32}""#)).as_bytes()).unwrap();
        assert_eq!(keys.epoch(), 3);
        for masters in ["", r#""1":"ab""#, &format!(r#""0":"{hex32}""#), &format!(r#""01":"{hex32}""#)] {
            assert!(decode([1; 16], &config, record(masters).as_bytes()).is_err(), "{masters}");
        }
    }
}
