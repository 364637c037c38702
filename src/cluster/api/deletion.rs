//! The options of a deletion, from the body of a request or its query.

use serde_json::Value;

use super::identity::Preconditions;
use super::query::Query;
use super::status::ApiError;
use super::write::{Cascade, Deletion};

pub(super) fn read(options: &Value, query: &Query) -> Result<Deletion, ApiError> {
    let text = |name: &str| options["preconditions"][name].as_str().map(str::to_owned);
    let preconditions = Preconditions { uid: text("uid"), version: text("resourceVersion") };
    let asked = query.number("gracePeriodSeconds")?;
    let grace_seconds = options["gracePeriodSeconds"].as_u64().or(asked);
    let policy = options["propagationPolicy"].as_str();
    let cascade = match policy.unwrap_or_else(|| query.text("propagationPolicy")) {
        "Foreground" => Cascade::Foreground,
        "Orphan" => Cascade::Orphan,
        _ => Cascade::Background,
    };
    Ok(Deletion { preconditions, grace_seconds, cascade })
}
