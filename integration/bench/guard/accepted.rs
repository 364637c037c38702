//! The accepted counts, in a file next to this one.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::paths::Path;

/// Where the counts are, from the top of the repository.
pub(crate) const FILE: &str = "integration/bench/guard/accepted.json";

/// What the file holds.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Accepted {
    /// A count may be so much greater or smaller.
    pub(crate) tolerance_percent: f64,
    /// By path.
    pub(crate) instructions: BTreeMap<String, u64>,
}

fn file() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join(FILE)
}

impl Accepted {
    pub(crate) fn read() -> Result<Accepted, String> {
        let text = std::fs::read_to_string(file()).map_err(|e| format!("{FILE}: {e}"))?;
        serde_json::from_str(&text).map_err(|e| format!("{FILE}: {e}"))
    }

    pub(crate) fn write(&self) -> Result<(), String> {
        let text = serde_json::to_string_pretty(self).map_err(|e| format!("{FILE}: {e}"))?;
        std::fs::write(file(), text + "\n").map_err(|e| format!("{FILE}: {e}"))
    }
}

/// How much a count differs, in percent.
fn difference(counted: u64, before: u64) -> f64 {
    // Counts are far below what would lose a digit.
    #[allow(clippy::cast_precision_loss)]
    let (counted, before) = (counted as f64, before as f64);
    100.0 * (counted / before - 1.0)
}

/// A line of the table that people see.
pub(crate) fn line(path: Path, counted: u64, before: Option<u64>) -> String {
    let (before, change) = match before {
        Some(before) => (before.to_string(), format!("{:+.2} %", difference(counted, before))),
        None => ("–".to_owned(), "new".to_owned()),
    };
    format!("{:<28} {counted:>15} {before:>15} {change:>9}", path.name())
}

/// What is wrong with a count, and what to do about it.
pub(crate) fn verdict(
    path: Path,
    counted: u64,
    before: Option<u64>,
    tolerance: f64,
) -> Option<String> {
    let name = path.name();
    let Some(before) = before else {
        return Some(format!(
            "{name}: nothing was accepted yet; accept it with `make bench-guard UPDATE=1`"
        ));
    };
    let difference = difference(counted, before);
    if difference > tolerance {
        return Some(format!(
            "{name} ({}) takes {difference:.1} % more instructions than accepted. Find out what grew:\n  \
             {}\nIf it is worth it, or the compiler changed, say so in the commit and accept it with \
             `make bench-guard UPDATE=1`.",
            path.says(),
            crate::profile(path),
        ));
    }
    (difference < -tolerance).then(|| {
        format!(
            "{name} takes {:.1} % fewer instructions than accepted. Well done; keep it so with \
             `make bench-guard UPDATE=1`.",
            -difference
        )
    })
}
