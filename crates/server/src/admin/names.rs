//! Resource names: `namespaces/{ns}/services/{name}` (AIP-122).

use nihilo_types::id::ObjectKey;
use tonic::Status;

use super::error;

/// Reads a resource name of the collection `plural`.
///
/// # Errors
/// `INVALID_ARGUMENT` that shows the form wanted.
pub fn parse(name: &str, plural: &str) -> Result<ObjectKey, Status> {
    let parts: Vec<_> = name.split('/').collect();
    match parts.as_slice() {
        ["namespaces", namespace, collection, name]
            if *collection == plural && !namespace.is_empty() && !name.is_empty() =>
        {
            Ok(ObjectKey::new(*namespace, *name))
        }
        _ => Err(error::invalid(
            "MALFORMED",
            format!("name `{name}`, expected `namespaces/NAMESPACE/{plural}/NAME`"),
        )),
    }
}

/// Reads the name of what belongs to the whole cluster, `{plural}/{name}`.
///
/// # Errors
/// `INVALID_ARGUMENT` that shows the form wanted.
pub fn parse_global<'a>(name: &'a str, plural: &str) -> Result<&'a str, Status> {
    match name.split_once('/') {
        Some((collection, name))
            if collection == plural && !name.is_empty() && !name.contains('/') =>
        {
            Ok(name)
        }
        _ => {
            let text = format!("name `{name}`, expected `{plural}/NAME`");
            Err(error::invalid("MALFORMED", text))
        }
    }
}

/// Reads a parent, `namespaces/{ns}`; `None` = all namespaces.
///
/// # Errors
/// `INVALID_ARGUMENT` that shows the form wanted.
pub fn parse_parent(parent: &str) -> Result<Option<&str>, Status> {
    if parent.is_empty() {
        return Ok(None);
    }
    parent
        .strip_prefix("namespaces/")
        .filter(|name| !name.contains('/'))
        .map(Some)
        .ok_or_else(|| {
            let text = format!("parent `{parent}`, expected `namespaces/NAMESPACE` or nothing");
            error::invalid("MALFORMED", text)
        })
}

/// Reads an etag: a resourceVersion in quotes; `None` = unconditional.
///
/// # Errors
/// `INVALID_ARGUMENT` for anything else.
pub fn parse_etag(etag: &str) -> Result<Option<u64>, Status> {
    if etag.is_empty() {
        return Ok(None);
    }
    etag.trim_matches('"').parse().map(Some).map_err(|_| {
        error::invalid(
            "MALFORMED",
            format!("etag `{etag}`, expected a version in quotes"),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_strict() {
        let key = parse("namespaces/default/services/hello", "services").unwrap();
        assert_eq!(key, ObjectKey::new("default", "hello"));
        assert!(parse("namespaces/default/revisions/hello", "services").is_err());
        assert!(parse("services/hello", "services").is_err());
        assert!(parse("namespaces//services/hello", "services").is_err());
    }

    #[test]
    fn names_of_the_whole_cluster_have_no_namespace() {
        assert_eq!(parse_global("claims/a.b", "claims").unwrap(), "a.b");
        for bad in ["claims/", "claims", "others/a", "namespaces/x/claims/a"] {
            assert!(parse_global(bad, "claims").is_err(), "{bad}");
        }
    }

    #[test]
    fn an_etag_is_a_version_in_quotes() {
        assert_eq!(parse_etag("\"17\"").unwrap(), Some(17));
        assert_eq!(parse_etag("").unwrap(), None);
        assert!(parse_etag("abc").is_err());
    }
}
