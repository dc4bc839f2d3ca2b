//! Where the roots of a snapshot stand: the directories above them, which are in no tree.
//! snapshot > **stem** > root.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use super::links::Links;
use crate::id::Id;
use crate::node::Root;

/// A root of a snapshot.
pub(super) struct Tree {
    pub(super) id: Id,
    pub(super) root: Root,
    /// Inode number of the root.
    pub(super) ino: u64,
    pub(super) links: OnceLock<Links>,
}

/// A path at which, or below which, roots stand.
#[derive(Default)]
pub(super) struct Stem {
    pub(super) tree: Option<Arc<Tree>>,
    pub(super) below: BTreeMap<Box<[u8]>, Arc<Stem>>,
}

impl Stem {
    /// The stem at a path, made where it is missing.
    pub(super) fn at(&mut self, path: &[u8]) -> &mut Stem {
        names(path).fold(self, |stem, name| {
            let next = stem.below.entry(name.into()).or_default();
            Arc::get_mut(next).expect("nobody else has it while it is made")
        })
    }

    /// Appends what tells the roots at and below this stem from others.
    pub(super) fn identify(&self, out: &mut Vec<u8>) {
        if let Some(tree) = &self.tree {
            out.extend_from_slice(&tree.id.0);
        }
        for (name, stem) in &self.below {
            out.push(b'/');
            out.extend_from_slice(name);
            stem.identify(out);
        }
        out.push(0);
    }

    /// The only root that is called `name`, and its path.
    pub(super) fn called(&self, name: &[u8]) -> Option<Vec<u8>> {
        let (mut found, mut several) = (None, false);
        self.look_for(name, &mut Vec::new(), &mut |path| {
            several = found.is_some();
            found.get_or_insert_with(|| path.to_vec());
        });
        found.filter(|_| !several)
    }

    fn look_for(&self, name: &[u8], path: &mut Vec<u8>, found: &mut dyn FnMut(&[u8])) {
        for (own, stem) in &self.below {
            let len = path.len();
            if len > 0 {
                path.push(b'/');
            }
            path.extend_from_slice(own);
            if stem.tree.is_some() && **own == *name {
                found(path);
            }
            stem.look_for(name, path, found);
            path.truncate(len);
        }
    }
}

/// The names in a path.
pub(super) fn names(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/').filter(|name| !name.is_empty())
}
