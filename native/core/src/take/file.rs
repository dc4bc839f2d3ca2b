//! Files: read, cut, and recorded with what tells next time whether they are the same.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::FileType;

use super::{entry_of, is_settled, Dir, Known, Run};
use crate::cache::{Place, Row};
use crate::chunker::IN_PLACE_MAX;
use crate::content::{cut_arena, hole_map, take_xattrs, LargeFile, SEGMENT};
use crate::error::{reason, Error, Result};
use crate::lock::lock;
use crate::node::{self, content_of, Content, Entry, Time, What, XattrSet, Xattrs};
use crate::packer::Lane;
use crate::progress::add;
use crate::source::{self, Fault, Read, Stat};

/// Files of at least this size are read by several workers.
pub const SHARED_FILE: u64 = 8 << 20;

impl Run<'_> {
    pub(super) fn read_files(&self, lane: &mut Lane, dir: &Arc<Dir>, files: &[(usize, Known)]) -> Result<()> {
        for (at, known) in files {
            self.read_into_row(lane, dir, *at, *known)?;
        }
        Ok(())
    }

    pub(super) fn read_into_row(&self, lane: &mut Lane, dir: &Arc<Dir>, at: usize, known: Known) -> Result<()> {
        self.packer.progress.check()?;
        let Some(mut row) = lock(&dir.work).rows[at].take() else { return Ok(()) };
        match self.read_file(lane, dir, &mut row, &known.stat) {
            Ok(()) => lock(&dir.work).rows[at] = Some(row),
            // Gone since it was listed: then it is simply not there.
            Err(Fault::Source(error)) if error.kind() == std::io::ErrorKind::NotFound && !dir.around => {
                self.forget(&known, &dir.path_to(&row.entry.name));
            }
            Err(Fault::Source(error)) => {
                let path = dir.path_to(&row.entry.name);
                self.forget(&known, &path);
                self.unreadable(path, &error);
            }
            Err(Fault::Fatal(error)) => return Err(error),
        }
        add(&self.packer.progress.done_files, 1);
        Ok(())
    }

    /// Takes back what was counted for a file that is not taken after all.
    fn forget(&self, known: &Known, path: &[u8]) {
        self.unlink(&known.stat, path);
        let mut report = lock(&self.report);
        report.files -= 1;
        match known.in_cache {
            true => report.changed_files -= 1,
            false => report.new_files -= 1,
        }
    }

    /// Reads a file; once more when it changed meanwhile, and then takes what there was.
    fn read_file(&self, lane: &mut Lane, dir: &Arc<Dir>, row: &mut Row, listed: &Stat) -> Read<()> {
        let handle = self.open(dir)?;
        let file = source::open_file(handle.as_fd(), &row.entry.name)?;
        drop(handle);
        let mut before = *listed;
        for last in [false, true] {
            let start = source::now();
            let (size, what) = match self.linked_content(&before) {
                Some(what) => (before.size, what),
                None => self.read_content(lane, file.as_fd(), before.size)?,
            };
            let after = source::stat_fd(file.as_fd())?;
            let same = before.same_content(&after) && size == after.size;
            if !same && !last {
                before = after;
                continue;
            }
            if !same {
                lock(&self.report).list_changed(dir.path_to(&row.entry.name));
            }
            let mut entry = entry_of(&after, std::mem::take(&mut row.entry.name));
            entry.what = what;
            entry.xattrs = self.xattrs(lane, source::xattrs_fd(file.as_fd())?)?;
            *row = Row { trusted: same && is_settled(&after, start), ..self.row(entry, &after, start) };
            if after.links > 1 {
                let mut links = lock(&self.links);
                let group = links.entry((after.dev, after.ino)).or_default();
                group.content = Some((after, row.entry.what.clone()));
            }
            return Ok(());
        }
        Ok(())
    }

    /// The content of another name of the same inode that was read in this run.
    fn linked_content(&self, stat: &Stat) -> Option<What> {
        if stat.links <= 1 {
            return None;
        }
        let links = lock(&self.links);
        let (read, what) = links.get(&(stat.dev, stat.ino))?.content.as_ref()?;
        read.same_content(stat).then(|| what.clone())
    }

    fn read_content(&self, lane: &mut Lane, file: BorrowedFd, size: u64) -> Read<(u64, What)> {
        let mut size = size;
        let mut holes = if size > 0 { source::holes(file, size) } else { Vec::new() };
        if holes.last().is_some_and(|hole| hole.end == size) {
            // What was cut off since it was listed looks like a hole too.
            let now = source::stat_fd(file)?;
            if now.kind == FileType::RegularFile && now.size < size {
                size = now.size;
                holes = source::holes(file, size);
            }
        }
        let (size, content) = if size >= SHARED_FILE {
            let large = LargeFile::new(self.packer, self.chunker, self);
            let (list, size) = large.take_file(lane, file, size, &holes)?;
            match size {
                // It was cut short meanwhile: content of so few bytes stands in its entry, never in chunks.
                0..=IN_PLACE_MAX => self.read_small(lane, file, size, &[])?,
                _ => (size, content_of(list)),
            }
        } else {
            self.read_small(lane, file, size, &holes)?
        };
        let holes: Vec<_> = holes.into_iter().filter(|hole| hole.end <= size).collect();
        let holes = match holes.is_empty() {
            true => None,
            false => Some(Box::new(hole_map(self.packer, lane, &holes)?)),
        };
        Ok((size, What::File { size, content, holes }))
    }

    /// Reads a whole file into the arena. One read more than its size would take shows whether it grew.
    fn read_small(&self, lane: &mut Lane, file: BorrowedFd, size: u64, holes: &[node::Hole]) -> Read<(u64, Content)> {
        let start = lane.arena.len();
        let end = start + size as usize + 1;
        lane.arena.reserve(size as usize + 1);
        loop {
            let offset = (lane.arena.len() - start) as u64;
            match rustix::io::pread(file, rustix::buffer::spare_capacity(&mut lane.arena), offset) {
                Ok(0) => break,
                Ok(_) if lane.arena.len() >= end || lane.arena.len() + 1 == end => break,
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => {
                    lane.arena.truncate(start);
                    return Err(Fault::Source(error.into()));
                }
            }
        }
        // What a growing file has beyond the size it had is not ours; it is read again anyway.
        lane.arena.truncate(end.min(lane.arena.len()));
        let got = (lane.arena.len() - start) as u64;
        self.crew.read(got);
        let content =
            self.arena_content(lane, start, &holes.iter().copied().filter(|h| h.end <= got).collect::<Vec<_>>())?;
        Ok((got, content))
    }

    /// Content that is whole in the arena from `start` on.
    fn arena_content(&self, lane: &mut Lane, start: usize, holes: &[node::Hole]) -> Result<Content> {
        let size = (lane.arena.len() - start) as u64;
        if size == 0 {
            return Ok(Content::Empty);
        }
        if size <= IN_PLACE_MAX {
            let bytes: Box<[u8]> = lane.arena[start..].into();
            lane.arena.truncate(start);
            return Ok(Content::InPlace(bytes));
        }
        Ok(content_of(cut_arena(self.packer, self.chunker, lane, start, holes)?))
    }

    /// Attributes as an entry holds them: a long set is stored like content.
    pub(super) fn xattrs(&self, lane: &mut Lane, set: XattrSet) -> Read<Option<Box<Xattrs>>> {
        if set.is_empty() {
            return Ok(None);
        }
        match take_xattrs(self.packer, self.chunker, lane, set)? {
            Some(xattrs) => Ok(Some(Box::new(xattrs))),
            None => Err(Fault::Source(std::io::Error::other("its attributes are more than 16 MiB"))),
        }
    }

    pub(super) fn take_open(&self, lane: &mut Lane, file: OwnedFd, mut entry: Entry) -> Result<()> {
        let failed = |fault: Fault| match fault {
            Fault::Source(error) => Error::SourceUnreadable(format!("cannot read the source: {}", reason(&error))),
            Fault::Fatal(error) => error,
        };
        let size = match entry.what {
            What::File { size, .. } => size,
            _ => 0,
        };
        entry.what = if size == u64::MAX {
            let (size, content) = self.read_stream(lane, file.as_fd()).map_err(failed)?;
            What::File { size, content, holes: None }
        } else {
            self.read_content(lane, file.as_fd(), size).map_err(failed)?.1
        };
        let mut report = lock(&self.report);
        (report.files, report.new_files) = (1, 1);
        report.uids.insert(entry.uid);
        report.gids.insert(entry.gid);
        *lock(&self.root) =
            Some(Row { entry, ino: 0, ctime: Time::default(), trusted: false, place: Place::default() });
        Ok(())
    }

    fn read_stream(&self, lane: &mut Lane, stream: BorrowedFd) -> Read<(u64, Content)> {
        let mut first = vec![0; SEGMENT];
        let got = source::read_stream(stream, &mut first, &|| self.crew.check())?;
        first.truncate(got);
        if got < SEGMENT {
            self.crew.read(got as u64);
            let start = lane.arena.len();
            lane.arena.extend_from_slice(&first);
            return Ok((got as u64, self.arena_content(lane, start, &[])?));
        }
        let large = LargeFile::new(self.packer, self.chunker, self);
        let (list, size) = large.take_stream(lane, stream, &first)?;
        Ok((size, content_of(list)))
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;
    use std::sync::Arc;

    use super::super::{Options, Run};
    use crate::chunker::Chunker;
    use crate::node::{Content, What};
    use crate::packer::Packer;
    use crate::testing::{noise, settings, TestStore};

    #[test]
    fn a_large_file_that_became_short_meanwhile() {
        let store = TestStore::new();
        let packer = Packer::new(store.dir.path(), store.keys.clone(), store.index.clone(), settings(), Arc::default());
        let (chunker, options) = (Chunker::new(&store.keys, 32_768), Options::default());
        let run = Run::new(&packer, &chunker, &options, 1);
        let mut lane = packer.lane().unwrap();
        let path = store.dir.path().join("f");
        for len in [0, 1, 256, 257, 3_000_000] {
            std::fs::write(&path, noise(1, len)).unwrap();
            let file = File::open(&path).unwrap();
            let (size, what) = run.read_content(&mut lane, file.as_fd(), 20 << 20).unwrap();
            let What::File { size: own, content, .. } = what else { panic!() };
            assert_eq!((size, own), (len as u64, len as u64));
            match len {
                0 => assert_eq!(content, Content::Empty),
                1 | 256 => assert_eq!(content, Content::InPlace(noise(1, len).into())),
                _ => assert!(matches!(content, Content::One(_) | Content::Chunks(_))),
            }
        }
    }
}
