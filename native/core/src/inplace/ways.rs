//! Directories of a target, opened name by name and never through a symbolic link. The way to the last one is kept, since
//! paths come sorted.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{fstat, openat, statx, AtFlags, Mode, OFlags, StatxFlags};

/// Directories of the way that are held open; those deeper are opened anew from the last of these.
const MAX_OPEN: usize = 200;

/// Tells mounts apart: renames do not lead from one to another.
pub(super) fn mount_of(fd: BorrowedFd) -> io::Result<u64> {
    match statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID) {
        Ok(stat) if stat.stx_mask & StatxFlags::MNT_ID.bits() != 0 => Ok(stat.stx_mnt_id),
        _ => Ok(fstat(fd)?.st_dev as u64),
    }
}

/// The way to a directory below a top.
pub struct Ways {
    root: OwnedFd,
    names: Vec<Box<[u8]>>,
    /// Of the first names.
    held: Vec<OwnedFd>,
    /// The directory that all names lead to, when it is not held.
    deep: Option<OwnedFd>,
}

fn enter(dir: BorrowedFd, name: &[u8]) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(dir, name, flags, Mode::empty())?)
}

/// Directory and name of a path that is not empty.
pub(super) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (&path[..0], path),
    }
}

impl Ways {
    pub fn new(root: OwnedFd) -> Ways {
        Ways { root, names: Vec::new(), held: Vec::new(), deep: None }
    }

    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Forgets the way: directories on it may be others by now.
    pub fn forget(&mut self) {
        self.names.clear();
        self.held.clear();
        self.deep = None;
    }

    /// The directory that holds `path` (relative, not empty), and the last name.
    pub fn parent_of<'p>(&mut self, path: &'p [u8]) -> io::Result<(BorrowedFd<'_>, &'p [u8])> {
        let (above, name) = split(path);
        Ok((self.open(above)?, name))
    }

    /// The directory `path`, relative; the top itself when that is empty. For reference only (`O_PATH`).
    pub fn open(&mut self, path: &[u8]) -> io::Result<BorrowedFd<'_>> {
        let wanted: Vec<&[u8]> = path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()).collect();
        let same = self.names.iter().zip(&wanted).take_while(|(have, want)| have[..] == ***want).count();
        if same < self.names.len() || same < wanted.len() {
            self.names.truncate(same);
            self.held.truncate(same);
            self.deep = None;
            while self.held.len() < wanted.len().min(MAX_OPEN) {
                let at = self.held.len();
                self.names.truncate(at);
                let next = enter(self.held.last().map_or(self.root.as_fd(), AsFd::as_fd), wanted[at])?;
                self.held.push(next);
                self.names.push(wanted[at].into());
            }
            self.names.truncate(self.held.len());
            let mut deep: Option<OwnedFd> = None;
            for name in &wanted[self.held.len()..] {
                let from = deep.as_ref().or(self.held.last()).map_or(self.root.as_fd(), AsFd::as_fd);
                deep = Some(enter(from, name)?);
            }
            self.names.extend(wanted[self.held.len()..].iter().map(|name| Box::from(*name)));
            self.deep = deep;
        }
        Ok(self.deep.as_ref().or(self.held.last()).map_or(self.root.as_fd(), AsFd::as_fd))
    }

    /// How much of `path` leads to the topmost directory of the mount that holds the directory `path`.
    pub fn mount_top<'p>(&mut self, path: &'p [u8], mount: u64) -> io::Result<&'p [u8]> {
        let mut best = path;
        while !best.is_empty() {
            let above = split(best).0;
            if mount_of(self.open(above)?)? != mount {
                break;
            }
            best = above;
        }
        Ok(best)
    }
}

/// A path by which calls that know no descriptors reach what `fd` refers to, and nothing else.
pub(super) fn by_descriptor(fd: BorrowedFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}
