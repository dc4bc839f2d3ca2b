//! Writing trees as a tar archive. The same trees give the same bytes, whoever writes them and however many workers help.
//! archive > part > member > header, content.
//!
//! One thread walks the tree and hands out jobs, workers turn each into the bytes of its members, and one thread writes
//! these in order. How many are under way is bounded, and with it the memory.

mod output;
mod render;
mod walk;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::os::fd::OwnedFd;
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::Duration;

use crate::error::{Error, Result};
use crate::id::Id;
use crate::lock::lock;
use crate::progress::{add, Progress};
use crate::reader::Reader;
use crate::tar::{Format, BLOCK, RECORD};

use output::Output;
use render::Job;
use walk::Walk;

/// What stands in the archive under one name.
#[derive(Clone, Debug)]
pub struct Part {
    pub root: Id,
    /// A path below the root; empty for the root itself.
    pub below: Vec<u8>,
    /// Its name in the archive. Contents of a directory follow as `NAME/…`.
    pub name: Vec<u8>,
}

#[derive(Clone, Debug)]
pub struct Options {
    pub format: Format,
    pub users: HashMap<u32, Vec<u8>>,
    pub groups: HashMap<u32, Vec<u8>>,
    /// 0 for one per core.
    pub threads: usize,
}

/// What was written.
#[derive(Clone, Copy, Debug, Default)]
pub struct Exported {
    pub files: u64,
    pub directories: u64,
    /// Links, FIFOs, devices.
    pub others: u64,
    /// Content of the files, holes included.
    pub bytes: u64,
    pub written_bytes: u64,
}

/// Writes `parts` to `output`, which may be a pipe. Fails at the first object that is damaged: an archive cannot say that
/// something is missing from it. What was written until then stays.
pub fn export(
    reader: &Reader,
    parts: &[Part],
    output: OwnedFd,
    options: &Options,
    progress: &Progress,
) -> Result<Exported> {
    let workers = match options.threads {
        0 => std::thread::available_parallelism().map_or(4, usize::from),
        threads => threads,
    };
    let workers = workers.clamp(1, 16);
    let line = Line { state: Mutex::default(), changed: Condvar::new(), window: workers * 2 + 4, progress };
    let mut output = Output::new(output)?;
    let mut exported = Exported::default();
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| line.guarded(|| line.work(reader, options)));
        }
        let writer = scope.spawn(|| {
            let mut written = 0;
            line.guarded(|| {
                written = line.write(&mut output)?;
                Ok(())
            });
            written
        });
        line.guarded(|| {
            exported = Walk::new(reader, &line).run(parts)?;
            line.end();
            Ok(())
        });
        exported.written_bytes = writer.join().unwrap_or_default();
    });
    let failure = line.lock().failure.take();
    failure.map_or(Ok(exported), Err)
}

/// Jobs on their way to bytes, in order.
struct Line<'a> {
    state: Mutex<State>,
    changed: Condvar,
    /// Jobs that may be under way at once.
    window: usize,
    progress: &'a Progress,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<(u64, Job)>,
    done: BTreeMap<u64, Vec<u8>>,
    issued: u64,
    written: u64,
    ended: bool,
    failure: Option<Error>,
    spare: Vec<Vec<u8>>,
}

impl Line<'_> {
    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Waits until `ready` answers; fails when the run has ended.
    fn wait<T>(&self, mut ready: impl FnMut(&mut State) -> Option<T>) -> Result<T> {
        let mut state = self.lock();
        loop {
            if state.failure.is_some() {
                return Err(Error::Cancelled);
            }
            self.progress.check()?;
            if let Some(answer) = ready(&mut state) {
                return Ok(answer);
            }
            let patience = Duration::from_millis(100);
            state = self.changed.wait_timeout(state, patience).unwrap_or_else(|poisoned| poisoned.into_inner()).0;
        }
    }

    /// Runs one of the threads; the first failure of any ends all.
    fn guarded(&self, work: impl FnOnce() -> Result<()>) {
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        if let Err(error) = done.unwrap_or_else(|_| Err(Error::Internal("a thread panicked".into()))) {
            self.lock().failure.get_or_insert(error);
            self.changed.notify_all();
        }
    }

    /// Hands out a job, when there is room for its bytes.
    fn issue(&self, job: Job) -> Result<()> {
        let mut job = Some(job);
        self.wait(|state| {
            if state.issued - state.written >= self.window as u64 {
                return None;
            }
            state.waiting.push_back((state.issued, job.take()?));
            state.issued += 1;
            Some(())
        })?;
        self.changed.notify_all();
        Ok(())
    }

    fn end(&self) {
        self.lock().ended = true;
        self.changed.notify_all();
    }

    fn work(&self, reader: &Reader, options: &Options) -> Result<()> {
        loop {
            let next = self.wait(|state| match state.waiting.pop_front() {
                Some((number, job)) => Some(Some((number, job, state.spare.pop().unwrap_or_default()))),
                None if state.ended => Some(None),
                None => None,
            })?;
            let Some((number, job, mut bytes)) = next else { return Ok(()) };
            job.render(reader, options, &mut bytes)?;
            self.lock().done.insert(number, bytes);
            self.changed.notify_all();
        }
    }

    /// Writes what is done, in order, and the end mark.
    fn write(&self, output: &mut Output) -> Result<u64> {
        let mut total = 0;
        loop {
            let next = self.wait(|state| match state.done.remove(&state.written) {
                Some(bytes) => Some(Some(bytes)),
                None if state.ended && state.written == state.issued => Some(None),
                None => None,
            })?;
            let Some(mut bytes) = next else { break };
            output.write(&bytes, self.progress)?;
            total += bytes.len() as u64;
            add(&self.progress.done_bytes, bytes.len() as u64);
            bytes.clear();
            bytes.shrink_to(4 << 20);
            let mut state = self.lock();
            state.written += 1;
            state.spare.push(bytes);
            drop(state);
            self.changed.notify_all();
        }
        let end = (total + 2 * BLOCK as u64).next_multiple_of(RECORD as u64) - total;
        output.write(&vec![0; end as usize], self.progress)?;
        Ok(total + end)
    }
}
