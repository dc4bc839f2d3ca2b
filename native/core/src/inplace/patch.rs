//! Large files of which only ranges differ: found by comparing chunk lists, staged as sparse files, and written in place.
//!
//! A staged file holds data at the offsets at which it is to be; a hole in it is a hole to be made.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::Mutex;

use rustix::fs::{fallocate, ftruncate, seek, FallocateFlags, SeekFrom};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::lock::lock;
use crate::node::{Chunk, Content, Entry, Hole, What};
use crate::progress::{add, Progress};
use crate::reader::{Reader, Runs};

const PIECE: u64 = 1 << 20;
/// A file that differs in more ranges is written whole.
const MAX_RANGES: usize = 1 << 20;

pub(super) type Range = (u64, u64);

/// The chunks of a file, in order, each with its beginning.
struct Chunks<'r> {
    reader: &'r Reader,
    runs: Runs,
    read: std::collections::VecDeque<(u64, Chunk)>,
}

impl<'r> Chunks<'r> {
    fn of(reader: &'r Reader, content: &Content, size: u64) -> Chunks<'r> {
        Chunks { reader, runs: Runs::new(content, size), read: Default::default() }
    }

    fn next(&mut self) -> Result<Option<(u64, Chunk)>> {
        while self.read.is_empty() {
            let Some(run) = self.runs.next(self.reader)? else { return Ok(None) };
            let mut at = run.offset;
            for chunk in run.chunks {
                self.read.push_back((at, chunk));
                at += chunk.len;
            }
        }
        Ok(self.read.pop_front())
    }
}

/// Adds a range, joined with the last one where they touch.
fn push(ranges: &mut Vec<Range>, start: u64, end: u64) {
    if start >= end {
        return;
    }
    match ranges.last_mut() {
        Some(last) if last.1 >= start => last.1 = last.1.max(end),
        _ => ranges.push((start, end)),
    }
}

/// The ranges in which two files differ, in what they hold or in their holes; None when there are too many, or it would be
/// little less than the whole.
pub(super) fn differing(reader: &Reader, live: &Entry, wanted: &Entry) -> Result<Option<Vec<Range>>> {
    let (What::File { size: old_size, content: old, .. }, What::File { size, content: new, .. }) =
        (&live.what, &wanted.what)
    else {
        return Ok(None);
    };
    if matches!(old, Content::InPlace(_)) || matches!(new, Content::InPlace(_)) {
        return Ok(None);
    }
    let mut ranges = Vec::new();
    let (mut olds, mut news) = (Chunks::of(reader, old, *old_size), Chunks::of(reader, new, *size));
    let mut old = olds.next()?;
    while let Some((at, chunk)) = news.next()? {
        while old.as_ref().is_some_and(|(start, old)| start + old.len <= at) {
            old = olds.next()?;
        }
        let same = old.as_ref().is_some_and(|(start, old)| *start == at && *old == chunk);
        if !same {
            push(&mut ranges, at, at + chunk.len);
        }
        if ranges.len() > MAX_RANGES {
            return Ok(None);
        }
    }
    let mut all = ranges;
    for hole in other_holes(&reader.holes(live)?, &reader.holes(wanted)?) {
        all.push((hole.start.min(*size), hole.end.min(*size)));
    }
    all.sort_unstable();
    let mut joined = Vec::new();
    all.into_iter().for_each(|(start, end)| push(&mut joined, start, end));
    let total: u64 = joined.iter().map(|(start, end)| end - start).sum();
    Ok((total <= size / 2 && joined.len() <= MAX_RANGES).then_some(joined))
}

/// Holes that only one of two lists has.
fn other_holes(one: &[Hole], other: &[Hole]) -> Vec<Hole> {
    let key = |hole: &Hole| (hole.start, hole.end);
    let (one_set, other_set): (std::collections::HashSet<_>, std::collections::HashSet<_>) =
        (one.iter().map(key).collect(), other.iter().map(key).collect());
    let differing = one_set.symmetric_difference(&other_set);
    differing.map(|(start, end)| Hole { start: *start, end: *end }).collect()
}

/// Writes what `entry` has in `ranges` to `file`, at the same offsets; holes are left out. The file gets the size of the entry.
pub(super) fn write_wanted(
    reader: &Reader,
    entry: &Entry,
    ranges: &[Range],
    file: &OwnedFd,
    threads: usize,
    progress: &Progress,
) -> Result<u64> {
    let What::File { size, .. } = &entry.what else { return Ok(0) };
    let holes = reader.holes(entry)?;
    let mut pieces = Vec::new();
    for (start, end) in ranges {
        for (start, end) in outside(&holes, *start, (*end).min(*size)) {
            pieces.extend((start..end).step_by(PIECE as usize).map(|at| (at, end.min(at + PIECE))));
        }
    }
    ftruncate(file, *size).map_err(failed)?;
    let (next, failure) = (AtomicUsize::new(0), Mutex::new(None));
    let work = || {
        while let Some((start, end)) = pieces.get(next.fetch_add(1, Relaxed)) {
            let done = progress.check().and_then(|()| {
                let bytes = reader.read(entry, *start, end - start)?;
                write_all(file.as_fd(), &bytes, *start).map_err(|e| Error::of_target("write into the target", &e))
            });
            add(&progress.done_bytes, end - start);
            if let Err(error) = done {
                lock(&failure).get_or_insert(error);
                next.store(pieces.len(), Relaxed);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads.min(pieces.len()) {
            scope.spawn(work);
        }
        work();
    });
    let failure = lock(&failure).take();
    match failure {
        Some(error) => Err(error),
        None => Ok(pieces.iter().map(|(start, end)| end - start).sum()),
    }
}

/// What of `start..end` is in no hole.
fn outside(holes: &[Hole], start: u64, end: u64) -> Vec<Range> {
    let mut found = Vec::new();
    let mut at = start;
    let from = holes.partition_point(|hole| hole.end <= start);
    for hole in holes[from..].iter().take_while(|hole| hole.start < end) {
        if hole.start > at {
            found.push((at, hole.start));
        }
        at = at.max(hole.end);
    }
    if at < end {
        found.push((at, end));
    }
    found
}

fn failed(error: Errno) -> Error {
    Error::of_target("write into the target", &error.into())
}

/// Saves what `live`, a file of `size` bytes, has in `ranges`.
pub(super) fn save(live: BorrowedFd, size: u64, ranges: &[Range], into: &OwnedFd) -> io::Result<()> {
    ftruncate(into, size)?;
    for (start, end) in ranges {
        each_part(live, *start, (*end).min(size), |start, end, is_data| match is_data {
            true => copy_data(live, into.as_fd(), start, end),
            false => Ok(()),
        })?;
    }
    Ok(())
}

/// Makes holes of `ranges` in a file that gets `size`.
pub(super) fn clear_ranges(file: BorrowedFd, ranges: &[Range], size: u64) -> io::Result<()> {
    let inside = ranges.iter().filter(|(start, _)| *start < size);
    inside.into_iter().try_for_each(|(start, end)| clear_file(file, *start, (*end).min(size), size))
}

/// Makes a hole in a file that gets `size`. The last block, of which the file has only a part, cannot be punched.
fn clear_file(file: BorrowedFd, start: u64, end: u64, size: u64) -> io::Result<()> {
    if end < size {
        return clear(file, start, end);
    }
    ftruncate(file, start)?;
    Ok(ftruncate(file, size)?)
}

/// Makes `ranges` of `to` what they are in `from`: data is written, holes are made. Then it gets `size`.
pub(super) fn copy(
    from: BorrowedFd,
    to: BorrowedFd,
    ranges: &[Range],
    size: u64,
    progress: &Progress,
    regardless: bool,
) -> io::Result<()> {
    let is_file =
        rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(to)?.st_mode) == rustix::fs::FileType::RegularFile;
    for (start, end) in ranges {
        if !regardless && progress.is_cancelled() {
            return Err(Errno::CANCELED.into());
        }
        each_part(from, *start, (*end).min(size), |start, end, is_data| match is_data {
            true => copy_data(from, to, start, end),
            false if is_file => clear_file(to, start, end, size),
            false => clear(to, start, end),
        })?;
    }
    if is_file {
        ftruncate(to, size)?;
    }
    Ok(())
}

/// Calls `part(start, end, is data)` for the data and holes of a file in `start..end`.
fn each_part(
    file: BorrowedFd,
    start: u64,
    end: u64,
    mut part: impl FnMut(u64, u64, bool) -> io::Result<()>,
) -> io::Result<()> {
    let mut at = start;
    while at < end {
        let data = match seek(file, SeekFrom::Data(at)) {
            Ok(data) => data.min(end),
            Err(Errno::NXIO) => end,
            // It cannot tell.
            Err(_) => at,
        };
        if data > at {
            part(at, data, false)?;
            at = data;
            continue;
        }
        let hole = match seek(file, SeekFrom::Hole(at)) {
            Ok(hole) if hole > at => hole.min(end),
            _ => end,
        };
        part(at, hole, true)?;
        at = hole;
    }
    Ok(())
}

/// Punches a hole; where there are none, writes zeros.
fn clear(file: BorrowedFd, start: u64, end: u64) -> io::Result<()> {
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    match fallocate(file, flags, start, end - start) {
        Ok(()) => return Ok(()),
        Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {}
        Err(error) => return Err(error.into()),
    }
    let zeros = vec![0; PIECE.min(end - start) as usize];
    let mut at = start;
    while at < end {
        let len = (end - at).min(PIECE);
        write_all(file, &zeros[..len as usize], at)?;
        at += len;
    }
    Ok(())
}

fn copy_data(from: BorrowedFd, to: BorrowedFd, start: u64, end: u64) -> io::Result<()> {
    let mut buffer = vec![0; PIECE.min(end - start) as usize];
    let mut at = start;
    while at < end {
        let len = (end - at).min(PIECE) as usize;
        let read = crate::source::read_at(from, &mut buffer[..len], at)?;
        if read == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
        }
        write_all(to, &buffer[..read], at)?;
        at += read as u64;
    }
    Ok(())
}

fn write_all(file: BorrowedFd, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::pwrite(file, bytes, offset) {
            Ok(0) => return Err(Errno::IO.into()),
            Ok(written) => {
                bytes = &bytes[written..];
                offset += written as u64;
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
