//! Tree nodes as values and as bytes (docs/format/node.md): entries, chunk lists, hole maps, link tables, roots.
//! snapshot > root node > directory nodes > **entry** > chunk list > chunk.

use crate::bytes::{put_bytes, put_varint, put_zigzag, Cursor};
use crate::chunker::IN_PLACE_MAX;
use crate::error::{Error, Result};
use crate::id::{checksum, Id, ZERO_ID};

pub const MAX_NODE_LEN: usize = 8 << 20;
pub const MAX_ITEMS: usize = 1024;
pub const MAX_LEVEL: u8 = 12;
/// Chunk lists and hole maps up to this many items stand in place.
pub const IN_PLACE_ITEMS: usize = 32;
/// Attribute sets up to this many bytes stand in place.
pub const XATTRS_IN_PLACE: usize = 2048;
pub const MAX_XATTRS_LEN: u64 = 16 << 20;
pub const MAX_XATTRS: usize = 65_536;
pub const MAX_PATH_LEN: usize = 1 << 20;
pub const MAX_TARGET_LEN: usize = 4095;
/// A node of a link table ends when its paths have this length.
const MAX_WEIGHT: usize = 1 << 20;
const ROOT: u8 = 5;

/// An item of a chunk list. `id` is `ZERO_ID` for a zero run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Chunk {
    pub len: u64,
    pub id: Id,
}

/// A hole: `[start, end)`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hole {
    pub start: u64,
    pub end: u64,
}

/// A path that is a hard link to `first`, the smallest path of its group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Link {
    pub path: Vec<u8>,
    pub first: Vec<u8>,
}

/// A short list in place, or a long one by the id of its top node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum List<T> {
    InPlace(Vec<T>),
    Node { items: u64, id: Id },
}

impl<T> List<T> {
    pub fn items(&self) -> u64 {
        match self {
            List::InPlace(items) => items.len() as u64,
            List::Node { items, .. } => *items,
        }
    }
}

/// What a file holds. A single chunk, the common case, costs no allocation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Content {
    Empty,
    InPlace(Box<[u8]>),
    One(Id),
    Chunks(Box<List<Chunk>>),
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Xattrs {
    InPlace(Box<[u8]>),
    Chunks { len: u64, list: List<Chunk> },
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum What {
    File { size: u64, content: Content, holes: Option<Box<List<Hole>>> },
    Directory(Directory),
    Symlink(Box<[u8]>),
    Fifo,
    CharDevice(u32, u32),
    BlockDevice(u32, u32),
}

/// A directory's content: `items` direct entries under `node`, `entries` and `bytes` in all below.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Directory {
    pub items: u64,
    pub node: Option<Id>,
    pub entries: u64,
    pub bytes: u64,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    pub name: Box<[u8]>,
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    pub mtime: Time,
    pub what: What,
    pub xattrs: Option<Box<Xattrs>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, PartialOrd, Ord)]
pub struct Time {
    pub seconds: i64,
    pub nanos: u32,
}

impl Time {
    pub fn as_ns(self) -> i128 {
        i128::from(self.seconds) * 1_000_000_000 + i128::from(self.nanos)
    }
}

impl Entry {
    fn type_byte(&self) -> u8 {
        let kind = match &self.what {
            What::File { holes: None, .. } => 1,
            What::File { .. } => 1 | 0x20,
            What::Directory(_) => 2,
            What::Symlink(_) => 3,
            What::Fifo => 4,
            What::CharDevice(..) => 5,
            What::BlockDevice(..) => 6,
        };
        kind | if self.xattrs.is_some() { 0x10 } else { 0 }
    }

    pub fn directory(&self) -> Option<&Directory> {
        match &self.what {
            What::Directory(directory) => Some(directory),
            _ => None,
        }
    }

    /// Entries and bytes that this entry adds to the directories above it.
    pub fn totals(&self) -> (u64, u64) {
        match &self.what {
            What::File { size, .. } => (1, *size),
            What::Directory(d) => (1 + d.entries, d.bytes),
            _ => (1, 0),
        }
    }
}

/// Refuses names that could lead anywhere but into their directory.
pub fn check_name(name: &[u8]) -> bool {
    !name.is_empty()
        && name.len() <= 255
        && name != b"."
        && name != b".."
        && !name.contains(&b'/')
        && !name.contains(&0)
}

/// What the sequences of the format have in common.
pub trait Item: Clone + PartialEq {
    const KIND: u8;
    /// Decides where a leaf ends.
    fn split_hash(&self) -> u64;
    /// Bytes that count towards the limit of a leaf.
    fn weight(&self) -> usize {
        0
    }
    fn put_all(items: &[Self], out: &mut Vec<u8>);
    fn take_all(count: usize, cursor: &mut Cursor) -> Result<Vec<Self>>;
    /// The inner nodes' key for what ends with `items`.
    fn last_key(items: &[Self]) -> Key;
}

/// A key in inner nodes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Key {
    Number(u64),
    Bytes(Vec<u8>),
}

/// A child in an inner node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Child {
    pub key: Key,
    pub items: u64,
    pub id: Id,
}

impl Item for Chunk {
    const KIND: u8 = 2;

    fn split_hash(&self) -> u64 {
        match self.id {
            ZERO_ID => checksum(&self.len.to_le_bytes()),
            id => id.low64(),
        }
    }

    fn put_all(items: &[Chunk], out: &mut Vec<u8>) {
        for item in items {
            put_varint(out, item.len);
        }
        for item in items {
            out.extend_from_slice(&item.id.0);
        }
    }

    fn take_all(count: usize, cursor: &mut Cursor) -> Result<Vec<Chunk>> {
        let mut items = Vec::with_capacity(count);
        for _ in 0..count {
            items.push(Chunk { len: cursor.bounded(i64::MAX as u64)?, id: ZERO_ID });
        }
        let mut total = 0u64;
        for at in 0..count {
            let len = items[at].len;
            items[at].id = Id(cursor.array()?);
            total = total.saturating_add(len);
            let zero = items[at].id == ZERO_ID;
            if len == 0 || (!zero && len > crate::pack::MAX_CHUNK_LEN) || total > i64::MAX as u64 {
                return Err(cursor.bad("the length of a chunk is out of bounds"));
            }
            if zero && at > 0 && items[at - 1].id == ZERO_ID {
                return Err(cursor.bad("two zero runs follow each other"));
            }
        }
        Ok(items)
    }

    fn last_key(items: &[Chunk]) -> Key {
        Key::Number(items.iter().map(|c| c.len).sum())
    }
}

impl Item for Hole {
    const KIND: u8 = 3;

    fn split_hash(&self) -> u64 {
        checksum(&self.start.to_le_bytes())
    }

    fn put_all(items: &[Hole], out: &mut Vec<u8>) {
        let mut end = 0;
        for hole in items {
            put_varint(out, hole.start - end);
            put_varint(out, hole.end - hole.start);
            end = hole.end;
        }
    }

    fn take_all(count: usize, cursor: &mut Cursor) -> Result<Vec<Hole>> {
        let mut items: Vec<Hole> = Vec::with_capacity(count);
        let mut end = 0u64;
        for at in 0..count {
            let gap = cursor.bounded(i64::MAX as u64)?;
            let len = cursor.bounded(i64::MAX as u64)?;
            let start = end + gap;
            if len == 0 || (at > 0 && gap == 0) || start + len > i64::MAX as u64 {
                return Err(cursor.bad("a hole is out of bounds"));
            }
            end = start + len;
            items.push(Hole { start, end });
        }
        Ok(items)
    }

    fn last_key(items: &[Hole]) -> Key {
        Key::Number(items.last().map_or(0, |h| h.end))
    }
}

impl Item for Link {
    const KIND: u8 = 4;

    fn split_hash(&self) -> u64 {
        checksum(&self.path)
    }

    fn weight(&self) -> usize {
        self.path.len() + self.first.len()
    }

    fn put_all(items: &[Link], out: &mut Vec<u8>) {
        for link in items {
            put_bytes(out, &link.path);
            put_bytes(out, &link.first);
        }
    }

    fn take_all(count: usize, cursor: &mut Cursor) -> Result<Vec<Link>> {
        let mut items: Vec<Link> = Vec::with_capacity(count.min(MAX_ITEMS));
        for _ in 0..count {
            let path = cursor.bytes(1, MAX_PATH_LEN)?.to_vec();
            let first = cursor.bytes(1, MAX_PATH_LEN)?.to_vec();
            let fine = [&path, &first].iter().all(|p| p.split(|b| *b == b'/').all(check_name));
            if !fine || first >= path || items.last().is_some_and(|last| last.path >= path) {
                return Err(cursor.bad("its paths are not in order"));
            }
            items.push(Link { path, first });
        }
        Ok(items)
    }

    fn last_key(items: &[Link]) -> Key {
        Key::Bytes(items.last().map_or(Vec::new(), |l| l.path.clone()))
    }
}

impl Item for Entry {
    const KIND: u8 = 1;

    fn split_hash(&self) -> u64 {
        checksum(&self.name)
    }

    fn put_all(items: &[Entry], out: &mut Vec<u8>) {
        put_entries(items, out);
    }

    fn take_all(count: usize, cursor: &mut Cursor) -> Result<Vec<Entry>> {
        take_entries(count, cursor, false)
    }

    fn last_key(items: &[Entry]) -> Key {
        Key::Bytes(items.last().map_or(Vec::new(), |e| e.name.to_vec()))
    }
}

fn put_list<T: Item>(list: &List<T>, out: &mut Vec<u8>) {
    put_varint(out, list.items());
    match list {
        List::InPlace(items) => T::put_all(items, out),
        List::Node { id, .. } => out.extend_from_slice(&id.0),
    }
}

fn take_list<T: Item>(cursor: &mut Cursor) -> Result<List<T>> {
    let items = cursor.bounded(i64::MAX as u64)?;
    if items == 0 {
        return Err(cursor.bad("a list is empty"));
    }
    if items <= IN_PLACE_ITEMS as u64 {
        return Ok(List::InPlace(T::take_all(items as usize, cursor)?));
    }
    Ok(List::Node { items, id: Id(cursor.array()?) })
}

/// The columns of a directory leaf.
pub fn put_entries(entries: &[Entry], out: &mut Vec<u8>) {
    entries.iter().for_each(|e| put_bytes(out, &e.name));
    entries.iter().for_each(|e| out.push(e.type_byte()));
    entries.iter().for_each(|e| put_varint(out, u64::from(e.mode)));
    entries.iter().for_each(|e| put_varint(out, u64::from(e.uid)));
    entries.iter().for_each(|e| put_varint(out, u64::from(e.gid)));
    let mut before = 0i64;
    for entry in entries {
        put_zigzag(out, entry.mtime.seconds.wrapping_sub(before));
        before = entry.mtime.seconds;
    }
    entries.iter().for_each(|e| put_varint(out, u64::from(e.mtime.nanos)));
    for entry in entries {
        if let What::File { size, .. } = &entry.what {
            put_varint(out, *size);
        }
    }
    entries.iter().for_each(|e| put_content(e, out));
    for entry in entries {
        if let What::File { holes: Some(holes), .. } = &entry.what {
            put_list(holes, out);
        }
    }
    for entry in entries {
        if let What::Directory(directory) = &entry.what {
            put_varint(out, directory.items);
            if let Some(id) = directory.node {
                out.extend_from_slice(&id.0);
                put_varint(out, directory.entries);
                put_varint(out, directory.bytes);
            }
        }
    }
    for entry in entries {
        if let What::Symlink(target) = &entry.what {
            put_bytes(out, target);
        }
    }
    for entry in entries {
        if let What::CharDevice(major, minor) | What::BlockDevice(major, minor) = &entry.what {
            put_varint(out, u64::from(*major));
            put_varint(out, u64::from(*minor));
        }
    }
    for xattrs in entries.iter().filter_map(|e| e.xattrs.as_deref()) {
        match xattrs {
            Xattrs::InPlace(set) => put_bytes(out, set),
            Xattrs::Chunks { len, list } => {
                put_varint(out, *len);
                put_list(list, out);
            }
        }
    }
}

fn put_content(entry: &Entry, out: &mut Vec<u8>) {
    let What::File { size, content, .. } = &entry.what else { return };
    match content {
        Content::Empty => {}
        Content::InPlace(bytes) => out.extend_from_slice(bytes),
        Content::One(id) => {
            put_varint(out, 1);
            put_varint(out, *size);
            out.extend_from_slice(&id.0);
        }
        Content::Chunks(list) => put_list(list, out),
    }
}

/// A chunk list as content of a file of `size` bytes, in the form that `take_content` gives.
pub fn content_of(list: List<Chunk>) -> Content {
    match &list {
        List::InPlace(chunks) if chunks.len() == 1 && chunks[0].id != ZERO_ID => Content::One(chunks[0].id),
        _ => Content::Chunks(Box::new(list)),
    }
}

fn take_content(size: u64, cursor: &mut Cursor) -> Result<Content> {
    if size == 0 {
        return Ok(Content::Empty);
    }
    if size <= IN_PLACE_MAX {
        return Ok(Content::InPlace(cursor.take(size as usize)?.into()));
    }
    let list = take_list::<Chunk>(cursor)?;
    if let List::InPlace(chunks) = &list {
        if chunks.iter().map(|c| c.len).sum::<u64>() != size {
            return Err(cursor.bad("chunks do not add up to their file"));
        }
    }
    Ok(content_of(list))
}

struct Columns {
    types: Vec<u8>,
    modes: Vec<u16>,
    uids: Vec<u32>,
    gids: Vec<u32>,
    times: Vec<Time>,
}

fn take_columns(count: usize, cursor: &mut Cursor) -> Result<Columns> {
    let types = cursor.take(count)?.to_vec();
    for byte in &types {
        let kind = byte & 0x0f;
        if byte & 0xc0 != 0 || !(1..=6).contains(&kind) || (byte & 0x20 != 0 && kind != 1) {
            return Err(cursor.bad("an entry is of an unknown type"));
        }
    }
    let numbers = |max: u64, cursor: &mut Cursor| (0..count).map(|_| cursor.bounded(max)).collect::<Result<Vec<u64>>>();
    let modes = numbers(0o7777, cursor)?.into_iter().map(|v| v as u16).collect();
    let uids = numbers(u64::from(u32::MAX), cursor)?.into_iter().map(|v| v as u32).collect();
    let gids = numbers(u64::from(u32::MAX), cursor)?.into_iter().map(|v| v as u32).collect();
    let mut seconds = 0i64;
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        seconds = seconds.wrapping_add(cursor.zigzag()?);
        times.push(Time { seconds, nanos: 0 });
    }
    for time in &mut times {
        time.nanos = cursor.bounded(999_999_999)? as u32;
    }
    Ok(Columns { types, modes, uids, gids, times })
}

/// Reads the columns of `count` entries. `root`: one entry with an empty name.
pub fn take_entries(count: usize, cursor: &mut Cursor, root: bool) -> Result<Vec<Entry>> {
    let mut names: Vec<&[u8]> = Vec::with_capacity(count.min(cursor.remaining()));
    for _ in 0..count {
        let name = cursor.bytes(0, 255)?;
        let fine = if root { name.is_empty() } else { check_name(name) };
        if !fine || names.last().is_some_and(|last| *last >= name) {
            return Err(cursor.bad("a name is not allowed or out of order"));
        }
        names.push(name);
    }
    let columns = take_columns(count, cursor)?;
    let mut whats = take_files(&columns.types, cursor)?;
    take_others(&columns.types, &mut whats, cursor)?;
    let mut entries = Vec::with_capacity(count);
    for (at, (name, what)) in names.into_iter().zip(whats).enumerate() {
        let xattrs = match columns.types[at] & 0x10 {
            0 => None,
            _ => Some(Box::new(take_xattrs(cursor)?)),
        };
        entries.push(Entry {
            name: name.into(),
            mode: columns.modes[at],
            uid: columns.uids[at],
            gid: columns.gids[at],
            mtime: columns.times[at],
            what,
            xattrs,
        });
    }
    Ok(entries)
}

fn take_files(types: &[u8], cursor: &mut Cursor) -> Result<Vec<What>> {
    let mut whats = vec![What::Fifo; types.len()];
    let files = || types.iter().enumerate().filter(|(_, t)| *t & 0x0f == 1).map(|(at, _)| at);
    for at in files() {
        let size = cursor.bounded(i64::MAX as u64)?;
        whats[at] = What::File { size, content: Content::Empty, holes: None };
    }
    for at in files() {
        if let What::File { size, content, .. } = &mut whats[at] {
            *content = take_content(*size, cursor)?;
        }
    }
    for at in files().filter(|at| types[*at] & 0x20 != 0) {
        if let What::File { size, holes, .. } = &mut whats[at] {
            let list = take_list::<Hole>(cursor)?;
            if let List::InPlace(items) = &list {
                if items.last().is_some_and(|h| h.end > *size) {
                    return Err(cursor.bad("a hole is outside its file"));
                }
            }
            *holes = Some(Box::new(list));
        }
    }
    Ok(whats)
}

fn take_others(types: &[u8], whats: &mut [What], cursor: &mut Cursor) -> Result<()> {
    let of = |kind: u8| types.iter().enumerate().filter(move |(_, t)| *t & 0x0f == kind).map(|(at, _)| at);
    for at in of(2) {
        let items = cursor.bounded(i64::MAX as u64)?;
        let mut directory = Directory { items, ..Directory::default() };
        if items > 0 {
            directory.node = Some(Id(cursor.array()?));
            directory.entries = cursor.bounded(i64::MAX as u64)?;
            directory.bytes = cursor.bounded(i64::MAX as u64)?;
        }
        whats[at] = What::Directory(directory);
    }
    for at in of(3) {
        let target = cursor.bytes(1, MAX_TARGET_LEN)?;
        if target.contains(&0) {
            return Err(cursor.bad("the target of a link is not allowed"));
        }
        whats[at] = What::Symlink(target.into());
    }
    for (at, kind) in types.iter().enumerate().filter(|(_, t)| matches!(*t & 0x0f, 5 | 6)) {
        let major = cursor.bounded(u64::from(u32::MAX))? as u32;
        let minor = cursor.bounded(u64::from(u32::MAX))? as u32;
        whats[at] = match kind & 0x0f {
            5 => What::CharDevice(major, minor),
            _ => What::BlockDevice(major, minor),
        };
    }
    Ok(())
}

fn take_xattrs(cursor: &mut Cursor) -> Result<Xattrs> {
    let len = cursor.bounded(MAX_XATTRS_LEN)?;
    if len <= XATTRS_IN_PLACE as u64 {
        let set = cursor.take(len as usize)?;
        decode_xattrs(set)?;
        return Ok(Xattrs::InPlace(set.into()));
    }
    Ok(Xattrs::Chunks { len, list: take_list(cursor)? })
}

/// Attributes by name and value.
pub type XattrSet = Vec<(Vec<u8>, Vec<u8>)>;

/// Encodes attributes, which it sorts.
pub fn encode_xattrs(set: &mut XattrSet) -> Vec<u8> {
    set.sort();
    let mut out = Vec::new();
    put_varint(&mut out, set.len() as u64);
    for (name, value) in set {
        put_bytes(&mut out, name);
        put_bytes(&mut out, value);
    }
    out
}

pub fn decode_xattrs(bytes: &[u8]) -> Result<XattrSet> {
    let mut cursor = Cursor::new(bytes, "attribute set");
    let count = cursor.bounded(MAX_XATTRS as u64)?;
    if count == 0 {
        return Err(cursor.bad("it is empty"));
    }
    let mut set: XattrSet = Vec::new();
    for _ in 0..count {
        let name = cursor.bytes(1, 255)?.to_vec();
        let value = cursor.bytes(0, 65_536)?.to_vec();
        if name.contains(&0) || set.last().is_some_and(|(last, _)| *last >= name) {
            return Err(cursor.bad("its names are not in order"));
        }
        set.push((name, value));
    }
    cursor.finish()?;
    Ok(set)
}

/// The bytes of a leaf.
pub fn encode_leaf<T: Item>(items: &[T]) -> Vec<u8> {
    let mut out = vec![T::KIND, 0];
    put_varint(&mut out, items.len() as u64);
    T::put_all(items, &mut out);
    out
}

/// The bytes of an inner node.
pub fn encode_inner(kind: u8, level: u8, children: &[Child]) -> Vec<u8> {
    let mut out = vec![kind, level];
    put_varint(&mut out, children.len() as u64);
    for child in children {
        match &child.key {
            Key::Number(number) => put_varint(&mut out, *number),
            Key::Bytes(bytes) => put_bytes(&mut out, bytes),
        }
    }
    children.iter().for_each(|c| put_varint(&mut out, c.items));
    children.iter().for_each(|c| out.extend_from_slice(&c.id.0));
    out
}

/// A node of a sequence.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Node<T> {
    Leaf(Vec<T>),
    Inner { level: u8, children: Vec<Child> },
}

/// Decodes a node of a sequence of `T`.
pub fn decode_node<T: Item>(bytes: &[u8]) -> Result<Node<T>> {
    let mut cursor = Cursor::new(bytes, "tree node");
    if bytes.len() > MAX_NODE_LEN {
        return Err(cursor.bad("it is too long"));
    }
    let (kind, level) = (cursor.byte()?, cursor.byte()?);
    if kind != T::KIND || level > MAX_LEVEL {
        return Err(cursor.bad("it is of another kind than expected"));
    }
    let count = cursor.bounded(MAX_ITEMS as u64)? as usize;
    if count == 0 {
        return Err(cursor.bad("it is empty"));
    }
    let node = if level == 0 {
        Node::Leaf(T::take_all(count, &mut cursor)?)
    } else {
        Node::Inner { level, children: take_children(kind, count, &mut cursor)? }
    };
    cursor.finish()?;
    Ok(node)
}

fn take_children(kind: u8, count: usize, cursor: &mut Cursor) -> Result<Vec<Child>> {
    let mut children: Vec<Child> = Vec::with_capacity(count);
    for _ in 0..count {
        let key = match kind {
            2 | 3 => Key::Number(cursor.bounded(i64::MAX as u64)?),
            _ => Key::Bytes(cursor.bytes(1, MAX_PATH_LEN)?.to_vec()),
        };
        let ordered = match (children.last().map(|c| &c.key), &key) {
            (Some(Key::Bytes(last)), Key::Bytes(now)) => last < now,
            (Some(Key::Number(last)), Key::Number(now)) if kind == 3 => last < now,
            _ => true,
        };
        if !ordered {
            return Err(cursor.bad("its keys are not in order"));
        }
        children.push(Child { key, items: 0, id: ZERO_ID });
    }
    for child in &mut children {
        child.items = cursor.bounded(i64::MAX as u64)?;
        if child.items == 0 {
            return Err(cursor.bad("a child is empty"));
        }
    }
    for child in &mut children {
        child.id = Id(cursor.array()?);
    }
    Ok(children)
}

/// A root: its own entry (empty name) and its hard-link table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Root {
    pub entry: Entry,
    pub links: Option<(u64, Id)>,
}

impl Root {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![ROOT, 0];
        put_entries(std::slice::from_ref(&self.entry), &mut out);
        put_varint(&mut out, self.links.map_or(0, |(items, _)| items));
        if let Some((_, id)) = self.links {
            out.extend_from_slice(&id.0);
        }
        out
    }

    pub fn decode(bytes: &[u8]) -> Result<Root> {
        let mut cursor = Cursor::new(bytes, "root node");
        if cursor.byte()? != ROOT || cursor.byte()? != 0 {
            return Err(cursor.bad("it is of another kind than expected"));
        }
        let entry = take_entries(1, &mut cursor, true)?.remove(0);
        let links = match cursor.bounded(i64::MAX as u64)? {
            0 => None,
            items => Some((items, Id(cursor.array()?))),
        };
        cursor.finish()?;
        Ok(Root { entry, links })
    }
}

/// Builds a sequence's nodes from its items, given in order. Nodes leave through `emit`, which stores them and answers their ids.
pub struct Sequence<T> {
    leaf: Vec<T>,
    weight: usize,
    levels: Vec<Level>,
    /// Items that may still stand in place; empty once nodes were made.
    waiting: Vec<T>,
    in_place_max: usize,
    items: u64,
}

#[derive(Default)]
struct Level {
    pending: Vec<Child>,
    weight: usize,
    closed: bool,
    emitted: bool,
}

/// Stores a node and answers its id.
pub type Emit<'a> = dyn FnMut(Vec<u8>) -> Result<Id> + 'a;

fn is_split(hash: u64) -> bool {
    hash & 0xff == 0
}

impl<T: Item> Sequence<T> {
    /// A sequence that always has nodes (directories, link tables).
    pub fn of_nodes() -> Sequence<T> {
        Sequence { leaf: Vec::new(), weight: 0, levels: Vec::new(), waiting: Vec::new(), in_place_max: 0, items: 0 }
    }

    /// A sequence that stands in place while it is short (chunk lists, hole maps).
    pub fn of_list() -> Sequence<T> {
        Sequence { in_place_max: IN_PLACE_ITEMS, ..Sequence::of_nodes() }
    }

    pub fn push(&mut self, item: T, emit: &mut Emit) -> Result<()> {
        self.items += 1;
        if self.items <= self.in_place_max as u64 {
            self.waiting.push(item);
            return Ok(());
        }
        for earlier in std::mem::take(&mut self.waiting) {
            self.push_leaf(earlier, emit)?;
        }
        self.push_leaf(item, emit)
    }

    fn push_leaf(&mut self, item: T, emit: &mut Emit) -> Result<()> {
        let split = is_split(item.split_hash());
        self.weight += item.weight();
        self.leaf.push(item);
        if split || self.leaf.len() == MAX_ITEMS || self.weight >= MAX_WEIGHT {
            self.end_leaf(emit)?;
        }
        Ok(())
    }

    fn end_leaf(&mut self, emit: &mut Emit) -> Result<()> {
        let items = std::mem::take(&mut self.leaf);
        self.weight = 0;
        let bytes = encode_leaf(&items);
        // One item that no reader accepts would cost all its neighbours.
        if !matches!(decode_node::<T>(&bytes), Ok(Node::Leaf(read)) if read == items) {
            return Err(Error::Internal("a tree node would not be read back as it was written".into()));
        }
        let id = emit(bytes)?;
        self.push_child(0, Child { key: T::last_key(&items), items: items.len() as u64, id }, emit)
    }

    fn push_child(&mut self, level: usize, child: Child, emit: &mut Emit) -> Result<()> {
        if self.levels.len() == level {
            self.levels.push(Level::default());
        }
        if self.levels[level].closed {
            self.end_inner(level, emit)?;
        }
        let here = &mut self.levels[level];
        if let Key::Bytes(key) = &child.key {
            here.weight += if T::KIND == Link::KIND { key.len() } else { 0 };
        }
        here.closed = is_split(child.id.low64()) || here.pending.len() + 1 == MAX_ITEMS || here.weight >= MAX_WEIGHT;
        here.pending.push(child);
        Ok(())
    }

    /// Makes an inner node of the pending children of `level`.
    fn end_inner(&mut self, level: usize, emit: &mut Emit) -> Result<()> {
        let here = &mut self.levels[level];
        let children = std::mem::take(&mut here.pending);
        here.closed = false;
        here.weight = 0;
        here.emitted = true;
        let id = emit(encode_inner(T::KIND, level as u8 + 1, &children))?;
        let key = match &children[children.len() - 1].key {
            Key::Number(_) if T::KIND == 2 => {
                Key::Number(children.iter().map(|c| if let Key::Number(n) = c.key { n } else { 0 }).sum())
            }
            key => key.clone(),
        };
        let items = children.iter().map(|c| c.items).sum();
        self.push_child(level + 1, Child { key, items, id }, emit)
    }

    /// The finished list.
    pub fn finish(mut self, emit: &mut Emit) -> Result<List<T>> {
        if self.items <= self.in_place_max as u64 {
            return Ok(List::InPlace(self.waiting));
        }
        if !self.leaf.is_empty() {
            self.end_leaf(emit)?;
        }
        let mut level = 0;
        loop {
            let Some(here) = self.levels.get(level) else {
                return Err(Error::Internal("an empty sequence has no nodes".into()));
            };
            if !here.emitted && here.pending.len() == 1 {
                return Ok(List::Node { items: self.items, id: here.pending[0].id });
            }
            if !here.pending.is_empty() {
                self.end_inner(level, emit)?;
            }
            level += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn entry(name: &str, what: What) -> Entry {
        Entry {
            name: name.as_bytes().into(),
            mode: 0o644,
            uid: 1000,
            gid: 100,
            mtime: Time { seconds: -5, nanos: 7 },
            what,
            xattrs: None,
        }
    }

    fn id(number: u64) -> Id {
        Id(*blake3::hash(&number.to_le_bytes()).as_bytes())
    }

    #[test]
    fn what_no_reader_would_accept_is_not_written() {
        let bad = [entry(&"n".repeat(256), What::Fifo), entry("l", What::Symlink(Box::default()))];
        for bad in bad {
            let mut sequence = Sequence::of_nodes();
            let mut emit = |_| Ok(id(1));
            let pushed = sequence.push(bad, &mut emit);
            let done = pushed.and_then(|()| sequence.finish(&mut emit).map(drop));
            assert!(matches!(done, Err(Error::Internal(_))), "{done:?}");
        }
    }

    #[test]
    fn every_type_of_entry_round_trips() {
        let holes = List::InPlace(vec![Hole { start: 0, end: 10 }, Hole { start: 20, end: 4096 }]);
        let chunks = List::InPlace(vec![Chunk { len: 300, id: id(1) }, Chunk { len: 1 << 40, id: ZERO_ID }]);
        let directory = Directory { items: 3, node: Some(id(5)), entries: 9, bytes: 1 << 50 };
        let mut entries = vec![
            entry("a", What::File { size: 0, content: Content::Empty, holes: None }),
            entry("b", What::File { size: 3, content: Content::InPlace(b"abc".as_slice().into()), holes: None }),
            entry("c", What::File { size: 4096, content: Content::One(id(2)), holes: Some(Box::new(holes)) }),
            entry("d", What::File { size: 300 + (1 << 40), content: Content::Chunks(Box::new(chunks)), holes: None }),
            entry("e", What::Directory(directory)),
            entry("f", What::Directory(Directory::default())),
            entry("g", What::Symlink(b"../x".as_slice().into())),
            entry("h", What::Fifo),
            entry("i", What::CharDevice(1, 3)),
            entry("j", What::BlockDevice(8, 1 << 19)),
        ];
        let mut set = vec![(b"user.b".to_vec(), b"2".to_vec()), (b"user.a".to_vec(), vec![])];
        entries[4].xattrs = Some(Box::new(Xattrs::InPlace(encode_xattrs(&mut set).into())));
        entries[0].xattrs =
            Some(Box::new(Xattrs::Chunks { len: 5000, list: List::InPlace(vec![Chunk { len: 5000, id: id(3) }]) }));
        let bytes = encode_leaf(&entries);
        assert_eq!(decode_node::<Entry>(&bytes).unwrap(), Node::Leaf(entries.clone()));
        for len in 0..bytes.len() {
            assert!(decode_node::<Entry>(&bytes[..len]).is_err());
        }
        let mut root = entries[4].clone();
        root.name = Box::default();
        let root = Root { entry: root, links: Some((3, id(9))) };
        assert_eq!(Root::decode(&root.encode()).unwrap(), root);
    }

    #[test]
    fn names_that_lead_out_are_refused() {
        for name in ["..", ".", "a/b", "", "a\0b"] {
            let bytes = encode_leaf(&[entry(name, What::Fifo)]);
            assert!(decode_node::<Entry>(&bytes).is_err(), "{name:?}");
        }
        let twice = encode_leaf(&[entry("a", What::Fifo), entry("a", What::Fifo)]);
        assert!(decode_node::<Entry>(&twice).is_err());
    }

    fn build(items: &[Chunk]) -> (List<Chunk>, HashMap<Id, Vec<u8>>) {
        let mut nodes = HashMap::new();
        let mut emit = |bytes: Vec<u8>| {
            let id = Id(*blake3::hash(&bytes).as_bytes());
            nodes.insert(id, bytes);
            Ok(id)
        };
        let mut sequence = Sequence::of_list();
        for item in items {
            sequence.push(*item, &mut emit).unwrap();
        }
        let list = sequence.finish(&mut emit).unwrap();
        (list, nodes)
    }

    fn flatten(id: Id, nodes: &HashMap<Id, Vec<u8>>, out: &mut Vec<Chunk>) -> u64 {
        match decode_node::<Chunk>(&nodes[&id]).unwrap() {
            Node::Leaf(items) => {
                let total = items.iter().map(|c| c.len).sum();
                out.extend(items);
                total
            }
            Node::Inner { children, .. } => children
                .iter()
                .map(|child| {
                    let total = flatten(child.id, nodes, out);
                    assert_eq!(child.key, Key::Number(total));
                    total
                })
                .sum(),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(30))]
        #[test]
        fn sequences_round_trip_and_change_locally(count in 0u64..200_000, at in 0u64..200_000) {
            let items: Vec<Chunk> = (0..count).map(|n| Chunk { len: n + 1, id: id(n) }).collect();
            let (list, nodes) = build(&items);
            match &list {
                List::InPlace(inside) => prop_assert_eq!(inside, &items),
                List::Node { items: n, id } => {
                    prop_assert_eq!(*n, count);
                    let mut out = Vec::new();
                    flatten(*id, &nodes, &mut out);
                    prop_assert_eq!(&out, &items);
                    let mut changed = items.clone();
                    changed[(at % count) as usize].id = Id([7; 32]);
                    let (_, again) = build(&changed);
                    let new = again.keys().filter(|id| !nodes.contains_key(id)).count();
                    prop_assert!(new <= 8, "{} new nodes", new);
                }
            }
        }
    }
}
