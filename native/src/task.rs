//! Work on the core's threads, as Python polls it.

use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};
use snapstore_core::error::{Error, Result};
use snapstore_core::progress::Progress;
use std::sync::atomic::Ordering::Relaxed;

use crate::errors::raise;

/// Turns the core's result into Python's, once, with the interpreter at hand.
type Convert = Box<dyn FnOnce(Python<'_>) -> PyResult<Py<PyAny>> + Send>;

enum State {
    Running,
    Ended(Result<Convert>),
    Given(Py<PyAny>),
    Raised,
}

struct Shared {
    state: Mutex<State>,
    ended: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

#[pyclass(frozen, module = "snapstore._native")]
pub struct Task {
    shared: Arc<Shared>,
    progress: Arc<Progress>,
}

impl Task {
    /// Runs `work` on a thread of its own.
    pub fn spawn<T, W, C>(progress: Arc<Progress>, work: W, convert: C) -> PyResult<Task>
    where
        T: Send + 'static,
        W: FnOnce(&Progress) -> Result<T> + Send + 'static,
        C: FnOnce(Python<'_>, T) -> PyResult<Py<PyAny>> + Send + 'static,
    {
        let shared = Arc::new(Shared { state: Mutex::new(State::Running), ended: Condvar::new() });
        let (theirs, watched) = (shared.clone(), progress.clone());
        std::thread::Builder::new()
            .name("snap-task".into())
            .spawn(move || {
                let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(&watched)))
                    .unwrap_or_else(|_| Err(Error::Internal("the core panicked".into())));
                let result = result.map(|value| -> Convert { Box::new(move |py| convert(py, value)) });
                *theirs.lock() = State::Ended(result);
                theirs.ended.notify_all();
            })
            .map_err(|e| raise(Error::Internal(format!("cannot start a thread: {e}"))))?;
        Ok(Task { shared, progress })
    }

    fn wait(&self, timeout: Option<Duration>) -> bool {
        let state = self.shared.lock();
        let running = |state: &mut State| matches!(state, State::Running);
        match timeout {
            None => {
                drop(self.shared.ended.wait_while(state, running));
                true
            }
            Some(timeout) => match self.shared.ended.wait_timeout_while(state, timeout, running) {
                Ok((_, result)) => !result.timed_out(),
                Err(_) => true,
            },
        }
    }
}

#[pymethods]
impl Task {
    fn poll(&self, py: Python<'_>, timeout_s: f64) -> bool {
        let timeout = Duration::from_secs_f64(timeout_s.clamp(0.0, 3600.0));
        py.detach(|| self.wait(Some(timeout)))
    }

    fn counters<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let out = PyDict::new(py);
        let p = &self.progress;
        let counters = [
            ("files", &p.files),
            ("bytes", &p.bytes),
            ("done_files", &p.done_files),
            ("done_bytes", &p.done_bytes),
            ("new_bytes", &p.new_bytes),
            ("stored_bytes", &p.stored_bytes),
            ("errors", &p.errors),
        ];
        for (name, counter) in counters {
            out.set_item(name, counter.load(Relaxed))?;
        }
        Ok(out)
    }

    fn current<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.progress.current())
    }

    fn cancel(&self) {
        self.progress.cancel();
    }

    fn result(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        py.detach(|| self.wait(None));
        let mut state = self.shared.lock();
        match std::mem::replace(&mut *state, State::Raised) {
            State::Ended(Ok(convert)) => {
                let value = convert(py)?;
                *state = State::Given(value.clone_ref(py));
                Ok(value)
            }
            State::Given(value) => {
                *state = State::Given(value.clone_ref(py));
                Ok(value)
            }
            State::Ended(Err(error)) => Err(raise(error)),
            State::Running | State::Raised => Err(raise(Error::Internal("this task has failed before".into()))),
        }
    }
}
