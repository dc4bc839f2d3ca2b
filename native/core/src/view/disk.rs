//! Disk images by their partitions: beside an image stands a directory, which has a file for each partition.
//! image > **disk** > partition.

use std::ops::Range;
use std::sync::Arc;

use super::outline::Kept;
use super::partitions::{partitions, Partition};
use super::shown::{seen, Held, Shown};
use super::View;
use crate::error::Result;
use crate::id::Id;
use crate::node::{check_name, Content, Directory, Entry, What};
use crate::reader::{Holes, Shelf};

/// What a disk is called, behind the name of its image.
pub(super) const SUFFIX: &[u8] = b".partitions";
/// What images are called, in either case; a file that is a root may have any name.
const IMAGES: [&[u8]; 3] = [b".img", b".raw", b".dd"];
const MIN_IMAGE_LEN: u64 = 1 << 20;
/// What tables that were read may take.
const KEPT_BYTES: usize = 4 << 20;
const PERMISSIONS: u16 = 0o777;
const MAY_READ: u16 = 0o444;

/// An image that has partitions.
pub(super) struct Disk {
    pub(super) image: Entry,
    pub(super) directory: Entry,
    parts: Vec<Part>,
}

struct Part {
    start: u64,
    entry: Entry,
}

impl Disk {
    fn new(image: &Entry, partitions: &[Partition]) -> Disk {
        let mode = image.mode & PERMISSIONS;
        let like = |name: &[u8], mode, what| Entry {
            name: name.into(),
            mode,
            uid: image.uid,
            gid: image.gid,
            mtime: image.mtime,
            what,
            xattrs: None,
        };
        let part = |partition: &Partition| {
            let what = What::File { size: partition.len, content: Content::Empty, holes: None };
            Part { start: partition.start, entry: like(partition.number.to_string().as_bytes(), mode, what) }
        };
        // Who may read it may enter.
        let directory = like(b"", mode | (mode & MAY_READ) >> 2, What::Directory(Directory::default()));
        Disk { image: image.clone(), directory, parts: partitions.iter().map(part).collect() }
    }

    fn kept_bytes(&self) -> usize {
        let image = Entry::kept_bytes(std::slice::from_ref(&self.image));
        image + size_of::<Disk>() + self.parts.len() * (size_of::<Part>() + 32)
    }

    pub(super) fn part(&self, number: usize) -> &Entry {
        &self.parts[number].entry
    }

    /// Where a partition stands in the image.
    pub(super) fn range(&self, number: usize) -> Range<u64> {
        let Part { start, entry } = &self.parts[number];
        match &entry.what {
            What::File { size, .. } => *start..*start + size,
            _ => unreachable!("partitions are files"),
        }
    }

    /// Which of the partitions has a name.
    pub(super) fn called(&self, name: &[u8]) -> Option<usize> {
        self.parts.iter().position(|part| *part.entry.name == *name)
    }
}

/// Disks whose tables were read; None for files that have no table.
pub(super) struct Disks(Shelf<Id, Option<Arc<Disk>>>);

impl Disks {
    pub(super) fn new() -> Disks {
        Disks(Shelf::new(KEPT_BYTES))
    }
}

/// The name of a disk without what stands behind that of its image.
pub(super) fn image_name(name: &[u8]) -> Option<&[u8]> {
    name.strip_suffix(SUFFIX).filter(|name| !name.is_empty())
}

/// Whether it might be an image, by what is known without reading it.
pub(super) fn may_be_image(name: &[u8], entry: &Entry, is_root: bool) -> bool {
    let is_called_so = || IMAGES.iter().any(|end| name.len() >= end.len() && ends_with(name, end));
    matches!(&entry.what, What::File { size, .. } if *size >= MIN_IMAGE_LEN) && (is_root || is_called_so())
}

fn ends_with(name: &[u8], end: &[u8]) -> bool {
    name[name.len() - end.len()..].eq_ignore_ascii_case(end)
}

impl View {
    /// The disk called `name` in `at`, which stands beside its image. What the snapshot has under this name goes first.
    pub(super) fn disk_called(&self, at: &Shown, name: &[u8]) -> Result<Option<Shown>> {
        let (Some(_), Some(image)) = (&self.disks, image_name(name)) else { return Ok(None) };
        match self.own(at, image, None)? {
            Some(shown) => self.disk_beside(at, image, &shown),
            None => Ok(None),
        }
    }

    fn disk_beside(&self, at: &Shown, name: &[u8], image: &Shown) -> Result<Option<Shown>> {
        let whole = [name, SUFFIX].concat();
        if !may_be_image(name, image.entry(), image.is_root()) || !check_name(&whole) {
            return Ok(None);
        }
        // It is seen with its image.
        let Some(only) = seen(&at.only, name).map(|_| None).or_else(|| seen(&at.only, &whole)) else { return Ok(None) };
        let Some(disk) = self.disk(image)?.filter(|disk| !disk.parts.is_empty()) else { return Ok(None) };
        if self.own(at, &whole, None)?.is_some() {
            return Ok(None);
        }
        Ok(Some(image.made_below(at, &whole, Held::Disk(disk), only)))
    }

    fn disk(&self, image: &Shown) -> Result<Option<Arc<Disk>>> {
        let Some(Disks(kept)) = &self.disks else { return Ok(None) };
        kept.get(Id(image.identity()), || {
            let entry = image.entry();
            let What::File { size, .. } = &entry.what else { return Ok((None, 0)) };
            let read = |start: u64, out: &mut [u8]| self.read_file(entry, start, out).map(drop);
            let found = partitions(*size, &read)?;
            let disk = (!found.is_empty()).then(|| Arc::new(Disk::new(entry, &found)));
            let weight = disk.as_ref().map_or(0, |disk| disk.kept_bytes());
            Ok((disk, weight + 256))
        })
    }

    /// As `list`, the disks in a directory; they have the numbers of their images, from `before` on.
    pub(super) fn list_disks(
        &self,
        at: &Shown,
        from: u64,
        before: u64,
        visit: &mut dyn FnMut(u64, &[u8], Shown) -> bool,
    ) -> Result<()> {
        let all = at.seen_whole();
        self.list_own(&all, from.saturating_sub(before), &mut |number, name, image| {
            // A damaged image does not hide what is beside it; who asks for its disk by name is told.
            let disk = self.disk_beside(at, name, &image).ok().flatten();
            disk.is_none_or(|disk| visit(before + number, &[name, SUFFIX].concat(), disk))
        })?;
        Ok(())
    }

    pub(super) fn list_parts(
        &self,
        at: &Shown,
        disk: &Arc<Disk>,
        from: u64,
        visit: &mut dyn FnMut(u64, &[u8], Shown) -> bool,
    ) {
        for number in from..disk.parts.len() as u64 {
            let name = &disk.part(number as usize).name;
            let Some(only) = seen(&at.only, name) else { continue };
            let shown = at.made_below(at, name, Held::Part(disk.clone(), number as usize), only);
            if !visit(number + 1, name, shown) {
                return;
            }
        }
    }

    /// Bytes of holes in a part of an image.
    pub(super) fn hole_bytes_in(&self, image: &Entry, part: Range<u64>) -> Result<u64> {
        let What::File { size, holes, .. } = &image.what else { return Ok(0) };
        let mut sum = 0;
        Holes::new(holes.as_deref(), *size).split(&self.reader, part.start, part.end, |start, end, is_hole| {
            sum += if is_hole { end - start } else { 0 };
            Ok(())
        })?;
        Ok(sum)
    }
}

#[cfg(test)]
mod tests;
