//! The manifests: that they render, that every field is one of the API's, and that the daemon runs
//! from the very arguments and files that they give it.
//!
//! `kubectl` renders the overlays and `helm` the chart; what is not installed is not tried.

#![allow(clippy::unwrap_used, clippy::print_stderr)] // a test may end where it is

mod pod;
mod render;
#[path = "../support/mod.rs"]
mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::Value;
use sluice_cluster::{Isolation, prepare};

use pod::{Files, Pod};
use render::{Rendered, chart, check_fields, documents, overlay};
use support::Outcome;

fn main() -> ExitCode {
    prepare(Isolation::Private).expect("namespaces of our own");
    let arguments = libtest_mimic::Arguments::from_args();
    let trial = |name, run: fn() -> Outcome| libtest_mimic::Trial::test(name, run);
    let trials = vec![
        trial("every_field_of_the_overlays_is_one_of_the_api", fields_of_overlays),
        trial("every_field_of_the_chart_is_one_of_the_api", fields_of_chart),
        trial("chart_and_overlay_give_the_proxy_the_same_rights", chart_is_as_overlay),
        trial("configurations_load_without_a_remark", configurations),
        trial("manifests_name_the_image_of_this_version", versions),
        trial("the_overlay_for_kind_runs", kind_runs),
        trial("the_overlay_for_eks_runs", eks_runs),
        trial("the_standalone_overlay_runs", standalone_runs),
        trial("kubeadms_own_daemon_set_runs_with_our_program", kubeadm_runs),
        trial("the_eks_add_on_runs_with_our_program", eks_add_on_runs),
    ];
    libtest_mimic::run(&arguments, trials).exit_code()
}

const OVERLAYS: [&str; 3] = ["kind", "eks", "standalone"];

fn manifests() -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join("manifests")
}

fn fixture(name: &str) -> String {
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .join("integration/fixtures")
        .join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn fields_of_overlays() -> Outcome {
    for name in OVERLAYS {
        let Some(rendered) = overlay(name) else { return Ok(()) };
        rendered.objects.iter().for_each(check_fields);
    }
    Ok(())
}

/// Values that take every branch of the chart's templates.
const CHART_VALUES: [&[&str]; 3] = [
    &[],
    &["mode=iptables", "nodeSetup.enabled=false", "extraArgs={--v=4}", "podLabels.a=b"],
    &["iptables.tools=true", "configuration.conntrack.maxPerCore=0", "image.tag=edge"],
];

fn fields_of_chart() -> Outcome {
    for values in CHART_VALUES {
        let Some(rendered) = chart(values) else { return Ok(()) };
        rendered.objects.iter().for_each(check_fields);
    }
    Ok(())
}

fn chart_is_as_overlay() -> Outcome {
    let (Some(chart), Some(overlay)) = (chart(&[]), overlay("standalone")) else { return Ok(()) };
    let spec = |rendered: &Rendered| {
        let mut spec = rendered.object("DaemonSet", "kube-proxy")["spec"].clone();
        spec["template"]["metadata"] = Value::Null; // Helm's own labels
        spec
    };
    assert_eq!(spec(&chart), spec(&overlay));
    Ok(())
}

fn configurations() -> Outcome {
    for name in OVERLAYS {
        let path = manifests().join("overlays").join(name).join("config.yaml");
        for object in documents(&fs::read_to_string(&path)?) {
            let data = object["data"].as_object().expect("a ConfigMap has data");
            let text =
                data.get("config").or_else(|| data.get("config.conf")).expect("the configuration");
            let loaded = sluice_config::parse(text.as_str().expect("text"), &path)?;
            assert_eq!(loaded.warnings, Vec::<String>::new(), "{}", path.display());
        }
    }
    Ok(())
}

/// Releasing means changing the version at all of these places.
fn versions() -> Outcome {
    let version = env!("CARGO_PKG_VERSION");
    let read = |file: &str| fs::read_to_string(manifests().join(file));
    let chart = read("helm/sluice/Chart.yaml")?;
    assert!(chart.contains(&format!("\nversion: {version}\nappVersion: {version}\n")), "{chart}");
    for file in [
        "base/daemonset.yaml",
        "components/node-setup/kustomization.yaml",
        "components/iptables/kustomization.yaml",
        "overlays/eks/kustomization.yaml",
    ] {
        let text = read(file)?;
        let tags = text.lines().filter_map(|line| {
            line.split_once("localhost/sluice:")
                .or_else(|| line.split_once("newTag: "))
                .map(|parts| parts.1)
        });
        let tags: Vec<&str> = tags.map(|tag| tag.trim_end_matches("-iptables")).collect();
        assert!(!tags.is_empty() && tags.iter().all(|tag| *tag == version), "{file}: {tags:?}");
    }
    Ok(())
}

fn runs(overlay_name: &str, host: &str, files: Files) -> Outcome {
    let Some(rendered) = overlay(overlay_name) else { return Ok(()) };
    let daemon_set = rendered.object("DaemonSet", "kube-proxy");
    let config_maps = |name: &str| rendered.config_map(name).or_else(|| files.get(name).cloned());
    let pod = Pod::new(daemon_set, config_maps, host);
    pod.run_until_synced();
    // Set by a container that has the right to, or not at all.
    let sets_up = daemon_set["spec"]["template"]["spec"]["initContainers"].is_array();
    let most = pod.setting("nf_conntrack_max");
    assert_eq!(most >= 131_072, sets_up, "{overlay_name}: {most}");
    Ok(())
}

fn kind_runs() -> Outcome {
    runs("kind", "kind-control-plane", Files::new())
}

fn standalone_runs() -> Outcome {
    runs("standalone", "control-plane.example", Files::new())
}

const EKS_HOST: &str = "0123456789abcdef.gr7.eu-central-1.eks.amazonaws.com";

fn eks_kubeconfig() -> Files {
    let data = [("kubeconfig".to_owned(), fixture("config/eks-kubeconfig.yaml"))];
    Files::from([("kube-proxy".to_owned(), data.into())])
}

/// The ConfigMap with the cluster's endpoint is EKS's own and stays.
fn eks_runs() -> Outcome {
    runs("eks", EKS_HOST, eks_kubeconfig())
}

/// As after `kubectl set image` in a cluster that kubeadm or kind made.
fn kubeadm_runs() -> Outcome {
    let kind = fs::read_to_string(manifests().join("overlays/kind/config.yaml"))?;
    let kubeconfig = documents(&kind)[0]["data"]["kubeconfig.conf"].as_str().unwrap().to_owned();
    let data = [
        ("config.conf".to_owned(), fixture("config/kubeadm.yaml")),
        ("kubeconfig.conf".to_owned(), kubeconfig),
    ];
    let files = Files::from([("kube-proxy".to_owned(), data.into())]);
    let daemon_set = &documents(&fixture("daemonsets/kubeadm.yaml"))[0];
    Pod::new(daemon_set, |name| files.get(name).cloned(), "kind-control-plane").run_until_synced();
    Ok(())
}

/// As after `kubectl set image` in an EKS cluster.
fn eks_add_on_runs() -> Outcome {
    let mut files = eks_kubeconfig();
    let data = [("config".to_owned(), fixture("config/eks.yaml"))];
    files.insert("kube-proxy-config".to_owned(), data.into());
    let daemon_set = &documents(&fixture("daemonsets/eks.yaml"))[0];
    Pod::new(daemon_set, |name| files.get(name).cloned(), EKS_HOST).run_until_synced();
    Ok(())
}
