//! What the kernel has, in a form in which two histories with the same end look the same.

use std::collections::{BTreeMap, BTreeSet};

/// `nft`'s list with sorted elements: without what clients left in it, without sentinels, and with the
/// endpoints of a frontend as a set (which slot one is in depends on the order in which they came).
pub(crate) fn normalized(ruleset: &str) -> Result<String, String> {
    let mut out = String::new();
    let mut rest = ruleset;
    while let Some((before, after)) = rest.split_once("elements = {") {
        let (list, after) = after.split_once('}').ok_or("elements do not end")?;
        out.push_str(before);
        // The block's name and flags stand before its elements.
        let block = before.rsplit("\n\t}").next().unwrap_or(before);
        let elements: Vec<&str> =
            list.split(',').map(str::trim).filter(|element| !is_sentinel(element)).collect();
        let name = block.split_whitespace().nth(1).unwrap_or_default();
        if block.contains("dynamic") {
            // What clients left is no history of the API's.
        } else if name.ends_with("-endpoints") {
            out.push_str(&slots(name, &elements)?);
        } else {
            let mut sorted = elements;
            sorted.sort_unstable();
            out.push_str(&sorted.join("\n\t\t\t"));
        }
        rest = after;
    }
    out.push_str(rest);
    // A set that had only what was left out shows like an empty one.
    let lines = out.lines().map(str::trim_end).filter(|line| !line.trim().is_empty());
    let text = lines.collect::<Vec<_>>().join("\n");
    // `nft` lists sets and chains in the order in which they were made.
    let first =
        ["\n\tset ", "\n\tmap ", "\n\tchain "].iter().filter_map(|kind| text.find(kind)).min();
    let (header, blocks) = text.split_at(first.unwrap_or(text.len()));
    let mut blocks: Vec<&str> = blocks.split("\n\t}").collect();
    blocks.sort_unstable();
    Ok(format!("{header}{}", blocks.join("\n\t}")))
}

/// A list of the userspace mode with one port in place of those of relays, which the kernel chose.
/// Every TCP or UDP endpoint must be a relay that only redirected traffic may use, and no other port
/// may be called one.
pub(crate) fn without_relay_ports(ruleset: &str) -> Result<String, String> {
    let (mut used, mut guarded) = (BTreeSet::new(), BTreeSet::new());
    let mut out = String::new();
    let mut rest = ruleset;
    while let Some((before, after)) = rest.split_once("elements = {") {
        let (list, after) = after.split_once('}').ok_or("elements do not end")?;
        let block = before.rsplit("\n\t}").next().unwrap_or(before);
        let name = block.split_whitespace().nth(1).unwrap_or_default();
        let mut elements = Vec::new();
        for element in list.split(',').map(str::trim) {
            let relayed = ["tcp", "udp"]
                .into_iter()
                .find(|protocol| element.split(" . ").any(|part| part == *protocol));
            match (relayed, element.rsplit_once(" . ")) {
                (Some(protocol), Some((_, port))) if name == "relay-ports" => {
                    guarded.insert((protocol, port));
                }
                (Some(protocol), Some((kept, port))) if name.ends_with("-endpoints") => {
                    used.insert((protocol, port));
                    elements.push(format!("{kept} . RELAY"));
                }
                _ => elements.push(element.to_owned()),
            }
        }
        out.push_str(&format!("{before}elements = {{ {} }}", elements.join(", ")));
        rest = after;
    }
    out.push_str(rest);
    if used == guarded {
        Ok(out)
    } else {
        Err(format!("relays {used:?}, but ports of relays {guarded:?}"))
    }
}

/// Sentinels have the third octets from 200 up, and the endpoint `b1`.
fn is_sentinel(element: &str) -> bool {
    let first = element.split(" . ").next().unwrap_or(element);
    let v4 = first.strip_prefix("10.96.2").is_some_and(|rest| rest.len() >= 3);
    v4 || first.starts_with("fd00:10:96:2")
}

/// Frontends with their endpoints, sorted; slots must be 0, 1, 2, … without a gap.
fn slots(name: &str, elements: &[&str]) -> Result<String, String> {
    let mut frontends: BTreeMap<&str, BTreeMap<usize, &str>> = BTreeMap::new();
    for element in elements {
        let parts = element.split_once(" : ").and_then(|(key, value)| {
            let (frontend, slot) = key.rsplit_once(" . ")?;
            Some((frontend, slot.trim().parse().ok()?, value))
        });
        let (frontend, slot, value) =
            parts.ok_or_else(|| format!("{name}: {element:?} has no slot"))?;
        frontends.entry(frontend).or_default().insert(slot, value);
    }
    let mut out = String::new();
    for (frontend, slots) in frontends {
        if !slots.keys().copied().eq(0..slots.len()) {
            return Err(format!("{name}: {frontend} has gaps between its slots: {slots:?}"));
        }
        let mut values: Vec<&str> = slots.into_values().collect();
        values.sort_unstable();
        out.push_str(&format!("\n\t\t\t{frontend} : {}", values.join(", ")));
    }
    Ok(out)
}

/// What `iptables-save` prints, chain by chain in the order of their names, without sentinels.
pub(crate) fn normalized_chains(saved: &str) -> String {
    let of_sentinel = |rule: &str| rule.contains("default/sentinel-");
    // Rules of endpoints do not name the Service; the rule that leads to their chain does.
    let own = saved.lines().filter(|line| of_sentinel(line)).filter_map(|line| {
        let target = line.rsplit_once("-j ")?.1;
        Some(target).filter(|target| target.starts_with("KUBE-SVC-"))
    });
    let own: BTreeSet<&str> = own.collect();
    let mut table = "";
    let mut chains: BTreeMap<(&str, &str), Vec<&str>> = BTreeMap::new();
    for line in saved.lines() {
        if let Some(name) = line.strip_prefix('*') {
            table = name;
        } else if let Some(rule) = line.strip_prefix("-A ") {
            let chain = rule.split(' ').next().unwrap_or(rule);
            // The canary has a digest of all rules, those of sentinels included.
            if !of_sentinel(rule) && !own.contains(chain) && chain != "KUBE-PROXY-CANARY" {
                chains.entry((table, chain)).or_default().push(rule);
            }
        }
    }
    let chains =
        chains.into_iter().map(|((table, _), rules)| format!("{table}: {}", rules.join("\n")));
    chains.collect::<Vec<_>>().join("\n")
}

/// What `ipvsadm -Sn` prints of one family, sorted, without sentinels, without destinations that are
/// only waiting for their connections to end, and without virtual services that have none but these.
pub(crate) fn normalized_services(saved: &str, v4: bool) -> String {
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let ours = |at: &str| at.starts_with('[') != v4 && !is_sentinel(at.trim_start_matches('['));
    let mut services: BTreeMap<String, (String, Vec<String>)> = BTreeMap::new();
    for line in saved.lines() {
        let words = words(line);
        let [kind, protocol, at, ..] = words.as_slice() else { continue };
        let key = format!("{protocol} {at}");
        if !ours(at) {
            continue;
        }
        let entry = services.entry(key).or_default();
        match kind.as_str() {
            "-A" => line.clone_into(&mut entry.0),
            _ if words.ends_with(&["-w".to_owned(), "0".to_owned()]) => {}
            _ => entry.1.push(line.to_owned()),
        }
    }
    let lines = services.into_values().filter(|(_, to)| !to.is_empty()).map(|(service, mut to)| {
        to.sort();
        format!("{service}\n{}", to.join("\n"))
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// The addresses that `ip -o address` prints, sorted, without sentinels.
pub(crate) fn normalized_addresses(listed: &str) -> String {
    let ips = listed.lines().filter_map(|line| line.split_whitespace().nth(3));
    let mut ips: Vec<&str> = ips.filter(|ip| !is_sentinel(ip)).collect();
    ips.sort_unstable();
    ips.join("\n")
}
