//! From a pool to an endpoint, by a random slot.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::writer::Rules;
use crate::service_table::frontends::FrontendClass;
use crate::service_table::sets::SetId;
use sluice_kernel::nft::statement::{self, Statement};

/// How often a draw that hit no slot is repeated, in two factors. Each draw misses with a probability
/// below one half, so all of them miss less often than the last bit of the kernel's random number is
/// wrong; then slot 0, which always exists, is taken.
const DRAWS_PER_CHAIN: usize = 4;
const CHAINS_OF_DRAWS: usize = 8;

impl Rules<'_> {
    /// Finds the number of slots that a frontend draws from, and draws.
    pub(crate) fn draw_endpoints(&mut self, class: FrontendClass) {
        let slots: Vec<(u32, SetId)> = self.slots_in_use(class).collect();
        for &(size, set) in &slots {
            let member = self.frontend_in(set, class);
            let next = match set {
                SetId::StickySlots(..) => self.recall(class, size),
                _ => Rules::draw_chain(class, size),
            };
            self.rule(&Rules::pools(class), [member, statement::goto(&next)]);
        }
        let sizes: BTreeSet<u32> = slots.into_iter().map(|(size, _)| size).collect();
        for size in sizes {
            self.draw(class, size);
        }
    }

    /// The numbers of slots that frontends draw from, each with the set of these frontends.
    pub(crate) fn slots_in_use(&self, class: FrontendClass) -> impl Iterator<Item = (u32, SetId)> {
        self.on_demand.iter().filter_map(move |set| Some((set.slots_of(class)?, *set)))
    }

    /// The chain that draws an endpoint out of so many slots.
    pub(crate) fn draw_chain(class: FrontendClass, size: u32) -> Arc<str> {
        format!("{class}-draw-{size}").into()
    }

    fn draw(&mut self, class: FrontendClass, size: u32) {
        let draw = Rules::draw_chain(class, size);
        if size > 2 {
            let again: Arc<str> = format!("{draw}-again").into();
            for _ in 0..CHAINS_OF_DRAWS {
                self.rule(&draw, [statement::jump(&again)]);
            }
            for _ in 0..DRAWS_PER_CHAIN {
                self.rule(&again, [self.dnat(class, size)]);
            }
            self.rule(&draw, [self.dnat(class, 1)]);
        } else {
            self.rule(&draw, [self.dnat(class, size)]);
        }
    }

    fn dnat(&self, class: FrontendClass, size: u32) -> Statement {
        let key = class.drawn_slot_key(self.family(), size);
        statement::dnat_to_data_of(self.family(), &key, &SetId::Endpoints(class).name())
    }
}
