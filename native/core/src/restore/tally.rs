//! What a restore counts, and what goes wrong in it.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::Mutex;

use rustix::io::Errno;

use crate::error::{reason, show, Error};
use crate::lock::lock;
use crate::progress::{add, Progress};

/// Problems that are kept; further ones are only counted.
pub const MAX_PROBLEMS: usize = 100_000;

/// Something that could not be restored as it was. `path` is below the root; `what` is `content` or `directory` (which the store
/// does not have), `create`, `write`, `owner`, `mode`, `times`, `xattrs`, `xattr NAME`, `device` or `link`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub path: Vec<u8>,
    pub what: String,
    pub reason: String,
}

/// What a restore did.
#[derive(Clone, Debug, Default)]
pub struct Restored {
    /// Files that are complete, every hard link counting.
    pub files: u64,
    pub directories: u64,
    /// Symbolic links, devices, FIFOs.
    pub others: u64,
    /// Bytes written; holes are not.
    pub bytes: u64,
    /// At most `MAX_PROBLEMS`, sorted by path.
    pub problems: Vec<Problem>,
    pub problem_count: u64,
    pub verified_files: u64,
}

/// Counts of a run, and its problems.
#[derive(Default)]
pub(super) struct Tally {
    files: AtomicU64,
    directories: AtomicU64,
    others: AtomicU64,
    bytes: AtomicU64,
    verified: AtomicU64,
    problem_count: AtomicU64,
    problems: Mutex<Vec<Problem>>,
}

impl Problem {
    /// Whether it is the store that does not have it. Without a path a link is the whole table of links.
    pub fn is_damage(&self) -> bool {
        matches!(&self.what[..], "content" | "directory") || (self.what == "link" && self.path.is_empty())
    }

    /// Whether the entry is not there, or not whole.
    pub fn is_loss(&self) -> bool {
        self.is_damage() || matches!(&self.what[..], "create" | "write" | "device" | "link")
    }
}

impl Tally {
    pub(super) fn file(&self) {
        add(&self.files, 1);
    }

    pub(super) fn directory(&self) {
        add(&self.directories, 1);
    }

    pub(super) fn other(&self) {
        add(&self.others, 1);
    }

    pub(super) fn verified(&self) {
        add(&self.verified, 1);
    }

    pub(super) fn wrote(&self, bytes: u64) {
        add(&self.bytes, bytes);
    }

    pub(super) fn problem(&self, progress: &Progress, path: Vec<u8>, what: &str, reason: String) {
        add(&self.problem_count, 1);
        add(&progress.errors, 1);
        let mut problems = lock(&self.problems);
        if problems.len() < MAX_PROBLEMS {
            problems.push(Problem { path, what: what.into(), reason });
        }
    }

    pub(super) fn result(self) -> Restored {
        let mut problems = self.problems.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
        problems.sort_by(|a, b| a.path.cmp(&b.path));
        Restored {
            files: self.files.load(Relaxed),
            directories: self.directories.load(Relaxed),
            others: self.others.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
            problems,
            problem_count: self.problem_count.load(Relaxed),
            verified_files: self.verified.load(Relaxed),
        }
    }
}

/// What goes wrong: with one entry, which is noted, or with the run, which then ends.
pub(super) enum Trouble {
    Entry { what: String, reason: String },
    Run(Error),
}

pub(super) fn words(error: Errno) -> String {
    reason(&error.into())
}

impl Trouble {
    /// An error of reading the store. Damage concerns what is damaged; an error of our caller concerns the run.
    pub(super) fn of(what: &str, error: Error) -> Trouble {
        match error {
            Error::Damaged(reason) | Error::Tampered(reason) | Error::Storage(reason) | Error::TooNew(reason) => {
                Trouble::Entry { what: what.into(), reason }
            }
            other => Trouble::Run(other),
        }
    }

    /// An error of the system while restoring `path`. A full medium concerns the run.
    pub(super) fn system(what: &str, error: Errno, path: &[u8]) -> Trouble {
        match error {
            Errno::NOSPC | Errno::DQUOT => {
                Trouble::Run(Error::NoSpace(format!("no space left: cannot write {}", show(path))))
            }
            _ => Trouble::Entry { what: what.into(), reason: words(error) },
        }
    }
}

impl From<Error> for Trouble {
    /// An error of reading content.
    fn from(error: Error) -> Trouble {
        Trouble::of("content", error)
    }
}
