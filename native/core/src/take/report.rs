//! What is met on the way, and the root that comes of it.

use super::{Run, Taken};
use crate::cache::Row;
use crate::content::store_links;
use crate::error::{reason, Error, Result};
use crate::id::Id;
use crate::lock::lock;
use crate::node::Root;
use crate::packer::Lane;
use crate::progress::add;
use crate::source::Stat;

impl Run<'_> {
    pub(super) fn unreadable(&self, path: Vec<u8>, error: &std::io::Error) {
        add(&self.packer.progress.errors, 1);
        lock(&self.report).list_unreadable(path, reason(error));
    }

    pub(super) fn count(&self, counts: &Taken) {
        let mut report = lock(&self.report);
        report.files += counts.files;
        report.directories += counts.directories;
        report.new_files += counts.new_files;
        report.changed_files += counts.changed_files;
        report.unchanged_files += counts.unchanged_files;
        report.sockets += counts.sockets;
        report.excluded += counts.excluded;
        report.mounts += counts.mounts;
    }

    pub(super) fn note_owners(&self, rows: &[Option<Row>], stat: Option<&Stat>) {
        let mut owners: Vec<(u32, u32)> = rows.iter().flatten().map(|row| (row.entry.uid, row.entry.gid)).collect();
        owners.extend(stat.map(|stat| (stat.uid, stat.gid)));
        owners.dedup();
        let mut report = lock(&self.report);
        for (uid, gid) in owners {
            report.uids.insert(uid);
            report.gids.insert(gid);
        }
    }

    /// Takes a path that has no entry out of its group of hard links.
    pub(super) fn unlink(&self, stat: &Stat, path: &[u8]) {
        if stat.links > 1 {
            if let Some(group) = lock(&self.links).get_mut(&(stat.dev, stat.ino)) {
                group.paths.retain(|listed| listed != path);
            }
        }
    }

    /// The hard-link table: every path of a group but its smallest, with that smallest.
    pub(super) fn link_table(&self, lane: &mut Lane) -> Result<Option<(u64, Id)>> {
        let groups = std::mem::take(&mut *lock(&self.links)).into_values().map(|group| group.paths);
        store_links(self.packer, lane, groups)
    }

    /// Stores the root node.
    pub(super) fn finish(self, lane: &mut Lane, kind: &'static str) -> Result<Taken> {
        let row = lock(&self.root).take().ok_or_else(|| Error::SourceUnreadable("it vanished".into()))?;
        let links = self.link_table(lane)?;
        let mut entry = row.entry;
        entry.name = Box::default();
        let root = Root { entry, links };
        let id = lane.offer_node(self.packer, &root.encode())?;
        lane.settle(self.packer)?;
        if let Some(writer) = lock(&self.new_cache).take() {
            writer.finish(row.place)?;
        }
        let mut taken = std::mem::take(&mut *lock(&self.report));
        let (entries, bytes) = root.entry.totals();
        taken.id = Some(id);
        taken.read_bytes = self.crew.read_bytes();
        taken.kind = kind;
        taken.entries = entries;
        taken.bytes = bytes;
        taken.directories += u64::from(kind == "directory");
        taken.unreadable.sort();
        taken.changed.sort();
        taken.packs = self.packer.take_used();
        Ok(taken)
    }
}
