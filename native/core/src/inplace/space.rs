//! Whether what is to be staged fits, asked before any of it is written.
//!
//! Trees know how many bytes are in them, holes and all names of a file counted: what fits by that, fits. Else the tree is walked,
//! and the restore refused when what it certainly takes is more than what is free.

use std::collections::HashSet;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::fstatvfs;
use rustix::process::geteuid;

use super::journal::Record;
use super::links::{Known, Staged};
use super::plan::{lookup, Item, Kind, Part, Plan};
use crate::error::{Error, Result};
use crate::node::{Directory, Entry, What};
use crate::progress::Progress;
use crate::reader::{Holes, Reader};
use crate::source;
use crate::walk::{Pace, Walk};

/// What is to be staged, and where.
pub(super) struct Staging<'a> {
    pub(super) reader: &'a Reader,
    pub(super) parts: &'a [Part],
    pub(super) plan: &'a Plan,
    pub(super) records: &'a [Record],
    /// Numbers of items that are staged already.
    pub(super) done: &'a HashSet<usize>,
    /// The staging directories, by area.
    pub(super) directories: &'a [OwnedFd],
    pub(super) progress: &'a Progress,
}

/// A file system with staging directories.
struct Disk {
    number: u64,
    areas: Vec<usize>,
    free: u64,
}

impl Staging<'_> {
    /// Fails with `NoSpace` when what is to be written certainly does not fit.
    pub(super) fn check_space(&self) -> Result<()> {
        for disk in self.disks() {
            let most = self.items(&disk).map(|(_, item)| at_most(item)).fold(0, u64::saturating_add);
            if most <= disk.free {
                continue;
            }
            let needed = match self.at_least(&disk) {
                Ok(needed) => needed,
                Err(Error::Cancelled) => return Err(Error::Cancelled),
                // Who stages it meets that too, and knows what it is about.
                Err(_) => continue,
            };
            if needed > disk.free {
                return Err(Error::NoSpace(format!(
                    "no space left: the restore needs {needed} bytes beside the target, where {} are free",
                    disk.free
                )));
            }
        }
        Ok(())
    }

    /// The file systems, without those that do not say what they are.
    fn disks(&self) -> Vec<Disk> {
        let mut disks: Vec<Disk> = Vec::new();
        for (area, directory) in self.directories.iter().enumerate() {
            let Ok(stat) = source::stat_fd(directory.as_fd()) else { continue };
            let Ok(space) = fstatvfs(directory) else { continue };
            // Some of it is kept for root.
            let blocks = if geteuid().is_root() { space.f_bfree } else { space.f_bavail };
            match disks.iter_mut().find(|disk| disk.number == stat.dev) {
                Some(disk) => disk.areas.push(area),
                None => {
                    let free = blocks.saturating_mul(space.f_frsize);
                    disks.push(Disk { number: stat.dev, areas: vec![area], free });
                }
            }
        }
        disks
    }

    /// What is to be written there, by number.
    fn items<'s>(&'s self, disk: &'s Disk) -> impl Iterator<Item = (usize, &'s Item)> {
        self.plan.items.iter().enumerate().filter(|(number, item)| {
            item.is_staged() && !self.done.contains(number) && disk.areas.contains(&self.records[*number].area)
        })
    }

    /// What is written at least: data alone, and of the names of a file one.
    fn at_least(&self, disk: &Disk) -> Result<u64> {
        let mut needed = 0u64;
        let mut numbers = HashSet::new();
        for (number, item) in self.items(disk) {
            numbers.insert(number);
            let Some(wanted) = &item.wanted else { continue };
            let bytes = match (&wanted.what, item.kind) {
                (What::Directory(_), Kind::CreateAlone) => 0,
                (What::Directory(directory), _) => self.data_below(directory)?,
                _ => self.data(wanted)?,
            };
            needed = needed.saturating_add(bytes);
        }
        for (part, of) in self.parts.iter().enumerate() {
            let (root, selection) = of.chosen(self.reader)?;
            let known = Known::new(part, &self.plan.items, &self.plan.kept[part]);
            let staged = Staged { known, selection: &selection };
            self.reader.each_link(&root, |links| {
                self.progress.check()?;
                for link in links {
                    if staged.staged(&link.path).is_some_and(|(number, _)| numbers.contains(&number)) {
                        let entry = lookup(self.reader, &root.entry, &link.path)?;
                        needed = needed.saturating_sub(entry.map_or(Ok(0), |entry| self.data(&entry))?);
                    }
                }
                Ok(())
            })?;
        }
        Ok(needed)
    }

    fn data_below(&self, directory: &Directory) -> Result<u64> {
        let go_on = || self.progress.check();
        let (mut pace, mut bytes) = (Pace::new(&go_on), 0u64);
        let mut walk = Walk::new(self.reader, directory, b"", true);
        while let Some(found) = walk.batch(self.reader, &mut pace)? {
            for listed in found {
                bytes = bytes.saturating_add(self.data(&listed.entry)?);
            }
        }
        Ok(bytes)
    }

    /// Bytes of a file that are not in its holes.
    fn data(&self, entry: &Entry) -> Result<u64> {
        let What::File { size, holes, .. } = &entry.what else { return Ok(0) };
        let mut bytes = 0;
        Holes::new(holes.as_deref(), *size).split(self.reader, 0, *size, |start, end, is_hole| {
            bytes += if is_hole { 0 } else { end - start };
            Ok(())
        })?;
        Ok(bytes)
    }
}

/// Bytes that an item has, as its tree says.
fn at_most(item: &Item) -> u64 {
    match (item.wanted.as_ref().map(|wanted| &wanted.what), item.kind) {
        (Some(What::Directory(_)), Kind::CreateAlone) => 0,
        (Some(What::Directory(directory)), _) => directory.bytes,
        (Some(What::File { size, .. }), _) => *size,
        _ => 0,
    }
}
