//! The Kubernetes API: the only crate of the daemon that knows API types.
//!
//! - [`watch`]: lists and watches, from the first page to the `Change`s of the model
//! - [`events`]: Events about the Node and about Services

#![forbid(unsafe_code)]

pub mod events;
pub mod watch;
