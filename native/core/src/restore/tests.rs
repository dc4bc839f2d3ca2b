use super::*;
use crate::id::ZERO_ID;
use crate::node::{encode_xattrs, Chunk, Content, Directory, Hole, List, Xattrs};
use crate::reader::CACHE_BYTES;
use crate::testing::*;
use proptest::prelude::*;
use rustix::fs::{lsetxattr, XattrFlags};
use std::fs;
use std::os::unix::fs::{symlink, FileExt, MetadataExt, PermissionsExt};
use std::path::PathBuf;

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A place for sources and targets beside the store.
fn place(store: &TestStore, name: &str) -> PathBuf {
    store.dir.path().join(name)
}

fn run(store: &mut TestStore, root: &Id, target: &Path, options: &Options) -> Result<Restored> {
    restore(&store.reader(), root, target, options, &Progress::default())
}

/// Restores everything into a new directory, which must go without problems.
fn restored(store: &mut TestStore, root: &Id, name: &str) -> (PathBuf, Restored) {
    let target = place(store, name);
    let done = run(store, root, &target, &Options { verify: true, ..Options::default() }).unwrap();
    assert_eq!(done.problems, vec![]);
    assert_eq!(done.verified_files, done.files - linked(&done, store, root));
    (target, done)
}

fn linked(_: &Restored, store: &mut TestStore, root: &Id) -> u64 {
    let reader = store.reader();
    reader.links(&reader.root(root).unwrap()).unwrap().len() as u64
}

fn set_xattr(path: &Path, name: &str, value: &[u8]) {
    lsetxattr(path, name, value, XattrFlags::empty()).unwrap();
}

/// A tree with everything that the tests' user and file system allow.
fn make_tree(at: &Path) {
    fs::create_dir_all(at.join("dir/empty")).unwrap();
    fs::create_dir_all(at.join("links/sub")).unwrap();
    fs::write(at.join("dir/small"), b"small").unwrap();
    fs::write(at.join("dir/nothing"), b"").unwrap();
    fs::write(at.join("dir/middle"), noise(1, 50_000)).unwrap();
    fs::write(at.join("dir/long"), noise(2, 3_000_000)).unwrap();
    fs::write(at.join("links/a"), noise(3, 10_000)).unwrap();
    for name in ["links/b", "links/sub/c", "dir/d"] {
        fs::hard_link(at.join("links/a"), at.join(name)).unwrap();
    }
    symlink("../nowhere", at.join("dir/symlink")).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, at.join("fifo"), rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0)
        .unwrap();
    let sparse = fs::File::create(at.join("sparse")).unwrap();
    sparse.write_all_at(&noise(4, 20_000), 1 << 20).unwrap();
    sparse.write_all_at(&noise(5, 4096), 3 << 20).unwrap();
    sparse.set_len(5 << 20).unwrap();
    fs::write(at.join("zeros"), vec![0; 200_000]).unwrap();
    set_xattr(&at.join("dir/small"), "user.short", b"value");
    set_xattr(&at.join("dir/empty"), "user.on-a-directory", b"");
    for (name, mode) in [("dir/small", 0o400), ("dir/middle", 0o4755), ("dir/empty", 0o500), ("links/sub", 0o3777)] {
        fs::set_permissions(at.join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    if is_root() {
        std::os::unix::fs::lchown(at.join("dir/long"), Some(1234), Some(4321)).unwrap();
        std::os::unix::fs::lchown(at.join("dir/symlink"), Some(1234), Some(4321)).unwrap();
        std::os::unix::fs::lchown(at.join("links/sub"), Some(99), Some(99)).unwrap();
        fs::set_permissions(at.join("dir/long"), fs::Permissions::from_mode(0o6711)).unwrap();
        set_xattr(&at.join("dir/symlink"), "trusted.on-a-symlink", b"x");
        let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        set_xattr(&at.join("dir/long"), "security.capability", &capability);
    }
    for name in ["dir", "links", "dir/empty", "dir/symlink", "fifo"] {
        let time = rustix::fs::Timespec { tv_sec: -1000, tv_nsec: 987_654_321 };
        let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(rustix::fs::CWD, at.join(name), &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }
}

#[test]
fn what_is_restored_and_taken_again_is_the_same() {
    for mut store in [TestStore::new(), TestStore::sealed()] {
        let source = place(&store, "source");
        make_tree(&source);
        let root = store.take(&source);
        let (target, done) = restored(&mut store, &root, "target");
        assert_eq!(store.take(&target), root);
        assert_eq!((done.directories, done.others, done.files), (5, 2, 10));
        let sparse = target.join("sparse");
        assert_eq!(holes_of(&sparse, 5 << 20), holes_of(&source.join("sparse"), 5 << 20));
        assert_eq!(holes_of(&target.join("zeros"), 200_000), vec![]);
        assert_eq!(fs::metadata(target.join("links/a")).unwrap().nlink(), 4);
    }
}

#[test]
fn devices_are_restored_by_root_and_listed_for_others() {
    let mut store = TestStore::new();
    let entries = vec![entry("c", What::CharDevice(1, 3)), entry("d", What::BlockDevice(7, 1 << 19))];
    let dir = store.dir("", entries);
    let root = store.root(dir, vec![]);
    let target = place(&store, "target");
    let done = run(&mut store, &root, &target, &Options::default()).unwrap();
    if done.problems.is_empty() {
        assert_eq!(store.take(&target), root);
        assert_eq!(done.others, 2);
    } else {
        assert!(done.problems.iter().all(|problem| problem.what == "device"), "{:?}", done.problems);
    }
}

#[test]
fn files_of_others_are_listed_when_they_cannot_be_given_away() {
    let mut store = TestStore::new();
    let mut file = store.file("f", &noise(1, 1000));
    (file.uid, file.gid, file.mode) = (u32::MAX, 0, 0o4755);
    let dir = store.dir("", vec![file]);
    let root = store.root(dir, vec![]);
    let target = place(&store, "target");
    let done = run(&mut store, &root, &target, &Options::default()).unwrap();
    assert_eq!(done.problem_count, 1);
    assert_eq!((done.problems[0].path.as_slice(), done.problems[0].what.as_str()), (&b"f"[..], "owner"));
    assert_eq!(fs::metadata(target.join("f")).unwrap().mode() & 0o7777, 0o755);
}

#[test]
fn acls_of_the_parent_are_not_inherited() {
    let mut store = TestStore::new();
    let file = store.file("f", b"x");
    let dir = store.dir("d", vec![file]);
    let top = store.dir("", vec![dir]);
    let root = store.root(top, vec![]);
    let parent = place(&store, "parent");
    fs::create_dir(&parent).unwrap();
    fs::set_permissions(&parent, fs::Permissions::from_mode(0o2777)).unwrap();
    // user::rwx, user 5: rwx, group::rwx, mask::rwx, other::rwx
    let mut acl = vec![2, 0, 0, 0];
    for (tag, id) in [(1u16, u32::MAX), (2, 5), (4, u32::MAX), (16, u32::MAX), (32, u32::MAX)] {
        acl.extend_from_slice(&tag.to_le_bytes());
        acl.extend_from_slice(&7u16.to_le_bytes());
        acl.extend_from_slice(&id.to_le_bytes());
    }
    if lsetxattr(&parent, "system.posix_acl_default", &acl, XattrFlags::empty()).is_err() {
        return;
    }
    let target = parent.join("target");
    let done = run(&mut store, &root, &target, &Options::default()).unwrap();
    assert_eq!(done.problems, vec![]);
    assert_eq!(store.take(&target), root);
    let single = store.file("", b"single");
    let single = store.root(single, vec![]);
    let target = parent.join("single");
    run(&mut store, &single, &target, &Options::default()).unwrap();
    assert_eq!(xattrs_of(&target), None);
}

#[test]
fn a_root_that_is_no_directory_becomes_the_target() {
    let mut store = TestStore::new();
    let long = noise(9, 20_000_000);
    for (name, entry) in [
        ("file", store.file("", &noise(1, 5000))),
        ("long", store.file("", &long)),
        ("link", entry("", What::Symlink(b"x".as_slice().into()))),
        ("fifo", entry("", What::Fifo)),
    ] {
        let root = store.root(entry, vec![]);
        let (target, _) = restored(&mut store, &root, name);
        let mut again = store.take(&target);
        assert_eq!(again, root, "{name}");
        again = root;
        let error = run(&mut store, &again, &target, &Options::default());
        assert!(matches!(error, Err(Error::TargetNotEmpty(_))), "{name}");
    }
    assert_eq!(fs::read(place(&store, "long")).unwrap(), long);
}

#[test]
fn targets_that_cannot_be_used_are_refused_and_left_alone() {
    let mut store = TestStore::new();
    let file = store.file("f", b"x");
    let dir = store.dir("", vec![file]);
    let root = store.root(dir, vec![]);
    let used = place(&store, "used");
    fs::create_dir(&used).unwrap();
    fs::write(used.join("there"), b"mine").unwrap();
    let error = run(&mut store, &root, &used, &Options::default());
    assert!(matches!(error, Err(Error::TargetNotEmpty(_))));
    assert_eq!(fs::read_dir(&used).unwrap().count(), 1);
    let error = run(&mut store, &root, &used.join("there"), &Options::default());
    assert!(matches!(error, Err(Error::TargetInvalid(_))));
    let error = run(&mut store, &root, &used.join("no/parent"), &Options::default());
    assert!(matches!(error, Err(Error::TargetInvalid(_))));
    let error = run(&mut store, &root, Path::new("/proc/self/target"), &Options::default());
    assert!(matches!(error, Err(Error::TargetDenied(_) | Error::TargetInvalid(_))));
    let empty = place(&store, "empty");
    fs::create_dir(&empty).unwrap();
    fs::set_permissions(&empty, fs::Permissions::from_mode(0o2755)).unwrap();
    let done = run(&mut store, &root, &empty, &Options::default()).unwrap();
    assert_eq!(done.problems, vec![]);
    assert_eq!(store.take(&empty), root);
}

#[test]
fn parts_of_a_tree_come_with_their_parents() {
    let mut store = TestStore::new();
    let source = place(&store, "source");
    make_tree(&source);
    let root = store.take(&source);
    let target = place(&store, "part");
    let paths = Some(vec![b"dir/small".to_vec(), b"/links/sub/".to_vec(), b"dir/empty".to_vec()]);
    let progress = Progress::default();
    let done = restore(&store.reader(), &root, &target, &Options { paths, ..Options::default() }, &progress).unwrap();
    assert_eq!(done.problems, vec![]);
    let mut found: Vec<String> = Vec::new();
    let mut left = vec![target.clone()];
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            found.push(path.strip_prefix(&target).unwrap().to_str().unwrap().into());
            left.extend(path.is_dir().then_some(path));
        }
    }
    found.sort();
    assert_eq!(found, ["dir", "dir/empty", "dir/small", "links", "links/sub", "links/sub/c"]);
    // Its first path was not selected: it is a file of its own.
    assert_eq!(fs::read(target.join("links/sub/c")).unwrap(), noise(3, 10_000));
    for name in ["", "dir", "links", "links/sub"] {
        let (a, b) = (fs::metadata(source.join(name)).unwrap(), fs::metadata(target.join(name)).unwrap());
        assert_eq!((a.mode(), a.uid(), a.mtime(), a.mtime_nsec()), (b.mode(), b.uid(), b.mtime(), b.mtime_nsec()));
    }
    let done_files = progress.done_files.load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!(progress.files.load(std::sync::atomic::Ordering::Relaxed), done_files);
    assert_eq!(done_files, 7);
}

#[test]
fn links_whose_first_path_is_left_out_link_to_each_other() {
    let mut store = TestStore::new();
    let source = place(&store, "source");
    make_tree(&source);
    let root = store.take(&source);
    let options =
        Options { paths: Some(vec![b"links".to_vec()]), strip: Some(b"links".to_vec()), ..Options::default() };
    let target = place(&store, "links");
    let done = run(&mut store, &root, &target, &options).unwrap();
    assert_eq!(done.problems, vec![]);
    let inode = |name: &str| fs::metadata(target.join(name)).unwrap().ino();
    assert_eq!(fs::metadata(target.join("a")).unwrap().nlink(), 3);
    assert!(inode("a") == inode("b") && inode("a") == inode("sub/c"));
    let (a, b) = (fs::metadata(source.join("links")).unwrap(), fs::metadata(&target).unwrap());
    assert_eq!((a.mtime(), a.mtime_nsec(), a.mode()), (b.mtime(), b.mtime_nsec(), b.mode()));
}

#[test]
fn paths_that_do_not_exist_are_told_before_anything_is_written() {
    let mut store = TestStore::new();
    let source = place(&store, "source");
    make_tree(&source);
    let root = store.take(&source);
    let target = place(&store, "target");
    for (paths, strip) in [
        (Some("dir/nope"), None),
        (Some("dir/small/x"), None),
        (Some("dir/../dir"), None),
        (Some("dir/symlink/x"), None),
        (Some("dir/small"), Some("dir/small")),
        (None, Some("nope")),
    ] {
        let paths = paths.map(|path| vec![b"links".to_vec(), path.as_bytes().to_vec()]);
        let options = Options { paths, strip: strip.map(|s| s.as_bytes().to_vec()), ..Options::default() };
        assert!(matches!(run(&mut store, &root, &target, &options), Err(Error::PathNotFound(_))));
    }
    let options = Options { paths: Some(vec![b"dir".to_vec()]), strip: Some(b"links".to_vec()), ..Options::default() };
    assert!(matches!(run(&mut store, &root, &target, &options), Err(Error::Invalid(_))));
    // A path below one that is selected whole must exist too.
    let options = Options { paths: Some(vec![b"dir".to_vec(), b"dir/nope".to_vec()]), ..Options::default() };
    assert!(matches!(run(&mut store, &root, &target, &options), Err(Error::PathNotFound(_))));
    assert!(!target.exists());
}

#[test]
fn damage_costs_only_the_files_that_it_hits() {
    let mut store = TestStore::new();
    store.block_bytes = 30_000;
    let files: Vec<_> = (0..20).map(|n| store.file(&format!("f{n:02}"), &noise(n, 10_000))).collect();
    let long = noise(100, 12_000_000);
    let long_file = store.file("long", &long);
    let short = store.file("short", b"in place");
    let hit = store.keys.chunk_id(&noise(7, 10_000));
    let mut all = files;
    all.extend([long_file.clone(), short]);
    let dir = store.dir("d", all);
    let top = store.dir("", vec![dir]);
    let root = store.root(top, vec![]);
    let chunks = store.reader().chunks(&long_file).unwrap();
    let mut bad = store.damage(&hit);
    bad.extend(store.damage(&chunks[chunks.len() / 2].2.unwrap()));
    let target = place(&store, "target");
    let done = run(&mut store, &root, &target, &Options::default()).unwrap();
    let mut expected: Vec<Vec<u8>> = (0..20)
        .filter(|n| bad.contains(&store.keys.chunk_id(&noise(*n, 10_000))))
        .map(|n| format!("d/f{n:02}").into_bytes())
        .collect();
    expected.push(b"d/long".to_vec());
    assert!(expected.len() > 2 && expected.len() < 6);
    assert_eq!(done.problems.iter().map(|p| p.path.clone()).collect::<Vec<_>>(), expected);
    assert!(done.problems.iter().all(|p| p.what == "content" && p.reason.contains("checksum")));
    assert_eq!(done.problem_count, expected.len() as u64);
    for n in 0..20 {
        let name = format!("d/f{n:02}");
        let there = fs::read(target.join(&name)).ok();
        assert_eq!(there, (!expected.contains(&name.into_bytes())).then(|| noise(n, 10_000)));
    }
    assert!(!target.join("d/long").exists());
    assert_eq!(fs::read(target.join("d/short")).unwrap(), b"in place");
}

#[test]
fn a_damaged_directory_costs_only_its_own_entries() {
    let mut store = TestStore::new();
    store.block_bytes = 1;
    let files = (0..2000).map(|n| store.file(&format!("f{n:05}"), b"x")).collect();
    let dir = store.directory(files);
    let inner = crate::node::decode_node::<Entry>(&store.reader().node(&dir.node.unwrap()).unwrap()).unwrap();
    let crate::node::Node::Inner { children, .. } = inner else { panic!() };
    let other = store.file("z", b"other");
    let top = store.dir("", vec![entry("d", What::Directory(dir)), other]);
    let root = store.root(top, vec![]);
    store.flush();
    store.damage(&children[1].id);
    let target = place(&store, "target");
    let done = run(&mut store, &root, &target, &Options::default()).unwrap();
    assert_eq!(done.problem_count, 1);
    assert_eq!((done.problems[0].path.as_slice(), done.problems[0].what.as_str()), (&b"d"[..], "directory"));
    assert_eq!(done.files, 2001 - children[1].items);
    assert_eq!(fs::metadata(target.join("d")).unwrap().mtime(), 1_600_000_000);
}

#[test]
fn depth_and_long_paths_need_no_path_and_few_descriptors() {
    let mut store = TestStore::new();
    let name = "n".repeat(200);
    let mut directory = Directory::default();
    for depth in 0..2000 {
        let mut entries = vec![store.file("file", format!("{depth}").as_bytes())];
        if depth > 0 {
            entries.push(entry(&name, What::Directory(directory)));
        }
        directory = store.directory(entries);
    }
    let root = store.root(entry("", What::Directory(directory)), vec![link(&format!("{name}/file"), "file")]);
    let target = place(&store, "deep");
    let done = run(&mut store, &root, &target, &Options::default()).unwrap();
    assert_eq!(done.problems, vec![]);
    assert_eq!((done.directories, done.files), (2000, 2000));
    let mut paths = vec![[&name[..]; 1999].join("/").into_bytes()];
    paths[0].extend_from_slice(b"/file");
    let options = Options { paths: Some(paths), ..Options::default() };
    let target = place(&store, "part");
    let done = run(&mut store, &root, &target, &options).unwrap();
    assert_eq!((done.directories, done.files, done.problems), (2000, 1, vec![]));
}

#[test]
fn closed_folders_are_opened_again() {
    let mut store = TestStore::new();
    let tmp = place(&store, "t");
    fs::create_dir(&tmp).unwrap();
    let handles = Handles::with_slots(fs::File::open(&tmp).unwrap().into(), 3);
    let mut folder = Arc::new(Folder::new(None, entry("base/of/all", What::Fifo)));
    let mut path = tmp.clone();
    let mut all = Vec::new();
    for n in 0..10 {
        path.push(format!("d{n}"));
        fs::create_dir(&path).unwrap();
        folder = Arc::new(Folder::new(Some(folder), entry(&format!("d{n}"), What::Fifo)));
        all.push((folder.clone(), fs::metadata(&path).unwrap().ino()));
    }
    for (folder, inode) in all.iter().rev().chain(&all) {
        assert_eq!(rustix::fs::fstat(handles.open(folder).unwrap()).unwrap().st_ino, *inode);
    }
    for (folder, _) in &all {
        handles.release(folder);
    }
    assert_eq!(all[1].0.path(), b"base/of/all/d0/d1");
    fs::rename(tmp.join("d0/d1"), tmp.join("d0/moved")).unwrap();
    symlink("moved", tmp.join("d0/d1")).unwrap();
    assert!(handles.open(&all[3].0).is_err(), "a symbolic link was followed");
    store.flush();
}

#[test]
fn long_files_are_written_by_many_and_exactly() {
    let mut store = TestStore::new();
    let source = place(&store, "source");
    fs::create_dir(&source).unwrap();
    for n in 0..4u64 {
        let file = fs::File::create(source.join(format!("f{n}"))).unwrap();
        let mut at = 0;
        for part in 0..60 {
            file.write_all_at(&noise(n * 100 + part, 300_000 + part as usize * 1000), at).unwrap();
            at += (1 << 20) * (1 + part % 3);
        }
        file.set_len(at + 12345).unwrap();
    }
    let root = store.take(&source);
    for threads in [1, 2, 8] {
        let target = place(&store, &format!("target{threads}"));
        let options = Options { verify: true, threads, ..Options::default() };
        let done = run(&mut store, &root, &target, &options).unwrap();
        assert_eq!((done.problems, done.verified_files), (vec![], 4));
        assert_eq!(store.take(&target), root);
    }
}

#[test]
fn a_huge_hole_costs_nothing() {
    let mut store = TestStore::new();
    let size = 1 << 43;
    let hole = List::InPlace(vec![Hole { start: 0, end: size }]);
    let run_of_zeros = Content::Chunks(Box::new(List::InPlace(vec![Chunk { len: size, id: ZERO_ID }])));
    let file = entry("f", What::File { size, content: run_of_zeros, holes: Some(Box::new(hole)) });
    let dir = store.dir("", vec![file]);
    let root = store.root(dir, vec![]);
    let (target, done) = restored(&mut store, &root, "target");
    assert_eq!(done.bytes, 0);
    let meta = fs::metadata(target.join("f")).unwrap();
    assert_eq!((meta.len(), meta.blocks()), (size, 0));
}

#[test]
fn hostile_trees_are_listed_or_refused() {
    let mut store = TestStore::new();
    let data = noise(1, 8192);
    let id = store.chunk(&data);
    let holes = |start, end| Some(Box::new(List::InPlace(vec![Hole { start, end }])));
    let files = vec![
        entry("data-in-hole", What::File { size: 8192, content: Content::One(id), holes: holes(0, 4096) }),
        store.file("good", &noise(2, 1000)),
        entry("lie", What::File { size: 8000, content: Content::One(id), holes: None }),
        entry("missing", What::File { size: 8000, content: Content::One(Id([9; 32])), holes: None }),
        entry("no-node", What::Directory(Directory { items: 3, node: Some(Id([8; 32])), entries: 3, bytes: 0 })),
        entry("not-a-dir", What::Directory(Directory { items: 3, node: Some(id), entries: 3, bytes: 0 })),
    ];
    let dir = store.dir("", files);
    let links = vec![link("x/y", "good"), link("no-node", "good"), link("new", "good"), link("z", "nothing")];
    let root = store.root(dir, links);
    let target = place(&store, "target");
    let done = run(&mut store, &root, &target, &Options::default()).unwrap();
    let problems: Vec<(String, &str)> =
        done.problems.iter().map(|p| (String::from_utf8(p.path.clone()).unwrap(), p.what.as_str())).collect();
    let expected = [
        ("data-in-hole", "content"),
        ("lie", "content"),
        ("missing", "content"),
        ("no-node", "directory"),
        ("no-node", "link"),
        ("not-a-dir", "directory"),
        ("x/y", "link"),
        ("z", "link"),
    ];
    assert_eq!(problems, expected.map(|(path, what)| (path.to_string(), what)));
    assert!(target.join("good").exists() && !target.join("lie").exists() && !target.join("data-in-hole").exists());
    // A root whose own node is missing.
    assert!(matches!(run(&mut store, &Id([7; 32]), &target, &Options::default()), Err(Error::Damaged(_))));
}

#[test]
fn a_cancelled_run_ends() {
    let mut store = TestStore::new();
    let files = (0..50).map(|n| store.file(&format!("f{n:02}"), &noise(n, 1000))).collect();
    let dir = store.dir("", files);
    let root = store.root(dir, vec![]);
    let progress = Progress::default();
    progress.cancel();
    let target = place(&store, "target");
    let done = restore(&store.reader(), &root, &target, &Options::default(), &progress);
    assert!(matches!(done, Err(Error::Cancelled)));
}

/// A file system of 1 MiB, where the tests' user may mount one.
struct Small(PathBuf);

impl Small {
    fn mount(at: PathBuf) -> Option<Small> {
        fs::create_dir(&at).unwrap();
        let mount = ["-t", "tmpfs", "-o", "size=1m", "none"];
        let done =
            std::process::Command::new("mount").args(mount).arg(&at).stderr(std::process::Stdio::null()).status();
        done.is_ok_and(|status| status.success()).then(|| Small(at))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn a_full_medium_ends_the_run_and_leaves_no_half_files() {
    let mut store = TestStore::new();
    let Some(small) = Small::mount(place(&store, "small")) else { return };
    let mut files: Vec<_> = (0..20).map(|n| store.file(&format!("f{n:02}"), &noise(n, 30_000))).collect();
    files.push(store.file("long", &noise(100, 12_000_000)));
    files.extend((0..40).map(|n| store.file(&format!("m{n:02}"), &noise(n, 30_000))));
    let dir = store.dir("", files);
    let root = store.root(dir, vec![]);
    for threads in [1, 4] {
        let target = small.0.join(format!("{threads}"));
        let options = Options { threads, ..Options::default() };
        match run(&mut store, &root, &target, &options) {
            Err(Error::NoSpace(why)) => assert!(why.contains("no space left"), "{why}"),
            other => panic!("{other:?}"),
        }
        for entry in fs::read_dir(&target).unwrap() {
            assert_eq!(entry.unwrap().metadata().unwrap().len(), 30_000);
        }
        fs::remove_dir_all(target).unwrap();
    }
}

#[test]
fn what_fails_in_the_index_ends_the_run() {
    struct Failing(Arc<MapIndex>);
    impl crate::index::Index for Failing {
        fn locate(&self, ids: &[Id]) -> Result<Vec<Option<crate::index::Location>>> {
            match self.0.calls.load(std::sync::atomic::Ordering::Relaxed) {
                0..=2 => self.0.locate(ids),
                _ => Err(Error::Foreign("the caller's own error".into())),
            }
        }
        fn pack(&self, number: u32) -> Result<(crate::pack::Kind, Id)> {
            self.0.pack(number)
        }
        fn add_pack(&self, _: crate::pack::Pack) -> Result<()> {
            unreachable!()
        }
    }
    let mut store = TestStore::new();
    let files: Vec<_> = (0..600).map(|n| store.file(&format!("f{n:03}"), &noise(n, 300))).collect();
    let dir = store.dir("", files);
    let root = store.root(dir, vec![]);
    store.flush();
    let index = Arc::new(Failing(store.index.clone()));
    let reader = Arc::new(Reader::new(store.dir.path(), store.keys.clone(), index, 1 << 20));
    let target = place(&store, "target");
    let done = restore(&reader, &root, &target, &Options::default(), &Progress::default());
    assert!(matches!(done, Err(Error::Foreign(_))));
}

#[test]
fn long_attribute_sets_and_large_directories() {
    let mut store = TestStore::new();
    let mut set = vec![(b"user.long".to_vec(), noise(1, 3000)), (b"user.too-long".to_vec(), noise(1, 60_000))];
    let bytes = encode_xattrs(&mut set);
    let list = store.list(&bytes);
    let mut first = store.file("f", b"x");
    first.xattrs = Some(Box::new(Xattrs::Chunks { len: bytes.len() as u64, list }));
    let mut entries = vec![first];
    entries.extend((0..20_000).map(|n| store.file(&format!("g{n:05}"), format!("{n}").as_bytes())));
    entries.extend((0..3000).map(|n| store.dir(&format!("h{n:05}"), vec![])));
    let dir = store.dir("", entries);
    let root = store.root(dir, vec![]);
    let target = place(&store, "target");
    let done = run(&mut store, &root, &target, &Options { threads: 8, ..Options::default() }).unwrap();
    assert_eq!((done.files, done.directories), (20_001, 3001));
    let found = xattrs_of(&target.join("f")).unwrap_or_default();
    assert_eq!(found.len() + done.problems.len(), 2);
    assert!(done.problems.iter().all(|p| p.what == "xattr user.too-long"), "{:?}", done.problems);
}

#[derive(Clone, Debug)]
enum Spec {
    File(u64, usize, u16),
    Sparse(u64, Vec<(u8, u8)>),
    Dir(Vec<Spec>, u16),
    Symlink,
    Fifo,
}

fn specs() -> impl Strategy<Value = Spec> {
    let leaf = prop_oneof![
        (any::<u64>(), prop_oneof![0usize..600, 0usize..100_000, 0usize..2_500_000], 0u16..0o7777)
            .prop_map(|(a, b, c)| Spec::File(a, b, c)),
        (any::<u64>(), proptest::collection::vec((1u8..8, 0u8..5), 1..80)).prop_map(|(a, b)| Spec::Sparse(a, b)),
        Just(Spec::Symlink),
        Just(Spec::Fifo),
    ];
    leaf.prop_recursive(4, 40, 8, |inner| {
        (proptest::collection::vec(inner, 0..8), 0u16..0o7777).prop_map(|(below, mode)| Spec::Dir(below, mode))
    })
}

fn build(spec: &Spec, path: &Path) {
    match spec {
        Spec::File(seed, len, mode) => {
            fs::write(path, noise(*seed, *len)).unwrap();
            // Others than root must be able to take it again.
            let readable = if is_root() { 0 } else { 0o400 };
            fs::set_permissions(path, fs::Permissions::from_mode(u32::from(*mode) | readable)).unwrap();
        }
        Spec::Sparse(seed, parts) => {
            let file = fs::File::create(path).unwrap();
            let mut at = 0;
            for (number, (data, hole)) in parts.iter().enumerate() {
                let len = usize::from(*data) * 4096;
                file.write_all_at(&noise(seed.wrapping_add(number as u64), len), at).unwrap();
                at += len as u64 + u64::from(*hole) * 4096;
            }
            file.set_len(at).unwrap();
        }
        Spec::Dir(below, mode) => {
            fs::create_dir(path).unwrap();
            for (number, spec) in below.iter().enumerate() {
                build(spec, &path.join(format!("{number}")));
            }
            if is_root() {
                fs::set_permissions(path, fs::Permissions::from_mode(u32::from(*mode))).unwrap();
            }
        }
        Spec::Symlink => symlink("target", path).unwrap(),
        Spec::Fifo => {
            rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).unwrap()
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn any_tree_survives(spec in specs(), threads in 1usize..6) {
        let mut store = TestStore::new();
        let source = place(&store, "source");
        build(&spec, &source);
        let root = store.take(&source);
        let target = place(&store, "target");
        let options = Options { threads, verify: true, ..Options::default() };
        let done = run(&mut store, &root, &target, &options).unwrap();
        prop_assert_eq!(done.problems, vec![]);
        prop_assert_eq!(store.take(&target), root);
    }
}

#[test]
#[ignore = "a measurement: SNAP_BENCH_TREE names a tree, SNAP_BENCH_DIR a place for the store and what is restored"]
fn bench_restore() {
    let tree = std::env::var_os("SNAP_BENCH_TREE").unwrap();
    let place = std::path::PathBuf::from(std::env::var_os("SNAP_BENCH_DIR").unwrap());
    let threads = std::env::var("SNAP_BENCH_THREADS").map_or(0, |n| n.parse().unwrap());
    let mut store = TestStore::new();
    store.block_bytes = 1 << 20;
    store.pack_bytes = 64 << 20;
    let root = store.take(Path::new(&tree));
    store.flush();
    std::process::Command::new("sync").status().unwrap();
    // Nothing is removed in between: for minutes after a removal ext4 finds free inodes only slowly.
    for round in 0..3 {
        let target = place.join(format!("restored-{round}"));
        let reader = Arc::new(Reader::new(store.dir.path(), store.keys.clone(), store.index.clone(), CACHE_BYTES));
        let (start, cpu) = (std::time::Instant::now(), cpu_ticks());
        reader.preload(&store.packs());
        let loaded = start.elapsed();
        let options =
            Options { threads, verify: std::env::var_os("SNAP_BENCH_VERIFY").is_some(), ..Options::default() };
        let restored = restore(&reader, &root, &target, &options, &Progress::default()).unwrap();
        let used = cpu_ticks();
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let anon = status.lines().find(|line| line.starts_with("RssAnon")).unwrap().to_string();
        println!(
            "{:.2} s (preload {:.2}; user {} sys {} ticks of 10 ms), {} files, {} MB, {} problems, {anon}",
            start.elapsed().as_secs_f64(),
            loaded.as_secs_f64(),
            used.0 - cpu.0,
            used.1 - cpu.1,
            restored.files,
            restored.bytes >> 20,
            restored.problem_count
        );
    }
}

/// Processor time of this process: in user mode and in the system.
fn cpu_ticks() -> (u64, u64) {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.split(' ').collect();
    (fields[13].parse().unwrap(), fields[14].parse().unwrap())
}
