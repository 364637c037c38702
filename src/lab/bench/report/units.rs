//! Values in the units that people read: 310 ms, 44.2 MiB, 9.41 Gbit/s, 47× faster.

use crate::bench::results::{Better, Quantity, Summary, Unit};

/// From so many seconds on, a time is written in minutes.
const MINUTES_FROM: f64 = 120.0;

/// A unit that fits values of a certain size.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Measure {
    /// Divide, and append the suffix.
    Scaled {
        /// How many of the quantity's unit make one of these.
        divisor: f64,
        /// With its leading space, if it takes one.
        suffix: &'static str,
    },
    /// Minutes and seconds.
    Minutes,
}

impl Measure {
    /// The unit in which a value of this size is best written.
    pub(super) fn of(unit: Unit, value: f64) -> Measure {
        let size = significant(value.abs());
        if unit == Unit::Seconds && size >= MINUTES_FROM {
            return Measure::Minutes;
        }
        let steps = steps(unit);
        let fits = steps.iter().rev().find(|(divisor, _)| size >= *divisor);
        // Zero is shown in the base unit: "0 s", not "0 ns".
        let plain = steps.iter().find(|(divisor, _)| *divisor >= 1.0);
        let smallest = if size > 0.0 { steps.first() } else { plain };
        let (divisor, suffix) = fits.or(smallest).copied().unwrap_or((1.0, ""));
        Measure::Scaled { divisor, suffix }
    }

    /// The number alone, with three digits that count.
    pub(super) fn number(self, value: f64) -> String {
        match self {
            Measure::Scaled { divisor, .. } => digits(value / divisor),
            Measure::Minutes => {
                let seconds = value.round();
                format!("{} min {:02.0} s", grouped((seconds / 60.0).floor()), seconds % 60.0)
            }
        }
    }

    /// Number and unit.
    pub(super) fn figure(self, value: f64) -> String {
        match self {
            Measure::Scaled { suffix, .. } => format!("{}{suffix}", self.number(value)),
            Measure::Minutes => self.number(value),
        }
    }
}

/// A value with the unit that fits it.
pub(in crate::bench) fn figure(unit: Unit, value: f64) -> String {
    if unit == Unit::Count && value.abs() >= 1.0 && value.fract() == 0.0 {
        return grouped(value);
    }
    Measure::of(unit, value).figure(value)
}

/// A value at a tick of an axis: without zeros that say nothing.
pub(super) fn tick(unit: Unit, value: f64) -> String {
    match Measure::of(unit, value) {
        Measure::Scaled { divisor, suffix } => {
            let number = digits(value / divisor);
            let short = match number.contains('.') {
                true => number.trim_end_matches('0').trim_end_matches('.'),
                false => &number,
            };
            format!("{short}{suffix}")
        }
        Measure::Minutes if value % 60.0 == 0.0 => format!("{} min", grouped(value / 60.0)),
        Measure::Minutes => format!("{} s", grouped(value)),
    }
}

/// A whole number with commas: 10,000.
pub(super) fn grouped(value: f64) -> String {
    let plain = format!("{value:.0}");
    let (sign, whole) = match plain.strip_prefix('-') {
        Some(whole) => ("-", whole),
        None => ("", plain.as_str()),
    };
    let mut text = sign.to_owned();
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// How much better a median is than the one it is compared with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Ratio {
    /// Above 1 if it is the better one.
    factor: f64,
    clear: Clear,
    words: (&'static str, &'static str),
}

/// Whether two medians differ by more than the samples of each do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Clear {
    /// The quartiles of one are beyond those of the other.
    Yes,
    /// They overlap: another run could say the opposite.
    No,
}

impl Clear {
    pub(super) fn of(one: &Summary, other: &Summary) -> Clear {
        let below = |a: &Summary, b: &Summary| a.upper_quartile < b.lower_quartile;
        if below(one, other) || below(other, one) { Clear::Yes } else { Clear::No }
    }
}

impl Ratio {
    /// Two values that differ by less than this say nothing.
    const EQUAL: f64 = 1.05;

    /// None if one of the medians is nothing: then there is no factor between them.
    pub(super) fn of(quantity: Quantity, own: &Summary, other: &Summary) -> Option<Ratio> {
        if !(own.median > 0.0 && other.median > 0.0) {
            return None;
        }
        let factor = match quantity.better() {
            Better::Lower => other.median / own.median,
            Better::Higher => own.median / other.median,
        };
        let words = match quantity {
            Quantity::ColdStart | Quantity::ResyncTime => ("faster", "slower"),
            Quantity::BusyChangeLatency
            | Quantity::ChangeLatency
            | Quantity::FirstPacket
            | Quantity::RoundTrip => ("lower", "higher"),
            Quantity::KernelObjects => ("fewer", "more"),
            Quantity::ConnectionRate => ("higher", "lower"),
            Quantity::BulkOneStream | Quantity::BulkManyStreams => ("more", "less"),
            Quantity::ChangeProcessorTime
            | Quantity::ResyncProcessorTime
            | Quantity::PeakMemory
            | Quantity::SteadyMemory
            | Quantity::KernelMemory => ("less", "more"),
        };
        let clear = Clear::of(own, other);
        factor.is_finite().then_some(Ratio { factor, clear, words })
    }

    /// The number alone, above 1 whichever is better: "47×".
    pub(super) fn times(self) -> String {
        let factor = if self.factor < 1.0 { 1.0 / self.factor } else { self.factor };
        match self.clear {
            _ if factor < Ratio::EQUAL => "equal".to_owned(),
            Clear::No => "≈".to_owned(),
            Clear::Yes => format!("{}×", short(factor)),
        }
    }

    /// Which way: "faster"; empty if they are equal.
    pub(super) fn way(self) -> &'static str {
        match (self.factor, self.clear) {
            (factor, _) if factor < Ratio::EQUAL && factor > 1.0 / Ratio::EQUAL => "",
            (_, Clear::No) => "no clear difference:",
            (factor, Clear::Yes) if factor > 1.0 => self.words.0,
            (_, Clear::Yes) => self.words.1,
        }
    }

    /// "47× faster".
    pub(super) fn words(self) -> String {
        let text = format!("{} {}", self.times(), self.way());
        text.trim_end_matches([' ', ':']).trim_start_matches("≈ ").to_owned()
    }
}

/// A share of something: "98 %".
pub(super) fn percent(value: f64, whole: f64) -> Option<String> {
    let share = 100.0 * value / whole;
    let decimals = usize::from(share < 10.0);
    (whole > 0.0 && share.is_finite()).then(|| format!("{share:.decimals$} %"))
}

/// A factor with two digits that count.
fn short(factor: f64) -> String {
    if factor < 9.95 { format!("{factor:.1}") } else { grouped(factor) }
}

/// Three digits that count; never in words like 1e6.
fn digits(value: f64) -> String {
    let size = significant(value.abs());
    match size {
        _ if size == 0.0 => "0".to_owned(),
        _ if size >= 100.0 => grouped(value),
        _ if size >= 10.0 => format!("{value:.1}"),
        _ if size >= 1.0 => format!("{value:.2}"),
        _ => {
            let decimals = 2.0 + (-size.log10()).ceil().min(9.0);
            let text = format!("{:.*}", decimals_of(decimals), value);
            text.trim_end_matches('0').to_owned()
        }
    }
}

/// The whole number from 0 to 12 that a count of decimals is.
fn decimals_of(count: f64) -> usize {
    (0_u8..12).take_while(|n| f64::from(*n) < count).count()
}

/// Rounded to three digits that count, so that 999.7 ms is 1.00 s.
fn significant(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return 0.0;
    }
    format!("{value:.2e}").parse().unwrap_or(value)
}

/// Units from small to large.
fn steps(unit: Unit) -> &'static [(f64, &'static str)] {
    match unit {
        Unit::Seconds => &[(1e-9, " ns"), (1e-6, " µs"), (1e-3, " ms"), (1.0, " s")],
        Unit::Bytes => &[
            (1.0, " B"),
            (1024.0, " KiB"),
            (1_048_576.0, " MiB"),
            (1_073_741_824.0, " GiB"),
            (1_099_511_627_776.0, " TiB"),
        ],
        Unit::BitsPerSecond => &[
            (1.0, " bit/s"),
            (1e3, " kbit/s"),
            (1e6, " Mbit/s"),
            (1e9, " Gbit/s"),
            (1e12, " Tbit/s"),
        ],
        Unit::PerSecond => &[(1.0, "/s")],
        Unit::Count => &[(1.0, "")],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_written_in_units_that_people_read() {
        let mib = 1_048_576.0;
        let table = [
            (Unit::Seconds, 0.0, "0 s"),
            (Unit::Seconds, 4.2e-7, "420 ns"),
            (Unit::Seconds, 0.000_012_345, "12.3 µs"),
            (Unit::Seconds, 0.0031, "3.10 ms"),
            (Unit::Seconds, 0.3104, "310 ms"),
            (Unit::Seconds, 0.999_7, "1.00 s"),
            (Unit::Seconds, 14.26, "14.3 s"),
            (Unit::Seconds, 738.2, "12 min 18 s"),
            (Unit::Seconds, 119.7, "2 min 00 s"),
            (Unit::Bytes, 512.0, "512 B"),
            (Unit::Bytes, 44.2 * mib, "44.2 MiB"),
            (Unit::Bytes, 1023.9 * mib, "1,024 MiB"),
            (Unit::BitsPerSecond, 9.414e9, "9.41 Gbit/s"),
            (Unit::BitsPerSecond, 20.0, "20.0 bit/s"),
            (Unit::PerSecond, 12_345.6, "12,346/s"),
            (Unit::PerSecond, 0.25, "0.25/s"),
            (Unit::Count, 52_341.0, "52,341"),
            (Unit::Count, 7.0, "7"),
            (Unit::Count, 2.5, "2.50"),
        ];
        for (unit, value, expected) in table {
            assert_eq!(figure(unit, value), expected, "{value} {unit:?}");
        }
    }

    #[test]
    fn spread_is_written_in_the_unit_of_the_median() {
        let measure = Measure::of(Unit::Seconds, 0.0011);
        assert_eq!(measure.number(0.000_95), "0.95");
        assert_eq!(measure.number(0.012), "12.0");
        assert_eq!(measure.number(0.0), "0");
    }

    #[test]
    fn ticks_have_no_zeros_that_say_nothing() {
        let table = [
            (Unit::Seconds, 0.001, "1 ms"),
            (Unit::Seconds, 0.0025, "2.5 ms"),
            (Unit::Seconds, 0.1, "100 ms"),
            (Unit::Seconds, 600.0, "10 min"),
            (Unit::Seconds, 200.0, "200 s"),
            (Unit::Bytes, 67_108_864.0, "64 MiB"),
            (Unit::PerSecond, 20_000.0, "20,000/s"),
            (Unit::Count, 0.0, "0"),
        ];
        for (unit, value, expected) in table {
            assert_eq!(tick(unit, value), expected);
        }
    }

    #[test]
    fn large_numbers_have_commas() {
        let table = [(0.0, "0"), (999.0, "999"), (1_000.0, "1,000"), (1_234_567.0, "1,234,567")];
        for (value, expected) in table {
            assert_eq!(grouped(value), expected);
        }
        assert_eq!(grouped(-10_000.0), "-10,000");
    }

    #[test]
    fn ratios_say_which_way_is_better() {
        let one = |value: f64| Summary::of(&[value]).expect("a sample");
        let words = |quantity, value, other| {
            Ratio::of(quantity, &one(value), &one(other)).map(Ratio::words)
        };
        let said = |text: &str| Some(text.to_owned());
        assert_eq!(words(Quantity::ColdStart, 0.3, 14.1), said("47× faster"));
        assert_eq!(words(Quantity::ColdStart, 3.0, 2.0), said("1.5× slower"));
        assert_eq!(words(Quantity::PeakMemory, 40.0, 400.0), said("10× less"));
        assert_eq!(words(Quantity::KernelObjects, 50.0, 170.0), said("3.4× fewer"));
        assert_eq!(words(Quantity::ConnectionRate, 300.0, 100.0), said("3.0× higher"));
        assert_eq!(words(Quantity::BulkOneStream, 36.0, 100.0), said("2.8× less"));
        assert_eq!(words(Quantity::RoundTrip, 1.0, 1.02), said("equal"));
        assert_eq!(words(Quantity::ChangeLatency, 0.001, 2.0), said("2,000× lower"));
        assert_eq!(words(Quantity::ChangeProcessorTime, 0.0, 2.0), None);
    }

    #[test]
    fn no_difference_is_claimed_where_samples_overlap() {
        let of = |samples: &[f64]| Summary::of(samples).expect("samples");
        let ratio = |one: &[f64], other: &[f64]| {
            Ratio::of(Quantity::BulkOneStream, &of(one), &of(other)).map(Ratio::words)
        };
        let (wide, narrow) = ([10.0, 20.0, 30.0, 40.0], [15.0, 16.0]);
        assert_eq!(ratio(&wide, &narrow).as_deref(), Some("no clear difference"));
        assert_eq!(ratio(&wide, &[1.0, 2.0, 3.0]).as_deref(), Some("10× more"));
    }

    #[test]
    fn shares_are_percentages() {
        assert_eq!(percent(98.2, 100.0).as_deref(), Some("98 %"));
        assert_eq!(percent(3.61, 100.0).as_deref(), Some("3.6 %"));
        assert_eq!(percent(1.0, 0.0), None);
    }
}
