//! Existing connections during changes and shutdown.

use std::io::{ErrorKind, Read};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use sluice_cluster::api::Resource;
use sluice_cluster::{Answer, Probe};
use sluice_core::net::Family;

use super::support::daemon::program;
use super::support::{Outcome, eventually};
use super::world::{
    PATIENCE, Programs, World, connect, echo, exchange, exchange_udp, serve, serve_udp, udp_client,
    vip,
};

pub(crate) fn removed() -> Outcome {
    let world = World::new(program())?;
    let first = world.pod("web-1")?;
    serve(&first, echo);
    serve_udp(&first);
    let mut streams = Family::BOTH.map(|family| world.connect(family));
    streams.iter_mut().for_each(|stream| exchange(stream, b"hello"));
    let client = udp_client(&world.client, vip(Family::V4));
    exchange_udp(&client, b"hello");

    // Another endpoint in its place.
    let second = world.pod("web-2")?;
    serve_udp(&second);
    serve(&second, echo);
    world.cluster.retire_pod(&first)?;
    exchange_udp(&client, b"at another pod");
    streams.iter_mut().for_each(|stream| exchange(stream, b"still there"));

    world.cluster.api().delete(Resource::Services, "default", "web")?;
    // Its address does not exist.
    let silence = || {
        let probe = Probe::tcp(vip(Family::V4)).timeout(Duration::from_millis(200));
        (world.client.probe(&probe).ok()? == Answer::Silent).then_some(())
    };
    eventually("new connections do not come about", silence);
    streams.iter_mut().for_each(|stream| exchange(stream, b"still there"));
    Ok(())
}

pub(crate) fn reset_removed() -> Outcome {
    let world = World::new(&Programs::get().resetting)?;
    let first = world.pod("web-1")?;
    serve(&first, echo);
    let mut streams = Family::BOTH.map(|family| world.connect(family));
    streams.iter_mut().for_each(|stream| exchange(stream, b"hello"));
    let second = world.pod("web-2")?;
    serve(&second, echo);
    streams.iter_mut().for_each(|stream| exchange(stream, b"not concerned"));
    world.cluster.retire_pod(&first)?;
    for stream in &mut streams {
        let ended = stream.read(&mut [0; 1]).map_err(|error| error.kind());
        assert_eq!(ended, Err(ErrorKind::ConnectionReset));
    }
    exchange(&mut world.connect(Family::V4), b"at another pod");
    Ok(())
}

pub(crate) fn restart() -> Outcome {
    let world = World::new(program())?;
    let pod = world.pod("web-1")?;
    serve(&pod, echo);
    serve_udp(&pod);
    let mut stream = world.connect(Family::V4);
    exchange(&mut stream, b"hello");
    world.cluster.with_proxy("node-a", |proxy| proxy.crash().map(drop));
    assert!(matches!(stream.read(&mut [0; 1]), Ok(0) | Err(_)), "it ends with the daemon");
    for family in Family::BOTH {
        let answer = world.client.probe(&Probe::tcp(vip(family)))?;
        assert_eq!(answer, Answer::Refused, "nobody listens");
    }
    world.cluster.start_proxy("node-a")?;
    for family in Family::BOTH {
        exchange(&mut world.connect(family), b"hello again");
        exchange_udp(&udp_client(&world.client, vip(family)), b"hello again");
    }
    Ok(())
}

pub(crate) fn drain() -> Outcome {
    let world = World::new(&Programs::get().draining)?;
    let pod = world.pod("web-1")?;
    serve(&pod, echo);
    let mut stream = world.connect(Family::V4);
    exchange(&mut stream, b"hello");
    let pid = nix::unistd::Pid::from_raw(world.pid());
    kill(pid, Signal::SIGTERM)?;
    eventually("it waits", || (world.said("waiting for connections to end") > 0).then_some(()));
    let refused = || connect(&world.client, vip(Family::V4)).err().map(drop);
    eventually("new connections are refused", refused);
    exchange(&mut stream, b"still there");
    drop(stream);
    // As soon as the last one has ended, and not after the whole time.
    let wait =
        |proxy: &mut sluice_cluster::Proxy| proxy.wait_for_exit(PATIENCE - Duration::from_secs(2));
    let status = world.cluster.with_proxy("node-a", wait).ok_or("it ran")??;
    assert!(status.success(), "{status}");
    Ok(())
}
