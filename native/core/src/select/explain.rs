//! Why one path is taken or not: the decisions of the walk on the way to it, without reading anything else.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::FileType;

use super::{Selection, Why, CACHE_TAG};
use crate::error::{reason, show_path, Error, Result};
use crate::source;

/// What decided about a path.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Explanation {
    pub taken: bool,
    /// A word that does not change: `default`, `named`, `way`, `rule`, `cache`, `marker`, `socket`, `store`, `mount`, `size`, `unnamed`,
    /// `missing`, `unreadable`.
    pub why: &'static str,
    /// The path below the root that was decided about: the one asked for, or one above it.
    pub at: Vec<u8>,
    /// The pattern, marker or error.
    pub text: Vec<u8>,
    /// The file that the pattern stands in: as the caller called it; for an ignore file, its path below the root.
    pub file: Option<Vec<u8>>,
    pub line: u32,
    /// Ignore files on the way that are not heeded as they stand, and why.
    pub broken: Vec<(Vec<u8>, String)>,
}

/// Explains `path`, relative to `root`.
pub fn explain(root: &Path, selection: &Arc<Selection>, path: &[u8]) -> Result<Explanation> {
    let mut broken = Vec::new();
    let explained = follow(root, selection, path, &mut broken)?;
    Ok(Explanation { broken, ..explained })
}

fn follow(
    root: &Path,
    selection: &Arc<Selection>,
    path: &[u8],
    broken: &mut Vec<(Vec<u8>, String)>,
) -> Result<Explanation> {
    let cannot = |e: io::Error| match e.kind() {
        io::ErrorKind::NotFound => Error::SourceNotFound(format!("cannot take {}: {}", show_path(root), reason(&e))),
        _ => Error::SourceUnreadable(format!("cannot take {}: {}", show_path(root), reason(&e))),
    };
    if path.is_empty() {
        return Ok(Explanation { taken: true, why: "named", ..Explanation::default() });
    }
    let mut handle = source::open_path(root).map_err(cannot)?;
    let mut folder = selection.top(source::stat_fd(handle.as_fd()).map_err(cannot)?.dev);
    let (mut at, mut scratch) = (Vec::new(), Vec::new());
    let mut names = path.split(|b| *b == b'/').peekable();
    while let Some(name) = names.next() {
        let above = at.clone();
        if !at.is_empty() {
            at.push(b'/');
        }
        at.extend_from_slice(name);
        let failed = |at: &[u8], error: &io::Error| Ok(failure(at, error));
        let all = match source::list(handle.as_fd()) {
            Ok(all) => all,
            Err(error) => return failed(&above, &error),
        };
        let stat = match source::stat_at(handle.as_fd(), name) {
            Ok(stat) => stat,
            Err(error) => return failed(&at, &error),
        };
        let inside = selection.enter(&folder, || above.clone(), handle.as_fd(), &all);
        broken.extend(inside.broken.iter().map(|(path, error)| (path.clone(), reason(error))));
        let (taken, why) = inside.decide(&mut scratch, name, &stat);
        let explained = explained(taken, &why, &at);
        if !taken {
            return Ok(explained);
        }
        if let Some((path, error)) = inside.broken.as_ref().filter(|_| inside.is_lost(name)) {
            return Ok(failure(path, error));
        }
        if names.peek().is_none() {
            return Ok(explained);
        }
        if stat.kind != FileType::Directory {
            return failed(&at, &rustix::io::Errno::NOTDIR.into());
        }
        if inside.stays_outside(name, &stat) {
            return Ok(Explanation { why: "mount", at, ..Explanation::default() });
        }
        folder = inside.below(&mut scratch, name, &stat);
        handle = match source::open_directory(handle.as_fd(), name) {
            Ok(handle) => handle,
            Err(error) => return failed(&at, &error),
        };
    }
    Err(Error::Internal("a path has components".into()))
}

fn failure(at: &[u8], error: &io::Error) -> Explanation {
    let missing = matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory);
    let why = if missing { "missing" } else { "unreadable" };
    Explanation { why, at: at.to_vec(), text: reason(error).into_bytes(), ..Explanation::default() }
}

fn explained(taken: bool, why: &Why, at: &[u8]) -> Explanation {
    let mut explanation = Explanation { taken, at: at.to_vec(), ..Explanation::default() };
    explanation.why = match why {
        Why::Default => "default",
        Why::Named => "named",
        Why::Way => "way",
        Why::Rule(pattern) => {
            explanation.text = pattern.text.to_vec();
            explanation.file = pattern.file.as_ref().map(|file| file.to_vec());
            explanation.line = pattern.line;
            "rule"
        }
        Why::Marker(marker) => {
            explanation.text = marker.to_vec();
            if *marker == CACHE_TAG {
                "cache"
            } else {
                "marker"
            }
        }
        Why::Socket => "socket",
        Why::Store => "store",
        Why::Mount => "mount",
        Why::Size => "size",
        Why::Unnamed => "unnamed",
        Why::NoDirectory => "missing",
    };
    explanation
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::select::named::Named;
    use crate::select::pattern::{Pattern, Rules};

    fn why(root: &Path, selection: &Selection, path: &str) -> (bool, &'static str, String) {
        let said = explain(root, &Arc::new(selection.clone()), path.as_bytes()).unwrap();
        (said.taken, said.why, String::from_utf8(said.text).unwrap())
    }

    #[test]
    fn ignore_files_hold_from_their_directory_down_and_the_callers_rules_come_first() {
        let folder = tempfile::tempdir().unwrap();
        let top = folder.path();
        std::fs::create_dir_all(top.join("a/b")).unwrap();
        for file in ["x.o", "a/x.o", "a/b/x.o", "a/b/y", "a/keep.o"] {
            std::fs::write(top.join(file), "").unwrap();
        }
        std::fs::write(top.join("a/.snapignore"), "*.o\n!keep.o\n/b/y\n").unwrap();
        let mut selection = Selection { ignore_files: true, ..Selection::default() };
        assert_eq!(why(top, &selection, "x.o"), (true, "default", String::new()));
        assert_eq!(why(top, &selection, "a/b/x.o"), (false, "rule", "*.o".into()));
        assert_eq!(why(top, &selection, "a/b/y"), (false, "rule", "/b/y".into()));
        assert_eq!(why(top, &selection, "a/keep.o"), (true, "rule", "!keep.o".into()));
        let own = Pattern::parse(b"!/a/b/*", None, 0).unwrap().unwrap();
        selection.rules = Arc::new(Rules::new(vec![own]));
        assert_eq!(why(top, &selection, "a/b/x.o"), (true, "rule", "!/a/b/*".into()));
        selection.named = Named::new(vec![b"a/x.o"[..].into()], false);
        assert_eq!(why(top, &selection, "a/x.o").1, "named");
        assert_eq!(why(top, &selection, "a/keep.o"), (false, "unnamed", String::new()));
        assert_eq!(why(top, &selection, "none").1, "missing");
        selection.named = Named::default();
        std::fs::write(top.join("a/.snapignore"), "[a\n*.o\n").unwrap();
        let broken = explain(top, &Arc::new(selection), b"a/b/y").unwrap().broken;
        assert_eq!(broken, [(b"a/.snapignore".to_vec(), "line 1 is not a pattern: a [ has no ]".into())]);
    }
}
