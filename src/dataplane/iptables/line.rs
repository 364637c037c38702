//! Lines of chains, and the Service to which a refusal of one belongs.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::names::ChainId;
use super::rule::Rule;
use sluice_core::model::ServiceName;

/// A rule in text, without `-A` and the chain's name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Line {
    pub(super) text: Arc<str>,
    /// The Service that it is for, if it is for one.
    pub(super) owner: Option<ServiceName>,
}

impl Line {
    pub(super) fn of(rule: &Rule) -> Line {
        Line { text: rule.to_string().into(), owner: None }
    }

    pub(super) fn owned(rule: &Rule, owner: &ServiceName) -> Line {
        Line { text: rule.to_string().into(), owner: Some(owner.clone()) }
    }
}

/// Chains with their lines.
pub(super) type Chains = BTreeMap<ChainId, Vec<Line>>;

/// Chains that change: what is to be in them, or nothing if they are to go.
pub(super) type Diff = BTreeMap<ChainId, Option<Vec<Line>>>;
