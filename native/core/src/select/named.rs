//! The paths below a root that were named one by one: taken whatever the rules say, and with `whole` unset nothing else is.
//! root > **named** > component.

use std::ops::Range;
use std::sync::Arc;

/// Named paths below one directory: a stretch of all that are sorted by components.
#[derive(Clone, Debug)]
pub struct Named {
    paths: Arc<[Box<[u8]>]>,
    range: Range<usize>,
    /// How much of each path leads to this directory, with its slash.
    skip: usize,
    /// Everything here is taken, as far as the rules take it; else only what is named.
    pub whole: bool,
}

/// What is named of an entry: itself, something below it, or both.
pub struct Mention {
    pub itself: bool,
    pub below: Named,
}

impl Default for Named {
    fn default() -> Named {
        Named { paths: Arc::new([]), range: 0..0, skip: 0, whole: true }
    }
}

impl Named {
    /// `paths`: relative to the root, without empty components.
    pub fn new(mut paths: Vec<Box<[u8]>>, whole: bool) -> Named {
        paths.sort_unstable_by(|a, b| by_components(a, b));
        paths.dedup();
        let range = 0..paths.len();
        Named { paths: paths.into(), range, skip: 0, whole }
    }

    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
    }

    /// The component of a path that is an entry here.
    fn here<'p>(&self, path: &'p [u8]) -> &'p [u8] {
        path[self.skip..].split(|b| *b == b'/').next().unwrap_or_default()
    }

    /// The numbers of the paths that lead to or through the entry `name`.
    fn through(&self, name: &[u8]) -> Range<usize> {
        let stretch = &self.paths[self.range.clone()];
        let start = self.range.start + stretch.partition_point(|path| self.here(path) < name);
        let rest = &self.paths[start..self.range.end];
        start..start + rest.partition_point(|path| self.here(path) == name)
    }

    /// What is named of the entry `name`.
    pub fn find(&self, name: &[u8]) -> Option<Mention> {
        if self.is_empty() {
            return None;
        }
        let Range { start, end } = self.through(name);
        if start == end {
            return None;
        }
        let itself = self.paths[start].len() == self.skip + name.len();
        let range = start + usize::from(itself)..end;
        let below = Named { paths: self.paths.clone(), range, skip: self.skip + name.len() + 1, whole: itself };
        Some(Mention { itself, below })
    }

    /// Names of entries here of which something is named, ascending.
    pub fn names(&self) -> impl Iterator<Item = &[u8]> {
        let mut at = self.range.start;
        std::iter::from_fn(move || {
            if at >= self.range.end {
                return None;
            }
            let name = self.here(&self.paths[at]);
            at += self.paths[at..self.range.end].partition_point(|path| self.here(path) <= name);
            Some(name)
        })
    }

    /// All named paths here, relative to the root.
    pub fn all(&self) -> impl Iterator<Item = &[u8]> {
        self.paths[self.range.clone()].iter().map(|path| &**path)
    }

    /// Named paths that lead to (when `itself`) or through the entry `name`, relative to the root.
    pub fn paths(&self, name: &[u8], itself: bool) -> Vec<Vec<u8>> {
        let here = self.skip + name.len();
        let paths = self.paths[self.through(name)].iter().map(|path| path.to_vec());
        paths.filter(|path| itself || path.len() > here).collect()
    }
}

/// A directory right before what is in it, whatever bytes its neighbours' names go on with.
fn by_components(a: &[u8], b: &[u8]) -> std::cmp::Ordering {
    let key = |byte: &u8| if *byte == b'/' { 0 } else { *byte };
    a.iter().map(key).cmp(b.iter().map(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(paths: &[&str]) -> Named {
        Named::new(paths.iter().map(|path| path.as_bytes().into()).collect(), false)
    }

    #[test]
    fn names_are_found_directory_by_directory() {
        let top = named(&["a/b/c", "a.b", "a/b", "x", "a/d/e", "x", "a-/q"]);
        let names: Vec<&[u8]> = top.names().collect();
        assert_eq!(names, [&b"a"[..], b"a-", b"a.b", b"x"]);
        let a = top.find(b"a").unwrap();
        assert!(!a.itself && !a.below.whole);
        assert_eq!(a.below.names().collect::<Vec<_>>(), [b"b", b"d"]);
        let b = a.below.find(b"b").unwrap();
        assert!(b.itself && b.below.whole);
        assert_eq!(a.below.paths(b"b", true), [&b"a/b"[..], b"a/b/c"]);
        assert_eq!(a.below.paths(b"b", false), [b"a/b/c"]);
        let x = top.find(b"x").unwrap();
        assert!(x.itself && x.below.is_empty());
        assert!(top.find(b"y").is_none() && top.find(b"").is_none() && a.below.find(b"c").is_none());
    }

    #[test]
    fn without_names_everything_is_whole() {
        assert!(Named::default().whole && Named::default().is_empty());
        assert!(Named::default().find(b"a").is_none());
    }
}
