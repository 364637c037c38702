//! What a lab leaves behind, and how its namespaces are entered from outside: tests with processes.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use sluice_cluster::claim::LOCK_DIR;
use sluice_cluster::netns::NETNS_DIR;
use sluice_cluster::{Isolation, Lab, LabSpec, Pod, Privilege, Probe, prepare};

use super::{Outcome, check, nft, ports, translation, two_pods, vip, wires};

/// The task of a child process of a test.
const ROLE: &str = "SLUICE_LAB_TEST_ROLE";

/// Does what a child process is for, if this is one.
pub(super) fn child() -> Option<Outcome> {
    match std::env::var(ROLE).ok()?.as_str() {
        "lab" => Some(child_with_a_lab()),
        "leftovers" => Some(child_with_children()),
        "rootless" => Some(child_without_root()),
        other => Some(Err(format!("there is no role {other}").into())),
    }
}

pub(super) fn entered_by_name() -> Outcome {
    let (_lab, one, _two) = two_pods()?;
    let path = one.namespace().path();
    enter(&format!("nsenter --net={} {SHOW_ADDRESSES}", path.display()), ROOT)?;
    let inside = one.namespace().run(|| std::fs::read_to_string("/proc/thread-self/net/dev"))??;
    let links = |text: &str| text.lines().filter(|line| line.contains(':')).count();
    check("links of the pod", links(&inside), 2)
}

/// What is run in the namespace of `web-1`.
const SHOW_ADDRESSES: &str = "ip -o address show dev eth0";

/// User ids.
const ROOT: u32 = 0;
const NOBODY: u32 = 65_534;

/// Runs a shell command that shows the addresses of `web-1`, as another user.
fn enter(command: &str, user: u32) -> Outcome {
    let mut shell = Command::new("sh");
    shell.args(["-c", command]).current_dir("/");
    if user != ROOT {
        shell.uid(user).gid(user);
    }
    let output = shell.output()?;
    let text = String::from_utf8(output.stdout)?;
    if text.contains(" 10.244.1.2/32 ") && text.contains(" fd00:10:244:1::2/128 ") {
        return Ok(());
    }
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(format!("{command}: the addresses of web-1 are not in {text:?}; {errors}").into())
}

/// The names of a process's labs.
fn names_of(pid: u32) -> Vec<String> {
    let entries = std::fs::read_dir(NETNS_DIR).map(|dir| dir.flatten().collect()).unwrap_or(vec![]);
    let names = entries.iter().map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with(&format!("sluice-{pid}-"))).collect()
}

/// A child process with a lab.
struct ChildLab {
    process: Child,
    /// The shell command that enters `web-1`.
    enter_command: String,
}

impl ChildLab {
    /// Starts this program again in a role, and waits until its lab is built.
    fn start(role: &str, command: &mut Command) -> Result<ChildLab, Box<dyn std::error::Error>> {
        let mut process =
            command.env(ROLE, role).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let out = BufReader::new(process.stdout.take().ok_or("no pipe from the child")?);
        if let Some(line) = out.lines().next() {
            return Ok(ChildLab { process, enter_command: line? });
        }
        Err(format!("the {role} child ended with {}", process.wait()?).into())
    }

    fn names(&self) -> Vec<String> {
        names_of(self.process.id())
    }

    /// Lets the child end its lab and itself.
    fn end(&mut self) -> Outcome {
        drop(self.process.stdin.take());
        check("the child ends well", self.process.wait()?.success(), true)
    }
}

/// The child of tests about what remains: builds a lab and keeps it until its standard input ends.
fn child_with_a_lab() -> Outcome {
    prepare(Isolation::Shared)?;
    let lab = Lab::new(LabSpec { nodes: 2 })?;
    let pod = lab.add_pod("web-1", &lab.node("node-a")?, &ports(8080))?;
    stay(&pod)
}

/// Tells how to enter a pod, and waits until standard input ends.
fn stay(pod: &Pod) -> Outcome {
    let mut out = std::io::stdout();
    writeln!(out, "{}", pod.namespace().enter_command(SHOW_ADDRESSES))?;
    out.flush()?;
    std::io::stdin().read_line(&mut String::new())?;
    Ok(())
}

/// In a process with names of its own, because every other lab would remove the leftovers first.
pub(super) fn leftovers() -> Outcome {
    let output = Command::new(std::env::current_exe()?).env(ROLE, "leftovers").output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr).into())
}

/// Lets one child exit and kills another, and checks what each leaves behind.
fn child_with_children() -> Outcome {
    prepare(Isolation::Private)?;
    let exe = std::env::current_exe()?;
    let mut killed = ChildLab::start("lab", &mut Command::new(&exe))?;
    let mut living = ChildLab::start("lab", &mut Command::new(&exe))?;
    check("names of a lab of five hosts", killed.names().len(), 5)?;
    enter(&living.enter_command, ROOT)?;
    killed.process.kill()?;
    killed.process.wait()?;
    check("names outlive their process", killed.names().len(), 5)?;
    let next = Lab::new(LabSpec { nodes: 1 })?;
    check("names of the killed lab", killed.names(), Vec::new())?;
    check("names of the living lab", living.names().len(), 5)?;
    enter(&living.enter_command, ROOT)?;
    living.end()?;
    check("names of the lab that ended", living.names(), Vec::new())?;
    drop(next);
    for dir in [NETNS_DIR, LOCK_DIR] {
        check(format!("what is left in {dir}"), std::fs::read_dir(dir)?.count(), 0)?;
    }
    Ok(())
}

pub(super) fn nothing_left() -> Outcome {
    let links = || std::fs::read_to_string("/proc/self/net/dev").map(|text| text.lines().count());
    let before = links()?;
    let (lab, one, _two) = two_pods()?;
    let name = lab.id().namespace_name("web-1");
    let own = |name: &str| Path::new(NETNS_DIR).join(name).exists();
    check("the pod's name is there", own(&name), true)?;
    check("links outside, meanwhile", links()?, before)?;
    drop(lab);
    for host in ["fabric", "client", "node-a", "node-b", "web-1", "web-2"] {
        let name = one.namespace().name().replace("web-1", host);
        check(&name, own(&name), false)?;
    }
    check("links outside, afterwards", links()?, before)
}

/// The child of the test without root: builds a lab in a user namespace and uses it.
fn child_without_root() -> Outcome {
    check("what it works on", prepare(Isolation::Shared)?, Privilege::UserNamespace)?;
    let (lab, one, two) = two_pods()?;
    nft(&*lab.node("node-a")?, &translation(&[&two]))?;
    for (protocol, family) in wires() {
        let direct = lab.client().probe(&Probe::new(protocol, one.socket_addr(family, 8080)))?;
        check(format!("{protocol} over {family}"), direct.by(), Some("web-1"))?;
        let translated = lab.client().probe(&Probe::new(protocol, vip(family)))?;
        check(format!("translated {protocol} over {family}"), translated.by(), Some("web-2"))?;
    }
    stay(&one)
}

pub(super) fn rootless() -> Outcome {
    let mut command = Command::new("/proc/self/exe");
    let command = command.uid(NOBODY).gid(NOBODY).current_dir("/");
    let mut child = ChildLab::start("rootless", command)?;
    enter(&child.enter_command, NOBODY)?;
    child.end()
}
