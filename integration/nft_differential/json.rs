//! `sluice rules -o json`: `nft -j -f` makes of it what `nft -f` makes of the text. `nft` 1.0.6 takes no map to an address and
//! port in JSON, not even its own: then these maps, and the rules that look up in them, are left out here and nothing else.

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::{Value, json};

use crate::sandbox::nft;

const PROGRAM: &str = env!("CARGO_BIN_EXE_sluice-under-test");

/// What `sluice rules web` prints in a mode.
fn rules(mode: &str) -> Value {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/explain");
    let output = Command::new(PROGRAM)
        .args(["rules", "web", "-f", "shop.yaml", "--on", "node-a", "--config", "config.yaml"])
        .args(["--mode", mode, "-o", "json"])
        .current_dir(folder)
        .output()
        .expect("the program starts");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

/// Whether this `nft` takes what it is given.
fn takes(rules: &Value) -> bool {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), rules.to_string()).expect("it is written");
    let output = Command::new("nft").args(["-j", "-c", "-f"]).arg(file.path()).output();
    output.expect("nft is installed").status.success()
}

/// Maps whose data are several values.
fn wide_maps(objects: &[Value]) -> BTreeSet<String> {
    let wide = objects.iter().filter(|object| object["map"]["map"].is_array());
    wide.filter_map(|object| object["map"]["name"].as_str().map(str::to_owned)).collect()
}

fn concerns(object: &Value, maps: &BTreeSet<String>) -> bool {
    let name = object["map"]["name"].as_str().unwrap_or_default();
    let text = object["rule"].to_string();
    maps.contains(name) || maps.iter().any(|map| text.contains(&format!("\"@{map}\"")))
}

/// What the kernel has now, without what differs from listing to listing, and without what concerns these maps.
fn listed(without: &BTreeSet<String>) -> BTreeSet<String> {
    let text = nft(&["-j", "-s", "list", "ruleset"], "");
    let whole: Value = serde_json::from_str(&text).expect("nft speaks JSON");
    let objects = whole["nftables"].as_array().expect("a list").iter();
    let objects = objects.filter(|it| it["metainfo"].is_null() && !concerns(it, without));
    objects.map(|object| plain(object.clone()).to_string()).collect()
}

/// Without handles and comments (which `nft` 1.0.6 does not read from JSON), elements sorted.
fn plain(mut object: Value) -> Value {
    for kind in ["table", "set", "map", "chain", "rule"] {
        let Some(fields) = object.get_mut(kind).and_then(Value::as_object_mut) else { continue };
        fields.remove("handle");
        fields.remove("comment");
        if let Some(elements) = fields.get_mut("elem").and_then(Value::as_array_mut) {
            elements.sort_by_key(Value::to_string);
        }
    }
    object
}

pub(crate) fn rules_of_a_service() {
    for mode in ["nftables", "ipvs"] {
        let rules = rules(mode);
        let objects = rules["nftables"].as_array().expect("a list");
        let modes = rules["modes"].as_array().expect("a list").iter();
        let text =
            modes.filter(|it| it["format"] == "nft list").filter_map(|it| it["text"].as_str());
        let text = text.collect::<String>();
        let wide = wide_maps(objects);
        assert!(!wide.is_empty(), "{mode} translates to an address and port by a map");
        let needs = rules["nftablesNeeds"].as_str().expect("it says which nft takes it");
        assert!(needs.starts_with("an nft that reads typeof in JSON"), "{needs}");

        let whole = takes(&rules);
        let without = if whole { BTreeSet::new() } else { wide };
        let taken: Vec<&Value> =
            objects.iter().filter(|object| !concerns(object, &without)).collect();
        nft(&["flush", "ruleset"], "");
        nft(&["-j", "-f", "-"], &json!({ "nftables": taken }).to_string());
        let of_json = listed(&without);
        nft(&["flush", "ruleset"], "");
        nft(&["-f", "-"], &text);
        assert_eq!(of_json, listed(&without), "{mode}, whole: {whole}");
        assert!(of_json.len() > 30, "{mode}: {} objects", of_json.len());
        nft(&["flush", "ruleset"], "");
    }
}
