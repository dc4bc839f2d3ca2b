//! Reading trees and content, restoring, checking.

use std::sync::Arc;
use std::time::Duration;

use pyo3::prelude::*;
use pyo3::types::PyBytes;
use snapstore_core::check::{check_packs, check_trees, PackOptions, PacksChecked, TreesChecked};
use snapstore_core::error::Error;
use snapstore_core::id::{self, Id};
use snapstore_core::node::{self, What};
use snapstore_core::pack::Kind;
use snapstore_core::progress::Progress;
use snapstore_core::reader;
use snapstore_core::restore::{self, Options, Restored};

use crate::errors::raise;
use crate::index::PyIndex;
use crate::keys::{path_of, Keys};
use crate::task::Task;
use crate::writer::Nodes;

const CACHE_BYTES: usize = 64 << 20;

#[pyclass(frozen, module = "snapstore._native")]
pub struct Entry(pub(crate) node::Entry);

fn not_a(entry: &node::Entry, what: &str) -> PyErr {
    raise(Error::Invalid(format!("{} is not a {what}", snapstore_core::error::show(&entry.name))))
}

impl Entry {
    pub(crate) fn directory(&self) -> PyResult<&node::Directory> {
        match &self.0.what {
            What::Directory(directory) => Ok(directory),
            _ => Err(not_a(&self.0, "directory")),
        }
    }
}

#[pymethods]
impl Entry {
    #[getter]
    fn name<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.0.name)
    }

    #[getter]
    fn r#type(&self) -> &'static str {
        match self.0.what {
            What::File { .. } => "file",
            What::Directory(_) => "directory",
            What::Symlink(_) => "symlink",
            What::Fifo => "fifo",
            What::CharDevice(..) => "chardev",
            What::BlockDevice(..) => "blockdev",
        }
    }

    #[getter]
    fn mode(&self) -> u16 {
        self.0.mode
    }

    #[getter]
    fn uid(&self) -> u32 {
        self.0.uid
    }

    #[getter]
    fn gid(&self) -> u32 {
        self.0.gid
    }

    #[getter]
    fn mtime_ns(&self) -> i128 {
        self.0.mtime.as_ns()
    }

    #[getter]
    fn size(&self) -> u64 {
        match &self.0.what {
            What::File { size, .. } => *size,
            What::Symlink(target) => target.len() as u64,
            _ => 0,
        }
    }

    #[getter]
    fn target<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyBytes>> {
        match &self.0.what {
            What::Symlink(target) => Some(PyBytes::new(py, target)),
            _ => None,
        }
    }

    #[getter]
    fn device(&self) -> Option<(u32, u32)> {
        match self.0.what {
            What::CharDevice(major, minor) | What::BlockDevice(major, minor) => Some((major, minor)),
            _ => None,
        }
    }

    #[getter]
    fn entries(&self) -> u64 {
        match &self.0.what {
            What::Directory(directory) => directory.entries,
            _ => 0,
        }
    }

    #[getter]
    fn bytes(&self) -> u64 {
        self.0.totals().1
    }

    #[getter]
    fn node<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyBytes>> {
        match &self.0.what {
            What::Directory(directory) => directory.node.map(|id| PyBytes::new(py, &id.0)),
            _ => None,
        }
    }

    #[getter]
    fn has_xattrs(&self) -> bool {
        self.0.xattrs.is_some()
    }

    #[getter]
    fn has_holes(&self) -> bool {
        matches!(self.0.what, What::File { holes: Some(_), .. })
    }
}

pub(crate) fn bytes(py: Python<'_>, data: &[u8]) -> Py<PyBytes> {
    PyBytes::new(py, data).unbind()
}

#[pyclass(frozen, get_all, module = "snapstore._native")]
pub struct RestoreResult {
    files: u64,
    directories: u64,
    others: u64,
    bytes: u64,
    problems: Vec<(Py<PyBytes>, String, String)>,
    problem_count: u64,
    verified_files: u64,
}

fn restore_result(py: Python<'_>, restored: Restored) -> PyResult<Py<PyAny>> {
    let problems = restored.problems.into_iter().map(|p| (bytes(py, &p.path), p.what, p.reason)).collect();
    let result = RestoreResult {
        files: restored.files,
        directories: restored.directories,
        others: restored.others,
        bytes: restored.bytes,
        problems,
        problem_count: restored.problem_count,
        verified_files: restored.verified_files,
    };
    Ok(Py::new(py, result)?.into_any())
}

#[pyclass(frozen, get_all, module = "snapstore._native")]
pub struct CheckResult {
    nodes: u64,
    chunks: u64,
    problems: Vec<(usize, Py<PyBytes>, String)>,
    problem_count: u64,
    complete: bool,
}

fn check_result(py: Python<'_>, report: TreesChecked) -> PyResult<Py<PyAny>> {
    let problems = report.problems.into_iter().map(|p| (p.root, bytes(py, &p.path), p.reason)).collect();
    let result = CheckResult {
        nodes: report.nodes,
        chunks: report.chunks,
        problems,
        problem_count: report.problem_count,
        complete: report.complete,
    };
    Ok(Py::new(py, result)?.into_any())
}

#[pyclass(frozen, get_all, module = "snapstore._native")]
pub struct PackCheckResult {
    packs: u64,
    bytes: u64,
    problems: Vec<(u8, Py<PyBytes>, String)>,
    problem_count: u64,
    bad_ids: Vec<Py<PyBytes>>,
    complete: bool,
    checked: Vec<Py<PyBytes>>,
}

fn pack_check_result(py: Python<'_>, report: PacksChecked) -> PyResult<Py<PyAny>> {
    let problems = report.problems.into_iter().map(|p| (p.kind as u8, bytes(py, &p.id.0), p.reason)).collect();
    let result = PackCheckResult {
        packs: report.packs,
        bytes: report.bytes,
        problems,
        problem_count: report.problem_count,
        bad_ids: report.bad_ids.iter().map(|id| bytes(py, &id.0)).collect(),
        complete: report.complete,
        checked: report.checked.iter().map(|id| bytes(py, &id.0)).collect(),
    };
    Ok(Py::new(py, result)?.into_any())
}

/// Offset, length, and id; none for a zero run.
type ChunkPlace<'py> = (u64, u64, Option<Bound<'py, PyBytes>>);

/// A path below a root, and the first path of its group of hard links.
type LinkPair<'py> = (Bound<'py, PyBytes>, Bound<'py, PyBytes>);

#[pyclass(frozen, module = "snapstore._native")]
pub struct Reader {
    pub(crate) inner: Arc<reader::Reader>,
    keys: Arc<id::Keys>,
    store: std::path::PathBuf,
}

fn packs_of(packs: Vec<(u8, Vec<u8>)>) -> PyResult<Vec<(Kind, Id)>> {
    packs
        .into_iter()
        .map(|(kind, id)| Ok((Kind::from_byte(kind).map_err(raise)?, Id::from_slice(&id).map_err(raise)?)))
        .collect()
}

fn ids_of(ids: Vec<Vec<u8>>) -> PyResult<Vec<Id>> {
    ids.iter().map(|id| Id::from_slice(id).map_err(raise)).collect()
}

/// At most about 30 years: longer than any machine checks, and no limit that a Duration could not hold.
fn limit(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds.clamp(0.0, 1e9))
}

#[pymethods]
impl Reader {
    #[new]
    #[pyo3(signature = (store, keys, index, *, cache_bytes = CACHE_BYTES, nodes = None))]
    fn new(store: &[u8], keys: &Keys, index: Py<PyAny>, cache_bytes: usize, nodes: Option<&Nodes>) -> Reader {
        let store = path_of(store);
        let mut inner = reader::Reader::new(&store, keys.0.clone(), Arc::new(PyIndex(index)), cache_bytes);
        if let Some(nodes) = nodes.and_then(Nodes::take) {
            inner = inner.with_nodes(nodes);
        }
        Reader { inner: Arc::new(inner), keys: keys.0.clone(), store }
    }

    fn preload(&self, py: Python<'_>, packs: Vec<(u8, Vec<u8>)>) -> PyResult<()> {
        let packs = packs_of(packs)?;
        py.detach(|| self.inner.preload(&packs));
        Ok(())
    }

    fn node<'py>(&self, py: Python<'py>, id: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
        let id = Id::from_slice(id).map_err(raise)?;
        let node = py.detach(|| self.inner.node(&id)).map_err(raise)?;
        Ok(PyBytes::new(py, &node))
    }

    fn root(&self, py: Python<'_>, id: &[u8]) -> PyResult<Entry> {
        let id = Id::from_slice(id).map_err(raise)?;
        py.detach(|| self.inner.root(&id)).map(|root| Entry(root.entry)).map_err(raise)
    }

    fn children(&self, py: Python<'_>, directory: &Entry) -> PyResult<Vec<Entry>> {
        let directory = directory.directory()?;
        let entries = py.detach(|| self.inner.children(directory)).map_err(raise)?;
        Ok(entries.into_iter().map(Entry).collect())
    }

    fn child(&self, py: Python<'_>, directory: &Entry, name: &[u8]) -> PyResult<Option<Entry>> {
        let directory = directory.directory()?;
        py.detach(|| self.inner.child(directory, name)).map(|entry| entry.map(Entry)).map_err(raise)
    }

    fn xattrs<'py>(&self, py: Python<'py>, entry: &Entry) -> PyResult<Vec<LinkPair<'py>>> {
        let set = py.detach(|| self.inner.xattrs(&entry.0)).map_err(raise)?;
        Ok(set.iter().map(|(name, value)| (PyBytes::new(py, name), PyBytes::new(py, value))).collect())
    }

    fn holes(&self, py: Python<'_>, entry: &Entry) -> PyResult<Vec<(u64, u64)>> {
        let holes = py.detach(|| self.inner.holes(&entry.0)).map_err(raise)?;
        Ok(holes.iter().map(|hole| (hole.start, hole.end - hole.start)).collect())
    }

    fn chunks<'py>(&self, py: Python<'py>, entry: &Entry) -> PyResult<Vec<ChunkPlace<'py>>> {
        let chunks = py.detach(|| self.inner.chunks(&entry.0)).map_err(raise)?;
        Ok(chunks.into_iter().map(|(at, len, id)| (at, len, id.map(|id| PyBytes::new(py, &id.0)))).collect())
    }

    fn read<'py>(&self, py: Python<'py>, entry: &Entry, offset: u64, size: u64) -> PyResult<Bound<'py, PyBytes>> {
        let data = py.detach(|| self.inner.read(&entry.0, offset, size)).map_err(raise)?;
        Ok(PyBytes::new(py, &data))
    }

    fn links<'py>(&self, py: Python<'py>, root_id: &[u8]) -> PyResult<Vec<LinkPair<'py>>> {
        let id = Id::from_slice(root_id).map_err(raise)?;
        let links = py.detach(|| self.inner.links(&self.inner.root(&id)?)).map_err(raise)?;
        Ok(links.iter().map(|link| (PyBytes::new(py, &link.path), PyBytes::new(py, &link.first))).collect())
    }

    #[pyo3(signature = (root_id, target, *, paths = None, strip = None, verify = false, threads = 0))]
    fn restore(
        &self,
        root_id: &[u8],
        target: &[u8],
        paths: Option<Vec<Vec<u8>>>,
        strip: Option<Vec<u8>>,
        verify: bool,
        threads: usize,
    ) -> PyResult<Task> {
        let root = Id::from_slice(root_id).map_err(raise)?;
        let (inner, target) = (self.inner.clone(), path_of(target));
        let options = Options { paths, strip, verify, threads };
        let work = move |progress: &Progress| restore::restore(&inner, &root, &target, &options, progress);
        Task::spawn(Arc::default(), work, restore_result)
    }

    #[pyo3(signature = (roots, *, bad_ids = Vec::new(), time_limit_s = None))]
    fn check_trees(&self, roots: Vec<Vec<u8>>, bad_ids: Vec<Vec<u8>>, time_limit_s: Option<f64>) -> PyResult<Task> {
        let (roots, bad) = (ids_of(roots)?, ids_of(bad_ids)?);
        let inner = self.inner.clone();
        let time_limit = time_limit_s.map(limit);
        let work = move |progress: &Progress| check_trees(&inner, &roots, &bad, time_limit, progress);
        Task::spawn(Arc::default(), work, check_result)
    }

    #[pyo3(signature = (packs, *, read_data, time_limit_s = None, threads = 0))]
    fn check_packs(
        &self,
        packs: Vec<(u8, Vec<u8>, u64)>,
        read_data: bool,
        time_limit_s: Option<f64>,
        threads: usize,
    ) -> PyResult<Task> {
        let sizes: Vec<u64> = packs.iter().map(|(_, _, size)| *size).collect();
        let names = packs_of(packs.into_iter().map(|(kind, id, _)| (kind, id)).collect())?;
        let packs: Vec<(Kind, Id, u64)> =
            names.into_iter().zip(sizes).map(|((kind, id), size)| (kind, id, size)).collect();
        let (store, keys) = (self.store.clone(), self.keys.clone());
        let options = PackOptions { read_data, time_limit: time_limit_s.map(limit), threads };
        let work = move |progress: &Progress| check_packs(&store, &keys, &packs, options, progress);
        Task::spawn(Arc::default(), work, pack_check_result)
    }
}
