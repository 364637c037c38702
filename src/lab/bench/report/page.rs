//! The page: one self-contained HTML file.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::charts::charts;
use super::marks::sample;
use super::summary;
use super::text::{cell, guests};
use super::units::{figure, grouped, percent};
use super::view::{self, Panel, Row, Spread};
use crate::bench::results::{Better, Measurement, Program, Quantity, Results, Subject, Summary};

const STYLE: &str = include_str!("style.css");

/// What a reader wants to know, and the quantities that tell.
const TOPICS: [(&str, &[Quantity]); 3] = [
    (
        "How long until it works",
        &[
            Quantity::BusyChangeLatency,
            Quantity::ColdStart,
            Quantity::ChangeLatency,
            Quantity::ChangeProcessorTime,
            Quantity::ResyncTime,
            Quantity::ResyncProcessorTime,
        ],
    ),
    (
        "What packets pay",
        &[
            Quantity::FirstPacket,
            Quantity::ConnectionRate,
            Quantity::BulkOneStream,
            Quantity::BulkManyStreams,
            Quantity::RoundTrip,
        ],
    ),
    (
        "What it takes up",
        &[
            Quantity::PeakMemory,
            Quantity::SteadyMemory,
            Quantity::KernelObjects,
            Quantity::KernelMemory,
        ],
    ),
];

/// The whole page.
pub(super) fn page(results: &Results) -> String {
    let panels = Panel::all(results);
    let everyone = view::subjects(results);
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { "Sluice: what each proxy mode costs" }
                style { (PreEscaped(STYLE)) (PreEscaped(hiding(everyone.len()))) }
            }
            body {
                (head(results, &panels))
                main {
                    (legend(&everyone))
                    @for (n, guest) in guests(&panels).into_iter().enumerate() {
                        (kernel(results, &panels, guest, n))
                    }
                    (left_out(results))
                    (method(results))
                    (data(results))
                }
                footer { "Made by sluice " (results.machine.version) ", format " (results.schema) "." }
            }
        }
    };
    page.into_string()
}

/// Rules by which the boxes of the legend hide what is drawn of a subject.
fn hiding(subjects: usize) -> String {
    (0..subjects)
        .map(|n| format!("body:has(#show-{n}:not(:checked)) .chart .s{n}{{display:none}}"))
        .collect()
}

fn head(results: &Results, panels: &[Panel<'_>]) -> Markup {
    let machine = &results.machine;
    let growth = summary::growth(panels);
    html! {
        header {
            h1 { "What each proxy mode costs" }
            p.quiet {
                "Measured with Sluice " (machine.version)
                @for version in view::versions(results) { " and kube-proxy " (version) }
                " on " (machine.date) ", on " (machine.cores) " cores of " (machine.processor)
                " with Linux " (machine.kernel) "."
            }
            ul.keys {
                @for figure in summary::key_figures(panels) {
                    li { b { (figure.value) } strong { (figure.title) } span { (figure.sentence) } }
                }
            }
            @if !growth.is_empty() {
                ul.growth { @for sentence in growth { li { (sentence) } } }
            }
        }
    }
}

/// Who is who; each can be hidden.
fn legend(everyone: &[&Subject]) -> Markup {
    html! {
        form.legend aria-label="Shown in the charts" {
            @for (n, subject) in everyone.iter().enumerate() {
                label {
                    input type="checkbox" id=(format!("show-{n}")) checked;
                    (sample(subject, n))
                    (view::full_name(subject))
                }
            }
        }
    }
}

/// Everything that was measured on one kernel.
fn kernel(results: &Results, panels: &[Panel<'_>], guest: Option<&str>, n: usize) -> Markup {
    let lines = panels.iter().any(|panel| panel.by_endpoints().iter().any(|(_, s)| s.len() > 1));
    html! {
        section {
            @match guest {
                None => {
                    h2 { "On this machine" }
                    p.quiet {
                        "Linux " (results.machine.kernel) "."
                        @if lines { " Both axes of lines are logarithmic." }
                    }
                }
                Some(kernel) => {
                    h2 { "In a guest with Linux " (kernel) }
                    p.quiet {
                        "A virtual machine on the same machine, for what its own kernel cannot do. Times compare with \
                         those of the same guest only."
                    }
                }
            }
            @for (topic, quantities) in TOPICS {
                @let of_topic: Vec<&Panel<'_>> = panels.iter()
                    .filter(|panel| panel.guest == guest && quantities.contains(&panel.quantity))
                    .collect();
                @if !of_topic.is_empty() {
                    h3 { (topic) }
                    div.cards { @for panel in of_topic { (card(panel, n)) } }
                }
            }
        }
    }
}

fn card(panel: &Panel<'_>, kernel: usize) -> Markup {
    let id = format!("{:?}-{kernel}", panel.quantity);
    let better = match panel.quantity.better() {
        Better::Lower => "Lower is better.",
        Better::Higher => "Higher is better.",
    };
    let whiskers = match Spread::of(panel.quantity) {
        Spread::Quartiles => "Medians; whiskers span the quartiles.",
        Spread::Tail => "Medians; whiskers reach up to the 99th percentile.",
    };
    html! {
        article.card {
            h4 { (view::capital(panel.quantity.title())) }
            p { (view::explanation(panel.quantity)) " " (better) }
            figure {
                (charts(panel, &id))
                figcaption { (whiskers) }
            }
            details {
                summary { "Figures" }
                div.scroll { (figures(panel)) }
            }
        }
    }
}

/// The figures of a panel: subjects by cluster size.
fn figures(panel: &Panel<'_>) -> Markup {
    html! {
        table {
            caption { "Median (" (Spread::of(panel.quantity).title()) "), by Services × endpoints of each" }
            thead { tr {
                th scope="col" { "Subject" }
                @for scale in &panel.scales { th scope="col" { (scale.title()) } }
                @if panel.scales.is_empty() { th scope="col" { "any" } }
            } }
            tbody { @for row in &panel.rows { (figures_of(panel, row)) } }
        }
    }
}

fn figures_of(panel: &Panel<'_>, row: &Row<'_>) -> Markup {
    let once = row.cells.values().next().filter(|_| row.is_direct());
    html! {
        tr {
            th scope="row" { (view::name(row.subject)) }
            @if let Some(summary) = once {
                td colspan=(panel.scales.len().max(1)) { (cell(panel, summary)) }
            } @else {
                @for scale in &panel.scales {
                    @let summary = row.at(*scale);
                    @let direct = panel.direct().and_then(|direct| direct.at(*scale));
                    td {
                        @if let Some(summary) = summary { (cell(panel, summary)) } @else { "–" }
                        @if let Some(ratio) = panel.against_kube_proxy(row, *scale) {
                            small { (ratio.words()) " against kube-proxy" }
                        }
                        @if let (Some(summary), Some(direct)) = (summary, direct) {
                            @if let Some(share) = percent(summary.median, direct.median) { small { (share) " of direct" } }
                        }
                    }
                }
            }
        }
    }
}

fn left_out(results: &Results) -> Markup {
    html! {
        @if !results.left_out.is_empty() {
            section {
                h2 { "Not measured" }
                div.card { ul {
                    @for entry in &results.left_out { li { (super::what(entry)) ": " (entry.reason) } }
                } }
            }
        }
    }
}

fn method(results: &Results) -> Markup {
    let machine = &results.machine;
    html! {
        section {
            h2 { "Machine and method" }
            div.card {
                dl {
                    dt { "Processor" } dd { (machine.processor) ", " (machine.cores) " cores for the run" }
                    dt { "Memory" } dd { (super::memory(machine)) }
                    dt { "Kernel" } dd { "Linux " (machine.kernel) }
                    dt { "Date" } dd { (machine.date) }
                    dt { "Duration" } dd { (super::duration(results.seconds)) }
                    dt { "To repeat it" } dd { code { (results.command) } }
                }
                p {
                    "A node, its clients and its pods are network namespaces of one machine. Every proxy is fed by an API \
                     server of its own, which is part of the benchmark, and is measured from outside: by its process, by \
                     the kernel, and by connections through it. Rounds of different subjects alternate, so that a noisy \
                     minute harms all of them alike."
                }
                p {
                    "Figures are medians. Quartiles and percentiles are by nearest rank: values that were measured, never \
                     ones between them. A ratio is between two medians at the same number of Services and endpoints in \
                     the same mode; medians less than 5 % apart are called equal. Where the quartiles of both overlap, no difference is claimed."
                }
            }
        }
    }
}

/// Everything, for those who want to compute, or cannot see charts.
fn data(results: &Results) -> Markup {
    let place = |quantity| Quantity::ALL.iter().position(|other| *other == quantity);
    let everyone = view::subjects(results);
    let rank = |subject: &Subject| everyone.iter().position(|other| *other == subject);
    let mut all: Vec<&Measurement> = results.measurements.iter().collect();
    all.sort_by_key(|m| (place(m.quantity), rank(&m.subject), m.services, m.endpoints));
    html! {
        section {
            h2 { "All data" }
            div.card { div.scroll {
                table.data {
                    caption { "Each row sums up the samples of one quantity of one subject at one size." }
                    thead { tr {
                        @for title in [
                            "Quantity", "Subject", "Services", "Endpoints", "Samples", "Least", "Lower quartile",
                            "Median", "Upper quartile", "99th percentile", "Most",
                        ] { th scope="col" class=[(title == "Subject").then_some("left")] { (title) } }
                    } }
                    tbody { @for measurement in all { (data_row(measurement)) } }
                }
            } }
        }
    }
}

fn data_row(measurement: &Measurement) -> Markup {
    let unit = measurement.quantity.unit();
    let direct = measurement.subject.program == Program::Direct;
    let size = |count: u32| if direct { "any".to_owned() } else { grouped(count.into()) };
    let finite: Vec<f64> = measurement.samples.iter().copied().filter(|s| s.is_finite()).collect();
    let Some(Summary { count, min, lower_quartile, median, upper_quartile, p99, max }) =
        Summary::of(&finite)
    else {
        return html! {};
    };
    html! {
        tr {
            th scope="row" { (measurement.quantity.title()) }
            td.left { (view::full_name(&measurement.subject)) }
            td { (size(measurement.services)) }
            td { (size(measurement.endpoints)) }
            td { (count) }
            @for value in [min, lower_quartile, median, upper_quartile, p99, max] {
                td { (figure(unit, value)) }
            }
        }
    }
}
