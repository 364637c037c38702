//! Many nodes on one API server: none acts in step with the others.

use std::time::Duration;

use sluice_kubernetes::watch::{ConnectionState, Resource};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::fake::{ALL, Asked, Fake, SERVICES};
use super::lists::{all_connected, asked, is_watch, one_of_each};
use super::{Watching, in_both_encodings, service, watch};

in_both_encodings! {
    after_an_outage_a_fleet_comes_back_in_a_minute_and_not_in_a_second,
    lists_in_place_of_a_forgotten_version_are_spread,
    a_watch_that_breaks_alone_is_back_within_a_second,
}

/// Nodes. Of so many, a second can have more than a twentieth by chance; `Outage` has the test with 5,000.
const NODES: usize = 400;

/// Nodes that are connected and whose updates are received.
async fn fleet(fake: &Fake) -> JoinSet<()> {
    let mut nodes = JoinSet::new();
    for _ in 0..NODES {
        let Watching { mut updates, tasks, .. } = watch(fake);
        nodes.spawn(async move {
            while updates.recv().await.is_some() {}
            drop(tasks);
        });
    }
    sleep(Duration::from_secs(30)).await;
    forget(fake);
    nodes
}

fn forget(fake: &Fake) {
    asked(fake);
    fake.world().times.clear();
}

/// The greatest number of requests in one second, and that of all.
fn busiest(times: &[Instant], since: Instant) -> (usize, usize) {
    let mut by_second = [0; 600];
    for at in times {
        by_second[usize::try_from((*at - since).as_secs()).expect("it is small")] += 1;
    }
    (by_second.into_iter().max().unwrap_or_default(), times.len())
}

async fn after_an_outage_a_fleet_comes_back_in_a_minute_and_not_in_a_second() {
    for refused in [None, Some(503)] {
        let fake = one_of_each();
        let nodes = fleet(&fake).await;
        match refused {
            None => fake.world().down = true,
            Some(code) => fake.refuse(Asked::All, code, None, usize::MAX),
        }
        fake.cut();
        sleep(Duration::from_secs(60)).await;
        fake.world().down = false;
        fake.world().refusals.clear();
        forget(&fake);
        let back = Instant::now();
        sleep(Duration::from_secs(70)).await;
        let (most, all) = busiest(&fake.world().times, back);
        assert!(all >= NODES * ALL.len(), "{refused:?}: {all} requests");
        assert!(most * 100 < all * 8, "{refused:?}: {most} of {all} requests in a second");
        let lists = asked(&fake).iter().filter(|request| !is_watch(request)).count();
        // A refusal may be one of the version. A server that cannot be reached says nothing of it.
        let least = if refused.is_some() { all / 3 } else { 0 };
        assert!(lists <= least, "{refused:?}: {lists} lists in {all} requests");
        drop(nodes);
    }
}

async fn lists_in_place_of_a_forgotten_version_are_spread() {
    let fake = one_of_each();
    let nodes = fleet(&fake).await;
    fake.compact();
    // As the server does that has to fill its watch cache anew.
    fake.close();
    let begun = Instant::now();
    sleep(Duration::from_secs(60)).await;
    let world = fake.world();
    let lists = world.requests.iter().zip(&world.times).filter(|(request, _)| !is_watch(request));
    let lists: Vec<Instant> = lists.map(|(_, at)| *at).collect();
    let (most, all) = busiest(&lists, begun);
    assert_eq!(all, NODES * ALL.len(), "each once");
    assert!(most * 100 < all * 15, "{most} of {all} lists in a second");
    drop((world, nodes));
}

async fn a_watch_that_breaks_alone_is_back_within_a_second() {
    let fake = one_of_each();
    let mut watching: Watching = watch(&fake);
    all_connected(&mut watching).await;
    watching.all_within(Duration::from_secs(5)).await;
    for name in ["b", "c", "d"] {
        fake.cut_one(SERVICES);
        let broken = Instant::now();
        fake.put(SERVICES, service(name, "10.0.0.2"));
        watching.service_change().await;
        assert!(broken.elapsed() < Duration::from_secs(1), "{:?}", broken.elapsed());
        let quiet = watching.all_within(Duration::from_secs(5)).await;
        assert_eq!(quiet, [], "nobody is told");
    }
    fake.world().refused.insert(SERVICES, 403);
    fake.cut_one(SERVICES);
    let (of, state) = watching.next_connection().await;
    assert!(
        of == Resource::Services && matches!(state, ConnectionState::Lost(_)),
        "{of} {state:?}"
    );
}
