//! A kernel with IPv6 on a node where ip6tables cannot be used.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use libtest_mimic::Failed;
use serde_json::{Value, json};
use sluice_cluster::api::{ApiServer, Resource};
use tempfile::TempDir;

use super::support::daemon::{Daemon, config};
use super::support::objects::api_server;
use super::{Outcome, eventually, program, run};

const PROGRAMS: [&str; 3] = ["", "-save", "-restore"];

/// The code and the body of `/livez`.
fn livez() -> Option<(u16, Value)> {
    let mut stream = TcpStream::connect("127.0.0.1:10256").ok()?;
    write!(stream, "GET /livez HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n").ok()?;
    let mut reply = String::new();
    stream.read_to_string(&mut reply).ok()?;
    let code = reply.split(' ').nth(1)?.parse().ok()?;
    let (_, body) = reply.split_once("\r\n\r\n")?;
    Some((code, serde_json::from_str(body).ok()?))
}

fn service(name: &str, policy: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "spec": {"ipFamilyPolicy": policy, "ports": [{"port": 80}]},
    })
}

/// What mode nftables left in a family.
fn leftover(family: &str) {
    run("nft", &["add", "table", family, "kube-proxy"]);
}

fn has_leftover(family: &str) -> bool {
    run("nft", &["list", "tables"]).lines().any(|line| line == format!("table {family} kube-proxy"))
}

/// Makes the programs of one family in a folder: the true ones, or some that fail.
fn programs(folder: &Path, family: &str, fail: bool) -> Outcome {
    for program in PROGRAMS {
        let path = folder.join(format!("{family}-nft{program}"));
        let _ = fs::remove_file(&path);
        if fail {
            fs::write(&path, "#!/bin/sh\necho 'the test says no' >&2\nexit 1\n")?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        } else {
            symlink("/usr/sbin/xtables-nft-multi", &path)?;
        }
    }
    Ok(())
}

/// The daemon in iptables mode, with the programs of a folder only.
fn start(api: &ApiServer, programs: &Path) -> Result<Daemon, Failed> {
    let text = config("iptables: {minSyncPeriod: 1ms, syncPeriod: 1s}");
    let file = programs.join("config.yaml");
    fs::write(&file, text.replace("mode: nftables", "mode: iptables"))?;
    let mut command = Command::new(program());
    command.arg("--config").arg(&file).args(["--master", &api.url()]);
    Ok(Daemon::start_as(command.env("PATH", programs)))
}

pub(crate) fn without_ip6tables() -> Outcome {
    for failing in [false, true] {
        let path = TempDir::new()?;
        programs(path.path(), "iptables", false)?;
        if failing {
            programs(path.path(), "ip6tables", true)?;
        }
        let api = api_server(&["192.168.0.2"]);
        api.create(&service("web", "SingleStack"))?;
        ["ip", "ip6"].into_iter().for_each(leftover);
        let mut daemon = start(&api, path.path())?;
        daemon.wait_for_first_sync("IPv4");
        eventually("leftovers are removed", || {
            (!has_leftover("ip") && !has_leftover("ip6")).then_some(())
        });
        daemon.wait_for("nothing is left of other modes");
        let (code, body) = eventually("it answers", livez);
        assert_eq!((code, &body["status"]["IPv6"]), (200, &Value::Null), "{body}");
        assert_eq!(body["status"]["IPv4"]["healthy"], true, "{body}");
        daemon.wait_for_nth("ip6tables", 0);

        // Now a Service needs IPv6: its leftovers would stay from now on.
        api.create(&service("both", "RequireDualStack"))?;
        let (_, body) =
            eventually("an unhealthy proxy", || livez().filter(|(code, _)| *code == 503));
        assert_eq!(body["status"]["IPv4"]["healthy"], true, "{body}");
        assert_eq!(body["status"]["IPv6"]["healthy"], false, "{body}");
        api.delete(Resource::Services, "default", "both")?;
        eventually("a healthy proxy", || livez().filter(|(code, _)| *code == 200));
        let said = daemon.lines_with("IPv6 is left out");
        assert_eq!(said.len(), 2, "once for each time that nobody needs it: {said:#?}");

        // The programs are installed.
        programs(path.path(), "ip6tables", false)?;
        daemon.wait_for_first_sync("IPv6");
        let (code, body) = eventually("it counts", || {
            livez().filter(|(_, body)| body["status"]["IPv6"]["healthy"] == true)
        });
        assert_eq!(code, 200, "{body}");
        daemon.stop();
        run("iptables-nft", &["-t", "nat", "-F"]);
    }
    Ok(())
}

/// Leftovers of a family that cannot be served stay where a Service needs it: they may still do its work.
pub(crate) fn leftovers_of_a_needed_family() -> Outcome {
    let path = TempDir::new()?;
    programs(path.path(), "iptables", false)?;
    let api = api_server(&["192.168.0.2"]);
    api.create(&service("both", "RequireDualStack"))?;
    ["ip", "ip6"].into_iter().for_each(leftover);
    let daemon = start(&api, path.path())?;
    eventually("the leftover of IPv4 is removed", || (!has_leftover("ip")).then_some(()));
    assert!(has_leftover("ip6"), "it may still serve");
    programs(path.path(), "ip6tables", false)?;
    eventually("the leftover of IPv6 is removed", || (!has_leftover("ip6")).then_some(()));
    daemon.wait_for("nothing is left of other modes");
    Ok(())
}
