//! The path of a packet through the service table.

use super::data_path::DataPath;
use super::elements::{Elements, frontend_elements};
use super::frontends::{FrontendClass, frontend_key, is_split};
use super::rules::Rules;
use super::sets::SetId;
use crate::packet_path::PacketPath;
use sluice_core::plan::{Admit, Hit, Masquerade, SourceClass, Verdict};

/// Chains and elements up to the pool; `last` is what the mode does behind it, given the class of the frontend and how
/// many slots it has.
pub(crate) fn packet_path(
    hit: &Hit<'_>,
    own: Option<&dyn DataPath>,
    last: impl FnOnce(FrontendClass, Option<SetId>) -> Vec<String>,
) -> PacketPath {
    let whole = FrontendClass::of(&hit.frontend.at);
    let class = class_of(hit);
    let mut elements = Elements::new();
    frontend_elements(hit.frontend, &mut elements);
    if let Some(own) = own {
        own.elements(hit.plan, &mut elements);
    }
    let key = frontend_key(&hit.frontend.at);
    elements.retain(|(set, element)| {
        element.key.as_bytes().starts_with(key.as_bytes()) && is_met(hit, *set, class)
    });
    elements.sort_unstable();
    let slots = elements.iter().map(|(set, _)| *set).find(|set| set.slots_of(class).is_some());
    let object = |(set, element): &(SetId, _)| {
        let definition = set.definition(hit.table.family);
        (set.name().to_string(), sluice_kernel::nft::Element::text(element, &definition))
    };
    let objects = elements.iter().map(object).collect();
    let mut steps = steps(hit, whole, class);
    if hit.is_forwarded() {
        steps.extend(last(class, slots));
        if hit.route.masquerade == Masquerade::Yes {
            steps.extend(["nat-postrouting", "masquerading"].map(str::to_owned));
        }
    }
    PacketPath { steps, objects }
}

/// Where the packet's frontend is looked up.
pub(super) fn class_of(hit: &Hit<'_>) -> FrontendClass {
    let whole = FrontendClass::of(&hit.frontend.at);
    let outside = is_split(hit.frontend) && hit.route.from == SourceClass::Anyone;
    if outside { whole.local() } else { whole }
}

/// Whether the packet is looked up in a set.
pub(super) fn is_met(hit: &Hit<'_>, set: SetId, class: FrontendClass) -> bool {
    let restricted = matches!(hit.frontend.admit, Admit::Only(_));
    match set {
        SetId::Restricted | SetId::Sources => restricted,
        _ if !hit.admitted => false,
        SetId::Reject(_) => hit.route.verdict == Verdict::Reject,
        SetId::Drop(_) => hit.route.verdict == Verdict::Drop,
        SetId::Slots(of, _) | SetId::StickySlots(of, _) | SetId::Endpoints(of) => of == class,
        SetId::SlotIds(of) => of == class,
        SetId::Counters(_) => false,
        _ => hit.is_forwarded(),
    }
}

fn steps(hit: &Hit<'_>, whole: FrontendClass, class: FrontendClass) -> Vec<String> {
    let (source, nat) = if hit.is_from_this_node() {
        ("filter-output-pre-dnat", "nat-output")
    } else {
        ("filter-prerouting-pre-dnat", "nat-prerouting")
    };
    let node_port = whole == FrontendClass::NodePort;
    let mut steps: Vec<&str> = Vec::new();
    if !hit.admitted {
        steps.extend([source, "sources-check", "drop"]);
        return steps.into_iter().map(str::to_owned).collect();
    }
    let end = match hit.route.verdict {
        Verdict::Forward(_) => None,
        Verdict::Reject => Some("reject-chain"),
        Verdict::Drop => Some("drop"),
    };
    if let Some(end) = end {
        let (hook, check) = match (node_port, hit.packet.to_this_node, hit.is_from_this_node()) {
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
    if is_split(hit.frontend) {
        steps.push(if node_port { "nodeport-split" } else { "service-split" });
    }
    let mut steps: Vec<String> = steps.into_iter().map(str::to_owned).collect();
    steps.push(Rules::pools(class).to_string());
    steps
}
