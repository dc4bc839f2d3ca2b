//! What is at a path: an entry of a tree, a directory above roots, or both.

use std::ops::Range;
use std::sync::Arc;

use super::disk::{image_name, may_be_image, Disk, SUFFIX};
use super::links::Links;
use super::outline::Top;
use super::stems::{Stem, Tree};
use super::{below, Attributes, Snapshot, View, MAX_COUNTED};
use crate::error::Result;
use crate::node::{put_entries, Directory, Entry, Key, What, XattrSet};
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
    pub(super) only: Option<Arc<Stem>>,
}

#[derive(Clone)]
pub(super) enum Held {
    Root(Arc<Tree>),
    Item(Arc<Vec<Entry>>, usize),
    /// Of no tree.
    Made(Arc<Entry>),
    /// An image, as a directory of its partitions.
    Disk(Arc<Disk>),
    /// A partition: which of the disk's.
    Part(Arc<Disk>, usize),
}

impl Shown {
    pub fn entry(&self) -> &Entry {
        match &self.held {
            Held::Root(tree) => &tree.root.entry,
            Held::Item(entries, at) => &entries[*at],
            Held::Made(entry) => entry,
            Held::Disk(disk) => &disk.directory,
            Held::Part(disk, number) => disk.part(*number),
        }
    }

    /// The image that it is a partition of, and where it stands in that.
    pub(super) fn part(&self) -> Option<(&Entry, Range<u64>)> {
        match &self.held {
            Held::Part(disk, number) => Some((&disk.image, disk.range(*number))),
            _ => None,
        }
    }

    /// Whether it is a part of another file.
    pub fn is_part(&self) -> bool {
        self.part().is_some()
    }

    pub(super) fn is_root(&self) -> bool {
        matches!(self.held, Held::Root(_))
    }

    /// As if nothing were hidden.
    pub(super) fn seen_whole(&self) -> Shown {
        Shown { only: None, ..self.clone() }
    }

    /// What is made from this, and stands in `at` under a name.
    pub(super) fn made_below(&self, at: &Shown, name: &[u8], held: Held, only: Option<Arc<Stem>>) -> Shown {
        Shown { stem: None, held, ino: below(at.ino, name), only, ..self.clone() }
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
        let (entry, part) = match &self.held {
            Held::Disk(disk) => (&disk.image, Some(0..0)),
            Held::Part(disk, number) => (&disk.image, Some(disk.range(*number))),
            _ => (self.entry(), None),
        };
        put_entries(&[Entry { name: Box::default(), ..entry.clone() }], &mut bytes);
        for (name, stem) in self.stems() {
            bytes.extend_from_slice(name);
            stem.identify(&mut bytes);
        }
        if let Some(part) = part {
            bytes.extend([part.start.to_le_bytes(), part.end.to_le_bytes()].concat());
        }
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
        if let Some(only) = seen(&at.only, name) {
            if let Some(own) = self.own(at, name, only)? {
                return Ok(Some(own));
            }
        }
        match self.disk_called(at, name)? {
            Some(disk) => Ok(Some(disk)),
            None => self.alias(at, name),
        }
    }

    /// What the snapshot has under a name. `only`: what may be seen below it.
    pub(super) fn own(&self, at: &Shown, name: &[u8], only: Option<Arc<Stem>>) -> Result<Option<Shown>> {
        let stem = at.stem.as_ref().and_then(|stem| stem.below.get(name)).cloned();
        let own = stem.as_ref().and_then(|stem| stem.tree.clone());
        let (held, tree) = match own {
            Some(tree) => (Some(Held::Root(tree.clone())), Some(tree)),
            None => (self.child(at, name)?, at.tree.clone()),
        };
        let held = match (held, &stem) {
            (Some(held), _) => held,
            (None, Some(_)) => self.made(&at.snapshot, What::Directory(Directory::default()), 0o555),
            (None, None) => return Ok(None),
        };
        Ok(Some(Shown { snapshot: at.snapshot.clone(), stem, tree, held, ino: below(at.ino, name), only }))
    }

    /// At the top of a snapshot, a root is found by its own name too, as a link to where it is; it is not listed there. So is
    /// the disk beside it.
    fn alias(&self, at: &Shown, name: &[u8]) -> Result<Option<Shown>> {
        let is_top = at.tree.is_none() && at.ino == at.snapshot.ino;
        let Some(stem) = at.stem.as_ref().filter(|_| is_top) else { return Ok(None) };
        let path = match stem.called(name) {
            None => self.path_of_disk(at, stem, name)?,
            Some(path) => self.walk(at.snapshot.clone(), &path)?.map(|_| path),
        };
        let held = path.map(|path| self.made(&at.snapshot, What::Symlink(path.into()), 0o777));
        Ok(held.map(|held| at.made_below(at, name, held, None)))
    }

    fn path_of_disk(&self, at: &Shown, stem: &Stem, name: &[u8]) -> Result<Option<Vec<u8>>> {
        let Some(mut path) = image_name(name).and_then(|image| stem.called(image)) else { return Ok(None) };
        path.extend_from_slice(SUFFIX);
        let found = self.walk(at.snapshot.clone(), &path)?;
        Ok(found.filter(|found| matches!(found.held, Held::Disk(_))).map(|_| path))
    }

    fn child(&self, at: &Shown, name: &[u8]) -> Result<Option<Held>> {
        if let Held::Disk(disk) = &at.held {
            return Ok(disk.called(name).map(|number| Held::Part(disk.clone(), number)));
        }
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
        if let Held::Disk(disk) = &at.held {
            self.list_parts(at, disk, from, visit);
            return Ok(());
        }
        if self.list_own(at, from, visit)? && self.disks.is_some() {
            let before = at.directory().map_or(0, |directory| directory.items) + at.stems().count() as u64;
            self.list_disks(at, from, before, visit)?;
        }
        Ok(())
    }

    /// What the snapshot has in a directory. False when `visit` said so.
    pub(super) fn list_own(
        &self,
        at: &Shown,
        from: u64,
        visit: &mut dyn FnMut(u64, &[u8], Shown) -> bool,
    ) -> Result<bool> {
        let mut number = from;
        let top = self.leaves(at)?;
        if let Some(top) = &top {
            while let Some((entries, first, _)) = self.entries.at(&self.reader, top, number)? {
                for place in (number - first) as usize..entries.len() {
                    number += 1;
                    let shown = self.item(at, &entries, place);
                    if shown.is_some_and(|shown| !visit(number, &entries[place].name, shown)) {
                        return Ok(false);
                    }
                }
            }
        }
        // Behind all entries, those that only stems have.
        let count = at.directory().map_or(0, |directory| directory.items);
        for (place, (name, _)) in at.stems().enumerate().skip(number.saturating_sub(count) as usize) {
            let is_listed = top.is_some() && self.child(at, name)?.is_some();
            let Some(only) = seen(&at.only, name).filter(|_| !is_listed) else { continue };
            let Some(shown) = self.own(at, name, only)? else { continue };
            if !visit(count + place as u64 + 1, name, shown) {
                return Ok(false);
            }
        }
        Ok(true)
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
        if tree.links.get().is_none() {
            // Without its table, the links are files of their own, until it can be read.
            let Ok(links) = Links::read(&self.reader, &tree.root, tree.ino) else { return (at.ino, 1) };
            let _ = tree.links.set(links);
        }
        tree.links.get().map_or((at.ino, 1), |links| links.of(at.ino))
    }

    pub fn attributes(&self, at: &Shown) -> Result<Attributes> {
        let entry = at.entry();
        let (ino, mut links) = self.number(at);
        let (mut size, mut blocks, mut device) = (0, 0, (0, 0));
        let kind = match &entry.what {
            What::File { size: bytes, .. } => {
                size = *bytes;
                blocks = (size - self.hole_bytes(at)?.min(size)).div_ceil(DISK_BLOCK) * (DISK_BLOCK / FILE_SYSTEM_UNIT);
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

    fn hole_bytes(&self, at: &Shown) -> Result<u64> {
        match (at.part(), &at.entry().what) {
            (Some((image, part)), _) => self.hole_bytes_in(image, part),
            (None, What::File { size, .. }) => self.hole_bytes_in(at.entry(), 0..*size),
            (None, _) => Ok(0),
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
                while let Some((entries, first, _)) = self.entries.at(&self.reader, &top, number)? {
                    if self.disks.is_some() && entries.iter().any(|entry| may_be_image(&entry.name, entry, false)) {
                        return Ok(None);
                    }
                    count += entries.iter().filter(|entry| entry.directory().is_some()).count() as u32;
                    number = first + entries.len() as u64;
                }
            }
            for (name, stem) in at.stems() {
                let root = stem.tree.as_ref().map(|tree| &tree.root.entry);
                if self.disks.is_some() && root.is_some_and(|root| may_be_image(name, root, true)) {
                    return Ok(None);
                }
                let is_directory = root.is_none_or(|root| root.directory().is_some());
                let is_entry = self.child(at, name)?.is_some();
                count += u32::from(is_directory && !is_entry);
            }
            Ok(Some(count))
        };
        count().ok().flatten().unwrap_or(1)
    }

    pub fn xattrs(&self, at: &Shown) -> Result<XattrSet> {
        // Lists of who may do what go with the mode.
        self.reader.xattrs(match &at.held {
            Held::Disk(disk) | Held::Part(disk, _) => &disk.image,
            _ => at.entry(),
        })
    }
}

/// What may be seen below `name`; None when it may not be seen itself.
pub(super) fn seen(only: &Option<Arc<Stem>>, name: &[u8]) -> Option<Option<Arc<Stem>>> {
    match only {
        None => Some(None),
        Some(stem) => stem.below.get(name).map(|next| (!next.below.is_empty()).then(|| next.clone())),
    }
}
