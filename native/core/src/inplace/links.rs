//! Hard links in a plan: paths that are linked otherwise than the snapshot says, and where the links are to be made.

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};

use super::plan::{lookup, Item, Kind, Plan};
use crate::error::Result;
use crate::node::{Link, Root};
use crate::reader::{Leaves, Reader};
use crate::restore::{Place, Scope, Selection};

/// A table of hard links, link by link, each with its paths in the target.
struct Table<'r> {
    reader: &'r Reader,
    /// Paths are those of a whole root, of which only some count.
    selection: Option<&'r Selection>,
    /// Paths that stay as they are do not count.
    known: &'r Known<'r>,
    leaves: Leaves<Link>,
    read: std::iter::Peekable<std::vec::IntoIter<Link>>,
    /// The first path that counts, of groups whose first one does not.
    heads: HashMap<Vec<u8>, Vec<u8>>,
}

impl<'r> Table<'r> {
    fn of(reader: &'r Reader, root: &Root, selection: Option<&'r Selection>, known: &'r Known<'r>) -> Table<'r> {
        let (leaves, read) = (reader.link_leaves(root), Vec::new().into_iter().peekable());
        Table { reader, selection, known, leaves, read, heads: HashMap::new() }
    }

    fn peek(&mut self) -> Result<Option<&Link>> {
        while self.read.peek().is_none() {
            let Some(links) = self.leaves.next(self.reader)? else { return Ok(None) };
            let counting: Vec<Link> = links.into_iter().filter_map(|link| self.in_target(link)).collect();
            self.read = counting.into_iter().peekable();
        }
        Ok(self.read.peek())
    }

    fn next(&mut self) -> Result<Option<Link>> {
        self.peek()?;
        Ok(self.read.next())
    }

    fn in_target(&mut self, link: Link) -> Option<Link> {
        let (selection, known) = (self.selection, self.known);
        let counting = |path| selection.map_or(Some(path), |selection| below(selection, path));
        let counting = |path| counting(path).filter(|path: &&[u8]| !known.is_kept(path));
        let path = counting(&link.path)?.to_vec();
        let first = match counting(&link.first) {
            Some(first) => first.to_vec(),
            None => self.heads.entry(link.first).or_insert_with(|| path.clone()).clone(),
        };
        (first != path).then_some(Link { path, first })
    }
}

/// Adds an item for each path whose entry is as wanted, but which is linked to others than the snapshot says.
pub(super) fn compare(
    reader: &Reader,
    part: usize,
    live: Option<&Root>,
    wanted: &Root,
    selection: &Selection,
    plan: &mut Plan,
) -> Result<()> {
    let Some(live) = live else { return Ok(()) };
    let known = Known::new(part, &plan.items, &plan.kept[part]);
    let mut found: Vec<Item> = Vec::new();
    let mut check = |path: &[u8]| -> Result<()> {
        if known.item(path).is_some_and(|(_, kind, _)| kind != Kind::Metadata) || known.is_kept(path) {
            return Ok(());
        }
        let (there, here) = (lookup(reader, selection.top(), path)?, lookup(reader, &live.entry, path)?);
        if let (Some(there), Some(here)) = (there, here) {
            let (live, wanted) = (Some(here), Some(there));
            found.push(Item { part, path: path.to_vec(), kind: Kind::Replace, live, wanted });
        }
        Ok(())
    };
    let mut ours = Table::of(reader, live, None, &known);
    let mut theirs = Table::of(reader, wanted, Some(selection), &known);
    loop {
        let order = match (ours.peek()?, theirs.peek()?) {
            (None, None) => break,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(our), Some(their)) => our.path.cmp(&their.path),
        };
        let our = if order == Ordering::Greater { None } else { ours.next()? };
        let their = if order == Ordering::Less { None } else { theirs.next()? };
        match (our, their) {
            (Some(our), Some(their)) if our.first == their.first => {}
            (Some(link), _) | (None, Some(link)) => check(&link.path)?,
            (None, None) => break,
        }
    }
    // What is replaced needs no attributes.
    let replaced: HashSet<&[u8]> = found.iter().map(|item| &item.path[..]).collect();
    plan.items.retain(|item| item.part != part || item.kind != Kind::Metadata || !replaced.contains(&item.path[..]));
    plan.items.extend(found);
    Ok(())
}

/// A path of the wanted root as one of the part, if it was chosen.
fn below<'p>(selection: &Selection, path: &'p [u8]) -> Option<&'p [u8]> {
    selection.in_target(path).filter(|_| selection.covers(path))
}

/// What a plan does to the paths of a part.
pub(super) struct Known<'a> {
    items: HashMap<&'a [u8], (usize, Kind)>,
    kept: &'a HashSet<Vec<u8>>,
}

impl<'a> Known<'a> {
    pub(super) fn new(part: usize, items: &'a [Item], kept: &'a HashSet<Vec<u8>>) -> Known<'a> {
        let of_part = items.iter().enumerate().filter(|(_, item)| item.part == part);
        Known { items: of_part.map(|(at, item)| (&item.path[..], (at, item.kind))).collect(), kept }
    }

    /// The item that decides what comes to `path`: its own, or that of a directory above which comes as a whole.
    fn item<'p>(&self, path: &'p [u8]) -> Option<(usize, Kind, &'p [u8])> {
        if let Some((at, kind)) = self.items.get(path) {
            return Some((*at, *kind, b""));
        }
        let above = |end: usize| match self.items.get(&path[..end]) {
            Some((at, kind @ (Kind::Create | Kind::Replace))) => {
                let rest = path[end..].strip_prefix(b"/").unwrap_or(&path[end..]);
                Some((*at, *kind, rest))
            }
            _ => None,
        };
        ends(path).find_map(above)
    }

    fn is_kept(&self, path: &[u8]) -> bool {
        !self.kept.is_empty() && (self.kept.contains(path) || ends(path).any(|end| self.kept.contains(&path[..end])))
    }
}

/// Where the directories above a path end, the root itself among them.
fn ends(path: &[u8]) -> impl Iterator<Item = usize> + '_ {
    path.iter().enumerate().filter(|(_, c)| **c == b'/').map(|(at, _)| at).chain((!path.is_empty()).then_some(0))
}

/// What of a part is staged, for the making of hard links.
pub(super) struct Staged<'a> {
    pub(super) known: Known<'a>,
    pub(super) selection: &'a Selection,
}

impl Staged<'_> {
    /// The number under which `path`, below the wanted root, is staged, and the path below that.
    pub(super) fn staged<'p>(&self, path: &'p [u8]) -> Option<(usize, &'p [u8])> {
        let path = below(self.selection, path)?;
        match self.known.item(path)? {
            (at, Kind::Create | Kind::CreateAlone | Kind::Replace, rest) => Some((at, rest)),
            _ => None,
        }
    }
}

impl Scope for Staged<'_> {
    fn may_stand(&self) -> bool {
        true
    }

    fn covers(&self, path: &[u8]) -> bool {
        self.staged(path).is_some()
    }

    fn stands(&self, path: &[u8]) -> bool {
        let Some(path) = below(self.selection, path) else { return false };
        let changed = self.known.item(path).is_some_and(|(_, kind, _)| kind != Kind::Metadata);
        !changed && !self.known.is_kept(path)
    }

    fn place<'p>(&self, path: &'p [u8]) -> Option<Place<'p>> {
        match self.staged(path) {
            Some((number, rest)) => Some(Place::Staged { number, rest }),
            None => below(self.selection, path).map(Place::Live),
        }
    }
}
