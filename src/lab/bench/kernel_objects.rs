//! How much a proxy has put into the kernel: rules, elements of sets, virtual services and their
//! destinations.

use std::io;

use super::world::{Error, Stage};
use sluice_cluster::Host;
use sluice_core::net::Family;
use sluice_kernel::ipvs::{Ipvs, IpvsError};
use sluice_kernel::nft::Nft;
use sluice_kernel::xtables::{Table, legacy_programs, legacy_tables};

/// Counts the objects in a node's namespace, all of which are the proxy's.
pub(super) fn count(stage: &Stage) -> Result<u64, Error> {
    let counted = stage.node.namespace().run(|| Ok(nf_tables()? + legacy()? + ipvs()?))?;
    Ok(counted.map_err(Error::Accounts)? + ipset(&stage.node))
}

/// Rules and elements, those of `iptables-nft` included.
fn nf_tables() -> io::Result<u64> {
    let mut nft = Nft::open().map_err(io::Error::other)?;
    let mut sum = 0;
    for family in Family::BOTH {
        let count = nft.count_objects(family).map_err(io::Error::other)?;
        sum += count.rules + count.elements;
    }
    Ok(sum)
}

/// Rules of `iptables-legacy`, where it is in use.
fn legacy() -> io::Result<u64> {
    let mut sum = 0;
    for family in Family::BOTH {
        let Some(programs) = legacy_programs(family) else { continue };
        let known = legacy_tables(family);
        for table in Table::ALL.into_iter().filter(|table| known.contains(table)) {
            let text = programs.save(table).map_err(io::Error::other)?;
            sum += lines(&text, "-A ");
        }
    }
    Ok(sum)
}

fn ipvs() -> io::Result<u64> {
    let mut ipvs = match Ipvs::open() {
        Err(IpvsError::Unsupported) => return Ok(0),
        other => other.map_err(io::Error::other)?,
    };
    let services = ipvs.services().map_err(io::Error::other)?;
    let mut sum = services.len() as u64;
    for service in services {
        sum += ipvs.destinations(&service.key).map_err(io::Error::other)?.len() as u64;
    }
    Ok(sum)
}

/// Entries of ipset, which the Go kube-proxy fills by its program: without that there are none.
fn ipset(node: &Host) -> u64 {
    let Ok(mut command) = node.command("ipset") else { return 0 };
    let Ok(output) = command.arg("save").output() else { return 0 };
    lines(&String::from_utf8_lossy(&output.stdout), "add ")
}

fn lines(text: &str, start: &str) -> u64 {
    text.lines().filter(|line| line.starts_with(start)).count() as u64
}
