//! Taking a root: the walk over a source, merged with its stat cache, that becomes a tree of nodes.
//! source > **root** > directory > entry.
//!
//! Workers take directories depth first. A directory waits for its children and is then stored, bottom up; one whose
//! entries are all as the cache says is not even encoded again.

use std::collections::{BTreeSet, HashMap};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use ignore::gitignore::Gitignore;
use rustix::fs::FileType;

use crate::cache::{self, Place, Record, Row};
use crate::chunker::{Chunker, IN_PLACE_MAX};
use crate::content::{cut_arena, Crew, Fault, LargeFile, Segment};
use crate::error::{reason, show_path, Error, Result};
use crate::id::Id;
use crate::node::{self, content_of, Content, Directory, Entry, Link, List, Root, Sequence, Time, What, XattrSet, Xattrs};
use crate::packer::{Lane, Packer};
use crate::progress::add;
use crate::queue::Queue;
use crate::source::{self, Stat};

/// Files above this size are read by several workers.
const SHARED_FILE: u64 = 8 << 20;
/// Directories with more files to read than this are shared among workers.
const SHARED_FILES: usize = 512;
const FILES_AT_ONCE: usize = 128;
/// Directories held open at once; deeper ones are reached again from the nearest open one.
const OPEN_DIRECTORIES: usize = 256;
const MAX_DEPTH: u32 = 4096;
/// Paths listed in a result; more are only counted.
const MAX_LISTED: usize = 10_000;
/// An entry touched within so many seconds of its reading is read again next time.
const RACY_SECONDS: i64 = 2;

/// How a root is taken.
#[derive(Default)]
pub struct Options {
    pub cache: Option<PathBuf>,
    pub new_cache: Option<PathBuf>,
    pub exclude: Option<Gitignore>,
    pub one_file_system: bool,
    /// (device, inode) of directories never entered.
    pub skip: Vec<(u64, u64)>,
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
    pub sockets: u64,
    pub excluded: u64,
    pub mounts: u64,
    pub uids: BTreeSet<u32>,
    pub gids: BTreeSet<u32>,
    pub packs: Vec<u32>,
}

enum Task {
    Directory(Arc<Dir>, Place),
    Files(Arc<Dir>, Arc<Vec<(usize, Known)>>, std::ops::Range<usize>),
    LargeFile(Arc<Dir>, usize, Known),
    Segment(Segment),
    /// An open device or stream that is the root itself.
    Open(OwnedFd, Entry),
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
    root_dev: u64,
    queue: Queue<Task>,
    workers: usize,
    cache: Option<cache::Reader>,
    new_cache: Mutex<Option<cache::Writer>>,
    links: Mutex<HashMap<(u64, u64), Group>>,
    report: Mutex<Taken>,
    root: Mutex<Option<Row>>,
    open_directories: AtomicUsize,
    failure: Mutex<Option<Error>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic of another worker ends the run; what it held is not used any more.
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Takes `path`, of any type, as a root. A symbolic link is taken as such.
pub fn take_tree(packer: &Packer, chunker: &Chunker, lanes: &mut [Lane], path: &Path, options: &Options) -> Result<Taken> {
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
    let mut run = Run::new(packer, chunker, options, lanes.len(), stat.dev);
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
        around: !is_directory,
        handle: Mutex::new(Some(Arc::new(handle))),
        work: Mutex::default(),
        waiting: AtomicUsize::new(1),
        dirty: AtomicBool::new(false),
    };
    run.queue = Queue::new(lanes.len(), [Task::Directory(Arc::new(dir), top)]);
    if let Some(path) = &options.new_cache {
        run.new_cache = Mutex::new(Some(cache::Writer::create(path)?));
    }
    run.go(lanes)?;
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
pub fn take_stream(packer: &Packer, chunker: &Chunker, lanes: &mut [Lane], stream: OwnedFd, mode: u16, mtime: Time) -> Result<Taken> {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let what = What::File { size: u64::MAX, content: Content::Empty, holes: None };
    let entry = Entry { name: Box::default(), mode, uid, gid, mtime, what, xattrs: None };
    take_open(packer, chunker, lanes, stream, entry, "stream")
}

fn take_open(packer: &Packer, chunker: &Chunker, lanes: &mut [Lane], file: OwnedFd, entry: Entry, kind: &'static str) -> Result<Taken> {
    let options = Options::default();
    let mut run = Run::new(packer, chunker, &options, lanes.len(), 0);
    run.queue = Queue::new(lanes.len(), [Task::Open(file, entry)]);
    run.go(lanes)?;
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
fn entry_of(stat: &Stat, name: Box<[u8]>) -> Entry {
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
    let near = |time: Time| (read.seconds - time.seconds).abs() <= RACY_SECONDS;
    !near(stat.mtime) && !near(stat.ctime)
}

impl Dir {
    fn path(&self) -> Vec<u8> {
        self.path_to(&[])
    }

    /// The path of an entry, relative to the root.
    fn path_to(&self, name: &[u8]) -> Vec<u8> {
        if self.around {
            return Vec::new();
        }
        let mut parts: Vec<&[u8]> = vec![name];
        let mut dir = self;
        while let Some((parent, _)) = &dir.parent {
            parts.push(&dir.name);
            dir = parent;
        }
        parts.reverse();
        if name.is_empty() {
            parts.pop();
        }
        parts.join(&b'/')
    }
}

impl<'a> Run<'a> {
    fn new(packer: &'a Packer, chunker: &'a Chunker, options: &'a Options, workers: usize, root_dev: u64) -> Run<'a> {
        Run {
            packer,
            chunker,
            options,
            root_dev,
            queue: Queue::new(workers, []),
            workers,
            cache: options.cache.as_deref().and_then(cache::Reader::open),
            new_cache: Mutex::new(None),
            links: Mutex::default(),
            report: Mutex::default(),
            root: Mutex::new(None),
            open_directories: AtomicUsize::new(0),
            failure: Mutex::new(None),
        }
    }

    /// Works until all tasks are done or one has failed.
    fn go(&self, lanes: &mut [Lane]) -> Result<()> {
        std::thread::scope(|scope| {
            for (worker, lane) in lanes.iter_mut().enumerate() {
                scope.spawn(move || {
                    let work = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.work(worker, lane)));
                    if work.is_err() {
                        self.fail(Error::Internal("a worker panicked".into()));
                    }
                });
            }
        });
        match lock(&self.failure).take() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    fn work(&self, worker: usize, lane: &mut Lane) {
        while let Some(task) = self.queue.pop(worker) {
            if let Err(error) = self.run_task(worker, lane, task) {
                self.fail(error);
            }
            self.queue.finished();
        }
        if let Err(error) = lane.settle(self.packer) {
            self.fail(error);
        }
    }

    fn fail(&self, error: Error) {
        lock(&self.failure).get_or_insert(error);
        self.queue.stop();
    }

    fn run_task(&self, worker: usize, lane: &mut Lane, task: Task) -> Result<()> {
        self.packer.progress.check()?;
        match task {
            Task::Directory(dir, place) => self.scan(worker, lane, dir, place),
            Task::Files(dir, files, range) => {
                self.read_files(lane, &dir, &files[range])?;
                self.part_done(lane, dir)
            }
            Task::LargeFile(dir, at, known) => {
                self.read_into_row(lane, &dir, at, known)?;
                self.part_done(lane, dir)
            }
            Task::Segment(segment) => segment.run(self.packer, lane),
            Task::Open(file, entry) => self.take_open(lane, file, entry),
        }
    }

    // Directories

    fn scan(&self, worker: usize, lane: &mut Lane, dir: Arc<Dir>, place: Place) -> Result<()> {
        self.packer.progress.working_on(&dir.path());
        let handle = match self.open(&dir) {
            Ok(handle) => handle,
            Err(error) => {
                self.cannot_enter(&dir, &error)?;
                return self.part_done(lane, dir);
            }
        };
        let names = match self.begin(&dir, handle.as_fd()) {
            Ok(names) => names,
            Err(error) => {
                self.cannot_enter(&dir, &error)?;
                return self.part_done(lane, dir);
            }
        };
        let record = self.cache.as_ref().and_then(|cache| cache.record(place));
        let plan = self.compare(&dir, handle.as_fd(), names, record)?;
        drop(handle);
        self.start(worker, lane, dir, plan)
    }

    /// A directory that vanished is simply gone; one that cannot be read is recorded as empty and reported.
    fn cannot_enter(&self, dir: &Arc<Dir>, error: &std::io::Error) -> Result<()> {
        if dir.parent.is_none() {
            return Err(Error::SourceUnreadable(reason(error)));
        }
        dir.dirty.store(true, Ordering::Relaxed);
        if error.kind() != std::io::ErrorKind::NotFound {
            self.unreadable(dir.path(), error);
            return Ok(());
        }
        lock(&dir.work).stat = None;
        Ok(())
    }

    /// Stat and attributes of the directory itself, and its names.
    fn begin(&self, dir: &Arc<Dir>, handle: BorrowedFd) -> std::io::Result<Vec<Box<[u8]>>> {
        if dir.around {
            return Ok(vec![dir.name.clone()]);
        }
        let stat = source::stat_fd(handle)?;
        let mut work = lock(&dir.work);
        work.stat = Some(stat);
        let known = work.known.as_ref().filter(|row| row.trusted && row.ctime == stat.ctime && row.ino == stat.ino);
        work.xattrs = match known {
            Some(row) => row.entry.xattrs.clone(),
            None => self.short_xattrs(source::xattrs_fd(handle)?)?,
        };
        drop(work);
        source::list(handle)
    }

    fn compare(&self, dir: &Arc<Dir>, handle: BorrowedFd, names: Vec<Box<[u8]>>, mut record: Option<Record>) -> Result<Plan> {
        let now = source::now();
        let mut plan = Plan::default();
        let mut dirty = record.is_none();
        lock(&dir.work).stored = record.as_ref().map(|record| record.directory);
        let mut counts = Taken::default();
        for name in names {
            let stat = match source::stat_at(handle, &name) {
                Ok(stat) => stat,
                Err(error) => {
                    if error.kind() != std::io::ErrorKind::NotFound || dir.around {
                        self.unreadable(dir.path_to(&name), &error);
                    }
                    continue;
                }
            };
            if !self.selects(dir, &name, &stat, &mut counts) {
                continue;
            }
            let known = match (&mut record, &self.cache) {
                (Some(record), Some(cache)) => {
                    let (row, passed) = record.seek(cache, &name);
                    dirty |= passed;
                    row.filter(|row| same_type(&stat, &row.entry.what) || matches!(row.entry.what, What::File { .. }))
                }
                _ => None,
            };
            dirty |= known.is_none();
            dirty |= self.plan_entry(dir, handle, &mut plan, &mut counts, name, stat, known, now)?;
        }
        if let (Some(record), Some(cache)) = (&mut record, &self.cache) {
            dirty |= record.has_more(cache);
        }
        if dirty {
            dir.dirty.store(true, Ordering::Relaxed);
        }
        self.count(&counts);
        Ok(plan)
    }

    /// Whether the selection takes this entry.
    fn selects(&self, dir: &Arc<Dir>, name: &[u8], stat: &Stat, counts: &mut Taken) -> bool {
        if stat.kind == FileType::Socket {
            counts.sockets += 1;
            return false;
        }
        if dir.around {
            return true;
        }
        let is_directory = stat.kind == FileType::Directory;
        if is_directory && self.options.skip.contains(&(stat.dev, stat.ino)) {
            counts.excluded += 1;
            return false;
        }
        if let Some(rules) = &self.options.exclude {
            let path = dir.path_to(name);
            if rules.matched(Path::new(std::ffi::OsStr::from_bytes(&path)), is_directory).is_ignore() {
                counts.excluded += 1;
                return false;
            }
        }
        if self.options.one_file_system && stat.dev != self.root_dev && !is_directory {
            counts.mounts += 1;
            return false;
        }
        true
    }

    /// Adds one entry to the plan; true when it differs from what is known.
    #[allow(clippy::too_many_arguments)]
    fn plan_entry(
        &self,
        dir: &Arc<Dir>,
        handle: BorrowedFd,
        plan: &mut Plan,
        counts: &mut Taken,
        name: Box<[u8]>,
        stat: Stat,
        known: Option<Row>,
        now: Time,
    ) -> Result<bool> {
        let at = plan.rows.len();
        if stat.kind == FileType::Directory {
            counts.directories += 1;
            let other_mount = self.options.one_file_system && stat.dev != self.root_dev;
            if other_mount || dir.depth >= MAX_DEPTH {
                counts.mounts += u64::from(other_mount);
                if !other_mount {
                    self.unreadable(dir.path_to(&name), &std::io::Error::other("nested too deeply"));
                }
                plan.rows.push(Some(self.row(entry_of(&stat, name), &stat, now)));
                return Ok(known.is_none_or(|row| Some(&row.entry) != plan.rows[at].as_ref().map(|r| &r.entry)));
            }
            plan.rows.push(None);
            plan.directories.push((at, name, stat, known));
            return Ok(false);
        }
        let is_file = stat.kind == FileType::RegularFile;
        if is_file {
            counts.files += 1;
            add(&self.packer.progress.files, 1);
            add(&self.packer.progress.bytes, stat.size);
        }
        if stat.links > 1 {
            let path = dir.path_to(&name);
            lock(&self.links).entry((stat.dev, stat.ino)).or_default().paths.push(path);
        }
        let in_cache = known.is_some();
        if let Some(row) = known.filter(|row| self.is_unchanged(&stat, row)) {
            counts.unchanged_files += u64::from(is_file);
            if is_file {
                add(&self.packer.progress.done_files, 1);
                add(&self.packer.progress.done_bytes, stat.size);
            }
            plan.rows.push(Some(Row { ino: stat.ino, ..row }));
            return Ok(false);
        }
        if is_file {
            counts.changed_files += u64::from(in_cache);
            counts.new_files += u64::from(!in_cache);
            let mut row = self.row(entry_of(&stat, name), &stat, now);
            row.trusted = false;
            plan.rows.push(Some(row));
            plan.files.push((at, Known { stat, in_cache }));
            return Ok(true);
        }
        match self.special(handle, &stat, name) {
            Ok(entry) => plan.rows.push(Some(self.row(entry, &stat, now))),
            Err(Fault::Source(error)) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(Fault::Source(error)) => self.unreadable(dir.path(), &error),
            Err(Fault::Fatal(error)) => return Err(error),
        }
        Ok(true)
    }

    fn row(&self, entry: Entry, stat: &Stat, now: Time) -> Row {
        Row { entry, ino: stat.ino, ctime: stat.ctime, trusted: is_settled(stat, now), place: Place::default() }
    }

    fn is_unchanged(&self, stat: &Stat, row: &Row) -> bool {
        row.trusted
            && same_type(stat, &row.entry.what)
            && row.ctime == stat.ctime
            && row.entry.mtime == stat.mtime
            && (self.options.ignore_inode || row.ino == stat.ino)
    }

    /// A symbolic link, FIFO or device.
    fn special(&self, handle: BorrowedFd, stat: &Stat, name: Box<[u8]>) -> std::result::Result<Entry, Fault> {
        let mut entry = entry_of(stat, name);
        if stat.kind == FileType::Symlink {
            entry.what = What::Symlink(source::read_link(handle, &entry.name)?);
        }
        let set = source::xattrs_at(handle, &entry.name)?;
        entry.xattrs = self.short_xattrs(set)?;
        Ok(entry)
    }

    /// Attributes of things without content of their own; sets too long to stand in place are a file's privilege here.
    fn short_xattrs(&self, mut set: XattrSet) -> std::io::Result<Option<Box<Xattrs>>> {
        if set.is_empty() {
            return Ok(None);
        }
        let bytes = node::encode_xattrs(&mut set);
        if bytes.len() > node::XATTRS_IN_PLACE {
            return Err(std::io::Error::other("its extended attributes are longer than 4,096 bytes"));
        }
        Ok(Some(Box::new(Xattrs::InPlace(bytes.into()))))
    }

    /// Reads the files of a directory and sends its children on their way.
    fn start(&self, worker: usize, lane: &mut Lane, dir: Arc<Dir>, plan: Plan) -> Result<()> {
        let Plan { rows, directories, files } = plan;
        let (large, small): (Vec<_>, Vec<_>) = files.into_iter().partition(|(_, known)| known.stat.size >= SHARED_FILE);
        let shared = if small.len() > SHARED_FILES { small.len().div_ceil(FILES_AT_ONCE) } else { 0 };
        lock(&dir.work).rows = rows;
        dir.waiting.fetch_add(directories.len() + large.len() + shared, Ordering::Relaxed);
        for (at, name, stat, known) in directories.into_iter().rev() {
            let place = known.as_ref().map_or(Place::default(), |row| row.place);
            let child = Dir {
                parent: Some((dir.clone(), at)),
                name,
                depth: dir.depth + 1,
                around: false,
                handle: Mutex::default(),
                work: Mutex::new(Work { stat: Some(stat), known, ..Work::default() }),
                waiting: AtomicUsize::new(1),
                dirty: AtomicBool::new(false),
            };
            self.queue.push(worker, Task::Directory(Arc::new(child), place));
        }
        for (at, known) in large {
            self.queue.push(worker, Task::LargeFile(dir.clone(), at, known));
        }
        if shared > 0 {
            let small = Arc::new(small);
            for from in (0..small.len()).step_by(FILES_AT_ONCE).rev() {
                let range = from..(from + FILES_AT_ONCE).min(small.len());
                self.queue.push(worker, Task::Files(dir.clone(), small.clone(), range));
            }
        } else {
            self.read_files(lane, &dir, &small)?;
        }
        self.rest(&dir);
        self.part_done(lane, dir)
    }

    /// The directory's descriptor, opened from the nearest one that is held.
    fn open(&self, dir: &Arc<Dir>) -> std::io::Result<Arc<OwnedFd>> {
        let mut missing = Vec::new();
        let mut at = dir;
        let mut handle = loop {
            if let Some(handle) = lock(&at.handle).as_ref() {
                break handle.clone();
            }
            missing.push(at);
            match &at.parent {
                Some((parent, _)) => at = parent,
                None => return Err(std::io::Error::other("the root is closed")),
            }
        };
        for dir in missing.into_iter().rev() {
            handle = Arc::new(source::open_directory(handle.as_fd(), &dir.name)?);
        }
        let mut slot = lock(&dir.handle);
        if slot.is_none() {
            self.open_directories.fetch_add(1, Ordering::Relaxed);
            *slot = Some(handle.clone());
        }
        Ok(handle)
    }

    /// Closes a directory that waits, when many are open.
    fn rest(&self, dir: &Arc<Dir>) {
        if dir.parent.is_some() && self.open_directories.load(Ordering::Relaxed) > OPEN_DIRECTORIES {
            self.close(dir);
        }
    }

    fn close(&self, dir: &Arc<Dir>) {
        if lock(&dir.handle).take().is_some() && dir.parent.is_some() {
            self.open_directories.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// One part of `dir` is done; stores it when it was the last, and then perhaps its parents.
    fn part_done(&self, lane: &mut Lane, mut dir: Arc<Dir>) -> Result<()> {
        while dir.waiting.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.close(&dir);
            let row = self.store_directory(lane, &dir)?;
            let Some((parent, at)) = &dir.parent else {
                *lock(&self.root) = row;
                return Ok(());
            };
            let known = lock(&dir.work).known.take();
            let same = matches!((&known, &row), (Some(known), Some(row)) if known.entry == row.entry);
            if !same {
                parent.dirty.store(true, Ordering::Relaxed);
            }
            lock(&parent.work).rows[*at] = row;
            let parent = parent.clone();
            dir = parent;
        }
        Ok(())
    }

    /// The directory's nodes and its record in the new cache; its row for the parent, None when it vanished.
    fn store_directory(&self, lane: &mut Lane, dir: &Arc<Dir>) -> Result<Option<Row>> {
        let mut work = lock(&dir.work);
        let rows: Vec<Row> = std::mem::take(&mut work.rows).into_iter().flatten().collect();
        self.note_owners(&rows, work.stat.as_ref());
        if dir.around {
            let place = self.record(&Directory::default(), &rows)?;
            let row = rows.into_iter().next().ok_or_else(|| Error::SourceUnreadable("it cannot be read".into()))?;
            return Ok(Some(Row { place, ..row }));
        }
        let Some(stat) = work.stat else { return Ok(None) };
        let directory = match work.stored {
            Some(stored) if !dir.dirty.load(Ordering::Relaxed) => stored,
            _ => self.encode_directory(lane, &rows)?,
        };
        let place = self.record(&directory, &rows)?;
        let mut entry = entry_of(&stat, dir.name.clone());
        entry.what = What::Directory(directory);
        entry.xattrs = work.xattrs.take();
        Ok(Some(Row { place, ..self.row(entry, &stat, source::now()) }))
    }

    fn encode_directory(&self, lane: &mut Lane, rows: &[Row]) -> Result<Directory> {
        if rows.is_empty() {
            return Ok(Directory::default());
        }
        let mut directory = Directory { items: rows.len() as u64, ..Directory::default() };
        let mut emit = |node: Vec<u8>| lane.offer_node(self.packer, &node);
        let mut sequence = Sequence::of_nodes();
        for row in rows {
            let (entries, bytes) = row.entry.totals();
            directory.entries += entries;
            directory.bytes = directory.bytes.saturating_add(bytes).min(i64::MAX as u64);
            sequence.push(row.entry.clone(), &mut emit)?;
        }
        if let List::Node { id, .. } = sequence.finish(&mut emit)? {
            directory.node = Some(id);
        }
        Ok(directory)
    }

    fn record(&self, directory: &Directory, rows: &[Row]) -> Result<Place> {
        match lock(&self.new_cache).as_mut() {
            Some(writer) => writer.record(directory, rows),
            None => Ok(Place::default()),
        }
    }

    // Files

    fn read_files(&self, lane: &mut Lane, dir: &Arc<Dir>, files: &[(usize, Known)]) -> Result<()> {
        for (at, known) in files {
            self.read_into_row(lane, dir, *at, *known)?;
        }
        Ok(())
    }

    fn read_into_row(&self, lane: &mut Lane, dir: &Arc<Dir>, at: usize, known: Known) -> Result<()> {
        self.packer.progress.check()?;
        let Some(mut row) = lock(&dir.work).rows[at].take() else { return Ok(()) };
        match self.read_file(lane, dir, &mut row, &known.stat) {
            Ok(()) => lock(&dir.work).rows[at] = Some(row),
            // Gone since it was listed: then it is simply not there.
            Err(Fault::Source(error)) if error.kind() == std::io::ErrorKind::NotFound && !dir.around => self.forget(&known),
            Err(Fault::Source(error)) => {
                self.unreadable(dir.path_to(&row.entry.name), &error);
                self.forget(&known);
            }
            Err(Fault::Fatal(error)) => return Err(error),
        }
        add(&self.packer.progress.done_files, 1);
        Ok(())
    }

    fn forget(&self, known: &Known) {
        let mut report = lock(&self.report);
        report.files -= 1;
        match known.in_cache {
            true => report.changed_files -= 1,
            false => report.new_files -= 1,
        }
    }

    /// Reads a file; once more when it changed meanwhile, and then takes what there was.
    fn read_file(&self, lane: &mut Lane, dir: &Arc<Dir>, row: &mut Row, listed: &Stat) -> std::result::Result<(), Fault> {
        let handle = self.open(dir)?;
        let file = source::open_file(handle.as_fd(), &row.entry.name)?;
        drop(handle);
        let mut before = *listed;
        for last in [false, true] {
            let start = source::now();
            let (size, what) = match self.linked_content(&before) {
                Some(what) => (before.size, what),
                None => self.read_content(lane, file.as_fd(), before.size)?,
            };
            let after = source::stat_fd(file.as_fd())?;
            let same = before.same_content(&after) && size == after.size;
            if !same && !last {
                before = after;
                continue;
            }
            if !same {
                let mut report = lock(&self.report);
                if report.changed.len() < MAX_LISTED {
                    report.changed.push(dir.path_to(&row.entry.name));
                }
            }
            let mut entry = entry_of(&after, std::mem::take(&mut row.entry.name));
            entry.what = what;
            entry.xattrs = self.xattrs(lane, file.as_fd())?;
            *row = Row { trusted: same && is_settled(&after, start), ..self.row(entry, &after, start) };
            if after.links > 1 {
                let mut links = lock(&self.links);
                let group = links.entry((after.dev, after.ino)).or_default();
                group.content = Some((after, row.entry.what.clone()));
            }
            return Ok(());
        }
        Ok(())
    }

    /// The content of another name of the same inode that was read in this run.
    fn linked_content(&self, stat: &Stat) -> Option<What> {
        if stat.links <= 1 {
            return None;
        }
        let links = lock(&self.links);
        let (read, what) = links.get(&(stat.dev, stat.ino))?.content.as_ref()?;
        read.same_content(stat).then(|| what.clone())
    }

    fn read_content(&self, lane: &mut Lane, file: BorrowedFd, size: u64) -> std::result::Result<(u64, What), Fault> {
        let holes = if size > 0 { source::holes(file, size) } else { Vec::new() };
        let (size, content) = if size >= SHARED_FILE {
            let large = LargeFile::new(self.packer, self.chunker, self);
            let (list, size) = large.take_file(lane, file, size, &holes)?;
            (size, if size == 0 { Content::Empty } else { content_of(list) })
        } else {
            self.read_small(lane, file, size, &holes)?
        };
        let holes: Vec<_> = holes.into_iter().filter(|hole| hole.end <= size).collect();
        let holes = match holes.is_empty() {
            true => None,
            false => Some(Box::new(self.hole_map(lane, &holes)?)),
        };
        Ok((size, What::File { size, content, holes }))
    }

    fn hole_map(&self, lane: &mut Lane, holes: &[node::Hole]) -> Result<List<node::Hole>> {
        let mut emit = |node: Vec<u8>| lane.offer_node(self.packer, &node);
        let mut sequence = Sequence::of_list();
        for hole in holes {
            sequence.push(*hole, &mut emit)?;
        }
        sequence.finish(&mut emit)
    }

    /// Reads a whole file into the arena. One read more than its size would take shows whether it grew.
    fn read_small(&self, lane: &mut Lane, file: BorrowedFd, size: u64, holes: &[node::Hole]) -> std::result::Result<(u64, Content), Fault> {
        let start = lane.arena.len();
        let end = start + size as usize + 1;
        lane.arena.reserve(size as usize + 1);
        loop {
            let offset = (lane.arena.len() - start) as u64;
            match rustix::io::pread(file, rustix::buffer::spare_capacity(&mut lane.arena), offset) {
                Ok(0) => break,
                Ok(_) if lane.arena.len() >= end || lane.arena.len() + 1 == end => break,
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => {
                    lane.arena.truncate(start);
                    return Err(Fault::Source(error.into()));
                }
            }
        }
        // What a growing file has beyond the size it had is not ours; it is read again anyway.
        lane.arena.truncate(end.min(lane.arena.len()));
        let got = (lane.arena.len() - start) as u64;
        self.read(got);
        let content = self.arena_content(lane, start, &holes.iter().copied().filter(|h| h.end <= got).collect::<Vec<_>>())?;
        Ok((got, content))
    }

    /// Content that is whole in the arena from `start` on.
    fn arena_content(&self, lane: &mut Lane, start: usize, holes: &[node::Hole]) -> Result<Content> {
        let size = (lane.arena.len() - start) as u64;
        if size == 0 {
            return Ok(Content::Empty);
        }
        if size <= IN_PLACE_MAX {
            let bytes: Box<[u8]> = lane.arena[start..].into();
            lane.arena.truncate(start);
            return Ok(Content::InPlace(bytes));
        }
        Ok(content_of(cut_arena(self.packer, self.chunker, lane, start, holes)?))
    }

    fn xattrs(&self, lane: &mut Lane, file: BorrowedFd) -> std::result::Result<Option<Box<Xattrs>>, Fault> {
        let mut set = source::xattrs_fd(file)?;
        if set.is_empty() {
            return Ok(None);
        }
        let bytes = node::encode_xattrs(&mut set);
        if bytes.len() <= node::XATTRS_IN_PLACE {
            return Ok(Some(Box::new(Xattrs::InPlace(bytes.into()))));
        }
        let start = lane.arena.len();
        lane.arena.extend_from_slice(&bytes);
        let list = cut_arena(self.packer, self.chunker, lane, start, &[])?;
        Ok(Some(Box::new(Xattrs::Chunks { len: bytes.len() as u64, list })))
    }

    fn take_open(&self, lane: &mut Lane, file: OwnedFd, mut entry: Entry) -> Result<()> {
        let failed = |fault: Fault| match fault {
            Fault::Source(error) => Error::SourceUnreadable(format!("cannot read the source: {}", reason(&error))),
            Fault::Fatal(error) => error,
        };
        let size = match entry.what {
            What::File { size, .. } => size,
            _ => 0,
        };
        entry.what = if size == u64::MAX {
            let (size, content) = self.read_stream(lane, file.as_fd()).map_err(failed)?;
            What::File { size, content, holes: None }
        } else {
            self.read_content(lane, file.as_fd(), size).map_err(failed)?.1
        };
        let mut report = lock(&self.report);
        (report.files, report.new_files) = (1, 1);
        report.uids.insert(entry.uid);
        report.gids.insert(entry.gid);
        *lock(&self.root) = Some(Row { entry, ino: 0, ctime: Time::default(), trusted: false, place: Place::default() });
        Ok(())
    }

    fn read_stream(&self, lane: &mut Lane, stream: BorrowedFd) -> std::result::Result<(u64, Content), Fault> {
        let mut first = vec![0; crate::content::SEGMENT];
        let got = source::read_stream(stream, &mut first)?;
        self.read(got as u64);
        first.truncate(got);
        if got < crate::content::SEGMENT {
            let start = lane.arena.len();
            lane.arena.extend_from_slice(&first);
            return Ok((got as u64, self.arena_content(lane, start, &[])?));
        }
        let large = LargeFile::new(self.packer, self.chunker, self);
        let (list, size) = large.take_stream(lane, stream, first)?;
        Ok((size, content_of(list)))
    }

    // Results

    fn unreadable(&self, path: Vec<u8>, error: &std::io::Error) {
        add(&self.packer.progress.errors, 1);
        let mut report = lock(&self.report);
        report.unreadable_count += 1;
        if report.unreadable.len() < MAX_LISTED {
            report.unreadable.push((path, reason(error)));
        }
    }

    fn count(&self, counts: &Taken) {
        let mut report = lock(&self.report);
        report.files += counts.files;
        report.directories += counts.directories;
        report.new_files += counts.new_files;
        report.changed_files += counts.changed_files;
        report.unchanged_files += counts.unchanged_files;
        report.sockets += counts.sockets;
        report.excluded += counts.excluded;
        report.mounts += counts.mounts;
    }

    fn note_owners(&self, rows: &[Row], stat: Option<&Stat>) {
        let mut owners: Vec<(u32, u32)> = rows.iter().map(|row| (row.entry.uid, row.entry.gid)).collect();
        owners.extend(stat.map(|stat| (stat.uid, stat.gid)));
        owners.dedup();
        let mut report = lock(&self.report);
        for (uid, gid) in owners {
            report.uids.insert(uid);
            report.gids.insert(gid);
        }
    }

    /// The hard-link table: every path of a group but its smallest, with that smallest.
    fn link_table(&self, lane: &mut Lane) -> Result<Option<(u64, Id)>> {
        let mut links: Vec<Link> = Vec::new();
        for (_, group) in lock(&self.links).drain() {
            let mut paths = group.paths;
            paths.retain(|path| !path.is_empty());
            paths.sort_unstable();
            let mut paths = paths.into_iter();
            let Some(first) = paths.next() else { continue };
            links.extend(paths.map(|path| Link { path, first: first.clone() }));
        }
        if links.is_empty() {
            return Ok(None);
        }
        links.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        let mut emit = |node: Vec<u8>| lane.offer_node(self.packer, &node);
        let mut sequence = Sequence::of_nodes();
        for link in links {
            sequence.push(link, &mut emit)?;
        }
        match sequence.finish(&mut emit)? {
            List::Node { items, id } => Ok(Some((items, id))),
            List::InPlace(_) => Err(Error::Internal("a link table has nodes".into())),
        }
    }

    /// Stores the root node.
    fn finish(self, lane: &mut Lane, kind: &'static str) -> Result<Taken> {
        let row = lock(&self.root).take().ok_or_else(|| Error::SourceUnreadable("it vanished".into()))?;
        let links = self.link_table(lane)?;
        let mut entry = row.entry;
        entry.name = Box::default();
        let root = Root { entry, links };
        let id = lane.offer_node(self.packer, &root.encode())?;
        lane.settle(self.packer)?;
        if let Some(writer) = lock(&self.new_cache).take() {
            writer.finish(row.place)?;
        }
        let mut taken = std::mem::take(&mut *lock(&self.report));
        let (entries, bytes) = root.entry.totals();
        taken.id = Some(id);
        taken.kind = kind;
        taken.entries = entries;
        taken.bytes = bytes;
        taken.directories += u64::from(kind == "directory");
        taken.unreadable.sort();
        taken.changed.sort();
        taken.packs = self.packer.take_used();
        Ok(taken)
    }
}

#[derive(Default)]
struct Plan {
    rows: Vec<Option<Row>>,
    directories: Vec<(usize, Box<[u8]>, Stat, Option<Row>)>,
    files: Vec<(usize, Known)>,
}

impl Crew for Run<'_> {
    fn hand_out(&self, segment: Segment) {
        self.queue.push_urgent(Task::Segment(segment));
    }

    fn help(&self, lane: &mut Lane) -> Result<bool> {
        let Some(task) = self.queue.take_urgent() else { return Ok(false) };
        let done = match task {
            Task::Segment(segment) => segment.run(self.packer, lane),
            _ => Err(Error::Internal("only segments are urgent".into())),
        };
        self.queue.finished();
        done.map(|()| true)
    }

    fn allowance(&self) -> u64 {
        self.workers as u64 + 2
    }

    fn check(&self) -> Result<()> {
        self.packer.progress.check()?;
        if self.queue.is_stopped() {
            return Err(Error::Cancelled);
        }
        Ok(())
    }

    fn read(&self, bytes: u64) {
        self.skipped(bytes);
        lock(&self.report).read_bytes += bytes;
    }

    fn skipped(&self, bytes: u64) {
        add(&self.packer.progress.done_bytes, bytes);
    }
}
