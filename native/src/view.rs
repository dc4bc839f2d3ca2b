//! Snapshots as a file system, without a mount.

use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::PyBytes;
use snapstore_core::error::{Error, Result};
use snapstore_core::id::Id;
use snapstore_core::node::{Time, What};
use snapstore_core::view::{self, Attributes, Looks, Seek};

use crate::errors::raise;
use crate::reader::Reader;

#[pyclass(frozen, module = "snapstore._native")]
pub struct View(pub(crate) Arc<view::View>);

/// Something that was found in a view.
#[pyclass(frozen, module = "snapstore._native")]
pub struct Shown {
    view: Arc<view::View>,
    inner: view::Shown,
}

/// Inode number, mode with type, links, owner, group, device, size, blocks of 512 bytes, time.
type Status = (u64, u32, u32, u32, u32, u64, u64, u64, i128);

/// A name in a directory, and what it is.
type Named<'py> = (Bound<'py, PyBytes>, Shown);

fn status(found: &Attributes) -> Status {
    let Attributes { ino, mode, links, uid, gid, device, size, blocks, mtime } = *found;
    (ino, mode, links, uid, gid, libc::makedev(device.0, device.1), size, blocks, mtime.as_ns())
}

fn time_of(ns: i128) -> Time {
    let seconds = ns.div_euclid(1_000_000_000).clamp(i64::MIN.into(), i64::MAX.into()) as i64;
    Time { seconds, nanos: ns.rem_euclid(1_000_000_000) as u32 }
}

#[pymethods]
impl View {
    #[new]
    #[allow(clippy::too_many_arguments)]
    #[pyo3(signature = (reader, *, node_bytes, ahead_blocks, owner, all_uid = None, all_gid = None, only = Vec::new(), partitions = false))]
    fn new(
        reader: &Reader,
        node_bytes: usize,
        ahead_blocks: u16,
        owner: (u32, u32),
        all_uid: Option<u32>,
        all_gid: Option<u32>,
        only: Vec<Vec<u8>>,
        partitions: bool,
    ) -> View {
        let looks = Looks { uid: owner.0, gid: owner.1, all_uid, all_gid, only, partitions };
        View(Arc::new(view::View::new(reader.inner.clone(), looks, node_bytes, ahead_blocks)))
    }

    fn add(
        &self,
        py: Python<'_>,
        name: &[u8],
        id: &str,
        roots: Vec<(Vec<u8>, Vec<u8>)>,
        time_ns: i128,
    ) -> PyResult<()> {
        let ids = roots.into_iter().map(|(path, id)| Ok((path, Id::from_slice(&id)?))).collect::<Result<Vec<_>>>();
        let roots = ids.map_err(raise)?;
        py.detach(|| self.0.add(name, id, &roots, time_of(time_ns))).map_err(raise)
    }

    fn remove(&self, name: &[u8]) -> bool {
        self.0.remove(name)
    }

    fn find(&self, py: Python<'_>, name: &[u8], path: &[u8]) -> PyResult<Option<Shown>> {
        let found = py.detach(|| self.0.find(name, path)).map_err(raise)?;
        Ok(found.map(|inner| Shown { view: self.0.clone(), inner }))
    }
}

#[pymethods]
impl Shown {
    #[getter]
    fn snapshot(&self) -> &str {
        self.inner.snapshot()
    }

    #[getter]
    fn root(&self) -> Option<String> {
        self.inner.root()
    }

    #[getter]
    fn is_directory(&self) -> bool {
        self.inner.entry().directory().is_some()
    }

    /// The same for two things only if they, and all below them, differ in nothing but their names.
    fn identity<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.inner.identity())
    }

    #[getter]
    fn target<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyBytes>> {
        match &self.inner.entry().what {
            What::Symlink(target) => Some(PyBytes::new(py, target)),
            _ => None,
        }
    }

    fn status(&self, py: Python<'_>) -> PyResult<Status> {
        py.detach(|| self.view.attributes(&self.inner)).map(|found| status(&found)).map_err(raise)
    }

    /// At most `count` entries from number `start` on, and the number of the next.
    fn list<'py>(&self, py: Python<'py>, start: u64, count: usize) -> PyResult<(Vec<Named<'py>>, u64)> {
        if self.inner.entry().directory().is_none() {
            return Err(raise(Error::Invalid("it is not a directory".into())));
        }
        let (mut found, mut reached) = (Vec::new(), start);
        let listed = py.detach(|| {
            self.view.list(&self.inner, start, &mut |next, name, shown| {
                found.push((name.to_vec(), shown));
                reached = next;
                found.len() < count
            })
        });
        listed.map_err(raise)?;
        let give = |(name, inner): (Vec<u8>, _)| (PyBytes::new(py, &name), Shown { view: self.view.clone(), inner });
        Ok((found.into_iter().map(give).collect(), reached))
    }

    fn read<'py>(&self, py: Python<'py>, offset: u64, len: usize) -> PyResult<Bound<'py, PyBytes>> {
        let size = match &self.inner.entry().what {
            What::File { size, .. } => *size,
            _ => 0,
        };
        let len = size.saturating_sub(offset).min(len as u64) as usize;
        PyBytes::new_with(py, len, |out| {
            py.detach(|| self.view.read(&self.inner, offset, out)).map(drop).map_err(raise)
        })
    }

    fn seek(&self, py: Python<'_>, offset: u64, hole: bool) -> PyResult<Option<u64>> {
        let what = if hole { Seek::Hole } else { Seek::Data };
        py.detach(|| self.view.seek(&self.inner, offset, what)).map_err(raise)
    }

    fn xattrs<'py>(&self, py: Python<'py>) -> PyResult<Vec<(Bound<'py, PyBytes>, Bound<'py, PyBytes>)>> {
        let set = py.detach(|| self.view.xattrs(&self.inner)).map_err(raise)?;
        Ok(set.iter().map(|(name, value)| (PyBytes::new(py, name), PyBytes::new(py, value))).collect())
    }

    fn chunk_lines(&self, py: Python<'_>, max_len: usize) -> PyResult<String> {
        py.detach(|| self.view.chunk_lines(&self.inner, max_len)).map_err(raise)
    }
}
