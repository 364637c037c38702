//! When session affinity ends, which no single packet shows: clients that come back in time stay where
//! they are, those that come back late are spread anew.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use libtest_mimic::Failed;
use sluice::lab::{Host, Probe};
use sluice::net::Family;

use super::case::Settings;
use super::parse;
use super::plan;
use super::stage::Stage;

/// Clients, each with an address of its own: that all of them draw the same one of four endpoints again
/// happens less than once in a million million runs.
const CLIENTS: u8 = 20;

/// How long a client is remembered.
const TIMEOUT: Duration = Duration::from_secs(2);

/// A Service with that affinity.
const CASE: &str = "spec: S-19

service web: ClusterIP 10.96.0.10 affinity=2
  80/tcp

slice web-1 of web: 8080/tcp
  a1
  a2
  b1
  b2

packets:
  pod -> 10.96.0.10:80   a1 a2 b1 b2
";

/// Visits three times: within the timeout, again within it, and after it.
pub(crate) fn run(stage: &mut Stage, family: Family) -> Result<(), Failed> {
    let case = parse::parse("affinity-timeout", CASE)?;
    let world = case.steps.iter().fold(super::case::World::default(), |w, step| w.after(step));
    stage.configure(&Settings::default())?;
    stage.write(&world, family)?;
    stage.settle()?;
    let client = stage.host("client").ok_or("no client")?;
    let mut since = Instant::now();
    let mut first = visit(&client, family)?;
    let mut in_time = 0;
    for _ in 0..12 {
        // Each visit begins the time anew: together they take longer than it.
        std::thread::sleep(Duration::from_millis(900));
        let (before, again) = (since, Instant::now());
        let found = visit(&client, family)?;
        since = again;
        // On a machine under load, it may have taken so long that it says nothing.
        let late = before.elapsed() >= TIMEOUT;
        if found != first && !late {
            return Err("clients that came back in time were sent elsewhere".into());
        }
        first = found;
        in_time = if late { 0 } else { in_time + 1 };
        if in_time == 3 {
            break;
        }
    }
    if in_time < 3 {
        return Err("this machine is too slow to come back in time".into());
    }
    std::thread::sleep(Duration::from_millis(2600));
    if visit(&client, family)? == first {
        return Err("clients that came back late were all sent to where they had been".into());
    }
    Ok(())
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
