//! From the objects of one resource to changes of the model.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hash;

use ipnet::IpNet;
use rustc_hash::{FxHashMap, FxHashSet};

use super::Resource;
use super::convert::{self, Converted, Interner};
use super::object::Object;
use sluice_core::model::{Change, EndpointSlice, Node, Service, ServiceName, SliceName, Warning};

/// What is particular to a resource.
pub(super) trait Kind: Send + Sync + 'static {
    const RESOURCE: Resource;
    type Key: Clone + Eq + Hash + Send + Sync;
    type Value: Send + Sync;

    /// Decodes one object.
    fn convert(&mut self, object: Object<'_>) -> Converted<Self::Key, Self::Value>;
    /// The change that a complete list is.
    fn all(&mut self, list: Vec<(Self::Key, Self::Value)>) -> Option<Change>;
    /// The change that one new or changed object is.
    fn put(&mut self, key: Self::Key, value: Self::Value) -> Option<Change>;
    /// The change that the end of an object is.
    fn gone(&mut self, key: Self::Key) -> Option<Change>;

    /// The warning about an incomplete list.
    fn lacking(&self) -> Vec<Warning> {
        Vec::new()
    }
}

/// The objects of one resource on their way into the model.
pub(super) struct ObjectFeed<K: Kind> {
    kind: K,
    /// What is known of a list that is not complete, in the order in which it came. Without a value,
    /// an object is off the list again, if it was on it.
    list: Vec<(K::Key, Option<K::Value>)>,
    /// Warnings that were already reported, so that a relist does not repeat them.
    last_warnings: FxHashMap<Option<K::Key>, Vec<Warning>>,
    /// The same before the list began: objects that the list lacks are removed.
    warnings_before_list: FxHashMap<Option<K::Key>, Vec<Warning>>,
}

impl<K: Kind> ObjectFeed<K> {
    pub(super) fn new(kind: K) -> ObjectFeed<K> {
        let (last_warnings, warnings_before_list) = Default::default();
        ObjectFeed { kind, list: Vec::new(), last_warnings, warnings_before_list }
    }

    /// Starts a list.
    pub(super) fn begin(&mut self) {
        self.list = Vec::new();
        self.warnings_before_list.extend(self.last_warnings.drain());
    }

    /// Adds an object to the list. One that changed while the list was sent comes twice; the model
    /// takes the later one.
    #[must_use]
    pub(super) fn add(&mut self, object: Object<'_>) -> Vec<Warning> {
        let Converted { key, value, warnings } = self.kind.convert(object);
        self.list.extend(key.clone().map(|key| (key, value)));
        self.deduplicate(key, warnings)
    }

    /// Removes an object from the list.
    pub(super) fn withdraw(&mut self, object: Object<'_>) {
        self.list.extend(self.kind.convert(object).key.map(|key| (key, None)));
    }

    /// Ends the list. Warnings about missing parts are given once, not with every identical list.
    pub(super) fn finish(&mut self) -> (Option<Change>, Vec<Warning>) {
        self.warnings_before_list = FxHashMap::default();
        let change = self.kind.all(on_the_list(std::mem::take(&mut self.list)));
        let warnings = if change.is_some() { self.kind.lacking() } else { Vec::new() };
        (change, warnings)
    }

    /// A new or changed object.
    pub(super) fn put(&mut self, object: Object<'_>) -> (Option<Change>, Vec<Warning>) {
        let Converted { key, value, warnings } = self.kind.convert(object);
        let warnings = self.deduplicate(key.clone(), warnings);
        let change = match (key, value) {
            (Some(key), Some(value)) => self.kind.put(key, value),
            (Some(key), None) => self.kind.gone(key),
            (None, _) => None,
        };
        (change, warnings)
    }

    /// A deleted object.
    pub(super) fn delete(&mut self, object: Object<'_>) -> Option<Change> {
        let key = self.kind.convert(object).key?;
        self.last_warnings.remove(&Some(key.clone()));
        self.kind.gone(key)
    }

    /// The warnings, unless they equal the object's last ones.
    fn deduplicate(&mut self, key: Option<K::Key>, warnings: Vec<Warning>) -> Vec<Warning> {
        if warnings.is_empty() {
            self.last_warnings.remove(&key);
            return warnings;
        }
        let known = self.last_warnings.get(&key).or_else(|| self.warnings_before_list.get(&key))
            == Some(&warnings);
        self.last_warnings.insert(key, warnings.clone());
        if known { Vec::new() } else { warnings }
    }
}

/// What is on a list in the end. An object that came again after it was taken off is.
fn on_the_list<K: Eq + Hash, V>(list: Vec<(K, Option<V>)>) -> Vec<(K, V)> {
    let mut off = FxHashSet::default();
    let from_the_end = list.into_iter().rev();
    let mut on: Vec<(K, V)> = from_the_end
        .filter_map(|(key, value)| match value {
            Some(value) => (!off.contains(&key)).then_some((key, value)),
            None => {
                off.insert(key);
                None
            }
        })
        .collect();
    on.reverse();
    on
}

/// Services.
#[derive(Default)]
pub(super) struct Services {
    pub(super) names: Interner,
}

impl Kind for Services {
    const RESOURCE: Resource = Resource::Services;
    type Key = ServiceName;
    type Value = Service;

    fn convert(&mut self, object: Object<'_>) -> Converted<ServiceName, Service> {
        convert::service(object, &mut self.names)
    }

    fn all(&mut self, list: Vec<(ServiceName, Service)>) -> Option<Change> {
        Some(Change::Services(list.into_iter().map(|(_, service)| service).collect()))
    }

    fn put(&mut self, _name: ServiceName, service: Service) -> Option<Change> {
        Some(Change::Service(service))
    }

    fn gone(&mut self, name: ServiceName) -> Option<Change> {
        Some(Change::ServiceGone(name))
    }
}

/// EndpointSlices.
pub(super) struct Slices {
    pub(super) node_name: String,
    pub(super) names: Interner,
}

impl Kind for Slices {
    const RESOURCE: Resource = Resource::EndpointSlices;
    type Key = SliceName;
    type Value = EndpointSlice;

    fn convert(&mut self, object: Object<'_>) -> Converted<SliceName, EndpointSlice> {
        convert::slice(object, &self.node_name, &mut self.names)
    }

    fn all(&mut self, list: Vec<(SliceName, EndpointSlice)>) -> Option<Change> {
        Some(Change::Slices(list.into_iter().map(|(_, slice)| slice).collect()))
    }

    fn put(&mut self, _name: SliceName, slice: EndpointSlice) -> Option<Change> {
        Some(Change::Slice(slice))
    }

    fn gone(&mut self, name: SliceName) -> Option<Change> {
        Some(Change::SliceGone(name))
    }
}

/// The own Node. The kubelet writes its status every few seconds, mostly without a change that
/// counts here; those are not passed on.
pub(super) struct OwnNode {
    pub(super) node_name: String,
    pub(super) last: Option<Option<Node>>,
    /// Whether there ever was one.
    pub(super) seen: bool,
}

impl OwnNode {
    fn changed(&mut self, node: Option<Node>) -> Option<Change> {
        if self.last.as_ref() == Some(&node) {
            return None;
        }
        self.seen |= node.is_some();
        self.last = Some(node.clone());
        Some(Change::Node(node))
    }
}

impl Kind for OwnNode {
    const RESOURCE: Resource = Resource::Node;
    type Key = String;
    type Value = Node;

    fn convert(&mut self, object: Object<'_>) -> Converted<String, Node> {
        let converted = convert::node(object);
        if converted.key.as_ref() == Some(&self.node_name) {
            return converted;
        }
        // A server that does not know the field selector sends every Node.
        Converted { key: None, value: None, warnings: Vec::new() }
    }

    fn all(&mut self, list: Vec<(String, Node)>) -> Option<Change> {
        let node = list.into_iter().next_back().map(|(_, node)| node);
        self.changed(node)
    }

    fn put(&mut self, _name: String, node: Node) -> Option<Change> {
        self.changed(Some(node))
    }

    fn gone(&mut self, _name: String) -> Option<Change> {
        self.changed(None)
    }

    fn lacking(&self) -> Vec<Warning> {
        if self.last != Some(None) || self.seen {
            return Vec::new();
        }
        vec![Warning {
            object: format!("Node {}", self.node_name),
            field: "metadata.name".to_owned(),
            problem: "there is no such Node (yet?): its zone, pod prefixes and addresses are unknown, so \
                      that node ports on primary addresses are closed; if this host's Node has \
                      another name, set --hostname-override"
                .to_owned(),
        }]
    }
}

/// ServiceCIDRs. The model holds their union.
#[derive(Default)]
pub(super) struct ServiceCidrs {
    by_name: BTreeMap<String, Vec<IpNet>>,
    last: Option<BTreeSet<IpNet>>,
}

impl ServiceCidrs {
    fn changed(&mut self) -> Option<Change> {
        let union: BTreeSet<IpNet> = self.by_name.values().flatten().copied().collect();
        if self.last.as_ref() == Some(&union) {
            return None;
        }
        self.last = Some(union.clone());
        Some(Change::ServiceCidrs(union))
    }
}

impl Kind for ServiceCidrs {
    const RESOURCE: Resource = Resource::ServiceCidrs;
    type Key = String;
    type Value = Vec<IpNet>;

    fn convert(&mut self, object: Object<'_>) -> Converted<String, Vec<IpNet>> {
        convert::service_cidr(object)
    }

    fn all(&mut self, list: Vec<(String, Vec<IpNet>)>) -> Option<Change> {
        self.by_name = list.into_iter().collect();
        self.changed()
    }

    fn put(&mut self, name: String, nets: Vec<IpNet>) -> Option<Change> {
        self.by_name.insert(name, nets);
        self.changed()
    }

    fn gone(&mut self, name: String) -> Option<Change> {
        self.by_name.remove(&name);
        self.changed()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// A key that counts how often one is compared.
    #[derive(Debug, Clone, Eq)]
    struct Counted(u32);

    static COMPARED: AtomicUsize = AtomicUsize::new(0);

    impl PartialEq for Counted {
        fn eq(&self, other: &Counted) -> bool {
            COMPARED.fetch_add(1, Ordering::Relaxed);
            self.0 == other.0
        }
    }

    impl Hash for Counted {
        fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
            self.0.hash(state);
        }
    }

    /// Objects that are numbers. Odd ones have no value, as a Service of type ExternalName.
    #[derive(Default)]
    struct Numbers(Vec<u32>);

    impl Kind for Numbers {
        const RESOURCE: Resource = Resource::Services;
        type Key = Counted;
        type Value = u32;

        fn convert(&mut self, object: Object<'_>) -> Converted<Counted, u32> {
            let Object::Json(text) = object else { panic!("tests write JSON") };
            let number: u32 = text.parse().expect("a number");
            let value = number.is_multiple_of(2).then_some(number);
            Converted { key: Some(Counted(number)), value, warnings: Vec::new() }
        }

        fn all(&mut self, list: Vec<(Counted, u32)>) -> Option<Change> {
            self.0 = list.into_iter().map(|(_, value)| value).collect();
            None
        }

        fn put(&mut self, _key: Counted, _value: u32) -> Option<Change> {
            None
        }

        fn gone(&mut self, _key: Counted) -> Option<Change> {
            None
        }
    }

    #[test]
    fn the_cost_of_a_list_grows_with_its_length_however_much_of_it_is_skipped() {
        const COUNT: usize = 20_000;
        let mut feed = ObjectFeed::new(Numbers::default());
        feed.begin();
        for number in 0..COUNT {
            assert_eq!(feed.add(Object::Json(&number.to_string())), []);
        }
        for number in 0..COUNT / 2 {
            feed.withdraw(Object::Json(&number.to_string()));
        }
        let _ = feed.finish();
        assert_eq!(feed.kind.0.len(), COUNT / 4);
        let compared = COMPARED.load(Ordering::Relaxed);
        assert!(compared < 10 * COUNT, "{compared} comparisons for {COUNT} objects");
    }

    #[test]
    fn an_object_that_comes_again_after_it_went_is_on_the_list() {
        let list = vec![
            ("stays", Some(1)),
            ("goes", Some(2)),
            ("returns", Some(3)),
            ("goes", None),
            ("returns", None),
            ("never was", None),
            ("returns", Some(4)),
        ];
        assert_eq!(on_the_list(list), [("stays", 1), ("returns", 4)]);
    }
}
