//! Looking up paths in many trees. A directory that several trees have is looked at once.

use std::collections::HashMap;

use crate::error::Result;
use crate::id::Id;
use crate::node::{check_name, Entry};
use crate::progress::{add, Progress};
use crate::reader::Reader;

/// What is at each path below its root (joined by `/`, empty for the root itself), no link followed; None where nothing is.
pub fn lookup(reader: &Reader, wanted: &[(Id, Vec<u8>)], progress: &Progress) -> Result<Vec<Option<Entry>>> {
    reader.learn(&wanted.iter().map(|(root, _)| *root).collect::<Vec<_>>())?;
    let mut roots: HashMap<Id, Entry> = HashMap::new();
    // What is at the rest of a path below a directory's node.
    let mut known: HashMap<(Id, &[u8]), Option<Entry>> = HashMap::new();
    let mut found = Vec::with_capacity(wanted.len());
    for (id, path) in wanted {
        progress.check()?;
        let root = match roots.get(id) {
            Some(root) => root.clone(),
            None => roots.entry(*id).or_insert(reader.root(id)?.entry).clone(),
        };
        found.push(below(reader, &mut known, root, path)?);
        add(&progress.done_files, 1);
    }
    Ok(found)
}

fn below<'p>(
    reader: &Reader,
    known: &mut HashMap<(Id, &'p [u8]), Option<Entry>>,
    top: Entry,
    path: &'p [u8],
) -> Result<Option<Entry>> {
    let mut passed = Vec::new();
    let mut at = Some(top);
    let mut rest = path;
    while let (Some(entry), false) = (&at, rest.is_empty()) {
        let Some((directory, node)) = entry.directory().and_then(|dir| Some((dir, dir.node?))) else {
            at = None;
            break;
        };
        if let Some(entry) = known.get(&(node, rest)) {
            at = entry.clone();
            break;
        }
        passed.push((node, rest));
        let end = rest.iter().position(|c| *c == b'/').unwrap_or(rest.len());
        let name = &rest[..end];
        at = if check_name(name) { reader.child(directory, name)? } else { None };
        rest = rest.get(end + 1..).unwrap_or_default();
    }
    for key in passed {
        known.insert(key, at.clone());
    }
    Ok(at)
}
