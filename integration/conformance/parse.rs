//! Reading case files. The format is described in `integration/cases/README.md`.

use std::collections::BTreeMap;
use std::path::Path;

use sluice_core::net::{Family, Protocol};

use super::case::{
    Case, Endpoint, Expected, ExpectedPod, NodeState, PacketLine, Port, Service, Slice, SourceSeen,
    Step, Write,
};
use super::mode::Mode;
use super::plan;

type Parsed<T> = Result<T, String>;

/// Reads all case files of a directory, in the order of their names.
pub(crate) fn read_all(directory: &Path) -> Parsed<Vec<Case>> {
    let listed = std::fs::read_dir(directory).map_err(|e| format!("{}: {e}", directory.display()));
    let mut files: Vec<_> = listed?.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.retain(|file| file.extension().is_some_and(|e| e == "case"));
    files.sort();
    files.iter().map(|file| read(file)).collect()
}

fn read(file: &Path) -> Parsed<Case> {
    let text = std::fs::read_to_string(file).map_err(|e| format!("{}: {e}", file.display()))?;
    let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    parse(&name, &text)
}

/// Parses the text of a file.
pub(crate) fn parse(name: &str, text: &str) -> Parsed<Case> {
    let mut case = Case { name: name.to_owned(), ..Case::default() };
    let mut lines = text.lines().enumerate().peekable();
    while let Some((number, line)) = lines.next() {
        let at = |problem: String| format!("{name}.case:{}: {problem}", number + 1);
        let Some((head, rest)) = heading(line) else {
            if line.starts_with(' ') || !case.spec.is_empty() && !line.trim().is_empty() {
                return Err(at(format!("{line:?} belongs to no section")));
            }
            continue; // the story
        };
        let mut body = Vec::new();
        while let Some((_, line)) =
            lines.next_if(|(_, line)| line.starts_with(' ') || line.trim().is_empty())
        {
            body.push(line.trim_end());
        }
        while body.last().is_some_and(|line| line.is_empty()) {
            body.pop();
        }
        section(&mut case, &head, rest, &body).map_err(at)?;
    }
    if case.spec.is_empty() || case.steps.iter().all(|step| step.packets.is_empty()) {
        return Err(format!("{name}.case: needs spec: and packets:"));
    }
    Ok(case)
}

const KEYWORDS: [&str; 12] = [
    "spec",
    "settings",
    "node",
    "service",
    "slice",
    "servicecidr",
    "raw",
    "packets",
    "step",
    "delete",
    "except",
    "note",
];

/// `service web: …` is the heading `service web` and the rest of the line.
fn heading(line: &str) -> Option<(Vec<&str>, &str)> {
    if line.starts_with(' ') {
        return None;
    }
    let (head, rest) = line.split_once(':')?;
    let words: Vec<&str> = head.split_whitespace().collect();
    KEYWORDS.contains(words.first()?).then_some((words, rest.trim()))
}

fn section(case: &mut Case, head: &[&str], rest: &str, body: &[&str]) -> Parsed<()> {
    let words: Vec<&str> = rest.split_whitespace().collect();
    if case.steps.is_empty() && !matches!(head[0], "spec" | "settings" | "except" | "note") {
        case.steps.push(Step::default());
    }
    let step = case.steps.last_mut();
    match (head, step) {
        (["spec"], _) => case.spec = words.iter().map(|w| w.trim_end_matches(',').into()).collect(),
        (["settings"], _) => {
            for word in words {
                let (key, value) = pair(word)?;
                case.settings.0.insert(key.to_owned(), value.to_owned());
            }
        }
        (["except", mode], _) => {
            case.except.insert((*mode).to_owned(), rest.to_owned());
        }
        (["note"], _) => {}
        (["step"], Some(first)) if first.writes.is_empty() && first.packets.is_empty() => {
            first.title = rest.to_owned();
        }
        (["step"], _) => case.steps.push(Step { title: rest.to_owned(), ..Step::default() }),
        (["node"], Some(step)) => step.writes.push(Write::Node(node(&words)?)),
        (["service", name], Some(step)) => {
            step.writes.push(Write::Service(service(name, &words, body)?));
        }
        (["slice", name, "of", owner], Some(step)) => {
            step.writes.push(Write::Slice(slice(name, owner, &words, body)?));
        }
        (["servicecidr", name], Some(step)) => {
            let (name, prefix) = ((*name).to_owned(), rest.to_owned());
            step.writes.push(Write::ServiceCidr { name, prefix });
        }
        (["raw", name], Some(step)) => {
            let yaml = body.join("\n");
            step.writes.push(Write::Raw { name: (*name).to_owned(), yaml });
        }
        (["delete"], Some(step)) => {
            step.writes.extend(words.iter().map(|name| Write::Delete((*name).to_owned())));
        }
        (["packets", ..], Some(step)) => {
            let only = head.get(1).map(|word| family(word)).transpose()?;
            for line in body.iter().filter(|line| !line.trim().is_empty()) {
                step.packets.push(packet(line.trim(), only)?);
            }
        }
        _ => return Err(format!("{} is no heading", head.join(" "))),
    }
    Ok(())
}

fn pair(word: &str) -> Parsed<(&str, &str)> {
    word.split_once('=').ok_or_else(|| format!("{word:?} is not of the form key=value"))
}

fn number<T: std::str::FromStr>(text: &str) -> Parsed<T> {
    text.parse().map_err(|_| format!("{text:?} is not what is expected here"))
}

fn family(word: &str) -> Parsed<Family> {
    match word {
        "v4" => Ok(Family::V4),
        "v6" => Ok(Family::V6),
        other => Err(format!("{other:?} is no family; use v4 or v6")),
    }
}

fn protocol(word: &str) -> Parsed<Protocol> {
    let found = Protocol::ALL.into_iter().find(|p| p.to_string() == word);
    found.ok_or_else(|| format!("{word:?} is no protocol"))
}

fn node(words: &[&str]) -> Parsed<NodeState> {
    let mut node = NodeState::default();
    for word in words {
        match pair(word)? {
            ("zone", zone) => node.zone = Some(zone.to_owned()),
            ("address", ip) => node.addresses.push(number(ip)?),
            (key, _) => return Err(format!("a node has no {key:?}")),
        }
    }
    Ok(node)
}

fn service(name: &str, words: &[&str], body: &[&str]) -> Parsed<Service> {
    let mut service = Service { name: name.to_owned(), ..Service::default() };
    for word in words {
        match word.split_once('=') {
            Some(("families", only)) => service.only = Some(family(only)?),
            Some((key, value)) => service.fields.push((key.to_owned(), value.to_owned())),
            None if *word == "headless" => {}
            None if word.contains('.') => service.cluster_ip = Some(number(word)?),
            None => service.kind = (*word).to_owned(),
        }
    }
    for line in body {
        service.ports.push(port(line)?);
    }
    Ok(service)
}

/// `[NAME] NUMBER/PROTOCOL [node=NUMBER]`.
fn port(line: &str) -> Parsed<Port> {
    let mut port =
        Port { name: String::new(), number: 0, protocol: Protocol::Tcp, node_port: None };
    for word in line.split_whitespace() {
        if let Some(text) = word.strip_prefix("node=") {
            port.node_port = Some(number(text)?);
        } else if let Some((digits, proto)) = word.split_once('/') {
            (port.number, port.protocol) = (number(digits)?, protocol(proto)?);
        } else {
            port.name = word.to_owned();
        }
    }
    Ok(port)
}

fn slice(name: &str, owner: &str, words: &[&str], body: &[&str]) -> Parsed<Slice> {
    let mut slice = Slice { name: name.to_owned(), service: owner.to_owned(), ..Slice::default() };
    for word in words {
        if let Some(only) = word.strip_prefix("families=") {
            slice.only = Some(family(only)?);
            continue;
        }
        let (name, target) = word.split_once('=').unwrap_or(("", word));
        let (digits, proto) = target.split_once('/').unwrap_or((target, "tcp"));
        let port = if digits == "null" { None } else { Some(number(digits)?) };
        slice.ports.push((name.to_owned(), port, protocol(proto)?));
    }
    for line in body {
        slice.endpoints.push(endpoint(line)?);
    }
    Ok(slice)
}

fn endpoint(line: &str) -> Parsed<Endpoint> {
    let mut words = line.split_whitespace();
    let at = words.next().ok_or("an endpoint needs an address")?;
    let mut endpoint =
        Endpoint { at: at.to_owned(), node: plan::node_of(at), ..Endpoint::default() };
    let mut set = |list: &[(&str, bool)]| {
        endpoint.conditions = list.iter().map(|(k, v)| ((*k).to_owned(), *v)).collect();
    };
    let (mut second, mut node, mut zones, mut nodes) = (None, endpoint.node, vec![], vec![]);
    set(&[("ready", true), ("serving", true), ("terminating", false)]);
    let names = |text: &str| text.split(',').map(str::to_owned).collect::<Vec<_>>();
    for word in words {
        match (word, word.split_once('=')) {
            ("ready", _) => {}
            ("unready", _) => set(&[("ready", false), ("serving", false), ("terminating", false)]),
            ("terminating", _) => {
                set(&[("ready", false), ("serving", true), ("terminating", true)]);
            }
            ("stopped", _) => set(&[("ready", false), ("serving", false), ("terminating", true)]),
            ("unconditional", _) => set(&[]),
            (_, Some(("only", condition))) => {
                let (key, value) = condition.split_once(':').ok_or("only=NAME:true or :false")?;
                set(&[(key, number(value)?)]);
            }
            (_, Some(("on", on))) => node = (on != "none").then(|| on.to_owned()),
            (_, Some(("also", ip))) => second = Some(ip.to_owned()),
            (_, Some(("zones", list))) => zones = names(list),
            (_, Some(("nodes", list))) => nodes = names(list),
            _ => return Err(format!("an endpoint has no {word:?}")),
        }
    }
    Ok(Endpoint { second, node, zones, nodes, ..endpoint })
}

fn packet(line: &str, only: Option<Family>) -> Parsed<PacketLine> {
    let wrong = || format!("{line:?} is not of the form FROM -> TO:PORT/PROTOCOL EXPECTED");
    let (from, rest) = line.split_once("->").ok_or_else(wrong)?;
    let (target, expected) = rest.trim().split_once(' ').ok_or_else(wrong)?;
    let (expected, otherwise) = expected.split_once('|').unwrap_or((expected, ""));
    let (from, source_port) = match from.trim().split_once('#') {
        Some((host, port)) => (host, Some(number(port)?)),
        None => (from.trim(), None),
    };
    let (from, source) = match from.split_once('@') {
        Some((host, ip)) => (host, Some(number(ip)?)),
        None => (from, None),
    };
    let (target, proto) = target.split_once('/').unwrap_or((target, "tcp"));
    let (to, port) = target.split_once(':').ok_or_else(wrong)?;
    if plan::address_of(from, Family::V4).is_none() {
        return Err(format!("{from:?} is nobody"));
    }
    Ok(PacketLine {
        text: line.split_whitespace().collect::<Vec<_>>().join(" "),
        only,
        from: from.to_owned(),
        source,
        source_port,
        to: to.to_owned(),
        port: number(port)?,
        protocol: protocol(proto)?,
        expected: expectation(expected)?,
        otherwise: by_mode(otherwise)?,
    })
}

/// `MODE MODE: OUTCOME`, the outcome in modes that differ.
fn by_mode(text: &str) -> Parsed<BTreeMap<String, Expected>> {
    if text.is_empty() {
        return Ok(BTreeMap::new());
    }
    let (modes, outcome) = text.split_once(':').ok_or("after | comes MODE: OUTCOME")?;
    let outcome = expectation(outcome)?;
    let mut outcomes = BTreeMap::new();
    for name in modes.split_whitespace() {
        if !Mode::ALL.iter().any(|mode| mode.setting() == name) {
            return Err(format!("{name:?} is no mode"));
        }
        outcomes.insert(name.to_owned(), outcome.clone());
    }
    Ok(outcomes)
}

fn expectation(text: &str) -> Parsed<Expected> {
    let words: Vec<&str> = text.split_whitespace().collect();
    match words[..] {
        ["refuse"] => return Ok(Expected::Refuse),
        ["silence"] => return Ok(Expected::Silence),
        ["pass"] => return Ok(Expected::Pass),
        _ => {}
    }
    let mut pods: Vec<ExpectedPod> = Vec::new();
    for word in words {
        let seen = match word {
            "masquerade" => Some(SourceSeen::Masqueraded),
            "kept" => Some(SourceSeen::Kept),
            _ => None,
        };
        if seen.is_some() {
            // It holds for the pods before it that have none yet.
            pods.iter_mut().filter(|pod| pod.source.is_none()).for_each(|pod| pod.source = seen);
            continue;
        }
        let (name, port) = match word.split_once(':') {
            Some((name, port)) => (name, Some(number(port)?)),
            None => (word, None),
        };
        if plan::address_of(name, Family::V4).is_none() {
            return Err(format!("{word:?} is neither a pod nor an outcome"));
        }
        pods.push(ExpectedPod { name: name.to_owned(), port, source: None });
    }
    Ok(Expected::Pods(pods))
}
