//! The chains that packets of a family enter, of all programs.

use std::sync::Arc;

use super::connection::{Nft, Request};
use super::error::NftError;
use crate::netlink::Message;
use crate::netlink::attributes::{find, find_u32};
use crate::netlink::netfilter::nfproto;
use crate::nft::model::{Expr, Hook, Verdict};
use crate::nft::wire::decode;
use crate::nft::wire::message::find_name;
use crate::nft::wire::uapi::{chain, msg, rule};
use sluice_core::net::Family;

/// `NFPROTO_INET` and `NFPROTO_NETDEV` of `netfilter.h`
const INET: u8 = 1;
const NETDEV: u8 = 5;

/// Where a chain sees packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// At a hook of the IP families.
    Hook(Hook),
    /// At a device, before or behind all of these.
    Device,
}

/// A chain that packets enter from the network stack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HookedChain {
    /// `ip`, `ip6`, `inet` or `netdev`.
    pub family: &'static str,
    /// Its table.
    pub table: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// Where it sees packets.
    pub place: Place,
    /// Its place among the chains there, lowest first.
    pub priority: i32,
    /// Whether it drops what no rule decides about.
    pub drops: bool,
    /// Where each of its rules leads, if it leads anywhere.
    pub rules: Vec<Option<Arc<str>>>,
    number: u8,
}

impl Nft {
    /// Reads the chains that packets of a family enter, with how many rules they have.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn base_chains(&mut self, family: Family) -> Result<Vec<HookedChain>, NftError> {
        const ALL: u8 = 0; // NFPROTO_UNSPEC
        let mut chains = Vec::new();
        let each = |message: &Message<'_>| chains.extend(read(message, family));
        self.request_of(Request::All, msg::GETCHAIN, ALL, "all chains", |_| {}, each)?;
        for chain in &mut chains {
            chain.rules = self.rules_of(chain)?;
        }
        Ok(chains)
    }

    fn rules_of(&mut self, of: &HookedChain) -> Result<Vec<Option<Arc<str>>>, NftError> {
        let mut rules = Vec::new();
        let what = format!("rules of {} {} {}", of.family, of.table, of.name);
        let fill = |writer: &mut crate::netlink::attributes::Writer| {
            writer.put_name(rule::TABLE, &of.table);
            writer.put_name(rule::CHAIN, &of.name);
        };
        let is_of = |body: &[u8]| {
            find_name(body, rule::TABLE).as_ref() == Some(&of.table)
                && find_name(body, rule::CHAIN).as_ref() == Some(&of.name)
        };
        let each = |message: &Message<'_>| {
            if message.nfproto() == Some(of.number) && is_of(message.body()) {
                rules.push(leads_to(message.body()));
            }
        };
        let read = self.request_of(Request::All, msg::GETRULE, of.number, &what, fill, each);
        match read {
            // It has gone meanwhile.
            Err(error) if error.is_absence() => Ok(Vec::new()),
            other => other.map(|()| rules),
        }
    }
}

fn leads_to(body: &[u8]) -> Option<Arc<str>> {
    decode::rule(body)?.rule.exprs.into_iter().find_map(|expr| match expr {
        Expr::Verdict(Verdict::Jump(to) | Verdict::Goto(to)) => Some(to),
        _ => None,
    })
}

fn read(message: &Message<'_>, wanted: Family) -> Option<HookedChain> {
    let (number, body) = (message.nfproto()?, message.body());
    let hook = find(body, chain::HOOK)?;
    let at = find_u32(hook, chain::HOOK_HOOKNUM)?;
    let known = || Hook::ALL.into_iter().find(|hook| hook.number() == at);
    let (family, place) = match number {
        INET => ("inet", known().map_or(Place::Device, Place::Hook)),
        NETDEV => ("netdev", Place::Device),
        own if own == nfproto(wanted) => match wanted {
            Family::V4 => ("ip", Place::Hook(known()?)),
            Family::V6 => ("ip6", Place::Hook(known()?)),
        },
        _ => return None,
    };
    Some(HookedChain {
        family,
        table: find_name(body, chain::TABLE)?,
        name: find_name(body, chain::NAME)?,
        place,
        priority: find_u32(hook, chain::HOOK_PRIORITY)?.cast_signed(),
        drops: find_u32(body, chain::POLICY) == Some(0),
        rules: Vec::new(),
        number,
    })
}
