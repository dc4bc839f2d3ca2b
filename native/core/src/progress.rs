//! What a long run counts, and how it is cancelled. Written by the core's threads, polled by the caller.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::Mutex;

use crate::error::{Error, Result};

#[derive(Default)]
pub struct Progress {
    /// Totals; 0 while unknown.
    pub files: AtomicU64,
    pub bytes: AtomicU64,
    pub done_files: AtomicU64,
    pub done_bytes: AtomicU64,
    pub new_bytes: AtomicU64,
    pub stored_bytes: AtomicU64,
    pub errors: AtomicU64,
    cancelled: AtomicBool,
    current: Mutex<Vec<u8>>,
}

/// Adds to a counter.
pub fn add(counter: &AtomicU64, amount: u64) {
    counter.fetch_add(amount, Relaxed);
}

impl Progress {
    pub fn cancel(&self) {
        self.cancelled.store(true, Relaxed);
    }

    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Relaxed)
    }

    /// Fails when the run was cancelled.
    pub fn check(&self) -> Result<()> {
        if self.is_cancelled() {
            Err(Error::Cancelled)
        } else {
            Ok(())
        }
    }

    /// Notes a path being worked on; never waits.
    pub fn working_on(&self, path: &[u8]) {
        if let Ok(mut current) = self.current.try_lock() {
            current.clear();
            current.extend_from_slice(path);
        }
    }

    pub fn current(&self) -> Vec<u8> {
        self.current.lock().map(|c| c.clone()).unwrap_or_default()
    }
}
