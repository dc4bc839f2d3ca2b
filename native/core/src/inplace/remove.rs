//! Removing a staging directory: trees of any depth, no link followed.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::Mutex;

use rustix::fs::{renameat, unlinkat, AtFlags, FileType, Mode};
use rustix::io::Errno;

use super::exchange::{within, Kept};
use crate::lock::lock;
use crate::source;

/// Directories within each other that are open at once; what is deeper is moved up first.
const MAX_OPEN: usize = 64;
/// The journal, in the order in which it goes: without its head nothing is left to be done.
const JOURNAL: [&str; 4] = ["plan", "head", "state.new", "state"];

/// Removes everything in a staging directory, the journal last.
pub(super) fn contents(dir: BorrowedFd) -> io::Result<()> {
    let moved = AtomicU64::new(0);
    // What was moved up is met in the next round.
    loop {
        // Opened anew: a descriptor tells of what was there when it was opened, and once.
        let mut names = source::list(source::open_directory(dir, b".")?.as_fd())?;
        names.retain(|name| !JOURNAL.iter().any(|one| one.as_bytes() == &name[..]));
        if names.is_empty() {
            break;
        }
        entries(dir, &names, &moved)?;
    }
    for name in JOURNAL {
        gone(unlinkat(dir, name, AtFlags::empty()))?;
    }
    Ok(())
}

/// Removes these, several at once: freeing what files held takes its time.
fn entries(dir: BorrowedFd, names: &[Box<[u8]>], moved: &AtomicU64) -> io::Result<()> {
    let (next, failure) = (AtomicUsize::new(0), Mutex::new(None));
    let work = || {
        while let Some(name) = names.get(next.fetch_add(1, Relaxed)) {
            if let Err(error) = entry(dir, dir, name, 0, moved) {
                lock(&failure).get_or_insert(error);
            }
        }
    };
    let workers = std::thread::available_parallelism().map_or(1, |count| count.get());
    std::thread::scope(|scope| {
        for _ in 1..workers.min(names.len()) {
            scope.spawn(work);
        }
        work();
    });
    let failure = lock(&failure).take();
    failure.map_or(Ok(()), Err)
}

/// Removes an empty staging directory; the time of the one around it stays.
pub(super) fn directory(dir: BorrowedFd, name: &[u8]) -> io::Result<()> {
    let kept = Kept::of(dir)?;
    match within(dir, || unlinkat(dir, name, AtFlags::REMOVEDIR)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        done => done?,
    }
    kept.restore(dir)
}

fn gone(done: rustix::io::Result<()>) -> io::Result<()> {
    match done {
        Err(Errno::NOENT) => Ok(()),
        done => Ok(done?),
    }
}

fn entry(top: BorrowedFd, dir: BorrowedFd, name: &[u8], depth: usize, moved: &AtomicU64) -> io::Result<()> {
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
        let number = moved.fetch_add(1, Relaxed);
        return Ok(renameat(dir, name, top, format!("deep-{number}"))?);
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
