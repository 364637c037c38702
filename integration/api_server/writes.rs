//! Writes over HTTP, through kube-rs.

use http::{Method, Request};
use k8s_openapi::api::core::v1::{Node, Service};
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use serde_json::{Value, json};
use sluice_cluster::api::{Access, Identity, Options, Resource, Token, Verb};

use super::setup::{client, get, names, request, run, service, start, web};

fn typed(value: Value) -> Service {
    serde_json::from_value(value).expect("a Service")
}

/// Code and reason of a refusal.
fn refusal<T: std::fmt::Debug>(result: kube::Result<T>) -> (u16, String) {
    match result {
        Err(kube::Error::Api(status)) => (status.code, status.reason),
        other => panic!("not a refusal: {other:?}"),
    }
}

fn port_names(service: &Service) -> Vec<String> {
    let ports = service.spec.as_ref().and_then(|s| s.ports.clone()).unwrap_or_default();
    ports.into_iter().filter_map(|p| p.name).collect()
}

pub(crate) fn each_kind_of_patch_changes_a_service() {
    let api = start(Options::default());
    run(async {
        let services: Api<Service> = Api::namespaced(client(&api), "default");
        let ports = json!([{"name": "a", "port": 80}, {"name": "b", "port": 81}]);
        let created = typed(service("x", json!({ "ports": ports })));
        services.create(&PostParams::default(), &created).await.expect("valid");
        let plain = PatchParams::default();
        let strategic = json!({"spec": {"ports": [{"port": 80, "targetPort": 8080}]}});
        let got = services.patch("x", &plain, &Patch::Strategic(strategic)).await.expect("patched");
        assert_eq!(port_names(&got), ["a", "b"]);
        let merge = json!({"spec": {"ports": [{"name": "c", "port": 82}]}});
        let got = services.patch("x", &plain, &Patch::Merge(merge)).await.expect("patched");
        assert_eq!(port_names(&got), ["c"]);
        let operations = json!([{"op": "replace", "path": "/spec/ports/0/name", "value": "d"}]);
        let body = operations.to_string().into_bytes();
        let patch = Request::patch("/api/v1/namespaces/default/services/x")
            .header("content-type", "application/json-patch+json");
        let got: Service = services
            .clone()
            .into_client()
            .request(patch.body(body).expect("valid"))
            .await
            .expect("patched");
        assert_eq!(port_names(&got), ["d"]);
        let apply = PatchParams::apply("test");
        let wanted = |spec: Value| Patch::Apply(service("y", spec));
        let two = json!({"ports": [{"name": "a", "port": 80}, {"name": "b", "port": 81}]});
        let got = services.patch("y", &apply, &wanted(two)).await.expect("created by apply");
        assert_eq!(port_names(&got), ["a", "b"]);
        let one = json!({"ports": [{"name": "a", "port": 80}]});
        let got = services.patch("y", &apply, &wanted(one)).await.expect("applied");
        assert_eq!(port_names(&got), ["a"]);
        assert_eq!(api.requests().count(Verb::Patch, Resource::Services), 5);
    });
}

pub(crate) fn conflicts_and_missing_objects_have_the_right_status() {
    let api = start(Options::default());
    run(async {
        let client = client(&api);
        let services: Api<Service> = Api::namespaced(client.clone(), "default");
        let post = PostParams::default();
        let created = services.create(&post, &typed(web("a"))).await.expect("valid");
        let twice = services.create(&post, &typed(web("a"))).await;
        assert_eq!(refusal(twice), (409, "AlreadyExists".to_owned()));
        let mut changed = created.clone();
        changed.metadata.annotations = Some([("k".to_owned(), "v".to_owned())].into());
        services.replace("a", &post, &changed).await.expect("the version is current");
        let stale = services.replace("a", &post, &changed).await;
        assert_eq!(refusal(stale), (409, "Conflict".to_owned()));
        assert_eq!(refusal(services.get("b").await), (404, "NotFound".to_owned()));
        let status = match services.get("b").await {
            Err(kube::Error::Api(status)) => status,
            other => panic!("{other:?}"),
        };
        assert_eq!(status.message, "services \"b\" not found");
        for (method, path, code) in [
            (Method::GET, "/api/v1/secrets", 404),
            (Method::POST, "/api/v1/services", 405),
            (Method::PUT, "/api/v1/services", 405),
            (Method::POST, "/api/v1/namespaces/default/services", 422),
            (Method::GET, "/api/v1/services?fieldSelector=spec.ports%3D80", 400),
            (Method::GET, "/api/v1/services?resourceVersion=soon", 400),
            (Method::GET, "/api/v1/services?resourceVersion=999999", 504),
            (Method::GET, "/api/v1/services?resourceVersionMatch=Exact", 422),
        ] {
            let body = (method != Method::GET).then(|| json!({"spec": {}}));
            let result = request(&client, method, path, body).await;
            assert_eq!(result.expect_err(path).0, code, "{path}");
        }
    });
}

pub(crate) fn a_status_is_written_apart_from_the_object() {
    let api = start(Options::default());
    run(async {
        let nodes: Api<Node> = Api::all(client(&api));
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}});
        api.create(&node).expect("valid");
        let patch = json!({
            "spec": {"podCIDR": "10.0.0.0/24"},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]},
        });
        let plain = PatchParams::default();
        let got =
            nodes.patch_status("n", &plain, &Patch::Strategic(&patch)).await.expect("patched");
        let conditions = got.status.and_then(|s| s.conditions).unwrap_or_default();
        assert_eq!(conditions.len(), 1);
        assert_eq!(got.spec.and_then(|s| s.pod_cidr), None, "that is not part of the status");
        let other = json!({
            "spec": {"podCIDR": "10.0.0.0/24"},
            "status": {"conditions": [{"type": "Ready", "status": "False"}]},
        });
        let got = nodes.patch("n", &plain, &Patch::Strategic(&other)).await.expect("patched");
        assert!(got.spec.is_some_and(|s| s.pod_cidr.is_some()));
        let conditions = got.status.and_then(|s| s.conditions).unwrap_or_default();
        assert_eq!(conditions[0].status, "True", "that is not part of the object");
    });
}

pub(crate) fn deletion_heeds_preconditions_and_selectors() {
    let api = start(Options::default());
    run(async {
        let services: Api<Service> = Api::namespaced(client(&api), "default");
        for name in ["a", "b", "c"] {
            api.create(&web(name)).expect("valid");
        }
        let preconditions = Preconditions { uid: Some("other".to_owned()), resource_version: None };
        let other = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        assert_eq!(refusal(services.delete("a", &other).await), (409, "Conflict".to_owned()));
        services.delete("a", &DeleteParams::default()).await.expect("it is there");
        let selected = ListParams::default().labels("app=b");
        services
            .delete_collection(&DeleteParams::default(), &selected)
            .await
            .expect("a collection can be deleted");
        let left = api.list(Resource::Services, "default");
        assert_eq!(left.iter().map(|o| o.key.name.as_str()).collect::<Vec<_>>(), ["c"]);
    });
}

pub(crate) fn a_dry_run_leaves_no_trace() {
    let api = start(Options::default());
    run(async {
        let services: Api<Service> = Api::namespaced(client(&api), "default");
        let dry = PostParams { dry_run: true, field_manager: None };
        let version = api.resource_version();
        let shown = services.create(&dry, &typed(web("a"))).await.expect("valid");
        let again = services.create(&dry, &typed(web("a"))).await.expect("valid");
        let address = |s: Service| s.spec.and_then(|s| s.cluster_ip);
        assert_eq!(address(shown), address(again), "the address was not kept");
        assert_eq!(api.resource_version(), version);
        assert!(api.list(Resource::Services, "").is_empty());
    });
}

pub(crate) fn unknown_fields_are_dropped_and_reported() {
    let api = start(Options::default());
    run(async {
        let client = client(&api);
        let mistaken = service("a", json!({"ports": [{"port": 80, "tagetPort": 1}]}));
        let path = "/api/v1/namespaces/default/services";
        let strict = format!("{path}?fieldValidation=Strict");
        let result = request(&client, Method::POST, &strict, Some(mistaken.clone())).await;
        assert_eq!(result.expect_err("strict"), (400, "BadRequest".to_owned()));
        let body = kube::client::Body::from(mistaken.to_string().into_bytes());
        let post = Request::post(path).header("content-type", "application/json").body(body);
        let response = client.send(post.expect("valid")).await.expect("an answer");
        assert_eq!(response.status(), 201);
        let warning = response.headers().get("warning").and_then(|w| w.to_str().ok());
        assert_eq!(warning, Some(r#"299 - "unknown field \"spec.ports[0].tagetPort\"""#));
        let stored = api.get(Resource::Services, "default", "a").expect("stored").value();
        assert_eq!(stored["spec"]["ports"][0].get("tagetPort"), None);
        let wrong = service("b", json!({"ports": [{"port": "80"}]}));
        let result = request(&client, Method::POST, path, Some(wrong)).await;
        assert_eq!(result.expect_err("a text is no port").0, 400);
    });
}

pub(crate) fn discovery_describes_every_resource() {
    let api = start(Options::default());
    run(async {
        let client = client(&api);
        let version = client.apiserver_version().await.expect("a version");
        assert_eq!((version.major.as_str(), version.minor.as_str()), ("1", "36"));
        let discovery =
            kube::discovery::Discovery::new(client.clone()).run().await.expect("groups");
        for (group, kind) in [
            ("", "Service"),
            ("discovery.k8s.io", "EndpointSlice"),
            ("networking.k8s.io", "ServiceCIDR"),
            ("events.k8s.io", "Event"),
        ] {
            let group = discovery.get(group).expect("the group is there");
            assert!(group.recommended_kind(kind).is_some(), "{kind}");
        }
        for path in ["/livez", "/readyz", "/healthz"] {
            let request = Request::get(path).body(Vec::new()).expect("valid");
            assert_eq!(client.request_text(request).await.expect("healthy"), "ok");
        }
        api.create(&web("a")).expect("valid");
        let accept = "application/json;as=Table;v=v1;g=meta.k8s.io";
        let table = Request::get("/api/v1/services").header("accept", accept).body(Vec::new());
        let table: Value = client.request(table.expect("valid")).await.expect("a table");
        assert_eq!(table["rows"][0]["cells"][0], "a");
        assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    });
}

pub(crate) fn a_node_proxier_may_only_do_what_its_role_says() {
    let token = |secret: &str, identity| Token { secret: secret.to_owned(), identity };
    let tokens = vec![token("root", Identity::Admin), token("proxy", Identity::NodeProxier)];
    let api = start(Options { access: Access::Tokens(tokens), ..Options::default() });
    api.create(&web("a")).expect("Rust calls need no token");
    run(async {
        assert_eq!(get(&client(&api), "/api/v1/services").await.expect_err("no token").0, 401);
        let with = |secret: &str| {
            let mut config = kube::Config::new(api.url().parse().expect("a URI"));
            config.auth_info.token = Some(secret.to_owned().into());
            kube::Client::try_from(config).expect("a client")
        };
        let proxy = with("proxy");
        let list = get(&proxy, "/api/v1/services").await.expect("it may list services");
        assert_eq!(names(&list), ["a"]);
        get(&proxy, "/apis/discovery.k8s.io/v1/endpointslices").await.expect("and slices");
        let path = "/api/v1/namespaces/default/services/a";
        let refused = get(&proxy, path).await.expect_err("it may not get one");
        assert_eq!(refused, (403, "Forbidden".to_owned()));
        assert_eq!(get(&proxy, "/api/v1/pods").await.expect_err("nor list pods").0, 403);
        let result = request(&proxy, Method::DELETE, path, None).await;
        assert_eq!(result.expect_err("nor delete").0, 403);
        let event = json!({"metadata": {"name": "e", "namespace": "default"},
            "involvedObject": {"kind": "Node", "name": "n"}});
        let events = "/api/v1/namespaces/default/events";
        request(&proxy, Method::POST, events, Some(event)).await.expect("it may report events");
        get(&with("root"), path).await.expect("an admin may do anything");
    });
}
