//! Snapshots as a file system that is only read: what is at a path, what is in a directory, the bytes of a file.
//! **view** > snapshot > stem > root > entry > content.
//!
//! Nothing is loaded before it is asked for. What was read lately is kept, within a bound.

mod ahead;
mod content;
mod disk;
mod links;
mod outline;
mod partitions;
mod shown;
mod stems;

use std::collections::HashMap;
use std::sync::{Arc, RwLock};

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::error::{Error, Result};
use crate::id::Id;
use crate::node::{check_name, Chunk, Content, Entry, List, Time, What};
use crate::reader::Reader;
use ahead::Ahead;
pub use content::Seek;
use disk::Disks;
use outline::{Kept, Outlines};
pub use shown::Shown;
use stems::{names, Stem, Tree};

/// Directories with more entries do not count their subdirectories.
const MAX_COUNTED: u64 = 10_000;
/// Inode numbers below are not given to what is in snapshots.
const FIRST_INO: u64 = 1 << 16;

/// The number of something, in the directory with the number `parent`.
pub fn below(parent: u64, name: &[u8]) -> u64 {
    match xxh3_64_with_seed(name, parent) >> 1 {
        ino if ino < FIRST_INO => ino + FIRST_INO,
        ino => ino,
    }
}

impl Kept for Entry {
    fn kept_bytes(entries: &[Entry]) -> usize {
        let more = |entry: &Entry| match &entry.what {
            What::File { content: Content::InPlace(bytes), .. } => bytes.len(),
            What::File { content: Content::Chunks(list), .. } => match &**list {
                List::InPlace(chunks) => chunks.len() * size_of::<Chunk>() + 64,
                List::Node { .. } => 64,
            },
            What::Symlink(target) => target.len(),
            _ => 0,
        };
        let heap = |entry: &Entry| entry.name.len() + more(entry) + entry.xattrs.as_ref().map_or(0, |_| 256) + 32;
        size_of_val(entries) + entries.iter().map(heap).sum::<usize>()
    }
}

impl Kept for Chunk {
    fn kept_bytes(chunks: &[Chunk]) -> usize {
        size_of_val(chunks)
    }
}

/// What stat(2) tells. `mode` has the type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    pub ino: u64,
    pub mode: u32,
    pub links: u32,
    pub uid: u32,
    pub gid: u32,
    pub device: (u32, u32),
    pub size: u64,
    /// Of 512 bytes.
    pub blocks: u64,
    pub mtime: Time,
}

/// A snapshot that is shown.
struct Snapshot {
    id: String,
    ino: u64,
    stem: Arc<Stem>,
    /// Of directories that are in no tree.
    mtime: Time,
}

/// What directories that are in no tree look like, and who owns what.
#[derive(Clone, Debug, Default)]
pub struct Looks {
    pub uid: u32,
    pub gid: u32,
    /// Instead of those recorded.
    pub all_uid: Option<u32>,
    pub all_gid: Option<u32>,
    /// Only these paths of snapshots, and what is above and below them. Empty: everything.
    pub only: Vec<Vec<u8>>,
    /// Partitions of disk images are files too, in directories beside the images.
    pub partitions: bool,
}

/// Snapshots by name. Threads may share it.
pub struct View {
    reader: Arc<Reader>,
    looks: Looks,
    snapshots: RwLock<HashMap<Vec<u8>, Arc<Snapshot>>>,
    entries: Outlines<Entry>,
    chunks: Outlines<Chunk>,
    ahead: Ahead,
    only: Option<Arc<Stem>>,
    /// None when partitions are not shown.
    disks: Option<Disks>,
}

/// A root of a snapshot: where it stood, and its id.
pub type RootAt = (Vec<u8>, Id);

impl View {
    /// `node_bytes`: what decoded nodes may take. `ahead_blocks`: how many blocks are decoded before they are wanted.
    pub fn new(reader: Arc<Reader>, looks: Looks, node_bytes: usize, ahead_blocks: u16) -> View {
        let mut only = Stem::default();
        for path in &looks.only {
            only.at(path);
        }
        View {
            ahead: Ahead::new(&reader, ahead_blocks),
            only: (!looks.only.is_empty()).then(|| Arc::new(only)),
            disks: looks.partitions.then(Disks::new),
            reader,
            looks,
            snapshots: RwLock::default(),
            entries: Outlines::new(node_bytes / 4 * 3),
            chunks: Outlines::new(node_bytes / 4),
        }
    }

    /// Shows a snapshot under a name. A root with an empty path is all of it.
    pub fn add(&self, name: &[u8], id: &str, roots: &[RootAt], mtime: Time) -> Result<()> {
        let ino = below(0, id.as_bytes());
        let mut stem = Stem::default();
        for (path, id) in roots {
            if names(path).any(|name| !check_name(name)) {
                return Err(Error::Damaged("a snapshot records an impossible path".into()));
            }
            let ino = names(path).fold(ino, below);
            let root = self.reader.root(id)?;
            stem.at(path).tree = Some(Arc::new(Tree { id: *id, root, ino, links: Default::default() }));
        }
        let snapshot = Snapshot { id: id.to_string(), ino, stem: Arc::new(stem), mtime };
        write(&self.snapshots).insert(name.to_vec(), Arc::new(snapshot));
        Ok(())
    }

    /// Stops showing what is under a name. False when nothing was.
    pub fn remove(&self, name: &[u8]) -> bool {
        write(&self.snapshots).remove(name).is_some()
    }

    /// Whether a snapshot is shown under a name.
    pub fn has(&self, name: &[u8]) -> bool {
        self.snapshots.read().unwrap_or_else(|p| p.into_inner()).contains_key(name)
    }

    /// What is at a path of the snapshot called `name`, no link followed; None when nothing is, an error when there is no such
    /// snapshot.
    pub fn find(&self, name: &[u8], path: &[u8]) -> Result<Option<Shown>> {
        let snapshot = self.snapshots.read().unwrap_or_else(|p| p.into_inner()).get(name).cloned();
        let snapshot = snapshot.ok_or_else(|| Error::Invalid("no such snapshot is shown".into()))?;
        self.walk(snapshot, path)
    }

    fn walk(&self, snapshot: Arc<Snapshot>, path: &[u8]) -> Result<Option<Shown>> {
        let mut at = self.top(snapshot);
        for name in names(path) {
            match self.step(&at, name)? {
                Some(next) => at = next,
                None => return Ok(None),
            }
        }
        Ok(Some(at))
    }
}

fn write<T>(lock: &RwLock<T>) -> std::sync::RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(|poisoned| poisoned.into_inner())
}
