//! What a restore in place has to do: three trees compared, and what follows from it for each path.
//!
//! *Live* is what is there, *wanted* what the snapshot has, *head* what both came from. Directories that are the same in the
//! first two are never entered.

use std::collections::{HashMap, HashSet};

use crate::diff::{fields, same_type, Fields};
use crate::error::Result;
use crate::id::Id;
use crate::node::{Directory, Entry, Root, What};
use crate::progress::{add, Progress};
use crate::reader::Reader;
use crate::restore::Selection;
use crate::walk::{check_depth, join, Entries};

/// Paths that are named in a plan of each sort; more are only counted.
pub const MAX_NAMED: usize = 10_000;

/// A tree in the store: a root, and the path in it at which the tree begins.
#[derive(Clone, Debug)]
pub struct Tree {
    pub root: Id,
    pub below: Vec<u8>,
}

/// What becomes of paths that the snapshot does not have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Extras {
    Keep,
    /// Those go that the head has: they came with the restore that is taken back.
    DeleteKnown,
    Delete,
}

/// What is restored to one place.
#[derive(Clone, Debug)]
pub struct Part {
    /// As it was taken just now; None where nothing is.
    pub live: Option<Id>,
    pub wanted: Tree,
    pub head: Option<Tree>,
    /// Only these paths below the wanted root, and what is below them.
    pub paths: Option<Vec<Vec<u8>>>,
    pub extras: Extras,
}

impl Part {
    /// The root that is wanted, and what of it.
    pub(super) fn chosen(&self, reader: &Reader) -> Result<(Root, Selection)> {
        let (root, below) = (reader.root(&self.wanted.root)?, &self.wanted.below[..]);
        let strip = (!below.is_empty()).then_some(below);
        let selection = Selection::resolve(reader, &root, self.paths.as_deref(), strip)?;
        Ok((root, selection))
    }
}

/// Who wins where both sides changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Strategy {
    /// The snapshot, wherever it differs.
    Overwrite,
    /// What is there, wherever it was changed.
    KeepOriginal,
    /// The one that was modified last.
    Newer,
    /// What is there, where only that was changed or where both were.
    Merge,
}

/// How a plan is made.
#[derive(Clone, Debug)]
pub struct Choices {
    pub strategy: Strategy,
    /// For conflicts, by part and path: whether the snapshot's is taken.
    pub decided: HashMap<(usize, Vec<u8>), bool>,
}

/// What is done to a path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Nothing is there: the entry, with all below it, comes.
    Create,
    /// The same for a directory, whose contents are items of their own.
    CreateAlone,
    /// What is there gives way to another. A directory that gives way is empty by then.
    Replace,
    /// Attributes are set.
    Metadata,
    /// What is there goes. What is in a directory is items of its own.
    Delete,
}

/// Something to do. `path` is relative to its part.
#[derive(Clone, Debug)]
pub struct Item {
    pub part: usize,
    pub path: Vec<u8>,
    pub kind: Kind,
    pub live: Option<Entry>,
    pub wanted: Option<Entry>,
}

impl Item {
    pub fn is_type_change(&self) -> bool {
        matches!((&self.live, &self.wanted), (Some(live), Some(wanted)) if !same_type(live, wanted))
    }

    /// Whether something new is made for it, to be exchanged.
    pub fn is_staged(&self) -> bool {
        matches!(self.kind, Kind::Create | Kind::CreateAlone | Kind::Replace)
    }
}

/// A path that both sides changed, and what became of it.
#[derive(Clone, Debug)]
pub struct Conflict {
    pub part: usize,
    pub path: Vec<u8>,
    pub live: Option<Entry>,
    pub wanted: Option<Entry>,
    pub head: Option<Entry>,
    /// The snapshot's is taken.
    pub taken: bool,
}

/// Everything to do, a directory before what is in it.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    pub items: Vec<Item>,
    pub conflicts: Vec<Conflict>,
    pub conflict_count: u64,
    /// What the snapshot does not have and stays, the topmost only.
    pub extras: Vec<(usize, Vec<u8>)>,
    /// With what is below.
    pub extra_count: u64,
    /// Paths of each part that differ and stay as they are.
    pub kept: Vec<HashSet<Vec<u8>>>,
    /// Where the parts are.
    pub bases: Vec<std::path::PathBuf>,
}

/// Compares and decides.
pub fn plan(reader: &Reader, parts: &[Part], choices: &Choices, progress: &Progress) -> Result<Plan> {
    let mut plan = Plan::default();
    for (number, part) in parts.iter().enumerate() {
        plan.kept.push(HashSet::new());
        let (wanted, selection) = part.chosen(reader)?;
        let live = part.live.map(|id| reader.root(&id)).transpose()?;
        let head = match &part.head {
            Some(tree) => lookup(reader, &reader.root(&tree.root)?.entry, &tree.below)?,
            None => None,
        };
        let knows_head = part.head.is_some();
        let extras = part.extras;
        let walk = Walk { reader, choices, progress, selection: &selection, part: number, knows_head, extras };
        walk.run(&mut plan, live.as_ref().map(|root| root.entry.clone()), head)?;
        super::links::compare(reader, number, live.as_ref(), &wanted, &selection, &mut plan)?;
    }
    Ok(plan)
}

/// What is at `path` below `top`.
pub(super) fn lookup(reader: &Reader, top: &Entry, path: &[u8]) -> Result<Option<Entry>> {
    let mut at = top.clone();
    for name in path.split(|c| *c == b'/').filter(|name| !name.is_empty()) {
        let Some(directory) = at.directory() else { return Ok(None) };
        match reader.child(directory, name)? {
            Some(entry) => at = entry,
            None => return Ok(None),
        }
    }
    Ok(Some(at))
}

/// Entries on the three sides of a path.
struct Sides {
    live: Option<Entry>,
    wanted: Option<Entry>,
    head: Option<Entry>,
}

struct Level {
    path: Vec<u8>,
    live: Entries,
    wanted: Entries,
    head: Entries,
    /// Of a directory on the way to what was chosen: the names that count, with their numbers in the selection.
    picks: Option<HashMap<Box<[u8]>, usize>>,
    /// The directory gives way to something else: all that is in it goes.
    gives_way: bool,
}

struct Walk<'a> {
    reader: &'a Reader,
    choices: &'a Choices,
    progress: &'a Progress,
    selection: &'a Selection,
    part: usize,
    knows_head: bool,
    extras: Extras,
}

impl Walk<'_> {
    fn run(&self, plan: &mut Plan, live: Option<Entry>, head: Option<Entry>) -> Result<()> {
        let wanted = Some(self.selection.top().clone());
        let mut levels = Vec::new();
        self.visit(plan, &mut levels, Vec::new(), Sides { live, wanted, head }, Some(0), false)?;
        while let Some(level) = levels.last_mut() {
            self.progress.check()?;
            level.live.pass_over_equal(&mut level.wanted);
            let Some((name, sides)) = self.next(level)? else {
                levels.pop();
                continue;
            };
            let pick = match &level.picks {
                Some(picks) => match picks.get(&name) {
                    Some(number) => Some(*number),
                    None => continue,
                },
                None => None,
            };
            let (path, gives_way) = (join(&level.path, &name), level.gives_way);
            // What stands at a path that was chosen is compared, however equal the rest.
            if sides.live != sides.wanted {
                self.visit(plan, &mut levels, path, sides, pick, gives_way)?;
            }
        }
        Ok(())
    }

    /// The entries of the next name; None at the end.
    fn next(&self, level: &mut Level) -> Result<Option<(Box<[u8]>, Sides)>> {
        let reader = self.reader;
        let name = match (level.live.peek(reader)?, level.wanted.peek(reader)?) {
            (None, None) => return Ok(None),
            (Some(one), None) | (None, Some(one)) => one.name.clone(),
            (Some(live), Some(wanted)) => live.name.clone().min(wanted.name.clone()),
        };
        let take = |side: &mut Entries| match side.peek(reader)? {
            Some(entry) if entry.name == name => side.next(reader),
            _ => Ok(None),
        };
        let (live, wanted) = (take(&mut level.live)?, take(&mut level.wanted)?);
        if live == wanted {
            return Ok(Some((name, Sides { live, wanted, head: None })));
        }
        while level.head.peek(reader)?.is_some_and(|entry| entry.name < name) {
            level.head.next(reader)?;
        }
        let head = take(&mut level.head)?;
        Ok(Some((name, Sides { live, wanted, head })))
    }

    fn visit(
        &self,
        plan: &mut Plan,
        levels: &mut Vec<Level>,
        path: Vec<u8>,
        sides: Sides,
        pick: Option<usize>,
        gives_way: bool,
    ) -> Result<()> {
        add(&self.progress.done_files, 1);
        let below = pick.and_then(|number| self.selection.picked(number).below.as_ref());
        if let Some(below) = below {
            return self.pass_through(plan, levels, path, sides, below);
        }
        if gives_way {
            self.push(plan, &path, Kind::Delete, &sides);
            return self.enter(levels, path, &sides, None, true);
        }
        let Some(kind) = kind_of(&sides) else {
            return self.enter(levels, path, &sides, None, false);
        };
        if sides.wanted.is_none() && !self.deletes(&sides) {
            self.keep_extra(plan, path, &sides);
            return Ok(());
        }
        let taken = self.decide(plan, &path, &sides);
        if !taken {
            plan.kept[self.part].insert(path.clone());
        }
        let both_directories = is_directory(&sides.live) && is_directory(&sides.wanted);
        let clears = is_directory(&sides.live) && !is_directory(&sides.wanted) && sides.wanted.is_some();
        if taken {
            self.push(plan, &path, kind, &sides);
        }
        // Whoever decides that a directory goes means all of it.
        let goes = kind == Kind::Delete && self.choices.decided.get(&(self.part, path.clone())) == Some(&true);
        match taken {
            true if clears || goes => self.enter(levels, path, &sides, None, true),
            true if kind == Kind::Delete || both_directories => self.enter(levels, path, &sides, None, false),
            false if both_directories => self.enter(levels, path, &sides, None, false),
            _ => Ok(()),
        }
    }

    /// A directory on the way to what was chosen: it must be one, and stays as it is otherwise.
    fn pass_through(
        &self,
        plan: &mut Plan,
        levels: &mut Vec<Level>,
        path: Vec<u8>,
        sides: Sides,
        below: &[usize],
    ) -> Result<()> {
        match &sides.live {
            None => self.push(plan, &path, Kind::CreateAlone, &sides),
            live if is_directory(live) => {}
            _ => {
                let wanted =
                    sides.wanted.clone().map(|entry| Entry { what: What::Directory(Directory::default()), ..entry });
                self.push(plan, &path, Kind::Replace, &Sides { live: sides.live.clone(), wanted, head: None });
            }
        }
        self.enter(levels, path, &sides, Some(below), false)
    }

    fn enter(
        &self,
        levels: &mut Vec<Level>,
        path: Vec<u8>,
        sides: &Sides,
        below: Option<&[usize]>,
        gives_way: bool,
    ) -> Result<()> {
        let node = |entry: &Option<Entry>| entry.as_ref().and_then(|entry| entry.directory()?.node);
        if !is_directory(&sides.live) && below.is_none() {
            return Ok(());
        }
        if !gives_way && node(&sides.live) == node(&sides.wanted) {
            return Ok(());
        }
        check_depth(levels.len(), &path)?;
        let reader = self.reader;
        let side = |entry: &Option<Entry>| Entries::below(reader, entry.as_ref());
        let picked = |number: &usize| self.selection.picked(*number).entry.clone();
        let wanted = match below {
            _ if gives_way => Entries::none(),
            Some(below) => Entries::given(below.iter().map(picked).collect()),
            None => side(&sides.wanted),
        };
        let picks = below.map(|below| below.iter().map(|number| (picked(number).name, *number)).collect());
        levels.push(Level { path, live: side(&sides.live), wanted, head: side(&sides.head), picks, gives_way });
        Ok(())
    }

    fn push(&self, plan: &mut Plan, path: &[u8], kind: Kind, sides: &Sides) {
        let (live, wanted) = (sides.live.clone(), sides.wanted.clone());
        plan.items.push(Item { part: self.part, path: path.to_vec(), kind, live, wanted });
    }

    /// Whether something that the snapshot does not have is to go.
    fn deletes(&self, sides: &Sides) -> bool {
        match self.extras {
            Extras::Keep => false,
            Extras::DeleteKnown => sides.head.is_some(),
            Extras::Delete => true,
        }
    }

    fn keep_extra(&self, plan: &mut Plan, path: Vec<u8>, sides: &Sides) {
        plan.extra_count += sides.live.as_ref().map_or(0, |live| live.totals().0);
        if plan.extras.len() < MAX_NAMED {
            plan.extras.push((self.part, path));
        }
    }

    /// Whether the snapshot's is taken. A conflict is noted.
    fn decide(&self, plan: &mut Plan, path: &[u8], sides: &Sides) -> bool {
        let strategy = self.choices.strategy;
        let (live_changed, wanted_changed) = match self.knows_head {
            true => {
                // Where only one side has a directory nothing below is compared: what is in it counts with it.
                let is_delete = sides.wanted.is_none();
                let both = is_directory(&sides.live) && is_directory(&sides.wanted);
                let deep = !(is_delete || both);
                (!same(&sides.live, &sides.head, deep), !same(&sides.wanted, &sides.head, deep))
            }
            // Without it, who changed what cannot be told: it matters only to who wants to keep something.
            false => (strategy != Strategy::Overwrite && sides.live.is_some(), true),
        };
        if !live_changed {
            return true;
        }
        if !wanted_changed || (sides.wanted.is_none() && !self.knows_head) {
            return match strategy {
                Strategy::Overwrite => true,
                Strategy::Newer => is_newer(&sides.wanted, &sides.live),
                Strategy::KeepOriginal | Strategy::Merge => false,
            };
        }
        let taken = match (self.choices.decided.get(&(self.part, path.to_vec())), strategy) {
            (Some(taken), _) => *taken,
            (None, Strategy::Overwrite) => true,
            (None, Strategy::Newer) => is_newer(&sides.wanted, &sides.live),
            (None, Strategy::KeepOriginal | Strategy::Merge) => false,
        };
        plan.conflict_count += 1;
        if plan.conflicts.len() < MAX_NAMED {
            let Sides { live, wanted, head } = sides;
            let (live, wanted, head) = (live.clone(), wanted.clone(), head.clone());
            plan.conflicts.push(Conflict { part: self.part, path: path.to_vec(), live, wanted, head, taken });
        }
        taken
    }
}

fn is_directory(entry: &Option<Entry>) -> bool {
    entry.as_ref().is_some_and(|entry| entry.directory().is_some())
}

/// What is to be done to make `live` what is wanted; None when the entries themselves are the same.
fn kind_of(sides: &Sides) -> Option<Kind> {
    match (&sides.live, &sides.wanted) {
        (None, None) => None,
        (None, Some(_)) => Some(Kind::Create),
        (Some(_), None) => Some(Kind::Delete),
        (Some(live), Some(wanted)) if same_type(live, wanted) => match fields(live, wanted) {
            found if found.is_empty() => None,
            found if found.has_any(Fields(Fields::SUBSTANCE.0 | Fields::HOLES.0)) => Some(Kind::Replace),
            _ => Some(Kind::Metadata),
        },
        _ => Some(Kind::Replace),
    }
}

/// Whether neither side changed what the other has. Of directories that both have, what is in them counts only if `deep`,
/// and the time at which that changed does not.
fn same(one: &Option<Entry>, other: &Option<Entry>, deep: bool) -> bool {
    match (one, other) {
        (None, None) => true,
        (Some(one), Some(other)) if one.directory().is_some() && other.directory().is_some() => match deep {
            true => one.what == other.what && fields(one, other).is_empty(),
            false => fields(one, other).without(Fields::MTIME).is_empty(),
        },
        (Some(one), Some(other)) => same_type(one, other) && fields(one, other).is_empty(),
        _ => false,
    }
}

/// What was removed has no time: the side that has something is the newer one.
fn is_newer(one: &Option<Entry>, other: &Option<Entry>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => one.mtime.as_ns() >= other.mtime.as_ns(),
        (one, _) => one.is_some(),
    }
}
