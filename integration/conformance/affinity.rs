//! When session affinity ends, which no single packet shows: clients that come back in time stay where
//! they are, those that come back late are spread anew.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use libtest_mimic::Failed;
use sluice_cluster::{Host, Probe};
use sluice_core::net::Family;

use super::case::Settings;
use super::parse;
use super::plan;
use super::stage::Stage;

/// Clients, each with an address of its own: that all of them draw the same one of four endpoints again
/// happens less than once in a million million runs.
const CLIENTS: u8 = 20;

/// Affinities to try, in seconds: where connections take so long that an affinity ends meanwhile, a
/// longer one is looked at.
const TIMEOUTS: [u32; 3] = [2, 8, 30];

/// A Service with an affinity of TIMEOUT seconds.
const CASE: &str = "spec: S-19

service web: ClusterIP 10.96.0.10 affinity=TIMEOUT
  80/tcp

slice web-1 of web: 8080/tcp
  a1
  a2
  b1
  b2

packets:
  pod -> 10.96.0.10:80   a1 a2 b1 b2
";

/// Whether there was something to judge.
#[derive(Debug, PartialEq, Eq)]
enum Judged {
    Yes,
    TooSlow,
}

/// Plays with the shortest affinity that this machine is fast enough for.
pub(crate) fn run(stage: &mut Stage, family: Family) -> Result<(), Failed> {
    for timeout in TIMEOUTS {
        if play(stage, family, timeout)? == Judged::Yes {
            return Ok(());
        }
    }
    Err(format!("20 connections take more than {TIMEOUTS:?} s").into())
}

/// Visits three times: within the timeout, again within it, and after it.
fn play(stage: &mut Stage, family: Family, timeout: u32) -> Result<Judged, Failed> {
    let case = parse::parse("affinity-timeout", &CASE.replace("TIMEOUT", &timeout.to_string()))?;
    let world = case.steps.iter().fold(super::case::World::default(), |w, step| w.after(step));
    stage.configure(&Settings::default())?;
    stage.write(&world, family)?;
    stage.settle()?;
    let timeout = Duration::from_secs(timeout.into());
    let client = stage.host("client").ok_or("no client")?;
    let (mut before, first) = (Instant::now(), visit(&client, family)?);
    for _ in 0..3 {
        // Each connection restarts the timeout: together they take longer than it.
        std::thread::sleep(timeout.mul_f64(0.45));
        let (began, seen) = (Instant::now(), visit(&client, family)?);
        if before.elapsed() >= timeout {
            return Ok(Judged::TooSlow);
        }
        if seen != first {
            return Err("clients that came back in time were sent elsewhere".into());
        }
        before = began;
    }
    std::thread::sleep(timeout + Duration::from_millis(600));
    if visit(&client, family)? == first {
        return Err("clients that came back late were all sent to where they had been".into());
    }
    Ok(Judged::Yes)
}

/// One connection of each client: the pods that answered.
fn visit(client: &Host, family: Family) -> Result<Vec<String>, Failed> {
    let to = SocketAddr::new(plan::twin([10, 96, 0, 10].into(), family), 80);
    let visit = |number: u8| {
        let source = plan::twin([203, 0, 113, number].into(), family);
        let answer = client.probe(&Probe::tcp(to).from_ip(source))?;
        Ok(answer.by().ok_or_else(|| format!("{source}: {answer}"))?.to_owned())
    };
    (1..=CLIENTS).map(visit).collect()
}
