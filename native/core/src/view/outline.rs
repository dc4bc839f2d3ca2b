//! Sequences of the format that are read again and again: their leaves, and where each begins, the most recent ones kept.
//! sequence > **outline** > leaf > item.

use std::sync::Arc;

use crate::error::Result;
use crate::id::Id;
use crate::node::{Key, Node};
use crate::reader::{Children, Expected, Ordered, Reader, Shelf};

/// What is kept of items.
pub(super) trait Kept: Ordered + Send + Sync {
    /// Bytes that these take in memory.
    fn kept_bytes(items: &[Self]) -> usize;
}

/// A leaf that has not been read: its id, what is expected of it, and how many items stand before it.
pub(super) struct Leaf {
    pub(super) id: Id,
    pub(super) expected: Expected,
    pub(super) first: u64,
    /// Of a chunk list: bytes of content before it.
    pub(super) offset: u64,
}

/// The top of a sequence.
pub(super) enum Top<T> {
    Leaf(Arc<Vec<T>>),
    Outline(Arc<Vec<Leaf>>),
}

impl<T> Clone for Top<T> {
    fn clone(&self) -> Top<T> {
        match self {
            Top::Leaf(items) => Top::Leaf(items.clone()),
            Top::Outline(leaves) => Top::Outline(leaves.clone()),
        }
    }
}

/// Sequences of one kind, the most recently used kept.
pub(super) struct Outlines<T> {
    shelf: Shelf<Id, Top<T>>,
}

/// A leaf's items, how many items stand before them, and bytes of content.
pub(super) type Found<T> = (Arc<Vec<T>>, u64, u64);

impl<T: Kept> Outlines<T> {
    pub(super) fn new(max_weight: usize) -> Outlines<T> {
        Outlines { shelf: Shelf::new(max_weight) }
    }

    /// The top of the sequence `id`.
    pub(super) fn top(&self, reader: &Reader, id: &Id, expected: impl FnOnce() -> Expected) -> Result<Top<T>> {
        self.shelf.get(*id, || {
            let expected = expected();
            Ok(match reader.sequence_node::<T>(id, &expected)? {
                Node::Leaf(items) => leaf(items),
                Node::Inner { level, children } => {
                    let leaves = outline::<T>(reader, Children::new(level, children, expected))?;
                    let weight = leaves.len() * (size_of::<Leaf>() + 64);
                    (Top::Outline(Arc::new(leaves)), weight)
                }
            })
        })
    }

    /// The leaf of `top` for which `ends_before` is the first time false, which tells by a leaf's last key and offset.
    pub(super) fn find(
        &self,
        reader: &Reader,
        top: &Top<T>,
        ends_before: impl Fn(&Key, u64) -> bool,
    ) -> Result<Option<Found<T>>> {
        let leaves = match top {
            Top::Leaf(items) => return Ok(Some((items.clone(), 0, 0))),
            Top::Outline(leaves) => leaves,
        };
        let before = |leaf: &Leaf| leaf.expected.key.as_ref().is_some_and(|key| ends_before(key, leaf.offset));
        match leaves.get(leaves.partition_point(before)) {
            None => Ok(None),
            Some(leaf) => self.read(reader, leaf).map(Some),
        }
    }

    /// The leaf of `top` that has item `number`; None when there are fewer items.
    pub(super) fn at(&self, reader: &Reader, top: &Top<T>, number: u64) -> Result<Option<Found<T>>> {
        let leaves = match top {
            Top::Leaf(items) => {
                return Ok((number < items.len() as u64).then(|| (items.clone(), 0, 0)));
            }
            Top::Outline(leaves) => leaves,
        };
        match leaves.get(leaves.partition_point(|leaf| leaf.first + leaf.expected.items <= number)) {
            None => Ok(None),
            Some(leaf) => self.read(reader, leaf).map(Some),
        }
    }

    fn read(&self, reader: &Reader, wanted: &Leaf) -> Result<Found<T>> {
        let top = self.shelf.get(wanted.id, || match reader.sequence_node::<T>(&wanted.id, &wanted.expected)? {
            Node::Leaf(items) => Ok(leaf(items)),
            Node::Inner { .. } => unreachable!("a node of another level than expected is an error"),
        })?;
        match top {
            Top::Leaf(items) => Ok((items, wanted.first, wanted.offset)),
            Top::Outline(_) => Err(crate::error::Error::damaged("damaged tree node: it is in two places at once")),
        }
    }
}

fn leaf<T: Kept>(items: Vec<T>) -> (Top<T>, usize) {
    let weight = T::kept_bytes(&items) + 256;
    (Top::Leaf(Arc::new(items)), weight)
}

/// The leaves below a node, in order.
fn outline<T: Ordered>(reader: &Reader, top: Children) -> Result<Vec<Leaf>> {
    let (mut levels, mut leaves) = (vec![top], Vec::new());
    let (mut first, mut offset) = (0u64, 0u64);
    while let Some(children) = levels.last_mut() {
        let Some((id, expected)) = children.next() else {
            levels.pop();
            continue;
        };
        if expected.level == Some(0) {
            let items = expected.items;
            let bytes = match expected.key {
                Some(Key::Number(bytes)) => bytes,
                _ => 0,
            };
            leaves.push(Leaf { id, expected, first, offset });
            first = first.saturating_add(items);
            offset = offset.saturating_add(bytes);
            continue;
        }
        match reader.sequence_node::<T>(&id, &expected)? {
            Node::Leaf(_) => unreachable!("a node of another level than expected is an error"),
            Node::Inner { level, children } => levels.push(Children::new(level, children, expected)),
        }
    }
    Ok(leaves)
}
