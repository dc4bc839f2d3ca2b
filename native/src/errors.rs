//! The one place where the core's errors become Python's, whose classes live in `snapstore.base.errors`.

use pyo3::prelude::*;
use snapstore_core::error::Error;

macro_rules! classes {
    ($($name:ident),*) => { $( pyo3::import_exception!(snapstore.base.errors, $name); )* };
}

classes!(
    DamagedObject,
    TamperedObject,
    StoreTooNew,
    StorageError,
    NoSpace,
    Cancelled,
    SourceNotFound,
    SourceUnreadable,
    TargetNotEmpty,
    TargetDenied,
    TargetInvalid,
    TargetChanged,
    PathNotFound,
    ArchiveInvalid,
    InvalidArgument,
    StoreBusy,
    StoreFailed
);

pub fn raise(error: Error) -> PyErr {
    match error {
        Error::Damaged(m) => DamagedObject::new_err(m),
        Error::Tampered(m) => TamperedObject::new_err(m),
        Error::TooNew(m) => StoreTooNew::new_err(m),
        Error::Storage(m) => StorageError::new_err(m),
        Error::NoSpace(m) => NoSpace::new_err(m),
        Error::Cancelled => Cancelled::new_err("cancelled"),
        Error::SourceNotFound(m) => SourceNotFound::new_err(m),
        Error::SourceUnreadable(m) => SourceUnreadable::new_err(m),
        Error::TargetNotEmpty(m) => TargetNotEmpty::new_err(m),
        Error::TargetDenied(m) => TargetDenied::new_err(m),
        Error::TargetInvalid(m) => TargetInvalid::new_err(m),
        Error::Busy(m) => StoreBusy::new_err(m),
        Error::TargetChanged(m) => TargetChanged::new_err(m),
        Error::PathNotFound(m) => PathNotFound::new_err(m),
        Error::Archive(m) => ArchiveInvalid::new_err(m),
        Error::ReaderGone => pyo3::exceptions::PyBrokenPipeError::new_err(error.to_string()),
        Error::Invalid(m) => InvalidArgument::new_err(m),
        Error::Internal(m) => StoreFailed::new_err(m),
        Error::Foreign(inner) => match inner.downcast::<PyErr>() {
            Ok(error) => *error,
            Err(other) => StoreFailed::new_err(other.to_string()),
        },
    }
}

/// An error of the caller's Python code on its way through the core.
pub fn foreign(error: PyErr) -> Error {
    Error::Foreign(Box::new(error))
}
