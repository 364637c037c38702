//! The token by which the API server knows this client, as client-go reads it
//! (`staging/src/k8s.io/client-go/transport/token_source.go`): white space around it is no part of it.
//! kube does not take a line's end off.

use http::HeaderValue;

/// The value of the header `Authorization`.
///
/// # Errors
/// Why the text is no token.
pub(super) fn authorization(text: &[u8]) -> Result<HeaderValue, String> {
    let token = text.trim_ascii();
    if token.is_empty() {
        return Err("the file is empty".to_owned());
    }
    let header = HeaderValue::from_bytes(&[b"Bearer ", token].concat());
    let mut header = header.map_err(|_| "what it holds is no token".to_owned())?;
    header.set_sensitive(true);
    Ok(header)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_trimmed() {
        let token = authorization(b" one\n").expect("it is one");
        assert_eq!(token, "Bearer one");
        assert!(token.is_sensitive(), "it is not printed");
        for unusable in ["", "\n", "a\nb"] {
            assert!(authorization(unusable.as_bytes()).is_err(), "{unusable:?} is no token");
        }
    }
}
