//! Restoring in place: plans, and transactions whose journal is on disk.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use pyo3::prelude::*;
use pyo3::types::PyBytes;
use snapstore_core::error::Error;
use snapstore_core::id::Id;
use snapstore_core::inplace::{
    self, Base, Choices, Extras, Kind, Outline, Part, Ready, StageOptions, StageResult, State, Strategy, Tree,
};
use snapstore_core::progress::Progress;
use snapstore_core::restore::Problem;

use crate::errors::raise;
use crate::keys::path_of;
use crate::reader::{bytes, Entry, Reader};
use crate::task::Task;

/// A root's id and the path in it.
type Place = (Vec<u8>, Vec<u8>);

/// What is restored to one place.
#[derive(FromPyObject)]
pub struct Piece {
    live: Option<Vec<u8>>,
    wanted: Place,
    head: Option<Place>,
    paths: Option<Vec<Vec<u8>>>,
    extras: String,
    path: Vec<u8>,
    is_directory: bool,
    crosses: bool,
    journal: Option<Vec<u8>>,
}

type Problems = Vec<(Py<PyBytes>, String, String)>;
/// Part, path, what is done, bytes of content.
type Step = (usize, Py<PyBytes>, &'static str, u64);
/// Part, path, the entries of live, wanted and head tree, whether the wanted one is taken.
type Clash = (usize, Py<PyBytes>, Option<Entry>, Option<Entry>, Option<Entry>, bool);

fn tree((root, below): Place) -> PyResult<Tree> {
    Ok(Tree { root: Id::from_slice(&root).map_err(raise)?, below })
}

fn part(piece: Piece) -> PyResult<(Part, Base)> {
    let Piece { live, wanted, head, paths, extras, path, is_directory, crosses, journal } = piece;
    let live = live.map(|id| Id::from_slice(&id).map_err(raise)).transpose()?;
    let extras = match &*extras {
        "keep" => Extras::Keep,
        "delete-known" => Extras::DeleteKnown,
        "delete" => Extras::Delete,
        _ => return Err(raise(Error::Invalid(format!("nothing is done to extras by {extras:?}")))),
    };
    let part = Part { live, wanted: tree(wanted)?, head: head.map(tree).transpose()?, paths, extras };
    Ok((part, Base { path: path_of(&path), is_directory, crosses, journal: journal.map(|path| path_of(&path)) }))
}

fn strategy(name: &str) -> PyResult<Strategy> {
    Ok(match name {
        "overwrite" => Strategy::Overwrite,
        "keep-original" => Strategy::KeepOriginal,
        "newer" => Strategy::Newer,
        "merge" => Strategy::Merge,
        _ => return Err(raise(Error::Invalid(format!("there is no strategy {name:?}")))),
    })
}

fn problems_of(py: Python<'_>, problems: &[Problem]) -> Problems {
    problems.iter().map(|one| (bytes(py, &one.path), one.what.clone(), one.reason.clone())).collect()
}

#[pyclass(frozen, module = "snapstore._native")]
pub struct RestorePlan {
    outline: Outline,
    problems: Vec<Problem>,
    ready: Mutex<Option<Ready>>,
}

pub fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn word(outline: &Outline, number: usize) -> &'static str {
    let item = &outline.plan.items[number];
    match item.kind {
        Kind::Create | Kind::CreateAlone => "create",
        Kind::Metadata => "metadata",
        Kind::Delete => "delete",
        Kind::Replace if item.is_type_change() => "type",
        Kind::Replace if outline.patched_bytes(number).is_some() => "patch",
        Kind::Replace => "replace",
    }
}

fn size(outline: &Outline, number: usize) -> u64 {
    let item = &outline.plan.items[number];
    match item.kind {
        Kind::Create => item.wanted.as_ref().map_or(0, |wanted| wanted.totals().1),
        Kind::CreateAlone | Kind::Metadata => 0,
        Kind::Delete => item.live.as_ref().filter(|live| live.directory().is_none()).map_or(0, |live| live.totals().1),
        Kind::Replace => {
            let whole = || item.wanted.as_ref().map_or(0, |wanted| wanted.totals().1);
            outline.patched_bytes(number).unwrap_or_else(whole)
        }
    }
}

/// Entries that an item stands for.
fn entries(outline: &Outline, number: usize) -> u64 {
    let item = &outline.plan.items[number];
    match item.kind {
        Kind::Create | Kind::Replace => item.wanted.as_ref().map_or(1, |wanted| wanted.totals().0),
        _ => 1,
    }
}

#[pymethods]
impl RestorePlan {
    fn __len__(&self) -> usize {
        self.outline.plan.items.len()
    }

    /// The steps from `start`, at most `count`.
    fn steps(&self, py: Python<'_>, start: usize, count: usize) -> Vec<Step> {
        let outline = &self.outline;
        let items = outline.plan.items.iter().enumerate().skip(start).take(count);
        items
            .map(|(number, item)| (item.part, bytes(py, &item.path), word(outline, number), size(outline, number)))
            .collect()
    }

    /// Entries and bytes of each kind of step.
    fn counts(&self) -> HashMap<&'static str, (u64, u64)> {
        let mut counts: HashMap<&'static str, (u64, u64)> = HashMap::new();
        for number in 0..self.outline.plan.items.len() {
            let count = counts.entry(word(&self.outline, number)).or_default();
            count.0 += entries(&self.outline, number);
            count.1 = count.1.saturating_add(size(&self.outline, number));
        }
        counts
    }

    fn conflicts(&self, py: Python<'_>) -> Vec<Clash> {
        let entry = |entry: &Option<snapstore_core::node::Entry>| entry.clone().map(Entry);
        let conflicts = self.outline.plan.conflicts.iter();
        conflicts
            .map(|one| {
                let path = bytes(py, &one.path);
                (one.part, path, entry(&one.live), entry(&one.wanted), entry(&one.head), one.taken)
            })
            .collect()
    }

    #[getter]
    fn conflict_count(&self) -> u64 {
        self.outline.plan.conflict_count
    }

    /// What the snapshot does not have and stays: part and path.
    fn extras(&self, py: Python<'_>) -> Vec<(usize, Py<PyBytes>)> {
        self.outline.plan.extras.iter().map(|(part, path)| (*part, bytes(py, path))).collect()
    }

    #[getter]
    fn extra_count(&self) -> u64 {
        self.outline.plan.extra_count
    }

    fn problems(&self, py: Python<'_>) -> Problems {
        problems_of(py, &self.problems)
    }

    /// Stages everything, once.
    #[pyo3(signature = (name, note, *, verify = false, goes_on = false))]
    fn stage(&self, name: String, note: Vec<u8>, verify: bool, goes_on: bool) -> PyResult<Task> {
        let ready = held(&self.ready).take();
        let ready = ready.ok_or_else(|| raise(Error::Invalid("this plan was used".into())))?;
        let options = StageOptions { name, note, verify, goes_on };
        let work = move |progress: &Progress| ready.stage(&options, progress);
        Task::spawn(Arc::default(), work, |py, (transaction, result)| {
            Ok(Py::new(py, Transaction::new(transaction, result))?.into_any())
        })
    }
}

#[pyclass(frozen, module = "snapstore._native")]
pub struct Transaction {
    inner: Arc<Mutex<Option<inplace::Transaction>>>,
    staged: StageResult,
}

/// What a transaction that is still held does.
fn with<T>(
    inner: &Mutex<Option<inplace::Transaction>>,
    work: impl FnOnce(&mut inplace::Transaction) -> Result<T, Error>,
) -> Result<T, Error> {
    let let_go = || Error::Internal("the journal of a restore was let go before".into());
    work(held(inner).as_mut().ok_or_else(let_go)?)
}

impl Transaction {
    fn new(transaction: inplace::Transaction, staged: StageResult) -> Transaction {
        Transaction { inner: Arc::new(Mutex::new(Some(transaction))), staged }
    }
}

#[pymethods]
impl Transaction {
    /// `staging`, `ready`, `reverting`, `applied` or `removing`.
    #[getter]
    fn state(&self) -> PyResult<&'static str> {
        with(&self.inner, |transaction| Ok(transaction.state().word())).map_err(raise)
    }

    /// The paths of its staging directories.
    #[getter]
    fn places(&self, py: Python<'_>) -> PyResult<Vec<Py<PyBytes>>> {
        let places = with(&self.inner, |transaction| Ok(transaction.places())).map_err(raise)?;
        Ok(places.iter().map(|path| bytes(py, path)).collect())
    }

    /// Lets go of the journal, as far as it is still there: others may work with it.
    fn close(&self) {
        held(&self.inner).take();
    }

    #[getter]
    fn bytes(&self) -> u64 {
        self.staged.bytes
    }

    /// Files, directories and others that were staged.
    #[getter]
    fn counts(&self) -> (u64, u64, u64) {
        (self.staged.files, self.staged.directories, self.staged.others)
    }

    #[getter]
    fn verified_files(&self) -> u64 {
        self.staged.verified_files
    }

    #[getter]
    fn problem_count(&self) -> u64 {
        self.staged.problem_count
    }

    fn problems(&self, py: Python<'_>) -> Problems {
        problems_of(py, &self.staged.problems)
    }

    /// Exchanges everything that is not yet.
    #[pyo3(signature = (*, goes_on = false, again = false))]
    fn apply(&self, goes_on: bool, again: bool) -> PyResult<Task> {
        let inner = self.inner.clone();
        let work = move |progress: &Progress| with(&inner, |transaction| transaction.apply(goes_on, again, progress));
        Task::spawn(Arc::default(), work, told)
    }

    /// Takes back everything that was exchanged, and removes the journal.
    fn revert(&self) -> PyResult<Task> {
        let inner = self.inner.clone();
        let work = move |progress: &Progress| with(&inner, |transaction| transaction.revert(progress));
        Task::spawn(Arc::default(), work, told)
    }

    /// Removes what was replaced, and the journal.
    fn remove(&self, py: Python<'_>) -> PyResult<()> {
        let inner = &self.inner;
        let work = |transaction: &mut inplace::Transaction| {
            let applied = matches!(transaction.state(), State::Applied | State::Removing);
            transaction.remove(applied)
        };
        py.detach(|| with(inner, work)).map_err(raise)
    }
}

fn told(py: Python<'_>, problems: Vec<Problem>) -> PyResult<Py<PyAny>> {
    Ok(problems_of(py, &problems).into_pyobject(py)?.into_any().unbind())
}

/// The restore whose journal is in the staging directory `path`, and the note in it; None when nothing was begun in it.
#[pyfunction]
pub fn open_transaction(py: Python<'_>, path: &[u8]) -> PyResult<Option<(Transaction, Py<PyBytes>)>> {
    let path = path_of(path);
    let opened = py.detach(|| inplace::Transaction::open(&path)).map_err(raise)?;
    Ok(opened.map(|(transaction, note)| (Transaction::new(transaction, StageResult::default()), bytes(py, &note))))
}

/// Removes a staging directory in which nothing was begun.
#[pyfunction]
pub fn remove_remains(py: Python<'_>, path: &[u8]) -> PyResult<()> {
    let path = path_of(path);
    py.detach(|| inplace::remove_remains(&path)).map_err(raise)
}

/// Compares trees and decides what a restore in place has to do.
#[pyfunction]
#[pyo3(signature = (reader, parts, *, strategy, decided = HashMap::new()))]
pub fn plan_restore(
    reader: &Reader,
    parts: Vec<Piece>,
    strategy: &str,
    decided: HashMap<(usize, Vec<u8>), bool>,
) -> PyResult<Task> {
    let parts = parts.into_iter().map(part).collect::<PyResult<Vec<_>>>()?;
    let choices = Choices { strategy: self::strategy(strategy)?, decided };
    let reader = reader.inner.clone();
    let work = move |progress: &Progress| inplace::plan(&reader, parts, &choices, progress);
    Task::spawn(Arc::default(), work, |py, ready| {
        let (outline, problems) = (ready.outline.clone(), ready.problems.clone());
        Ok(Py::new(py, RestorePlan { outline, problems, ready: Mutex::new(Some(ready)) })?.into_any())
    })
}
