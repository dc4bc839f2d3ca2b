//! Writing a tree of the store into a directory of the system. Nothing outside the target is ever touched: everything is
//! done relative to descriptors that are held, symbolic links are never followed, nothing that exists is opened or replaced.

mod attributes;
mod file;
mod folder;
mod links;
mod selection;
mod staged;
mod tally;
mod target;
mod verify;
mod walk;

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use crate::error::{Error, Result};
use crate::id::Id;
use crate::lock::lock;
use crate::node::{Entry, Root, What};
use crate::progress::{add, Progress};
use crate::queue::Queue;
use crate::reader::{Leaves, Reader};

use file::Big;
use folder::{Folder, Handles};
use links::Links;
pub(crate) use links::{Place, Scope};
pub(crate) use selection::Selection;
pub(crate) use staged::{make_staged_directories, stage, staged_name, Batch, Staged};
use tally::{Tally, Trouble};
use target::Given;

pub use tally::{Problem, Restored, MAX_PROBLEMS};

/// Directories within each other.
pub const MAX_DEPTH: usize = 4096;

/// What to restore, and how.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Only these paths below the root (joined by `/`), what is below them, and the directories on the way to them.
    pub paths: Option<Vec<Vec<u8>>>,
    /// The directory of the root whose contents become the target; else the root itself.
    pub strip: Option<Vec<u8>>,
    /// Read every file back and compare it.
    pub verify: bool,
    /// 0 for one per core.
    pub threads: usize,
}

/// Restores root `root` to `target`.
///
/// A directory becomes `target` itself, which must be missing (its parent exists) or an empty directory; anything else is
/// created as the path `target`, which must be missing. What cannot be restored as it was is listed and the run goes on; a
/// file whose content cannot be had is not left behind. Fails when the target cannot be used, when it is full, when a path
/// of `options` does not exist, when the run is cancelled; what was written until then stays.
/// Directories are `0700` and ours while the run lasts. Nothing is flushed to the medium.
pub fn restore(
    reader: &Arc<Reader>,
    root: &Id,
    target: &Path,
    options: &Options,
    progress: &Progress,
) -> Result<Restored> {
    let root = reader.root(root)?;
    let selection = Selection::resolve(reader, &root, options.paths.as_deref(), options.strip.as_deref())?;
    let (files, bytes) = selection.totals();
    add(&progress.files, files);
    add(&progress.bytes, bytes);
    let is_directory = matches!(selection.top().what, What::Directory(_));
    let (fd, given, name) = if is_directory {
        let (fd, given) = target::open_directory(target)?;
        (fd, Some(given), Vec::new())
    } else {
        let (fd, name) = target::open_parent(target)?;
        (fd, None, name)
    };
    let mut run = Run::new(reader, progress, &selection, &selection, fd, options.threads);
    (run.given, run.verify) = (given, options.verify);
    if is_directory {
        run.restore_directory(&root)?;
    } else {
        run.run(Pass::Write, Task::Single(name))?;
    }
    progress.check()?;
    Ok(run.tally.result())
}

/// An entry, and where it is restored to.
pub(crate) struct Here<'a> {
    dir: &'a Arc<OwnedFd>,
    /// The directory's path below the root.
    prefix: &'a [u8],
    name: &'a [u8],
    entry: &'a Entry,
}

impl Here<'_> {
    /// Its path below the root.
    fn path(&self) -> Vec<u8> {
        match (self.prefix, &*self.entry.name) {
            (prefix, b"") => prefix.to_vec(),
            (b"", name) => name.to_vec(),
            (prefix, name) => [prefix, b"/", name].concat(),
        }
    }
}

/// The passes over the tree.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pass {
    /// Creates everything; directories get their metadata when all below them is done.
    Write,
    /// The same, but directories wait: hard links will still change them.
    WriteUnfinished,
    /// Only directories, for their metadata.
    Finish,
}

/// Work of a pass: the next entries of a directory, or part of a long file.
enum Task {
    /// A root that is not a directory, and its name.
    Single(Vec<u8>),
    Folder(Arc<Folder>, Stream),
    Big(Arc<Big>),
    /// Part of the batch, below a folder that stands for the directory in which it is written.
    Batch(Arc<Folder>, std::ops::Range<usize>),
}

/// A directory, and the path in it of what is restored.
pub(crate) struct Live {
    pub(crate) fd: Arc<OwnedFd>,
    pub(crate) prefix: Vec<u8>,
}

/// The entries of a directory that are still to come.
enum Stream {
    All(Leaves<Entry>),
    /// Those below the picked one with this number.
    Picked(Option<usize>),
}

/// A restore that is under way.
struct Run<'a> {
    reader: &'a Reader,
    progress: &'a Progress,
    selection: &'a Selection,
    scope: &'a dyn Scope,
    /// What is written as a batch, each under its number.
    batch: &'a [Staged],
    /// Where things are that are linked to, without being written.
    live: Option<Live>,
    handles: Handles,
    /// None when the directory that is written into is not ours.
    given: Option<Given>,
    verify: bool,
    workers: usize,
    queue: Queue<Task>,
    tally: Tally,
    links: Option<Links>,
    pass: Pass,
    failure: Mutex<Option<Error>>,
    /// Set with the failure.
    stopping: AtomicBool,
}

impl<'a> Run<'a> {
    fn new(
        reader: &'a Reader,
        progress: &'a Progress,
        selection: &'a Selection,
        scope: &'a dyn Scope,
        directory: OwnedFd,
        threads: usize,
    ) -> Run<'a> {
        let workers = match threads {
            0 => std::thread::available_parallelism().map_or(1, |count| count.get()),
            threads => threads,
        };
        Run {
            reader,
            progress,
            selection,
            scope,
            batch: &[],
            live: None,
            handles: Handles::new(directory),
            given: None,
            verify: false,
            workers: workers.clamp(1, 64),
            queue: Queue::new(1, []),
            tally: Tally::default(),
            links: None,
            pass: Pass::Write,
            failure: Mutex::new(None),
            stopping: AtomicBool::new(false),
        }
    }
}

impl Run<'_> {
    fn restore_directory(&mut self, root: &Root) -> Result<()> {
        self.write(root, Run::top_task)
    }

    /// Writes what `first` begins with. Hard links are made when all files are there, and directories finished after them.
    fn write(&mut self, root: &Root, first: impl Fn(&Self) -> Task) -> Result<()> {
        self.plan_links(root)?;
        let task = first(self);
        let Some(links) = self.links.take() else { return self.run(Pass::Write, task) };
        self.links = Some(links);
        self.run(Pass::WriteUnfinished, task)?;
        if let Some(links) = &self.links {
            self.make_links(links)?;
        }
        let task = first(self);
        self.run(Pass::Finish, task)
    }

    fn plan_links(&mut self, root: &Root) -> Result<()> {
        let (progress, tally) = (self.progress, &self.tally);
        let damage = |error| match Trouble::of("link", error) {
            Trouble::Run(error) => Err(error),
            Trouble::Entry { what, reason } => {
                tally.problem(progress, Vec::new(), &what, reason);
                Ok(())
            }
        };
        self.links = Links::plan(self.reader, root, self.scope, damage)?;
        Ok(())
    }

    /// Runs one pass over `first` and what follows from it.
    fn run(&mut self, pass: Pass, first: Task) -> Result<()> {
        self.pass = pass;
        self.queue = Queue::new(self.workers, [first]);
        let run = &*self;
        std::thread::scope(|scope| {
            for worker in 1..run.workers {
                scope.spawn(move || run.work(worker));
            }
            run.work(0);
        });
        match lock(&self.failure).take() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// Fails when the run was cancelled or has failed elsewhere.
    fn go_on(&self) -> Result<()> {
        match self.stopping.load(Relaxed) {
            true => Err(Error::Cancelled),
            false => self.progress.check(),
        }
    }

    fn problem(&self, path: Vec<u8>, what: &str, reason: String) {
        self.tally.problem(self.progress, path, what, reason);
    }

    /// Notes trouble with an entry; trouble with the run is handed on.
    fn note(&self, here: &Here, trouble: Trouble) -> Result<()> {
        match trouble {
            Trouble::Run(error) => Err(error),
            Trouble::Entry { what, reason } => {
                self.problem(here.path(), &what, reason);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests;
