//! Where chunks and nodes stand: from tables loaded ahead, from what was asked before, from the index.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::packs::PackName;
use crate::error::{Error, Result};
use crate::id::Id;
use crate::index::{Index, Location};
use crate::pack::Pack;

/// Chunks whose places are loaded ahead: what a table of 2^18 slots takes before it doubles (about 8 MB).
pub(crate) const MAX_PRELOADED: usize = (1 << 18) / 8 * 7;
/// Answers of the index kept in each of two generations.
const RECENT: usize = (1 << 16) / 8 * 7;
/// Ids asked for in one call of the index.
const BATCH: usize = 4096;

/// Where a chunk stands; `pack` counts the packs known to this reader.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Place {
    pub(crate) pack: u32,
    pub(crate) block: u16,
    offset: [u8; 3],
    len: [u8; 3],
}

impl Place {
    fn new(pack: u32, block: u32, offset: u32, len: u32) -> Option<Place> {
        let u24 = |value: u32| match value.to_le_bytes() {
            [a, b, c, 0] => Some([a, b, c]),
            _ => None,
        };
        Some(Place { pack, block: u16::try_from(block).ok()?, offset: u24(offset)?, len: u24(len)? })
    }

    pub(crate) fn offset(&self) -> usize {
        let [a, b, c] = self.offset;
        u32::from_le_bytes([a, b, c, 0]) as usize
    }

    pub(crate) fn len(&self) -> usize {
        let [a, b, c] = self.len;
        u32::from_le_bytes([a, b, c, 0]) as usize
    }
}

/// Half an id: enough to find a place, since what is found there is checked against the whole id.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Short([u8; 16]);

impl Short {
    pub(crate) fn of(id: &Id) -> Short {
        Short(id.0[..16].try_into().expect("16 of 32 bytes"))
    }
}

impl Hash for Short {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(u64::from_le_bytes(self.0[..8].try_into().expect("8 of 16 bytes")));
    }
}

/// Ids are uniformly distributed: they are their own hash.
#[derive(Default)]
pub(crate) struct AsItIs(u64);

impl Hasher for AsItIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("only ids are hashed");
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
}

pub(crate) type ByShort<V> = HashMap<Short, V, BuildHasherDefault<AsItIs>>;

/// Finds places. Asks the index in batches, since each call of it is costly.
pub(crate) struct Places {
    index: Arc<dyn Index>,
    state: RwLock<State>,
}

#[derive(Default)]
struct State {
    preloaded: ByShort<Place>,
    /// Further places of chunks that are in several packs loaded ahead.
    copies: ByShort<Vec<Place>>,
    copies_len: usize,
    recent: ByShort<Place>,
    older: ByShort<Place>,
    packs: Vec<PackName>,
    by_name: HashMap<PackName, u32>,
    by_number: HashMap<u32, u32>,
}

impl Places {
    pub(crate) fn new(index: Arc<dyn Index>) -> Places {
        Places { index, state: RwLock::default() }
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a pack's table; false when there is no room for it.
    pub(crate) fn preload(&self, pack: &Pack) -> bool {
        self.write().preload(pack)
    }

    /// True when no further tables are taken.
    pub(crate) fn is_full(&self) -> bool {
        self.read().preloaded_len() >= MAX_PRELOADED
    }

    pub(crate) fn pack_name(&self, pack: u32) -> PackName {
        self.read().packs[pack as usize]
    }

    /// The places of `ids`; None where unknown. Asks the index for those that were not known before.
    pub(crate) fn find(&self, ids: &[Id]) -> Result<Vec<Option<Place>>> {
        let (mut places, unknown): (Vec<_>, Vec<usize>) = {
            let state = self.read();
            let places: Vec<_> = ids.iter().map(|id| state.known(id)).collect();
            let unknown = (0..ids.len()).filter(|at| places[*at].is_none()).collect();
            (places, unknown)
        };
        for part in unknown.chunks(BATCH) {
            let asked: Vec<Id> = part.iter().map(|at| ids[*at]).collect();
            for (at, place) in part.iter().zip(self.ask(&asked)?) {
                places[*at] = place;
            }
        }
        Ok(places)
    }

    /// Every further place of `id` than `tried`, the index being asked anew.
    pub(crate) fn others(&self, id: &Id, tried: Option<Place>) -> Result<Vec<Place>> {
        let mut places: Vec<Place> = {
            let state = self.read();
            let short = Short::of(id);
            state
                .preloaded
                .get(&short)
                .into_iter()
                .chain(state.copies.get(&short).into_iter().flatten())
                .copied()
                .collect()
        };
        {
            // Numbers may mean other packs since.
            let mut state = self.write();
            state.by_number.clear();
        }
        places.extend(self.ask(std::slice::from_ref(id))?.into_iter().flatten());
        places.retain(|place| Some(*place) != tried);
        places.dedup();
        Ok(places)
    }

    fn ask(&self, ids: &[Id]) -> Result<Vec<Option<Place>>> {
        let locations = self.index.locate(ids)?;
        if locations.len() != ids.len() {
            return Err(Error::Internal("the index did not answer for every id".into()));
        }
        let mut places = Vec::with_capacity(ids.len());
        for location in &locations {
            places.push(match location {
                None => None,
                Some(location) => self.place(location)?,
            });
        }
        let mut state = self.write();
        for (id, place) in ids.iter().zip(&places) {
            place.iter().for_each(|place| state.remember(id, *place));
        }
        Ok(places)
    }

    fn place(&self, location: &Location) -> Result<Option<Place>> {
        let known = self.read().by_number.get(&location.pack).copied();
        let pack = match known {
            Some(pack) => pack,
            None => {
                let name = self.index.pack(location.pack)?;
                let mut state = self.write();
                let pack = state.intern(name);
                state.by_number.insert(location.pack, pack);
                pack
            }
        };
        Ok(Place::new(pack, location.block, location.offset, location.len))
    }
}

impl State {
    fn known(&self, id: &Id) -> Option<Place> {
        let short = Short::of(id);
        let found = self.preloaded.get(&short).or_else(|| self.recent.get(&short)).or_else(|| self.older.get(&short));
        found.copied()
    }

    fn remember(&mut self, id: &Id, place: Place) {
        if self.recent.len() >= RECENT {
            self.older = std::mem::take(&mut self.recent);
        }
        if let Some(preloaded) = self.preloaded.get_mut(&Short::of(id)) {
            // It was asked for because the place loaded ahead was of no use.
            *preloaded = place;
            return;
        }
        self.recent.insert(Short::of(id), place);
    }

    fn intern(&mut self, name: PackName) -> u32 {
        let next = self.packs.len() as u32;
        let number = *self.by_name.entry(name).or_insert(next);
        if number == next {
            self.packs.push(name);
        }
        number
    }

    fn preloaded_len(&self) -> usize {
        self.preloaded.len() + self.copies_len
    }

    fn preload(&mut self, pack: &Pack) -> bool {
        if self.preloaded_len() + pack.table.ids.len() > MAX_PRELOADED {
            return false;
        }
        let number = self.intern((pack.header.kind, pack.id));
        pack.table.each(|id, block, offset, len| {
            let Some(place) = Place::new(number, block, offset, len) else { return };
            match self.preloaded.entry(Short::of(&id)) {
                std::collections::hash_map::Entry::Vacant(slot) => {
                    slot.insert(place);
                }
                // Loading a pack twice adds nothing.
                std::collections::hash_map::Entry::Occupied(slot) if slot.get().pack == number => {}
                std::collections::hash_map::Entry::Occupied(_) => {
                    let copies = self.copies.entry(Short::of(&id)).or_default();
                    if copies.iter().all(|copy| copy.pack != number) {
                        copies.push(place);
                        self.copies_len += 1;
                    }
                }
            }
        });
        true
    }
}
