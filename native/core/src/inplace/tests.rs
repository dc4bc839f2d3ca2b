use std::collections::HashMap;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;

use super::journal::{Action, Attributes, Head, Identity, Pair, Record, State};
use super::patch::{self, Medium, Range};
use super::plan::plan;
use super::*;
use crate::node::{Entry, Hole, Link, Time, What};
use crate::testing::{entry, link, noise, TestStore};

fn head() -> Head {
    Head {
        tops: vec![b"/somewhere".to_vec(), b"/else\xff".to_vec()],
        areas: vec![(0, Vec::new()), (1, b"mounted/deep".to_vec())],
        note: b"{\"a\":1}".to_vec(),
    }
}

fn pair() -> Box<Pair> {
    let one = Attributes {
        mode: 0o7777,
        uid: u32::MAX,
        gid: 0,
        mtime: Time { seconds: -1, nanos: 999_999_999 },
        xattrs: None,
    };
    let set = vec![(b"user.a".to_vec(), Vec::new()), (b"user.\xff".to_vec(), vec![0; 70_000])];
    Box::new([one.clone(), Attributes { xattrs: Some(set), ..one }])
}

fn records() -> Vec<Record> {
    let found = Identity { ino: u64::MAX, ctime: Some(Time { seconds: i64::MIN, nanos: 0 }) };
    let other = Identity { ino: 0, ctime: None };
    let actions = vec![
        Action::Create { staged: 7 },
        Action::Replace { staged: u64::MAX, found },
        Action::Delete { found: other },
        Action::Attributes { found, pair: pair() },
        Action::Touch { pair: pair() },
        Action::Patch { found: other, sizes: [0, u64::MAX], ranges: vec![(0, 1), (5, u64::MAX)], pair: Some(pair()) },
    ];
    let record = |(number, action)| Record { number, top: number % 2, area: 1, path: b"a/\xff\n/c".to_vec(), action };
    actions.into_iter().enumerate().map(record).collect()
}

fn encoded(record: &Record) -> Vec<u8> {
    let mut out = Vec::new();
    record.encode(&mut out);
    out
}

#[test]
fn a_journal_says_what_was_written() {
    assert_eq!(Head::decode(&head().encode()).unwrap(), head());
    for record in records() {
        assert_eq!(Record::decode(&encoded(&record), &head()).unwrap(), record);
    }
}

#[test]
fn no_bytes_make_a_journal_do_more_than_fail() {
    let whole: Vec<Vec<u8>> = records().iter().map(encoded).chain([head().encode()]).collect();
    for (number, bytes) in whole.iter().enumerate() {
        for end in (0..bytes.len()).filter(|end| *end < 200 || end % 997 == 0) {
            match number < records().len() {
                true => assert!(Record::decode(&bytes[..end], &head()).is_err()),
                false => assert!(Head::decode(&bytes[..end]).is_err()),
            }
        }
        for round in 0..2_000 {
            let chance = noise(number as u64 * 10_000 + round, 8);
            let mut bytes = bytes.clone();
            for pair in chance.chunks(2) {
                let at = pair[0] as usize % bytes.len().min(120);
                bytes[at] = pair[1];
            }
            if let Ok(decoded) = Record::decode(&bytes, &head()) {
                assert!(decoded.top < 2 && decoded.area < 2);
            }
            if let Ok(decoded) = Head::decode(&bytes) {
                assert!(decoded.areas.iter().all(|(top, _)| *top < decoded.tops.len()));
            }
        }
        let noise = noise(number as u64, 500);
        assert!(Record::decode(&noise, &head()).is_err());
    }
}

#[test]
fn no_path_in_a_journal_leads_out_of_its_top() {
    let record = records().remove(0);
    for path in ["..", ".", "a/../b", "/etc", "a//b", "a/", "../..", "a\0b"] {
        let record = Record { path: path.into(), ..record.clone() };
        assert!(Record::decode(&encoded(&record), &head()).is_err(), "{path:?}");
        let head = Head { areas: vec![(0, path.into())], ..head() };
        assert!(Head::decode(&head.encode()).is_err(), "{path:?}");
    }
    let nowhere = Head { tops: Vec::new(), areas: vec![(0, Vec::new())], note: Vec::new() };
    assert!(Head::decode(&nowhere.encode()).is_err());
    let nowhere = Head { areas: Vec::new(), ..head() };
    assert!(Record::decode(&encoded(&record), &nowhere).is_err());
}

#[test]
fn a_journal_on_disk_is_read_whole_or_not_at_all() {
    let place = tempfile::tempdir().unwrap();
    fs::set_permissions(&place, fs::Permissions::from_mode(0o700)).unwrap();
    let dir: OwnedFd = fs::File::open(&place).unwrap().into();
    assert!(journal::read_head(dir.as_fd()).unwrap().is_none());
    assert_eq!(journal::state(dir.as_fd()).unwrap(), State::Staging);
    journal::begin(dir.as_fd(), &head()).unwrap();
    journal::write_plan(dir.as_fd(), &records()).unwrap();
    journal::set_state(dir.as_fd(), State::Ready).unwrap();
    assert_eq!(journal::read_head(dir.as_fd()).unwrap(), Some(head()));
    assert_eq!(journal::read_plan(dir.as_fd(), &head()).unwrap(), records());
    assert_eq!(journal::state(dir.as_fd()).unwrap(), State::Ready);
    let plan = fs::read(place.path().join("plan")).unwrap();
    for at in (0..plan.len()).step_by(611).chain(plan.len() - 12..plan.len()) {
        let mut bad = plan.clone();
        bad[at] ^= 0x10;
        fs::write(place.path().join("plan"), &bad).unwrap();
        assert!(matches!(journal::read_plan(dir.as_fd(), &head()), Err(Error::Damaged(_))), "{at}");
        fs::write(place.path().join("plan"), &plan[..at]).unwrap();
        assert!(matches!(journal::read_plan(dir.as_fd(), &head()), Err(Error::Damaged(_))), "{at}");
    }
    fs::write(place.path().join("state"), "nothing").unwrap();
    assert!(journal::state(dir.as_fd()).is_err());
    fs::set_permissions(&place, fs::Permissions::from_mode(0o770)).unwrap();
    assert!(matches!(journal::read_head(dir.as_fd()), Err(Error::Damaged(_))), "others can write it");
}

// Ranges

fn differing(store: &mut TestStore, old: &Entry, new: &Entry) -> Option<Vec<Range>> {
    patch::differing(&store.reader(), old, new, Medium::File).unwrap()
}

#[test]
fn ranges_make_one_file_of_another() {
    let mut store = TestStore::new();
    let mut found = 0;
    for round in 0..40u64 {
        let chance = noise(1_000 + round, 8);
        let old = noise(round, 200_000 + usize::from(chance[0]) * 500);
        let mut new = old.clone();
        match chance[1] % 3 {
            0 => new.truncate(old.len() - usize::from(chance[2]) * 300),
            1 => new.extend(noise(2_000 + round, usize::from(chance[2]) * 100)),
            _ => {}
        }
        for edit in &chance[3..6] {
            let at = usize::from(*edit) * new.len() / 300;
            new[at] ^= 1;
        }
        let (one, other) = (store.file("f", &old), store.file("f", &new));
        let Some(ranges) = differing(&mut store, &one, &other) else { continue };
        found += 1;
        let mut patched = old;
        patched.resize(new.len(), 0);
        for (start, end) in &ranges {
            let (start, end) = (*start as usize, *end as usize);
            patched[start..end].copy_from_slice(&new[start..end]);
        }
        assert!(patched == new, "round {round}");
        assert!(ranges.windows(2).all(|two| two[0].1 < two[1].0), "sorted, and joined where they touch");
    }
    assert!(found > 20, "{found}");
    let same = store.file("f", &noise(1, 100_000));
    assert_eq!(differing(&mut store, &same, &same.clone()), Some(Vec::new()));
}

#[test]
fn holes_that_differ_are_ranges() {
    let mut store = TestStore::new();
    let mut one = store.file("f", &noise(1, 200_000));
    let mut other = one.clone();
    let hole = |start, end| Hole { start, end };
    let with = |store: &mut TestStore, entry: &mut Entry, found: Vec<Hole>| {
        if let What::File { holes, .. } = &mut entry.what {
            *holes = Some(Box::new(store.sequence(crate::node::Sequence::of_list(), found)));
        }
    };
    with(&mut store, &mut one, vec![hole(4_096, 8_192), hole(16_384, 20_480)]);
    with(&mut store, &mut other, vec![hole(4_096, 8_192), hole(20_480, 24_576)]);
    assert_eq!(differing(&mut store, &one, &other), Some(vec![(16_384, 24_576)]));
}

// Decisions

/// What is done to each path, and the paths that are conflicts.
type Decided = (Vec<(String, Kind)>, Vec<String>);

fn decided(
    store: &mut TestStore,
    sides: [Vec<Entry>; 3],
    links: [Vec<Link>; 3],
    strategy: Strategy,
    extras: Extras,
) -> Decided {
    let mut links = links.into_iter();
    let [live, wanted, base] = sides.map(|entries| {
        let top = store.dir("", entries);
        store.root(top, links.next().unwrap())
    });
    let tree = |root| Tree { root, below: Vec::new() };
    let part = Part { live: Some(live), wanted: tree(wanted), head: Some(tree(base)), paths: None, extras };
    let choices = Choices { strategy, decided: HashMap::new() };
    let plan = plan(&store.reader(), &[part], &choices, &Progress::default()).unwrap();
    let text = |path: &[u8]| String::from_utf8(path.to_vec()).unwrap();
    let mut items: Vec<_> = plan.items.iter().map(|item| (text(&item.path), item.kind)).collect();
    items.sort_by(|a, b| a.0.cmp(&b.0));
    (items, plan.conflicts.iter().map(|conflict| text(&conflict.path)).collect())
}

fn files(store: &mut TestStore, names: &[(&str, &str)]) -> Vec<Entry> {
    names.iter().map(|(name, text)| store.file(name, text.as_bytes())).collect()
}

#[test]
fn each_side_that_alone_changed_has_its_way() {
    let mut store = TestStore::new();
    let live = files(&mut store, &[("both", "l"), ("extra", "l"), ("live", "l"), ("same", "s"), ("wanted", "h")]);
    let wanted =
        files(&mut store, &[("both", "w"), ("gone", "h"), ("live", "h"), ("new", "w"), ("same", "s"), ("wanted", "w")]);
    let base = files(&mut store, &[("both", "h"), ("gone", "h"), ("live", "h"), ("same", "s"), ("wanted", "h")]);
    let mut of = |strategy, extras| {
        decided(&mut store, [live.clone(), wanted.clone(), base.clone()], Default::default(), strategy, extras)
    };
    let named = |names: &[(&str, Kind)]| names.iter().map(|(name, kind)| (name.to_string(), *kind)).collect::<Vec<_>>();
    let (items, conflicts) = of(Strategy::Overwrite, Extras::Delete);
    let all = [
        ("both", Kind::Replace),
        ("extra", Kind::Delete),
        ("gone", Kind::Create),
        ("live", Kind::Replace),
        ("new", Kind::Create),
        ("wanted", Kind::Replace),
    ];
    assert_eq!((items, conflicts), (named(&all), vec!["both".to_string()]));
    let (items, conflicts) = of(Strategy::Merge, Extras::Delete);
    assert_eq!(items, named(&[("new", Kind::Create), ("wanted", Kind::Replace)]));
    assert_eq!(conflicts, ["both"]);
    assert_eq!(of(Strategy::Merge, Extras::Keep).0, of(Strategy::KeepOriginal, Extras::Keep).0);
    // What only one side changed is no conflict to whoever wants the newer: of the same age, the snapshot's.
    assert_eq!(of(Strategy::Newer, Extras::Keep).0.len(), 5);
    let known = of(Strategy::Overwrite, Extras::DeleteKnown).0;
    assert!(!known.iter().any(|(_, kind)| *kind == Kind::Delete), "the head does not have it");
}

#[test]
fn a_directory_gives_way_with_all_in_it_or_not_at_all() {
    let mut store = TestStore::new();
    let (edited, was) = (store.file("f", b"edited"), store.file("f", b"was"));
    let (live, base) = (store.dir("d", vec![edited]), store.dir("d", vec![was]));
    let wanted = store.file("d", b"no directory");
    let sides = [vec![live], vec![wanted], vec![base]];
    let (items, conflicts) = decided(&mut store, sides.clone(), Default::default(), Strategy::Merge, Extras::Keep);
    assert_eq!((items, conflicts), (Vec::new(), vec!["d".to_string()]));
    let (items, conflicts) = decided(&mut store, sides, Default::default(), Strategy::Overwrite, Extras::Keep);
    assert_eq!(items, [("d".to_string(), Kind::Replace), ("d/f".to_string(), Kind::Delete)]);
    assert_eq!(conflicts, ["d"]);
}

#[test]
fn links_alone_make_an_item_unless_what_they_lead_to_stays() {
    let mut store = TestStore::new();
    let same = files(&mut store, &[("a", "x"), ("b", "x"), ("c", "x")]);
    let changed = files(&mut store, &[("a", "changed"), ("b", "x"), ("c", "x")]);
    let linked = || vec![link("b", "a"), link("c", "a")];
    let mut of = |live: &Vec<Entry>, links: Vec<Link>, strategy| {
        decided(
            &mut store,
            [live.clone(), same.clone(), same.clone()],
            [links, linked(), linked()],
            strategy,
            Extras::Keep,
        )
        .0
    };
    assert_eq!(of(&same, linked(), Strategy::Overwrite), []);
    let both = [("b".to_string(), Kind::Replace), ("c".to_string(), Kind::Replace)];
    assert_eq!(of(&same, Vec::new(), Strategy::Overwrite), both);
    assert_eq!(of(&changed, vec![link("c", "b")], Strategy::Merge), [], "the two are linked, and a stays");
    assert_eq!(of(&changed, Vec::new(), Strategy::Merge), both[1..]);
}

#[test]
fn a_way_leads_through_no_link_and_to_nothing_above() {
    let place = tempfile::tempdir().unwrap();
    fs::create_dir_all(place.path().join("top/a/b")).unwrap();
    fs::create_dir(place.path().join("other")).unwrap();
    std::os::unix::fs::symlink("../../other", place.path().join("top/a/link")).unwrap();
    let mut ways = Ways::new(found::open_top(&place.path().join("top")).unwrap());
    assert!(ways.open(b"a/b").is_ok());
    assert!(ways.open(b"a/link").is_err());
    assert!(ways.open(b"a/b/c").is_err());
    // It was swapped meanwhile: what is held is still the directory that was there.
    assert!(ways.open(b"a/b").is_ok());
    fs::rename(place.path().join("top/a/b"), place.path().join("moved")).unwrap();
    std::os::unix::fs::symlink("../../other", place.path().join("top/a/b")).unwrap();
    ways.forget();
    assert!(ways.open(b"a/b").is_err());
    assert_eq!(entry("x", What::Fifo).name.len(), 1);
}
