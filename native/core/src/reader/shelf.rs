//! What was used most recently: a cache bounded by weight in which a value is made once, however many threads want it.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::sync::{Arc, Mutex};

use crate::error::Result;
use crate::lock::lock;

/// Values by key. Their weights add up to at most the shelf's (or it holds one value only).
pub(crate) struct Shelf<K, V> {
    state: Mutex<State<K, V>>,
    max_weight: usize,
}

struct State<K, V> {
    held: HashMap<K, Held<V>>,
    /// Keys by the time of their last use.
    order: BTreeMap<u64, K>,
    clock: u64,
    weight: usize,
}

struct Held<V> {
    cell: Arc<Mutex<Option<V>>>,
    used: u64,
    weight: usize,
}

impl<K: Copy + Eq + Hash, V: Clone> Shelf<K, V> {
    pub(crate) fn new(max_weight: usize) -> Shelf<K, V> {
        let state = State { held: HashMap::new(), order: BTreeMap::new(), clock: 0, weight: 0 };
        Shelf { state: Mutex::new(state), max_weight }
    }

    /// The value of `key`, made by `load` (value and weight) when it is not held. Threads that want the same value wait for
    /// the one that makes it. A failure is handed to its caller alone and not remembered.
    pub(crate) fn get(&self, key: K, load: impl FnOnce() -> Result<(V, usize)>) -> Result<V> {
        self.get_if(key, |_| true, |_| load())
    }

    /// As `get`, but a value that is held and does not `fit` is replaced. `load` is told whether that is so.
    pub(crate) fn get_if(
        &self,
        key: K,
        fits: impl Fn(&V) -> bool,
        load: impl FnOnce(bool) -> Result<(V, usize)>,
    ) -> Result<V> {
        let cell = lock(&self.state).touch(key);
        let mut content = lock(&cell);
        match &*content {
            Some(value) if fits(value) => return Ok(value.clone()),
            _ => {}
        }
        match load(content.is_some()) {
            Ok((value, weight)) => {
                *content = Some(value.clone());
                drop(content);
                lock(&self.state).weigh(key, &cell, weight, self.max_weight);
                Ok(value)
            }
            Err(error) => {
                drop(content);
                lock(&self.state).remove_if(key, &cell);
                Err(error)
            }
        }
    }

    /// Forgets the value of `key`.
    pub(crate) fn remove(&self, key: K) {
        lock(&self.state).remove(key);
    }
}

impl<K: Copy + Eq + Hash, V> State<K, V> {
    fn touch(&mut self, key: K) -> Arc<Mutex<Option<V>>> {
        self.clock += 1;
        let now = self.clock;
        let held = self.held.entry(key).or_insert_with(|| Held { cell: Arc::default(), used: 0, weight: 0 });
        self.order.remove(&held.used);
        held.used = now;
        self.order.insert(now, key);
        held.cell.clone()
    }

    /// Notes what a value weighs, and makes room. It may be gone already: then nothing is owed.
    fn weigh(&mut self, key: K, cell: &Arc<Mutex<Option<V>>>, weight: usize, max_weight: usize) {
        match self.held.get_mut(&key) {
            Some(held) if Arc::ptr_eq(&held.cell, cell) => {
                self.weight = self.weight - held.weight + weight;
                held.weight = weight;
            }
            _ => return,
        }
        while self.weight > max_weight && self.order.len() > 1 {
            let oldest = self.order.first_key_value().map(|(_, key)| *key);
            oldest.into_iter().for_each(|key| self.remove(key));
        }
    }

    fn remove_if(&mut self, key: K, cell: &Arc<Mutex<Option<V>>>) {
        if self.held.get(&key).is_some_and(|held| Arc::ptr_eq(&held.cell, cell)) {
            self.remove(key);
        }
    }

    fn remove(&mut self, key: K) {
        if let Some(held) = self.held.remove(&key) {
            self.order.remove(&held.used);
            self.weight -= held.weight;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    #[test]
    fn the_least_recently_used_goes_first() {
        let shelf = Shelf::new(30);
        let loads = AtomicUsize::new(0);
        let get = |key: u32| {
            shelf.get(key, || {
                loads.fetch_add(1, SeqCst);
                Ok((key, 10))
            })
        };
        for key in [1, 2, 3, 1, 4] {
            assert_eq!(get(key).unwrap(), key);
        }
        assert_eq!(loads.load(SeqCst), 4);
        get(1).unwrap();
        assert_eq!(loads.load(SeqCst), 4);
        get(2).unwrap();
        assert_eq!(loads.load(SeqCst), 5);
        assert_eq!(lock(&shelf.state).weight, 30);
    }

    #[test]
    fn what_does_not_fit_is_replaced_and_weighed_anew() {
        let shelf: Shelf<u32, u32> = Shelf::new(100);
        let at_least = |wanted: u32| {
            shelf.get_if(7, |have| *have >= wanted, |known| Ok((wanted, if known { 30 } else { 10 }))).unwrap()
        };
        assert_eq!([at_least(3), at_least(2), at_least(5), at_least(4)], [3, 3, 5, 5]);
        assert_eq!(lock(&shelf.state).weight, 30);
        assert!(shelf.get_if(7, |_| false, |_| Err(Error::damaged("x"))).is_err());
        assert_eq!(lock(&shelf.state).weight, 0);
    }

    #[test]
    fn one_of_many_threads_loads_and_failures_are_tried_again() {
        let shelf: Shelf<u32, u32> = Shelf::new(100);
        let loads = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    shelf.get(7, || {
                        loads.fetch_add(1, SeqCst);
                        std::thread::sleep(std::time::Duration::from_millis(20));
                        Ok((7, 1))
                    })
                });
            }
        });
        assert_eq!(loads.load(SeqCst), 1);
        assert!(shelf.get(8, || Err(Error::damaged("x"))).is_err());
        assert_eq!(shelf.get(8, || Ok((8, 1))).unwrap(), 8);
    }
}
