//! Durations in Go's syntax.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::de::{Deserializer, Error, Visitor};
use serde::{Deserialize, Serialize, Serializer};

/// A duration in the syntax of Go's `time.ParseDuration`: `30s`, `1h0m0s`, `1.5h`, `0`, `-5s`.
/// Negative durations can be parsed, but no field allows them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct GoDuration {
    nanoseconds: i64,
}

/// A text that is not a duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a duration; write it like 30s, 5m or 1h30m")]
pub struct BadDuration(String);

impl GoDuration {
    /// Zero.
    pub const ZERO: GoDuration = GoDuration { nanoseconds: 0 };

    /// A number of seconds, up to Go's maximum.
    pub const fn from_secs(seconds: u32) -> GoDuration {
        GoDuration { nanoseconds: seconds as i64 * 1_000_000_000 }
    }

    /// The duration, unless it is negative.
    pub fn to_duration(self) -> Option<Duration> {
        u64::try_from(self.nanoseconds).ok().map(Duration::from_nanos)
    }
}

/// Nanoseconds in a unit of Go's syntax.
fn unit_nanoseconds(unit: &str) -> Option<f64> {
    Some(match unit {
        "ns" => 1.0,
        "us" | "µs" | "μs" => 1e3,
        "ms" => 1e6,
        "s" => 1e9,
        "m" => 60e9,
        "h" => 3600e9,
        _ => return None,
    })
}

impl FromStr for GoDuration {
    type Err = BadDuration;

    fn from_str(text: &str) -> Result<GoDuration, BadDuration> {
        let bad = || BadDuration(text.to_owned());
        let (sign, mut rest) = match text.strip_prefix('-') {
            Some(rest) => (-1.0, rest),
            None => (1.0, text.strip_prefix('+').unwrap_or(text)),
        };
        if rest == "0" {
            return Ok(GoDuration::ZERO);
        }
        if rest.is_empty() {
            return Err(bad());
        }
        let mut total = 0.0_f64;
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(bad)?;
            let (number, tail) = rest.split_at(digits);
            let end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
            let (unit, tail) = tail.split_at(end);
            let number: f64 = number.parse().map_err(|_| bad())?;
            total += number * unit_nanoseconds(unit).ok_or_else(bad)?;
            rest = tail;
        }
        // 292 years; above it Go overflows too.
        if total >= 9.2e18 {
            return Err(bad());
        }
        #[allow(clippy::cast_possible_truncation)] // bounded one line above
        Ok(GoDuration { nanoseconds: (sign * total).round() as i64 })
    }
}

impl fmt::Display for GoDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanoseconds < 0 {
            f.write_str("-")?;
        }
        let total = self.nanoseconds.unsigned_abs();
        if total > 0 && total < 1_000_000_000 {
            return match total {
                t if t < 1_000 => write!(f, "{t}ns"),
                t if t < 1_000_000 => write!(f, "{}µs", decimal(t, 1_000)),
                t => write!(f, "{}ms", decimal(t, 1_000_000)),
            };
        }
        let minutes = total / 60_000_000_000;
        if minutes >= 60 {
            write!(f, "{}h", minutes / 60)?;
        }
        if minutes > 0 {
            write!(f, "{}m", minutes % 60)?;
        }
        write!(f, "{}s", decimal(total % 60_000_000_000, 1_000_000_000))
    }
}

/// `value / unit` without trailing zeros.
fn decimal(value: u64, unit: u64) -> String {
    let (whole, fraction) = (value / unit, value % unit);
    if fraction == 0 {
        return whole.to_string();
    }
    let width = unit.ilog10() as usize;
    format!("{whole}.{}", format!("{fraction:0width$}").trim_end_matches('0'))
}

impl Serialize for GoDuration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for GoDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(DurationVisitor)
    }
}

struct DurationVisitor;

impl Visitor<'_> for DurationVisitor {
    type Value = GoDuration;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a duration like 30s, 5m or 1h30m")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<GoDuration, E> {
        text.parse().map_err(E::custom)
    }

    /// In Go a bare number is nanoseconds; in practice it is 0.
    fn visit_i64<E: Error>(self, nanoseconds: i64) -> Result<GoDuration, E> {
        Ok(GoDuration { nanoseconds })
    }

    fn visit_u64<E: Error>(self, nanoseconds: u64) -> Result<GoDuration, E> {
        let nanoseconds = i64::try_from(nanoseconds).map_err(E::custom)?;
        Ok(GoDuration { nanoseconds })
    }
}
