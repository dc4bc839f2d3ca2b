//! Bindings only: types, errors, progress. The engine is `snapstore-core`, which knows nothing of Python.

use pyo3::prelude::*;
use pyo3::types::PyBytes;
use snapstore_core::chunker::{choose, Chunker, HEAD_LEN};

mod archive;
mod browse;
mod errors;
mod fuse;
mod index;
mod inplace;
mod keys;
mod reader;
mod select;
mod task;
mod view;
mod writer;

/// Offset, length, and id; none for a zero run.
type Piece<'py> = (usize, usize, Option<Bound<'py, PyBytes>>);

/// Where `content` is cut, for golden vectors and tests.
#[pyfunction]
fn cut_points<'py>(py: Python<'py>, content: &[u8], chunk_bytes: usize, keys: &keys::Keys) -> Vec<Piece<'py>> {
    let chunker = Chunker::new(&keys.0, chunk_bytes);
    let cutter = choose(&content[..content.len().min(HEAD_LEN)], content.len() > HEAD_LEN);
    let mut pieces = Vec::new();
    chunker.cut(cutter, content, true, &mut pieces);
    let mut out: Vec<Piece<'py>> = Vec::new();
    let mut at = 0;
    for piece in pieces {
        match out.last_mut() {
            Some((_, len, None)) if piece.zero => *len += piece.len,
            _ if piece.zero => out.push((at, piece.len, None)),
            _ => {
                let id = keys.0.chunk_id(&content[at..at + piece.len]);
                out.push((at, piece.len, Some(PyBytes::new(py, &id.0))));
            }
        }
        at += piece.len;
    }
    out
}

#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("VERSION", env!("CARGO_PKG_VERSION"))?;
    module.add_class::<keys::Keys>()?;
    module.add_class::<keys::PackTable>()?;
    module.add_class::<task::Task>()?;
    module.add_class::<reader::Reader>()?;
    module.add_class::<reader::Entry>()?;
    module.add_class::<reader::RestoreResult>()?;
    module.add_class::<reader::CheckResult>()?;
    module.add_class::<reader::PackCheckResult>()?;
    module.add_class::<browse::TreeWalk>()?;
    module.add_class::<browse::TreeDiff>()?;
    module.add_class::<browse::DirectoryDiff>()?;
    module.add_class::<browse::TreeFind>()?;
    module.add_class::<select::Selection>()?;
    module.add_class::<select::Explanation>()?;
    module.add_class::<inplace::RestorePlan>()?;
    module.add_class::<inplace::Transaction>()?;
    module.add_function(wrap_pyfunction!(inplace::plan_restore, module)?)?;
    module.add_function(wrap_pyfunction!(inplace::open_transaction, module)?)?;
    module.add_function(wrap_pyfunction!(inplace::remove_remains, module)?)?;
    module.add_class::<writer::Nodes>()?;
    module.add_class::<writer::Writer>()?;
    module.add_class::<writer::WriterResult>()?;
    module.add_class::<writer::RootResult>()?;
    module.add_class::<view::View>()?;
    module.add_class::<view::Shown>()?;
    module.add_function(wrap_pyfunction!(fuse::fuse_operations, module)?)?;
    module.add_class::<archive::ExportCounts>()?;
    module.add_class::<archive::ImportResult>()?;
    module.add_function(wrap_pyfunction!(archive::export_tar, module)?)?;
    module.add_function(wrap_pyfunction!(archive::import_tar, module)?)?;
    module.add_function(wrap_pyfunction!(keys::write_frame, module)?)?;
    module.add_function(wrap_pyfunction!(keys::read_frame, module)?)?;
    module.add_function(wrap_pyfunction!(keys::derive_key, module)?)?;
    module.add_function(wrap_pyfunction!(keys::read_pack_table, module)?)?;
    module.add_function(wrap_pyfunction!(keys::hash_pack, module)?)?;
    module.add_function(wrap_pyfunction!(keys::location, module)?)?;
    module.add_function(wrap_pyfunction!(browse::differing_fields, module)?)?;
    module.add_function(wrap_pyfunction!(browse::same_entry, module)?)?;
    module.add_function(wrap_pyfunction!(browse::lookup, module)?)?;
    module.add_function(wrap_pyfunction!(browse::unique_bytes, module)?)?;
    module.add_function(wrap_pyfunction!(select::explain_path, module)?)?;
    module.add_function(wrap_pyfunction!(cut_points, module)?)?;
    Ok(())
}
