//! Durations on the command line.

use std::time::Duration;

use sluice_config::{BadDuration, GoDuration};

/// Durations are written as in the configuration file: `700ms`, `15m`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let duration: GoDuration = text.parse().map_err(|error: BadDuration| error.to_string())?;
    duration.to_duration().ok_or_else(|| "it must not be negative".to_owned())
}
