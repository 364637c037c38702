//! The choice of endpoints, without sockets and without a clock.

use super::*;

fn endpoint(last: u8) -> SocketAddr {
    SocketAddr::new(IpAddr::from([10, 244, 1, last]), 8080)
}

fn client(last: u8) -> IpAddr {
    IpAddr::from([203, 0, 113, last])
}

fn choice(pool: &[u8], affinity: Option<u32>) -> Choice {
    let mut choice = Choice::default();
    choice.update(pool.iter().copied().map(endpoint).collect(), affinity);
    choice
}

#[test]
fn every_draw_is_an_endpoint() {
    let mut choice = choice(&[1, 2, 3], None);
    let now = Instant::now();
    for n in 0..3 {
        let drawn = choice.pick(client(1), now, &[], |below| {
            assert_eq!(below, 3);
            n
        });
        assert_eq!(drawn, Some(endpoint(u8::try_from(n + 1).expect("small"))));
    }
    assert_eq!(Choice::default().pick(client(1), now, &[], |_| 0), None, "there is none");
}

#[test]
fn what_was_tried_comes_last() {
    let mut choice = choice(&[1, 2, 3], None);
    let now = Instant::now();
    let tried = [endpoint(1), endpoint(3)];
    let drawn = choice.pick(client(1), now, &tried, |below| below - 1);
    assert_eq!(drawn, Some(endpoint(2)));
    let all = [endpoint(1), endpoint(2), endpoint(3)];
    assert_eq!(choice.pick(client(1), now, &all, |below| below - 1), Some(endpoint(3)));
}

#[test]
fn a_client_stays_until_it_has_been_away_for_the_timeout() {
    let mut choice = choice(&[1, 2], Some(10));
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    assert_eq!(choice.pick(client(1), at(0), &[], |_| 1), Some(endpoint(2)));
    assert_eq!(choice.pick(client(1), at(9), &[], |_| 0), Some(endpoint(2)), "remembered");
    assert_eq!(
        choice.pick(client(1), at(18), &[], |_| 0),
        Some(endpoint(2)),
        "the time began anew"
    );
    assert_eq!(choice.pick(client(1), at(28), &[], |_| 0), Some(endpoint(1)), "forgotten");
    assert_eq!(choice.pick(client(2), at(28), &[], |_| 1), Some(endpoint(2)), "another client");
}

#[test]
fn an_endpoint_that_leaves_or_does_not_answer_is_forgotten() {
    let mut choice = choice(&[1, 2], Some(10));
    let now = Instant::now();
    assert_eq!(choice.pick(client(1), now, &[], |_| 1), Some(endpoint(2)));
    choice.update(vec![endpoint(1)], Some(10));
    choice.update(vec![endpoint(1), endpoint(2)], Some(10));
    assert_eq!(choice.pick(client(1), now, &[], |_| 0), Some(endpoint(1)), "2 came back");
    assert_eq!(
        choice.pick(client(1), now, &[endpoint(1)], |_| 0),
        Some(endpoint(2)),
        "1 is silent"
    );
    assert_eq!(
        choice.pick(client(1), now, &[], |_| 0),
        Some(endpoint(2)),
        "the other is remembered"
    );
}

#[test]
fn affinity_that_is_switched_off_is_forgotten() {
    let mut choice = choice(&[1, 2], Some(10));
    let now = Instant::now();
    assert_eq!(choice.pick(client(1), now, &[], |_| 1), Some(endpoint(2)));
    choice.update(vec![endpoint(1), endpoint(2)], None);
    assert_eq!(choice.pick(client(1), now, &[], |_| 0), Some(endpoint(1)));
    choice.update(vec![endpoint(1), endpoint(2)], Some(10));
    assert_eq!(choice.pick(client(1), now, &[], |_| 1), Some(endpoint(2)));
}

#[test]
fn clients_that_expired_are_swept_out() {
    let mut choice = choice(&[1], Some(1));
    let start = Instant::now();
    for n in 0..20_000_u32 {
        let now = start + Duration::from_millis(u64::from(n));
        let client = IpAddr::from(n.to_be_bytes());
        choice.pick(client, now, &[], |_| 0);
    }
    let memory = choice.memory.expect("there is affinity");
    assert!(memory.clients.len() < 3 * 1024, "{} clients", memory.clients.len());
}
