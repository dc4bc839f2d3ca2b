//! zstd with reused contexts and bounded output.

use crate::error::{Error, Result};

pub const RAW: u8 = 0;
pub const ZSTD: u8 = 1;

/// A thread's compression contexts.
pub struct Codec {
    compressor: Option<zstd::bulk::Compressor<'static>>,
    decompressor: zstd::bulk::Decompressor<'static>,
}

fn failed(error: std::io::Error) -> Error {
    Error::Internal(format!("zstd failed: {error}"))
}

impl Codec {
    /// `level` 0 compresses nothing.
    pub fn new(level: i32) -> Result<Codec> {
        let compressor = match level {
            0 => None,
            _ => Some(zstd::bulk::Compressor::new(level).map_err(failed)?),
        };
        Ok(Codec { compressor, decompressor: zstd::bulk::Decompressor::new().map_err(failed)? })
    }

    /// The coded form of `plain`, and its codec. Raw, and then `plain` itself, when zstd does not shrink it. `out` is scratch space.
    pub fn encode<'a>(&mut self, plain: &'a [u8], out: &'a mut Vec<u8>) -> Result<(u8, &'a [u8])> {
        out.clear();
        if let (Some(compressor), false) = (&mut self.compressor, plain.is_empty()) {
            out.reserve(zstd::zstd_safe::compress_bound(plain.len()));
            compressor.compress_to_buffer(plain, out).map_err(failed)?;
            if out.len() < plain.len() {
                return Ok((ZSTD, out));
            }
        }
        Ok((RAW, plain))
    }

    /// Decodes exactly `plain_len` bytes into `out`, which it replaces. The caller has checked `plain_len`.
    pub fn decode(&mut self, codec: u8, coded: &[u8], plain_len: usize, out: &mut Vec<u8>, what: &str) -> Result<()> {
        out.clear();
        match codec {
            RAW if coded.len() == plain_len => out.extend_from_slice(coded),
            ZSTD => {
                out.reserve(plain_len);
                // Writes at most the vector's capacity.
                let mut bounded = std::io::Cursor::new(std::mem::take(out));
                let done = self.decompressor.decompress_to_buffer(coded, &mut bounded);
                *out = bounded.into_inner();
                match done {
                    Ok(len) if len == plain_len => {}
                    Ok(_) => return Err(Error::Damaged(format!("damaged {what}: wrong length after decompression"))),
                    Err(e) => return Err(Error::Damaged(format!("damaged {what}: {e}"))),
                }
            }
            RAW => return Err(Error::Damaged(format!("damaged {what}: wrong length"))),
            _ => return Err(Error::Damaged(format!("damaged {what}: unknown codec {codec}"))),
        }
        Ok(())
    }
}
