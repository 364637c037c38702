//! Keeps the zone of cluster DNS current.

use std::io;
use std::sync::{Arc, PoisonError, RwLock};
use std::thread::JoinHandle;

use tokio_util::sync::CancellationToken;

use sluice_cluster::api::{ApiServer, Notice, Resource};
use sluice_dns::Zone;
use sluice_dns::server::Shared;

/// Follows Services, EndpointSlices and namespaces on a thread of its own.
#[derive(Debug)]
pub(super) struct ZoneKeeper {
    zone: Shared,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl ZoneKeeper {
    pub(super) fn start(api: &ApiServer) -> io::Result<ZoneKeeper> {
        let runtime = tokio::runtime::Builder::new_current_thread().build()?;
        let zone: Shared = Arc::new(RwLock::new(Zone::new("cluster.local")));
        let mut feed =
            api.feed(&[Resource::Namespaces, Resource::Services, Resource::EndpointSlices]);
        let stop = CancellationToken::new();
        let (own, stopped) = (Arc::clone(&zone), stop.clone());
        let follow = async move {
            loop {
                follow_all(&own, &feed.take());
                tokio::select! {
                    () = stopped.cancelled() => return,
                    () = feed.changed() => {}
                }
            }
        };
        let thread = std::thread::Builder::new().name("lab-dns".to_owned());
        let thread = thread.spawn(move || runtime.block_on(follow))?;
        Ok(ZoneKeeper { zone, stop, thread: Some(thread) })
    }

    pub(super) fn zone(&self) -> Shared {
        Arc::clone(&self.zone)
    }
}

impl Drop for ZoneKeeper {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            // A panic has been reported already.
            let _ = thread.join();
        }
    }
}

fn follow_all(zone: &Shared, notices: &[Notice]) {
    let mut zone = zone.write().unwrap_or_else(PoisonError::into_inner);
    notices.iter().for_each(|notice| apply(&mut zone, notice));
}

fn apply(zone: &mut Zone, notice: &Notice) {
    let Some(object) = notice.now.as_ref().or(notice.before.as_ref()) else { return };
    let (namespace, name) = (&object.key.namespace, &object.key.name);
    let now = notice.now.as_ref().map(|object| object.value());
    match notice.resource {
        Resource::Namespaces => zone.set_namespace(name, now.is_some()),
        Resource::Services => zone.set_service(namespace, name, now),
        Resource::EndpointSlices => zone.set_slice(namespace, name, now),
        _ => {}
    }
}
