//! What the kernel has of the objects of one Service, compared with what it should have: for people. Only that is read,
//! and nothing is changed; each mode does it in its own folder.

use std::fmt::Display;

use sluice_kernel::nft::Rule;

/// Objects of a Service, or of a packet's way to one of its frontends.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Inspection {
    /// Those that are as they should be.
    pub present: Vec<Found>,
    /// Those that should be there and are not.
    pub missing: Vec<Found>,
    /// Those that are there and should not.
    pub extra: Vec<Found>,
}

/// An object, and what it is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// A set, a chain, a virtual service.
    pub place: String,
    /// What it is.
    pub what: What,
}

/// An object in the words of the programs that list it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// As it is printed.
    Text(String),
    /// A rule of nf_tables, which who prints it has words for.
    Rule(Rule),
}

impl Found {
    /// An object with a text.
    pub(crate) fn new(place: impl Display, text: impl Display) -> Found {
        Found { place: place.to_string(), what: What::Text(text.to_string()) }
    }
}

impl Inspection {
    /// The objects of both.
    pub(crate) fn join(&mut self, other: Inspection) {
        self.present.extend(other.present);
        self.missing.extend(other.missing);
        self.extra.extend(other.extra);
    }
}
