//! Memory for secrets: not in core dumps, not in swap where the system lets us, wiped when it is given back.

use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use rustix::mm::{madvise, mlock, mmap_anonymous, munmap, Advice, MapFlags, ProtFlags};
use zeroize::Zeroize;

use crate::error::{Error, Result};

/// A value in pages of its own. `T` is plain data: made of zeros, wiped with zeros, nothing to drop.
pub struct Guarded<T: Copy + Default>(NonNull<T>);

// SAFETY: the pages belong to this value alone, and are reached through it only.
unsafe impl<T: Copy + Default + Send> Send for Guarded<T> {}
// SAFETY: as above; shared access gives shared references only.
unsafe impl<T: Copy + Default + Sync> Sync for Guarded<T> {}

impl<T: Copy + Default> Guarded<T> {
    /// A value to be filled in where it is, so that no copy of a secret is left elsewhere.
    pub fn new() -> Result<Guarded<T>> {
        let none = |what: &str, e: rustix::io::Errno| Error::Internal(format!("cannot {what} memory for keys: {e}"));
        // SAFETY: new pages, at no place in particular.
        let place = unsafe {
            let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
            mmap_anonymous(std::ptr::null_mut(), size_of::<T>(), protection, flags).map_err(|e| none("get", e))?
        };
        let value = Guarded(NonNull::new(place.cast()).expect("pages are never at zero"));
        // SAFETY: advice and locks on our own pages, which change nothing that is read. A limit on locked memory is no reason
        // to fail: then the system may swap.
        unsafe {
            madvise(place, size_of::<T>(), Advice::LinuxDontDump).map_err(|e| none("protect", e))?;
            let _ = mlock(place, size_of::<T>());
            value.0.write(T::default());
        }
        Ok(value)
    }
}

impl<T: Copy + Default> Deref for Guarded<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: written by `new`, aligned to a page, and alive as long as this value.
        unsafe { self.0.as_ref() }
    }
}

impl<T: Copy + Default> DerefMut for Guarded<T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as for `deref`, and nobody else has a reference.
        unsafe { self.0.as_mut() }
    }
}

impl<T: Copy + Default> Drop for Guarded<T> {
    fn drop(&mut self) {
        // SAFETY: our own pages, plain data in them, and no reference is left.
        unsafe {
            std::slice::from_raw_parts_mut(self.0.as_ptr().cast::<u8>(), size_of::<T>()).zeroize();
            let _ = munmap(self.0.as_ptr().cast(), size_of::<T>());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_pages_are_left_out_of_core_dumps() {
        let mut secret = Guarded::<[u8; 32]>::new().unwrap();
        assert_eq!(*secret, [0; 32]);
        secret[31] = 7;
        assert_eq!(secret[31], 7);
        assert!(flags_at(secret.as_ptr() as usize).contains(" dd"));
    }

    /// What the kernel says of the pages at an address.
    fn flags_at(address: usize) -> String {
        let bound = |text: &str| usize::from_str_radix(text, 16).ok();
        let range = |line: &str| {
            let (from, to) = line.split(' ').next()?.split_once('-')?;
            Some(bound(from)?..bound(to)?)
        };
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let from_it_on = maps.lines().skip_while(|line| !range(line).is_some_and(|range| range.contains(&address)));
        from_it_on.into_iter().find(|line| line.starts_with("VmFlags:")).unwrap().to_string()
    }
}
