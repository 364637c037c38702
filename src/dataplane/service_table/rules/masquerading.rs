//! Rules of masquerading.

use super::writer::Rules;
use crate::service_table::sets::SetId;
use sluice_kernel::nft::NatFlags;
use sluice_kernel::nft::statement;

impl Rules<'_> {
    pub(in crate::service_table) fn masquerading(&mut self) {
        let bit = self.table.host.masquerade_mark;
        let masquerade = || statement::masquerade(NatFlags::FULLY_RANDOM);
        self.rule(
            "masquerading",
            [statement::mark_has(bit), statement::flip_mark_bits(bit), masquerade()],
        );
        let hairpin = SetId::Hairpin.definition(self.family());
        let to_itself = statement::is_in(&hairpin.key, &hairpin.name);
        let through_a_service = self.conditions.through_a_service.clone();
        self.rule("masquerading", [through_a_service, to_itself, masquerade()]);
    }
}
