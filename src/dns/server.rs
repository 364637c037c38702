//! The zone on sockets: hickory reads questions and writes answers, truncated where UDP ends.

use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use hickory_server::net::runtime::Time;
use hickory_server::proto::op::{Metadata, ResponseCode};
use hickory_server::proto::rr::rdata::{CNAME, NS, PTR, SOA, SRV, TXT};
use hickory_server::proto::rr::{Name, RData, Record as Wire, RecordType};
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo, Server};
use hickory_server::zone_handler::MessageResponseBuilder;
use tokio::net::{TcpListener, UdpSocket};

use crate::zone::{Answer, Code, Data, Record, Type, Zone};

/// How long answers may be kept (CoreDNS's 5 seconds for names of the cluster).
const TTL: u32 = 5;
/// How long a TCP connection may be idle.
const IDLE: Duration = Duration::from_secs(10);
/// Answers that wait for a slow TCP client.
const WAITING: usize = 16;

/// A zone that a server reads and somebody else keeps current.
pub type Shared = Arc<RwLock<Zone>>;

/// Serves until it is dropped.
pub async fn serve(zone: Shared, sockets: Vec<UdpSocket>, listeners: Vec<TcpListener>) {
    let mut server = Server::new(Answers(zone));
    for socket in sockets {
        server.register_socket(socket);
    }
    for listener in listeners {
        server.register_listener(listener, IDLE, WAITING);
    }
    if let Err(error) = server.block_until_done().await {
        tracing::warn!(%error, "cluster DNS ended");
    }
}

struct Answers(Shared);

#[async_trait::async_trait]
impl RequestHandler for Answers {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        mut respond: R,
    ) -> ResponseInfo {
        let mut metadata = Metadata::response_from_request(&request.metadata);
        let failed = ResponseInfo::from(hickory_server::proto::op::Header {
            metadata,
            counts: Default::default(),
        });
        let answer = request.request_info().ok().map(|info| {
            let name = info.query.name().to_string();
            let zone = self.0.read().unwrap_or_else(PoisonError::into_inner);
            zone.lookup(&name, kind(info.query.query_type()))
        });
        metadata.authoritative = true;
        metadata.response_code = match answer.as_ref().map(|answer| answer.code) {
            None => ResponseCode::FormErr,
            Some(Code::Good) => ResponseCode::NoError,
            Some(Code::NoSuchName) => ResponseCode::NXDomain,
            Some(Code::Refused) => ResponseCode::Refused,
        };
        let (records, authority, additional) = answer.map(wire).unwrap_or_default();
        let message = MessageResponseBuilder::from_message_request(request).build(
            metadata,
            records.iter(),
            std::iter::empty(),
            authority.iter(),
            additional.iter(),
        );
        // A client that is gone needs no answer.
        respond.send_response(message).await.unwrap_or(failed)
    }
}

fn kind(kind: RecordType) -> Type {
    match kind {
        RecordType::A => Type::A,
        RecordType::AAAA => Type::Aaaa,
        RecordType::SRV => Type::Srv,
        RecordType::PTR => Type::Ptr,
        RecordType::CNAME => Type::Cname,
        RecordType::TXT => Type::Txt,
        RecordType::SOA => Type::Soa,
        RecordType::NS => Type::Ns,
        _ => Type::Other,
    }
}

fn wire(answer: Answer) -> (Vec<Wire>, Vec<Wire>, Vec<Wire>) {
    let all = |records: Vec<Record>| records.iter().filter_map(encode).collect();
    (all(answer.records), all(answer.authority.into_iter().collect()), all(answer.additional))
}

/// A record as hickory has it; one whose name is none is left out.
fn encode(record: &Record) -> Option<Wire> {
    let name = |text: &str| Name::from_ascii(format!("{text}.")).ok();
    let data = match &record.data {
        Data::Address(IpAddr::V4(ip)) => RData::A((*ip).into()),
        Data::Address(IpAddr::V6(ip)) => RData::AAAA((*ip).into()),
        Data::Srv { port, weight, target } => {
            RData::SRV(SRV::new(0, *weight, *port, name(target)?))
        }
        Data::Ptr(target) => RData::PTR(PTR(name(target)?)),
        Data::Cname(target) => RData::CNAME(CNAME(name(target)?)),
        Data::Ns(target) => RData::NS(NS(name(target)?)),
        Data::Txt(text) => RData::TXT(TXT::new(vec![text.clone()])),
        Data::Soa { server, mailbox } => {
            RData::SOA(SOA::new(name(server)?, name(mailbox)?, 1, 7200, 1800, 86400, TTL))
        }
    };
    Some(Wire::from_rdata(name(&record.name)?, TTL, data))
}
