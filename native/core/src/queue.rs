//! Work for a fixed set of workers, depth first: each takes its own newest task, an idle one the oldest of the busiest other.
//! Depth first keeps neighbours together and the number of open directories small.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard};

use crate::lock::lock;

pub struct Queue<T> {
    inner: Mutex<Inner<T>>,
    wake: Condvar,
}

struct Inner<T> {
    /// Taken before everything else, in order.
    urgent: VecDeque<T>,
    stacks: Vec<VecDeque<T>>,
    /// Tasks waiting or being worked on.
    outstanding: usize,
    stopped: bool,
}

impl<T> Queue<T> {
    pub fn new(workers: usize, first: impl IntoIterator<Item = T>) -> Queue<T> {
        let mut stacks: Vec<VecDeque<T>> = (0..workers.max(1)).map(|_| VecDeque::new()).collect();
        stacks[0].extend(first);
        let outstanding = stacks[0].len();
        Queue {
            inner: Mutex::new(Inner { urgent: VecDeque::new(), stacks, outstanding, stopped: false }),
            wake: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner<T>> {
        lock(&self.inner)
    }

    pub fn push(&self, worker: usize, task: T) {
        let mut inner = self.lock();
        inner.outstanding += 1;
        inner.stacks[worker].push_back(task);
        drop(inner);
        self.wake.notify_one();
    }

    /// A task that others wait for.
    pub fn push_urgent(&self, task: T) {
        let mut inner = self.lock();
        inner.outstanding += 1;
        inner.urgent.push_back(task);
        drop(inner);
        self.wake.notify_one();
    }

    /// An urgent task, if there is one. The caller MUST call `finished` for it.
    pub fn take_urgent(&self) -> Option<T> {
        self.lock().urgent.pop_front()
    }

    /// The next task for `worker`, waiting for one; None when all work is done or stopped. `finished` MUST be called for each.
    pub fn pop(&self, worker: usize) -> Option<T> {
        let mut inner = self.lock();
        loop {
            if inner.stopped || inner.outstanding == 0 {
                return None;
            }
            if let Some(task) = inner.next(worker) {
                return Some(task);
            }
            inner = self.wake.wait(inner).unwrap_or_else(|poisoned| poisoned.into_inner());
        }
    }

    pub fn finished(&self) {
        let mut inner = self.lock();
        inner.outstanding -= 1;
        if inner.outstanding == 0 {
            self.wake.notify_all();
        }
    }

    /// Lets every worker go after its current task.
    pub fn stop(&self) {
        self.lock().stopped = true;
        self.wake.notify_all();
    }

    pub fn is_stopped(&self) -> bool {
        self.lock().stopped
    }
}

impl<T> Inner<T> {
    fn next(&mut self, worker: usize) -> Option<T> {
        if let Some(task) = self.urgent.pop_front() {
            return Some(task);
        }
        if let Some(task) = self.stacks[worker].pop_back() {
            return Some(task);
        }
        let busiest = self.stacks.iter_mut().max_by_key(|stack| stack.len())?;
        busiest.pop_front()
    }
}
