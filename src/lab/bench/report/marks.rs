//! The parts of a chart: how a subject looks, its marks, and labels that keep out of each other's way.

use maud::{Markup, html};

use super::view;
use crate::bench::results::{Program, Subject};

/// The classes of everything that is drawn of a subject: its number on the page, by which it can be
/// hidden; its colour, which is the mode's; and its line, which is the program's.
pub(super) fn classes(subject: &Subject, index: usize) -> String {
    let line = match subject.program {
        Program::Direct => "direct",
        Program::Sluice => "sluice",
        Program::KubeProxy(_) => "other",
    };
    format!("series s{index} {} {line}", colour(subject))
}

fn colour(subject: &Subject) -> &'static str {
    match (&subject.program, view::family(&subject.mode)) {
        (Program::Direct, _) => "c-direct",
        (_, "nftables") => "c-nftables",
        (_, "iptables") => "c-iptables",
        (_, "ipvs") => "c-ipvs",
        (_, "userspace") => "c-userspace",
        _ => "c-unknown",
    }
}

/// A coordinate, as short as a picture needs it.
pub(super) fn at(value: f64) -> String {
    let text = format!("{value:.1}");
    text.strip_suffix(".0").map(str::to_owned).unwrap_or(text)
}

/// The mark of a subject's mode at a point, so that colour is never needed to tell them apart.
pub(super) fn mark(subject: &Subject, x: f64, y: f64) -> Markup {
    let polygon = |corners: &[(f64, f64)]| {
        let points: Vec<String> =
            corners.iter().map(|(dx, dy)| format!("{},{}", at(x + dx), at(y + dy))).collect();
        html! { polygon.mark points=(points.join(" ")) {} }
    };
    match colour(subject) {
        "c-nftables" => html! { circle.mark cx=(at(x)) cy=(at(y)) r="4.5" {} },
        "c-iptables" => polygon(&[(-4.2, -4.2), (4.2, -4.2), (4.2, 4.2), (-4.2, 4.2)]),
        "c-ipvs" => polygon(&[(0.0, -5.4), (5.2, 3.8), (-5.2, 3.8)]),
        "c-userspace" => polygon(&[(0.0, -5.8), (5.8, 0.0), (0.0, 5.8), (-5.8, 0.0)]),
        _ => polygon(&[(-5.2, -3.8), (5.2, -3.8), (0.0, 5.4)]),
    }
}

/// A line from one end of a spread to the other, with caps across it. Nothing where there is none.
pub(super) fn whisker(from: (f64, f64), to: (f64, f64)) -> Markup {
    let (dx, dy) = (to.0 - from.0, to.1 - from.1);
    let length = dx.hypot(dy);
    if length < 0.5 {
        return html! {};
    }
    // Across the line, four units to each side.
    let (ax, ay) = (-4.0 * dy / length, 4.0 * dx / length);
    let cap = |(x, y): (f64, f64)| {
        format!("M{} {}L{} {}", at(x - ax), at(y - ay), at(x + ax), at(y + ay))
    };
    let line = format!("M{} {}L{} {}", at(from.0), at(from.1), at(to.0), at(to.1));
    html! { path.whisker d=(format!("{line}{}{}", cap(from), cap(to))) {} }
}

/// A line and a mark, as in a legend.
pub(super) fn sample(subject: &Subject, index: usize) -> Markup {
    let direct = subject.program == Program::Direct;
    html! {
        svg.sample viewBox="0 0 34 14" width="34" height="14" aria-hidden="true" {
            g class=(classes(subject, index)) {
                path.line d="M1 7H33" {}
                @if !direct { (mark(subject, 17.0, 7.0)) }
            }
        }
    }
}

/// Moves labels apart so that each has `gap` to the next, as little as can be, within both ends. The
/// order of the labels stays the order of their places.
pub(super) fn apart(wanted: &[f64], gap: f64, low: f64, high: f64) -> Vec<f64> {
    let mut order: Vec<usize> = (0..wanted.len()).collect();
    order.sort_by(|a, b| wanted[*a].total_cmp(&wanted[*b]));
    let mut places: Vec<f64> = order.iter().map(|index| wanted[*index].clamp(low, high)).collect();
    // Half of what two labels lack is given by each, until none lacks anything.
    for _ in 0..200 {
        let mut moved = false;
        for n in 1..places.len() {
            let lacking = gap - (places[n] - places[n - 1]);
            if lacking > 0.01 {
                places[n - 1] -= lacking / 2.0;
                places[n] += lacking / 2.0;
                moved = true;
            }
        }
        for place in &mut places {
            *place = place.clamp(low, high);
        }
        if !moved {
            break;
        }
    }
    let mut result = wanted.to_vec();
    for (place, index) in places.into_iter().zip(order) {
        result[index] = place;
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_moved_apart_and_stay_in_order() {
        let moved = apart(&[50.0, 52.0, 10.0, 51.0], 12.0, 0.0, 100.0);
        assert!((moved[2] - 10.0).abs() < 0.1, "it has room: {moved:?}");
        assert!(moved[0] < moved[3] && moved[3] < moved[1], "{moved:?}");
        let mut sorted = moved.clone();
        sorted.sort_by(f64::total_cmp);
        assert!(sorted.windows(2).all(|two| two[1] - two[0] > 11.9), "{sorted:?}");
    }

    #[test]
    fn labels_at_an_end_stay_inside() {
        let moved = apart(&[99.0, 99.0, 100.0], 10.0, 0.0, 100.0);
        let (low, high) =
            moved.iter().fold((f64::MAX, f64::MIN), |(l, h), p| (l.min(*p), h.max(*p)));
        assert!(low > 78.0 && high <= 100.0, "{moved:?}");
        assert_eq!(apart(&[], 10.0, 0.0, 100.0), Vec::<f64>::new());
    }

    #[test]
    fn a_spread_of_nothing_has_no_whisker() {
        assert_eq!(whisker((1.0, 2.0), (1.0, 2.0)).into_string(), "");
        let drawn = whisker((1.0, 2.0), (1.0, 12.0)).into_string();
        assert!(drawn.contains("M1 2L1 12M5 2L-3 2"), "{drawn}");
    }
}
