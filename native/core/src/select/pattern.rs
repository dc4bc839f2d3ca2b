//! Patterns in gitignore syntax, matched as git does, byte for byte; time is bounded by pattern length × path length.
//! rules > **pattern** > component > token.

use std::collections::HashMap;
use std::sync::Arc;

/// Longer lines are refused: no path is that long.
const MAX_PATTERN: usize = 16 << 10;

/// A pattern, and where it was written.
#[derive(Clone, Debug)]
pub struct Pattern {
    /// As written, without what means nothing at its end.
    pub text: Box<[u8]>,
    /// The file it stands in; none for one that was given by itself.
    pub file: Option<Arc<[u8]>>,
    /// From 1; 0 without a file.
    pub line: u32,
    /// It begins with `!`: what it matches is taken.
    pub takes: bool,
    only_directories: bool,
    matcher: Matcher,
}

#[derive(Clone, Debug)]
enum Matcher {
    /// A name, wherever it is.
    Name(Box<[u8]>),
    /// The end of a name: `*.o`.
    Suffix(Box<[u8]>),
    /// A name with wildcards.
    Glob(Vec<Token>),
    /// A path from the directory that the pattern belongs to.
    Path(Vec<Component>),
}

#[derive(Clone, Debug)]
enum Component {
    Literal(Box<[u8]>),
    Glob(Vec<Token>),
    /// `**`: directories, none or more.
    Any,
}

#[derive(Clone, Debug)]
enum Token {
    Byte(u8),
    One,
    Star,
    Class(Box<Set>),
}

/// A set of bytes.
#[derive(Clone, Debug, Default)]
struct Set([u64; 4]);

impl Set {
    fn insert(&mut self, byte: u8) {
        self.0[usize::from(byte >> 6)] |= 1 << (byte & 63);
    }

    fn has(&self, byte: u8) -> bool {
        self.0[usize::from(byte >> 6)] >> (byte & 63) & 1 == 1
    }
}

impl Pattern {
    /// A line of an ignore file: none when it is blank or a comment; or why it can match nothing.
    pub fn parse(line: &[u8], file: Option<Arc<[u8]>>, number: u32) -> Result<Option<Pattern>, String> {
        let line = trim(line);
        if line.is_empty() || line.starts_with(b"#") {
            return Ok(None);
        }
        if line.len() > MAX_PATTERN {
            return Err(format!("a pattern of {} bytes is too long", line.len()));
        }
        if line.contains(&0) {
            return Err("no name has a NUL byte".into());
        }
        let (takes, rest) = match line.strip_prefix(b"!") {
            Some(rest) => (true, rest),
            None => (false, line),
        };
        let (only_directories, rest) = match rest.strip_suffix(b"/") {
            Some(rest) => (true, rest),
            None => (false, rest),
        };
        if rest.is_empty() {
            return Err("it names nothing".into());
        }
        let matcher = matcher(rest)?;
        Ok(Some(Pattern { text: line.into(), file, line: number, takes, only_directories, matcher }))
    }

    fn needs_path(&self) -> bool {
        matches!(self.matcher, Matcher::Path(_))
    }

    /// `path`: from the directory that the pattern belongs to, its last component being `name`.
    fn matches(&self, name: &[u8], path: &[u8], is_directory: bool) -> bool {
        if self.only_directories && !is_directory {
            return false;
        }
        match &self.matcher {
            Matcher::Name(literal) => **literal == *name,
            Matcher::Suffix(suffix) => name.ends_with(suffix),
            Matcher::Glob(tokens) => glob(tokens, name),
            Matcher::Path(components) => walk(components, path),
        }
    }
}

/// A line without its end: CR, and spaces that are not escaped.
fn trim(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let mut end = 0;
    let mut at = 0;
    while at < line.len() {
        match line[at] {
            b' ' => {}
            b'\\' => {
                at += 1;
                end = (at + 1).min(line.len());
            }
            _ => end = at + 1,
        }
        at += 1;
    }
    &line[..end]
}

fn matcher(text: &[u8]) -> Result<Matcher, String> {
    if !text.contains(&b'/') {
        let tokens = tokens(text)?.pop().unwrap_or_default();
        return Ok(match (literal(&tokens), tokens.split_first()) {
            (Some(name), _) => Matcher::Name(name),
            (None, Some((Token::Star, rest))) => match literal(rest) {
                Some(suffix) => Matcher::Suffix(suffix),
                None => Matcher::Glob(tokens),
            },
            _ => Matcher::Glob(tokens),
        });
    }
    let component = |tokens: Vec<Token>| match literal(&tokens) {
        Some(name) => Component::Literal(name),
        None if tokens.len() > 1 && tokens.iter().all(|token| matches!(token, Token::Star)) => Component::Any,
        None => Component::Glob(tokens),
    };
    let mut components: Vec<Component> =
        tokens(text.strip_prefix(b"/").unwrap_or(text))?.into_iter().map(component).collect();
    // At the end, `**` is what is in a directory, not the directory itself.
    if let Some(Component::Any) = components.last() {
        components.push(Component::Glob(vec![Token::Star]));
    }
    Ok(Matcher::Path(components))
}

/// The bytes of tokens without wildcards.
fn literal(tokens: &[Token]) -> Option<Box<[u8]>> {
    let byte = |token: &Token| match token {
        Token::Byte(byte) => Some(*byte),
        _ => None,
    };
    tokens.iter().map(byte).collect()
}

/// Tokens, by component.
fn tokens(text: &[u8]) -> Result<Vec<Vec<Token>>, String> {
    let mut components = vec![Vec::new()];
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        let token = match first {
            b'?' => Token::One,
            b'*' => Token::Star,
            b'[' => class(&mut rest)?,
            b'\\' => {
                let (escaped, after) = rest.split_first().ok_or("nothing follows the last backslash")?;
                rest = after;
                Token::Byte(*escaped)
            }
            byte => Token::Byte(*byte),
        };
        match token {
            Token::Byte(b'/') => components.push(Vec::new()),
            token => components.last_mut().expect("never empty").push(token),
        }
    }
    Ok(components)
}

/// What stands between `[` and `]`.
fn class(rest: &mut &[u8]) -> Result<Token, String> {
    const OPEN: &str = "a [ has no ]";
    let mut set = Box::new(Set::default());
    let mut at = 0;
    let text = *rest;
    let get = |at: usize| text.get(at).copied().ok_or(OPEN);
    let negated = matches!(get(0)?, b'!' | b'^');
    at += usize::from(negated);
    let mut before: Option<u8> = None;
    let start = at;
    loop {
        let byte = get(at)?;
        if byte == b']' && at > start {
            break;
        }
        if let (b'[', Some(b':')) = (byte, text.get(at + 1)) {
            let end = at + 2 + text[at + 2..].iter().position(|b| *b == b']').ok_or(OPEN)?;
            if end > at + 2 && text[end - 1] == b':' {
                let member = named_class(&text[at + 2..end - 1])?;
                (0..=255u8).filter(|b| member(*b)).for_each(|b| set.insert(b));
                before = None;
                at = end + 1;
                continue;
            }
        }
        let to = text.get(at + 1).copied();
        if let (b'-', Some(from), Some(mut to)) = (byte, before, to.filter(|to| *to != b']')) {
            at += 1;
            if to == b'\\' {
                at += 1;
                to = get(at)?;
            }
            (from..=to).for_each(|b| set.insert(b));
            before = None;
        } else {
            let byte = if byte == b'\\' {
                at += 1;
                get(at)?
            } else {
                byte
            };
            set.insert(byte);
            before = Some(byte);
        }
        at += 1;
    }
    *rest = &text[at + 1..];
    if negated {
        set.0.iter_mut().for_each(|word| *word = !*word);
    }
    Ok(Token::Class(set))
}

fn named_class(name: &[u8]) -> Result<fn(u8) -> bool, String> {
    Ok(match name {
        b"alnum" => |b| b.is_ascii_alphanumeric(),
        b"alpha" => |b| b.is_ascii_alphabetic(),
        b"blank" => |b| b == b' ' || b == b'\t',
        b"cntrl" => |b| b.is_ascii_control(),
        b"digit" => |b| b.is_ascii_digit(),
        b"graph" => |b| b.is_ascii_graphic(),
        b"lower" => |b| b.is_ascii_lowercase(),
        b"print" => |b| b == b' ' || b.is_ascii_graphic(),
        b"punct" => |b| b.is_ascii_punctuation(),
        b"space" => |b| b.is_ascii_whitespace() || b == 0x0b,
        b"upper" => |b| b.is_ascii_uppercase(),
        b"xdigit" => |b| b.is_ascii_hexdigit(),
        _ => return Err(format!("there is no class [:{}:]", crate::error::show(name))),
    })
}

/// A name against tokens: only the last star ever needs to be tried again.
fn glob(tokens: &[Token], name: &[u8]) -> bool {
    let (mut token, mut at) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    loop {
        let fits = match (tokens.get(token), name.get(at)) {
            (None, None) => return true,
            (Some(Token::Star), _) => {
                star = Some((token + 1, at));
                token += 1;
                continue;
            }
            (Some(Token::Byte(byte)), Some(b)) => byte == b,
            (Some(Token::One), Some(_)) => true,
            (Some(Token::Class(set)), Some(b)) => set.has(*b),
            _ => false,
        };
        if fits {
            token += 1;
            at += 1;
            continue;
        }
        match star {
            Some((after, from)) if from < name.len() => {
                star = Some((after, from + 1));
                (token, at) = (after, from + 1);
            }
            _ => return false,
        }
    }
}

/// A path against components, likewise: only the last `**` ever needs to be tried again.
fn walk(components: &[Component], path: &[u8]) -> bool {
    let mut number = 0;
    let mut rest = Some(path);
    let mut any: Option<(usize, &[u8])> = None;
    loop {
        let fits = match (components.get(number), rest) {
            (None, None) => return true,
            (Some(Component::Any), Some(path)) => {
                any = Some((number + 1, path));
                number += 1;
                continue;
            }
            (Some(component), Some(path)) => {
                let (name, after) = split(path);
                let fits = match component {
                    Component::Literal(literal) => **literal == *name,
                    Component::Glob(tokens) => glob(tokens, name),
                    Component::Any => false,
                };
                if fits {
                    rest = after;
                }
                fits
            }
            _ => false,
        };
        if fits {
            number += 1;
            continue;
        }
        match any.map(|(next, path)| (next, split(path).1)) {
            Some((next, Some(path))) => {
                any = Some((next, path));
                (number, rest) = (next, Some(path));
            }
            _ => return false,
        }
    }
}

/// The first component of a path, and what comes after its slash.
fn split(path: &[u8]) -> (&[u8], Option<&[u8]>) {
    match path.iter().position(|b| *b == b'/') {
        Some(at) => (&path[..at], Some(&path[at + 1..])),
        None => (path, None),
    }
}

/// Patterns in order; of those that match, the last decides.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    patterns: Vec<Pattern>,
    /// Numbers of patterns that are names, by name, ascending.
    names: HashMap<Box<[u8]>, Vec<usize>>,
    /// Numbers of all others, ascending.
    others: Vec<usize>,
    needs_path: bool,
}

impl Rules {
    pub fn new(patterns: Vec<Pattern>) -> Rules {
        let mut rules = Rules::default();
        for (number, pattern) in patterns.iter().enumerate() {
            rules.needs_path |= pattern.needs_path();
            match &pattern.matcher {
                Matcher::Name(name) => rules.names.entry(name.clone()).or_default().push(number),
                _ => rules.others.push(number),
            }
        }
        Rules { patterns, ..rules }
    }

    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// Whether `find` looks at more than the name.
    pub fn needs_path(&self) -> bool {
        self.needs_path
    }

    /// The pattern that decides about `path`, relative to the directory of these rules; its last component is `name`.
    pub fn find(&self, name: &[u8], path: &[u8], is_directory: bool) -> Option<&Pattern> {
        let fits = |number: &&usize| self.patterns[**number].matches(name, path, is_directory);
        let named = match self.names.is_empty() {
            true => None,
            false => self.names.get(name).and_then(|numbers| numbers.iter().rev().find(fits)),
        };
        let later = self.others.iter().rev().take_while(|number| named.is_none_or(|named| *number > named));
        let number = later.into_iter().find(fits).or(named)?;
        Some(&self.patterns[*number])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(lines: &[&str]) -> Rules {
        let parse = |line: &&str| Pattern::parse(line.as_bytes(), None, 0).unwrap();
        Rules::new(lines.iter().filter_map(parse).collect())
    }

    /// Whether `path`, a file unless it ends with a slash, is left out; none when no rule says anything.
    fn out(lines: &[&str], path: &str) -> Option<bool> {
        let (path, is_directory) = path.strip_suffix('/').map_or((path, false), |path| (path, true));
        let name = path.rsplit('/').next().unwrap();
        rules(lines).find(name.as_bytes(), path.as_bytes(), is_directory).map(|pattern| !pattern.takes)
    }

    #[test]
    fn patterns_match_as_in_git() {
        let cases: &[(&str, &[&str], &[&str])] = &[
            ("a", &["a", "x/a", "a/"], &["b", "aa", "a/b"]),
            ("a/", &["a/", "x/a/"], &["a", "x/a"]),
            ("/a", &["a", "a/"], &["x/a"]),
            ("x/a", &["x/a"], &["a", "y/x/a"]),
            ("*.o", &[".o", "a.o", "x/a.o"], &["a.oo"]),
            ("a*", &["a", "abc", "x/ab"], &["ba"]),
            ("a?c", &["abc", "x/abc"], &["ac", "abbc"]),
            ("x/*", &["x/a"], &["x", "x/a/b"]),
            ("x/*/b", &["x/a/b"], &["x/b", "x/a/a/b"]),
            ("**/a", &["a", "x/a", "x/y/a"], &["x/ab"]),
            ("**/x/a", &["x/a", "y/x/a"], &["xx/a"]),
            ("x/**", &["x/a", "x/a/b"], &["x/", "y/x/a"]),
            ("x/**/b", &["x/b", "x/a/b", "x/a/c/b"], &["xb", "x/a/bc"]),
            ("**/x/**/b", &["x/b", "q/x/r/s/b", "x/x/b"], &["x", "b"]),
            ("/**", &["a", "a/b"], &[]),
            ("**", &["a", "a/b"], &[]),
            ("a**b", &["ab", "axb", "y/axb"], &["a/b"]),
            ("[abc]", &["a", "x/c"], &["d"]),
            ("[!abc]", &["d"], &["a", "dd"]),
            ("[^abc]", &["d"], &["a"]),
            ("[a-c]x", &["bx"], &["dx", "-x"]),
            ("[]a]", &["]", "a"], &["b"]),
            ("[a-]", &["a", "-"], &["b"]),
            ("[[:digit:]]", &["5"], &["a", "[", ":"]),
            ("[[:digit:]-z]", &["5", "-", "z"], &["a"]),
            ("[a/b]", &["a", "b"], &["x/a", "a/b"]),
            ("\\*", &["*"], &["a"]),
            ("\\!a", &["!a"], &["a"]),
            ("\\#a", &["#a"], &["a"]),
            ("{a,b}", &["{a,b}"], &["a", "b"]),
            ("a ", &["a"], &["a "]),
            ("a\\ ", &["a "], &["a"]),
            ("a\\  ", &["a "], &["a"]),
            ("a\r", &["a"], &["a\r"]),
            ("a\t", &["a\t"], &["a"]),
            ("a//b", &[], &["a/b"]),
        ];
        for (pattern, yes, no) in cases {
            yes.iter().for_each(|path| assert_eq!(out(&[pattern], path), Some(true), "{pattern} {path}"));
            no.iter().for_each(|path| assert_eq!(out(&[pattern], path), None, "{pattern} {path}"));
        }
    }

    #[test]
    fn the_last_match_decides() {
        assert_eq!(out(&["*.o", "!keep.o"], "keep.o"), Some(false));
        assert_eq!(out(&["!keep.o", "*.o"], "keep.o"), Some(true));
        assert_eq!(out(&["keep.o", "!*.o", "x"], "keep.o"), Some(false));
        assert_eq!(out(&["keep.o", "!keep.o/"], "keep.o"), Some(true));
        assert_eq!(out(&["# a comment", "", "   "], "# a comment"), None);
    }

    #[test]
    fn what_can_match_nothing_is_refused() {
        for bad in ["a\\", "[a", "[", "[]", "[!]", "[[:odd:]]", "/", "!", "!/", "a\0b", "a\\/"] {
            assert!(Pattern::parse(bad.as_bytes(), None, 0).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn hostile_patterns_take_no_longer_than_others() {
        let name = "a".repeat(255);
        let path = vec![name.as_str(); 200].join("/");
        assert_eq!(out(&[&format!("{}b", "a*".repeat(200))], &name), None);
        assert_eq!(out(&[&format!("{}b", "**/a*/".repeat(90))], &path), None);
    }
}
