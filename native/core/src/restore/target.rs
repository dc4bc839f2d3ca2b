//! Where a restore writes to: opened once, checked, and never left.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{fchmod, fchown, fremovexattr, fstat, mkdirat, openat, unlinkat, AtFlags, Dir, Mode, OFlags, CWD};
use rustix::io::Errno;
use rustix::process::{getegid, geteuid};

use crate::acl;
use crate::error::{show_path, Error, Result};
use crate::id::random_bytes;

/// What a new file in the target is given by the system.
#[derive(Clone, Copy)]
pub(crate) struct Given {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// The permission bits that it may be created with.
    pub(crate) mode: u16,
}

pub(crate) fn open_flags() -> OFlags {
    OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC
}

fn failed(what: &str, target: &Path, error: Errno) -> Error {
    let text = format!("cannot {what} {}: {}", show_path(target), crate::error::reason(&error.into()));
    match error {
        Errno::ACCESS | Errno::PERM | Errno::ROFS => Error::TargetDenied(text),
        Errno::NOSPC | Errno::DQUOT => Error::NoSpace(text),
        Errno::NOENT => Error::TargetInvalid(format!("{text} (its parent directory must exist)")),
        _ => Error::TargetInvalid(text),
    }
}

/// Opens or makes the directory `target`, which must be empty, and makes it ours alone until its own owner, mode and
/// lists are restored: what is created in it must inherit nothing, and be seen by nobody.
pub(crate) fn open_directory(target: &Path) -> Result<(OwnedFd, Given)> {
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = match openat(CWD, target, flags, Mode::empty()) {
        Err(Errno::NOENT) => {
            mkdirat(CWD, target, Mode::from_raw_mode(0o700)).map_err(|e| failed("make", target, e))?;
            openat(CWD, target, open_flags(), Mode::empty())
        }
        opened => opened,
    };
    let fd = fd.map_err(|e| failed("open", target, e))?;
    let mut entries = Dir::read_from(&fd).map_err(|e| failed("list", target, e))?;
    while let Some(entry) = entries.read() {
        let entry = entry.map_err(|e| failed("list", target, e))?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            return Err(Error::TargetNotEmpty(format!("{} is not empty", show_path(target))));
        }
    }
    // Where these are not allowed, the probe below sees what follows from it.
    let _ = fchown(&fd, Some(geteuid()), Some(getegid()));
    let _ = fchmod(&fd, Mode::from_raw_mode(0o700));
    hand_down_nothing(&fd);
    let given = probe(fd.as_fd()).map_err(|e| failed("write into", target, e))?;
    Ok((fd, given))
}

/// Removes the lists of a directory, which may have come from its parent: what is created in it would inherit them.
pub(crate) fn hand_down_nothing(directory: &OwnedFd) {
    let _ = fremovexattr(directory, acl::DEFAULT);
    let _ = fremovexattr(directory, acl::ACCESS);
}

/// Sees what a new file in a directory of ours is given.
pub(crate) fn probe_directory(directory: &OwnedFd) -> Result<Given> {
    probe(directory.as_fd()).map_err(|e| failed("write into", Path::new("the staging directory"), e))
}

/// Sees what a new file is given: umask, mount options, setgid directories and lists all have a say.
fn probe(directory: BorrowedFd) -> std::result::Result<Given, Errno> {
    let name = format!(".snapstore-{}", u64::from_le_bytes(random_bytes().map_err(|_| Errno::IO)?));
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = openat(directory, &name, flags, Mode::from_raw_mode(0o777))?;
    let stat = fstat(&file);
    unlinkat(directory, &name, AtFlags::empty())?;
    let stat = stat?;
    Ok(Given { uid: stat.st_uid, gid: stat.st_gid, mode: (stat.st_mode & 0o777) as u16 })
}

/// The directory in which `target` is to be created, and its name there. It must not exist.
pub(crate) fn open_parent(target: &Path) -> Result<(OwnedFd, Vec<u8>)> {
    let Some(name) = target.file_name() else {
        return Err(Error::TargetInvalid(format!("{} cannot be the name of a new file", show_path(target))));
    };
    let parent = match target.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = openat(CWD, parent, flags, Mode::empty()).map_err(|e| failed("open the parent of", target, e))?;
    match rustix::fs::statat(&fd, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => Ok((fd, name.as_bytes().to_vec())),
        Ok(_) => Err(Error::TargetNotEmpty(format!("{} exists already", show_path(target)))),
        Err(e) => Err(failed("look at", target, e)),
    }
}
