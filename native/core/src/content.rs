//! A file's bytes on their way into chunks: cut at the right places, zero runs and holes left out, in order.
//! entry > **chunk list** > chunk.

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use rustix::fs::{fadvise, Advice};

use crate::chunker::{choose, Chunker, Cutter, Piece, HEAD_LEN, PAGE};
use crate::error::{Error, Result};
use crate::id::{Id, ZERO_ID};
use crate::lock::lock;
use crate::node::{
    encode_xattrs, Chunk, Emit, Hole, Link, List, Sequence, XattrSet, Xattrs, MAX_XATTRS, MAX_XATTRS_LEN,
    XATTRS_IN_PLACE,
};
use crate::packer::{Class, Lane, Packer};
use crate::source::{self, Read};

/// Files of at least this size go into the blocks of large files.
pub const LARGE: u64 = 1 << 20;
/// Pieces of a large file that workers take from each other.
pub const SEGMENT: usize = 2 << 20;

/// A chunk list being made: neighbouring zero runs become one.
struct Listing {
    sequence: Sequence<Chunk>,
    zeros: u64,
}

impl Listing {
    fn new() -> Listing {
        Listing { sequence: Sequence::of_list(), zeros: 0 }
    }

    fn push(&mut self, chunk: Chunk, emit: &mut Emit) -> Result<()> {
        if chunk.id == ZERO_ID {
            self.zeros += chunk.len;
            return Ok(());
        }
        self.end_zeros(emit)?;
        self.sequence.push(chunk, emit)
    }

    fn end_zeros(&mut self, emit: &mut Emit) -> Result<()> {
        match std::mem::take(&mut self.zeros) {
            0 => Ok(()),
            len => self.sequence.push(Chunk { len, id: ZERO_ID }, emit),
        }
    }

    fn finish(mut self, emit: &mut Emit) -> Result<List<Chunk>> {
        self.end_zeros(emit)?;
        self.sequence.finish(emit)
    }
}

/// A stretch of a file: to be read, or a hole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Span {
    start: u64,
    end: u64,
    hole: bool,
}

/// Stretches of a file in order. Paged content reads pages that are partly hole; their hole part is zeros.
fn spans(size: u64, holes: &[Hole], cutter: Cutter) -> Vec<Span> {
    let page = PAGE as u64;
    let mut spans = Vec::with_capacity(holes.len() * 2 + 1);
    let mut at = 0;
    for hole in holes {
        let (start, end) = match cutter {
            Cutter::Streamed => (hole.start, hole.end),
            Cutter::Paged if hole.end == size => (hole.start.next_multiple_of(page), size),
            Cutter::Paged => (hole.start.next_multiple_of(page), hole.end / page * page),
        };
        if start >= end {
            continue;
        }
        if at < start {
            spans.push(Span { start: at, end: start, hole: false });
        }
        spans.push(Span { start, end, hole: true });
        at = end;
    }
    if at < size {
        spans.push(Span { start: at, end: size, hole: false });
    }
    spans
}

fn class(size: u64) -> Class {
    if size >= LARGE {
        Class::Large
    } else {
        Class::Small
    }
}

/// The map of a file's holes.
pub fn hole_map(packer: &Packer, lane: &mut Lane, holes: &[Hole]) -> Result<List<Hole>> {
    let mut emit = |node: Vec<u8>| lane.offer_node(packer, &node);
    let mut sequence = Sequence::of_list();
    for hole in holes {
        sequence.push(*hole, &mut emit)?;
    }
    sequence.finish(&mut emit)
}

/// Attributes as an entry holds them: a long set is stored like content. None when they are more than any entry may have.
pub fn take_xattrs(packer: &Packer, chunker: &Chunker, lane: &mut Lane, mut set: XattrSet) -> Result<Option<Xattrs>> {
    let bytes = encode_xattrs(&mut set);
    if bytes.len() as u64 > MAX_XATTRS_LEN || set.len() > MAX_XATTRS {
        return Ok(None);
    }
    if bytes.len() <= XATTRS_IN_PLACE {
        return Ok(Some(Xattrs::InPlace(bytes.into())));
    }
    let start = lane.arena.len();
    lane.arena.extend_from_slice(&bytes);
    let list = cut_arena(packer, chunker, lane, start, &[])?;
    Ok(Some(Xattrs::Chunks { len: bytes.len() as u64, list }))
}

/// Stores the hard-link table of these groups of paths: every path of a group but its smallest, with that smallest.
pub fn store_links(
    packer: &Packer,
    lane: &mut Lane,
    groups: impl Iterator<Item = Vec<Vec<u8>>>,
) -> Result<Option<(u64, Id)>> {
    // The first path of a group is held once: there may be very many others, and it may be very long.
    let mut firsts: Vec<Vec<u8>> = Vec::new();
    let mut others: Vec<(Vec<u8>, usize)> = Vec::new();
    for mut paths in groups {
        paths.retain(|path| !path.is_empty());
        paths.sort_unstable();
        let mut paths = paths.into_iter();
        let Some(first) = paths.next() else { continue };
        others.extend(paths.map(|path| (path, firsts.len())));
        firsts.push(first);
    }
    if others.is_empty() {
        return Ok(None);
    }
    others.sort_unstable();
    let mut emit = |node: Vec<u8>| lane.offer_node(packer, &node);
    let mut sequence = Sequence::of_nodes();
    for (path, group) in others {
        sequence.push(Link { path, first: firsts[group].clone() }, &mut emit)?;
    }
    match sequence.finish(&mut emit)? {
        List::Node { items, id } => Ok(Some((items, id))),
        List::InPlace(_) => Err(Error::Internal("a link table has nodes".into())),
    }
}

/// Cuts content that is whole in the lane's arena from `start` on.
pub fn cut_arena(
    packer: &Packer,
    chunker: &Chunker,
    lane: &mut Lane,
    start: usize,
    holes: &[Hole],
) -> Result<List<Chunk>> {
    let size = (lane.arena.len() - start) as u64;
    let class = class(size);
    let content = &lane.arena[start..];
    let cutter = choose(&content[..content.len().min(HEAD_LEN)], content.len() > HEAD_LEN);
    let (mut pieces, mut chunks, mut offers) = (Vec::new(), Vec::new(), Vec::new());
    for span in spans(size, holes, cutter) {
        if span.hole {
            chunks.push(Chunk { len: span.end - span.start, id: ZERO_ID });
            continue;
        }
        let mut at = span.start as usize;
        chunker.cut(cutter, &content[at..span.end as usize], true, &mut pieces);
        for piece in pieces.drain(..) {
            let bytes = &content[at..at + piece.len];
            let id = if piece.zero { ZERO_ID } else { packer.keys.chunk_id(bytes) };
            chunks.push(Chunk { len: piece.len as u64, id });
            if !piece.zero {
                offers.push((id, start + at..start + at + piece.len));
            }
            at += piece.len;
        }
    }
    for (id, range) in offers {
        lane.offer(class, id, range);
    }
    let mut emit = |node: Vec<u8>| lane.offer_node(packer, &node);
    let mut listing = Listing::new();
    for chunk in chunks {
        listing.push(chunk, &mut emit)?;
    }
    let list = listing.finish(&mut emit)?;
    lane.settle_if_full(packer)?;
    Ok(list)
}

/// Where the segments of a large file meet: they are cut in order, and their chunks come back in any.
#[derive(Default)]
struct Pipe {
    baton: Mutex<Baton>,
    passed: Condvar,
    done: Mutex<BTreeMap<u64, std::io::Result<Cut>>>,
    ready: Condvar,
    buffers: Mutex<Vec<Vec<u8>>>,
}

/// What a segment needs of the one before it to be cut.
#[derive(Default)]
struct Baton {
    /// Whose turn it is.
    turn: u64,
    /// Bytes behind the last cut.
    rest: Vec<u8>,
    /// Nobody will have another turn: the content ended, could not be read, or a segment was dropped.
    over: bool,
}

/// What came of a segment.
struct Cut {
    chunks: Vec<Chunk>,
    read_bytes: u64,
    /// The content ended early; nothing behind it counts.
    ended: bool,
}

/// The bytes of a segment: at a place of a file, or read already, behind headroom for the rest of the segment before (which is
/// shorter than the longest chunk).
enum Bytes {
    At(Arc<OwnedFd>, u64, usize),
    Here(Vec<u8>),
}

/// A stretch of a large file, to be read, cut, identified and stored by any worker. One worker does all of it, so that the
/// bytes stay in its core's cache; only the cutting waits for the segment before.
pub struct Segment {
    bytes: Bytes,
    cutter: Cutter,
    /// A hole or the end follows.
    last: bool,
    /// Its place among the segments and holes.
    number: u64,
    /// Its place among the segments.
    turn: u64,
    pipe: Arc<Pipe>,
}

impl Drop for Segment {
    /// Those behind a segment that was not cut must not wait for it.
    fn drop(&mut self) {
        let mut baton = self.pipe.baton();
        if baton.turn <= self.turn {
            baton.over = true;
            self.pipe.passed.notify_all();
        }
    }
}

impl Segment {
    pub fn run(mut self, packer: &Packer, chunker: &Chunker, lane: &mut Lane) -> Result<()> {
        let (mut data, read, ended) = self.load(headroom(chunker));
        let Some((start, pieces)) = self.cut(chunker, &mut data, ended) else { return Ok(()) };
        let (mut chunks, mut stored): (Vec<Chunk>, Vec<(Id, Range<usize>)>) = (Vec::new(), Vec::new());
        let mut at = start;
        for piece in pieces {
            let range = at..at + piece.len;
            at = range.end;
            let id = if piece.zero { ZERO_ID } else { packer.keys.chunk_id(&data[range.clone()]) };
            chunks.push(Chunk { len: piece.len as u64, id });
            if !piece.zero {
                stored.push((id, range));
            }
        }
        lane.store(packer, Class::Large, &data, &stored)?;
        self.pipe.give_back(data);
        self.pipe.deliver(self.number, read.map(|len| Cut { chunks, read_bytes: len as u64, ended }));
        Ok(())
    }

    /// The bytes behind headroom, how many were read, and whether they are fewer than wanted.
    fn load(&mut self, headroom: usize) -> (Vec<u8>, std::io::Result<usize>, bool) {
        match &mut self.bytes {
            Bytes::Here(data) => {
                let data = std::mem::take(data);
                let len = data.len() - headroom;
                (data, Ok(len), false)
            }
            Bytes::At(file, offset, want) => {
                let mut data = self.pipe.used_buffer(headroom);
                let read = source::append_at(file.as_fd(), &mut data, *want, *offset);
                let ended = !matches!(read, Ok(len) if len == *want);
                (data, read, ended)
            }
        }
    }

    /// Waits for its turn and cuts the rest of the segment before and its own bytes; what cannot be cut yet goes to the next.
    /// Where the first piece begins, and the pieces. None when the content ended before.
    fn cut(&self, chunker: &Chunker, data: &mut [u8], ended: bool) -> Option<(usize, Vec<Piece>)> {
        let mut baton = self.pipe.baton();
        while baton.turn != self.turn && !baton.over {
            baton = self.pipe.passed.wait(baton).unwrap_or_else(|p| p.into_inner());
        }
        if baton.over {
            return None;
        }
        let headroom = headroom(chunker);
        let start = headroom - baton.rest.len();
        data[start..headroom].copy_from_slice(&baton.rest);
        let mut pieces = Vec::new();
        let end = start + chunker.cut(self.cutter, &data[start..], self.last || ended, &mut pieces);
        baton.rest.clear();
        baton.rest.extend_from_slice(&data[end..]);
        baton.turn += 1;
        baton.over = ended;
        self.pipe.passed.notify_all();
        Some((start, pieces))
    }
}

/// Room before a segment's bytes: for what may be left of the segment before, and so that they begin in the middle of a page,
/// since some processors copy a page very slowly to an address a few bytes behind a page's beginning.
fn headroom(chunker: &Chunker) -> usize {
    chunker.max_len() + PAGE / 2
}

impl Pipe {
    fn baton(&self) -> MutexGuard<'_, Baton> {
        lock(&self.baton)
    }

    fn deliver(&self, number: u64, cut: std::io::Result<Cut>) {
        lock(&self.done).insert(number, cut);
        self.ready.notify_all();
    }

    fn give_back(&self, buffer: Vec<u8>) {
        lock(&self.buffers).push(buffer);
    }

    /// A buffer that has done its work, or a new one, of `len` bytes.
    fn used_buffer(&self, len: usize) -> Vec<u8> {
        let mut buffer = lock(&self.buffers).pop().unwrap_or_default();
        buffer.resize(len, 0);
        buffer
    }

    fn take(&self, number: u64) -> Option<std::io::Result<Cut>> {
        lock(&self.done).remove(&number)
    }

    fn wait(&self, number: u64) {
        let done = lock(&self.done);
        if !done.contains_key(&number) {
            // The time limit lets the caller look for other work and for cancellation.
            let _ = self.ready.wait_timeout(done, Duration::from_millis(20));
        }
    }
}

/// The other workers, as whoever hands out segments sees them.
pub trait Helpers {
    /// Gives a segment to whoever is free.
    fn hand_out(&self, segment: Segment);
    /// Does one waiting segment itself; false when there was none.
    fn help(&self, lane: &mut Lane) -> Result<bool>;
    /// How many segments one file may have under way.
    fn allowance(&self) -> u64;
    /// Fails when the run has ended.
    fn check(&self) -> Result<()>;
    /// Counts bytes that were read.
    fn read(&self, bytes: u64);
    /// Counts bytes of holes, which are not read.
    fn skipped(&self, bytes: u64);
}

/// Appends so many bytes of a content, from an offset on.
pub type Append<'a> = dyn FnMut(&mut Vec<u8>, u64, usize) -> Result<()> + 'a;

/// Hands out the segments of one large file or stream, and collects their chunks in order.
pub struct LargeFile<'a> {
    packer: &'a Packer,
    chunker: &'a Chunker,
    helpers: &'a dyn Helpers,
    pipe: Arc<Pipe>,
    issued: u64,
    turns: u64,
    collected: u64,
    listing: Listing,
    /// Bytes collected so far.
    size: u64,
    /// The content was shorter than expected.
    ended: bool,
}

impl<'a> LargeFile<'a> {
    pub fn new(packer: &'a Packer, chunker: &'a Chunker, helpers: &'a dyn Helpers) -> LargeFile<'a> {
        LargeFile {
            packer,
            chunker,
            helpers,
            pipe: Arc::default(),
            issued: 0,
            turns: 0,
            collected: 0,
            listing: Listing::new(),
            size: 0,
            ended: false,
        }
    }

    /// Takes a file of `size` bytes with these holes; less when it has become shorter. The answer has the size taken.
    pub fn take_file(
        mut self,
        lane: &mut Lane,
        file: BorrowedFd,
        size: u64,
        holes: &[Hole],
    ) -> Read<(List<Chunk>, u64)> {
        let mut head = vec![0; HEAD_LEN];
        let head_len = source::read_at(file, &mut head, 0)?;
        let cutter = choose(&head[..head_len], size > HEAD_LEN as u64);
        // Segments may outlive this call when it fails.
        let file = Arc::new(file.try_clone_to_owned()?);
        for span in spans(size, holes, cutter) {
            if self.ended {
                break;
            }
            if span.hole {
                self.issue_zeros(lane, span.end - span.start)?;
                continue;
            }
            let mut at = span.start;
            while at < span.end && !self.ended {
                let want = (span.end - at).min(SEGMENT as u64) as usize;
                // Read while those before are still worked on. Where this cannot be, nothing is lost.
                let _ = fadvise(&file, at, NonZeroU64::new(want as u64), Advice::WillNeed);
                let bytes = Bytes::At(file.clone(), at, want);
                at += want as u64;
                self.issue(lane, bytes, cutter, at == span.end)?;
            }
        }
        self.finish(lane)
    }

    /// Takes everything that can be read from `stream`. `first`: what was read already, at least `HEAD_LEN` bytes.
    pub fn take_stream(mut self, lane: &mut Lane, stream: BorrowedFd, first: &[u8]) -> Read<(List<Chunk>, u64)> {
        let cutter = choose(&first[..first.len().min(HEAD_LEN)], first.len() > HEAD_LEN);
        let headroom = headroom(self.chunker);
        let mut data = self.pipe.used_buffer(headroom);
        data.extend_from_slice(first);
        self.issue(lane, Bytes::Here(data), cutter, false)?;
        loop {
            let mut data = self.pipe.used_buffer(headroom + SEGMENT);
            let got = source::read_stream(stream, &mut data[headroom..], &|| self.helpers.check())?;
            data.truncate(headroom + got);
            self.issue(lane, Bytes::Here(data), cutter, got < SEGMENT)?;
            if got < SEGMENT {
                return self.finish(lane);
            }
        }
    }

    /// Takes content of `size` bytes with these holes that can be read only once: `append(buffer, start, len)` is asked for
    /// ascending stretches, in holes too where pages are partly hole. `head`: its first `HEAD_LEN` bytes, or all.
    pub fn take_once(
        mut self,
        lane: &mut Lane,
        size: u64,
        holes: &[Hole],
        head: &[u8],
        append: &mut Append,
    ) -> Read<List<Chunk>> {
        let cutter = choose(head, size > HEAD_LEN as u64);
        for span in spans(size, holes, cutter) {
            if span.hole {
                self.issue_zeros(lane, span.end - span.start)?;
                continue;
            }
            let mut at = span.start;
            while at < span.end {
                let want = (span.end - at).min(SEGMENT as u64) as usize;
                let mut data = self.pipe.used_buffer(headroom(self.chunker));
                append(&mut data, at, want)?;
                at += want as u64;
                self.issue(lane, Bytes::Here(data), cutter, at == span.end)?;
            }
        }
        Ok(self.finish(lane)?.0)
    }

    fn issue(&mut self, lane: &mut Lane, bytes: Bytes, cutter: Cutter, last: bool) -> Read<()> {
        self.helpers.check()?;
        self.collect(lane, self.helpers.allowance() - 1)?;
        let (number, turn, pipe) = (self.issued, self.turns, self.pipe.clone());
        self.helpers.hand_out(Segment { bytes, cutter, last, number, turn, pipe });
        self.issued += 1;
        self.turns += 1;
        Ok(())
    }

    fn issue_zeros(&mut self, lane: &mut Lane, len: u64) -> Read<()> {
        self.collect(lane, self.helpers.allowance() - 1)?;
        let hole = Cut { chunks: vec![Chunk { len, id: ZERO_ID }], read_bytes: 0, ended: false };
        self.pipe.deliver(self.issued, Ok(hole));
        self.issued += 1;
        self.helpers.skipped(len);
        Ok(())
    }

    /// Collects segments in order until at most `left` are under way, working on them too.
    fn collect(&mut self, lane: &mut Lane, left: u64) -> Read<()> {
        while self.issued > self.collected && !self.ended {
            if let Some(cut) = self.pipe.take(self.collected) {
                self.collected += 1;
                self.list(lane, cut?)?;
                continue;
            }
            if self.issued - self.collected <= left {
                return Ok(());
            }
            self.helpers.check()?;
            if !self.helpers.help(lane)? {
                self.pipe.wait(self.collected);
            }
        }
        Ok(())
    }

    fn list(&mut self, lane: &mut Lane, cut: Cut) -> Result<()> {
        self.helpers.read(cut.read_bytes);
        self.ended = cut.ended;
        let packer = self.packer;
        let mut emit = |node: Vec<u8>| lane.offer_node(packer, &node);
        for chunk in cut.chunks {
            self.size += chunk.len;
            self.listing.push(chunk, &mut emit)?;
        }
        Ok(())
    }

    fn finish(mut self, lane: &mut Lane) -> Read<(List<Chunk>, u64)> {
        self.collect(lane, 0)?;
        let packer = self.packer;
        Ok((self.listing.finish(&mut |node: Vec<u8>| lane.offer_node(packer, &node))?, self.size))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paged_spans_widen_to_pages() {
        let holes = [Hole { start: 5000, end: 20_000 }, Hole { start: 30_000, end: 40_001 }];
        let paged = spans(40_001, &holes, Cutter::Paged);
        let edges: Vec<(u64, u64, bool)> = paged.iter().map(|s| (s.start, s.end, s.hole)).collect();
        assert_eq!(edges, [(0, 8192, false), (8192, 16_384, true), (16_384, 32_768, false), (32_768, 40_001, true)]);
        let streamed = spans(40_001, &holes, Cutter::Streamed);
        assert_eq!(streamed.len(), 4);
        assert_eq!(streamed[1], Span { start: 5000, end: 20_000, hole: true });
    }
    #[test]
    fn more_attributes_than_an_entry_may_have_are_refused() {
        use crate::testing::{settings, TestStore};
        let store = TestStore::new();
        let packer = Packer::new(store.dir.path(), store.keys.clone(), store.index.clone(), settings(), Arc::default());
        let (chunker, mut lane) = (Chunker::new(&store.keys, 32_768), packer.lane().unwrap());
        let set =
            |count: usize| -> XattrSet { (0..count).map(|n| (format!("user.{n}").into(), vec![7; 65_536])).collect() };
        let mut take = |count: usize| take_xattrs(&packer, &chunker, &mut lane, set(count)).unwrap();
        assert!(matches!(take(200), Some(Xattrs::Chunks { .. })));
        assert!(take(260).is_none());
    }
}
