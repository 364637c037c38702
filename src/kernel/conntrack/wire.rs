//! Messages of connection tracking as bytes.

use std::net::{IpAddr, SocketAddr};

use netlink_packet_core::{
    NLA_F_NESTED, NLA_HEADER_SIZE, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NlaBuffer, NlasIterator,
};

use super::{Flow, Part};
use crate::datagram::Message;
use sluice_core::net::{Family, Protocol};

/// Length of `struct nfgenmsg`, which follows a message's header.
const NFGENMSG: usize = 4;

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

/// How to name a flow to the kernel when it shall forget it.
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

/// Asks for flows of one protocol. Kernels before 5.15 do not look at their status, and send more.
pub(super) fn list_request(
    family: Family,
    protocol: Protocol,
    part: Part,
    sequence: u32,
) -> Vec<u8> {
    let mut bytes = Vec::new();
    message(&mut bytes, GET, NLM_F_DUMP, family, sequence, |bytes| {
        if part == Part::Unreplied {
            put(bytes, attribute::STATUS, &0_u32.to_be_bytes());
            put(bytes, attribute::STATUS_MASK, &SEEN_REPLY.to_be_bytes());
        }
        nest(bytes, attribute::TUPLE_ORIG, |bytes| {
            nest(bytes, tuple::PROTO, |bytes| put(bytes, tuple::NUM, &[protocol.number()]));
        });
        nest(bytes, attribute::FILTER, |bytes| {
            put(bytes, FILTER_ORIG_FLAGS, &FILTER_PROTO_NUM.to_ne_bytes());
        });
    });
    bytes
}

/// Asks for the flow, of which one direction has these ends.
pub(super) fn look_request(
    protocol: Protocol,
    source: SocketAddr,
    destination: SocketAddr,
    sequence: u32,
) -> Vec<u8> {
    let mut bytes = Vec::new();
    let octets = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let family = Family::of(source.ip());
    let (from, to) = match family {
        Family::V4 => (tuple::V4_SRC, tuple::V4_DST),
        Family::V6 => (tuple::V6_SRC, tuple::V6_DST),
    };
    message(&mut bytes, GET, NLM_F_ACK, family, sequence, |bytes| {
        nest(bytes, attribute::TUPLE_ORIG, |bytes| {
            nest(bytes, tuple::IP, |bytes| {
                put(bytes, from, &octets(source.ip()));
                put(bytes, to, &octets(destination.ip()));
            });
            nest(bytes, tuple::PROTO, |bytes| {
                put(bytes, tuple::NUM, &[protocol.number()]);
                put(bytes, tuple::SRC_PORT, &source.port().to_be_bytes());
                put(bytes, tuple::DST_PORT, &destination.port().to_be_bytes());
            });
        });
    });
    bytes
}

/// Asks for a flow that was read before.
pub(super) fn reread_request(family: Family, forget: &Forget, sequence: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    message(&mut bytes, GET, NLM_F_ACK, family, sequence, |bytes| name(bytes, forget));
    bytes
}

/// Asks to forget flows, one message each, numbered from `sequence` on; gives the last number. Only
/// the last one is always answered.
pub(super) fn forget_requests(family: Family, flows: &[Forget], sequence: u32) -> (Vec<u8>, u32) {
    let mut bytes = Vec::new();
    let mut last = sequence;
    for (index, forget) in flows.iter().enumerate() {
        last = sequence + u32::try_from(index).unwrap_or(u32::MAX);
        let flags = if index + 1 == flows.len() { NLM_F_ACK } else { 0 };
        message(&mut bytes, DELETE, flags, family, last, |bytes| name(bytes, forget));
    }
    (bytes, last)
}

/// What tells a flow from all others, those between the same ends included.
fn name(bytes: &mut Vec<u8>, forget: &Forget) {
    put(bytes, attribute::TUPLE_ORIG | NLA_F_NESTED, &forget.tuple);
    put(bytes, attribute::ID, &forget.id);
    if let Some(zone) = &forget.zone {
        put(bytes, attribute::ZONE, zone);
    }
}

/// Reads a flow, if the message is one of a protocol that Services can have.
pub(super) fn flow(message: &Message<'_>) -> Option<(Flow, Forget)> {
    if message.kind != NEW {
        return None;
    }
    let body = message.payload.get(NFGENMSG..)?;
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

/// Whether a message is a TCP connection that has ended, and is only remembered.
pub(super) fn has_ended(message: &Message<'_>) -> bool {
    const TCP: u16 = 1; // CTA_PROTOINFO_TCP
    const STATE: u16 = 1; // CTA_PROTOINFO_TCP_STATE
    const TIME_WAIT: u8 = 7; // TCP_CONNTRACK_TIME_WAIT, before TCP_CONNTRACK_CLOSE
    let body = message.payload.get(NFGENMSG..).unwrap_or_default();
    let tcp = find(body, attribute::PROTOINFO).and_then(|info| find(info, TCP));
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

/// The content of the first attribute of a kind.
fn find(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    let found = NlasIterator::new(bytes).map_while(Result::ok).find(|nla| nla.kind() == kind)?;
    let value: NlaBuffer<&[u8]> = found;
    value.into_inner().get(NLA_HEADER_SIZE..usize::from(value.length()))
}

fn message(
    bytes: &mut Vec<u8>,
    kind: u16,
    flags: u16,
    family: Family,
    sequence: u32,
    body: impl FnOnce(&mut Vec<u8>),
) {
    let start = bytes.len();
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(&(flags | NLM_F_REQUEST).to_ne_bytes());
    bytes.extend_from_slice(&sequence.to_ne_bytes());
    bytes.extend_from_slice(&[0; 4]);
    let nfproto = match family {
        Family::V4 => libc::NFPROTO_IPV4,
        Family::V6 => libc::NFPROTO_IPV6,
    };
    bytes.extend_from_slice(&[u8::try_from(nfproto).unwrap_or(0), 0, 0, 0]);
    body(bytes);
    let len = u32::try_from(bytes.len() - start).unwrap_or(u32::MAX);
    bytes[start..start + 4].copy_from_slice(&len.to_ne_bytes());
}

fn nest(bytes: &mut Vec<u8>, kind: u16, content: impl FnOnce(&mut Vec<u8>)) {
    let mut inner = Vec::new();
    content(&mut inner);
    put(bytes, kind | NLA_F_NESTED, &inner);
}

/// Writes an attribute. All that is written here is far shorter than an attribute can be: a tuple
/// has come out of one.
fn put(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let len = u16::try_from(NLA_HEADER_SIZE + value.len()).unwrap_or(u16::MAX);
    bytes.extend_from_slice(&len.to_ne_bytes());
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datagram::messages;

    fn tuple_of(protocol: u8, ips: [&[u8]; 2], ports: [u16; 2]) -> Vec<u8> {
        let kinds = if ips[0].len() == 4 { [1, 2] } else { [3, 4] };
        let mut bytes = Vec::new();
        nest(&mut bytes, tuple::IP, |b| {
            put(b, kinds[0], ips[0]);
            put(b, kinds[1], ips[1]);
        });
        nest(&mut bytes, tuple::PROTO, |b| {
            put(b, tuple::NUM, &[protocol]);
            put(b, tuple::SRC_PORT, &ports[0].to_be_bytes());
            put(b, tuple::DST_PORT, &ports[1].to_be_bytes());
        });
        bytes
    }

    /// A UDP flow from 10.0.0.1:1000 to 10.96.0.1:53, answered by 10.244.0.7:5353.
    fn sample(protocol: u8, zone: Option<u16>) -> Vec<u8> {
        let mut bytes = Vec::new();
        message(&mut bytes, NEW, 0, Family::V4, 7, |b| {
            let original = tuple_of(protocol, [&[10, 0, 0, 1], &[10, 96, 0, 1]], [1000, 53]);
            let reply = tuple_of(protocol, [&[10, 244, 0, 7], &[10, 0, 0, 1]], [5353, 1000]);
            put(b, attribute::TUPLE_ORIG | NLA_F_NESTED, &original);
            put(b, attribute::TUPLE_REPLY | NLA_F_NESTED, &reply);
            put(b, attribute::ID, &[1, 2, 3, 4]);
            if let Some(zone) = zone {
                put(b, attribute::ZONE, &zone.to_be_bytes());
            }
        });
        bytes
    }

    fn read(bytes: &[u8]) -> Option<(Flow, Forget)> {
        flow(&messages(bytes).next()?)
    }

    #[test]
    fn a_flow_is_read_with_both_directions() {
        let (flow, forget) = read(&sample(17, Some(5))).expect("a flow");
        assert_eq!(
            flow.to_string(),
            "udp 10.0.0.1:1000 to 10.96.0.1:53, answered by 10.244.0.7:5353"
        );
        assert!(flow.is_redirected());
        assert_eq!((forget.id, forget.zone), ([1, 2, 3, 4], Some([0, 5])));
        assert!(read(&sample(132, None)).is_some(), "SCTP has ports too");
        assert!(read(&sample(1, None)).is_none(), "ICMP is no protocol of Services");
    }

    #[test]
    fn a_flow_is_unreplied_only_if_the_kernel_says_so() {
        let with_status = |status: Option<u32>| {
            let mut bytes = sample(6, None);
            if let Some(status) = status {
                put(&mut bytes, attribute::STATUS, &status.to_be_bytes());
                let length = u32::try_from(bytes.len()).expect("short");
                bytes[..4].copy_from_slice(&length.to_ne_bytes());
            }
            read(&bytes).expect("a flow").0.replied
        };
        // IPS_CONFIRMED, IPS_SEEN_REPLY, IPS_ASSURED
        for (status, replied) in
            [(None, true), (Some(8), false), (Some(8 | 2), true), (Some(8 | 4 | 2), true)]
        {
            assert_eq!(with_status(status), replied, "{status:?}");
        }
    }

    #[test]
    fn a_request_to_forget_always_names_its_flow() {
        let (_, forget) = read(&sample(17, Some(5))).expect("a flow");
        let flows = vec![forget.clone(), Forget { zone: None, ..forget.clone() }];
        let (bytes, last) = forget_requests(Family::V4, &flows, 9);
        let requests: Vec<Message<'_>> = messages(&bytes).collect();
        assert_eq!((requests.len(), last), (2, 10));
        for (request, wanted) in requests.iter().zip(&flows) {
            assert_eq!(request.kind, DELETE);
            let body = &request.payload[NFGENMSG..];
            assert_eq!(find(body, attribute::TUPLE_ORIG), Some(&*wanted.tuple));
            assert_eq!(find(body, attribute::ID), Some(&wanted.id[..]));
            assert_eq!(find(body, attribute::ZONE), wanted.zone.as_ref().map(|z| &z[..]));
        }
        let acks: Vec<bool> = requests.iter().map(|r| r.flags & NLM_F_ACK != 0).collect();
        assert_eq!(acks, [false, true], "one answer for all");
        assert!(forget_requests(Family::V4, &[], 1).0.is_empty(), "nothing asks for nothing");
    }

    #[test]
    fn a_message_that_is_cut_off_is_no_flow() {
        let whole = sample(17, None);
        for len in 0..whole.len() {
            let mut cut = whole[..len].to_vec();
            if let Some(length) = cut.first_chunk_mut::<4>() {
                *length = u32::try_from(len).expect("short").to_ne_bytes();
            }
            assert!(read(&cut).is_none(), "the first {len} bytes");
        }
    }
}
