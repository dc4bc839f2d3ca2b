//! Checking trees: every distinct node is read once, and every chunk asked for. Only when something is wrong, the trees are
//! walked again, to name the paths that it concerns in each root.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::MAX_PROBLEMS;
use crate::error::{Error, Result};
use crate::id::{Id, ZERO_ID};
use crate::node::{Chunk, Content, Directory, Entry, Hole, Item, Key, Link, List, Node, What, Xattrs};
use crate::progress::{add, Progress};
use crate::reader::{Children, Expected, Ordered, Place, Reader};

/// Chunks whose places are asked for at once.
const BATCH: usize = 4096;
const MAX_DEPTH: usize = 4096;

/// Something wrong in a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TreeProblem {
    /// Number of the root in the call.
    pub root: usize,
    /// Path below the root.
    pub path: Vec<u8>,
    pub reason: String,
}

/// What the checking of trees found.
#[derive(Clone, Debug, Default)]
pub struct TreesChecked {
    /// Distinct nodes read.
    pub nodes: u64,
    /// References to chunks checked.
    pub chunks: u64,
    /// At most `MAX_PROBLEMS`.
    pub problems: Vec<TreeProblem>,
    pub problem_count: u64,
    /// False when the time limit ended it early.
    pub complete: bool,
}

/// Reads every distinct node below `roots` and asks where every chunk stands; `bad_ids` count as missing. That a chunk can
/// be read is not seen here, but by `check_packs`. After `time_limit` no node is read any more. Fails when cancelled, or
/// when the index fails.
pub fn check_trees(
    reader: &Arc<Reader>,
    roots: &[Id],
    bad_ids: &[Id],
    time_limit: Option<Duration>,
    progress: &Progress,
) -> Result<TreesChecked> {
    let bad: HashSet<Id> = bad_ids.iter().copied().collect();
    let until = time_limit.map(|limit| Instant::now() + limit);
    let mut first = Walk::new(reader, &bad, until, progress, false);
    first.walk_roots(roots)?;
    let mut checked = first.found;
    if let Some(root) = first.wrong {
        let mut second = Walk::new(reader, &bad, until, progress, true);
        second.walk_roots(roots)?;
        if second.found.problems.is_empty() && !second.found.complete {
            let reason = "something in it is damaged; the time limit came before that could be named".into();
            second.found.problems.push(TreeProblem { root, path: Vec::new(), reason });
            second.found.problem_count = 1;
        }
        checked.problems = second.found.problems;
        checked.problem_count = second.found.problem_count;
        checked.complete &= second.found.complete;
    }
    Ok(checked)
}

/// A node together with what was expected of it, in 16 bytes: what is remembered of a node holds only where the same is
/// expected again.
type Memo = [u8; 16];

fn memo<T: Item>(id: &Id, expected: &Expected) -> Memo {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&id.0);
    hasher.update(&[T::KIND, expected.level.map_or(0xff, |level| level)]);
    hasher.update(&expected.items.to_le_bytes());
    for key in [&expected.key, &expected.after] {
        match key {
            None => hasher.update(&[0]),
            Some(Key::Number(number)) => hasher.update(&[1]).update(&number.to_le_bytes()),
            Some(Key::Bytes(bytes)) => hasher.update(&[2]).update(&(bytes.len() as u64).to_le_bytes()).update(bytes),
        };
    }
    hasher.finalize().as_bytes()[..16].try_into().expect("16 of 32 bytes")
}

/// A directory's node that is being walked.
struct Frame {
    memo: Memo,
    below: std::vec::IntoIter<Below>,
    /// Entries and bytes in all below, as far as seen.
    totals: (u64, u64),
    /// What the directory says they are; None unless this is its top node.
    declared: Option<(u64, u64)>,
    problems_before: u64,
    path_len: usize,
    depth: usize,
}

enum Below {
    Node(Id, Expected),
    Directory(Box<[u8]>, Directory),
}

/// What is wrong with one entry.
#[derive(Default)]
struct Fault {
    bad_chunks: u64,
    first: Option<(Id, String)>,
    reasons: Vec<String>,
}

impl Fault {
    fn count(&self) -> u64 {
        self.bad_chunks + self.reasons.len() as u64
    }

    fn chunk(&mut self, id: Id, reason: &str) {
        self.bad_chunks += 1;
        self.first.get_or_insert_with(|| (id, reason.to_string()));
    }

    fn into_text(self) -> Option<String> {
        let chunks = self.first.map(|(id, reason)| match self.bad_chunks {
            1 => format!("chunk {id} {reason}"),
            count => format!("{count} of its chunks cannot be read; the first: chunk {id} {reason}"),
        });
        let all: Vec<String> = self.reasons.into_iter().chain(chunks).collect();
        (!all.is_empty()).then(|| all.join("; "))
    }
}

/// What is done with the items of a leaf.
type OnLeaf<'a, 'f, T> = dyn FnMut(&mut Walk<'a>, &[T], &mut Fault) -> Result<()> + 'f;

/// A walk over trees. The first only finds out whether anything is wrong; a second one, `naming`, where.
struct Walk<'a> {
    reader: &'a Reader,
    bad: &'a HashSet<Id>,
    until: Option<Instant>,
    progress: &'a Progress,
    naming: bool,
    /// Totals below the nodes that need not be read again: all that were read, or, when naming, those found clean.
    known: HashMap<Memo, (u64, u64)>,
    /// When naming, the number of problems below nodes that are not clean.
    dirty: HashMap<Memo, u64>,
    /// Packs that were tried.
    packs: HashMap<u32, bool>,
    waiting: Vec<Chunk>,
    /// The first root in which something is wrong.
    wrong: Option<usize>,
    root: usize,
    path: Vec<u8>,
    found: TreesChecked,
}

impl<'a> Walk<'a> {
    fn new(
        reader: &'a Reader,
        bad: &'a HashSet<Id>,
        until: Option<Instant>,
        progress: &'a Progress,
        naming: bool,
    ) -> Walk<'a> {
        Walk {
            reader,
            bad,
            until,
            progress,
            naming,
            known: HashMap::new(),
            dirty: HashMap::new(),
            packs: HashMap::new(),
            waiting: Vec::new(),
            wrong: None,
            root: 0,
            path: Vec::new(),
            found: TreesChecked { complete: true, ..TreesChecked::default() },
        }
    }

    fn walk_roots(&mut self, roots: &[Id]) -> Result<()> {
        for (number, root) in roots.iter().enumerate() {
            match self.walk_root(number, root) {
                Err(Error::Cancelled) if !self.found.complete => return self.ask(),
                walked => walked?,
            }
            self.ask()?; // for each root by itself, so that what is wrong is known to be in it
        }
        Ok(())
    }

    /// Fails when cancelled, and when the time limit has come: then what was found so far is the result.
    fn go_on(&mut self) -> Result<()> {
        if self.until.is_some_and(|until| Instant::now() >= until) {
            self.found.complete = false;
            return Err(Error::Cancelled);
        }
        self.progress.check()
    }

    fn problem(&mut self, reason: String) {
        self.wrong.get_or_insert(self.root);
        self.found.problem_count += 1;
        if self.naming {
            add(&self.progress.errors, 1);
            if self.found.problems.len() < MAX_PROBLEMS {
                self.found.problems.push(TreeProblem { root: self.root, path: self.path.clone(), reason });
            }
        }
    }

    /// Notes an error of reading, unless it is not the store's.
    fn note(&mut self, error: Error) -> Result<()> {
        self.problem(text(error)?);
        Ok(())
    }

    fn walk_root(&mut self, number: usize, id: &Id) -> Result<()> {
        (self.root, self.path) = (number, Vec::new());
        self.go_on()?;
        if self.bad.contains(id) {
            self.problem(format!("node {id} is damaged"));
            return Ok(());
        }
        let root = match self.reader.root(id) {
            Ok(root) => root,
            Err(error) => return self.note(error),
        };
        if self.known.insert(id.0[..16].try_into().expect("16 of 32 bytes"), (0, 0)).is_none() {
            self.found.nodes += 1;
        }
        if let Some((items, top)) = root.links {
            let mut fault = Fault::default();
            self.walk_list::<Link>(&top, Expected::top(items), &mut fault, &mut |_, _, _| Ok(()))?;
            fault.into_text().into_iter().for_each(|text| self.problem(format!("its hard-link table: {text}")));
        }
        self.check_entry(&root.entry)?;
        match root.entry.what {
            What::Directory(directory) => self.walk_directory(directory),
            _ => Ok(()),
        }
    }

    /// Walks a directory and all below it, without recursion: they may be nested thousands deep.
    fn walk_directory(&mut self, directory: Directory) -> Result<()> {
        let mut frames = Vec::new();
        self.enter_directory(directory, 0, &mut frames)?;
        while let Some(frame) = frames.last_mut() {
            let depth = frame.depth;
            self.path.truncate(frame.path_len);
            match frame.below.next() {
                None => self.leave(&mut frames),
                Some(Below::Node(id, expected)) => self.enter(id, expected, None, depth, &mut frames)?,
                Some(Below::Directory(name, directory)) => {
                    self.push_name(&name);
                    self.enter_directory(directory, depth + 1, &mut frames)?;
                }
            }
        }
        Ok(())
    }

    fn push_name(&mut self, name: &[u8]) {
        if !self.path.is_empty() {
            self.path.push(b'/');
        }
        self.path.extend_from_slice(name);
    }

    fn enter_directory(&mut self, directory: Directory, depth: usize, frames: &mut Vec<Frame>) -> Result<()> {
        let Some(id) = directory.node else { return Ok(()) };
        if depth > MAX_DEPTH {
            self.problem("its directories are nested too deep".into());
            return Ok(());
        }
        self.enter(id, Expected::top(directory.items), Some((directory.entries, directory.bytes)), depth, frames)
    }

    /// Reads a directory's node, unless that was done before, checks its entries and puts what is below it on `frames`.
    fn enter(
        &mut self,
        id: Id,
        expected: Expected,
        declared: Option<(u64, u64)>,
        depth: usize,
        frames: &mut Vec<Frame>,
    ) -> Result<()> {
        let memo = memo::<Entry>(&id, &expected);
        if let Some(totals) = self.known.get(&memo).copied() {
            self.add_totals(totals, declared, true, frames.last_mut());
            return Ok(());
        }
        if let Some(count) = self.dirty.get(&memo).filter(|_| self.found.problems.len() >= MAX_PROBLEMS) {
            // Nothing can be named any more, and a tree may hold the same directory many times.
            self.found.problem_count = self.found.problem_count.saturating_add(*count);
            return Ok(());
        }
        let problems_before = self.found.problem_count;
        let node = match self.read::<Entry>(&id, &expected)? {
            Ok(node) => node,
            Err(reason) => {
                self.problem(reason);
                return Ok(());
            }
        };
        let path_len = self.path.len();
        let (below, totals) = match node {
            Node::Inner { level, children } => {
                let children = Children::new(level, children, expected);
                (children.map(|(id, expected)| Below::Node(id, expected)).collect(), (0, 0))
            }
            Node::Leaf(entries) => self.check_leaf(entries)?,
        };
        let below: Vec<Below> = below;
        frames.push(Frame { memo, below: below.into_iter(), totals, declared, problems_before, path_len, depth });
        Ok(())
    }

    fn check_leaf(&mut self, entries: Vec<Entry>) -> Result<(Vec<Below>, (u64, u64))> {
        let path_len = self.path.len();
        let (mut below, mut totals) = (Vec::new(), (0u64, 0u64));
        for entry in entries {
            let (entries, bytes) = entry.totals();
            totals = (totals.0.saturating_add(entries), totals.1.saturating_add(bytes));
            self.push_name(&entry.name);
            self.check_entry(&entry)?;
            self.path.truncate(path_len);
            if let What::Directory(directory) = entry.what {
                below.push(Below::Directory(entry.name, directory));
            }
        }
        Ok((below, totals))
    }

    /// Ends the last frame: remembers its node, and gives its totals to the one above.
    fn leave(&mut self, frames: &mut Vec<Frame>) {
        let Some(frame) = frames.pop() else { return };
        let problems = self.found.problem_count - frame.problems_before;
        if !self.naming || problems == 0 {
            self.known.insert(frame.memo, frame.totals);
        } else {
            self.dirty.insert(frame.memo, problems);
        }
        self.add_totals(frame.totals, frame.declared, problems == 0, frames.last_mut());
    }

    /// Adds up the totals of a directory's nodes; those of the top node must be what the directory says.
    fn add_totals(&mut self, totals: (u64, u64), declared: Option<(u64, u64)>, sure: bool, above: Option<&mut Frame>) {
        match (declared, above) {
            (Some(declared), _) if sure && declared != totals => {
                self.problem("the sums of its entries or bytes are wrong".into());
            }
            (None, Some(above)) => {
                above.totals = (above.totals.0.saturating_add(totals.0), above.totals.1.saturating_add(totals.1));
            }
            _ => {}
        }
    }

    /// Checks the lists of an entry. What is below a directory is not looked at.
    fn check_entry(&mut self, entry: &Entry) -> Result<()> {
        let mut fault = Fault::default();
        if let What::File { size, content, holes } = &entry.what {
            match content {
                Content::Empty | Content::InPlace(_) => {}
                Content::One(id) => self.check_chunks(&[Chunk { len: *size, id: *id }], &mut fault)?,
                Content::Chunks(list) => self.check_list(list, *size, &mut fault)?,
            }
            if let Some(List::Node { items, id }) = holes.as_deref() {
                let size = *size;
                self.walk_list::<Hole>(id, Expected::top(*items), &mut fault, &mut |_, holes, fault| {
                    if holes.last().is_some_and(|hole| hole.end > size) {
                        fault.reasons.push("a hole is outside its file".into());
                    }
                    Ok(())
                })?;
            }
        }
        if let Some(Xattrs::Chunks { len, list }) = entry.xattrs.as_deref() {
            self.check_list(list, *len, &mut fault)?;
        }
        fault.into_text().into_iter().for_each(|text| self.problem(text));
        Ok(())
    }

    fn check_list(&mut self, list: &List<Chunk>, size: u64, fault: &mut Fault) -> Result<()> {
        match list {
            List::InPlace(chunks) => {
                if chunks.iter().map(|chunk| chunk.len).sum::<u64>() != size {
                    fault.reasons.push("its chunks do not add up".into());
                }
                self.check_chunks(chunks, fault)
            }
            List::Node { items, id } => {
                let expected = Expected::content(*items, size);
                self.walk_list::<Chunk>(id, expected, fault, &mut |walk, chunks, fault| {
                    walk.check_chunks(chunks, fault)
                })
            }
        }
    }

    /// Walks the nodes of a list, as deep as the format allows levels.
    fn walk_list<T: Ordered>(
        &mut self,
        id: &Id,
        expected: Expected,
        fault: &mut Fault,
        leaf: &mut OnLeaf<'a, '_, T>,
    ) -> Result<()> {
        // Where a hole must end, depends on the file that the list belongs to.
        let memo = (T::KIND != Hole::KIND).then(|| memo::<T>(id, &expected));
        if memo.is_some_and(|memo| self.known.contains_key(&memo)) {
            return Ok(());
        }
        let before = fault.count();
        match self.read::<T>(id, &expected)? {
            Err(reason) => fault.reasons.push(reason),
            Ok(Node::Leaf(items)) => leaf(self, &items, fault)?,
            Ok(Node::Inner { level, children }) => {
                for (id, expected) in Children::new(level, children, expected) {
                    self.walk_list(&id, expected, fault, leaf)?;
                }
            }
        }
        if let Some(memo) = memo.filter(|_| !self.naming || fault.count() == before) {
            self.known.insert(memo, (0, 0));
        }
        Ok(())
    }

    /// A node, or what is wrong with it.
    fn read<T: Ordered>(&mut self, id: &Id, expected: &Expected) -> Result<std::result::Result<Node<T>, String>> {
        self.go_on()?;
        self.progress.working_on(&self.path);
        if self.bad.contains(id) {
            return Ok(Err(format!("node {id} is damaged")));
        }
        match self.reader.sequence_node::<T>(id, expected) {
            Ok(node) => {
                self.found.nodes += 1;
                add(&self.progress.done_files, 1);
                Ok(Ok(node))
            }
            Err(error) => Ok(Err(text(error)?)),
        }
    }

    fn check_chunks(&mut self, chunks: &[Chunk], fault: &mut Fault) -> Result<()> {
        let stored = chunks.iter().filter(|chunk| chunk.id != ZERO_ID);
        if self.naming {
            let stored: Vec<Chunk> = stored.copied().collect();
            return self.judge(&stored, &mut |id, reason| fault.chunk(id, reason));
        }
        let before = self.waiting.len();
        self.waiting.extend(stored);
        self.found.chunks += (self.waiting.len() - before) as u64;
        match self.waiting.len() >= BATCH {
            true => self.ask(),
            false => Ok(()),
        }
    }

    /// Asks for the chunks that wait.
    fn ask(&mut self) -> Result<()> {
        let chunks = std::mem::take(&mut self.waiting);
        let mut wrong = false;
        self.judge(&chunks, &mut |_, _| wrong = true)?;
        if wrong {
            self.wrong.get_or_insert(self.root);
        }
        self.progress.check()
    }

    /// Hands those of `chunks` that cannot be had to `bad`.
    fn judge(&mut self, chunks: &[Chunk], bad: &mut dyn FnMut(Id, &str)) -> Result<()> {
        let ids: Vec<Id> = chunks.iter().map(|chunk| chunk.id).collect();
        let places = match self.reader.find(&ids) {
            Ok(places) => places,
            Err(error) => {
                let reason = text(error)?;
                chunks.iter().for_each(|chunk| bad(chunk.id, &reason));
                return Ok(());
            }
        };
        for (chunk, place) in chunks.iter().zip(places) {
            if self.bad.contains(&chunk.id) {
                bad(chunk.id, "is damaged");
                continue;
            }
            match place {
                None => bad(chunk.id, "is in no pack of the store"),
                Some(place) if place.len() as u64 != chunk.len => {
                    bad(chunk.id, "has another length than the tree says")
                }
                Some(place) if !self.can_open(&place)? => bad(chunk.id, "is in a pack that is missing or damaged"),
                Some(_) => {}
            }
        }
        Ok(())
    }

    fn can_open(&mut self, place: &Place) -> Result<bool> {
        if let Some(known) = self.packs.get(&place.pack) {
            return Ok(*known);
        }
        let can = match self.reader.check_pack(place) {
            Ok(()) => true,
            Err(error) => text(error).map(|_| false)?,
        };
        self.packs.insert(place.pack, can);
        Ok(can)
    }
}

/// The words of an error that is the store's; others end the check.
fn text(error: Error) -> Result<String> {
    match error {
        Error::Damaged(text) | Error::Tampered(text) | Error::Storage(text) | Error::TooNew(text) => Ok(text),
        other => Err(other),
    }
}
