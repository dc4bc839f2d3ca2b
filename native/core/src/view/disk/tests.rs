use std::sync::atomic::Ordering::Relaxed;

use super::*;
use crate::node::{Hole, List, Time};
use crate::testing::{noise, TestStore};
use crate::view::{Looks, Seek};

const SIZE: usize = 2 << 20;
const PART: Range<usize> = 100 * 512..3100 * 512;

/// With one partition, and noise in it.
fn image(seed: u64) -> Vec<u8> {
    let mut image = vec![0; SIZE];
    image[446 + 4] = 0x83;
    image[446 + 8..446 + 12].copy_from_slice(&100u32.to_le_bytes());
    image[446 + 12..446 + 16].copy_from_slice(&3000u32.to_le_bytes());
    image[510..512].copy_from_slice(&[0x55, 0xaa]);
    image[1000..300_000].copy_from_slice(&noise(seed, 299_000));
    image
}

fn view(store: &mut TestStore, entries: Vec<Entry>, partitions: bool) -> View {
    let top = store.dir("", entries);
    let root = store.root(top, Vec::new());
    let view = View::new(store.reader(), Looks { partitions, ..Looks::default() }, 1 << 20, 0);
    view.add(b"s", "id", &[(b"/top".to_vec(), root)], Time::default()).unwrap();
    view
}

fn names(view: &View, path: &[u8]) -> Vec<String> {
    let at = view.find(b"s", path).unwrap().unwrap();
    let mut found = Vec::new();
    // One by one, as when buffers are small.
    let mut from = Some(0);
    while let Some(number) = from.take() {
        view.list(&at, number, &mut |next, name, _| {
            found.push(String::from_utf8(name.to_vec()).unwrap());
            from = Some(next);
            false
        })
        .unwrap();
    }
    found
}

#[test]
fn a_partition_is_a_part_of_its_image() {
    let mut store = TestStore::new();
    let bytes = image(1);
    let mut entry = store.file("disk.img", &bytes);
    let hole = Hole { start: 400 << 10, end: SIZE as u64 };
    let What::File { holes, .. } = &mut entry.what else { unreachable!() };
    *holes = Some(Box::new(List::InPlace(vec![hole])));
    entry.mode = 0o4640;
    let view = view(&mut store, vec![entry], true);
    let disk = view.find(b"s", b"/top/disk.img.partitions").unwrap().unwrap();
    assert_eq!(view.attributes(&disk).unwrap().mode, libc::S_IFDIR | 0o750);
    let part = view.find(b"s", b"/top/disk.img.partitions/1").unwrap().unwrap();
    let found = view.attributes(&part).unwrap();
    let data = (400 << 10) - PART.start as u64;
    assert_eq!((found.mode, found.size), (libc::S_IFREG | 0o640, PART.len() as u64));
    assert_eq!(found.blocks, data.div_ceil(4096) * 8);
    let mut out = vec![1; SIZE];
    for offset in [0, 1, 5000, PART.len() - 10, PART.len(), PART.len() + 1, usize::MAX] {
        let wanted = &bytes[PART][offset.min(PART.len())..];
        assert_eq!(view.read(&part, offset as u64, &mut out).unwrap(), wanted.len());
        assert!(out[..wanted.len()] == *wanted);
    }
    let end = PART.len() as u64;
    let seek = |from, what| view.seek(&part, from, what).unwrap();
    assert_eq!([seek(7, Seek::Data), seek(7, Seek::Hole)], [Some(7), Some(data)]);
    assert_eq!([seek(data, Seek::Data), seek(data + 7, Seek::Hole)], [None, Some(data + 7)]);
    assert_eq!([seek(end, Seek::Data), seek(end, Seek::Hole), seek(u64::MAX, Seek::Hole)], [None; 3]);
    assert_eq!(view.chunk_lines(&part, 1000).unwrap(), "");
}

#[test]
fn disks_stand_behind_all_entries_and_are_shown_when_wanted() {
    let mut store = TestStore::new();
    let entries = vec![store.file("a.img", &image(1)), store.file("b", &image(2)), store.file("c.raw", &image(3))];
    let all = view(&mut store, entries.clone(), true);
    assert_eq!(names(&all, b"/top"), ["a.img", "b", "c.raw", "a.img.partitions", "c.raw.partitions"]);
    assert_eq!(names(&all, b"/top/a.img.partitions"), ["1"]);
    let plain = view(&mut store, entries, false);
    assert_eq!(names(&plain, b"/top"), ["a.img", "b", "c.raw"]);
    assert!(plain.find(b"s", b"/top/a.img.partitions").unwrap().is_none());
}

#[test]
fn a_table_is_read_once() {
    let mut store = TestStore::new();
    let entries = vec![store.file("a.img", &image(1)), store.file("none.img", &vec![7; SIZE])];
    let view = view(&mut store, entries, true);
    names(&view, b"/top");
    let calls = store.index.calls.load(Relaxed);
    names(&view, b"/top");
    assert!(view.find(b"s", b"/top/none.img.partitions").unwrap().is_none());
    assert!(view.find(b"s", b"/top/a.img.partitions/1").unwrap().is_some());
    assert_eq!(store.index.calls.load(Relaxed), calls);
}

#[test]
fn a_damaged_image_does_not_hide_its_neighbours() {
    let mut store = TestStore::new();
    let mut lost = store.file("a.img", &image(2));
    let What::File { content: Content::Chunks(list), .. } = &mut lost.what else { unreachable!() };
    let List::InPlace(chunks) = &mut **list else { unreachable!() };
    chunks[0].id = Id([9; 32]);
    let entries = vec![lost, store.file("b.img", &image(1))];
    let view = view(&mut store, entries, true);
    assert_eq!(names(&view, b"/top"), ["a.img", "b.img", "b.img.partitions"]);
    assert!(view.find(b"s", b"/top/a.img.partitions").is_err());
}

#[test]
fn what_is_kept_of_tables_is_bounded() {
    let entry = crate::testing::entry("a", What::File { size: 1, content: Content::Empty, holes: None });
    let many = |number| Partition { number, start: 1, len: 1 };
    let disk = Disk::new(&entry, &(1..=1024).map(many).collect::<Vec<_>>());
    assert!(disk.kept_bytes() < KEPT_BYTES / 8);
    assert_eq!([disk.called(b"1024"), disk.called(b"01"), disk.called(b"")], [Some(1023), None, None]);
}
