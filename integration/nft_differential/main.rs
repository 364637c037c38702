//! Our nf_tables code against the kernel, and against `nft`.
//!
//! Each test has a network namespace (or two) of its own, which ends with its thread. The host's
//! own rule set is never touched. Needs `nft` and either root or unprivileged user namespaces.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod json;
mod kube_proxy;
mod nat;
mod rules;
mod sandbox;
mod saved;
mod sets;
mod transactions;
mod words;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};
use sandbox::{Sandbox, enter_user_namespace, refused_without_privilege};
use sluice_core::net::Family;

/// The argument that makes this program the unprivileged child of one of its tests.
const UNPRIVILEGED: &str = "--without-privilege";

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some(UNPRIVILEGED) {
        return refused_without_privilege();
    }
    let arguments = Arguments::from_args();
    if let Err(error) = enter_user_namespace() {
        eprintln!("these tests need root or unprivileged user namespaces: {error}");
        return ExitCode::FAILURE;
    }
    if let Err(error) = std::process::Command::new("nft").arg("--version").output() {
        eprintln!("these tests need nft (apt install nftables): {error}");
        return ExitCode::FAILURE;
    }
    libtest_mimic::run(&arguments, trials()).exit_code()
}

fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    let mut both = |name: &str, test: fn(Family)| {
        for family in Family::BOTH {
            trials.push(trial(format!("{name} ({family})"), move || test(family)));
        }
    };
    both("expressions are written and listed as nft writes them", rules::expressions);
    both("address translation is written and listed as nft writes it", nat::translations);
    both("sets, maps and elements are written and listed as nft writes them", sets::all_kinds);
    both("the kube-proxy table is written and listed as nft writes it", kube_proxy::whole_table);
    both("affinity rules are written and listed as nft writes them", kube_proxy::affinity);
    both("a look-up can be the data of an update", kube_proxy::look_up_as_data);
    both("a foreign table is read without failing", sets::foreign_table);
    both("every operation can be undone", transactions::undo);
    let mut once = |name: &str, test: fn()| trials.push(trial(name.to_owned(), test));
    once("base chains of every kind, hook and priority", sets::base_chains);
    once("a hundred thousand elements are one transaction", transactions::many_elements);
    once("a refused element among thousands is named", transactions::refused_element);
    once("all refused operations are named", transactions::refused_operations);
    once("what cannot be encoded is named and nothing is sent", transactions::too_long);
    once("an absent table is none", transactions::absent_table);
    once("foreign changes are heard, own and other tables' are not", transactions::events);
    once("a flood of foreign changes is an overflow", transactions::overflow);
    once("without privilege the error says so", transactions::unprivileged);
    once("rules of a Service load from JSON as from text", json::rules_of_a_service);
    trials.extend(saved::trials());
    trials
}

fn trial(name: String, test: impl FnOnce() + Send + 'static) -> Trial {
    Trial::test(name, move || Sandbox::run(test).map_err(Failed::from))
}
