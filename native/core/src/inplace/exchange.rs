//! A plan carried out, or taken back: every entry comes and goes by one rename, so that at each moment it is wholly the old or
//! wholly the new one. Whether a record was carried out is seen from where the staged inode is; both ways can therefore be gone
//! again from any point.
//!
//! Deletions come first, children before parents; then what is new, parents before children; attributes last, those of
//! directories after all that is in them.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    chmod, chownat, fstat, fsync, openat, removexattr, renameat, renameat_with, setxattr, utimensat, AtFlags, FileType,
    Gid, Mode, OFlags, RenameFlags, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;

use super::journal::{Action, Attributes, Identity, Record};
use super::patch;
use super::prepare::Top;
use super::ways::by_descriptor;
use crate::error::{reason, show, show_path, Error, Result};
use crate::node::Time;
use crate::progress::{add, Progress};
use crate::restore::{staged_name, Problem};
use crate::source;

/// What a plan is carried out on.
pub(super) struct Exchange<'a> {
    pub(super) tops: &'a mut [Top],
    /// The staging directories, by area.
    pub(super) staging: &'a [OwnedFd],
    pub(super) records: &'a [Record],
    /// An entry that cannot be exchanged is noted, and the others follow.
    pub(super) goes_on: bool,
    /// Some of it was carried out before.
    pub(super) again: bool,
    pub(super) progress: &'a Progress,
    pub(super) problems: Vec<Problem>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Forth,
    Back,
}

/// Where an end of a rename is: at the record's path, under its number, or beside that.
#[derive(Clone, Copy)]
enum End {
    Live,
    Staged(usize),
    Aside(usize),
}

type Done = std::result::Result<(), Fault>;

enum Fault {
    System(io::Error),
    /// The target is not as it was when the plan was made.
    Changed(&'static str),
    /// Something is neither where it was nor where it is to be: nothing may follow.
    Astray(io::Error),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Fault {
        Fault::System(error)
    }
}

impl From<Errno> for Fault {
    fn from(error: Errno) -> Fault {
        Fault::System(error.into())
    }
}

fn is_exchanged(action: &Action) -> bool {
    matches!(action, Action::Create { .. } | Action::Replace { .. })
}

fn is_deleted(action: &Action) -> bool {
    matches!(action, Action::Delete { .. })
}

fn is_set(action: &Action) -> bool {
    matches!(action, Action::Attributes { .. } | Action::Touch { .. } | Action::Patch { .. })
}

/// The name of what record `number` replaced, where an exchange takes two steps, and of what was saved of a patched file.
pub(super) fn aside_name(number: usize) -> String {
    format!("{}.old", staged_name(number))
}

/// The inode at `name`; None for nothing.
fn inode(dir: BorrowedFd, name: &[u8]) -> io::Result<Option<u64>> {
    match source::stat_at(dir, name) {
        Ok(stat) => Ok(Some(stat.ino)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

impl Exchange<'_> {
    /// Carries out every record that is not yet.
    pub(super) fn apply(&mut self) -> Result<()> {
        self.pass(true, is_deleted, Direction::Forth)?;
        self.pass(false, is_exchanged, Direction::Forth)?;
        self.pass(true, is_set, Direction::Forth)
    }

    /// Takes back every record that was carried out.
    pub(super) fn revert(&mut self) -> Result<()> {
        self.pass(true, is_exchanged, Direction::Back)?;
        self.pass(false, is_deleted, Direction::Back)?;
        self.pass(true, is_set, Direction::Back)
    }

    fn pass(&mut self, reverse: bool, wanted: fn(&Action) -> bool, direction: Direction) -> Result<()> {
        self.tops.iter_mut().for_each(|top| top.ways.forget());
        let records = self.records;
        let mut go = |at: usize| -> Result<()> {
            let record = &records[at];
            if !wanted(&record.action) {
                return Ok(());
            }
            if direction == Direction::Forth {
                self.progress.check()?;
            }
            let done = self.step(record.number, record, direction);
            add(&self.progress.done_files, 1);
            self.settle(record, done)
        };
        match reverse {
            true => (0..records.len()).rev().try_for_each(&mut go),
            false => (0..records.len()).try_for_each(&mut go),
        }
    }

    fn shown(&self, record: &Record) -> String {
        match &record.path[..] {
            b"" => show_path(&self.tops[record.top].path),
            path => format!("{}/{}", show_path(&self.tops[record.top].path).trim_end_matches('/'), show(path)),
        }
    }

    /// What becomes of a step that failed.
    fn settle(&mut self, record: &Record, done: Done) -> Result<()> {
        let Err(fault) = done else { return Ok(()) };
        let path = self.shown(record);
        let why = match &fault {
            Fault::Changed(why) => (*why).to_string(),
            Fault::System(error) | Fault::Astray(error) => reason(error),
        };
        if self.goes_on && !matches!(fault, Fault::Astray(_)) {
            self.problem(record, "exchange", why);
            return Ok(());
        }
        Err(match fault {
            Fault::Changed(_) => Error::TargetChanged(format!("cannot restore {path}: {why}")),
            Fault::System(error) | Fault::Astray(error) => Error::of_target(&format!("restore {path}"), &error),
        })
    }

    fn problem(&mut self, record: &Record, what: &str, reason: String) {
        use std::os::unix::ffi::OsStrExt;
        let path = super::prepare::join_path(self.tops[record.top].path.as_os_str().as_bytes(), &record.path);
        add(&self.progress.errors, 1);
        if self.problems.len() < crate::restore::MAX_PROBLEMS {
            self.problems.push(Problem { path, what: what.into(), reason });
        }
    }

    fn step(&mut self, at: usize, record: &Record, direction: Direction) -> Done {
        let back = direction == Direction::Back;
        match (&record.action, direction) {
            (Action::Create { staged }, Direction::Forth) => self.put(at, record, *staged),
            (Action::Create { staged }, Direction::Back) => self.withdraw(at, record, *staged),
            (Action::Replace { staged, found }, Direction::Forth) => self.exchange(at, record, *staged, found),
            (Action::Replace { staged, found }, Direction::Back) => self.exchange_back(at, record, *staged, found),
            (Action::Delete { found }, Direction::Forth) => self.remove(at, record, found),
            (Action::Delete { found }, Direction::Back) => self.bring_back(at, record, found),
            (Action::Attributes { found, pair }, _) => self.set(record, found, &pair[back as usize], !back),
            (Action::Touch { pair }, _) => self.touch_directory(record, &pair[back as usize]),
            (Action::Patch { .. }, _) => self.patch(at, record, back),
        }
    }

    fn rename(&mut self, from: End, to: End, record: &Record, flags: RenameFlags) -> io::Result<()> {
        let staging = self.staging[record.area].as_fd();
        let (dir, name) = self.tops[record.top].ways.parent_of(&record.path)?;
        let place = |end: End| match end {
            End::Live => (dir, name.to_vec()),
            End::Staged(at) => (staging, staged_name(at).into_bytes()),
            End::Aside(at) => (staging, aside_name(at).into_bytes()),
        };
        let ((from_dir, from), (to_dir, to)) = (place(from), place(to));
        let go = || match renameat_with(from_dir, &from[..], to_dir, &to[..], flags) {
            // File systems without such renames: that nothing is there was seen just before.
            Err(Errno::INVAL | Errno::NOSYS) if flags == RenameFlags::NOREPLACE => match inode(to_dir, &to) {
                Ok(None) => renameat(from_dir, &from[..], to_dir, &to[..]),
                _ => Err(Errno::EXIST),
            },
            done => done,
        };
        match go() {
            // A directory of ours that nobody may write into: it gets its mode again at the end.
            Err(Errno::ACCESS) if make_writable(dir) => Ok(go()?),
            done => Ok(done?),
        }
    }

    fn live_inode(&mut self, record: &Record) -> io::Result<Option<u64>> {
        let (dir, name) = self.tops[record.top].ways.parent_of(&record.path)?;
        inode(dir, name)
    }

    fn staged_inode(&self, record: &Record, name: String) -> io::Result<Option<u64>> {
        inode(self.staging[record.area].as_fd(), name.as_bytes())
    }

    fn put(&mut self, at: usize, record: &Record, staged: u64) -> Done {
        if self.live_inode(record)? == Some(staged) {
            return Ok(());
        }
        match self.rename(End::Staged(at), End::Live, record, RenameFlags::NOREPLACE) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Err(Fault::Changed("something is there by now")),
            done => Ok(done?),
        }
    }

    fn withdraw(&mut self, at: usize, record: &Record, staged: u64) -> Done {
        match self.live_inode(record) {
            // Another link of the same file may be where it always was.
            Ok(Some(ino)) if ino == staged && self.staged_inode(record, staged_name(at))?.is_none() => {
                Ok(self.rename(End::Live, End::Staged(at), record, RenameFlags::NOREPLACE)?)
            }
            // The directory that was to hold it is not there either.
            Err(e) if is_absence(&e) => Ok(()),
            other => other.map(drop).map_err(Fault::from),
        }
    }

    /// The way that is held ends above the path, so that it stays right whatever comes there.
    fn exchange(&mut self, at: usize, record: &Record, staged: u64, found: &Identity) -> Done {
        let live = self.live_inode(record)?;
        let aside = self.staged_inode(record, aside_name(at))? == Some(found.ino);
        if live == Some(staged) && self.staged_inode(record, staged_name(at))? != Some(staged) {
            return Ok(());
        }
        if live.is_none() && aside {
            return Ok(self.rename(End::Staged(at), End::Live, record, RenameFlags::NOREPLACE)?);
        }
        let (dir, name) = self.tops[record.top].ways.parent_of(&record.path)?;
        if check(dir, name, found)? == FileType::Directory && !is_empty(dir, name)? {
            return Err(Fault::Changed("something new is in the directory that is to give way"));
        }
        match self.rename(End::Staged(at), End::Live, record, RenameFlags::EXCHANGE) {
            Err(e) if matches!(e.raw_os_error(), Some(libc::EINVAL | libc::ENOSYS)) => {
                // A file system without exchanges: for a moment nothing is there, and the journal knows what is to come.
                self.rename(End::Live, End::Aside(at), record, RenameFlags::NOREPLACE)?;
                let Err(error) = self.rename(End::Staged(at), End::Live, record, RenameFlags::NOREPLACE) else {
                    return Ok(());
                };
                if self.goes_on {
                    // What stood there would go with the journal. Else that is used to go on from here, or back.
                    self.rename(End::Aside(at), End::Live, record, RenameFlags::NOREPLACE).map_err(Fault::Astray)?;
                }
                Err(error.into())
            }
            done => Ok(done?),
        }
    }

    fn exchange_back(&mut self, at: usize, record: &Record, staged: u64, found: &Identity) -> Done {
        self.tops[record.top].ways.forget();
        let live = self.live_inode(record)?;
        if self.staged_inode(record, aside_name(at))? == Some(found.ino) {
            if live == Some(staged) {
                self.rename(End::Live, End::Staged(at), record, RenameFlags::NOREPLACE)?;
            }
            return Ok(self.rename(End::Aside(at), End::Live, record, RenameFlags::NOREPLACE)?);
        }
        if live != Some(staged) || self.staged_inode(record, staged_name(at))? != Some(found.ino) {
            return Ok(());
        }
        self.rename(End::Staged(at), End::Live, record, RenameFlags::EXCHANGE)?;
        self.tops[record.top].ways.forget();
        Ok(())
    }

    fn remove(&mut self, at: usize, record: &Record, found: &Identity) -> Done {
        if self.staged_inode(record, staged_name(at))? == Some(found.ino) {
            return Ok(());
        }
        let (dir, name) = self.tops[record.top].ways.parent_of(&record.path)?;
        if check(dir, name, found)? == FileType::Directory && !is_empty(dir, name)? {
            return Err(Fault::Changed("something new is in the directory that is to go"));
        }
        Ok(self.rename(End::Live, End::Staged(at), record, RenameFlags::NOREPLACE)?)
    }

    fn bring_back(&mut self, at: usize, record: &Record, found: &Identity) -> Done {
        if self.staged_inode(record, staged_name(at))? != Some(found.ino) {
            return Ok(());
        }
        match self.rename(End::Staged(at), End::Live, record, RenameFlags::NOREPLACE) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Err(Fault::Changed("something is there by now")),
            done => Ok(done?),
        }
    }

    /// Opens what is at the path for reference; None where nothing is.
    fn open(&mut self, record: &Record) -> io::Result<Option<OwnedFd>> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = match &record.path[..] {
            b"" => openat(self.tops[record.top].ways.root(), ".", flags | OFlags::DIRECTORY, Mode::empty()),
            path => match self.tops[record.top].ways.parent_of(path) {
                Ok((dir, name)) => openat(dir, name, flags, Mode::empty()),
                Err(e) if is_absence(&e) => return Ok(None),
                Err(e) => return Err(e),
            },
        };
        match opened {
            Ok(fd) => Ok(Some(fd)),
            Err(Errno::NOENT) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    fn set(&mut self, record: &Record, found: &Identity, wanted: &Attributes, forth: bool) -> Done {
        let Some(fd) = self.open(record)? else {
            return if forth { Err(Fault::Changed("it is gone")) } else { Ok(()) };
        };
        let stat = source::stat_fd(fd.as_fd())?;
        if stat.ino != found.ino {
            return if forth { Err(Fault::Changed("something else is there by now")) } else { Ok(()) };
        }
        if forth && !self.again && found.ctime.is_some_and(|ctime| ctime != stat.ctime) {
            return Err(Fault::Changed("it was changed meanwhile"));
        }
        self.set_attributes(record, fd.as_fd(), wanted)
    }

    fn touch_directory(&mut self, record: &Record, wanted: &Attributes) -> Done {
        let Some(fd) = self.open(record)? else { return Ok(()) };
        if FileType::from_raw_mode(fstat(&fd)?.st_mode) != FileType::Directory {
            return Ok(());
        }
        self.set_attributes(record, fd.as_fd(), wanted)
    }

    fn patch(&mut self, at: usize, record: &Record, back: bool) -> Done {
        let Action::Patch { found, sizes, ranges, pair } = &record.action else { return Ok(()) };
        let Some(fd) = self.open(record)? else {
            return if back { Ok(()) } else { Err(Fault::Changed("it is gone")) };
        };
        let stat = source::stat_fd(fd.as_fd())?;
        if stat.ino != found.ino {
            return if back { Ok(()) } else { Err(Fault::Changed("something else is there by now")) };
        }
        if !back && !self.again && found.ctime.is_some_and(|ctime| ctime != stat.ctime) {
            return Err(Fault::Changed("it was changed meanwhile"));
        }
        let name = if back { aside_name(at) } else { staged_name(at) };
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let from = openat(&self.staging[record.area], &*name, flags, Mode::empty())?;
        // A device that is in use elsewhere is not opened.
        let alone = if stat.kind == FileType::BlockDevice { OFlags::EXCL } else { OFlags::empty() };
        let flags = OFlags::WRONLY | OFlags::CLOEXEC | alone;
        let to = rustix::fs::open(by_descriptor(fd.as_fd()), flags, Mode::empty())?;
        patch::copy(from.as_fd(), to.as_fd(), ranges, sizes[back as usize], self.progress, back)?;
        if stat.kind == FileType::BlockDevice {
            fsync(&to)?;
        }
        drop(to);
        match pair {
            Some(pair) => self.set_attributes(record, fd.as_fd(), &pair[back as usize]),
            None => Ok(()),
        }
    }

    /// Gives an open object these attributes, where it has others. What the system refuses is noted.
    fn set_attributes(&mut self, record: &Record, fd: BorrowedFd, wanted: &Attributes) -> Done {
        for (what, why) in set_attributes(fd, wanted)? {
            self.problem(record, &what, why);
        }
        Ok(())
    }
}

fn is_absence(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR))
}

/// The type of what is at `name`, which must be what was found there before.
fn check(dir: BorrowedFd, name: &[u8], found: &Identity) -> std::result::Result<FileType, Fault> {
    let stat = match source::stat_at(dir, name) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(Fault::Changed("it is gone")),
        other => other?,
    };
    match stat.ino == found.ino && found.ctime.is_none_or(|ctime| ctime == stat.ctime) {
        true => Ok(stat.kind),
        false => Err(Fault::Changed("it was changed meanwhile")),
    }
}

fn is_empty(dir: BorrowedFd, name: &[u8]) -> io::Result<bool> {
    let handle = source::open_directory(dir, name)?;
    Ok(source::list(handle.as_fd())?.is_empty())
}

pub(super) fn make_writable(dir: BorrowedFd) -> bool {
    let Ok(stat) = fstat(dir) else { return false };
    chmod(by_descriptor(dir), Mode::from_raw_mode(stat.st_mode & 0o7777 | 0o700)).is_ok()
}

/// Mode and time of a directory, which are to outlast a change to what is in it.
pub(super) struct Kept {
    mode: u16,
    mtime: Time,
}

impl Kept {
    pub(super) fn of(dir: BorrowedFd) -> io::Result<Kept> {
        let stat = source::stat_fd(dir)?;
        Ok(Kept { mode: stat.mode, mtime: stat.mtime })
    }

    /// Gives the directory its mode and time again.
    pub(super) fn restore(&self, dir: BorrowedFd) -> io::Result<()> {
        if source::stat_fd(dir)?.mode != self.mode {
            chmod(by_descriptor(dir), Mode::from_raw_mode(self.mode.into()))?;
        }
        match set_mtime(dir, self.mtime) {
            // Somebody else's directory: who carries out the plan meets that too, and says so.
            Err(Errno::PERM) => Ok(()),
            done => Ok(done?),
        }
    }
}

/// Makes a change to what is in a directory, also where the mode forbids it.
pub(super) fn within(dir: BorrowedFd, change: impl Fn() -> rustix::io::Result<()>) -> io::Result<()> {
    match change() {
        Err(Errno::ACCESS) if make_writable(dir) => Ok(change()?),
        done => Ok(done?),
    }
}

fn set_mtime(fd: BorrowedFd, mtime: Time) -> rustix::io::Result<()> {
    let omit = Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT as _ };
    let mtime = Timespec { tv_sec: mtime.seconds, tv_nsec: mtime.nanos.into() };
    let times = Timestamps { last_access: omit, last_modification: mtime };
    utimensat(fd, "", &times, AtFlags::EMPTY_PATH)
}

fn refuse(refused: &mut Vec<(String, String)>, what: &str, done: rustix::io::Result<()>) {
    if let Err(error) = done {
        refused.push((what.to_string(), reason(&error.into())));
    }
}

/// Gives what `fd` refers to (of any type) these attributes, where it has others. The answer is what the system refused.
pub(super) fn set_attributes(fd: BorrowedFd, wanted: &Attributes) -> io::Result<Vec<(String, String)>> {
    let stat = source::stat_fd(fd)?;
    let object = by_descriptor(fd);
    let mut refused = Vec::new();
    let owned = (stat.uid, stat.gid) == (wanted.uid, wanted.gid);
    if !owned {
        let (uid, gid) = (Some(Uid::from_raw(wanted.uid)), Some(Gid::from_raw(wanted.gid)));
        refuse(&mut refused, "owner", chownat(fd, "", uid, gid, AtFlags::EMPTY_PATH));
    }
    if let Some(set) = &wanted.xattrs {
        let have = source::xattrs_of(fd)?;
        for (name, _) in have.iter().filter(|(one, _)| !set.iter().any(|(name, _)| name == one)) {
            refuse(&mut refused, &format!("xattr {}", show(name)), removexattr(&object, &name[..]));
        }
        for (name, value) in set.iter().filter(|one| !have.contains(one)) {
            refuse(
                &mut refused,
                &format!("xattr {}", show(name)),
                setxattr(&object, &name[..], value, XattrFlags::empty()),
            );
        }
    }
    // A new owner takes setuid away, and a list sets the mode of the group.
    let mode = match owned && wanted.xattrs.is_none() {
        true => stat.mode,
        false => source::stat_fd(fd)?.mode,
    };
    // Another owner's program must not run with the rights of whoever restores it.
    let lost = refused.iter().any(|(what, _)| what == "owner");
    let wanted_mode = if lost { wanted.mode & 0o1777 } else { wanted.mode };
    if stat.kind != FileType::Symlink && mode != wanted_mode {
        refuse(&mut refused, "mode", chmod(&object, Mode::from_raw_mode(wanted_mode.into())));
    }
    if stat.mtime == wanted.mtime && owned {
        return Ok(refused);
    }
    refuse(&mut refused, "times", set_mtime(fd, wanted.mtime));
    Ok(refused)
}
