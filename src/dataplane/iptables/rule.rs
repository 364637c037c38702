//! Rules as values; `Display` is the line of `iptables-restore`, and also exactly what `iptables-save`
//! prints, so that desired and observed rules are compared as text.

use std::fmt;
use std::sync::Arc;

use ipnet::IpNet;

use sluice_core::net::{Family, Protocol};
use sluice_core::plan::PoolEndpoint;

/// A rule without the chain that it is in.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Rule {
    source: Option<(Sense, IpNet)>,
    destination: Option<(Sense, IpNet)>,
    input: Option<(Sense, String)>,
    protocol: Option<Protocol>,
    pub(super) matches: Vec<Match>,
    pub(super) target: Option<Target>,
}

/// Whether a condition must hold or must not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sense {
    Is,
    IsNot,
}

/// A condition of a module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Match {
    Comment(String),
    DestinationPort(Protocol, u16, u16),
    CtState(Sense, &'static str),
    /// Its destination was translated, and was in this prefix before.
    TranslatedFrom(IpNet),
    /// All bits of the mask are set in the packet's mark.
    Mark(Sense, u32),
    SourceIsLocal,
    DestinationIsLocal,
    /// True for so many of 2^31 packets.
    Random(u32),
    /// The client used this endpoint at most so many seconds ago.
    Recently {
        list: Arc<str>,
        seconds: u32,
        family: Family,
    },
    /// Remembers the client.
    Remember {
        list: Arc<str>,
        family: Family,
    },
    /// Source and destination are the same address.
    ToItself(Family),
}

/// What a rule does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    Chain(Arc<str>),
    Accept,
    Drop,
    Return,
    /// By a TCP reset.
    Reset,
    /// By an ICMP error.
    Reject(Family),
    /// Sets the bits of the mask.
    SetMark(u32),
    /// Turns the bits of the mask over.
    FlipMark(u32),
    Masquerade {
        random_fully: bool,
    },
    Dnat(PoolEndpoint),
}

impl Rule {
    pub(super) fn new() -> Rule {
        Rule::default()
    }

    pub(super) fn from(mut self, sense: Sense, net: IpNet) -> Rule {
        self.source = Some((sense, net));
        self
    }

    pub(super) fn to(mut self, sense: Sense, net: IpNet) -> Rule {
        self.destination = Some((sense, net));
        self
    }

    /// An interface; a `+` at the end of the name matches anything.
    pub(super) fn through(mut self, sense: Sense, interface: String) -> Rule {
        self.input = Some((sense, interface));
        self
    }

    pub(super) fn protocol(mut self, protocol: Protocol) -> Rule {
        self.protocol = Some(protocol);
        self
    }

    pub(super) fn port(self, protocol: Protocol, port: u16) -> Rule {
        self.ports(protocol, port, port)
    }

    pub(super) fn ports(self, protocol: Protocol, low: u16, high: u16) -> Rule {
        self.protocol(protocol).when(Match::DestinationPort(protocol, low, high))
    }

    pub(super) fn comment(self, text: impl fmt::Display) -> Rule {
        self.when(Match::Comment(text.to_string()))
    }

    pub(super) fn when(mut self, condition: Match) -> Rule {
        self.matches.push(condition);
        self
    }

    pub(super) fn then(mut self, target: Target) -> Rule {
        self.target = Some(target);
        self
    }

    pub(super) fn jump(self, chain: &str) -> Rule {
        self.then(Target::Chain(chain.into()))
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut space = "";
        let addresses = [(&self.source, "-s"), (&self.destination, "-d")];
        for (condition, flag) in addresses {
            if let Some((sense, net)) = condition {
                write!(f, "{space}{sense}{flag} {net}")?;
                space = " ";
            }
        }
        if let Some((sense, name)) = &self.input {
            write!(f, "{space}{sense}-i {name}")?;
            space = " ";
        }
        if let Some(protocol) = self.protocol {
            write!(f, "{space}-p {protocol}")?;
            space = " ";
        }
        for condition in &self.matches {
            write!(f, "{space}-m {condition}")?;
            space = " ";
        }
        match &self.target {
            Some(target) => write!(f, "{space}-j {target}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Sense {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Sense::IsNot { "! " } else { "" })
    }
}

impl fmt::Display for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Match::Comment(text) => write!(f, "comment --comment {}", Quoted(text)),
            Match::DestinationPort(protocol, low, high) if low == high => {
                write!(f, "{protocol} --dport {low}")
            }
            Match::DestinationPort(protocol, low, high) => {
                write!(f, "{protocol} --dport {low}:{high}")
            }
            Match::CtState(sense, states) => write!(f, "conntrack {sense}--ctstate {states}"),
            Match::TranslatedFrom(net) => {
                write!(f, "conntrack --ctstate DNAT --ctorigdst {net}")
            }
            Match::Mark(sense, mask) => write!(f, "mark {sense}--mark {mask:#x}/{mask:#x}"),
            Match::SourceIsLocal => f.write_str("addrtype --src-type LOCAL"),
            Match::DestinationIsLocal => f.write_str("addrtype --dst-type LOCAL"),
            // Eleven digits tell all multiples of 2^-31 apart, as iptables-save prints them.
            Match::Random(share) => {
                let probability = f64::from(*share) / f64::from(1_u32 << 31);
                write!(f, "statistic --mode random --probability {probability:.11}")
            }
            Match::Recently { list, seconds, family } => {
                write!(f, "recent --rcheck --seconds {seconds} --reap ")?;
                recent(f, list, *family)
            }
            Match::Remember { list, family } => {
                f.write_str("recent --set ")?;
                recent(f, list, *family)
            }
            Match::ToItself(family) => write!(f, "bpf --bytecode \"{}\"", to_itself(*family)),
        }
    }
}

fn recent(f: &mut fmt::Formatter<'_>, list: &str, family: Family) -> fmt::Result {
    let mask = match family {
        Family::V4 => "255.255.255.255",
        Family::V6 => "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
    };
    write!(f, "--name {list} --mask {mask} --rsource")
}

/// Classic BPF over the IP header: each word of the source is compared with that of the destination
/// (opcodes of `linux/bpf_common.h`: 32 loads a word, 7 copies it to X, 29 jumps if equal to X, 6 ends).
fn to_itself(family: Family) -> String {
    let (source, words) = match family {
        Family::V4 => (12, 1),
        Family::V6 => (8, 4),
    };
    let mut code = format!("{}", words * 4 + 2);
    for word in 0..words {
        let left = (words - word - 1) * 4 + 1;
        let from = source + 4 * word;
        let to = from + 4 * words;
        code.push_str(&format!(",32 0 0 {from},7 0 0 0,32 0 0 {to},29 0 {left} 0"));
    }
    code.push_str(",6 0 0 65535,6 0 0 0");
    code
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Chain(name) => f.write_str(name),
            Target::Accept => f.write_str("ACCEPT"),
            Target::Drop => f.write_str("DROP"),
            Target::Return => f.write_str("RETURN"),
            Target::Reset => f.write_str("REJECT --reject-with tcp-reset"),
            Target::Reject(Family::V4) => f.write_str("REJECT --reject-with icmp-port-unreachable"),
            Target::Reject(Family::V6) => {
                f.write_str("REJECT --reject-with icmp6-port-unreachable")
            }
            Target::SetMark(mask) => write!(f, "MARK --set-xmark {mask:#x}/{mask:#x}"),
            Target::FlipMark(mask) => write!(f, "MARK --set-xmark {mask:#x}/0x0"),
            Target::Masquerade { random_fully: true } => f.write_str("MASQUERADE --random-fully"),
            Target::Masquerade { random_fully: false } => f.write_str("MASQUERADE"),
            Target::Dnat(endpoint) => write!(f, "DNAT --to-destination {}", place(endpoint)),
        }
    }
}

/// `10.0.0.1:80` or `[fd00::1]:80`.
pub(super) fn place(endpoint: &PoolEndpoint) -> String {
    std::net::SocketAddr::new(endpoint.ip, endpoint.port).to_string()
}

/// A comment as iptables-save quotes it: whenever there is anything but letters, digits, `_` and `-`.
/// What comes from the API never ends a quotation or a line.
struct Quoted<'a>(&'a str);

/// `XT_MAX_COMMENT_LEN` of `linux/netfilter/xt_comment.h`, with the zero at the end.
const LONGEST_COMMENT: usize = 255;

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let harmless = |c: char| c == ' ' || c.is_ascii_graphic() && !"\"'\\".contains(c);
        let clean = self.0.chars().map(|c| if harmless(c) { c } else { '?' });
        let clean: String = clean.take(LONGEST_COMMENT).collect();
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        if !clean.is_empty() && clean.chars().all(plain) {
            f.write_str(&clean)
        } else {
            write!(f, "\"{clean}\"")
        }
    }
}
