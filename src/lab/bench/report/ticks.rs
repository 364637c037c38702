//! Axes: ranges, ticks and positions of values.

use crate::bench::results::Unit;

/// No axis has more labels than this.
const MOST_TICKS: usize = 8;
/// Nor fewer, where there is a choice.
const FEWEST_TICKS: usize = 3;

/// An axis with its ends and ticks, in the unit of the values.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Axis {
    low: f64,
    high: f64,
    logarithmic: bool,
    /// Where labels stand, in order; the first and the last are the ends, or near them.
    pub(super) ticks: Vec<f64>,
}

impl Axis {
    /// A logarithmic axis that holds all values above zero. Without any, or without the smallest
    /// difference between them, it still has a length.
    pub(super) fn logarithmic(unit: Unit, values: impl IntoIterator<Item = f64>) -> Axis {
        let (mut low, mut high) = (f64::INFINITY, 0.0_f64);
        for value in values.into_iter().filter(|value| value.is_finite() && *value > 0.0) {
            (low, high) = (low.min(value), high.max(value));
        }
        if high == 0.0 {
            (low, high) = (1.0, 1.0);
        }
        // Nearly equal values are shown as such, not torn apart by the axis.
        if high / low < 1.6 {
            let middle = (low * high).sqrt();
            (low, high) = (middle / 1.6, middle * 1.6);
        }
        let ticks = ladder(unit, low, high);
        let first = ticks.first().copied().unwrap_or(low).min(low);
        let last = ticks.last().copied().unwrap_or(high).max(high);
        Axis { low: first, high: last, logarithmic: true, ticks }
    }

    /// A logarithmic axis with ticks where something was measured, and room around them.
    pub(super) fn measured(places: &[f64]) -> Axis {
        let ticks: Vec<f64> = places.iter().map(|place| place.max(1.0)).collect();
        let low = ticks.iter().copied().fold(f64::INFINITY, f64::min);
        let high = ticks.iter().copied().fold(1.0, f64::max);
        let low = if low.is_finite() { low } else { 1.0 };
        let (low, high) = if low < high { (low, high) } else { (low / 2.0, high * 2.0) };
        Axis { low, high, logarithmic: true, ticks }
    }

    /// A linear axis from zero, for bars.
    pub(super) fn from_zero(unit: Unit, values: impl IntoIterator<Item = f64>) -> Axis {
        let high = values.into_iter().filter(|v| v.is_finite()).fold(0.0_f64, f64::max);
        let high = if high > 0.0 { high } else { 1.0 };
        let step = round_step(unit, high);
        let ticks: Vec<f64> = (0_u8..)
            .map(|n| f64::from(n) * step)
            .take_while(|tick| *tick <= high * 1.0001)
            .take(MOST_TICKS)
            .collect();
        Axis { low: 0.0, high, logarithmic: false, ticks }
    }

    /// Where a value lies: 0 at the low end, 1 at the high end. What is beyond an end lies at it, as
    /// does zero on a logarithmic axis.
    pub(super) fn place(&self, value: f64) -> f64 {
        let place = match self.logarithmic {
            true if value <= 0.0 => 0.0,
            true => (value / self.low).ln() / (self.high / self.low).ln(),
            false => (value - self.low) / (self.high - self.low),
        };
        if place.is_finite() { place.clamp(0.0, 1.0) } else { 0.0 }
    }
}

/// Round values from at or below `low` to at or above `high`, as many as can be labelled.
fn ladder(unit: Unit, low: f64, high: f64) -> Vec<f64> {
    let candidates: Vec<Vec<f64>> = match unit {
        Unit::Bytes => [1, 2, 3, 5, 10].map(|step| powers_of_two(step, low, high)).into(),
        _ => {
            let fine: [&[f64]; 4] =
                [&[1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0], &[1.0, 2.0, 5.0], &[1.0, 3.0], &[1.0]];
            let mut all: Vec<Vec<f64>> = fine.iter().map(|m| decades(m, 1, low, high)).collect();
            all.extend([2, 3].map(|step| decades(&[1.0], step, low, high)));
            all
        }
    };
    let fits = |ticks: &&Vec<f64>| (FEWEST_TICKS..=MOST_TICKS).contains(&ticks.len());
    let chosen = candidates.iter().find(fits).or_else(|| candidates.last());
    chosen.cloned().unwrap_or_default()
}

/// Mantissas at every so many powers of ten.
fn decades(mantissas: &[f64], step: i32, low: f64, high: f64) -> Vec<f64> {
    let all = (-4 * 3..=5 * 3).filter(|n| n % step == 0).flat_map(|exponent| {
        // Through text, so that 3 × 10⁻⁶ is the same number as everywhere.
        mantissas.iter().filter_map(move |m| format!("{m}e{exponent}").parse::<f64>().ok())
    });
    around(all.collect(), low, high)
}

/// Powers of two whose exponent is a multiple of `step`.
fn powers_of_two(step: i32, low: f64, high: f64) -> Vec<f64> {
    around((0..=60).filter(|n| n % step == 0).map(|n| 2.0_f64.powi(n)).collect(), low, high)
}

/// The part of a rising list that holds both values, as narrow as it can be.
fn around(all: Vec<f64>, low: f64, high: f64) -> Vec<f64> {
    let start = all.iter().rposition(|tick| *tick <= low * 1.0001).unwrap_or(0);
    let end = all.iter().position(|tick| *tick >= high / 1.0001).unwrap_or(all.len() - 1);
    all.get(start..=end).map(<[f64]>::to_vec).unwrap_or_default()
}

/// The distance of ticks of a linear axis that ends at `high`: three to seven of them.
fn round_step(unit: Unit, high: f64) -> f64 {
    let base = match unit {
        Unit::Bytes => 1024.0_f64.powf((high.log2() / 10.0).floor().max(0.0)),
        _ => 10.0_f64.powf(high.log10().floor()),
    };
    let multiples: &[f64] = match unit {
        Unit::Bytes => &[0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0],
        _ => &[0.2, 0.5, 1.0, 2.0],
    };
    let mut steps = multiples.iter().map(|multiple| base * multiple);
    steps.clone().find(|step| high / step < 6.5).or_else(|| steps.next_back()).unwrap_or(high)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_logarithmic_axis_has_three_to_eight_round_ticks_around_its_values() {
        let table: [(Unit, &[f64], &[f64]); 5] = [
            (Unit::Seconds, &[0.012, 0.031], &[0.01, 0.015, 0.02, 0.03, 0.04]),
            (Unit::Seconds, &[0.3, 14.0], &[0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0]),
            (Unit::Seconds, &[0.0011, 6.4], &[0.001, 0.01, 0.1, 1.0, 10.0]),
            (
                Unit::Bytes,
                &[4.2e7, 4.1e8],
                &[33_554_432.0, 67_108_864.0, 134_217_728.0, 268_435_456.0, 536_870_912.0],
            ),
            (Unit::PerSecond, &[1_000.0, 1_000.0], &[500.0, 700.0, 1_000.0, 1_500.0, 2_000.0]),
        ];
        for (unit, values, ticks) in table {
            let axis = Axis::logarithmic(unit, values.iter().copied());
            assert_eq!(axis.ticks, ticks, "{unit:?} {values:?}");
        }
        let wide = Axis::logarithmic(Unit::Seconds, [2e-9, 3e5]);
        assert!((3..=8).contains(&wide.ticks.len()), "{wide:?}");
    }

    #[test]
    fn values_lie_between_the_ends_of_their_axis() {
        let axis = Axis::logarithmic(Unit::Seconds, [0.001, 0.1]);
        assert!((axis.place(0.01) - 0.5).abs() < 1e-9);
        assert_eq!((axis.place(0.001), axis.place(0.1)), (0.0, 1.0));
        assert_eq!((axis.place(0.0), axis.place(7.0), axis.place(f64::NAN)), (0.0, 1.0, 0.0));
        let bars = Axis::from_zero(Unit::BitsPerSecond, [4e9, 9.6e9]);
        assert_eq!(bars.ticks, [0.0, 2e9, 4e9, 6e9, 8e9]);
        assert!((bars.place(4.8e9) - 0.5).abs() < 1e-9);
    }

    #[test]
    fn an_axis_without_values_is_still_one() {
        for axis in [
            Axis::logarithmic(Unit::Count, []),
            Axis::logarithmic(Unit::Seconds, [0.0, f64::NAN]),
            Axis::from_zero(Unit::Bytes, []),
            Axis::measured(&[]),
            Axis::measured(&[1_000.0]),
        ] {
            assert!(axis.low < axis.high, "{axis:?}");
            assert!((0.0..=1.0).contains(&axis.place(1.0)), "{axis:?}");
        }
    }

    #[test]
    fn bars_of_bytes_have_ticks_at_powers_of_two() {
        let mib = 1_048_576.0;
        assert_eq!(
            Axis::from_zero(Unit::Bytes, [100.0 * mib]).ticks,
            [0.0, 16.0, 32.0, 48.0, 64.0, 80.0, 96.0].map(|n| n * mib)
        );
    }
}
