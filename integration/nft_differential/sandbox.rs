//! Network namespaces, and `nft` in them.

use std::io::Write;
use std::process::{Command, ExitCode, Stdio};
use std::thread;

use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getgid, getuid};
use serde_json::Value;
use sluice_kernel::nft::{Nft, NftError, Observed, Op, TableName};

/// A network namespace: the one of the current thread.
pub(crate) struct Sandbox;

impl Sandbox {
    /// Runs something in a fresh network namespace, which ends with it.
    pub(crate) fn run<T: Send + 'static>(
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, String> {
        let thread = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace can be made");
            work()
        });
        thread.join().map_err(|panic| match panic.downcast::<String>() {
            Ok(text) => *text,
            Err(panic) => (*panic.downcast_ref::<&str>().unwrap_or(&"it panicked")).to_owned(),
        })
    }
}

/// Becomes root of a user namespace, unless this is root already. Must come before any thread.
pub(crate) fn enter_user_namespace() -> Result<(), String> {
    if getuid().is_root() {
        return Ok(());
    }
    let (user, group) = (getuid(), getgid());
    unshare(CloneFlags::CLONE_NEWUSER)
        .map_err(|error| format!("unshare(CLONE_NEWUSER): {error}"))?;
    let map = [
        ("setgroups", "deny".to_owned()),
        ("uid_map", format!("0 {user} 1")),
        ("gid_map", format!("0 {group} 1")),
    ];
    for (file, text) in map {
        let path = format!("/proc/self/{file}");
        std::fs::write(&path, text).map_err(|error| format!("write {path}: {error}"))?;
    }
    Ok(())
}

/// Opens nf_tables from a user namespace that does not own the network namespace. Success is being
/// refused in the right words.
pub(crate) fn refused_without_privilege() -> ExitCode {
    if let Err(error) = unshare(CloneFlags::CLONE_NEWUSER) {
        eprintln!("unshare(CLONE_NEWUSER): {error}");
        return ExitCode::FAILURE;
    }
    match Nft::open() {
        Err(error @ NftError::NotPermitted) if error.to_string().contains("CAP_NET_ADMIN") => {
            ExitCode::SUCCESS
        }
        other => {
            eprintln!("expected a refusal for lack of privilege, not {other:?}");
            ExitCode::FAILURE
        }
    }
}

/// Runs `nft` in the namespace of this thread.
pub(crate) fn nft(arguments: &[&str], input: &str) -> String {
    let mut child = Command::new("nft")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("nft is installed");
    child.stdin.take().unwrap().write_all(input.as_bytes()).expect("nft reads its input");
    let output = child.wait_with_output().expect("nft ends");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "nft {arguments:?} failed: {errors}\nwith input\n{input}");
    String::from_utf8(output.stdout).expect("nft prints UTF-8")
}

/// What `nft list ruleset` and `nft -j list ruleset` print here, the latter without handles.
pub(crate) fn listing() -> (String, Value) {
    let mut json: Value =
        serde_json::from_str(&nft(&["-j", "list", "ruleset"], "")).expect("nft prints JSON");
    remove_handles(&mut json);
    (nft(&["list", "ruleset"], ""), json)
}

fn remove_handles(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.remove("handle");
            fields.values_mut().for_each(remove_handles);
        }
        Value::Array(items) => items.iter_mut().for_each(remove_handles),
        _ => {}
    }
}

/// Writes operations to this namespace, and reads the table back.
pub(crate) fn apply_and_dump(table: &TableName, ops: &[Op]) -> Observed {
    let mut nft = Nft::open().expect("nf_tables is there");
    nft.apply(table, ops).expect("the operations are accepted");
    nft.dump(table).expect("the table can be read").expect("the table is there")
}

/// Lets `nft` write in one namespace and us in another, and compares what `nft` lists in both and
/// what was read back with what was written.
pub(crate) fn compare(table: &TableName, theirs: impl FnOnce() + Send + 'static, ops: Vec<Op>) {
    let expected = Sandbox::run(move || {
        theirs();
        listing()
    })
    .unwrap_or_else(|error| panic!("{error}"));
    let observed = apply_and_dump(table, &ops);
    let (text, json) = listing();
    assert_lines(&expected.0, &text);
    assert_eq!(expected.1, json, "nft -j list ruleset: theirs and ours differ");
    round_trip(&ops, &observed);
}

/// Compares listings line by line, because whole ones are too long to see where they differ.
fn assert_lines(expected: &str, actual: &str) {
    for (expected, actual) in expected.lines().zip(actual.lines()) {
        assert_eq!(expected, actual, "nft list ruleset: theirs and ours differ");
    }
    assert_eq!(expected, actual, "nft list ruleset: one is longer");
}

/// Everything that was written must have been read as the same value.
fn round_trip(ops: &[Op], observed: &Observed) {
    let mut rules = observed.chains.values().flat_map(|chain| &chain.rules).count();
    let mut elements = observed.sets.values().map(|set| set.elements.len()).sum::<usize>();
    let mut places = std::collections::BTreeMap::new();
    for op in ops {
        match op {
            Op::AddTable { comment } => assert_eq!(comment, &observed.comment),
            Op::AddChain(chain) => assert_eq!(chain, &observed.chains[&chain.name].chain),
            Op::AddSet(set) => assert_eq!(set, &observed.sets[&set.name].set),
            Op::AddRule(rule) => {
                let place = places.entry(&rule.chain).or_insert(0_usize);
                assert_eq!(rule, &observed.chains[&rule.chain].rules[*place].rule);
                *place += 1;
                rules -= 1;
            }
            Op::AddElement { set, element } => {
                let there = &observed.sets[set].elements;
                assert!(there.iter().any(|e| e == *element), "{element:?} is not in {there:?}");
                elements -= 1;
            }
            other => panic!("{other:?} adds nothing"),
        }
    }
    assert_eq!((rules, elements), (0, 0), "more was read than was written");
    assert_eq!(observed.foreign, Vec::<String>::new());
}
