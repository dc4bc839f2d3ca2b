//! The directories that are being restored, and the bounded number of them that are open.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use rustix::fs::{openat, Mode};
use rustix::io::Errno;
use rustix::process::{getrlimit, Resource};

use super::target::open_flags;
use crate::lock::lock;
use crate::node::Entry;

const MAX_OPEN: u64 = 512;

/// A directory that is being restored.
pub(crate) struct Folder {
    pub(crate) parent: Option<Arc<Folder>>,
    /// Its metadata. The name of the topmost is its path below the root.
    pub(crate) entry: Entry,
    /// Its name on disk, where that is another.
    pub(crate) number: Option<Box<[u8]>>,
    pub(crate) depth: usize,
    /// What must end before its own metadata can be restored.
    pending: AtomicUsize,
    /// Where its descriptor is held; 0 for nowhere.
    ticket: AtomicU64,
}

impl Folder {
    /// With one thing pending: the reading of its entries.
    pub(crate) fn new(parent: Option<Arc<Folder>>, entry: Entry) -> Folder {
        let depth = parent.as_ref().map_or(0, |parent| parent.depth + 1);
        Folder { parent, entry, number: None, depth, pending: AtomicUsize::new(1), ticket: AtomicU64::new(0) }
    }

    /// The same, under a number instead of its name.
    pub(crate) fn numbered(parent: Arc<Folder>, entry: Entry, number: Box<[u8]>) -> Folder {
        let mut folder = Folder::new(Some(parent), entry);
        folder.number = Some(number);
        folder
    }

    fn name(&self) -> &[u8] {
        self.number.as_deref().unwrap_or(&self.entry.name)
    }

    pub(crate) fn begin(&self) {
        self.pending.fetch_add(1, Ordering::AcqRel);
    }

    /// True when nothing is pending any more.
    pub(crate) fn end(&self) -> bool {
        self.pending.fetch_sub(1, Ordering::AcqRel) == 1
    }

    /// Its path below the root.
    pub(crate) fn path(&self) -> Vec<u8> {
        let mut names: Vec<&[u8]> = Vec::new();
        let mut at = Some(self);
        while let Some(folder) = at {
            names.push(&folder.entry.name);
            at = folder.parent.as_deref();
        }
        names.reverse();
        names.retain(|name| !name.is_empty());
        names.join(&b'/')
    }
}

impl Drop for Folder {
    /// Folders nest thousands deep: they are dropped one by one, not within each other.
    fn drop(&mut self) {
        let mut next = self.parent.take();
        while let Some(folder) = next {
            next = Arc::into_inner(folder).and_then(|mut folder| folder.parent.take());
        }
    }
}

/// The open descriptors of folders: a fixed number of slots, of which the longest held is given up first. What was given
/// up is opened anew, from the nearest folder above that is held, when it is needed again.
pub(crate) struct Handles {
    root: Arc<OwnedFd>,
    table: Mutex<Table>,
}

struct Table {
    slots: Vec<Slot>,
    free: Vec<usize>,
    hand: usize,
    stamp: u64,
}

#[derive(Default)]
struct Slot {
    ticket: u64,
    fd: Option<Arc<OwnedFd>>,
}

/// Tickets hold the number of their slot in the low bits.
const SLOT_BITS: u32 = 16;

impl Handles {
    /// `root`: the descriptor of the topmost folder, held until the end.
    pub(crate) fn new(root: OwnedFd) -> Handles {
        let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        Handles::with_slots(root, MAX_OPEN.min(limit / 4).max(1) as usize)
    }

    pub(crate) fn with_slots(root: OwnedFd, slots: usize) -> Handles {
        let free = (0..slots).rev().collect();
        let slots = (0..slots).map(|_| Slot::default()).collect();
        Handles { root: Arc::new(root), table: Mutex::new(Table { slots, free, hand: 0, stamp: 0 }) }
    }

    pub(crate) fn root(&self) -> Arc<OwnedFd> {
        self.root.clone()
    }

    /// The descriptor of `folder`. Symbolic links are not followed on the way.
    pub(crate) fn open(&self, folder: &Arc<Folder>) -> Result<Arc<OwnedFd>, Errno> {
        let mut closed = Vec::new();
        let mut at = folder;
        let mut fd = loop {
            let Some(parent) = &at.parent else { break self.root.clone() };
            if let Some(fd) = lock(&self.table).get(at.ticket.load(Ordering::Acquire)) {
                break fd;
            }
            closed.push(at);
            at = parent;
        };
        for folder in closed.into_iter().rev() {
            fd = Arc::new(openat(&fd, folder.name(), open_flags(), Mode::empty())?);
            let (ticket, given_up) = lock(&self.table).hold(fd.clone());
            drop(given_up);
            folder.ticket.store(ticket, Ordering::Release);
        }
        Ok(fd)
    }

    /// Closes the descriptor of `folder`, which is not needed any more.
    pub(crate) fn release(&self, folder: &Folder) {
        let released = lock(&self.table).release(folder.ticket.swap(0, Ordering::AcqRel));
        drop(released);
    }
}

impl Table {
    fn slot(&mut self, ticket: u64) -> Option<&mut Slot> {
        let at = (ticket & ((1 << SLOT_BITS) - 1)) as usize;
        self.slots.get_mut(at).filter(|slot| ticket != 0 && slot.ticket == ticket)
    }

    fn get(&mut self, ticket: u64) -> Option<Arc<OwnedFd>> {
        self.slot(ticket)?.fd.clone()
    }

    /// The new ticket, and what was given up for it (to be closed outside the lock).
    fn hold(&mut self, fd: Arc<OwnedFd>) -> (u64, Option<Arc<OwnedFd>>) {
        let at = self.free.pop().unwrap_or_else(|| {
            self.hand = (self.hand + 1) % self.slots.len();
            self.hand
        });
        self.stamp += 1;
        let ticket = self.stamp << SLOT_BITS | at as u64;
        let given_up = std::mem::replace(&mut self.slots[at], Slot { ticket, fd: Some(fd) }).fd;
        (ticket, given_up)
    }

    fn release(&mut self, ticket: u64) -> Option<Arc<OwnedFd>> {
        let slot = self.slot(ticket)?;
        slot.ticket = 0;
        let fd = slot.fd.take();
        self.free.push((ticket & ((1 << SLOT_BITS) - 1)) as usize);
        fd
    }
}
