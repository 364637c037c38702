//! The part of the service table that is a proxy mode's own.

use std::fmt;

use super::elements::Elements;
use super::frontends::FrontendClass;
use super::rules::{Conditions, Hooks, Rules};
use super::sets::SetId;
use sluice_core::net::{Family, Protocol};
use sluice_core::plan::{Host, ServicePlan};

/// How a proxy mode gets traffic from a frontend to an endpoint: what it adds to the service table, and
/// where the rules of the table have to mind it. Each mode implements it in its own folder.
///
/// The table finds the frontend of a packet, rejects, drops, marks for masquerading, and picks the pool by
/// the source; then comes [`DataPath::deliver`]. It is pure: values in, rules and elements out. Everything
/// else is the same in all modes.
pub(crate) trait DataPath: fmt::Debug + Send {
    /// Whether the table itself chooses the endpoint of a connection of this protocol. Then endpoints
    /// keep their slots over changes and restarts.
    fn balances(&self, protocol: Protocol) -> bool;

    /// Whether rules remember clients (session affinity), so that they have to forget endpoints that left.
    fn remembers_clients(&self) -> bool;

    /// The sets that always exist in this mode, in addition to those of every mode.
    fn sets(&self) -> Vec<SetId>;

    /// The hooks of the base chains, and their jumps in addition to those of every mode.
    fn hooks(&self, host: &Host) -> Hooks {
        let _ = host;
        Hooks::default()
    }

    /// What rules of the table match in this mode.
    fn conditions(&self, family: Family) -> Conditions {
        Conditions::new(family)
    }

    /// Writes chains and rules that no other mode has. In a base chain they stand after the jumps, in
    /// any other chain before the rules of the table.
    fn rules(&self, rules: &mut Rules<'_>) {
        let _ = rules;
    }

    /// Writes the last step: the rules of [`Rules::pools`], where traffic to these frontends arrives that
    /// may use one of their pools.
    fn deliver(&self, rules: &mut Rules<'_>, frontends: FrontendClass);

    /// Appends the elements by which [`DataPath::deliver`] and [`DataPath::rules`] find what belongs to
    /// one Service alone.
    fn elements(&self, plan: &ServicePlan, out: &mut Elements);

    /// Appends elements without data that several Services may need at once.
    fn shared_elements(&self, plan: &ServicePlan, out: &mut Elements) {
        let _ = (plan, out);
    }
}
