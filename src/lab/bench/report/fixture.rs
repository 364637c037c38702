//! Results for tests, of the size and shape that runs have.

use crate::bench::results::{
    LeftOut, Machine, Measurement, Program, Quantity, Results, SCHEMA, Subject, Unit,
};

pub(super) fn machine() -> Machine {
    Machine {
        date: "2026-03-01T12:00:00Z".to_owned(),
        processor: "Example Processor 9000 @ 2.50GHz".to_owned(),
        cores: 2,
        memory: 25_276_878_848,
        kernel: "6.18.0".to_owned(),
        version: "0.1.0".to_owned(),
    }
}

/// A run that has measured nothing yet.
pub(super) fn nothing() -> Results {
    Results {
        schema: SCHEMA,
        machine: machine(),
        command: "sluice-lab bench --modes nftables,direct --services 1000".to_owned(),
        seconds: 512.0,
        measurements: Vec::new(),
        left_out: Vec::new(),
    }
}

pub(super) fn direct() -> Subject {
    Subject { program: Program::Direct, mode: String::new(), guest: None }
}

pub(super) fn sluice(mode: &str) -> Subject {
    Subject { program: Program::Sluice, mode: mode.to_owned(), guest: None }
}

pub(super) fn kube_proxy(mode: &str) -> Subject {
    let program = Program::KubeProxy("v1.36.2".to_owned());
    Subject { program, mode: mode.to_owned(), guest: None }
}

pub(super) fn in_guest(subject: Subject) -> Subject {
    Subject { guest: Some("6.1.0-34-amd64".to_owned()), ..subject }
}

pub(super) fn measurement(
    subject: Subject,
    quantity: Quantity,
    (services, endpoints): (u32, u32),
    samples: &[f64],
) -> Measurement {
    Measurement { subject, quantity, services, endpoints, samples: samples.to_vec() }
}

pub(super) fn left_out(subject: Subject, quantity: Option<Quantity>, reason: &str) -> LeftOut {
    LeftOut { subject, quantity, services: Some(10_000), reason: reason.to_owned() }
}

/// All subjects at these sizes, with realistic numbers.
pub(super) fn run(subjects: &[Subject], sizes: &[(u32, u32)]) -> Results {
    let mut results = nothing();
    for quantity in Quantity::ALL {
        for subject in subjects {
            let direct = subject.program == Program::Direct;
            let once = [(0, 0)];
            for size in if direct { &once } else { sizes } {
                let Some(middle) = typical(subject, quantity, size.0) else { continue };
                let samples = scattered(middle, quantity);
                results.measurements.push(measurement(subject.clone(), quantity, *size, &samples));
            }
        }
    }
    results
}

/// A dozen values around one, skewed as times are.
fn scattered(middle: f64, quantity: Quantity) -> Vec<f64> {
    let spread = match quantity {
        Quantity::BusyChangeLatency | Quantity::ChangeLatency | Quantity::FirstPacket => 0.5,
        Quantity::KernelObjects => 0.0,
        _ => 0.08,
    };
    (0..12_u8).map(|n| middle * (1.0 + spread * (f64::from(n) / 11.0).powi(3) * 1.5)).collect()
}

/// What a subject shows of a quantity, if it shows any.
fn typical(subject: &Subject, quantity: Quantity, services: u32) -> Option<f64> {
    let n = f64::from(services);
    let guest = if subject.guest.is_some() { 6.0 } else { 1.0 };
    let slow = |own: f64, theirs: f64| match subject.program {
        Program::KubeProxy(_) => theirs,
        Program::Direct | Program::Sluice => own,
    };
    let mode = match subject.mode.as_str() {
        "nftables" => 1.0,
        "iptables" => 4.0,
        "ipvs" => 1.6,
        _ => 2.2,
    };
    if subject.program == Program::Direct {
        let value = match quantity {
            Quantity::FirstPacket => 21e-6,
            Quantity::ConnectionRate => 14_200.0,
            Quantity::BulkOneStream => 21.4e9,
            Quantity::BulkManyStreams => 19.8e9,
            Quantity::RoundTrip => 11e-6,
            _ => return None,
        };
        return Some(if quantity.unit() == Unit::Seconds { value * guest } else { value / guest });
    }
    let relayed = subject.mode == "userspace";
    let value = match quantity {
        Quantity::BusyChangeLatency => 0.0025 * mode * slow(1.0, 9.0 + n * 0.4),
        Quantity::ColdStart => (0.06 + 25e-6 * n * mode) * slow(1.0, 9.0 + n * 4e-3),
        Quantity::ChangeLatency => 0.0021 * mode * slow(1.0, 4.0 + n * 0.3),
        Quantity::ChangeProcessorTime => 0.0004 * mode * slow(1.0, 20.0 + n * 0.05),
        Quantity::ResyncTime => (0.05 + 20e-6 * n * mode) * slow(1.0, 9.0),
        Quantity::ResyncProcessorTime => (0.04 + 15e-6 * n * mode) * slow(1.0, 9.0),
        Quantity::FirstPacket if subject.mode == "iptables" => 27e-6 + slow(0.5e-9, 8e-9) * n,
        Quantity::FirstPacket => 25e-6 * (if relayed { 3.0 } else { 1.0 }) * slow(1.0, 1.03),
        Quantity::ConnectionRate => 12_900.0 / (if relayed { 2.4 } else { 1.0 }),
        Quantity::BulkOneStream => 21.1e9 * (if relayed { 0.66 } else { 1.0 }),
        Quantity::BulkManyStreams => 19.6e9 * (if relayed { 0.71 } else { 1.0 }),
        Quantity::RoundTrip => 11.3e-6 * (if relayed { 2.0 } else { 1.0 }),
        Quantity::PeakMemory => (14e6 + 4_000.0 * n * mode.min(2.0)) * slow(1.0, 4.0 + n * 5e-4),
        Quantity::SteadyMemory => (12e6 + 3_000.0 * n) * slow(1.0, 4.0),
        Quantity::KernelObjects => (60.0 + 7.0 * n) * slow(1.0, 2.4),
        Quantity::KernelMemory if subject.mode == "ipvs" => return None,
        Quantity::KernelMemory => (80_000.0 + 1_400.0 * n) * slow(1.0, 1.8),
    };
    Some(if quantity.unit() == Unit::Seconds { value * guest } else { value })
}

/// Nine subjects, two of them in a guest, and what they left out.
pub(super) fn everybody(sizes: &[(u32, u32)]) -> Results {
    let mut subjects = vec![direct()];
    subjects.extend(["nftables", "iptables", "ipvs", "userspace"].map(sluice));
    subjects.extend(["nftables", "iptables", "ipvs"].map(kube_proxy));
    let mut results = run(&subjects, sizes);
    results.left_out.push(left_out(
        kube_proxy("iptables"),
        Some(Quantity::ColdStart),
        "its first sync did not end within 120 s",
    ));
    results.measurements.retain(|m| m.subject != kube_proxy("iptables") || m.services < 10_000);
    results
}
