//! Recorded and synthetic listings: which parts are kube-proxy's.

use super::chains::{Removal, Whose};
use super::legacy::{listing, script};
use sluice_kernel::xtables::Table;

const RECORDED: &str = include_str!("../../../integration/fixtures/kube-proxy/iptables.rules");

/// One table of a listing.
fn part(listing: &str, table: Table) -> &str {
    let begin = listing.find(&format!("*{table}\n")).expect("the table is there");
    let end = listing[begin..].find("COMMIT\n").expect("the table ends");
    &listing[begin..begin + end]
}

fn chains(removal: &Removal<String>) -> Vec<&str> {
    removal.chains.iter().map(|chain| &**chain).collect()
}

#[test]
fn of_a_recorded_node_all_of_kube_proxy_goes_and_nothing_of_others() {
    let expected: [(Table, &[&str], usize); 3] = [
        (
            Table::Filter,
            &[
                "KUBE-EXTERNAL-SERVICES",
                "KUBE-FORWARD",
                "KUBE-NODEPORTS",
                "KUBE-PROXY-CANARY",
                "KUBE-PROXY-FIREWALL",
                "KUBE-SERVICES",
            ],
            9,
        ),
        (
            Table::Nat,
            &[
                "KUBE-EXT-CDGGSHYLG3RE2FKL",
                "KUBE-EXT-JGSPBGKDBU23LUXF",
                "KUBE-FW-JGSPBGKDBU23LUXF",
                "KUBE-MARK-MASQ",
                "KUBE-NODEPORTS",
                "KUBE-POSTROUTING",
                "KUBE-PROXY-CANARY",
                "KUBE-SEP-7U6MWNJWR3SADOJA",
                "KUBE-SEP-NVRW7ME7GOI6SB2A",
                "KUBE-SEP-WAKSM63ZFLA73S45",
                "KUBE-SERVICES",
                "KUBE-SVC-CDGGSHYLG3RE2FKL",
                "KUBE-SVC-JGSPBGKDBU23LUXF",
                "KUBE-SVC-NPX46M4PTMTKRN6Y",
            ],
            3,
        ),
        (Table::Mangle, &["KUBE-PROXY-CANARY"], 0),
    ];
    for (table, expected, jumps) in expected {
        let removal = listing(part(RECORDED, table)).removal(Whose::EveryMode);
        assert_eq!(chains(&removal), expected, "{table}");
        assert_eq!(removal.rules.len(), jumps, "{table}: {:?}", removal.rules);
        assert!(removal.used.is_empty(), "{table}: {:?}", removal.used);
    }
}

#[test]
fn the_iptables_mode_keeps_its_chains_and_loses_those_of_ipvs() {
    for table in Table::ALL {
        let removal = listing(part(RECORDED, table)).removal(Whose::ForeignToIptables);
        assert!(removal.is_empty(), "{table}: {removal:?}");
    }
    let ipvs = ":INPUT ACCEPT [0:0]\n:KUBE-IPVS-FILTER - [0:0]\n:KUBE-NODE-PORT - [0:0]\n\
                :KUBE-SERVICES - [0:0]\n\
                -A INPUT -m comment --comment \"kubernetes ipvs access filter\" -j KUBE-IPVS-FILTER\n\
                -A INPUT -j KUBE-SERVICES\n-A INPUT -j KUBE-NODE-PORT\n";
    let removal = listing(ipvs).removal(Whose::ForeignToIptables);
    assert_eq!(chains(&removal), ["KUBE-IPVS-FILTER", "KUBE-NODE-PORT"]);
    assert_eq!(removal.rules.len(), 2);
}

#[test]
fn chains_of_others_are_not_kube_proxys_however_similar() {
    let names = [
        "KUBE-FIREWALL",
        "KUBE-KUBELET-CANARY",
        "KUBE-IPTABLES-HINT",
        "KUBE-MARK-DROP",
        "KUBE-ROUTER-INPUT",
        "KUBE-NWPLCY-ABC",
        "KUBE-POD-FW-ABC",
        "CNI-HOSTPORT-DNAT",
        "cali-PREROUTING",
    ];
    let text: String = names.iter().map(|name| format!(":{name} - [0:0]\n")).collect();
    assert_eq!(chains(&listing(&text).removal(Whose::EveryMode)), [] as [&str; 0]);
}

#[test]
fn a_chain_that_others_use_stays_without_its_way_to_what_goes() {
    let text = ":PREROUTING ACCEPT [0:0]\n:KUBE-SERVICES - [0:0]\n:KUBE-MARK-MASQ - [0:0]\n\
                :KUBE-SVC-A - [0:0]\n:MINE - [0:0]\n\
                -A PREROUTING -j KUBE-SERVICES\n-A MINE -g KUBE-SERVICES\n-A MINE -j KUBE-MARK-MASQ\n\
                -A KUBE-SERVICES -m comment --comment \"a -j MINE \\\" b\" -j KUBE-SVC-A\n\
                -A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000\n";
    let removal = listing(text).removal(Whose::EveryMode);
    assert_eq!(chains(&removal), ["KUBE-SVC-A"]);
    let used: Vec<&str> = removal.used.keys().map(|chain| &**chain).collect();
    assert_eq!(used, ["KUBE-MARK-MASQ", "KUBE-SERVICES"]);
    assert_eq!(
        script(Table::Nat, &removal),
        "*nat\n:KUBE-SVC-A - [0:0]\n-D PREROUTING -j KUBE-SERVICES\n\
         -D KUBE-SERVICES -m comment --comment \"a -j MINE \\\" b\" -j KUBE-SVC-A\n\
         -X KUBE-SVC-A\nCOMMIT\n"
    );
}

#[test]
fn what_was_removed_is_nothing_to_remove() {
    let rest: String = part(RECORDED, Table::Nat)
        .lines()
        .filter(|line| !line.contains("KUBE-S") && !line.contains("KUBE-E"))
        .filter(|line| !line.contains("KUBE-M") && !line.contains("KUBE-N"))
        .filter(|line| !line.contains("KUBE-P") && !line.contains("KUBE-FW"))
        .map(|line| format!("{line}\n"))
        .collect();
    assert!(listing(&rest).removal(Whose::EveryMode).is_empty());
}
