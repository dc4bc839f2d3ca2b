//! The write side of a session: new chunks and nodes into blocks, blocks into packs, packs durable under their names.
//! tree > chunk or node > **block > pack** > store.
//!
//! Each worker owns a `Lane` (its arena, open blocks and codec), so that bytes stay in one core's cache from reading to
//! compression; what the lanes share is the set of ids claimed in this session, and the open packs.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::Write;
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;

use rustix::fs::{flock, FlockOperation};

use crate::compress::{Codec, RAW};
use crate::error::{show_path, Error, Result};
use crate::id::{random_bytes, Id, Keys};
use crate::index::Index;
use crate::lock::lock;
use crate::pack::{self, Builder, Kind};
use crate::progress::{add, Progress};
use crate::seal::Coded;

/// Parameters of a writing session.
#[derive(Clone, Debug)]
pub struct Settings {
    pub session: [u8; 16],
    pub block_bytes: usize,
    pub meta_block_bytes: usize,
    pub data_pack_bytes: u64,
    pub meta_pack_bytes: u64,
    /// zstd level; 0 for none.
    pub level: i32,
    /// Ids of this session held in memory; above it, those of finished packs are left to the index.
    pub claimed_max: usize,
    /// The index knows nothing, so it need not be asked.
    pub index_empty: bool,
    /// Everything but writing.
    pub dry_run: bool,
    /// In a dry run, nodes are kept in memory, to be read.
    pub keep_nodes: bool,
}

/// Which open block a chunk goes into: content of small and of large files, and nodes, never share a block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    Small = 0,
    Large = 1,
    Meta = 2,
}

const CLASSES: [Class; 3] = [Class::Small, Class::Large, Class::Meta];

impl Class {
    fn kind(self) -> Kind {
        match self {
            Class::Meta => Kind::Meta,
            _ => Kind::Data,
        }
    }
}

/// An arena is settled when it holds this much, or this many chunks.
const ARENA_BYTES: usize = 4 << 20;
const ARENA_CHUNKS: usize = 1024;
const SHARDS: usize = 64;
const DATA_SLOTS: usize = 4;
/// Among so many open packs the next one is chosen by chance in a sealed store.
const SEALED_SLOTS: usize = 2;
/// Ids that a dry run holds (130 MB); beyond, what it counts as new is an upper bound.
const DRY_MAX: usize = 2_000_000;
/// A good `claimed_max`: 9 MB, and the shards do not double.
pub const CLAIMED_MAX: usize = 200_000;
/// Packs being made durable at once; further ones wait.
const FINISHING_MAX: usize = 4;
/// Written bytes after which the kernel is asked to begin writing back.
const WRITE_BEHIND: u64 = 8 << 20;

/// Nodes in memory.
pub type Nodes = HashMap<Id, Box<[u8]>>;

/// A durable pack: its kind, id and size.
pub type Durable = (Kind, Id, u64);

/// What a finished session wrote.
#[derive(Clone, Debug, Default)]
pub struct Written {
    pub packs: Vec<Durable>,
    pub new_bytes: u64,
    pub new_chunks: u64,
    pub new_nodes: u64,
    pub stored_bytes: u64,
}

/// The shared part of a writing session.
pub struct Packer {
    store: PathBuf,
    pub keys: Arc<Keys>,
    index: Arc<dyn Index>,
    settings: Settings,
    pub progress: Arc<Progress>,
    claimed: Vec<Mutex<HashSet<Id>>>,
    claimed_count: AtomicUsize,
    ask: AtomicBool,
    data: Vec<Mutex<Option<OpenPack>>>,
    meta: Vec<Mutex<Option<OpenPack>>>,
    finishing: Mutex<Vec<Finishing>>,
    written: Mutex<Written>,
    used: Mutex<HashSet<u32>>,
    kept: Mutex<Nodes>,
    temporary: AtomicU64,
}

/// A pack that is being made durable, and those of its ids that are left to the index afterwards.
struct Finishing {
    thread: JoinHandle<Result<Durable>>,
    forgotten: Vec<Id>,
}

struct OpenPack {
    builder: Builder,
    file: File,
    path: PathBuf,
    unsynced: u64,
}

impl Packer {
    pub fn new(
        store: &Path,
        keys: Arc<Keys>,
        index: Arc<dyn Index>,
        settings: Settings,
        progress: Arc<Progress>,
    ) -> Packer {
        let slots = |n: usize| (0..n).map(|_| Mutex::new(None)).collect();
        Packer {
            store: store.to_path_buf(),
            keys,
            index,
            ask: AtomicBool::new(!settings.index_empty),
            settings,
            progress,
            claimed: (0..SHARDS).map(|_| Mutex::new(HashSet::new())).collect(),
            claimed_count: AtomicUsize::new(0),
            data: slots(DATA_SLOTS),
            meta: slots(1),
            finishing: Mutex::new(Vec::new()),
            written: Mutex::new(Written::default()),
            used: Mutex::new(HashSet::new()),
            kept: Mutex::default(),
            temporary: AtomicU64::new(0),
        }
    }

    pub fn lane(&self) -> Result<Lane> {
        Lane::new(&self.settings)
    }

    /// Numbers of the packs whose chunks were found to exist, since the last call.
    pub fn take_used(&self) -> Vec<u32> {
        let mut used: Vec<u32> = lock(&self.used).drain().collect();
        used.sort_unstable();
        used
    }

    fn shard(&self, id: &Id) -> MutexGuard<'_, HashSet<Id>> {
        lock(&self.claimed[id.0[8] as usize % SHARDS])
    }

    /// True when this caller is the first of the session to store `id`.
    fn claim(&self, id: &Id) -> bool {
        if self.settings.dry_run && self.claimed_count.load(Relaxed) > DRY_MAX {
            // Nothing is ever left to the index: what comes later counts as new each time.
            return !self.shard(id).contains(id);
        }
        let first = self.shard(id).insert(*id);
        if first {
            self.claimed_count.fetch_add(1, Relaxed);
        }
        first
    }

    /// Positions in `ids` of those that the store does not have and that the caller has to store. A chunk may be stored twice
    /// when its claim is left to the index at this very moment: that costs its space, nothing else.
    fn missing(&self, ids: &[Id]) -> Result<Vec<usize>> {
        if !self.ask.load(Relaxed) {
            return Ok((0..ids.len()).filter(|at| self.claim(&ids[*at])).collect());
        }
        let unknown: Vec<usize> = (0..ids.len()).filter(|at| !self.shard(&ids[*at]).contains(&ids[*at])).collect();
        if unknown.is_empty() {
            return Ok(Vec::new());
        }
        let asked: Vec<Id> = unknown.iter().map(|at| ids[*at]).collect();
        let found = self.index.locate(&asked)?;
        let mut used = HashSet::new();
        let mut missing = Vec::new();
        for (at, location) in unknown.into_iter().zip(found) {
            match location {
                Some(location) => {
                    used.insert(location.pack);
                }
                None if self.claim(&ids[at]) => missing.push(at),
                None => {}
            }
        }
        if !used.is_empty() {
            lock(&self.used).extend(used);
        }
        Ok(missing)
    }

    fn write_block(&self, kind: Kind, coded: Coded, chunks: &[(Id, u32)]) -> Result<()> {
        let (slots, target) = match kind {
            Kind::Data => (&self.data, self.settings.data_pack_bytes),
            Kind::Meta => (&self.meta, self.settings.meta_pack_bytes),
        };
        // The first free slot: one pack while there is little to do, several when workers would wait for each other.
        let first = if self.keys.sealed() { any_of(SEALED_SLOTS.min(slots.len()))? } else { 0 };
        let mut free = (0..slots.len()).filter_map(|at| slots[(first + at) % slots.len()].try_lock().ok());
        let mut slot = match free.next() {
            Some(slot) => slot,
            None => lock(&slots[chunks.len() % slots.len()]),
        };
        if slot.as_ref().is_some_and(|open| open.builder.is_full_for(coded.bytes.len(), chunks.len())) {
            self.close(slot.take())?;
        }
        if slot.is_none() {
            *slot = Some(self.open_pack(kind)?);
        }
        let open = slot.as_mut().expect("just filled");
        let written = open.write_block(coded, chunks)?;
        add(&self.progress.stored_bytes, written);
        if open.builder.len() >= target {
            let full = slot.take();
            drop(slot);
            self.close(full)?;
        }
        Ok(())
    }

    fn open_pack(&self, kind: Kind) -> Result<OpenPack> {
        let session: String = self.settings.session.iter().map(|b| format!("{b:02x}")).collect();
        let number = self.temporary.fetch_add(1, Relaxed);
        let path = self.store.join("tmp").join(format!("pack-{session}-{number}"));
        let failed = |e: std::io::Error| Error::io("create", show_path(&path), &e);
        let mut file =
            File::options().read(true).write(true).create_new(true).mode(0o400).open(&path).map_err(failed)?;
        flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|e| failed(e.into()))?;
        let (builder, header) = Builder::new(&self.keys, kind, self.settings.session, random_bytes()?)?;
        file.write_all(&header).map_err(failed)?;
        Ok(OpenPack { builder, file, path, unsynced: 0 })
    }

    /// Makes a pack durable and publishes it, on a thread of its own.
    fn close(&self, open: Option<OpenPack>) -> Result<()> {
        let Some(open) = open else { return Ok(()) };
        let (store, index) = (self.store.clone(), self.index.clone());
        let oldest = {
            let mut finishing = lock(&self.finishing);
            (finishing.len() >= FINISHING_MAX).then(|| finishing.remove(0))
        };
        if let Some(oldest) = oldest {
            self.join(oldest)?;
        }
        let forget = self.claimed_count.load(Relaxed) > self.settings.claimed_max;
        let forgotten = if forget { open.builder.ids() } else { Vec::new() };
        let thread = std::thread::Builder::new()
            .name("snap-pack".into())
            .spawn(move || publish(open, &store, index.as_ref()))
            .map_err(|e| Error::Internal(format!("cannot start a thread: {e}")))?;
        lock(&self.finishing).push(Finishing { thread, forgotten });
        Ok(())
    }

    /// Waits until a pack is durable and the index knows it.
    fn join(&self, finishing: Finishing) -> Result<()> {
        let thread = finishing.thread;
        let pack = thread.join().map_err(|_| Error::Internal("a pack thread panicked".into()))??;
        if !finishing.forgotten.is_empty() {
            self.ask.store(true, Relaxed);
        }
        for id in &finishing.forgotten {
            if self.shard(id).remove(id) {
                self.claimed_count.fetch_sub(1, Relaxed);
            }
        }
        let mut written = lock(&self.written);
        written.stored_bytes += pack.2;
        written.packs.push(pack);
        Ok(())
    }

    /// Closes everything that the lanes and this packer hold open, and waits until it is durable.
    pub fn finish(&self, lanes: Vec<Lane>) -> Result<Written> {
        self.flush(lanes)?;
        for slot in self.data.iter().chain(&self.meta) {
            let open = lock(slot).take();
            self.close(open)?;
        }
        loop {
            let Some(finishing) = lock(&self.finishing).pop() else { break };
            self.join(finishing)?;
        }
        Ok(lock(&self.written).clone())
    }

    /// Merges the lanes' open blocks, so that a small session writes few blocks.
    fn flush(&self, lanes: Vec<Lane>) -> Result<()> {
        let mut lanes = lanes.into_iter();
        let Some(mut first) = lanes.next() else { return Ok(()) };
        first.settle(self)?;
        for mut lane in lanes {
            lane.settle(self)?;
            for class in CLASSES {
                let block = std::mem::take(&mut lane.open[class as usize]);
                let mut start = 0;
                for (id, len) in &block.chunks {
                    first.put(self, class, *id, &block.plain[start..start + *len as usize])?;
                    start += *len as usize;
                }
            }
        }
        for class in CLASSES {
            first.end_block(self, class)?;
        }
        Ok(())
    }

    fn keep(&self, class: Class, id: Id, bytes: &[u8]) {
        if self.settings.keep_nodes && class == Class::Meta {
            lock(&self.kept).insert(id, bytes.into());
        }
    }

    /// The nodes that a dry run made and the store does not have. They are kept no longer.
    pub fn take_nodes(&self) -> Nodes {
        std::mem::take(&mut lock(&self.kept))
    }

    /// Drops what is not published.
    pub fn abort(&self) {
        for slot in self.data.iter().chain(&self.meta) {
            if let Some(open) = lock(slot).take() {
                // Nothing can be done about a file that stays: a later writer removes it.
                let _ = std::fs::remove_file(&open.path);
            }
        }
        for finishing in lock(&self.finishing).drain(..) {
            let _ = finishing.thread.join();
        }
    }

    fn count_new(&self, class: Class, len: usize) {
        let mut written = lock(&self.written);
        match class {
            Class::Meta => written.new_nodes += 1,
            _ => {
                written.new_chunks += 1;
                written.new_bytes += len as u64;
                add(&self.progress.new_bytes, len as u64);
            }
        }
    }
}

impl OpenPack {
    fn write_block(&mut self, coded: Coded, chunks: &[(Id, u32)]) -> Result<u64> {
        let (file, path) = (&mut self.file, &self.path);
        let mut write = |part: &[u8]| file.write_all(part).map_err(|e| Error::io("write", show_path(path), &e));
        let len = self.builder.block(coded, chunks, &mut write)?;
        self.unsynced += len;
        if self.unsynced >= WRITE_BEHIND {
            self.unsynced = 0;
            use std::os::fd::AsRawFd;
            // SAFETY: a call on our own descriptor. A hint only: its failure changes nothing.
            unsafe { libc::sync_file_range(self.file.as_raw_fd(), 0, 0, libc::SYNC_FILE_RANGE_WRITE) };
        }
        Ok(len)
    }
}

/// A number below `many`, by chance: that a block stands behind another one then does not tell that their content does.
fn any_of(many: usize) -> Result<usize> {
    Ok(random_bytes::<1>()?[0] as usize % many)
}

/// Footer, fsync, link, fsync of the directory; then the index may know. Never retried: a failed fsync loses the pack.
fn publish(open: OpenPack, store: &Path, index: &dyn Index) -> Result<Durable> {
    let OpenPack { builder, mut file, path, .. } = open;
    let result = (|| {
        let mut end = Vec::new();
        let (id, pack) = builder.finish(&mut end)?;
        let failed = |what: &'static str, e: std::io::Error| Error::io(what, show_path(&path), &e);
        file.write_all(&end).map_err(|e| failed("write", e))?;
        file.sync_data().map_err(|e| failed("make durable", e))?;
        let kind = pack.header.kind;
        link_new(&path, &pack::path(store, kind, &id))?;
        Ok(pack)
    })();
    let _ = std::fs::remove_file(&path);
    let pack: pack::Pack = result?;
    let answer = (pack.header.kind, pack.id, pack.size);
    index.add_pack(pack)?;
    Ok(answer)
}

/// Gives the durable file `from` its name `to`, durably; a directory is made where it is missing.
fn link_new(from: &Path, to: &Path) -> Result<()> {
    let folder = to.parent().ok_or_else(|| Error::Internal("a pack's name has a directory".into()))?;
    match std::fs::create_dir(folder) {
        Ok(()) => sync_directory(folder.parent().unwrap_or(folder))?,
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(e) => return Err(Error::io("create", show_path(folder), &e)),
    }
    let linked = match std::fs::hard_link(from, to) {
        Err(e)
            if matches!(
                e.raw_os_error(),
                Some(libc::EPERM | libc::EACCES | libc::ENOSYS | libc::EOPNOTSUPP | libc::EMLINK)
            ) =>
        {
            use rustix::fs::{renameat_with, RenameFlags, CWD};
            renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE).map_err(std::io::Error::from)
        }
        other => other,
    };
    match linked {
        Ok(()) => {}
        // The same pack, bit for bit: its name is its hash.
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(e) => return Err(Error::io("publish", show_path(to), &e)),
    }
    sync_directory(folder)
}

fn sync_directory(path: &Path) -> Result<()> {
    let failed = |e: std::io::Error| Error::io("make durable", show_path(path), &e);
    File::open(path).map_err(failed)?.sync_all().map_err(failed)
}

#[derive(Default)]
struct Block {
    plain: Vec<u8>,
    chunks: Vec<(Id, u32)>,
}

/// One worker's share of the session.
pub struct Lane {
    codec: Codec,
    coded: Vec<u8>,
    decoded: Vec<u8>,
    open: [Block; 3],
    targets: [usize; 3],
    dry_run: bool,
    /// Bytes read and not yet settled; files are read straight into it.
    pub arena: Vec<u8>,
    offered: Vec<(Class, Id, Range<usize>)>,
    /// Which worker of a crew it belongs to.
    pub worker: usize,
}

impl Lane {
    fn new(settings: &Settings) -> Result<Lane> {
        Ok(Lane {
            codec: Codec::new(settings.level)?,
            coded: Vec::new(),
            decoded: Vec::new(),
            open: Default::default(),
            targets: [settings.block_bytes, settings.block_bytes, settings.meta_block_bytes],
            dry_run: settings.dry_run,
            arena: Vec::new(),
            offered: Vec::new(),
            worker: 0,
        })
    }

    /// Says that `arena[range]` is the chunk or node `id`.
    pub fn offer(&mut self, class: Class, id: Id, range: Range<usize>) {
        self.offered.push((class, id, range));
    }

    /// Offers a node; the answer is its id.
    pub fn offer_node(&mut self, packer: &Packer, node: &[u8]) -> Result<Id> {
        let id = packer.keys.node_id(node);
        let start = self.arena.len();
        self.arena.extend_from_slice(node);
        self.offer(Class::Meta, id, start..self.arena.len());
        self.settle_if_full(packer)?;
        Ok(id)
    }

    pub fn settle_if_full(&mut self, packer: &Packer) -> Result<()> {
        if self.arena.len() >= ARENA_BYTES || self.offered.len() >= ARENA_CHUNKS {
            self.settle(packer)?;
        }
        Ok(())
    }

    /// Stores what was offered and is new, and empties the arena.
    pub fn settle(&mut self, packer: &Packer) -> Result<()> {
        let mut arena = std::mem::take(&mut self.arena);
        let offered = std::mem::take(&mut self.offered);
        let ids: Vec<Id> = offered.iter().map(|(_, id, _)| *id).collect();
        for at in packer.missing(&ids)? {
            let (class, id, range) = &offered[at];
            packer.count_new(*class, range.len());
            self.put(packer, *class, *id, &arena[range.clone()])?;
        }
        arena.clear();
        // One huge node or file must not keep its memory.
        arena.shrink_to(ARENA_BYTES * 3);
        self.arena = arena;
        Ok(())
    }

    /// Stores those of `chunks` of `data` that are new, past the arena.
    pub fn store(&mut self, packer: &Packer, class: Class, data: &[u8], chunks: &[(Id, Range<usize>)]) -> Result<()> {
        let ids: Vec<Id> = chunks.iter().map(|(id, _)| *id).collect();
        for at in packer.missing(&ids)? {
            packer.count_new(class, chunks[at].1.len());
            self.put(packer, class, ids[at], &data[chunks[at].1.clone()])?;
        }
        Ok(())
    }

    fn put(&mut self, packer: &Packer, class: Class, id: Id, bytes: &[u8]) -> Result<()> {
        if self.dry_run {
            packer.keep(class, id, bytes);
            return Ok(());
        }
        let target = self.targets[class as usize];
        let open = &self.open[class as usize];
        if !open.chunks.is_empty() && open.plain.len() + bytes.len() > target {
            self.end_block(packer, class)?;
        }
        let open = &mut self.open[class as usize];
        open.plain.extend_from_slice(bytes);
        open.chunks.push((id, bytes.len() as u32));
        if open.plain.len() >= target {
            self.end_block(packer, class)?;
        }
        Ok(())
    }

    /// Compresses the open block, decodes it again, and hands it to a pack.
    fn end_block(&mut self, packer: &Packer, class: Class) -> Result<()> {
        let mut block = std::mem::take(&mut self.open[class as usize]);
        if block.chunks.is_empty() {
            return Ok(());
        }
        packer.progress.check()?;
        let (codec, coded) = self.codec.encode(&block.plain, &mut self.coded)?;
        let decoded = match codec {
            RAW => coded,
            _ => {
                self.codec.decode(codec, coded, block.plain.len(), &mut self.decoded, "block just made")?;
                &self.decoded
            }
        };
        verify(packer, class, decoded, &block.chunks)?;
        let coded = Coded { codec, plain_len: block.plain.len(), bytes: coded };
        packer.write_block(class.kind(), coded, &block.chunks)?;
        block.plain.clear();
        block.chunks.clear();
        block.plain.shrink_to(self.targets[class as usize] * 2);
        self.open[class as usize] = block;
        Ok(())
    }
}

/// What will be read back must be what was taken: finds faulty memory and encoders before anything relies on them.
fn verify(packer: &Packer, class: Class, decoded: &[u8], chunks: &[(Id, u32)]) -> Result<()> {
    let mut start = 0;
    for (id, len) in chunks {
        let bytes = &decoded[start..start + *len as usize];
        let found = match class {
            Class::Meta => packer.keys.node_id(bytes),
            _ => packer.keys.chunk_id(bytes),
        };
        if found != *id {
            return Err(Error::Internal(format!(
                "chunk {id} changed between reading and writing: the memory of this machine may be faulty; nothing was \
                 committed"
            )));
        }
        start += *len as usize;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{noise, settings, MapIndex};

    #[test]
    fn nothing_is_stored_twice_when_claims_are_left_to_the_index() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["tmp", "data", "meta"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        let settings = Settings {
            block_bytes: 16 << 10,
            data_pack_bytes: 64 << 10,
            claimed_max: 100,
            dry_run: false,
            keep_nodes: false,
            ..settings()
        };
        let (keys, index) = (Arc::new(Keys::plain([1; 16])), Arc::new(MapIndex::default()));
        let packer = Packer::new(dir.path(), keys.clone(), index.clone(), settings, Arc::default());
        let mut lane = packer.lane().unwrap();
        for round in 0..2 {
            for n in 0..1000 {
                let data = noise(n, 1000);
                let start = lane.arena.len();
                lane.arena.extend_from_slice(&data);
                lane.offer(Class::Small, keys.chunk_id(&data), start..start + data.len());
                if n % 50 == 49 {
                    lane.settle(&packer).unwrap();
                }
            }
            let held = packer.claimed_count.load(Relaxed);
            assert!(held < 600, "{held} ids are held in round {round}");
        }
        let written = packer.finish(vec![lane]).unwrap();
        assert_eq!(written.new_chunks, 1000);
        assert!(written.packs.len() > 10);
        assert_eq!(index.places.lock().unwrap().len(), 1000);
    }
}
