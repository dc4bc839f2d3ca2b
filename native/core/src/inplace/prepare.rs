//! A plan held against the disk: every entry that is to give way is looked at, so that what cannot be done is known before
//! anything is.

use std::collections::{HashMap, HashSet};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{fstatvfs, FileType, StatVfsMountFlags};

use super::found::{
    attributes_of, check_same, count_names, in_the_way, look, look_at, open_device, open_top, there, wanted_attributes,
    Blocked, Found, APPEND, IMMUTABLE, MOUNT_ROOT,
};
use super::journal::{Action, Identity, Pair, Record};
use super::patch::{self, Medium, Patches, Range};
use super::plan::{Item, Kind, Part, Plan};
use super::ways::{mount_of, split, Ways};
use crate::error::{show, show_path, Error, Result};
use crate::node::{Entry, What};
use crate::progress::{add, Progress};
use crate::reader::Reader;
use crate::restore::Problem;
use crate::source;
use crate::walk::join;

/// Smaller files are written whole.
const PATCH_MIN: u64 = 8 << 20;

/// Where a part of a plan is on disk.
pub struct Base {
    pub path: PathBuf,
    /// It is a directory, and stays one.
    pub is_directory: bool,
    /// Other file systems below it belong to it.
    pub crosses: bool,
    /// Where the journal of a device is kept.
    pub journal: Option<PathBuf>,
}

/// A directory below which everything is done.
pub(super) struct Top {
    pub(super) path: PathBuf,
    pub(super) ways: Ways,
    pub(super) mount: u64,
}

/// A place for a staging directory: a top, and a directory below it.
pub(super) type Area = (usize, Vec<u8>);

/// A plan that can be carried out.
pub(super) struct Prepared {
    pub(super) tops: Vec<Top>,
    pub(super) areas: Vec<Area>,
    /// Of each part: its top, and its path below that.
    pub(super) places: Vec<(usize, Vec<u8>)>,
    /// One for each item, by number, then those of directories that are touched. What is staged has no inode yet.
    pub(super) records: Vec<Record>,
    /// Which parts are devices, whose content is replaced.
    pub(super) devices: Vec<bool>,
}

struct Preparing<'a> {
    tops: Vec<Top>,
    areas: Vec<(Area, u64)>,
    places: Vec<(usize, Vec<u8>)>,
    bases: &'a [Base],
    /// Paths at which directories will be made, by part, with their area.
    made: HashMap<(usize, Vec<u8>), usize>,
    /// How many entries are to go, by part and directory.
    going: HashMap<(usize, Vec<u8>), usize>,
    /// The directory looked at last: its part and path, its area.
    last: Option<(usize, Vec<u8>, usize)>,
}

/// Holds `plan` against the disk. Items that cannot be carried out are taken out of it and told: what was `changed` since it was
/// taken, and where something is `in the way`.
pub(super) fn prepare(
    reader: &Reader,
    parts: &[Part],
    plan: &mut Plan,
    bases: &[Base],
    progress: &Progress,
) -> Result<(Prepared, Patches, Vec<Problem>)> {
    let mut preparing = Preparing {
        tops: Vec::new(),
        areas: Vec::new(),
        places: Vec::new(),
        bases,
        made: HashMap::new(),
        going: HashMap::new(),
        last: None,
    };
    for base in bases {
        preparing.add_base(base)?;
    }
    let stays = preparing.deletions(plan);
    let (mut problems, mut barred): (Vec<Problem>, Option<(usize, Vec<u8>)>) = (Vec::new(), None);
    let (mut records, mut patches) = (Vec::with_capacity(plan.items.len()), HashMap::new());
    let items = std::mem::take(&mut plan.items);
    for (at, mut item) in items.into_iter().enumerate() {
        progress.check()?;
        let is_below = |(part, path): &(usize, Vec<u8>)| {
            *part == item.part && item.path.strip_prefix(&path[..]).is_some_and(|rest| rest.starts_with(b"/"))
        };
        let is_device = bases[item.part].journal.is_some();
        if is_device && !item.is_staged() {
            // A device has its own attributes.
            continue;
        }
        if stays.contains(&at) || barred.as_ref().is_some_and(is_below) {
            continue;
        }
        match preparing.item(reader, records.len(), &mut item) {
            Ok((record, can_patch)) => {
                if can_patch {
                    let ranges = patch_ranges(reader, &parts[item.part], &item, is_device)?;
                    if is_device && ranges.as_ref().is_some_and(Vec::is_empty) {
                        continue;
                    }
                    patches.extend(ranges.map(|ranges| (records.len(), ranges)));
                }
                records.push(record);
                plan.items.push(item);
            }
            Err(blocked) => {
                let path = preparing.shown(&item);
                let (what, reason) = match blocked {
                    Blocked::Changed(why) => ("changed", why.to_string()),
                    Blocked::Way(why) => ("in the way", why),
                };
                // Nor is what is in it touched.
                barred = Some((item.part, item.path));
                add(&progress.errors, 1);
                problems.push(Problem { path, what: what.into(), reason });
            }
        }
    }
    preparing.anchor(&mut records);
    preparing.touches(plan, &mut records)?;
    let Preparing { tops, areas, places, .. } = preparing;
    let areas = areas.into_iter().map(|(area, _)| area).collect();
    let devices = bases.iter().map(|base| base.journal.is_some()).collect();
    Ok((Prepared { tops, areas, places, records, devices }, patches, problems))
}

impl Preparing<'_> {
    fn add_base(&mut self, base: &Base) -> Result<()> {
        let (path, prefix) = match base.is_directory {
            true => (base.path.clone(), Vec::new()),
            false => {
                let (Some(above), Some(name)) = (base.path.parent(), base.path.file_name()) else {
                    return Err(Error::TargetInvalid(format!("{} cannot be replaced", show_path(&base.path))));
                };
                (above.to_path_buf(), name.as_bytes().to_vec())
            }
        };
        let top = match self.tops.iter().position(|top| top.path == path) {
            Some(top) => top,
            None => {
                let fd = open_top(&path)?;
                self.tops.push(Top::new(path, fd)?);
                self.tops.len() - 1
            }
        };
        self.places.push((top, prefix));
        Ok(())
    }

    /// The whole path of an item.
    fn shown(&self, item: &Item) -> Vec<u8> {
        join_path(self.bases[item.part].path.as_os_str().as_bytes(), &item.path)
    }

    /// Top and path below it.
    fn place(&self, part: usize, path: &[u8]) -> (usize, Vec<u8>) {
        let (top, prefix) = &self.places[part];
        (*top, join_path(prefix, path))
    }

    /// Numbers of directories that are to go, but hold what is not: they stay.
    fn deletions(&mut self, plan: &Plan) -> HashSet<usize> {
        let mut going: HashMap<(usize, Vec<u8>), usize> = HashMap::new();
        for item in plan.items.iter().filter(|item| item.kind == Kind::Delete) {
            *going.entry((item.part, split(&item.path).0.to_vec())).or_default() += 1;
        }
        let mut stays = HashSet::new();
        for (at, item) in plan.items.iter().enumerate().rev() {
            let is_directory = item.live.as_ref().is_some_and(|live| live.directory().is_some());
            if item.kind != Kind::Delete || !is_directory {
                continue;
            }
            let count = going.get(&(item.part, item.path.clone())).copied().unwrap_or(0);
            let (top, path) = self.place(item.part, &item.path);
            let ways = &mut self.tops[top].ways;
            let is_mount = ways.open(&path).and_then(attributes_of).is_ok_and(|found| found & MOUNT_ROOT != 0);
            if is_mount || count_names(ways, &path).is_ok_and(|names| names != count) {
                stays.insert(at);
                if let Some(count) = going.get_mut(&(item.part, split(&item.path).0.to_vec())) {
                    *count -= 1;
                }
            }
        }
        self.going = going;
        stays
    }

    /// Whether nothing is left of a directory when all that is to go from it has gone.
    fn empties(&mut self, part: usize, path: &[u8], top: usize, place: &[u8]) -> bool {
        let going = self.going.get(&(part, path.to_vec())).copied().unwrap_or(0);
        count_names(&mut self.tops[top].ways, place).is_ok_and(|names| names == going)
    }

    /// The area in which something for the directory `above` of a part is staged.
    fn area(&mut self, part: usize, above: &[u8]) -> std::result::Result<usize, Blocked> {
        if let Some((last_part, last, area)) = &self.last {
            if *last_part == part && last == above {
                return Ok(*area);
            }
        }
        let (top, path) = self.place(part, above);
        let found = self.tops[top].ways.open(&path).and_then(|fd| Ok((mount_of(fd)?, attributes_of(fd)?)));
        let (mount, attributes) = match found {
            Ok(found) => found,
            Err(error) => match self.made.get(&(part, above.to_vec())) {
                Some(area) => return Ok(*area),
                None => return Err(error.into()),
            },
        };
        if attributes & (IMMUTABLE | APPEND) != 0 {
            return Err(Blocked::Way("its directory is immutable (chattr -i, -a)".into()));
        }
        if mount != self.tops[top].mount && !self.bases[part].crosses {
            let why = "another file system is mounted there, which the snapshot's rules do not enter";
            return Err(Blocked::Way(why.into()));
        }
        let area = match self.areas.iter().position(|(area, of)| *of == mount && area.0 == top) {
            Some(area) => area,
            None => {
                let place = self.tops[top].ways.mount_top(&path, mount)?.to_vec();
                self.areas.push(((top, place), mount));
                self.areas.len() - 1
            }
        };
        self.last = Some((part, above.to_vec(), area));
        Ok(area)
    }

    /// The record of an item, and whether it may be patched.
    fn item(
        &mut self,
        reader: &Reader,
        number: usize,
        item: &mut Item,
    ) -> std::result::Result<(Record, bool), Blocked> {
        let (top, path) = self.place(item.part, &item.path);
        if let Some(journal) = &self.bases[item.part].journal {
            let (journal, wanted) = (journal.clone(), item.wanted.clone());
            let (area, found) = self.device(top, &path, &journal, wanted.as_ref())?;
            return Ok((Record { number, top, area, path, action: Action::Replace { staged: 0, found } }, true));
        }
        // The top itself has no directory of ours around it: it is never exchanged.
        let above = split(&item.path).0.to_vec();
        let area = match path.is_empty() {
            true => self.area(item.part, b"")?,
            false if item.path.is_empty() => self.area_around(item.part)?,
            false => self.area(item.part, &above)?,
        };
        let found = match path.is_empty() {
            true => look_at(self.tops[top].ways.root())?,
            false => match self.tops[top].ways.parent_of(&path) {
                Ok((dir, name)) => look(dir, name)?,
                Err(_) if self.made.contains_key(&(item.part, above)) => None,
                Err(error) => return Err(error.into()),
            },
        };
        let mut can_patch = false;
        let action = match (item.kind, found) {
            (Kind::Create | Kind::CreateAlone, None) => Action::Create { staged: 0 },
            (Kind::Create | Kind::CreateAlone, Some(found)) => return Err(in_the_way(&found)),
            (_, None) => return Err(Blocked::Changed("it is gone")),
            (kind, Some(found)) => {
                let live = item.live.as_ref().ok_or(Blocked::Changed("it was not there before"))?;
                check_same(live, &found)?;
                if kind != Kind::Metadata && found.attributes & MOUNT_ROOT != 0 {
                    return Err(Blocked::Way("something is mounted on it".into()));
                }
                if kind == Kind::Replace
                    && live.directory().is_some()
                    && !self.empties(item.part, &item.path, top, &path)
                {
                    let why = "the directory that is to give way holds what the snapshot's rules leave out, or sockets";
                    return Err(Blocked::Way(why.into()));
                }
                let links = found.stat.kind != FileType::Directory && found.stat.links > 1;
                let is_plain = found.stat.kind != FileType::Directory && !links;
                let identity = Identity { ino: found.stat.ino, ctime: is_plain.then_some(found.stat.ctime) };
                match kind {
                    Kind::Delete => Action::Delete { found: identity },
                    Kind::Metadata if !links => {
                        let pair = self.pair(reader, top, &path, item, &found)?;
                        Action::Attributes { found: identity, pair: Box::new(pair) }
                    }
                    _ => {
                        // Attributes of a file with several links would change under its other names too.
                        item.kind = Kind::Replace;
                        can_patch = is_plain && is_large(&item.live) && is_large(&item.wanted);
                        Action::Replace { staged: 0, found: identity }
                    }
                }
            }
        };
        let comes = item.wanted.as_ref().is_some_and(|wanted| wanted.directory().is_some());
        if item.is_staged() && comes {
            self.made.insert((item.part, item.path.clone()), area);
        }
        Ok((Record { number, top, area, path, action }, can_patch))
    }

    /// The area for a device, and what it is. One that is too short, or in use, is refused.
    fn device(
        &mut self,
        top: usize,
        path: &[u8],
        journal: &Path,
        wanted: Option<&Entry>,
    ) -> std::result::Result<(usize, Identity), Blocked> {
        let (dir, name) = self.tops[top].ways.parent_of(path)?;
        let stat = source::stat_at(dir, name)?;
        if stat.kind != FileType::BlockDevice {
            return Err(Blocked::Changed("it is no block device"));
        }
        let size = source::length(open_device(dir, name)?.as_fd())?;
        match wanted.map(|wanted| &wanted.what) {
            Some(What::File { size: needed, .. }) if *needed > size => {
                return Err(Blocked::Way(format!("the device has {size} bytes, and the image {needed}")));
            }
            Some(What::File { .. }) => {}
            _ => return Err(Blocked::Way("only a file can become the content of a device".into())),
        }
        let fault = |error: Error| Blocked::Way(error.to_string());
        let home = match self.tops.iter().position(|top| top.path == journal) {
            Some(home) => home,
            None => {
                self.tops.push(Top::new(journal.to_path_buf(), open_top(journal).map_err(fault)?).map_err(fault)?);
                self.tops.len() - 1
            }
        };
        let area = match self.areas.iter().position(|(area, _)| *area == (home, Vec::new())) {
            Some(area) => area,
            None => {
                self.areas.push(((home, Vec::new()), self.tops[home].mount));
                self.areas.len() - 1
            }
        };
        Ok((area, Identity { ino: stat.ino, ctime: None }))
    }

    /// The area for a part that is itself an entry of its top.
    fn area_around(&mut self, part: usize) -> std::result::Result<usize, Blocked> {
        let top = self.places[part].0;
        let mount = self.tops[top].mount;
        match self.areas.iter().position(|(area, of)| *of == mount && area.0 == top) {
            Some(area) => Ok(area),
            None => {
                self.areas.push(((top, Vec::new()), mount));
                Ok(self.areas.len() - 1)
            }
        }
    }

    /// What is wanted, and what there is to go back to.
    fn pair(
        &mut self,
        reader: &Reader,
        top: usize,
        path: &[u8],
        item: &Item,
        found: &Found,
    ) -> std::result::Result<Pair, Blocked> {
        let wanted = item.wanted.as_ref().ok_or(Blocked::Changed("nothing is wanted there"))?;
        if item.live.as_ref().is_some_and(|live| live.xattrs == wanted.xattrs) {
            return Ok([wanted_attributes(wanted, None), there(&found.stat, None)]);
        }
        let set = reader.xattrs(wanted).map_err(|error| Blocked::Way(error.to_string()))?;
        let old = match path.is_empty() {
            true => source::xattrs_at(self.tops[top].ways.root(), b".")?,
            false => {
                let (dir, name) = self.tops[top].ways.parent_of(path)?;
                source::xattrs_at(dir, name)?
            }
        };
        Ok([wanted_attributes(wanted, Some(set)), there(&found.stat, Some(old))])
    }

    /// Sees to it that the journal is found at a top, also when everything to do is in file systems below it.
    fn anchor(&mut self, records: &mut [Record]) {
        let is_at_top =
            |areas: &[(Area, u64)], top: usize| areas.iter().position(|((of, path), _)| *of == top && path.is_empty());
        for top in 0..self.tops.len() {
            let is_used = self.areas.iter().any(|((of, _), _)| *of == top);
            let can =
                fstatvfs(self.tops[top].ways.root()).is_ok_and(|fs| !fs.f_flag.contains(StatVfsMountFlags::RDONLY));
            if is_used && can && is_at_top(&self.areas, top).is_none() {
                self.areas.push(((top, Vec::new()), self.tops[top].mount));
            }
        }
        // The first one has the plan.
        let Some(at) = self.areas.first().and_then(|((top, _), _)| is_at_top(&self.areas, *top)) else { return };
        self.areas.swap(0, at);
        for record in records {
            record.area = match record.area {
                0 => at,
                area if area == at => 0,
                area => area,
            };
        }
    }

    /// Records for directories in which entries come and go: their times, and their modes should these have to be changed.
    fn touches(&mut self, plan: &Plan, records: &mut Vec<Record>) -> Result<()> {
        let set: HashSet<(usize, Vec<u8>)> = records
            .iter()
            .filter(|record| matches!(record.action, Action::Attributes { .. }))
            .map(|record| (record.top, record.path.clone()))
            .collect();
        let alone: HashMap<(usize, Vec<u8>), &Entry> = plan
            .items
            .iter()
            .filter(|item| item.is_staged())
            .filter_map(|item| Some((self.place(item.part, &item.path), item.wanted.as_ref()?)))
            .filter(|(_, wanted)| wanted.directory().is_some())
            .collect();
        let mut touched: Vec<(usize, usize, Vec<u8>)> = records
            .iter()
            .filter(|record| !matches!(record.action, Action::Attributes { .. }) && !record.path.is_empty())
            .filter(|record| self.areas[record.area].0 .0 == record.top)
            .map(|record| (record.top, record.area, split(&record.path).0.to_vec()))
            .collect();
        // On some file systems a directory that gets another parent gets another time with it.
        let moves = |(record, item): &(&Record, &Item)| {
            item.kind != Kind::Metadata
                && !record.path.is_empty()
                && (is_directory(&item.live) || is_directory(&item.wanted))
        };
        let moved = records.iter().zip(&plan.items).filter(moves);
        touched.extend(moved.map(|(record, _)| (record.top, record.area, record.path.clone())));
        // The staging directories come and go too.
        touched.extend(self.areas.iter().enumerate().map(|(at, ((top, path), _))| (*top, at, path.clone())));
        touched.sort_by(|a, b| (a.0, &a.2).cmp(&(b.0, &b.2)));
        touched.dedup_by(|a, b| (a.0, &a.2) == (b.0, &b.2));
        for (top, area, path) in touched {
            let place = (top, path);
            if set.contains(&place) {
                continue;
            }
            let pair = match alone.get(&place) {
                Some(wanted) => {
                    let attributes = wanted_attributes(wanted, None);
                    [attributes.clone(), attributes]
                }
                None => {
                    let found = self.tops[top].ways.open(&place.1).and_then(source::stat_fd);
                    let found = found.map_err(|e| Error::of_target(&format!("look at {}", show(&place.1)), &e))?;
                    [there(&found, None), there(&found, None)]
                }
            };
            let (number, action) = (records.len(), Action::Touch { pair: Box::new(pair) });
            records.push(Record { number, top, area, path: place.1, action });
        }
        Ok(())
    }
}

/// The ranges in which two versions of a large file differ, where it can be patched: other links of it must become links of
/// one new file.
fn patch_ranges(reader: &Reader, part: &Part, item: &Item, is_device: bool) -> Result<Option<Vec<Range>>> {
    let (Some(live), Some(wanted)) = (&item.live, &item.wanted) else { return Ok(None) };
    if is_device {
        return patch::differing(reader, live, wanted, Medium::Device);
    }
    let root = reader.root(&part.wanted.root)?;
    let path = join_path(&part.wanted.below, &item.path);
    let mut is_linked = false;
    reader.each_link(&root, |links| {
        is_linked |= links.iter().any(|link| link.path == path || link.first == path);
        Ok(())
    })?;
    match is_linked {
        true => Ok(None),
        false => patch::differing(reader, live, wanted, Medium::File),
    }
}

pub(super) fn join_path(above: &[u8], below: &[u8]) -> Vec<u8> {
    match below {
        b"" => above.to_vec(),
        below => join(above, below),
    }
}

fn is_directory(entry: &Option<Entry>) -> bool {
    entry.as_ref().is_some_and(|entry| entry.directory().is_some())
}

fn is_large(entry: &Option<Entry>) -> bool {
    matches!(entry.as_ref().map(|entry| &entry.what), Some(What::File { size, .. }) if *size >= PATCH_MIN)
}
