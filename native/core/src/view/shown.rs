//! What is at a path: an entry of a tree, a directory above roots, or both.

use std::sync::Arc;

use super::links::Links;
use super::outline::{Found, Top};
use super::stems::{Stem, Tree};
use super::{below, Attributes, Snapshot, View, MAX_COUNTED};
use crate::error::Result;
use crate::node::{put_entries, Directory, Entry, Key, List, What, XattrSet};
use crate::reader::Expected;

/// Of disks, which sparse files take.
const DISK_BLOCK: u64 = 4096;
const FILE_SYSTEM_UNIT: u64 = 512;

/// Something in a snapshot. Cheap to clone.
#[derive(Clone)]
pub struct Shown {
    snapshot: Arc<Snapshot>,
    /// When roots stand there or below.
    stem: Option<Arc<Stem>>,
    /// The root that it is in.
    tree: Option<Arc<Tree>>,
    held: Held,
    /// Its number, were it not a hard link.
    ino: u64,
    /// What may be seen below it; None for everything.
    only: Option<Arc<Stem>>,
}

#[derive(Clone)]
enum Held {
    Root(Arc<Tree>),
    Item(Arc<Vec<Entry>>, usize),
    /// Of no tree.
    Made(Arc<Entry>),
}

impl Shown {
    pub fn entry(&self) -> &Entry {
        match &self.held {
            Held::Root(tree) => &tree.root.entry,
            Held::Item(entries, at) => &entries[*at],
            Held::Made(entry) => entry,
        }
    }

    /// Id of the snapshot.
    pub fn snapshot(&self) -> &str {
        &self.snapshot.id
    }

    /// Id of the root; None for what is in no tree.
    pub fn root(&self) -> Option<String> {
        self.tree.as_ref().map(|tree| tree.id.hex())
    }

    /// The same for two things only if they, and all below them, differ in nothing but their names.
    pub fn identity(&self) -> [u8; 32] {
        let mut bytes = Vec::new();
        put_entries(&[Entry { name: Box::default(), ..self.entry().clone() }], &mut bytes);
        *blake3::hash(&bytes).as_bytes()
    }

    fn directory(&self) -> Option<&Directory> {
        self.entry().directory()
    }

    fn stems(&self) -> impl Iterator<Item = (&[u8], &Arc<Stem>)> {
        self.stem.iter().flat_map(|stem| stem.below.iter().map(|(name, stem)| (&**name, stem)))
    }
}

impl View {
    pub(super) fn top(&self, snapshot: Arc<Snapshot>) -> Shown {
        let stem = snapshot.stem.clone();
        let held = match &stem.tree {
            Some(tree) => Held::Root(tree.clone()),
            None => self.made(&snapshot, What::Directory(Directory::default()), 0o555),
        };
        let (ino, tree) = (snapshot.ino, stem.tree.clone());
        Shown { snapshot, tree, held, ino, only: self.only.clone(), stem: Some(stem) }
    }

    fn made(&self, snapshot: &Snapshot, what: What, mode: u16) -> Held {
        let (uid, gid) = (self.looks.uid, self.looks.gid);
        Held::Made(Arc::new(Entry { name: Box::default(), mode, uid, gid, mtime: snapshot.mtime, what, xattrs: None }))
    }

    /// What is called `name` in `at`.
    pub(super) fn step(&self, at: &Shown, name: &[u8]) -> Result<Option<Shown>> {
        let Some(only) = seen(&at.only, name) else { return Ok(None) };
        let stem = at.stem.as_ref().and_then(|stem| stem.below.get(name)).cloned();
        let own = stem.as_ref().and_then(|stem| stem.tree.clone());
        let (held, tree) = match own {
            Some(tree) => (Some(Held::Root(tree.clone())), Some(tree)),
            None => (self.child(at, name)?, at.tree.clone()),
        };
        let held = match (held, &stem) {
            (Some(held), _) => held,
            (None, Some(_)) => self.made(&at.snapshot, What::Directory(Directory::default()), 0o555),
            (None, None) => return Ok(self.alias(at, name, only)),
        };
        Ok(Some(Shown { snapshot: at.snapshot.clone(), stem, tree, held, ino: below(at.ino, name), only }))
    }

    /// At the top of a snapshot, a root is found by its own name too, as a link to where it is; it is not listed there.
    fn alias(&self, at: &Shown, name: &[u8], only: Option<Arc<Stem>>) -> Option<Shown> {
        let is_top = at.tree.is_none() && at.ino == at.snapshot.ino;
        let path = at.stem.as_ref().filter(|_| is_top)?.called(name)?;
        let held = self.made(&at.snapshot, What::Symlink(path.into()), 0o777);
        Some(Shown { stem: None, tree: None, held, ino: below(at.ino, name), only, ..at.clone() })
    }

    fn child(&self, at: &Shown, name: &[u8]) -> Result<Option<Held>> {
        let Some(top) = self.leaves(at)? else { return Ok(None) };
        let before = |key: &Key, _| matches!(key, Key::Bytes(last) if **last < *name);
        let Some((entries, ..)) = self.entries.find(&self.reader, &top, before)? else { return Ok(None) };
        let found = entries.binary_search_by(|entry| (*entry.name).cmp(name));
        Ok(found.ok().map(|number| Held::Item(entries, number)))
    }

    /// The entries of a directory; None when there are none.
    fn leaves(&self, at: &Shown) -> Result<Option<Top<Entry>>> {
        at.directory().map_or(Ok(None), |directory| self.leaves_of(directory))
    }

    fn leaves_of(&self, directory: &Directory) -> Result<Option<Top<Entry>>> {
        let Some(node) = &directory.node else { return Ok(None) };
        self.entries.top(&self.reader, node, || Expected::top(directory.items)).map(Some)
    }

    /// Calls `visit` with what is in a directory, from number `from` on, until it returns false: the number of the next, the
    /// name, what is there.
    pub fn list(&self, at: &Shown, from: u64, visit: &mut dyn FnMut(u64, &[u8], Shown) -> bool) -> Result<()> {
        let mut number = from;
        let top = self.leaves(at)?;
        if let Some(top) = &top {
            while let Some((entries, first, _)) = self.entries.at(&self.reader, top, number)? {
                for place in (number - first) as usize..entries.len() {
                    number += 1;
                    let shown = self.item(at, &entries, place);
                    if shown.is_some_and(|shown| !visit(number, &entries[place].name, shown)) {
                        return Ok(());
                    }
                }
            }
        }
        // Behind all entries, those that only stems have.
        let count = at.directory().map_or(0, |directory| directory.items);
        for (place, (name, _)) in at.stems().enumerate().skip(number.saturating_sub(count) as usize) {
            let is_listed = top.is_some() && self.child(at, name)?.is_some();
            let Some(shown) = self.step(at, name)?.filter(|_| !is_listed) else { continue };
            if !visit(count + place as u64 + 1, name, shown) {
                return Ok(());
            }
        }
        Ok(())
    }

    /// What an entry of the directory `at` is; None when it may not be seen.
    fn item(&self, at: &Shown, entries: &Arc<Vec<Entry>>, place: usize) -> Option<Shown> {
        let name = &entries[place].name;
        let only = seen(&at.only, name)?;
        let stem = at.stem.as_ref().and_then(|stem| stem.below.get(name)).cloned();
        let own = stem.as_ref().and_then(|stem| stem.tree.clone());
        let held = match &own {
            Some(tree) => Held::Root(tree.clone()),
            None => Held::Item(entries.clone(), place),
        };
        let tree = own.or_else(|| at.tree.clone());
        Some(Shown { snapshot: at.snapshot.clone(), stem, tree, held, ino: below(at.ino, name), only })
    }

    /// Its inode number.
    pub fn ino(&self, at: &Shown) -> u64 {
        self.number(at).0
    }

    fn number(&self, at: &Shown) -> (u64, u32) {
        let Some(tree) = at.tree.as_ref().filter(|tree| tree.root.links.is_some()) else { return (at.ino, 1) };
        let links = tree.links.get_or_init(|| {
            // Without its table, the links are files of their own.
            Links::read(&self.reader, &tree.root, tree.ino).unwrap_or_default()
        });
        links.of(at.ino)
    }

    pub fn attributes(&self, at: &Shown) -> Result<Attributes> {
        let entry = at.entry();
        let (ino, mut links) = self.number(at);
        let (mut size, mut blocks, mut device) = (0, 0, (0, 0));
        let kind = match &entry.what {
            What::File { size: bytes, holes, .. } => {
                size = *bytes;
                blocks = match holes {
                    None => size.div_ceil(DISK_BLOCK),
                    Some(_) => (size - self.hole_bytes(entry)?.min(size)).div_ceil(DISK_BLOCK),
                } * (DISK_BLOCK / FILE_SYSTEM_UNIT);
                libc::S_IFREG
            }
            What::Directory(_) => {
                links = self.directory_links(at);
                libc::S_IFDIR
            }
            What::Symlink(target) => {
                size = target.len() as u64;
                libc::S_IFLNK
            }
            What::Fifo => libc::S_IFIFO,
            What::CharDevice(major, minor) => {
                device = (*major, *minor);
                libc::S_IFCHR
            }
            What::BlockDevice(major, minor) => {
                device = (*major, *minor);
                libc::S_IFBLK
            }
        };
        let (uid, gid) = (self.looks.all_uid.unwrap_or(entry.uid), self.looks.all_gid.unwrap_or(entry.gid));
        let mode = kind | u32::from(entry.mode);
        Ok(Attributes { ino, mode, links, uid, gid, device, size, blocks, mtime: entry.mtime })
    }

    fn hole_bytes(&self, entry: &Entry) -> Result<u64> {
        let What::File { holes: Some(holes), .. } = &entry.what else { return Ok(0) };
        let sum = |holes: &[crate::node::Hole]| holes.iter().map(|hole| hole.end - hole.start).sum();
        match &**holes {
            List::InPlace(holes) => Ok(sum(holes)),
            List::Node { .. } => Ok(sum(&self.reader.holes(entry)?)),
        }
    }

    /// One from above, one from itself, and one from each directory in it; 1 where those are not counted, which programs know.
    fn directory_links(&self, at: &Shown) -> u32 {
        let count = || -> Result<Option<u32>> {
            let mut count = 2;
            if at.directory().is_some_and(|directory| directory.items > MAX_COUNTED) {
                return Ok(None);
            }
            if let Some(top) = self.leaves(at)? {
                let mut number = 0;
                while let Some((entries, first, _)) = self.leaf(&top, number)? {
                    count += entries.iter().filter(|entry| entry.directory().is_some()).count() as u32;
                    number = first + entries.len() as u64;
                }
            }
            for (name, stem) in at.stems() {
                let is_directory = stem.tree.as_ref().is_none_or(|tree| tree.root.entry.directory().is_some());
                let is_entry = self.child(at, name)?.is_some();
                count += u32::from(is_directory && !is_entry);
            }
            Ok(Some(count))
        };
        count().ok().flatten().unwrap_or(1)
    }

    fn leaf(&self, top: &Top<Entry>, number: u64) -> Result<Option<Found<Entry>>> {
        self.entries.at(&self.reader, top, number)
    }

    pub fn xattrs(&self, at: &Shown) -> Result<XattrSet> {
        self.reader.xattrs(at.entry())
    }
}

/// What may be seen below `name`; None when it may not be seen itself.
fn seen(only: &Option<Arc<Stem>>, name: &[u8]) -> Option<Option<Arc<Stem>>> {
    match only {
        None => Some(None),
        Some(stem) => stem.below.get(name).map(|next| (!next.below.is_empty()).then(|| next.clone())),
    }
}
