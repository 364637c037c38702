//! The results as plain text for a terminal.

use std::fmt::Write as _;

use super::results::{Fleet, FleetResults, Part, Phase};
use crate::bench::report::figure;
use crate::bench::results::Unit;

/// Columns of a table.
const HEADER: [&str; 7] =
    ["", "seconds", "answered", "unanswered", "busiest second", "bytes", "server, busiest second"];

/// The results as tables, a fleet each.
pub fn table(results: &FleetResults) -> String {
    let mut text = String::new();
    for fleet in &results.fleets {
        let _ = writeln!(text, "{}", heading(fleet));
        let rows = fleet.phases.iter().map(row);
        let header = HEADER.map(str::to_owned);
        write_aligned(&mut text, &std::iter::once(header).chain(rows).collect::<Vec<_>>());
        if let Some(bytes) = bytes_a_change(fleet) {
            let bytes = figure(Unit::Count, bytes.round());
            let _ = writeln!(text, "  {bytes} bytes a change and node, bookmarks included");
        }
        text.push('\n');
    }
    for left in &results.left_out {
        let _ = writeln!(text, "left out: {} nodes: {}", left.nodes, left.reason);
    }
    let machine = &results.machine;
    let seconds = figure(Unit::Seconds, results.seconds);
    let _ = writeln!(
        text,
        "{} · {} cores · Linux {} · Sluice {} · {}\n{} · took {seconds}",
        machine.processor,
        machine.cores,
        machine.kernel,
        machine.version,
        machine.date,
        results.command,
    );
    text
}

fn heading(fleet: &Fleet) -> String {
    match (fleet.services, fleet.endpoints) {
        (Some(services), Some(endpoints)) => {
            format!("{} nodes, {services} Services × {endpoints} endpoints", fleet.nodes)
        }
        _ => format!("{} nodes, a given API server", fleet.nodes),
    }
}

#[allow(clippy::cast_precision_loss)] // figures are shown with three digits
fn row(phase: &Phase) -> [String; 7] {
    let share =
        phase.busiest_share().map_or(String::new(), |share| format!(" ({:.1} %)", share * 100.0));
    let server = phase.server_seconds().map(|(all, most)| {
        format!("{}, {}", figure(Unit::Seconds, all), figure(Unit::Seconds, most))
    });
    [
        format!("  {}", phase.part.title()),
        phase.seconds.len().to_string(),
        phase.answered().to_string(),
        phase.unanswered().to_string(),
        format!("{}{share}", phase.busiest()),
        figure(Unit::Bytes, phase.bytes() as f64),
        server.unwrap_or_else(|| "–".to_owned()),
    ]
}

/// What a change costs each node that watches it.
#[allow(clippy::cast_precision_loss)] // the same
fn bytes_a_change(fleet: &Fleet) -> Option<f64> {
    let phase = fleet.phases.iter().find(|phase| phase.part == Part::Changes)?;
    Some(phase.bytes() as f64 / f64::from(phase.changes) / f64::from(fleet.nodes))
}

fn write_aligned(text: &mut String, rows: &[[String; 7]]) {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    for row in rows {
        let padded = row.iter().enumerate().map(|(column, cell)| {
            let width = width(column).unwrap_or(0);
            format!("{cell:<width$}")
        });
        let _ = writeln!(text, "{}", padded.collect::<Vec<_>>().join("   ").trim_end());
    }
}

#[cfg(test)]
mod tests {
    use super::super::results::{FleetLeftOut, SCHEMA, Second};
    use super::*;
    use crate::bench::results::Machine;

    #[test]
    fn each_phase_is_a_row_with_its_busiest_second() {
        let second =
            |answered, bytes| Second { answered, unanswered: 0, bytes, server_seconds: Some(0.5) };
        let phases = vec![
            Phase {
                part: Part::Changes,
                changes: 2,
                seconds: vec![second(0, 4000), second(0, 4000)],
            },
            Phase { part: Part::Return, changes: 0, seconds: vec![second(10, 0), second(30, 0)] },
        ];
        let fleet = Fleet { nodes: 10, services: Some(100), endpoints: Some(5), phases };
        let results = FleetResults {
            schema: SCHEMA,
            machine: Machine {
                date: String::new(),
                processor: String::new(),
                cores: 2,
                memory: 0,
                kernel: String::new(),
                version: String::new(),
            },
            command: "sluice-lab bench --fleet 10,9000".to_owned(),
            seconds: 3.0,
            fleets: vec![fleet],
            left_out: vec![FleetLeftOut { nodes: 5000, reason: "no time".to_owned() }],
        };
        let text = table(&results);
        let has = |words: &str| assert!(text.contains(words), "{words}:\n{text}");
        has("10 nodes, 100 Services × 5 endpoints\n");
        has("30 (75.0 %)");
        has("400 bytes a change and node");
        has("left out: 5000 nodes: no time\n");
    }
}
