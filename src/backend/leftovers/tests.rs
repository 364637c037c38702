//! Which parts of recorded listings are kube-proxy's.
