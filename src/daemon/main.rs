//! The daemon: arguments in, exit code out.

fn main() -> std::process::ExitCode {
    sluice::cli::main()
}
