//! The results in the order in which they are shown: by quantity, by kernel, by subject, by scale.

use std::collections::{BTreeMap, BTreeSet};

use super::units::{Ratio, grouped};
use crate::bench::results::{Measurement, Program, Quantity, Results, Subject, Summary};

/// The modes in the order in which they are shown; others follow.
const MODES: [&str; 4] = ["nftables", "iptables", "ipvs", "userspace"];

/// The size of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Scale {
    pub(super) services: u32,
    pub(super) endpoints: u32,
}

impl Scale {
    /// "10,000 × 5".
    pub(super) fn title(self) -> String {
        format!("{} × {}", grouped(self.services.into()), self.endpoints)
    }
}

/// One quantity on one kernel: what may be compared with each other.
#[derive(Debug)]
pub(super) struct Panel<'a> {
    pub(super) quantity: Quantity,
    /// The guest's kernel, if it was not this machine's.
    pub(super) guest: Option<&'a str>,
    /// Everything that was measured at, from small to large.
    pub(super) scales: Vec<Scale>,
    /// In the order of [`order`].
    pub(super) rows: Vec<Row<'a>>,
}

/// What one subject showed.
#[derive(Debug)]
pub(super) struct Row<'a> {
    pub(super) subject: &'a Subject,
    /// Which of all subjects it is, on the whole page.
    pub(super) index: usize,
    /// By scale. A subject without a proxy has one, whatever the size of the cluster.
    pub(super) cells: BTreeMap<Scale, Summary>,
}

impl Row<'_> {
    /// What it showed at a scale, or at any if there is no proxy.
    pub(super) fn at(&self, scale: Scale) -> Option<&Summary> {
        match self.subject.program {
            Program::Direct => self.cells.values().next(),
            Program::Sluice | Program::KubeProxy(_) => self.cells.get(&scale),
        }
    }

    pub(super) fn is_direct(&self) -> bool {
        self.subject.program == Program::Direct
    }
}

impl<'a> Panel<'a> {
    /// All panels that have something to show, in the order of [`Quantity::ALL`]; of each quantity
    /// first the one of this machine's kernel.
    pub(super) fn all(results: &'a Results) -> Vec<Panel<'a>> {
        let everyone = subjects(results);
        let mut guests: Vec<Option<&str>> = vec![];
        for subject in &everyone {
            if !guests.contains(&subject.guest.as_deref()) {
                guests.push(subject.guest.as_deref());
            }
        }
        let panel = |quantity, guest| Panel::of(results, &everyone, quantity, guest);
        let of_quantity = |quantity| guests.iter().filter_map(move |guest| panel(quantity, *guest));
        Quantity::ALL.into_iter().flat_map(of_quantity).collect()
    }

    fn of(
        results: &'a Results,
        everyone: &[&'a Subject],
        quantity: Quantity,
        guest: Option<&'a str>,
    ) -> Option<Panel<'a>> {
        let measured: Vec<&Measurement> =
            results.measurements.iter().filter(|m| m.quantity == quantity).collect();
        let row = |(index, subject): (usize, &&'a Subject)| {
            let own = measured.iter().filter(|m| m.subject == **subject);
            let cells = cells(own.copied());
            let here = subject.guest.as_deref() == guest && !cells.is_empty();
            here.then_some(Row { subject, index, cells })
        };
        let rows: Vec<Row<'a>> = everyone.iter().enumerate().filter_map(row).collect();
        let proxied = rows.iter().filter(|row| !row.is_direct());
        let scales: BTreeSet<Scale> = proxied.flat_map(|row| row.cells.keys().copied()).collect();
        let panel = Panel { quantity, guest, scales: scales.into_iter().collect(), rows };
        (!panel.rows.is_empty()).then_some(panel)
    }

    /// The row of the Go kube-proxy in the same mode.
    pub(super) fn counterpart(&self, row: &Row<'_>) -> Option<&Row<'a>> {
        let ours = row.subject.program == Program::Sluice;
        let theirs = |other: &&Row<'_>| {
            matches!(other.subject.program, Program::KubeProxy(_))
                && family(&other.subject.mode) == family(&row.subject.mode)
        };
        // The same variant, if there is one.
        let exact = self.rows.iter().filter(theirs).find(|o| o.subject.mode == row.subject.mode);
        if ours { exact.or_else(|| self.rows.iter().find(theirs)) } else { None }
    }

    pub(super) fn direct(&self) -> Option<&Row<'a>> {
        self.rows.iter().find(|row| row.is_direct())
    }

    /// How much better Sluice is than the Go kube-proxy of the same mode.
    pub(super) fn against_kube_proxy(&self, row: &Row<'_>, scale: Scale) -> Option<Ratio> {
        let theirs = self.counterpart(row)?.at(scale)?;
        Ratio::of(self.quantity, row.at(scale)?, theirs)
    }

    /// Panels of the same quantity with one number of endpoints each, for charts, whose only axis of
    /// size is the number of Services.
    pub(super) fn by_endpoints(&self) -> Vec<(Option<u32>, Vec<Scale>)> {
        let mut groups: BTreeMap<u32, Vec<Scale>> = BTreeMap::new();
        for scale in &self.scales {
            groups.entry(scale.endpoints).or_default().push(*scale);
        }
        if groups.is_empty() {
            return vec![(None, Vec::new())];
        }
        groups.into_iter().map(|(endpoints, scales)| (Some(endpoints), scales)).collect()
    }
}

/// The summaries of one subject's measurements of one quantity. Samples that are no numbers are left
/// out; what was measured twice counts together.
fn cells<'a>(measurements: impl Iterator<Item = &'a Measurement>) -> BTreeMap<Scale, Summary> {
    let mut samples: BTreeMap<Scale, Vec<f64>> = BTreeMap::new();
    for measurement in measurements {
        let scale = Scale { services: measurement.services, endpoints: measurement.endpoints };
        let numbers = measurement.samples.iter().copied().filter(|sample| sample.is_finite());
        samples.entry(scale).or_default().extend(numbers);
    }
    let summary = |(scale, samples): (Scale, Vec<f64>)| Some((scale, Summary::of(&samples)?));
    samples.into_iter().filter_map(summary).collect()
}

/// All subjects, in display order.
pub(super) fn subjects(results: &Results) -> Vec<&Subject> {
    let mut all: Vec<&Subject> = results.measurements.iter().map(|m| &m.subject).collect();
    all.sort_by(|a, b| order(a).cmp(&order(b)));
    all.dedup();
    all
}

/// This machine's kernel before guests; no proxy first; then mode by mode, Sluice before others.
fn order(subject: &Subject) -> (&Option<String>, usize, &str, &Program) {
    let known = MODES.iter().position(|mode| *mode == family(&subject.mode));
    let place = match subject.program {
        Program::Direct => 0,
        Program::Sluice | Program::KubeProxy(_) => 1 + known.unwrap_or(MODES.len()),
    };
    (&subject.guest, place, &subject.mode, &subject.program)
}

/// The mode without its variant: `iptables` of `iptables-legacy`.
pub(super) fn family(mode: &str) -> &str {
    MODES.into_iter().find(|known| mode.starts_with(known)).unwrap_or(mode)
}

/// A subject's name among others of its kernel.
pub(super) fn name(subject: &Subject) -> String {
    match &subject.program {
        Program::Direct => "direct, no proxy".to_owned(),
        Program::Sluice => format!("Sluice {}", subject.mode),
        Program::KubeProxy(_) => format!("kube-proxy {}", subject.mode),
    }
}

/// What it is called where its kernel has to be named, too.
pub(super) fn full_name(subject: &Subject) -> String {
    match &subject.guest {
        Some(guest) => format!("{} (guest, {guest})", name(subject)),
        None => name(subject),
    }
}

/// The versions of the Go kube-proxy that were measured.
pub(super) fn versions(results: &Results) -> BTreeSet<&str> {
    results
        .measurements
        .iter()
        .filter_map(|m| match &m.subject.program {
            Program::KubeProxy(version) => Some(version.trim_start_matches('v')),
            Program::Direct | Program::Sluice => None,
        })
        .collect()
}

/// Which part of the samples is within a spread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spread {
    /// From the lower to the upper quartile.
    Quartiles,
    /// From the median to the 99th percentile: what a user is unlucky to see.
    Tail,
}

impl Spread {
    /// How the spread of a quantity is shown: where single slow cases hurt, by its tail.
    pub(super) fn of(quantity: Quantity) -> Spread {
        match quantity {
            Quantity::BusyChangeLatency
            | Quantity::ChangeLatency
            | Quantity::FirstPacket
            | Quantity::RoundTrip => Spread::Tail,
            _ => Spread::Quartiles,
        }
    }

    /// Its two ends.
    pub(super) fn ends(self, summary: &Summary) -> (f64, f64) {
        match self {
            Spread::Quartiles => (summary.lower_quartile, summary.upper_quartile),
            Spread::Tail => (summary.median, summary.p99),
        }
    }

    /// Its description for readers.
    pub(super) fn title(self) -> &'static str {
        match self {
            Spread::Quartiles => "quartiles",
            Spread::Tail => "99th percentile",
        }
    }
}

/// What a quantity is, in one sentence.
pub(super) fn explanation(quantity: Quantity) -> &'static str {
    match quantity {
        Quantity::BusyChangeLatency => {
            "From the write to the API until the first connection that reaches the new endpoint, while other \
             Services change all the time (50 times a second, unless the command says otherwise)."
        }
        Quantity::ColdStart => {
            "From the start of the process until every probed virtual IP answers."
        }
        Quantity::ChangeLatency => {
            "From the write to the API until the first connection that reaches the new endpoint."
        }
        Quantity::ChangeProcessorTime => {
            "Processor time, user and kernel, of the proxy and the programs it starts, for one change."
        }
        Quantity::ResyncTime => {
            "From the restart of a process that finds its rules in the kernel until it is ready."
        }
        Quantity::ResyncProcessorTime => "Processor time, user and kernel, of such a restart.",
        Quantity::FirstPacket => "Round trip of the first datagram of a new flow.",
        Quantity::ConnectionRate => {
            "TCP connections that are opened, answered and closed, one after the other."
        }
        Quantity::BulkOneStream => "Bulk TCP through one stream.",
        Quantity::BulkManyStreams => "Bulk TCP through 64 streams at once.",
        Quantity::RoundTrip => "Round trip of 64 bytes on an established connection.",
        Quantity::PeakMemory => "Peak resident memory of the process.",
        Quantity::SteadyMemory => "Resident memory of the process after some changes.",
        Quantity::KernelObjects => "Rules, set elements and virtual services in the kernel.",
        Quantity::KernelMemory => "Kernel memory of these objects.",
    }
}

/// A title as it stands at the start of a line.
pub(super) fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}
