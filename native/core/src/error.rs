//! Everything that can go wrong in the core, as classes that a caller can act on.

use std::fmt;
use std::io;
use std::path::Path;

/// An error of the core. The binding maps each variant to one class of `snapstore.base.errors`.
#[derive(Debug)]
pub enum Error {
    /// An object read from the store is not what it must be.
    Damaged(String),
    /// An object read from the store is whole, but was not sealed with the store's keys for the place where it is.
    Tampered(String),
    /// An object of a newer format.
    TooNew(String),
    /// An operation of the store's or the target's medium failed.
    Storage(String),
    /// The medium is full.
    NoSpace(String),
    /// Cancelled by the caller.
    Cancelled,
    SourceNotFound(String),
    SourceUnreadable(String),
    TargetNotEmpty(String),
    TargetDenied(String),
    TargetInvalid(String),
    /// Another process works there.
    Busy(String),
    /// The target is not as it was when the restore was planned.
    TargetChanged(String),
    PathNotFound(String),
    /// An archive that is to be imported is not one, or cannot be what it says.
    Archive(String),
    /// Whoever read the output has gone.
    ReaderGone,
    Invalid(String),
    /// A broken assumption of ours.
    Internal(String),
    /// An error of the caller's own code (the index), handed back unchanged.
    Foreign(Box<dyn std::error::Error + Send + Sync>),
}

pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An I/O error of the medium while doing `what` to `path`.
    pub fn io(what: &str, path: impl fmt::Display, error: &io::Error) -> Error {
        match error.raw_os_error() {
            Some(libc::ENOSPC) | Some(libc::EDQUOT) => Error::NoSpace(format!("no space left: cannot {what} {path}")),
            _ => Error::Storage(format!("cannot {what} {path}: {}", reason(error))),
        }
    }

    /// An error of the system while doing `what` in the target of a restore.
    pub fn of_target(what: &str, error: &io::Error) -> Error {
        let text = format!("cannot {what}: {}", reason(error));
        match error.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT) => Error::NoSpace(format!("no space left: cannot {what}")),
            Some(libc::EACCES | libc::EPERM | libc::EROFS) => Error::TargetDenied(text),
            _ => Error::TargetInvalid(text),
        }
    }

    pub fn damaged(what: impl Into<String>) -> Error {
        Error::Damaged(what.into())
    }
}

/// The system's words for an error, without the number that Rust appends.
pub fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    match text.rfind(" (os error") {
        Some(end) => text[..end].to_string(),
        None => text,
    }
}

/// A path for messages: control characters and invalid UTF-8 escaped.
pub fn show(path: &[u8]) -> String {
    let mut out = String::with_capacity(path.len());
    for part in path.utf8_chunks() {
        for c in part.valid().chars() {
            if c.is_control() {
                out.extend(c.escape_default());
            } else {
                out.push(c);
            }
        }
        for byte in part.invalid() {
            out.push_str(&format!("\\x{byte:02x}"));
        }
    }
    out
}

pub fn show_path(path: &Path) -> String {
    use std::os::unix::ffi::OsStrExt;
    show(path.as_os_str().as_bytes())
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Damaged(m)
            | Error::Tampered(m)
            | Error::TooNew(m)
            | Error::Storage(m)
            | Error::NoSpace(m)
            | Error::SourceNotFound(m)
            | Error::SourceUnreadable(m)
            | Error::TargetNotEmpty(m)
            | Error::TargetDenied(m)
            | Error::TargetInvalid(m)
            | Error::Busy(m)
            | Error::TargetChanged(m)
            | Error::PathNotFound(m)
            | Error::Archive(m)
            | Error::Invalid(m)
            | Error::Internal(m) => f.write_str(m),
            Error::ReaderGone => f.write_str("whoever read the output has gone"),
            Error::Cancelled => f.write_str("cancelled"),
            Error::Foreign(e) => e.fmt(f),
        }
    }
}

impl std::error::Error for Error {}
