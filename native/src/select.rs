//! What is taken of a root, and why.

use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::PyBytes;
use snapstore_core::error::{show, Error};
use snapstore_core::select::explain;
use snapstore_core::select::named::Named;
use snapstore_core::select::pattern::{Pattern, Rules};

use crate::errors::raise;
use crate::keys::path_of;

/// A line of gitignore syntax, the file it stands in, and its number there.
type Line = (Vec<u8>, Option<Vec<u8>>, u32);

#[pyclass(frozen, module = "snapstore._native")]
pub struct Selection(snapstore_core::select::Selection);

#[pymethods]
impl Selection {
    #[new]
    #[pyo3(signature = (*, rules = Vec::new(), ignore_files = false, caches = false, markers = Vec::new(), larger_than = None,
        one_file_system = false, skip = Vec::new()))]
    fn new(
        rules: Vec<Line>,
        ignore_files: bool,
        caches: bool,
        markers: Vec<Vec<u8>>,
        larger_than: Option<u64>,
        one_file_system: bool,
        skip: Vec<(u64, u64)>,
    ) -> PyResult<Selection> {
        let mut patterns = Vec::new();
        for (line, file, number) in rules {
            let parsed = Pattern::parse(&line, file.as_deref().map(Arc::from), number);
            patterns.extend(parsed.map_err(|why| invalid(&line, file.as_deref(), number, &why))?);
        }
        Ok(Selection(snapstore_core::select::Selection {
            rules: Arc::new(Rules::new(patterns)),
            ignore_files,
            caches,
            markers: markers.into_iter().map(Vec::into_boxed_slice).collect(),
            larger_than,
            one_file_system,
            skip,
            named: Named::default(),
        }))
    }
}

fn invalid(line: &[u8], file: Option<&[u8]>, number: u32, why: &str) -> PyErr {
    let place = file.map_or(String::new(), |file| format!("{}, line {number}: ", show(file)));
    raise(Error::Invalid(format!("{place}'{}' is not a pattern: {why}", show(line))))
}

/// The selection for one root, with what was named below it.
pub fn of_root(
    selection: Option<&Selection>,
    named: Vec<Vec<u8>>,
    whole: bool,
) -> PyResult<Arc<snapstore_core::select::Selection>> {
    let odd = |path: &&Vec<u8>| path.split(|b| *b == b'/').any(|name| name.is_empty() || name == b"." || name == b"..");
    if let Some(path) = named.iter().find(odd) {
        return Err(raise(Error::Invalid(format!("not a path below a root: '{}'", show(path)))));
    }
    let named = Named::new(named.into_iter().map(Vec::into_boxed_slice).collect(), whole);
    let selection = selection.map_or_else(Default::default, |selection| selection.0.clone());
    Ok(Arc::new(snapstore_core::select::Selection { named, ..selection }))
}

#[pyclass(frozen, get_all, module = "snapstore._native")]
pub struct Explanation {
    taken: bool,
    why: &'static str,
    at: Py<PyBytes>,
    text: Py<PyBytes>,
    file: Option<Py<PyBytes>>,
    line: u32,
    broken: Vec<(Py<PyBytes>, String)>,
}

/// Why `path`, relative to `root`, is taken or not.
#[pyfunction]
#[pyo3(signature = (root, path, *, selection = None, named = Vec::new(), whole = true))]
pub fn explain_path(
    py: Python<'_>,
    root: &[u8],
    path: &[u8],
    selection: Option<&Selection>,
    named: Vec<Vec<u8>>,
    whole: bool,
) -> PyResult<Explanation> {
    let selection = of_root(selection, named, whole)?;
    let explained = py.detach(|| explain::explain(&path_of(root), &selection, path)).map_err(raise)?;
    let bytes = |data: &[u8]| PyBytes::new(py, data).unbind();
    Ok(Explanation {
        taken: explained.taken,
        why: explained.why,
        at: bytes(&explained.at),
        text: bytes(&explained.text),
        file: explained.file.as_deref().map(bytes),
        line: explained.line,
        broken: explained.broken.iter().map(|(path, why)| (bytes(path), why.clone())).collect(),
    })
}
