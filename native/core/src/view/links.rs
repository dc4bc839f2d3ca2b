//! Hard links of a root: which inode numbers are one file's, and how many names it has.

use std::collections::HashMap;

use super::{below, stems::names};
use crate::error::Result;
use crate::node::Root;
use crate::reader::Reader;

/// By the inode number that a path would have alone. About 40 bytes a link.
#[derive(Default)]
pub(super) struct Links {
    first: HashMap<u64, u64>,
    count: HashMap<u64, u32>,
}

impl Links {
    /// `ino`: of the root.
    pub(super) fn read(reader: &Reader, root: &Root, ino: u64) -> Result<Links> {
        let mut links = Links::default();
        let number = |path: &[u8]| names(path).fold(ino, below);
        reader.each_link(root, |found| {
            for link in found {
                let first = number(&link.first);
                links.first.insert(number(&link.path), first);
                *links.count.entry(first).or_insert(1) += 1;
            }
            Ok(())
        })?;
        Ok(links)
    }

    /// The file's inode number, and how many names it has.
    pub(super) fn of(&self, alone: u64) -> (u64, u32) {
        let ino = self.first.get(&alone).copied().unwrap_or(alone);
        (ino, self.count.get(&ino).copied().unwrap_or(1))
    }
}
