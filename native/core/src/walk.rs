//! A walk over a tree in batches, each directory before what is in it. Only the leaves on the way to one entry are in memory.

use std::time::{Duration, Instant};

use crate::error::{show, Error, Result};
use crate::id::Id;
use crate::node::{Directory, Entry, What};
use crate::reader::{Leaves, Reader};

/// Entries handed out at once.
pub const BATCH: usize = 1024;
/// Directories within each other.
pub const MAX_DEPTH: usize = 4096;

const ASK_AFTER: Duration = Duration::from_millis(50);

/// Asks now and then whether to go on, and says when what was found is to be handed out although it is little.
pub struct Pace<'a> {
    go_on: &'a dyn Fn() -> Result<()>,
    asked: Instant,
    late: bool,
}

impl<'a> Pace<'a> {
    /// `go_on` fails when the run is to end.
    pub fn new(go_on: &'a dyn Fn() -> Result<()>) -> Pace<'a> {
        Pace { go_on, asked: Instant::now(), late: false }
    }

    /// Called often, in between pieces of work.
    pub fn tick(&mut self) -> Result<()> {
        if self.asked.elapsed() >= ASK_AFTER {
            (self.go_on)()?;
            self.asked = Instant::now();
            self.late = true;
        }
        Ok(())
    }

    /// Whether so many findings are to be handed out now.
    pub fn is_due(&self, found: usize) -> bool {
        found >= BATCH || (self.late && found > 0)
    }
}

/// An entry and its path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    pub path: Vec<u8>,
    pub entry: Entry,
}

/// The path of `name` in the directory `path`.
pub fn join(path: &[u8], name: &[u8]) -> Vec<u8> {
    match path {
        b"" => name.to_vec(),
        [.., b'/'] => [path, name].concat(),
        _ => [path, b"/", name].concat(),
    }
}

/// The entries of a directory one by one, read leaf by leaf.
pub(crate) struct Entries {
    leaves: Leaves<Entry>,
    read: std::iter::Peekable<std::vec::IntoIter<Entry>>,
}

impl Entries {
    pub(crate) fn none() -> Entries {
        Entries { leaves: Leaves::none(), read: Vec::new().into_iter().peekable() }
    }

    /// These, which are sorted by name.
    pub(crate) fn given(entries: Vec<Entry>) -> Entries {
        Entries { read: entries.into_iter().peekable(), ..Entries::none() }
    }

    pub(crate) fn of(reader: &Reader, directory: &Directory) -> Entries {
        Entries { leaves: reader.entries(directory), ..Entries::none() }
    }

    /// As `of`, of an entry; one that is no directory has none.
    pub(crate) fn below(reader: &Reader, entry: Option<&Entry>) -> Entries {
        match entry.map(|entry| &entry.what) {
            Some(What::Directory(directory)) => Entries::of(reader, directory),
            _ => Entries::none(),
        }
    }

    /// Reads the next leaf when it is needed.
    pub(crate) fn fill(&mut self, reader: &Reader) -> Result<()> {
        if self.read.peek().is_none() {
            if let Some(entries) = self.leaves.next(reader)? {
                // Where they stand is asked in one call.
                let below: Vec<Id> = entries.iter().filter_map(|entry| entry.directory()?.node).collect();
                if below.len() > 1 {
                    reader.learn(&below)?;
                }
                self.read = entries.into_iter().peekable();
            }
        }
        Ok(())
    }

    pub(crate) fn peek(&mut self, reader: &Reader) -> Result<Option<&Entry>> {
        self.fill(reader)?;
        Ok(self.read.peek())
    }

    pub(crate) fn next(&mut self, reader: &Reader) -> Result<Option<Entry>> {
        self.fill(reader)?;
        Ok(self.read.next())
    }

    /// Passes over what both are about to read and is the same.
    pub(crate) fn pass_over_equal(&mut self, other: &mut Entries) {
        if self.read.peek().is_none() && other.read.peek().is_none() {
            Leaves::pass_over_equal(&mut self.leaves, &mut other.leaves);
        }
    }
}

/// Fails when directories are nested deeper than any tree that was taken.
pub(crate) fn check_depth(depth: usize, path: &[u8]) -> Result<()> {
    match depth < MAX_DEPTH {
        true => Ok(()),
        false => {
            Err(Error::Damaged(format!("damaged tree: {}… is nested too deeply", show(&path[..path.len().min(80)]))))
        }
    }
}

/// A walk that is under way.
pub struct Walk {
    levels: Vec<(Vec<u8>, Entries)>,
    recursive: bool,
}

impl Walk {
    /// What is in `directory`, whose path is `path`; with `recursive`, everything below.
    pub fn new(reader: &Reader, directory: &Directory, path: &[u8], recursive: bool) -> Walk {
        Walk { levels: vec![(path.to_vec(), Entries::of(reader, directory))], recursive }
    }

    /// The next entries; None at the end.
    pub fn batch(&mut self, reader: &Reader, pace: &mut Pace) -> Result<Option<Vec<Listed>>> {
        let mut found = Vec::new();
        while let Some((above, entries)) = self.levels.last_mut() {
            pace.tick()?;
            let Some(entry) = entries.next(reader)? else {
                self.levels.pop();
                continue;
            };
            let path = join(above, &entry.name);
            if let (true, What::Directory(directory)) = (self.recursive, &entry.what) {
                check_depth(self.levels.len(), &path)?;
                self.levels.push((path.clone(), Entries::of(reader, directory)));
            }
            found.push(Listed { path, entry });
            if pace.is_due(found.len()) {
                break;
            }
        }
        Ok((!found.is_empty()).then_some(found))
    }
}
