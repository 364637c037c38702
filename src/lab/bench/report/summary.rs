//! What to take away, computed from the results.

use super::units::{Clear, Ratio, figure, grouped, percent};
use super::view::{self, Panel, Row, Scale};
use crate::bench::results::{Program, Quantity, Unit};

/// The maximum number of key figures.
const MOST: usize = 6;

/// What is worth saying first, in the order of preference.
const INTERESTING: [Quantity; 10] = [
    Quantity::BusyChangeLatency,
    Quantity::ColdStart,
    Quantity::ChangeLatency,
    Quantity::PeakMemory,
    Quantity::ChangeProcessorTime,
    Quantity::BulkOneStream,
    Quantity::FirstPacket,
    Quantity::RoundTrip,
    Quantity::ConnectionRate,
    Quantity::ResyncTime,
];

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KeyFigure {
    /// The figure: "47×", "98 %" or "310 ms".
    pub(super) value: String,
    /// What it is: "faster cold start".
    pub(super) title: String,
    /// The values behind it, in one sentence.
    pub(super) sentence: String,
}

/// The key figures of this machine's kernel, or of the guest if only that was measured.
pub(super) fn key_figures(panels: &[Panel<'_>]) -> Vec<KeyFigure> {
    let host = panels.iter().any(|panel| panel.guest.is_none());
    let eligible = |panel: &&Panel<'_>| !host || panel.guest.is_none();
    let of = |quantity| panels.iter().filter(eligible).find(|panel| panel.quantity == quantity);
    INTERESTING.into_iter().filter_map(|quantity| finding(of(quantity)?)).take(MOST).collect()
}

/// What one panel says: Sluice beside the Go kube-proxy where both were measured, or beside no proxy,
/// or alone; in the mode and at the scale that say most.
fn finding(panel: &Panel<'_>) -> Option<KeyFigure> {
    let ours = || panel.rows.iter().filter(|row| row.subject.program == Program::Sluice);
    let largest_first = || panel.scales.iter().rev().copied();
    let carried = matches!(
        panel.quantity,
        Quantity::FirstPacket
            | Quantity::ConnectionRate
            | Quantity::BulkOneStream
            | Quantity::BulkManyStreams
            | Quantity::RoundTrip
    );
    let compared = ours().find_map(|row| largest_first().find_map(|at| versus(panel, row, at)));
    let beside = || ours().find_map(|row| largest_first().find_map(|at| share(panel, row, at)));
    let alone = || ours().find_map(|row| largest_first().find_map(|at| single(panel, row, at)));
    match carried {
        true => beside().or(compared).or_else(alone),
        false => compared.or_else(alone),
    }
}

fn versus(panel: &Panel<'_>, row: &Row<'_>, scale: Scale) -> Option<KeyFigure> {
    let ratio: Ratio = panel.against_kube_proxy(row, scale)?;
    let theirs = panel.counterpart(row)?;
    let title = panel.quantity.title();
    Some(KeyFigure {
        value: ratio.times(),
        title: format!("{} {title}", ratio.way()).trim().to_owned(),
        sentence: format!(
            "At {}: {} {}, {} {}.",
            cluster(scale),
            view::name(row.subject),
            value(panel, row, scale)?,
            view::name(theirs.subject),
            value(panel, theirs, scale)?,
        ),
    })
}

fn share(panel: &Panel<'_>, row: &Row<'_>, scale: Scale) -> Option<KeyFigure> {
    let direct = panel.direct()?;
    let (own, without) = (row.at(scale)?, direct.at(scale)?);
    let (ours, theirs) = (own.median, without.median);
    let title = panel.quantity.title();
    let unit = panel.quantity.unit();
    let (text, title) = match unit {
        Unit::Seconds => {
            let sign = if ours < theirs { '−' } else { '+' };
            let difference = figure(unit, (ours - theirs).abs());
            (format!("{sign}{difference}"), format!("{title}, against no proxy"))
        }
        _ => (percent(ours, theirs)?, format!("of direct access: {title}")),
    };
    let clear = match Clear::of(own, without) {
        Clear::Yes => "",
        Clear::No => "; no clear difference",
    };
    let sentence = format!(
        "At {}: {} {}, straight to the pod {}{clear}.",
        cluster(scale),
        view::name(row.subject),
        figure(unit, ours),
        figure(unit, theirs),
    );
    Some(KeyFigure { value: text, title, sentence })
}

fn single(panel: &Panel<'_>, row: &Row<'_>, scale: Scale) -> Option<KeyFigure> {
    let name = view::name(row.subject);
    Some(KeyFigure {
        value: value(panel, row, scale)?,
        title: panel.quantity.title().to_owned(),
        sentence: format!("{name} at {}.", cluster(scale)),
    })
}

fn value(panel: &Panel<'_>, row: &Row<'_>, scale: Scale) -> Option<String> {
    Some(figure(panel.quantity.unit(), row.at(scale)?.median))
}

/// "10,000 Services with 5 endpoints each".
fn cluster(scale: Scale) -> String {
    let plural = |count: u32| if count == 1 { "" } else { "s" };
    let Scale { services, endpoints } = scale;
    let each = if services == 1 { "" } else { " each" };
    let s = plural(services);
    format!(
        "{} Service{s} with {} endpoint{}{each}",
        grouped(services.into()),
        grouped(endpoints.into()),
        plural(endpoints),
    )
}

/// How Sluice's cost grows from the smallest to the largest cluster, where that is the point.
pub(super) fn growth(panels: &[Panel<'_>]) -> Vec<String> {
    let of_interest = |panel: &&Panel<'_>| {
        matches!(panel.quantity, Quantity::ChangeLatency | Quantity::FirstPacket)
            && panel.guest.is_none()
    };
    panels.iter().filter(of_interest).filter_map(grows).collect()
}

fn grows(panel: &Panel<'_>) -> Option<String> {
    let ours = panel.rows.iter().find(|row| row.subject.program == Program::Sluice)?;
    let endpoints = panel.scales.last()?.endpoints;
    let mut own = ours.cells.iter().filter(|(scale, _)| scale.endpoints == endpoints);
    let ((small, before), (large, after)) = (own.next()?, own.next_back()?);
    let factor = after.median / before.median;
    if !(factor.is_finite() && before.median > 0.0) {
        return None;
    }
    let unit = panel.quantity.unit();
    let growth = match Clear::of(before, after) {
        Clear::Yes => format!("{factor:.2}×"),
        Clear::No => "no clear difference".to_owned(),
    };
    Some(format!(
        "From {} to {} Services, the {} of {} goes from {} to {} ({growth}).",
        grouped(small.services.into()),
        grouped(large.services.into()),
        panel.quantity.title(),
        view::name(ours.subject),
        figure(unit, before.median),
        figure(unit, after.median),
    ))
}
