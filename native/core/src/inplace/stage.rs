//! Staging: everything new is made beside the target, complete with attributes, before anything in the target changes.

use std::collections::HashSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use rustix::fs::{ftruncate, ioctl_ficlone, mkdirat, openat, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::exchange::{aside_name, set_attributes, within, Kept};
use super::found::{open_device, there, wanted_attributes};
use super::journal::{self, Action, Attributes, Head, Record, State};
use super::links::{Known, Staged};
use super::patch::{self, Layout, Medium, Patches};
use super::plan::{Item, Kind, Part, Plan};
use super::prepare::{join_path, Prepared, Top};
use super::remove;
use super::space::Staging;
use super::ways::by_descriptor;
use super::{Area, Outline, Transaction};
use crate::error::{show, Error, Result};
use crate::node::{Directory, Entry, What};
use crate::progress::{add, Progress};
use crate::reader::Reader;
use crate::restore::{self, staged_name, Batch, Live, Problem, Restored};
use crate::source;

/// How it is staged.
pub struct StageOptions {
    /// Of the staging directories.
    pub name: String,
    /// Kept in the journal.
    pub note: Vec<u8>,
    /// Reads every new file back and compares it.
    pub verify: bool,
    /// What cannot be had is left out; else it is an error.
    pub goes_on: bool,
}

/// What was staged.
#[derive(Clone, Debug, Default)]
pub struct StageResult {
    pub files: u64,
    pub directories: u64,
    pub others: u64,
    pub bytes: u64,
    pub verified_files: u64,
    pub problems: Vec<Problem>,
    pub problem_count: u64,
}

fn open_directory(dir: BorrowedFd, name: &str) -> rustix::io::Result<OwnedFd> {
    openat(dir, name, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

/// Opens the staging directories of a journal, and holds on to them: nobody else works with them meanwhile.
pub(super) fn open_areas(tops: &mut [Top], areas: &[Area], name: &str) -> Result<Vec<OwnedFd>> {
    let mut staging = Vec::new();
    for (top, path) in areas {
        let dir = tops[*top].ways.open(path).map_err(|e| Error::of_target("open the staging directory", &e))?;
        let fd = open_directory(dir, name).map_err(|e| Error::of_target("open the staging directory", &e.into()))?;
        hold(&fd)?;
        staging.push(fd);
    }
    Ok(staging)
}

/// Whether there is a staging directory in an area.
pub(super) fn stands(tops: &mut [Top], (top, path): &Area, name: &str) -> bool {
    let found = tops[*top].ways.open(path).and_then(|dir| source::stat_at(dir, name.as_bytes()));
    !matches!(found, Err(e) if e.kind() == std::io::ErrorKind::NotFound)
}

fn hold(fd: &OwnedFd) -> Result<()> {
    match rustix::fs::flock(fd, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::AGAIN) => Err(Error::Busy("another process is restoring there right now".into())),
        // File systems without locks have no other process to tell.
        _ => Ok(()),
    }
}

/// Makes the staging directories, with the head of the journal in each: in the first one before there is another, so that all
/// are found.
fn make_areas(tops: &mut [Top], areas: &[Area], name: &str, head: &Head) -> Result<Vec<OwnedFd>> {
    let mut staging = Vec::new();
    for area in areas {
        let made = make_area(tops, area, name)
            .and_then(|()| open_areas(tops, std::slice::from_ref(area), name))
            .and_then(|opened| {
                staging.extend(opened);
                journal::begin(staging[staging.len() - 1].as_fd(), head)
            });
        if let Err(error) = made {
            for (at, (top, path)) in areas.iter().enumerate().take(staging.len() + 1).rev() {
                let emptied = staging.get(at).map_or(Ok(()), |fd| remove::contents(fd.as_fd()));
                let _ = emptied
                    .and_then(|()| tops[*top].ways.open(path))
                    .and_then(|dir| remove::directory(dir, name.as_bytes()));
            }
            return Err(error);
        }
    }
    Ok(staging)
}

fn make_area(tops: &mut [Top], (top, path): &Area, name: &str) -> Result<()> {
    let shown = crate::error::show_path(&tops[*top].path);
    let failed = |e: std::io::Error| Error::of_target(&format!("make the staging directory in {shown}"), &e);
    let dir = tops[*top].ways.open(path).map_err(failed)?;
    let kept = Kept::of(dir).map_err(failed)?;
    within(dir, || mkdirat(dir, name, Mode::from_raw_mode(0o700))).map_err(failed)?;
    kept.restore(dir).map_err(|error| {
        let _ = remove::directory(dir, name.as_bytes());
        let _ = kept.restore(dir);
        failed(error)
    })
}

/// Makes staging directories and fills them. When that fails, they are removed.
pub(super) fn stage(
    reader: &Arc<Reader>,
    parts: &[Part],
    outline: &Outline,
    prepared: Prepared,
    options: &StageOptions,
    progress: &Progress,
) -> Result<(Transaction, StageResult)> {
    let Prepared { mut tops, areas, places, records, devices } = prepared;
    let head = Head {
        tops: tops.iter().map(|top| top.path.as_os_str().as_bytes().to_vec()).collect(),
        areas: areas.clone(),
        note: options.note.clone(),
    };
    let staging = make_areas(&mut tops, &areas, &options.name, &head)?;
    let mut transaction =
        Transaction { tops, areas, staging, name: options.name.clone(), records, state: State::Staging };
    let mut filling = Filling {
        reader,
        parts,
        plan: &outline.plan,
        places: &places,
        patches: &outline.patches,
        devices: &devices,
        options,
        progress,
        result: StageResult::default(),
    };
    match filling.fill(&mut transaction) {
        Ok(()) => Ok((transaction, filling.result)),
        Err(error) => {
            // What cannot be removed now is removed by the next command that meets it.
            let _ = transaction.remove(false);
            Err(error)
        }
    }
}

struct Filling<'a> {
    reader: &'a Arc<Reader>,
    parts: &'a [Part],
    plan: &'a Plan,
    places: &'a [(usize, Vec<u8>)],
    patches: &'a Patches,
    /// Which parts are devices.
    devices: &'a [bool],
    options: &'a StageOptions,
    progress: &'a Progress,
    result: StageResult,
}

impl Filling<'_> {
    fn fill(&mut self, transaction: &mut Transaction) -> Result<()> {
        for staging in &transaction.staging {
            restore::make_staged_directories(staging, transaction.records.len())?;
        }
        let patched = self.patch_all(transaction)?;
        let (reader, parts, plan, progress) = (self.reader, self.parts, self.plan, self.progress);
        let (records, directories) = (&transaction.records, &transaction.staging);
        Staging { reader, parts, plan, records, done: &patched, directories, progress }.check_space()?;
        for part in 0..self.parts.len() {
            for area in 0..transaction.areas.len() {
                self.write_part(transaction, part, area, &patched)?;
            }
        }
        self.note_inodes(transaction)?;
        journal::write_plan(transaction.staging[0].as_fd(), &transaction.records)?;
        transaction.synchronise()?;
        transaction.set_state(State::Ready)
    }

    fn write_part(
        &mut self,
        transaction: &Transaction,
        part: usize,
        area: usize,
        patched: &HashSet<usize>,
    ) -> Result<()> {
        let tree = &self.parts[part].wanted;
        let (root, selection) = self.parts[part].chosen(self.reader)?;
        let mut batch = Vec::new();
        for (number, item) in self.plan.items.iter().enumerate() {
            let counts = item.part == part && item.is_staged() && transaction.records[number].area == area;
            let Some(wanted) = item.wanted.as_ref().filter(|_| counts && !patched.contains(&number)) else { continue };
            batch.push(restore::Staged { number, above: above(&tree.below, &item.path), entry: alone(item, wanted) });
        }
        if batch.is_empty() {
            return Ok(());
        }
        let (top, prefix) = &self.places[part];
        let root_fd = transaction.tops[*top].ways.root();
        let live = Live { fd: Arc::new(duplicate(root_fd)?), prefix: prefix.clone() };
        let scope = Staged { known: Known::new(part, &self.plan.items, &self.plan.kept[part]), selection: &selection };
        let directory = duplicate(transaction.staging[area].as_fd())?;
        let batch = Batch { root: &root, entries: &batch, scope: &scope, live };
        let restored = restore::stage(self.reader, batch, directory, self.options.verify, self.progress)?;
        self.take_result(part, restored)
    }

    fn take_result(&mut self, part: usize, restored: Restored) -> Result<()> {
        self.result.files += restored.files;
        self.result.directories += restored.directories;
        self.result.others += restored.others;
        self.result.bytes += restored.bytes;
        self.result.verified_files += restored.verified_files;
        // What the store does not have may be why others are missing.
        let problems = &restored.problems;
        let loss = problems.iter().find(|one| one.is_damage()).or(problems.iter().find(|one| one.is_loss()));
        if let Some(problem) = loss.filter(|_| !self.options.goes_on) {
            let text = format!("cannot restore {}: {}", show(&problem.path), problem.reason);
            return Err(if problem.is_damage() { Error::Damaged(text) } else { Error::TargetInvalid(text) });
        }
        self.result.problem_count += restored.problem_count;
        let below = &self.parts[part].wanted.below;
        let base = self.plan.bases[part].as_os_str().as_bytes();
        self.result.problems.extend(restored.problems.into_iter().map(|problem| {
            let rest = problem.path.strip_prefix(&below[..]).unwrap_or(&problem.path);
            let rest = rest.strip_prefix(b"/").unwrap_or(rest);
            Problem { path: join_path(base, rest), ..problem }
        }));
        Ok(())
    }

    /// Enters the inodes of what is staged. What could not be had is taken out of the plan.
    fn note_inodes(&mut self, transaction: &mut Transaction) -> Result<()> {
        let Transaction { tops, records, staging, .. } = transaction;
        let mut failed = None;
        records.retain_mut(|record| {
            let slot = match &mut record.action {
                Action::Create { staged } | Action::Replace { staged, .. } => staged,
                Action::Attributes { found, pair } if found.ctime.is_some() => {
                    if let Some(stat) = linked_since(&mut tops[record.top], &record.path, found.ino) {
                        // The renames of its new links change it again. What else happened until now is seen here.
                        let was = Attributes { xattrs: None, ..pair[1].clone() };
                        found.ctime = found.ctime.filter(|_| there(&stat, None) != was);
                    }
                    return true;
                }
                _ => return true,
            };
            match source::stat_at(staging[record.area].as_fd(), staged_name(record.number).as_bytes()) {
                Ok(stat) => {
                    *slot = stat.ino;
                    true
                }
                Err(error) => {
                    failed.get_or_insert(error);
                    false
                }
            }
        });
        match failed.filter(|_| !self.options.goes_on) {
            Some(error) => Err(Error::of_target("stage what is to be restored", &error)),
            None => Ok(()),
        }
    }

    /// Stages what need not be written whole; the answer is the numbers of these.
    fn patch_all(&mut self, transaction: &mut Transaction) -> Result<HashSet<usize>> {
        let mut done = HashSet::new();
        for (number, ranges) in self.patches {
            let item = &self.plan.items[*number];
            let (Some(live), Some(wanted)) = (&item.live, &item.wanted) else { continue };
            let (tops, staging) = (&mut transaction.tops, &transaction.staging);
            if self.devices[item.part] {
                self.patch_device(tops, staging, &mut transaction.records[*number], wanted, ranges)?;
                done.insert(*number);
                continue;
            }
            // What is read back and compared is what was written whole.
            if self.options.verify {
                continue;
            }
            if self.patch(tops, staging, &mut transaction.records[*number], live, wanted, ranges)? {
                self.result.files += 1;
                done.insert(*number);
            }
        }
        Ok(done)
    }

    /// Prepares the ranges of a device that are to be written, and saves what it has there.
    fn patch_device(
        &mut self,
        tops: &mut [Top],
        staging: &[OwnedFd],
        record: &mut Record,
        wanted: &Entry,
        ranges: &[patch::Range],
    ) -> Result<()> {
        let failed = |e: std::io::Error| Error::of_target("prepare the device", &e);
        let staging = staging[record.area].as_fd();
        let (dir, name) = tops[record.top].ways.parent_of(&record.path).map_err(failed)?;
        let from = open_device(dir, name).map_err(failed)?;
        let size = source::length(from.as_fd()).map_err(failed)?;
        let Action::Replace { found, .. } = record.action else { return Ok(()) };
        let new = create(staging, &staged_name(record.number))?;
        let What::File { size: wanted_size, .. } = &wanted.what else { return Ok(()) };
        let (medium, workers, layout) = (Medium::Device, workers(), Layout::packed(ranges));
        layout.reserve(&new, *wanted_size).map_err(failed)?;
        self.result.bytes += patch::write_wanted(self.reader, wanted, &layout, &new, medium, workers, self.progress)?;
        let old = create(staging, &aside_name(record.number))?;
        patch::save(from.as_fd(), size, ranges, &old).map_err(failed)?;
        record.action = Action::Patch { found, sizes: [size, size], ranges: ranges.to_vec(), pair: None };
        self.result.files += 1;
        Ok(())
    }

    /// Clones the file and patches the clone, or prepares the ranges that are to be written; false when neither is to be had.
    fn patch(
        &mut self,
        tops: &mut [Top],
        staging: &[OwnedFd],
        record: &mut Record,
        live: &Entry,
        wanted: &Entry,
        ranges: &[patch::Range],
    ) -> Result<bool> {
        let failed = |e: std::io::Error| Error::of_target("prepare a file that is patched", &e);
        let staging = staging[record.area].as_fd();
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let (dir, name) = tops[record.top].ways.parent_of(&record.path).map_err(failed)?;
        let Ok(from) = openat(dir, name, flags, Mode::empty()) else { return Ok(false) };
        let Action::Replace { found, .. } = record.action else { return Ok(false) };
        let stat = source::stat_fd(from.as_fd()).map_err(failed)?;
        if stat.ino != found.ino {
            return Ok(false);
        }
        let (What::File { size: old_size, .. }, What::File { size, .. }) = (&live.what, &wanted.what) else {
            return Ok(false);
        };
        let new = create(staging, &staged_name(record.number))?;
        let set = self.reader.xattrs(wanted)?;
        let attributes = wanted_attributes(wanted, Some(set));
        let (medium, workers) = (Medium::File, workers());
        if ioctl_ficlone(&new, &from).is_ok() {
            let holes_first = |file: &OwnedFd| -> Result<()> {
                ftruncate(file, *size).map_err(|e| failed(e.into()))?;
                patch::clear_ranges(file.as_fd(), ranges, *size).map_err(failed)
            };
            holes_first(&new)?;
            let layout = Layout::same(ranges);
            self.result.bytes +=
                patch::write_wanted(self.reader, wanted, &layout, &new, medium, workers, self.progress)?;
            for (what, reason) in set_attributes(new.as_fd(), &attributes).map_err(failed)? {
                self.result.problem_count += 1;
                let top = tops[record.top].path.as_os_str().as_bytes();
                let path = join_path(top, &record.path);
                self.result.problems.push(Problem { path, what, reason });
            }
            return Ok(true);
        }
        let mut all = ranges.to_vec();
        if old_size > size {
            all.push((*size, *old_size));
        }
        let layout = Layout::packed(ranges);
        layout.reserve(&new, *size).map_err(failed)?;
        self.result.bytes += patch::write_wanted(self.reader, wanted, &layout, &new, medium, workers, self.progress)?;
        let old = create(staging, &aside_name(record.number))?;
        patch::save(from.as_fd(), *old_size, &all, &old).map_err(failed)?;
        let have = source::xattrs_fd(from.as_fd()).map_err(failed)?;
        let pair = Some(Box::new([attributes, there(&stat, Some(have))]));
        record.action = Action::Patch { found, sizes: [*size, *old_size], ranges: all, pair };
        add(&self.progress.done_files, 1);
        Ok(true)
    }
}

fn workers() -> usize {
    std::thread::available_parallelism().map_or(1, |count| count.get())
}

/// What is at `path`, if it had one link, and has more since staged files were made links of it: that changed its ctime.
fn linked_since(top: &mut Top, path: &[u8], ino: u64) -> Option<source::Stat> {
    let (dir, name) = top.ways.parent_of(path).ok()?;
    source::stat_at(dir, name).ok().filter(|stat| stat.ino == ino && stat.links > 1)
}

fn create(dir: BorrowedFd, name: &str) -> Result<OwnedFd> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(dir, name, flags, Mode::from_raw_mode(0o600))
        .map_err(|e| Error::of_target("create a staged file", &e.into()))
}

pub(super) fn duplicate(fd: BorrowedFd) -> Result<OwnedFd> {
    fd.try_clone_to_owned().map_err(|e| Error::of_target("use the target", &e))
}

/// The directory, below the root, that an item of a part is in.
fn above(below: &[u8], path: &[u8]) -> Vec<u8> {
    let whole = join_path(below, path);
    match whole.is_empty() {
        true => whole,
        false => super::ways::split(&whole).0.to_vec(),
    }
}

/// The entry as it is staged: a directory whose contents are items of their own comes empty.
fn alone(item: &Item, wanted: &Entry) -> Entry {
    let mut entry = wanted.clone();
    if item.kind == Kind::CreateAlone {
        entry.what = What::Directory(Directory::default());
    }
    // What becomes a place of another name is still called as in the snapshot.
    if let Some(name) = item.path.rsplit(|c| *c == b'/').next() {
        entry.name = name.into();
    }
    entry
}

/// The path by which the staging directory of an area is told to people.
pub(super) fn shown_area(top: &Top, path: &[u8], name: &str) -> Vec<u8> {
    let dir = join_path(top.path.as_os_str().as_bytes(), path);
    join_path(&dir, name.as_bytes())
}

/// Opens a directory that is known for reference only, so that it can be flushed.
pub(super) fn readable(fd: BorrowedFd) -> rustix::io::Result<OwnedFd> {
    rustix::fs::open(by_descriptor(fd), OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}
