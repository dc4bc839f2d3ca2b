//! Taking a root: the walk over a source, merged with its stat cache, that becomes a tree of nodes.
//! source > **root** > directory > entry.
//!
//! Workers take directories depth first. A directory waits for its children and is then stored, bottom up; one whose
//! entries are all as the cache says is not even encoded again.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Arc, Mutex, Weak};

use rustix::fs::FileType;

use crate::cache::{self, Place, Row};
use crate::chunker::Chunker;
use crate::content::Segment;
use crate::crew::{self, Crew, Job};
use crate::error::{reason, show_path, Error, Result};
use crate::id::Id;
use crate::node::{Content, Directory, Entry, Time, What, Xattrs};
use crate::packer::{Lane, Packer};
use crate::select::{Folder, Selection};
use crate::source::{self, Stat};

mod file;
mod report;
mod walk;

pub(crate) use file::SHARED_FILE;

/// Paths listed in a result; more are only counted.
const MAX_LISTED: usize = 10_000;
const MAX_LISTED_BYTES: usize = 4 << 20;
/// An entry touched within so much time of its reading is read again next time: file systems' clocks are that coarse.
const RACY_NANOS: i128 = 2_000_000_000;

/// How a root is taken.
#[derive(Default)]
pub struct Options {
    pub cache: Option<PathBuf>,
    pub new_cache: Option<PathBuf>,
    pub selection: Arc<Selection>,
    /// Where rules see the root: as this path below the root that they are for.
    pub below: Vec<u8>,
    pub ignore_inode: bool,
}

/// A root that was taken, and what was met on the way.
#[derive(Clone, Debug, Default)]
pub struct Taken {
    pub id: Option<Id>,
    pub kind: &'static str,
    pub entries: u64,
    pub bytes: u64,
    pub files: u64,
    pub directories: u64,
    pub new_files: u64,
    pub changed_files: u64,
    pub unchanged_files: u64,
    pub read_bytes: u64,
    pub unreadable: Vec<(Vec<u8>, String)>,
    pub unreadable_count: u64,
    pub changed: Vec<Vec<u8>>,
    /// Staging directories of restores that are under way or were interrupted.
    pub unfinished: Vec<Vec<u8>>,
    listed_bytes: usize,
    pub sockets: u64,
    pub excluded: u64,
    pub mounts: u64,
    pub uids: BTreeSet<u32>,
    pub gids: BTreeSet<u32>,
    pub packs: Vec<u32>,
}

impl Taken {
    /// Notes a path that could not be read; it is listed while there is room.
    pub(crate) fn list_unreadable(&mut self, path: Vec<u8>, why: String) {
        self.unreadable_count += 1;
        if self.has_room_for(&path) {
            self.unreadable.push((path, why));
        }
    }

    pub(crate) fn list_changed(&mut self, path: Vec<u8>) {
        if self.has_room_for(&path) {
            self.changed.push(path);
        }
    }

    fn has_room_for(&mut self, path: &[u8]) -> bool {
        let listed = self.unreadable.len().max(self.changed.len());
        self.listed_bytes += path.len();
        listed < MAX_LISTED && self.listed_bytes <= MAX_LISTED_BYTES
    }
}

enum Task {
    Directory(Arc<Dir>, Place),
    Files(Arc<Dir>, Arc<Vec<(usize, Known)>>, std::ops::Range<usize>),
    LargeFile(Arc<Dir>, usize, Known),
    Segment(Segment),
    /// An open device or stream that is the root itself.
    Open(OwnedFd, Entry),
}

impl From<Segment> for Task {
    fn from(segment: Segment) -> Task {
        Task::Segment(segment)
    }
}

/// What is known of a file before it is read.
#[derive(Clone, Copy)]
struct Known {
    stat: Stat,
    in_cache: bool,
}

/// A directory being taken.
struct Dir {
    parent: Option<(Arc<Dir>, usize)>,
    name: Box<[u8]>,
    depth: u32,
    /// What its entries are selected by.
    folder: Folder,
    /// A root that is not a directory: this stands for the directory around it.
    around: bool,
    handle: Mutex<Option<Arc<OwnedFd>>>,
    work: Mutex<Work>,
    /// Children and file tasks under way, and the scan itself.
    waiting: AtomicUsize,
    /// Something differs from the cache's record.
    dirty: AtomicBool,
}

#[derive(Default)]
struct Work {
    stat: Option<Stat>,
    xattrs: Option<Box<Xattrs>>,
    rows: Vec<Option<Row>>,
    /// As it was recorded in the parent's record.
    known: Option<Row>,
    /// As it was stored last time.
    stored: Option<Directory>,
}

#[derive(Default)]
struct Group {
    paths: Vec<Vec<u8>>,
    /// Content of a member, with the stat it was read under.
    content: Option<(Stat, What)>,
}

struct Run<'a> {
    packer: &'a Packer,
    chunker: &'a Chunker,
    options: &'a Options,
    crew: Crew<'a, Task>,
    cache: Option<cache::Reader>,
    new_cache: Mutex<Option<cache::Writer>>,
    links: Mutex<HashMap<(u64, u64), Group>>,
    report: Mutex<Taken>,
    root: Mutex<Option<Row>>,
    /// In the order in which they were opened; some may be closed already.
    open_directories: Mutex<VecDeque<Weak<Dir>>>,
}

/// Takes `path`, of any type, as a root. A symbolic link is taken as such.
pub fn take_tree(
    packer: &Packer,
    chunker: &Chunker,
    lanes: &mut [Lane],
    path: &Path,
    options: &Options,
) -> Result<Taken> {
    let gone = |e: std::io::Error| source_error(path, &e);
    let (folder, name) = split_root(path);
    let parent = source::open_path(&folder).map_err(gone)?;
    let stat = match &name {
        Some(name) => source::stat_at(parent.as_fd(), name).map_err(gone)?,
        None => source::stat_fd(parent.as_fd()).map_err(gone)?,
    };
    if stat.kind == FileType::Socket {
        return Err(Error::SourceUnreadable(format!("{} is a socket, which cannot be taken", show_path(path))));
    }
    let mut run = Run::new(packer, chunker, options, lanes.len());
    let is_directory = stat.kind == FileType::Directory;
    let handle = match (&name, is_directory) {
        (Some(name), true) => source::open_directory(parent.as_fd(), name).map_err(gone)?,
        _ => parent,
    };
    let top = run.cache.as_ref().map_or(Place::default(), cache::Reader::top);
    let dir = Dir {
        parent: None,
        name: if is_directory { Box::default() } else { name.unwrap_or_default() },
        depth: 0,
        folder: options.selection.top(stat.dev),
        around: !is_directory,
        handle: Mutex::new(Some(Arc::new(handle))),
        work: Mutex::default(),
        waiting: AtomicUsize::new(1),
        dirty: AtomicBool::new(false),
    };
    if !is_directory {
        let below = options.selection.named.all();
        below.for_each(|path| run.unreadable(path.to_vec(), &rustix::io::Errno::NOTDIR.into()));
    }
    if let Some(path) = &options.new_cache {
        run.new_cache = Mutex::new(Some(cache::Writer::create(path)?));
    }
    crew::work(&run, lanes, Task::Directory(Arc::new(dir), top))?;
    let kind = match stat.kind {
        FileType::Directory => "directory",
        FileType::RegularFile => "file",
        _ => "other",
    };
    run.finish(&mut lanes[0], kind).map_err(|e| match e {
        // The root itself vanished or could not be read.
        Error::SourceUnreadable(why) => Error::SourceUnreadable(format!("cannot take {}: {why}", show_path(path))),
        other => other,
    })
}

/// Takes the contents of a file or block device, symbolic links followed.
pub fn take_device(packer: &Packer, chunker: &Chunker, lanes: &mut [Lane], path: &Path) -> Result<Taken> {
    let gone = |e: std::io::Error| source_error(path, &e);
    let file = source::open_path(path).map_err(gone)?;
    let stat = source::stat_fd(file.as_fd()).map_err(gone)?;
    if !matches!(stat.kind, FileType::RegularFile | FileType::BlockDevice) {
        return Err(Error::SourceUnreadable(format!("{} is neither a file nor a block device", show_path(path))));
    }
    let size = source::length(file.as_fd()).map_err(gone)?;
    let mut entry = entry_of(&stat, Box::default());
    entry.what = What::File { size, content: Content::Empty, holes: None };
    take_open(packer, chunker, lanes, file, entry, "image")
}

/// Takes everything that can be read from `stream` as a file with this mode and time.
pub fn take_stream(
    packer: &Packer,
    chunker: &Chunker,
    lanes: &mut [Lane],
    stream: OwnedFd,
    mode: u16,
    mtime: Time,
) -> Result<Taken> {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let what = What::File { size: u64::MAX, content: Content::Empty, holes: None };
    let entry = Entry { name: Box::default(), mode, uid, gid, mtime, what, xattrs: None };
    take_open(packer, chunker, lanes, stream, entry, "stream")
}

fn take_open(
    packer: &Packer,
    chunker: &Chunker,
    lanes: &mut [Lane],
    file: OwnedFd,
    entry: Entry,
    kind: &'static str,
) -> Result<Taken> {
    let options = Options::default();
    let run = Run::new(packer, chunker, &options, lanes.len());
    crew::work(&run, lanes, Task::Open(file, entry))?;
    run.finish(&mut lanes[0], kind)
}

/// The directory that holds `path`, and its name there; no name for `/` and paths that end in `.` or `..`.
fn split_root(path: &Path) -> (PathBuf, Option<Box<[u8]>>) {
    match (path.file_name(), path.parent()) {
        (Some(name), Some(parent)) => {
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            (parent.to_path_buf(), Some(name.as_bytes().into()))
        }
        _ => (path.to_path_buf(), None),
    }
}

fn source_error(path: &Path, error: &std::io::Error) -> Error {
    let text = format!("cannot take {}: {}", show_path(path), reason(error));
    match error.kind() {
        std::io::ErrorKind::NotFound => Error::SourceNotFound(text),
        _ => Error::SourceUnreadable(text),
    }
}

/// An entry without what must be read.
pub(crate) fn entry_of(stat: &Stat, name: Box<[u8]>) -> Entry {
    let what = match stat.kind {
        FileType::Directory => What::Directory(Directory::default()),
        FileType::Fifo => What::Fifo,
        FileType::CharacterDevice => What::CharDevice(stat.rdev.0, stat.rdev.1),
        FileType::BlockDevice => What::BlockDevice(stat.rdev.0, stat.rdev.1),
        _ => What::File { size: stat.size, content: Content::Empty, holes: None },
    };
    Entry { name, mode: stat.mode, uid: stat.uid, gid: stat.gid, mtime: stat.mtime, what, xattrs: None }
}

fn same_type(stat: &Stat, what: &What) -> bool {
    match what {
        What::File { size, .. } => stat.kind == FileType::RegularFile && stat.size == *size,
        What::Directory(_) => stat.kind == FileType::Directory,
        What::Symlink(_) => stat.kind == FileType::Symlink,
        What::Fifo => stat.kind == FileType::Fifo,
        What::CharDevice(..) => stat.kind == FileType::CharacterDevice,
        What::BlockDevice(..) => stat.kind == FileType::BlockDevice,
    }
}

/// False when a later change could leave the same times.
fn is_settled(stat: &Stat, read: Time) -> bool {
    let nanos = |time: Time| i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos);
    let near = |time: Time| (nanos(read) - nanos(time)).abs() <= RACY_NANOS;
    !near(stat.mtime) && !near(stat.ctime)
}

impl<'a> Run<'a> {
    fn new(packer: &'a Packer, chunker: &'a Chunker, options: &'a Options, workers: usize) -> Run<'a> {
        Run {
            packer,
            chunker,
            options,
            crew: Crew::new(packer, workers),
            cache: options.cache.as_deref().and_then(cache::Reader::open),
            new_cache: Mutex::new(None),
            links: Mutex::default(),
            report: Mutex::default(),
            root: Mutex::new(None),
            open_directories: Mutex::default(),
        }
    }
}

impl Job for Run<'_> {
    type Task = Task;

    fn crew(&self) -> &Crew<'_, Task> {
        &self.crew
    }

    fn run(&self, lane: &mut Lane, task: Task) -> Result<()> {
        match task {
            Task::Directory(dir, place) => self.scan(lane, dir, place),
            Task::Files(dir, files, range) => {
                self.read_files(lane, &dir, &files[range])?;
                self.part_done(lane, dir)
            }
            Task::LargeFile(dir, at, known) => {
                self.read_into_row(lane, &dir, at, known)?;
                self.part_done(lane, dir)
            }
            Task::Segment(segment) => segment.run(self.packer, self.chunker, lane),
            Task::Open(file, entry) => self.take_open(lane, file, entry),
        }
    }
}
