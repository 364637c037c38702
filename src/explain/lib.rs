//! Why a connection to a Service goes where it goes, or does not: the outcome that `plan::decide` has for it, and every
//! reason on the way.
//!
//! [`explain()`] is pure. It takes what is known ([`Truth`]) and what is asked ([`Question`]), and returns an
//! [`Explanation`]: stages in the order in which a packet meets them, the endpoints that are used and those that are not,
//! and findings with a way out. The daemon, files and an API server are different truths for the same walk.
//!
//! - [`truth`]: what is known, and what only some know (pods, selectors)
//! - [`question`]: FROM and TO as people write them
//! - [`client`], [`target`]: which packet that is
//! - [`walk`]: from the packet to the stages
//! - [`findings`]: the closed list of what can be wrong
//! - [`what_if`]: the same with one thing changed
//! - [`compared`]: the answers before and after, and what the change costs
//! - [`render`]: an explanation as text, and as a page

#![forbid(unsafe_code)]

pub mod client;
pub mod compared;
pub mod explanation;
pub mod findings;
mod nearest;
pub mod question;
pub mod refusal;
pub mod render;
pub mod target;
pub mod truth;
mod walk;
pub mod what_if;

#[cfg(test)]
mod tests;

pub use explanation::{API_VERSION, Explanation, Outcome, Stage, StageName};
pub use findings::{Code, Finding, Severity};
pub use question::Question;
pub use refusal::Refusal;
pub use truth::{Known, Looked, Origin, Truth};
pub use walk::explain;
