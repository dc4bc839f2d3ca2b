use super::*;
use crate::error::{Error, Result};
use crate::id::Id;
use crate::index::{Index, Location};
use crate::node::{encode_inner, encode_leaf, Child, Chunk, Content, Directory, Entry, Key, List, Sequence, What};
use crate::pack::{Kind, Pack};
use crate::progress::Progress;
use crate::reader::Reader;
use crate::testing::*;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

fn trees(store: &mut TestStore, roots: &[Id], bad: &[Id]) -> TreesChecked {
    check_trees(&store.reader(), roots, bad, None, &Progress::default()).unwrap()
}

fn all_packs(store: &TestStore) -> Vec<(Kind, Id, u64)> {
    store.index.packs.lock().unwrap().clone()
}

fn packs(store: &TestStore, read_data: bool) -> PacksChecked {
    let options = PackOptions { read_data, ..PackOptions::default() };
    check_packs(store.dir.path(), &store.keys, &all_packs(store), options, &Progress::default()).unwrap()
}

fn named(checked: &TreesChecked) -> Vec<(usize, String)> {
    let mut all: Vec<_> =
        checked.problems.iter().map(|p| (p.root, String::from_utf8(p.path.clone()).unwrap())).collect();
    all.sort();
    all
}

/// Two roots that share the directory `shared`, with a long file, attributes and hard links.
fn two_roots(store: &mut TestStore) -> (Vec<Id>, Entry) {
    store.block_bytes = 20_000;
    let long = store.file("long", &noise(1, 3_000_000));
    let middle = store.file("middle", &noise(2, 100_000));
    let files: Vec<Entry> = (0..700).map(|n| store.file(&format!("s{n:03}"), &noise(n + 50, 300))).collect();
    let inner = store.dir("inner", files);
    let shared = store.dir("shared", vec![inner, long.clone(), middle]);
    let own = store.file("own", &noise(3, 5000));
    let first = store.dir("", vec![own.clone(), shared.clone()]);
    let links = (0..100).map(|n| link(&format!("z{n:03}"), "own")).collect();
    let mut again = shared;
    again.name = b"again".as_slice().into();
    let second = store.dir("", vec![again]);
    let roots = vec![store.root(first, links), store.root(second, vec![])];
    store.flush();
    (roots, long)
}

#[test]
fn intact_trees_are_read_once() {
    for mut store in [TestStore::new(), TestStore::sealed()] {
        let (roots, _) = two_roots(&mut store);
        let one = trees(&mut store, &roots[..1], &[]);
        assert_eq!((one.problem_count, one.problems, one.complete), (0, vec![], true));
        assert!(one.chunks > 790 && one.nodes >= 8, "{} {}", one.chunks, one.nodes);
        let both = trees(&mut store, &roots, &[]);
        assert_eq!((both.problem_count, both.chunks), (0, one.chunks));
        assert_eq!(both.nodes, one.nodes + 2);
    }
}

#[test]
fn missing_chunks_are_named_in_every_root() {
    let mut store = TestStore::new();
    let (roots, long) = two_roots(&mut store);
    let small = store.keys.chunk_id(&noise(57, 300));
    let chunks = store.reader().chunks(&long).unwrap();
    let removed = [small, chunks[3].2.unwrap(), chunks[40].2.unwrap()];
    for id in &removed {
        store.index.places.lock().unwrap().remove(id);
    }
    let found = trees(&mut store, &roots, &[]);
    let expected = [(0, "shared/inner/s007"), (0, "shared/long"), (1, "again/inner/s007"), (1, "again/long")];
    assert_eq!(named(&found), expected.map(|(root, path)| (root, path.to_string())));
    assert!(found.problems.iter().any(|p| p.reason.contains("2 of its chunks")), "{:?}", found.problems);
    assert_eq!(found.problem_count, 4);
    // What is only said to be bad, is named the same way.
    let mut store = TestStore::new();
    let (roots, _) = two_roots(&mut store);
    assert_eq!(named(&trees(&mut store, &roots, &removed)), named(&found));
}

#[test]
fn damaged_nodes_and_missing_packs_are_named() {
    let mut store = TestStore::new();
    let (roots, _) = two_roots(&mut store);
    let reader = store.reader();
    let What::Directory(top) = reader.root(&roots[0]).unwrap().entry.what else { panic!() };
    let shared = reader.child(&top, b"shared").unwrap().unwrap();
    let What::Directory(shared) = shared.what else { panic!() };
    let found = trees(&mut store, &roots, &[shared.node.unwrap()]);
    assert_eq!(named(&found), [(0, "shared".to_string()), (1, "again".to_string())]);
    let own = store.keys.chunk_id(&noise(3, 5000));
    let path = store.pack_path(&own);
    fs::rename(&path, path.with_extension("gone")).unwrap();
    let found = trees(&mut store, &roots, &[]);
    assert!(named(&found).contains(&(0, "own".to_string())));
    assert!(found.problems.iter().all(|p| p.reason.contains("missing")), "{:?}", found.problems);
    fs::rename(path.with_extension("gone"), path).unwrap();
    assert_eq!(trees(&mut store, &roots, &[]).problem_count, 0);
    let found = trees(&mut store, &[roots[0], Id([5; 32])], &[]);
    assert_eq!(named(&found), [(1, String::new())]);
}

#[test]
fn lies_about_numbers_are_found() {
    let mut store = TestStore::new();
    let file = store.file("f", &noise(1, 1000));
    let good = store.directory(vec![file.clone()]);
    let lies = [
        Directory { entries: 2, ..good },
        Directory { bytes: 999, ..good },
        Directory { items: 2, ..good },
        Directory { node: Some(Id([3; 32])), ..good },
    ];
    for lie in lies {
        let top = store.dir("", vec![entry("good", What::Directory(good)), entry("lie", What::Directory(lie))]);
        let root = store.root(top, vec![]);
        assert_eq!(named(&trees(&mut store, &[root], &[])), [(0, "lie".to_string())]);
    }
    // An inner node that lies about a leaf that is clean elsewhere.
    let leaves = [["a", "b"], ["c", "d"]].map(|names| names.map(|name| entry(name, What::Fifo)).to_vec());
    let ids = leaves.clone().map(|leaf| store.node(&encode_leaf(&leaf)));
    let inner = |store: &mut TestStore, last: &str| {
        let child = |key: &str, id| Child { key: Key::Bytes(key.into()), items: 2, id };
        let node = store.node(&encode_inner(1, 1, &[child("b", ids[0]), child(last, ids[1])]));
        What::Directory(Directory { items: 4, node: Some(node), entries: 4, bytes: 0 })
    };
    let (right, wrong) = (inner(&mut store, "d"), inner(&mut store, "e"));
    let top = store.dir("", vec![entry("right", right), entry("wrong", wrong)]);
    let root = store.root(top, vec![]);
    assert_eq!(named(&trees(&mut store, &[root], &[])), [(0, "wrong".to_string())]);
    // A chunk that is shorter than the tree says, and a list of another sum.
    let id = store.chunk(&noise(1, 1000));
    let short = entry("short", What::File { size: 2000, content: Content::One(id), holes: None });
    let list = store.list(&noise(2, 3_000_000));
    let sum = entry("sum", What::File { size: 3_000_001, content: Content::Chunks(Box::new(list)), holes: None });
    let top = store.dir("", vec![file, short, sum]);
    let root = store.root(top, vec![]);
    let found = trees(&mut store, &[root], &[]);
    assert_eq!(named(&found), [(0, "short".to_string()), (0, "sum".to_string())]);
}

#[test]
fn trees_deeper_than_allowed_and_trees_of_shared_directories_end() {
    let mut store = TestStore::new();
    let mut directory = Directory::default();
    for _ in 0..4200 {
        directory = store.directory(vec![entry("d", What::Directory(directory))]);
    }
    let root = store.root(entry("", What::Directory(directory)), vec![]);
    let found = trees(&mut store, &[root], &[]);
    assert_eq!(found.problem_count, 1);
    assert_eq!(found.problems[0].path.len(), 2 * 4097 - 1);
    // Each level holds the one below many times, and at the bottom something is missing: 10^30 paths.
    let lost = entry("lost", What::File { size: 1000, content: Content::One(Id([9; 32])), holes: None });
    let mut directory = store.directory(vec![lost]);
    for _ in 0..30 {
        let names = (0..10).map(|n| entry(&format!("d{n}"), What::Directory(directory))).collect::<Vec<_>>();
        let node = store.sequence(Sequence::of_nodes(), names);
        let List::Node { items, id } = node else { panic!() };
        let entries = (directory.entries.saturating_add(1)).saturating_mul(10).min(i64::MAX as u64);
        directory = Directory {
            items,
            node: Some(id),
            entries,
            bytes: directory.bytes.saturating_mul(10).min(i64::MAX as u64),
        };
    }
    let root = store.root(entry("", What::Directory(directory)), vec![]);
    let found = trees(&mut store, &[root], &[]);
    assert_eq!(found.problems.len(), MAX_PROBLEMS);
    assert!(found.problem_count > MAX_PROBLEMS as u64 && found.chunks == 1);
}

#[test]
fn every_flipped_byte_of_a_pack_is_found_and_costs_its_block_only() {
    let mut store = TestStore::sealed();
    store.block_bytes = 3000;
    for n in 0..8 {
        store.chunk(&noise(n, 1000));
    }
    store.flush();
    let good = packs(&store, true);
    assert_eq!((good.problems, good.bad_ids, good.complete, good.packs), (vec![], vec![], true, 1));
    assert_eq!(good.checked, vec![all_packs(&store)[0].1]);
    let path = store.pack_path(&store.keys.chunk_id(&noise(0, 1000)));
    let bytes = fs::read(&path).unwrap();
    for at in (0..bytes.len()).step_by(7) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x10;
        fs::write(&path, &damaged).unwrap();
        let found = packs(&store, true);
        assert_eq!((found.problems.len(), found.problem_count), (1, 1), "byte {at}: {:?}", found.problems);
        assert!(found.bad_ids.len() <= 3, "byte {at}");
        if packs(&store, false).problems.is_empty() {
            assert!(!found.bad_ids.is_empty(), "byte {at}");
        }
    }
    fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    assert!(!packs(&store, false).problems.is_empty());
    fs::remove_file(&path).unwrap();
    let found = packs(&store, false);
    assert!(found.problems[0].reason.contains("missing"));
}

#[test]
fn bad_ids_of_which_another_pack_has_a_copy_are_forgiven() {
    let mut store = TestStore::new();
    store.block_bytes = 3000;
    let ids: Vec<Id> = (0..6).map(|n| store.chunk(&noise(n, 1000))).collect();
    store.flush();
    let bad = store.damage(&ids[4]);
    let mut found = packs(&store, true).bad_ids;
    let mut expected = bad.clone();
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
    let mut other = TestStore::new();
    other.chunk(&noise(4, 1000));
    other.flush();
    let (kind, id, size) = all_packs(&other)[0];
    let copy = crate::pack::path(store.dir.path(), kind, &id);
    fs::create_dir_all(copy.parent().unwrap()).unwrap();
    fs::copy(other.pack_path(&ids[4]), copy).unwrap();
    store.index.packs.lock().unwrap().push((kind, id, size));
    expected.retain(|id| *id != ids[4]);
    assert_eq!(packs(&store, true).bad_ids, expected);
    // And trees are checked with what is left.
    let chunk = Chunk { len: 1000, id: ids[4] };
    let file = What::File { size: 1000, content: crate::node::content_of(List::InPlace(vec![chunk])), holes: None };
    let top = store.dir("", vec![entry("f", file)]);
    let root = store.root(top, vec![]);
    assert_eq!(trees(&mut store, &[root], &expected).problem_count, 0);
    assert_eq!(trees(&mut store, &[root], &bad).problem_count, 1);
}

#[test]
fn limits_and_cancelling_end_a_check() -> Result<()> {
    let mut store = TestStore::new();
    store.pack_bytes = 10_000;
    for n in 0..40 {
        store.chunk(&noise(n, 5000));
    }
    store.flush();
    let options = PackOptions { read_data: true, time_limit: Some(Duration::ZERO), threads: 2 };
    let found = check_packs(store.dir.path(), &store.keys, &all_packs(&store), options, &Progress::default())?;
    assert_eq!((found.complete, found.packs), (false, 0));
    let cancelled = Progress::default();
    cancelled.cancel();
    let options = PackOptions::default();
    let found = check_packs(store.dir.path(), &store.keys, &all_packs(&store), options, &cancelled);
    assert!(matches!(found, Err(Error::Cancelled)));
    let top = store.dir("", vec![]);
    let root = store.root(top, vec![]);
    assert!(matches!(check_trees(&store.reader(), &[root], &[], None, &cancelled), Err(Error::Cancelled)));
    Ok(())
}

/// An index that takes its time.
struct Slow(Arc<MapIndex>);

impl Index for Slow {
    fn locate(&self, ids: &[Id]) -> Result<Vec<Option<Location>>> {
        std::thread::sleep(Duration::from_millis(300));
        self.0.locate(ids)
    }

    fn pack(&self, number: u32) -> Result<(Kind, Id)> {
        self.0.pack(number)
    }

    fn add_pack(&self, pack: Pack) -> Result<()> {
        self.0.add_pack(pack)
    }
}

#[test]
fn a_time_limit_ends_the_checking_of_trees() -> Result<()> {
    let mut store = TestStore::new();
    let (roots, _) = two_roots(&mut store);
    let found = check_trees(&store.reader(), &roots, &[], Some(Duration::ZERO), &Progress::default())?;
    assert_eq!((found.complete, found.nodes, found.problem_count), (false, 0, 0));
    let limit = Some(Duration::from_secs(3600));
    assert!(check_trees(&store.reader(), &roots, &[], limit, &Progress::default())?.complete);
    // Damage that was found when there was no time left to name it.
    let root =
        store.root(entry("", What::File { size: 1000, content: Content::One(Id([9; 32])), holes: None }), vec![]);
    store.flush();
    let index = Arc::new(Slow(store.index.clone()));
    let reader = Arc::new(Reader::new(store.dir.path(), store.keys.clone(), index, 1 << 20));
    let found = check_trees(&reader, &[root], &[], Some(Duration::from_millis(200)), &Progress::default())?;
    assert_eq!((found.complete, named(&found)), (false, vec![(0, String::new())]));
    assert!(found.problems[0].reason.contains("before that could be named"), "{:?}", found.problems);
    Ok(())
}
