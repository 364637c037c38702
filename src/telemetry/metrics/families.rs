//! Construction of metric families, with upstream's names and help texts.

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{
    Counter, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry,
};

use sluice_core::net::Family;

/// The label of the IP family.
pub(super) const FAMILY: &str = "ip_family";

/// The stability level of a family: upstream writes it before the help text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stability {
    Alpha,
    Beta,
    Stable,
    /// Not a Kubernetes metric: no stability level is written.
    None,
}

/// Creates and registers families.
///
/// Names, labels and buckets are constants, so construction cannot fail at run time: the tests construct every family of
/// every mode.
pub(super) struct Families<'a> {
    pub(super) registry: &'a Registry,
    pub(super) stability: Stability,
}

impl Families<'_> {
    fn help(&self, help: &str) -> String {
        match self.stability {
            Stability::Alpha => format!("[ALPHA] {help}"),
            Stability::Beta => format!("[BETA] {help}"),
            Stability::Stable => format!("[STABLE] {help}"),
            Stability::None => help.to_owned(),
        }
    }

    fn register<C: Collector + Clone + 'static>(&self, made: prometheus::Result<C>) -> C {
        let family = made.expect("names, labels and buckets are constants");
        self.registry.register(Box::new(family.clone())).expect("every name is used once");
        family
    }

    pub(super) fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.register(IntCounter::new(name, self.help(help)))
    }

    /// A counter of seconds.
    pub(super) fn seconds(&self, name: &str, help: &str) -> Counter {
        self.register(Counter::new(name, self.help(help)))
    }

    pub(super) fn histogram(&self, name: &str, help: &str, buckets: Vec<f64>) -> Histogram {
        let options = HistogramOpts::new(name, self.help(help)).buckets(buckets);
        self.register(Histogram::with_opts(options))
    }

    pub(super) fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.register(IntCounterVec::new(Opts::new(name, self.help(help)), labels))
    }

    pub(super) fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.register(IntGauge::new(name, self.help(help)))
    }

    pub(super) fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.register(IntGaugeVec::new(Opts::new(name, self.help(help)), labels))
    }

    /// Gauges with fractional values.
    pub(super) fn levels(&self, name: &str, help: &str, labels: &[&str]) -> GaugeVec {
        self.register(GaugeVec::new(Opts::new(name, self.help(help)), labels))
    }

    /// Counters by IP family, exported as 0 from the start, so that the first failure is an increase.
    pub(super) fn counters_of_families(&self, name: &str, help: &str) -> IntCounterVec {
        let counters = self.counters(name, help, &[FAMILY]);
        for family in Family::BOTH {
            counters.with_label_values(&[family.to_string()]);
        }
        counters
    }

    pub(super) fn histograms(
        &self,
        name: &str,
        help: &str,
        buckets: Vec<f64>,
        labels: &[&str],
    ) -> HistogramVec {
        let options = HistogramOpts::new(name, self.help(help)).buckets(buckets);
        self.register(HistogramVec::new(options, labels))
    }
}

/// Reads an external value.
pub(super) type Read = Box<dyn Fn() -> Option<u64> + Send + Sync>;

/// Reads external counters: their label values and numbers.
pub(super) type ReadLabelled = Box<dyn Fn() -> Vec<(Vec<String>, u64)> + Send + Sync>;

/// A family of external counters.
pub(super) struct Labelled {
    described: Option<Desc>,
    name: &'static str,
    help: &'static str,
    labels: &'static [&'static str],
    read: ReadLabelled,
}

impl Labelled {
    pub(super) fn new(
        name: &'static str,
        help: &'static str,
        labels: &'static [&'static str],
        read: ReadLabelled,
    ) -> Labelled {
        let variable = labels.iter().map(|label| (*label).to_owned()).collect();
        let constant = std::collections::HashMap::new();
        let described = Desc::new(name.to_owned(), help.to_owned(), variable, constant).ok();
        Labelled { described, name, help, labels, read }
    }
}

impl Collector for Labelled {
    fn desc(&self) -> Vec<&Desc> {
        self.described.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let Ok(family) = IntCounterVec::new(Opts::new(self.name, self.help), self.labels) else {
            return Vec::new();
        };
        for (values, number) in (self.read)() {
            family.with_label_values(&values).inc_by(number);
        }
        family.collect()
    }
}

/// How a number behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// It only grows.
    Counter,
    /// It goes up and down.
    Gauge,
}

/// A family of one external value.
pub(super) struct External {
    described: Option<Desc>,
    kind: Kind,
    name: &'static str,
    help: &'static str,
    read: Read,
}

impl External {
    pub(super) fn new(kind: Kind, name: &'static str, help: &'static str, read: Read) -> External {
        let labels = std::collections::HashMap::new();
        let described = Desc::new(name.to_owned(), help.to_owned(), Vec::new(), labels).ok();
        External { described, kind, name, help, read }
    }
}

impl Collector for External {
    fn desc(&self) -> Vec<&Desc> {
        self.described.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let Some(value) = (self.read)() else { return Vec::new() };
        let family = match self.kind {
            Kind::Counter => IntCounter::new(self.name, self.help).map(|counter| {
                counter.inc_by(value);
                counter.collect()
            }),
            Kind::Gauge => IntGauge::new(self.name, self.help).map(|gauge| {
                gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
                gauge.collect()
            }),
        };
        family.unwrap_or_default()
    }
}
