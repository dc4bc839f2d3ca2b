//! Reading an archive's members one after the other: ustar, pax, old and new GNU headers, sparse files of every kind.

use std::collections::HashMap;

use super::input::Input;
use super::tree::Tree;
use super::{Batch, Import, Imported, MAX_NAMES};
use crate::acl::{self, Acl, Kind};
use crate::chunker::HEAD_LEN;
use crate::content::{hole_map, take_xattrs, LargeFile};
use crate::error::{show, Error, Result};
use crate::lock::lock;
use crate::node::{content_of, Content, Directory, Entry, Hole, What, XattrSet, Xattrs};
use crate::packer::Lane;
use crate::progress::add;
use crate::source::{self, is_kept};
use crate::take::{Taken, SHARED_FILE};
use crate::tar::{self, Block, Fault, Pax, Stretch, ACLS};

/// Headers that stand before a member: pax records (attributes among them), long names.
const MAX_HEADER: u64 = 20 << 20;
/// Global headers together.
const MAX_GLOBAL: usize = 1 << 20;
/// Files of a batch are stored together.
const BATCH_BYTES: usize = 1 << 20;
const BATCH_FILES: usize = 512;
const MAX_TARGET_LEN: usize = 4095;
const MAX_VALUE_LEN: usize = 65_536;

pub(super) struct Parser<'a, 'b> {
    import: &'a Import<'b>,
    input: Input<'a>,
    tree: Tree,
    imported: Imported,
    global: Pax,
    /// Of users and groups of this machine that were asked for.
    numbers: HashMap<(Kind, Vec<u8>), Option<u32>>,
    batch: Batch,
    /// Where the member that is read begins, and what it is called as far as is known.
    start: u64,
    name: Vec<u8>,
}

/// What stands before a member's own header.
#[derive(Default)]
struct Before {
    pax: Pax,
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    /// Of all pax headers.
    len: u64,
}

/// How a member's content is stored in the archive.
struct Stored {
    /// Bytes in the archive.
    len: u64,
    /// Of the file.
    size: u64,
    map: Vec<Stretch>,
    holes: Vec<Hole>,
}

impl<'a, 'b> Parser<'a, 'b> {
    pub(super) fn new(import: &'a Import<'b>, input: Input<'a>) -> Parser<'a, 'b> {
        Parser {
            import,
            input,
            tree: Tree::new(),
            imported: Imported { taken: Taken::default(), ..Imported::default() },
            global: Pax::default(),
            numbers: HashMap::new(),
            batch: Batch { data: Vec::new(), files: Vec::new() },
            start: 0,
            name: Vec::new(),
        }
    }

    fn bad(&self, why: &str) -> Error {
        let member = match &self.name[..] {
            [] => String::new(),
            name => format!(", member {}", show(&name[..name.len().min(300)])),
        };
        Error::Archive(format!("at byte {}{member}: {why}", self.start))
    }

    /// Says where a refusal of the tree belongs.
    fn located(&self, error: Error) -> Error {
        match error {
            Error::Archive(why) => self.bad(&why),
            other => other,
        }
    }

    fn fine<T>(&self, read: std::result::Result<T, Fault>) -> Result<T> {
        read.map_err(|why| self.bad(why))
    }

    /// Reads everything up to the end mark, and what follows it.
    pub(super) fn run(mut self, lane: &mut Lane) -> Result<(Tree, Imported)> {
        let mut ends = 0;
        let mut before = Before::default();
        while ends < 2 {
            let is_first = self.input.offset == 0;
            if ends == 0 && before.is_empty() {
                self.start = self.input.offset;
                self.name.clear();
            }
            let Some(bytes) = self.input.block()? else {
                return match (is_first, ends) {
                    (true, _) => Err(self.bad("the archive is empty")),
                    (_, 0) => Err(self.bad("the archive has no end mark: it may be cut off")),
                    _ => self.done(lane),
                };
            };
            let block = match Block::check(bytes) {
                Ok(Some(block)) => block,
                Ok(None) if before.is_empty() => {
                    ends += 1;
                    continue;
                }
                Ok(None) => return Err(self.bad("its header is missing")),
                Err(_) if is_first => return Err(self.bad("this is not a tar archive")),
                Err(why) => return Err(self.bad(why)),
            };
            ends = 0;
            if !self.prefix(&block, &mut before)? {
                self.member(lane, &block, std::mem::take(&mut before))?;
            }
        }
        self.input.drain()?;
        self.done(lane)
    }

    fn done(mut self, lane: &mut Lane) -> Result<(Tree, Imported)> {
        self.flush(lane)?;
        Ok((self.tree, self.imported))
    }

    /// Takes a header that says something of the member that follows; false for any other.
    fn prefix(&mut self, block: &Block, before: &mut Before) -> Result<bool> {
        match block.kind() {
            b'x' | b'X' => {
                let records = self.header(block)?;
                before.len += records.len() as u64;
                if before.len > MAX_HEADER {
                    return Err(self.bad("the headers before one member are too long"));
                }
                let read = before.pax.read(&records);
                self.fine(read)?;
            }
            b'g' => {
                let records = self.header(block)?;
                let read = self.global.read(&records);
                self.fine(read)?;
                if self.global.weight() > MAX_GLOBAL {
                    return Err(self.bad("its global pax headers are too long"));
                }
            }
            b'L' => before.name = Some(self.long_name(block)?),
            b'K' => before.link = Some(self.long_name(block)?),
            b'V' => self.header(block).map(drop)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn header(&mut self, block: &Block) -> Result<Vec<u8>> {
        let len = self.fine(block.size())?;
        if len > MAX_HEADER {
            return Err(self.bad(&format!("a header claims {len} bytes; at most {MAX_HEADER} are read")));
        }
        let mut text = Vec::new();
        // Piece by piece: a claim alone takes no memory.
        while (text.len() as u64) < len {
            let step = (len - text.len() as u64).min(64 << 10) as usize;
            self.input.append(&mut text, step)?;
        }
        self.input.skip(tar::padding(len) as u64)?;
        Ok(text)
    }

    fn long_name(&mut self, block: &Block) -> Result<Vec<u8>> {
        let mut name = self.header(block)?;
        let end = name.iter().position(|b| *b == 0).unwrap_or(name.len());
        name.truncate(end);
        Ok(name)
    }

    fn member(&mut self, lane: &mut Lane, block: &Block, before: Before) -> Result<()> {
        let pax = self.global.under(before.pax);
        let name = before.name.unwrap_or_else(|| block.name());
        self.name =
            [pax.get("GNU.sparse.name"), pax.get("path")].into_iter().flatten().next().unwrap_or(&name).to_vec();
        let link = before.link.unwrap_or_else(|| block.link().to_vec());
        let link = pax.get("linkpath").map_or(link, <[u8]>::to_vec);
        let name = self.name.clone();
        let names = Tree::names(&name).map_err(|error| self.located(error))?;
        let kind = match block.kind() {
            b'0' | 0 | b'7' if name.ends_with(b"/") => b'5',
            0 | b'7' => b'0',
            kind => kind,
        };
        self.import.packer.progress.working_on(&name);
        if kind == b'1' {
            let target = Tree::names(&link).map_err(|_| self.bad("its target leads out of the archive"))?;
            return self.tree.put_link(&names, &target).map_err(|error| self.located(error));
        }
        let mut entry = self.entry(lane, block, &pax)?;
        let len = match self.fine(pax.number("size"))? {
            Some(size) => size,
            None => self.fine(block.size())?,
        };
        match kind {
            b'0' | b'S' => return self.file(lane, block, &pax, &names, entry, len),
            b'2' if link.is_empty() || link.len() > MAX_TARGET_LEN || link.contains(&0) => {
                return Err(self.bad("the target of the link is not allowed"));
            }
            b'2' => entry.what = What::Symlink(link.into()),
            b'3' | b'4' => {
                let (major, minor) = self.device(block, &pax)?;
                entry.what = match kind {
                    b'3' => What::CharDevice(major, minor),
                    _ => What::BlockDevice(major, minor),
                };
            }
            b'5' => entry.what = What::Directory(Directory::default()),
            b'6' => entry.what = What::Fifo,
            b'D' => {
                // A listing of names, of GNU tar's incremental archives.
                self.input.skip(len)?;
                self.input.skip(tar::padding(len) as u64)?;
                entry.what = What::Directory(Directory::default());
            }
            b'M' => return Err(self.bad("it continues a file of another volume")),
            other => return Err(self.bad(&format!("it is of an unknown type ({})", show(&[other])))),
        }
        self.put(&names, entry).map(drop)
    }

    fn put(&mut self, names: &[&[u8]], entry: Entry) -> Result<u32> {
        self.tree.put(names, entry).map_err(|error| self.located(error))
    }

    /// An entry without its name and without what it is.
    fn entry(&mut self, lane: &mut Lane, block: &Block, pax: &Pax) -> Result<Entry> {
        let id = |key: &str, header: std::result::Result<u32, Fault>| match pax.number(key)? {
            Some(id) => u32::try_from(id).map_err(|_| "its owner or group is out of bounds"),
            None => header,
        };
        let (uid, gid) = (self.fine(id("uid", block.uid()))?, self.fine(id("gid", block.gid()))?);
        let mtime = match self.fine(pax.mtime())? {
            Some(mtime) => mtime,
            None => self.fine(block.mtime())?,
        };
        let (user, group) = (pax.get("uname").unwrap_or(block.user()), pax.get("gname").unwrap_or(block.group()));
        for (table, id, name) in [(&mut self.imported.users, uid, user), (&mut self.imported.groups, gid, group)] {
            if !name.is_empty() && name.len() <= 255 && table.len() < MAX_NAMES && !table.contains_key(&id) {
                table.insert(id, name.to_vec());
            }
        }
        let mut mode = self.fine(block.mode())?;
        let xattrs = self.xattrs(lane, pax, &mut mode)?;
        Ok(Entry { name: Box::default(), mode, uid, gid, mtime, what: What::Fifo, xattrs })
    }

    fn device(&self, block: &Block, pax: &Pax) -> Result<(u32, u32)> {
        let (major, minor) = self.fine(block.device())?;
        let part = |key: &str, header: u32| match pax.number(key)? {
            Some(number) => u32::try_from(number).map_err(|_| "its device is out of bounds"),
            None => Ok(header),
        };
        Ok((self.fine(part("SCHILY.devmajor", major))?, self.fine(part("SCHILY.devminor", minor))?))
    }

    /// The attributes that a create would have kept. An ACL has the last word about the mode.
    fn xattrs(&mut self, lane: &mut Lane, pax: &Pax, mode: &mut u16) -> Result<Option<Box<Xattrs>>> {
        let mut set: XattrSet = Vec::new();
        for (name, value) in pax.xattrs().filter(|(name, _)| is_kept(name)) {
            if name.len() > 255 || name.contains(&0) || value.len() > MAX_VALUE_LEN {
                return Err(self.bad("the name or value of an attribute is too long"));
            }
            set.push((name, value.to_vec()));
        }
        self.acls(pax, mode, &mut set);
        if set.is_empty() {
            return Ok(None);
        }
        set.sort();
        set.dedup_by(|next, before| next.0 == before.0);
        let taken = take_xattrs(self.import.packer, self.import.chunker, lane, set)?;
        let xattrs = taken.ok_or_else(|| self.bad("its attributes are too many"))?;
        let heap = match &xattrs {
            Xattrs::InPlace(bytes) => bytes.len(),
            Xattrs::Chunks { .. } => 256,
        };
        self.tree.charge(heap + 64)?;
        Ok(Some(Box::new(xattrs)))
    }

    /// ACLs that the archive has as text only. One that cannot be read is left out and reported.
    fn acls(&mut self, pax: &Pax, mode: &mut u16, set: &mut XattrSet) {
        for (key, attribute) in ACLS {
            let Some(text) = pax.get(key) else { continue };
            if set.iter().any(|(name, _)| *name == attribute.as_bytes()) {
                continue;
            }
            let (known, numbers) = (&mut self.numbers, self.import.numbers);
            let number = |kind: Kind, name: &[u8]| match known.get(&(kind, name.to_vec())) {
                Some(number) => *number,
                None => {
                    let number = numbers(kind, name);
                    if known.len() < MAX_NAMES {
                        known.insert((kind, name.to_vec()), number);
                    }
                    number
                }
            };
            match Acl::parse(text, number) {
                Ok(acl) => {
                    let is_access = attribute == acl::ACCESS;
                    if is_access {
                        *mode = *mode & !0o777 | acl.mode();
                    }
                    if !(is_access && acl.is_mode()) {
                        set.push((attribute.as_bytes().to_vec(), acl.encode()));
                    }
                }
                Err(why) => self.report(&format!("its ACL was left out: {why}")),
            }
        }
    }

    /// Notes something that the member that is read has lost.
    fn report(&mut self, why: &str) {
        add(&self.import.packer.progress.errors, 1);
        let path = Tree::names(&self.name).unwrap_or_default().join(&b'/');
        self.imported.taken.list_unreadable(path, why.into());
    }

    // Files

    fn file(
        &mut self,
        lane: &mut Lane,
        block: &Block,
        pax: &Pax,
        names: &[&[u8]],
        mut entry: Entry,
        len: u64,
    ) -> Result<()> {
        let stored = self.stored(block, pax, len)?;
        let padding = tar::padding(len) as u64;
        add(&self.import.packer.progress.files, 1);
        let holes = match &stored.holes[..] {
            [] => None,
            holes => Some(Box::new(hole_map(self.import.packer, lane, holes)?)),
        };
        entry.what = What::File { size: stored.size, content: Content::Empty, holes };
        if stored.size >= SHARED_FILE {
            let content = self.large(lane, stored)?;
            if let What::File { content: place, .. } = &mut entry.what {
                *place = content;
            }
            self.put(names, entry)?;
        } else {
            let node = self.put(names, entry)?;
            self.small(lane, node, stored)?;
        }
        self.input.skip(padding)?;
        add(&self.import.packer.progress.done_files, 1);
        Ok(())
    }

    /// What follows the header: plain, or one of four kinds of sparse files.
    fn stored(&mut self, block: &Block, pax: &Pax, len: u64) -> Result<Stored> {
        let mut map = Vec::new();
        let mut left = len;
        let size = if block.kind() == b'S' && block.is_gnu() {
            let (size, mut more) = self.fine(block.gnu_sparse(&mut map))?;
            while more {
                let next = self.input.block()?.ok_or_else(|| self.bad(super::input::CUT_OFF))?;
                more = self.fine(tar::more_stretches(&next, &mut map))?;
            }
            size
        } else if self.fine(pax.number("GNU.sparse.major"))? == Some(1) {
            left -= self.map_before_content(len, &mut map)?;
            let size = self.fine(pax.number("GNU.sparse.realsize"))?;
            size.ok_or_else(|| self.bad("its real size is missing"))?
        } else if let Some(size) = self.fine(pax.number("GNU.sparse.size"))? {
            map = pax.map.clone();
            size
        } else {
            map.push((0, len));
            len
        };
        let total = map.iter().try_fold(0u64, |sum, (_, len)| sum.checked_add(*len));
        let holes = tar::holes(&map, size).filter(|_| total == Some(left));
        let holes = holes.ok_or_else(|| self.bad("its sparse map is damaged"))?;
        Ok(Stored { len: left, size, map, holes })
    }

    /// Reads the map of `GNU.sparse` 1.0; the answer is its length in the archive.
    fn map_before_content(&mut self, len: u64, map: &mut Vec<Stretch>) -> Result<u64> {
        const BAD: Fault = "its sparse map is damaged";
        let (mut taken, mut digits) = (0, Vec::new());
        let (mut count, mut offset) = (None, None);
        while count != Some(map.len() as u64) {
            if taken + tar::BLOCK as u64 > len.next_multiple_of(tar::BLOCK as u64) {
                return Err(self.bad(BAD));
            }
            let block = self.input.block()?.ok_or_else(|| self.bad(super::input::CUT_OFF))?;
            taken += tar::BLOCK as u64;
            for byte in block {
                if count == Some(map.len() as u64) {
                    break;
                }
                if byte != b'\n' {
                    digits.push(byte);
                    if digits.len() > 20 {
                        return Err(self.bad(BAD));
                    }
                    continue;
                }
                let number = tar::plain_number(&std::mem::take(&mut digits)).ok_or_else(|| self.bad(BAD))?;
                match (count, offset.take()) {
                    (None, _) => count = Some(number),
                    (_, None) => offset = Some(number),
                    (_, Some(offset)) => self.fine(tar::push_stretch(map, (offset, number)))?,
                }
            }
        }
        if taken > len {
            return Err(self.bad(BAD));
        }
        Ok(taken)
    }

    fn small(&mut self, lane: &mut Lane, node: u32, stored: Stored) -> Result<()> {
        if self.batch.data.len() as u64 + stored.size > BATCH_BYTES as u64 {
            self.flush(lane)?;
        }
        let start = self.batch.data.len();
        let mut content = Expanded { map: &stored.map, next: 0 };
        content.append(&mut self.input, &mut self.batch.data, 0, stored.size as usize)?;
        self.import.crew.read(stored.len);
        self.batch.files.push((node, start..self.batch.data.len(), stored.holes));
        if self.batch.data.len() >= BATCH_BYTES || self.batch.files.len() >= BATCH_FILES {
            self.flush(lane)?;
        }
        Ok(())
    }

    fn flush(&mut self, lane: &mut Lane) -> Result<()> {
        let data = lock(&self.import.buffers).pop().unwrap_or_default();
        let batch = std::mem::replace(&mut self.batch, Batch { data, files: Vec::new() });
        if !batch.files.is_empty() {
            self.import.hand_out_batch(lane, batch)?;
        }
        let contents = std::mem::take(&mut *lock(&self.import.contents));
        self.tree.fill(contents.into_iter())
    }

    fn large(&mut self, lane: &mut Lane, stored: Stored) -> Result<Content> {
        let mut content = Expanded { map: &stored.map, next: 0 };
        let mut head = Vec::new();
        content.append(&mut self.input, &mut head, 0, stored.size.min(HEAD_LEN as u64) as usize)?;
        let input = &mut self.input;
        let mut append = |out: &mut Vec<u8>, start: u64, len: usize| {
            let known = head.len().saturating_sub(start as usize).min(len);
            if known > 0 {
                out.extend_from_slice(&head[start as usize..start as usize + known]);
            }
            content.append(input, out, start + known as u64, len - known)
        };
        let large = LargeFile::new(self.import.packer, self.import.chunker, self.import);
        let list =
            large.take_once(lane, stored.size, &stored.holes, &head, &mut append).map_err(|fault| match fault {
                source::Fault::Fatal(error) => error,
                source::Fault::Source(error) => Error::io("read", "an archive", &error),
            })?;
        Ok(content_of(list))
    }
}

impl Before {
    fn is_empty(&self) -> bool {
        self.name.is_none() && self.link.is_none() && self.len == 0
    }
}

/// The content of a member as its file has it: data from the archive, zeros between.
struct Expanded<'m> {
    map: &'m [Stretch],
    next: usize,
}

impl Expanded<'_> {
    /// Appends `len` bytes from `start`, which ascends.
    fn append(&mut self, input: &mut Input, out: &mut Vec<u8>, start: u64, len: usize) -> Result<()> {
        let (mut at, end) = (start, start + len as u64);
        while at < end {
            let step = match self.map.get(self.next) {
                Some((offset, len)) if offset + len <= at => {
                    self.next += 1;
                    continue;
                }
                Some((offset, len)) if *offset <= at => {
                    let step = end.min(offset + len) - at;
                    input.append(out, step as usize)?;
                    step
                }
                between => {
                    let step = between.map_or(end, |(offset, _)| end.min(*offset)) - at;
                    out.resize(out.len() + step as usize, 0);
                    step
                }
            };
            at += step;
        }
        Ok(())
    }
}
