//! The packs of a store that are open for reading, and their decoded blocks.
//! store > pack > **block** > chunk or node.

use std::fs::File;
use std::io::ErrorKind;
use std::ops::{Deref, Range};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::shelf::Shelf;
use crate::compress::Codec;
use crate::error::{Error, Result};
use crate::id::{Id, Keys};
use crate::lock::lock;
use crate::pack::{self, Kind, Pack, MAX_BLOCKS, MAX_BLOCK_PLAIN};
use crate::seal::Sealer;

/// Packs kept open.
const MAX_OPEN: usize = 128;
/// Weights of the shelf of open packs are such that at most `MAX_OPEN` are held, fewer when they have very many blocks.
const OPEN_WEIGHT: usize = MAX_BLOCKS / 8;
/// Buffers of dropped blocks kept for the next ones: fresh memory costs a page fault every 4 KiB.
const SPARE_BUFFERS: usize = 8;
/// Buffers of blocks have multiples of this many bytes, so that most are alike: odd sizes leave gaps in the heap.
const GRAIN: usize = 64 << 10;
/// Blocks of nodes may take one part in so many of what is for all.
const NODES_SHARE: usize = 4;
const MAX_SPARE_LEN: usize = 2 << 20;

pub(crate) type PackName = (Kind, Id);

/// A pack that is open, without the ids of what it holds.
struct OpenPack {
    file: File,
    pack: Pack,
    sealer: Option<Sealer>,
}

/// The plaintext of a block, or the beginning of it. Its memory is used again for another.
pub(crate) struct Block {
    plain: Vec<u8>,
    /// Of the whole block.
    plain_len: usize,
    spare: Arc<Spare<Vec<u8>>>,
}

impl Drop for Block {
    fn drop(&mut self) {
        if self.plain.capacity() <= MAX_SPARE_LEN {
            self.spare.put(std::mem::take(&mut self.plain));
        }
    }
}

/// Part of a decoded block: what a chunk or node holds. Keeps the block in memory.
#[derive(Clone)]
pub struct Slice {
    block: Arc<Block>,
    range: Range<usize>,
}

impl Slice {
    pub(crate) fn new(block: Arc<Block>, range: Range<usize>) -> Option<Slice> {
        (range.start <= range.end && range.end <= block.plain.len()).then_some(Slice { block, range })
    }

    /// Bytes that are in no block.
    pub(crate) fn of(bytes: &[u8]) -> Slice {
        let spare = Arc::new(Spare::new(0));
        let block = Block { plain: bytes.to_vec(), plain_len: bytes.len(), spare };
        Slice { range: 0..bytes.len(), block: Arc::new(block) }
    }

    /// Bytes that it keeps in memory beside what `other` does.
    pub(crate) fn keeps_beside(&self, other: Option<&Slice>) -> usize {
        match other {
            Some(other) if Arc::ptr_eq(&self.block, &other.block) => 0,
            _ => self.block.plain.len(),
        }
    }

    /// The part `within` (which must lie in it) of this slice.
    pub fn part(&self, within: Range<usize>) -> Slice {
        assert!(within.start <= within.end && within.end <= self.range.len());
        let start = self.range.start;
        Slice { block: self.block.clone(), range: start + within.start..start + within.end }
    }
}

impl Deref for Slice {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.block.plain[self.range.clone()]
    }
}

/// A few things that are costly to make, waiting to be used again.
pub(crate) struct Spare<T> {
    things: Mutex<Vec<T>>,
    max: usize,
}

impl<T> Spare<T> {
    fn new(max: usize) -> Spare<T> {
        Spare { things: Mutex::new(Vec::new()), max }
    }

    fn take_if(&self, fits: impl Fn(&T) -> bool) -> Option<T> {
        let mut things = lock(&self.things);
        let at = things.iter().position(fits)?;
        Some(things.swap_remove(at))
    }

    fn put(&self, thing: T) {
        let mut things = lock(&self.things);
        if things.len() < self.max {
            things.push(thing);
        }
    }
}

/// What decoding a block takes: a codec, and the stored bytes.
struct Scratch {
    codec: Codec,
    stored: Vec<u8>,
}

/// Opens packs and decodes their blocks, keeping the most recently used of both.
pub(crate) struct Packs {
    store: PathBuf,
    keys: Arc<Keys>,
    open: Shelf<PackName, Arc<OpenPack>>,
    blocks: Shelf<(PackName, u32), Arc<Block>>,
    /// Those of nodes: whoever walks a large tree reads each once, and must not drive out the others.
    node_blocks: Shelf<(PackName, u32), Arc<Block>>,
    spare: Arc<Spare<Vec<u8>>>,
    scratch: Spare<Scratch>,
}

impl Packs {
    /// `cache_bytes` bounds the decoded blocks that are kept.
    pub(crate) fn new(store: &Path, keys: Arc<Keys>, cache_bytes: usize) -> Packs {
        Packs {
            store: store.to_path_buf(),
            keys,
            open: Shelf::new(MAX_OPEN * OPEN_WEIGHT),
            blocks: Shelf::new(cache_bytes - cache_bytes / NODES_SHARE),
            node_blocks: Shelf::new(cache_bytes / NODES_SHARE),
            spare: Arc::new(Spare::new(SPARE_BUFFERS)),
            scratch: Spare::new(64),
        }
    }

    /// A pack's header and footer, read anew.
    pub(crate) fn read_table(&self, name: &PackName) -> Result<Pack> {
        let file = open_file(&self.store, name)?;
        Pack::open(&file, &self.keys, name.0, name.1)
    }

    /// Opens a pack if it is not open, and checks header and footer.
    pub(crate) fn check_open(&self, name: &PackName) -> Result<()> {
        self.open(name).map(drop)
    }

    fn open(&self, name: &PackName) -> Result<Arc<OpenPack>> {
        self.open.get(*name, || {
            let file = open_file(&self.store, name)?;
            let mut pack = Pack::open(&file, &self.keys, name.0, name.1)?;
            // Locations say what these would, and every chunk is checked by its id.
            (pack.table.ids, pack.table.lens) = (Vec::new(), Vec::new());
            pack.table.blocks.shrink_to_fit();
            let weight = OPEN_WEIGHT.max(pack.table.blocks.len());
            let sealer = pack.header.sealer(&self.keys)?;
            Ok((Arc::new(OpenPack { file, pack, sealer }), weight))
        })
    }

    /// The decoded block `number` of pack `name`: at least its first `needed` bytes, or all of it when it is shorter. Its
    /// checksum was checked when it was read, the ids in it were not.
    pub(crate) fn block(&self, name: &PackName, number: u32, needed: usize) -> Result<Arc<Block>> {
        let reaches = |block: &Arc<Block>| block.plain.len() >= needed.min(block.plain_len);
        let shelf = match name.0 {
            Kind::Meta => &self.node_blocks,
            Kind::Data => &self.blocks,
        };
        shelf.get_if((*name, number), reaches, |known| {
            let open = self.open(name)?;
            // Asked again, a block is read from end to end by somebody.
            let needed = if known { usize::MAX } else { needed };
            let block = self.decode(&open, name, number, needed)?;
            let weight = block.plain.capacity() + 256;
            Ok((Arc::new(block), weight))
        })
    }

    /// Decodes a block of an open pack, if there is one of that number.
    pub(crate) fn warm(&self, name: &PackName, number: u32) -> Result<()> {
        if (number as usize) < self.open(name)?.pack.table.blocks.len() {
            self.block(name, number, usize::MAX)?;
        }
        Ok(())
    }

    /// Forgets a pack, so that it is opened anew.
    pub(crate) fn forget(&self, name: &PackName) {
        self.open.remove(*name);
    }

    fn decode(&self, open: &OpenPack, name: &PackName, number: u32, needed: usize) -> Result<Block> {
        let what = || pack::name(name.0, &name.1);
        let place = open.pack.table.blocks.get(number as usize);
        let place = place.ok_or_else(|| Error::Damaged(format!("damaged pack {}: no block {number}", what())))?;
        let plain_len = place.plain_len as usize;
        if plain_len > MAX_BLOCK_PLAIN {
            return Err(Error::Damaged(format!("damaged pack {}: block {number} is too long", what())));
        }
        let fits = |b: &Vec<u8>| (plain_len..=plain_len * 2 + GRAIN).contains(&b.capacity());
        let mut plain =
            self.spare.take_if(fits).unwrap_or_else(|| Vec::with_capacity(plain_len.next_multiple_of(GRAIN)));
        let mut scratch = match self.scratch.take_if(|_| true) {
            Some(scratch) => scratch,
            None => Scratch { codec: Codec::new(0)?, stored: Vec::new() },
        };
        let done = read_block(open, &what(), number, needed, &mut scratch, &mut plain);
        if scratch.stored.capacity() > MAX_SPARE_LEN {
            scratch.stored = Vec::new();
        }
        self.scratch.put(scratch);
        let block = Block { plain, plain_len, spare: self.spare.clone() };
        done.map(|()| block)
    }
}

fn read_block(
    open: &OpenPack,
    what: &str,
    number: u32,
    needed: usize,
    scratch: &mut Scratch,
    plain: &mut Vec<u8>,
) -> Result<()> {
    let place = open.pack.table.blocks[number as usize];
    let Scratch { codec, stored } = scratch;
    let len = place.stored_len as usize;
    if stored.len() < len {
        stored.resize(len, 0);
    }
    open.file.read_exact_at(&mut stored[..len], place.offset).map_err(|e| match e.kind() {
        ErrorKind::UnexpectedEof => Error::Damaged(format!("damaged pack {what}: it is cut off")),
        _ => Error::io("read", format!("pack {what}"), &e),
    })?;
    open.pack.decode_block(open.sealer.as_ref(), number as usize, &mut stored[..len], needed, codec, plain)
}

/// Opens a pack's file. That it is missing is damage; that it cannot be read is not.
pub(crate) fn open_file(store: &Path, name: &PackName) -> Result<File> {
    let path = pack::path(store, name.0, &name.1);
    let mut options = File::options();
    options.read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    options.open(path).map_err(|e| match e.kind() {
        ErrorKind::NotFound => Error::Damaged(format!("pack {} is missing", pack::name(name.0, &name.1))),
        _ => Error::io("open", format!("pack {}", pack::name(name.0, &name.1)), &e),
    })
}
