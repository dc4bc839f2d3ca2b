//! Archives: exporting trees as tar, importing a tar as a tree.

use std::collections::HashMap;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::PyBytes;
use snapstore_core::acl::Kind;
use snapstore_core::chunker::Chunker;
use snapstore_core::error::Error;
use snapstore_core::export::{self, Exported, Options, Part};
use snapstore_core::id::Id;
use snapstore_core::import::{self, Imported};
use snapstore_core::packer::{Lane, Packer};
use snapstore_core::progress::Progress;
use snapstore_core::tar::Format;

use crate::errors::raise;
use crate::reader::Reader;
use crate::task::Task;
use crate::writer::{root_result, Writer};

#[pyclass(frozen, get_all, module = "snapstore._native")]
pub struct ExportCounts {
    files: u64,
    directories: u64,
    others: u64,
    bytes: u64,
    written_bytes: u64,
}

fn export_counts(py: Python<'_>, exported: Exported) -> PyResult<Py<PyAny>> {
    let Exported { files, directories, others, bytes, written_bytes } = exported;
    Ok(Py::new(py, ExportCounts { files, directories, others, bytes, written_bytes })?.into_any())
}

#[pyclass(frozen, get_all, module = "snapstore._native")]
pub struct ImportResult {
    root: Py<PyAny>,
    users: Vec<(u32, Py<PyBytes>)>,
    groups: Vec<(u32, Py<PyBytes>)>,
}

fn import_result(py: Python<'_>, imported: Imported) -> PyResult<Py<PyAny>> {
    let names = |table: std::collections::BTreeMap<u32, Vec<u8>>| {
        table.into_iter().map(|(id, name)| (id, PyBytes::new(py, &name).unbind())).collect()
    };
    let (users, groups) = (names(imported.users), names(imported.groups));
    Ok(Py::new(py, ImportResult { root: root_result(py, imported.taken)?, users, groups })?.into_any())
}

fn duplicate(fd: i32) -> PyResult<OwnedFd> {
    if fd < 0 {
        return Err(raise(Error::Invalid("a descriptor is not negative".into())));
    }
    // SAFETY: the caller keeps `fd` open during this call, which only duplicates it.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    fd.try_clone_to_owned().map_err(|e| raise(Error::io("use", "the descriptor", &e)))
}

/// Root id, path below it, name in the archive.
type GivenPart = (Vec<u8>, Vec<u8>, Vec<u8>);

#[pyfunction]
#[pyo3(signature = (reader, parts, fd, *, format, users = HashMap::new(), groups = HashMap::new(), threads = 0))]
pub fn export_tar(
    reader: &Reader,
    parts: Vec<GivenPart>,
    fd: i32,
    format: &str,
    users: HashMap<u32, Vec<u8>>,
    groups: HashMap<u32, Vec<u8>>,
    threads: usize,
) -> PyResult<Task> {
    let format = match format {
        "pax" => Format::Pax,
        "gnu" => Format::Gnu,
        other => return Err(raise(Error::Invalid(format!("there is no tar format {other:?}")))),
    };
    let parts: Vec<Part> = parts
        .into_iter()
        .map(|(root, below, name)| Ok(Part { root: Id::from_slice(&root).map_err(raise)?, below, name }))
        .collect::<PyResult<_>>()?;
    let output = duplicate(fd)?;
    let inner = reader.inner.clone();
    let options = Options { format, users, groups, threads };
    let work = move |progress: &Progress| export::export(&inner, &parts, output, &options, progress);
    Task::spawn(Arc::default(), work, export_counts)
}

#[pyfunction]
#[pyo3(signature = (writer, fd, *, number_of, head = Vec::new()))]
pub fn import_tar(writer: &Writer, fd: i32, number_of: Py<PyAny>, head: Vec<u8>) -> PyResult<Task> {
    let input = duplicate(fd)?;
    let numbers = move |kind: Kind, name: &[u8]| {
        let word = if kind == Kind::User { "user" } else { "group" };
        Python::attach(|py| number_of.call1(py, (word, PyBytes::new(py, name))).ok()?.extract(py).ok()?)
    };
    let work = move |packer: &Packer, chunker: &Chunker, lanes: &mut [Lane]| {
        import::import_tar(packer, chunker, lanes, input, head, &numbers)
    };
    writer.run(work, import_result)
}
