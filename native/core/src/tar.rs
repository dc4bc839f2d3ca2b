//! Tar as bytes, both ways: header blocks, pax records, numbers, sparse maps. Knows no file system and no store.
//! archive > member > **header**, content.

use std::collections::BTreeMap;

use crate::acl::{self, Acl};
use crate::node::{Entry, Hole, Time, What, XattrSet};

pub const BLOCK: usize = 512;
/// Archives are filled up to a multiple of this, as tar has always done.
pub const RECORD: usize = 20 * BLOCK;
/// Stretches of a sparse map; a file with more of them is written with its holes as zeros.
pub const MAX_STRETCHES: usize = 4 << 20;

const NAME: std::ops::Range<usize> = 0..100;
const MODE: std::ops::Range<usize> = 100..108;
const UID: std::ops::Range<usize> = 108..116;
const GID: std::ops::Range<usize> = 116..124;
const SIZE: std::ops::Range<usize> = 124..136;
const MTIME: std::ops::Range<usize> = 136..148;
const CHECKSUM: std::ops::Range<usize> = 148..156;
const TYPE: usize = 156;
const LINK: std::ops::Range<usize> = 157..257;
const MAGIC: std::ops::Range<usize> = 257..265;
const USER: std::ops::Range<usize> = 265..297;
const GROUP: std::ops::Range<usize> = 297..329;
const MAJOR: std::ops::Range<usize> = 329..337;
const MINOR: std::ops::Range<usize> = 337..345;
const PREFIX: std::ops::Range<usize> = 345..500;
/// The old GNU format's sparse map in the header: four stretches, whether more follow, the real size.
const GNU_STRETCHES: std::ops::Range<usize> = 386..482;
const GNU_MORE: usize = 482;
const GNU_REAL_SIZE: std::ops::Range<usize> = 483..495;
/// In the blocks that follow it: 21 stretches, whether more follow.
const MORE_STRETCHES: std::ops::Range<usize> = 0..504;
const MORE_MORE: usize = 504;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// POSIX.1-2001, with `SCHILY.xattr.*`, `SCHILY.acl.*` and `GNU.sparse` 1.0.
    Pax,
    /// GNU tar's own: neither attributes nor fractions of seconds.
    Gnu,
}

/// ACLs as text, and the attributes that they stand for.
pub const ACLS: [(&str, &str); 2] = [("SCHILY.acl.access", acl::ACCESS), ("SCHILY.acl.default", acl::DEFAULT)];

/// A stretch of data in a sparse file: offset and length.
pub type Stretch = (u64, u64);

/// What lies between the holes. Ends with an empty stretch where the file ends with a hole.
pub fn stretches(holes: &[Hole], size: u64) -> Vec<Stretch> {
    let mut map = Vec::with_capacity(holes.len() + 1);
    let mut at = 0;
    for hole in holes {
        if at < hole.start {
            map.push((at, hole.start - at));
        }
        at = hole.end;
    }
    map.push((at, size - at));
    map
}

/// What lies between the stretches, which must be in order and inside the file; None when they are not.
pub fn holes(map: &[Stretch], size: u64) -> Option<Vec<Hole>> {
    let mut holes = Vec::new();
    let mut at = 0u64;
    for (offset, len) in map {
        let end = offset.checked_add(*len)?;
        if *offset < at || end > size {
            return None;
        }
        if *offset > at {
            holes.push(Hole { start: at, end: *offset });
        }
        at = end;
    }
    if at < size {
        holes.push(Hole { start: at, end: size });
    }
    // An empty stretch between two holes divides nothing.
    holes.dedup_by(|next, before| {
        let touch = before.end == next.start;
        if touch {
            before.end = next.end;
        }
        touch
    });
    Some(holes)
}

/// A member to be written.
pub struct Member<'a> {
    /// In the archive; that of a directory ends with a slash.
    pub path: &'a [u8],
    pub entry: &'a Entry,
    /// The earlier member that it is a hard link to.
    pub link: Option<&'a [u8]>,
    pub user: &'a [u8],
    pub group: &'a [u8],
    pub xattrs: &'a XattrSet,
    /// Of a file that is written without its holes.
    pub map: Option<&'a [Stretch]>,
}

/// Fills up to a whole block.
pub fn pad(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(BLOCK), 0);
}

/// Bytes behind content of this length.
pub fn padding(len: u64) -> usize {
    (len.next_multiple_of(BLOCK as u64) - len) as usize
}

impl Member<'_> {
    fn type_byte(&self) -> u8 {
        if self.link.is_some() {
            return b'1';
        }
        match self.entry.what {
            What::File { .. } => b'0',
            What::Symlink(_) => b'2',
            What::CharDevice(..) => b'3',
            What::BlockDevice(..) => b'4',
            What::Directory(_) => b'5',
            What::Fifo => b'6',
        }
    }

    fn target(&self) -> &[u8] {
        match (&self.entry.what, self.link) {
            (_, Some(link)) => link,
            (What::Symlink(target), None) => target,
            _ => b"",
        }
    }

    fn size(&self) -> u64 {
        match self.entry.what {
            What::File { size, .. } if self.link.is_none() => size,
            _ => 0,
        }
    }

    /// Appends everything that stands before the content.
    pub fn put(&self, format: Format, out: &mut Vec<u8>) {
        match format {
            Format::Pax => self.put_pax(out),
            Format::Gnu => self.put_gnu(out),
        }
    }

    fn put_pax(&self, out: &mut Vec<u8>) {
        let mut records = Records::default();
        let mut map = Vec::new();
        let mut stored = self.size();
        let mut path = self.path.to_vec();
        if let Some(stretches) = self.map {
            map = map_text(stretches);
            stored = map.len() as u64 + stretches.iter().map(|(_, len)| len).sum::<u64>();
            records.put_number(b"GNU.sparse.major", 1);
            records.put_number(b"GNU.sparse.minor", 0);
            records.put_text(b"GNU.sparse.name", self.path);
            records.put_number(b"GNU.sparse.realsize", self.size());
            path = beside(self.path, b"GNUSparseFile.0");
        }
        if path.len() > NAME.len() {
            records.put_text(b"path", &path);
        }
        if self.target().len() > LINK.len() {
            records.put_text(b"linkpath", self.target());
        }
        if stored > OCTAL_11 {
            records.put_number(b"size", stored);
        }
        self.put_owner_records(&mut records);
        let mtime = self.entry.mtime;
        if mtime.nanos != 0 || mtime.seconds < 0 || mtime.seconds as u64 > OCTAL_11 {
            records.put(b"mtime", &decimal(mtime));
        }
        for (name, value) in if self.link.is_none() { &self.xattrs[..] } else { &[] } {
            records.put(&[XATTR, &escape_keyword(name)].concat(), value);
            // bsdtar, and GNU tar without `--xattrs-include`, know ACLs as text only.
            let known = ACLS.iter().find(|(_, attribute)| **name == *attribute.as_bytes());
            if let Some((key, acl)) = known.zip(Acl::decode(value)).map(|((key, _), acl)| (key, acl)) {
                records.put(key.as_bytes(), acl.text().as_bytes());
            }
        }
        if !records.bytes.is_empty() {
            let records = records.finish();
            let mut header = Header::new(&beside(self.path, b"PaxHeaders"), b'x', records.len() as u64, false);
            header.put_number(MODE, 0o644);
            header.put_number(MTIME, mtime.seconds.clamp(0, OCTAL_11 as i64) as u64);
            out.extend_from_slice(&header.finish());
            out.extend_from_slice(&records);
            pad(out);
        }
        let mut header = Header::new(&path, self.type_byte(), stored, false);
        self.put_fields(&mut header);
        out.extend_from_slice(&header.finish());
        out.extend_from_slice(&map);
    }

    fn put_owner_records(&self, records: &mut Records) {
        if u64::from(self.entry.uid) > OCTAL_7 {
            records.put_number(b"uid", self.entry.uid.into());
        }
        if u64::from(self.entry.gid) > OCTAL_7 {
            records.put_number(b"gid", self.entry.gid.into());
        }
        if self.user.len() > USER.len() {
            records.put_text(b"uname", self.user);
        }
        if self.group.len() > GROUP.len() {
            records.put_text(b"gname", self.group);
        }
        if let What::CharDevice(major, minor) | What::BlockDevice(major, minor) = self.entry.what {
            if u64::from(major.max(minor)) > OCTAL_7 && self.link.is_none() {
                records.put_number(b"SCHILY.devmajor", major.into());
                records.put_number(b"SCHILY.devminor", minor.into());
            }
        }
    }

    fn put_gnu(&self, out: &mut Vec<u8>) {
        for (text, kind, field) in [(self.target(), b'K', LINK), (self.path, b'L', NAME)] {
            if text.len() > field.len() {
                out.extend_from_slice(&Header::new(b"././@LongLink", kind, text.len() as u64 + 1, true).finish());
                out.extend_from_slice(text);
                out.push(0);
                pad(out);
            }
        }
        let stored = match self.map {
            Some(map) => map.iter().map(|(_, len)| len).sum(),
            None => self.size(),
        };
        let kind = if self.map.is_some() { b'S' } else { self.type_byte() };
        let mut header = Header::new(self.path, kind, stored, true);
        self.put_fields(&mut header);
        let mut rest: &[Stretch] = &[];
        if let Some(map) = self.map {
            let (first, more) = map.split_at(map.len().min(4));
            put_stretches(first, &mut header.0[GNU_STRETCHES]);
            header.0[GNU_MORE] = u8::from(!more.is_empty());
            header.put_number(GNU_REAL_SIZE, self.size());
            rest = more;
        }
        out.extend_from_slice(&header.finish());
        while !rest.is_empty() {
            let (now, more) = rest.split_at(rest.len().min(21));
            let mut block = [0; BLOCK];
            put_stretches(now, &mut block[MORE_STRETCHES]);
            block[MORE_MORE] = u8::from(!more.is_empty());
            out.extend_from_slice(&block);
            rest = more;
        }
    }

    fn put_fields(&self, header: &mut Header) {
        let entry = self.entry;
        header.put_number(MODE, entry.mode.into());
        header.put_number(UID, entry.uid.into());
        header.put_number(GID, entry.gid.into());
        header.put_signed(MTIME, entry.mtime.seconds);
        header.put_text(LINK, self.target());
        header.put_text(USER, self.user);
        header.put_text(GROUP, self.group);
        match entry.what {
            What::CharDevice(major, minor) | What::BlockDevice(major, minor) if self.link.is_none() => {
                header.put_number(MAJOR, major.into());
                header.put_number(MINOR, minor.into());
            }
            _ => {}
        }
    }
}

fn put_stretches(map: &[Stretch], field: &mut [u8]) {
    for ((offset, len), place) in map.iter().zip(field.chunks_exact_mut(24)) {
        put_number(&mut place[..12], *offset);
        put_number(&mut place[12..], *len);
    }
}

/// The map of `GNU.sparse` 1.0, which stands before the content.
fn map_text(map: &[Stretch]) -> Vec<u8> {
    use std::io::Write;
    let mut text = Vec::new();
    let mut line = |number: u64| writeln!(text, "{number}").expect("memory");
    line(map.len() as u64);
    for (offset, len) in map {
        line(*offset);
        line(*len);
    }
    pad(&mut text);
    text
}

/// A name for something that belongs to `path`, beside it.
fn beside(path: &[u8], folder: &[u8]) -> Vec<u8> {
    let trimmed = path.strip_suffix(b"/").unwrap_or(path);
    let at = trimmed.iter().rposition(|c| *c == b'/').map_or(0, |at| at + 1);
    let name = &trimmed[at..];
    let whole = [&trimmed[..at], folder, b"/", name].concat();
    if whole.len() <= NAME.len() {
        return whole;
    }
    [folder, b"/", &name[..name.len().min(NAME.len() - folder.len() - 1)]].concat()
}

/// The largest numbers in fields of 8 and 12 bytes.
const OCTAL_7: u64 = 0o7777777;
const OCTAL_11: u64 = 0o77777777777;

/// Octal where it fits, else base 256.
fn put_number(field: &mut [u8], number: u64) {
    let digits = field.len() - 1;
    if digits >= 22 || number >> (3 * digits) == 0 {
        let text = format!("{number:0digits$o}");
        field[..digits].copy_from_slice(text.as_bytes());
        field[digits] = 0;
        return;
    }
    put_base_256(field, number as i128);
}

fn put_base_256(field: &mut [u8], number: i128) {
    let bytes = number.to_be_bytes();
    let len = field.len();
    field.copy_from_slice(&bytes[bytes.len() - len..]);
    field[0] = if number < 0 { 0xff } else { 0x80 };
}

struct Header([u8; BLOCK]);

impl Header {
    fn new(path: &[u8], kind: u8, size: u64, gnu: bool) -> Header {
        let mut header = Header([0; BLOCK]);
        header.put_text(NAME, path);
        header.0[TYPE] = kind;
        header.0[MAGIC].copy_from_slice(if gnu { b"ustar  \0" } else { b"ustar\x0000" });
        for field in [MODE, UID, GID, MTIME] {
            header.put_number(field, 0);
        }
        if !gnu {
            header.put_number(MAJOR, 0);
            header.put_number(MINOR, 0);
        }
        header.put_number(SIZE, size);
        header
    }

    fn put_text(&mut self, field: std::ops::Range<usize>, text: &[u8]) {
        let len = text.len().min(field.len());
        self.0[field.start..field.start + len].copy_from_slice(&text[..len]);
    }

    fn put_number(&mut self, field: std::ops::Range<usize>, number: u64) {
        put_number(&mut self.0[field], number);
    }

    fn put_signed(&mut self, field: std::ops::Range<usize>, number: i64) {
        match u64::try_from(number) {
            Ok(number) => self.put_number(field, number),
            Err(_) => put_base_256(&mut self.0[field], number.into()),
        }
    }

    fn finish(mut self) -> [u8; BLOCK] {
        self.0[CHECKSUM].fill(b' ');
        let sum: u32 = self.0.iter().map(|b| u32::from(*b)).sum();
        self.0[CHECKSUM.start..CHECKSUM.start + 7].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        self.0
    }
}

/// Records of a pax header.
#[derive(Default)]
struct Records {
    bytes: Vec<u8>,
    not_text: bool,
}

impl Records {
    fn put(&mut self, key: &[u8], value: &[u8]) {
        put_record(&mut self.bytes, key, value);
    }

    fn put_number(&mut self, key: &[u8], value: u64) {
        self.put(key, value.to_string().as_bytes());
    }

    /// A value that ought to be UTF-8.
    fn put_text(&mut self, key: &[u8], value: &[u8]) {
        self.not_text |= std::str::from_utf8(value).is_err();
        self.put(key, value);
    }

    fn finish(self) -> Vec<u8> {
        if !self.not_text {
            return self.bytes;
        }
        let mut bytes = Vec::with_capacity(self.bytes.len() + 24);
        put_record(&mut bytes, b"hdrcharset", b"BINARY");
        bytes.extend_from_slice(&self.bytes);
        bytes
    }
}

/// `LENGTH KEY=VALUE\n`, where the length counts its own digits.
fn put_record(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut len = rest + 1;
    while len != rest + len.to_string().len() {
        len = rest + len.to_string().len();
    }
    out.extend_from_slice(len.to_string().as_bytes());
    out.push(b' ');
    out.extend_from_slice(key);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}

/// A time in seconds with as many decimals as it needs.
fn decimal(time: Time) -> Vec<u8> {
    let nanos = time.as_ns();
    let (whole, fraction) = (nanos.unsigned_abs() / 1_000_000_000, nanos.unsigned_abs() % 1_000_000_000);
    let sign = if nanos < 0 { "-" } else { "" };
    let mut text = format!("{sign}{whole}");
    if fraction != 0 {
        text.push_str(format!(".{fraction:09}").trim_end_matches('0'));
    }
    text.into_bytes()
}

/// Names of attributes may hold `=`, which would end the keyword: escaped as GNU tar does.
fn escape_keyword(name: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(name.len());
    for byte in name {
        match byte {
            b'%' => out.extend_from_slice(b"%25"),
            b'=' => out.extend_from_slice(b"%3D"),
            other => out.push(*other),
        }
    }
    out
}

// Reading

fn unescape_keyword(name: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some((byte, more)) = rest.split_first() {
        let (byte, more) = match rest {
            [b'%', b'2', b'5', more @ ..] => (b'%', more),
            [b'%', b'3', b'D' | b'd', more @ ..] => (b'=', more),
            _ => (*byte, more),
        };
        out.push(byte);
        rest = more;
    }
    out
}

/// A header block that was read and whose checksum is right.
pub struct Block(pub [u8; BLOCK]);

/// What is wrong with an archive.
pub type Fault = &'static str;

impl Block {
    /// None for a block of zeros.
    pub fn check(bytes: [u8; BLOCK]) -> Result<Option<Block>, Fault> {
        if bytes.iter().all(|b| *b == 0) {
            return Ok(None);
        }
        let stored = number(&bytes[CHECKSUM]).ok_or("this is no tar header")?;
        let outside = |at: &usize| !CHECKSUM.contains(at);
        let unsigned: i128 = (0..BLOCK).filter(outside).map(|at| i128::from(bytes[at])).sum();
        let signed: i128 = (0..BLOCK).filter(outside).map(|at| i128::from(bytes[at] as i8)).sum();
        if stored != unsigned + 8 * 32 && stored != signed + 8 * 32 {
            return Err("the checksum of the header is wrong");
        }
        Ok(Some(Block(bytes)))
    }

    pub fn kind(&self) -> u8 {
        self.0[TYPE]
    }

    pub fn is_gnu(&self) -> bool {
        &self.0[MAGIC] == b"ustar  \0"
    }

    pub fn name(&self) -> Vec<u8> {
        let name = text(&self.0[NAME]);
        let is_posix = self.0[MAGIC].starts_with(b"ustar\0");
        match text(&self.0[PREFIX]) {
            [] => name.to_vec(),
            prefix if is_posix => [prefix, b"/", name].concat(),
            _ => name.to_vec(),
        }
    }

    pub fn link(&self) -> &[u8] {
        text(&self.0[LINK])
    }

    pub fn user(&self) -> &[u8] {
        if self.0[MAGIC].starts_with(b"ustar") {
            text(&self.0[USER])
        } else {
            b""
        }
    }

    pub fn group(&self) -> &[u8] {
        if self.0[MAGIC].starts_with(b"ustar") {
            text(&self.0[GROUP])
        } else {
            b""
        }
    }

    pub fn size(&self) -> Result<u64, Fault> {
        let size = number(&self.0[SIZE]).ok_or("its size is not a number")?;
        bounded(size).ok_or("its size is out of bounds")
    }

    pub fn mode(&self) -> Result<u16, Fault> {
        Ok((number(&self.0[MODE]).ok_or("its mode is not a number")? & 0o7777) as u16)
    }

    pub fn uid(&self) -> Result<u32, Fault> {
        number(&self.0[UID]).and_then(|n| u32::try_from(n).ok()).ok_or("its owner is not a number in bounds")
    }

    pub fn gid(&self) -> Result<u32, Fault> {
        number(&self.0[GID]).and_then(|n| u32::try_from(n).ok()).ok_or("its group is not a number in bounds")
    }

    pub fn mtime(&self) -> Result<Time, Fault> {
        let seconds = number(&self.0[MTIME]).and_then(|n| i64::try_from(n).ok());
        Ok(Time { seconds: seconds.ok_or("its time is not a number in bounds")?, nanos: 0 })
    }

    pub fn device(&self) -> Result<(u32, u32), Fault> {
        let part = |field: std::ops::Range<usize>| number(&self.0[field]).and_then(|n| u32::try_from(n).ok());
        part(MAJOR).zip(part(MINOR)).ok_or("its device is not a number in bounds")
    }

    /// Stretches and real size of an old GNU sparse file, and whether a block with more of them follows.
    pub fn gnu_sparse(&self, map: &mut Vec<Stretch>) -> Result<(u64, bool), Fault> {
        take_stretches(&self.0[GNU_STRETCHES], map)?;
        let size = number(&self.0[GNU_REAL_SIZE]).and_then(bounded).ok_or("its real size is out of bounds")?;
        Ok((size, self.0[GNU_MORE] != 0))
    }
}

/// Stretches of a block that continues a map; true when another follows.
pub fn more_stretches(block: &[u8; BLOCK], map: &mut Vec<Stretch>) -> Result<bool, Fault> {
    take_stretches(&block[MORE_STRETCHES], map)?;
    Ok(block[MORE_MORE] != 0)
}

fn take_stretches(field: &[u8], map: &mut Vec<Stretch>) -> Result<(), Fault> {
    for place in field.chunks_exact(24) {
        if place.iter().all(|b| *b == 0) {
            break;
        }
        let part = |field: &[u8]| number(field).and_then(bounded).ok_or("its sparse map is damaged");
        push_stretch(map, (part(&place[..12])?, part(&place[12..])?))?;
    }
    Ok(())
}

/// Adds to a map that may come from anywhere.
pub fn push_stretch(map: &mut Vec<Stretch>, stretch: Stretch) -> Result<(), Fault> {
    if map.len() >= MAX_STRETCHES {
        return Err("its sparse map has more than 4,194,304 stretches");
    }
    map.push(stretch);
    Ok(())
}

fn bounded(number: i128) -> Option<u64> {
    u64::try_from(number).ok().filter(|n| *n <= i64::MAX as u64)
}

/// Up to the first NUL.
fn text(field: &[u8]) -> &[u8] {
    &field[..field.iter().position(|b| *b == 0).unwrap_or(field.len())]
}

/// Octal with spaces around it, or base 256; an empty field is 0.
fn number(field: &[u8]) -> Option<i128> {
    if field[0] & 0x80 != 0 {
        let first = i128::from(if field[0] == 0xff { -1i8 } else { (field[0] & 0x7f) as i8 });
        return Some(field[1..].iter().fold(first, |sum, byte| sum << 8 | i128::from(*byte)));
    }
    let digits = text(field).trim_ascii();
    digits.iter().try_fold(0i128, |sum, digit| match digit {
        b'0'..=b'7' => Some(sum << 3 | i128::from(digit - b'0')),
        _ => None,
    })
}

/// What pax records say. Later ones replace earlier ones.
#[derive(Clone, Default, Debug)]
pub struct Pax {
    records: BTreeMap<Vec<u8>, Vec<u8>>,
    /// `GNU.sparse` 0.0 repeats its keywords.
    pub map: Vec<Stretch>,
    offset: Option<u64>,
}

impl Pax {
    /// Reads records; an empty value removes what stood before.
    pub fn read(&mut self, mut bytes: &[u8]) -> Result<(), Fault> {
        const BAD: Fault = "its pax header is damaged";
        while !bytes.is_empty() {
            if bytes.iter().all(|b| *b == 0) {
                break;
            }
            let space = bytes.iter().take(12).position(|b| *b == b' ').ok_or(BAD)?;
            let len: usize = std::str::from_utf8(&bytes[..space]).ok().and_then(|t| t.parse().ok()).ok_or(BAD)?;
            if len <= space + 2 || len > bytes.len() || bytes[len - 1] != b'\n' {
                return Err(BAD);
            }
            let record = &bytes[space + 1..len - 1];
            let equals = record.iter().position(|b| *b == b'=').ok_or(BAD)?;
            self.take(&record[..equals], &record[equals + 1..])?;
            bytes = &bytes[len..];
        }
        Ok(())
    }

    fn take(&mut self, key: &[u8], value: &[u8]) -> Result<(), Fault> {
        const BAD: Fault = "its sparse map is damaged";
        match key {
            b"GNU.sparse.offset" => self.offset = Some(plain_number(value).ok_or(BAD)?),
            b"GNU.sparse.numbytes" => {
                let offset = self.offset.take().ok_or(BAD)?;
                push_stretch(&mut self.map, (offset, plain_number(value).ok_or(BAD)?))?;
            }
            b"GNU.sparse.map" => {
                self.map.clear();
                let mut numbers = value.split(|b| *b == b',').map(plain_number);
                while let Some(offset) = numbers.next() {
                    let len = numbers.next().flatten().ok_or(BAD)?;
                    push_stretch(&mut self.map, (offset.ok_or(BAD)?, len))?;
                }
            }
            _ if value.is_empty() && !key.starts_with(XATTR) => drop(self.records.remove(key)),
            _ => drop(self.records.insert(key.to_vec(), value.to_vec())),
        }
        Ok(())
    }

    pub fn get(&self, key: &str) -> Option<&[u8]> {
        self.records.get(key.as_bytes()).map(Vec::as_slice)
    }

    pub fn number(&self, key: &str) -> Result<Option<u64>, Fault> {
        let read = |value| plain_number(value).ok_or("a number in its pax header is out of bounds");
        self.get(key).map(read).transpose()
    }

    pub fn mtime(&self) -> Result<Option<Time>, Fault> {
        let read = |value| read_decimal(value).ok_or("the time in its pax header is not a number in bounds");
        self.get("mtime").map(read).transpose()
    }

    /// Attributes, by the name the system knows them by.
    pub fn xattrs(&self) -> impl Iterator<Item = (Vec<u8>, &[u8])> {
        let from = self.records.range(XATTR.to_vec()..).take_while(|(key, _)| key.starts_with(XATTR));
        from.map(|(key, value)| (unescape_keyword(&key[XATTR.len()..]), value.as_slice()))
    }

    /// Bytes in memory, roughly.
    pub fn weight(&self) -> usize {
        self.records.iter().map(|(key, value)| key.len() + value.len() + 96).sum::<usize>() + self.map.len() * 16
    }

    /// `local` over these.
    pub fn under(&self, local: Pax) -> Pax {
        let mut all = self.clone();
        all.records.extend(local.records);
        all.map = local.map;
        all
    }
}

const XATTR: &[u8] = b"SCHILY.xattr.";

/// A decimal number up to 2^63 - 1.
pub fn plain_number(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok().filter(|n| *n <= i64::MAX as u64)
}

/// Seconds with any number of decimals, of which nine count.
fn read_decimal(text: &[u8]) -> Option<Time> {
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (whole, fraction) = match text.iter().position(|b| *b == b'.') {
        Some(at) => (&text[..at], &text[at + 1..]),
        None => (text, &b""[..]),
    };
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let mut nanos = i128::from(plain_number(whole)?) * 1_000_000_000;
    let mut unit = 100_000_000;
    for digit in fraction.iter().take(9) {
        nanos += i128::from(digit - b'0') * unit;
        unit /= 10;
    }
    if negative {
        nanos = -nanos;
    }
    let seconds = i64::try_from(nanos.div_euclid(1_000_000_000)).ok()?;
    Some(Time { seconds, nanos: nanos.rem_euclid(1_000_000_000) as u32 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn numbers_and_times_round_trip(value in any::<u64>(), seconds in any::<i64>(), nanos in 0u32..1_000_000_000) {
            for len in [8, 12] {
                let value = if len == 8 { value >> 8 } else { value };
                let mut field = vec![0; len];
                put_number(&mut field, value);
                prop_assert_eq!(number(&field), Some(i128::from(value)));
            }
            let mut header = Header::new(b"x", b'0', 0, false);
            header.put_signed(MTIME, seconds);
            prop_assert_eq!(Block::check(header.finish()).unwrap().unwrap().mtime().unwrap().seconds, seconds);
            let time = Time { seconds: seconds / 2, nanos };
            prop_assert_eq!(read_decimal(&decimal(time)), Some(time));
        }

        #[test]
        fn records_round_trip(values in proptest::collection::btree_map("[a-z.]{1,30}", "[^\0]{1,300}", 0..8)) {
            let mut records = Records::default();
            values.iter().for_each(|(key, value)| records.put(key.as_bytes(), value.as_bytes()));
            let mut pax = Pax::default();
            pax.read(&records.finish()).unwrap();
            for (key, value) in &values {
                prop_assert_eq!(pax.get(key), Some(value.as_bytes()));
            }
        }

        #[test]
        fn anything_may_stand_in_records(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Pax::default().read(&bytes);
        }

        #[test]
        fn maps_and_holes_are_complements(edges in proptest::collection::btree_set(0u64..10_000, 0..20)) {
            let edges: Vec<u64> = edges.into_iter().collect();
            let all: Vec<Hole> = edges.chunks_exact(2).map(|pair| Hole { start: pair[0], end: pair[1] }).collect();
            prop_assert_eq!(holes(&stretches(&all, 10_000), 10_000).unwrap(), all);
        }
    }

    #[test]
    fn maps_that_lie_are_refused() {
        assert!(holes(&[(0, 10), (5, 1)], 100).is_none());
        assert!(holes(&[(90, 11)], 100).is_none());
        assert!(holes(&[(u64::MAX, 2)], 100).is_none());
    }

    #[test]
    fn attributes_with_an_equals_sign_keep_their_name() {
        let name = b"user.a=b%3D".to_vec();
        let mut records = Records::default();
        records.put(&[XATTR, &escape_keyword(&name)].concat(), b"");
        let mut pax = Pax::default();
        pax.read(&records.finish()).unwrap();
        assert_eq!(pax.xattrs().collect::<Vec<_>>(), [(name, &b""[..])]);
    }
}
