//! The proof: histories and the checkers that judge them, shared by every test tier.

pub mod checker;
pub mod history;
mod invariants;
pub mod seeds;
pub mod world;
