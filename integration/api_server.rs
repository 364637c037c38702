//! The lab's API server through its real clients: kube-rs, the daemon's own watches, and kubectl.
//!
//! All of it happens on the loopback of a network namespace that this program makes for itself.

#[path = "api_server/encodings.rs"]
mod encodings;
#[path = "api_server/kubectl.rs"]
mod kubectl;
#[path = "api_server/objects.rs"]
mod objects;
#[path = "api_server/setup.rs"]
mod setup;
#[path = "api_server/watches.rs"]
mod watches;
#[path = "api_server/writes.rs"]
mod writes;

use libtest_mimic::{Arguments, Failed, Trial};

/// Names of functions are the names of tests.
macro_rules! trials {
    ($($module:ident::$name:ident),* $(,)?) => {
        vec![$(trial(concat!(stringify!($module), "::", stringify!($name)), $module::$name)),*]
    };
}

fn trial(name: &str, test: fn()) -> Trial {
    Trial::test(name, move || -> Result<(), Failed> {
        test();
        Ok(())
    })
}

fn main() -> std::process::ExitCode {
    let arguments = Arguments::from_args();
    // Before any thread starts: threads inherit the namespace of the one that starts them.
    setup::enter_network_namespace();
    let mut tests = trials![
        objects::services_get_addresses_of_the_families_they_ask_for,
        objects::addresses_and_node_ports_are_released_and_taken_again,
        objects::fields_follow_the_type_of_a_service,
        objects::nonsense_is_refused_with_the_name_of_the_field,
        objects::what_is_set_once_may_not_change,
        objects::unchecked_writes_store_any_nonsense,
        objects::service_cidrs_extend_the_range,
        objects::thousands_of_objects_are_created_and_listed_fast,
        objects::deleting_a_namespace_deletes_what_is_in_it,
        objects::a_finalizer_keeps_an_object_until_it_is_removed,
        objects::events_have_two_forms,
        writes::each_kind_of_patch_changes_a_service,
        writes::conflicts_and_missing_objects_have_the_right_status,
        writes::a_status_is_written_apart_from_the_object,
        writes::deletion_heeds_preconditions_and_selectors,
        writes::a_dry_run_leaves_no_trace,
        writes::unknown_fields_are_dropped_and_reported,
        writes::discovery_describes_every_resource,
        writes::a_node_proxier_may_only_do_what_its_role_says,
        encodings::protobuf_and_gzip_cost_a_fraction_of_json,
        encodings::a_change_costs_each_watcher_little_more_than_half_of_json,
        encodings::each_client_gets_the_encoding_that_it_accepts,
        watches::pages_show_the_version_of_the_first,
        watches::both_strategies_list_then_follow,
        watches::a_watcher_recovers_when_its_version_is_gone,
        watches::a_selector_turns_changes_into_additions_and_deletions,
        watches::bookmarks_carry_the_newest_version,
        watches::a_streaming_list_ends_with_a_bookmark,
        watches::old_servers_refuse_streaming_lists_in_their_ways,
        watches::watches_end_as_told,
        watches::outages_are_noticed_and_survived,
        watches::a_slow_watcher_delays_nobody_and_is_told_that_it_is_late,
        watches::the_daemon_sees_what_is_written,
        watches::the_daemon_recovers_when_its_version_is_gone,
    ];
    tests.extend(kubectl::trials());
    libtest_mimic::run(&arguments, tests).exit_code()
}
