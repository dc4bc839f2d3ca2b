//! What stands on disk where something is to give way, and whether it may.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{openat, statx, AtFlags, FileType, Mode, OFlags, StatxFlags, CWD};

use super::journal::Attributes;
use super::ways::{by_descriptor, Ways};
use crate::diff::same_type;
use crate::error::{reason, show_path, Error, Result};
use crate::node::{Entry, Time, What, XattrSet};
use crate::source;
use crate::take::entry_of;

pub(super) const IMMUTABLE: u64 = 0x10;
pub(super) const APPEND: u64 = 0x20;
pub(super) const MOUNT_ROOT: u64 = 0x2000;

/// What the disk says of a name.
pub(super) struct Found {
    pub(super) stat: source::Stat,
    pub(super) attributes: u64,
}

pub(super) fn look(dir: BorrowedFd, name: &[u8]) -> io::Result<Option<Found>> {
    match source::statx_at(dir, name) {
        Ok((stat, attributes)) => Ok(Some(Found { stat, attributes })),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

pub(super) fn open_top(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(CWD, path, flags, Mode::empty())
        .map_err(|e| Error::of_target(&format!("open the directory {}", show_path(path)), &e.into()))
}

/// Opens a block device for reading, and alone: one that is mounted, or part of another, is busy.
pub(super) fn open_device(dir: BorrowedFd, name: &[u8]) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(dir, name, flags, Mode::empty())?)
}

/// Why an item cannot be carried out.
pub(super) enum Blocked {
    Changed(&'static str),
    Way(String),
}

impl From<io::Error> for Blocked {
    fn from(error: io::Error) -> Blocked {
        Blocked::Way(reason(&error))
    }
}

pub(super) fn in_the_way(found: &Found) -> Blocked {
    Blocked::Way(match found.stat.kind {
        FileType::Socket => "a socket is in the way".into(),
        _ => "something is in the way that was not taken: it is new, or unreadable, or left out by the rules".into(),
    })
}

pub(super) fn look_at(fd: BorrowedFd) -> io::Result<Option<Found>> {
    Ok(Some(Found { stat: source::stat_fd(fd)?, attributes: attributes_of(fd)? }))
}

pub(super) fn attributes_of(fd: BorrowedFd) -> io::Result<u64> {
    Ok(statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::empty())?.stx_attributes.bits())
}

pub(super) fn count_names(ways: &mut Ways, path: &[u8]) -> io::Result<usize> {
    let fd = ways.open(path)?;
    let readable =
        rustix::fs::open(by_descriptor(fd), OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    Ok(source::list(readable.as_fd())?.len())
}

/// Fails unless what was found is what was taken just before.
pub(super) fn check_same(live: &Entry, found: &Found) -> std::result::Result<(), Blocked> {
    if found.attributes & (IMMUTABLE | APPEND) != 0 {
        return Err(Blocked::Way("it is immutable (chattr -i, -a)".into()));
    }
    let now = entry_of(&found.stat, Box::default());
    let is_link = found.stat.kind == FileType::Symlink;
    let is_type = if is_link { matches!(live.what, What::Symlink(_)) } else { same_type(live, &now) };
    if !is_type {
        return Err(Blocked::Changed("something else is there by now"));
    }
    if found.stat.kind == FileType::Directory {
        return Ok(());
    }
    let size = match live.what {
        What::File { size, .. } => size,
        _ => found.stat.size,
    };
    let meta = |mode: u16, uid: u32, gid: u32, mtime: Time| (mode, uid, gid, mtime);
    let same = size == found.stat.size
        && meta(live.mode, live.uid, live.gid, live.mtime) == meta(now.mode, now.uid, now.gid, now.mtime);
    match same {
        true => Ok(()),
        false => Err(Blocked::Changed("it is being changed")),
    }
}

pub(super) fn wanted_attributes(entry: &Entry, xattrs: Option<XattrSet>) -> Attributes {
    Attributes { mode: entry.mode, uid: entry.uid, gid: entry.gid, mtime: entry.mtime, xattrs }
}

pub(super) fn there(stat: &source::Stat, xattrs: Option<XattrSet>) -> Attributes {
    Attributes { mode: stat.mode, uid: stat.uid, gid: stat.gid, mtime: stat.mtime, xattrs }
}
