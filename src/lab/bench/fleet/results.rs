//! What a run with a fleet found, second by second. Its JSON form is what `--json` writes.

use serde::{Deserialize, Serialize};

use crate::bench::results::Machine;

/// The [`FleetResults::schema`] that this program writes.
pub const SCHEMA: u32 = 1;

/// All that one run found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FleetResults {
    /// Version of this format.
    pub schema: u32,
    /// Where it ran.
    pub machine: Machine,
    /// The command line that repeats it.
    pub command: String,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// The fleets, in the order in which they were played.
    pub fleets: Vec<Fleet>,
    /// Fleets that were not played, or not to the end.
    pub left_out: Vec<FleetLeftOut>,
}

/// A fleet that was not measured, or not to the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FleetLeftOut {
    /// How many nodes it has.
    pub nodes: u32,
    /// Why, in one sentence.
    pub reason: String,
}

/// What a fleet asked of its API server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Fleet {
    /// How many nodes it has, each with four watches.
    pub nodes: u32,
    /// Services in the lab's cluster; none if the server is a given one.
    pub services: Option<u32>,
    /// Endpoints of each.
    pub endpoints: Option<u32>,
    /// What was played, in this order.
    pub phases: Vec<Phase>,
}

/// A part of what is played.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Part {
    /// The nodes start, some every second, and list everything.
    Start,
    /// An EndpointSlice changes every second.
    Changes,
    /// The server resets every connection.
    Outage,
    /// The outage is over.
    Return,
    /// The server has forgotten the version of every watch, as after its watch cache was filled anew.
    Relist,
    /// Whatever is done to a given server meanwhile.
    Observed,
}

impl Part {
    /// Its description for readers.
    pub const fn title(self) -> &'static str {
        match self {
            Part::Start => "start",
            Part::Changes => "a change each second",
            Part::Outage => "outage",
            Part::Return => "after the outage",
            Part::Relist => "versions forgotten",
            Part::Observed => "observed",
        }
    }
}

/// A part of what was played, by second.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Phase {
    /// Which.
    pub part: Part,
    /// How many objects were changed.
    pub changes: u32,
    /// What each second had.
    pub seconds: Vec<Second>,
}

/// What one second had.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Second {
    /// Requests that the server answered, whatever it said.
    pub answered: u64,
    /// Attempts that no server answered.
    pub unanswered: u64,
    /// Bytes of answers and watches, without HTTP's own.
    pub bytes: u64,
    /// Processor time of the server, in seconds; none if it is a given one.
    pub server_seconds: Option<f64>,
}

impl Phase {
    /// Answered requests of all seconds.
    pub fn answered(&self) -> u64 {
        self.seconds.iter().map(|second| second.answered).sum()
    }

    /// Attempts that no server answered.
    pub fn unanswered(&self) -> u64 {
        self.seconds.iter().map(|second| second.unanswered).sum()
    }

    /// Bytes of all seconds.
    pub fn bytes(&self) -> u64 {
        self.seconds.iter().map(|second| second.bytes).sum()
    }

    /// Requests of the busiest second, answered or not.
    pub fn busiest(&self) -> u64 {
        let of = |second: &Second| second.answered + second.unanswered;
        self.seconds.iter().map(of).max().unwrap_or(0)
    }

    /// The busiest second's share of all requests; none without requests.
    #[allow(clippy::cast_precision_loss)] // shares are shown with one digit
    pub fn busiest_share(&self) -> Option<f64> {
        let all = self.answered() + self.unanswered();
        (all > 0).then(|| self.busiest() as f64 / all as f64)
    }

    /// Processor time of the server: of all seconds, and of the busiest one.
    pub fn server_seconds(&self) -> Option<(f64, f64)> {
        let all: Option<Vec<f64>> = self.seconds.iter().map(|s| s.server_seconds).collect();
        let all = all?;
        Some((all.iter().sum(), all.iter().copied().fold(0.0, f64::max)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_busiest_second_counts_what_was_answered_and_what_was_not() {
        let second = |answered, unanswered, cpu| Second {
            answered,
            unanswered,
            bytes: 10,
            server_seconds: cpu,
        };
        let mut phase = Phase {
            part: Part::Return,
            changes: 0,
            seconds: vec![
                second(3, 0, Some(0.1)),
                second(1, 4, Some(0.5)),
                second(2, 0, Some(0.2)),
            ],
        };
        assert_eq!((phase.busiest(), phase.busiest_share(), phase.bytes()), (5, Some(0.5), 30));
        let (all, most) = phase.server_seconds().expect("each second is known");
        assert!((all - 0.8).abs() < 1e-9 && (most - 0.5).abs() < 1e-9);
        phase.seconds.push(second(0, 0, None));
        assert_eq!(phase.server_seconds(), None, "a part of it is not the whole");
        phase.seconds.clear();
        assert_eq!(phase.busiest_share(), None);
    }
}
