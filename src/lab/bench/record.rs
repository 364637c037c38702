//! What is found, as it is found.

use super::objects::Scale;
use super::results::{LeftOut, Measurement, Program, Quantity, Subject};

/// Measurements and what is left out, so far.
#[derive(Debug, Default)]
pub(super) struct Record {
    pub(super) measurements: Vec<Measurement>,
    pub(super) left_out: Vec<LeftOut>,
}

impl Record {
    /// Adds samples of a quantity; without a proxy the number of Services means nothing.
    pub(super) fn add(
        &mut self,
        subject: &Subject,
        quantity: Quantity,
        scale: Scale,
        samples: impl IntoIterator<Item = f64>,
    ) {
        let mut samples = samples.into_iter().peekable();
        if samples.peek().is_none() {
            return;
        }
        let (services, endpoints) = counted(subject, scale);
        let same = self.measurements.iter_mut().find(|known| {
            known.subject == *subject
                && known.quantity == quantity
                && (known.services, known.endpoints) == (services, endpoints)
        });
        match same {
            Some(known) => known.samples.extend(samples),
            None => self.measurements.push(Measurement {
                subject: subject.clone(),
                quantity,
                services,
                endpoints,
                samples: samples.collect(),
            }),
        }
    }

    /// How many samples there are of a quantity.
    pub(super) fn count(&self, subject: &Subject, quantity: Quantity, scale: Scale) -> usize {
        let services = counted(subject, scale).0;
        let known = self.measurements.iter().find(|known| {
            known.subject == *subject && known.quantity == quantity && known.services == services
        });
        known.map_or(0, |known| known.samples.len())
    }

    /// Says what is left out and why.
    pub(super) fn leave_out(
        &mut self,
        subject: &Subject,
        quantity: Option<Quantity>,
        services: Option<u32>,
        reason: String,
    ) {
        let left_out = LeftOut { subject: subject.clone(), quantity, services, reason };
        if !self.left_out.contains(&left_out) {
            self.left_out.push(left_out);
        }
    }
}

/// Services and endpoints that a measurement names.
fn counted(subject: &Subject, scale: Scale) -> (u32, u32) {
    match subject.program {
        Program::Direct => (0, 0),
        _ => (scale.services, scale.endpoints),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_of_the_same_thing_are_together() {
        let subject = |program| Subject { program, mode: String::new(), guest: None };
        let (direct, sluice) = (subject(Program::Direct), subject(Program::Sluice));
        let (small, large) =
            (Scale { services: 10, endpoints: 5 }, Scale { services: 1000, endpoints: 5 });
        let mut record = Record::default();
        for scale in [small, large] {
            record.add(&direct, Quantity::RoundTrip, scale, [1.0, 2.0]);
            record.add(&sluice, Quantity::RoundTrip, scale, [3.0]);
        }
        record.add(&sluice, Quantity::RoundTrip, small, []);
        let found: Vec<(u32, &[f64])> =
            record.measurements.iter().map(|m| (m.services, &*m.samples)).collect();
        assert_eq!(found, [(0, &[1.0, 2.0, 1.0, 2.0][..]), (10, &[3.0]), (1000, &[3.0])]);
        assert_eq!(record.count(&direct, Quantity::RoundTrip, small), 4);
    }
}
