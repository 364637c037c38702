//! `sluice-lab bench` as a user runs it, on a small cluster.

#![allow(clippy::unwrap_used)] // a test may end where it is

mod support;

use std::collections::BTreeSet;
use std::process::{Command, ExitCode, Output};

use libtest_mimic::{Arguments, Trial};
use sluice_lab::bench::fleet::results::{FleetResults, Part};
use sluice_lab::bench::results::{Program, Quantity, Results, Summary};
use support::Outcome;

fn main() -> ExitCode {
    let trials = vec![
        Trial::test("a_run_has_every_quantity", every_quantity),
        Trial::test("what_is_not_measured_is_named", left_out),
        Trial::test("runs_are_joined", joined),
        Trial::test("a_fleet_lists_comes_back_and_lists_again", a_fleet),
        Trial::test("mistakes_on_the_command_line_are_explained", mistakes),
    ];
    let mut arguments = Arguments::from_args();
    // Each run has the processors for itself.
    arguments.test_threads = Some(1);
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn bench(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sluice-lab-under-test"));
    let daemon = ["--daemon", env!("CARGO_BIN_EXE_sluice-under-test")];
    command.arg("bench").args(arguments).args(daemon).output().unwrap()
}

/// The results of a run that goes well.
fn results(arguments: &[&str]) -> Results {
    let output = bench(&[arguments, &["--json", "-"]].concat());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {said}"))
}

const SMALL: [&str; 10] = [
    "--services",
    "10",
    "--repeat",
    "2",
    "--changes",
    "3",
    "--window",
    "100ms",
    "--min-sync-period",
    "100ms",
];

fn every_quantity() -> Outcome {
    let results = results(&[&SMALL[..], &["--modes", "nftables,direct"]].concat());
    assert_eq!(results.left_out, [], "nothing is left out");
    assert!(results.command.starts_with("sluice-lab bench --services 10"), "{}", results.command);
    let of = |program: &Program| -> BTreeSet<Quantity> {
        let found = results.measurements.iter().filter(|m| m.subject.program == *program);
        found.map(|measurement| measurement.quantity).collect()
    };
    assert_eq!(of(&Program::Sluice), Quantity::ALL.into());
    assert_eq!(of(&Program::Direct).len(), 5, "traffic");
    for found in &results.measurements {
        assert!(found.samples.iter().all(|sample| *sample >= 0.0), "{found:?}");
        assert_eq!(found.services, if found.subject.program == Program::Direct { 0 } else { 10 });
    }
    let median = |program: &Program, quantity| {
        let found = results.measurements.iter().find(|measurement| {
            measurement.subject.program == *program && measurement.quantity == quantity
        });
        Summary::of(&found.unwrap().samples).unwrap().median
    };
    let sluice = |quantity| median(&Program::Sluice, quantity);
    assert!(sluice(Quantity::KernelObjects) >= 10.0 * 5.0, "every endpoint is an element at least");
    assert!(sluice(Quantity::ColdStart) > 1e-3 && sluice(Quantity::ColdStart) < 60.0);
    assert!(sluice(Quantity::ChangeLatency) > 1e-5);
    assert!(sluice(Quantity::PeakMemory) > 1e6);
    assert!(sluice(Quantity::BulkOneStream) > 1e6);
    assert!(median(&Program::Direct, Quantity::FirstPacket) > 1e-6);
    Ok(())
}

fn left_out() -> Outcome {
    let few = ["--modes", "nftables,direct", "--quantities", "coldStart", "--repeat", "1"];
    let late = ["--services", "10,20", "--time-limit", "1ms"];
    let results = results(&[&few[..], &late].concat());
    assert_eq!(results.measurements, []);
    let services: Vec<Option<u32>> = results.left_out.iter().map(|left| left.services).collect();
    assert_eq!(services, [Some(10), Some(20)], "{:?}", results.left_out);
    Ok(())
}

fn joined() -> Outcome {
    let folder = tempfile::tempdir()?;
    let paths = ["one.json", "two.json"].map(|name| folder.path().join(name).display().to_string());
    let few = ["--modes", "nftables", "--quantities", "coldStart", "--repeat", "1"];
    for (path, services) in paths.iter().zip(["10", "20"]) {
        let run = ["--services", services, "--json", path];
        assert!(bench(&[&few[..], &run].concat()).status.success());
    }
    let joined = results(&["--report-from", &paths.join(",")]);
    let services: Vec<u32> = joined.measurements.iter().map(|found| found.services).collect();
    assert_eq!(services, [10, 20]);
    Ok(())
}

fn a_fleet() -> Outcome {
    let few = ["--fleet", "5", "--outage", "2s", "--services", "20", "--json", "-"];
    let output = bench(&few);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let results: FleetResults = serde_json::from_slice(&output.stdout)?;
    assert_eq!(results.left_out, []);
    let phases = &results.fleets[0].phases;
    let of = |part| phases.iter().find(|phase| phase.part == part).unwrap();
    // Four watches of a node; two of them list 20 Services and their slices, and what is changed besides.
    assert!(of(Part::Start).answered() >= 20 && of(Part::Start).bytes() > 5 * 20 * 200);
    let changes = of(Part::Changes);
    assert_eq!((changes.changes, changes.answered()), (10, 0));
    assert!(changes.bytes() > 5 * 10 * 200, "{changes:?}");
    assert!(of(Part::Outage).unanswered() > 0 && of(Part::Outage).answered() == 0);
    let back = of(Part::Return);
    assert_eq!(back.answered(), 20, "each watch goes on, without a list");
    assert!(back.bytes() < of(Part::Start).bytes() / 10, "{back:?}");
    assert!(of(Part::Relist).bytes() > of(Part::Start).bytes() * 9 / 10);
    assert!(phases.iter().all(|phase| phase.server_seconds().is_some()));
    Ok(())
}

fn mistakes() -> Outcome {
    let table: [(&[&str], &str); 7] = [
        (&["--fleet", "0"], "a fleet of 0 nodes: there is room for 1 to"),
        (&["--fleet", "2", "--kubeconfig", "/nowhere"], "cannot read the kubeconfig /nowhere"),
        (&["--modes", "ebpf"], "there is no such mode; there are nftables,iptables"),
        (&["--quantities", "joy"], "it is not measured; there are busyChangeLatency,coldStart,"),
        (&["--services", "1"], "1 Services: there is room for 2 to"),
        (&["--against", "/nowhere"], "--against /nowhere: the program of the Go kube-proxy"),
        (&["--report-from", "/nowhere"], "read /nowhere"),
    ];
    for (arguments, words) in table {
        let output = bench(arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(words), "{arguments:?}: {said}");
    }
    Ok(())
}
