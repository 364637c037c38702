//! Datagrams through a relay.

use std::io::ErrorKind;

use sluice_core::net::Family;

use super::support::daemon::program;
use super::support::{Outcome, eventually};
use super::world::{FEW_FILES, Programs, World, exchange_udp, serve_udp, udp_client, vip};

pub(crate) fn sizes() -> Outcome {
    let world = World::new(program())?;
    let pod = world.pod("web-1")?;
    serve_udp(&pod);
    for family in Family::BOTH {
        let client = udp_client(&world.client, vip(family));
        exchange_udp(&client, b"first");
        // 65507 is the longest that IPv4 can say.
        for length in [0, 1, 512, 1472, 1473, 9000, 32_768, 65_507] {
            let bytes: Vec<u8> = (0..length).map(|n: u32| n.to_le_bytes()[0]).collect();
            exchange_udp(&client, &bytes);
        }
        let another = udp_client(&world.client, vip(family));
        exchange_udp(&another, b"another client");
    }
    Ok(())
}

pub(crate) fn refused() -> Outcome {
    let world = World::new(program())?;
    let pod = world.pod("web-1")?;
    for family in Family::BOTH {
        let client = udp_client(&world.client, vip(family));
        let heard = || {
            client.send(b"anybody?").ok()?;
            let ended = client.recv(&mut [0; 16]).map_err(|error| error.kind());
            (ended == Err(ErrorKind::ConnectionRefused)).then_some(())
        };
        eventually("the pod's refusal arrives", heard);
    }
    serve_udp(&pod);
    for family in Family::BOTH {
        exchange_udp(&udp_client(&world.client, vip(family)), b"now there is somebody");
    }
    Ok(())
}

pub(crate) fn flood() -> Outcome {
    const CLIENTS: usize = 3000;
    let world = World::new(&Programs::get().few_files)?;
    let pod = world.pod("web-1")?;
    serve_udp(&pod);
    let steady = udp_client(&world.client, vip(Family::V4));
    exchange_udp(&steady, b"before");
    for n in 0..CLIENTS {
        udp_client(&world.client, vip(Family::V4)).send(b"x")?;
        if n % 50 == 0 {
            exchange_udp(&steady, b"in the flood");
        }
        assert!(world.open_files() < FEW_FILES, "after {n} clients");
    }
    assert_eq!(world.said("as many UDP clients as there may be"), 1);
    let most = FEW_FILES / 4;
    assert!(world.open_files() < most + 100, "{} files are open", world.open_files());
    exchange_udp(&udp_client(&world.client, vip(Family::V6)), b"after the flood");
    Ok(())
}
