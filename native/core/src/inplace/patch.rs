//! Large files of which only ranges differ: found by comparing chunk lists, staged as sparse files, and written in place.
//!
//! A staged file holds the ranges packed; a hole in one of them is a hole to be made.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::Mutex;

use rustix::fs::{fallocate, ftruncate, seek, FallocateFlags, SeekFrom};
use rustix::io::Errno;

use crate::chunker::is_zero;
use crate::error::{Error, Result};
use crate::id::ZERO_ID;
use crate::lock::lock;
use crate::node::{Chunk, Content, Entry, Hole, What};
use crate::progress::{add, Progress};
use crate::reader::{Reader, Runs};

const PIECE: u64 = 1 << 20;
/// Of any file system.
const LARGEST_BLOCK: u64 = 1 << 16;
/// A file that differs in more ranges is written whole.
const MAX_RANGES: usize = 1 << 20;

pub(super) type Range = (u64, u64);
/// The ranges of files that need not be written whole, by the number of their items.
pub(super) type Patches = HashMap<usize, Vec<Range>>;

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

/// Where the ranges of a file stand in another one: in order, each with its beginning there.
pub(super) struct Layout(Vec<(Range, u64)>);

impl Layout {
    /// At the same offsets.
    pub(super) fn same(ranges: &[Range]) -> Layout {
        Layout(ranges.iter().map(|range| (*range, range.0)).collect())
    }

    /// Behind each other: to free pieces that are scattered over a large file takes longer than all else. Each begins in a block
    /// of its own, and as far into it as in its own file, so that holes stay holes.
    pub(super) fn packed(ranges: &[Range]) -> Layout {
        let mut end = 0u64;
        let place = |range: &Range| {
            let at = end.next_multiple_of(LARGEST_BLOCK) + range.0 % LARGEST_BLOCK;
            end = at + (range.1 - range.0);
            (*range, at)
        };
        Layout(ranges.iter().map(place).collect())
    }

    /// Gives `file` the length that it has with these ranges of a file of `size` bytes, also if they end in holes.
    pub(super) fn reserve(&self, file: &OwnedFd, size: u64) -> io::Result<()> {
        let inside = self.0.iter().rev().find(|((start, _), _)| *start < size);
        Ok(ftruncate(file, inside.map_or(0, |((start, end), at)| at + ((*end).min(size) - start)))?)
    }
}

/// What is patched.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Medium {
    File,
    /// It has no holes: zeros are zeros.
    Device,
}

/// The ranges in which two files differ, in what they hold or in their holes; None for a file when there are too many, or it
/// would be little less than the whole.
pub(super) fn differing(reader: &Reader, live: &Entry, wanted: &Entry, medium: Medium) -> Result<Option<Vec<Range>>> {
    let (What::File { size: old_size, content: old, .. }, What::File { size, content: new, .. }) =
        (&live.what, &wanted.what)
    else {
        return Ok(None);
    };
    if matches!(old, Content::InPlace(_)) || matches!(new, Content::InPlace(_)) {
        return Ok((medium == Medium::Device).then(|| vec![(0, *size)]));
    }
    let (mut olds, mut news) = (Chunks::of(reader, old, *old_size), Chunks::of(reader, new, *size));
    let whole = || vec![(0, *size)];
    let changed = other_chunks(|| olds.next(), || news.next())?;
    if medium == Medium::Device {
        return Ok(Some(changed.unwrap_or_else(whole)));
    }
    let Some(mut all) = changed else { return Ok(None) };
    for (start, end) in other_holes(&reader.holes(live)?, &reader.holes(wanted)?) {
        all.push((start.min(*size), end.min(*size)));
    }
    all.sort_unstable();
    let mut joined = Vec::new();
    all.into_iter().for_each(|(start, end)| push(&mut joined, start, end));
    let total: u64 = joined.iter().map(|(start, end)| end - start).sum();
    Ok((total <= size / 2 && joined.len() <= MAX_RANGES).then_some(joined))
}

/// The ranges of new chunks that are not the old ones, each with its beginning; None when there are too many. Runs of zeros are
/// as long as they happen to be, so that of these only what was not zero before counts.
fn other_chunks(
    mut old: impl FnMut() -> Result<Option<(u64, Chunk)>>,
    mut new: impl FnMut() -> Result<Option<(u64, Chunk)>>,
) -> Result<Option<Vec<Range>>> {
    let mut ranges = Vec::new();
    let mut was = old()?;
    while let Some((start, chunk)) = new()? {
        let end = start + chunk.len;
        while was.as_ref().is_some_and(|(start_then, then)| start_then + then.len <= start) {
            was = old()?;
        }
        if was.as_ref().is_some_and(|(start_then, then)| *start_then == start && *then == chunk) {
            continue;
        }
        if chunk.id != ZERO_ID {
            push(&mut ranges, start, end);
        } else {
            let mut at = start;
            while at < end {
                let (end_then, is_zero) = match &was {
                    Some((start_then, then)) => (start_then + then.len, then.id == ZERO_ID),
                    None => (end, false),
                };
                let part_end = end_then.min(end);
                if !is_zero {
                    push(&mut ranges, at, part_end);
                }
                at = part_end;
                if at < end {
                    was = old()?;
                }
            }
        }
        if ranges.len() > MAX_RANGES {
            return Ok(None);
        }
    }
    Ok(Some(ranges))
}

/// What is in a hole on one side only, given the holes of both in order.
fn other_holes(one: &[Hole], other: &[Hole]) -> Vec<Range> {
    let bounds = |holes: &[Hole]| holes.iter().flat_map(|hole| [hole.start, hole.end]).collect::<Vec<_>>();
    let mut bounds = [bounds(one), bounds(other)].concat();
    // Between an odd bound and the next one exactly one side has a hole; where both have one, nothing is left.
    bounds.sort_unstable();
    bounds.chunks_exact(2).map(|pair| (pair[0], pair[1])).filter(|(start, end)| start < end).collect()
}

/// Writes what `entry` has in the ranges of `layout` to `file`; holes, and zeros of a device, are left out.
pub(super) fn write_wanted(
    reader: &Reader,
    entry: &Entry,
    layout: &Layout,
    file: &OwnedFd,
    medium: Medium,
    threads: usize,
    progress: &Progress,
) -> Result<u64> {
    let What::File { size, .. } = &entry.what else { return Ok(0) };
    let holes = reader.holes(entry)?;
    let mut pieces = Vec::new();
    for ((first, last), place) in &layout.0 {
        for (start, end) in outside(&holes, *first, (*last).min(*size)) {
            let piece = |at: u64| (at, end.min(at + PIECE), place + (at - first));
            pieces.extend((start..end).step_by(PIECE as usize).map(piece));
        }
    }
    let (next, failure) = (AtomicUsize::new(0), Mutex::new(None));
    let work = || {
        while let Some((start, end, place)) = pieces.get(next.fetch_add(1, Relaxed)) {
            let done = progress.check().and_then(|()| {
                let bytes = reader.read(entry, *start, end - start)?;
                if medium == Medium::Device && is_zero(&bytes) {
                    return Ok(());
                }
                write_all(file.as_fd(), &bytes, *place).map_err(|e| Error::of_target("write into the target", &e))
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
        None => Ok(pieces.iter().map(|(start, end, _)| end - start).sum()),
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

/// Saves what `live`, a file of `size` bytes, has in `ranges`, packed.
pub(super) fn save(live: BorrowedFd, size: u64, ranges: &[Range], into: &OwnedFd) -> io::Result<()> {
    let layout = Layout::packed(ranges);
    layout.reserve(into, size)?;
    for ((first, last), place) in layout.0 {
        each_part(live, first, last.min(size), |start, end, is_data| match is_data {
            true => copy_data(live, start..end, into.as_fd(), place + (start - first)),
            false => Ok(()),
        })?;
    }
    Ok(())
}

/// Makes holes of `ranges` in a file that gets `size`.
pub(super) fn clear_ranges(file: BorrowedFd, ranges: &[Range], size: u64) -> io::Result<()> {
    let inside = ranges.iter().filter(|(start, _)| *start < size);
    inside
        .map(|(start, end)| (*start, (*end).min(size)))
        .try_for_each(|(start, end)| clear(file, start, end, end == size))
}

/// Makes `ranges` of `to` what they are in `from`, where they are packed: data is written, holes are made. Then it gets `size`.
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
    for ((first, last), place) in Layout::packed(ranges).0.into_iter().filter(|((first, _), _)| *first < size) {
        if !regardless && progress.is_cancelled() {
            return Err(Errno::CANCELED.into());
        }
        let length = last.min(size) - first;
        each_part(from, place, place + length, |start, end, is_data| {
            let there = (first + (start - place), first + (end - place));
            match is_data {
                true => copy_data(from, start..end, to, there.0),
                false => clear(to, there.0, there.1, is_file && there.1 == size),
            }
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

/// Punches a hole; where there are none, writes zeros. `is_last`: the file ends with it, and what is behind does not count: a
/// block is given up only when all of it is in the hole.
fn clear(file: BorrowedFd, start: u64, end: u64, is_last: bool) -> io::Result<()> {
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    let reach = if is_last { end.next_multiple_of(LARGEST_BLOCK) } else { end };
    match fallocate(file, flags, start, reach - start) {
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

/// Copies a part of `from` to `place` in `to`.
fn copy_data(from: BorrowedFd, part: std::ops::Range<u64>, to: BorrowedFd, place: u64) -> io::Result<()> {
    let mut buffer = vec![0; PIECE.min(part.end - part.start) as usize];
    let mut at = part.start;
    while at < part.end {
        let len = (part.end - at).min(PIECE) as usize;
        let read = crate::source::read_at(from, &mut buffer[..len], at)?;
        if read == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
        }
        write_all(to, &buffer[..read], place + (at - part.start))?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Id;

    fn hole(start: u64, end: u64) -> Hole {
        Hole { start, end }
    }

    /// Chunks given as length and kind, 0 for zeros.
    fn chunks(given: &[(u64, u8)]) -> Vec<(u64, Chunk)> {
        let mut at = 0;
        let mut all = Vec::new();
        for (len, kind) in given {
            let id = if *kind == 0 { ZERO_ID } else { Id([*kind; 32]) };
            all.push((at, Chunk { len: *len, id }));
            at += len;
        }
        all
    }

    fn differ(old: &[(u64, u8)], new: &[(u64, u8)]) -> Vec<Range> {
        let (mut old, mut new) = (chunks(old).into_iter(), chunks(new).into_iter());
        other_chunks(|| Ok(old.next()), || Ok(new.next())).unwrap().unwrap()
    }

    #[test]
    fn holes_differ_where_one_side_has_one() {
        assert_eq!(other_holes(&[], &[]), []);
        assert_eq!(other_holes(&[hole(0, 100)], &[hole(0, 100)]), []);
        assert_eq!(other_holes(&[hole(0, 100)], &[hole(0, 40), hole(50, 100)]), [(40, 50)]);
        assert_eq!(other_holes(&[hole(0, 40), hole(50, 100)], &[hole(0, 100)]), [(40, 50)]);
        assert_eq!(other_holes(&[hole(10, 20)], &[hole(20, 30)]), [(10, 20), (20, 30)]);
        assert_eq!(other_holes(&[hole(10, 30), hole(60, 70)], &[hole(20, 65)]), [(10, 20), (30, 60), (65, 70)]);
        assert_eq!(other_holes(&[hole(5, 9)], &[]), [(5, 9)]);
    }

    #[test]
    fn chunks_differ_where_their_content_does() {
        assert_eq!(differ(&[(10, 1), (20, 2)], &[(10, 1), (20, 2)]), []);
        assert_eq!(differ(&[(10, 1), (20, 2)], &[(10, 1), (20, 3)]), [(10, 30)]);
        assert_eq!(differ(&[(10, 1), (20, 2), (5, 4)], &[(8, 1), (22, 2), (5, 4)]), [(0, 30)]);
        assert_eq!(differ(&[(10, 1)], &[(10, 1), (20, 2)]), [(10, 30)]);
        assert_eq!(differ(&[(10, 1), (20, 2)], &[(10, 1)]), []);
    }

    #[test]
    fn of_zeros_only_what_was_not_zero_differs() {
        // A long run of zeros into which something was written, and the way back.
        assert_eq!(differ(&[(100, 0)], &[(40, 0), (10, 1), (50, 0)]), [(40, 50)]);
        assert_eq!(differ(&[(40, 0), (10, 1), (50, 0)], &[(100, 0)]), [(40, 50)]);
        assert_eq!(differ(&[(30, 0), (10, 1), (60, 2)], &[(40, 0), (60, 2)]), [(30, 40)]);
        assert_eq!(differ(&[(10, 1), (90, 0)], &[(5, 0), (5, 3), (90, 0)]), [(0, 10)]);
        assert_eq!(differ(&[(10, 0), (10, 1)], &[(15, 0), (5, 2)]), [(10, 20)]);
        assert_eq!(differ(&[(10, 0)], &[(30, 0)]), [(10, 30)]);
        assert_eq!(differ(&[], &[(30, 0)]), [(0, 30)]);
        assert_eq!(differ(&[(50, 0), (10, 1)], &[(20, 0), (10, 2), (20, 0), (10, 1)]), [(20, 30)]);
    }
}
