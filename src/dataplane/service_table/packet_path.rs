//! The path of a packet through the service table.

use super::data_path::DataPath;
use super::elements::{Elements, frontend_elements};
use super::frontends::{FrontendClass, frontend_key, is_split};
use super::rules::Rules;
use super::sets::SetId;
use crate::packet_path::{PacketAt, PacketPath};
use sluice_core::plan::{Admit, Masquerade, SourceClass, Verdict};

/// Chains and elements up to the pool; `last` is what the mode does behind it, given the class of the frontend and how
/// many slots it has.
pub(crate) fn packet_path(
    at: &PacketAt<'_>,
    own: Option<&dyn DataPath>,
    last: impl FnOnce(FrontendClass, Option<SetId>) -> Vec<String>,
) -> PacketPath {
    let whole = FrontendClass::of(&at.frontend.at);
    let outside = is_split(at.frontend) && at.route.from == SourceClass::Anyone;
    let class = if outside { whole.local() } else { whole };
    let mut elements = Elements::new();
    frontend_elements(at.frontend, &mut elements);
    if let Some(own) = own {
        own.elements(at.plan, &mut elements);
    }
    let key = frontend_key(&at.frontend.at);
    elements.retain(|(set, element)| {
        element.key.as_bytes().starts_with(key.as_bytes()) && is_met(at, *set, class)
    });
    elements.sort_unstable();
    let slots = elements.iter().map(|(set, _)| *set).find(|set| set.slots_of(class).is_some());
    let object = |(set, element): &(SetId, _)| {
        let definition = set.definition(at.table.family);
        (set.name().to_string(), sluice_kernel::nft::Element::text(element, &definition))
    };
    let objects = elements.iter().map(object).collect();
    let mut steps = steps(at, whole, class);
    if at.is_forwarded() {
        steps.extend(last(class, slots));
        if at.route.masquerade == Masquerade::Yes {
            steps.extend(["nat-postrouting", "masquerading"].map(str::to_owned));
        }
    }
    PacketPath { steps, objects }
}

/// Whether the packet is looked up in a set.
fn is_met(at: &PacketAt<'_>, set: SetId, class: FrontendClass) -> bool {
    let restricted = matches!(at.frontend.admit, Admit::Only(_));
    match set {
        SetId::Restricted | SetId::Sources => restricted,
        _ if !at.admitted => false,
        SetId::Reject(_) => at.route.verdict == Verdict::Reject,
        SetId::Drop(_) => at.route.verdict == Verdict::Drop,
        SetId::Slots(of, _) | SetId::StickySlots(of, _) | SetId::Endpoints(of) => of == class,
        SetId::SlotIds(of) => of == class,
        SetId::Counters(_) => false,
        _ => at.is_forwarded(),
    }
}

fn steps(at: &PacketAt<'_>, whole: FrontendClass, class: FrontendClass) -> Vec<String> {
    let (source, nat) = if at.from_this_node {
        ("filter-output-pre-dnat", "nat-output")
    } else {
        ("filter-prerouting-pre-dnat", "nat-prerouting")
    };
    let node_port = whole == FrontendClass::NodePort;
    let mut steps: Vec<&str> = Vec::new();
    if !at.admitted {
        steps.extend([source, "sources-check", "drop"]);
        return steps.into_iter().map(str::to_owned).collect();
    }
    let end = match at.route.verdict {
        Verdict::Forward(_) => None,
        Verdict::Reject => Some("reject-chain"),
        Verdict::Drop => Some("drop"),
    };
    if let Some(end) = end {
        let (hook, check) = match (node_port, at.to_this_node, at.from_this_node) {
            (true, ..) => ("filter-input", "nodeport-check"),
            (_, true, _) => ("filter-input", "service-check"),
            (_, _, true) => ("filter-output", "service-check"),
            _ => ("filter-forward", "service-check"),
        };
        steps.extend([hook, check, end]);
        return steps.into_iter().map(str::to_owned).collect();
    }
    steps.extend([nat, "services"]);
    if node_port {
        steps.push("nodeports");
    }
    if is_split(at.frontend) {
        steps.push(if node_port { "nodeport-split" } else { "service-split" });
    }
    let mut steps: Vec<String> = steps.into_iter().map(str::to_owned).collect();
    steps.push(Rules::pools(class).to_string());
    steps
}
