//! The descriptor that an archive is written to: a file, a pipe, a socket.

use std::os::fd::{AsRawFd, OwnedFd};

use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::fs::{fstat, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::progress::Progress;

/// What a pipe is asked to hold, so that its reader is woken less often.
const PIPE_BYTES: usize = 1 << 20;
/// Written at once where a write might block.
const BLOCKING_WRITE: usize = 64 << 10;

pub(super) struct Output {
    fd: OwnedFd,
    /// Bytes written at once: few where a write may block, so that a run can be ended meanwhile.
    at_once: usize,
}

impl Output {
    pub(super) fn new(fd: OwnedFd) -> Result<Output> {
        let stat = fstat(&fd).map_err(|e| Error::io("write to", "the output", &e.into()))?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Fifo => {
                // A description of its own does not block, and leaves the one that others share as it is.
                let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
                let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
                let _ = rustix::pipe::fcntl_setpipe_size(&fd, PIPE_BYTES);
                Ok(match rustix::fs::open(path, flags, Mode::empty()) {
                    Ok(own) => Output { fd: own, at_once: usize::MAX },
                    Err(_) => Output { fd, at_once: BLOCKING_WRITE },
                })
            }
            FileType::RegularFile => Ok(Output { fd, at_once: 8 << 20 }),
            _ => Ok(Output { fd, at_once: BLOCKING_WRITE }),
        }
    }

    /// Writes all of it. Cancelling ends it within a fraction of a second, however slow the reader is.
    pub(super) fn write(&mut self, mut bytes: &[u8], progress: &Progress) -> Result<()> {
        let patience = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
        while !bytes.is_empty() {
            progress.check()?;
            match rustix::io::write(&self.fd, &bytes[..bytes.len().min(self.at_once)]) {
                Ok(len) => bytes = &bytes[len..],
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => drop(poll(&mut [PollFd::new(&self.fd, PollFlags::OUT)], Some(&patience))),
                Err(Errno::PIPE) => return Err(Error::ReaderGone),
                Err(error) => return Err(Error::io("write to", "the output", &error.into())),
            }
        }
        Ok(())
    }
}
