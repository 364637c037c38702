//! `sluice explain` on a node: the daemon is the truth, and its kernel testifies.

#[path = "../support/mod.rs"]
mod support;

mod asked;
mod taken_away;
mod way;
mod world;

use std::process::ExitCode;

use sluice_cluster::{Isolation, prepare};

use support::trial;

fn main() -> ExitCode {
    // Before any thread exists: without root, everything happens in a user namespace.
    prepare(Isolation::Private).expect("namespaces of our own");
    let arguments = libtest_mimic::Arguments::from_args();
    let trials = vec![
        trial("a_daemon_answers_as_its_dump", asked::as_its_dump),
        trial("what_a_daemon_cannot_say_is_one_error", asked::refusals),
        trial("what_is_taken_from_nftables_is_named", taken_away::nftables),
        trial("what_is_taken_from_iptables_is_named", taken_away::iptables),
        trial("what_is_taken_from_the_userspace_mode_is_named", taken_away::userspace),
        trial("what_keeps_packets_from_endpoints_is_named", way::obstacles),
        trial("chains_of_other_programs_are_named_if_they_do_anything", way::others),
        trial("a_daemon_says_how_old_its_knowledge_is", asked::age),
    ];
    libtest_mimic::run(&arguments, trials).exit_code()
}
