//! Removing a staging directory: trees of any depth, no link followed.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{renameat, unlinkat, AtFlags, FileType, Mode};
use rustix::io::Errno;

use crate::source;

/// Directories within each other that are open at once; what is deeper is moved up first.
const MAX_OPEN: usize = 64;
/// The journal, in the order in which it goes: without its head nothing is left to be done.
const JOURNAL: [&str; 5] = ["plan", "head", "state.new", "state", ""];

/// Removes everything in a staging directory, the journal last.
pub(super) fn contents(dir: BorrowedFd) -> io::Result<()> {
    let mut moved = 0;
    // What was moved up is met in the next round.
    loop {
        let names = source::list(dir)?;
        let others: Vec<_> = names.iter().filter(|name| !JOURNAL.iter().any(|one| one.as_bytes() == &name[..])).collect();
        if others.is_empty() {
            break;
        }
        for name in others {
            entry(dir, dir, name, 0, &mut moved)?;
        }
    }
    for name in JOURNAL.iter().filter(|name| !name.is_empty()) {
        gone(unlinkat(dir, *name, AtFlags::empty()))?;
    }
    Ok(())
}

/// Removes an empty directory.
pub(super) fn directory(dir: BorrowedFd, name: &[u8]) -> io::Result<()> {
    gone(unlinkat(dir, name, AtFlags::REMOVEDIR))
}

fn gone(done: rustix::io::Result<()>) -> io::Result<()> {
    match done {
        Err(Errno::NOENT) => Ok(()),
        done => Ok(done?),
    }
}

fn entry(top: BorrowedFd, dir: BorrowedFd, name: &[u8], depth: usize, moved: &mut u64) -> io::Result<()> {
    let stat = match source::stat_at(dir, name) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    if stat.kind != FileType::Directory {
        return gone(unlinkat(dir, name, AtFlags::empty()));
    }
    if stat.mode & 0o700 != 0o700 {
        // Of what is ours already, whoever owns it.
        let _ = rustix::fs::chmodat(dir, name, Mode::from_raw_mode(0o700), AtFlags::empty());
    }
    if depth == MAX_OPEN {
        *moved += 1;
        return Ok(renameat(dir, name, top, format!("deep-{moved}"))?);
    }
    let handle = source::open_directory(dir, name)?;
    for name in source::list(handle.as_fd())? {
        entry(top, handle.as_fd(), &name, depth + 1, moved)?;
    }
    drop(handle);
    match unlinkat(dir, name, AtFlags::REMOVEDIR) {
        // What was moved up is not in it any more; what is, came from elsewhere.
        Err(Errno::NOENT) => Ok(()),
        done => Ok(done?),
    }
}
