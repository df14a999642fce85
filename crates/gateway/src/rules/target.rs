//! Request targets: the four forms of RFC 9112 §3.2, and what a path may hold.

use http::uri::Scheme;
use http::{Method, Uri};

use crate::rescue::Cause;

/// Target bytes, at most (05-gateway §20).
pub const MAX_TARGET: usize = 16 * 1024;

/// # Errors
/// The target has no form that its method may have, or holds what no path may hold.
pub fn check(method: &Method, uri: &Uri) -> Result<(), Cause> {
    if uri.path().len() + uri.query().map_or(0, |query| query.len() + 1) > MAX_TARGET {
        return Err(Cause::TargetTooLong);
    }
    if let Some(scheme) = uri.scheme() {
        if *scheme != Scheme::HTTP && *scheme != Scheme::HTTPS {
            return Err(Cause::BadRequest(
                "the target's scheme is not http or https",
            ));
        }
    } else if uri.authority().is_some() {
        return Err(Cause::BadRequest("the target is an authority"));
    }
    let has_user = |authority: &http::uri::Authority| authority.as_str().contains('@');
    if uri.authority().is_some_and(has_user) {
        return Err(Cause::BadRequest("user information in the target"));
    }
    let path = uri.path();
    if path == "*" {
        return match *method == Method::OPTIONS {
            true => Ok(()),
            false => Err(Cause::BadRequest("the target `*` is for OPTIONS")),
        };
    }
    if !path.starts_with('/') {
        return Err(Cause::BadRequest("the path does not begin with `/`"));
    }
    match holds_forbidden(path) {
        true => Err(Cause::BadRequest("invalid path")),
        false => Ok(()),
    }
}

/// Raw backslashes and control bytes, and an escaped NUL.
fn holds_forbidden(path: &str) -> bool {
    let bytes = path.as_bytes();
    bytes.iter().any(|b| *b == b'\\' || *b < 0x21 || *b == 0x7f)
        || (bytes.contains(&b'%') && bytes.windows(3).any(|three| three == b"%00"))
}

/// The target in origin-form (RFC 9112 §3.2.1). The parser makes `http://h` the path `/`.
pub fn to_origin(uri: &Uri) -> Uri {
    let path = uri.path_and_query();
    path.map_or(Uri::from_static("/"), |path| Uri::from(path.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(method: &str, target: &str) -> bool {
        let uri: Uri = target.parse().unwrap();
        check(&method.parse().unwrap(), &uri).is_ok()
    }

    #[test]
    fn forms_fit_their_methods() {
        for (method, target, good) in [
            ("GET", "/", true),
            ("GET", "/a?b=c", true),
            ("GET", "http://h/a", true),
            ("GET", "https://h", true),
            ("GET", "ftp://h/a", false),
            ("GET", "http://u@h/a", false),
            ("GET", "h:80", false),
            ("GET", "*", false),
            ("OPTIONS", "*", true),
            ("GET", "/a%00b", false),
            ("GET", "/a%2Fb", true),
            ("GET", "/a\\b", false),
            ("GET", "//b", true),
        ] {
            assert_eq!(judge(method, target), good, "{method} {target}");
        }
        let long = format!("/{}", "a".repeat(MAX_TARGET));
        assert!(!judge("GET", &long));
    }

    #[test]
    fn targets_become_origin_form() {
        for (target, origin) in [
            ("http://h", "/"),
            ("http://h/a?b", "/a?b"),
            ("http://h?b", "/?b"),
            ("/a", "/a"),
            ("*", "*"),
        ] {
            let uri: Uri = target.parse().unwrap();
            assert_eq!(to_origin(&uri).to_string(), origin);
        }
    }
}
