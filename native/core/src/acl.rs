//! POSIX ACLs in their two forms: the text that tar archives hold, and the attribute by which Linux knows them.
//! ACL > **entry**.

use crate::error::show;

/// The attributes that hold ACLs: of the thing itself, and what is made in a directory begins with.
pub const ACCESS: &str = "system.posix_acl_access";
pub const DEFAULT: &str = "system.posix_acl_default";

const VERSION: u32 = 2;
/// More would not fit into an attribute.
const MAX_ENTRIES: usize = 8_191;
/// The id of what is no named user or group.
const NO_ID: u32 = u32::MAX;
const MAX_NAME: usize = 255;

const OWNER: u16 = 0x01;
const USER: u16 = 0x02;
const OWNING_GROUP: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

/// Whose name it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    User,
    Group,
}

/// In the order in which the attribute has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    tag: u16,
    id: u32,
    rights: u16,
}

/// An ACL that Linux would accept, sorted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acl(Vec<Entry>);

impl Acl {
    /// Reads text as GNU tar, star and bsdtar write it: `user:ann:rw-:1001` and the like, between commas or newlines,
    /// with `#` comments. `number` tells the number of a name; an entry's own fourth field is better. Or why it has no
    /// meaning.
    pub fn parse(text: &[u8], mut number: impl FnMut(Kind, &[u8]) -> Option<u32>) -> Result<Acl, String> {
        let mut entries = Vec::new();
        for part in text.split(|b| matches!(b, b',' | b'\n')) {
            let part = part.split(|b| *b == b'#').next().unwrap_or_default().trim_ascii();
            if part.is_empty() {
                continue;
            }
            if entries.len() == MAX_ENTRIES {
                return Err("it has too many entries".into());
            }
            entries.push(entry(part, &mut number)?);
        }
        Acl::checked(entries).ok_or_else(|| "it is incomplete, or says something twice".into())
    }

    /// Reads the attribute; None for what Linux would not accept.
    pub fn decode(value: &[u8]) -> Option<Acl> {
        let entries = value.strip_prefix(&VERSION.to_le_bytes())?.chunks_exact(8);
        let entry = |bytes: &[u8]| {
            let (tag, rights) = (u16::from_le_bytes([bytes[0], bytes[1]]), u16::from_le_bytes([bytes[2], bytes[3]]));
            let id = u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
            Entry { tag, id: if is_named(tag) { id } else { NO_ID }, rights }
        };
        let whole = entries.remainder().is_empty();
        Acl::checked(entries.map(entry).collect()).filter(|_| whole)
    }

    fn checked(mut entries: Vec<Entry>) -> Option<Acl> {
        entries.sort_unstable();
        let count = |tag| entries.iter().filter(|entry| entry.tag == tag).count();
        let named = count(USER) + count(GROUP);
        let once = [OWNER, OWNING_GROUP, OTHER].iter().all(|tag| count(*tag) == 1);
        let masks = count(MASK);
        let all_known = entries.len() == named + masks + 3;
        let distinct = entries.windows(2).all(|pair| (pair[0].tag, pair[0].id) != (pair[1].tag, pair[1].id));
        let sound = entries.iter().all(|entry| entry.rights <= 7 && is_named(entry.tag) == (entry.id != NO_ID));
        let masked = masks == 1 || (masks == 0 && named == 0);
        let fits = entries.len() <= MAX_ENTRIES;
        (once && all_known && distinct && sound && masked && fits).then_some(Acl(entries))
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut value = VERSION.to_le_bytes().to_vec();
        for Entry { tag, id, rights } in &self.0 {
            value.extend_from_slice(&tag.to_le_bytes());
            value.extend_from_slice(&rights.to_le_bytes());
            value.extend_from_slice(&id.to_le_bytes());
        }
        value
    }

    /// As text, with numbers for names.
    pub fn text(&self) -> String {
        let entry = |entry: &Entry| {
            let word = match entry.tag {
                OWNER | USER => "user",
                OWNING_GROUP | GROUP => "group",
                MASK => "mask",
                _ => "other",
            };
            let id = if is_named(entry.tag) { entry.id.to_string() } else { String::new() };
            let right = |bit: u16, letter| if entry.rights & bit != 0 { letter } else { '-' };
            format!("{word}:{id}:{}{}{}", right(4, 'r'), right(2, 'w'), right(1, 'x'))
        };
        self.0.iter().map(entry).collect::<Vec<_>>().join(",")
    }

    /// The permission bits that a file with this ACL has: the mask is shown as the group's.
    pub fn mode(&self) -> u16 {
        let rights = |tag| self.0.iter().find(|entry| entry.tag == tag).map(|entry| entry.rights);
        let group = rights(MASK).or(rights(OWNING_GROUP));
        rights(OWNER).unwrap_or(0) << 6 | group.unwrap_or(0) << 3 | rights(OTHER).unwrap_or(0)
    }

    /// It says nothing that the permission bits do not say.
    pub fn is_mode(&self) -> bool {
        self.0.len() == 3
    }
}

fn is_named(tag: u16) -> bool {
    matches!(tag, USER | GROUP)
}

fn entry(part: &[u8], number: &mut impl FnMut(Kind, &[u8]) -> Option<u32>) -> Result<Entry, String> {
    let shown = || show(&part[..part.len().min(MAX_NAME)]);
    let odd = || format!("{:?} has no meaning", shown());
    let fields: Vec<&[u8]> = part.splitn(5, |b| *b == b':').map(<[u8]>::trim_ascii).collect();
    let (word, name, rights, id) = match fields[..] {
        [word @ (b"mask" | b"m" | b"other" | b"o"), rights] => (word, &b""[..], rights, None),
        [word, name, rights] => (word, name, rights, None),
        [word, name, rights, id] if !name.is_empty() => (word, name, rights, Some(id)),
        _ => return Err(odd()),
    };
    let (own, kind) = match word {
        b"user" | b"u" => (OWNER, Some((USER, Kind::User))),
        b"group" | b"g" => (OWNING_GROUP, Some((GROUP, Kind::Group))),
        b"mask" | b"m" => (MASK, None),
        b"other" | b"o" => (OTHER, None),
        _ => return Err(odd()),
    };
    let rights = bits(rights).ok_or_else(odd)?;
    if name.is_empty() {
        return Ok(Entry { tag: own, id: NO_ID, rights });
    }
    let (tag, kind) = kind.ok_or_else(odd)?;
    let given = match id {
        Some(id) => Some(plain(id).ok_or_else(odd)?),
        None => plain(name),
    };
    let name = unquoted(name);
    let asked = || if name.len() <= MAX_NAME { number(kind, &name) } else { None };
    let id = given.or_else(asked).ok_or_else(|| {
        let what = if kind == Kind::User { "user" } else { "group" };
        format!("this machine has no {what} {}", show(&name[..name.len().min(MAX_NAME)]))
    })?;
    Ok(Entry { tag, id, rights })
}

fn bits(text: &[u8]) -> Option<u16> {
    let bit = |letter: &u8| match letter {
        b'r' => Some(4),
        b'w' => Some(2),
        b'x' => Some(1),
        b'-' => Some(0),
        _ => None,
    };
    let bits = text.iter().try_fold(0, |sum, letter| Some(sum | bit(letter)?));
    bits.filter(|_| text.len() <= 3)
}

fn plain(text: &[u8]) -> Option<u32> {
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(text).ok().filter(|_| digits)?.parse().ok().filter(|id| *id != NO_ID)
}

/// A name without the `\ooo` that libacl writes for what would end it.
fn unquoted(name: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some((byte, more)) = rest.split_first() {
        let (byte, more) = match rest {
            [b'\\', a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', more @ ..] => {
                ((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'), more)
            }
            _ => (*byte, more),
        };
        out.push(byte);
        rest = more;
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn number(kind: Kind, name: &[u8]) -> Option<u32> {
        match (kind, name) {
            (Kind::User, b"daemon") => Some(1),
            (Kind::Group, b"games") => Some(60),
            (Kind::User, b"a: b") => Some(7),
            _ => None,
        }
    }

    fn parsed(text: &str) -> Result<String, String> {
        Acl::parse(text.as_bytes(), number).map(|acl| acl.text())
    }

    #[test]
    fn what_tars_write_is_read() {
        let whole = "user::rw-,user:1:rw-,user:1001:r--,group::r--,group:60:--x,mask::r--,other::---";
        for text in [
            // GNU tar.
            "user::rw-\nuser:daemon:rw-\nuser:1001:r--\ngroup::r--\ngroup:games:--x\nmask::r--\nother::---\n",
            // bsdtar.
            "user::rw-,group::r--,other::---,user:gone:rw-:1,user:1001:r--,group:games:--x:60,mask::r--",
            // star, getfacl, and what may be left out.
            "u::rw,u:daemon:wr\t#effective:r--,u:1001:r,g::r,g:60:x,mask:r,other:\n# no more",
        ] {
            assert_eq!(parsed(text).as_deref(), Ok(whole), "{text}");
        }
        assert_eq!(parsed("u::rwx,g::rx,m::rx,o::,u:a\\072\\040b:r").unwrap().matches("user:7:r--").count(), 1);
    }

    #[test]
    fn the_attribute_is_as_linux_gives_it() {
        let text = b"user::rw-,user:daemon:rw-,user:1001:r--,group::r--,group:games:--x,mask::r--,other::---";
        let acl = Acl::parse(text, number).unwrap();
        let hex: String = acl.encode().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            hex,
            "0200000001000600ffffffff020006000100000002000400e903000004000400ffffffff080001003c00000010000400ffffffff\
             20000000ffffffff"
        );
        assert_eq!((acl.mode(), acl.is_mode()), (0o640, false));
        let plain = Acl::parse(b"u::rwx,g::rx,o::x", number).unwrap();
        assert_eq!((plain.mode(), plain.is_mode()), (0o751, true));
    }

    #[test]
    fn what_linux_would_refuse_is_refused() {
        for (text, why) in [
            ("", "incomplete"),
            ("u::rwx,g::rx", "incomplete"),
            ("u::rwx,g::rx,o::,u:7:r", "incomplete"),
            ("u::rwx,g::rx,o::,u::r", "twice"),
            ("u::rwx,g::rx,m::r,o::,u:7:r,u:7:w", "twice"),
            ("u::rwx,g::rx,m::r,o::,u:nobody-here:r", "no user nobody-here"),
            ("u::rwx,g::rx,m::r,o::,g:daemon:r", "no group daemon"),
            ("u::rwx,g::rx,m::r,o::,u:x:r:4294967295", "no meaning"),
            ("u::rwx,g::rx,m::r,o::,u:x:r:1:2", "no meaning"),
            ("u::rwx,g::rx,o:7:r", "no meaning"),
            ("u::rwxr,g::rx,o::", "no meaning"),
            ("u::rwz,g::rx,o::", "no meaning"),
            ("user,g::rx,o::", "no meaning"),
            ("owner@:rwx::allow", "no meaning"),
        ] {
            let found = parsed(text).unwrap_err();
            assert!(found.contains(why), "{text}: {found}");
        }
        let many: Vec<String> = (0..9000).map(|id| format!("u:{id}:r")).collect();
        assert!(parsed(&format!("u::,g::,m::,o::,{}", many.join(","))).unwrap_err().contains("too many"));
        assert!(parsed(&"u:".repeat(1 << 20)).is_err());
    }

    proptest! {
        #[test]
        fn text_and_attribute_hold_the_same(
            users in proptest::collection::btree_map(0..u32::MAX, 0u16..8, 0..5),
            groups in proptest::collection::btree_map(0..u32::MAX, 0u16..8, 0..5),
            rights in proptest::array::uniform4(0u16..8),
        ) {
            let named = |tag| move |(id, rights): (u32, u16)| Entry { tag, id, rights };
            let mut entries: Vec<Entry> = [OWNER, OWNING_GROUP, OTHER, MASK]
                .iter()
                .zip(rights)
                .map(|(tag, rights)| Entry { tag: *tag, id: NO_ID, rights })
                .collect();
            entries.extend(users.into_iter().map(named(USER)));
            entries.extend(groups.into_iter().map(named(GROUP)));
            let acl = Acl::checked(entries).unwrap();
            prop_assert_eq!(Acl::decode(&acl.encode()), Some(acl.clone()));
            prop_assert_eq!(Acl::parse(acl.text().as_bytes(), |_, _| None), Ok(acl));
        }

        #[test]
        fn anything_may_stand_in_an_acl(
            bytes in proptest::collection::vec(any::<u8>(), 0..80),
            text in "[ugmo:rwx,7\\\\0-3#]{0,60}",
        ) {
            let _ = Acl::decode(&bytes);
            let _ = Acl::parse(&bytes, number);
            let _ = Acl::parse(text.as_bytes(), number);
        }
    }
}
