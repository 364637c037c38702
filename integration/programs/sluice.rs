//! The daemon as `src/daemon/main.rs` has it, built with the tests that start it.

fn main() -> std::process::ExitCode {
    sluice::cli::main()
}
