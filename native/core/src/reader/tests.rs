use super::*;
use crate::index::Location;
use crate::node::{encode_inner, encode_leaf, Child, Sequence};
use crate::testing::*;
use std::sync::atomic::Ordering::SeqCst;

fn directory_of(entry: &Entry) -> Directory {
    match entry.what {
        What::Directory(directory) => directory,
        _ => panic!("not a directory"),
    }
}

fn damaged<T>(result: Result<T>) -> String {
    match result {
        Err(Error::Damaged(why)) => why,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it was read"),
    }
}

#[test]
fn content_is_read_at_any_offset() {
    for mut store in [TestStore::new(), TestStore::sealed()] {
        let mut data = noise(1, 3_000_000);
        data[500_000..900_000].fill(0);
        let long = store.file("long", &data);
        let short = store.file("short", &data[..100]);
        let middle = store.file("middle", &data[..70_000]);
        assert!(matches!(&long.what, What::File { content: Content::Chunks(l), .. } if l.items() > 32));
        let reader = store.reader();
        for (entry, len) in [(&long, 3_000_000), (&short, 100), (&middle, 70_000)] {
            let data = &data[..len];
            assert_eq!(reader.read(entry, 0, u64::MAX).unwrap(), data);
            for (start, size) in [(0, 1), (len / 2, 100_000), (len - 1, 1), (len - 1, 50), (len, 1), (len + 5, 1)] {
                let end = (start + size).min(len);
                let expected = &data[start.min(len)..end];
                assert_eq!(reader.read(entry, start as u64, size as u64).unwrap(), expected, "{start} {size}");
            }
        }
        let chunks = reader.chunks(&long).unwrap();
        assert!(chunks.iter().any(|(start, len, id)| id.is_none() && *start > 500_000 && *len > 100_000));
        assert_eq!(chunks.iter().map(|(_, len, _)| len).sum::<u64>(), 3_000_000);
    }
}

#[test]
fn small_reads_in_any_order_decode_blocks_only_as_far_as_needed() {
    for mut store in [TestStore::new(), TestStore::sealed()] {
        let data: Vec<u8> = noise(1, 1_500_000).into_iter().flat_map(|byte| [byte, 0]).collect();
        let file = store.file("f", &data);
        let reader = store.reader();
        let places = noise(2, 800);
        for place in places.chunks(4) {
            let at = u32::from_le_bytes(place.try_into().unwrap()) as usize % data.len();
            let end = (at + 5000).min(data.len());
            assert_eq!(reader.read(&file, at as u64, 5000).unwrap(), &data[at..end]);
        }
        assert_eq!(reader.read(&file, 0, u64::MAX).unwrap(), data);
    }
}

#[test]
fn directories_are_listed_and_searched() {
    let mut store = TestStore::new();
    let entries: Vec<Entry> = (0..5000).map(|n| store.file(&format!("f{n:05}"), &noise(n, 10))).collect();
    let dir = store.dir("d", entries.clone());
    let empty = store.dir("e", vec![]);
    let reader = store.reader();
    assert_eq!(reader.children(&directory_of(&dir)).unwrap(), entries);
    assert_eq!(reader.children(&directory_of(&empty)).unwrap(), vec![]);
    for at in [0, 1, 255, 256, 2500, 4999] {
        assert_eq!(reader.child(&directory_of(&dir), &entries[at].name).unwrap().as_ref(), Some(&entries[at]));
    }
    for name in ["", "a", "f00000x", "z"] {
        assert_eq!(reader.child(&directory_of(&dir), name.as_bytes()).unwrap(), None);
    }
    assert_eq!(reader.child(&directory_of(&empty), b"a").unwrap(), None);
}

#[test]
fn the_index_is_asked_in_batches_and_not_at_all_after_preloading() {
    let mut store = TestStore::new();
    let data = noise(1, 2_000_000);
    let file = store.file("f", &data);
    let reader = store.reader();
    assert_eq!(reader.read(&file, 0, u64::MAX).unwrap(), data);
    let calls = store.index.calls.swap(0, SeqCst);
    assert!(calls <= 4, "{calls} calls");
    let reader = store.reader();
    reader.preload(&store.packs());
    store.index.places.lock().unwrap().clear();
    assert_eq!(reader.read(&file, 0, u64::MAX).unwrap(), data);
    assert_eq!(store.index.calls.load(SeqCst), 0);
}

#[test]
fn damage_is_named_and_another_copy_is_used() {
    let mut store = TestStore::new();
    let data = noise(1, 5000);
    let id = store.chunk(&data);
    store.flush();
    store.damage(&id);
    let why = damaged(store.reader().chunk(&id));
    let pack = store.pack_path(&id);
    assert!(why.contains(&id.hex()) && why.contains(pack.file_name().unwrap().to_str().unwrap()), "{why}");

    let mut other = TestStore::new();
    other.chunk(b"something else");
    other.chunk(&data);
    other.flush();
    let (kind, copy) = other.packs()[0];
    let path = pack::path(store.dir.path(), kind, &copy);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::copy(other.pack_path(&id), path).unwrap();
    let reader = store.reader();
    reader.preload(&[store.packs()[0], (kind, copy)]);
    assert_eq!(*reader.chunk(&id).unwrap(), *data);
    std::fs::remove_file(&pack).unwrap();
    let reader = store.reader();
    reader.preload(&[(kind, copy)]);
    assert_eq!(*reader.chunk(&id).unwrap(), *data);
    assert!(damaged(store.reader().chunk(&id)).contains("missing"));
    assert!(damaged(store.reader().node(&id)).contains("node"));
}

#[test]
fn wrong_locations_never_give_wrong_bytes() {
    let mut store = TestStore::new();
    let ids: Vec<Id> = (0..4).map(|n| store.chunk(&noise(n, 1000))).collect();
    store.flush();
    let right = store.index.places.lock().unwrap()[&ids[1]];
    for wrong in [
        Location { offset: right.offset + 1, ..right },
        Location { len: right.len - 1, ..right },
        Location { len: right.len + 1, ..right },
        Location { len: (1 << 24) - 1, ..right },
        Location { offset: (1 << 24) - 1, ..right },
        Location { block: 60_000, ..right },
    ] {
        store.index.places.lock().unwrap().insert(ids[1], wrong);
        damaged(store.reader().chunk(&ids[1]));
        assert_eq!(*store.reader().chunk(&ids[2]).unwrap(), *noise(2, 1000));
    }
    // A place that was right once is asked for again.
    let reader = store.reader();
    damaged(reader.chunk(&ids[1]));
    store.index.places.lock().unwrap().insert(ids[1], right);
    assert_eq!(*reader.chunk(&ids[1]).unwrap(), *noise(1, 1000));
}

#[test]
fn many_threads_share_a_reader() {
    let mut store = TestStore::new();
    let data = noise(3, 4_000_000);
    let file = store.file("f", &data);
    let reader = store.reader();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (reader, file, data) = (&reader, &file, &data);
            scope.spawn(move || {
                for step in 0..40 {
                    let at = (step * 7919 * (thread + 1)) % 3_900_000;
                    assert_eq!(reader.read(file, at as u64, 100_000).unwrap(), &data[at..at + 100_000]);
                }
            });
        }
    });
}

/// A directory of two leaves under an inner node that says what `change` makes of the truth.
fn hostile(change: impl Fn(&mut Vec<Child>, &mut u8)) -> (TestStore, Directory) {
    let mut store = TestStore::new();
    let leaves = [["a", "b"], ["c", "d"]].map(|names| names.map(|name| entry(name, What::Fifo)).to_vec());
    let mut children = Vec::new();
    for leaf in &leaves {
        let id = store.node(&encode_leaf(leaf));
        children.push(Child { key: Key::Bytes(leaf[1].name.to_vec()), items: 2, id });
    }
    let mut level = 1;
    change(&mut children, &mut level);
    let node = store.node(&encode_inner(1, level, &children));
    (store, Directory { items: 4, node: Some(node), entries: 4, bytes: 0 })
}

#[test]
fn contradicting_directory_nodes_are_refused() {
    let (mut store, directory) = hostile(|_, _| {});
    assert_eq!(store.reader().children(&directory).unwrap().len(), 4);
    assert!(store.reader().children(&Directory { items: 5, ..directory }).is_err());
    let swap: fn(&mut Vec<Child>, &mut u8) = |children, _| {
        let id = children[0].id;
        children[0].id = children[1].id;
        children[1].id = id;
    };
    let changes: [fn(&mut Vec<Child>, &mut u8); 7] = [
        swap,
        |children, _| children[0].items = 3,
        |children, _| (children[0].items, children[1].items) = (1, 3),
        |children, _| children[0].items = u64::MAX / 2,
        |children, _| children[1].key = Key::Bytes(b"e".to_vec()),
        |_, level| *level = 2,
        |children, _| drop(children.pop()),
    ];
    for (number, change) in changes.iter().enumerate() {
        let (mut store, directory) = hostile(change);
        damaged(store.reader().children(&directory).map_err(|error| match error {
            Error::Damaged(why) => Error::Damaged(format!("{number}: {why}")),
            other => other,
        }));
    }
    // The same leaf twice is not in order.
    let (mut store, directory) = hostile(|children, _| {
        children[1].id = children[0].id;
        children[1].key = Key::Bytes(b"bb".to_vec());
    });
    damaged(store.reader().children(&directory));
}

#[test]
fn contradicting_chunk_lists_are_refused() {
    let mut store = TestStore::new();
    let data = noise(5, 2_000_000);
    let list = store.list(&data);
    let List::Node { items, id } = list else { panic!() };
    let file = |size: u64, items: u64, id: Id| {
        let content = Content::Chunks(Box::new(List::Node { items, id }));
        entry("f", What::File { size, content, holes: None })
    };
    let size = data.len() as u64;
    let reader = store.reader();
    assert_eq!(reader.read(&file(size, items, id), 0, size).unwrap(), data);
    for (size, items) in [(size + 1, items), (size - 1, items), (size, items + 1), (i64::MAX as u64, items)] {
        damaged(reader.read(&file(size, items, id), 0, 10));
        damaged(reader.chunks(&file(size, items, id)));
    }
    // A list that says another length than the chunk has.
    let chunk = store.chunk(&noise(6, 5000));
    let lie = entry(
        "f",
        What::File {
            size: 6000,
            content: Content::Chunks(Box::new(List::InPlace(vec![Chunk { len: 6000, id: chunk }]))),
            holes: None,
        },
    );
    damaged(store.reader().read(&lie, 0, 6000));
    let lie = entry("f", What::File { size: 4999, content: Content::One(chunk), holes: None });
    damaged(store.reader().read(&lie, 0, 10));
}

#[test]
fn hole_maps_and_link_tables_stream() {
    let mut store = TestStore::new();
    let holes: Vec<Hole> = (0..3000).map(|n| Hole { start: n * 8192, end: n * 8192 + 4096 }).collect();
    let list = store.sequence(Sequence::of_list(), holes.clone());
    let size = 3000 * 8192;
    let run = Content::Chunks(Box::new(List::InPlace(vec![Chunk { len: size, id: ZERO_ID }])));
    let file = entry("f", What::File { size, content: run, holes: Some(Box::new(list.clone())) });
    let links: Vec<Link> = (0..3000).map(|n| link(&format!("b/{n:04}"), "a")).collect();
    let dir = store.dir("", vec![]);
    let root = store.root(dir, links.clone());
    let reader = store.reader();
    assert_eq!(reader.holes(&file).unwrap(), holes);
    let mut some = Holes::new(Some(&list), size);
    assert_eq!(some.next_from(&reader, 1_000_000).unwrap(), Some(Hole { start: 122 * 8192, end: 122 * 8192 + 4096 }));
    assert!(Holes::new(Some(&list), size - 5000).next_from(&reader, size - 9000).is_err());
    let root = reader.root(&root).unwrap();
    assert_eq!(reader.links(&root).unwrap(), links);
}
