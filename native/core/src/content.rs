//! A file's bytes on their way into chunks: cut at the right places, zero runs and holes left out, in order.
//! entry > **chunk list** > chunk.

use std::collections::BTreeMap;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use crate::chunker::{choose, Chunker, Cutter, Piece, HEAD_LEN, PAGE};
use crate::error::Result;
use crate::id::{Id, ZERO_ID};
use crate::node::{Chunk, Emit, Hole, List, Sequence};
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

/// Where a large file's segments come back to, in any order.
#[derive(Default)]
pub struct Pipe {
    done: Mutex<BTreeMap<u64, Vec<Chunk>>>,
    ready: Condvar,
    buffers: Mutex<Vec<Vec<u8>>>,
}

/// Whole chunks of a large file, to be identified and stored by any worker.
pub struct Segment {
    data: Vec<u8>,
    pieces: Vec<Piece>,
    number: u64,
    pipe: Arc<Pipe>,
}

impl Segment {
    pub fn run(self, packer: &Packer, lane: &mut Lane) -> Result<()> {
        let (mut chunks, mut stored): (Vec<Chunk>, Vec<(Id, Range<usize>)>) = (Vec::new(), Vec::new());
        let mut at = 0;
        for piece in &self.pieces {
            let range = at..at + piece.len;
            at = range.end;
            let id = if piece.zero { ZERO_ID } else { packer.keys.chunk_id(&self.data[range.clone()]) };
            chunks.push(Chunk { len: piece.len as u64, id });
            if !piece.zero {
                stored.push((id, range));
            }
        }
        lane.store(packer, Class::Large, &self.data, &stored)?;
        self.pipe.deliver(self.number, chunks);
        self.pipe.give_back(self.data);
        Ok(())
    }
}

impl Pipe {
    fn deliver(&self, number: u64, chunks: Vec<Chunk>) {
        self.done.lock().unwrap_or_else(|p| p.into_inner()).insert(number, chunks);
        self.ready.notify_all();
    }

    fn give_back(&self, mut buffer: Vec<u8>) {
        buffer.clear();
        self.buffers.lock().unwrap_or_else(|p| p.into_inner()).push(buffer);
    }

    fn used_buffer(&self) -> Vec<u8> {
        self.buffers.lock().unwrap_or_else(|p| p.into_inner()).pop().unwrap_or_default()
    }

    fn take(&self, number: u64) -> Option<Vec<Chunk>> {
        self.done.lock().unwrap_or_else(|p| p.into_inner()).remove(&number)
    }

    fn wait(&self, number: u64) {
        let done = self.done.lock().unwrap_or_else(|p| p.into_inner());
        if !done.contains_key(&number) {
            // The time limit lets the caller look for other work and for cancellation.
            let _ = self.ready.wait_timeout(done, Duration::from_millis(20));
        }
    }
}

/// The other workers, as a cutter sees them.
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

/// Reads and cuts one large file or stream, while others identify and store its segments.
pub struct LargeFile<'a> {
    packer: &'a Packer,
    chunker: &'a Chunker,
    helpers: &'a dyn Helpers,
    pipe: Arc<Pipe>,
    issued: u64,
    collected: u64,
    listing: Listing,
    /// Bytes read behind the last cut.
    rest: Vec<u8>,
    /// Bytes covered so far.
    pub size: u64,
}

impl<'a> LargeFile<'a> {
    pub fn new(packer: &'a Packer, chunker: &'a Chunker, helpers: &'a dyn Helpers) -> LargeFile<'a> {
        LargeFile {
            packer,
            chunker,
            helpers,
            pipe: Arc::default(),
            issued: 0,
            collected: 0,
            listing: Listing::new(),
            rest: Vec::new(),
            size: 0,
        }
    }

    /// Takes a file of `size` bytes with these holes; less when it has become shorter.
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
        for span in spans(size, holes, cutter) {
            if span.hole {
                self.issue_zeros(lane, span.end - span.start)?;
            } else if !self.take_span(lane, file, span, cutter)? {
                break;
            }
        }
        let size = self.size;
        Ok((self.finish(lane)?, size))
    }

    /// False when the file ended within the span.
    fn take_span(&mut self, lane: &mut Lane, file: BorrowedFd, span: Span, cutter: Cutter) -> Read<bool> {
        let mut at = span.start;
        while at < span.end {
            let want = (span.end - at).min(SEGMENT as u64) as usize;
            let mut data = self.begin_segment();
            let got = source::append_at(file, &mut data, want, at)?;
            self.helpers.read(got as u64);
            at += got as u64;
            let last = at == span.end || got < want;
            self.issue(lane, data, cutter, last)?;
            if got < want {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Takes everything that can be read from `stream`. `first`: what was read already.
    pub fn take_stream(mut self, lane: &mut Lane, stream: BorrowedFd, first: Vec<u8>) -> Read<(List<Chunk>, u64)> {
        let cutter = choose(&first[..first.len().min(HEAD_LEN)], first.len() > HEAD_LEN);
        self.rest = first;
        loop {
            let mut data = self.begin_segment();
            let kept = data.len();
            data.resize(kept + SEGMENT, 0);
            let got = source::read_stream(stream, &mut data[kept..], &|| self.helpers.check())?;
            data.truncate(kept + got);
            self.helpers.read(got as u64);
            self.issue(lane, data, cutter, got < SEGMENT)?;
            if got < SEGMENT {
                let size = self.size;
                return Ok((self.finish(lane)?, size));
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
    ) -> Result<List<Chunk>> {
        let cutter = choose(head, size > HEAD_LEN as u64);
        for span in spans(size, holes, cutter) {
            if span.hole {
                self.issue_zeros(lane, span.end - span.start)?;
                continue;
            }
            let mut at = span.start;
            while at < span.end {
                let want = (span.end - at).min(SEGMENT as u64) as usize;
                let mut data = self.begin_segment();
                append(&mut data, at, want)?;
                self.helpers.read(want as u64);
                at += want as u64;
                self.issue(lane, data, cutter, at == span.end)?;
            }
        }
        self.finish(lane)
    }

    /// A buffer with the uncut rest; one that has done its work where there is one.
    fn begin_segment(&mut self) -> Vec<u8> {
        let mut data = self.pipe.used_buffer();
        data.append(&mut self.rest);
        data
    }

    fn issue(&mut self, lane: &mut Lane, mut data: Vec<u8>, cutter: Cutter, last: bool) -> Result<()> {
        let mut pieces = Vec::new();
        let cut = self.chunker.cut(cutter, &data, last, &mut pieces);
        self.rest = data.split_off(cut);
        if pieces.is_empty() {
            return Ok(());
        }
        self.size += cut as u64;
        self.helpers.check()?;
        self.collect(lane, self.helpers.allowance())?;
        self.helpers.hand_out(Segment { data, pieces, number: self.issued, pipe: self.pipe.clone() });
        self.issued += 1;
        Ok(())
    }

    fn issue_zeros(&mut self, lane: &mut Lane, len: u64) -> Result<()> {
        self.collect(lane, self.helpers.allowance())?;
        self.pipe.deliver(self.issued, vec![Chunk { len, id: ZERO_ID }]);
        self.issued += 1;
        self.size += len;
        self.helpers.skipped(len);
        Ok(())
    }

    /// Collects segments in order until at most `left` are under way, working on them too.
    fn collect(&mut self, lane: &mut Lane, left: u64) -> Result<()> {
        while self.issued > self.collected {
            if let Some(chunks) = self.pipe.take(self.collected) {
                self.collected += 1;
                let packer = self.packer;
                let mut emit = |node: Vec<u8>| lane.offer_node(packer, &node);
                for chunk in chunks {
                    self.listing.push(chunk, &mut emit)?;
                }
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

    fn finish(mut self, lane: &mut Lane) -> Result<List<Chunk>> {
        self.collect(lane, 0)?;
        let packer = self.packer;
        self.listing.finish(&mut |node: Vec<u8>| lane.offer_node(packer, &node))
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
}
