//! The file system that is taken: directories by descriptor, stats, attributes, holes. Nothing here follows a symbolic link.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::acl;
use crate::error::{Error, Result};
use crate::node::{Hole, Time, XattrSet};

/// Why something could not be taken: the source's fault, or something that ends the run.
#[derive(Debug)]
pub enum Fault {
    Source(io::Error),
    Fatal(Error),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Fault {
        Fault::Source(error)
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Fault {
        Fault::Fatal(error)
    }
}

/// A result, or whose fault it is that there is none.
pub type Read<T> = std::result::Result<T, Fault>;

/// What one `stat` tells, as far as it is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    pub kind: FileType,
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    pub size: u64,
    pub mtime: Time,
    pub ctime: Time,
    pub dev: u64,
    pub ino: u64,
    pub links: u64,
    pub rdev: (u32, u32),
}

impl Stat {
    // The fields' types differ between architectures.
    #[allow(clippy::unnecessary_cast)]
    fn of(stat: &fs::Stat) -> Stat {
        Stat {
            kind: FileType::from_raw_mode(stat.st_mode),
            mode: (stat.st_mode & 0o7777) as u16,
            uid: stat.st_uid,
            gid: stat.st_gid,
            size: stat.st_size as u64,
            mtime: Time { seconds: stat.st_mtime as i64, nanos: stat.st_mtime_nsec as u32 },
            ctime: Time { seconds: stat.st_ctime as i64, nanos: stat.st_ctime_nsec as u32 },
            dev: stat.st_dev as u64,
            ino: stat.st_ino as u64,
            links: stat.st_nlink as u64,
            rdev: (fs::major(stat.st_rdev), fs::minor(stat.st_rdev)),
        }
    }

    /// Same bytes for all that can be told without reading.
    pub fn same_content(&self, other: &Stat) -> bool {
        (self.size, self.mtime, self.ctime, self.ino) == (other.size, other.mtime, other.ctime, other.ino)
    }
}

pub fn stat_at(dir: BorrowedFd, name: &[u8]) -> io::Result<Stat> {
    Ok(Stat::of(&fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?))
}

/// As `stat_at`, with the bits of `statx` that say what may not be done to it.
#[allow(clippy::unnecessary_cast)]
pub fn statx_at(dir: BorrowedFd, name: &[u8]) -> io::Result<(Stat, u64)> {
    let stat = fs::statx(dir, name, AtFlags::SYMLINK_NOFOLLOW, fs::StatxFlags::BASIC_STATS)?;
    let time = |time: fs::StatxTimestamp| Time { seconds: time.tv_sec, nanos: time.tv_nsec };
    let known = Stat {
        kind: FileType::from_raw_mode(stat.stx_mode.into()),
        mode: stat.stx_mode & 0o7777,
        uid: stat.stx_uid,
        gid: stat.stx_gid,
        size: stat.stx_size,
        mtime: time(stat.stx_mtime),
        ctime: time(stat.stx_ctime),
        dev: fs::makedev(stat.stx_dev_major, stat.stx_dev_minor) as u64,
        ino: stat.stx_ino,
        links: stat.stx_nlink.into(),
        rdev: (stat.stx_rdev_major, stat.stx_rdev_minor),
    };
    Ok((known, stat.stx_attributes.bits()))
}

pub fn stat_fd(file: BorrowedFd) -> io::Result<Stat> {
    Ok(Stat::of(&fs::fstat(file)?))
}

/// Opens `name` for reading without touching its access time where that is allowed.
fn open_at(dir: BorrowedFd, name: &[u8], more: OFlags) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK | more;
    match fs::openat(dir, name, flags | OFlags::NOATIME, Mode::empty()) {
        Err(rustix::io::Errno::PERM) => Ok(fs::openat(dir, name, flags, Mode::empty())?),
        other => Ok(other?),
    }
}

pub fn open_directory(dir: BorrowedFd, name: &[u8]) -> io::Result<OwnedFd> {
    open_at(dir, name, OFlags::DIRECTORY)
}

pub fn open_file(dir: BorrowedFd, name: &[u8]) -> io::Result<OwnedFd> {
    open_at(dir, name, OFlags::empty())
}

/// How the names of staging directories begin, in which restores prepare what comes; 26 characters of a ULID follow.
pub const STAGING: &[u8] = b".snapstore-restore-";

/// Whether `name` is that of a staging directory, which is never taken.
pub fn is_staging(name: &[u8]) -> bool {
    name.strip_prefix(STAGING).is_some_and(|rest| rest.len() == 26 && rest.iter().all(u8::is_ascii_alphanumeric))
}

/// Names in a directory, `.` and `..` left out, sorted as bytes.
pub fn list(dir: BorrowedFd) -> io::Result<Vec<Box<[u8]>>> {
    let mut buffer = Vec::with_capacity(64 << 10);
    let mut raw = fs::RawDir::new(dir, buffer.spare_capacity_mut());
    let mut names: Vec<Box<[u8]>> = Vec::new();
    while let Some(entry) = raw.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.into());
        }
    }
    names.sort_unstable();
    Ok(names)
}

pub fn read_link(dir: BorrowedFd, name: &[u8]) -> io::Result<Box<[u8]>> {
    Ok(fs::readlinkat(dir, name, Vec::new())?.into_bytes().into())
}

/// Keeps what belongs to the file itself; `system.` also holds views of other things (NFS ACLs and the like).
pub(crate) fn is_kept(name: &[u8]) -> bool {
    let is_acl = [acl::ACCESS, acl::DEFAULT].iter().any(|acl| name == acl.as_bytes());
    is_acl || [&b"user."[..], b"trusted.", b"security."].iter().any(|prefix| name.starts_with(prefix))
}

/// Attributes of an open file or directory; none where the file system has none.
pub fn xattrs_fd(file: BorrowedFd) -> io::Result<XattrSet> {
    read_xattrs(|buffer| fs::flistxattr(file, buffer), |name, buffer| fs::fgetxattr(file, name, buffer))
}

/// Attributes of something that is open for reference only (`O_PATH`).
pub fn xattrs_of(fd: BorrowedFd) -> io::Result<XattrSet> {
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    read_xattrs(|buffer| fs::listxattr(&path, buffer), |name, buffer| fs::getxattr(&path, name, buffer))
}

/// Attributes of something that cannot be opened: a symbolic link, a FIFO, a device.
pub fn xattrs_at(dir: BorrowedFd, name: &[u8]) -> io::Result<XattrSet> {
    use std::os::unix::ffi::OsStringExt;
    let mut path = format!("/proc/self/fd/{}/", dir.as_raw_fd()).into_bytes();
    path.extend_from_slice(name);
    let path = PathBuf::from(std::ffi::OsString::from_vec(path));
    let list = |buffer: &mut [u8]| match fs::llistxattr(&path, buffer) {
        // Without /proc nothing is found by this path, but it is there.
        Err(Errno::NOENT) if stat_at(dir, name).is_ok() => Err(Errno::NOSYS),
        other => other,
    };
    read_xattrs(list, |name, buffer| fs::lgetxattr(&path, name, buffer)).map_err(|e| match e.raw_os_error() {
        Some(libc::ENOSYS) => io::Error::other("its attributes cannot be read without /proc"),
        _ => e,
    })
}

fn read_xattrs(
    list: impl Fn(&mut [u8]) -> rustix::io::Result<usize>,
    get: impl Fn(&CStr, &mut [u8]) -> rustix::io::Result<usize>,
) -> io::Result<XattrSet> {
    let mut small = [0u8; 512];
    let names = match list(&mut small) {
        Ok(len) => small[..len].to_vec(),
        Err(Errno::OPNOTSUPP) | Err(Errno::NOENT) => return Ok(Vec::new()),
        Err(Errno::RANGE) => {
            let mut large = vec![0u8; 65_536];
            let len = list(&mut large)?;
            large.truncate(len);
            large
        }
        Err(e) => return Err(e.into()),
    };
    let mut set = XattrSet::new();
    let mut value = [0u8; 1024];
    for name in names.split_inclusive(|b| *b == 0) {
        let Ok(c_name) = CStr::from_bytes_with_nul(name) else { continue };
        if !is_kept(c_name.to_bytes()) {
            continue;
        }
        let value = match get(c_name, &mut value) {
            Ok(len) => value[..len].to_vec(),
            Err(Errno::RANGE) => {
                let mut large = vec![0u8; 65_536];
                let len = get(c_name, &mut large)?;
                large.truncate(len);
                large
            }
            // Removed since the list was made.
            Err(Errno::NODATA) => continue,
            Err(e) => return Err(e.into()),
        };
        set.push((c_name.to_bytes().to_vec(), value));
    }
    Ok(set)
}

/// Holes of a file of `size` bytes, ascending. A file system that cannot tell has none.
pub fn holes(file: BorrowedFd, size: u64) -> Vec<Hole> {
    use fs::SeekFrom;
    let mut holes: Vec<Hole> = Vec::new();
    let mut at = 0;
    while at < size {
        let Ok(start) = fs::seek(file, SeekFrom::Hole(at)) else { break };
        if start >= size {
            break;
        }
        let end = match fs::seek(file, SeekFrom::Data(start)) {
            Ok(end) => end.min(size),
            Err(rustix::io::Errno::NXIO) => size,
            Err(_) => break,
        };
        if end <= start {
            break;
        }
        match holes.last_mut() {
            // Punched between the two questions.
            Some(hole) if hole.end == start => hole.end = end,
            _ => holes.push(Hole { start, end }),
        }
        at = end;
    }
    holes
}

/// Reads up to `buffer.len()` bytes at `offset`; fewer only at the end.
pub fn read_at(file: BorrowedFd, mut buffer: &mut [u8], mut offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while !buffer.is_empty() {
        match rustix::io::pread(file, &mut *buffer, offset) {
            Ok(0) => break,
            Ok(len) => {
                done += len;
                offset += len as u64;
                buffer = &mut buffer[len..];
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(done)
}

/// Appends up to `want` bytes at `offset` to `buffer`; fewer only at the end. Their number.
pub fn append_at(file: BorrowedFd, buffer: &mut Vec<u8>, want: usize, offset: u64) -> io::Result<usize> {
    let start = buffer.len();
    buffer.reserve_exact(want);
    while buffer.len() < start + want {
        let done = buffer.len() - start;
        // A buffer that serves again has more room than is asked for.
        let room = &mut buffer.spare_capacity_mut()[..want - done];
        let got = match rustix::io::pread(file, room, offset + done as u64) {
            Ok((read, _)) => read.len(),
            Err(rustix::io::Errno::INTR) => continue,
            Err(e) => return Err(e.into()),
        };
        if got == 0 {
            break;
        }
        // SAFETY: the call has written so many bytes behind the last.
        unsafe { buffer.set_len(start + done + got) };
    }
    Ok(buffer.len() - start)
}

/// Reads until `buffer` is full or the stream ends. `check` is asked several times a second while nothing comes, and may end it.
pub fn read_stream(file: BorrowedFd, mut buffer: &mut [u8], check: &dyn Fn() -> Result<()>) -> Read<usize> {
    use rustix::event::{poll, PollFd, PollFlags, Timespec};
    let patience = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
    let mut done = 0;
    while !buffer.is_empty() {
        check()?;
        match poll(&mut [PollFd::from_borrowed_fd(file, PollFlags::IN)], Some(&patience)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => continue,
            Ok(_) => {}
            Err(e) => return Err(Fault::Source(e.into())),
        }
        match rustix::io::read(file, &mut *buffer) {
            Ok(0) => break,
            Ok(len) => {
                done += len;
                buffer = &mut buffer[len..];
            }
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
            Err(e) => return Err(Fault::Source(e.into())),
        }
    }
    Ok(done)
}

/// The length of a file or block device.
pub fn length(file: BorrowedFd) -> io::Result<u64> {
    Ok(fs::seek(file, fs::SeekFrom::End(0))?)
}

/// The clock by which file times are set.
pub fn now() -> Time {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse);
    Time { seconds: now.tv_sec, nanos: now.tv_nsec as u32 }
}

/// Opens a path given by the user, following symbolic links.
pub fn open_path(path: &std::path::Path) -> io::Result<OwnedFd> {
    Ok(fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
}
