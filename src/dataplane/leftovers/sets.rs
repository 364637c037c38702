//! The ipsets of the Go kube-proxy's IPVS mode.

/// Their names in IPv4 (upstream: `pkg/proxy/ipvs/ipset.go`). Others have sets that begin with `KUBE-`
/// too, such as those of kube-router.
const NAMES: [&str; 17] = [
    "KUBE-LOOP-BACK",
    "KUBE-CLUSTER-IP",
    "KUBE-EXTERNAL-IP",
    "KUBE-EXTERNAL-IP-LOCAL",
    "KUBE-LOAD-BALANCER",
    "KUBE-LOAD-BALANCER-LOCAL",
    "KUBE-LOAD-BALANCER-FW",
    "KUBE-LOAD-BALANCER-SOURCE-IP",
    "KUBE-LOAD-BALANCER-SOURCE-CIDR",
    "KUBE-NODE-PORT-TCP",
    "KUBE-NODE-PORT-LOCAL-TCP",
    "KUBE-NODE-PORT-UDP",
    "KUBE-NODE-PORT-LOCAL-UDP",
    "KUBE-NODE-PORT-SCTP-HASH",
    "KUBE-NODE-PORT-LOCAL-SCTP-HASH",
    "KUBE-HEALTH-CHECK-NODE-PORT",
    "KUBE-IPVS-IPS",
];

/// The longest name, in bytes (`IPSET_MAXNAMELEN`, which counts a zero at the end).
const LONGEST: usize = 31;

/// All of them, for both families; upstream cuts those of IPv6 that are too long.
pub(super) fn names() -> Vec<String> {
    let ipv6 = |name: &str| {
        let mut name = name.replacen("KUBE-", "KUBE-6-", 1);
        name.truncate(LONGEST);
        name
    };
    NAMES.iter().flat_map(|name| [(*name).to_owned(), ipv6(name)]).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn names_of_ipv6_are_cut_where_ipset_would_refuse_them() {
        let names = super::names();
        assert_eq!(names.len(), 34);
        assert!(names.iter().all(|name| name.len() <= 31));
        assert!(names.contains(&"KUBE-6-LOAD-BALANCER-SOURCE-CID".to_owned()));
        assert!(names.contains(&"KUBE-6-CLUSTER-IP".to_owned()));
    }
}
