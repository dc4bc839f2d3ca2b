//! zstd with reused contexts and bounded output.

use zstd::zstd_safe::{get_error_name, CParameter, DCtx, DParameter, InBuffer, OutBuffer, ResetDirective};

use crate::error::{Error, Result};

pub const RAW: u8 = 0;
pub const ZSTD: u8 = 1;
/// Level 3's match tables, smaller than zstd's choice (2^17 and 2^16 entries) so that they stay in a core's cache: docs/design/001.
const TABLE_LOGS: [u32; 2] = [15, 14];
/// 2^23: no block is longer.
const MAX_WINDOW_LOG: u32 = 23;

/// A thread's compression contexts.
pub struct Codec {
    compressor: Option<zstd::bulk::Compressor<'static>>,
    decompressor: DCtx<'static>,
}

fn failed(error: std::io::Error) -> Error {
    Error::Internal(format!("zstd failed: {error}"))
}

fn compressor(level: i32) -> std::io::Result<zstd::bulk::Compressor<'static>> {
    let mut compressor = zstd::bulk::Compressor::new(level)?;
    if level == 3 {
        let [hash, chain] = TABLE_LOGS;
        compressor.set_parameter(CParameter::HashLog(hash))?;
        compressor.set_parameter(CParameter::ChainLog(chain))?;
    }
    Ok(compressor)
}

impl Codec {
    /// `level` 0 compresses nothing.
    pub fn new(level: i32) -> Result<Codec> {
        let compressor = match level {
            0 => None,
            _ => Some(compressor(level).map_err(failed)?),
        };
        let no_memory = || Error::Internal("zstd failed: no memory".into());
        let mut decompressor = DCtx::try_create().ok_or_else(no_memory)?;
        // A frame that wants more memory than this to be decoded in parts is decoded whole, or not at all.
        let bounded = decompressor.set_parameter(DParameter::WindowLogMax(MAX_WINDOW_LOG));
        bounded.map_err(|code| Error::Internal(format!("zstd failed: {}", get_error_name(code))))?;
        Ok(Codec { compressor, decompressor })
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
                let done = self.decompressor.decompress(&mut bounded, coded);
                *out = bounded.into_inner();
                match done {
                    Ok(len) if len == plain_len => {}
                    Ok(_) => return Err(Error::Damaged(format!("damaged {what}: wrong length after decompression"))),
                    Err(code) => return Err(Error::Damaged(format!("damaged {what}: {}", get_error_name(code)))),
                }
            }
            RAW => return Err(Error::Damaged(format!("damaged {what}: wrong length"))),
            _ => return Err(Error::Damaged(format!("damaged {what}: unknown codec {codec}"))),
        }
        Ok(())
    }

    /// As `decode`, but at least the first `len` bytes only: time goes into what is asked for, and the rest is not checked.
    pub fn decode_start(
        &mut self,
        codec: u8,
        coded: &[u8],
        plain_len: usize,
        len: usize,
        out: &mut Vec<u8>,
        what: &str,
    ) -> Result<()> {
        if codec == ZSTD && len < plain_len && self.stream_start(coded, len, out) {
            return Ok(());
        }
        self.decode(codec, coded, plain_len, out, what)
    }

    /// False when the first `len` bytes could not be had.
    fn stream_start(&mut self, coded: &[u8], len: usize, out: &mut Vec<u8>) -> bool {
        out.resize(len, 0);
        let (mut source, mut target) = (InBuffer::around(coded), OutBuffer::around(&mut out[..]));
        while target.pos() < len {
            let before = (source.pos(), target.pos());
            let done = self.decompressor.decompress_stream(&mut target, &mut source);
            if done.is_err() || (source.pos(), target.pos()) == before {
                break;
            }
        }
        let complete = target.pos() == len;
        self.decompressor.reset(ResetDirective::SessionOnly).is_ok() && complete
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_of_a_block_is_what_the_whole_begins_with() {
        let plain: Vec<u8> = (0..600_000u32).flat_map(|n| (n / 7).to_le_bytes()).collect();
        for level in [0, 3] {
            let (mut codec, mut scratch, mut out) = (Codec::new(level).unwrap(), Vec::new(), Vec::new());
            let (coding, coded) = codec.encode(&plain, &mut scratch).unwrap();
            let coded = coded.to_vec();
            for len in [0, 1, 127, 131_072, 131_073, plain.len() - 1, plain.len(), plain.len() + 9, usize::MAX] {
                codec.decode_start(coding, &coded, plain.len(), len, &mut out, "x").unwrap();
                assert!(out.len() >= len.min(plain.len()) && out[..] == plain[..out.len()], "{len}");
                // Nothing is left over in the context.
                codec.decode(coding, &coded, plain.len(), &mut out, "x").unwrap();
                assert_eq!(out, plain);
            }
            for cut in [0, 1, 100, coded.len() / 2] {
                assert!(codec.decode_start(coding, &coded[..cut], plain.len(), 2_000_000, &mut out, "x").is_err());
            }
        }
    }
}
