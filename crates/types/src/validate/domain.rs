//! Own domains: names that can be one, and references that can be followed.

use super::{Invalid, annotations};
use crate::domain::{CLUSTER_LOCAL_DOMAIN, ClusterDomainClaim, DomainMapping, Reference};
use crate::meta::ObjectMeta;
use crate::names::{MAX_SUBDOMAIN, check_dns1035, check_dns1123, check_dns1123_subdomain};

/// Kinds that a mapping may refer to.
const REFERENCED: [&str; 2] = ["Service", "Route"];
const SERVING_GROUP: &str = "serving.knative.dev/";

/// Checks a defaulted DomainMapping.
///
/// # Errors
/// Everything that is wrong with it.
pub fn domain_mapping(mapping: &DomainMapping) -> Result<(), Invalid> {
    let mut invalid = Invalid::default();
    let meta = &mapping.metadata;
    host(&meta.name, &mut invalid);
    namespace(&meta.namespace, "metadata.namespace", &mut invalid);
    annotations(&meta.annotations, "metadata.annotations", &mut invalid);
    reference(meta, &mapping.spec.reference, &mut invalid);
    if mapping.spec.tls.is_some() {
        let details = "a certificate for the name belongs into the directory that `certificates` of \
                       each node's `node.yaml` names, as NAME.crt with NAME.key";
        invalid.add_with("must not set the field(s)", "spec.tls", details);
    }
    invalid.into_result()
}

/// Checks a defaulted ClusterDomainClaim.
///
/// # Errors
/// Everything that is wrong with it.
pub fn domain_claim(claim: &ClusterDomainClaim) -> Result<(), Invalid> {
    let mut invalid = Invalid::default();
    let meta = &claim.metadata;
    host(&meta.name, &mut invalid);
    annotations(&meta.annotations, "metadata.annotations", &mut invalid);
    if !meta.namespace.is_empty() {
        let details = "a claim is the whole cluster's; spec.namespace says who gets the name";
        invalid.add_with("must not set the field(s)", "metadata.namespace", details);
    }
    match claim.spec.namespace.as_str() {
        "" => invalid.add("missing field(s)", "spec.namespace"),
        name => namespace(name, "spec.namespace", &mut invalid),
    }
    invalid.into_result()
}

fn host(name: &str, invalid: &mut Invalid) {
    if name.is_empty() {
        return invalid.add("missing field(s)", "metadata.name");
    }
    if let Err(why) = check_host(name) {
        invalid.add(format!("invalid name {name:?}: {why}"), "metadata.name");
    }
}

fn check_host(name: &str) -> Result<(), String> {
    if name.starts_with("*.") {
        return Err("wildcard domains are not supported".into());
    }
    if name.len() > MAX_SUBDOMAIN {
        return Err(format!("must be no more than {MAX_SUBDOMAIN} characters"));
    }
    check_dns1123_subdomain(name)?;
    if !name.contains('.') {
        return Err("should be a domain with at least two segments separated by dots".into());
    }
    let parent = name.strip_suffix(CLUSTER_LOCAL_DOMAIN);
    match parent.is_some_and(|parent| parent.is_empty() || parent.ends_with('.')) {
        true => Err(format!(
            "must not be a subdomain of cluster local domain {CLUSTER_LOCAL_DOMAIN:?}"
        )),
        false => Ok(()),
    }
}

fn namespace(name: &str, path: &str, invalid: &mut Invalid) {
    if let Err(why) = check_dns1123(name) {
        invalid.add(format!("not a DNS 1123 label: [{why}]"), path);
    }
}

fn reference(meta: &ObjectMeta, reference: &Reference, invalid: &mut Invalid) {
    let Reference {
        api_version,
        kind,
        name,
        namespace,
    } = reference;
    for (field, value) in [("apiVersion", api_version), ("kind", kind), ("name", name)] {
        if value.is_empty() {
            invalid.add("missing field(s)", format!("spec.ref.{field}"));
        }
    }
    if !api_version.is_empty() && !api_version.starts_with(SERVING_GROUP) {
        let details = "must be of serving.knative.dev";
        let text = format!("invalid value: {api_version}");
        invalid.add_with(text, "spec.ref.apiVersion", details);
    }
    if !kind.is_empty() && !REFERENCED.contains(&kind.as_str()) {
        let details = "must be Service or Route";
        invalid.add_with(format!("invalid value: {kind}"), "spec.ref.kind", details);
    }
    if let Err(why) = check_dns1035(name)
        && !name.is_empty()
    {
        invalid.add(format!("not a DNS 1035 label: [{why}]"), "spec.ref.name");
    }
    if *namespace != meta.namespace {
        let details = format!(
            "parent namespace: {:?} does not match ref: {namespace:?}",
            meta.namespace
        );
        invalid.add_with("mismatched namespaces", "spec.ref.namespace", details);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> DomainMapping {
        let mut mapping = DomainMapping::default();
        mapping.metadata.name = "www.example.org".into();
        mapping.spec.reference = Reference {
            api_version: "serving.knative.dev/v1".into(),
            kind: "Service".into(),
            name: "hello".into(),
            namespace: String::new(),
        };
        mapping.default_fields();
        mapping
    }

    fn said(change: impl FnOnce(&mut DomainMapping)) -> String {
        let mut mapping = good();
        change(&mut mapping);
        match domain_mapping(&mapping) {
            Ok(()) => String::new(),
            Err(invalid) => invalid.to_string(),
        }
    }

    #[test]
    fn a_defaulted_mapping_is_valid_and_stays_as_it_is() {
        let mut again = good();
        again.default_fields();
        assert_eq!(again, good());
        assert_eq!(good().spec.reference.namespace, "default");
        assert_eq!(domain_mapping(&good()), Ok(()));
        let json = serde_json::to_string(&good()).unwrap();
        assert_eq!(
            serde_json::from_str::<DomainMapping>(&json).unwrap(),
            good()
        );
    }

    #[test]
    fn names_are_fully_qualified_and_outside_of_the_cluster() {
        let labels = vec!["a".repeat(61); 4].join(".");
        let longest = format!("aa{labels}.org");
        assert_eq!(longest.len(), 253);
        let (too_long, long_label) = (format!("a{longest}"), "a".repeat(64) + ".org");
        for name in [
            "a.b",
            "example.org",
            "1.example.org",
            "xn--bcher-kva.example",
            "notcluster.local",
            longest.as_str(),
        ] {
            assert_eq!(said(|m| m.metadata.name = name.into()), "", "{name}");
        }
        for (name, why) in [
            ("", "missing field(s)"),
            ("localhost", "at least two segments"),
            ("a.b.", "lowercase RFC 1123 subdomain"),
            (".a.b", "lowercase RFC 1123 subdomain"),
            ("Example.org", "lowercase RFC 1123 subdomain"),
            ("a_b.org", "lowercase RFC 1123 subdomain"),
            ("exa mple.org", "lowercase RFC 1123 subdomain"),
            ("a..b", "lowercase RFC 1123 subdomain"),
            (long_label.as_str(), "lowercase RFC 1123 subdomain"),
            (too_long.as_str(), "no more than 253 characters"),
            ("*.example.org", "wildcard domains are not supported"),
            ("cluster.local", "cluster local domain \"cluster.local\""),
            (
                "hello.default.svc.cluster.local",
                "must not be a subdomain of cluster local domain",
            ),
        ] {
            let said = said(|m| m.metadata.name = name.into());
            let is_there = said.contains(why) && said.contains(": metadata.name");
            assert!(is_there, "{name}: {said}");
        }
    }

    #[test]
    fn each_mistake_is_named_with_its_path() {
        type Change = fn(&mut DomainMapping);
        let cases: &[(Change, &str)] = &[
            (
                |m| m.metadata.name = "localhost".into(),
                "invalid name \"localhost\": should be a domain with at least two segments \
                 separated by dots: metadata.name",
            ),
            (
                |m| m.spec.reference = Reference::default(),
                "mismatched namespaces: spec.ref.namespace\nparent namespace: \"default\" does \
                 not match ref: \"\"\nmissing field(s): spec.ref.apiVersion, spec.ref.kind, \
                 spec.ref.name",
            ),
            (
                |m| m.spec.reference.namespace = "other".into(),
                "mismatched namespaces: spec.ref.namespace\nparent namespace: \"default\" does \
                 not match ref: \"other\"",
            ),
            (
                |m| m.spec.reference.kind = "Deployment".into(),
                "invalid value: Deployment: spec.ref.kind\nmust be Service or Route",
            ),
            (
                |m| m.spec.reference.api_version = "v1".into(),
                "invalid value: v1: spec.ref.apiVersion\nmust be of serving.knative.dev",
            ),
            (
                |m| m.metadata.namespace = "Other".into(),
                "mismatched namespaces: spec.ref.namespace\nparent namespace: \"Other\" does not \
                 match ref: \"default\"\nnot a DNS 1123 label: [a lowercase RFC 1123 label must \
                 consist of lower case alphanumeric characters or '-', and must start and end \
                 with an alphanumeric character]: metadata.namespace",
            ),
            (
                |m| m.spec.tls = Some(crate::domain::SecretTls::default()),
                "must not set the field(s): spec.tls\na certificate for the name belongs into \
                 the directory that `certificates` of each node's `node.yaml` names, as NAME.crt \
                 with NAME.key",
            ),
        ];
        for (change, want) in cases {
            assert_eq!(said(change), *want);
        }
        assert!(said(|m| m.spec.reference.name = "1x".into()).contains("DNS 1035"));
    }

    #[test]
    fn a_claim_names_a_host_and_a_namespace() {
        let said = |claim: &ClusterDomainClaim| match domain_claim(claim) {
            Ok(()) => String::new(),
            Err(invalid) => invalid.to_string(),
        };
        let good = ClusterDomainClaim::new("www.example.org", "default");
        assert_eq!(said(&good), "");
        let nobody = ClusterDomainClaim::new("www.example.org", "");
        assert_eq!(said(&nobody), "missing field(s): spec.namespace");
        let wrong = ClusterDomainClaim::new("org", "a.b");
        let said_of_wrong = said(&wrong);
        assert!(said_of_wrong.contains("two segments"), "{said_of_wrong}");
        assert!(
            said_of_wrong.contains(": spec.namespace"),
            "{said_of_wrong}"
        );
        let mut inside = good;
        inside.metadata.namespace = "default".into();
        assert!(said(&inside).contains("must not set the field(s): metadata.namespace"));
    }

    #[test]
    fn a_claim_knows_the_mapping_that_it_was_made_for() {
        let mut mapping = good();
        mapping.metadata.uid = "one".into();
        let claim = ClusterDomainClaim::made_for(&mapping);
        assert_eq!(domain_claim(&claim), Ok(()));
        assert!(claim.is_made_for(&mapping));
        mapping.metadata.uid = "another".into();
        assert!(!claim.is_made_for(&mapping));
    }
}
