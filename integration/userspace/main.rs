//! The userspace mode with real connections: what a relay must keep of TCP and UDP, how it behaves at
//! its limits, and what changes do to traffic.

#[path = "../support/mod.rs"]
mod support;

mod changes;
mod limits;
mod tcp;
mod transparent;
mod udp;
mod world;

use std::process::ExitCode;

use sluice_cluster::{Isolation, prepare};

use support::Outcome;
use world::Programs;

fn main() -> ExitCode {
    prepare(Isolation::Private).expect("namespaces of our own");
    sluice_kernel::sockets::raise_descriptor_limit().expect("the limit can be raised");
    let folder = tempfile::TempDir::new().expect("a temporary folder");
    Programs::write(folder.path());
    let arguments = libtest_mimic::Arguments::from_args();
    let trial = |name, run: fn() -> Outcome| libtest_mimic::Trial::test(name, run);
    let trials = vec![
        trial("each_direction_ends_on_its_own", tcp::half_close),
        trial("a_slow_reader_slows_the_writer_down", tcp::back_pressure),
        trial("a_reset_reaches_the_other_side", tcp::reset),
        trial("another_endpoint_is_tried_if_one_refuses_or_is_silent", tcp::retry),
        trial("a_client_without_any_reachable_endpoint_is_reset", tcp::nobody),
        trial("much_data_arrives_byte_by_byte_in_both_directions", tcp::transfers),
        trial("datagrams_of_every_size_are_carried", udp::sizes),
        trial("a_client_without_a_listener_hears_of_it", udp::refused),
        trial("a_flood_of_udp_clients_takes_bounded_room", udp::flood),
        trial("many_connections_leave_nothing_behind", limits::leaks),
        trial("used_up_descriptors_stop_new_connections_only", limits::descriptors),
        trial("relays_are_for_redirected_traffic_only", limits::guarded),
        trial("node_ports_answer_on_localhost", limits::localhost),
        trial("connections_outlive_their_endpoint_and_service", changes::removed),
        trial("connections_to_removed_endpoints_are_reset_if_asked_for", changes::reset_removed),
        trial("a_restart_brings_new_relays", changes::restart),
        trial("at_the_end_connections_have_some_time", changes::drain),
        trial("endpoints_see_the_clients_that_policies_keep", transparent::sources),
        trial("host_ports_of_a_cni_plugin_work_beside_transparent_relays", transparent::host_ports),
        trial("clients_on_the_endpoints_bridge_are_not_taken_for_others", transparent::bridge),
        trial("a_strict_reverse_path_filter_lets_answers_in", transparent::filtered),
        trial("bytes_and_ends_are_right_with_clients_addresses", transparent::streams),
        trial("the_clients_port_is_kept_where_it_can_be", transparent::ports),
        trial("a_clients_own_connections_to_the_pod_are_left_alone", transparent::beside),
        trial("more_connections_than_ports_come_about", transparent::many),
        trial("routing_rules_come_back_and_go_when_asked", transparent::rules),
    ];
    libtest_mimic::run(&arguments, trials).exit_code()
}
