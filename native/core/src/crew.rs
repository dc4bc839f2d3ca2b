//! A crew: workers, one to a lane, that do the tasks of a run until all are done or one has failed.
//! run > **crew** > worker > task.

use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::Mutex;

use crate::content::{Helpers, Segment};
use crate::error::{Error, Result};
use crate::lock::lock;
use crate::packer::{Lane, Packer};
use crate::progress::add;
use crate::queue::Queue;

pub struct Crew<'a, T> {
    packer: &'a Packer,
    pub workers: usize,
    queue: Queue<T>,
    read_bytes: AtomicU64,
    failure: Mutex<Option<Error>>,
}

/// What a crew works at.
pub trait Job: Sync {
    type Task: Send + From<Segment>;

    fn crew(&self) -> &Crew<'_, Self::Task>;

    fn run(&self, lane: &mut Lane, task: Self::Task) -> Result<()>;
}

impl<'a, T: Send> Crew<'a, T> {
    pub fn new(packer: &'a Packer, workers: usize) -> Crew<'a, T> {
        Crew {
            packer,
            workers,
            queue: Queue::new(workers, []),
            read_bytes: AtomicU64::new(0),
            failure: Mutex::new(None),
        }
    }

    /// Adds a task that is done soon by the worker of `lane`, or by an idle one.
    pub fn push(&self, lane: &Lane, task: T) {
        self.queue.push(lane.worker, task);
    }

    /// Adds a task that others wait for.
    pub fn push_urgent(&self, task: T) {
        self.queue.push_urgent(task);
    }

    /// Fails when the run has ended.
    pub fn check(&self) -> Result<()> {
        self.packer.progress.check()?;
        if self.queue.is_stopped() {
            return Err(Error::Cancelled);
        }
        Ok(())
    }

    /// Counts bytes that were read.
    pub fn read(&self, bytes: u64) {
        add(&self.packer.progress.done_bytes, bytes);
        self.read_bytes.fetch_add(bytes, Relaxed);
    }

    pub fn read_bytes(&self) -> u64 {
        self.read_bytes.load(Relaxed)
    }

    fn fail(&self, error: Error) {
        lock(&self.failure).get_or_insert(error);
        self.queue.stop();
    }
}

/// Works at `job`, which begins with the task `first`, until all tasks are done or one has failed.
pub fn work<J: Job>(job: &J, lanes: &mut [Lane], first: J::Task) -> Result<()> {
    let crew = job.crew();
    crew.queue.push(0, first);
    std::thread::scope(|scope| {
        for (worker, lane) in lanes.iter_mut().enumerate() {
            lane.worker = worker;
            scope.spawn(move || {
                if catch_unwind(AssertUnwindSafe(|| work_alone(job, lane))).is_err() {
                    crew.fail(Error::Internal("a worker panicked".into()));
                }
            });
        }
    });
    lock(&crew.failure).take().map_or(Ok(()), Err)
}

fn work_alone(job: &impl Job, lane: &mut Lane) {
    let crew = job.crew();
    let run = |lane: &mut Lane, task| {
        crew.packer.progress.check()?;
        job.run(lane, task)
    };
    while let Some(task) = crew.queue.pop(lane.worker) {
        if let Err(error) = run(lane, task) {
            crew.fail(error);
        }
        crew.queue.finished();
    }
    if let Err(error) = lane.settle(crew.packer) {
        crew.fail(error);
    }
}

impl<J: Job> Helpers for J {
    fn hand_out(&self, segment: Segment) {
        self.crew().push_urgent(segment.into());
    }

    fn help(&self, lane: &mut Lane) -> Result<bool> {
        let queue = &self.crew().queue;
        let Some(task) = queue.take_urgent() else { return Ok(false) };
        let done = self.run(lane, task);
        queue.finished();
        done.map(|()| true)
    }

    fn allowance(&self) -> u64 {
        self.crew().workers as u64 + 2
    }

    fn check(&self) -> Result<()> {
        self.crew().check()
    }

    fn read(&self, bytes: u64) {
        self.crew().read(bytes);
    }

    fn skipped(&self, bytes: u64) {
        add(&self.crew().packer.progress.done_bytes, bytes);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::sync::Arc;

    use super::*;
    use crate::progress::Progress;
    use crate::testing::{settings, TestStore};

    /// Each number stands for so many tasks below it; one of them may go wrong.
    struct Counting<'a> {
        crew: Crew<'a, u32>,
        done: AtomicUsize,
        at_three: fn() -> Result<()>,
    }

    impl From<Segment> for u32 {
        fn from(_: Segment) -> u32 {
            0
        }
    }

    impl Job for Counting<'_> {
        type Task = u32;

        fn crew(&self) -> &Crew<'_, u32> {
            &self.crew
        }

        fn run(&self, lane: &mut Lane, task: u32) -> Result<()> {
            if task == 3 {
                (self.at_three)()?;
            }
            (0..task).for_each(|below| self.crew.push(lane, below));
            self.done.fetch_add(1, Relaxed);
            Ok(())
        }
    }

    /// How many tasks were done of those that 10 stands for, by three workers.
    fn count(at_three: fn() -> Result<()>) -> Result<usize> {
        let store = TestStore::new();
        let (keys, index) = (store.keys.clone(), store.index.clone());
        let packer = Packer::new(store.dir.path(), keys, index, settings(), Arc::new(Progress::default()));
        let mut lanes: Vec<Lane> = (0..3).map(|_| packer.lane().unwrap()).collect();
        let job = Counting { crew: Crew::new(&packer, lanes.len()), done: AtomicUsize::new(0), at_three };
        work(&job, &mut lanes, 10)?;
        Ok(job.done.into_inner())
    }

    #[test]
    fn all_tasks_are_done_and_the_first_that_fails_ends_the_run() {
        assert_eq!(count(|| Ok(())).unwrap(), 1024);
        let failed = count(|| Err(Error::Archive("three".into()))).unwrap_err();
        assert!(matches!(failed, Error::Archive(why) if why == "three"));
        assert!(matches!(count(|| panic!("three")), Err(Error::Internal(_))));
    }
}
