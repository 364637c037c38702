//! The lab: arguments in, exit code out.

fn main() -> std::process::ExitCode {
    sluice_lab::cli::main()
}
