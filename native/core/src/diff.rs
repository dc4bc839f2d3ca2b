//! What is different between trees. Two directories with the same node are the same: they are never entered. Renamed files
//! are found by their content.

use std::cmp::Ordering;
use std::collections::{HashMap, VecDeque};

use crate::error::Result;
use crate::node::{Content, Entry, Item, List, What};
use crate::reader::Reader;
use crate::walk::{check_depth, join, Entries, Pace, BATCH};

/// Changes among which renames are looked for. When there are more, none are.
pub const MAX_HELD: usize = if cfg!(test) { 100 } else { 150_000 };
/// Removed files with one content that are looked through for one with the right name.
const MAX_CANDIDATES: usize = 64;

/// A set of what may differ in an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Fields(pub u16);

impl Fields {
    pub const NAMES: [&'static str; 8] = ["content", "holes", "target", "device", "mode", "owner", "mtime", "xattrs"];
    pub const CONTENT: Fields = Fields(1);
    pub const HOLES: Fields = Fields(2);
    pub const TARGET: Fields = Fields(4);
    pub const DEVICE: Fields = Fields(8);
    pub const MODE: Fields = Fields(16);
    pub const OWNER: Fields = Fields(32);
    pub const MTIME: Fields = Fields(64);
    pub const XATTRS: Fields = Fields(128);
    /// What an entry holds, rather than what is said about it.
    pub const SUBSTANCE: Fields = Fields(1 | 4 | 8);

    pub fn add(&mut self, differs: bool, field: Fields) {
        if differs {
            self.0 |= field.0;
        }
    }

    pub fn without(self, others: Fields) -> Fields {
        Fields(self.0 & !others.0)
    }

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub fn has_any(self, others: Fields) -> bool {
        self.0 & others.0 != 0
    }

    pub fn names(self) -> Vec<&'static str> {
        Fields::NAMES
            .into_iter()
            .enumerate()
            .filter(move |(bit, _)| self.0 & (1 << bit) != 0)
            .map(|(_, name)| name)
            .collect()
    }
}

/// What is different between two entries of one type, what is in directories apart.
pub fn fields(old: &Entry, new: &Entry) -> Fields {
    let mut found = metadata(old, new);
    match (&old.what, &new.what) {
        (
            What::File { size, content, holes },
            What::File { size: new_size, content: new_content, holes: new_holes },
        ) => {
            found.add((size, content) != (new_size, new_content), Fields::CONTENT);
            found.add(holes != new_holes, Fields::HOLES);
        }
        (What::Symlink(target), What::Symlink(new_target)) => found.add(target != new_target, Fields::TARGET),
        (What::CharDevice(..) | What::BlockDevice(..), what) => found.add(old.what != *what, Fields::DEVICE),
        _ => {}
    }
    found.add(old.xattrs != new.xattrs, Fields::XATTRS);
    found
}

/// As `fields`, but only what a `stat` tells.
pub(crate) fn metadata(old: &Entry, new: &Entry) -> Fields {
    let mut found = Fields::default();
    found.add(old.mode != new.mode, Fields::MODE);
    found.add((old.uid, old.gid) != (new.uid, new.gid), Fields::OWNER);
    found.add(old.mtime != new.mtime, Fields::MTIME);
    found
}

pub(crate) fn same_type(old: &Entry, new: &Entry) -> bool {
    std::mem::discriminant(&old.what) == std::mem::discriminant(&new.what)
}

/// A difference. Without `old` something was added, without `new` removed. `old_path`, if it has another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub path: Vec<u8>,
    pub old_path: Option<Vec<u8>>,
    pub old: Option<Entry>,
    pub new: Option<Entry>,
    pub fields: Fields,
    /// Why the new one cannot be read.
    pub error: Option<String>,
}

impl Change {
    /// `added`, `removed`, `type`, `renamed`, `content`, `metadata`, or `unreadable`.
    pub fn kind(&self) -> &'static str {
        match (&self.old, &self.new) {
            _ if self.error.is_some() => "unreadable",
            (None, _) => "added",
            (_, None) => "removed",
            (Some(old), Some(new)) if !same_type(old, new) => "type",
            _ if self.old_path.is_some() => "renamed",
            _ if self.fields.has_any(Fields::SUBSTANCE) => "content",
            _ => "metadata",
        }
    }

    pub(crate) fn between(path: Vec<u8>, old: Option<Entry>, new: Option<Entry>, fields: Fields) -> Change {
        Change { path, old_path: None, old, new, fields, error: None }
    }
}

/// What is compared: paths as they are to be shown, and what is there.
pub struct Pair {
    pub old: Option<(Vec<u8>, Entry)>,
    pub new: Option<(Vec<u8>, Entry)>,
}

struct Level {
    old_path: Vec<u8>,
    new_path: Vec<u8>,
    old: Entries,
    new: Entries,
}

/// A comparison that is under way.
pub struct Diff {
    pairs: VecDeque<Pair>,
    levels: Vec<Level>,
    ignore: Fields,
    found: VecDeque<Change>,
    /// What was found is held back until renames have been looked for.
    holding: bool,
}

impl Diff {
    /// Fields of `ignore` make no difference.
    pub fn new(pairs: Vec<Pair>, ignore: Fields, renames: bool) -> Diff {
        Diff { pairs: pairs.into(), levels: Vec::new(), ignore, found: VecDeque::new(), holding: renames }
    }

    /// The next differences, sorted by path within each pair, a directory before what is in it; None at the end.
    pub fn batch(&mut self, reader: &Reader, pace: &mut Pace) -> Result<Option<Vec<Change>>> {
        loop {
            pace.tick()?;
            if !self.holding && pace.is_due(self.found.len()) {
                break;
            }
            if !self.step(reader)? {
                if self.holding {
                    self.holding = false;
                    let found = std::mem::take(&mut self.found).into();
                    self.found = pair_renames(found, self.ignore).into();
                }
                break;
            }
            self.holding &= self.found.len() <= MAX_HELD;
        }
        let count = self.found.len().min(BATCH);
        Ok((count > 0).then(|| self.found.drain(..count).collect()))
    }

    /// Compares the next names; false at the end.
    fn step(&mut self, reader: &Reader) -> Result<bool> {
        let Some(level) = self.levels.last_mut() else {
            let Some(Pair { old, new }) = self.pairs.pop_front() else { return Ok(false) };
            let paths = (old.as_ref().or(new.as_ref()), new.as_ref().or(old.as_ref()));
            if let (Some((old_path, _)), Some((new_path, _))) = paths {
                let paths = (old_path.clone(), new_path.clone());
                self.compare(reader, paths, old.map(|(_, entry)| entry), new.map(|(_, entry)| entry))?;
            }
            return Ok(true);
        };
        level.old.pass_over_equal(&mut level.new);
        let order = match (level.old.peek(reader)?, level.new.peek(reader)?) {
            (None, None) => {
                self.levels.pop();
                return Ok(true);
            }
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(old), Some(new)) => old.name.cmp(&new.name),
        };
        let old = if order == Ordering::Greater { None } else { level.old.next(reader)? };
        let new = if order == Ordering::Less { None } else { level.new.next(reader)? };
        if old == new {
            return Ok(true);
        }
        let name = old.as_ref().or(new.as_ref()).map_or(&b""[..], |entry| &entry.name);
        let paths = (join(&level.old_path, name), join(&level.new_path, name));
        self.compare(reader, paths, old, new)?;
        Ok(true)
    }

    fn compare(
        &mut self,
        reader: &Reader,
        (old_path, new_path): (Vec<u8>, Vec<u8>),
        old: Option<Entry>,
        new: Option<Entry>,
    ) -> Result<()> {
        let node = |entry: &Option<Entry>| entry.as_ref().and_then(|entry| entry.directory()?.node);
        if node(&old) != node(&new) {
            check_depth(self.levels.len(), &new_path)?;
            let (old, new) = (Entries::below(reader, old.as_ref()), Entries::below(reader, new.as_ref()));
            self.levels.push(Level { old_path: old_path.clone(), new_path: new_path.clone(), old, new });
        }
        let found = match (&old, &new) {
            (Some(old), Some(new)) if same_type(old, new) => match fields(old, new).without(self.ignore) {
                found if found.is_empty() => return Ok(()),
                found => found,
            },
            _ => Fields::default(),
        };
        let path = if new.is_none() { old_path } else { new_path };
        self.found.push_back(Change::between(path, old, new, found));
        Ok(())
    }
}

/// What tells whether two files hold the same; none for empty files and what is no file.
fn content_key(entry: &Entry) -> Option<[u8; 16]> {
    let What::File { size, content, .. } = &entry.what else { return None };
    let mut bytes = size.to_le_bytes().to_vec();
    match content {
        Content::Empty => return None,
        Content::InPlace(content) => bytes.extend_from_slice(content),
        Content::One(id) => bytes.extend_from_slice(&id.0),
        Content::Chunks(list) => match &**list {
            List::InPlace(chunks) => Item::put_all(chunks, &mut bytes),
            List::Node { id, .. } => bytes.extend_from_slice(&id.0),
        },
    }
    let hash = blake3::hash(&bytes);
    Some(hash.as_bytes()[..16].try_into().expect("16 of 32 bytes"))
}

fn last_name(path: &[u8]) -> &[u8] {
    path.rsplit(|c| *c == b'/').next().unwrap_or_default()
}

/// Makes one of an added and a removed file with the same content: first of those with the same name.
fn pair_renames(mut changes: Vec<Change>, ignore: Fields) -> Vec<Change> {
    let mut removed: HashMap<[u8; 16], VecDeque<usize>> = HashMap::new();
    let mut added: Vec<(usize, [u8; 16])> = Vec::new();
    for (at, change) in changes.iter().enumerate() {
        match (&change.old, &change.new) {
            (Some(old), None) => {
                content_key(old).into_iter().for_each(|key| removed.entry(key).or_default().push_back(at));
            }
            (None, Some(new)) => added.extend(content_key(new).map(|key| (at, key))),
            _ => {}
        }
    }
    let mut gone = vec![false; changes.len()];
    for by_name in [true, false] {
        added.retain(|(at, key)| {
            let Some(candidates) = removed.get_mut(key) else { return false };
            let name = last_name(&changes[*at].path);
            let mut few = candidates.iter().take(MAX_CANDIDATES);
            let found = match by_name {
                true => few.position(|from| last_name(&changes[*from].path) == name),
                false => few.next().map(|_| 0),
            };
            let Some(from) = found.and_then(|place| candidates.remove(place)) else { return true };
            gone[from] = true;
            let (path, old) = (changes[from].path.clone(), changes[from].old.take());
            let change = &mut changes[*at];
            if let (Some(old), Some(new)) = (&old, &change.new) {
                change.fields = fields(old, new).without(ignore);
            }
            (change.old, change.old_path) = (old, Some(path));
            false
        });
    }
    let mut number = 0;
    changes.retain(|_| {
        number += 1;
        !gone[number - 1]
    });
    changes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;
    use crate::testing::*;

    fn all(reader: &Reader, old: &Entry, new: &Entry) -> Result<Vec<Change>> {
        let pair = Pair { old: Some((b"t".to_vec(), old.clone())), new: Some((b"t".to_vec(), new.clone())) };
        let mut diff = Diff::new(vec![pair], Fields::default(), true);
        let go_on = || Ok(());
        let mut pace = Pace::new(&go_on);
        let mut found = Vec::new();
        while let Some(batch) = diff.batch(reader, &mut pace)? {
            assert!(batch.len() <= BATCH);
            found.extend(batch);
        }
        Ok(found)
    }

    fn told(changes: &[Change]) -> Vec<(&'static str, String)> {
        changes.iter().map(|one| (one.kind(), String::from_utf8(one.path.clone()).unwrap())).collect()
    }

    fn many(store: &mut TestStore, count: u64, seed: u64) -> Vec<Entry> {
        (0..count).map(|n| store.file(&format!("f{n:06}"), &noise(n + seed, 8))).collect()
    }

    #[test]
    fn what_is_the_same_is_never_read() {
        let mut store = TestStore::new();
        store.block_bytes = 1; // a block for each node
        let old = many(&mut store, 20_000, 0);
        let mut new = old.clone();
        new[7_000] = store.file("f007000", b"other");
        new.remove(15_000);
        let same = store.dir("same", vec![old[0].clone()]);
        let (old, new) = (store.dir("large", old), store.dir("large", new));
        let (old, new) = (store.dir("", vec![old, same.clone()]), store.dir("", vec![new, same.clone()]));
        store.flush();
        let expected = vec![("content", "t/large/f007000".to_string()), ("removed", "t/large/f015000".to_string())];
        assert_eq!(told(&all(&store.reader(), &old, &new).unwrap()), expected);
        let nodes = store.index.places.lock().unwrap().len();
        let asked = store.index.calls.load(std::sync::atomic::Ordering::Relaxed);
        assert!(asked < nodes / 4, "{asked} calls for {nodes} nodes");
        store.index.places.lock().unwrap().remove(&same.directory().unwrap().node.unwrap());
        assert_eq!(told(&all(&store.reader(), &old, &new).unwrap()), expected);
        let without = store.dir("", vec![]);
        assert!(matches!(all(&store.reader(), &old, &without), Err(Error::Damaged(_))));
    }

    #[test]
    fn renames_go_first_to_the_same_name() {
        let mut store = TestStore::new();
        let content = noise(1, 50_000);
        let (x, y) = (store.file("x", &content), store.file("y", &content));
        let empty = store.file("empty", b"");
        let from = store.dir("from", vec![empty.clone(), x.clone(), y.clone()]);
        let z = store.file("z", &content);
        let to = store.dir("to", vec![x, y, z]);
        let (old, new) = (store.dir("", vec![from]), store.dir("", vec![empty, to]));
        store.flush();
        let found = all(&store.reader(), &old, &new).unwrap();
        let renamed: Vec<_> = found.iter().filter_map(|one| Some((one.old_path.clone()?, one.path.clone()))).collect();
        let expected = [(b"t/from/x".to_vec(), b"t/to/x".to_vec()), (b"t/from/y".to_vec(), b"t/to/y".to_vec())];
        assert_eq!(renamed, expected);
        let others: Vec<_> = told(&found).into_iter().filter(|(kind, _)| *kind != "renamed").collect();
        let expected = [
            ("added", "t/empty"),
            ("removed", "t/from"),
            ("removed", "t/from/empty"),
            ("added", "t/to"),
            ("added", "t/to/z"),
        ];
        assert_eq!(others, expected.map(|(kind, path)| (kind, path.to_string())));
    }

    #[test]
    fn too_many_differences_are_shown_without_renames() {
        for (count, expected) in [(40, "renamed"), (200, "added")] {
            let mut store = TestStore::new();
            let files = many(&mut store, count, 0);
            let (old, new) = (store.dir("a", files.clone()), store.dir("b", files));
            let (old, new) = (store.dir("", vec![old]), store.dir("", vec![new]));
            store.flush();
            let found = told(&all(&store.reader(), &old, &new).unwrap());
            let paths: Vec<_> = found.iter().filter(|one| one.0 == expected && one.1.starts_with("t/b/")).collect();
            assert_eq!(paths.len() as u64, count);
            assert!(found.is_sorted_by_key(|one| one.1.split('/').map(String::from).collect::<Vec<_>>()));
        }
    }

    #[test]
    fn nesting_has_a_bound() {
        let mut store = TestStore::new();
        let mut deep = store.file("f", b"x");
        for _ in 0..crate::walk::MAX_DEPTH + 2 {
            deep = store.dir("d", vec![deep]);
        }
        let (old, new) = (store.dir("", vec![]), store.dir("", vec![deep]));
        store.flush();
        assert!(matches!(all(&store.reader(), &old, &new), Err(Error::Damaged(_))));
    }
}
