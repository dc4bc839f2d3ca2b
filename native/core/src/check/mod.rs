//! Finding damage: in packs, by reading them; in trees, by reading their nodes and asking for their chunks.

mod packs;
mod trees;

pub use packs::{check_packs, PackOptions, PackProblem, PacksChecked};
pub use trees::{check_trees, TreeProblem, TreesChecked};

/// Problems that are kept; further ones are only counted.
pub const MAX_PROBLEMS: usize = 100_000;

#[cfg(test)]
mod tests;
