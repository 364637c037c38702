//! `sluice status`: how far the daemon is.

use std::fmt::Write;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;

use super::{Ask, Output, client, print};
use crate::admin_socket::wire::{FamilyStatus, ServiceStatus, Services, State, Status as Answer};

/// The flags of the command.
#[derive(Debug, Args)]
pub(super) struct Status {
    /// One Service: NAME, NAME.NAMESPACE or NAMESPACE/NAME.
    service: Option<String>,
    #[command(flatten)]
    ask: Ask,
    /// How it is printed.
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    output: Output,
}

impl Status {
    /// Exits with 1 if something is not as it should be.
    pub(super) fn run(self) -> Result<ExitCode> {
        let path = match &self.service {
            Some(service) => format!("/v1/services?service={}", client::encoded(service)),
            None => "/v1/status".to_owned(),
        };
        let body = client::get(&self.ask.socket, &path)?;
        let other = "the daemon answers in other words; it is another version";
        let (text, good) = match self.service {
            Some(_) => {
                let services: Services = serde_json::from_str(&body).context(other)?;
                let good = services.services.iter().all(|it| it.state == State::Programmed);
                (of_services(&services.services), good)
            }
            None => {
                let answer: Answer = serde_json::from_str(&body).context(other)?;
                let failing = answer.families.iter().any(|family| family.failing.is_some());
                let good = answer.unsettled.is_empty() && answer.lost.is_empty() && !failing;
                (of_all(&answer), good)
            }
        };
        print(if self.output == Output::Json { &body } else { &text });
        Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

fn of_all(answer: &Answer) -> String {
    let Answer { node, mode, version, started, .. } = answer;
    let mut text = format!("node {node}, mode {mode}, {version}, since {started}\n");
    // Writing to a string does not fail.
    for lost in &answer.lost {
        let _ = writeln!(
            text,
            "no changes of {} arrive since {}; the rules stay",
            lost.resource, lost.since
        );
    }
    for family in &answer.families {
        let FamilyStatus { family, services, pending, refused, synced, failing } = family;
        let synced = synced.as_deref().unwrap_or("never");
        let _ = writeln!(
            text,
            "{family}: {services} Services, {pending} pending, {refused} refused; last sync {synced}"
        );
        if let Some(failing) = failing {
            let _ = writeln!(text, "  failing since {}: {}", failing.since, failing.reason);
        }
    }
    text + &of_services(&answer.unsettled)
}

fn of_services(services: &[ServiceStatus]) -> String {
    let mut text = String::new();
    for ServiceStatus { service, family, state, since, reason, ports } in services {
        let state = match state {
            State::Programmed => "programmed",
            State::Pending => "pending",
            State::Refused => "refused",
            State::Unserved => "not served: it has no address here, or another Service has it",
        };
        let place = if family.is_empty() { String::new() } else { format!(" {family}") };
        let since = since.as_ref().map(|since| format!(" since {since}")).unwrap_or_default();
        let _ = writeln!(text, "{service}{place}: {state}{since}");
        if let Some(reason) = reason {
            let _ = writeln!(text, "  {reason}");
        }
        for port in ports {
            let name = if port.name.is_empty() { "port" } else { &port.name };
            let (here, all) = (port.local.len(), port.cluster.len());
            let addresses = port.addresses.join(", ");
            let _ =
                writeln!(text, "  {name}: {addresses}; {all} endpoints, {here} for policy Local");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin_socket::wire::{Failing, Lost, PortStatus};

    #[test]
    fn what_is_not_as_it_should_be_is_said_with_its_reason() {
        let at = || "2026-01-01T00:00:00Z".to_owned();
        let web = ServiceStatus {
            service: "default/web".to_owned(),
            family: "IPv4".to_owned(),
            state: State::Refused,
            since: Some(at()),
            reason: Some("the set is full".to_owned()),
            ports: vec![PortStatus {
                name: "http".to_owned(),
                addresses: vec!["10.96.0.80:80/tcp".to_owned()],
                cluster: vec!["10.244.1.2:8080".parse().expect("an address")],
                local: Vec::new(),
            }],
        };
        let answer = Answer {
            api_version: String::new(),
            kind: String::new(),
            version: "v1".to_owned(),
            node: "node-a".to_owned(),
            mode: "nftables".to_owned(),
            started: at(),
            now: at(),
            lost: vec![Lost { resource: "services".to_owned(), since: at() }],
            families: vec![FamilyStatus {
                family: "IPv4".to_owned(),
                services: 3,
                pending: 0,
                refused: 1,
                synced: None,
                failing: Some(Failing { reason: "no kernel".to_owned(), since: at() }),
            }],
            unsettled: vec![web],
        };
        let expected = "node node-a, mode nftables, v1, since 2026-01-01T00:00:00Z\n\
            no changes of services arrive since 2026-01-01T00:00:00Z; the rules stay\n\
            IPv4: 3 Services, 0 pending, 1 refused; last sync never\n  \
              failing since 2026-01-01T00:00:00Z: no kernel\n\
            default/web IPv4: refused since 2026-01-01T00:00:00Z\n  \
              the set is full\n  \
              http: 10.96.0.80:80/tcp; 1 endpoints, 0 for policy Local\n";
        assert_eq!(of_all(&answer), expected);
    }
}
