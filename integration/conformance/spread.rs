//! Whether every endpoint gets its share: Pearson's chi-square test over a fixed number of
//! connections.

use libtest_mimic::Failed;
use sluice_cluster::Probe;
use sluice_core::net::Family;
use std::net::SocketAddr;

use super::case::{Endpoint, Port, Service, Settings, Slice, Step, World, Write};
use super::plan;
use super::stage::Stage;

type Outcome = Result<(), Failed>;

/// Sizes of pools: one, powers of two, and others, which a draw of bits must not favour.
pub(crate) const SIZES: [usize; 6] = [1, 2, 3, 5, 8, 9];

/// Connections of one test.
const CONNECTIONS: usize = 1500;

/// The values that chi-square exceeds with a probability of 1e-8, by degrees of freedom; all tests
/// together (five sizes, two families, six modes) then fail for no reason less than once in a million runs.
const BOUNDS: [(usize, f64); 5] = [(1, 32.84), (2, 36.84), (4, 43.07), (7, 50.81), (8, 53.17)];

/// Makes the connections and compares the counts with equal shares.
pub(crate) fn run(stage: &mut Stage, family: Family, size: usize) -> Outcome {
    let world = world(size);
    stage.configure(&Settings::default())?;
    stage.write(&world, family)?;
    stage.settle()?;
    let from = stage.host("pod").ok_or("no pod")?;
    let to = SocketAddr::new(plan::twin([10, 96, 0, 10].into(), family), 80);
    let tally = from.spread(&Probe::tcp(to), CONNECTIONS)?;
    stage.write(&World::default(), family)?;
    stage.settle()?;
    if tally.failures() > 0 || tally.answered.len() != size {
        return Err(format!("{size} endpoints: {tally:?}").into());
    }
    let counts: Vec<f64> =
        tally.answered.values().map(|n| u32::try_from(*n).map_or(f64::MAX, f64::from)).collect();
    let share = counts.iter().sum::<f64>() / u32::try_from(size).map_or(1.0, f64::from);
    let chi_square: f64 = counts.iter().map(|n| (n - share) * (n - share) / share).sum();
    let bound = BOUNDS.iter().find(|(freedom, _)| freedom + 1 == size);
    match bound {
        Some((_, bound)) if chi_square > *bound => {
            Err(format!("chi-square {chi_square:.1} exceeds {bound}: {:?}", tally.answered).into())
        }
        _ => Ok(()),
    }
}

/// A Service with so many endpoints, on both nodes.
fn world(size: usize) -> World {
    let pods = ["b1", "a1", "b2", "a2", "b3", "a3", "b4", "a4", "b5"];
    let endpoint = |pod: &&str| Endpoint {
        at: (*pod).to_owned(),
        node: plan::node_of(pod),
        conditions: [("ready".to_owned(), true)].into(),
        ..Endpoint::default()
    };
    let tcp = sluice_core::net::Protocol::Tcp;
    let service = Service {
        name: "web".to_owned(),
        kind: "ClusterIP".to_owned(),
        cluster_ip: Some([10, 96, 0, 10].into()),
        ports: vec![Port { name: String::new(), number: 80, protocol: tcp, node_port: None }],
        ..Service::default()
    };
    let slice = Slice {
        name: "web-1".to_owned(),
        service: "web".to_owned(),
        ports: vec![(String::new(), Some(8080), tcp)],
        endpoints: pods.iter().take(size).map(endpoint).collect(),
        ..Slice::default()
    };
    let writes = vec![Write::Service(service), Write::Slice(slice)];
    World::default().after(&Step { writes, ..Step::default() })
}
