//! The controllers of a lab's cluster. Each is a pure function from objects to what is to be written
//! ([`Action`]); [`Controllers`] calls them for what a change concerns, over the store's change stream.
//!
//! - [`world`]: the objects, kept current
//! - [`deployment`], [`replica_set`], [`scheduler`], [`endpoint_slice`], [`garbage`]: one controller each
//! - [`concern`]: which controllers a change concerns
//! - [`run`]: the loop
//!
//! They are level-triggered and write only differences: a second call without a change gives nothing. What a
//! cluster's controllers do besides and these do not: `minReadySeconds`, `progressDeadlineSeconds`, affinity,
//! topology spread, resources, taints other than those of cordoned nodes.

#![forbid(unsafe_code)]

pub mod action;
pub mod concern;
pub mod deployment;
pub mod endpoint_slice;
pub mod fields;
pub mod garbage;
pub mod replica_set;
pub mod run;
pub mod scheduler;
pub mod world;

#[cfg(test)]
mod fixtures;

pub use action::Action;
pub use run::Controllers;
