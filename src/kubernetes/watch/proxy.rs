//! Proxy selection for the API server, as in client-go.
//!
//! A kubeconfig's `proxy-url` is used for its cluster, whatever the environment is. Without one, the
//! variables `HTTPS_PROXY` (for `https://`), `HTTP_PROXY` (for `http://`) and `NO_PROXY` are used, in upper
//! or lower case, but never for this host itself (upstream: `client-go/rest/config.go`, Proxy;
//! `golang.org/x/net/http/httpproxy`).

use std::net::IpAddr;
use std::path::Path;

use http::{HeaderValue, Uri};
use hyper_util::client::legacy::connect::proxy::{SocksV5, Tunnel};
use hyper_util::client::proxy::matcher::{Intercept, Matcher};

/// A proxy, and who named it.
#[derive(Debug, Clone)]
pub(super) struct Proxy {
    /// The field or variable that names it.
    pub(super) named_by: String,
    pub(super) kind: Kind,
    /// Without credentials.
    pub(super) url: Uri,
    intercept: Intercept,
}

/// How a proxy is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// By HTTP's CONNECT.
    Http,
    /// By HTTP's CONNECT within TLS.
    Https,
    /// By SOCKS 5; the proxy looks the server's name up.
    Socks,
}

/// What is wrong with the name of a proxy. It is not repeated: it may hold a password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wrong {
    pub(super) field: String,
    pub(super) reason: String,
}

impl Proxy {
    /// The proxy that a cluster of a kubeconfig names.
    pub(super) fn of_kubeconfig(path: &Path, cluster: &str, text: &str) -> Result<Proxy, Wrong> {
        let path = path.display();
        Proxy::parse(format!("proxy-url of cluster {cluster:?} in the kubeconfig {path}"), text)
    }

    /// The proxy that the environment names for a server.
    pub(super) fn of_environment(
        server: &Uri,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<Proxy>, Wrong> {
        let names = match server.scheme_str() {
            Some("https") => ["HTTPS_PROXY", "https_proxy"],
            _ => ["HTTP_PROXY", "http_proxy"],
        };
        let given = |name: &&str| variable(name).filter(|value| !value.is_empty());
        let found = names.iter().find_map(|name| Some((*name, given(name)?)));
        let Some((name, text)) = found.filter(|_| !is_this_host(server)) else { return Ok(None) };
        let proxy = Proxy::parse(format!("the variable {name}"), &text)?;
        let except = ["NO_PROXY", "no_proxy"].iter().find_map(given).unwrap_or_default();
        let matcher = Matcher::builder().all(text).no(except).build();
        Ok(matcher.intercept(server).map(|_| proxy))
    }

    fn parse(named_by: String, text: &str) -> Result<Proxy, Wrong> {
        let wrong = |reason: &str| Wrong { field: named_by.clone(), reason: reason.to_owned() };
        // As Go's, the environment's may be a host and a port.
        let text = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
        let uri: Uri = text.parse().map_err(|_| wrong("it is no URL"))?;
        let kind = match uri.scheme_str() {
            Some("http") => Kind::Http,
            Some("https") => Kind::Https,
            Some("socks5" | "socks5h") => Kind::Socks,
            other => {
                let other = other.unwrap_or_default();
                return Err(wrong(&format!("its scheme is {other:?}, not http, https or socks5")));
            }
        };
        // Any address will do: this proxy is for all.
        let to = Uri::from_static("https://server/");
        let intercept = Matcher::builder().all(text).build().intercept(&to);
        let intercept = intercept.ok_or_else(|| wrong("it has no host"))?;
        let mut url = intercept.uri().clone();
        if kind == Kind::Socks && url.port().is_none() {
            let host = url.host().unwrap_or_default();
            let with_port = format!("socks5://{host}:1080/").parse();
            url = with_port.map_err(|_| wrong("it has no host"))?;
        }
        Ok(Proxy { named_by, kind, url, intercept })
    }

    /// A connector through this proxy, over one that reaches it.
    pub(super) fn tunnel<C>(&self, over: C) -> Tunnel<C> {
        let tunnel = Tunnel::new(self.url.clone(), over);
        match self.intercept.basic_auth() {
            Some(auth) => tunnel.with_auth(HeaderValue::clone(auth)),
            None => tunnel,
        }
    }

    /// The same for a proxy that speaks SOCKS 5.
    pub(super) fn socks<C>(&self, over: C) -> SocksV5<C> {
        let socks = SocksV5::new(self.url.clone(), over);
        match self.intercept.raw_auth() {
            Some((user, password)) => socks.with_auth(user.to_owned(), password.to_owned()),
            None => socks,
        }
    }
}

/// `localhost` and the loopback addresses.
fn is_this_host(server: &Uri) -> bool {
    let host = server.host().unwrap_or_default();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost")
        || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_names_a_proxy_as_for_client_go() {
        let given = |all: &'static [(&str, &str)]| {
            move |name: &str| {
                let found = all.iter().find(|(key, _)| *key == name);
                found.map(|(_, value)| (*value).to_owned())
            }
        };
        type Variables = &'static [(&'static str, &'static str)];
        let table: [(Variables, &'static str, Option<&str>); 14] = [
            (&[], "https://api:6443", None),
            (&[("HTTPS_PROXY", "")], "https://api:6443", None),
            (&[("HTTPS_PROXY", "http://p:3128")], "https://api:6443", Some("http://p:3128/")),
            (&[("https_proxy", "p:3128")], "https://api:6443", Some("http://p:3128/")),
            (&[("HTTPS_PROXY", "http://p:3128")], "http://api:8080", None),
            (&[("HTTP_PROXY", "http://p:3128")], "http://api:8080", Some("http://p:3128/")),
            (&[("HTTP_PROXY", "http://p:3128")], "https://api:6443", None),
            (&[("HTTPS_PROXY", "http://p:3128")], "https://127.0.0.1:6443", None),
            (&[("HTTPS_PROXY", "http://p:3128")], "https://[::1]:6443", None),
            (&[("HTTPS_PROXY", "http://p:3128")], "https://localhost:6443", None),
            (&[("HTTPS_PROXY", "http://p"), ("NO_PROXY", "10.0.0.0/8")], "https://10.96.0.1", None),
            (&[("HTTPS_PROXY", "http://p"), ("no_proxy", ".eu, x")], "https://api.eu", None),
            (
                &[("HTTPS_PROXY", "http://p"), ("NO_PROXY", "10.0.0.0/8")],
                "https://192.0.2.1",
                Some("http://p/"),
            ),
            (&[("HTTPS_PROXY", "http://p"), ("NO_PROXY", "*")], "https://api:6443", None),
        ];
        for (variables, server, expected) in table {
            let found = Proxy::of_environment(&Uri::from_static(server), given(variables));
            let found = found.expect("they are URLs").map(|proxy| proxy.url.to_string());
            assert_eq!(found.as_deref(), expected, "{variables:?} {server}");
        }
    }

    #[test]
    fn a_proxy_has_a_scheme_a_host_and_perhaps_credentials() {
        let parse = |text| Proxy::of_kubeconfig(Path::new("/f"), "k", text);
        let table = [
            ("http://u:p%40ss@p:3128", Kind::Http, "http://p:3128/"),
            ("https://p", Kind::Https, "https://p/"),
            ("socks5://p", Kind::Socks, "socks5://p:1080/"),
            ("socks5h://[fd00::1]:9", Kind::Socks, "socks5h://[fd00::1]:9/"),
        ];
        for (text, kind, url) in table {
            let proxy = parse(text).expect("it is a proxy");
            assert_eq!((proxy.kind, proxy.url.to_string().as_str()), (kind, url), "{text}");
        }
        let auth = parse("http://u:p%40ss@p:3128").expect("it is a proxy");
        let auth = auth.intercept.basic_auth().expect("it has credentials").clone();
        assert_eq!(auth, "Basic dTpwQHNz");
        for (text, reason) in [
            ("ftp://p", "its scheme is \"ftp\", not http, https or socks5"),
            ("http://", "it is no URL"),
            ("http://a b", "it is no URL"),
        ] {
            let wrong = parse(text).expect_err("it is none");
            assert_eq!(wrong.field, "proxy-url of cluster \"k\" in the kubeconfig /f");
            assert_eq!(wrong.reason, reason, "{text}");
        }
    }
}
