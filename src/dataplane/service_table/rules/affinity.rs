//! The rules of session affinity.
//!
//! ```text
//! filter-…-pre-dnat ─▶ sticky: which number a frontend has
//! service-pools ─▶ service-recall-N: which endpoint the client is remembered for, else service-draw-N
//! filter-…-post-dnat ─▶ affinity: the client is remembered
//! ```

use std::sync::Arc;
use std::time::Duration;

use super::hooks::AFTER_DSTNAT;
use super::writer::Rules;
use crate::service_table::frontends::FrontendClass;
use crate::service_table::sets::{SetId, client_key};
use sluice_kernel::nft::statement::{self, Statement};
use sluice_kernel::nft::{Chain, ChainKind, DynsetOp, Field, Hook, ct_state, ct_status};

impl Rules<'_> {
    /// Session affinity: before DNAT, the frontend's number is stored in the packet's priority; after DNAT,
    /// the client is added with the number and with the endpoint id, and the priority is reset.
    pub(in crate::service_table) fn affinity(&mut self) {
        for class in [FrontendClass::Vip, FrontendClass::NodePort] {
            let sticky = SetId::Sticky(class);
            if !self.on_demand.contains(&sticky) {
                continue;
            }
            let condition = match class {
                FrontendClass::NodePort => self.to_node_port_address(),
                _ => Statement::new(),
            };
            let number =
                statement::set_priority_to_data_of(&class.key(self.family()), &sticky.name());
            self.rule("sticky", [condition, number]);
        }
        let timeout = |set: &SetId| match *set {
            SetId::Remembered(timeout) => Some(timeout),
            _ => None,
        };
        let timeouts: Vec<u32> = self.on_demand.iter().filter_map(timeout).collect();
        if timeouts.is_empty() {
            return;
        }
        for (name, hook) in [
            ("filter-prerouting-pre-dnat", Hook::Prerouting),
            ("filter-output-pre-dnat", Hook::Output),
        ] {
            let new = statement::ct_state(ct_state::NEW);
            self.rule(name, [new, statement::jump(&"sticky".into())]);
            let name = name.replace("-pre-", "-post-");
            self.chain(Chain::base(name.as_str(), ChainKind::Filter, hook, AFTER_DSTNAT));
            let translated = statement::ct_status(ct_status::DNAT);
            let new = statement::ct_state(ct_state::NEW);
            self.rule(&name, [new, translated, statement::jump(&"affinity".into())]);
        }
        let endpoint = [Field::Priority, Field::Daddr(self.family()), Field::Dport];
        let client = client_key(self.family());
        let memory = SetId::Affinity.name();
        for timeout in timeouts {
            let numbers = SetId::Remembered(timeout).name();
            let numbered = || statement::is_in(&[Field::Priority], &numbers);
            let lifetime = Some(Duration::from_secs(u64::from(timeout)));
            let remember = || statement::write(DynsetOp::Update, &memory, &client, lifetime);
            let id = statement::set_priority_to_data_of(&endpoint, &SetId::EndpointIds.name());
            let clear = statement::clear_priority;
            self.rule("affinity", [numbered(), remember(), id, remember(), clear()]);
            // An endpoint that was just removed has no id.
            self.rule("affinity", [numbered(), clear()]);
        }
    }

    /// Session affinity: a client with an affinity entry gets its endpoint, if that is still in a slot; all
    /// others draw. The endpoint id of each slot is tried in turn; only clients with an entry under the
    /// frontend's number get that far.
    pub(super) fn recall(&mut self, class: FrontendClass, size: u32) -> Arc<str> {
        let chain: Arc<str> = format!("{class}-recall-{size}").into();
        let client = client_key(self.family());
        let memory = SetId::Affinity.name();
        let draw = statement::goto(&Rules::draw_chain(class, size));
        let number = || {
            let sticky = SetId::Sticky(class.whole()).name();
            statement::set_priority_to_data_of(&class.key(self.family()), &sticky)
        };
        let unknown = statement::is_not_in(&client, &memory);
        let mut rules = vec![vec![unknown, draw.clone()]];
        for slot in 0..size {
            let slot = class.slot_key(self.family(), slot);
            let id = statement::set_priority_to_data_of(&slot, &SetId::SlotIds(class).name());
            let known = statement::is_in(&client, &memory);
            let endpoints = SetId::Endpoints(class).name();
            let there = statement::dnat_to_data_of(self.family(), &slot, &endpoints);
            rules.push(vec![id, known, number(), there]);
        }
        rules.extend([vec![number()], vec![draw]]);
        rules.into_iter().for_each(|rule| self.rule(&chain, rule));
        chain
    }
}
