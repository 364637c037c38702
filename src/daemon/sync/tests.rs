//! The loop among its sources.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio_util::sync::CancellationToken;

use super::*;
use sluice_config::{Mode, parse};
use sluice_core::model::{Change, Node};
use sluice_core::plan::ForwardingTable;
use sluice_core::plan::fixtures::service;
use sluice_dataplane::{Report, Scope, SyncError};
use sluice_kubernetes::watch::Update;

/// Changes that come one after the other before it is given up.
const FLOOD: usize = 1000;

/// A backend during whose every sync another change comes, until it sees another configuration.
struct Flooded {
    updates: mpsc::Sender<Message>,
    syncs: Arc<AtomicUsize>,
    stop: CancellationToken,
}

impl Backend for Flooded {
    fn sync(&mut self, table: &ForwardingTable, _: &Scope) -> Result<Report, SyncError> {
        let number = self.syncs.fetch_add(1, Ordering::SeqCst);
        if table.host.masquerade_all || number == FLOOD {
            self.stop.cancel();
        } else {
            let service = service("web", &format!("10.96.{}.{}", number / 250, number % 250 + 1));
            let change = Message::from(Update::Change(Change::Service(service)));
            self.updates.try_send(change).expect("there is room for one");
        }
        Ok(Report::default())
    }
}

fn config(more: &str) -> Config {
    let head = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";
    let loaded = parse(&format!("{head}{more}"), std::path::Path::new("config.conf"));
    loaded.unwrap_or_else(|error| panic!("{error}")).config
}

/// What must be known before the first sync.
fn known() -> [Message; 4] {
    let addresses = vec!["192.0.2.1".parse().expect("an address")];
    let known = [
        Change::Services(Vec::new()),
        Change::Slices(Vec::new()),
        Change::Node(Some(Node { addresses, ..Node::default() })),
        Change::ServiceCidrs(BTreeSet::new()),
    ];
    known.map(|change| Update::Change(change).into())
}

fn setup(config: Config, backend: impl Backend + 'static, share: Share) -> Setup {
    Setup {
        config,
        node_name: "node-a".to_owned(),
        backends: vec![(Family::V4, Box::new(backend))],
        removed_tcp: RemovedTcp::Keep,
        share,
        health: Health::new(Duration::from_secs(60)),
        metrics: Metrics::new(Mode::Nftables),
        view: View::new(Looking::Possible),
        in_force: watch::Sender::default(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_changes_lets_other_sources_have_their_turn() {
    let (updates, inbox) = mpsc::channel(10);
    known().into_iter().for_each(|message| updates.try_send(message).expect("there is room"));
    let first = config("");
    let (configure, configured) = watch::channel(first.clone());
    let mut changed = first.clone();
    changed.masquerade_all = true;
    configure.send(changed).expect("somebody listens");
    let (_addresses, addresses) = watch::channel(BTreeSet::new());
    let (_foreign, foreign) = watch::channel(());
    let (stop, syncs) = (CancellationToken::new(), Arc::new(AtomicUsize::new(0)));
    let backend = Flooded { updates, syncs: Arc::clone(&syncs), stop: stop.clone() };
    let setup = setup(first, backend, Share::of_a_core(100));
    let sources = Sources { updates: inbox, addresses, foreign, config: configured };
    tokio::spawn(run(setup, sources, stop)).await.expect("no panic");
    let syncs = syncs.load(Ordering::SeqCst);
    assert!(syncs < FLOOD, "{syncs} changes went before a change of the configuration");
}
