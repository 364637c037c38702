//! The kernel of the tests: IPVS, a device with addresses, and the service table, as strict as the kernel
//! about what exists. It can stop after any number of operations.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::data_path::{reached, translation};
use super::kernel::{Kernel, KernelError};
use super::virtual_services::Reach;
use crate::service_table::strict_kernel::{Kernel as Table, Model};
use crate::service_table::{FrontendClass, KernelTable, SetId, endpoint_of, frontend_key};
use sluice_core::net::{Family, Protocol};
use sluice_core::plan::{Address, SourceClass};
use sluice_kernel::Refusal;
use sluice_kernel::dummy::DummyOp;
use sluice_kernel::ipvs::{Destination, IpvsError, Key, ObservedDestination, Op, Service};
use sluice_kernel::nft::{
    self, ApplyError, Element, Listening, NftError, Observed, Ops as NftOps, Set,
};

type Destinations = BTreeMap<(IpAddr, u16), Destination>;

/// All that the mode writes to.
#[derive(Debug, Clone)]
pub(super) struct Machine {
    pub(super) table: Table,
    pub(super) services: BTreeMap<Key, (Service, Destinations)>,
    /// None without a device.
    pub(super) addresses: Option<BTreeSet<IpAddr>>,
    /// Connections of a destination.
    pub(super) connections: BTreeMap<(Key, IpAddr, u16), u32>,
    /// How many more operations are applied; after that, everything fails.
    pub(super) budget: Option<usize>,
    /// Virtual services of this protocol are refused.
    pub(super) unsupported: Option<Protocol>,
    pub(super) now: Instant,
    /// The number of applied operations; a transaction of the table is one.
    pub(super) done: usize,
    /// The number of reads.
    pub(super) asked: usize,
}

impl Default for Machine {
    fn default() -> Machine {
        Machine {
            table: Table::default(),
            services: BTreeMap::new(),
            addresses: None,
            connections: BTreeMap::new(),
            budget: None,
            unsupported: None,
            now: Instant::now(),
            done: 0,
            asked: 0,
        }
    }
}

/// The outcome for a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    Endpoints(BTreeSet<(IpAddr, u16)>),
    Reject,
    Drop,
    /// It is sent to an address that no endpoint has.
    Lost(String),
}

impl Machine {
    /// The outcome for a client of a frontend.
    pub(super) fn answer(&self, family: Family, at: &Address, from: SourceClass) -> Answer {
        let protocol = match *at {
            Address::Vip { protocol, .. } | Address::NodePort { protocol, .. } => protocol,
        };
        let (ip, port) = match sent(&self.table.model, family, at, from) {
            Sent::Virtual(ip, port) => (ip, port),
            Sent::Reject => return Answer::Reject,
            Sent::Drop => return Answer::Drop,
            Sent::Pass => return Answer::Lost("it is not taken".to_owned()),
        };
        if !self.addresses.iter().flatten().any(|address| *address == ip) {
            return Answer::Lost(format!("{ip} is no address of this node"));
        }
        let key = Key::Address { ip, protocol, port };
        let Some((_, destinations)) = self.services.get(&key) else {
            return Answer::Lost(format!("there is no virtual service {key}"));
        };
        let open = destinations.iter().filter(|(_, to)| to.weight > 0);
        Answer::Endpoints(open.map(|(at, _)| *at).collect())
    }

    /// Whether one more operation is applied.
    fn spend(&mut self) -> bool {
        match &mut self.budget {
            Some(0) => false,
            Some(left) => {
                *left -= 1;
                self.done += 1;
                true
            }
            None => {
                self.done += 1;
                true
            }
        }
    }

    fn change(&mut self, op: &Op) -> Result<(), i32> {
        let (esrch, enoent, eexist, unsupported) = (3, 2, 17, 93);
        let key = op.key();
        if let Op::AddService(service) = op {
            if matches!(key, Key::Address { protocol, .. } if Some(protocol) == self.unsupported) {
                return Err(unsupported);
            }
            let new = (service.clone(), Destinations::new());
            return match self.services.insert(key, new) {
                None => Ok(()),
                Some(before) => {
                    self.services.insert(key, before);
                    Err(eexist)
                }
            };
        }
        let (service, destinations) = self.services.get_mut(&key).ok_or(esrch)?;
        match op {
            Op::AddService(_) => {}
            Op::SetService(new) => *service = new.clone(),
            Op::DeleteService(_) => {
                self.services.remove(&key);
            }
            Op::AddDestination(_, to) => {
                if destinations.contains_key(&(to.ip, to.port)) {
                    return Err(eexist);
                }
                destinations.insert((to.ip, to.port), *to);
            }
            Op::SetDestination(_, to) => {
                *destinations.get_mut(&(to.ip, to.port)).ok_or(enoent)? = *to;
            }
            Op::DeleteDestination(_, ip, port) => {
                destinations.remove(&(*ip, *port)).ok_or(enoent)?;
            }
        }
        Ok(())
    }

    fn change_address(&mut self, op: &DummyOp) -> Result<(), i32> {
        let (enodev, eexist, absent) = (19, 17, 99);
        match op {
            DummyOp::Create => match self.addresses {
                Some(_) => return Err(eexist),
                None => self.addresses = Some(BTreeSet::new()),
            },
            DummyOp::Add(ip) => {
                if !self.addresses.as_mut().ok_or(enodev)?.insert(*ip) {
                    return Err(eexist);
                }
            }
            DummyOp::Remove(ip) => {
                if !self.addresses.as_mut().ok_or(enodev)?.remove(ip) {
                    return Err(absent);
                }
            }
        }
        Ok(())
    }
}

/// The machine, as the mode and its table hold it.
#[derive(Debug, Clone, Default)]
pub(super) struct Handle(pub(super) Arc<Mutex<Machine>>);

impl Handle {
    pub(super) fn new(machine: Machine) -> Handle {
        Handle(Arc::new(Mutex::new(machine)))
    }

    pub(super) fn machine(&self) -> MutexGuard<'_, Machine> {
        self.0.lock().expect("no test panics while it holds this")
    }

    pub(super) fn wait(&self, seconds: u64) {
        self.machine().now += Duration::from_secs(seconds);
    }

    fn ask(&self) -> Result<MutexGuard<'_, Machine>, KernelError> {
        let mut machine = self.machine();
        machine.asked += 1;
        if machine.budget == Some(0) { Err(IpvsError::NotPermitted.into()) } else { Ok(machine) }
    }

    fn each<T>(
        &self,
        ops: &[T],
        change: impl Fn(&mut Machine, &T) -> Result<(), i32>,
    ) -> Result<Vec<Result<(), Refusal>>, KernelError> {
        let mut machine = self.machine();
        let mut answers = Vec::new();
        for op in ops {
            if !machine.spend() {
                return Err(IpvsError::NotPermitted.into());
            }
            let answer = change(&mut machine, op);
            answers.push(answer.map_err(|errno| Refusal { errno, text: None }));
        }
        Ok(answers)
    }
}

impl Kernel for Handle {
    fn services(&mut self) -> Result<Vec<Service>, KernelError> {
        Ok(self.ask()?.services.values().map(|(service, _)| service.clone()).collect())
    }

    fn destinations(&mut self, key: &Key) -> Result<Vec<ObservedDestination>, KernelError> {
        let machine = self.ask()?;
        let all = machine.services.get(key).into_iter().flat_map(|(_, all)| all.values());
        let all = all.map(|to| ObservedDestination {
            destination: *to,
            active: machine.connections.get(&(*key, to.ip, to.port)).copied().unwrap_or(0),
            inactive: 0,
            persistent: 0,
        });
        Ok(all.collect())
    }

    fn addresses(&mut self) -> Result<Option<BTreeSet<IpAddr>>, KernelError> {
        Ok(self.ask()?.addresses.clone())
    }

    fn change_services(&mut self, ops: &[Op]) -> Result<Vec<Result<(), Refusal>>, KernelError> {
        self.each(ops, Machine::change)
    }

    fn change_addresses(
        &mut self,
        ops: &[DummyOp],
    ) -> Result<Vec<Result<(), Refusal>>, KernelError> {
        self.each(ops, Machine::change_address)
    }

    fn now(&self) -> Instant {
        self.machine().now
    }
}

impl KernelTable for Handle {
    fn apply(&mut self, ops: &NftOps) -> Result<(), ApplyError> {
        let mut machine = self.machine();
        if !machine.spend() {
            return Err(NftError::NotPermitted.into());
        }
        machine.table.apply(ops)
    }

    fn dump(&mut self) -> Result<Option<Observed>, NftError> {
        self.machine().table.dump()
    }

    fn elements(&mut self, set: &Set) -> Result<Vec<Element>, NftError> {
        self.machine().table.elements(set)
    }

    fn generation(&mut self) -> Result<u32, NftError> {
        self.machine().table.generation()
    }

    fn listen(&mut self) -> Result<Listening, NftError> {
        self.machine().table.listen()
    }

    fn drifted(&mut self) -> bool {
        self.machine().table.drifted()
    }
}

/// Where the table sends traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sent {
    /// To a virtual service.
    Virtual(IpAddr, u16),
    Reject,
    Drop,
    /// Nothing is done about it.
    Pass,
}

/// Where traffic to a frontend is sent in the table: from outside, or from a pod.
fn sent(table: &Model, family: Family, at: &Address, from: SourceClass) -> Sent {
    let key = frontend_key(at);
    let class = FrontendClass::of(at);
    let element = |id: SetId, key: &nft::Key| table.sets.get(&id.name())?.1.get(key);
    let split = element(SetId::Split(class), &key).is_some();
    let looked_up = if split && from == SourceClass::Anyone { class.local() } else { class };
    let translated = element(translation(looked_up), &key)
        .and_then(|element| endpoint_of(family, &element.value))
        // What is translated to itself stays what it is.
        .filter(|(ip, port)| !matches!(at, Address::Vip { ip: own, port: at, .. } if (own, at) == (ip, port)));
    let (protocol, to) = match (*at, translated) {
        (Address::Vip { protocol, .. } | Address::NodePort { protocol, .. }, Some(to)) => {
            (protocol, Some(to))
        }
        (Address::Vip { ip, protocol, port }, None) => (protocol, Some((ip, port))),
        (Address::NodePort { protocol, .. }, None) => (protocol, None),
    };
    if translated.is_none() && element(SetId::Reject(class), &key).is_some() {
        return Sent::Reject;
    }
    if translated.is_none() && element(SetId::Drop(class), &key).is_some() {
        return Sent::Drop;
    }
    let Some((ip, port)) = to else { return Sent::Pass };
    let address = nft::Key::new().address(ip);
    if element(SetId::ClusterIps, &address).is_none() {
        return Sent::Pass;
    }
    let virtual_service = address.protocol(protocol).port(port);
    let direct = element(reached(Reach::Direct), &virtual_service).is_some();
    let indirect = element(reached(Reach::Translated), &virtual_service).is_some();
    match direct || translated.is_some() && indirect {
        true => Sent::Virtual(ip, port),
        false => Sent::Reject,
    }
}
