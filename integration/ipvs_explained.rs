//! After a virtual service, a destination or an address is taken away by hand, `sluice explain` names it.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use sluice_cluster::{Cluster, Host};

use super::support::Outcome;
use super::support::daemon::program;
use super::{CONFIG, on, unserved_by};

/// What is taken away stays away: the next sync is in an hour.
const PACE: &str = "ipvs: {minSyncPeriod: 1h, syncPeriod: 1h}";

struct World {
    cluster: Cluster,
    folder: tempfile::TempDir,
}

impl World {
    fn new() -> Result<World, libtest_mimic::Failed> {
        let folder = tempfile::tempdir()?;
        let script = folder.path().join("sluice");
        let socket = socket(folder.path());
        let text =
            format!("#!/bin/sh\nexec '{}' --admin-socket={socket} \"$@\"\n", program().display());
        std::fs::write(&script, text)?;
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755))?;
        let configuration = CONFIG.replace("ipvs: {minSyncPeriod: 1ms}", PACE);
        let (cluster, _pods) = unserved_by(&script, &configuration)?;
        cluster.start_proxy("node-a")?;
        Ok(World { cluster, folder })
    }

    fn ask(&self, arguments: &[&str]) -> Result<(bool, String), libtest_mimic::Failed> {
        let mut command = Command::new(program());
        command.args(arguments).args(["--socket", &socket(self.folder.path())]);
        let output = command.output()?;
        Ok((output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned()))
    }

    /// The kernel's objects on the way, and those that it lacks.
    fn kernel(&self, to: &str) -> Result<[Vec<(String, String)>; 2], libtest_mimic::Failed> {
        let client = if to.contains('[') { "fd00:10:244:1::9" } else { "10.244.1.9" };
        let (_, text) = self.ask(&["explain", client, to, "-o", "json"])?;
        let answer: Value = serde_json::from_str(&text)?;
        let stages = answer["stages"].as_array().ok_or("no stages")?;
        let kernel = stages.iter().find(|stage| stage["stage"] == "kernel").ok_or("no kernel")?;
        let list = |name: &str| -> Vec<(String, String)> {
            let all = kernel[name].as_array().into_iter().flatten();
            let text =
                |object: &Value, field: &str| object[field].as_str().unwrap_or("").to_owned();
            all.map(|object| (text(object, "set"), text(object, "element"))).collect()
        };
        assert!(list("extra").is_empty(), "{answer}");
        let codes = answer["findings"].as_array().ok_or("no findings")?;
        let named =
            codes.iter().filter(|finding| finding["code"] == "kernel-object-missing").count();
        assert_eq!(named, list("missing").len(), "{answer}");
        Ok([list("objects"), list("missing")])
    }
}

fn socket(folder: &Path) -> String {
    folder.join("asked/admin.sock").display().to_string()
}

fn ipvsadm(node: &Host, words: &str) -> Result<(), libtest_mimic::Failed> {
    on(node, "ipvsadm", &words.split(' ').collect::<Vec<_>>()).map(drop)
}

pub(crate) fn taken_away() -> Outcome {
    let world = World::new()?;
    let node = world.cluster.lab().node("node-a")?;
    let (same, text) = world.ask(&["rules", "web", "--diff"])?;
    assert!(same, "{text}");
    for to in ["10.96.0.80:80", "[fd00:10:96::80]:80"] {
        let [there, missing] = world.kernel(to)?;
        assert_eq!(missing, [], "{to}");
        let of_ipvs = |verb: &str| -> Vec<(String, String)> {
            there.iter().filter(|(_, text)| text.starts_with(verb)).cloned().collect()
        };
        let (services, destinations) = (of_ipvs("-A "), of_ipvs("-a "));
        assert_eq!((services.len(), destinations.len()), (1, 3), "{there:?}");
        for gone in &destinations {
            let words = gone.1.replacen("-a ", "-d ", 1);
            ipvsadm(&node, words.split(" -m ").next().ok_or("words")?)?;
            assert_eq!(world.kernel(to)?[1], std::slice::from_ref(gone));
            ipvsadm(&node, &gone.1)?;
        }
        let words = services[0].1.replacen("-A ", "-D ", 1);
        ipvsadm(&node, words.split(" -s ").next().ok_or("words")?)?;
        assert_eq!(world.kernel(to)?[1], services);
        let (same, text) = world.ask(&["rules", "web", "--diff"])?;
        assert!(!same && text.contains(&format!("- IPVS: {}", services[0].1)), "{text}");
        for back in services.iter().chain(&destinations) {
            ipvsadm(&node, &back.1)?;
        }
        let ip = to.parse::<SocketAddr>()?.ip().to_string();
        on(&node, "ip", &["address", "del", &ip, "dev", "kube-ipvs0"])?;
        let address = ("device kube-ipvs0".to_owned(), ip.clone());
        assert_eq!(world.kernel(to)?[1], [address]);
        let flags: &[&str] = if ip.contains(':') { &["nodad"] } else { &[] };
        on(&node, "ip", &[&["address", "add", &ip, "dev", "kube-ipvs0"], flags].concat())?;
        assert_eq!(world.kernel(to)?, [there, vec![]], "all is back");
    }
    Ok(())
}
