//! The lab as `src/cluster/main.rs` has it, built with the tests that start it.

fn main() -> std::process::ExitCode {
    sluice_lab::cli::main()
}
