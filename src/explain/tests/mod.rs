//! Explanations of small worlds, without files, API or kernel.

mod agreement;
mod findings;
mod world;
