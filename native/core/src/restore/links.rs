//! Hard links: which paths become links to others, and the making of them when all files are there.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{linkat, openat, statat, AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::selection::Selection;
use super::tally::Trouble;
use super::target::open_flags;
use super::Run;
use crate::error::{show, Error, Result};
use crate::id::checksum;
use crate::node::{Key, Link, Root};
use crate::reader::Reader;

/// The hard links to make. Of each, 8 bytes are in memory.
pub(crate) struct Links {
    root: Root,
    /// Hashes of the paths that become links, sorted.
    later: Vec<u64>,
    /// The path that becomes the file, by the first path of a group that is not restored itself.
    heads: HashMap<Vec<u8>, Vec<u8>>,
}

/// The leaf of the table that was looked at last.
#[derive(Default)]
pub(crate) struct Memo(Vec<Link>);

impl Links {
    /// None when there is nothing to link. Leaves that cannot be read are handed to `damage`; their paths become files.
    pub(crate) fn plan(
        reader: &Reader,
        root: &Root,
        selection: &Selection,
        mut damage: impl FnMut(Error) -> Result<()>,
    ) -> Result<Option<Links>> {
        let mut links = Links { root: root.clone(), later: Vec::new(), heads: HashMap::new() };
        let mut leaves = reader.link_leaves(root);
        loop {
            match leaves.next(reader) {
                Ok(None) => break,
                Ok(Some(leaf)) => leaf.into_iter().for_each(|link| links.add(link, selection)),
                Err(error) => damage(error)?,
            }
        }
        links.later.sort_unstable();
        Ok((!links.later.is_empty()).then_some(links))
    }

    fn add(&mut self, link: Link, selection: &Selection) {
        if !selection.covers(&link.path) {
            return;
        }
        if !selection.covers(&link.first) && !self.heads.contains_key(&link.first) {
            self.heads.insert(link.first, link.path);
            return;
        }
        self.later.push(checksum(&link.path));
    }

    /// True when `path` becomes a link. Hashes only rule out: the table itself decides.
    pub(crate) fn is_later(&self, reader: &Reader, path: &[u8], memo: &mut Memo) -> Result<bool> {
        if self.later.binary_search(&checksum(path)).is_err() {
            return Ok(false);
        }
        let inside = |leaf: &[Link]| match leaf {
            [first, .., last] => *first.path <= *path && *path <= *last.path,
            _ => false,
        };
        if !inside(&memo.0) {
            let mut leaves = reader.link_leaves(&self.root);
            let before = |key: Option<&Key>| matches!(key, Some(Key::Bytes(last)) if **last < *path);
            memo.0 = leaves.next_unless(reader, |expected| before(expected.key.as_ref()))?.unwrap_or_default();
        }
        match memo.0.binary_search_by(|link| (*link.path).cmp(path)) {
            Ok(at) => Ok(self.heads.get(&memo.0[at].first).is_none_or(|head| *head != path)),
            Err(_) => Ok(false),
        }
    }

    /// The path that `link` becomes a link to; None when it is a file or not restored.
    fn source<'l>(&'l self, link: &'l Link, selection: &Selection) -> Option<&'l [u8]> {
        if !selection.covers(&link.path) {
            return None;
        }
        let source = match selection.covers(&link.first) {
            true => &link.first,
            false => self.heads.get(&link.first)?,
        };
        (*source != link.path).then_some(source)
    }
}

/// The directory that was opened last: neighbours in the table are mostly neighbours in the tree.
struct Directory {
    root: Arc<OwnedFd>,
    path: Vec<u8>,
    fd: Arc<OwnedFd>,
}

impl Directory {
    fn new(root: Arc<OwnedFd>) -> Directory {
        Directory { fd: root.clone(), root, path: Vec::new() }
    }

    fn open(&mut self, path: &[u8]) -> rustix::io::Result<&OwnedFd> {
        if self.path != path {
            let mut fd = self.root.clone();
            for name in path.split(|c| *c == b'/').filter(|name| !name.is_empty()) {
                fd = Arc::new(openat(&fd, name, open_flags() | OFlags::PATH, Mode::empty())?);
            }
            (self.path, self.fd) = (path.to_vec(), fd);
        }
        Ok(&self.fd)
    }
}

/// Directory and name of a path.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|c| *c == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}

impl Run<'_> {
    /// Makes all hard links. The directories must not have got their metadata yet.
    pub(super) fn make_links(&self, links: &Links) -> Result<()> {
        let mut from = Directory::new(self.handles.root());
        let mut to = Directory::new(self.handles.root());
        let mut leaves = self.reader.link_leaves(&links.root);
        loop {
            let leaf = match leaves.next(self.reader) {
                Ok(None) => return Ok(()),
                Ok(Some(leaf)) => leaf,
                // It is listed already.
                Err(Error::Damaged(_)) => continue,
                Err(error) => return Err(error),
            };
            self.progress.check()?;
            for link in &leaf {
                let Some(source) = links.source(link, &self.selection) else { continue };
                match self.make_link(source, &link.path, &mut from, &mut to) {
                    Ok(FileType::RegularFile) => self.tally.file(),
                    Ok(_) => self.tally.other(),
                    Err(error) => self.link_failed(source, &link.path, error)?,
                }
            }
        }
    }

    /// Makes a hard link, and tells to what.
    fn make_link(
        &self,
        source: &[u8],
        path: &[u8],
        from: &mut Directory,
        to: &mut Directory,
    ) -> rustix::io::Result<FileType> {
        let (Some(source), Some(path)) = (self.selection.in_target(source), self.selection.in_target(path)) else {
            return Err(Errno::NOENT);
        };
        let ((from_dir, from_name), (to_dir, to_name)) = (split(source), split(path));
        linkat(from.open(from_dir)?, from_name, to.open(to_dir)?, to_name, AtFlags::empty())?;
        Ok(FileType::from_raw_mode(statat(to.open(to_dir)?, to_name, AtFlags::SYMLINK_NOFOLLOW)?.st_mode))
    }

    fn link_failed(&self, source: &[u8], path: &[u8], error: Errno) -> Result<()> {
        match Trouble::system("link", error, path) {
            Trouble::Run(error) => Err(error),
            Trouble::Entry { what, reason } => {
                self.problem(path.to_vec(), &what, format!("cannot link it to {}: {reason}", show(source)));
                Ok(())
            }
        }
    }
}
