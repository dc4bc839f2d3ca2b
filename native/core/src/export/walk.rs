//! The walk: members in the order in which they are written, cut into jobs.
//!
//! In a directory a subdirectory comes as if its name ended with a slash, so that paths of all that is no directory ascend
//! bytewise, as they do in the table of hard links: the two are read side by side.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::render::{Item, Job, Piece};
use super::{Exported, Line, Part};
use crate::error::{show, Error, Result};
use crate::id::ZERO_ID;
use crate::node::{Chunk, Directory, Entry, Hole, Key, Link, List, Root, What, Xattrs};
use crate::progress::add;
use crate::reader::{Holes, Leaves, Reader, Runs};
use crate::tar::{stretches, Stretch, MAX_STRETCHES};

/// Content of files that are written with their neighbours, and what one job of theirs holds.
const SMALL: u64 = 1 << 20;
const JOB_ITEMS: usize = 256;
const MAX_DEPTH: usize = 4096;

pub(super) struct Walk<'a> {
    reader: &'a Reader,
    line: &'a Line<'a>,
    items: Vec<Item>,
    weight: u64,
    exported: Exported,
}

/// A directory on the way, and the entries in it that are still to come.
struct Level {
    leaves: Leaves<Entry>,
    ready: VecDeque<Entry>,
    /// Directories that others come before; each one's name begins with the one below it.
    held: Vec<Entry>,
    /// Length of the directory's own path in the archive, slash included.
    path_len: usize,
}

impl Level {
    fn next(&mut self, reader: &Reader) -> Result<Option<Entry>> {
        loop {
            if self.ready.is_empty() {
                if let Some(entries) = self.leaves.next(reader)? {
                    self.ready.extend(entries);
                }
            }
            let Some(next) = self.ready.front() else { return Ok(self.held.pop()) };
            if let Some(directory) = self.held.last() {
                let len = directory.name.len();
                if !(next.name.starts_with(&directory.name) && next.name[len] < b'/') {
                    return Ok(self.held.pop());
                }
            }
            match self.ready.pop_front() {
                Some(entry) if matches!(entry.what, What::Directory(_)) => self.held.push(entry),
                other => return Ok(other),
            }
        }
    }
}

/// The table of hard links, read along with the walk.
struct Links {
    leaves: Leaves<Link>,
    ready: VecDeque<Link>,
    /// The exported path; table paths are below the root.
    base: Vec<u8>,
    /// Members that stand for a group whose first path is not exported.
    heads: HashMap<Vec<u8>, Vec<u8>>,
}

impl Links {
    /// The member of the archive that `path` (below the root), to be written as `member`, is a link to.
    fn target(&mut self, reader: &Reader, path: &[u8], member: &[u8], name: &[u8]) -> Result<Option<Vec<u8>>> {
        while self.ready.front().is_none_or(|link| *link.path < *path) {
            if self.ready.pop_front().is_some() {
                continue;
            }
            let before = |key: Option<&Key>| matches!(key, Some(Key::Bytes(last)) if **last < *path);
            match self.leaves.next_unless(reader, |expected| before(expected.key.as_ref()))? {
                Some(links) => self.ready.extend(links),
                None => return Ok(None),
            }
        }
        let Some(link) = self.ready.front().filter(|link| link.path == path) else { return Ok(None) };
        let inside = match &self.base[..] {
            [] => Some(&link.first[..]),
            base => link.first.strip_prefix(base).and_then(|rest| rest.strip_prefix(b"/")),
        };
        if let Some(rest) = inside {
            return Ok(Some([name, b"/", rest].concat()));
        }
        if let Some(head) = self.heads.get(&link.first) {
            return Ok(Some(head.clone()));
        }
        self.heads.insert(link.first.clone(), member.to_vec());
        Ok(None)
    }
}

impl<'a> Walk<'a> {
    pub(super) fn new(reader: &'a Reader, line: &'a Line<'a>) -> Walk<'a> {
        Walk { reader, line, items: Vec::new(), weight: 0, exported: Exported::default() }
    }

    /// Issues all jobs. The answer does not yet say how much was written.
    pub(super) fn run(mut self, parts: &[Part]) -> Result<Exported> {
        let mut tops = Vec::with_capacity(parts.len());
        for part in parts {
            let root = self.reader.root(&part.root)?;
            let top = self.find(&root, &part.below)?;
            let (entries, bytes) = top.totals();
            add(&self.line.progress.files, entries);
            add(&self.line.progress.bytes, bytes);
            tops.push((root, top));
        }
        for (part, (root, top)) in parts.iter().zip(tops) {
            self.part(part, &root, top)?;
        }
        self.flush()?;
        Ok(self.exported)
    }

    fn find(&self, root: &Root, below: &[u8]) -> Result<Entry> {
        let mut entry = root.entry.clone();
        for name in below.split(|b| *b == b'/').filter(|name| !name.is_empty()) {
            let found = match &entry.what {
                What::Directory(directory) => self.reader.child(directory, name)?,
                _ => None,
            };
            entry = found.ok_or_else(|| Error::PathNotFound(format!("{} is not in the root", show(below))))?;
        }
        Ok(entry)
    }

    fn part(&mut self, part: &Part, root: &Root, top: Entry) -> Result<()> {
        let What::Directory(directory) = top.what else { return self.member(part.name.clone(), top, None) };
        let mut links = Links {
            leaves: self.reader.link_leaves(root),
            ready: VecDeque::new(),
            base: part.below.clone(),
            heads: HashMap::new(),
        };
        let mut path = [&part.name[..], b"/"].concat();
        self.member(path.clone(), top, None)?;
        let mut levels = vec![self.level(&directory, &path)];
        while let Some(level) = levels.last_mut() {
            path.truncate(level.path_len);
            let named = |error| in_path(&path, error);
            let Some(entry) = level.next(self.reader).map_err(named)? else {
                levels.pop();
                continue;
            };
            path.extend_from_slice(&entry.name);
            if let What::Directory(directory) = entry.what {
                path.push(b'/');
                self.member(path.clone(), entry, None)?;
                if levels.len() >= MAX_DEPTH {
                    return Err(in_path(&path, Error::Damaged("directories are nested too deeply".into())));
                }
                levels.push(self.level(&directory, &path));
                continue;
            }
            let below = &path[part.name.len() + 1..];
            let below = if part.below.is_empty() { below.to_vec() } else { [&part.below, &b"/"[..], below].concat() };
            let link = links.target(self.reader, &below, &path, &part.name).map_err(|e| in_path(&path, e))?;
            self.member(path.clone(), entry, link)?;
        }
        Ok(())
    }

    fn level(&self, directory: &Directory, path: &[u8]) -> Level {
        let leaves = self.reader.entries(directory);
        Level { leaves, ready: VecDeque::new(), held: Vec::new(), path_len: path.len() }
    }

    fn member(&mut self, path: Vec<u8>, entry: Entry, link: Option<Vec<u8>>) -> Result<()> {
        let is_directory = matches!(entry.what, What::Directory(_));
        let (size, has_holes) = match &entry.what {
            What::File { size, holes, .. } if link.is_none() => (*size, holes.is_some()),
            _ => (0, false),
        };
        match (&entry.what, &link) {
            (What::Directory(_), _) => self.exported.directories += 1,
            (What::File { .. }, None) => self.exported.files += 1,
            _ => self.exported.others += 1,
        }
        self.exported.bytes += size;
        add(&self.line.progress.done_files, 1);
        if is_directory {
            self.line.progress.working_on(&path);
        }
        if size >= SMALL || has_holes {
            return self.large(path, entry, size);
        }
        let xattrs = match entry.xattrs.as_deref() {
            Some(Xattrs::InPlace(set)) => set.len() as u64,
            Some(Xattrs::Chunks { len, .. }) => *len,
            None => 0,
        };
        self.weight += size + xattrs + 1024;
        self.items.push(Item { path, entry: Arc::new(entry), link, map: None, content: true });
        if self.weight >= SMALL || self.items.len() >= JOB_ITEMS {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        self.weight = 0;
        match std::mem::take(&mut self.items) {
            items if items.is_empty() => Ok(()),
            items => self.line.issue(Job::Members(items)),
        }
    }

    /// A file whose content is shared among jobs: a header, pieces, and what fills the last block.
    fn large(&mut self, path: Vec<u8>, entry: Entry, size: u64) -> Result<()> {
        let map = self.map(&entry, size).map_err(|error| in_path(&path, error))?;
        let stored = map.as_ref().map_or(size, |map| map.iter().map(|(_, len)| len).sum());
        let sparse = map.is_some();
        let path_shown = path.clone();
        let entry = Arc::new(entry);
        self.items.push(Item { path, entry: entry.clone(), link: None, map, content: false });
        self.flush()?;
        self.pieces(&entry, size, sparse, &path_shown)?;
        match crate::tar::padding(stored) {
            0 => Ok(()),
            len => self.line.issue(Job::Padding(len)),
        }
    }

    /// Where the data of a sparse file lie; None for one that is written whole.
    fn map(&self, entry: &Entry, size: u64) -> Result<Option<Vec<Stretch>>> {
        let What::File { holes: Some(holes), .. } = &entry.what else { return Ok(None) };
        if holes.items() >= MAX_STRETCHES as u64 {
            return Ok(None);
        }
        let holes: Vec<Hole> = match &**holes {
            List::InPlace(holes) => holes.clone(),
            List::Node { .. } => self.reader.holes(entry)?,
        };
        Ok(Some(stretches(&holes, size)))
    }

    fn pieces(&mut self, entry: &Arc<Entry>, size: u64, sparse: bool, path: &[u8]) -> Result<()> {
        let What::File { content, holes, .. } = &entry.what else { return Ok(()) };
        let named = |error| in_path(path, error);
        let issue = |at: u64, chunks: Vec<Chunk>, start: u64, end: u64| {
            let path = path.to_vec();
            self.line.issue(Job::Piece(Piece { path, entry: entry.clone(), sparse, at, chunks, start, end }))
        };
        if let crate::node::Content::InPlace(_) = content {
            return issue(0, Vec::new(), 0, size);
        }
        let mut runs = Runs::new(content, size);
        let mut map = Holes::new(holes.as_deref().filter(|_| sparse), size);
        while let Some(run) = runs.next(self.reader).map_err(named)? {
            let (mut at, mut start) = (run.offset, run.offset);
            let mut chunks: Vec<Chunk> = Vec::new();
            for chunk in run.chunks {
                let is_long = chunk.id == ZERO_ID && chunk.len > SMALL;
                if is_long || at - start + chunk.len > SMALL {
                    if !chunks.is_empty() {
                        issue(start, std::mem::take(&mut chunks), start, at)?;
                    }
                    start = at;
                }
                let end = at + chunk.len;
                if is_long {
                    let mut zeros = Vec::new();
                    map.split(self.reader, at, end, |from, to, is_hole| {
                        zeros.extend((!is_hole).then_some((from, to)));
                        Ok(())
                    })
                    .map_err(named)?;
                    for (from, to) in zeros {
                        for from in (from..to).step_by(SMALL as usize) {
                            issue(at, vec![chunk], from, to.min(from + SMALL))?;
                        }
                    }
                    start = end;
                } else {
                    chunks.push(chunk);
                }
                at = end;
            }
            if !chunks.is_empty() {
                issue(start, chunks, start, at)?;
            }
        }
        Ok(())
    }
}

/// Says where in the archive the damage lies.
pub(super) fn in_path(path: &[u8], error: Error) -> Error {
    match error {
        Error::Damaged(why) => Error::Damaged(format!("cannot export {}: {why}", show(path))),
        Error::Tampered(why) => Error::Tampered(format!("cannot export {}: {why}", show(path))),
        other => other,
    }
}
