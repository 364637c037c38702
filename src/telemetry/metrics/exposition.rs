//! The Prometheus text format, exactly as Go's client writes it: dashboards select buckets by the text of `le`, so
//! numbers must be formatted the same.

use std::fmt::Write as _;

use prometheus::proto::{LabelPair, MetricFamily, MetricType};

/// The text of families, in their order (format 0.0.4).
pub(super) fn text(families: &[MetricFamily]) -> String {
    let mut out = String::new();
    for family in families {
        let name = family.name();
        let kind = match family.get_field_type() {
            MetricType::COUNTER => "counter",
            MetricType::GAUGE => "gauge",
            MetricType::HISTOGRAM => "histogram",
            MetricType::SUMMARY => "summary",
            MetricType::UNTYPED => "untyped",
        };
        let help = family.help().replace('\\', "\\\\").replace('\n', "\\n");
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for metric in family.get_metric() {
            let labels = metric.get_label();
            match family.get_field_type() {
                MetricType::HISTOGRAM => histogram(&mut out, name, labels, metric.get_histogram()),
                MetricType::COUNTER => {
                    line(&mut out, name, labels, None, metric.get_counter().get_value());
                }
                _ => line(&mut out, name, labels, None, metric.get_gauge().get_value()),
            }
        }
    }
    out
}

fn histogram(
    out: &mut String,
    name: &str,
    labels: &[LabelPair],
    histogram: &prometheus::proto::Histogram,
) {
    let bucket = format!("{name}_bucket");
    for step in histogram.get_bucket() {
        let bound = number(step.upper_bound());
        line(out, &bucket, labels, Some(&bound), step.cumulative_count() as f64);
    }
    let count = histogram.get_sample_count() as f64;
    line(out, &bucket, labels, Some("+Inf"), count);
    line(out, &format!("{name}_sum"), labels, None, histogram.get_sample_sum());
    line(out, &format!("{name}_count"), labels, None, count);
}

fn line(out: &mut String, name: &str, labels: &[LabelPair], le: Option<&str>, value: f64) {
    out.push_str(name);
    let pairs = labels.iter().map(|label| (label.name(), label.value()));
    let mut separator = '{';
    for (label, text) in pairs.chain(le.map(|le| ("le", le))) {
        let text = text.replace('\\', "\\\\").replace('\n', "\\n").replace('"', "\\\"");
        let _ = write!(out, "{separator}{label}=\"{text}\"");
        separator = ',';
    }
    if separator == ',' {
        out.push('}');
    }
    let _ = writeln!(out, " {}", number(value));
}

/// A number as Go's `strconv.FormatFloat(x, 'g', -1, 64)` writes it.
pub(super) fn number(value: f64) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    // The shortest digits that parse to the same number, and the exponent.
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or_default();
    if (-4..6).contains(&exponent) {
        return value.to_string();
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}

#[cfg(test)]
mod tests {
    use prometheus::{Histogram, HistogramOpts, IntCounterVec, Opts, Registry};

    use super::*;

    #[test]
    fn numbers_read_as_go_writes_them() {
        let table: [(f64, &str); 14] = [
            (0.0, "0"),
            (1.0, "1"),
            (0.005, "0.005"),
            (16.384, "16.384"),
            (459_515.0, "459515"),
            (1_048_576.0, "1.048576e+06"),
            (124_416_000.0, "1.24416e+08"),
            (1_795_470_550.89, "1.79547055089e+09"),
            (18_446_744_073_709_551_615.0, "1.8446744073709552e+19"),
            (2.263e-6, "2.263e-06"),
            (0.0001, "0.0001"),
            (-2.5, "-2.5"),
            (f64::INFINITY, "+Inf"),
            (f64::NAN, "NaN"),
        ];
        for (value, text) in table {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn families_read_as_go_writes_them() {
        let registry = Registry::new();
        let counter =
            IntCounterVec::new(Opts::new("b_total", "two\nlines"), &["z", "a"]).expect("a counter");
        counter.with_label_values(&["1", "say \"x\""]).inc();
        registry.register(Box::new(counter)).expect("a new name");
        let options = HistogramOpts::new("a_seconds", "times").buckets(vec![0.5, 1e6]);
        let histogram = Histogram::with_opts(options).expect("a histogram");
        histogram.observe(0.25);
        histogram.observe(2e6);
        registry.register(Box::new(histogram)).expect("a new name");
        assert_eq!(
            text(&registry.gather()),
            "# HELP a_seconds times\n# TYPE a_seconds histogram\n\
             a_seconds_bucket{le=\"0.5\"} 1\na_seconds_bucket{le=\"1e+06\"} 1\n\
             a_seconds_bucket{le=\"+Inf\"} 2\na_seconds_sum 2.00000025e+06\na_seconds_count 2\n\
             # HELP b_total two\\nlines\n# TYPE b_total counter\n\
             b_total{a=\"say \\\"x\\\"\",z=\"1\"} 1\n"
        );
    }
}
