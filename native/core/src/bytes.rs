//! Reading and writing the primitive fields of the format: varints, zigzag, length-prefixed bytes.
//! Reading is strict: shortest form only, bounds first, nothing left over.

use crate::error::{Error, Result};

pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub fn put_zigzag(out: &mut Vec<u8>, value: i64) {
    put_varint(out, ((value << 1) ^ (value >> 63)) as u64);
}

pub fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// A strict reader over bytes from the store.
pub struct Cursor<'a> {
    rest: &'a [u8],
    what: &'static str,
}

impl<'a> Cursor<'a> {
    /// `what` names the object in errors.
    pub fn new(bytes: &'a [u8], what: &'static str) -> Cursor<'a> {
        Cursor { rest: bytes, what }
    }

    pub fn bad(&self, why: &str) -> Error {
        Error::Damaged(format!("damaged {}: {why}", self.what))
    }

    pub fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        if len > self.rest.len() {
            return Err(self.bad("it ends too early"));
        }
        let (head, rest) = self.rest.split_at(len);
        self.rest = rest;
        Ok(head)
    }

    pub fn byte(&mut self) -> Result<u8> {
        Ok(self.take(1)?[0])
    }

    pub fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        Ok(self.take(N)?.try_into().expect("take gave N bytes"))
    }

    pub fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub fn varint(&mut self) -> Result<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err(self.bad("a number is too large"));
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                if byte == 0 && shift > 0 {
                    return Err(self.bad("a number is not in its shortest form"));
                }
                return Ok(value);
            }
        }
        Err(self.bad("a number is too long"))
    }

    /// A varint of at most `max`.
    pub fn bounded(&mut self, max: u64) -> Result<u64> {
        let value = self.varint()?;
        if value > max {
            return Err(self.bad("a number is out of bounds"));
        }
        Ok(value)
    }

    pub fn zigzag(&mut self) -> Result<i64> {
        let value = self.varint()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    /// Length-prefixed bytes of `min..=max` bytes.
    pub fn bytes(&mut self, min: usize, max: usize) -> Result<&'a [u8]> {
        let len = self.bounded(max as u64)? as usize;
        if len < min {
            return Err(self.bad("a field is too short"));
        }
        self.take(len)
    }

    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    pub fn finish(&self) -> Result<()> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(self.bad("bytes are left over"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn varint_round_trip(value: u64, signed: i64) {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            put_zigzag(&mut out, signed);
            let mut cursor = Cursor::new(&out, "test");
            prop_assert_eq!(cursor.varint().unwrap(), value);
            prop_assert_eq!(cursor.zigzag().unwrap(), signed);
            prop_assert!(cursor.finish().is_ok());
        }

        #[test]
        fn only_the_shortest_form_is_read(bytes in proptest::collection::vec(any::<u8>(), 0..12)) {
            let mut cursor = Cursor::new(&bytes, "test");
            if let Ok(value) = cursor.varint() {
                let mut again = Vec::new();
                put_varint(&mut again, value);
                prop_assert_eq!(&again[..], &bytes[..bytes.len() - cursor.remaining()]);
            }
        }
    }
}
