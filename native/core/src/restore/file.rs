//! Files: their content as data and holes, written once and in order; long ones by several workers at once.

use std::io::IoSlice;
use std::os::fd::{AsFd, BorrowedFd, IntoRawFd, OwnedFd};
use std::sync::{Arc, Mutex};

use rustix::fs::{fremovexattr, ftruncate, openat, unlinkat, AtFlags, Mode, OFlags};
use rustix::io::{pwritev, Errno};

use super::attributes::{Has, Object};
use super::folder::Folder;
use super::tally::Trouble;
use super::{Here, Run, Task};
use crate::acl;
use crate::chunker::is_zero;
use crate::error::Error;
use crate::id::ZERO_ID;
use crate::lock::lock;
use crate::node::{Chunk, Content, Entry, Hole, List, What};
use crate::progress::add;
use crate::reader::{Holes, Runs, Slice};

/// Longer files are written by several workers.
const BIG: u64 = 8 << 20;
/// Bytes gathered before they are written.
const GATHER: usize = 1 << 20;
const GATHER_PARTS: usize = 256;
/// Decoded blocks that gathered data keeps in memory: chunks that were deduplicated come each from another block.
const GATHER_KEEPS: usize = 4 << 20;
static ZEROS: [u8; 1 << 16] = [0; 1 << 16];

/// A long file that several workers write.
pub(crate) struct Big {
    pub(crate) folder: Option<Arc<Folder>>,
    dir: Arc<OwnedFd>,
    prefix: Vec<u8>,
    name: Vec<u8>,
    entry: Entry,
    has: Has,
    state: Mutex<BigState>,
}

struct BigState {
    /// Taken by the worker that finishes the file.
    file: Option<Arc<OwnedFd>>,
    /// None when no run is left, or none is wanted.
    runs: Option<Runs>,
    writing: usize,
    failed: Option<Trouble>,
}

/// The two lists of a file.
#[derive(Clone, Copy)]
struct Parts<'e> {
    size: u64,
    content: &'e Content,
    holes: Option<&'e List<Hole>>,
}

impl<'e> Parts<'e> {
    fn of(entry: &'e Entry) -> Option<Parts<'e>> {
        match &entry.what {
            What::File { size, content, holes } => Some(Parts { size: *size, content, holes: holes.as_deref() }),
            _ => None,
        }
    }

    fn is_big(&self) -> bool {
        self.size > BIG && matches!(self.content, Content::Chunks(list) if matches!(**list, List::Node { .. }))
    }
}

impl Run<'_> {
    /// Restores the file `here`. Nothing of it is left when its content cannot be had; a long one may be finished later.
    pub(super) fn restore_file(&self, here: &Here, folder: Option<&Arc<Folder>>) -> Result<(), Trouble> {
        let Some(parts) = Parts::of(here.entry) else { return Ok(()) };
        // The common case is read before anything is created.
        let ready = match parts.content {
            Content::One(id) => Some(self.reader.chunk_of(&Chunk { len: parts.size, id: *id })?),
            _ => None,
        };
        let (file, has) = self.create(here)?;
        if parts.is_big() {
            return self.share(here, folder, file, has);
        }
        let written = self.write_content(here, &file, parts, ready);
        let done = written.and_then(|()| self.finish_file(here, &file, has));
        self.close(here, file, done)
    }

    fn create(&self, here: &Here) -> Result<(OwnedFd, Has), Trouble> {
        let entry = here.entry;
        let has = match self.given {
            Some(given) if given.uid == entry.uid && given.gid == entry.gid => match entry.xattrs {
                None if entry.mode & !given.mode == 0 => Has::OwnerAndMode,
                _ => Has::Owner,
            },
            _ => Has::Nothing,
        };
        let mode = if has == Has::OwnerAndMode { entry.mode } else { 0o600 };
        let access = if self.verify { OFlags::RDWR } else { OFlags::WRONLY };
        let flags = access | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(here.dir, here.name, flags, Mode::from_raw_mode(mode.into()))
            .map_err(|e| Trouble::system("create", e, &here.path()))?;
        if self.given.is_none() {
            // Its directory is not ours: it may have handed down a list.
            let _ = fremovexattr(&file, acl::ACCESS);
        }
        Ok((file, has))
    }

    fn write_content(&self, here: &Here, file: &OwnedFd, parts: Parts, ready: Option<Slice>) -> Result<(), Trouble> {
        let mut sink = Sink::new(self, here, file.as_fd());
        match (parts.content, ready) {
            (Content::Empty, _) => {}
            (Content::InPlace(bytes), _) => sink.write_bytes(bytes)?,
            (_, Some(slice)) if parts.holes.is_none() => sink.put(0, Part::Data(slice))?,
            _ => {
                let mut runs = Runs::new(parts.content, parts.size);
                while let Some(run) = runs.next(self.reader)? {
                    self.reader.learn(&run.ids())?;
                    sink.write_run(run.offset, &run.chunks, parts)?;
                }
            }
        }
        sink.flush()?;
        add(&self.progress.done_bytes, parts.size);
        Ok(())
    }

    /// What follows when all data is written.
    fn finish_file(&self, here: &Here, file: &OwnedFd, has: Has) -> Result<(), Trouble> {
        let Some(parts) = Parts::of(here.entry) else { return Ok(()) };
        if parts.holes.is_some() {
            ftruncate(file, parts.size).map_err(|e| Trouble::system("write", e, &here.path()))?;
        }
        if self.verify {
            match self.verify_content(file, parts.content, parts.size) {
                Ok(()) => self.tally.verified(),
                Err(trouble) => self.note(here, trouble)?,
            }
        }
        self.set_attributes(here, &Object::Open(file.as_fd()), has)
    }

    /// Closes a file; removes it when it was not `done`. Network file systems say only now that they are full.
    fn close(&self, here: &Here, file: OwnedFd, done: Result<(), Trouble>) -> Result<(), Trouble> {
        // SAFETY: the descriptor was owned by `file`, which gave it up, and is used nowhere else.
        let closed = match unsafe { libc::close(file.into_raw_fd()) } {
            0 => Ok(()),
            _ => match std::io::Error::last_os_error().raw_os_error() {
                Some(code @ (libc::ENOSPC | libc::EDQUOT | libc::EIO)) => {
                    Err(Trouble::system("write", Errno::from_raw_os_error(code), &here.path()))
                }
                _ => Ok(()),
            },
        };
        let done = done.and(closed);
        match &done {
            Ok(()) => self.tally.file(),
            Err(_) => drop(unlinkat(here.dir, here.name, AtFlags::empty())),
        }
        done
    }

    /// Lets every worker write a long file, this one included.
    fn share(&self, here: &Here, folder: Option<&Arc<Folder>>, file: OwnedFd, has: Has) -> Result<(), Trouble> {
        let Some(parts) = Parts::of(here.entry) else { return Ok(()) };
        folder.into_iter().for_each(|folder| folder.begin());
        let runs = Some(Runs::new(parts.content, parts.size));
        let big = Arc::new(Big {
            folder: folder.cloned(),
            dir: here.dir.clone(),
            prefix: here.prefix.to_vec(),
            name: here.name.to_vec(),
            entry: here.entry.clone(),
            has,
            state: Mutex::new(BigState { file: Some(Arc::new(file)), runs, writing: 0, failed: None }),
        });
        for _ in 1..self.workers {
            self.queue.push_urgent(Task::Big(big.clone()));
        }
        self.write_big(&big)?;
        Ok(())
    }

    /// Writes runs of a long file until none is left. The last worker that does, finishes the file.
    pub(super) fn write_big(&self, big: &Big) -> crate::error::Result<()> {
        let Some(parts) = Parts::of(&big.entry) else { return Ok(()) };
        let here = &big.here();
        while let Some((file, run)) = big.claim(self) {
            let mut sink = Sink::new(self, here, file.as_fd());
            let done = match self.reader.learn(&run.ids()) {
                Ok(()) => sink.write_run(run.offset, &run.chunks, parts).and_then(|()| sink.flush()),
                Err(error) => Err(error.into()),
            };
            drop(file);
            add(&self.progress.done_bytes, run.end() - run.offset);
            if let Some((file, failed)) = big.ended(done) {
                return self.finish_big(big, file, failed);
            }
        }
        match big.take_finished() {
            Some((file, failed)) => self.finish_big(big, file, failed),
            None => Ok(()),
        }
    }

    fn finish_big(&self, big: &Big, file: OwnedFd, failed: Option<Trouble>) -> crate::error::Result<()> {
        let here = &big.here();
        let done = match failed {
            Some(trouble) => Err(trouble),
            None => self.finish_file(here, &file, big.has),
        };
        if let Err(trouble) = self.close(here, file, done) {
            self.note(here, trouble)?;
        }
        match &big.folder {
            Some(folder) => self.complete(folder.clone()),
            None => Ok(()),
        }
    }
}

impl Big {
    fn here(&self) -> Here<'_> {
        Here { dir: &self.dir, prefix: &self.prefix, name: &self.name, entry: &self.entry }
    }

    /// The next run to write.
    fn claim(&self, run: &Run) -> Option<(Arc<OwnedFd>, crate::reader::Run)> {
        let mut state = lock(&self.state);
        let file = state.file.clone()?;
        let next = state.runs.as_mut()?.next(run.reader);
        match next {
            Ok(Some(next)) => {
                state.writing += 1;
                Some((file, next))
            }
            Ok(None) => {
                state.runs = None;
                None
            }
            Err(error) => {
                state.runs = None;
                state.failed.get_or_insert(error.into());
                None
            }
        }
    }

    /// Notes that a run was written; the answer is the file when it is to be finished.
    fn ended(&self, done: Result<(), Trouble>) -> Option<(OwnedFd, Option<Trouble>)> {
        {
            let mut state = lock(&self.state);
            state.writing -= 1;
            if let Err(trouble) = done {
                state.runs = None;
                state.failed.get_or_insert(trouble);
            }
        }
        self.take_finished()
    }

    /// The file, once, when no run is left and none is being written.
    fn take_finished(&self) -> Option<(OwnedFd, Option<Trouble>)> {
        let mut state = lock(&self.state);
        if state.runs.is_some() || state.writing > 0 {
            return None;
        }
        let file = Arc::into_inner(state.file.take()?)?;
        Some((file, state.failed.take()))
    }
}

enum Part {
    Data(Slice),
    Zeros(usize),
}

impl Part {
    fn slice(&self) -> Option<&Slice> {
        match self {
            Part::Data(slice) => Some(slice),
            Part::Zeros(_) => None,
        }
    }
}

/// Gathers data and writes it in few calls.
struct Sink<'a> {
    run: &'a Run<'a>,
    here: &'a Here<'a>,
    file: BorrowedFd<'a>,
    parts: Vec<Part>,
    start: u64,
    len: usize,
    keeps: usize,
}

impl<'a> Sink<'a> {
    fn new(run: &'a Run<'a>, here: &'a Here<'a>, file: BorrowedFd<'a>) -> Sink<'a> {
        Sink { run, here, file, parts: Vec::new(), start: 0, len: 0, keeps: 0 }
    }

    /// Writes neighbouring chunks, of which the first begins at `offset`, without what is in holes.
    fn write_run(&mut self, offset: u64, chunks: &[Chunk], parts: Parts) -> Result<(), Trouble> {
        let reader = self.run.reader;
        let mut holes = Holes::new(parts.holes, parts.size);
        let mut at = offset;
        for chunk in chunks {
            let slice = match chunk.id {
                ZERO_ID => None,
                _ => Some(reader.chunk_of(chunk)?),
            };
            let mut trouble = Ok(());
            holes.split(reader, at, at + chunk.len, |start, end, is_hole| {
                if trouble.is_ok() {
                    trouble = self.write_part(at, slice.as_ref(), start, end, is_hole);
                }
                Ok(())
            })?;
            trouble?;
            at += chunk.len;
        }
        Ok(())
    }

    /// Writes `start..end` of a chunk that begins at `at`.
    fn write_part(
        &mut self,
        at: u64,
        data: Option<&Slice>,
        start: u64,
        end: u64,
        is_hole: bool,
    ) -> Result<(), Trouble> {
        let inside = || (start - at) as usize..(end - at) as usize;
        match (data, is_hole) {
            (None, true) => Ok(()),
            (Some(data), true) if is_zero(&data[inside()]) => Ok(()),
            (Some(_), true) => Err(Error::Damaged("damaged tree: there is data in a hole".into()).into()),
            (Some(data), false) => self.put(start, Part::Data(data.part(inside()))),
            (None, false) => self.put_zeros(start, end),
        }
    }

    fn put_zeros(&mut self, start: u64, end: u64) -> Result<(), Trouble> {
        let mut at = start;
        while at < end {
            let len = (end - at).min(ZEROS.len() as u64);
            self.put(at, Part::Zeros(len as usize))?;
            at += len;
        }
        Ok(())
    }

    fn put(&mut self, offset: u64, part: Part) -> Result<(), Trouble> {
        let (len, keeps) = match &part {
            Part::Data(slice) => (slice.len(), slice.keeps_beside(self.parts.last().and_then(Part::slice))),
            Part::Zeros(len) => (*len, 0),
        };
        let follows = self.start + self.len as u64 == offset;
        let is_full = self.len + len > GATHER || self.keeps + keeps > GATHER_KEEPS || self.parts.len() == GATHER_PARTS;
        if !self.parts.is_empty() && (!follows || is_full) {
            self.flush()?;
        }
        if self.parts.is_empty() {
            self.start = offset;
        }
        self.parts.push(part);
        self.len += len;
        self.keeps += keeps;
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Trouble> {
        let slices: Vec<IoSlice> = self
            .parts
            .iter()
            .map(|part| match part {
                Part::Data(slice) => IoSlice::new(slice),
                Part::Zeros(len) => IoSlice::new(&ZEROS[..*len]),
            })
            .collect();
        self.write_slices(slices)?;
        self.parts.clear();
        (self.len, self.keeps) = (0, 0);
        Ok(())
    }

    fn write_bytes(&mut self, bytes: &[u8]) -> Result<(), Trouble> {
        self.write_slices(vec![IoSlice::new(bytes)])
    }

    fn write_slices(&self, mut slices: Vec<IoSlice>) -> Result<(), Trouble> {
        self.run.go_on()?;
        let mut rest = &mut slices[..];
        let mut at = self.start;
        while !rest.is_empty() {
            match pwritev(self.file, rest, at) {
                Ok(0) => return Err(Trouble::system("write", Errno::IO, &self.here.path())),
                Ok(len) => {
                    at += len as u64;
                    IoSlice::advance_slices(&mut rest, len);
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(Trouble::system("write", error, &self.here.path())),
            }
        }
        self.run.tally.wrote(at - self.start);
        Ok(())
    }
}
