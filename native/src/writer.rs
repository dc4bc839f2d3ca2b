//! The write pipeline, as Python drives it.

use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, MutexGuard};

use pyo3::prelude::*;
use pyo3::types::PyBytes;
use snapstore_core::chunker::Chunker;
use snapstore_core::error::{Error, Result};
use snapstore_core::node::Time;
use snapstore_core::packer::{self, Lane, Packer, Settings, Written, CLAIMED_MAX};
use snapstore_core::progress::Progress;
use snapstore_core::take::{self, Options, Taken};

use crate::errors::raise;
use crate::index::PyIndex;
use crate::keys::{array, path_of, Keys};
use crate::select::{self, Selection};
use crate::task::Task;

#[pyclass(frozen, get_all, module = "snapstore._native")]
pub struct RootResult {
    id: Py<PyBytes>,
    kind: &'static str,
    entries: u64,
    bytes: u64,
    files: u64,
    directories: u64,
    new_files: u64,
    changed_files: u64,
    unchanged_files: u64,
    read_bytes: u64,
    unreadable: Vec<(Py<PyBytes>, String)>,
    unreadable_count: u64,
    changed: Vec<Py<PyBytes>>,
    unfinished: Vec<Py<PyBytes>>,
    sockets: u64,
    excluded: u64,
    mounts: u64,
    uids: Vec<u32>,
    gids: Vec<u32>,
    packs: Vec<u32>,
}

fn bytes(py: Python<'_>, data: &[u8]) -> Py<PyBytes> {
    PyBytes::new(py, data).unbind()
}

pub(crate) fn root_result(py: Python<'_>, taken: Taken) -> PyResult<Py<PyAny>> {
    let id = taken.id.ok_or_else(|| raise(Error::Internal("a root has an id".into())))?;
    let result = RootResult {
        id: bytes(py, &id.0),
        kind: taken.kind,
        entries: taken.entries,
        bytes: taken.bytes,
        files: taken.files,
        directories: taken.directories,
        new_files: taken.new_files,
        changed_files: taken.changed_files,
        unchanged_files: taken.unchanged_files,
        read_bytes: taken.read_bytes,
        unreadable: taken.unreadable.into_iter().map(|(path, why)| (bytes(py, &path), why)).collect(),
        unreadable_count: taken.unreadable_count,
        changed: taken.changed.iter().map(|path| bytes(py, path)).collect(),
        unfinished: taken.unfinished.iter().map(|path| bytes(py, path)).collect(),
        sockets: taken.sockets,
        excluded: taken.excluded,
        mounts: taken.mounts,
        uids: taken.uids.into_iter().collect(),
        gids: taken.gids.into_iter().collect(),
        packs: taken.packs,
    };
    Ok(Py::new(py, result)?.into_any())
}

#[pyclass(frozen, get_all, module = "snapstore._native")]
pub struct WriterResult {
    packs: Vec<(u8, Py<PyBytes>, u64)>,
    new_bytes: u64,
    new_chunks: u64,
    new_nodes: u64,
    stored_bytes: u64,
}

fn writer_result(py: Python<'_>, written: Written) -> PyResult<Py<PyAny>> {
    let packs = written.packs.iter().map(|(kind, id, size)| (*kind as u8, bytes(py, &id.0), *size)).collect();
    let result = WriterResult {
        packs,
        new_bytes: written.new_bytes,
        new_chunks: written.new_chunks,
        new_nodes: written.new_nodes,
        stored_bytes: written.stored_bytes,
    };
    Ok(Py::new(py, result)?.into_any())
}

/// Nodes that are in memory and not in the store.
#[pyclass(frozen, module = "snapstore._native")]
pub struct Nodes(Mutex<Option<packer::Nodes>>);

impl Nodes {
    /// What it holds, once.
    pub(crate) fn take(&self) -> Option<packer::Nodes> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take()
    }
}

struct Inner {
    packer: Packer,
    chunker: Chunker,
    lanes: Mutex<Vec<Lane>>,
}

impl Inner {
    /// The lanes, for one task at a time.
    fn lanes(&self) -> MutexGuard<'_, Vec<Lane>> {
        self.lanes.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.packer.abort();
    }
}

#[pyclass(frozen, module = "snapstore._native")]
pub struct Writer {
    inner: Arc<Inner>,
    progress: Arc<Progress>,
}

impl Writer {
    fn spawn(&self, work: impl FnOnce(&Inner, &mut [Lane]) -> Result<Taken> + Send + 'static) -> PyResult<Task> {
        let inner = self.inner.clone();
        self.run(move |_, _, lanes| work(&inner, lanes), root_result)
    }

    /// Work on all lanes, and what becomes of its result.
    pub(crate) fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Packer, &Chunker, &mut [Lane]) -> Result<T> + Send + 'static,
        convert: impl FnOnce(Python<'_>, T) -> PyResult<Py<PyAny>> + Send + 'static,
    ) -> PyResult<Task> {
        let inner = self.inner.clone();
        let work = move |_: &Progress| {
            let mut lanes = inner.lanes();
            if lanes.is_empty() {
                return Err(Error::Invalid("this writer is finished".into()));
            }
            work(&inner.packer, &inner.chunker, &mut lanes)
        };
        Task::spawn(self.progress.clone(), work, convert)
    }
}

fn worker_count(threads: usize) -> usize {
    match threads {
        // More than 12 would not be faster on a local disk, and each has buffers of its own.
        0 => std::thread::available_parallelism().map_or(4, usize::from).min(12),
        n => n.min(64),
    }
}

#[pymethods]
impl Writer {
    #[new]
    #[pyo3(signature = (store, keys, index, *, session, chunk_bytes, block_bytes, meta_block_bytes, data_pack_bytes,
        meta_pack_bytes, level, threads = 0, index_empty = false, dry_run = false,
        keep_nodes = false))]
    #[allow(clippy::too_many_arguments)]
    fn new(
        store: &[u8],
        keys: &Keys,
        index: Py<PyAny>,
        session: &[u8],
        chunk_bytes: usize,
        block_bytes: usize,
        meta_block_bytes: usize,
        data_pack_bytes: u64,
        meta_pack_bytes: u64,
        level: i32,
        threads: usize,
        index_empty: bool,
        dry_run: bool,
        keep_nodes: bool,
    ) -> PyResult<Writer> {
        if !chunk_bytes.is_power_of_two() || !(8192..=1 << 20).contains(&chunk_bytes) {
            return Err(raise(Error::Invalid(format!("chunk_bytes {chunk_bytes} is not a power of two in bounds"))));
        }
        let session = array(session, "a session")?;
        let settings = Settings {
            session,
            block_bytes,
            meta_block_bytes,
            data_pack_bytes,
            meta_pack_bytes,
            level,
            claimed_max: CLAIMED_MAX,
            index_empty,
            dry_run,
            keep_nodes,
        };
        let progress = Arc::new(Progress::default());
        let chunker = Chunker::new(&keys.0, chunk_bytes);
        let packer = Packer::new(&path_of(store), keys.0.clone(), Arc::new(PyIndex(index)), settings, progress.clone());
        let lanes = (0..worker_count(threads)).map(|_| packer.lane()).collect::<Result<Vec<Lane>>>().map_err(raise)?;
        Ok(Writer { inner: Arc::new(Inner { packer, chunker, lanes: Mutex::new(lanes) }), progress })
    }

    #[pyo3(signature = (path, *, cache = None, new_cache = None, selection = None, named = Vec::new(), whole = true,
        below = Vec::new(), ignore_inode = false))]
    #[allow(clippy::too_many_arguments)]
    fn take_tree(
        &self,
        path: &[u8],
        cache: Option<&[u8]>,
        new_cache: Option<&[u8]>,
        selection: Option<&Selection>,
        named: Vec<Vec<u8>>,
        whole: bool,
        below: Vec<u8>,
        ignore_inode: bool,
    ) -> PyResult<Task> {
        let path = path_of(path);
        let options = Options {
            cache: cache.map(path_of),
            new_cache: new_cache.map(path_of),
            selection: select::of_root(selection, named, whole)?,
            below,
            ignore_inode,
        };
        self.spawn(move |inner, lanes| take::take_tree(&inner.packer, &inner.chunker, lanes, &path, &options))
    }

    fn take_file(&self, path: &[u8]) -> PyResult<Task> {
        let path = path_of(path);
        self.spawn(move |inner, lanes| take::take_device(&inner.packer, &inner.chunker, lanes, &path))
    }

    #[pyo3(signature = (fd, *, mtime_ns, mode = 0o600))]
    fn take_stream(&self, fd: i32, mtime_ns: i128, mode: u16) -> PyResult<Task> {
        if fd < 0 {
            return Err(raise(Error::Invalid("a descriptor is not negative".into())));
        }
        // SAFETY: the caller keeps `fd` open during this call, which only duplicates it.
        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
        let stream = fd.try_clone_to_owned().map_err(|e| raise(Error::io("use", "the stream", &e)))?;
        let mtime = Time {
            seconds: mtime_ns.div_euclid(1_000_000_000) as i64,
            nanos: mtime_ns.rem_euclid(1_000_000_000) as u32,
        };
        self.spawn(move |inner, lanes| {
            take::take_stream(&inner.packer, &inner.chunker, lanes, stream, mode & 0o7777, mtime)
        })
    }

    fn finish(&self) -> PyResult<Task> {
        let inner = self.inner.clone();
        let work = move |_: &Progress| {
            let lanes = std::mem::take(&mut *inner.lanes());
            inner.packer.finish(lanes)
        };
        Task::spawn(self.progress.clone(), work, writer_result)
    }

    /// The nodes that a dry run with `keep_nodes` made, for a reader.
    fn nodes(&self) -> Nodes {
        Nodes(Mutex::new(Some(self.inner.packer.take_nodes())))
    }

    fn abort(&self, py: Python<'_>) {
        self.progress.cancel();
        let inner = self.inner.clone();
        py.detach(move || {
            // Waits for a running task to notice.
            inner.lanes().clear();
            inner.packer.abort();
        });
    }
}
