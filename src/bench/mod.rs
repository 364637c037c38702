//! What each proxy mode costs, measured side by side on one machine.
//!
//! [`results`] are the values that a run produces; everything that is shown is made from them, by [`report`].

pub mod report;
pub mod results;
