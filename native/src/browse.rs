//! Walking, comparing and searching trees: iterators that hand out batches, and tasks.

use std::collections::hash_map::Entry::{Occupied, Vacant};
use std::collections::HashMap;
use std::sync::Mutex;

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString, PyTuple};
use snapstore_core::diff::{self, Change, Diff, Fields, Pair};
use snapstore_core::error::{Error, Result};
use snapstore_core::find::{self, Find, Found, Query, Top, Tree, TYPES};
use snapstore_core::id::Id;
use snapstore_core::live::{Doubt, LiveDiff, Stored};
use snapstore_core::lookup::lookup as core_lookup;
use snapstore_core::node;
use snapstore_core::progress::Progress;
use snapstore_core::reader;
use snapstore_core::usage::unique_bytes as core_unique_bytes;
use snapstore_core::walk::{Listed, Pace, Walk};

use crate::errors::{foreign, raise};
use crate::inplace::held;
use crate::keys::path_of;
use crate::reader::{Entry, Reader};
use crate::select::{of_root, Selection};
use crate::task::Task;

/// Lets Ctrl-C end a long call.
fn go_on() -> Result<()> {
    Python::attach(|py| py.check_signals().map_err(foreign))
}

/// The next batch, without the interpreter.
fn next<S: Send, T: Send>(
    py: Python<'_>,
    state: &Mutex<S>,
    batch: impl FnOnce(&mut S, &mut Pace) -> Result<Option<Vec<T>>> + Send,
) -> PyResult<Option<Vec<T>>> {
    py.detach(|| {
        let mut state = state.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        batch(&mut state, &mut Pace::new(&go_on))
    })
    .map_err(raise)
}

type Shared = std::sync::Arc<reader::Reader>;

fn path<'py>(py: Python<'py>, bytes: &[u8]) -> Bound<'py, PyBytes> {
    PyBytes::new(py, bytes)
}

/// A path, and what is there.
type Placed<'py> = (Bound<'py, PyBytes>, Entry);

#[pyclass(frozen, module = "snapstore._native")]
pub struct TreeWalk {
    reader: Shared,
    walk: Mutex<Walk>,
}

#[pymethods]
impl TreeWalk {
    #[new]
    #[pyo3(signature = (reader, directory, path, *, recursive))]
    fn new(reader: &Reader, directory: &Entry, path: &[u8], recursive: bool) -> PyResult<TreeWalk> {
        let reader = reader.inner.clone();
        let walk = Walk::new(&reader, directory.directory()?, path, recursive);
        Ok(TreeWalk { reader, walk: Mutex::new(walk) })
    }

    fn __iter__(this: PyRef<'_, Self>) -> PyRef<'_, Self> {
        this
    }

    fn __next__<'py>(&self, py: Python<'py>) -> PyResult<Option<Vec<Placed<'py>>>> {
        let found = next(py, &self.walk, |walk, pace| walk.batch(&self.reader, pace))?;
        let give = |listed: Listed| (path(py, &listed.path), Entry(listed.entry));
        Ok(found.map(|found| found.into_iter().map(give).collect()))
    }
}

/// Kind, path, old path, old and new entry, names of the fields that differ, error.
type Changed<'py> = (
    Bound<'py, PyString>,
    Bound<'py, PyBytes>,
    Option<Bound<'py, PyBytes>>,
    Option<Entry>,
    Option<Entry>,
    Bound<'py, PyTuple>,
    Option<String>,
);

/// Words that come again and again are made once in a batch.
fn give<'py>(py: Python<'py>, found: Option<Vec<Change>>) -> PyResult<Option<Vec<Changed<'py>>>> {
    let Some(found) = found else { return Ok(None) };
    let mut kinds: HashMap<&'static str, Bound<'py, PyString>> = HashMap::new();
    let mut fields: HashMap<u16, Bound<'py, PyTuple>> = HashMap::new();
    let mut given = Vec::with_capacity(found.len());
    for change in found {
        let kind = change.kind();
        let names = match fields.entry(change.fields.0) {
            Vacant(place) => place.insert(PyTuple::new(py, change.fields.names())?).clone(),
            Occupied(place) => place.get().clone(),
        };
        given.push((
            kinds.entry(kind).or_insert_with(|| PyString::intern(py, kind)).clone(),
            path(py, &change.path),
            change.old_path.map(|old| path(py, &old)),
            change.old.map(Entry),
            change.new.map(Entry),
            names,
            change.error,
        ));
    }
    Ok(Some(given))
}

fn ignored(names: &[String]) -> PyResult<Fields> {
    let mut ignored = Fields::default();
    for name in names {
        let Some(bit) = Fields::NAMES.iter().position(|known| known == name) else {
            return Err(raise(Error::Invalid(format!("there is no field {name:?} to ignore"))));
        };
        ignored.add(true, Fields(1 << bit));
    }
    Ok(ignored)
}

/// A path, and what is there.
type Side = Option<(Vec<u8>, Py<Entry>)>;

#[pyclass(frozen, module = "snapstore._native")]
pub struct TreeDiff {
    reader: Shared,
    diff: Mutex<Diff>,
}

#[pymethods]
impl TreeDiff {
    #[new]
    #[pyo3(signature = (reader, pairs, *, ignore = Vec::new(), renames = true))]
    fn new(reader: &Reader, pairs: Vec<(Side, Side)>, ignore: Vec<String>, renames: bool) -> PyResult<TreeDiff> {
        let side = |side: Side| side.map(|(path, entry)| (path, entry.get().0.clone()));
        let pairs = pairs.into_iter().map(|(old, new)| Pair { old: side(old), new: side(new) }).collect();
        let diff = Diff::new(pairs, ignored(&ignore)?, renames);
        Ok(TreeDiff { reader: reader.inner.clone(), diff: Mutex::new(diff) })
    }

    fn __iter__(this: PyRef<'_, Self>) -> PyRef<'_, Self> {
        this
    }

    fn __next__<'py>(&self, py: Python<'py>) -> PyResult<Option<Vec<Changed<'py>>>> {
        give(py, next(py, &self.diff, |diff, pace| diff.batch(&self.reader, pace))?)
    }
}

#[pyclass(frozen, module = "snapstore._native")]
pub struct DirectoryDiff {
    reader: Shared,
    diff: Mutex<LiveDiff>,
}

#[pymethods]
impl DirectoryDiff {
    #[new]
    #[pyo3(signature = (reader, shown, entry, path, *, below = Vec::new(), root = None, selection = None, whole = true,
        ignore = Vec::new(), content = false))]
    #[allow(clippy::too_many_arguments)]
    fn new(
        reader: &Reader,
        shown: Vec<u8>,
        entry: &Entry,
        path: &[u8],
        below: Vec<u8>,
        root: Option<&[u8]>,
        selection: Option<&Selection>,
        whole: bool,
        ignore: Vec<String>,
        content: bool,
    ) -> PyResult<DirectoryDiff> {
        let doubt = if content { Doubt::Always } else { Doubt::Time };
        let selection = of_root(selection, Vec::new(), whole)?;
        let stored = Stored { old: entry.0.clone(), shown, below, root: root.map(path_of), selection };
        let diff = LiveDiff::new(stored, &path_of(path), ignored(&ignore)?, doubt);
        Ok(DirectoryDiff { reader: reader.inner.clone(), diff: Mutex::new(diff.map_err(raise)?) })
    }

    fn __iter__(this: PyRef<'_, Self>) -> PyRef<'_, Self> {
        this
    }

    fn __next__<'py>(&self, py: Python<'py>) -> PyResult<Option<Vec<Changed<'py>>>> {
        give(py, next(py, &self.diff, |diff, pace| diff.batch(&self.reader, pace))?)
    }

    #[getter]
    fn unfinished<'py>(&self, py: Python<'py>) -> Vec<Bound<'py, PyBytes>> {
        held(&self.diff).unfinished.iter().map(|path| PyBytes::new(py, path)).collect()
    }
}

#[pyclass(frozen, module = "snapstore._native")]
pub struct TreeFind {
    reader: Shared,
    find: Mutex<Find>,
}

/// The id of a root, or an entry instead.
type AnyTop = (Vec<u8>, Option<Py<Entry>>);

/// A path, and what is there: the id of a root, or an entry instead.
type AnyTree = (Vec<u8>, Vec<u8>, Option<Py<Entry>>);

/// The number of a tree, a path in it, and what is there.
type InTree<'py> = (usize, Bound<'py, PyBytes>, Entry);

fn top(root: Vec<u8>, entry: Option<&Py<Entry>>) -> PyResult<Top> {
    match entry {
        Some(entry) => Ok(Top::Entry(Box::new(entry.get().0.clone()))),
        None => Ok(Top::Root(Id::from_slice(&root).map_err(raise)?)),
    }
}

#[pymethods]
impl TreeFind {
    #[new]
    #[pyo3(signature = (reader, trees, pattern, *, regex = false, ignore_case = false, larger_than = None,
        smaller_than = None, newer_than_ns = None, older_than_ns = None, types = Vec::new()))]
    #[allow(clippy::too_many_arguments)]
    fn new(
        reader: &Reader,
        trees: Vec<AnyTree>,
        pattern: &str,
        regex: bool,
        ignore_case: bool,
        larger_than: Option<u64>,
        smaller_than: Option<u64>,
        newer_than_ns: Option<i128>,
        older_than_ns: Option<i128>,
        types: Vec<String>,
    ) -> PyResult<TreeFind> {
        let mut query = Query::new(pattern, regex, ignore_case).map_err(raise)?;
        (query.larger_than, query.smaller_than) = (larger_than, smaller_than);
        (query.newer_than_ns, query.older_than_ns) = (newer_than_ns, older_than_ns);
        for name in types {
            let number = TYPES.iter().position(|known| *known == name);
            let number = number.ok_or_else(|| raise(Error::Invalid(format!("there is no type {name:?}"))))?;
            query.types |= 1 << number;
        }
        let numbered = trees.into_iter().enumerate();
        let trees: PyResult<Vec<Tree>> = numbered
            .map(|(number, (path, root, entry))| Ok(Tree { number, path, top: top(root, entry.as_ref())? }))
            .collect();
        Ok(TreeFind { reader: reader.inner.clone(), find: Mutex::new(Find::new(query, trees?)) })
    }

    fn __iter__(this: PyRef<'_, Self>) -> PyRef<'_, Self> {
        this
    }

    fn __next__<'py>(&self, py: Python<'py>) -> PyResult<Option<Vec<InTree<'py>>>> {
        let found = next(py, &self.find, |find, pace| find.batch(&self.reader, pace))?;
        let give = |found: Found| (found.tree, path(py, &found.path), Entry(found.entry));
        Ok(found.map(|found| found.into_iter().map(give).collect()))
    }
}

/// Names of what differs between two entries of one type.
#[pyfunction]
pub fn differing_fields<'py>(py: Python<'py>, old: &Entry, new: &Entry) -> PyResult<Bound<'py, PyTuple>> {
    PyTuple::new(py, diff::fields(&old.0, &new.0).names())
}

/// Whether two entries are the same, with all that is below them.
#[pyfunction]
pub fn same_entry(one: &Entry, other: &Entry) -> bool {
    let nameless = |entry: &Entry| node::Entry { name: Box::default(), ..entry.0.clone() };
    nameless(one) == nameless(other)
}

fn entries(py: Python<'_>, found: Vec<Option<node::Entry>>) -> PyResult<Py<PyAny>> {
    let found: Vec<Option<Entry>> = found.into_iter().map(|entry| entry.map(Entry)).collect();
    Ok(found.into_pyobject(py)?.into_any().unbind())
}

#[pyfunction]
pub fn lookup(reader: &Reader, wanted: Vec<(Vec<u8>, Vec<u8>)>) -> PyResult<Task> {
    let wanted: PyResult<Vec<(Id, Vec<u8>)>> =
        wanted.into_iter().map(|(root, path)| Ok((Id::from_slice(&root).map_err(raise)?, path))).collect();
    let (wanted, reader) = (wanted?, reader.inner.clone());
    Task::spawn(Default::default(), move |progress: &Progress| core_lookup(&reader, &wanted, progress), entries)
}

#[pyfunction]
pub fn unique_bytes(reader: &Reader, groups: Vec<Vec<AnyTop>>) -> PyResult<Task> {
    let group = |group: Vec<AnyTop>| -> PyResult<Vec<find::Top>> {
        group.into_iter().map(|(root, entry)| top(root, entry.as_ref())).collect()
    };
    let groups: PyResult<Vec<Vec<find::Top>>> = groups.into_iter().map(group).collect();
    let (groups, reader) = (groups?, reader.inner.clone());
    let give = |py: Python<'_>, found: Vec<u64>| Ok(found.into_pyobject(py)?.into_any().unbind());
    Task::spawn(Default::default(), move |progress: &Progress| core_unique_bytes(&reader, &groups, progress), give)
}
