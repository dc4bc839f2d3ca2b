//! The engine of snapstore: everything that touches each byte or each file. Knows nothing of Python.
//!
//! Layers, each using only what stands before it:
//! lock, error, bytes, id → seal, compress → frame, pack, chunker, node, acl, tar → packer, reader → source, select, walk →
//! crew → take, import, restore, export, check, diff, live, find, lookup, usage, view → inplace.

pub mod acl;
pub mod bytes;
pub mod cache;
pub mod check;
pub mod chunker;
pub mod compress;
pub mod content;
pub mod crew;
pub mod diff;
pub mod error;
pub mod export;
pub mod find;
pub mod frame;
pub mod guarded;
pub mod id;
pub mod import;
pub mod index;
pub mod inplace;
pub mod live;
mod lock;
pub mod lookup;
pub mod node;
pub mod pack;
pub mod packer;
pub mod password;
pub mod progress;
pub mod queue;
pub mod reader;
pub mod restore;
pub mod seal;
pub mod select;
pub mod source;
pub mod take;
pub mod tar;
pub mod usage;
pub mod view;
pub mod walk;

#[cfg(test)]
mod testing;
