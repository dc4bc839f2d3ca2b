//! Small stores for tests: packs built directly, an index in memory, trees from values or from a directory.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use rustix::fs::{seek, SeekFrom};

use crate::chunker::{choose, Chunker, HEAD_LEN};
use crate::compress::Codec;
use crate::error::Result;
use crate::id::{Id, Keys, ZERO_ID};
use crate::index::{records, Index, Location};
use crate::node::*;
use crate::pack::{self, Builder, Kind, Pack};
use crate::packer::{Settings, CLAIMED_MAX};
use crate::reader::Reader;

/// An index in memory, that counts how often it is asked.
#[derive(Default)]
pub(crate) struct MapIndex {
    pub(crate) places: Mutex<HashMap<Id, Location>>,
    pub(crate) packs: Mutex<Vec<(Kind, Id, u64)>>,
    pub(crate) calls: AtomicUsize,
}

impl Index for MapIndex {
    fn locate(&self, ids: &[Id]) -> Result<Vec<Option<Location>>> {
        self.calls.fetch_add(1, Relaxed);
        let places = self.places.lock().unwrap();
        Ok(ids.iter().map(|id| places.get(id).copied()).collect())
    }

    fn pack(&self, number: u32) -> Result<(Kind, Id)> {
        let (kind, id, _) = self.packs.lock().unwrap()[number as usize];
        Ok((kind, id))
    }

    fn add_pack(&self, pack: Pack) -> Result<()> {
        let mut packs = self.packs.lock().unwrap();
        let number = packs.len() as u32;
        let mut places = self.places.lock().unwrap();
        for (id, record) in records(&pack, number) {
            places.insert(id, Location::decode(&id, &record)?.unwrap());
        }
        packs.push((pack.header.kind, pack.id, pack.size));
        Ok(())
    }
}

/// Of a session that writes nothing.
pub(crate) fn settings() -> Settings {
    Settings {
        session: [1; 16],
        block_bytes: 1 << 20,
        meta_block_bytes: 1 << 18,
        data_pack_bytes: 1 << 20,
        meta_pack_bytes: 1 << 20,
        level: 3,
        claimed_max: CLAIMED_MAX,
        index_empty: true,
        dry_run: true,
        keep_nodes: false,
    }
}

/// A pack that is being built.
struct OpenPack {
    kind: Kind,
    builder: Builder,
    bytes: Vec<u8>,
    plain: Vec<u8>,
    chunks: Vec<(Id, u32)>,
}

impl OpenPack {
    fn new(keys: &Keys, kind: Kind) -> OpenPack {
        let (builder, header) = Builder::new(keys, kind, [7; 16], [kind as u8; 32]).unwrap();
        OpenPack { kind, builder, bytes: header.to_vec(), plain: Vec::new(), chunks: Vec::new() }
    }

    fn end_block(&mut self) {
        if self.chunks.is_empty() {
            return;
        }
        let (mut zstd, mut scratch) = (Codec::new(3).unwrap(), Vec::new());
        let (codec, coded) = zstd.encode(&self.plain, &mut scratch).unwrap();
        let bytes = &mut self.bytes;
        let mut append = |part: &[u8]| {
            bytes.extend_from_slice(part);
            Ok(())
        };
        let coded = crate::seal::Coded { codec, plain_len: self.plain.len(), bytes: coded };
        self.builder.block(coded, &self.chunks, &mut append).unwrap();
        self.plain.clear();
        self.chunks.clear();
    }
}

/// A store in a temporary directory.
pub(crate) struct TestStore {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) keys: Arc<Keys>,
    pub(crate) index: Arc<MapIndex>,
    pub(crate) block_bytes: usize,
    pub(crate) pack_bytes: usize,
    open: [OpenPack; 2],
    known: HashMap<Id, ()>,
    chunker: Chunker,
}

impl TestStore {
    pub(crate) fn new() -> TestStore {
        TestStore::with_keys(Keys::plain([1; 16]))
    }

    pub(crate) fn sealed() -> TestStore {
        TestStore::with_keys(Keys::new([1; 16], &[2; 32], &BTreeMap::from([(1, [3; 32])])).unwrap())
    }

    fn with_keys(keys: Keys) -> TestStore {
        TestStore {
            dir: tempfile::tempdir().unwrap(),
            open: [OpenPack::new(&keys, Kind::Data), OpenPack::new(&keys, Kind::Meta)],
            chunker: Chunker::new(&keys, 32_768),
            keys: Arc::new(keys),
            index: Arc::default(),
            block_bytes: 64 << 10,
            pack_bytes: 4 << 20,
            known: HashMap::new(),
        }
    }

    pub(crate) fn chunk(&mut self, data: &[u8]) -> Id {
        let id = self.keys.chunk_id(data);
        self.put(0, id, data);
        id
    }

    pub(crate) fn node(&mut self, data: &[u8]) -> Id {
        let id = self.keys.node_id(data);
        self.put(1, id, data);
        id
    }

    fn put(&mut self, which: usize, id: Id, data: &[u8]) {
        if self.known.insert(id, ()).is_some() {
            return;
        }
        let open = &mut self.open[which];
        if open.plain.len() + data.len() > self.block_bytes {
            open.end_block();
        }
        open.plain.extend_from_slice(data);
        open.chunks.push((id, data.len() as u32));
        if open.bytes.len() + open.plain.len() > self.pack_bytes {
            self.end_pack(which);
        }
    }

    fn end_pack(&mut self, which: usize) {
        let kind = self.open[which].kind;
        let mut open = std::mem::replace(&mut self.open[which], OpenPack::new(&self.keys, kind));
        open.end_block();
        if open.builder.is_empty() {
            return;
        }
        let (id, pack) = open.builder.finish(&mut open.bytes).unwrap();
        let path = pack::path(self.dir.path(), kind, &id);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, &open.bytes).unwrap();
        self.index.add_pack(pack).unwrap();
    }

    /// Closes the packs, so that everything can be read.
    pub(crate) fn flush(&mut self) {
        self.end_pack(0);
        self.end_pack(1);
    }

    pub(crate) fn reader(&mut self) -> Arc<Reader> {
        self.flush();
        Arc::new(Reader::new(self.dir.path(), self.keys.clone(), self.index.clone(), 8 << 20))
    }

    pub(crate) fn packs(&self) -> Vec<(Kind, Id)> {
        self.index.packs.lock().unwrap().iter().map(|(kind, id, _)| (*kind, *id)).collect()
    }

    /// Flips a bit in the middle of the block that holds `id`.
    pub(crate) fn damage(&self, id: &Id) -> Vec<Id> {
        let place = self.index.places.lock().unwrap()[id];
        let (kind, name) = self.index.pack(place.pack).unwrap();
        let path = pack::path(self.dir.path(), kind, &name);
        let file = File::options().read(true).write(true).open(path).unwrap();
        let table = Pack::open(&file, &self.keys, kind, name).unwrap().table;
        let block = table.blocks[place.block as usize];
        let at = block.offset + u64::from(block.stored_len) / 2;
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 1], at).unwrap();
        let mut ids = Vec::new();
        table.each(|id, number, _, _| ids.extend((number == place.block).then_some(id)));
        ids
    }

    pub(crate) fn pack_path(&self, id: &Id) -> PathBuf {
        let place = self.index.places.lock().unwrap()[id];
        let (kind, name) = self.index.pack(place.pack).unwrap();
        pack::path(self.dir.path(), kind, &name)
    }

    /// A chunk list of `data`, cut as in a store. Its zero runs are in no pack.
    pub(crate) fn list(&mut self, data: &[u8]) -> List<Chunk> {
        let cutter = choose(&data[..data.len().min(HEAD_LEN)], data.len() > HEAD_LEN);
        let mut pieces = Vec::new();
        self.chunker.cut(cutter, data, true, &mut pieces);
        let mut chunks: Vec<Chunk> = Vec::new();
        let mut at = 0;
        for piece in pieces {
            let len = piece.len as u64;
            match chunks.last_mut() {
                Some(last) if piece.zero && last.id == ZERO_ID => last.len += len,
                _ if piece.zero => chunks.push(Chunk { len, id: ZERO_ID }),
                _ => chunks.push(Chunk { len, id: self.chunk(&data[at..at + piece.len]) }),
            }
            at += piece.len;
        }
        self.sequence(Sequence::of_list(), chunks)
    }

    /// Stores a sequence.
    pub(crate) fn sequence<T: Item>(&mut self, mut sequence: Sequence<T>, items: Vec<T>) -> List<T> {
        let mut emit = |bytes: Vec<u8>| Ok(self.node(&bytes));
        for item in items {
            sequence.push(item, &mut emit).unwrap();
        }
        sequence.finish(&mut emit).unwrap()
    }

    pub(crate) fn content(&mut self, data: &[u8]) -> Content {
        match data.len() {
            0 => Content::Empty,
            1..=256 => Content::InPlace(data.into()),
            _ => content_of(self.list(data)),
        }
    }

    pub(crate) fn file(&mut self, name: &str, data: &[u8]) -> Entry {
        let content = self.content(data);
        entry(name, What::File { size: data.len() as u64, content, holes: None })
    }

    pub(crate) fn directory(&mut self, entries: Vec<Entry>) -> Directory {
        if entries.is_empty() {
            return Directory::default();
        }
        let (items, totals) = (entries.len() as u64, totals(&entries));
        let List::Node { id, .. } = self.sequence(Sequence::of_nodes(), entries) else { unreachable!() };
        Directory { items, node: Some(id), entries: totals.0, bytes: totals.1 }
    }

    pub(crate) fn dir(&mut self, name: &str, entries: Vec<Entry>) -> Entry {
        let directory = self.directory(entries);
        entry(name, What::Directory(directory))
    }

    pub(crate) fn root(&mut self, mut entry: Entry, mut links: Vec<Link>) -> Id {
        entry.name = Box::default();
        links.sort_by(|a, b| a.path.cmp(&b.path));
        let links = match links.len() {
            0 => None,
            _ => match self.sequence(Sequence::of_nodes(), links) {
                List::Node { items, id } => Some((items, id)),
                List::InPlace(_) => unreachable!(),
            },
        };
        self.node(&Root { entry, links }.encode())
    }

    /// Takes what is at `path`, hard links and holes included.
    pub(crate) fn take(&mut self, path: &Path) -> Id {
        let mut groups: HashMap<(u64, u64), Vec<Vec<u8>>> = HashMap::new();
        let entry = self.take_entry(path, b"", &mut groups);
        let mut links = Vec::new();
        for mut paths in groups.into_values() {
            paths.sort();
            let first = paths.remove(0);
            links.extend(paths.into_iter().map(|path| Link { path, first: first.clone() }));
        }
        self.root(entry, links)
    }

    fn take_entry(&mut self, path: &Path, below: &[u8], groups: &mut HashMap<(u64, u64), Vec<Vec<u8>>>) -> Entry {
        let meta = std::fs::symlink_metadata(path).unwrap();
        let kind = meta.file_type();
        if !kind.is_dir() && meta.nlink() > 1 {
            groups.entry((meta.dev(), meta.ino())).or_default().push(below.to_vec());
        }
        let device = (rustix::fs::major(meta.rdev()), rustix::fs::minor(meta.rdev()));
        let what = if kind.is_dir() {
            let mut names: Vec<_> = std::fs::read_dir(path).unwrap().map(|e| e.unwrap().file_name()).collect();
            names.sort();
            let entries = names.iter().map(|name| {
                let below = [below, if below.is_empty() { b"" } else { b"/" }, name.as_bytes()].concat();
                self.take_entry(&path.join(name), &below, groups)
            });
            let entries = entries.collect();
            What::Directory(self.directory(entries))
        } else if kind.is_symlink() {
            What::Symlink(std::fs::read_link(path).unwrap().into_os_string().into_vec().into())
        } else if kind.is_fifo() {
            What::Fifo
        } else if kind.is_char_device() {
            What::CharDevice(device.0, device.1)
        } else if kind.is_block_device() {
            What::BlockDevice(device.0, device.1)
        } else {
            let data = std::fs::read(path).unwrap();
            let holes = holes_of(path, meta.len());
            let holes = (!holes.is_empty()).then(|| Box::new(self.sequence(Sequence::of_list(), holes)));
            What::File { size: meta.len(), content: self.content(&data), holes }
        };
        let xattrs = xattrs_of(path).map(|mut set| {
            let bytes = encode_xattrs(&mut set);
            Box::new(match bytes.len() <= XATTRS_IN_PLACE {
                true => Xattrs::InPlace(bytes.into()),
                false => Xattrs::Chunks { len: bytes.len() as u64, list: self.list(&bytes) },
            })
        });
        Entry {
            name: path.file_name().unwrap_or_default().as_bytes().into(),
            mode: (meta.mode() & 0o7777) as u16,
            uid: meta.uid(),
            gid: meta.gid(),
            mtime: Time { seconds: meta.mtime(), nanos: meta.mtime_nsec() as u32 },
            what,
            xattrs,
        }
    }
}

fn totals(entries: &[Entry]) -> (u64, u64) {
    entries.iter().map(Entry::totals).fold((0, 0), |(a, b), (c, d)| (a + c, b + d))
}

pub(crate) fn holes_of(path: &Path, size: u64) -> Vec<Hole> {
    let file = File::open(path).unwrap();
    let (mut holes, mut at) = (Vec::new(), 0);
    while at < size {
        let start = seek(&file, SeekFrom::Hole(at)).unwrap();
        if start >= size {
            break;
        }
        let end = seek(&file, SeekFrom::Data(start)).unwrap_or(size);
        holes.push(Hole { start, end });
        at = end;
    }
    holes
}

pub(crate) fn xattrs_of(path: &Path) -> Option<XattrSet> {
    let mut list = vec![0; 65_536];
    let len = rustix::fs::llistxattr(path, &mut list[..]).unwrap();
    let names = list[..len].split(|b| *b == 0).filter(|name| !name.is_empty());
    let set: XattrSet = names
        .map(|name| {
            let mut value = vec![0; 65_536];
            let len = rustix::fs::lgetxattr(path, name, &mut value[..]).unwrap();
            (name.to_vec(), value[..len].to_vec())
        })
        .collect();
    (!set.is_empty()).then_some(set)
}

/// An entry that the user of the tests owns.
pub(crate) fn entry(name: &str, what: What) -> Entry {
    Entry {
        name: name.as_bytes().into(),
        mode: match what {
            What::Directory(_) => 0o755,
            What::Symlink(_) => 0o777,
            _ => 0o644,
        },
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        mtime: Time { seconds: 1_600_000_000, nanos: 123_456_789 },
        what,
        xattrs: None,
    }
}

/// Bytes that do not compress, different for every seed.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut data = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut data);
    data
}

pub(crate) fn link(path: &str, first: &str) -> Link {
    Link { path: path.into(), first: first.into() }
}
