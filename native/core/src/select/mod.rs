//! Selection: which entries of a root are taken, and why. The walk asks it directory by directory; `explain` asks it for one path.
//! root > **folder** > entry.
//!
//! In order: sockets and the store itself are never taken; what was named always is; then the rules of the caller, the ignore files
//! from the deepest directory up, and the limits decide. In a directory with a marker only the marker is taken.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::FileType;

use crate::source::{self, Stat};

pub mod explain;
pub mod named;
pub mod pattern;

use named::Named;
use pattern::{Pattern, Rules};

pub const IGNORE_FILE: &[u8] = b".snapignore";
pub const CACHE_TAG: &[u8] = b"CACHEDIR.TAG";
const CACHE_SIGNATURE: &[u8] = b"Signature: 8a477f597d28d172789f06886806bc55";
/// An ignore file that is larger is not one.
const MAX_IGNORE_FILE: usize = 256 << 10;
/// Bytes of the ignore files that hold in a directory: a tree may be hostile.
const MAX_IGNORES: usize = 1 << 20;

/// What is taken of a root.
#[derive(Clone, Default)]
pub struct Selection {
    /// The caller's rules, relative to the root.
    pub rules: Arc<Rules>,
    /// Ignore files in the tree are heeded.
    pub ignore_files: bool,
    /// Of caches (CACHEDIR.TAG), only the tag is taken.
    pub caches: bool,
    /// Of a directory with an entry of such a name, only that is taken.
    pub markers: Vec<Box<[u8]>>,
    /// Files of more bytes are left out.
    pub larger_than: Option<u64>,
    pub one_file_system: bool,
    /// (device, inode) of directories never taken.
    pub skip: Vec<(u64, u64)>,
    pub named: Named,
}

/// What the way to a directory says about its entries.
#[derive(Clone, Default)]
pub struct Folder {
    named: Named,
    ignores: Option<Arc<Ignores>>,
    dev: u64,
    /// Named, or taken back by a rule: it is not asked for markers.
    chosen: bool,
}

/// The rules of an ignore file, and of those above it.
struct Ignores {
    rules: Rules,
    /// How much of a path from the root leads to its directory, with the slash.
    base: usize,
    above: Option<Arc<Ignores>>,
    /// Bytes of this file and those above it.
    bytes: usize,
}

/// Why an entry is taken, or is not.
#[derive(Clone, Copy, Debug)]
pub enum Why<'a> {
    /// Nothing speaks against it.
    Default,
    Named,
    /// It leads to something named.
    Way,
    Rule(&'a Pattern),
    /// It is the marker, or beside it.
    Marker(&'a [u8]),
    Socket,
    Store,
    Mount,
    Size,
    /// Only what is named is taken here.
    Unnamed,
    /// Something is named below it, and it is no directory.
    NoDirectory,
}

/// A path below the root that could not be selected properly, and the error.
pub type Trouble = (Vec<u8>, io::Error);

/// A directory whose entries are being decided about.
pub struct Inside {
    selection: Arc<Selection>,
    folder: Folder,
    /// The directory's own path from the root, with a slash; empty when no rule looks at it.
    path: Vec<u8>,
    marker: Option<Box<[u8]>>,
    /// Its ignore file cannot be read, and so not be taken either.
    blind: bool,
    /// What was named here and is missing.
    pub missing: Vec<Trouble>,
    /// Its ignore file, if that is not heeded as it stands.
    pub broken: Option<Trouble>,
}

impl Selection {
    /// What to know of the root itself.
    pub fn top(&self, dev: u64) -> Folder {
        Folder { named: self.named.clone(), ignores: None, dev, chosen: true }
    }

    /// What to know of a directory `below` a root. What cannot be read on the way says nothing.
    pub fn way(self: &Arc<Selection>, root: &Path, below: &[u8]) -> io::Result<Folder> {
        let mut handle = source::open_path(root)?;
        let mut folder = self.top(source::stat_fd(handle.as_fd())?.dev);
        let mut path = Vec::new();
        for name in below.split(|b| *b == b'/').filter(|name| !name.is_empty()) {
            let Ok(found) = self.step(&folder, &path, handle.as_fd(), name) else { break };
            (handle, folder) = found;
            path = [&with_slash(path), name].concat();
        }
        Ok(folder)
    }

    fn step(
        self: &Arc<Selection>,
        folder: &Folder,
        path: &[u8],
        handle: BorrowedFd,
        name: &[u8],
    ) -> io::Result<(OwnedFd, Folder)> {
        let inside = self.enter(folder, || path.to_vec(), handle, &source::list(handle)?);
        let stat = source::stat_at(handle, name)?;
        let below = source::open_directory(handle, name)?;
        Ok((below, inside.descend(&mut Vec::new(), name, &stat).1))
    }

    /// Begins with a directory and its sorted `names`.
    pub fn enter(
        self: &Arc<Selection>,
        folder: &Folder,
        path: impl Fn() -> Vec<u8>,
        handle: BorrowedFd,
        names: &[Box<[u8]>],
    ) -> Inside {
        let mut inside = Inside {
            selection: self.clone(),
            folder: folder.clone(),
            path: Vec::new(),
            marker: None,
            blind: false,
            missing: Vec::new(),
            broken: None,
        };
        inside.seek_named(names);
        inside.seek_marker(handle, names);
        inside.seek_ignores(&path, handle, names);
        let asks = |ignores: &Ignores| ignores.rules.needs_path();
        let ignores = std::iter::successors(inside.folder.ignores.as_deref(), |ignores| ignores.above.as_deref());
        if self.rules.needs_path() || ignores.into_iter().any(asks) {
            inside.path = with_slash(path());
        }
        inside
    }
}

fn with_slash(mut path: Vec<u8>) -> Vec<u8> {
    if !path.is_empty() {
        path.push(b'/');
    }
    path
}

fn has(names: &[Box<[u8]>], name: &[u8]) -> bool {
    names.binary_search_by(|found| (**found).cmp(name)).is_ok()
}

impl Inside {
    /// What is named here and missing is reported.
    fn seek_named(&mut self, names: &[Box<[u8]>]) {
        let named = &self.folder.named;
        for name in named.names().filter(|name| !has(names, name)) {
            let gone = |path| (path, io::Error::from(rustix::io::Errno::NOENT));
            self.missing.extend(named.paths(name, true).into_iter().map(gone));
        }
    }

    fn seek_marker(&mut self, handle: BorrowedFd, names: &[Box<[u8]>]) {
        if self.folder.chosen || !self.folder.named.whole {
            return;
        }
        let selection = &self.selection;
        let cache = selection.caches && has(names, CACHE_TAG) && is_cache_tag(handle);
        self.marker = match cache {
            true => Some(CACHE_TAG.into()),
            false => selection.markers.iter().find(|marker| has(names, marker)).cloned(),
        };
    }

    fn seek_ignores(&mut self, path: &impl Fn() -> Vec<u8>, handle: BorrowedFd, names: &[Box<[u8]>]) {
        let asked = self.selection.ignore_files && self.folder.named.whole && self.marker.is_none();
        if !asked || !has(names, IGNORE_FILE) {
            return;
        }
        let before = with_slash(path());
        let file: Arc<[u8]> = [&before, IGNORE_FILE].concat().into();
        let bytes = self.folder.ignores.as_ref().map_or(0, |ignores| ignores.bytes);
        match read_ignore_file(handle, MAX_IGNORES - bytes) {
            Ok(text) => {
                let (rules, wrong) = parse(&text, &file);
                self.broken = wrong.map(|why| (file.to_vec(), io::Error::other(why)));
                let above = self.folder.ignores.take();
                let bytes = bytes + text.len();
                self.folder.ignores = Some(Arc::new(Ignores { rules, base: before.len(), above, bytes }));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                self.blind = error.raw_os_error().is_some();
                self.broken = Some((file.to_vec(), error));
            }
        }
    }

    /// Of the directory's names, those stay that are to be decided about. The answer: how many a marker left out.
    pub fn keep(&self, names: &mut Vec<Box<[u8]>>) -> u64 {
        let named = &self.folder.named;
        if !named.whole {
            names.retain(|name| named.find(name).is_some());
        }
        // It is reported already.
        if self.blind {
            names.retain(|name| **name != *IGNORE_FILE);
        }
        let Some(marker) = &self.marker else { return 0 };
        let before = names.len();
        names.retain(|name| name == marker || named.find(name).is_some());
        (before - names.len()) as u64
    }

    /// Whether it is the ignore file, which cannot be read.
    pub fn is_lost(&self, name: &[u8]) -> bool {
        self.blind && name == IGNORE_FILE
    }

    pub fn is_closed(&self) -> bool {
        self.folder.is_closed()
    }

    /// Whether an entry is taken, and why. `scratch` is overwritten.
    pub fn decide(&self, scratch: &mut Vec<u8>, name: &[u8], stat: &Stat) -> (bool, Why<'_>) {
        let is_directory = stat.kind == FileType::Directory;
        if stat.kind == FileType::Socket {
            return (false, Why::Socket);
        }
        if is_directory && self.selection.skip.contains(&(stat.dev, stat.ino)) {
            return (false, Why::Store);
        }
        let whole = self.folder.named.whole;
        match self.folder.named.find(name) {
            Some(mention) if mention.itself => (true, Why::Named),
            Some(_) if is_directory => (true, Why::Way),
            Some(_) if !whole => (false, Why::NoDirectory),
            None if !whole => (false, Why::Unnamed),
            _ => self.decide_whole(scratch, name, stat),
        }
    }

    fn decide_whole(&self, scratch: &mut Vec<u8>, name: &[u8], stat: &Stat) -> (bool, Why<'_>) {
        if let Some(marker) = &self.marker {
            return (**marker == *name, Why::Marker(marker));
        }
        let is_directory = stat.kind == FileType::Directory;
        let rule = self.rule(scratch, name, is_directory);
        if let Some(rule) = rule.filter(|rule| !rule.takes) {
            return (false, Why::Rule(rule));
        }
        if !is_directory && self.selection.one_file_system && stat.dev != self.folder.dev {
            return (false, Why::Mount);
        }
        if let Some(rule) = rule {
            return (true, Why::Rule(rule));
        }
        let is_large = self.selection.larger_than.is_some_and(|limit| stat.size > limit);
        if is_large && stat.kind == FileType::RegularFile {
            return (false, Why::Size);
        }
        (true, Why::Default)
    }

    /// The rule that decides: the caller's last that matches, else that of the deepest ignore file.
    fn rule(&self, scratch: &mut Vec<u8>, name: &[u8], is_directory: bool) -> Option<&Pattern> {
        let rules = &self.selection.rules;
        if rules.is_empty() && self.folder.ignores.is_none() {
            return None;
        }
        scratch.clear();
        scratch.extend_from_slice(&self.path);
        scratch.extend_from_slice(name);
        if let Some(rule) = rules.find(name, scratch, is_directory) {
            return Some(rule);
        }
        let ignores = std::iter::successors(self.folder.ignores.as_deref(), |ignores| ignores.above.as_deref());
        // Where no rule looks at paths, there are only names.
        let below = |ignores: &Ignores| ignores.base.min(scratch.len() - name.len());
        ignores.into_iter().find_map(|ignores| ignores.rules.find(name, &scratch[below(ignores)..], is_directory))
    }

    /// Whether a directory is a mount that is not entered.
    pub fn stays_outside(&self, name: &[u8], stat: &Stat) -> bool {
        self.selection.one_file_system && stat.dev != self.folder.dev && self.folder.named.find(name).is_none()
    }

    /// What to know of a directory that is taken.
    pub fn below(&self, scratch: &mut Vec<u8>, name: &[u8], stat: &Stat) -> Folder {
        let Folder { ignores, dev, .. } = self.folder.clone();
        match self.folder.named.find(name) {
            Some(mention) => {
                let mut named = mention.below;
                named.whole |= self.folder.named.whole && self.decide_whole(scratch, name, stat).0;
                // Named ones start afresh, but for what stands in ignore files above them.
                Folder { named, ignores, dev: stat.dev, chosen: mention.itself }
            }
            None => {
                let chosen = self.rule(scratch, name, true).is_some_and(|rule| rule.takes);
                Folder { named: Named::default(), ignores, dev, chosen }
            }
        }
    }

    /// Whether a directory is taken, and what to know of it either way: in one that is not, or that is not entered,
    /// nothing is.
    pub fn descend(&self, scratch: &mut Vec<u8>, name: &[u8], stat: &Stat) -> (bool, Folder) {
        let taken = self.decide(scratch, name, stat).0;
        if taken && !self.stays_outside(name, stat) {
            return (true, self.below(scratch, name, stat));
        }
        (taken, Folder { named: Named::new(Vec::new(), false), ..Folder::default() })
    }

    /// What was named and cannot be taken, because of what the entry on the way to it is.
    pub fn lost(&self, name: &[u8], stat: &Stat, why: &Why) -> Vec<Trouble> {
        let in_store = matches!(why, Why::Store);
        if !self.folder.is_named() || (stat.kind == FileType::Directory && !in_store) {
            return Vec::new();
        }
        let error = match in_store {
            true => "it is the store itself, or in it",
            false => "what is on the way to it is no directory (symbolic links are not followed)",
        };
        let paths = self.folder.named.paths(name, in_store);
        paths.into_iter().map(|path| (path, io::Error::other(error))).collect()
    }
}

impl Folder {
    /// Whether something in this directory was named.
    pub fn is_named(&self) -> bool {
        !self.named.is_empty()
    }

    /// Whether nothing here is taken, whatever it is.
    pub fn is_closed(&self) -> bool {
        !self.named.whole && self.named.is_empty()
    }
}

/// Whether the regular file CACHEDIR.TAG begins as <https://bford.info/cachedir/> demands. One that cannot be read does not; the walk
/// reports it.
fn is_cache_tag(handle: BorrowedFd) -> bool {
    let is_file = source::stat_at(handle, CACHE_TAG).is_ok_and(|stat| stat.kind == FileType::RegularFile);
    let mut start = [0; CACHE_SIGNATURE.len()];
    let mut read = || source::read_at(source::open_file(handle, CACHE_TAG)?.as_fd(), &mut start, 0);
    is_file && read().is_ok() && start == *CACHE_SIGNATURE
}

fn read_ignore_file(handle: BorrowedFd, allowance: usize) -> io::Result<Vec<u8>> {
    match source::stat_at(handle, IGNORE_FILE)?.kind {
        FileType::RegularFile => {}
        FileType::Symlink => return Err(io::Error::other("an ignore file cannot be a symbolic link")),
        _ => return Err(io::Error::other("an ignore file must be a regular file")),
    }
    let file = source::open_file(handle, IGNORE_FILE)?;
    let mut text = Vec::new();
    source::append_at(file.as_fd(), &mut text, MAX_IGNORE_FILE + 1, 0)?;
    if text.len() > MAX_IGNORE_FILE {
        return Err(io::Error::other("an ignore file cannot be larger than 256 KiB"));
    }
    if text.len() > allowance {
        return Err(io::Error::other("with those above it, it is larger than 1 MiB"));
    }
    Ok(text)
}

/// The rules of an ignore file, and what is wrong with the first line that has no meaning; the others hold.
fn parse(text: &[u8], file: &Arc<[u8]>) -> (Rules, Option<String>) {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let (mut patterns, mut wrong) = (Vec::new(), None);
    for (number, line) in (1..).zip(text.split(|b| *b == b'\n')) {
        match Pattern::parse(line, Some(file.clone()), number) {
            Ok(pattern) => patterns.extend(pattern),
            Err(why) => {
                wrong.get_or_insert(format!("line {number} is not a pattern: {why}"));
            }
        }
    }
    (Rules::new(patterns), wrong)
}
