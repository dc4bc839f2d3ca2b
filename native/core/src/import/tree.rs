//! The tree of an archive's entries while it is read, and its nodes when all is there. Behaves as a file system would:
//! names are links to numbered nodes, later names replace earlier ones.

use std::collections::{BTreeMap, HashMap};

use super::MAX_TREE_BYTES;
use crate::content::store_links;
use crate::error::{show, Error, Result};
use crate::node::{check_name, Content, Directory, Entry, List, Root, Sequence, Time, What, Xattrs, MAX_PATH_LEN};
use crate::packer::{Lane, Packer};
use crate::take::Taken;
use crate::walk::join;

const MAX_DEPTH: usize = 4096;
const TOP: u32 = 0;
/// What an entry takes beside its name and content, roughly.
const NODE_BYTES: usize = size_of::<Node>() + 80;

struct Node {
    entry: Entry,
    children: BTreeMap<Box<[u8]>, u32>,
    /// A directory that the archive has no member for (yet).
    implied: bool,
}

pub(super) struct Tree {
    nodes: Vec<Node>,
    bytes: usize,
}

/// Why a member cannot be in the tree. Where it stands in the archive is for the parser to say.
fn refuse<T>(why: impl Into<String>) -> Result<T> {
    Err(Error::Archive(why.into()))
}

impl Tree {
    pub(super) fn new() -> Tree {
        Tree { nodes: vec![implied()], bytes: NODE_BYTES }
    }

    /// Names on the way to a member: leading slashes and `.` mean nothing, as for tar.
    pub(super) fn names(path: &[u8]) -> Result<Vec<&[u8]>> {
        if path.len() >= MAX_PATH_LEN {
            return refuse("its name is too long");
        }
        let names: Vec<&[u8]> = path.split(|b| *b == b'/').filter(|n| !n.is_empty() && *n != b".").collect();
        match names.iter().find(|name| !check_name(name)) {
            Some(&b"..") => refuse("its name leads out of the archive"),
            Some(name) if name.len() > 255 => refuse("its name has a part of more than 255 bytes"),
            Some(_) => refuse("its name holds a NUL"),
            None if names.len() > MAX_DEPTH => refuse("it is nested too deeply"),
            None => Ok(names),
        }
    }

    /// Counts memory; fails when the entries would take too much.
    pub(super) fn charge(&mut self, bytes: usize) -> Result<()> {
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes > MAX_TREE_BYTES {
            let most = MAX_TREE_BYTES >> 20;
            return refuse(format!("the archive has too many entries: they take more than {most} MiB of memory"));
        }
        Ok(())
    }

    fn add(&mut self, node: Node) -> Result<u32> {
        self.charge(NODE_BYTES)?;
        self.nodes.push(node);
        Ok((self.nodes.len() - 1) as u32)
    }

    /// The directory that is to hold the last of `names`.
    fn parent(&mut self, names: &[&[u8]]) -> Result<u32> {
        let mut at = TOP;
        for (depth, name) in names[..names.len() - 1].iter().enumerate() {
            at = match self.nodes[at as usize].children.get(*name) {
                Some(next) => *next,
                None => {
                    let made = self.add(implied())?;
                    self.link(at, name, made)?;
                    made
                }
            };
            if !self.is_directory(at) {
                let above = show(&names[..=depth].join(&b'/'));
                return refuse(format!("it lies below {above}, which is no directory"));
            }
        }
        Ok(at)
    }

    fn is_directory(&self, node: u32) -> bool {
        matches!(self.nodes[node as usize].entry.what, What::Directory(_))
    }

    fn link(&mut self, parent: u32, name: &[u8], node: u32) -> Result<()> {
        self.charge(name.len() + 48)?;
        self.nodes[parent as usize].children.insert(name.into(), node);
        Ok(())
    }

    /// Puts an entry at its place; the answer is its number. The last of several members of a name wins.
    pub(super) fn put(&mut self, names: &[&[u8]], entry: Entry) -> Result<u32> {
        self.charge(heap_of_entry(&entry))?;
        let is_directory = matches!(entry.what, What::Directory(_));
        let Some(name) = names.last() else {
            if !is_directory {
                return refuse("it has no name");
            }
            self.renew(TOP, entry);
            return Ok(TOP);
        };
        let parent = self.parent(names)?;
        match self.nodes[parent as usize].children.get(*name).copied() {
            Some(there) if is_directory && self.is_directory(there) => {
                self.renew(there, entry);
                return Ok(there);
            }
            Some(there) if !self.nodes[there as usize].children.is_empty() => {
                return refuse("it would replace a directory that has entries");
            }
            _ => {}
        }
        let node = self.add(Node { entry, children: BTreeMap::new(), implied: false })?;
        self.link(parent, name, node)?;
        Ok(node)
    }

    fn renew(&mut self, directory: u32, entry: Entry) {
        let node = &mut self.nodes[directory as usize];
        (node.entry, node.implied) = (entry, false);
    }

    /// Makes a member a hard link to an earlier one.
    pub(super) fn put_link(&mut self, names: &[&[u8]], target: &[&[u8]]) -> Result<()> {
        let mut found = Some(TOP);
        for name in target {
            found = found.and_then(|at| self.nodes[at as usize].children.get(*name).copied());
        }
        let Some(node) = found.filter(|node| !self.is_directory(*node)) else {
            let target = show(&target.join(&b'/'));
            return refuse(format!("it is a hard link to {target}, which is no earlier file of the archive"));
        };
        let Some(name) = names.last() else { return refuse("it has no name") };
        let parent = self.parent(names)?;
        let there = self.nodes[parent as usize].children.get(*name);
        if there.is_some_and(|there| !self.nodes[*there as usize].children.is_empty()) {
            return refuse("it would replace a directory that has entries");
        }
        // Its path is needed again for the table of hard links.
        self.charge(names.iter().chain(target).map(|name| name.len() + 1).sum::<usize>() * 2)?;
        self.link(parent, name, node)?;
        Ok(())
    }

    /// Gives files their contents.
    pub(super) fn fill(&mut self, contents: impl Iterator<Item = (u32, Content)>) -> Result<()> {
        for (node, found) in contents {
            self.charge(heap_of(&found))?;
            if let What::File { content, .. } = &mut self.nodes[node as usize].entry.what {
                *content = found;
            }
        }
        Ok(())
    }

    /// Stores the nodes, bottom up, and the root.
    pub(super) fn store(mut self, packer: &Packer, lane: &mut Lane, taken: &mut Taken) -> Result<()> {
        let (order, groups) = self.survey(taken);
        for at in order.into_iter().rev() {
            packer.progress.check()?;
            let (directory, newest) = self.directory(packer, lane, at)?;
            let node = &mut self.nodes[at as usize];
            node.entry.what = What::Directory(directory);
            if node.implied {
                node.entry.mtime = newest;
            }
        }
        let links = store_links(packer, lane, groups.into_values())?;
        let root = Root { entry: self.nodes[TOP as usize].entry.clone(), links };
        taken.id = Some(lane.offer_node(packer, &root.encode())?);
        (taken.entries, taken.bytes) = root.entry.totals();
        Ok(())
    }

    /// Numbers of all directories, those above before those below, and the paths of what has several. Counts what is there.
    fn survey(&self, taken: &mut Taken) -> (Vec<u32>, HashMap<u32, Vec<Vec<u8>>>) {
        let mut names = vec![0u32; self.nodes.len()];
        for child in self.nodes.iter().flat_map(|node| node.children.values()) {
            names[*child as usize] += 1;
        }
        let mut order = Vec::new();
        let mut groups: HashMap<u32, Vec<Vec<u8>>> = HashMap::new();
        // Directories to come, with their names and the length of the path to them: one path is held, not one for each.
        let mut waiting: Vec<(u32, &[u8], usize)> = vec![(TOP, b"", 0)];
        let mut path: Vec<u8> = Vec::new();
        while let Some((at, name, above)) = waiting.pop() {
            path.truncate(above);
            path = join(&path, name);
            order.push(at);
            for (name, child) in &self.nodes[at as usize].children {
                let entry = &self.nodes[*child as usize].entry;
                taken.uids.insert(entry.uid);
                taken.gids.insert(entry.gid);
                let is_directory = matches!(entry.what, What::Directory(_));
                taken.files += u64::from(matches!(entry.what, What::File { .. }));
                if !is_directory && names[*child as usize] < 2 {
                    continue;
                }
                match is_directory {
                    true => waiting.push((*child, name, path.len())),
                    false => groups.entry(*child).or_default().push(join(&path, name)),
                }
            }
        }
        let top = &self.nodes[TOP as usize].entry;
        taken.uids.insert(top.uid);
        taken.gids.insert(top.gid);
        taken.new_files = taken.files;
        taken.directories = order.len() as u64;
        (order, groups)
    }

    /// The nodes of a directory whose children are stored, and the newest time among these.
    fn directory(&self, packer: &Packer, lane: &mut Lane, at: u32) -> Result<(Directory, Time)> {
        let children = &self.nodes[at as usize].children;
        let mut directory = Directory { items: children.len() as u64, ..Directory::default() };
        let mut newest: Option<Time> = None;
        if children.is_empty() {
            return Ok((directory, Time::default()));
        }
        let mut emit = |node: Vec<u8>| lane.offer_node(packer, &node);
        let mut sequence = Sequence::of_nodes();
        for (name, child) in children {
            let entry = Entry { name: name.clone(), ..self.nodes[*child as usize].entry.clone() };
            let (entries, bytes) = entry.totals();
            directory.entries += entries;
            directory.bytes = directory.bytes.saturating_add(bytes).min(i64::MAX as u64);
            newest = newest.max(Some(entry.mtime));
            sequence.push(entry, &mut emit)?;
        }
        if let List::Node { id, .. } = sequence.finish(&mut emit)? {
            directory.node = Some(id);
        }
        Ok((directory, newest.unwrap_or_default()))
    }
}

/// What content takes in memory, beside its entry.
fn heap_of(content: &Content) -> usize {
    match content {
        Content::InPlace(bytes) => bytes.len(),
        Content::Chunks(list) => match &**list {
            List::InPlace(chunks) => 64 + chunks.len() * 40,
            List::Node { .. } => 64,
        },
        Content::Empty | Content::One(_) => 0,
    }
}

/// What an entry takes in memory beside itself.
fn heap_of_entry(entry: &Entry) -> usize {
    match &entry.what {
        What::Symlink(target) => target.len(),
        What::File { content, holes, .. } => {
            let holes = match holes.as_deref() {
                Some(List::InPlace(holes)) => 64 + holes.len() * 16,
                Some(List::Node { .. }) => 64,
                None => 0,
            };
            heap_of(content) + holes
        }
        _ => 0,
    }
}

/// A directory as tar would make it for what is below it: ours, its time that of the newest entry in it.
fn implied() -> Node {
    let entry = Entry {
        name: Box::default(),
        mode: 0o755,
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        mtime: Time::default(),
        what: What::Directory(Directory::default()),
        xattrs: None::<Box<Xattrs>>,
    };
    Node { entry, children: BTreeMap::new(), implied: true }
}
