//! Jobs of an export: members, or a piece of a large one, turned into the bytes that are written.

use std::sync::Arc;

use super::walk::in_path;
use super::Options;
use crate::error::{Error, Result};
use crate::id::ZERO_ID;
use crate::node::{Chunk, Content, Entry, What};
use crate::reader::{stored_ids, Holes, Reader, Runs};
use crate::tar::{pad, Member, Stretch};

/// A member with its place in the archive.
pub(super) struct Item {
    pub(super) path: Vec<u8>,
    pub(super) entry: Arc<Entry>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) map: Option<Vec<Stretch>>,
    /// Its content is written with it.
    pub(super) content: bool,
}

/// The bytes `start..end` of a large file, which lie in `chunks`, the first of which begins at `at`.
pub(super) struct Piece {
    pub(super) path: Vec<u8>,
    pub(super) entry: Arc<Entry>,
    /// Holes are left out.
    pub(super) sparse: bool,
    pub(super) at: u64,
    pub(super) chunks: Vec<Chunk>,
    pub(super) start: u64,
    pub(super) end: u64,
}

pub(super) enum Job {
    Members(Vec<Item>),
    Piece(Piece),
    Padding(usize),
}

impl Job {
    pub(super) fn render(self, reader: &Reader, options: &Options, out: &mut Vec<u8>) -> Result<()> {
        match self {
            Job::Padding(len) => out.resize(out.len() + len, 0),
            Job::Piece(piece) => piece.put(reader, out).map_err(|error| in_path(&piece.path, error))?,
            Job::Members(items) => {
                let contents = items.iter().filter(|item| item.content && item.link.is_none());
                let ids: Vec<_> = contents.flat_map(|item| ids_in_place(&item.entry)).collect();
                reader.learn(&ids)?;
                for item in items {
                    item.put(reader, options, out).map_err(|error| in_path(&item.path, error))?;
                }
            }
        }
        Ok(())
    }
}

/// Chunks that an entry names itself.
fn ids_in_place(entry: &Entry) -> Vec<crate::id::Id> {
    match &entry.what {
        What::File { content: Content::One(id), .. } => vec![*id],
        What::File { content: Content::Chunks(list), .. } => match &**list {
            crate::node::List::InPlace(chunks) => stored_ids(chunks).collect(),
            _ => Vec::new(),
        },
        _ => Vec::new(),
    }
}

impl Item {
    fn put(&self, reader: &Reader, options: &Options, out: &mut Vec<u8>) -> Result<()> {
        let entry = &*self.entry;
        let xattrs = reader.xattrs(entry)?;
        let name = |names: &std::collections::HashMap<u32, Vec<u8>>, id| names.get(&id).cloned().unwrap_or_default();
        let member = Member {
            path: &self.path,
            entry,
            link: self.link.as_deref(),
            user: &name(&options.users, entry.uid),
            group: &name(&options.groups, entry.gid),
            xattrs: &xattrs,
            map: self.map.as_deref(),
        };
        member.put(options.format, out);
        if self.content && self.link.is_none() {
            put_small(reader, entry, out)?;
            pad(out);
        }
        Ok(())
    }
}

/// Appends the whole content of a file without holes.
fn put_small(reader: &Reader, entry: &Entry, out: &mut Vec<u8>) -> Result<()> {
    let What::File { size, content, .. } = &entry.what else { return Ok(()) };
    let end = out.len() as u64 + size;
    match content {
        Content::InPlace(bytes) => out.extend_from_slice(bytes),
        _ => {
            let mut runs = Runs::new(content, *size);
            while let Some(run) = runs.next(reader)? {
                for chunk in &run.chunks {
                    if out.len() as u64 + chunk.len > end {
                        break;
                    }
                    match chunk.id {
                        ZERO_ID => out.resize(out.len() + chunk.len as usize, 0),
                        _ => out.extend_from_slice(&reader.chunk_of(chunk)?),
                    }
                }
            }
        }
    }
    if out.len() as u64 != end {
        return Err(Error::Damaged("damaged tree: chunks do not add up to their file".into()));
    }
    Ok(())
}

impl Piece {
    fn put(&self, reader: &Reader, out: &mut Vec<u8>) -> Result<()> {
        let What::File { size, content, holes } = &self.entry.what else { return Ok(()) };
        let mut map = Holes::new(holes.as_deref().filter(|_| self.sparse), *size);
        if let Content::InPlace(bytes) = content {
            return map.split(reader, 0, *size, |start, end, is_hole| {
                put_part(Some(&bytes[start as usize..end as usize]), end - start, is_hole, out)
            });
        }
        reader.learn(&stored_ids(&self.chunks).collect::<Vec<_>>())?;
        let mut at = self.at;
        for chunk in &self.chunks {
            let end = at + chunk.len;
            let data = match chunk.id {
                ZERO_ID => None,
                _ => Some(reader.chunk_of(chunk)?),
            };
            map.split(reader, at.max(self.start), end.min(self.end), |start, end, is_hole| {
                let inside = data.as_ref().map(|data| &data[(start - at) as usize..(end - at) as usize]);
                put_part(inside, end - start, is_hole, out)
            })?;
            at = end;
        }
        Ok(())
    }
}

fn put_part(data: Option<&[u8]>, len: u64, is_hole: bool, out: &mut Vec<u8>) -> Result<()> {
    match (data, is_hole) {
        (Some(data), true) if data.iter().any(|b| *b != 0) => {
            return Err(Error::Damaged("damaged tree: there is data in a hole".into()));
        }
        (_, true) => {}
        (Some(data), false) => out.extend_from_slice(data),
        (None, false) => out.resize(out.len() + len as usize, 0),
    }
    Ok(())
}
