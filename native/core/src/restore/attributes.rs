//! Metadata: owner, extended attributes, mode and times, in the order in which one does not undo the other.

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::fs::{
    chmodat, chownat, fchmod, fchown, fsetxattr, futimens, lsetxattr, utimensat, AtFlags, Gid, Mode, Timespec,
    Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;

use super::tally::{words, Trouble};
use super::{Here, Run};
use crate::node::{Entry, What};

const SPECIAL: u16 = 0o6000;

/// Something in the target: open, or by its name (never followed when it is a symbolic link).
pub(crate) enum Object<'a> {
    Open(BorrowedFd<'a>),
    Named(BorrowedFd<'a>, &'a [u8]),
}

/// What an object has already.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Has {
    Nothing,
    Owner,
    OwnerAndMode,
}

impl Object<'_> {
    fn chown(&self, uid: Option<u32>, gid: Option<u32>) -> Result<(), Errno> {
        let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
        match self {
            Object::Open(fd) => fchown(fd, uid, gid),
            Object::Named(dir, name) => chownat(dir, *name, uid, gid, AtFlags::SYMLINK_NOFOLLOW),
        }
    }

    /// Not for symbolic links, which have no mode. A name still means what was made under it: nobody else may enter its directory.
    fn chmod(&self, mode: u16) -> Result<(), Errno> {
        let mode = Mode::from_raw_mode(mode.into());
        match self {
            Object::Open(fd) => fchmod(fd, mode),
            Object::Named(dir, name) => chmodat(dir, *name, mode, AtFlags::empty()),
        }
    }

    fn set_xattr(&self, name: &[u8], value: &[u8]) -> Result<(), Errno> {
        match self {
            Object::Open(fd) => fsetxattr(fd, name, value, XattrFlags::empty()),
            Object::Named(dir, entry) => {
                let mut path = format!("/proc/self/fd/{}/", dir.as_raw_fd()).into_bytes();
                path.extend_from_slice(entry);
                lsetxattr(path, name, value, XattrFlags::empty())
            }
        }
    }

    fn set_mtime(&self, entry: &Entry) -> Result<(), Errno> {
        let omit = Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT as _ };
        let mtime = Timespec { tv_sec: entry.mtime.seconds, tv_nsec: entry.mtime.nanos.into() };
        let times = Timestamps { last_access: omit, last_modification: mtime };
        match self {
            Object::Open(fd) => futimens(fd, &times),
            Object::Named(dir, name) => utimensat(dir, *name, &times, AtFlags::SYMLINK_NOFOLLOW),
        }
    }
}

impl Run<'_> {
    /// Gives `object` the metadata of its entry. What the system refuses is noted as a problem.
    pub(super) fn set_attributes(&self, here: &Here, object: &Object, has: Has) -> Result<(), Trouble> {
        let entry = here.entry;
        let mut mode = entry.mode;
        if has == Has::Nothing && !self.set_owner(here, object) {
            // Another owner's program must not run with the rights of whoever restores it.
            mode &= !SPECIAL;
        }
        if entry.xattrs.is_some() {
            match self.reader.xattrs(entry) {
                Ok(set) => self.set_xattrs(here, object, &set),
                Err(error) => self.note(here, Trouble::of("xattrs", error))?,
            }
        }
        if has != Has::OwnerAndMode && !matches!(entry.what, What::Symlink(_)) {
            if let Err(e) = object.chmod(mode) {
                self.problem(here.path(), "mode", words(e));
            }
        }
        if let Err(e) = object.set_mtime(entry) {
            self.problem(here.path(), "times", words(e));
        }
        Ok(())
    }

    fn set_owner(&self, here: &Here, object: &Object) -> bool {
        let (uid, gid) = (here.entry.uid, here.entry.gid);
        if uid == u32::MAX || gid == u32::MAX {
            self.problem(here.path(), "owner", "no file can have this owner".into());
            return false;
        }
        let Err(error) = object.chown(Some(uid), Some(gid)) else { return true };
        // Who may not give files away may still be a member of the group.
        let _ = object.chown(None, Some(gid));
        let lost = if here.entry.mode & SPECIAL != 0 { "; setuid and setgid were left out" } else { "" };
        self.problem(here.path(), "owner", format!("{}{lost}", words(error)));
        false
    }

    fn set_xattrs(&self, here: &Here, object: &Object, set: &[(Vec<u8>, Vec<u8>)]) {
        for (name, value) in set {
            if let Err(e) = object.set_xattr(name, value) {
                self.problem(here.path(), &format!("xattr {}", crate::error::show(name)), words(e));
            }
        }
    }
}
