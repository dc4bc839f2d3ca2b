//! The bytes of a file, its holes, and what they are made of.

use std::ops::Range;

use super::shown::Shown;
use super::View;
use crate::error::{Error, Result};
use crate::id::{Id, ZERO_ID};
use crate::node::{Chunk, Content, Entry, Key, List, What};
use crate::reader::{Expected, Extent, Holes, Runs};

/// A chunk, what is wanted of it, and where that goes.
struct Part {
    chunk: Chunk,
    inside: Range<usize>,
    to: Range<usize>,
}

/// What lseek(2) looks for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Seek {
    Data,
    Hole,
}

impl View {
    /// Reads a file from `offset` into `out`; less only at its end.
    pub fn read(&self, at: &Shown, offset: u64, out: &mut [u8]) -> Result<usize> {
        let Some((image, part)) = at.part() else { return self.read_file(at.entry(), offset, out) };
        let start = part.start.saturating_add(offset).min(part.end);
        let len = (part.end - start).min(out.len() as u64) as usize;
        self.read_file(image, start, &mut out[..len])
    }

    pub(super) fn read_file(&self, entry: &Entry, offset: u64, out: &mut [u8]) -> Result<usize> {
        let What::File { size, content, .. } = &entry.what else {
            return Err(Error::Invalid("it is not a file".into()));
        };
        let start = offset.min(*size);
        let len = (*size - start).min(out.len() as u64) as usize;
        let out = &mut out[..len];
        let is_all = len as u64 == *size;
        match content {
            Content::Empty => out.fill(0),
            Content::InPlace(bytes) => out.copy_from_slice(&bytes[start as usize..start as usize + len]),
            Content::One(id) => {
                let chunks = [Chunk { len: *size, id: *id }];
                self.read_from(&chunks, 0, start, out, is_all)?;
            }
            Content::Chunks(list) => self.read_list(list, *size, start, out, is_all)?,
        }
        Ok(len)
    }

    fn read_list(&self, list: &List<Chunk>, size: u64, start: u64, out: &mut [u8], is_all: bool) -> Result<()> {
        let (items, id) = match list {
            List::InPlace(chunks) => {
                let done = self.read_from(chunks, 0, start, out, is_all)?;
                return complete(done, out);
            }
            List::Node { items, id } => (*items, id),
        };
        let top = self.chunks.top(&self.reader, id, || Expected::content(items, size))?;
        let mut done = 0;
        while done < out.len() {
            let from = start + done as u64;
            let before =
                |key: &Key, offset: u64| matches!(key, Key::Number(len) if offset.saturating_add(*len) <= from);
            let Some((chunks, _, offset)) = self.chunks.find(&self.reader, &top, before)? else { break };
            match self.read_from(&chunks, offset, from, &mut out[done..], is_all)? {
                0 => break,
                more => done += more,
            }
        }
        complete(done, out)
    }

    /// Reads from `start` on what is in `chunks`, the first of which is at `offset`. How much that is.
    fn read_from(&self, chunks: &[Chunk], offset: u64, start: u64, out: &mut [u8], is_all: bool) -> Result<usize> {
        let end = start + out.len() as u64;
        let (mut at, mut done, mut parts) = (offset, 0, Vec::new());
        for chunk in chunks {
            let chunk_end = at.saturating_add(chunk.len);
            if chunk_end > start && at < end {
                let inside = (start.max(at) - at) as usize..(end.min(chunk_end) - at) as usize;
                let to = done..done + inside.len();
                done = to.end;
                parts.push(Part { chunk: *chunk, inside, to });
            }
            at = chunk_end;
            if at >= end {
                break;
            }
        }
        let ids: Vec<Id> = parts.iter().map(|part| part.chunk.id).filter(|id| *id != ZERO_ID).collect();
        let extent = match self.note(&ids)? || is_all {
            true => Extent::Whole,
            false => Extent::AsNeeded,
        };
        // From the last to the first: what is decoded for one has all that those before it need.
        for Part { chunk, inside, to } in parts.into_iter().rev() {
            match chunk.id {
                ZERO_ID => out[to].fill(0),
                _ => out[to].copy_from_slice(&self.reader.chunk_in(&chunk, extent)?[inside]),
            }
        }
        Ok(done)
    }

    /// Notes which blocks are wanted. True when they follow those that were wanted before.
    fn note(&self, ids: &[Id]) -> Result<bool> {
        let mut sequential = false;
        for place in self.reader.find(ids)?.into_iter().flatten() {
            sequential |= self.ahead.note(place.pack, place.block);
        }
        Ok(sequential)
    }

    /// Where the next data or hole of a file begins, from `from` on; the end counts as a hole. None behind the end.
    pub fn seek(&self, at: &Shown, from: u64, what: Seek) -> Result<Option<u64>> {
        let Some((image, part)) = at.part() else { return self.seek_file(at.entry(), from, what) };
        let start = part.start.saturating_add(from);
        if start >= part.end {
            return Ok(None);
        }
        let found = self.seek_file(image, start, what)?;
        Ok(match what {
            Seek::Data => found.filter(|found| *found < part.end).map(|found| found - part.start),
            Seek::Hole => found.map(|found| found.min(part.end) - part.start),
        })
    }

    fn seek_file(&self, entry: &Entry, from: u64, what: Seek) -> Result<Option<u64>> {
        let What::File { size, holes, .. } = &entry.what else {
            return Err(Error::Invalid("it is not a file".into()));
        };
        if from >= *size {
            return Ok(None);
        }
        let mut holes = Holes::new(holes.as_deref(), *size);
        let hole = holes.next_from(&self.reader, from)?;
        Ok(match (what, hole) {
            (Seek::Data, Some(hole)) if hole.start <= from => (hole.end < *size).then_some(hole.end),
            (Seek::Data, _) => Some(from),
            (Seek::Hole, Some(hole)) => Some(hole.start.max(from)),
            (Seek::Hole, None) => Some(*size),
        })
    }

    /// The chunks of a file as text, `OFFSET LENGTH ID` a line (`-` for zeros), as many lines as `max_len` bytes hold.
    pub fn chunk_lines(&self, at: &Shown, max_len: usize) -> Result<String> {
        let mut text = String::new();
        let What::File { size, content, .. } = &at.entry().what else { return Ok(text) };
        let mut runs = Runs::new(content, *size);
        while let Some(run) = runs.next(&self.reader)? {
            let mut offset = run.offset;
            for Chunk { len, id } in run.chunks {
                let id = if id == ZERO_ID { "-".into() } else { id.hex() };
                let line = format!("{offset} {len} {id}\n");
                if text.len() + line.len() > max_len {
                    return Ok(text);
                }
                text += &line;
                offset += len;
            }
        }
        Ok(text)
    }
}

fn complete(done: usize, out: &[u8]) -> Result<()> {
    match done == out.len() {
        true => Ok(()),
        false => Err(Error::damaged("damaged tree node: a chunk list is too short")),
    }
}
