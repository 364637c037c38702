//! Explanations of small worlds, without files, API or kernel.

mod agreement;
mod findings;
pub(crate) mod world;
