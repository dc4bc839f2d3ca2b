//! The journal of a restore in place: what is to be done, and how far that is. Private to one machine.
//! staging directory > **journal** > record.
//!
//! The head is written first, the plan when everything is staged; both are durable before anything in the target changes.
//! What was done since is not written down: each exchange can be told from the disk by the inodes that are recorded.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::os::fd::BorrowedFd;

use rustix::fs::{fchmod, fstat, fsync, openat, renameat, Mode, OFlags};
use rustix::io::Errno;

use crate::bytes::{put_bytes, put_varint, put_zigzag, Cursor};
use crate::error::{reason, Error, Result};
use crate::id::checksum;
use crate::node::{check_name, Time, XattrSet};

const MAGIC: &[u8; 8] = b"SNJRNL01";
const HEAD: &str = "head";
const PLAN: &str = "plan";
const STATE: &str = "state";
/// The mode of the staging directory of a restore that was finished.
const FINISHED: u32 = 0o1700;
const MAX_PATH: usize = 1 << 20;
const MAX_XATTRS: usize = 32 << 20;
const MAX_RANGES: u64 = 1 << 22;
const MAX_PIECE: usize = 256 << 20;
/// Tops and areas.
const MAX_PLACES: u64 = 1 << 16;

/// How far a restore is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// New content is being prepared; the target is as it was.
    Staging,
    /// Everything is prepared; some entries may have been exchanged.
    Ready,
    /// Being taken back.
    Reverting,
    /// Everything is exchanged, and what was replaced is still there.
    Applied,
    /// What is left of it is being removed.
    Removing,
}

impl State {
    const ALL: [(State, &'static str); 5] = [
        (State::Staging, "staging"),
        (State::Ready, "ready"),
        (State::Reverting, "reverting"),
        (State::Applied, "applied"),
        (State::Removing, "removing"),
    ];

    pub fn word(self) -> &'static str {
        State::ALL.iter().find(|(one, _)| *one == self).map_or("", |(_, word)| word)
    }
}

/// What tells an entry on disk from every other, and whether it changed since.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Identity {
    pub ino: u64,
    /// Of what no step of ours changes by the way: neither directories, nor files with several links.
    pub ctime: Option<Time>,
}

/// Attributes of an entry, as they are to be set.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Attributes {
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    pub mtime: Time,
    /// None: as they are.
    pub xattrs: Option<XattrSet>,
}

/// Attributes to set, and those to set when that is taken back.
pub type Pair = [Attributes; 2];

/// What is done to a path. What is staged, and later what was replaced, stands under the record's number.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// What is staged, with this inode, gets the path, which has nothing.
    Create { staged: u64 },
    /// The same, in exchange for what is there.
    Replace { staged: u64, found: Identity },
    /// What is there gives up the path.
    Delete { found: Identity },
    /// What is there gets attributes.
    Attributes { found: Identity, pair: Box<Pair> },
    /// A directory in which entries come and go gets its attributes at the end.
    Touch { pair: Box<Pair> },
    /// These ranges of a file are written from the staged file, or from what was saved of them; then it gets its size and
    /// attributes. A device has its own, and keeps its size.
    Patch { found: Identity, sizes: [u64; 2], ranges: Vec<(u64, u64)>, pair: Option<Box<Pair>> },
}

/// An action, and where: which top and which area, and the path below the top (empty: the top itself).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// What is staged for it is called so.
    pub number: usize,
    pub top: usize,
    pub area: usize,
    pub path: Vec<u8>,
    pub action: Action,
}

/// Where a restore works.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Head {
    /// Directories below which everything is done.
    pub tops: Vec<Vec<u8>>,
    /// For each file system: a top, and the directory below it that has the staging directory.
    pub areas: Vec<(usize, Vec<u8>)>,
    /// What the caller wants to find again.
    pub note: Vec<u8>,
}

fn put_time(out: &mut Vec<u8>, time: Time) {
    put_zigzag(out, time.seconds);
    put_varint(out, time.nanos.into());
}

fn take_time(cursor: &mut Cursor) -> Result<Time> {
    Ok(Time { seconds: cursor.zigzag()?, nanos: cursor.bounded(999_999_999)? as u32 })
}

/// Which one of `count`.
fn take_index(cursor: &mut Cursor, count: usize) -> Result<usize> {
    match cursor.varint()? {
        index if index < count as u64 => Ok(index as usize),
        _ => Err(cursor.bad("a place that it does not have")),
    }
}

/// A path below a top, which nothing in it leaves.
fn take_path(cursor: &mut Cursor) -> Result<Vec<u8>> {
    let path = cursor.bytes(0, MAX_PATH)?;
    match path.is_empty() || path.split(|c| *c == b'/').all(check_name) {
        true => Ok(path.to_vec()),
        false => Err(cursor.bad("a path leads elsewhere")),
    }
}

fn put_identity(out: &mut Vec<u8>, identity: &Identity) {
    put_varint(out, identity.ino);
    out.push(identity.ctime.is_some() as u8);
    put_time(out, identity.ctime.unwrap_or_default());
}

fn take_identity(cursor: &mut Cursor) -> Result<Identity> {
    let ino = cursor.varint()?;
    let known = cursor.byte()? == 1;
    let ctime = take_time(cursor)?;
    Ok(Identity { ino, ctime: known.then_some(ctime) })
}

fn put_pair(out: &mut Vec<u8>, pair: &Pair) {
    for one in pair {
        put_varint(out, one.mode.into());
        put_varint(out, one.uid.into());
        put_varint(out, one.gid.into());
        put_time(out, one.mtime);
        out.push(one.xattrs.is_some() as u8);
        let set = one.xattrs.as_deref().unwrap_or_default();
        put_varint(out, set.len() as u64);
        for (name, value) in set {
            put_bytes(out, name);
            put_bytes(out, value);
        }
    }
}

fn take_pair(cursor: &mut Cursor) -> Result<Box<Pair>> {
    let mut one = || -> Result<Attributes> {
        let mode = cursor.bounded(0o7777)? as u16;
        let (uid, gid) = (cursor.bounded(u32::MAX.into())? as u32, cursor.bounded(u32::MAX.into())? as u32);
        let mtime = take_time(cursor)?;
        let known = cursor.byte()? == 1;
        let mut set = Vec::new();
        for _ in 0..cursor.bounded(1 << 20)? {
            set.push((cursor.bytes(1, 255)?.to_vec(), cursor.bytes(0, MAX_XATTRS)?.to_vec()));
        }
        Ok(Attributes { mode, uid, gid, mtime, xattrs: known.then_some(set) })
    };
    Ok(Box::new([one()?, one()?]))
}

impl Record {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        put_varint(out, self.number as u64);
        put_varint(out, self.top as u64);
        put_varint(out, self.area as u64);
        put_bytes(out, &self.path);
        match &self.action {
            Action::Create { staged } => {
                out.push(1);
                put_varint(out, *staged);
            }
            Action::Replace { staged, found } => {
                out.push(2);
                put_varint(out, *staged);
                put_identity(out, found);
            }
            Action::Delete { found } => {
                out.push(3);
                put_identity(out, found);
            }
            Action::Attributes { found, pair } => {
                out.push(4);
                put_identity(out, found);
                put_pair(out, pair);
            }
            Action::Touch { pair } => {
                out.push(5);
                put_pair(out, pair);
            }
            Action::Patch { found, sizes, ranges, pair } => {
                out.push(6);
                put_identity(out, found);
                sizes.iter().for_each(|size| put_varint(out, *size));
                put_varint(out, ranges.len() as u64);
                for (start, end) in ranges {
                    put_varint(out, *start);
                    put_varint(out, *end);
                }
                out.push(pair.is_some() as u8);
                pair.iter().for_each(|pair| put_pair(out, pair));
            }
        }
    }

    pub(super) fn decode(bytes: &[u8], head: &Head) -> Result<Record> {
        let mut cursor = Cursor::new(bytes, "journal");
        let number = cursor.varint()? as usize;
        let top = take_index(&mut cursor, head.tops.len())?;
        let area = take_index(&mut cursor, head.areas.len())?;
        let path = take_path(&mut cursor)?;
        let action = match cursor.byte()? {
            1 => Action::Create { staged: cursor.varint()? },
            2 => Action::Replace { staged: cursor.varint()?, found: take_identity(&mut cursor)? },
            3 => Action::Delete { found: take_identity(&mut cursor)? },
            4 => Action::Attributes { found: take_identity(&mut cursor)?, pair: take_pair(&mut cursor)? },
            5 => Action::Touch { pair: take_pair(&mut cursor)? },
            6 => {
                let found = take_identity(&mut cursor)?;
                let sizes = [cursor.varint()?, cursor.varint()?];
                let mut ranges = Vec::new();
                for _ in 0..cursor.bounded(MAX_RANGES)? {
                    ranges.push((cursor.varint()?, cursor.varint()?));
                }
                let known = cursor.byte()? == 1;
                let pair = if known { Some(take_pair(&mut cursor)?) } else { None };
                Action::Patch { found, sizes, ranges, pair }
            }
            _ => return Err(cursor.bad("an unknown action")),
        };
        cursor.finish()?;
        Ok(Record { number, top, area, path, action })
    }
}

impl Head {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_varint(&mut out, self.tops.len() as u64);
        self.tops.iter().for_each(|top| put_bytes(&mut out, top));
        put_varint(&mut out, self.areas.len() as u64);
        for (top, path) in &self.areas {
            put_varint(&mut out, *top as u64);
            put_bytes(&mut out, path);
        }
        put_bytes(&mut out, &self.note);
        out
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Head> {
        let mut cursor = Cursor::new(bytes, "journal");
        let mut head = Head::default();
        for _ in 0..cursor.bounded(MAX_PLACES)? {
            head.tops.push(cursor.bytes(1, MAX_PATH)?.to_vec());
        }
        for _ in 0..cursor.bounded(MAX_PLACES)? {
            let top = take_index(&mut cursor, head.tops.len())?;
            head.areas.push((top, take_path(&mut cursor)?));
        }
        head.note = cursor.bytes(0, MAX_PIECE)?.to_vec();
        cursor.finish()?;
        Ok(head)
    }
}

fn failed(what: &'static str) -> impl Fn(Errno) -> Error {
    move |error| Error::of_target(&format!("{what} the journal of the restore"), &error.into())
}

fn write(file: &mut impl Write, bytes: &[u8]) -> Result<()> {
    file.write_all(bytes).map_err(|e| Error::of_target("write the journal of the restore", &e))
}

fn create(dir: BorrowedFd, name: &str) -> Result<File> {
    let flags = OFlags::CREATE | OFlags::TRUNC | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(dir, name, flags, Mode::from_raw_mode(0o600)).map_err(failed("create"))?.into())
}

fn open(dir: BorrowedFd, name: &str) -> Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(dir, name, flags, Mode::empty()).map_err(failed("open"))?.into())
}

/// Bytes with their length and checksum.
fn put_piece(file: &mut impl Write, bytes: &[u8]) -> Result<()> {
    write(file, &(bytes.len() as u32).to_le_bytes())?;
    write(file, bytes)?;
    write(file, &checksum(bytes).to_le_bytes())
}

fn take_piece(file: &mut impl Read) -> Result<Vec<u8>> {
    let mut word = [0; 4];
    read_exact(file, &mut word)?;
    let len = u32::from_le_bytes(word) as usize;
    if len > MAX_PIECE {
        return Err(Error::damaged("damaged journal: a record is too long"));
    }
    let mut bytes = Vec::new();
    let read = file.by_ref().take(len as u64).read_to_end(&mut bytes);
    if read.map_err(unreadable)? != len {
        return Err(Error::damaged("damaged journal: it is cut off"));
    }
    let mut sum = [0; 8];
    read_exact(file, &mut sum)?;
    match checksum(&bytes) == u64::from_le_bytes(sum) {
        true => Ok(bytes),
        false => Err(Error::damaged("damaged journal: a checksum is wrong")),
    }
}

fn unreadable(error: std::io::Error) -> Error {
    Error::Storage(format!("cannot read the journal of the restore: {}", reason(&error)))
}

fn read_exact(file: &mut impl Read, into: &mut [u8]) -> Result<()> {
    file.read_exact(into).map_err(|e| match e.kind() {
        std::io::ErrorKind::UnexpectedEof => Error::damaged("damaged journal: it is cut off"),
        _ => unreadable(e),
    })
}

/// Begins a journal in an empty staging directory. Until it is whole there is none.
pub fn begin(dir: BorrowedFd, head: &Head) -> Result<()> {
    let mut file = create(dir, "head.new")?;
    write(&mut file, MAGIC)?;
    put_piece(&mut file, &head.encode())?;
    fsync(&file).map_err(failed("make durable"))?;
    renameat(dir, "head.new", dir, HEAD).map_err(failed("write"))?;
    fsync(dir).map_err(failed("make durable"))
}

/// Writes the plan durably.
pub fn write_plan(dir: BorrowedFd, records: &[Record]) -> Result<()> {
    let mut file = BufWriter::with_capacity(1 << 18, create(dir, PLAN)?);
    let mut bytes = Vec::new();
    for record in records {
        bytes.clear();
        record.encode(&mut bytes);
        put_piece(&mut file, &bytes)?;
    }
    // An empty piece ends it.
    put_piece(&mut file, &[])?;
    let file = file.into_inner().map_err(|e| Error::of_target("write the journal of the restore", e.error()))?;
    fsync(&file).map_err(failed("make durable"))
}

/// The head of a journal; None where none was begun. What somebody else could have written is none of ours: it says what is to
/// be done, and where.
pub fn read_head(dir: BorrowedFd) -> Result<Option<Head>> {
    let stat = fstat(dir).map_err(failed("look at"))?;
    if stat.st_uid != rustix::process::geteuid().as_raw() || stat.st_mode & 0o022 != 0 {
        return Err(Error::damaged("the journal of a restore belongs to another user, or others can write it"));
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = match openat(dir, HEAD, flags, Mode::empty()) {
        Ok(file) => BufReader::new(File::from(file)),
        Err(Errno::NOENT) => return Ok(None),
        Err(error) => return Err(failed("open")(error)),
    };
    let mut magic = [0; 8];
    read_exact(&mut file, &mut magic)?;
    if &magic != MAGIC {
        return Err(Error::damaged("damaged journal: it does not begin as one"));
    }
    Head::decode(&take_piece(&mut file)?).map(Some)
}

pub fn read_plan(dir: BorrowedFd, head: &Head) -> Result<Vec<Record>> {
    let mut file = BufReader::with_capacity(1 << 18, open(dir, PLAN)?);
    let mut records = Vec::new();
    loop {
        let bytes = take_piece(&mut file)?;
        if bytes.is_empty() {
            return Ok(records);
        }
        records.push(Record::decode(&bytes, head)?);
    }
}

/// Notes durably how far a restore is.
pub fn set_state(dir: BorrowedFd, state: State) -> Result<()> {
    let mut file = create(dir, "state.new")?;
    write(&mut file, state.word().as_bytes())?;
    fsync(&file).map_err(failed("make durable"))?;
    renameat(dir, "state.new", dir, STATE).map_err(failed("write"))?;
    fsync(dir).map_err(failed("make durable"))
}

/// Marks a staging directory itself as that of a restore that was finished: the mark goes with it, after the journal.
pub fn mark_finished(dir: BorrowedFd) -> Result<()> {
    // File systems that keep no modes have no mark.
    match fchmod(dir, Mode::from_raw_mode(FINISHED)) {
        Err(Errno::PERM | Errno::OPNOTSUPP | Errno::INVAL) => Ok(()),
        done => done.map_err(failed("write")),
    }
}

pub fn is_finished(dir: BorrowedFd) -> Result<bool> {
    Ok(fstat(dir).map_err(failed("look at"))?.st_mode & 0o7777 == FINISHED)
}

/// How far a restore is. Without a state it never became ready.
pub fn state(dir: BorrowedFd) -> Result<State> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = match openat(dir, STATE, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(Errno::NOENT) => return Ok(State::Staging),
        Err(error) => return Err(failed("open")(error)),
    };
    let mut word = Vec::new();
    file.take(16).read_to_end(&mut word).map_err(unreadable)?;
    let known = State::ALL.iter().find(|(_, one)| one.as_bytes() == &word[..]);
    known.map(|(state, _)| *state).ok_or_else(|| Error::damaged("damaged journal: its state means nothing"))
}
