//! Hard links: which paths become links to others, and the making of them when all files are there.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{linkat, openat, statat, AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::selection::Selection;
use super::staged::staged_name;
use super::tally::Trouble;
use super::target::open_flags;
use super::Run;
use crate::error::{show, Error, Result};
use crate::id::checksum;
use crate::node::{Key, Link, Root};
use crate::reader::Reader;

fn join(above: &[u8], below: &[u8]) -> Vec<u8> {
    match (above, below) {
        (b"", below) => below.to_vec(),
        (above, b"") => above.to_vec(),
        (above, below) => [above, b"/", below].concat(),
    }
}

/// Where something is that a hard link is made of, or at.
pub(crate) enum Place<'p> {
    /// Below the directory that is written into.
    Target(&'p [u8]),
    /// Below what is staged there under a number.
    Staged { number: usize, rest: &'p [u8] },
    /// Below the directory that it will be moved to.
    Live(&'p [u8]),
}

/// Which paths of a root are written, and where.
pub(crate) trait Scope: Sync {
    /// True when `path`, below the root, is written for itself (not only as a directory on the way to others).
    fn covers(&self, path: &[u8]) -> bool;

    /// Whether anything is there already.
    fn may_stand(&self) -> bool {
        false
    }

    /// True when it is there already, as the root has it, so that others can be linked to it.
    fn stands(&self, path: &[u8]) -> bool;

    fn place<'p>(&self, path: &'p [u8]) -> Option<Place<'p>>;
}

impl Scope for Selection {
    fn covers(&self, path: &[u8]) -> bool {
        Selection::covers(self, path)
    }

    fn stands(&self, _path: &[u8]) -> bool {
        false
    }

    fn place<'p>(&self, path: &'p [u8]) -> Option<Place<'p>> {
        self.in_target(path).map(Place::Target)
    }
}

/// The hard links to make. Of each, 8 bytes are in memory.
pub(crate) struct Links {
    root: Root,
    /// Hashes of the paths that become links, sorted.
    later: Vec<u64>,
    /// The path that becomes the file, or is it already, by the first path of a group that is not restored itself.
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
        scope: &dyn Scope,
        mut damage: impl FnMut(Error) -> Result<()>,
    ) -> Result<Option<Links>> {
        let mut links = Links { root: root.clone(), later: Vec::new(), heads: HashMap::new() };
        // What is there already comes first: all others become links of it.
        let mut leaves = reader.link_leaves(root);
        while scope.may_stand() {
            match leaves.next(reader) {
                Ok(None) => break,
                Ok(Some(leaf)) => leaf.into_iter().for_each(|link| links.add_standing(link, scope)),
                Err(Error::Damaged(_)) => {}
                Err(error) => return Err(error),
            }
        }
        let mut leaves = reader.link_leaves(root);
        loop {
            match leaves.next(reader) {
                Ok(None) => break,
                Ok(Some(leaf)) => leaf.into_iter().for_each(|link| links.add(link, scope)),
                Err(error) => damage(error)?,
            }
        }
        links.later.sort_unstable();
        Ok((!links.later.is_empty()).then_some(links))
    }

    fn add_standing(&mut self, link: Link, scope: &dyn Scope) {
        if scope.stands(&link.path) && !scope.covers(&link.first) && !scope.stands(&link.first) {
            self.heads.entry(link.first).or_insert(link.path);
        }
    }

    fn add(&mut self, link: Link, scope: &dyn Scope) {
        if !scope.covers(&link.path) {
            return;
        }
        let has_first = scope.covers(&link.first) || scope.stands(&link.first);
        if !has_first && !self.heads.contains_key(&link.first) {
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
    fn source<'l>(&'l self, link: &'l Link, scope: &dyn Scope) -> Option<&'l [u8]> {
        if !scope.covers(&link.path) {
            return None;
        }
        let source = match scope.covers(&link.first) || scope.stands(&link.first) {
            true => &link.first,
            false => self.heads.get(&link.first)?,
        };
        (*source != link.path).then_some(source)
    }
}

/// The directory that was opened last: neighbours in the table are mostly neighbours in the tree.
#[derive(Default)]
struct Directory {
    last: Option<(bool, Vec<u8>, Arc<OwnedFd>)>,
}

impl Directory {
    /// The directory `path` below `root`. `is_live` tells roots apart.
    fn open(&mut self, is_live: bool, root: &Arc<OwnedFd>, path: &[u8]) -> rustix::io::Result<Arc<OwnedFd>> {
        if let Some((live, last, fd)) = &self.last {
            if (*live, &last[..]) == (is_live, path) {
                return Ok(fd.clone());
            }
        }
        let mut fd = root.clone();
        for name in path.split(|c| *c == b'/').filter(|name| !name.is_empty()) {
            fd = Arc::new(openat(&fd, name, open_flags() | OFlags::PATH, Mode::empty())?);
        }
        self.last = Some((is_live, path.to_vec(), fd.clone()));
        Ok(fd)
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
        let (mut from, mut to) = (Directory::default(), Directory::default());
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
                let Some(source) = links.source(link, self.scope) else { continue };
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
        let (from_dir, from_name) = self.open_place(source, from)?;
        let (to_dir, to_name) = self.open_place(path, to)?;
        linkat(&from_dir, &from_name[..], &to_dir, &to_name[..], AtFlags::empty())?;
        Ok(FileType::from_raw_mode(statat(&to_dir, &to_name[..], AtFlags::SYMLINK_NOFOLLOW)?.st_mode))
    }

    /// The directory in which `path` is, or is to be, and its name there.
    fn open_place(&self, path: &[u8], directory: &mut Directory) -> rustix::io::Result<(Arc<OwnedFd>, Vec<u8>)> {
        let (root, place) = match self.scope.place(path).ok_or(Errno::NOENT)? {
            Place::Target(path) => (None, path.to_vec()),
            Place::Staged { number, rest } => (None, join(staged_name(number).as_bytes(), rest)),
            Place::Live(path) => {
                let live = self.live.as_ref().ok_or(Errno::NOENT)?;
                (Some(&live.fd), join(&live.prefix, path))
            }
        };
        let (dir, name) = split(&place);
        let fd = directory.open(root.is_some(), root.unwrap_or(&self.handles.root()), dir)?;
        Ok((fd, name.to_vec()))
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
