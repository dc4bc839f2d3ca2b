//! What trees hold that no others do: chunks and nodes, each counted once, by their length before compression.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;

use crate::error::Result;
use crate::find::Top;
use crate::id::{Id, ZERO_ID};
use crate::node::{Chunk, Content, Entry, Hole, Item, Link, List, Node, What, Xattrs};
use crate::progress::{add, Progress};
use crate::reader::{AsItIs, Children, Expected, Ordered, Reader};

/// Held by more than one group.
const SHARED: u32 = u32::MAX;

/// Bytes of the chunks and nodes that `groups[i]`, and no other group, holds, for each `i`.
///
/// Takes 16 to 32 bytes for each distinct chunk and node: ids are told apart by 8 of their bytes.
pub fn unique_bytes(reader: &Reader, groups: &[Vec<Top>], progress: &Progress) -> Result<Vec<u64>> {
    let owner = HashMap::default();
    let mut count = Count { reader, progress, owner, unique: vec![0; groups.len()], group: 0, waiting: Vec::new() };
    for (group, tops) in groups.iter().enumerate() {
        count.group = group as u32;
        for top in tops {
            count.add_top(top)?;
        }
    }
    Ok(count.unique)
}

/// A node that is still to be looked at.
enum Waiting {
    Entries(Id, Expected),
    Chunks(Id, Expected),
    Holes(Id, Expected),
    Links(Id, Expected),
}

struct Count<'a> {
    reader: &'a Reader,
    progress: &'a Progress,
    owner: HashMap<u64, u32, BuildHasherDefault<AsItIs>>,
    unique: Vec<u64>,
    group: u32,
    waiting: Vec<Waiting>,
}

impl Count<'_> {
    /// Whether something is known to be this group's, or shared; then so is all below it.
    fn is_settled(&self, id: &Id) -> bool {
        self.owner.get(&id.low64()).is_some_and(|owner| *owner == self.group || *owner == SHARED)
    }

    fn claim(&mut self, id: &Id, len: u64) {
        match self.owner.insert(id.low64(), self.group) {
            None => self.unique[self.group as usize] += len,
            Some(owner) if owner == self.group => {}
            Some(owner) => {
                if owner != SHARED {
                    // A damaged tree may give a chunk another length in another place.
                    let unique = &mut self.unique[owner as usize];
                    *unique = unique.saturating_sub(len);
                }
                self.owner.insert(id.low64(), SHARED);
            }
        }
    }

    fn add_top(&mut self, top: &Top) -> Result<()> {
        match top {
            Top::Entry(entry) => self.add_entry(entry)?,
            Top::Root(id) if self.is_settled(id) => return Ok(()),
            Top::Root(id) => {
                let root = self.reader.root(id)?;
                self.claim(id, self.reader.node(id)?.len() as u64);
                if let Some((items, id)) = root.links {
                    self.waiting.push(Waiting::Links(id, Expected::top(items)));
                }
                self.add_entry(&root.entry)?;
            }
        }
        while let Some(waiting) = self.waiting.pop() {
            self.progress.check()?;
            match waiting {
                Waiting::Entries(id, expected) => self.visit(id, expected, Waiting::Entries, Count::add_entries)?,
                Waiting::Chunks(id, expected) => self.visit(id, expected, Waiting::Chunks, Count::add_chunks)?,
                Waiting::Holes(id, expected) => self.visit::<Hole>(id, expected, Waiting::Holes, |_, _| Ok(()))?,
                Waiting::Links(id, expected) => self.visit::<Link>(id, expected, Waiting::Links, |_, _| Ok(()))?,
            }
        }
        Ok(())
    }

    fn visit<T: Ordered + Item>(
        &mut self,
        id: Id,
        expected: Expected,
        waiting: fn(Id, Expected) -> Waiting,
        leaf: fn(&mut Self, &[T]) -> Result<()>,
    ) -> Result<()> {
        if self.is_settled(&id) {
            return Ok(());
        }
        let node = self.reader.sequence_node::<T>(&id, &expected)?;
        self.claim(&id, self.reader.node(&id)?.len() as u64);
        add(&self.progress.done_files, 1);
        match node {
            Node::Leaf(items) => leaf(self, &items),
            Node::Inner { level, children } => {
                let below = Children::new(level, children, expected);
                self.waiting.extend(below.map(|(id, expected)| waiting(id, expected)));
                Ok(())
            }
        }
    }

    fn add_entries(&mut self, entries: &[Entry]) -> Result<()> {
        let below: Vec<Id> = entries.iter().filter_map(|entry| entry.directory()?.node).collect();
        self.reader.learn(&below)?;
        entries.iter().try_for_each(|entry| self.add_entry(entry))
    }

    fn add_entry(&mut self, entry: &Entry) -> Result<()> {
        match &entry.what {
            What::File { size, content, holes } => {
                match content {
                    Content::Empty | Content::InPlace(_) => {}
                    Content::One(id) => self.claim(id, *size),
                    Content::Chunks(list) => self.add_list(list, *size)?,
                }
                if let Some(List::Node { items, id }) = holes.as_deref() {
                    self.waiting.push(Waiting::Holes(*id, Expected::top(*items)));
                }
            }
            What::Directory(directory) => {
                if let Some(id) = directory.node {
                    self.waiting.push(Waiting::Entries(id, Expected::top(directory.items)));
                }
            }
            _ => {}
        }
        match entry.xattrs.as_deref() {
            Some(Xattrs::Chunks { len, list }) => self.add_list(list, *len),
            _ => Ok(()),
        }
    }

    fn add_list(&mut self, list: &List<Chunk>, size: u64) -> Result<()> {
        match list {
            List::InPlace(chunks) => self.add_chunks(chunks),
            List::Node { items, id } => {
                self.waiting.push(Waiting::Chunks(*id, Expected::content(*items, size)));
                Ok(())
            }
        }
    }

    fn add_chunks(&mut self, chunks: &[Chunk]) -> Result<()> {
        for chunk in chunks.iter().filter(|chunk| chunk.id != ZERO_ID) {
            self.claim(&chunk.id, chunk.len);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::*;

    #[test]
    fn a_chunk_that_trees_give_two_lengths_is_harmless() {
        let mut store = TestStore::new();
        let file = store.file("f", &noise(1, 1000));
        let mut longer = file.clone();
        if let What::File { size, .. } = &mut longer.what {
            *size = 100_000;
        }
        store.flush();
        let groups = [vec![Top::Entry(Box::new(file))], vec![Top::Entry(Box::new(longer))]];
        assert_eq!(unique_bytes(&store.reader(), &groups, &Progress::default()).unwrap(), [0, 0]);
        let groups: Vec<_> = groups.into_iter().rev().collect();
        assert_eq!(unique_bytes(&store.reader(), &groups, &Progress::default()).unwrap(), [99_000, 0]);
    }
}
