//! Where content is cut (docs/format/chunking.md, version 1).

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::id::Keys;

pub const PAGE: usize = 4096;
/// Content up to this many bytes stands in the directory node.
pub const IN_PLACE_MAX: u64 = 256;
/// The cutter is chosen from so many bytes at the beginning.
pub const HEAD_LEN: usize = 65_536;
const WINDOW: usize = 64;
/// Bytes searched for a border at once.
const STRETCH: usize = 2048;

/// How content is cut: by Gear, or at page borders.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cutter {
    Streamed,
    Paged,
}

/// A piece of content: a chunk to be stored, or part of a zero run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Piece {
    pub len: usize,
    pub zero: bool,
}

/// The cutting rule of a family with a given average.
pub struct Chunker {
    gear: [u64; 256],
    seed: u64,
    min: usize,
    max: usize,
    threshold: u64,
    page_threshold: u64,
}

impl Chunker {
    /// `average`: the store's `chunk_bytes`, a power of two of at least 8,192.
    pub fn new(keys: &Keys, average: usize) -> Chunker {
        let mut table = [0; 2048];
        blake3::Hasher::new_keyed(&keys.chunker).update(b"gear table").finalize_xof().fill(&mut table);
        let mut gear = [0; 256];
        for (slot, bytes) in gear.iter_mut().zip(table.chunks_exact(8)) {
            *slot = u64::from_le_bytes(bytes.try_into().expect("8 bytes"));
        }
        let seed = blake3::keyed_hash(&keys.chunker, b"page seed");
        let min = average / 2;
        let wide = |numerator: u128| u64::try_from(numerator / min as u128).unwrap_or(u64::MAX);
        Chunker {
            gear,
            seed: u64::from_le_bytes(seed.as_bytes()[..8].try_into().expect("8 bytes")),
            min,
            max: average * 4,
            threshold: wide(1 << 64),
            page_threshold: wide(PAGE as u128 * (1 << 64)),
        }
    }

    pub fn max_len(&self) -> usize {
        self.max
    }

    /// Cuts `data`, which begins at a chunk border, into `pieces`; the answer is how many bytes they cover. Unless `last` (the
    /// range or content ends with `data`), a rest is left that needs more data to be decided.
    pub fn cut(&self, cutter: Cutter, data: &[u8], last: bool, pieces: &mut Vec<Piece>) -> usize {
        let mut done = 0;
        while done < data.len() {
            let rest = &data[done..];
            if !last && rest.len() < self.max {
                break;
            }
            let piece = match cutter {
                Cutter::Streamed => {
                    let len = self.streamed_len(rest);
                    Piece { len, zero: is_zero(&rest[..len]) }
                }
                Cutter::Paged => self.paged_piece(rest),
            };
            done += piece.len;
            pieces.push(piece);
        }
        done
    }

    fn streamed_len(&self, data: &[u8]) -> usize {
        let end = data.len().min(self.max);
        if end <= self.min {
            return end;
        }
        // A chunk of `min` bytes ends after byte `min - 1`.
        let mut at = self.min - 1;
        while at + STRETCH <= end && !self.has_border(&data[at - (WINDOW - 1)..at + STRETCH]) {
            at += STRETCH;
        }
        let mut hash = self.hash_of(&data[at - (WINDOW - 1)..at]);
        for (after, byte) in data[at..end].iter().enumerate() {
            hash = self.roll(hash, *byte);
            if hash < self.threshold {
                return at + after + 1;
            }
        }
        end
    }

    /// Whether a chunk may end in `data`, behind the window it begins with. The hash is a chain of which each step waits for
    /// the one before it; two chains at once keep the processor busy.
    fn has_border(&self, data: &[u8]) -> bool {
        let half = |at: usize| -> &[u8; WINDOW - 1 + STRETCH / 2] {
            data[at..at + WINDOW - 1 + STRETCH / 2].try_into().expect("as long as that")
        };
        let (low, high) = (half(0), half(STRETCH / 2));
        let (mut low_hash, mut high_hash) = (self.hash_of(&low[..WINDOW - 1]), self.hash_of(&high[..WINDOW - 1]));
        for at in WINDOW - 1..low.len() {
            low_hash = self.roll(low_hash, low[at]);
            high_hash = self.roll(high_hash, high[at]);
            if low_hash < self.threshold || high_hash < self.threshold {
                return true;
            }
        }
        false
    }

    fn hash_of(&self, window: &[u8]) -> u64 {
        window.iter().fold(0, |hash, byte| self.roll(hash, *byte))
    }

    fn roll(&self, hash: u64, byte: u8) -> u64 {
        (hash << 1).wrapping_add(self.gear[byte as usize])
    }

    fn paged_piece(&self, data: &[u8]) -> Piece {
        let end = data.len().min(self.max);
        let mut len = 0;
        if is_zero(&data[..PAGE.min(end)]) {
            while len < end {
                let page = &data[len..(len + PAGE).min(end)];
                if !is_zero(page) {
                    break;
                }
                len += page.len();
            }
            return Piece { len, zero: true };
        }
        while len < end {
            let page = &data[len..(len + PAGE).min(end)];
            if is_zero(page) {
                break;
            }
            len += page.len();
            if len >= self.min && xxh3_64_with_seed(page, self.seed) < self.page_threshold {
                break;
            }
        }
        Piece { len, zero: false }
    }
}

/// True when all bytes are zero.
pub fn is_zero(data: &[u8]) -> bool {
    // The first bytes decide almost always.
    let (head, rest) = data.split_at(data.len().min(64));
    if head.iter().any(|b| *b != 0) {
        return false;
    }
    // SAFETY: any bytes are valid u64 values.
    let (before, words, after) = unsafe { rest.align_to::<u64>() };
    before.iter().all(|b| *b == 0)
        && words.chunks(32).all(|w| w.iter().fold(0, |a, b| a | b) == 0)
        && after.iter().all(|b| *b == 0)
}

fn le16(data: &[u8], at: usize) -> u64 {
    u64::from(u16::from_le_bytes([data[at], data[at + 1]]))
}

/// Which cutter content gets. `head`: its first `HEAD_LEN` bytes, `longer`: there is more.
pub fn choose(head: &[u8], longer: bool) -> Cutter {
    if !longer || head.len() < HEAD_LEN {
        return Cutter::Streamed;
    }
    let at = |offset: usize, magic: &[u8]| &head[offset..offset + magic.len()] == magic;
    let ext = at(1080, b"\x53\xef") && le16(head, 1050) == 0 && le16(head, 1048) <= 6 && le16(head, 1084) <= 7;
    let mbr = at(510, b"\x55\xaa")
        && [446, 462, 478, 494].iter().all(|flag| matches!(head[*flag], 0 | 0x80))
        && !is_zero(&head[446..510]);
    let postgres = (0..8).all(|page| {
        let field = |offset: usize| le16(head, page * 8192 + offset);
        let (lower, upper, special) = (field(12), field(14), field(16));
        field(18) == 0x2004 && 24 <= lower && lower <= upper && upper <= special && special <= 8192
    });
    let paged = at(0, b"SQLite format 3\0")
        || at(16, b"\xde\xc0\xef\xbe")
        || ext
        || at(0, b"XFSB")
        || at(0, b"QFI\xfb")
        || at(0, b"LUKS\xba\xbe")
        || at(512, b"EFI PART")
        || at(4096, b"EFI PART")
        || mbr
        || [0, 512, 1024, 1536].iter().any(|offset| at(*offset, b"LABELONE"))
        || at(4086, b"SWAPSPACE2")
        || postgres
        || is_zero(&head[..HEAD_LEN]);
    if paged {
        Cutter::Paged
    } else {
        Cutter::Streamed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn noise(len: usize) -> Vec<u8> {
        let mut data = vec![0; len];
        blake3::Hasher::new().update(b"noise").finalize_xof().fill(&mut data);
        data
    }

    fn cuts(chunker: &Chunker, cutter: Cutter, data: &[u8], step: usize) -> Vec<Piece> {
        let (mut pieces, mut start, mut end) = (Vec::new(), 0, 0);
        while start < data.len() {
            end = (end + step).min(data.len());
            start += chunker.cut(cutter, &data[start..end], end == data.len(), &mut pieces);
        }
        pieces
    }

    /// The rule as the document words it.
    fn slow_streamed(chunker: &Chunker, data: &[u8]) -> Vec<usize> {
        let (mut lens, mut start) = (Vec::new(), 0);
        while start < data.len() {
            let mut end = start + 1;
            loop {
                let len = end - start;
                let hash = (1..=64.min(end))
                    .fold(0u64, |h, i| h.wrapping_add(chunker.gear[data[end - i] as usize] << (i - 1)));
                if end == data.len() || len == chunker.max || (len >= chunker.min && hash < chunker.threshold) {
                    break;
                }
                end += 1;
            }
            lens.push(end - start);
            start = end;
        }
        lens
    }

    #[test]
    fn streamed_follows_the_document() {
        let chunker = Chunker::new(&Keys::plain([0; 16]), 8192);
        let data = noise(400_000);
        let lens: Vec<usize> = cuts(&chunker, Cutter::Streamed, &data, data.len()).iter().map(|p| p.len).collect();
        assert_eq!(lens, slow_streamed(&chunker, &data));
        assert!(lens.len() > 30 && lens.len() < 80, "{}", lens.len());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn cuts_do_not_depend_on_how_data_arrives(step in 1usize..200_000, zeros in 0usize..100_000, paged: bool) {
            let chunker = Chunker::new(&Keys::plain([0; 16]), 8192);
            let mut data = noise(300_000);
            data[50_000..50_000 + zeros].fill(0);
            let cutter = if paged { Cutter::Paged } else { Cutter::Streamed };
            let merge = |pieces: Vec<Piece>| pieces.iter().fold(Vec::<Piece>::new(), |mut all, p| {
                match all.last_mut() {
                    Some(last) if last.zero && p.zero => last.len += p.len,
                    _ => all.push(*p),
                }
                all
            });
            let whole = merge(cuts(&chunker, cutter, &data, data.len()));
            prop_assert_eq!(merge(cuts(&chunker, cutter, &data, step)), whole.clone());
            prop_assert_eq!(whole.iter().map(|p| p.len).sum::<usize>(), data.len());
        }
    }

    #[test]
    fn a_paged_zero_page_always_ends_a_chunk() {
        let chunker = Chunker::new(&Keys::plain([0; 16]), 32768);
        let mut data = noise(PAGE * 40);
        data[PAGE * 3..PAGE * 5].fill(0);
        let pieces = cuts(&chunker, Cutter::Paged, &data, data.len());
        assert_eq!(pieces[0], Piece { len: PAGE * 3, zero: false });
        assert_eq!(pieces[1], Piece { len: PAGE * 2, zero: true });
        assert!(pieces.iter().all(|p| p.len % PAGE == 0));
    }

    #[test]
    fn known_page_structures_are_recognised() {
        let mut head = noise(HEAD_LEN);
        assert_eq!(choose(&head, true), Cutter::Streamed);
        head[..16].copy_from_slice(b"SQLite format 3\0");
        assert_eq!(choose(&head, true), Cutter::Paged);
        assert_eq!(choose(&head, false), Cutter::Streamed);
        assert_eq!(choose(&vec![0; HEAD_LEN], true), Cutter::Paged);
    }
}
