//! The guest with another kernel (`integration/guest`, docs/guest.md): what a command sees in it, and how
//! its failures are reported.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // a test may end where it is, and says what it leaves out

mod support;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::{fs, io};

use libtest_mimic::{Arguments, Trial};
use support::{Outcome, eventually};

/// The exit code of `run` and `prepare` where this machine cannot have a guest.
const NO_GUEST: i32 = 77;

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // Each guest has as many processors as there are.
    arguments.test_threads = Some(1);
    let prepared = Command::new(guest("prepare")).output().expect("integration/guest/prepare runs");
    let possible = match prepared.status.code() {
        Some(0) => true,
        Some(NO_GUEST) => false,
        _ => panic!("{}", String::from_utf8_lossy(&prepared.stderr)),
    };
    if !possible {
        println!("left out: {}", String::from_utf8_lossy(&prepared.stderr).trim());
    }
    let trial = |name, run: fn() -> Outcome| Trial::test(name, run).with_ignored_flag(!possible);
    let trials = vec![
        trial("a_command_has_its_output_exit_code_and_surroundings", surroundings),
        trial("the_guest_has_what_other_kernels_may_lack", features),
        trial("a_command_that_hangs_ends_at_the_limit", hang),
        trial("a_panic_is_told", panics),
        trial("a_lack_of_memory_is_told", out_of_memory),
        trial("a_killed_runner_takes_its_guest_along", killed),
        Trial::test("packages_are_named_before_they_are_installed", packages),
    ];
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// A program of the guest's folder.
fn guest(program: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join("integration/guest").join(program)
}

/// The outcome of a run.
struct Ended {
    code: Option<i32>,
    out: String,
    err: String,
}

/// An emulated processor alone starts sooner than two.
const ALONE: (&str, &str) = ("SLUICE_GUEST_PROCESSORS", "1");

/// Runs a shell's script in the guest; nothing of it may be left.
fn run(script: &str, settings: &[(&str, &str)]) -> io::Result<Ended> {
    let mut command = Command::new(guest("run"));
    command.args(["sh", "-c", script]).stdin(Stdio::null());
    command.envs(settings.iter().copied()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn()?;
    let id = child.id();
    let output = child.wait_with_output()?;
    assert_eq!(processes(id), Vec::<String>::new(), "no process is left");
    assert!(!job(id).exists(), "no file is left");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok(Ended { code: output.status.code(), out: text(&output.stdout), err: text(&output.stderr) })
}

/// Where the runner with this process id keeps its files.
fn job(runner: u32) -> PathBuf {
    cache().join("jobs").join(runner.to_string())
}

/// The files that later runs use again.
fn cache() -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).unwrap_or_else(|| {
        PathBuf::from(std::env::var_os("HOME").unwrap_or_else(|| "/root".into())).join(".cache")
    });
    cache.join("sluice/guest")
}

/// Forgets whether the machine's accelerator works, so that the next run finds it out: its output must be
/// the same then.
fn forget_the_accelerator() {
    let _ = fs::remove_file(cache().join("accelerator"));
}

/// Command lines of processes that work with the files of a runner.
fn processes(runner: u32) -> Vec<String> {
    let files = format!("/guest/jobs/{runner}/");
    let lines = fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let line = fs::read(entry.ok()?.path().join("cmdline")).ok()?;
        Some(String::from_utf8_lossy(&line).replace('\0', " "))
    });
    lines.filter(|line| line.contains(&files)).collect()
}

fn surroundings() -> Outcome {
    forget_the_accelerator();
    let script = "echo to out; echo to err >&2; echo \"$SLUICE_X\"; pwd; uname -r; id -u; nproc
                  echo changed > Cargo.toml; cat Cargo.toml; exit 7";
    let ended = run(script, &[("SLUICE_X", "it's\n\"quoted\"")])?;
    let host = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let lines: Vec<&str> = ended.out.lines().collect();
    let [out, it, quoted, directory, release, user, processors, file] = lines[..] else {
        return Err(format!("other output: {}{}", ended.out, ended.err).into());
    };
    assert_eq!((out, it, quoted), ("to out", "it's", "\"quoted\""));
    assert_eq!(Path::new(directory), std::env::current_dir()?);
    assert_ne!(release, host.trim());
    assert_eq!((user, processors, file), ("0", "2", "changed"));
    assert_eq!(ended.err, "to err\n");
    assert_eq!(ended.code, Some(7));
    let kept = fs::read_to_string(
        Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join("Cargo.toml"),
    )?;
    assert!(kept.contains("[workspace]"), "files of the machine are not changed");
    Ok(())
}

fn features() -> Outcome {
    let script = "set -e; modprobe ip_vs; head -n 1 /proc/net/ip_vs
                  ip link add kube-ipvs0 type dummy; nft add table ip x
                  nft 'add chain ip x y { type nat hook prerouting priority 0; }'
                  ip netns add z; ip link add v type veth peer name w netns z; ip link add bridge0 type bridge
                  modprobe nf_conntrack_netlink; echo all there";
    let ended = run(script, &[])?;
    assert!(ended.out.starts_with("IP Virtual Server version"), "{}{}", ended.out, ended.err);
    assert!(ended.out.ends_with("all there\n"), "{}{}", ended.out, ended.err);
    Ok(())
}

fn hang() -> Outcome {
    // On a busy machine a guest that is emulated takes its time to get there.
    for limit in ["25", "100", "500"] {
        let ended = run("echo started; sleep 1000", &[ALONE, ("SLUICE_GUEST_SECONDS", limit)])?;
        assert_eq!(ended.code, Some(124), "{}", ended.err);
        let words = format!("the command did not end within {limit} s");
        assert!(ended.err.contains(&words), "{}", ended.err);
        if !ended.out.is_empty() {
            assert_eq!(ended.out, "started\n");
            return Ok(());
        }
    }
    Err("the command did not begin".into())
}

fn panics() -> Outcome {
    let ended = run("echo c > /proc/sysrq-trigger; sleep 100", &[ALONE])?;
    assert_eq!(ended.code, Some(125), "{}", ended.err);
    assert!(ended.err.contains("its kernel panicked: sysrq triggered crash"), "{}", ended.err);
    Ok(())
}

fn out_of_memory() -> Outcome {
    let ended = run("tail /dev/zero", &[ALONE, ("SLUICE_GUEST_MEMORY", "256")])?;
    assert_eq!(ended.code, Some(137), "{}", ended.err);
    assert!(ended.err.contains("its memory of 256 MiB did not suffice"), "{}", ended.err);
    assert!(ended.err.contains("(tail)"), "{}", ended.err);
    Ok(())
}

fn killed() -> Outcome {
    let mut command = Command::new(guest("run"));
    let mut runner =
        command.args(["sleep", "1000"]).env(ALONE.0, ALONE.1).stdin(Stdio::null()).spawn()?;
    let id = runner.id();
    eventually("the guest is there", || {
        processes(id).iter().any(|line| line.starts_with("qemu-system")).then_some(())
    });
    runner.kill()?;
    runner.wait()?;
    eventually("its processes are gone", || processes(id).is_empty().then_some(()));
    // The next run removes its files.
    run("true", &[ALONE])?;
    assert!(!job(id).exists());
    Ok(())
}

/// `integration/setup.sh` on a machine without a compiler, as root, with an `apt-get` that only says that it is.
fn packages() -> Outcome {
    let folder = tempfile::TempDir::new()?;
    for (program, line) in [("id", "echo 0"), ("apt-get", "echo apt-get $1 >&2")] {
        let path = folder.path().join(program);
        fs::write(&path, format!("#!/bin/sh\n{line}\n"))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    }
    let setup = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join("integration/setup.sh");
    let said = |install: &str| -> io::Result<(Option<i32>, String)> {
        let mut command = Command::new(&setup);
        let output = command.env("PATH", folder.path()).env("SLUICE_INSTALL", install).output()?;
        Ok((output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned()))
    };
    let (code, text) = said("")?;
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("installing Debian packages with apt-get: gcc"), "{text}");
    assert_eq!(
        (code, &lines[1..]),
        (Some(0), &["apt-get update", "apt-get install"][..]),
        "{text}"
    );
    let (code, text) = said("no")?;
    assert_eq!(code, Some(1), "{text}");
    assert!(text.starts_with("missing packages: gcc"), "{text}");
    assert!(!text.contains("apt-get: "), "{text}");
    Ok(())
}
