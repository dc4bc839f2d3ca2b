//! What is different between a tree and a directory of the system. Symbolic links are never followed, and nothing but
//! directories and regular files is ever opened.

use std::cmp::Ordering;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{seek, FileType, SeekFrom};
use rustix::io::Errno;

use crate::chunker::is_zero;
use crate::diff::{fields, metadata, same_type, Change, Fields};
use crate::error::{reason, show_path, Error, Result};
use crate::id::ZERO_ID;
use crate::node::{Content, Entry, What, XattrSet};
use crate::reader::{Reader, Runs};
use crate::select::{Folder, Inside, Selection};
use crate::source::{self, Fault, Stat};
use crate::take::entry_of;
use crate::walk::{check_depth, join, Entries, Pace, BATCH};

/// Directories that are held open; those deeper are opened anew from the last of these.
const MAX_OPEN: usize = 200;
const PIECE: usize = 1 << 20;

/// When the content of a file is compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Doubt {
    /// When the size is the same, but not the time of the last change.
    Time,
    /// Whenever the size is the same.
    Always,
}

struct Level {
    path: Vec<u8>,
    /// What counts of what the tree has not; none where nothing is on disk.
    inside: Option<Inside>,
    name: Box<[u8]>,
    old: Entries,
    names: std::iter::Peekable<std::vec::IntoIter<Box<[u8]>>>,
    handle: Option<Arc<OwnedFd>>,
}

/// A directory on disk, its names, and which of them count.
struct Opened {
    handle: OwnedFd,
    names: Vec<Box<[u8]>>,
    inside: Inside,
}

/// What is compared first: what the tree has, and the name in an open directory.
struct Top {
    old: Entry,
    parent: OwnedFd,
    name: Box<[u8]>,
}

/// What is compared with what is on disk, and what new things count there.
pub struct Stored {
    pub old: Entry,
    /// The path by which it is called.
    pub shown: Vec<u8>,
    /// Its path below its root, from which rules count.
    pub below: Vec<u8>,
    /// Where that root is on disk, if it is.
    pub root: Option<PathBuf>,
    pub selection: Arc<Selection>,
}

/// A comparison that is under way.
pub struct LiveDiff {
    top: Option<Top>,
    shown: Vec<u8>,
    below: Vec<u8>,
    selection: Arc<Selection>,
    /// What to know of the directory that is compared first.
    folder: Folder,
    scratch: Vec<u8>,
    levels: Vec<Level>,
    ignore: Fields,
    doubt: Doubt,
    found: VecDeque<Change>,
    /// Where on disk it is.
    place: Vec<u8>,
    /// Paths on disk of the staging directories that were met: restores that are not finished.
    pub unfinished: Vec<Vec<u8>>,
}

impl LiveDiff {
    /// Compares what is stored with what is at `path`, whose last component is not followed.
    pub fn new(stored: Stored, path: &Path, ignore: Fields, doubt: Doubt) -> Result<LiveDiff> {
        use std::os::unix::ffi::OsStrExt;
        let name: Box<[u8]> = path.file_name().map_or(&b"."[..], |name| name.as_bytes()).into();
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            Some(_) => Path::new("."),
            None => Path::new("/"),
        };
        let failed = |e: io::Error| Error::SourceNotFound(format!("cannot read {}: {}", show_path(path), reason(&e)));
        let parent = source::open_path(parent).map_err(failed)?;
        let dev = source::stat_at(parent.as_fd(), &name).map_err(failed)?.dev;
        let Stored { old, shown, below, root, selection } = stored;
        let folder = match root {
            Some(root) => selection.way(&root, &below).map_err(failed)?,
            None => selection.top(dev),
        };
        let top = Some(Top { old, parent, name });
        let (levels, scratch, found) = (Vec::new(), Vec::new(), VecDeque::new());
        let (place, unfinished) = (path.as_os_str().as_bytes().to_vec(), Vec::new());
        Ok(LiveDiff { top, shown, below, selection, folder, scratch, levels, ignore, doubt, found, place, unfinished })
    }

    /// The path on disk of a name in something that is shown as `path`.
    fn path_on_disk(&self, path: &[u8], name: &[u8]) -> Vec<u8> {
        let rest = path[self.shown.len()..].strip_prefix(b"/").unwrap_or(&path[self.shown.len()..]);
        match rest {
            b"" => join(&self.place, name),
            rest => join(&join(&self.place, rest), name),
        }
    }

    /// The path from the root of something that is shown as `path`.
    fn path_in_root(&self, path: &[u8]) -> Vec<u8> {
        let rest = &path[self.shown.len()..];
        match rest.strip_prefix(b"/").unwrap_or(rest) {
            b"" => self.below.clone(),
            rest => join(&self.below, rest),
        }
    }

    /// The next differences, sorted by path, a directory before what is in it; None at the end.
    pub fn batch(&mut self, reader: &Reader, pace: &mut Pace) -> Result<Option<Vec<Change>>> {
        loop {
            pace.tick()?;
            if pace.is_due(self.found.len()) || !self.step(reader, pace)? {
                break;
            }
        }
        let count = self.found.len().min(BATCH);
        Ok((count > 0).then(|| self.found.drain(..count).collect()))
    }

    /// Compares the next name; false at the end.
    fn step(&mut self, reader: &Reader, pace: &mut Pace) -> Result<bool> {
        let Some(level) = self.levels.last_mut() else {
            let Some(Top { old, parent, name }) = self.top.take() else { return Ok(false) };
            self.compare(reader, pace, self.shown.clone(), Some(old), parent.as_fd(), name)?;
            return Ok(true);
        };
        let order = match (level.old.peek(reader)?, level.names.peek()) {
            (None, None) => {
                self.levels.pop();
                return Ok(true);
            }
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(old), Some(name)) => old.name.cmp(name),
        };
        let old = if order == Ordering::Greater { None } else { level.old.next(reader)? };
        if old.is_none() && level.inside.as_ref().is_some_and(Inside::is_closed) {
            level.names.next();
            return Ok(true);
        }
        let name = if order == Ordering::Less { None } else { level.names.next() };
        let shown = name.as_deref().or(old.as_ref().map(|old| &*old.name)).unwrap_or_default();
        let path = join(&level.path, shown);
        match name {
            None => self.removed(reader, path, old)?,
            Some(name) => match self.handle() {
                Ok(handle) => self.compare(reader, pace, path, old, handle.as_fd(), name)?,
                Err(error) => self.unreadable(path, old, None, &error),
            },
        }
        Ok(true)
    }

    /// The directory of the last level, open.
    fn handle(&mut self) -> io::Result<Arc<OwnedFd>> {
        let Some(held) = self.levels.iter().rposition(|level| level.handle.is_some()) else {
            return Err(io::Error::other("the directory is not open"));
        };
        let mut handle = self.levels[held].handle.clone().expect("just found");
        for level in &self.levels[held + 1..] {
            handle = Arc::new(source::open_directory(handle.as_fd(), &level.name)?);
        }
        Ok(handle)
    }

    fn change(&mut self, path: Vec<u8>, old: Option<Entry>, new: Option<Entry>, found: Fields) {
        self.found.push_back(Change::between(path, old, new, found));
    }

    fn unreadable(&mut self, path: Vec<u8>, old: Option<Entry>, new: Option<Entry>, error: &io::Error) {
        let error = Some(reason(error));
        self.found.push_back(Change { error, ..Change::between(path, old, new, Fields::default()) });
    }

    /// Something, and what is below it, that is there no more.
    fn removed(&mut self, reader: &Reader, path: Vec<u8>, old: Option<Entry>) -> Result<()> {
        if old.as_ref().and_then(Entry::directory).is_some() {
            self.enter(reader, path.clone(), Box::default(), old.as_ref(), None)?;
        }
        self.change(path, old, None, Fields::default());
        Ok(())
    }

    /// Goes on with what is below: on the side of the tree `old`, on that of the system an open directory.
    fn enter(
        &mut self,
        reader: &Reader,
        path: Vec<u8>,
        name: Box<[u8]>,
        old: Option<&Entry>,
        live: Option<Opened>,
    ) -> Result<()> {
        check_depth(self.levels.len(), &path)?;
        let (handle, names, inside) = match live {
            Some(Opened { handle, names, inside }) => (Some(handle), names, Some(inside)),
            None => (None, Vec::new(), None),
        };
        let handle = handle.filter(|_| self.levels.len() < MAX_OPEN).map(Arc::new);
        let old = Entries::below(reader, old);
        self.levels.push(Level { path, inside, name, old, names: names.into_iter().peekable(), handle });
        Ok(())
    }

    /// Opens a directory on disk, and begins the selection among its names.
    fn open(&mut self, dir: BorrowedFd, name: &[u8], path: &[u8], folder: &Folder) -> io::Result<Opened> {
        let handle = source::open_directory(dir, name)?;
        let (staging, names): (Vec<_>, Vec<_>) =
            source::list(handle.as_fd())?.into_iter().partition(|name| source::is_staging(name));
        self.unfinished.extend(staging.iter().map(|name| self.path_on_disk(path, name)).collect::<Vec<_>>());
        let inside = self.selection.enter(folder, || self.path_in_root(path), handle.as_fd(), &names);
        Ok(Opened { handle, names, inside })
    }

    /// Whether what is new at `name` counts, and what to know of it when it is a directory.
    fn decide(&mut self, name: &[u8], stat: &Stat) -> (bool, Folder) {
        match self.levels.last().and_then(|level| level.inside.as_ref()) {
            None => (true, self.folder.clone()),
            Some(inside) if stat.kind == FileType::Directory => inside.descend(&mut self.scratch, name, stat),
            Some(inside) => (inside.decide(&mut self.scratch, name, stat).0, Folder::default()),
        }
    }

    fn compare(
        &mut self,
        reader: &Reader,
        pace: &mut Pace,
        path: Vec<u8>,
        old: Option<Entry>,
        dir: BorrowedFd,
        name: Box<[u8]>,
    ) -> Result<()> {
        let stat = match source::stat_at(dir, &name) {
            Ok(stat) if stat.kind == FileType::Socket => {
                return old.map_or(Ok(()), |old| self.removed(reader, path, Some(old)))
            }
            Ok(stat) => stat,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return old.map_or(Ok(()), |old| self.removed(reader, path, Some(old)));
            }
            Err(error) => {
                self.unreadable(path, old, None, &error);
                return Ok(());
            }
        };
        let (counts, folder) = self.decide(&name, &stat);
        if old.is_none() && !counts {
            return Ok(());
        }
        let new = match live_entry(dir, &name, &stat) {
            Ok(new) => new,
            Err(error) => {
                self.unreadable(path, old, None, &error);
                return Ok(());
            }
        };
        if stat.kind == FileType::Directory || old.as_ref().is_some_and(|old| old.directory().is_some()) {
            let filled = old.as_ref().and_then(Entry::directory).is_some_and(|old| old.items > 0);
            let opened = match stat.kind {
                // A mount that is not entered may not even answer.
                FileType::Directory if folder.is_closed() && !filled => None,
                FileType::Directory => match self.open(dir, &name, &path, &folder) {
                    Ok(live) => Some(live),
                    Err(error) => {
                        self.unreadable(path, old, Some(new), &error);
                        return Ok(());
                    }
                },
                _ => None,
            };
            self.enter(reader, path.clone(), name.clone(), old.as_ref(), opened)?;
        }
        let same = old.as_ref().filter(|old| same_type(old, &new));
        let Some(same) = same else {
            self.change(path, old, Some(new), Fields::default());
            return Ok(());
        };
        match self.fields(reader, pace, dir, same, &new) {
            Ok(found) => {
                let found = found.without(self.ignore);
                if !found.is_empty() {
                    self.change(path, old, Some(new), found);
                }
            }
            Err(Fault::Source(error)) => self.unreadable(path, old, Some(new), &error),
            Err(Fault::Fatal(error)) => return Err(error),
        }
        Ok(())
    }

    /// What is different. The content of a file is compared only where there is doubt.
    fn fields(
        &self,
        reader: &Reader,
        pace: &mut Pace,
        dir: BorrowedFd,
        old: &Entry,
        new: &Entry,
    ) -> source::Read<Fields> {
        let mut found = match &old.what {
            What::File { .. } => metadata(old, new),
            _ => fields(old, new).without(Fields::XATTRS),
        };
        if let (What::File { size, content, .. }, What::File { size: new_size, .. }) = (&old.what, &new.what) {
            let doubtful = self.doubt == Doubt::Always || old.mtime != new.mtime;
            let same = size == new_size && (!doubtful || holds(reader, pace, dir, &new.name, content, *size)?);
            found.add(!same, Fields::CONTENT);
        }
        if !self.ignore.has_any(Fields::XATTRS) {
            let live = source::xattrs_at(dir, &new.name)?;
            found.add(sorted(live) != reader.xattrs(old).map_err(Fault::Fatal)?, Fields::XATTRS);
        }
        Ok(found)
    }
}

fn sorted(mut set: XattrSet) -> XattrSet {
    set.sort();
    set
}

/// What is at `name`, without the content of files and directories, and without attributes.
fn live_entry(dir: BorrowedFd, name: &[u8], stat: &Stat) -> io::Result<Entry> {
    let mut entry = entry_of(stat, name.into());
    if stat.kind == FileType::Symlink {
        entry.what = What::Symlink(source::read_link(dir, name)?);
    }
    Ok(entry)
}

/// Whether a file of `size` bytes holds `content`: every piece of it has the id that the tree says.
fn holds(
    reader: &Reader,
    pace: &mut Pace,
    dir: BorrowedFd,
    name: &[u8],
    content: &Content,
    size: u64,
) -> source::Read<bool> {
    let file = source::open_file(dir, name)?;
    let stat = source::stat_fd(file.as_fd())?;
    if stat.kind != FileType::RegularFile || stat.size != size {
        return Ok(false);
    }
    let mut buffer = Vec::new();
    if let Content::InPlace(bytes) = content {
        return Ok(read(&file, 0, bytes.len(), &mut buffer)? && *buffer == **bytes);
    }
    let mut runs = Runs::new(content, size);
    while let Some(run) = runs.next(reader)? {
        let mut at = run.offset;
        for chunk in &run.chunks {
            pace.tick()?;
            let same = match chunk.id {
                ZERO_ID => is_zero_between(&file, pace, at, at + chunk.len, &mut buffer)?,
                id => read(&file, at, chunk.len as usize, &mut buffer)? && reader.is_chunk(&id, &buffer),
            };
            if !same {
                return Ok(false);
            }
            at += chunk.len;
        }
    }
    Ok(true)
}

/// Holes are passed over where the system knows them.
fn is_zero_between(file: &OwnedFd, pace: &mut Pace, start: u64, end: u64, buffer: &mut Vec<u8>) -> source::Read<bool> {
    let mut at = start;
    while at < end {
        pace.tick()?;
        at = match seek(file, SeekFrom::Data(at)) {
            Ok(data) => data,
            Err(Errno::NXIO) => return Ok(true),
            Err(_) => at,
        };
        if at >= end {
            return Ok(true);
        }
        let len = (end - at).min(PIECE as u64) as usize;
        if !read(file, at, len, buffer)? || !is_zero(buffer) {
            return Ok(false);
        }
        at += len as u64;
    }
    Ok(true)
}

/// Reads `len` bytes; false when the file has become shorter.
fn read(file: &OwnedFd, offset: u64, len: usize, buffer: &mut Vec<u8>) -> io::Result<bool> {
    buffer.resize(len, 0);
    Ok(source::read_at(file.as_fd(), buffer, offset)? == len)
}
