//! The stat cache: what a source looked like when it was last taken, in the order of the walk (private to one machine).
//! source > **directory record** > row.
//!
//! A record is written when its directory is finished, so children stand before their parents and a parent knows where they are;
//! the next scan walks records and directories down together. It is a hint: whatever is damaged in it counts as unknown.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::bytes::{put_varint, put_zigzag, Cursor};
use crate::error::{show_path, Error, Result};
use crate::id::{checksum, Id};
use crate::node::{put_entries, take_entries, Directory, Entry, Time, What};

const MAGIC: &[u8; 8] = b"SNSTAT01";
const GROUP: usize = 1024;
const MAX_RECORD: usize = 1 << 30;

/// Where a record stands in the file.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Place {
    pub offset: u64,
    pub len: u64,
}

/// An entry as it was recorded, with what tells whether it is still the same.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Row {
    pub entry: Entry,
    pub ino: u64,
    pub ctime: Time,
    /// False when the entry was touched so close to its reading that a later change could look the same.
    pub trusted: bool,
    /// The record of a directory.
    pub place: Place,
}

pub struct Writer {
    file: BufWriter<File>,
    offset: u64,
    path: String,
}

impl Writer {
    pub fn create(path: &Path) -> Result<Writer> {
        let shown = show_path(path);
        let file = File::create(path).map_err(|e| Error::io("create", &shown, &e))?;
        let mut writer = Writer { file: BufWriter::with_capacity(1 << 20, file), offset: 0, path: shown };
        writer.write(MAGIC)?;
        Ok(writer)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(|e| Error::io("write", &self.path, &e))?;
        self.offset += bytes.len() as u64;
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) -> Result<Place> {
        let place = Place { offset: self.offset, len: bytes.len() as u64 };
        self.write(bytes)?;
        Ok(place)
    }

    /// Writes a directory's record: the directory as it was stored, and its rows. Rows of a large directory stand in groups
    /// before the record, so that neither writing nor reading holds them all in a second form. None of them is None.
    pub fn record(&mut self, directory: &Directory, rows: &[Option<Row>]) -> Result<Place> {
        let mut groups = Vec::new();
        if rows.len() > GROUP {
            for group in rows.chunks(GROUP) {
                groups.push(self.append(&with_checksum(|out| put_group(group, out)))?);
            }
        }
        let record = with_checksum(|out| {
            put_varint(out, directory.items);
            if let Some(id) = directory.node {
                out.extend_from_slice(&id.0);
                put_varint(out, directory.entries);
                put_varint(out, directory.bytes);
            }
            put_varint(out, rows.len() as u64);
            for place in &groups {
                put_varint(out, place.offset);
                put_varint(out, place.len);
            }
            if groups.is_empty() {
                put_group(rows, out);
            }
        });
        self.append(&record)
    }

    /// Ends the file with the place of the top record.
    pub fn finish(mut self, top: Place) -> Result<()> {
        let mut end = [0; 32];
        end[..8].copy_from_slice(&top.offset.to_le_bytes());
        end[8..16].copy_from_slice(&top.len.to_le_bytes());
        let sum = checksum(&end[..16]);
        end[16..24].copy_from_slice(&sum.to_le_bytes());
        end[24..].copy_from_slice(MAGIC);
        self.write(&end)?;
        self.file.flush().map_err(|e| Error::io("write", &self.path, &e))
    }
}

/// Bytes of a piece of the file, with their checksum before them.
fn with_checksum(fill: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = vec![0; 8];
    fill(&mut out);
    let sum = checksum(&out[8..]);
    out[..8].copy_from_slice(&sum.to_le_bytes());
    out
}

fn put_group(group: &[Option<Row>], out: &mut Vec<u8>) {
    let group: Vec<&Row> = group.iter().flatten().collect();
    let entries: Vec<Entry> = group.iter().map(|row| row.entry.clone()).collect();
    put_entries(&entries, out);
    group.iter().for_each(|row| put_varint(out, row.ino));
    let mut before = 0;
    for row in &group {
        put_zigzag(out, row.ctime.seconds.wrapping_sub(before));
        before = row.ctime.seconds;
    }
    group.iter().for_each(|row| put_varint(out, u64::from(row.ctime.nanos)));
    group.iter().for_each(|row| out.push(row.trusted as u8));
    for row in group.iter().filter(|row| matches!(row.entry.what, What::Directory(_))) {
        put_varint(out, row.place.offset);
        put_varint(out, row.place.len);
    }
}

fn take_group(count: usize, cursor: &mut Cursor) -> Result<VecDeque<Row>> {
    let entries = take_entries(count, cursor, false)?;
    let mut rows: VecDeque<Row> = entries
        .into_iter()
        .map(|entry| Row { entry, ino: 0, ctime: Time::default(), trusted: false, place: Place::default() })
        .collect();
    for row in &mut rows {
        row.ino = cursor.varint()?;
    }
    let mut seconds = 0i64;
    for row in &mut rows {
        seconds = seconds.wrapping_add(cursor.zigzag()?);
        row.ctime.seconds = seconds;
    }
    for row in &mut rows {
        row.ctime.nanos = cursor.bounded(999_999_999)? as u32;
    }
    for row in &mut rows {
        row.trusted = cursor.byte()? == 1;
    }
    for row in rows.iter_mut().filter(|row| matches!(row.entry.what, What::Directory(_))) {
        row.place = Place { offset: cursor.varint()?, len: cursor.varint()? };
    }
    Ok(rows)
}

pub struct Reader {
    file: File,
    len: u64,
    top: Place,
}

impl Reader {
    /// None when there is no usable cache at `path`.
    pub fn open(path: &Path) -> Option<Reader> {
        let file = File::open(path).ok()?;
        let len = file.metadata().ok()?.len();
        let mut end = [0; 32];
        file.read_exact_at(&mut end, len.checked_sub(32)?).ok()?;
        let field = |at: usize| u64::from_le_bytes(end[at..at + 8].try_into().expect("8 bytes"));
        if &end[24..] != MAGIC || field(16) != checksum(&end[..16]) {
            return None;
        }
        Some(Reader { file, len, top: Place { offset: field(0), len: field(8) } })
    }

    pub fn top(&self) -> Place {
        self.top
    }

    /// The bytes at `place`, without their checksum.
    fn bytes(&self, place: Place) -> Option<Vec<u8>> {
        if place.len < 8 || place.len > MAX_RECORD as u64 || place.offset.checked_add(place.len)? > self.len {
            return None;
        }
        let mut sum = [0; 8];
        let mut bytes = vec![0; place.len as usize - 8];
        self.file.read_exact_at(&mut sum, place.offset).ok()?;
        self.file.read_exact_at(&mut bytes, place.offset + 8).ok()?;
        (checksum(&bytes).to_le_bytes() == sum).then_some(bytes)
    }

    /// The record at `place`, to be read along with the directory; None when it is not usable.
    pub fn record(&self, place: Place) -> Option<Record> {
        Record::new(&self.bytes(place)?).ok()
    }

    fn group(&self, (place, count): (Place, usize)) -> Option<VecDeque<Row>> {
        let bytes = self.bytes(place)?;
        take_group(count, &mut Cursor::new(&bytes, "stat cache")).ok()
    }
}

/// A directory's record, read row by row in the order of names.
pub struct Record {
    /// Groups not read yet, and how many rows are in each.
    groups: VecDeque<(Place, usize)>,
    rows: VecDeque<Row>,
    pub directory: Directory,
}

impl Record {
    fn new(bytes: &[u8]) -> Result<Record> {
        let mut cursor = Cursor::new(bytes, "stat cache");
        let mut directory = Directory { items: cursor.varint()?, ..Directory::default() };
        if directory.items > 0 {
            directory.node = Some(Id(cursor.array()?));
            directory.entries = cursor.varint()?;
            directory.bytes = cursor.varint()?;
        }
        let count = cursor.bounded(u64::from(u32::MAX))? as usize;
        let mut record = Record { groups: VecDeque::new(), rows: VecDeque::new(), directory };
        if count <= GROUP {
            record.rows = take_group(count, &mut cursor)?;
            return Ok(record);
        }
        for number in 0..count.div_ceil(GROUP) {
            let place = Place { offset: cursor.varint()?, len: cursor.varint()? };
            record.groups.push_back((place, (count - number * GROUP).min(GROUP)));
        }
        Ok(record)
    }

    fn fill(&mut self, reader: &Reader) {
        if !self.rows.is_empty() {
            return;
        }
        if let Some(group) = self.groups.pop_front() {
            match reader.group(group) {
                Some(rows) => self.rows = rows,
                None => self.groups.clear(),
            }
        }
    }

    /// The row of `name`, and whether rows before it were passed over (they are gone). Names MUST be asked in order.
    pub fn seek(&mut self, reader: &Reader, name: &[u8]) -> (Option<Row>, bool) {
        let mut passed = false;
        loop {
            self.fill(reader);
            match self.rows.front() {
                Some(row) if *row.entry.name < *name => {
                    self.rows.pop_front();
                    passed = true;
                }
                Some(row) if *row.entry.name == *name => return (self.rows.pop_front(), passed),
                _ => return (None, passed),
            }
        }
    }

    /// True when rows are left that were not asked for.
    pub fn has_more(&mut self, reader: &Reader) -> bool {
        self.fill(reader);
        !self.rows.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::Content;

    fn row(number: u64) -> Row {
        let what = if number % 3 == 0 {
            What::Directory(Directory { items: 1, node: Some(Id([number as u8; 32])), entries: 4, bytes: number })
        } else {
            What::File { size: 4000 + number, content: Content::One(Id([9; 32])), holes: None }
        };
        let name = format!("{number:06}").into_bytes().into();
        let entry =
            Entry { name, mode: 0o755, uid: 1, gid: 2, mtime: Time { seconds: 5, nanos: 6 }, what, xattrs: None };
        let place = if number % 3 == 0 { Place { offset: number, len: 77 } } else { Place::default() };
        Row { entry, ino: number * 7, ctime: Time { seconds: -3, nanos: 9 }, trusted: number % 2 == 0, place }
    }

    #[test]
    fn rows_come_back_in_order_and_damage_is_no_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cache");
        let rows: Vec<Row> = (0..2500).map(row).collect();
        let recorded: Vec<Option<Row>> = rows.iter().cloned().map(Some).collect();
        let directory = Directory { items: 2500, node: Some(Id([1; 32])), entries: 2500, bytes: 9 };
        let mut writer = Writer::create(&path).unwrap();
        let place = writer.record(&directory, &recorded).unwrap();
        writer.finish(place).unwrap();

        let reader = Reader::open(&path).unwrap();
        let mut record = reader.record(reader.top()).unwrap();
        assert_eq!(record.directory, directory);
        for number in [0u64, 1, 5, 2000, 2499] {
            let (found, passed) = record.seek(&reader, &rows[number as usize].entry.name);
            assert_eq!(found.as_ref(), Some(&rows[number as usize]));
            assert_eq!(passed, ![0, 1].contains(&number));
        }
        assert!(!record.has_more(&reader));

        let good = std::fs::read(&path).unwrap();
        for at in (0..good.len()).step_by(997) {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            std::fs::write(&path, &bad).unwrap();
            if let Some(reader) = Reader::open(&path) {
                let Some(mut record) = reader.record(reader.top()) else { continue };
                // Rows are right or absent; the magic at the beginning is covered by nothing.
                for row in &rows {
                    let found = record.seek(&reader, &row.entry.name).0;
                    assert!(found.is_none() || found.as_ref() == Some(row), "byte {at}");
                }
            }
        }
    }
}
