//! What libfuse calls for paths in snapshots. No interpreter is involved: entering it costs more than most answers.
//!
//! Python, through mfusepy, builds the table of operations that these functions go into, and answers for the names above the
//! snapshots. A process serves one mount.

use std::ffi::{c_char, c_int, c_void, CStr, CString};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::{Arc, PoisonError, RwLock};

use pyo3::exceptions::PyKeyError;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use snapstore_core::error::{Error, Result};
use snapstore_core::node::What;
use snapstore_core::view::{self, Attributes, Seek, Shown};

use crate::view::View;

/// FUSE_READDIR_PLUS: the kernel takes attributes too.
const WANTS_ATTRIBUTES: c_int = 1;
/// FUSE_FILL_DIR_PLUS: they are complete.
const WITH_ATTRIBUTES: c_int = 2;
/// `.` and `..`.
const OWN_NAMES: u64 = 2;
/// Where snapshots are, under their ids, when all are shown.
const IDS: &[u8] = b"/by-id/";
const ID_LEN: usize = 64;
const BLOCK_LEN: libc::blksize_t = 4096;
/// What the mount itself tells of a path. Not listed: they would be copied with the file.
const OWN_XATTRS: &[u8] = b"user.snap.";
/// Longer values no kernel takes.
const MAX_XATTR_LEN: usize = 65_536;

/// fuse_fill_dir_t of libfuse 3: buffer, name, attributes, offset of the next entry, flags.
type Filler = unsafe extern "C" fn(*mut c_void, *const c_char, *const libc::stat, libc::off_t, c_int) -> c_int;
type Getattr = unsafe extern "C" fn(*const c_char, *mut libc::stat, *mut c_void) -> c_int;
type Readlink = unsafe extern "C" fn(*const c_char, *mut c_char, usize) -> c_int;
type Readdir = unsafe extern "C" fn(*const c_char, *mut c_void, Filler, libc::off_t, *mut c_void, c_int) -> c_int;
/// Shows the snapshot with an id: 1 when it is shown now, 0 when there is none, the negative number of an error.
type Show = unsafe extern "C" fn(*const c_char) -> c_int;
/// Takes note of a path, and of what is wrong with it.
type Complain = unsafe extern "C" fn(*const c_char, *const c_char);

/// What Python answers.
#[derive(Clone, Copy)]
struct Others {
    getattr: Getattr,
    readlink: Readlink,
    readdir: Readdir,
    show: Show,
    complain: Complain,
}

struct Served {
    view: Arc<view::View>,
    /// The mount is what is at this path of one snapshot.
    below: Option<Vec<u8>>,
    others: Others,
}

static SERVED: RwLock<Option<Arc<Served>>> = RwLock::new(None);

/// Addresses of functions for libfuse, by the names of its operations. `others`: addresses of what Python answers, by name.
/// `below`: the mount is what is at this path of the snapshot without a name. They serve until this is called again.
#[pyfunction]
pub fn fuse_operations<'py>(
    py: Python<'py>,
    view: &View,
    others: &Bound<'py, PyDict>,
    below: Option<Vec<u8>>,
) -> PyResult<Bound<'py, PyDict>> {
    let address = |name: &str| -> PyResult<usize> {
        let found = others.get_item(name)?.ok_or_else(|| PyKeyError::new_err(name.to_string()))?;
        found.extract()
    };
    // SAFETY: the caller made these functions with these signatures, and keeps them as long as it is mounted.
    let others = unsafe {
        Others {
            getattr: std::mem::transmute::<usize, Getattr>(address("getattr")?),
            readlink: std::mem::transmute::<usize, Readlink>(address("readlink")?),
            readdir: std::mem::transmute::<usize, Readdir>(address("readdir")?),
            show: std::mem::transmute::<usize, Show>(address("show")?),
            complain: std::mem::transmute::<usize, Complain>(address("complain")?),
        }
    };
    let served = Served { view: view.0.clone(), below, others };
    *SERVED.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(served));
    let table = PyDict::new(py);
    table.set_item("getattr", getattr as *const () as usize)?;
    table.set_item("readlink", readlink as *const () as usize)?;
    table.set_item("open", open as *const () as usize)?;
    table.set_item("read", read as *const () as usize)?;
    table.set_item("readdir", readdir as *const () as usize)?;
    table.set_item("getxattr", getxattr as *const () as usize)?;
    table.set_item("listxattr", listxattr as *const () as usize)?;
    table.set_item("lseek", lseek as *const () as usize)?;
    Ok(table)
}

/// A path that is in a snapshot: the name under which that is shown, and the path in it.
struct Place<'a> {
    name: &'a [u8],
    path: std::borrow::Cow<'a, [u8]>,
}

impl Served {
    /// None for what is in no snapshot; the number of an error when the snapshot cannot be read.
    fn locate<'a>(&self, path: &'a [u8]) -> std::result::Result<Option<Place<'a>>, c_int> {
        if let Some(below) = &self.below {
            let path = match below.is_empty() {
                true => path.into(),
                false => [below, path].concat().into(),
            };
            return Ok(Some(Place { name: b"", path }));
        }
        let Some((name, path)) = path.strip_prefix(IDS).and_then(|rest| rest.split_at_checked(ID_LEN)) else {
            return Ok(None);
        };
        if !(path.is_empty() || path[0] == b'/') {
            return Ok(None);
        }
        if !self.view.has(name) {
            let Ok(name) = CString::new(name) else { return Ok(None) };
            // SAFETY: Python's function takes a text that ends with NUL.
            match unsafe { (self.others.show)(name.as_ptr()) } {
                1 => {}
                failed if failed < 0 => return Err(-failed),
                _ => return Ok(None),
            }
        }
        Ok(Some(Place { name, path: path.into() }))
    }

    fn find(&self, place: &Place) -> Result<Option<Shown>> {
        self.view.find(place.name, &place.path)
    }

    fn complain(&self, path: &CStr, place: &Place, error: &Error) {
        let id = match self.view.find(place.name, b"") {
            Ok(Some(top)) => top.snapshot()[..8].to_string(),
            _ => "?".into(),
        };
        let Ok(text) = CString::new(format!("snapshot {id}: {error}")) else { return };
        // SAFETY: Python's function takes two texts that end with NUL.
        unsafe { (self.others.complain)(path.as_ptr(), text.as_ptr()) };
    }
}

/// Answers for a path in a snapshot with `inside`, for any other with `outside`. Nothing unwinds into libfuse.
fn answer<T>(
    path: *const c_char,
    outside: impl FnOnce(&Others) -> T,
    inside: impl FnOnce(&Served, &Place) -> Result<T>,
    failed: impl FnOnce(c_int) -> T,
) -> T {
    // SAFETY: libfuse's paths end with NUL, and stay until the call returns.
    let path = unsafe { CStr::from_ptr(path) };
    let served = SERVED.read().unwrap_or_else(PoisonError::into_inner).clone();
    let answered = catch_unwind(AssertUnwindSafe(|| {
        let Some(served) = served else { return Err(libc::ENOTCONN) };
        let Some(place) = served.locate(path.to_bytes())? else { return Ok(outside(&served.others)) };
        inside(&served, &place).map_err(|error| match error {
            // It was shown when the path was located.
            Error::Invalid(_) => libc::ENOENT,
            error => {
                served.complain(path, &place, &error);
                libc::EIO
            }
        })
    }));
    match answered {
        Ok(Ok(answer)) => answer,
        Ok(Err(errno)) => failed(errno),
        Err(_) => failed(libc::EIO),
    }
}

fn stat_of(found: &Attributes) -> libc::stat {
    // SAFETY: of a struct of integers, all zeros is a value.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    stat.st_ino = found.ino;
    stat.st_mode = found.mode;
    stat.st_nlink = found.links.into();
    (stat.st_uid, stat.st_gid) = (found.uid, found.gid);
    stat.st_rdev = libc::makedev(found.device.0, found.device.1);
    stat.st_size = found.size as libc::off_t;
    stat.st_blksize = BLOCK_LEN;
    stat.st_blocks = found.blocks as libc::blkcnt_t;
    (stat.st_mtime, stat.st_mtime_nsec) = (found.mtime.seconds, found.mtime.nanos.into());
    // Nothing else is recorded.
    (stat.st_atime, stat.st_atime_nsec) = (stat.st_mtime, stat.st_mtime_nsec);
    (stat.st_ctime, stat.st_ctime_nsec) = (stat.st_mtime, stat.st_mtime_nsec);
    stat
}

/// SAFETY: to be called by libfuse, with what its operation of this name is called with; so are all below.
unsafe extern "C" fn getattr(path: *const c_char, stat: *mut libc::stat, info: *mut c_void) -> c_int {
    answer(
        path,
        |others| unsafe { (others.getattr)(path, stat, info) },
        |served, place| {
            let Some(shown) = served.find(place)? else { return Ok(-libc::ENOENT) };
            let found = stat_of(&served.view.attributes(&shown)?);
            unsafe { stat.write(found) };
            Ok(0)
        },
        |errno| -errno,
    )
}

unsafe extern "C" fn readlink(path: *const c_char, buffer: *mut c_char, len: usize) -> c_int {
    answer(
        path,
        |others| unsafe { (others.readlink)(path, buffer, len) },
        |served, place| {
            let Some(shown) = served.find(place)? else { return Ok(-libc::ENOENT) };
            let What::Symlink(target) = &shown.entry().what else { return Ok(-libc::EINVAL) };
            let out = unsafe { std::slice::from_raw_parts_mut(buffer.cast::<u8>(), len) };
            let fits = target.len().min(len - 1);
            out[..fits].copy_from_slice(&target[..fits]);
            out[fits] = 0;
            Ok(0)
        },
        |errno| -errno,
    )
}

/// The kernel then opens and closes files by itself, and keeps what was read of them.
unsafe extern "C" fn open(_: *const c_char, _: *mut c_void) -> c_int {
    -libc::ENOSYS
}

unsafe extern "C" fn read(
    path: *const c_char,
    buffer: *mut c_char,
    len: usize,
    offset: libc::off_t,
    _: *mut c_void,
) -> c_int {
    answer(
        path,
        |_| -libc::EISDIR,
        |served, place| {
            let Some(shown) = served.find(place)? else { return Ok(-libc::ENOENT) };
            let out = unsafe { std::slice::from_raw_parts_mut(buffer.cast::<u8>(), len) };
            served.view.read(&shown, offset as u64, out).map(|len| len as c_int)
        },
        |errno| -errno,
    )
}

unsafe extern "C" fn readdir(
    path: *const c_char,
    buffer: *mut c_void,
    filler: Filler,
    offset: libc::off_t,
    info: *mut c_void,
    flags: c_int,
) -> c_int {
    answer(
        path,
        |others| unsafe { (others.readdir)(path, buffer, filler, offset, info, flags) },
        |served, place| {
            let with_attributes = flags & WANTS_ATTRIBUTES != 0;
            Filling { view: &served.view, buffer, filler, with_attributes, text: Vec::new() }.fill(place, offset as u64)
        },
        |errno| -errno,
    )
}

unsafe extern "C" fn listxattr(path: *const c_char, buffer: *mut c_char, len: usize) -> c_int {
    answer(
        path,
        |_| 0,
        |served, place| {
            let Some(shown) = served.find(place)? else { return Ok(-libc::ENOENT) };
            let set = served.view.xattrs(&shown)?;
            let names: Vec<u8> = set.iter().flat_map(|(name, _)| name.iter().copied().chain([0])).collect();
            Ok(give(&names, buffer, len))
        },
        |errno| -errno,
    )
}

unsafe extern "C" fn getxattr(path: *const c_char, name: *const c_char, buffer: *mut c_char, len: usize) -> c_int {
    answer(
        path,
        |_| -libc::ENODATA,
        |served, place| {
            let Some(shown) = served.find(place)? else { return Ok(-libc::ENOENT) };
            let name = unsafe { CStr::from_ptr(name) }.to_bytes();
            let kept = served.view.xattrs(&shown)?.into_iter().find(|(own, _)| own == name);
            let value = match (kept, name.strip_prefix(OWN_XATTRS)) {
                (Some((_, value)), _) => Some(value),
                (None, Some(own)) => told(&served.view, &shown, own)?,
                (None, None) => None,
            };
            Ok(value.map_or(-libc::ENODATA, |value| give(&value, buffer, len)))
        },
        |errno| -errno,
    )
}

fn told(view: &view::View, shown: &Shown, what: &[u8]) -> Result<Option<Vec<u8>>> {
    Ok(match (what, &shown.entry().what) {
        (b"snapshot", _) => Some(shown.snapshot().into()),
        (b"root", _) => shown.root().map(Into::into),
        (b"chunks", What::File { .. }) if !shown.is_part() => Some(view.chunk_lines(shown, MAX_XATTR_LEN)?.into()),
        _ => None,
    })
}

fn give(value: &[u8], buffer: *mut c_char, len: usize) -> c_int {
    match len {
        0 => {}
        len if len < value.len() => return -libc::ERANGE,
        // SAFETY: libfuse gave a buffer of `len` bytes.
        _ => unsafe { buffer.cast::<u8>().copy_from_nonoverlapping(value.as_ptr(), value.len()) },
    }
    value.len() as c_int
}

unsafe extern "C" fn lseek(path: *const c_char, offset: libc::off_t, whence: c_int, _: *mut c_void) -> libc::off_t {
    answer(
        path,
        |_| -libc::off_t::from(libc::EINVAL),
        |served, place| {
            let what = match whence {
                libc::SEEK_DATA => Seek::Data,
                libc::SEEK_HOLE => Seek::Hole,
                _ => return Ok(-libc::off_t::from(libc::EINVAL)),
            };
            let Some(shown) = served.find(place)? else { return Ok(-libc::off_t::from(libc::ENOENT)) };
            let found = served.view.seek(&shown, offset as u64, what)?;
            Ok(found.map_or(-libc::off_t::from(libc::ENXIO), |found| found as libc::off_t))
        },
        |errno| -libc::off_t::from(errno),
    )
}

/// A directory's entries on their way into a buffer of libfuse.
struct Filling<'a> {
    view: &'a view::View,
    buffer: *mut c_void,
    filler: Filler,
    with_attributes: bool,
    text: Vec<u8>,
}

impl Filling<'_> {
    fn fill(&mut self, place: &Place, offset: u64) -> Result<c_int> {
        let view = self.view;
        let Some(at) = view.find(place.name, &place.path)? else { return Ok(-libc::ENOENT) };
        if at.entry().directory().is_none() {
            return Ok(-libc::ENOTDIR);
        }
        if offset < OWN_NAMES && !self.own_names(place, &at, offset)? {
            return Ok(0);
        }
        view.list(&at, offset.saturating_sub(OWN_NAMES), &mut |next, name, shown| {
            let next = next + OWN_NAMES;
            if !self.with_attributes {
                return self.put(name, view.ino(&shown), type_of(&shown.entry().what), next);
            }
            match view.attributes(&shown) {
                Ok(found) => self.hand_over(name, &stat_of(&found), next, WITH_ATTRIBUTES),
                // Whoever asks for this one is told what is wrong; the others are shown all the same.
                Err(_) => self.put(name, view.ino(&shown), type_of(&shown.entry().what), next),
            }
        })?;
        Ok(0)
    }

    fn own_names(&mut self, place: &Place, at: &Shown, offset: u64) -> Result<bool> {
        let own = self.view.ino(at);
        let above = match place.path.iter().rposition(|byte| *byte == b'/') {
            None => own,
            Some(slash) => self.view.find(place.name, &place.path[..slash])?.map_or(own, |at| self.view.ino(&at)),
        };
        let names = [(&b"."[..], own), (b"..", above)];
        let mut rest = names.into_iter().enumerate().skip(offset as usize);
        Ok(rest.all(|(number, (name, ino))| self.put(name, ino, libc::S_IFDIR, number as u64 + 1)))
    }

    fn put(&mut self, name: &[u8], ino: u64, mode: u32, next: u64) -> bool {
        // SAFETY: of a struct of integers, all zeros is a value.
        let mut stat: libc::stat = unsafe { std::mem::zeroed() };
        (stat.st_ino, stat.st_mode) = (ino, mode);
        self.hand_over(name, &stat, next, 0)
    }

    /// False when the buffer is full.
    fn hand_over(&mut self, name: &[u8], stat: &libc::stat, next: u64, flags: c_int) -> bool {
        self.text.clear();
        self.text.extend_from_slice(name);
        self.text.push(0);
        // SAFETY: libfuse's function copies what the pointers point to. Names have no NUL: nodes with such names are refused.
        let full = unsafe { (self.filler)(self.buffer, self.text.as_ptr().cast(), stat, next as libc::off_t, flags) };
        full == 0
    }
}

fn type_of(what: &What) -> u32 {
    match what {
        What::File { .. } => libc::S_IFREG,
        What::Directory(_) => libc::S_IFDIR,
        What::Symlink(_) => libc::S_IFLNK,
        What::Fifo => libc::S_IFIFO,
        What::CharDevice(..) => libc::S_IFCHR,
        What::BlockDevice(..) => libc::S_IFBLK,
    }
}
