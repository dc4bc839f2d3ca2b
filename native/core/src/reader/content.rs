//! The content of files: which chunks it consists of, and where its holes are.

use std::collections::VecDeque;

use super::sequence::{Expected, Leaves};
use super::Reader;
use crate::error::{Error, Result};
use crate::id::{Id, ZERO_ID};
use crate::node::{Chunk, Content, Hole, Key, List};

/// Neighbouring chunks of some content.
pub(crate) struct Run {
    /// Where the first of them begins.
    pub(crate) offset: u64,
    pub(crate) chunks: Vec<Chunk>,
}

impl Run {
    /// The ids of the chunks that are stored, that is, without zero runs.
    pub(crate) fn ids(&self) -> Vec<Id> {
        stored_ids(&self.chunks).collect()
    }

    pub(crate) fn end(&self) -> u64 {
        self.offset + self.chunks.iter().map(|chunk| chunk.len).sum::<u64>()
    }
}

pub(crate) fn stored_ids(chunks: &[Chunk]) -> impl Iterator<Item = Id> + '_ {
    chunks.iter().map(|chunk| chunk.id).filter(|id| *id != ZERO_ID)
}

/// The runs of some content, in order. Long chunk lists are read leaf by leaf.
pub(crate) enum Runs {
    Few(Option<Run>),
    Many { leaves: Leaves<Chunk>, offset: u64 },
}

impl Runs {
    /// The runs of content of `size` bytes that stands in chunks; of other content there are none.
    pub(crate) fn new(content: &Content, size: u64) -> Runs {
        match content {
            Content::Empty | Content::InPlace(_) => Runs::Few(None),
            Content::One(id) => Runs::Few(Some(Run { offset: 0, chunks: vec![Chunk { len: size, id: *id }] })),
            Content::Chunks(list) => Runs::of_list(list, size),
        }
    }

    pub(crate) fn of_list(list: &List<Chunk>, size: u64) -> Runs {
        match list {
            List::InPlace(chunks) => Runs::Few(Some(Run { offset: 0, chunks: chunks.clone() })),
            List::Node { items, id } => {
                Runs::Many { leaves: Leaves::new(*id, Expected::content(*items, size)), offset: 0 }
            }
        }
    }

    /// The next run that ends behind `from`.
    pub(crate) fn next_from(&mut self, reader: &Reader, from: u64) -> Result<Option<Run>> {
        match self {
            Runs::Few(run) => Ok(run.take()),
            Runs::Many { leaves, offset } => {
                let found = leaves.next_unless(reader, |expected| match expected.key {
                    Some(Key::Number(len)) if offset.saturating_add(len) <= from => {
                        *offset += len;
                        true
                    }
                    _ => false,
                });
                let run = found?.map(|chunks| Run { offset: *offset, chunks });
                run.iter().for_each(|run| *offset = run.end());
                Ok(run)
            }
        }
    }

    pub(crate) fn next(&mut self, reader: &Reader) -> Result<Option<Run>> {
        self.next_from(reader, 0)
    }
}

/// The holes of a file, asked for from left to right.
pub(crate) struct Holes {
    leaves: Leaves<Hole>,
    waiting: VecDeque<Hole>,
    size: u64,
}

impl Holes {
    /// `size`: of the file.
    pub(crate) fn new(list: Option<&List<Hole>>, size: u64) -> Holes {
        let (leaves, waiting) = match list {
            None => (Leaves::none(), VecDeque::new()),
            Some(List::InPlace(holes)) => (Leaves::none(), holes.iter().copied().collect()),
            Some(List::Node { items, id }) => (Leaves::new(*id, Expected::top(*items)), VecDeque::new()),
        };
        Holes { leaves, waiting, size }
    }

    /// The first hole that ends behind `from`. `from` never decreases.
    pub(crate) fn next_from(&mut self, reader: &Reader, from: u64) -> Result<Option<Hole>> {
        loop {
            while let Some(hole) = self.waiting.front() {
                if hole.end > from {
                    return Ok(Some(*hole));
                }
                self.waiting.pop_front();
            }
            let before = |expected: &Expected| matches!(expected.key, Some(Key::Number(end)) if end <= from);
            let Some(holes) = self.leaves.next_unless(reader, before)? else { return Ok(None) };
            if holes.last().is_some_and(|hole| hole.end > self.size) {
                return Err(Error::Damaged("damaged tree node: a hole is outside its file".into()));
            }
            self.waiting = holes.into();
        }
    }

    /// Calls `part(start, end, is a hole)` for the holes in `start..end` and what is between them. `start` never decreases.
    pub(crate) fn split(
        &mut self,
        reader: &Reader,
        start: u64,
        end: u64,
        mut part: impl FnMut(u64, u64, bool) -> Result<()>,
    ) -> Result<()> {
        let mut at = start;
        while at < end {
            match self.next_from(reader, at)? {
                Some(hole) if hole.start < end => {
                    if hole.start > at {
                        part(at, hole.start, false)?;
                    }
                    let hole_end = hole.end.min(end);
                    part(hole.start.max(at), hole_end, true)?;
                    at = hole_end;
                }
                _ => {
                    part(at, end, false)?;
                    at = end;
                }
            }
        }
        Ok(())
    }
}
