//! What a run of the benchmark found: samples by subject, quantity and scale.

use std::fmt;

use serde::{Deserialize, Serialize};

/// All that one run found. Its JSON form is what `--json` writes and `--report-from` reads.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Results {
    /// Version of this format.
    pub schema: u32,
    /// Where it ran.
    pub machine: Machine,
    /// The command line that repeats it.
    pub command: String,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// What was measured.
    pub measurements: Vec<Measurement>,
    /// What was not, and why.
    pub left_out: Vec<LeftOut>,
}

impl Results {
    /// Both runs in one: of the first are the date and the machine.
    pub fn and(mut self, other: Results) -> Results {
        self.command = format!("{}; {}", self.command, other.command);
        self.seconds += other.seconds;
        for found in other.measurements {
            let same = self.measurements.iter_mut().find(|known| {
                (&known.subject, known.quantity, known.services, known.endpoints)
                    == (&found.subject, found.quantity, found.services, found.endpoints)
            });
            match same {
                Some(known) => known.samples.extend(found.samples),
                None => self.measurements.push(found),
            }
        }
        // What one run lacked and another has is not left out.
        let measured = |left: &LeftOut, of: &[Measurement]| {
            left.services.is_none()
                && of.iter().any(|found| {
                    (&found.subject.program, &found.subject.mode)
                        == (&left.subject.program, &left.subject.mode)
                })
        };
        self.left_out.extend(other.left_out);
        let measurements = &self.measurements;
        self.left_out.retain(|left| !measured(left, measurements));
        self
    }
}

/// The [`Results::schema`] that this program writes.
pub const SCHEMA: u32 = 1;

/// The machine of a run, as the kernel describes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Machine {
    /// When the run began, RFC 3339.
    pub date: String,
    /// The processor's name, from `/proc/cpuinfo`.
    pub processor: String,
    /// Processors that the run may use.
    pub cores: usize,
    /// Bytes, from `/proc/meminfo`.
    pub memory: u64,
    /// `uname -r`.
    pub kernel: String,
    /// Sluice's version.
    pub version: String,
}

/// Who was measured.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Subject {
    /// Whose program.
    pub program: Program,
    /// The proxy mode; empty for [`Program::Direct`].
    pub mode: String,
    /// The kernel of the guest it ran in, if it did not run on this machine's kernel: its times compare with
    /// those of the same guest only.
    pub guest: Option<String>,
}

/// A program that was measured.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Program {
    /// No proxy: connections straight to the pod.
    Direct,
    /// This program.
    Sluice,
    /// The Go kube-proxy, with the version that it prints.
    KubeProxy(String),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.program {
            Program::Direct => f.write_str("direct")?,
            Program::Sluice => write!(f, "Sluice {}", self.mode)?,
            Program::KubeProxy(version) => write!(f, "kube-proxy {version} {}", self.mode)?,
        }
        match &self.guest {
            Some(kernel) => write!(f, " (guest, Linux {kernel})"),
            None => Ok(()),
        }
    }
}

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Quantity {
    /// The latency of a change while many other Services change, too.
    BusyChangeLatency,
    /// From the start of the process until every probed virtual IP answers.
    ColdStart,
    /// From the write to the API until the first connection that reaches the new endpoint.
    ChangeLatency,
    /// Processor time, user and kernel, of the proxy and the programs it starts, for one change.
    ChangeProcessorTime,
    /// From the restart of a process that finds its rules in the kernel until it is ready.
    ResyncTime,
    /// Processor time of that.
    ResyncProcessorTime,
    /// One datagram of a new flow there and back.
    FirstPacket,
    /// TCP connections that are opened, answered and closed, one after the other.
    ConnectionRate,
    /// Bulk TCP through one stream.
    BulkOneStream,
    /// Bulk TCP through 64 streams.
    BulkManyStreams,
    /// 64 bytes there and back on an established connection.
    RoundTrip,
    /// The most memory that the process ever had resident.
    PeakMemory,
    /// The memory that it has resident after some changes.
    SteadyMemory,
    /// Rules, set elements and virtual services in the kernel.
    KernelObjects,
    /// Memory that the kernel uses for them.
    KernelMemory,
}

/// What the samples of a quantity count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Seconds.
    Seconds,
    /// Bytes.
    Bytes,
    /// Bits per second.
    BitsPerSecond,
    /// Events per second.
    PerSecond,
    /// Things.
    Count,
}

/// Which of two values is the better one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Better {
    /// The smaller one.
    Lower,
    /// The greater one.
    Higher,
}

impl Quantity {
    /// All of them, in the order in which a report shows them.
    pub const ALL: [Quantity; 15] = [
        Quantity::BusyChangeLatency,
        Quantity::ColdStart,
        Quantity::ChangeLatency,
        Quantity::ChangeProcessorTime,
        Quantity::ResyncTime,
        Quantity::ResyncProcessorTime,
        Quantity::FirstPacket,
        Quantity::ConnectionRate,
        Quantity::BulkOneStream,
        Quantity::BulkManyStreams,
        Quantity::RoundTrip,
        Quantity::PeakMemory,
        Quantity::SteadyMemory,
        Quantity::KernelObjects,
        Quantity::KernelMemory,
    ];

    /// Its description for readers.
    pub const fn title(self) -> &'static str {
        match self {
            Quantity::BusyChangeLatency => "change latency in a busy cluster",
            Quantity::ColdStart => "cold start",
            Quantity::ChangeLatency => "change latency",
            Quantity::ChangeProcessorTime => "processor time per change",
            Quantity::ResyncTime => "restart over own rules",
            Quantity::ResyncProcessorTime => "processor time of a restart",
            Quantity::FirstPacket => "first packet",
            Quantity::ConnectionRate => "connection rate",
            Quantity::BulkOneStream => "bulk, 1 stream",
            Quantity::BulkManyStreams => "bulk, 64 streams",
            Quantity::RoundTrip => "request and response",
            Quantity::PeakMemory => "peak memory",
            Quantity::SteadyMemory => "steady memory",
            Quantity::KernelObjects => "kernel objects",
            Quantity::KernelMemory => "kernel memory",
        }
    }

    /// What its samples count.
    pub const fn unit(self) -> Unit {
        match self {
            Quantity::BusyChangeLatency
            | Quantity::ColdStart
            | Quantity::ChangeLatency
            | Quantity::ChangeProcessorTime
            | Quantity::ResyncTime
            | Quantity::ResyncProcessorTime
            | Quantity::FirstPacket
            | Quantity::RoundTrip => Unit::Seconds,
            Quantity::ConnectionRate => Unit::PerSecond,
            Quantity::BulkOneStream | Quantity::BulkManyStreams => Unit::BitsPerSecond,
            Quantity::PeakMemory | Quantity::SteadyMemory | Quantity::KernelMemory => Unit::Bytes,
            Quantity::KernelObjects => Unit::Count,
        }
    }

    /// Which way is up.
    pub const fn better(self) -> Better {
        match self.unit() {
            Unit::PerSecond | Unit::BitsPerSecond => Better::Higher,
            Unit::Seconds | Unit::Bytes | Unit::Count => Better::Lower,
        }
    }
}

/// Samples of one quantity of one subject at one scale.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Measurement {
    /// Who.
    pub subject: Subject,
    /// What.
    pub quantity: Quantity,
    /// Services in the cluster; 0 for [`Program::Direct`].
    pub services: u32,
    /// Endpoints of each.
    pub endpoints: u32,
    /// In the quantity's unit, in the order in which they were taken. Never empty.
    pub samples: Vec<f64>,
}

/// What a run left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LeftOut {
    /// Whose measurement.
    pub subject: Subject,
    /// Which; none if it is all of them.
    pub quantity: Option<Quantity>,
    /// At how many Services; none if at any number.
    pub services: Option<u32>,
    /// Why, in one sentence.
    pub reason: String,
}

/// A measurement in a few figures.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Summary {
    /// How many samples.
    pub count: usize,
    /// The smallest.
    pub min: f64,
    /// A quarter of the samples is not greater.
    pub lower_quartile: f64,
    /// Half of the samples are not greater.
    pub median: f64,
    /// Three quarters of the samples are not greater.
    pub upper_quartile: f64,
    /// 99 % of the samples are not greater.
    pub p99: f64,
    /// The greatest.
    pub max: f64,
}

impl Summary {
    /// Sums up samples by nearest rank; nothing if there are none.
    pub fn of(samples: &[f64]) -> Option<Summary> {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |percent: usize| {
            let rank = (sorted.len() * percent).div_ceil(100).max(1);
            sorted.get(rank - 1).copied()
        };
        Some(Summary {
            count: sorted.len(),
            min: at(0)?,
            lower_quartile: at(25)?,
            median: at(50)?,
            upper_quartile: at(75)?,
            p99: at(99)?,
            max: at(100)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_is_by_nearest_rank() {
        let samples: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        let summary = Summary::of(&samples).expect("there are samples");
        assert_eq!((summary.count, summary.min, summary.max), (200, 1.0, 200.0));
        assert_eq!((summary.lower_quartile, summary.median), (50.0, 100.0));
        assert_eq!((summary.upper_quartile, summary.p99), (150.0, 198.0));
        assert_eq!(Summary::of(&[7.0]).map(|s| (s.min, s.median, s.p99)), Some((7.0, 7.0, 7.0)));
        assert_eq!(Summary::of(&[]), None);
    }
}
