//! New connections by Service port, counted by elements of sets.
//!
//! The comment of each element names its owner, so that reading them needs no other state and they outlive
//! the daemon.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Mutex, PoisonError};

use super::frontends::FrontendClass;
use super::sets::{SetId, TABLE};
use sluice_core::model::{ServiceConnections, ServiceName};
use sluice_core::net::{Family, Protocol};
use sluice_core::plan::PortPlan;
use sluice_kernel::nft::{ElementCounter, Nft, NftError, TableName};

/// The longest comment of an element (`NFTNL_UDATA_COMMENT_MAXLEN` of libnftnl's `udata.h`, without the
/// zero at its end).
const LONGEST: usize = 127;

/// Reads counters from the kernel, through a socket of its own: a sync does not wait for it.
#[derive(Debug)]
pub struct ServiceCounters(Mutex<Nft>);

impl ServiceCounters {
    /// Opens nf_tables of the current network namespace.
    ///
    /// # Errors
    /// If the kernel has no nf_tables, or does not let this process use it.
    pub fn open() -> Result<ServiceCounters, NftError> {
        Ok(ServiceCounters(Mutex::new(Nft::open()?)))
    }

    /// What all frontends of a family counted.
    ///
    /// # Errors
    /// If the kernel cannot be read.
    pub fn read(&self, family: Family) -> Result<Vec<ServiceConnections>, NftError> {
        let mut nft = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let table = TableName::new(family, TABLE);
        let mut all = Vec::new();
        for class in [FrontendClass::Vip, FrontendClass::NodePort] {
            let counts = nft.element_counters(&table, &SetId::Counters(class).name())?;
            all.extend(counts.iter().filter_map(|count| service_count(family, class, count)));
        }
        Ok(all)
    }
}

/// The owner of a counter as in its element's comment; `None` if that is too long.
pub(super) fn owner(name: &ServiceName, port: &PortPlan) -> Option<String> {
    let text = format!("{name}:{}", port.name);
    (text.len() <= LONGEST).then_some(text)
}

fn service_count(
    family: Family,
    class: FrontendClass,
    count: &ElementCounter,
) -> Option<ServiceConnections> {
    let (name, port) = count.comment.as_deref()?.split_once(':')?;
    let (namespace, service) = name.split_once('/')?;
    let key = count.key.as_bytes();
    let (ip, rest) = match class {
        FrontendClass::Vip | FrontendClass::VipLocal => {
            let (ip, rest) = key.split_at_checked(family.address_len())?;
            (Some(address(ip)?), rest)
        }
        FrontendClass::NodePort | FrontendClass::NodePortLocal => (None, key),
    };
    // Each part is padded to four bytes.
    let [protocol, _, _, _, high, low, ..] = *rest else { return None };
    let number = u16::from_be_bytes([high, low]);
    Some(ServiceConnections {
        family,
        service: ServiceName::new(namespace, service),
        port: port.to_owned(),
        protocol: Protocol::from_number(protocol)?,
        address: match ip {
            Some(ip) => SocketAddr::new(ip, number).to_string(),
            None => format!(":{number}"),
        },
        connections: count.counted.packets,
    })
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = || Some(IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?)));
    let v6 = || Some(IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?)));
    v4().or_else(v6)
}
