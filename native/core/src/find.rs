//! Finding entries by name, size, time and type in many trees. What is below a directory's node is looked at once, however
//! many trees have it.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use globset::GlobBuilder;
use regex_automata::meta::Regex;
use regex_automata::util::syntax;

use crate::error::{Error, Result};
use crate::id::Id;
use crate::node::{Directory, Entry, What};
use crate::reader::Reader;
use crate::walk::{check_depth, join, Entries, Pace, BATCH};

/// Findings that are remembered for other trees; then only where nothing was found.
const MAX_REMEMBERED: usize = 200_000;
/// What a pattern may take when it is compiled.
const MAX_PATTERN_BYTES: usize = 4 << 20;

/// What is looked for: all that is set must hold.
#[derive(Default)]
pub struct Query {
    pattern: Option<Regex>,
    /// The pattern is for the whole path, not the name alone.
    on_path: bool,
    pub larger_than: Option<u64>,
    pub smaller_than: Option<u64>,
    pub newer_than_ns: Option<i128>,
    pub older_than_ns: Option<i128>,
    /// One bit for each of `TYPES`; 0 for all.
    pub types: u8,
}

pub const TYPES: [&str; 6] = ["file", "directory", "symlink", "fifo", "chardev", "blockdev"];

fn type_number(entry: &Entry) -> u8 {
    match entry.what {
        What::File { .. } => 0,
        What::Directory(_) => 1,
        What::Symlink(_) => 2,
        What::Fifo => 3,
        What::CharDevice(..) => 4,
        What::BlockDevice(..) => 5,
    }
}

impl Query {
    /// A glob is for the whole name (or path), a regular expression for any part of it. With a `/` the pattern is for the
    /// path; a glob that does not begin with one, for its end.
    pub fn new(pattern: &str, is_regex: bool, ignore_case: bool) -> Result<Query> {
        let on_path = pattern.contains('/');
        let text = match is_regex {
            true => pattern.to_string(),
            false => glob(pattern, ignore_case)?,
        };
        let syntax = syntax::Config::new().utf8(false).dot_matches_new_line(true).case_insensitive(ignore_case);
        let config = Regex::config().utf8_empty(false).nfa_size_limit(Some(MAX_PATTERN_BYTES));
        let regex = Regex::builder().configure(config).syntax(syntax).build(&text);
        let regex = regex.map_err(|error| {
            let why = error.syntax_error().map_or_else(|| error.to_string(), |why| why.to_string());
            invalid(pattern, why.lines().last().unwrap_or("it cannot be read").trim_start_matches("error: "))
        })?;
        Ok(Query { pattern: Some(regex), on_path, ..Query::default() })
    }

    fn matches(&self, path: &[u8], name: &[u8], entry: &Entry) -> bool {
        let size = match entry.what {
            What::File { size, .. } => size,
            _ => 0,
        };
        let mtime = entry.mtime.as_ns();
        (self.types == 0 || self.types & (1 << type_number(entry)) != 0)
            && self.larger_than.is_none_or(|bound| size > bound)
            && self.smaller_than.is_none_or(|bound| size < bound)
            && self.newer_than_ns.is_none_or(|bound| mtime > bound)
            && self.older_than_ns.is_none_or(|bound| mtime < bound)
            && self.pattern.as_ref().is_none_or(|regex| regex.is_match(if self.on_path { path } else { name }))
    }
}

fn invalid(pattern: &str, why: &str) -> Error {
    Error::Invalid(format!("{pattern:?} is no pattern: {why}"))
}

fn glob(pattern: &str, ignore_case: bool) -> Result<String> {
    let anchored = match pattern.contains('/') && !pattern.starts_with('/') && !pattern.starts_with("**/") {
        true => format!("**/{pattern}"),
        false => pattern.to_string(),
    };
    let glob = GlobBuilder::new(&anchored)
        .literal_separator(true)
        .backslash_escape(true)
        .case_insensitive(ignore_case)
        .build()
        .map_err(|error| invalid(pattern, &error.kind().to_string()))?;
    Ok(glob.regex().to_string())
}

/// Something found, in the tree with this number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub tree: usize,
    pub path: Vec<u8>,
    pub entry: Entry,
}

/// A tree to search: its path, and what is there.
pub struct Tree {
    pub number: usize,
    pub path: Vec<u8>,
    pub top: Top,
}

/// A root by its id, or an entry.
#[derive(Clone)]
pub enum Top {
    Root(Id),
    Entry(Box<Entry>),
}

impl Top {
    pub fn entry(self, reader: &Reader) -> Result<Entry> {
        match self {
            Top::Root(id) => Ok(reader.root(&id)?.entry),
            Top::Entry(entry) => Ok(*entry),
        }
    }
}

/// An entry that was found, or a directory below which something was.
struct Hit {
    entry: Entry,
    matches: bool,
    below: Hits,
}

/// What was found in a directory; None for nothing.
type Hits = Option<Arc<Vec<Hit>>>;

/// A node, or where paths matter a node and its path.
type Memo = [u8; 16];

enum Level {
    /// A directory that is read. `hits` is None when they are too many to be remembered.
    Reading { path: Vec<u8>, memo: Memo, entries: Box<Entries>, hits: Option<Vec<Hit>>, found: bool },
    /// One whose findings are known.
    Known { path: Vec<u8>, hits: Arc<Vec<Hit>>, at: usize },
}

/// A search that is under way.
pub struct Find {
    query: Query,
    trees: VecDeque<Tree>,
    tree: usize,
    levels: Vec<Level>,
    memo: HashMap<Memo, Hits>,
    remembered: usize,
}

impl Find {
    pub fn new(query: Query, trees: Vec<Tree>) -> Find {
        Find { query, trees: trees.into(), tree: 0, levels: Vec::new(), memo: HashMap::new(), remembered: 0 }
    }

    /// The next findings, tree by tree, a directory before what is in it; None at the end.
    pub fn batch(&mut self, reader: &Reader, pace: &mut Pace) -> Result<Option<Vec<Found>>> {
        let mut found = Vec::new();
        while found.len() < BATCH {
            pace.tick()?;
            if pace.is_due(found.len()) || !self.step(reader, &mut found)? {
                break;
            }
        }
        Ok((!found.is_empty()).then_some(found))
    }

    /// Looks at the next entry; false at the end.
    fn step(&mut self, reader: &Reader, found: &mut Vec<Found>) -> Result<bool> {
        match self.levels.last_mut() {
            None => {
                let Some(tree) = self.trees.pop_front() else { return Ok(false) };
                self.begin(reader, tree, found)?;
            }
            Some(Level::Known { path, hits, at }) => {
                let Some(hit) = hits.get(*at) else {
                    self.levels.pop();
                    return Ok(true);
                };
                *at += 1;
                let path = join(path, &hit.entry.name);
                let below = hit.below.clone();
                if hit.matches {
                    found.push(Found { tree: self.tree, path: path.clone(), entry: hit.entry.clone() });
                }
                if let Some(hits) = below {
                    self.levels.push(Level::Known { path, hits, at: 0 });
                }
            }
            Some(Level::Reading { path, entries, .. }) => match entries.next(reader)? {
                None => self.leave(),
                Some(entry) => {
                    let path = join(path, &entry.name);
                    self.look(reader, path, entry, found)?;
                }
            },
        }
        Ok(true)
    }

    fn begin(&mut self, reader: &Reader, tree: Tree, found: &mut Vec<Found>) -> Result<()> {
        self.tree = tree.number;
        let entry = tree.top.entry(reader)?;
        let name = tree.path.rsplit(|c| *c == b'/').find(|name| !name.is_empty()).unwrap_or_default();
        if self.query.matches(&tree.path, name, &entry) {
            found.push(Found { tree: tree.number, path: tree.path.clone(), entry: entry.clone() });
        }
        match entry.directory() {
            Some(directory) => self.enter(reader, tree.path, directory).map(drop),
            None => Ok(()),
        }
    }

    /// Notes an entry of the directory that is read, and goes on below it.
    fn look(&mut self, reader: &Reader, path: Vec<u8>, entry: Entry, found: &mut Vec<Found>) -> Result<()> {
        let matches = self.query.matches(&path, &entry.name, &entry);
        if matches {
            found.push(Found { tree: self.tree, path: path.clone(), entry: entry.clone() });
        }
        let directory = entry.directory().copied();
        let parent = self.levels.len() - 1;
        let below = match &directory {
            Some(directory) => self.enter(reader, path, directory)?,
            None => None,
        };
        // What is below a directory that is now read comes later; `leave` puts it here.
        let waits = self.levels.len() > parent + 1 && below.is_none();
        if let Level::Reading { hits, found, .. } = &mut self.levels[parent] {
            *found |= matches || below.is_some();
            if let Some(kept) = hits {
                if matches || below.is_some() || waits {
                    self.remembered += 1;
                    kept.push(Hit { entry, matches, below });
                }
                if self.remembered > MAX_REMEMBERED {
                    *hits = None;
                }
            }
        }
        Ok(())
    }

    /// Goes on below a directory. What was found there before, if that is known.
    fn enter(&mut self, reader: &Reader, path: Vec<u8>, directory: &Directory) -> Result<Hits> {
        let Some(node) = directory.node else { return Ok(None) };
        check_depth(self.levels.len(), &path)?;
        let memo = match self.query.on_path {
            false => node.0,
            true => *blake3::Hasher::new().update(&node.0).update(&path).finalize().as_bytes(),
        };
        let memo: Memo = memo[..16].try_into().expect("16 of 32 bytes");
        match self.memo.get(&memo) {
            Some(None) => Ok(None),
            Some(Some(hits)) => {
                let hits = hits.clone();
                self.levels.push(Level::Known { path, hits: hits.clone(), at: 0 });
                Ok(Some(hits))
            }
            None => {
                let entries = Box::new(Entries::of(reader, directory));
                let hits = (self.remembered <= MAX_REMEMBERED).then(Vec::new);
                self.levels.push(Level::Reading { path, memo, entries, hits, found: false });
                Ok(None)
            }
        }
    }

    /// Ends the directory that is read: remembers what was found, and tells the one above.
    fn leave(&mut self) {
        let Some(Level::Reading { memo, hits, found, .. }) = self.levels.pop() else { return };
        let hits: Hits = match (found, hits) {
            (true, Some(hits)) => Some(Arc::new(hits)),
            _ => None,
        };
        if !found || hits.is_some() {
            self.memo.insert(memo, hits.clone());
        }
        let Some(Level::Reading { hits: above, found: any, .. }) = self.levels.last_mut() else { return };
        *any |= found;
        let Some(kept) = above else { return };
        if found && hits.is_none() {
            // It is not known in full: then nothing above it is.
            *above = None;
        } else if let Some(last) = kept.last_mut() {
            match hits {
                None if !last.matches => {
                    kept.pop();
                    self.remembered -= 1;
                }
                hits => last.below = hits,
            }
        }
    }
}
