//! What the report shows of results, and what it must never do.

use super::fixture::{
    direct, everybody, in_guest, kube_proxy, left_out, measurement, nothing, run, sluice,
};
use super::{html, table, view};
use crate::bench::results::{Quantity, Results};

const SIZES: [(u32, u32); 3] = [(10, 5), (1_000, 5), (10_000, 5)];

/// The part of a page that people read as charts and tables: without what surrounds them.
fn page_of(results: &Results) -> String {
    html(results)
}

#[test]
fn every_measurement_appears_in_the_table_and_on_the_page() {
    let mut results = nothing();
    for (n, quantity) in (0_u32..).zip(Quantity::ALL) {
        // A value that no other quantity has, in whatever unit it is written.
        let value = f64::from(101 + 13 * n);
        results.measurements.push(measurement(sluice("nftables"), quantity, (1_000, 5), &[value]));
    }
    let (text, page) = (table(&results), page_of(&results));
    for measurement in &results.measurements {
        let quantity = measurement.quantity;
        let value = super::units::figure(quantity.unit(), measurement.samples[0]);
        let title = view::capital(quantity.title());
        assert!(text.contains(&format!("{title}: ")), "{title} in\n{text}");
        assert!(text.contains(&value), "{value} in\n{text}");
        assert!(page.contains(&format!("<h4>{title}</h4>")), "{title}");
        assert!(page.contains(&format!("<td>{value}</td>")), "{value}");
    }
}

#[test]
fn a_quantity_that_nobody_measured_is_absent() {
    let mut results = everybody(&SIZES);
    results.measurements.retain(|m| m.quantity != Quantity::KernelMemory);
    let title = Quantity::KernelMemory.title();
    assert!(!table(&results).to_lowercase().contains(title));
    assert!(!page_of(&results).to_lowercase().contains(title));
    assert!(page_of(&results).contains(Quantity::KernelObjects.title()));
}

#[test]
fn sluice_is_compared_with_the_go_kube_proxy_of_its_mode() {
    let mut results = nothing();
    let size = (10_000, 5);
    let mut add = |subject, seconds: f64| {
        results.measurements.push(measurement(subject, Quantity::ColdStart, size, &[seconds]));
    };
    add(sluice("nftables"), 0.3);
    add(sluice("userspace"), 0.5);
    add(kube_proxy("nftables"), 14.1);
    let text = table(&results);
    let expected = "\
47× faster cold start. At 10,000 Services with 5 endpoints each: Sluice nftables 300 ms, kube-proxy nftables 14.1 s.

Cold start: lower is better; median (quartiles)
  Services × endpoints   10,000 × 5
  Sluice nftables        300 ms
    against kube-proxy   47× faster
  kube-proxy nftables    14.1 s
  Sluice userspace       500 ms
";
    assert!(text.starts_with(expected), "{text}");
    assert!(page_of(&results).contains("<b>47×</b><strong>faster cold start</strong>"));
}

#[test]
fn throughput_is_a_share_of_direct_access() {
    let mut results = nothing();
    let bulk = Quantity::BulkOneStream;
    results.measurements.push(measurement(direct(), bulk, (0, 0), &[20e9, 21e9, 22e9]));
    results.measurements.push(measurement(sluice("nftables"), bulk, (1_000, 5), &[20.6e9]));
    let text = table(&results);
    assert!(text.contains("98 % of direct access: bulk, 1 stream"), "{text}");
    assert!(text.contains("  direct, no proxy       21.0 Gbit/s (20.0, 22.0)\n"), "{text}");
    assert!(text.contains("  Sluice nftables        20.6 Gbit/s 98 %\n"), "{text}");
    assert!(page_of(&results).contains("98 % of direct"));
}

#[test]
fn guests_are_shown_apart_and_never_compared_with_the_host() {
    let cold = Quantity::ColdStart;
    let mut results = nothing();
    let mut add = |subject, value: f64| {
        results.measurements.push(measurement(subject, cold, (1_000, 5), &[value]));
    };
    add(kube_proxy("nftables"), 8.0);
    add(in_guest(sluice("nftables")), 2.0);
    let (text, page) = (table(&results), page_of(&results));
    let guest = text.find("IN A GUEST with Linux 6.1.0-34-amd64").expect("it is named");
    assert!(text.find("8.00 s").is_some_and(|at| at < guest), "{text}");
    assert!(text.find("2.00 s").is_some_and(|at| at > guest), "{text}");
    assert!(!text.contains("faster"), "{text}");
    assert!(page.contains("<h2>In a guest with Linux 6.1.0-34-amd64</h2>"));
    assert!(!page.contains("faster"));
    assert!(page.contains("Sluice nftables (guest, 6.1.0-34-amd64)"));
}

#[test]
fn what_was_left_out_is_said_with_its_reason() {
    let mut results = nothing();
    results.left_out.push(left_out(
        kube_proxy("iptables"),
        Some(Quantity::ColdStart),
        "it did not answer within 120 s",
    ));
    let line = "kube-proxy iptables, cold start, 10,000 Services: it did not answer within 120 s";
    assert!(table(&results).contains(line));
    assert!(page_of(&results).contains(&format!("<li>{line}</li>")));
}

#[test]
fn nothing_in_the_results_is_taken_as_markup_or_as_commands_to_a_terminal() {
    let evil = "<script>alert('1')</script>\"&\u{1b}[2J";
    let mut results = run(&[sluice(evil), kube_proxy(evil)], &SIZES);
    results.machine.processor = evil.to_owned();
    results.machine.kernel = evil.to_owned();
    results.machine.date = evil.to_owned();
    results.machine.version = evil.to_owned();
    results.command = evil.to_owned();
    results.left_out.push(left_out(in_guest(sluice(evil)), None, evil));
    let page = page_of(&results);
    assert!(!page.contains("<script"), "a script");
    assert!(page.contains("&lt;script&gt;alert('1')&lt;/script&gt;&quot;&amp;"));
    assert!(!table(&results).contains('\u{1b}'));
}

#[test]
fn a_page_asks_nobody_for_anything() {
    let page = page_of(&everybody(&SIZES));
    for word in ["http:", "https:", "src=", "href=", "@import", "url("] {
        assert!(!page.contains(word), "{word}");
    }
}

#[test]
fn a_page_balances_its_elements_and_names_each_once() {
    let page = page_of(&everybody(&SIZES));
    let elements = [
        "svg", "g", "path", "rect", "circle", "polygon", "text", "title", "table", "tr", "div",
        "section", "article", "ul",
    ];
    for element in elements {
        let opened = page.matches(&format!("<{element}>")).count()
            + page.matches(&format!("<{element} ")).count();
        assert_eq!(opened, page.matches(&format!("</{element}>")).count(), "{element}");
    }
    let mut ids: Vec<&str> =
        page.split(" id=\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    let all = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), all);
    assert!(!page.contains("NaN") && !page.contains("inf\""), "a coordinate is no number");
}

#[test]
fn charts_say_their_figures_in_words() {
    let page = page_of(&run(&[sluice("nftables")], &SIZES));
    let charts = page.matches("<svg class=\"chart\"").count();
    assert_eq!(charts, Quantity::ALL.len());
    assert_eq!(page.matches("<desc ").count(), charts);
    assert!(page.contains("Sluice nftables: "), "a description");
    assert!(page.contains(" at 10,000 Services."), "a description");
}

#[test]
fn each_number_of_endpoints_has_a_chart_of_its_own() {
    let page = page_of(&run(&[sluice("nftables")], &[(1_000, 5), (10_000, 5), (50_000, 1)]));
    assert!(page.contains("With 1 endpoint each"), "one");
    assert!(page.contains("With 5 endpoints each"), "five");
}

#[test]
fn samples_that_are_no_numbers_or_nothing_do_no_harm() {
    let mut results = nothing();
    let values: [&[f64]; 4] = [&[f64::NAN], &[], &[0.0, 0.0], &[f64::INFINITY, 0.01]];
    for (services, samples) in (1..).map(|n| n * 100).zip(values) {
        let quantity = Quantity::ChangeProcessorTime;
        results.measurements.push(measurement(
            sluice("nftables"),
            quantity,
            (services, 1),
            samples,
        ));
    }
    let (text, page) = (table(&results), page_of(&results));
    assert!(!text.contains("NaN") && !page.contains("NaN"));
    assert!(text.contains("0 s (0 s, 0 s)") && text.contains("10.0 ms"), "{text}");
    assert!(!text.contains("100 × 1"), "nothing was measured there: {text}");
}

#[test]
fn results_without_measurements_still_give_a_report() {
    assert!(table(&nothing()).contains("Example Processor"));
    assert!(page_of(&nothing()).contains("Machine and method"));
}

#[test]
fn results_of_every_shape_give_a_whole_page_of_finite_figures() {
    let large = [(10, 5), (1_000, 5), (10_000, 5), (30_000, 5), (50_000, 5)];
    let mut guests = everybody(&SIZES);
    let guest = [direct(), sluice("nftables"), sluice("ipvs"), kube_proxy("ipvs")].map(in_guest);
    guests.measurements.extend(run(&guest, &SIZES[1..]).measurements);
    let pages = [
        ("one", run(&[sluice("nftables")], &SIZES[1..2])),
        ("two", run(&[direct(), sluice("nftables"), kube_proxy("nftables")], &SIZES[1..])),
        ("bars", everybody(&SIZES[1..2])),
        ("lines", everybody(&large)),
        ("guests", guests),
        ("shapes", run(&[sluice("nftables")], &[(1_000, 5), (10_000, 5), (50_000, 1)])),
        ("nothing", nothing()),
    ];
    for (name, results) in pages {
        let (page, text) = (html(&results), table(&results));
        assert!(page.trim_end().ends_with("</html>"), "{name}: the page is whole");
        for broken in ["NaN", "inf\"", "=\"-inf"] {
            assert!(!page.contains(broken) && !text.contains(broken), "{name}: {broken}");
        }
    }
}
