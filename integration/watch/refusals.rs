//! Requests to a server that refuses, or that was unreachable.

use std::time::Duration;

use sluice_kubernetes::watch::{ConnectionState, Resource, Update};
use tokio::time::{Instant, timeout};

use super::fake::{ALL, Asked, Fake, SERVICES};
use super::lists::{all_connected, asked, is_watch, one_of_each};
use super::{in_both_encodings, service, watch};

in_both_encodings! {
    a_server_is_not_asked_again_before_the_time_that_it_names,
    a_time_that_nobody_would_wait_for_is_not_waited_for,
    an_error_event_after_refusals_at_the_start_delays_no_change,
    an_outage_and_one_refusal_cost_no_list,
    a_proxy_that_refuses_for_long_causes_few_lists,
    a_version_that_leads_to_errors_is_given_up,
    where_no_watch_is_to_be_had_changes_come_by_lists,
    a_try_under_way_when_another_gets_through_is_the_last_that_waits,
}

/// The times of requests for a resource.
fn times(fake: &Fake, path: &str) -> Vec<Instant> {
    let world = fake.world();
    let all = world.requests.iter().zip(&world.times);
    all.filter(|(request, _)| request.contains(path)).map(|(_, at)| *at).collect()
}

fn lists(requests: &[String]) -> Vec<&String> {
    requests.iter().filter(|r| !is_watch(r)).collect()
}

async fn a_server_is_not_asked_again_before_the_time_that_it_names() {
    for code in [429, 503, 500] {
        for asked_for in [Asked::All, Asked::Pages, Asked::Watches] {
            let fake = one_of_each();
            if asked_for == Asked::Pages {
                fake.refuse(Asked::Streamed, 422, None, usize::MAX);
            }
            fake.refuse(asked_for, code, Some(3), usize::MAX);
            // One that gets through must not rouse the others before their time.
            fake.world().refusals.retain(|refusal| refusal.path != ALL[2]);
            let mut watching = watch(&fake);
            if asked_for == Asked::Watches {
                all_connected(&mut watching).await;
                fake.close();
            }
            watching.all_within(Duration::from_secs(4)).await;
            fake.close();
            watching.all_within(Duration::from_secs(26)).await;
            for path in [ALL[0], ALL[1], ALL[3]] {
                let times = times(&fake, path);
                // A refusal of streaming as such leads to a page at once, and a list to a watch.
                let free = if asked_for == Asked::All { 0 } else { 2 };
                let close = times.windows(2).filter(|w| w[1] - w[0] < Duration::from_secs(3));
                let close = close.count();
                assert!(close <= free, "{code} {asked_for:?} {path}: {times:#?}");
                assert!(times.len() > 3, "{code} {asked_for:?} {path}: {times:#?}");
            }
        }
    }
}

async fn a_time_that_nobody_would_wait_for_is_not_waited_for() {
    let fake = one_of_each();
    fake.refuse(Asked::All, 429, Some(1_000_000_000), 1);
    let mut watching = watch(&fake);
    let connected = timeout(Duration::from_secs(120), all_connected(&mut watching));
    assert!(connected.await.is_ok());
}

async fn an_error_event_after_refusals_at_the_start_delays_no_change() {
    for outage in [false, true] {
        let fake = one_of_each();
        if outage {
            fake.world().down = true;
        } else {
            fake.refuse(Asked::All, 500, None, 12);
        }
        let mut watching = watch(&fake);
        watching.all_within(Duration::from_secs(60)).await;
        fake.world().down = false;
        watching.all_within(Duration::from_secs(60)).await;
        fake.err(500);
        fake.put(SERVICES, service("b", "10.0.0.2"));
        let began = Instant::now();
        watching.service_change().await;
        assert!(began.elapsed() < Duration::from_secs(1), "{outage}: {:?}", began.elapsed());
    }
}

async fn an_outage_and_one_refusal_cost_no_list() {
    for code in [401, 403, 429, 500, 502, 503, 504] {
        let fake = one_of_each();
        let mut watching = watch(&fake);
        all_connected(&mut watching).await;
        watching.all_within(Duration::from_secs(5)).await;
        fake.world().down = true;
        fake.cut();
        watching.all_within(Duration::from_secs(120)).await;
        asked(&fake);
        fake.refuse(Asked::All, code, None, 1);
        fake.world().down = false;
        watching.all_within(Duration::from_secs(120)).await;
        let requests = asked(&fake);
        assert_eq!(lists(&requests), [""; 0], "{code}");
        fake.put(SERVICES, service("b", "10.0.0.2"));
        watching.service_change().await;
    }
}

async fn a_proxy_that_refuses_for_long_causes_few_lists() {
    for (code, retry_after) in [(502, None), (503, None), (503, Some(1)), (429, None)] {
        let fake = one_of_each();
        let mut watching = watch(&fake);
        all_connected(&mut watching).await;
        watching.all_within(Duration::from_secs(5)).await;
        asked(&fake);
        fake.refuse(Asked::All, code, retry_after, usize::MAX);
        fake.close();
        watching.all_within(Duration::from_secs(1200)).await;
        let requests = asked(&fake);
        let (lists, tries) = (lists(&requests).len(), requests.len());
        // A node whose next try is a list when the server is back makes it list for one more node.
        assert!(tries > 4 * 25 && lists * 4 < tries, "{code}: {lists} lists of {tries}");
        if code == 429 {
            assert_eq!(lists, 0, "a busy server must not be asked for more");
        }
    }
}

async fn a_version_that_leads_to_errors_is_given_up() {
    let fake = one_of_each();
    let mut watching = watch(&fake);
    all_connected(&mut watching).await;
    fake.put(SERVICES, service("b", "10.0.0.2"));
    watching.service_change().await;
    fake.delete(SERVICES, "default/b");
    watching.service_change().await;
    watching.all_within(Duration::from_secs(5)).await;
    let poisoned = fake.move_on();
    fake.world().poisoned = poisoned;
    fake.cut();
    let list = timeout(Duration::from_secs(60), watching.services()).await;
    assert_eq!(list.expect("a list comes"), ["a"]);
}

async fn where_no_watch_is_to_be_had_changes_come_by_lists() {
    let fake = one_of_each();
    fake.refuse(Asked::Streamed, 403, None, usize::MAX);
    fake.refuse(Asked::Watches, 403, None, usize::MAX);
    let mut watching = watch(&fake);
    assert_eq!(watching.services().await, ["a"]);
    let mut told = watching.all_within(Duration::from_secs(600)).await;
    fake.put(SERVICES, service("b", "10.0.0.2"));
    let list = timeout(Duration::from_secs(600), watching.services()).await;
    assert_eq!(list.expect("a list comes"), ["a", "b"]);
    told.extend(watching.all_within(Duration::from_secs(600)).await);
    let lost = told.iter().filter(|update| {
        matches!(
            update,
            Update::Connection { resource: Resource::Services, state: ConnectionState::Lost(_) }
        )
    });
    assert_eq!(lost.count(), 1, "{told:#?}");
}

async fn a_try_under_way_when_another_gets_through_is_the_last_that_waits() {
    for _ in 0..20 {
        let fake = one_of_each();
        let mut watching = watch(&fake);
        all_connected(&mut watching).await;
        watching.all_within(Duration::from_secs(5)).await;
        {
            let mut world = fake.world();
            world.down = true;
            world.down_after = Duration::from_secs(9);
        }
        fake.cut();
        watching.all_within(Duration::from_secs(300)).await;
        fake.world().down = false;
        let mut back = Vec::new();
        while back.len() < Resource::ALL.len() {
            if watching.next_connection().await.1 == ConnectionState::Connected {
                back.push(Instant::now());
            }
        }
        let apart = back[back.len() - 1] - back[0];
        assert!(apart < Duration::from_secs(11), "they came back within {apart:?}");
    }
}
