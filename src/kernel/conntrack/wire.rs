//! Conntrack messages as bytes.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use netlink_packet_core::{NLA_F_NESTED, NLM_F_ACK, NLM_F_DUMP};

use super::{Flow, Part};
use crate::netlink::Message;
use crate::netlink::attributes::{Open, Writer, find};
use crate::netlink::netfilter::nfproto;
use sluice_core::net::{Family, Protocol};

/// `NFNL_SUBSYS_CTNETLINK << 8`, the message types of connection tracking.
const CTNETLINK: u16 = 1 << 8;
/// `IPCTNL_MSG_CT_NEW`: a flow.
const NEW: u16 = CTNETLINK;
/// `IPCTNL_MSG_CT_GET`
const GET: u16 = CTNETLINK | 1;
/// `IPCTNL_MSG_CT_DELETE`
const DELETE: u16 = CTNETLINK | 2;

/// `enum ctattr_type`
mod attribute {
    pub(super) const TUPLE_ORIG: u16 = 1;
    pub(super) const TUPLE_REPLY: u16 = 2;
    pub(super) const STATUS: u16 = 3;
    pub(super) const PROTOINFO: u16 = 4;
    pub(super) const ID: u16 = 12;
    pub(super) const ZONE: u16 = 18;
    pub(super) const FILTER: u16 = 25;
    pub(super) const STATUS_MASK: u16 = 26;
}

/// `enum ctattr_tuple`, `ctattr_ip` and `ctattr_l4proto`
mod tuple {
    pub(super) const IP: u16 = 1;
    pub(super) const PROTO: u16 = 2;
    pub(super) const V4_SRC: u16 = 1;
    pub(super) const V4_DST: u16 = 2;
    pub(super) const V6_SRC: u16 = 3;
    pub(super) const V6_DST: u16 = 4;
    pub(super) const NUM: u16 = 1;
    pub(super) const SRC_PORT: u16 = 2;
    pub(super) const DST_PORT: u16 = 3;
}

/// `CTA_FILTER_ORIG_FLAGS`, and `CTA_FILTER_FLAG(CTA_PROTO_NUM)` of `nf_conntrack_netlink.c`: only
/// flows whose protocol is that of the tuple. Kernels before 5.8 do not know it and list all.
const FILTER_ORIG_FLAGS: u16 = 1;
const FILTER_PROTO_NUM: u32 = 1 << 3;

/// `IPS_SEEN_REPLY` of `linux/netfilter/nf_conntrack_common.h`: there were packets in both directions.
/// A flow that is `IPS_ASSURED` has this bit as well.
const SEEN_REPLY: u32 = 1 << 1;

/// The tuple and id that name a flow in a delete request.
///
/// Made by [`flow`] alone: without `TUPLE_ORIG`, a request to delete empties the whole table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Forget {
    /// The content of `CTA_TUPLE_ORIG`.
    tuple: Box<[u8]>,
    /// The content of `CTA_ID`: a later flow between the same ends has another one.
    id: [u8; 4],
    /// The content of `CTA_ZONE`, in network byte order; none for the default zone.
    zone: Option<[u8; 2]>,
}

/// Asks for flows: of one protocol if `which` has one, else of all. Kernels before 5.15 do not look at their
/// status, and send more.
pub(super) fn list_request(
    writer: &mut Writer,
    family: Family,
    which: &BTreeMap<Protocol, Part>,
    sequence: u32,
) {
    let message = begin(writer, GET, NLM_F_DUMP, family, sequence);
    if which.values().all(|part| *part == Part::Unreplied) {
        writer.put_u32(attribute::STATUS, 0);
        writer.put_u32(attribute::STATUS_MASK, SEEN_REPLY);
    }
    let mut protocols = which.keys();
    if let (Some(protocol), None) = (protocols.next(), protocols.next()) {
        let flow = writer.nest(attribute::TUPLE_ORIG);
        let proto = writer.nest(tuple::PROTO);
        writer.put(tuple::NUM, &[protocol.number()]);
        writer.end(proto);
        writer.end(flow);
        let filter = writer.nest(attribute::FILTER);
        writer.put(FILTER_ORIG_FLAGS, &FILTER_PROTO_NUM.to_ne_bytes());
        writer.end(filter);
    }
    writer.end_message(message);
}

/// Asks for the flow, of which one direction has these ends.
pub(super) fn look_request(
    writer: &mut Writer,
    protocol: Protocol,
    source: SocketAddr,
    destination: SocketAddr,
    sequence: u32,
) {
    let family = Family::of(source.ip());
    let message = begin(writer, GET, NLM_F_ACK, family, sequence);
    let flow = writer.nest(attribute::TUPLE_ORIG);
    put_ends(writer, protocol.number(), source, destination);
    writer.end(flow);
    writer.end_message(message);
}

/// Writes the content of a tuple.
fn put_ends(writer: &mut Writer, protocol: u8, source: SocketAddr, destination: SocketAddr) {
    let ip = writer.nest(tuple::IP);
    for (address, v4, v6) in [
        (source.ip(), tuple::V4_SRC, tuple::V6_SRC),
        (destination.ip(), tuple::V4_DST, tuple::V6_DST),
    ] {
        match address {
            IpAddr::V4(address) => writer.put(v4, &address.octets()),
            IpAddr::V6(address) => writer.put(v6, &address.octets()),
        }
    }
    writer.end(ip);
    let proto = writer.nest(tuple::PROTO);
    writer.put(tuple::NUM, &[protocol]);
    writer.put(tuple::SRC_PORT, &source.port().to_be_bytes());
    writer.put(tuple::DST_PORT, &destination.port().to_be_bytes());
    writer.end(proto);
}

/// Asks for a flow that was read before.
pub(super) fn reread_request(writer: &mut Writer, family: Family, forget: &Forget, sequence: u32) {
    let message = begin(writer, GET, NLM_F_ACK, family, sequence);
    name(writer, forget);
    writer.end_message(message);
}

/// Asks to forget a flow.
pub(super) fn forget_request(writer: &mut Writer, family: Family, forget: &Forget, sequence: u32) {
    let message = begin(writer, DELETE, 0, family, sequence);
    name(writer, forget);
    writer.end_message(message);
}

/// What identifies a flow, also among those with the same tuple.
fn name(writer: &mut Writer, forget: &Forget) {
    writer.put(attribute::TUPLE_ORIG | NLA_F_NESTED, &forget.tuple);
    writer.put(attribute::ID, &forget.id);
    if let Some(zone) = &forget.zone {
        writer.put(attribute::ZONE, zone);
    }
}

/// Reads a flow, if the message is one of a protocol that Services can have.
pub(super) fn flow(message: &Message<'_>) -> Option<(Flow, Forget)> {
    if message.kind != NEW {
        return None;
    }
    let body = message.body();
    let original = find(body, attribute::TUPLE_ORIG)?;
    let (protocol, source, destination) = ends(original)?;
    let (_, answered_by, _) = ends(find(body, attribute::TUPLE_REPLY)?)?;
    let forget = Forget {
        tuple: original.into(),
        id: find(body, attribute::ID)?.try_into().ok()?,
        zone: find(body, attribute::ZONE).and_then(|zone| zone.try_into().ok()),
    };
    // Without a word about it, nothing may be concluded from silence.
    let replied = find(body, attribute::STATUS)
        .and_then(|status| status.try_into().ok())
        .is_none_or(|status| u32::from_be_bytes(status) & SEEN_REPLY != 0);
    Some((Flow { protocol, source, destination, answered_by, replied }, forget))
}

/// Whether a message is a TCP connection that has ended and waits for its timeout.
pub(super) fn has_ended(message: &Message<'_>) -> bool {
    const TCP: u16 = 1; // CTA_PROTOINFO_TCP
    const STATE: u16 = 1; // CTA_PROTOINFO_TCP_STATE
    const TIME_WAIT: u8 = 7; // TCP_CONNTRACK_TIME_WAIT, before TCP_CONNTRACK_CLOSE
    let tcp = find(message.body(), attribute::PROTOINFO).and_then(|info| find(info, TCP));
    let state = tcp.and_then(|tcp| find(tcp, STATE)).and_then(|state| state.first());
    message.kind == NEW && state.is_some_and(|state| *state >= TIME_WAIT)
}

/// Protocol, source and destination of a tuple.
fn ends(bytes: &[u8]) -> Option<(Protocol, SocketAddr, SocketAddr)> {
    let (ip, proto) = (find(bytes, tuple::IP)?, find(bytes, tuple::PROTO)?);
    let address = |v4, v6| -> Option<IpAddr> {
        match find(ip, v4) {
            Some(v4) => Some(<[u8; 4]>::try_from(v4).ok()?.into()),
            None => Some(<[u8; 16]>::try_from(find(ip, v6)?).ok()?.into()),
        }
    };
    let port = |kind| Some(u16::from_be_bytes(find(proto, kind)?.try_into().ok()?));
    let protocol = Protocol::from_number(*find(proto, tuple::NUM)?.first()?)?;
    let source = SocketAddr::new(address(tuple::V4_SRC, tuple::V6_SRC)?, port(tuple::SRC_PORT)?);
    let destination =
        SocketAddr::new(address(tuple::V4_DST, tuple::V6_DST)?, port(tuple::DST_PORT)?);
    Some((protocol, source, destination))
}

fn begin(writer: &mut Writer, kind: u16, flags: u16, family: Family, sequence: u32) -> Open {
    writer.begin_netfilter(kind, flags, nfproto(family), 0, sequence)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::messages;

    /// A flow from 10.0.0.1:1000 to 10.96.0.1:53, answered by 10.244.0.7:5353.
    fn sample(protocol: u8, zone: Option<u16>, status: Option<u32>) -> Vec<u8> {
        let [client, service, endpoint] = ["10.0.0.1:1000", "10.96.0.1:53", "10.244.0.7:5353"]
            .map(|text| text.parse::<SocketAddr>().expect("an address"));
        let mut writer = Writer::default();
        let message = begin(&mut writer, NEW, 0, Family::V4, 7);
        for (kind, from, to) in
            [(attribute::TUPLE_ORIG, client, service), (attribute::TUPLE_REPLY, endpoint, client)]
        {
            let tuple = writer.nest(kind);
            put_ends(&mut writer, protocol, from, to);
            writer.end(tuple);
        }
        writer.put(attribute::ID, &[1, 2, 3, 4]);
        if let Some(zone) = zone {
            writer.put(attribute::ZONE, &zone.to_be_bytes());
        }
        if let Some(status) = status {
            writer.put_u32(attribute::STATUS, status);
        }
        writer.end_message(message);
        writer.into_bytes()
    }

    fn read(bytes: &[u8]) -> Option<(Flow, Forget)> {
        flow(&messages(bytes).next()?)
    }

    #[test]
    fn a_flow_is_read_with_both_directions() {
        let (flow, forget) = read(&sample(17, Some(5), None)).expect("a flow");
        assert_eq!(
            flow.to_string(),
            "udp 10.0.0.1:1000 to 10.96.0.1:53, answered by 10.244.0.7:5353"
        );
        assert!(flow.is_redirected());
        assert_eq!((forget.id, forget.zone), ([1, 2, 3, 4], Some([0, 5])));
        assert!(read(&sample(132, None, None)).is_some(), "SCTP has ports too");
        assert!(read(&sample(1, None, None)).is_none(), "ICMP is no protocol of Services");
    }

    #[test]
    fn a_flow_is_unreplied_only_if_the_kernel_says_so() {
        let with_status =
            |status: Option<u32>| read(&sample(6, None, status)).expect("a flow").0.replied;
        // IPS_CONFIRMED, IPS_SEEN_REPLY, IPS_ASSURED
        for (status, replied) in
            [(None, true), (Some(8), false), (Some(8 | 2), true), (Some(8 | 4 | 2), true)]
        {
            assert_eq!(with_status(status), replied, "{status:?}");
        }
    }

    #[test]
    fn a_request_to_forget_always_names_its_flow() {
        let (_, forget) = read(&sample(17, Some(5), None)).expect("a flow");
        for wanted in [forget.clone(), Forget { zone: None, ..forget }] {
            let mut writer = Writer::default();
            forget_request(&mut writer, Family::V4, &wanted, 9);
            let request = messages(writer.bytes()).next().expect("it was written");
            assert_eq!((request.kind, request.sequence), (DELETE, 9));
            let body = request.body();
            assert_eq!(find(body, attribute::TUPLE_ORIG), Some(&*wanted.tuple));
            assert_eq!(find(body, attribute::ID), Some(&wanted.id[..]));
            assert_eq!(find(body, attribute::ZONE), wanted.zone.as_ref().map(|z| &z[..]));
        }
    }

    #[test]
    fn a_message_that_is_cut_off_is_no_flow() {
        let whole = sample(17, None, None);
        for len in 0..whole.len() {
            let mut cut = whole[..len].to_vec();
            if let Some(length) = cut.first_chunk_mut::<4>() {
                *length = u32::try_from(len).expect("short").to_ne_bytes();
            }
            assert!(read(&cut).is_none(), "the first {len} bytes");
        }
    }
}
