//! Checking packs: their header, trailer and footer, and, when asked to, every byte and every id.

use std::collections::HashSet;
use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::MAX_PROBLEMS;
use crate::compress::Codec;
use crate::error::{Error, Result};
use crate::id::{Id, Keys};
use crate::lock::lock;
use crate::pack::{name, Kind, Pack, ReadAt, HEADER_LEN, MAX_PACK_LEN};
use crate::progress::{add, Progress};
use crate::reader::open_file;

/// Bytes of a pack that is hashed without being understood.
const PIECE: u64 = 1 << 20;

/// How thoroughly to check.
#[derive(Clone, Copy, Debug, Default)]
pub struct PackOptions {
    /// Read every byte: the name, every block, every id.
    pub read_data: bool,
    /// No pack is begun after this time.
    pub time_limit: Option<Duration>,
    /// 0 for one per core.
    pub threads: usize,
}

/// Something wrong with a pack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackProblem {
    pub kind: Kind,
    pub id: Id,
    pub reason: String,
}

/// What the checking of packs found.
#[derive(Clone, Debug, Default)]
pub struct PacksChecked {
    pub packs: u64,
    /// Bytes of the packs checked, whether read or not.
    pub bytes: u64,
    /// At most `MAX_PROBLEMS`.
    pub problems: Vec<PackProblem>,
    pub problem_count: u64,
    /// Ids of chunks and nodes that stand in the packs checked, but cannot be read from any of them. What stood in a pack
    /// that is missing, or whose footer is damaged, is not known here.
    pub bad_ids: Vec<Id>,
    /// False when the time limit ended it early.
    pub complete: bool,
    pub checked: Vec<Id>,
}

/// Checks packs, given with the sizes that they are listed with. Goes on after damage; fails when cancelled.
pub fn check_packs(
    store: &Path,
    keys: &Keys,
    packs: &[(Kind, Id, u64)],
    options: PackOptions,
    progress: &Progress,
) -> Result<PacksChecked> {
    add(&progress.files, packs.len() as u64);
    add(&progress.bytes, packs.iter().map(|(_, _, size)| size).sum());
    let threads = match options.threads {
        0 => std::thread::available_parallelism().map_or(1, |count| count.get()),
        threads => threads,
    };
    let check = Check {
        store,
        keys,
        read_data: options.read_data,
        progress,
        next: AtomicUsize::new(0),
        until: options.time_limit.map(|limit| Instant::now() + limit),
        late: AtomicBool::new(false),
        found: Mutex::default(),
        damaged: Mutex::default(),
    };
    std::thread::scope(|scope| {
        for _ in 1..threads.clamp(1, 64).min(packs.len()) {
            scope.spawn(|| check.work(packs));
        }
        check.work(packs);
    });
    progress.check()?;
    let mut found = check.found.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    found.complete = !check.late.load(Relaxed);
    found.problems.sort_by_key(|problem| (problem.kind, problem.id));
    let damaged = check.damaged.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    forgive(store, keys, packs, &damaged, &mut found);
    Ok(found)
}

/// Strikes from the bad ids those of which another pack that was checked holds an intact copy.
fn forgive(store: &Path, keys: &Keys, packs: &[(Kind, Id, u64)], damaged: &HashSet<Id>, found: &mut PacksChecked) {
    if found.bad_ids.is_empty() {
        return;
    }
    let mut bad: HashSet<Id> = found.bad_ids.drain(..).collect();
    let checked: HashSet<Id> = found.checked.iter().copied().collect();
    for (kind, id, _) in packs.iter().filter(|(_, id, _)| checked.contains(id) && !damaged.contains(id)) {
        let pack = open_file(store, &(*kind, *id)).and_then(|file| Pack::open(&file, keys, *kind, *id));
        for id in pack.iter().flat_map(|pack| &pack.table.ids) {
            bad.remove(id);
        }
    }
    found.bad_ids.extend(bad);
    found.bad_ids.sort();
}

struct Check<'a> {
    store: &'a Path,
    keys: &'a Keys,
    read_data: bool,
    progress: &'a Progress,
    next: AtomicUsize,
    until: Option<Instant>,
    late: AtomicBool,
    found: Mutex<PacksChecked>,
    /// Packs with problems, those that are not listed too.
    damaged: Mutex<HashSet<Id>>,
}

/// What is wrong with one pack.
#[derive(Default)]
struct Faults {
    reasons: Vec<String>,
    bad_ids: Vec<Id>,
}

impl Faults {
    fn add(&mut self, error: Error) {
        self.reasons.push(error.to_string());
    }
}

impl Check<'_> {
    fn work(&self, packs: &[(Kind, Id, u64)]) {
        while let Some((kind, id, size)) = packs.get(self.next.fetch_add(1, Relaxed)) {
            if self.progress.is_cancelled() {
                return;
            }
            if self.until.is_some_and(|until| Instant::now() >= until) {
                self.late.store(true, Relaxed);
                return;
            }
            self.progress.working_on(name(*kind, id).as_bytes());
            let faults = self.check(*kind, *id, *size);
            if self.progress.is_cancelled() {
                return;
            }
            add(&self.progress.done_files, 1);
            self.take(*kind, *id, *size, faults);
        }
    }

    fn take(&self, kind: Kind, id: Id, size: u64, faults: Faults) {
        add(&self.progress.errors, faults.reasons.len() as u64);
        let mut found = lock(&self.found);
        found.packs += 1;
        found.bytes += size;
        found.checked.push(id);
        found.bad_ids.extend(faults.bad_ids);
        if !faults.reasons.is_empty() {
            lock(&self.damaged).insert(id);
        }
        found.problem_count += faults.reasons.len() as u64;
        for reason in faults.reasons {
            if found.problems.len() < MAX_PROBLEMS {
                found.problems.push(PackProblem { kind, id, reason });
            }
        }
    }

    fn check(&self, kind: Kind, id: Id, size: u64) -> Faults {
        let mut faults = Faults::default();
        let file = match open_file(self.store, &(kind, id)) {
            Ok(file) => file,
            Err(error) => {
                faults.add(error);
                return faults;
            }
        };
        let what = name(kind, &id);
        let len = match ReadAt::size(&file) {
            Ok(len) => len,
            Err(error) => {
                faults.add(error);
                return faults;
            }
        };
        if len != size {
            faults.add(Error::Damaged(format!("damaged pack {what}: it has {len} bytes instead of {size}")));
        }
        match Pack::open(&file, self.keys, kind, id) {
            Err(error) => {
                faults.add(error);
                self.check_name_alone(&file, len, id, &what, &mut faults);
            }
            Ok(pack) if self.read_data => self.check_bytes(&file, &pack, &what, &mut faults),
            Ok(_) => add(&self.progress.done_bytes, size),
        }
        faults
    }

    /// Of a pack that cannot be understood, whether it is at least what was written.
    fn check_name_alone(&self, file: &File, len: u64, id: Id, what: &str, faults: &mut Faults) {
        if !self.read_data || len > MAX_PACK_LEN {
            return;
        }
        let mut hasher = blake3::Hasher::new();
        let mut at = 0;
        while at < len && !self.progress.is_cancelled() {
            let piece = PIECE.min(len - at);
            match file.read_at(at, piece as usize) {
                Ok(bytes) => hasher.update(&bytes),
                Err(error) => return faults.add(error),
            };
            add(&self.progress.done_bytes, piece);
            at += piece;
        }
        if *hasher.finalize().as_bytes() == id.0 {
            faults.reasons.push(format!("pack {what} is as it was written, but was written wrongly"));
        }
    }

    /// Reads every byte: the pack's name is their hash, its blocks decode, its chunks are what their ids say.
    fn check_bytes(&self, file: &File, pack: &Pack, what: &str, faults: &mut Faults) {
        let before = faults.reasons.len();
        let mut hasher = blake3::Hasher::new();
        let mut whole = self.hash_piece(file, 0, HEADER_LEN as u64, &mut hasher, faults);
        let (sealer, mut codec) = match pack.header.sealer(self.keys).and_then(|sealer| Ok((sealer, Codec::new(0)?))) {
            Ok(ready) => ready,
            Err(error) => return faults.add(error),
        };
        let (mut plain, mut end, mut chunks) = (Vec::new(), HEADER_LEN as u64, 0);
        for (number, place) in pack.table.blocks.iter().enumerate() {
            if self.progress.is_cancelled() {
                return;
            }
            let inside = chunks..chunks + place.chunks as usize;
            (end, chunks) = (place.offset + u64::from(place.stored_len), inside.end);
            let decoded = file.read_at(place.offset, place.stored_len as usize).and_then(|mut stored| {
                hasher.update(&stored);
                pack.decode_block(sealer.as_ref(), number, &mut stored, usize::MAX, &mut codec, &mut plain)
            });
            match decoded {
                Ok(()) => self.check_ids(pack, &plain, inside, number, what, faults),
                Err(error) => {
                    whole &= matches!(error, Error::Damaged(_) | Error::Tampered(_));
                    faults.add(error);
                    faults.bad_ids.extend_from_slice(&pack.table.ids[inside]);
                }
            }
            add(&self.progress.done_bytes, u64::from(place.stored_len));
        }
        whole &= self.hash_piece(file, end, pack.size - end, &mut hasher, faults);
        // Damage that was found explains a wrong name.
        if whole && faults.reasons.len() == before && *hasher.finalize().as_bytes() != pack.id.0 {
            faults.reasons.push(format!("damaged pack {what}: its name is not the hash of its bytes"));
        }
    }

    fn hash_piece(&self, file: &File, at: u64, len: u64, hasher: &mut blake3::Hasher, faults: &mut Faults) -> bool {
        let done = file.read_at(at, len as usize).map(|bytes| {
            hasher.update(&bytes);
            add(&self.progress.done_bytes, len);
        });
        done.map_err(|error| faults.add(error)).is_ok()
    }

    fn check_ids(
        &self,
        pack: &Pack,
        plain: &[u8],
        chunks: std::ops::Range<usize>,
        number: usize,
        what: &str,
        faults: &mut Faults,
    ) {
        let (mut at, mut bad) = (0, 0);
        for chunk in chunks {
            let (id, len) = (pack.table.ids[chunk], pack.table.lens[chunk] as usize);
            let data = &plain[at..at + len];
            at += len;
            let is = match pack.header.kind {
                Kind::Data => self.keys.chunk_id(data),
                Kind::Meta => self.keys.node_id(data),
            };
            if is != id {
                bad += 1;
                faults.bad_ids.push(id);
            }
        }
        if bad > 0 {
            faults.reasons.push(format!("damaged block {number} of pack {what}: {bad} of its ids are wrong"));
        }
    }
}
