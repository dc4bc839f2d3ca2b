//! The engine of snapstore: everything that touches each byte or each file. Knows nothing of Python.
//!
//! Layers, each using only what stands before it:
//! error, bytes, id → seal, compress → frame, pack, chunker, node → packer, reader → source → select → take, restore, check.

pub mod bytes;
pub mod cache;
pub mod check;
pub mod chunker;
pub mod compress;
pub mod content;
pub mod error;
pub mod frame;
pub mod id;
pub mod index;
pub mod node;
pub mod pack;
pub mod packer;
pub mod progress;
pub mod queue;
pub mod reader;
pub mod restore;
pub mod seal;
pub mod select;
pub mod source;
pub mod take;

#[cfg(test)]
mod testing;
