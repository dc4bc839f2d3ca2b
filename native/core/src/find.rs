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
const MAX_REMEMBERED: usize = if cfg!(test) { 12 } else { 200_000 };
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
    Ok(without_separators(glob.regex()))
}

/// A regular expression of globset whose classes match no `/`, as `*` and `?` do not: globset lets `[!a]` match one.
fn without_separators(regex: &str) -> String {
    let mut text = String::with_capacity(regex.len());
    let mut signs = regex.chars();
    let mut in_class = false;
    while let Some(sign) = signs.next() {
        match sign {
            '\\' => {
                text.push(sign);
                text.extend(signs.next());
            }
            '[' if !in_class => {
                text.push_str("[[");
                in_class = true;
            }
            ']' if in_class => {
                text.push_str("]&&[^/]]");
                in_class = false;
            }
            _ => text.push(sign),
        }
    }
    text
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::*;
    use proptest::prelude::*;

    /// A tree whose files have one of these names; small numbers give the same directories often.
    fn make(store: &mut TestStore, seed: &[u8], depth: usize) -> Vec<Entry> {
        let names = ["a", "b", "hit", "z"];
        let mut entries = Vec::new();
        for (at, name) in names.iter().enumerate() {
            let choice = seed[(at + depth) % seed.len()];
            if choice % 3 == 1 {
                entries.push(store.file(name, &noise(u64::from(choice), 3)));
            } else if choice % 3 == 2 && depth < 4 {
                let below = make(store, &seed[1 + at % 2..], depth + 1);
                entries.push(store.dir(name, below));
            }
        }
        entries
    }

    fn naive(reader: &Reader, tree: usize, path: &[u8], entry: &Entry, wanted: &str, out: &mut Vec<(usize, Vec<u8>)>) {
        if *entry.name == *wanted.as_bytes() {
            out.push((tree, path.to_vec()));
        }
        let Some(directory) = entry.directory() else { return };
        for below in reader.children(directory).unwrap() {
            naive(reader, tree, &join(path, &below.name), &below, wanted, out);
        }
    }

    fn all(find: &mut Find, reader: &Reader) -> Vec<(usize, Vec<u8>)> {
        let go_on = || Ok(());
        let mut pace = Pace::new(&go_on);
        let mut found = Vec::new();
        while let Some(batch) = find.batch(reader, &mut pace).unwrap() {
            found.extend(batch.into_iter().map(|one| (one.tree, one.path)));
        }
        found
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]

        /// More is found than is remembered, and some of it in directories that other trees have.
        #[test]
        fn what_is_remembered_is_what_a_naive_walk_finds(
            seeds in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 12), 1..5),
            on_path: bool,
        ) {
            let mut store = TestStore::new();
            let mut trees = Vec::new();
            for (number, seed) in seeds.iter().chain(&seeds).enumerate() {
                let below = make(&mut store, seed, 0);
                let entry = store.dir("top", below);
                trees.push(Tree { number, path: b"/top".to_vec(), top: Top::Entry(Box::new(entry)) });
            }
            store.flush();
            let reader = store.reader();
            let mut expected = Vec::new();
            for tree in &trees {
                let Top::Entry(entry) = &tree.top else { unreachable!() };
                naive(&reader, tree.number, &tree.path, entry, "hit", &mut expected);
            }
            let query = Query::new(if on_path { "/top/**/hit" } else { "hit" }, false, false).unwrap();
            prop_assert_eq!(all(&mut Find::new(query, trees), &reader), expected);
        }
    }

    #[test]
    fn a_directory_that_trees_share_is_read_once() {
        let mut store = TestStore::new();
        let files: Vec<Entry> = (0..3000).map(|n| store.file(&format!("f{n:04}"), b"x")).collect();
        let shared = store.dir("shared", files);
        let roots: Vec<Id> = (0..100)
            .map(|n| {
                let own = store.file("own", &noise(n, 10));
                let top = store.dir("", vec![own, shared.clone()]);
                store.root(top, vec![])
            })
            .collect();
        store.flush();
        let reader = store.reader();
        let trees = |roots: &[Id]| -> Vec<Tree> {
            roots
                .iter()
                .enumerate()
                .map(|(number, id)| Tree { number, path: b"/t".to_vec(), top: Top::Root(*id) })
                .collect()
        };
        let mut find = Find::new(Query::new("nothing", false, false).unwrap(), trees(&roots));
        assert_eq!(all(&mut find, &reader), vec![]);
        // 100 tops, and what is shared.
        assert_eq!(find.memo.len(), 101);
        let find = Query::new("f0007", false, false).unwrap();
        assert_eq!(all(&mut Find::new(find, trees(&roots)), &reader).len(), 100);
    }

    #[test]
    fn classes_match_no_separator() {
        let is = |pattern: &str, path: &str| Query::new(pattern, false, false).unwrap().pattern.unwrap().is_match(path);
        for pattern in ["/a[!x]b", "/a[+-9]b", "/a[]!/\\[]b", "/a[!]x]b", "/**/?[!x]b", "/*[!a-z]b", "/a{[!x],y}b"] {
            assert!(!is(pattern, "/a/b"), "{pattern}");
        }
        for path in ["/a.b", "/a1b", "/a]b", "/a[b", "/a\\b"] {
            assert!(is("/a[!x]b", path), "{path}");
        }
        assert!(is("/a[]x[-]b", "/a]b") && is("/a[]x[-]b", "/a-b") && is("/a\\[b", "/a[b") && is("/**/[!x]", "/a/b/c"));
    }

    #[test]
    fn patterns() {
        let is = |pattern: &str, regex: bool, case: bool, path: &str| {
            let query = Query::new(pattern, regex, case).unwrap();
            let name = path.rsplit('/').next().unwrap();
            query.matches(path.as_bytes(), name.as_bytes(), &entry(name, What::Fifo))
        };
        assert!(is("*.c", false, false, "/a/b.c"));
        assert!(!is("*.c", false, false, "/a/b.cc"));
        assert!(is("B.?", false, true, "/a/b.c"));
        assert!(is("a/*", false, false, "/x/a/b.c"));
        assert!(!is("a/*", false, false, "/x/a/y/b.c"));
        assert!(is("/x/**/b.c", false, false, "/x/a/y/b.c"));
        assert!(!is("/a/*", false, false, "/x/a/b"));
        assert!(is("^b", true, false, "/a/b.c"));
        assert!(!is("^a", true, false, "/a/b.c"));
        assert!(is("^/a/.", true, false, "/a/b.c"));
        assert!(is("Ä", true, true, "/a/ä"));
        let odd = entry("x", What::Fifo);
        assert!(Query::new("*", false, false).unwrap().matches(b"/\xff", b"\xff\n", &odd));
        assert!(Query::new("^.*$", true, false).unwrap().matches(b"/x", b"a\n", &odd));
        for (pattern, regex) in [("[", false), ("{a", false), ("(", true), ("(x{999}){999}", true)] {
            assert!(matches!(Query::new(pattern, regex, false), Err(Error::Invalid(_))), "{pattern}");
        }
    }
}
