//! What is almost right is named with what is right, and a dump that is no good is refused.

use std::process::Output;

use crate::{ask, root, run};

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn near_misses_name_what_was_meant() {
    for (miss, to, code, says) in [
        ("a name", "svc/wbe", "no-such-service", "do you mean web? fix: use the name web "),
        ("a DNS name", "http://wbe", "dns-no-such-name", "do you mean web?"),
        ("a namespace", "http://web.shop", "dns-no-such-name", "fix: use the name web.default"),
        ("a port", "svc/web:8080", "no-such-port", "it has 80/tcp (http) fix: use port 80 "),
        ("a port's name", "svc/web:htpp", "no-such-port", "svc/web.default:http (80/tcp)"),
        ("a protocol", "svc/web:80/udp", "wrong-protocol", "fix: connect by tcp: …:80/tcp"),
        ("a family", "[fd00::80]:80", "wrong-family", "ipFamilyPolicy: PreferDualStack"),
        (
            "a label",
            "svc/cart",
            "selector-near-miss",
            "pod cart-1 has app=crat, and Service default/cart selects app=cart: a typo?",
        ),
    ] {
        let output = ask("pod/shell", to, &[]);
        let shown = text(&output);
        assert_eq!(output.status.code(), Some(10), "{miss}: {shown}");
        assert!(shown.contains(&format!(" {code}: ")), "{miss}: {shown}");
        assert!(shown.contains(says), "{miss}: {says}: {shown}");
        assert!(shown.contains(&format!("docs/findings.md#{code}")), "{miss}: {shown}");
    }
}

/// A dump of `node-a`, as far as explain needs one.
fn dump() -> String {
    let shop = std::fs::read_to_string(root().join("integration/explain/shop.yaml")).expect("shop");
    format!(
        "---\napiVersion: sluice.dev/v1alpha1\nkind: Dump\nnode: node-a\nat: \"2026-11-27T12:03:11Z\"\n\
         settings: {{mode: iptables, clusterCIDR: 10.244.0.0/16}}\n---\n{shop}"
    )
}

const QUESTION: [&str; 5] = ["explain", "pod/shell", "svc/web", "-f", "-"];

#[test]
fn a_dump_says_whose_it_is_and_brings_its_settings() {
    let output = run(&QUESTION, &dump());
    let shown = text(&output);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(
        shown.contains("truth: dump of node-a of 2026-11-27T12:03:11Z; node-a decides"),
        "{shown}"
    );
    assert!(shown.contains("KUBE-SVC-"), "its mode: {shown}");
}

#[test]
fn a_dump_of_another_version_is_refused() {
    let output = run(&QUESTION, &dump().replace("sluice.dev/v1alpha1", "sluice.dev/v9"));
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(
        error.contains("\"sluice.dev/v9\"") && error.contains("use the sluice that wrote it"),
        "{error}"
    );
    assert_eq!(error.lines().count(), 1, "{error}");
}

/// Wherever it ends, half a dump is an error or an answer from what there is, and never claims to know of endpoints that it has
/// lost.
#[test]
fn half_a_dump_claims_nothing_that_it_has_lost() {
    let whole = dump();
    let lost = whole.find("kind: EndpointSlice").expect("slices");
    for cut in (0..whole.len()).step_by(whole.len() / 24).filter(|cut| whole.is_char_boundary(*cut))
    {
        let output = run(&QUESTION, &whole[..cut]);
        let error = String::from_utf8_lossy(&output.stderr);
        let code = output.status.code().expect("it ends");
        assert!([0, 1, 10, 12].contains(&code), "{cut}: {output:?}");
        assert!(code != 1 || error.starts_with("sluice: "), "{cut}: {error}");
        assert!(!error.contains("panicked"), "{cut}: {error}");
        assert!(cut >= lost || code != 0, "{cut}: reachable, by which endpoints? {output:?}");
    }
}

#[test]
fn a_hundred_megabytes_of_a_dump_are_not_read() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), dump()).expect("it is written");
    file.as_file().set_len(100 << 20).expect("a large file");
    let output =
        run(&["explain", "pod/shell", "svc/web", "-f", &file.path().to_string_lossy()], "");
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("67108864 are read at the most"), "{error}");
}
