//! Importing a tar archive: members, in whatever order they come, become a root as if the tree had been taken.
//! archive > member > **entry** in memory > nodes.
//!
//! One worker reads the archive and holds the tree of entries; the others cut, identify and store contents. Nothing is ever
//! written but to the store, and nothing that an archive claims is believed before it has been read.

mod input;
mod parse;
mod tree;

use std::collections::BTreeMap;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use crate::acl::Kind;
use crate::chunker::{Chunker, IN_PLACE_MAX};
use crate::content::{cut_arena, Helpers, Segment};
use crate::crew::{self, Crew, Job};
use crate::error::{Error, Result};
use crate::lock::lock;
use crate::node::{content_of, Content, Hole};
use crate::packer::{Lane, Packer};
use crate::take::Taken;

use input::Input;
use tree::Tree;

/// Memory for the entries of an archive: about 3 million files.
pub const MAX_TREE_BYTES: usize = 1 << 30;
/// Buffers of more bytes do not serve again.
const MAX_KEPT: usize = 2 << 20;
/// Names of users and of groups that are kept.
const MAX_NAMES: usize = 10_000;

/// The number of a user or group of this machine.
pub type Numbers = dyn Fn(Kind, &[u8]) -> Option<u32> + Sync;

/// A root that was imported, and the names of owners that the archive gave.
#[derive(Clone, Debug, Default)]
pub struct Imported {
    pub taken: Taken,
    pub users: BTreeMap<u32, Vec<u8>>,
    pub groups: BTreeMap<u32, Vec<u8>>,
}

/// Small files, one after the other, to be cut and stored by any worker.
struct Batch {
    data: Vec<u8>,
    files: Vec<(u32, Range<usize>, Vec<Hole>)>,
}

enum Task {
    Parse(OwnedFd, Vec<u8>),
    Batch(Batch),
    Segment(Segment),
}

impl From<Segment> for Task {
    fn from(segment: Segment) -> Task {
        Task::Segment(segment)
    }
}

struct Import<'a> {
    packer: &'a Packer,
    chunker: &'a Chunker,
    numbers: &'a Numbers,
    crew: Crew<'a, Task>,
    /// Batches handed out and not done.
    under_way: Mutex<usize>,
    batch_done: Condvar,
    /// Contents by number of the node.
    contents: Mutex<Vec<(u32, Content)>>,
    buffers: Mutex<Vec<Vec<u8>>>,
    parsed: Mutex<Option<(Tree, Imported)>>,
}

/// Imports what can be read from `input` behind `head`, which was read already. `numbers`: what names in ACLs mean.
pub fn import_tar(
    packer: &Packer,
    chunker: &Chunker,
    lanes: &mut [Lane],
    input: OwnedFd,
    head: Vec<u8>,
    numbers: &Numbers,
) -> Result<Imported> {
    let import = Import {
        packer,
        chunker,
        numbers,
        crew: Crew::new(packer, lanes.len()),
        under_way: Mutex::new(0),
        batch_done: Condvar::new(),
        contents: Mutex::default(),
        buffers: Mutex::default(),
        parsed: Mutex::new(None),
    };
    crew::work(&import, lanes, Task::Parse(input, head))?;
    let parsed = lock(&import.parsed).take();
    let (mut tree, mut imported) = parsed.ok_or_else(|| Error::Internal("an archive was not parsed".into()))?;
    tree.fill(lock(&import.contents).drain(..))?;
    tree.store(packer, &mut lanes[0], &mut imported.taken)?;
    lanes[0].settle(packer)?;
    imported.taken.kind = "directory";
    imported.taken.unreadable.sort();
    imported.taken.read_bytes = import.crew.read_bytes();
    imported.taken.packs = packer.take_used();
    Ok(imported)
}

impl Import<'_> {
    /// Gives a batch to whoever is free, and works too while many are under way.
    fn hand_out_batch(&self, lane: &mut Lane, batch: Batch) -> Result<()> {
        *lock(&self.under_way) += 1;
        self.crew.push_urgent(Task::Batch(batch));
        while *lock(&self.under_way) > self.crew.workers + 1 {
            self.crew.check()?;
            if !self.help(lane)? {
                let under_way = lock(&self.under_way);
                if *under_way > self.crew.workers + 1 {
                    drop(self.batch_done.wait_timeout(under_way, Duration::from_millis(20)));
                }
            }
        }
        Ok(())
    }

    fn store_batch(&self, lane: &mut Lane, batch: Batch) -> Result<()> {
        let mut contents = Vec::with_capacity(batch.files.len());
        for (node, range, holes) in batch.files {
            contents.push((node, self.store_small(lane, &batch.data[range], &holes)?));
        }
        lock(&self.contents).extend(contents);
        let mut buffers = lock(&self.buffers);
        if buffers.len() < self.crew.workers + 2 && batch.data.capacity() <= MAX_KEPT {
            let mut data = batch.data;
            data.clear();
            buffers.push(data);
        }
        drop(buffers);
        *lock(&self.under_way) -= 1;
        self.batch_done.notify_all();
        Ok(())
    }

    fn store_small(&self, lane: &mut Lane, data: &[u8], holes: &[Hole]) -> Result<Content> {
        if data.is_empty() {
            return Ok(Content::Empty);
        }
        if data.len() as u64 <= IN_PLACE_MAX {
            return Ok(Content::InPlace(data.into()));
        }
        let start = lane.arena.len();
        lane.arena.extend_from_slice(data);
        Ok(content_of(cut_arena(self.packer, self.chunker, lane, start, holes)?))
    }
}

impl Job for Import<'_> {
    type Task = Task;

    fn crew(&self) -> &Crew<'_, Task> {
        &self.crew
    }

    fn run(&self, lane: &mut Lane, task: Task) -> Result<()> {
        match task {
            Task::Parse(input, head) => {
                let check = || self.crew.check();
                let parsed = parse::Parser::new(self, Input::new(input, head, &check)).run(lane)?;
                *lock(&self.parsed) = Some(parsed);
                Ok(())
            }
            Task::Batch(batch) => self.store_batch(lane, batch),
            Task::Segment(segment) => segment.run(self.packer, self.chunker, lane),
        }
    }
}
