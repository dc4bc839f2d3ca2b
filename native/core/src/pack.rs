//! The bytes of a pack: header, blocks, footer, trailer (docs/format/pack.md).
//! store > data/, meta/ > **pack** > block > chunk or node.

use std::path::{Path, PathBuf};

use crate::bytes::{put_varint, Cursor};
use crate::compress::{Codec, ZSTD};
use crate::error::{Error, Result};
use crate::id::{checksum, Family, Id, Keys, Salt, ID_LEN};
use crate::seal::{sealed_len, Coded, Sealer};

pub const HEADER_LEN: usize = 96;
pub const BLOCK_HEAD_LEN: usize = 24;
/// Header and checksum of a block: what it takes beyond its body.
pub const BLOCK_FRAME_LEN: usize = BLOCK_HEAD_LEN + 8;
pub const TRAILER_LEN: usize = 32;
pub const MAX_PACK_LEN: u64 = 128 << 20;
pub const MAX_BLOCKS: usize = 65_535;
pub const MAX_CHUNKS: usize = 262_144;
pub const MAX_BLOCK_PLAIN: usize = 8 << 20;
pub const MAX_CHUNK_LEN: u64 = 4 << 20;
const MAX_FOOTER_PLAIN: usize = 16 << 20;
const MAGIC: &[u8; 8] = b"SNAPPACK";
const BLOCK_MAGIC: &[u8; 4] = b"SNBK";
const TRAILER_MAGIC: &[u8; 8] = b"SNAPTAIL";
const VERSION: u8 = 1;
const FOOTER: u8 = 3;

/// What a pack holds.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
#[repr(u8)]
pub enum Kind {
    Data = 1,
    Meta = 2,
}

impl Kind {
    pub fn from_byte(byte: u8) -> Result<Kind> {
        match byte {
            1 => Ok(Kind::Data),
            2 => Ok(Kind::Meta),
            _ => Err(Error::Damaged(format!("unknown kind of pack {byte}"))),
        }
    }

    pub fn dir(self) -> &'static str {
        match self {
            Kind::Data => "data",
            Kind::Meta => "meta",
        }
    }
}

/// A pack's name in the store, for messages and paths.
pub fn name(kind: Kind, id: &Id) -> String {
    let hex = id.hex();
    format!("{}/{}/{}", kind.dir(), &hex[..2], hex)
}

pub fn path(store: &Path, kind: Kind, id: &Id) -> PathBuf {
    store.join(name(kind, id))
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    pub kind: Kind,
    pub epoch: u32,
    pub family: Family,
    pub salt: Salt,
    pub session: [u8; 16],
}

impl Header {
    pub fn sealed(&self) -> bool {
        self.epoch != 0
    }

    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut out = [0; HEADER_LEN];
        out[..8].copy_from_slice(MAGIC);
        out[8] = VERSION;
        out[9] = self.kind as u8;
        out[10] = self.sealed() as u8;
        out[12..16].copy_from_slice(&self.epoch.to_le_bytes());
        out[16..32].copy_from_slice(&self.family);
        out[32..64].copy_from_slice(&self.salt);
        out[64..80].copy_from_slice(&self.session);
        let sum = checksum(&out[..88]);
        out[88..].copy_from_slice(&sum.to_le_bytes());
        out
    }

    /// Checks everything that a header says, the family and the sealing against `keys` included.
    pub fn decode(bytes: &[u8; HEADER_LEN], keys: &Keys, what: &str) -> Result<Header> {
        let bad = |why: &str| Error::Damaged(format!("damaged pack {what}: {why}"));
        if &bytes[..8] != MAGIC {
            return Err(bad("not a pack"));
        }
        if bytes[8] > VERSION {
            return Err(Error::TooNew(format!(
                "pack {what} has format version {}, which needs a newer snapstore",
                bytes[8]
            )));
        }
        if checksum(&bytes[..88]).to_le_bytes() != bytes[88..] {
            return Err(bad("the checksum of its header is wrong"));
        }
        let epoch = u32::from_le_bytes(bytes[12..16].try_into().expect("4 bytes"));
        let header = Header {
            kind: Kind::from_byte(bytes[9])?,
            epoch,
            family: bytes[16..32].try_into().expect("16 bytes"),
            salt: bytes[32..64].try_into().expect("32 bytes"),
            session: bytes[64..80].try_into().expect("16 bytes"),
        };
        if bytes[8] != VERSION || bytes[10] != (epoch != 0) as u8 || bytes[11] != 0 || bytes[80..88] != [0; 8] {
            return Err(bad("its header is wrong"));
        }
        if !header.sealed() && header.salt != [0; 32] {
            return Err(bad("its header is wrong"));
        }
        if header.family != keys.family {
            return Err(bad("it belongs to another family of stores"));
        }
        if header.sealed() != keys.sealed() {
            return Err(bad("it is sealed and the store is not, or the other way round"));
        }
        Ok(header)
    }

    pub fn sealer(&self, keys: &Keys) -> Result<Option<Sealer>> {
        if !self.sealed() {
            return Ok(None);
        }
        Ok(Some(Sealer::new(&keys.pack_keys(self.epoch, &self.salt)?)))
    }
}

fn block_head(
    number: u32,
    kind: u8,
    codec: u8,
    sealed: bool,
    body_len: usize,
    plain_len: usize,
) -> [u8; BLOCK_HEAD_LEN] {
    let mut head = [0; BLOCK_HEAD_LEN];
    head[..4].copy_from_slice(BLOCK_MAGIC);
    head[4..8].copy_from_slice(&number.to_le_bytes());
    head[8..12].copy_from_slice(&[kind, codec, sealed as u8, 0]);
    head[12..16].copy_from_slice(&(body_len as u32).to_le_bytes());
    head[16..20].copy_from_slice(&(plain_len as u32).to_le_bytes());
    head
}

/// Takes the parts of a block's bytes, in order.
pub type Sink<'a> = dyn FnMut(&[u8]) -> Result<()> + 'a;

/// Seals blocks under a pack's key, in buffers that are used again.
struct Sealing {
    sealer: Sealer,
    sealed: Vec<u8>,
    opened: Vec<u8>,
}

impl Sealing {
    fn new(sealer: Sealer) -> Sealing {
        Sealing { sealer, sealed: Vec::new(), opened: Vec::new() }
    }

    /// The body of a block, opened once again before anything relies on it.
    fn seal(&mut self, head: &[u8], coded: Coded) -> Result<&[u8]> {
        self.sealed.clear();
        self.sealer.seal(head, coded, &mut self.sealed)?;
        self.opened.clone_from(&self.sealed);
        if self.sealer.open(head, &mut self.opened, "block just sealed")? != coded {
            return Err(Error::Internal(
                "a block did not survive sealing: the memory of this machine may be faulty".into(),
            ));
        }
        Ok(&self.sealed)
    }
}

/// Gives a whole block to `sink`; the answer is its length.
fn put_block(sealing: Option<&mut Sealing>, number: u32, kind: u8, coded: Coded, sink: &mut Sink) -> Result<u32> {
    let (head, body) = match sealing {
        None => (block_head(number, kind, coded.codec, false, coded.bytes.len(), coded.plain_len), coded.bytes),
        Some(sealing) => {
            let head = block_head(number, kind, 0, true, sealed_len(coded.bytes.len()), 0);
            (head, sealing.seal(&head, coded)?)
        }
    };
    let mut hasher = xxhash_rust::xxh3::Xxh3::new();
    hasher.update(&head);
    hasher.update(body);
    sink(&head)?;
    sink(body)?;
    sink(&hasher.digest().to_le_bytes())?;
    Ok((BLOCK_FRAME_LEN + body.len()) as u32)
}

/// Where a block stands in its pack, and how long it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockPlace {
    pub offset: u64,
    pub stored_len: u32,
    pub plain_len: u32,
    pub chunks: u32,
}

/// What a footer says: the blocks, and the chunks in them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    pub blocks: Vec<BlockPlace>,
    pub lens: Vec<u32>,
    pub ids: Vec<Id>,
}

impl Table {
    /// Calls `visit(id, block, offset in the block, length)` for each chunk.
    pub fn each(&self, mut visit: impl FnMut(Id, u32, u32, u32)) {
        let mut chunk = 0;
        for (number, block) in self.blocks.iter().enumerate() {
            let mut offset = 0;
            for _ in 0..block.chunks {
                visit(self.ids[chunk], number as u32, offset, self.lens[chunk]);
                offset += self.lens[chunk];
                chunk += 1;
            }
        }
    }

    pub fn plain_bytes(&self) -> u64 {
        self.lens.iter().map(|len| u64::from(*len)).sum()
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(8 + self.blocks.len() * 8 + self.ids.len() * (ID_LEN + 3));
        put_varint(&mut out, self.blocks.len() as u64);
        for block in &self.blocks {
            put_varint(&mut out, u64::from(block.stored_len));
            put_varint(&mut out, u64::from(block.plain_len));
            put_varint(&mut out, u64::from(block.chunks));
        }
        for len in &self.lens {
            put_varint(&mut out, u64::from(*len));
        }
        for id in &self.ids {
            out.extend_from_slice(&id.0);
        }
        out
    }

    fn decode(plain: &[u8], footer_offset: u64) -> Result<Table> {
        let mut cursor = Cursor::new(plain, "pack footer");
        let mut table = Table::default();
        let (mut offset, mut chunks) = (HEADER_LEN as u64, 0);
        let blocks = cursor.bounded(MAX_BLOCKS as u64)?;
        for _ in 0..blocks {
            let stored_len = cursor.bounded(MAX_PACK_LEN)?;
            let plain_len = cursor.bounded(MAX_BLOCK_PLAIN as u64)?;
            let count = cursor.bounded(MAX_CHUNKS as u64)?;
            if stored_len < BLOCK_FRAME_LEN as u64 {
                return Err(cursor.bad("a block is too short"));
            }
            table.blocks.push(BlockPlace {
                offset,
                stored_len: stored_len as u32,
                plain_len: plain_len as u32,
                chunks: count as u32,
            });
            offset += stored_len;
            chunks += count as usize;
            if chunks > MAX_CHUNKS || offset > footer_offset {
                return Err(cursor.bad("its numbers are out of bounds"));
            }
        }
        if offset != footer_offset {
            return Err(cursor.bad("its blocks do not end where it begins"));
        }
        for index in 0..table.blocks.len() {
            let block = table.blocks[index];
            let mut total = 0;
            for _ in 0..block.chunks {
                let len = cursor.bounded(MAX_BLOCK_PLAIN as u64)?;
                if len == 0 {
                    return Err(cursor.bad("a chunk is empty"));
                }
                total += len;
                table.lens.push(len as u32);
            }
            if block.chunks > 0 && total != u64::from(block.plain_len) {
                return Err(cursor.bad("chunks do not fill their block"));
            }
        }
        for _ in 0..chunks {
            table.ids.push(Id(cursor.array()?));
        }
        cursor.finish()?;
        Ok(table)
    }
}

/// Builds a pack's bytes piece by piece; the caller writes them where it likes.
pub struct Builder {
    header: Header,
    sealing: Option<Sealing>,
    table: Table,
    offset: u64,
    hasher: blake3::Hasher,
}

impl Builder {
    /// The builder and the header's bytes, to be written first.
    pub fn new(keys: &Keys, kind: Kind, session: [u8; 16], salt: Salt) -> Result<(Builder, [u8; HEADER_LEN])> {
        let epoch = keys.epoch();
        let salt = if epoch == 0 { [0; 32] } else { salt };
        let header = Header { kind, epoch, family: keys.family, salt, session };
        let bytes = header.encode();
        let mut hasher = blake3::Hasher::new();
        hasher.update(&bytes);
        let sealing = header.sealer(keys)?.map(Sealing::new);
        Ok((Builder { header, sealing, table: Table::default(), offset: HEADER_LEN as u64, hasher }, bytes))
    }

    pub fn len(&self) -> u64 {
        self.offset
    }

    pub fn is_empty(&self) -> bool {
        self.table.blocks.is_empty()
    }

    /// Ids of the chunks so far.
    pub fn ids(&self) -> Vec<Id> {
        self.table.ids.clone()
    }

    /// True when a block with so many more chunks and bytes must go into another pack.
    pub fn is_full_for(&self, coded_len: usize, chunks: usize) -> bool {
        let footer = (self.table.ids.len() + chunks) * (ID_LEN + 4) + 1024;
        self.table.blocks.len() >= MAX_BLOCKS - 1
            || self.table.ids.len() + chunks > MAX_CHUNKS
            || self.offset + (sealed_len(coded_len) + sealed_len(footer) + 256) as u64 > MAX_PACK_LEN
    }

    /// Gives a block's bytes to `sink`, to be written next; the answer is how many.
    pub fn block(&mut self, coded: Coded, chunks: &[(Id, u32)], sink: &mut Sink) -> Result<u64> {
        let number = self.table.blocks.len() as u32;
        let hasher = &mut self.hasher;
        let mut hashing = |part: &[u8]| {
            hasher.update(part);
            sink(part)
        };
        let kind = self.header.kind as u8;
        let stored_len = put_block(self.sealing.as_mut(), number, kind, coded, &mut hashing)?;
        let (offset, plain_len, count) = (self.offset, coded.plain_len as u32, chunks.len() as u32);
        self.table.blocks.push(BlockPlace { offset, stored_len, plain_len, chunks: count });
        for (id, len) in chunks {
            self.table.ids.push(*id);
            self.table.lens.push(*len);
        }
        self.offset += u64::from(stored_len);
        Ok(u64::from(stored_len))
    }

    /// Appends footer and trailer to `out`; the answer is the pack's id and what it holds.
    pub fn finish(mut self, out: &mut Vec<u8>) -> Result<(Id, Pack)> {
        let start = out.len();
        let plain = self.table.encode();
        let mut codec = Codec::new(3)?;
        let mut scratch = Vec::new();
        let (codec, bytes) = codec.encode(&plain, &mut scratch)?;
        let coded = Coded { codec, plain_len: plain.len(), bytes };
        let number = self.table.blocks.len() as u32;
        let mut append = |part: &[u8]| {
            out.extend_from_slice(part);
            Ok(())
        };
        put_block(self.sealing.as_mut(), number, FOOTER, coded, &mut append)?;
        let mut trailer = [0; TRAILER_LEN];
        trailer[..4].copy_from_slice(&(self.offset as u32).to_le_bytes());
        trailer[4..8].copy_from_slice(&((out.len() - start) as u32).to_le_bytes());
        trailer[8..12].copy_from_slice(&number.to_le_bytes());
        let sum = trailer_sum(&self.header.encode(), &trailer);
        trailer[16..24].copy_from_slice(&sum.to_le_bytes());
        trailer[24..].copy_from_slice(TRAILER_MAGIC);
        out.extend_from_slice(&trailer);
        // The footer is the truth about this pack: it must read back as it was meant.
        if Table::decode(&plain, self.offset)? != self.table {
            return Err(Error::Internal("a footer did not survive encoding".into()));
        }
        self.hasher.update(&out[start..]);
        let size = self.offset + (out.len() - start) as u64;
        let id = Id(*self.hasher.finalize().as_bytes());
        Ok((id, Pack { id, size, header: self.header, table: self.table }))
    }
}

fn trailer_sum(header: &[u8; HEADER_LEN], trailer: &[u8; TRAILER_LEN]) -> u64 {
    let mut both = header.to_vec();
    both.extend_from_slice(&trailer[..16]);
    checksum(&both)
}

/// A pack as its header and footer describe it.
#[derive(Clone, Debug)]
pub struct Pack {
    pub id: Id,
    pub size: u64,
    pub header: Header,
    pub table: Table,
}

/// Reads `len` bytes at `offset`; fewer are an error.
pub trait ReadAt {
    fn read_at(&self, offset: u64, len: usize) -> Result<Vec<u8>>;
    fn size(&self) -> Result<u64>;
}

impl Pack {
    /// Reads header, trailer and footer of pack `id`, and checks them. The blocks are not read.
    pub fn open(file: &dyn ReadAt, keys: &Keys, kind: Kind, id: Id) -> Result<Pack> {
        let what = name(kind, &id);
        let bad = |why: &str| Error::Damaged(format!("damaged pack {what}: {why}"));
        let size = file.size()?;
        if size < (HEADER_LEN + BLOCK_FRAME_LEN + TRAILER_LEN) as u64 || size > MAX_PACK_LEN {
            return Err(bad("its length is impossible"));
        }
        let head: [u8; HEADER_LEN] = file.read_at(0, HEADER_LEN)?.try_into().expect("as asked");
        let header = Header::decode(&head, keys, &what)?;
        if header.kind != kind {
            return Err(bad("it is of the other kind"));
        }
        // One read of the end usually brings the footer too.
        let tail_len = (128 << 10).min(size - HEADER_LEN as u64);
        let tail = file.read_at(size - tail_len, tail_len as usize)?;
        let trailer: [u8; TRAILER_LEN] = tail[tail.len() - TRAILER_LEN..].try_into().expect("32 bytes");
        if &trailer[24..] != TRAILER_MAGIC || trailer[12..16] != [0; 4] {
            return Err(bad("its trailer is wrong; it may be cut off"));
        }
        if trailer_sum(&head, &trailer).to_le_bytes() != trailer[16..24] {
            return Err(bad("the checksum of its trailer is wrong"));
        }
        let field = |at: usize| u32::from_le_bytes(trailer[at..at + 4].try_into().expect("4 bytes"));
        let (offset, len, blocks) = (u64::from(field(0)), u64::from(field(4)), field(8));
        if offset < HEADER_LEN as u64 || offset + len + TRAILER_LEN as u64 != size || len < BLOCK_FRAME_LEN as u64 {
            return Err(bad("its trailer points nowhere"));
        }
        let mut block = if len + TRAILER_LEN as u64 <= tail_len {
            let start = tail.len() - TRAILER_LEN - len as usize;
            tail[start..tail.len() - TRAILER_LEN].to_vec()
        } else {
            file.read_at(offset, len as usize)?
        };
        let sealer = header.sealer(keys)?;
        let mut codec = Codec::new(0)?;
        let mut plain = Vec::new();
        let whole = usize::MAX;
        read_block(
            &mut block,
            sealer.as_ref(),
            blocks,
            FOOTER,
            None,
            MAX_FOOTER_PLAIN,
            whole,
            &mut codec,
            &mut plain,
            &what,
        )?;
        let table = Table::decode(&plain, offset)?;
        if table.blocks.len() != blocks as usize {
            return Err(bad("its trailer and footer disagree"));
        }
        Ok(Pack { id, size, header, table })
    }

    /// Decodes block `number`, whose stored bytes are `stored`, into `plain`: at least its first `needed` bytes, or all of it
    /// when it is shorter. Chunk ids are not checked here. A sealed block is opened where it is, so `stored` changes.
    pub fn decode_block(
        &self,
        sealer: Option<&Sealer>,
        number: usize,
        stored: &mut [u8],
        needed: usize,
        codec: &mut Codec,
        plain: &mut Vec<u8>,
    ) -> Result<()> {
        let what = name(self.header.kind, &self.id);
        let place = self
            .table
            .blocks
            .get(number)
            .ok_or_else(|| Error::Damaged(format!("damaged pack {what}: no block {number}")))?;
        let kind = self.header.kind as u8;
        read_block(
            stored,
            sealer,
            number as u32,
            kind,
            Some(place.plain_len as usize),
            MAX_BLOCK_PLAIN,
            needed,
            codec,
            plain,
            &what,
        )
    }
}

/// Checks a stored block, and decodes at least its first `needed` bytes, or all of it when it is shorter.
#[allow(clippy::too_many_arguments)]
fn read_block(
    stored: &mut [u8],
    sealer: Option<&Sealer>,
    number: u32,
    kind: u8,
    plain_len: Option<usize>,
    max_plain: usize,
    needed: usize,
    codec: &mut Codec,
    plain: &mut Vec<u8>,
    what: &str,
) -> Result<()> {
    let what = format!("block {number} of pack {what}");
    let bad = |why: &str| Error::Damaged(format!("damaged {what}: {why}"));
    if stored.len() < BLOCK_FRAME_LEN {
        return Err(bad("too short"));
    }
    let (content, sum) = stored.split_at_mut(stored.len() - 8);
    if checksum(content).to_le_bytes() != *sum {
        return Err(bad("its checksum is wrong"));
    }
    let (head, body) = content.split_at_mut(BLOCK_HEAD_LEN);
    let head: &[u8] = head;
    let declared = u32::from_le_bytes(head[16..20].try_into().expect("4 bytes")) as usize;
    let expected = block_head(number, kind, head[9], sealer.is_some(), body.len(), declared);
    if head != expected || head[9] > ZSTD {
        return Err(bad("its header is wrong"));
    }
    let coded = match sealer {
        None => Coded { codec: head[9], plain_len: declared, bytes: body },
        Some(_) if head[9] != 0 || declared != 0 => return Err(bad("its header is wrong")),
        Some(sealer) => sealer.open(head, body, &what)?,
    };
    if coded.plain_len > max_plain || plain_len.is_some_and(|len| len != coded.plain_len) {
        return Err(bad("its length is wrong"));
    }
    codec.decode_start(coded.codec, coded.bytes, coded.plain_len, needed, plain, &what)
}

impl ReadAt for std::fs::File {
    fn read_at(&self, offset: u64, len: usize) -> Result<Vec<u8>> {
        use std::os::unix::fs::FileExt;
        let mut bytes = vec![0; len];
        self.read_exact_at(&mut bytes, offset).map_err(|e| match e.kind() {
            std::io::ErrorKind::UnexpectedEof => Error::Damaged("damaged pack: it is cut off".into()),
            _ => Error::io("read", "a pack", &e),
        })?;
        Ok(bytes)
    }

    fn size(&self) -> Result<u64> {
        Ok(self.metadata().map_err(|e| Error::io("look at", "a pack", &e))?.len())
    }
}

impl ReadAt for Vec<u8> {
    fn read_at(&self, offset: u64, len: usize) -> Result<Vec<u8>> {
        let end = offset as usize + len;
        self.get(offset as usize..end)
            .map(<[u8]>::to_vec)
            .ok_or_else(|| Error::Damaged("damaged pack: it is cut off".into()))
    }

    fn size(&self) -> Result<u64> {
        Ok(Vec::len(self) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn build(keys: &Keys) -> (Vec<u8>, Pack, Vec<Vec<u8>>) {
        let (mut builder, header) = Builder::new(keys, Kind::Data, [3; 16], [4; 32]).unwrap();
        let mut bytes = header.to_vec();
        let mut codec = Codec::new(3).unwrap();
        let mut plains = Vec::new();
        for number in 0..3u8 {
            let plain = vec![number; 1000 + number as usize];
            let mut scratch = Vec::new();
            let (coding, coded) = codec.encode(&plain, &mut scratch).unwrap();
            let coded = Coded { codec: coding, plain_len: plain.len(), bytes: coded };
            let chunks =
                [(keys.chunk_id(&plain[..500]), 500), (keys.chunk_id(&plain[500..]), plain.len() as u32 - 500)];
            let mut append = |part: &[u8]| {
                bytes.extend_from_slice(part);
                Ok(())
            };
            builder.block(coded, &chunks, &mut append).unwrap();
            plains.push(plain);
        }
        let (_, pack) = builder.finish(&mut bytes).unwrap();
        (bytes, pack, plains)
    }

    fn read_all(bytes: &Vec<u8>, keys: &Keys, id: Id) -> Result<Vec<Vec<u8>>> {
        let pack = Pack::open(bytes, keys, Kind::Data, id)?;
        let sealer = pack.header.sealer(keys)?;
        let mut codec = Codec::new(0)?;
        (0..pack.table.blocks.len())
            .map(|number| {
                let place = pack.table.blocks[number];
                let mut stored = bytes.read_at(place.offset, place.stored_len as usize)?;
                let mut plain = Vec::new();
                pack.decode_block(sealer.as_ref(), number, &mut stored, usize::MAX, &mut codec, &mut plain)?;
                Ok(plain)
            })
            .collect()
    }

    #[test]
    fn round_trip_and_every_flip_is_found() {
        for masters in [BTreeMap::new(), BTreeMap::from([(2, [9; 32])])] {
            let keys = Keys::new([1; 16], &[2; 32], &masters).unwrap();
            let (bytes, pack, plains) = build(&keys);
            assert_eq!(pack.id.0, *blake3::hash(&bytes).as_bytes());
            assert_eq!(read_all(&bytes, &keys, pack.id).unwrap(), plains);
            for bit in 0..bytes.len() * 8 {
                let mut flipped = bytes.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert!(read_all(&flipped, &keys, pack.id).is_err(), "bit {bit}");
            }
            for len in 0..bytes.len() {
                assert!(read_all(&bytes[..len].to_vec(), &keys, pack.id).is_err(), "length {len}");
            }
        }
    }
}
