//! Entries written side by side under numbers, whatever their paths: to be moved to their places later.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{mkdirat, Mode};

use super::folder::Folder;
use super::links::Memo;
use super::tally::Trouble;
use super::walk::content_ids;
use super::{target, Here, Live, Pass, Restored, Run, Scope, Selection, Stream, Task};
use crate::error::{Error, Result};
use crate::node::{Directory, Entry, Root, What};
use crate::progress::{add, Progress};
use crate::reader::{Leaves, Reader};
use crate::walk::join;

/// Entries of a batch that a worker takes at once, all in one directory.
const AT_ONCE: usize = 64;
/// Directories for them: in one alone, workers would wait for each other.
const DIRECTORIES: usize = 32;

/// The path of what is staged under a number.
pub(crate) fn staged_name(number: usize) -> String {
    format!("{}/{number}", number / AT_ONCE % DIRECTORIES)
}

/// Makes the directories in which numbers below `count` are staged.
pub(crate) fn make_staged_directories(directory: &OwnedFd, count: usize) -> Result<()> {
    target::hand_down_nothing(directory);
    for number in 0..count.div_ceil(AT_ONCE).min(DIRECTORIES) {
        mkdirat(directory, number.to_string(), Mode::from_raw_mode(0o700))
            .map_err(|e| Error::of_target("make a staging directory", &e.into()))?;
    }
    Ok(())
}

/// Something to be written under a number.
pub(crate) struct Staged {
    pub(crate) number: usize,
    /// The directory, below the root, that the entry is in.
    pub(crate) above: Vec<u8>,
    pub(crate) entry: Entry,
}

/// Entries of one root that are written side by side. Hard links are made among them, and to what `scope` says is below `live`.
pub(crate) struct Batch<'a> {
    pub(crate) root: &'a Root,
    pub(crate) entries: &'a [Staged],
    pub(crate) scope: &'a dyn Scope,
    pub(crate) live: Live,
}

/// Writes a batch into `directory`, each entry with all below it. What cannot be had is listed in the result, and is not there.
pub(crate) fn stage(
    reader: &Arc<Reader>,
    batch: Batch,
    directory: OwnedFd,
    verify: bool,
    progress: &Progress,
) -> Result<Restored> {
    let Batch { root, entries, scope, live } = batch;
    let given = target::probe_directory(&directory)?;
    let selection = Selection::all(root);
    let mut run = Run::new(reader, progress, &selection, scope, directory, 0);
    (run.batch, run.live, run.given, run.verify) = (entries, Some(live), Some(given), verify);
    run.write(root, Run::batch_task)?;
    progress.check()?;
    Ok(run.tally.result())
}

impl Run<'_> {
    /// The task that writes the whole batch.
    fn batch_task(&self) -> Task {
        // It never ends: the directory itself is not restored.
        let top = Folder::new(None, Entry { name: Box::default(), ..self.selection.top().clone() });
        top.begin();
        Task::Batch(Arc::new(top), 0..self.batch.len())
    }

    /// Writes the first entries of a range; the others become a task before, so that idle workers can take them.
    pub(super) fn write_batch(&self, worker: usize, top: &Arc<Folder>, range: std::ops::Range<usize>) -> Result<()> {
        let end = range.end.min(range.start + AT_ONCE);
        if end < range.end {
            self.queue.push(worker, Task::Batch(top.clone(), end..range.end));
        }
        let batch = &self.batch[range.start..end];
        let is_last = self.pass == Pass::Finish;
        if !is_last {
            self.reader.learn(&content_ids(batch.iter().map(|one| &one.entry)))?;
        }
        let dir = self.handles.root();
        let mut memo = Memo::default();
        for Staged { number, above, entry } in batch {
            let name = staged_name(*number).into_bytes();
            let here = Here { dir: &dir, prefix: above, name: &name, entry };
            self.progress.working_on(&here.path());
            match &entry.what {
                What::Directory(directory) => {
                    let made = if is_last { Ok(()) } else { mkdirat(&dir, &name[..], Mode::from_raw_mode(0o700)) };
                    match made {
                        Ok(()) => self.queue.push(worker, self.folder_task(top, &here, directory, name.clone())),
                        Err(error) => self.note(&here, Trouble::system("create", error, &here.path()))?,
                    }
                }
                _ if is_last => {}
                _ => {
                    self.go_on()?;
                    if self.is_linked_later(&here, &mut memo)? {
                        add(&self.progress.done_bytes, entry.totals().1);
                    } else {
                        self.restore_entry(&here, Some(top))?;
                    }
                    add(&self.progress.done_files, 1);
                }
            }
        }
        Ok(())
    }

    fn folder_task(&self, top: &Arc<Folder>, here: &Here, directory: &Directory, number: Vec<u8>) -> Task {
        top.begin();
        let entry = Entry { name: join(here.prefix, &here.entry.name).into(), ..here.entry.clone() };
        let leaves = if directory.node.is_some() { self.reader.entries(directory) } else { Leaves::none() };
        let folder = Folder::numbered(top.clone(), entry, number.into());
        Task::Folder(Arc::new(folder), Stream::All(leaves))
    }
}
