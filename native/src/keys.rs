//! Keys, frames and pack tables.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{FromRawFd, IntoRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pyo3::buffer::PyBuffer;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};
use rustix::pipe::PipeFlags;
use snapstore_core::error::Error;
use snapstore_core::id::{self, Id, Masters};
use snapstore_core::index::{records, Location};
use snapstore_core::pack::{Kind, Pack};
use snapstore_core::password::{self, Kdf};
use snapstore_core::{error, frame};
use zeroize::Zeroizing;

use crate::errors::raise;

/// More than keys take when they are handed to another process.
const HANDED_MAX: u64 = 4096;

pub fn path_of(bytes: &[u8]) -> PathBuf {
    PathBuf::from(std::ffi::OsStr::from_bytes(bytes))
}

pub fn array<const N: usize>(bytes: &[u8], what: &str) -> PyResult<[u8; N]> {
    bytes.try_into().map_err(|_| raise(Error::Invalid(format!("{what} must have {N} bytes, not {}", bytes.len()))))
}

/// The bytes of a password, which only this copy of ours outlives, and it is wiped.
fn secret_of(password: &PyBuffer<u8>, py: Python<'_>) -> PyResult<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(vec![0; password.item_count()]);
    password.copy_to_slice(py, &mut bytes)?;
    Ok(bytes)
}

/// (memory in KiB, passes, lanes, salt)
type KdfFields = (u32, u32, u32, Vec<u8>);

fn kdf_of((memory_kib, passes, lanes, salt): KdfFields) -> Kdf {
    Kdf { memory_kib, passes, lanes, salt }
}

#[pyfunction]
pub fn derive_key<'py>(py: Python<'py>, password: PyBuffer<u8>, kdf: KdfFields) -> PyResult<Bound<'py, PyBytes>> {
    let (password, kdf) = (secret_of(&password, py)?, kdf_of(kdf));
    let key = py.detach(|| kdf.derive(&password)).map_err(raise)?;
    Ok(PyBytes::new(py, &key[..]))
}

#[pyclass(frozen, module = "snapstore._native")]
pub struct Keys(pub Arc<id::Keys>);

impl Keys {
    fn of(keys: id::Keys) -> Keys {
        Keys(Arc::new(keys))
    }
}

#[pymethods]
impl Keys {
    #[new]
    #[pyo3(signature = (family, secret = None, masters = None))]
    fn new(family: &[u8], secret: Option<&[u8]>, masters: Option<BTreeMap<u32, Vec<u8>>>) -> PyResult<Keys> {
        let mut epochs = Masters::default();
        for (epoch, key) in masters.unwrap_or_default() {
            epochs.0.insert(epoch, array(&key, "a master key")?);
        }
        let secret = array(secret.unwrap_or(&[0; 32]), "a family secret")?;
        id::Keys::new(array(family, "a family id")?, &secret, &epochs.0).map(Keys::of).map_err(raise)
    }

    #[staticmethod]
    fn random(family: &[u8]) -> PyResult<Keys> {
        id::Keys::random(array(family, "a family id")?).map(Keys::of).map_err(raise)
    }

    #[staticmethod]
    fn unwrap(
        py: Python<'_>,
        family: &[u8],
        config: &[u8],
        password: PyBuffer<u8>,
        kdf: KdfFields,
        nonce: &[u8],
        wrapped: &[u8],
    ) -> PyResult<Option<Keys>> {
        let (family, config) = (array(family, "a family id")?, array(config, "a hash")?);
        let (password, kdf, nonce) = (secret_of(&password, py)?, kdf_of(kdf), array(nonce, "a nonce")?);
        let keys = py.detach(|| password::unwrap(family, &config, &password, &kdf, &nonce, wrapped));
        Ok(keys.map_err(raise)?.map(Keys::of))
    }

    fn wrap<'py>(
        &self,
        py: Python<'py>,
        config: &[u8],
        password: PyBuffer<u8>,
        kdf: KdfFields,
        nonce: &[u8],
    ) -> PyResult<Bound<'py, PyBytes>> {
        let (config, nonce) = (array(config, "a hash")?, array(nonce, "a nonce")?);
        let (password, kdf) = (secret_of(&password, py)?, kdf_of(kdf));
        let wrapped = py.detach(|| password::wrap(&self.0, &config, &password, &kdf, &nonce)).map_err(raise)?;
        Ok(PyBytes::new(py, &wrapped))
    }

    fn hand_over(&self) -> PyResult<i32> {
        let failed = |e: std::io::Error| raise(Error::Internal(format!("keys cannot be handed over: {e}")));
        let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(|e| failed(e.into()))?;
        // It fits into the pipe, so nobody has to read meanwhile.
        File::from(writer).write_all(&self.0.encode()).map_err(failed)?;
        Ok(reader.into_raw_fd())
    }

    #[staticmethod]
    fn take_over(descriptor: i32) -> PyResult<Keys> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(HANDED_MAX as usize));
        // SAFETY: the caller gives the descriptor away, as the stub says.
        let pipe = unsafe { File::from_raw_fd(descriptor) };
        pipe.take(HANDED_MAX)
            .read_to_end(&mut bytes)
            .map_err(|e| raise(Error::Internal(format!("keys cannot be taken over: {e}"))))?;
        id::Keys::decode(&bytes).map(Keys::of).map_err(raise)
    }

    #[getter]
    fn family<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.0.family)
    }

    #[getter]
    fn sealed(&self) -> bool {
        self.0.sealed()
    }

    fn snapshot_id<'py>(&self, py: Python<'py>, payload: &[u8]) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.0.snapshot_id(payload).0)
    }

    fn object_hash<'py>(&self, py: Python<'py>, data: &[u8]) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.0.object_hash(data).0)
    }

    fn derived<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let out = PyDict::new(py);
        let keys = [
            ("chunk", &self.0.chunk),
            ("node", &self.0.node),
            ("snapshot", &self.0.snapshot),
            ("object", &self.0.object),
            ("chunker", &self.0.chunker),
        ];
        for (name, key) in keys {
            out.set_item(name, PyBytes::new(py, key))?;
        }
        Ok(out)
    }
}

#[pyfunction]
#[pyo3(signature = (keys, r#type, name, nonce, payload))]
pub fn write_frame<'py>(
    py: Python<'py>,
    keys: Option<&Keys>,
    r#type: u8,
    name: &str,
    nonce: &[u8],
    payload: &[u8],
) -> PyResult<Bound<'py, PyBytes>> {
    let keys = keys.map(|keys| keys.0.as_ref());
    let bytes = frame::write(keys, r#type, name, &array(nonce, "a writer nonce")?, payload).map_err(raise)?;
    Ok(PyBytes::new(py, &bytes))
}

#[pyfunction]
#[pyo3(signature = (keys, r#type, name, data))]
pub fn read_frame<'py>(
    py: Python<'py>,
    keys: Option<&Keys>,
    r#type: u8,
    name: &str,
    data: &[u8],
) -> PyResult<(Bound<'py, PyBytes>, Bound<'py, PyBytes>)> {
    let (nonce, payload) = frame::read(keys.map(|keys| keys.0.as_ref()), r#type, name, data).map_err(raise)?;
    Ok((PyBytes::new(py, &nonce), PyBytes::new(py, &payload)))
}

#[pyclass(frozen, module = "snapstore._native")]
pub struct PackTable(Pack);

impl PackTable {
    pub fn new(pack: Pack) -> PackTable {
        PackTable(pack)
    }
}

#[pymethods]
impl PackTable {
    #[getter]
    fn id<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.0.id.0)
    }

    #[getter]
    fn kind(&self) -> u8 {
        self.0.header.kind as u8
    }

    #[getter]
    fn size(&self) -> u64 {
        self.0.size
    }

    #[getter]
    fn session<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.0.header.session)
    }

    #[getter]
    fn chunks(&self) -> usize {
        self.0.table.ids.len()
    }

    #[getter]
    fn plain_bytes(&self) -> u64 {
        self.0.table.plain_bytes()
    }

    fn records<'py>(&self, py: Python<'py>, number: u32) -> Vec<(Bound<'py, PyBytes>, Bound<'py, PyBytes>)> {
        records(&self.0, number)
            .iter()
            .map(|(id, record)| (PyBytes::new(py, &id.0), PyBytes::new(py, record)))
            .collect()
    }
}

/// Opens a file without waiting for one that is a pipe.
fn open(path: &Path) -> std::io::Result<File> {
    File::options().read(true).custom_flags(rustix::fs::OFlags::NONBLOCK.bits() as i32).open(path)
}

#[pyfunction]
pub fn read_pack_table(py: Python<'_>, keys: &Keys, path: &[u8], id: &[u8], kind: u8) -> PyResult<PackTable> {
    let (path, id) = (path_of(path), Id::from_slice(id).map_err(raise)?);
    let kind = Kind::from_byte(kind).map_err(raise)?;
    let keys = keys.0.clone();
    py.detach(move || {
        let file = open(&path).map_err(|e| Error::io("open", error::show_path(&path), &e))?;
        Pack::open(&file, &keys, kind, id).map(PackTable)
    })
    .map_err(raise)
}

#[pyfunction]
pub fn hash_pack<'py>(py: Python<'py>, path: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
    let path = path_of(path);
    let hash = py
        .detach(move || {
            let failed = |e: std::io::Error| Error::io("read", error::show_path(&path), &e);
            let mut file = open(&path).map_err(failed)?;
            let (mut hasher, mut buffer) = (id::pack_hasher(), vec![0; 1 << 20]);
            loop {
                match file.read(&mut buffer).map_err(failed)? {
                    0 => return Ok(hasher.finalize()),
                    len => hasher.update(&buffer[..len]),
                };
            }
        })
        .map_err(raise)?;
    Ok(PyBytes::new(py, hash.as_bytes()))
}

#[pyfunction]
pub fn location(record: &[u8]) -> PyResult<(u32, u32, u32, u32)> {
    let found = Location::fields(record).map_err(raise)?;
    Ok((found.pack, found.block, found.offset, found.len))
}
