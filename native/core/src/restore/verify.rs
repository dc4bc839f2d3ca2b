//! Reading back what was written, and comparing it with the snapshot chunk by chunk.

use std::os::fd::OwnedFd;

use rustix::fs::{fstat, seek, SeekFrom};
use rustix::io::{pread, Errno};

use super::tally::{words, Trouble};
use super::Run;
use crate::chunker::is_zero;
use crate::id::ZERO_ID;
use crate::node::Content;
use crate::reader::Runs;

/// Zero runs are compared in such pieces.
const PIECE: usize = 1 << 20;

fn differs(why: &str) -> Trouble {
    Trouble::Entry { what: "content".into(), reason: format!("reading it back: {why}") }
}

impl Run<'_> {
    /// Fails unless `file` holds `content`, and nothing else.
    pub(super) fn verify_content(&self, file: &OwnedFd, content: &Content, size: u64) -> Result<(), Trouble> {
        let stat = fstat(file).map_err(|e| differs(&words(e)))?;
        if stat.st_size as u64 != size {
            return Err(differs("it has another size"));
        }
        let mut buffer = Vec::new();
        if let Content::InPlace(bytes) = content {
            read(file, 0, bytes.len(), &mut buffer)?;
            return if *buffer == **bytes { Ok(()) } else { Err(differs("it holds something else")) };
        }
        let mut runs = Runs::new(content, size);
        while let Some(run) = runs.next(self.reader)? {
            let mut at = run.offset;
            for chunk in &run.chunks {
                self.go_on()?;
                if chunk.id == ZERO_ID {
                    verify_zeros(file, at, at + chunk.len, &mut buffer)?;
                } else {
                    read(file, at, chunk.len as usize, &mut buffer)?;
                    if !self.reader.is_chunk(&chunk.id, &buffer) {
                        return Err(differs(&format!("it holds something else from byte {at}")));
                    }
                }
                at += chunk.len;
            }
        }
        Ok(())
    }
}

/// Holes are passed over where the system knows them.
fn verify_zeros(file: &OwnedFd, start: u64, end: u64, buffer: &mut Vec<u8>) -> Result<(), Trouble> {
    let mut at = start;
    while at < end {
        at = match seek(file, SeekFrom::Data(at)) {
            Ok(data) => data,
            Err(Errno::NXIO) => return Ok(()),
            Err(_) => at,
        };
        if at >= end {
            return Ok(());
        }
        let len = (end - at).min(PIECE as u64) as usize;
        read(file, at, len, buffer)?;
        if !is_zero(buffer) {
            return Err(differs(&format!("it holds something else from byte {at}")));
        }
        at += len as u64;
    }
    Ok(())
}

fn read(file: &OwnedFd, offset: u64, len: usize, buffer: &mut Vec<u8>) -> Result<(), Trouble> {
    buffer.resize(len, 0);
    let mut done = 0;
    while done < len {
        match pread(file, &mut buffer[done..], offset + done as u64) {
            Ok(0) => return Err(differs("it is too short")),
            Ok(count) => done += count,
            Err(Errno::INTR) => {}
            Err(error) => return Err(differs(&words(error))),
        }
    }
    Ok(())
}
