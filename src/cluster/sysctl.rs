//! The sysctls of the lab's namespaces, and why each is needed.

use std::fs;
use std::io;

/// Why a sysctl could not be written.
#[derive(Debug, thiserror::Error)]
#[error("set {path} to {value}: {source}; is /proc/sys writable here?")]
pub struct Error {
    path: String,
    value: &'static str,
    source: io::Error,
}

/// In every namespace, before it gets links: new links inherit `default`.
pub(super) const EVERYWHERE: &[(&str, &str)] = &[
    // Some machines disable IPv6 for new links.
    ("ipv6/conf/all/disable_ipv6", "0"),
    ("ipv6/conf/default/disable_ipv6", "0"),
    // Duplicate address detection would make every address unusable for a second.
    ("ipv6/conf/all/accept_dad", "0"),
    ("ipv6/conf/default/accept_dad", "0"),
    // There are no router advertisements, so none are solicited.
    ("ipv6/conf/default/accept_ra", "0"),
    ("ipv6/conf/default/router_solicitations", "0"),
    // After a redirect, later packets would not follow the topology.
    ("ipv4/conf/all/accept_redirects", "0"),
    ("ipv4/conf/default/accept_redirects", "0"),
    ("ipv6/conf/default/accept_redirects", "0"),
    // Replies may take another path than requests.
    ("ipv4/conf/all/rp_filter", "0"),
    ("ipv4/conf/default/rp_filter", "0"),
    // Neighbour discovery needs a link-local address.
    ("ipv6/conf/default/addr_gen_mode", "0"),
    // Each rejected probe must get its error: no rate limit on ICMP errors.
    ("ipv4/icmp_ratemask", "0"),
    ("ipv6/icmp/ratelimit", "0"),
];

/// In every namespace, if the kernel has it per namespace; otherwise it belongs to the machine and is not changed.
pub(super) const EVERYWHERE_IF_THERE: &[(&str, &str)] = &[
    // The limit on ICMP errors of all destinations together, which IPv6 shares (since Linux 6.13).
    ("ipv4/icmp_msgs_per_sec", "1000000"),
    ("ipv4/icmp_msgs_burst", "1000000"),
    // Bridged traffic passes no rules.
    ("bridge/bridge-nf-call-iptables", "0"),
    ("bridge/bridge-nf-call-ip6tables", "0"),
];

/// On nodes, which are routers.
pub(super) const NODE: &[(&str, &str)] = &[
    ("ipv4/ip_forward", "1"),
    ("ipv6/conf/all/forwarding", "1"),
    ("ipv6/conf/default/forwarding", "1"),
    // The client reaches other nodes' pods through node-a over one wire: no redirect for that.
    ("ipv4/conf/all/send_redirects", "0"),
    ("ipv4/conf/default/send_redirects", "0"),
];

/// Writes settings of the calling thread's network namespace.
pub(super) fn write(settings: &[(&str, &'static str)]) -> Result<(), Error> {
    for &(name, value) in settings {
        let path = format!("/proc/sys/net/{name}");
        fs::write(&path, value).map_err(|source| Error { path, value, source })?;
    }
    Ok(())
}

/// Like [`write()`], but skips missing sysctls.
pub(super) fn write_if_there(settings: &[(&str, &'static str)]) -> Result<(), Error> {
    for &(name, value) in settings {
        let written = write(&[(name, value)]);
        match written {
            Err(error) if error.source.kind() == io::ErrorKind::NotFound => {}
            other => other?,
        }
    }
    Ok(())
}
