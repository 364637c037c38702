//! What is around the rules of the iptables mode: kernels and packages that lack something, native rules of
//! nf_tables in its tables, and others who flush or restore.

use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::{Command, Stdio};

use sluice_cluster::{Answer, Probe};
use sluice_core::net::Family;
use sluice_dataplane::iptables::{Iptables, Layout, Programs};
use sluice_dataplane::{Backend, Observation, Scope};
use sluice_kernel::xtables::{ChainGraph, Table, Variant, Xtables, XtablesError};

use super::support::daemon::program;
use super::support::{eventually, in_own_network};
use super::{Outcome, cluster_of, every_kind, run, saved, sorted, sync, world};

/// Programs that lack an extension: its name is replaced by one that does not exist.
struct Without(Xtables, &'static str);

impl Programs for Without {
    fn save(&mut self, table: Table) -> Result<String, XtablesError> {
        self.0.save(table)
    }

    fn chain_graph(&mut self, table: Table) -> Result<ChainGraph, XtablesError> {
        self.0.chain_graph(table)
    }

    fn restore(&mut self, script: &str) -> Result<(), XtablesError> {
        self.0.restore(&script.replace(self.1, "-m nobody-has-this"))
    }

    fn chains(&mut self, asked: &[(Table, &str)]) -> Result<Vec<Option<String>>, XtablesError> {
        self.0.chains(asked)
    }

    fn route_localnet(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

pub(crate) fn without_extensions(family: Family, variant: Variant) -> Outcome {
    for words in ["-m bpf", "--random-fully", "-m comment", "-m recent", "-m addrtype", "-j REJECT"]
    {
        in_own_network(|| without_extension(family, variant, words))?;
    }
    Ok(())
}

fn without_extension(family: Family, variant: Variant, words: &'static str) -> Outcome {
    let table = world::table(family, &every_kind(family));
    let tables = Without(Xtables::new(family, variant), words);
    let mut mode = Iptables::new(tables, world::options(Layout::Compact));
    let report = mode.sync(&table, &Scope::default())?;
    assert_eq!(report.refused, [], "{words}");
    let found = saved(family, variant);
    assert!(!found.contains(words), "{words}: {found}");
    assert!(found.contains("-j DNAT") && !found.contains("PROBE"), "{words}: {found}");
    let full = Scope { full: true, ..Scope::default() };
    assert_eq!(mode.sync(&table, &full)?.operations, 0, "{words}: text goes round");
    Ok(())
}

/// The package without the extension's file, as the daemon meets it.
pub(crate) fn without_bpf() -> Outcome {
    let folder = tempfile::TempDir::new()?;
    let extensions = folder.path().join("xtables");
    std::fs::create_dir(&extensions)?;
    let installed = ["/usr/lib/x86_64-linux-gnu/xtables", "/usr/lib/aarch64-linux-gnu/xtables"];
    let installed = installed.iter().find(|path| std::path::Path::new(path).exists());
    for file in std::fs::read_dir(installed.ok_or("extensions of iptables are installed")?)? {
        let file = file?;
        if file.file_name() != "libxt_bpf.so" {
            symlink(file.path(), extensions.join(file.file_name()))?;
        }
    }
    let script = folder.path().join("sluice");
    let (extensions, daemon) = (extensions.display(), program().display());
    let text = format!("#!/bin/sh\nexport XTABLES_LIBDIR='{extensions}'\nexec '{daemon}' \"$@\"\n");
    std::fs::write(&script, text)?;
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755))?;
    let cluster = cluster_of(&script, "")?;
    let node = cluster.lab().node("node-a")?;
    for family in Family::BOTH {
        let vip = if family == Family::V4 { "10.96.0.80:80" } else { "[fd00:10:96::80]:80" };
        let probe = Probe::tcp(vip.parse::<SocketAddr>()?);
        eventually("the Service answers", || {
            matches!(node.probe(&probe), Ok(Answer::Answered { .. })).then_some(())
        });
    }
    let log = cluster.with_proxy("node-a", |proxy| proxy.log()).unwrap_or_default();
    assert_eq!(log.matches("lacks match bpf (xt_bpf)").count(), 2, "once for each family: {log}");
    Ok(())
}

fn name(family: Family) -> &'static str {
    if family == Family::V4 { "iptables" } else { "ip6tables" }
}

pub(crate) fn noticed(family: Family, variant: Variant) -> Outcome {
    let program = format!("{}-{variant}", name(family));
    let mut mode = world::mode(family, variant, Layout::Compact);
    let none = every_kind(family);
    let empty = world::table(family, &sluice_core::model::Snapshot::default());
    mode.sync(&empty, &Scope::default())?;
    let older = saved(family, variant);
    let everything = Scope { services: none.services.keys().cloned().collect(), full: false };
    sync(&mut mode, family, &everything);
    let whole = sorted(&saved(family, variant));
    let repaired = |mode: &mut Iptables, what: &str| {
        // Everything is checked within three checks.
        let looks: Vec<Observation> =
            (0..3).map(|_| sync(mode, family, &Scope::default()).0).collect();
        assert!(looks.contains(&Observation::Drift), "{what}: {looks:?}");
        assert_eq!(sorted(&saved(family, variant)), whole, "{what}");
    };
    for (table, chain) in [
        ("nat", "PREROUTING"),
        ("nat", "OUTPUT"),
        ("nat", "POSTROUTING"),
        ("filter", "INPUT"),
        ("filter", "FORWARD"),
        ("filter", "OUTPUT"),
    ] {
        run(&program, &["-t", table, "-F", chain]);
        repaired(&mut mode, chain);
        run(&program, &["-t", table, "-D", chain, "1"]);
        repaired(&mut mode, chain);
    }
    let mut child = Command::new(format!("{program}-restore")).stdin(Stdio::piped()).spawn()?;
    std::io::Write::write_all(&mut child.stdin.take().ok_or("a pipe")?, older.as_bytes())?;
    assert!(child.wait()?.success(), "{older}");
    repaired(&mut mode, "older rules restored");
    Ok(())
}

/// `iptables-nft-save` prints a comment in place of a table with a native rule.
pub(crate) fn native(family: Family, variant: Variant) -> Outcome {
    if variant == Variant::Legacy {
        // Its tables are not those of nf_tables.
        return Ok(());
    }
    let ip = if family == Family::V4 { "ip" } else { "ip6" };
    sync(&mut world::mode(family, variant, Layout::Compact), family, &Scope::default());
    let whole = sorted(&saved(family, variant));
    let rules = [
        "nat POSTROUTING meta mark 0x77 masquerade",
        "filter FORWARD ct state vmap { invalid : drop }",
    ];
    for rule in rules {
        let words: Vec<&str> = rule.split(' ').collect();
        let old = format!("-t {} -N KUBE-SVC-AAAAAAAAAAAAAAAA", words[0]);
        run(&format!("{}-nft", name(family)), &old.split(' ').collect::<Vec<_>>());
        run("nft", &["add", "rule", ip, words[0], words[1], &words[2..].join(" ")]);
        let tables = Xtables::new(family, variant);
        let table = if words[0] == "nat" { Table::Nat } else { Table::Filter };
        let unread = tables.save(table);
        assert!(matches!(unread, Err(XtablesError::Incompatible { .. })), "{unread:?}");
        for _ in 0..3 {
            let mut again = world::mode(family, variant, Layout::Compact);
            assert_eq!(sync(&mut again, family, &Scope::default()).0, Observation::Asked);
            let quiet = (0..3).map(|_| sync(&mut again, family, &Scope::default()));
            assert!(quiet.into_iter().all(|report| report == (Observation::None, 0)), "{rule}");
        }
        let chain = run("nft", &["-a", "list", "chain", ip, words[0], words[1]]);
        let handle = chain.lines().rev().find_map(|line| {
            let native = line.contains("masquerade") || line.contains("vmap");
            native.then(|| line.rsplit_once("# handle ")).flatten()
        });
        let (_, handle) = handle.ok_or("others' rules stay")?;
        run("nft", &["delete", "rule", ip, words[0], words[1], "handle", handle]);
        assert_eq!(sorted(&saved(family, variant)), whole, "one jump of each, and no leftovers");
    }
    Ok(())
}
