//! The iptables extensions that rules use, which of them are optional, and what is written without them.
//!
//! A kernel or an iptables without an extension refuses the line, and with it the whole table. So at the
//! first refusal, each extension is probed in a chain of its own.

use std::borrow::Cow;

use super::rule::{Match, Rule, Target};
use sluice_core::net::Family;
use sluice_kernel::xtables::Table;

/// The chain in which extensions are tried; it is deleted afterwards, or as a leftover.
pub(super) const PROBE: &str = "KUBE-SVC-PROBE";

/// An extension.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extension {
    Bpf,
    RandomFully,
    Comment,
    Recent,
    AddressType,
    Reject,
    Statistic,
    Conntrack,
    Mark,
    SetMark,
    Masquerade,
    Dnat,
}

impl Extension {
    pub(super) const ALL: [Extension; 12] = [
        Extension::Bpf,
        Extension::RandomFully,
        Extension::Comment,
        Extension::Recent,
        Extension::AddressType,
        Extension::Reject,
        Extension::Statistic,
        Extension::Conntrack,
        Extension::Mark,
        Extension::SetMark,
        Extension::Masquerade,
        Extension::Dnat,
    ];

    /// What it is called, with the kernel's module.
    pub(super) fn name(self) -> &'static str {
        match self {
            Extension::Bpf => "match bpf (xt_bpf)",
            Extension::RandomFully => "MASQUERADE --random-fully",
            Extension::Comment => "match comment (xt_comment)",
            Extension::Recent => "match recent (xt_recent)",
            Extension::AddressType => "match addrtype (xt_addrtype)",
            Extension::Reject => "target REJECT (ipt_REJECT, ip6t_REJECT)",
            Extension::Statistic => "match statistic (xt_statistic)",
            Extension::Conntrack => "match conntrack (xt_conntrack)",
            Extension::Mark => "match mark (xt_mark)",
            Extension::SetMark => "target MARK (xt_mark)",
            Extension::Masquerade => "target MASQUERADE (xt_MASQUERADE)",
            Extension::Dnat => "target DNAT (xt_nat)",
        }
    }

    /// What happens without it; nothing of the mode works without those that have no answer.
    pub(super) fn without(self) -> Option<&'static str> {
        match self {
            Extension::Bpf => Some("the layout is classic: a chain per endpoint"),
            Extension::RandomFully => {
                Some("source ports of masqueraded connections are not random")
            }
            Extension::Comment => Some("rules have no comments"),
            Extension::Recent => Some("there is no session affinity"),
            Extension::AddressType => Some(
                "node ports are closed unless nodePortAddresses names addresses, and what this node itself \
                 sends to external addresses with policy Local counts as coming from outside",
            ),
            Extension::Reject => Some("what is refused elsewhere is dropped"),
            Extension::Statistic
            | Extension::Conntrack
            | Extension::Mark
            | Extension::SetMark
            | Extension::Masquerade
            | Extension::Dnat => None,
        }
    }

    fn bit(self) -> u16 {
        // In the order of declaration: there are fewer than 16.
        1 << (self as u16)
    }

    /// A rule with it, and the table that takes such rules.
    pub(super) fn probe(self, family: Family) -> (Table, Rule) {
        use super::rule::Sense::Is;
        let rule = Rule::new();
        let endpoint =
            sluice_core::plan::PoolEndpoint { ip: family.unspecified(), port: 1, local: true };
        let tcp = || Rule::new().protocol(sluice_core::net::Protocol::Tcp);
        let rule = match self {
            Extension::Bpf => rule.when(Match::ToItself(family)),
            Extension::RandomFully => rule.then(Target::Masquerade { random_fully: true }),
            Extension::Comment => rule.comment("tried"),
            Extension::Recent => rule.when(Match::Remember { list: PROBE.into(), family }),
            Extension::AddressType => rule.when(Match::DestinationIsLocal),
            Extension::Reject => return (Table::Filter, tcp().then(Target::Reset)),
            Extension::Statistic => rule.when(Match::Random(1 << 30)),
            Extension::Conntrack => rule.when(Match::CtState(Is, "NEW")),
            Extension::Mark => rule.when(Match::Mark(Is, 1)),
            Extension::SetMark => rule.then(Target::FlipMark(1)),
            Extension::Masquerade => rule.then(Target::Masquerade { random_fully: false }),
            Extension::Dnat => tcp().then(Target::Dnat(endpoint)),
        };
        (Table::Nat, rule)
    }
}

/// Extensions that cannot be used here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Lacking(u16);

impl Lacking {
    pub(super) fn add(&mut self, extension: Extension) {
        self.0 |= extension.bit();
    }

    pub(super) fn has(self, extension: Extension) -> bool {
        self.0 & extension.bit() != 0
    }

    pub(super) fn iter(self) -> impl Iterator<Item = Extension> {
        Extension::ALL.into_iter().filter(move |extension| self.has(*extension))
    }

    /// The rule without them; `None` if nothing remains.
    pub(super) fn adapt(self, rule: &Rule) -> Option<Cow<'_, Rule>> {
        if self == Lacking::default() {
            return Some(Cow::Borrowed(rule));
        }
        let mut rule = rule.clone();
        let needs = |condition: &Match| match condition {
            Match::Recently { .. } => self.has(Extension::Recent),
            Match::SourceIsLocal | Match::DestinationIsLocal => self.has(Extension::AddressType),
            _ => false,
        };
        if rule.matches.iter().any(needs) {
            return None;
        }
        rule.matches.retain(|condition| match condition {
            Match::Comment(_) => !self.has(Extension::Comment),
            Match::Remember { .. } => !self.has(Extension::Recent),
            _ => true,
        });
        rule.target = rule.target.map(|target| match target {
            Target::Reset | Target::Reject(_) if self.has(Extension::Reject) => Target::Drop,
            Target::Masquerade { .. } if self.has(Extension::RandomFully) => {
                Target::Masquerade { random_fully: false }
            }
            other => other,
        });
        Some(Cow::Owned(rule))
    }
}

/// A script that tries rules, each in the chain [`PROBE`] of its table.
pub(super) fn probe(rules: &[(Table, Rule)]) -> String {
    script(|table| {
        let of_table = rules.iter().filter(|(at, _)| *at == table);
        of_table.map(|(_, rule)| format!("-A {PROBE} {rule}\n")).collect()
    })
}

/// A script that deletes the chains of [`probe`].
pub(super) fn end_of_probe() -> String {
    script(|_| format!("-X {PROBE}\n"))
}

fn script(lines: impl Fn(Table) -> String) -> String {
    let table = |table| format!("*{table}\n:{PROBE} - [0:0]\n{}COMMIT\n", lines(table));
    [Table::Filter, Table::Nat].map(table).concat()
}
