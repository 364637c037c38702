//! Finds the Services that the kernel refuses when the program does not name them.
//!
//! Some refusals are reported only at `COMMIT` (iptables-legacy replaces a table as a whole; iptables-nft
//! checks there whether a jump's target exists). Then everything is applied without the changed Services, and
//! these are added again by halves. Meanwhile they are not served, so that all others are.

use std::collections::{BTreeMap, BTreeSet};

use super::script::{Blame, Written};
use sluice_core::model::ServiceName;
use sluice_kernel::xtables::XtablesError;

/// How many scripts are tried: two Services to blame are found among a thousand.
const ATTEMPTS: usize = 48;

/// How a script went.
pub(super) enum Attempt {
    /// It wrote this.
    Applied(Written),
    /// It was not applied as a whole.
    Failed(Blame),
}

/// Applies what the kernel accepts, records the refused Services, and returns what was written. `attempt`
/// syncs without some Services; `error` is the error for all suspects together.
///
/// # Errors
/// If not even what is without the suspects can be applied, or the programs cannot be used.
pub(super) fn isolate(
    mut attempt: impl FnMut(Vec<&ServiceName>) -> Result<Attempt, XtablesError>,
    refused: &mut BTreeMap<ServiceName, String>,
    suspects: BTreeSet<ServiceName>,
    error: &XtablesError,
) -> Result<Written, XtablesError> {
    let suspects: Vec<ServiceName> = suspects.into_iter().collect();
    let mut written = applied(attempt(refused.keys().chain(&suspects).collect())?)?;
    let mut waiting: Vec<Vec<ServiceName>> = Vec::new();
    divide(suspects, error, &mut waiting, refused);
    for _ in 0..ATTEMPTS {
        let Some(group) = waiting.pop() else { break };
        match attempt(refused.keys().chain(waiting.iter().flatten()).collect())? {
            Attempt::Applied(more) => written.add(more),
            Attempt::Failed(Blame::Service(name, error)) => {
                waiting.push(group.into_iter().filter(|other| *other != name).collect());
                refused.insert(name, error.to_string());
            }
            Attempt::Failed(Blame::OneOf(_, error)) => {
                divide(group, &error, &mut waiting, refused);
            }
            Attempt::Failed(Blame::Nobody(error)) => return Err(error),
        }
    }
    for name in waiting.into_iter().flatten() {
        refused.insert(name, format!("left out, as one of several that may be to blame: {error}"));
    }
    // Whatever the last attempt has left.
    written.add(applied(attempt(refused.keys().collect())?)?);
    Ok(written)
}

/// What an attempt wrote that has to succeed.
fn applied(attempt: Attempt) -> Result<Written, XtablesError> {
    match attempt {
        Attempt::Applied(written) => Ok(written),
        Attempt::Failed(
            Blame::Service(_, error) | Blame::OneOf(_, error) | Blame::Nobody(error),
        ) => Err(error),
    }
}

/// Halves a group that was refused; one alone is to blame.
fn divide(
    mut group: Vec<ServiceName>,
    error: &XtablesError,
    waiting: &mut Vec<Vec<ServiceName>>,
    refused: &mut BTreeMap<ServiceName, String>,
) {
    if group.len() > 1 {
        let half = group.split_off(group.len() / 2);
        waiting.extend([half, group]);
    } else {
        refused.extend(group.into_iter().map(|name| (name, error.to_string())));
    }
}
