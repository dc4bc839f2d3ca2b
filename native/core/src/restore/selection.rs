//! Which part of a root is restored: resolved against the tree before anything is written.

use std::collections::HashSet;

use crate::error::{show, Error, Result};
use crate::node::{check_name, Directory, Entry, Root, What};
use crate::reader::Reader;

/// A directory or entry on the way to, or at, a selected path.
pub(crate) struct Picked {
    pub(crate) entry: Entry,
    /// The picked ones below it, by number; None for it and everything below it.
    pub(crate) below: Option<Vec<usize>>,
}

/// The part of a root that is restored. Picked ones stand in a list, not in each other: they may be nested thousands deep.
pub(crate) struct Selection {
    picked: Vec<Picked>,
    base: Vec<u8>,
    /// The selected paths; None for all.
    paths: Option<HashSet<Vec<u8>>>,
}

impl Selection {
    /// Everything.
    pub(crate) fn all(root: &Root) -> Selection {
        Selection { picked: vec![Picked { entry: root.entry.clone(), below: None }], base: Vec::new(), paths: None }
    }

    /// `paths` below the root and what is below them; `strip`: the directory whose contents become the target.
    /// Fails with `PathNotFound` when the tree does not have one of them.
    pub(crate) fn resolve(
        reader: &Reader,
        root: &Root,
        paths: Option<&[Vec<u8>]>,
        strip: Option<&[u8]>,
    ) -> Result<Selection> {
        let base = trim(strip.unwrap_or_default());
        let top = match base {
            [] => root.entry.clone(),
            // What is no directory can only be restored by itself.
            _ if paths.is_none() => find(reader, root.entry.clone(), &base.split(|c| *c == b'/').collect::<Vec<_>>())?,
            _ => find_directory(reader, &root.entry, base)?,
        };
        let mut selection = Selection {
            picked: vec![Picked { entry: top, below: None }],
            base: base.to_vec(),
            paths: paths.map(|paths| paths.iter().map(|path| trim(path).to_vec()).collect()),
        };
        let Some(paths) = paths else { return Ok(selection) };
        let mut relative = Vec::with_capacity(paths.len());
        for path in paths {
            relative.push(below(base, trim(path))?);
        }
        relative.sort_by(|a, b| a.split(|c| *c == b'/').cmp(b.split(|c| *c == b'/')));
        if relative.first().is_none_or(|path| !path.is_empty()) {
            selection.picked[0].below = Some(Vec::new());
            for path in relative {
                selection.pick(reader, path)?;
            }
        }
        Ok(selection)
    }

    pub(crate) fn top(&self) -> &Entry {
        &self.picked[0].entry
    }

    /// The path, below the root, that becomes the target.
    pub(crate) fn base(&self) -> &[u8] {
        &self.base
    }

    pub(crate) fn picked(&self, number: usize) -> &Picked {
        &self.picked[number]
    }

    /// `path`, below the root, as a path below the target.
    pub(crate) fn in_target<'p>(&self, path: &'p [u8]) -> Option<&'p [u8]> {
        below(&self.base, path).ok()
    }

    /// True when `path`, below the root, is restored for itself (not only as a directory on the way to others).
    pub(crate) fn covers(&self, path: &[u8]) -> bool {
        let Some(paths) = &self.paths else { return self.in_target(path).is_some() };
        let ends = path.iter().enumerate().filter(|(_, c)| **c == b'/').map(|(at, _)| at);
        paths.contains(&b""[..]) || ends.chain([path.len()]).any(|end| paths.contains(&path[..end]))
    }

    /// Entries and bytes that are restored.
    pub(crate) fn totals(&self) -> (u64, u64) {
        let add =
            |(entries, bytes): (u64, u64), (e, b): (u64, u64)| (entries.saturating_add(e), bytes.saturating_add(b));
        let of = |picked: &Picked| match picked.below {
            None => picked.entry.totals(),
            Some(_) => (1, 0),
        };
        self.picked.iter().map(of).fold((0, 0), add)
    }

    /// Adds a path, which MUST come after those added before.
    fn pick(&mut self, reader: &Reader, path: &[u8]) -> Result<()> {
        let mut at = 0;
        let mut names = path.split(|c| *c == b'/').peekable();
        while let Some(name) = names.next() {
            // What was selected whole holds this path too; but that it exists is still to be seen.
            let last = self.picked[at].below.as_ref().and_then(|below| below.last().copied());
            let known = last.filter(|last| *self.picked[*last].entry.name == *name);
            if let Some(next) = known {
                at = next;
                if self.picked[at].below.is_none() {
                    let rest: Vec<&[u8]> = names.collect();
                    return find(reader, self.picked[at].entry.clone(), &rest).map(drop);
                }
                continue;
            }
            let entry = child(reader, &self.picked[at].entry, name)?.ok_or_else(|| not_found(path))?;
            let below = names.peek().map(|_| Vec::new());
            let number = self.picked.len();
            self.picked.push(Picked { entry, below });
            self.picked[at].below.get_or_insert_default().push(number);
            at = number;
        }
        Ok(())
    }
}

fn not_found(path: &[u8]) -> Error {
    Error::PathNotFound(format!("there is no {} in the snapshot", show(path)))
}

/// Slashes at both ends mean nothing.
fn trim(mut path: &[u8]) -> &[u8] {
    while let [b'/', rest @ ..] | [rest @ .., b'/'] = path {
        path = rest;
    }
    path
}

fn below<'p>(base: &[u8], path: &'p [u8]) -> Result<&'p [u8]> {
    match path.strip_prefix(base) {
        Some(rest) if base.is_empty() || rest.is_empty() => Ok(rest),
        Some([b'/', rest @ ..]) => Ok(rest),
        _ => Err(Error::Invalid(format!("{} is not below {}", show(path), show(base)))),
    }
}

fn child(reader: &Reader, parent: &Entry, name: &[u8]) -> Result<Option<Entry>> {
    match &parent.what {
        What::Directory(directory) if check_name(name) => reader.child(directory, name),
        _ => Ok(None),
    }
}

fn find(reader: &Reader, mut entry: Entry, names: &[&[u8]]) -> Result<Entry> {
    for name in names {
        entry = child(reader, &entry, name)?.ok_or_else(|| not_found(&names.join(&b'/')))?;
    }
    Ok(entry)
}

fn find_directory(reader: &Reader, root: &Entry, path: &[u8]) -> Result<Entry> {
    let names: Vec<&[u8]> = path.split(|c| *c == b'/').collect();
    let entry = find(reader, root.clone(), &names)?;
    match entry.what {
        What::Directory(Directory { .. }) => Ok(entry),
        _ => Err(Error::PathNotFound(format!("{} is not a directory in the snapshot", show(path)))),
    }
}
