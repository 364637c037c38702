//! Policy routing to this host by mark: packets with a bit of the packet mark are delivered here, whatever their
//! destination (policy routing, `ip-rule(8)`).
//!
//! ```text
//! 20: from all fwmark 0x1000/0x1000 iif lo goto 22
//! 21: from all fwmark 0x1000/0x1000 lookup 12600       local default dev lo table 12600
//! 22: from all nop
//! ```
//!
//! The first rule is for `net.ipv4.conf.*.src_valid_mark=1`: with that setting the kernel uses the mark in
//! reverse path filtering (`__fib_validate_source` in `net/ipv4/fib_frontend.c`, which looks up routes as the
//! interface `lo`), would find that the source of each marked packet is this host, and drop it.

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NetlinkPayload, Parseable};
use netlink_packet_route::route::{
    RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{AsyncSocket, SocketAddr};
use rtnetlink::constants::{RTMGRP_IPV4_ROUTE, RTMGRP_IPV4_RULE, RTMGRP_IPV6_ROUTE};

use futures::StreamExt;
use tokio::sync::watch;

use super::netlink::{Client, NetlinkError, Refusal, SocketError};
use sluice_core::net::Family;

/// The routing table that has the one route.
pub const TABLE: u32 = 12600;
/// Where the rules stand: before those of CNI plugins that send pods' packets elsewhere (Calico's are at
/// 99, those of the AWS plugin at 512 and behind), behind the addresses of this host (0).
pub const FIRST: u32 = 20;
const LOOK_UP: u32 = FIRST + 1;
const BEHIND: u32 = FIRST + 2;

/// systemd-networkd removes rules and routes that it does not know, unless they are the kernel's.
const PROTOCOL: RouteProtocol = RouteProtocol::Kernel;

/// `RTNLGRP_IPV6_RULE` of `linux/rtnetlink.h` as a bit.
const RTMGRP_IPV6_RULE: u32 = 1 << (19 - 1);

/// The rules of one family in the network namespace that this was opened in.
#[derive(Debug)]
pub struct PolicyRouting {
    client: Client,
    family: Family,
}

/// The rules could not be read or written.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // the messages name the fields
pub enum PolicyRoutingError {
    /// There is no such socket.
    #[error("open rtnetlink: {0}")]
    Open(#[source] SocketError),
    /// The kernel has no policy routing.
    #[error(
        "this kernel has no routing rules for {family} (CONFIG_IP_MULTIPLE_TABLES, \
         CONFIG_IPV6_MULTIPLE_TABLES)"
    )]
    Unsupported { family: Family },
    /// The rules cannot be read.
    #[error("list the routing rules of {family}: {source}")]
    List { family: Family, source: NetlinkError },
    /// One could not be written or removed.
    #[error(
        "change {what} of {family} (as `ip rule` and `ip route show table {TABLE}` show): {source}"
    )]
    Change { what: &'static str, family: Family, source: NetlinkError },
}

impl PolicyRouting {
    /// Looks after the rules of a family.
    ///
    /// # Errors
    /// If the kernel has no rtnetlink, or no routing rules.
    pub fn open(family: Family) -> Result<PolicyRouting, PolicyRoutingError> {
        let client = Client::open(NETLINK_ROUTE).map_err(PolicyRoutingError::Open)?;
        let mut routing = PolicyRouting { client, family };
        routing.present().map(|_| routing)
    }

    /// Makes packets with this bit be delivered here, and only those; how many changes it took.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn ensure(&mut self, mark: u32) -> Result<usize, PolicyRoutingError> {
        let wanted = rules(self.family, mark);
        let present = self.present()?;
        let mut changes = usize::from(self.route(Verb::Add)?);
        for rule in present.iter().filter(|rule| !wanted.contains(rule)) {
            changes += usize::from(self.rule(rule, Verb::Remove)?);
        }
        // The last one first: the first of them leads there.
        for rule in wanted.iter().rev().filter(|rule| !present.contains(rule)) {
            changes += usize::from(self.rule(rule, Verb::Add)?);
        }
        Ok(changes)
    }

    /// Removes all of it; how many changes it took.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn remove(&mut self) -> Result<usize, PolicyRoutingError> {
        let mut changes = 0;
        for rule in self.present()? {
            changes += usize::from(self.rule(&rule, Verb::Remove)?);
        }
        Ok(changes + usize::from(self.route(Verb::Remove)?))
    }

    /// The rules that are there and ours.
    fn present(&mut self) -> Result<Vec<RuleMessage>, PolicyRoutingError> {
        let family = self.family;
        let mut question = RuleMessage::default();
        question.header.family = address_family(family);
        let read = |content: &[u8]| RuleMessage::parse(content).ok().filter(is_ours).map(normal);
        match self.client.list(RouteNetlinkMessage::GetRule(question), read) {
            Ok(found) => Ok(found),
            Err(NetlinkError::Refused(Refusal { errno: libc::EOPNOTSUPP, .. })) => {
                Err(PolicyRoutingError::Unsupported { family })
            }
            Err(source) => Err(PolicyRoutingError::List { family, source }),
        }
    }

    fn rule(&mut self, rule: &RuleMessage, verb: Verb) -> Result<bool, PolicyRoutingError> {
        let message = match verb {
            Verb::Add => RouteNetlinkMessage::NewRule(rule.clone()),
            Verb::Remove => RouteNetlinkMessage::DelRule(rule.clone()),
        };
        self.change("a routing rule", message, verb)
    }

    fn route(&mut self, verb: Verb) -> Result<bool, PolicyRoutingError> {
        let route = local_default(self.family);
        let message = match verb {
            Verb::Add => RouteNetlinkMessage::NewRoute(route),
            Verb::Remove => RouteNetlinkMessage::DelRoute(route),
        };
        self.change("the local route", message, verb)
    }

    /// Whether it made a difference.
    fn change(
        &mut self,
        what: &'static str,
        message: RouteNetlinkMessage,
        verb: Verb,
    ) -> Result<bool, PolicyRoutingError> {
        let flags = match verb {
            Verb::Add => NLM_F_CREATE | NLM_F_EXCL,
            Verb::Remove => 0,
        };
        let answered = self.client.change([(message, flags)]);
        let source = match answered.map(|answers| answers.into_iter().find_map(Result::err)) {
            Ok(None) => return Ok(true),
            // It is as it should be, or was removed meanwhile.
            Ok(Some(refusal)) if refusal.contradicts_state() => return Ok(false),
            Ok(Some(refusal)) => refusal.into(),
            Err(source) => source,
        };
        Err(PolicyRoutingError::Change { what, family: self.family, source })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verb {
    Add,
    Remove,
}

/// Changes whenever one of our rules or routes has gone, of either family. Must be called within a
/// Tokio runtime.
///
/// # Errors
/// If the kernel has no rtnetlink.
pub fn follow() -> Result<watch::Receiver<()>, PolicyRoutingError> {
    let failed = |error| PolicyRoutingError::Open(SocketError::Open(error));
    let (mut connection, _, mut messages) = rtnetlink::new_connection().map_err(failed)?;
    let groups = RTMGRP_IPV4_RULE | RTMGRP_IPV6_RULE | RTMGRP_IPV4_ROUTE | RTMGRP_IPV6_ROUTE;
    let socket = connection.socket_mut().socket_mut();
    socket.bind(&SocketAddr::new(0, groups)).map_err(failed)?;
    tokio::spawn(connection);
    let (sender, receiver) = watch::channel(());
    tokio::spawn(async move {
        while let Some((message, _)) = messages.next().await {
            let gone = match &message.payload {
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelRule(rule)) => is_ours(rule),
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelRoute(route)) => {
                    route.attributes.contains(&RouteAttribute::Table(TABLE))
                }
                NetlinkPayload::Overrun(_) => true,
                _ => false,
            };
            if sender.is_closed() {
                return;
            }
            if gone {
                sender.send_replace(());
            }
        }
    });
    Ok(receiver)
}

fn address_family(family: Family) -> AddressFamily {
    match family {
        Family::V4 => AddressFamily::Inet,
        Family::V6 => AddressFamily::Inet6,
    }
}

/// The rules, in their order.
fn rules(family: Family, mark: u32) -> [RuleMessage; 3] {
    let marked = [RuleAttribute::FwMark(mark), RuleAttribute::FwMask(mark)];
    let rule = |priority, action, attributes: Vec<RuleAttribute>| {
        let mut rule = RuleMessage::default();
        rule.header.family = address_family(family);
        rule.header.action = action;
        let common = [RuleAttribute::Priority(priority), RuleAttribute::Protocol(PROTOCOL)];
        rule.attributes = attributes.into_iter().chain(common).collect();
        normal(rule)
    };
    let [bit, mask] = marked;
    let lo = RuleAttribute::Iifname("lo".to_owned());
    [
        rule(
            FIRST,
            RuleAction::Goto,
            vec![bit.clone(), mask.clone(), lo, RuleAttribute::Goto(BEHIND)],
        ),
        rule(LOOK_UP, RuleAction::ToTable, vec![bit, mask, RuleAttribute::Table(TABLE)]),
        rule(BEHIND, RuleAction::Nop, vec![]),
    ]
}

/// `local default`: every destination is delivered to this host.
fn local_default(family: Family) -> RouteMessage {
    let mut route = RouteMessage::default();
    route.header.address_family = address_family(family);
    route.header.kind = RouteType::Local;
    route.header.scope = RouteScope::Host;
    route.header.protocol = PROTOCOL;
    route.attributes.push(RouteAttribute::Table(TABLE));
    let lo = nix::net::if_::if_nametoindex("lo").unwrap_or(1);
    route.attributes.push(RouteAttribute::Oif(lo));
    route
}

/// Whether a rule can only be ours: it leads to our table, or stands at our place and does what ours
/// does there.
fn is_ours(rule: &RuleMessage) -> bool {
    let has = |attribute| rule.attributes.contains(&attribute);
    match rule.header.action {
        RuleAction::ToTable => has(RuleAttribute::Table(TABLE)),
        RuleAction::Goto => has(RuleAttribute::Priority(FIRST)) && has(RuleAttribute::Goto(BEHIND)),
        RuleAction::Nop => has(RuleAttribute::Priority(BEHIND)),
        _ => false,
    }
}

/// A rule without the attributes that the kernel adds, in a fixed order, so that a rule that was read equals
/// one that was written.
fn normal(mut rule: RuleMessage) -> RuleMessage {
    use RuleAttribute::{FwMark, FwMask, Goto, Iifname, Priority, Protocol, Table};
    rule.header.table = 0;
    rule.header.flags = Default::default();
    let said = |attribute: &RuleAttribute| match attribute {
        FwMark(_) | FwMask(_) | Goto(_) | Iifname(_) | Priority(_) | Protocol(_) => true,
        Table(table) => *table != 0,
        _ => false,
    };
    rule.attributes.retain(said);
    rule.attributes.sort_by_key(|attribute| match attribute {
        Priority(_) => 0,
        FwMark(_) => 1,
        FwMask(_) => 2,
        Iifname(_) => 3,
        Goto(_) => 4,
        Table(_) => 5,
        _ => 6,
    });
    rule
}
