//! The bytes of an archive: a file or a pipe, read once, from its beginning to its end.

use std::os::fd::{AsFd, OwnedFd};

use crate::error::{reason, Error, Result};
use crate::source::{read_stream, Fault};
use crate::tar::BLOCK;

const BUFFER: usize = 256 << 10;

pub(super) struct Input<'a> {
    fd: OwnedFd,
    buffer: Vec<u8>,
    /// How much of the buffer is used up.
    used: usize,
    ended: bool,
    /// Bytes of the archive that were used up.
    pub(super) offset: u64,
    check: &'a dyn Fn() -> Result<()>,
}

/// The archive ends too early.
pub(super) const CUT_OFF: &str = "the archive ends here: it is cut off";

impl<'a> Input<'a> {
    pub(super) fn new(fd: OwnedFd, head: Vec<u8>, check: &'a dyn Fn() -> Result<()>) -> Input<'a> {
        Input { fd, buffer: head, used: 0, ended: false, offset: 0, check }
    }

    fn bad(&self, why: &str) -> Error {
        Error::Archive(format!("at byte {}: {why}", self.offset))
    }

    fn read(&self, into: &mut [u8]) -> Result<usize> {
        read_stream(self.fd.as_fd(), into, self.check).map_err(|fault| match fault {
            Fault::Source(error) => Error::SourceUnreadable(format!("cannot read the archive: {}", reason(&error))),
            Fault::Fatal(error) => error,
        })
    }

    fn refill(&mut self) -> Result<()> {
        if self.used == self.buffer.len() && !self.ended {
            let mut buffer = std::mem::take(&mut self.buffer);
            buffer.resize(BUFFER, 0);
            let got = self.read(&mut buffer)?;
            self.ended = got < buffer.len();
            buffer.truncate(got);
            (self.buffer, self.used) = (buffer, 0);
        }
        Ok(())
    }

    /// At most `max` bytes, none at the end.
    fn some(&mut self, max: usize) -> Result<&[u8]> {
        self.refill()?;
        let from = self.used;
        let len = max.min(self.buffer.len() - from);
        self.used += len;
        self.offset += len as u64;
        Ok(&self.buffer[from..from + len])
    }

    /// The next block; None at the end.
    pub(super) fn block(&mut self) -> Result<Option<[u8; BLOCK]>> {
        let mut block = [0; BLOCK];
        let mut len = 0;
        while len < BLOCK {
            let part = self.some(BLOCK - len)?;
            if part.is_empty() {
                return if len == 0 { Ok(None) } else { Err(self.bad(CUT_OFF)) };
            }
            block[len..len + part.len()].copy_from_slice(part);
            len += part.len();
        }
        Ok(Some(block))
    }

    /// Appends exactly `len` bytes.
    pub(super) fn append(&mut self, out: &mut Vec<u8>, len: usize) -> Result<()> {
        let end = out.len() + len;
        out.reserve(len);
        while out.len() < end {
            let want = end - out.len();
            if self.used == self.buffer.len() && want >= BUFFER {
                let from = out.len();
                out.resize(end, 0);
                let got = self.read(&mut out[from..])?;
                self.offset += got as u64;
                return if got == want { Ok(()) } else { Err(self.bad(CUT_OFF)) };
            }
            let part = self.some(want)?;
            if part.is_empty() {
                return Err(self.bad(CUT_OFF));
            }
            out.extend_from_slice(part);
        }
        Ok(())
    }

    pub(super) fn skip(&mut self, mut len: u64) -> Result<()> {
        while len > 0 {
            let got = self.some(len.min(BUFFER as u64) as usize)?.len() as u64;
            if got == 0 {
                return Err(self.bad(CUT_OFF));
            }
            len -= got;
        }
        Ok(())
    }

    /// Reads what follows the end mark, so that whoever writes it does not fail.
    pub(super) fn drain(&mut self) -> Result<()> {
        while !self.some(BUFFER)?.is_empty() {}
        Ok(())
    }
}
