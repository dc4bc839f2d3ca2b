//! Reading trees and content. Every block is checked by its checksum and seal, every chunk and node by its id.
//! store > pack > block > chunk or node > **entry**, content.

mod content;
mod packs;
mod places;
mod sequence;
mod shelf;

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::id::{Id, Keys, ZERO_ID};
use crate::index::Index;
use crate::node::{
    decode_xattrs, Chunk, Content, Directory, Entry, Hole, Key, Link, List, Root, What, XattrSet, Xattrs,
    MAX_XATTRS_LEN,
};
use crate::pack::{self, Kind};
use crate::packer::Nodes;

pub(crate) use content::{stored_ids, Holes, Run, Runs};
pub(crate) use packs::open_file;
pub use packs::Slice;
pub(crate) use places::{AsItIs, Place};
pub(crate) use sequence::{Children, Expected, Leaves, Ordered};
pub(crate) use shelf::Shelf;

use packs::Packs;
use places::Places;

/// What decoded blocks may take, unless the caller says otherwise.
pub const CACHE_BYTES: usize = 64 << 20;

/// Which key an id was made with.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Domain {
    Chunk,
    Node,
}

impl Domain {
    fn word(self) -> &'static str {
        match self {
            Domain::Chunk => "chunk",
            Domain::Node => "node",
        }
    }
}

/// How much of a block is decoded for what is wanted of it.
#[derive(Clone, Copy)]
pub(crate) enum Extent {
    /// All: its neighbours will be wanted too.
    Whole,
    /// Up to its end.
    AsNeeded,
}

/// Reads of at most this many bytes decode blocks only as far as needed: they may be random.
const SMALL_READ: usize = 128 << 10;

/// Reads a store. Threads may share it. Wrong bytes are never returned: what cannot be verified is an error that names it.
///
/// Memory is bounded: decoded blocks by `cache_bytes`, tables loaded ahead and open packs by constants.
pub struct Reader {
    keys: Arc<Keys>,
    packs: Packs,
    places: Places,
    /// Nodes that the store does not have.
    nodes: Nodes,
}

impl Reader {
    pub fn new(store: &Path, keys: Arc<Keys>, index: Arc<dyn Index>, cache_bytes: usize) -> Reader {
        let packs = Packs::new(store, keys.clone(), cache_bytes);
        Reader { packs, keys, places: Places::new(index), nodes: Nodes::new() }
    }

    /// Reads these nodes too, which a dry run made.
    pub fn with_nodes(self, nodes: Nodes) -> Reader {
        Reader { nodes, ..self }
    }

    /// Loads the tables of `packs`, so that what they hold is found without the index. Bounded: stops when full. Packs that
    /// cannot be read are passed over.
    pub fn preload(&self, packs: &[(Kind, Id)]) {
        let next = AtomicUsize::new(0);
        let work = || {
            while let Some(name) = packs.get(next.fetch_add(1, Relaxed)) {
                if self.places.is_full() {
                    break;
                }
                if let Ok(pack) = self.packs.read_table(name) {
                    self.places.preload(&pack);
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..packs.len().min(4) {
                scope.spawn(work);
            }
            work();
        });
    }

    /// Learns where `ids` stand, in few calls of the index, so that reading them asks nothing. What is not found, is not an
    /// error here.
    pub(crate) fn learn(&self, ids: &[Id]) -> Result<()> {
        match self.places.find(ids) {
            Err(error @ (Error::Foreign(_) | Error::Cancelled)) => Err(error),
            _ => Ok(()),
        }
    }

    /// Where each of `ids` stands.
    pub(crate) fn find(&self, ids: &[Id]) -> Result<Vec<Option<Place>>> {
        self.places.find(ids)
    }

    /// Fails unless the pack of `place` can be opened.
    pub(crate) fn check_pack(&self, place: &Place) -> Result<()> {
        self.packs.check_open(&self.places.pack_name(place.pack))
    }

    /// Chunk `id`.
    pub fn chunk(&self, id: &Id) -> Result<Slice> {
        self.fetch(id, Domain::Chunk, Extent::Whole)
    }

    /// Chunk `chunk.id`, which must have `chunk.len` bytes.
    pub(crate) fn chunk_of(&self, chunk: &Chunk) -> Result<Slice> {
        self.chunk_in(chunk, Extent::Whole)
    }

    pub(crate) fn chunk_in(&self, chunk: &Chunk, extent: Extent) -> Result<Slice> {
        let slice = self.fetch(&chunk.id, Domain::Chunk, extent)?;
        if slice.len() as u64 != chunk.len {
            return Err(Error::Damaged(format!("chunk {} has another length than the tree says", chunk.id)));
        }
        Ok(slice)
    }

    /// Decodes a block, if there is one, so that it need not be when it is wanted.
    pub(crate) fn warm(&self, pack: u32, block: u16) {
        // Whoever wants it is told what is wrong with it.
        let _ = self.packs.warm(&self.places.pack_name(pack), u32::from(block));
    }

    /// The bytes of node `id`.
    pub fn node(&self, id: &Id) -> Result<Slice> {
        if let Some(node) = self.nodes.get(id) {
            return Ok(Slice::of(node));
        }
        self.fetch(id, Domain::Node, Extent::Whole)
    }

    /// True when `data` is what `id`, the id of a chunk, names.
    pub(crate) fn is_chunk(&self, id: &Id, data: &[u8]) -> bool {
        self.keys.chunk_id(data) == *id
    }

    fn fetch(&self, id: &Id, domain: Domain, extent: Extent) -> Result<Slice> {
        let first = self.places.find(std::slice::from_ref(id))?[0];
        let failure = match first.map(|place| self.fetch_at(id, domain, &place, extent)) {
            Some(Ok(slice)) => return Ok(slice),
            Some(Err(error)) => Some(error),
            None => None,
        };
        if let Some(place) = &first {
            // It may have been replaced since it was opened.
            self.packs.forget(&self.places.pack_name(place.pack));
        }
        let others = match self.places.others(id, first) {
            Err(error) if failure.is_none() => return Err(error),
            others => others.unwrap_or_default(),
        };
        for place in others {
            if let Ok(slice) = self.fetch_at(id, domain, &place, extent) {
                return Ok(slice);
            }
        }
        Err(match failure {
            Some(Error::Damaged(why)) => Error::Damaged(format!("{} {id}: {why}", domain.word())),
            Some(error) => error,
            None => Error::Damaged(format!("{} {id} is in no pack of the store", domain.word())),
        })
    }

    fn fetch_at(&self, id: &Id, domain: Domain, place: &Place, extent: Extent) -> Result<Slice> {
        let name = self.places.pack_name(place.pack);
        let start = place.offset();
        let end = start + place.len();
        let needed = match extent {
            Extent::Whole => usize::MAX,
            Extent::AsNeeded => end,
        };
        let block = self.packs.block(&name, u32::from(place.block), needed)?;
        let slice = Slice::new(block, start..end);
        let is_right = |slice: &Slice| match domain {
            Domain::Chunk => self.keys.chunk_id(slice) == *id,
            Domain::Node => self.keys.node_id(slice) == *id,
        };
        slice.filter(is_right).ok_or_else(|| {
            let pack = pack::name(name.0, &name.1);
            Error::Damaged(format!("block {} of pack {pack} holds something else in its place", place.block))
        })
    }

    /// The root `id`.
    pub fn root(&self, id: &Id) -> Result<Root> {
        Root::decode(&self.node(id)?).map_err(|error| match error {
            Error::Damaged(why) => Error::Damaged(format!("node {id}: {why}")),
            other => other,
        })
    }

    pub(crate) fn entries(&self, directory: &Directory) -> Leaves<Entry> {
        match directory.node {
            None => Leaves::none(),
            Some(id) => Leaves::new(id, Expected::top(directory.items)),
        }
    }

    /// The entries of a directory, sorted by name.
    pub fn children(&self, directory: &Directory) -> Result<Vec<Entry>> {
        let mut all = Vec::new();
        self.each_child(directory, |entries| {
            all.extend(entries);
            Ok(())
        })?;
        Ok(all)
    }

    /// Visits the entries of a directory in order, at most 1,024 at a time.
    pub fn each_child(&self, directory: &Directory, mut visit: impl FnMut(Vec<Entry>) -> Result<()>) -> Result<()> {
        let mut leaves = self.entries(directory);
        while let Some(entries) = leaves.next(self)? {
            visit(entries)?;
        }
        Ok(())
    }

    /// The entry `name` of a directory, found in as many steps as the directory has levels.
    pub fn child(&self, directory: &Directory, name: &[u8]) -> Result<Option<Entry>> {
        let before = |expected: &Expected| matches!(&expected.key, Some(Key::Bytes(last)) if **last < *name);
        let Some(mut entries) = self.entries(directory).next_unless(self, before)? else { return Ok(None) };
        match entries.binary_search_by(|entry| (*entry.name).cmp(name)) {
            Ok(at) => Ok(Some(entries.swap_remove(at))),
            Err(_) => Ok(None),
        }
    }

    /// The extended attributes of an entry, sorted by name.
    pub fn xattrs(&self, entry: &Entry) -> Result<XattrSet> {
        match entry.xattrs.as_deref() {
            None => Ok(Vec::new()),
            Some(Xattrs::InPlace(set)) => decode_xattrs(set),
            Some(Xattrs::Chunks { len, list }) => {
                if *len > MAX_XATTRS_LEN {
                    return Err(Error::Damaged("damaged attribute set: it is too long".into()));
                }
                decode_xattrs(&self.read_runs(Runs::of_list(list, *len), *len, 0, *len)?)
            }
        }
    }

    /// At most `size` bytes of a file from `offset`; fewer only at its end. Entries of other types are empty.
    pub fn read(&self, entry: &Entry, offset: u64, size: u64) -> Result<Vec<u8>> {
        let What::File { size: total, content, .. } = &entry.what else { return Ok(Vec::new()) };
        let start = offset.min(*total);
        let end = start.saturating_add(size).min(*total);
        match content {
            Content::InPlace(bytes) => Ok(bytes[start as usize..end as usize].to_vec()),
            _ => self.read_runs(Runs::new(content, *total), *total, start, end),
        }
    }

    fn read_runs(&self, mut runs: Runs, total: u64, start: u64, end: u64) -> Result<Vec<u8>> {
        let wanted = (end - start) as usize;
        let extent = if wanted <= SMALL_READ { Extent::AsNeeded } else { Extent::Whole };
        let mut out = Vec::new();
        out.try_reserve_exact(wanted)
            .map_err(|_| Error::Invalid(format!("{wanted} bytes are too many to read at once")))?;
        while out.len() < wanted {
            let run = runs.next_from(self, start)?;
            let run = run.ok_or_else(|| Error::Damaged("damaged tree node: a chunk list is too short".into()))?;
            let mut at = run.offset;
            let mut parts = Vec::new();
            for chunk in &run.chunks {
                let chunk_end = at.saturating_add(chunk.len).min(total);
                if chunk_end > start && at < end {
                    let inside = (start.max(at) - at) as usize..(end.min(chunk_end) - at) as usize;
                    parts.push((*chunk, inside));
                }
                at = chunk_end;
            }
            self.learn(&parts.iter().map(|(chunk, _)| chunk.id).filter(|id| *id != ZERO_ID).collect::<Vec<_>>())?;
            let mut end = out.len() + parts.iter().map(|(_, inside)| inside.len()).sum::<usize>();
            out.resize(end, 0);
            // From the last to the first: what is decoded for one has all that those before it need.
            for (chunk, inside) in parts.into_iter().rev() {
                let begin = end - inside.len();
                if chunk.id != ZERO_ID {
                    out[begin..end].copy_from_slice(&self.chunk_in(&chunk, extent)?[inside]);
                }
                end = begin;
            }
        }
        Ok(out)
    }

    /// The chunks of a file: (offset, length, id or None for a zero run). Content that stands in place has none.
    pub fn chunks(&self, entry: &Entry) -> Result<Vec<(u64, u64, Option<Id>)>> {
        let What::File { size, content, .. } = &entry.what else { return Ok(Vec::new()) };
        let mut runs = Runs::new(content, *size);
        let mut all = Vec::new();
        while let Some(run) = runs.next(self)? {
            let mut at = run.offset;
            for chunk in run.chunks {
                all.push((at, chunk.len, (chunk.id != ZERO_ID).then_some(chunk.id)));
                at += chunk.len;
            }
        }
        Ok(all)
    }

    /// The holes of a file.
    pub fn holes(&self, entry: &Entry) -> Result<Vec<Hole>> {
        let What::File { size, holes, .. } = &entry.what else { return Ok(Vec::new()) };
        match holes.as_deref() {
            Some(List::InPlace(holes)) => Ok(holes.clone()),
            list => {
                let mut holes = Holes::new(list, *size);
                let (mut all, mut from): (Vec<Hole>, _) = (Vec::new(), 0);
                while let Some(hole) = holes.next_from(self, from)? {
                    from = hole.end;
                    all.push(hole);
                }
                Ok(all)
            }
        }
    }

    pub(crate) fn link_leaves(&self, root: &Root) -> Leaves<Link> {
        match root.links {
            None => Leaves::none(),
            Some((items, id)) => Leaves::new(id, Expected::top(items)),
        }
    }

    /// Visits a root's hard-link table in order, at most 1,024 links at a time.
    pub fn each_link(&self, root: &Root, mut visit: impl FnMut(Vec<Link>) -> Result<()>) -> Result<()> {
        let mut leaves = self.link_leaves(root);
        while let Some(links) = leaves.next(self)? {
            visit(links)?;
        }
        Ok(())
    }

    /// A root's hard-link table.
    pub fn links(&self, root: &Root) -> Result<Vec<Link>> {
        let mut all = Vec::new();
        self.each_link(root, |links| {
            all.extend(links);
            Ok(())
        })?;
        Ok(all)
    }
}

#[cfg(test)]
mod tests;
