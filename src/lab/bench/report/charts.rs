//! Charts: lines over the number of Services, or bars where there is one number only.

use maud::{Markup, html};

use super::marks::{apart, at, classes, mark, whisker};
use super::ticks::Axis;
use super::units::{figure, grouped, percent, tick};
use super::view::{self, Panel, Row, Scale, Spread};
use crate::bench::results::{Summary, Unit};

/// The picture's width, in its own units.
const WIDTH: f64 = 680.0;
/// Room for the labels of the vertical axis.
const LEFT: f64 = 74.0;
/// Room for the names of the lines.
const RIGHT: f64 = 158.0;
const TOP: f64 = 14.0;
/// Room for the labels of the horizontal axis.
const BOTTOM: f64 = 46.0;
const LINES_HEIGHT: f64 = 372.0;
/// The height of a bar with the room around it.
const BAR: f64 = 34.0;
/// Room for names before bars.
const NAMES: f64 = 150.0;
/// Room for values behind bars.
const VALUES: f64 = 158.0;
/// Values that differ by more are not drawn as bars: the shorter ones could not be seen.
const WIDEST_BARS: f64 = 100.0;
/// Labels of the horizontal axis do not come closer than this.
const LABEL_ROOM: f64 = 46.0;

/// The charts of a panel: one for each number of endpoints that Services had.
pub(super) fn charts(panel: &Panel<'_>, id: &str) -> Markup {
    let groups = panel.by_endpoints();
    let several = groups.len() > 1;
    html! {
        @for (n, (endpoints, scales)) in groups.iter().enumerate() {
            @if let (true, Some(endpoints)) = (several, endpoints) {
                p.endpoints { "With " (grouped((*endpoints).into())) " endpoint" @if *endpoints != 1 { "s" } " each" }
            }
            @if scales.len() > 1 {
                (lines(panel, scales, &format!("{id}-{n}")))
            } @else {
                (bars(panel, scales.first().copied(), &format!("{id}-{n}")))
            }
        }
    }
}

/// A picture with the words for those who cannot see it.
fn picture(panel: &Panel<'_>, id: &str, height: f64, description: &str, content: Markup) -> Markup {
    let size = format!("0 0 {} {}", at(WIDTH), at(height));
    let title = view::capital(panel.quantity.title());
    html! {
        svg.chart viewBox=(size) role="img" aria-labelledby=(format!("{id}-title {id}-words")) {
            title id=(format!("{id}-title")) { (title) }
            desc id=(format!("{id}-words")) { (description) }
            (content)
        }
    }
}

/// The figures of a chart in words.
fn description(panel: &Panel<'_>, scales: &[Scale]) -> String {
    let unit = panel.quantity.unit();
    let of = |row: &Row<'_>| {
        let direct = row.is_direct().then(|| row.cells.values().next()).flatten();
        let figures: Vec<String> = match direct {
            Some(summary) => vec![figure(unit, summary.median)],
            None => scales
                .iter()
                .filter_map(|scale| Some((scale, row.at(*scale)?)))
                .map(|(scale, summary)| {
                    let services = grouped(scale.services.into());
                    format!("{} at {services} Services", figure(unit, summary.median))
                })
                .collect(),
        };
        let name = view::name(row.subject);
        (!figures.is_empty()).then(|| format!("{name}: {}.", figures.join(", ")))
    };
    panel.rows.iter().filter_map(of).collect::<Vec<_>>().join(" ")
}

/// The tooltip of a value.
fn hint(panel: &Panel<'_>, row: &Row<'_>, scale: Option<Scale>, summary: &Summary) -> String {
    let unit = panel.quantity.unit();
    let mut hint = view::name(row.subject);
    if let (Some(scale), false) = (scale, row.is_direct()) {
        hint.push_str(&format!(", {} Services × endpoints", scale.title()));
    }
    hint.push_str(&format!(": median {}", figure(unit, summary.median)));
    if summary.count > 1 {
        hint.push_str(&format!(
            ", quartiles {} and {}, 99th percentile {}, {} samples",
            figure(unit, summary.lower_quartile),
            figure(unit, summary.upper_quartile),
            figure(unit, summary.p99),
            summary.count
        ));
    }
    if let Some(ratio) = scale.and_then(|scale| panel.against_kube_proxy(row, scale)) {
        hint.push_str(&format!("; {} against kube-proxy", ratio.words()));
    }
    hint
}

/// Where things are in a chart of lines.
struct Frame {
    x: Axis,
    y: Axis,
    unit: Unit,
}

impl Frame {
    fn new(panel: &Panel<'_>, scales: &[Scale]) -> Frame {
        let services: Vec<f64> = scales.iter().map(|scale| scale.services.into()).collect();
        let unit = panel.quantity.unit();
        let spread = Spread::of(panel.quantity);
        let shown = panel.rows.iter().flat_map(|row| scales.iter().filter_map(|s| row.at(*s)));
        let values = shown.flat_map(|summary| {
            let (low, high) = spread.ends(summary);
            [low, summary.median, high]
        });
        Frame { x: Axis::measured(&services), y: Axis::logarithmic(unit, values), unit }
    }

    /// A little inside, so that marks do not lie on the frame.
    fn x(&self, services: f64) -> f64 {
        let width = WIDTH - LEFT - RIGHT;
        LEFT + width * (0.04 + 0.92 * self.x.place(services))
    }

    fn y(&self, value: f64) -> f64 {
        let height = LINES_HEIGHT - TOP - BOTTOM;
        TOP + height * (1.0 - self.y.place(value))
    }

    /// Grid, ticks and their labels.
    fn axes(&self) -> Markup {
        let (right, bottom) = (WIDTH - RIGHT, LINES_HEIGHT - BOTTOM);
        let places: Vec<f64> = self.x.ticks.iter().map(|services| self.x(*services)).collect();
        let labelled = legible(&places);
        let across = self.x.ticks.iter().zip(&places).zip(labelled);
        html! {
            @for value in &self.y.ticks {
                path.grid d=(format!("M{} {}H{}", at(LEFT), at(self.y(*value)), at(right))) {}
                text.tick x=(at(LEFT - 8.0)) y=(at(self.y(*value) + 4.0)) text-anchor="end" {
                    (tick(self.unit, *value))
                }
            }
            path.axis d=(format!("M{} {}H{}", at(LEFT), at(bottom), at(right))) {}
            @for ((services, x), labelled) in across {
                path.axis d=(format!("M{} {}v5", at(*x), at(bottom))) {}
                @if labelled {
                    text.tick x=(at(*x)) y=(at(bottom + 19.0)) text-anchor="middle" { (grouped(*services)) }
                }
            }
            text.axis-title x=(at((LEFT + right) / 2.0)) y=(at(LINES_HEIGHT - 6.0)) text-anchor="middle" {
                "Services"
            }
        }
    }
}

fn lines(panel: &Panel<'_>, scales: &[Scale], id: &str) -> Markup {
    let frame = Frame::new(panel, scales);
    let rows: Vec<&Row<'_>> = panel
        .rows
        .iter()
        .filter(|row| scales.iter().any(|scale| row.at(*scale).is_some()))
        .collect();
    // Spreads of overlapping lines must remain distinguishable.
    let middle = (rows.len() as f64 - 1.0) / 2.0;
    let aside = |n: usize| (n as f64 - middle) * 2.5;
    let ends: Vec<(f64, f64)> =
        rows.iter().enumerate().filter_map(|(n, row)| end(&frame, row, scales, aside(n))).collect();
    let heights: Vec<f64> = ends.iter().map(|(_, y)| *y).collect();
    let labels = apart(&heights, 15.0, TOP + 2.0, LINES_HEIGHT - BOTTOM - 2.0);
    let content = html! {
        (frame.axes())
        @for (n, row) in rows.iter().enumerate() {
            g class=(classes(row.subject, row.index)) {
                @if row.is_direct() { (level(&frame, panel, row)) }
                @else { (curve(&frame, panel, row, scales, aside(n))) }
                @if let (Some((x, y)), Some(label)) = (ends.get(n), labels.get(n)) {
                    (name_at(row, (*x, *y), *label))
                }
            }
        }
    };
    picture(panel, id, LINES_HEIGHT, &description(panel, scales), content)
}

/// Where a line ends on the right.
fn end(frame: &Frame, row: &Row<'_>, scales: &[Scale], aside: f64) -> Option<(f64, f64)> {
    let last = scales.iter().rev().find_map(|scale| Some((scale, row.at(*scale)?)));
    last.map(|(scale, summary)| match row.is_direct() {
        true => (WIDTH - RIGHT, frame.y(summary.median)),
        false => (frame.x(scale.services.into()) + aside, frame.y(summary.median)),
    })
}

/// The value without a proxy, which is the same at any size.
fn level(frame: &Frame, panel: &Panel<'_>, row: &Row<'_>) -> Markup {
    let summary = row.cells.values().next();
    html! {
        @if let Some(summary) = summary {
            g {
                title { (hint(panel, row, None, summary)) }
                @let (top, bottom) = (frame.y(summary.upper_quartile), frame.y(summary.lower_quartile));
                rect.band x=(at(LEFT)) y=(at(top)) width=(at(WIDTH - RIGHT - LEFT)) height=(at((bottom - top).max(0.0))) {}
                path.line d=(format!("M{} {}H{}", at(LEFT), at(frame.y(summary.median)), at(WIDTH - RIGHT))) {}
            }
        }
    }
}

fn curve(frame: &Frame, panel: &Panel<'_>, row: &Row<'_>, scales: &[Scale], aside: f64) -> Markup {
    let spread = Spread::of(panel.quantity);
    let points: Vec<(Scale, &Summary, f64)> = scales
        .iter()
        .filter_map(|scale| Some((*scale, row.at(*scale)?, frame.x(scale.services.into()) + aside)))
        .collect();
    let path: String = points
        .iter()
        .enumerate()
        .map(|(n, (_, summary, x))| {
            let pen = if n == 0 { 'M' } else { 'L' };
            format!("{pen}{} {}", at(*x), at(frame.y(summary.median)))
        })
        .collect();
    html! {
        path.line d=(path) {}
        @for (scale, summary, x) in points {
            @let (low, high) = spread.ends(summary);
            g {
                title { (hint(panel, row, Some(scale), summary)) }
                (whisker((x, frame.y(low)), (x, frame.y(high))))
                (mark(row.subject, x, frame.y(summary.median)))
            }
        }
    }
}

/// A line's name at its end, with a leader line if it was moved.
fn name_at(row: &Row<'_>, (x, y): (f64, f64), label: f64) -> Markup {
    let left = WIDTH - RIGHT + 14.0;
    html! {
        path.thread d=(format!("M{} {}L{} {}", at(x + 7.0), at(y), at(left - 3.0), at(label))) {}
        text.name x=(at(left)) y=(at(label + 4.0)) { (view::name(row.subject)) }
    }
}

/// A bar for each subject, or a dot where the longest bar would hide the others.
fn bars(panel: &Panel<'_>, scale: Option<Scale>, id: &str) -> Markup {
    let any = Scale { services: 0, endpoints: 0 };
    let shown: Vec<(&Row<'_>, &Summary)> =
        panel.rows.iter().filter_map(|row| Some((row, row.at(scale.unwrap_or(any))?))).collect();
    let unit = panel.quantity.unit();
    let spread = Spread::of(panel.quantity);
    let ends = || shown.iter().flat_map(|(_, summary)| [summary.median, spread.ends(summary).1]);
    let medians = || shown.iter().map(|(_, summary)| summary.median).filter(|median| *median > 0.0);
    let widest = medians().fold(0.0, f64::max) / medians().fold(f64::INFINITY, f64::min);
    let dots = widest > WIDEST_BARS;
    let axis = if dots { Axis::logarithmic(unit, ends()) } else { Axis::from_zero(unit, ends()) };
    let rows = shown.len() as f64;
    let bottom = TOP + rows * BAR;
    let x = |value: f64| NAMES + (WIDTH - NAMES - VALUES) * axis.place(value);
    let content = html! {
        @for value in thinned(&axis.ticks, x) {
            path.grid d=(format!("M{} {}V{}", at(x(value)), at(TOP), at(bottom))) {}
            text.tick x=(at(x(value))) y=(at(bottom + 18.0)) text-anchor="middle" { (tick(unit, value)) }
        }
        path.axis d=(format!("M{} {}V{}", at(NAMES), at(TOP), at(bottom))) {}
        @for (n, (row, summary)) in shown.iter().enumerate() {
            @let y = TOP + BAR * (n as f64 + 0.5);
            @let (low, high) = spread.ends(summary);
            g class=(classes(row.subject, row.index)) {
                title { (hint(panel, row, scale, summary)) }
                text.name x=(at(NAMES - 10.0)) y=(at(y + 4.0)) text-anchor="end" { (view::name(row.subject)) }
                @if dots {
                    path.stem d=(format!("M{} {}H{}", at(NAMES), at(y), at(x(summary.median)))) {}
                    (mark(row.subject, x(summary.median), y))
                } @else {
                    rect.bar x=(at(NAMES)) y=(at(y - 9.0)) width=(at((x(summary.median) - NAMES).max(1.0))) height="18" rx="2" {}
                }
                (whisker((x(low), y), (x(high), y)))
                (value_behind(panel, row, scale, summary, (x(summary.median.max(high)) + 9.0, y)))
            }
        }
        @if dots {
            text.axis-title x=(at((NAMES + WIDTH - VALUES) / 2.0)) y=(at(bottom + 36.0)) text-anchor="middle" { "logarithmic axis" }
        }
    };
    let height = bottom + if dots { 44.0 } else { 28.0 };
    let scales: Vec<Scale> = scale.into_iter().collect();
    picture(panel, id, height, &description(panel, &scales), content)
}

/// The value of a bar in figures, with what it compares to.
fn value_behind(
    panel: &Panel<'_>,
    row: &Row<'_>,
    scale: Option<Scale>,
    summary: &Summary,
    (x, y): (f64, f64),
) -> Markup {
    let ratio = scale.and_then(|scale| panel.against_kube_proxy(row, scale));
    let direct = panel.direct().filter(|_| !row.is_direct());
    let direct = direct.and_then(|direct| direct.cells.values().next());
    let share = direct.and_then(|direct| percent(summary.median, direct.median));
    html! {
        text.value x=(at(x)) y=(at(y + 4.0)) {
            (figure(panel.quantity.unit(), summary.median))
            @if let Some(share) = share { tspan.beside dx="7" { (share) } }
            @else if let Some(ratio) = ratio { tspan.beside dx="7" { (ratio.words()) } }
        }
    }
}

/// Which places of a rising list have room for a label: the last, the first, and those between that
/// come close to none of them.
fn legible(places: &[f64]) -> Vec<bool> {
    let mut chosen = vec![false; places.len()];
    let last = places.len().saturating_sub(1);
    let between = 1..last;
    for n in [last, 0].into_iter().chain(between).filter(|n| *n < places.len()) {
        let near = |other: usize| {
            other != n && chosen[other] && (places[other] - places[n]).abs() < LABEL_ROOM
        };
        chosen[n] = !(0..places.len()).any(near);
    }
    chosen
}

/// Ticks whose labels have room.
fn thinned(ticks: &[f64], x: impl Fn(f64) -> f64) -> Vec<f64> {
    let mut kept: Vec<f64> = Vec::new();
    for tick in ticks {
        let room = kept.last().is_none_or(|last| x(*tick) - x(*last) >= LABEL_ROOM + 10.0);
        if room {
            kept.push(*tick);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_that_have_no_room_are_left_out_but_never_the_last() {
        assert_eq!(legible(&[0.0, 100.0, 180.0, 200.0]), [true, true, false, true]);
        assert_eq!(legible(&[190.0, 200.0]), [false, true]);
        assert_eq!(legible(&[5.0]), [true]);
        assert!(legible(&[]).is_empty());
    }
}
