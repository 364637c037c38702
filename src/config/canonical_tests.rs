//! The effective configuration in upstream's form.

use std::path::Path;

use serde_json::Value;

use super::*;

fn fixture(name: &str) -> String {
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
        .join("integration/fixtures/config")
        .join(name);
    std::fs::read_to_string(path).expect("the fixture is there")
}

/// A file as upstream's codec writes it, without the Linux defaults.
fn through_the_codec(text: &str) -> String {
    let (wire, _) = read(text, Path::new("before.yaml")).unwrap_or_else(|error| panic!("{error}"));
    wire.with_defaults().of_its_mode().to_yaml()
}

/// The output of `--write-config-to` for a file.
fn effective(text: &str) -> String {
    let loaded = parse(text, Path::new("before.yaml")).unwrap_or_else(|error| panic!("{error}"));
    loaded.wire.of_its_mode().to_yaml()
}

#[test]
fn an_empty_file_becomes_the_canonical_one() {
    let head = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";
    // Upstream's, whose default of `minSyncPeriod` would count as asked for.
    let golden = fixture("defaults.yaml").replace("minSyncPeriod: 1s", "minSyncPeriod: 0s");
    assert_eq!(through_the_codec(head), golden);
    assert_eq!(through_the_codec(&golden), golden, "and is a fixed point");
}

#[test]
fn a_file_that_says_everything_keeps_it() {
    for name in ["everything-nftables.yaml", "everything-ipvs.yaml"] {
        let text = fixture(name);
        assert_eq!(effective(&text), text, "{name}");
    }
}

#[test]
fn effective_configurations_are_fixed_points() {
    for name in ["kubeadm.yaml", "kind-dual-stack.yaml", "eks.yaml"] {
        let once = effective(&fixture(name));
        assert_eq!(effective(&once), once, "{name}");
    }
}

/// For a copy of upstream's `pkg/proxy/apis/config/scheme/testdata`, whose path is in
/// `KUBE_PROXY_TESTDATA`: `before` becomes `after`, and `roundtrip` stays as it is.
#[test]
fn golden_files_of_upstream_round_trip_if_given() {
    let Some(folder) = std::env::var_os("KUBE_PROXY_TESTDATA") else { return };
    let mut pairs = Vec::new();
    let mut folders = vec![std::path::PathBuf::from(folder)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("KUBE_PROXY_TESTDATA is a folder") {
            let path = entry.expect("it is readable").path();
            let text = path.to_string_lossy().into_owned();
            if path.is_dir() {
                folders.push(path);
            } else if text.contains("/before/") {
                pairs.push((text.clone(), text.replace("/before/", "/after/")));
            } else if text.contains("/roundtrip/") {
                pairs.push((text.clone(), text));
            }
        }
    }
    assert!(!pairs.is_empty(), "KUBE_PROXY_TESTDATA has no golden files");
    for (before, after) in pairs {
        let read = |path: &str| std::fs::read_to_string(path).expect("the file is there");
        // Quoting may differ.
        let tree = |yaml: &str| {
            let mut tree = serde_saphyr::from_str::<Value>(yaml).expect("it is YAML");
            // The one default that differs.
            for section in ["iptables", "ipvs", "nftables"] {
                tree[section]["minSyncPeriod"] = Value::Null;
            }
            tree
        };
        assert_eq!(tree(&through_the_codec(&read(&before))), tree(&read(&after)), "{before}");
    }
}
