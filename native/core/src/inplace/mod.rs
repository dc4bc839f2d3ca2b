//! Restoring over what is there: a transaction that happens or does not, and can be taken back.
//! plan > **transaction** > journal.
//!
//! A plan comes from comparing trees; it is held against the disk; what is new is staged beside the target; then each entry is
//! exchanged. `docs/design/004-restore-in-place.md` says in which order, and what is true at each moment.

mod exchange;
mod found;
mod journal;
mod links;
mod patch;
mod plan;
mod prepare;
mod remove;
mod space;
mod stage;
mod ways;

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{fsync, syncfs};

use crate::error::{Error, Result};
use crate::progress::Progress;
use crate::reader::Reader;
use crate::restore::Problem;

use exchange::Exchange;
use journal::Record;
use patch::Patches;
use prepare::{Area, Prepared, Top};
use ways::Ways;

pub use journal::{Action, State};
pub use plan::{Choices, Conflict, Extras, Item, Kind, Part, Plan, Strategy, Tree, MAX_NAMED};
pub use prepare::Base;
pub use stage::{StageOptions, StageResult};

/// What is to be done, or was, item by item.
#[derive(Clone)]
pub struct Outline {
    pub plan: Arc<Plan>,
    patches: Arc<Patches>,
}

impl Outline {
    /// Bytes that are written of an item, when it is patched.
    pub fn patched_bytes(&self, number: usize) -> Option<u64> {
        Some(self.patches.get(&number)?.iter().map(|(start, end)| end - start).sum())
    }
}

/// A plan that can be carried out, not begun.
pub struct Ready {
    reader: Arc<Reader>,
    parts: Vec<Part>,
    pub outline: Outline,
    prepared: Prepared,
    /// What cannot be done, and is left out.
    pub problems: Vec<Problem>,
}

/// Compares live, wanted and head trees, decides, and holds the plan against the disk. Nothing is written. What cannot be done
/// is left out and told.
pub fn plan(reader: &Arc<Reader>, parts: Vec<(Part, Base)>, choices: &Choices, progress: &Progress) -> Result<Ready> {
    let (parts, bases): (Vec<Part>, Vec<Base>) = parts.into_iter().unzip();
    let mut plan = plan::plan(reader, &parts, choices, progress)?;
    plan.bases = bases.iter().map(|base| base.path.clone()).collect();
    let (prepared, patches, problems) = prepare::prepare(reader, &parts, &mut plan, &bases, progress)?;
    let outline = Outline { plan: Arc::new(plan), patches: Arc::new(patches) };
    Ok(Ready { reader: reader.clone(), parts, outline, prepared, problems })
}

impl Ready {
    /// Stages everything and makes the journal ready. When that fails, nothing is left of it.
    pub fn stage(self, options: &StageOptions, progress: &Progress) -> Result<(Transaction, StageResult)> {
        let Ready { reader, parts, outline, prepared, .. } = self;
        stage::stage(&reader, &parts, &outline, prepared, options, progress)
    }
}

/// A restore whose journal is on disk.
pub struct Transaction {
    tops: Vec<Top>,
    areas: Vec<Area>,
    staging: Vec<OwnedFd>,
    name: String,
    records: Vec<Record>,
    state: State,
}

impl Transaction {
    /// Opens the journal in the staging directory `path`, with the note in it, which is empty when only the directory is left of a
    /// restore that was finished. A directory in which nothing was begun has none.
    pub fn open(path: &Path) -> Result<Option<(Transaction, Vec<u8>)>> {
        let (Some(above), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
            return Err(Error::TargetInvalid("this is not a staging directory".into()));
        };
        let top = found::open_top(above)?;
        let mut here = [Top::new(above.to_path_buf(), top)?];
        let staging = stage::open_areas(&mut here, &[(0, Vec::new())], name)?;
        let Some(head) = journal::read_head(staging[0].as_fd())? else {
            if !journal::is_finished(staging[0].as_fd())? {
                return Ok(None);
            }
            let (tops, areas, name) = (here.into(), vec![(0, Vec::new())], name.to_string());
            let state = State::Removing;
            return Ok(Some((Transaction { tops, areas, staging, name, records: Vec::new(), state }, Vec::new())));
        };
        drop(staging);
        let mut tops = Vec::new();
        for path in &head.tops {
            let path = PathBuf::from(std::ffi::OsString::from_vec(path.clone()));
            let fd = found::open_top(&path)?;
            tops.push(Top::new(path, fd)?);
        }
        // The first one has the plan and the state, and goes last.
        let (main, others) =
            head.areas.split_first().ok_or_else(|| Error::damaged("damaged journal: it has no place"))?;
        let mut areas = vec![main.clone()];
        let mut staging = stage::open_areas(&mut tops, &areas, name)?;
        let state = journal::state(staging[0].as_fd())?;
        let is_idle = matches!(state, State::Staging | State::Removing);
        for area in others {
            match stage::open_areas(&mut tops, std::slice::from_ref(area), name) {
                // It was removed already.
                Err(_) if is_idle && !stage::stands(&mut tops, area, name) => {}
                opened => {
                    staging.extend(opened?);
                    areas.push(area.clone());
                }
            }
        }
        let records = if is_idle { Vec::new() } else { journal::read_plan(staging[0].as_fd(), &head)? };
        let name = name.to_string();
        Ok(Some((Transaction { tops, areas, staging, name, records, state }, head.note)))
    }

    pub fn state(&self) -> State {
        self.state
    }

    /// The paths of its staging directories.
    pub fn places(&self) -> Vec<Vec<u8>> {
        self.areas.iter().map(|(top, path)| stage::shown_area(&self.tops[*top], path, &self.name)).collect()
    }

    fn set_state(&mut self, state: State) -> Result<()> {
        journal::set_state(self.staging[0].as_fd(), state)?;
        self.state = state;
        Ok(())
    }

    /// Makes everything durable that was written in the file systems of the target.
    fn synchronise(&self) -> Result<()> {
        for staging in &self.staging {
            syncfs(staging).map_err(|e| Error::of_target("make the target durable", &e.into()))?;
        }
        Ok(())
    }

    fn exchange<'a>(&'a mut self, goes_on: bool, again: bool, progress: &'a Progress) -> Exchange<'a> {
        let Transaction { tops, staging, records, .. } = self;
        Exchange { tops, staging, records, goes_on, again, progress, problems: Vec::new() }
    }

    /// Exchanges everything that is not yet, and makes it durable. With `goes_on`, what cannot be exchanged is told and stays
    /// as it was; else it is an error, after which the rest can be applied later, or what was done be reverted. The answer is
    /// what could not be set as it was, too.
    pub fn apply(&mut self, goes_on: bool, again: bool, progress: &Progress) -> Result<Vec<Problem>> {
        match self.state {
            State::Ready => {}
            State::Applied => return Ok(Vec::new()),
            _ => return Err(Error::TargetInvalid("this restore cannot be finished any more".into())),
        }
        let mut exchange = self.exchange(goes_on, again, progress);
        exchange.apply()?;
        let problems = std::mem::take(&mut exchange.problems);
        self.synchronise()?;
        self.set_state(State::Applied)?;
        Ok(problems)
    }

    /// Takes back everything that was exchanged, and removes the staging directories. The answer is what could not be set as
    /// it was.
    pub fn revert(&mut self, progress: &Progress) -> Result<Vec<Problem>> {
        let mut problems = Vec::new();
        match self.state {
            State::Staging => {}
            State::Removing => {
                return Err(Error::TargetInvalid("this restore was finished: it can only be undone".into()));
            }
            State::Ready | State::Applied | State::Reverting => {
                self.set_state(State::Reverting)?;
                let mut exchange = self.exchange(false, true, progress);
                exchange.revert()?;
                problems = std::mem::take(&mut exchange.problems);
                self.synchronise()?;
                // As before it was ready: what is left has only to be removed.
                self.set_state(State::Staging)?;
            }
        }
        self.remove(false)?;
        Ok(problems)
    }

    /// Removes what was replaced, and the journal. `applied`: the target is as it was wanted, not as it was.
    pub fn remove(&mut self, applied: bool) -> Result<()> {
        if applied {
            self.set_state(State::Removing)?;
            journal::mark_finished(self.staging[0].as_fd())?;
        }
        for (at, (top, path)) in self.areas.iter().enumerate().rev() {
            let failed = |e: std::io::Error| Error::of_target("remove the staging directory", &e);
            remove::contents(self.staging[at].as_fd()).map_err(failed)?;
            let dir = self.tops[*top].ways.open(path).map_err(failed)?;
            remove::directory(dir, self.name.as_bytes()).map_err(failed)?;
        }
        for (top, path) in &self.areas {
            let dir = self.tops[*top].ways.open(path).and_then(|dir| Ok(stage::readable(dir)?));
            dir.and_then(|dir| Ok(fsync(&dir)?)).map_err(|e| Error::of_target("make the target durable", &e))?;
        }
        Ok(())
    }
}

/// Removes a staging directory in which nothing was begun, or which is all that is left.
pub fn remove_remains(path: &Path) -> Result<()> {
    let (Some(above), Some(name)) = (path.parent(), path.file_name()) else { return Ok(()) };
    if !crate::source::is_staging(name.as_bytes()) {
        return Err(Error::TargetInvalid("this is not a staging directory".into()));
    }
    let failed = |e: std::io::Error| Error::of_target("remove the staging directory", &e);
    let mut top = [Top::new(above.to_path_buf(), found::open_top(above)?)?];
    let name = name.to_str().ok_or_else(|| Error::TargetInvalid("this is not a staging directory".into()))?;
    let staging = stage::open_areas(&mut top, &[(0, Vec::new())], name)?;
    remove::contents(staging[0].as_fd()).map_err(failed)?;
    remove::directory(top[0].ways.root(), name.as_bytes()).map_err(failed)
}

impl Top {
    fn new(path: PathBuf, fd: OwnedFd) -> Result<Top> {
        let mount = ways::mount_of(fd.as_fd()).map_err(|e| Error::of_target("look at the target", &e))?;
        Ok(Top { path, ways: Ways::new(fd), mount })
    }
}

#[cfg(test)]
mod tests;
