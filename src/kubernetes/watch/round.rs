//! The steps of a source: what one is at, how one ended, and whether what came is new.

use std::time::Duration;

/// What a source is at, and so what a failure is one of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Listing,
    /// The watch is requested, or open.
    Watching,
}

/// How a round of a source ended without a failure.
pub(super) enum Round {
    /// The list is there; the watch comes next.
    Listed,
    /// The server ended a watch.
    Ended {
        /// Whether it sent anything.
        spoke: bool,
        /// How long the watch was open.
        lived: Duration,
        /// Whether that was less than was agreed with the server.
        early: bool,
    },
}

/// Whether a version is from before another one. Versions are numbers that grow (KEP-5504); of others
/// nothing is known.
pub(super) fn is_older(version: Option<&str>, than: Option<&str>) -> bool {
    let number = |text: Option<&str>| text.and_then(|text| text.parse::<u64>().ok());
    matches!((number(version), number(than)), (Some(version), Some(than)) if version < than)
}
