//! The results as plain text for a terminal.

use std::fmt::Write as _;

use super::summary;
use super::units::{Measure, figure, percent};
use super::view::{self, Panel, Row, Scale, Spread};
use crate::bench::results::{Better, LeftOut, Results, Summary};

/// Columns of one table; further scales follow below it.
const SCALES_PER_TABLE: usize = 3;
/// Between columns.
const GAP: &str = "   ";

/// The results as tables, a quantity each: subjects by cluster size.
pub(super) fn table(results: &Results) -> String {
    let panels = Panel::all(results);
    let mut text = String::new();
    let findings = summary::key_figures(&panels);
    for finding in &findings {
        let line = format!("{} {}. {}", finding.value, finding.title, finding.sentence);
        let _ = writeln!(text, "{}", plain(&line));
    }
    for sentence in summary::growth(&panels) {
        let _ = writeln!(text, "{}", plain(&sentence));
    }
    for guest in guests(&panels) {
        if let Some(kernel) = guest {
            let kernel = plain(kernel);
            let _ = writeln!(
                text,
                "\nIN A GUEST with Linux {kernel}: these compare with each other only."
            );
        }
        for panel in panels.iter().filter(|panel| panel.guest == guest) {
            text.push('\n');
            heading(&mut text, panel);
            rows(&mut text, panel);
        }
    }
    left_out(&mut text, &results.left_out);
    let machine = &results.machine;
    let _ = writeln!(
        text,
        "\n{} · {} cores · {} · Linux {} · Sluice {} · {}\n{} · took {}",
        plain(&machine.processor),
        machine.cores,
        super::memory(machine),
        plain(&machine.kernel),
        plain(&machine.version),
        plain(&machine.date),
        plain(&results.command),
        super::duration(results.seconds),
    );
    text.trim_start().to_owned()
}

/// The kernels that something was measured on, this machine's first.
pub(super) fn guests<'a>(panels: &[Panel<'a>]) -> Vec<Option<&'a str>> {
    let mut guests: Vec<Option<&str>> = panels.iter().map(|panel| panel.guest).collect();
    guests.sort_unstable();
    guests.dedup();
    guests
}

fn heading(text: &mut String, panel: &Panel<'_>) {
    let better = match panel.quantity.better() {
        Better::Lower => "lower is better",
        Better::Higher => "higher is better",
    };
    let share = if panel.direct().is_some() { ", share of direct" } else { "" };
    let title = view::capital(panel.quantity.title());
    let spread = Spread::of(panel.quantity).title();
    let _ = writeln!(text, "{title}: {better}; median ({spread}){share}");
}

fn rows(text: &mut String, panel: &Panel<'_>) {
    let chunks: Vec<&[Scale]> = match panel.scales.is_empty() {
        true => vec![&[]],
        false => panel.scales.chunks(SCALES_PER_TABLE).collect(),
    };
    for scales in chunks {
        let mut lines = vec![header(scales)];
        for row in &panel.rows {
            lines.push(line(panel, row, scales));
            lines.extend(ratios(panel, row, scales));
        }
        write_aligned(text, &lines);
    }
}

fn header(scales: &[Scale]) -> Vec<String> {
    let titles = scales.iter().map(|scale| scale.title());
    std::iter::once("  Services × endpoints".to_owned()).chain(titles).collect()
}

/// A subject's figures. Direct connections are independent of the size, so they have one row.
fn line(panel: &Panel<'_>, row: &Row<'_>, scales: &[Scale]) -> Vec<String> {
    let mut line = vec![format!("  {}", plain(&view::name(row.subject)))];
    if row.is_direct() {
        line.extend(row.cells.values().next().map(|summary| cell(panel, summary)));
        return line;
    }
    line.extend(scales.iter().map(|scale| {
        let Some(summary) = row.at(*scale) else { return "–".to_owned() };
        let direct = panel.direct().and_then(|direct| direct.at(*scale));
        let share = direct.and_then(|direct| percent(summary.median, direct.median));
        let share = share.map(|share| format!(" {share}")).unwrap_or_default();
        format!("{}{share}", cell(panel, summary))
    }));
    line
}

/// "310 ms (301, 322)".
pub(super) fn cell(panel: &Panel<'_>, summary: &Summary) -> String {
    let unit = panel.quantity.unit();
    let measure = Measure::of(unit, summary.median);
    let spread = Spread::of(panel.quantity);
    let (low, high) = spread.ends(summary);
    // Beside nothing, ends have units of their own.
    let end = |value: f64| match summary.median == 0.0 {
        true => figure(unit, value),
        false => measure.number(value),
    };
    let median = figure(unit, summary.median);
    match spread {
        _ if summary.count == 1 => median,
        Spread::Quartiles => format!("{median} ({}, {})", end(low), end(high)),
        Spread::Tail => format!("{median} ({})", end(high)),
    }
}

/// How Sluice compares with the Go kube-proxy of the same mode, where both were measured.
fn ratios(panel: &Panel<'_>, row: &Row<'_>, scales: &[Scale]) -> Option<Vec<String>> {
    let ratios: Vec<String> = scales
        .iter()
        .map(|scale| panel.against_kube_proxy(row, *scale))
        .map(|ratio| ratio.map_or_else(String::new, |ratio| ratio.words()))
        .collect();
    let any = ratios.iter().any(|ratio| !ratio.is_empty());
    let title = "    against kube-proxy".to_owned();
    any.then(|| std::iter::once(title).chain(ratios).collect())
}

fn left_out(text: &mut String, all: &[LeftOut]) {
    if all.is_empty() {
        return;
    }
    let _ = writeln!(text, "\nNot measured:");
    for entry in all {
        let _ = writeln!(text, "  {}: {}", plain(&super::what(entry)), plain(&entry.reason));
    }
}

/// Writes lines whose cells form columns.
fn write_aligned(text: &mut String, lines: &[Vec<String>]) {
    let columns = lines.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = lines.iter().filter_map(|line| line.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    for line in lines {
        let padded = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        let joined = padded.collect::<Vec<_>>().join(GAP);
        let _ = writeln!(text, "{}", joined.trim_end());
    }
}

/// Text from outside without what a terminal would obey.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
