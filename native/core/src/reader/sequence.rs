//! Reading the sequences of the format: a directory's entries, chunk lists, hole maps, link tables.
//! sequence > inner nodes > **leaf** > item. Only the nodes on the way to one leaf are in memory.

use std::marker::PhantomData;

use super::Reader;
use crate::error::{Error, Result};
use crate::id::Id;
use crate::node::{decode_node, Child, Chunk, Entry, Hole, Item, Key, Link, Node};

/// What nodes of a sequence must agree on with those above and before them.
pub(crate) trait Ordered: Item {
    /// True when `items`, which are not empty, may follow what ends with `key`.
    fn follows(items: &[Self], key: &Key) -> bool;

    /// The key of an inner node with these children, none when they contradict each other.
    fn inner_key(children: &[Child]) -> Option<Key> {
        children.last().map(|child| child.key.clone())
    }
}

impl Ordered for Entry {
    fn follows(items: &[Entry], key: &Key) -> bool {
        matches!(key, Key::Bytes(last) if *items[0].name > **last)
    }
}

impl Ordered for Link {
    fn follows(items: &[Link], key: &Key) -> bool {
        matches!(key, Key::Bytes(last) if items[0].path > *last)
    }
}

impl Ordered for Hole {
    fn follows(items: &[Hole], key: &Key) -> bool {
        matches!(key, Key::Number(end) if items[0].start > *end)
    }
}

impl Ordered for Chunk {
    /// The keys of chunk lists are lengths: any order will do.
    fn follows(_: &[Chunk], _: &Key) -> bool {
        true
    }

    fn inner_key(children: &[Child]) -> Option<Key> {
        let total = children.iter().try_fold(0u64, |sum, child| match child.key {
            Key::Number(len) => sum.checked_add(len),
            Key::Bytes(_) => None,
        })?;
        (total <= i64::MAX as u64).then_some(Key::Number(total))
    }
}

/// What is known of a node before it is read.
#[derive(Clone, Debug)]
pub(crate) struct Expected {
    /// None for the top.
    pub(crate) level: Option<u8>,
    pub(crate) items: u64,
    pub(crate) key: Option<Key>,
    /// The key of what stands before it.
    pub(crate) after: Option<Key>,
}

impl Expected {
    pub(crate) fn top(items: u64) -> Expected {
        Expected { level: None, items, key: None, after: None }
    }

    /// The top of the chunk list of `bytes` bytes.
    pub(crate) fn content(items: u64, bytes: u64) -> Expected {
        Expected { key: Some(Key::Number(bytes)), ..Expected::top(items) }
    }

    /// Fails unless `node` is what was expected.
    pub(crate) fn check<T: Ordered>(&self, node: &Node<T>) -> Result<()> {
        let bad = |why: &str| Err(Error::Damaged(format!("damaged tree node: {why}")));
        let (level, items, key) = match node {
            Node::Leaf(items) => (0, Some(items.len() as u64), Some(T::last_key(items))),
            Node::Inner { level, children } => {
                let items = children.iter().try_fold(0u64, |sum, child| sum.checked_add(child.items));
                (*level, items, T::inner_key(children))
            }
        };
        if self.level.is_some_and(|expected| expected != level) {
            return bad("it is not of the level expected");
        }
        if items != Some(self.items) {
            return bad("it has another number of items than expected");
        }
        if key.is_none() || (self.key.is_some() && self.key != key) {
            return bad("it ends elsewhere than expected");
        }
        match node {
            Node::Inner { children, .. } if self.level.is_none() && children.len() < 2 => {
                bad("it has a needless level")
            }
            Node::Leaf(items) if self.after.as_ref().is_some_and(|key| !T::follows(items, key)) => {
                bad("it is not in order with the one before")
            }
            _ => Ok(()),
        }
    }
}

/// What is expected of the children of an inner node, in order.
pub(crate) struct Children {
    level: u8,
    rest: std::vec::IntoIter<Child>,
    after: Option<Key>,
}

impl Children {
    pub(crate) fn new(level: u8, children: Vec<Child>, expected: Expected) -> Children {
        Children { level: level - 1, rest: children.into_iter(), after: expected.after }
    }
}

impl Iterator for Children {
    type Item = (Id, Expected);

    fn next(&mut self) -> Option<(Id, Expected)> {
        let child = self.rest.next()?;
        let after = self.after.replace(child.key.clone());
        Some((child.id, Expected { level: Some(self.level), items: child.items, key: Some(child.key), after }))
    }
}

/// The leaves of a sequence, in order. Nodes are read when they are needed and checked against each other.
pub(crate) struct Leaves<T> {
    top: Option<(Id, Expected)>,
    levels: Vec<Children>,
    items: PhantomData<fn() -> T>,
}

impl<T: Ordered> Leaves<T> {
    pub(crate) fn new(top: Id, expected: Expected) -> Leaves<T> {
        Leaves { top: Some((top, expected)), levels: Vec::new(), items: PhantomData }
    }

    /// A sequence without items.
    pub(crate) fn none() -> Leaves<T> {
        Leaves { top: None, levels: Vec::new(), items: PhantomData }
    }

    /// The next leaf; None at the end. After an error the leaves behind the damage can still be read.
    pub(crate) fn next(&mut self, reader: &Reader) -> Result<Option<Vec<T>>> {
        self.next_unless(reader, |_| false)
    }

    /// As `next`, passing over all below an inner node's child for which `skip` says so.
    pub(crate) fn next_unless(
        &mut self,
        reader: &Reader,
        mut skip: impl FnMut(&Expected) -> bool,
    ) -> Result<Option<Vec<T>>> {
        loop {
            let (id, expected) = match self.top.take() {
                Some(top) => top,
                None => {
                    let Some(children) = self.levels.last_mut() else { return Ok(None) };
                    match children.next() {
                        Some((_, expected)) if skip(&expected) => continue,
                        Some(child) => child,
                        None => {
                            self.levels.pop();
                            continue;
                        }
                    }
                }
            };
            match reader.sequence_node(&id, &expected)? {
                Node::Leaf(items) => return Ok(Some(items)),
                Node::Inner { level, children } => self.levels.push(Children::new(level, children, expected)),
            }
        }
    }

    /// Passes over what both are about to read, as long as it is the same node.
    pub(crate) fn pass_over_equal(one: &mut Leaves<T>, other: &mut Leaves<T>) {
        loop {
            let (Some(a), Some(b)) = (one.innermost(), other.innermost()) else { return };
            match (a.rest.as_slice().first(), b.rest.as_slice().first()) {
                (Some(child), Some(same)) if a.level == b.level && child == same => {
                    a.next();
                    b.next();
                }
                _ => return,
            }
        }
    }

    /// The innermost node of which something is left; None also before the first leaf was read.
    fn innermost(&mut self) -> Option<&mut Children> {
        while self.levels.last().is_some_and(|children| children.rest.as_slice().is_empty()) {
            self.levels.pop();
        }
        self.levels.last_mut().filter(|_| self.top.is_none())
    }

    /// True when no leaf is left for certain.
    pub(crate) fn is_done(&self) -> bool {
        self.top.is_none() && self.levels.iter().all(|children| children.rest.as_slice().is_empty())
    }
}

impl Reader {
    /// Reads a node of a sequence and checks it against what is expected of it.
    pub(crate) fn sequence_node<T: Ordered>(&self, id: &Id, expected: &Expected) -> Result<Node<T>> {
        let bytes = self.node(id)?;
        let named = |error| match error {
            Error::Damaged(why) => Error::Damaged(format!("node {id}: {why}")),
            other => other,
        };
        let node = decode_node::<T>(&bytes).map_err(named)?;
        expected.check(&node).map_err(named)?;
        Ok(node)
    }
}
