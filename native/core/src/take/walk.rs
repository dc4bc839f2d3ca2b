//! Directories: listed, compared with the stat cache, and stored bottom up when their children are done.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use rustix::fs::FileType;

use super::file::SHARED_FILE;
use super::{entry_of, is_settled, same_type, Dir, Known, Run, Taken, Task, Work};
use crate::cache::{Place, Record, Row};
use crate::error::{reason, Error, Result};
use crate::lock::lock;
use crate::node::{check_name, Directory, Entry, List, Sequence, Time, What, MAX_TARGET_LEN};
use crate::packer::Lane;
use crate::progress::add;
use crate::select::{Folder, Inside, Why};
use crate::source::{self, Fault, Read, Stat};
use crate::walk::join;

/// Directories with more files to read than this are shared among workers.
const SHARED_FILES: usize = 512;
const FILES_AT_ONCE: usize = 128;
/// Directories held open at once; others are reached again from the nearest open one.
const OPEN_DIRECTORIES: usize = 256;
/// How many directories of such a way are held open too: their other entries come soon.
const KEPT_AT_ONCE: usize = 64;
const MAX_DEPTH: u32 = 4096;

/// A directory in a directory: its place among the rows, and what is known of it.
struct Below {
    at: usize,
    name: Box<[u8]>,
    stat: Stat,
    known: Option<Row>,
    folder: Folder,
}

/// How an entry is taken.
enum Selected {
    Directory(Folder),
    /// A directory of another file system, without what is in it.
    Mount,
    Entry,
}

/// What a directory's entries need.
#[derive(Default)]
struct Plan {
    rows: Vec<Option<Row>>,
    directories: Vec<Below>,
    files: Vec<(usize, Known)>,
}

impl Dir {
    pub(super) fn path(&self) -> Vec<u8> {
        self.path_to(&[])
    }

    /// The path of an entry, relative to the root.
    pub(super) fn path_to(&self, name: &[u8]) -> Vec<u8> {
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

impl Run<'_> {
    pub(super) fn scan(&self, lane: &mut Lane, dir: Arc<Dir>, place: Place) -> Result<()> {
        self.packer.progress.working_on(&dir.path());
        let handle = match self.open(&dir) {
            Ok(handle) => handle,
            Err(error) => {
                self.cannot_enter(&dir, &error)?;
                return self.part_done(lane, dir);
            }
        };
        let names = match self.begin(lane, &dir, handle.as_fd()) {
            Ok(names) => names,
            Err(Fault::Fatal(error)) => return Err(error),
            Err(Fault::Source(error)) => {
                self.cannot_enter(&dir, &error)?;
                return self.part_done(lane, dir);
            }
        };
        let record = self.cache.as_ref().and_then(|cache| cache.record(place));
        let plan = self.compare(lane, &dir, handle.as_fd(), names, record)?;
        drop(handle);
        self.start(lane, dir, plan)
    }

    /// A directory that vanished is simply gone; one that cannot be read is recorded as empty and reported.
    fn cannot_enter(&self, dir: &Arc<Dir>, error: &std::io::Error) -> Result<()> {
        if dir.parent.is_none() {
            return Err(Error::SourceUnreadable(reason(error)));
        }
        dir.dirty.store(true, Ordering::Relaxed);
        if error.kind() != std::io::ErrorKind::NotFound || dir.folder.is_named() {
            self.unreadable(dir.path(), error);
            return Ok(());
        }
        lock(&dir.work).stat = None;
        Ok(())
    }

    /// Stat and attributes of the directory itself, and its names.
    fn begin(&self, lane: &mut Lane, dir: &Arc<Dir>, handle: BorrowedFd) -> Read<Vec<Box<[u8]>>> {
        if dir.around {
            return Ok(vec![dir.name.clone()]);
        }
        let stat = source::stat_fd(handle)?;
        let mut work = lock(&dir.work);
        work.stat = Some(stat);
        let known = work.known.as_ref().filter(|row| row.trusted && row.ctime == stat.ctime && row.ino == stat.ino);
        work.xattrs = match known {
            Some(row) => row.entry.xattrs.clone(),
            None => self.xattrs(lane, source::xattrs_fd(handle)?)?,
        };
        drop(work);
        Ok(source::list(handle)?)
    }

    fn compare(
        &self,
        lane: &mut Lane,
        dir: &Arc<Dir>,
        handle: BorrowedFd,
        mut names: Vec<Box<[u8]>>,
        mut record: Option<Record>,
    ) -> Result<Plan> {
        let now = source::now();
        let mut plan = Plan::default();
        let mut dirty = record.is_none();
        lock(&dir.work).stored = record.as_ref().map(|record| record.directory);
        let mut counts = Taken::default();
        names.retain(|name| dir.around || !self.is_unfinished(dir, name));
        let inside = self.enter(dir, handle, &mut names, &mut counts);
        let mut scratch = Vec::new();
        for name in names {
            if !dir.around && !check_name(&name) {
                self.unreadable(dir.path_to(&name), &std::io::Error::other("its name has more than 255 bytes"));
                continue;
            }
            let stat = match source::stat_at(handle, &name) {
                Ok(stat) => stat,
                Err(error) => {
                    if error.kind() != std::io::ErrorKind::NotFound || dir.around {
                        self.unreadable(dir.path_to(&name), &error);
                    }
                    continue;
                }
            };
            let Some(selected) = self.select(&inside, &mut scratch, &name, &stat, &mut counts) else { continue };
            let known = match (&mut record, &self.cache) {
                (Some(record), Some(cache)) => {
                    let (row, passed) = record.seek(cache, &name);
                    dirty |= passed;
                    row.filter(|row| same_type(&stat, &row.entry.what) || matches!(row.entry.what, What::File { .. }))
                }
                _ => None,
            };
            dirty |= known.is_none();
            dirty |= self.plan_entry(lane, dir, handle, &mut plan, &mut counts, name, stat, known, selected, now)?;
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

    /// The path of a directory by which rules know it.
    fn seen(&self, dir: &Dir) -> Vec<u8> {
        match (&self.options.below[..], dir.path()) {
            (b"", path) => path,
            (below, path) if path.is_empty() => below.to_vec(),
            (below, path) => join(below, &path),
        }
    }

    /// Whether a name is that of a restore's staging directory, which is noted and not taken.
    fn is_unfinished(&self, dir: &Arc<Dir>, name: &[u8]) -> bool {
        let is_staging = source::is_staging(name);
        if is_staging {
            lock(&self.report).unfinished.push(dir.path_to(name));
        }
        is_staging
    }

    /// Begins the selection among a directory's names; none for what stands around a root.
    fn enter(
        &self,
        dir: &Arc<Dir>,
        handle: BorrowedFd,
        names: &mut Vec<Box<[u8]>>,
        counts: &mut Taken,
    ) -> Option<Inside> {
        if dir.around {
            return None;
        }
        let mut inside = self.options.selection.enter(&dir.folder, || self.seen(dir), handle, names);
        counts.excluded += inside.keep(names);
        for (path, error) in inside.missing.drain(..).chain(inside.broken.take()) {
            self.unreadable(path, &error);
        }
        Some(inside)
    }

    /// How an entry is taken, if it is.
    fn select(
        &self,
        inside: &Option<Inside>,
        scratch: &mut Vec<u8>,
        name: &[u8],
        stat: &Stat,
        counts: &mut Taken,
    ) -> Option<Selected> {
        let Some(inside) = inside else { return Some(Selected::Entry) };
        let (taken, why) = inside.decide(scratch, name, stat);
        for (path, error) in inside.lost(name, stat, &why) {
            self.unreadable(path, &error);
        }
        if !taken {
            match why {
                Why::Socket => counts.sockets += 1,
                Why::Mount => counts.mounts += 1,
                Why::Unnamed | Why::NoDirectory => {}
                _ => counts.excluded += 1,
            }
            return None;
        }
        Some(match stat.kind {
            FileType::Directory if inside.stays_outside(name, stat) => Selected::Mount,
            FileType::Directory => Selected::Directory(inside.below(scratch, name, stat)),
            _ => Selected::Entry,
        })
    }

    /// Adds one entry to the plan; true when it differs from what is known.
    #[allow(clippy::too_many_arguments)]
    fn plan_entry(
        &self,
        lane: &mut Lane,
        dir: &Arc<Dir>,
        handle: BorrowedFd,
        plan: &mut Plan,
        counts: &mut Taken,
        name: Box<[u8]>,
        stat: Stat,
        known: Option<Row>,
        selected: Selected,
        now: Time,
    ) -> Result<bool> {
        let at = plan.rows.len();
        if stat.kind == FileType::Directory {
            counts.directories += 1;
            if dir.depth >= MAX_DEPTH {
                self.unreadable(dir.path_to(&name), &std::io::Error::other("nested too deeply"));
                return Ok(true);
            }
            let Selected::Directory(folder) = selected else {
                counts.mounts += 1;
                plan.rows.push(Some(self.row(entry_of(&stat, name), &stat, now)));
                return Ok(known.is_none_or(|row| Some(&row.entry) != plan.rows[at].as_ref().map(|r| &r.entry)));
            };
            plan.rows.push(None);
            plan.directories.push(Below { at, name, stat, known, folder });
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
        match self.special(lane, handle, &stat, name.clone()) {
            Ok(entry) => plan.rows.push(Some(self.row(entry, &stat, now))),
            Err(Fault::Fatal(error)) => return Err(error),
            Err(Fault::Source(error)) => {
                let path = dir.path_to(&name);
                self.unlink(&stat, &path);
                if error.kind() != std::io::ErrorKind::NotFound {
                    self.unreadable(path, &error);
                }
            }
        }
        Ok(true)
    }

    pub(super) fn row(&self, entry: Entry, stat: &Stat, now: Time) -> Row {
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
    fn special(&self, lane: &mut Lane, handle: BorrowedFd, stat: &Stat, name: Box<[u8]>) -> Read<Entry> {
        let mut entry = entry_of(stat, name);
        if stat.kind == FileType::Symlink {
            let target = source::read_link(handle, &entry.name)?;
            if target.is_empty() || target.len() > MAX_TARGET_LEN {
                return Err(Fault::Source(std::io::Error::other("it leads nowhere, or its target is too long")));
            }
            entry.what = What::Symlink(target);
        }
        let set = source::xattrs_at(handle, &entry.name)?;
        entry.xattrs = self.xattrs(lane, set)?;
        Ok(entry)
    }

    /// Reads the files of a directory and sends its children on their way.
    fn start(&self, lane: &mut Lane, dir: Arc<Dir>, plan: Plan) -> Result<()> {
        let Plan { rows, directories, files } = plan;
        let is_large = |known: &Known| known.stat.size >= SHARED_FILE;
        let large: Vec<_> = files.iter().filter(|(_, known)| is_large(known)).copied().collect();
        let mut small = files; // in place: there may be millions
        small.retain(|(_, known)| !is_large(known));
        let shared = if small.len() > SHARED_FILES { small.len().div_ceil(FILES_AT_ONCE) } else { 0 };
        lock(&dir.work).rows = rows;
        dir.waiting.fetch_add(directories.len() + large.len() + shared, Ordering::Relaxed);
        for Below { at, name, stat, known, folder } in directories.into_iter().rev() {
            let place = known.as_ref().map_or(Place::default(), |row| row.place);
            let child = Dir {
                parent: Some((dir.clone(), at)),
                name,
                depth: dir.depth + 1,
                folder,
                around: false,
                handle: Mutex::default(),
                work: Mutex::new(Work { stat: Some(stat), known, ..Work::default() }),
                waiting: AtomicUsize::new(1),
                dirty: AtomicBool::new(false),
            };
            self.crew.push(lane, Task::Directory(Arc::new(child), place));
        }
        for (at, known) in large {
            self.crew.push(lane, Task::LargeFile(dir.clone(), at, known));
        }
        if shared > 0 {
            let small = Arc::new(small);
            for from in (0..small.len()).step_by(FILES_AT_ONCE).rev() {
                let range = from..(from + FILES_AT_ONCE).min(small.len());
                self.crew.push(lane, Task::Files(dir.clone(), small.clone(), range));
            }
        } else {
            self.read_files(lane, &dir, &small)?;
        }
        self.part_done(lane, dir)
    }

    /// The directory's descriptor, opened from the nearest one that is held.
    pub(super) fn open(&self, dir: &Arc<Dir>) -> std::io::Result<Arc<OwnedFd>> {
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
        let count = missing.len();
        for (opened, dir) in missing.into_iter().rev().enumerate() {
            handle = Arc::new(source::open_directory(handle.as_fd(), &dir.name)?);
            if count - opened <= KEPT_AT_ONCE {
                self.keep_open(dir, &handle);
            }
        }
        Ok(handle)
    }

    /// Holds a directory open; the one that has been open for longest is closed when there are many. The way down a deep tree
    /// begins at the newest, and so does each part of the way up.
    fn keep_open(&self, dir: &Arc<Dir>, handle: &Arc<OwnedFd>) {
        lock(&dir.handle).get_or_insert_with(|| handle.clone());
        let mut open = lock(&self.open_directories);
        open.push_back(Arc::downgrade(dir));
        let oldest = if open.len() > OPEN_DIRECTORIES { open.pop_front() } else { None };
        drop(open);
        if let Some(oldest) = oldest.and_then(|oldest| oldest.upgrade()) {
            self.close(&oldest);
        }
    }

    fn close(&self, dir: &Arc<Dir>) {
        if dir.parent.is_some() {
            lock(&dir.handle).take();
        }
    }

    /// One part of `dir` is done; stores it when it was the last, and then perhaps its parents.
    pub(super) fn part_done(&self, lane: &mut Lane, mut dir: Arc<Dir>) -> Result<()> {
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
        let mut rows = std::mem::take(&mut work.rows);
        rows.retain(Option::is_some);
        self.note_owners(&rows, work.stat.as_ref());
        if dir.around {
            let place = self.record(&Directory::default(), &rows)?;
            let row =
                rows.into_iter().flatten().next().ok_or_else(|| Error::SourceUnreadable("it cannot be read".into()))?;
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

    fn encode_directory(&self, lane: &mut Lane, rows: &[Option<Row>]) -> Result<Directory> {
        if rows.is_empty() {
            return Ok(Directory::default());
        }
        let mut directory = Directory { items: rows.len() as u64, ..Directory::default() };
        let mut emit = |node: Vec<u8>| lane.offer_node(self.packer, &node);
        let mut sequence = Sequence::of_nodes();
        for row in rows.iter().flatten() {
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

    fn record(&self, directory: &Directory, rows: &[Option<Row>]) -> Result<Place> {
        match lock(&self.new_cache).as_mut() {
            Some(writer) => writer.record(directory, rows),
            None => Ok(Place::default()),
        }
    }
}
