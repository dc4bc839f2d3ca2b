//! The walk over the tree: directories are made when they are met, filled depth first, and get their metadata when all
//! below them is done.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::Arc;

use rustix::fs::{makedev, mkdirat, mknodat, symlinkat, FileType, Mode};
use rustix::io::Errno;

use super::attributes::{Has, Object};
use super::folder::Folder;
use super::links::Memo;
use super::tally::Trouble;
use super::{Here, Pass, Run, Stream, Task, MAX_DEPTH};
use crate::error::{Error, Result};
use crate::id::Id;
use crate::lock::lock;
use crate::node::{Content, Directory, Entry, List, What};
use crate::progress::add;
use crate::queue::Queue;
use crate::reader::stored_ids;
use std::os::fd::AsFd;

/// An entry, with its number in the selection when only part of what is below it is wanted.
type Wanted = (Entry, Option<usize>);

/// Lets the other workers go when this one panics: they would wait for the end of its task.
struct StopOnPanic<'a>(&'a Queue<Task>);

impl Drop for StopOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.stop();
        }
    }
}

impl Run<'_> {
    /// Works until nothing is left or the run has failed.
    pub(super) fn work(&self, worker: usize) {
        let _guard = StopOnPanic(&self.queue);
        while let Some(task) = self.queue.pop(worker) {
            let done = self.go_on().and_then(|()| match task {
                Task::Single(name) => self.restore_single(&name),
                Task::Folder(folder, stream) => self.fill(worker, folder, stream),
                Task::Big(big) => self.write_big(&big),
                Task::Batch(folder, range) => self.write_batch(worker, &folder, range),
            });
            self.queue.finished();
            if let Err(error) = done {
                lock(&self.failure).get_or_insert(error);
                self.stopping.store(true, Relaxed);
                self.queue.stop();
            }
        }
    }

    /// The task that restores the selected directory.
    pub(super) fn top_task(&self) -> Task {
        let top = self.selection.top();
        let directory = match &top.what {
            What::Directory(directory) => *directory,
            _ => Directory::default(),
        };
        let entry = Entry { name: self.selection.base().into(), ..top.clone() };
        Task::Folder(Arc::new(Folder::new(None, entry)), self.stream(&directory, Some(0)))
    }

    fn restore_single(&self, name: &[u8]) -> Result<()> {
        let dir = self.handles.root();
        let entry = self.selection.top();
        let here = Here { dir: &dir, prefix: self.selection.base(), name, entry };
        self.restore_entry(&here, None)
    }

    fn stream(&self, directory: &Directory, number: Option<usize>) -> Stream {
        match number {
            Some(number) if self.selection.picked(number).below.is_some() => Stream::Picked(Some(number)),
            _ => Stream::All(self.reader.entries(directory)),
        }
    }

    /// The next entries of a directory; what cannot be read is noted.
    fn next_entries(&self, folder: &Folder, stream: &mut Stream) -> Result<Option<Vec<Wanted>>> {
        loop {
            let leaf = match stream {
                Stream::All(leaves) => leaves.next(self.reader),
                Stream::Picked(number) => {
                    let Some(picked) = number.take().map(|number| self.selection.picked(number)) else {
                        return Ok(None);
                    };
                    let below = picked.below.iter().flatten();
                    return Ok(Some(below.map(|at| (self.selection.picked(*at).entry.clone(), Some(*at))).collect()));
                }
            };
            match leaf.map_err(|error| Trouble::of("directory", error)) {
                Ok(entries) => return Ok(entries.map(|all| all.into_iter().map(|entry| (entry, None)).collect())),
                Err(Trouble::Run(error)) => return Err(error),
                // In the last pass it was noted before.
                Err(Trouble::Entry { .. }) if self.pass == Pass::Finish => {}
                Err(Trouble::Entry { what, reason }) => self.problem(folder.path(), &what, reason),
            }
        }
    }

    /// Restores the next entries of a directory. The others become a task before, so that idle workers can take them.
    fn fill(&self, worker: usize, folder: Arc<Folder>, mut stream: Stream) -> Result<()> {
        if let Some(entries) = self.next_entries(&folder, &mut stream)? {
            if matches!(&stream, Stream::All(leaves) if !leaves.is_done()) {
                folder.begin();
                self.queue.push(worker, Task::Folder(folder.clone(), stream));
            }
            self.restore_entries(worker, &folder, entries)?;
        }
        self.complete(folder)
    }

    fn restore_entries(&self, worker: usize, folder: &Arc<Folder>, entries: Vec<Wanted>) -> Result<()> {
        let prefix = folder.path();
        let dir = match self.handles.open(folder) {
            Ok(dir) => dir,
            Err(_) if self.pass == Pass::Finish => return Ok(()),
            Err(error) => {
                self.problem(prefix, "directory", super::tally::words(error));
                return Ok(());
            }
        };
        if self.pass != Pass::Finish {
            self.progress.working_on(&prefix);
            self.reader.learn(&content_ids(entries.iter().map(|(entry, _)| entry)))?;
        }
        let mut memo = Memo::default();
        let mut folders = Vec::new();
        for (entry, number) in entries {
            let here = Here { dir: &dir, prefix: &prefix, name: &entry.name, entry: &entry };
            if let What::Directory(directory) = &entry.what {
                let directory = *directory;
                if self.make_directory(&here, folder)? {
                    folders.push((entry, directory, number));
                }
            } else if self.pass != Pass::Finish {
                self.go_on()?;
                if self.is_linked_later(&here, &mut memo)? {
                    add(&self.progress.done_bytes, entry.totals().1);
                } else {
                    self.restore_entry(&here, Some(folder))?;
                }
                add(&self.progress.done_files, 1);
            }
        }
        // The first is pushed last, to be taken next.
        for (entry, directory, number) in folders.into_iter().rev() {
            let stream = self.stream(&directory, number);
            folder.begin();
            self.queue.push(worker, Task::Folder(Arc::new(Folder::new(Some(folder.clone()), entry)), stream));
        }
        Ok(())
    }

    /// True when the directory is there, to be filled.
    fn make_directory(&self, here: &Here, parent: &Folder) -> Result<bool> {
        if self.pass == Pass::Finish {
            return Ok(true);
        }
        let made = match parent.depth + 1 > MAX_DEPTH {
            true => Err(Errno::NAMETOOLONG),
            false => mkdirat(here.dir, here.name, Mode::from_raw_mode(0o700)),
        };
        match made {
            Ok(()) => Ok(true),
            Err(error) => self.note(here, Trouble::system("create", error, &here.path())).map(|()| false),
        }
    }

    pub(super) fn is_linked_later(&self, here: &Here, memo: &mut Memo) -> Result<bool> {
        let Some(links) = &self.links else { return Ok(false) };
        match links.is_later(self.reader, &here.path(), memo) {
            // What the table does not tell becomes a file of its own.
            Err(Error::Damaged(_) | Error::Tampered(_) | Error::Storage(_) | Error::TooNew(_)) => Ok(false),
            known => known,
        }
    }

    /// Restores what is not a directory.
    pub(super) fn restore_entry(&self, here: &Here, folder: Option<&Arc<Folder>>) -> Result<()> {
        let done = match &here.entry.what {
            What::File { .. } => self.restore_file(here, folder),
            What::Directory(_) => Ok(()),
            _ => self.restore_other(here),
        };
        done.or_else(|trouble| self.note(here, trouble))
    }

    fn restore_other(&self, here: &Here) -> std::result::Result<(), Trouble> {
        let private = Mode::from_raw_mode(0o600);
        let (what, made) = match &here.entry.what {
            What::Symlink(target) => ("create", symlinkat(&**target, here.dir, here.name)),
            What::Fifo => ("create", mknodat(here.dir, here.name, FileType::Fifo, private, 0)),
            What::CharDevice(major, minor) => {
                ("device", mknodat(here.dir, here.name, FileType::CharacterDevice, private, makedev(*major, *minor)))
            }
            What::BlockDevice(major, minor) => {
                ("device", mknodat(here.dir, here.name, FileType::BlockDevice, private, makedev(*major, *minor)))
            }
            What::File { .. } | What::Directory(_) => return Ok(()),
        };
        made.map_err(|error| Trouble::system(what, error, &here.path()))?;
        self.tally.other();
        let has = match self.given {
            Some(given) if (given.uid, given.gid) == (here.entry.uid, here.entry.gid) => Has::Owner,
            _ => Has::Nothing,
        };
        self.set_attributes(here, &Object::Named(here.dir.as_fd(), here.name), has)
    }

    /// Something in `folder` has ended. What is complete thereby, it and those above it, gets its metadata.
    pub(super) fn complete(&self, folder: Arc<Folder>) -> Result<()> {
        let mut folder = folder;
        while folder.end() {
            if self.pass != Pass::WriteUnfinished {
                self.finish_folder(&folder)?;
            }
            self.handles.release(&folder);
            match folder.parent.clone() {
                Some(parent) => folder = parent,
                None => break,
            }
        }
        Ok(())
    }

    fn finish_folder(&self, folder: &Arc<Folder>) -> Result<()> {
        let prefix = folder.parent.as_ref().map_or(Vec::new(), |parent| parent.path());
        let dir = match self.handles.open(folder) {
            Ok(dir) => dir,
            Err(Errno::NOENT) if self.pass == Pass::Finish => return Ok(()),
            Err(error) => {
                self.problem(folder.path(), "directory", super::tally::words(error));
                return Ok(());
            }
        };
        let here = Here { dir: &dir, prefix: &prefix, name: b"", entry: &folder.entry };
        let has = match self.given {
            Some(given) if (given.uid, given.gid) == (folder.entry.uid, folder.entry.gid) => Has::Owner,
            _ => Has::Nothing,
        };
        // The topmost was not made by us, perhaps.
        let has = if folder.parent.is_none() { Has::Nothing } else { has };
        self.tally.directory();
        add(&self.progress.done_files, 1);
        self.set_attributes(&here, &Object::Open(dir.as_fd()), has).or_else(|trouble| self.note(&here, trouble))
    }
}

/// The chunks of `entries` whose ids are at hand.
pub(super) fn content_ids<'e>(entries: impl Iterator<Item = &'e Entry>) -> Vec<Id> {
    let mut ids = Vec::new();
    for entry in entries {
        match &entry.what {
            What::File { content: Content::One(id), .. } => ids.push(*id),
            What::File { content: Content::Chunks(list), .. } => match &**list {
                List::InPlace(chunks) => ids.extend(stored_ids(chunks)),
                List::Node { .. } => {}
            },
            _ => {}
        }
    }
    ids
}
