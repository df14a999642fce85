//! Manifests: strict YAML (or JSON, which is YAML), one or many documents.
//!
//! The typed document is read from the text itself, so that an error points at its line.

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::config_map::ConfigMap;
use crate::domain::{ClusterDomainClaim, DomainMapping};
use crate::meta::ObjectMeta;
use crate::names::nearest;
use crate::secret::Secret;
use crate::service::Service;

pub const MAX_BYTES: usize = 4 * 1024 * 1024;
pub const MAX_DOCUMENTS: usize = 1_000;

/// Every field name a manifest may hold, for suggestions.
const FIELDS: &[&str] = &[
    "apiVersion",
    "kind",
    "metadata",
    "spec",
    "name",
    "namespace",
    "labels",
    "annotations",
    "template",
    "traffic",
    "containers",
    "containerConcurrency",
    "timeoutSeconds",
    "responseStartTimeoutSeconds",
    "idleTimeoutSeconds",
    "image",
    "imagePullPolicy",
    "command",
    "args",
    "env",
    "value",
    "workingDir",
    "resources",
    "limits",
    "requests",
    "cpu",
    "memory",
    "securityContext",
    "runAsUser",
    "runAsGroup",
    "readinessProbe",
    "livenessProbe",
    "startupProbe",
    "exec",
    "grpc",
    "httpGet",
    "tcpSocket",
    "path",
    "port",
    "host",
    "scheme",
    "httpHeaders",
    "service",
    "initialDelaySeconds",
    "periodSeconds",
    "successThreshold",
    "failureThreshold",
    "ports",
    "containerPort",
    "protocol",
    "tag",
    "revisionName",
    "configurationName",
    "latestRevision",
    "percent",
    "url",
    "uid",
    "resourceVersion",
    "generation",
    "status",
    "data",
    "binaryData",
    "immutable",
    "ref",
    "tls",
    "secretName",
    "valueFrom",
    "secretKeyRef",
    "configMapKeyRef",
    "key",
    "optional",
    "envFrom",
    "prefix",
    "configMapRef",
    "secretRef",
    "volumes",
    "volumeMounts",
    "mountPath",
    "readOnly",
    "secret",
    "configMap",
    "projected",
    "sources",
    "emptyDir",
    "medium",
    "sizeLimit",
    "items",
    "type",
    "stringData",
];

/// Why a manifest was not understood; names the file, and the line where there is one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ManifestError(pub String);

/// One object that a manifest asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    Service(Box<Service>),
    ConfigMap(Box<ConfigMap>),
    Secret(Box<Secret>),
    DomainMapping(Box<DomainMapping>),
    DomainClaim(Box<ClusterDomainClaim>),
}

impl Document {
    pub fn metadata(&self) -> &ObjectMeta {
        match self {
            Document::Service(service) => &service.metadata,
            Document::ConfigMap(config_map) => &config_map.metadata,
            Document::Secret(secret) => &secret.metadata,
            Document::DomainMapping(mapping) => &mapping.metadata,
            Document::DomainClaim(claim) => &claim.metadata,
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
}

/// Reads all documents of a file.
///
/// # Errors
/// The first thing that is wrong, with its place and the nearest known word.
pub fn parse(text: &str, file: &str) -> Result<Vec<Document>, ManifestError> {
    if text.len() > MAX_BYTES {
        return Err(ManifestError(format!(
            "{file}: larger than {MAX_BYTES} bytes"
        )));
    }
    let documents = split(text);
    if documents.len() > MAX_DOCUMENTS {
        return Err(ManifestError(format!(
            "{file}: more than {MAX_DOCUMENTS} documents"
        )));
    }
    let mut parsed = Vec::new();
    for (first_line, document) in documents {
        if document
            .lines()
            .all(|line| line.trim().is_empty() || line.starts_with('#'))
        {
            continue;
        }
        parsed.push(parse_one(document, file, first_line)?);
    }
    if parsed.is_empty() {
        return Err(ManifestError(format!("{file}: no document in it")));
    }
    Ok(parsed)
}

/// Documents with the number of lines before each.
fn split(text: &str) -> Vec<(usize, &str)> {
    let mut documents = Vec::new();
    let (mut start, mut offset, mut first_line) = (0, 0, 0);
    for (number, line) in text.split_inclusive('\n').enumerate() {
        if line.trim_end() == "---" {
            documents.push((first_line, &text[start..offset]));
            start = offset + line.len();
            first_line = number + 1;
        }
        offset += line.len();
    }
    documents.push((first_line, &text[start..]));
    documents
}

fn parse_one(document: &str, file: &str, first_line: usize) -> Result<Document, ManifestError> {
    let fail = |error: serde_saphyr::Error| located(&error, document, file, first_line);
    // Whatever kind it turns out to be: a value of a Secret must not stand in a message.
    let discreet = |error: serde_saphyr::Error| unquoted(&error, file, first_line);
    let may_be_secret = may_be_secret(document);
    let head = serde_saphyr::from_str(document);
    let head: Head = head.map_err(|error| match may_be_secret {
        true => discreet(error),
        false => fail(error),
    })?;
    let group = head.api_version.split('/').next().unwrap_or_default();
    let read = match (group, head.kind.as_str()) {
        ("v1", "Secret") => {
            let read = boxed(document).map(Document::Secret);
            return read.map_err(discreet);
        }
        ("v1", "ConfigMap") => boxed(document).map(Document::ConfigMap),
        ("serving.knative.dev", "Service") => boxed(document).map(Document::Service),
        ("serving.knative.dev", "DomainMapping") => boxed(document).map(Document::DomainMapping),
        ("networking.internal.knative.dev", "ClusterDomainClaim") => {
            boxed(document).map(Document::DomainClaim)
        }
        _ => {
            return Err(ManifestError(format!(
                "{file}:{}: kind `{}` of `{}` is not supported; this version reads the kinds \
                 `Service` and `DomainMapping` of `serving.knative.dev`, `ClusterDomainClaim` of \
                 `networking.internal.knative.dev`, and `ConfigMap` and `Secret` of `v1`",
                first_line + 1,
                head.kind,
                head.api_version
            )));
        }
    };
    read.map_err(fail)
}

/// Whether a document that is not understood yet reads as a Secret, rightly spelt or not.
fn may_be_secret(document: &str) -> bool {
    let mut lines = document.lines().map(str::to_ascii_lowercase);
    lines
        .any(|line| line.contains("kind") && line.contains("secret") || line.contains("stringdata"))
}

fn boxed<T: DeserializeOwned>(document: &str) -> Result<Box<T>, serde_saphyr::Error> {
    serde_saphyr::from_str(document).map(Box::new)
}

fn located(
    error: &serde_saphyr::Error,
    document: &str,
    file: &str,
    first_line: usize,
) -> ManifestError {
    let text = error.to_string();
    let what = text
        .lines()
        .next()
        .unwrap_or("not understood")
        .trim_start_matches("error: ");
    let suggestion = quoted(what)
        .filter(|_| what.contains("unknown field"))
        .and_then(|word| nearest(word, FIELDS.iter().copied()))
        .map(|near| format!(" did you mean `{near}`?"))
        .unwrap_or_default();
    let what = what.split(", expected").next().unwrap_or(what);
    let Some(location) = error.location() else {
        return ManifestError(format!("{file}: {what}{suggestion}"));
    };
    let (line, column) = (location.line() as usize, location.column() as usize);
    let number = first_line + line;
    let source = document
        .lines()
        .nth(line.saturating_sub(1))
        .unwrap_or_default();
    let gutter = " ".repeat(number.to_string().len());
    let caret = " ".repeat(column.saturating_sub(1));
    ManifestError(format!(
        "{what}\n{gutter}--> {file}:{number}:{column}\n{gutter} |\n{number} | {source}\n{gutter} \
         | {caret}^{suggestion}"
    ))
}

/// Of a document that may hold secrets: where, and what where that is ours or a field's name; never
/// the line itself, nor what the parser quotes of it.
fn unquoted(error: &serde_saphyr::Error, file: &str, first_line: usize) -> ManifestError {
    let text = error.to_string();
    let said = text.lines().next().unwrap_or_default();
    let said = said.trim_start_matches("error: ");
    let is_ours = [
        "unknown field `",
        "missing field `",
        "data[",
        "a value must be text",
    ];
    let is_ours = is_ours.iter().any(|words| said.contains(words));
    let told = said.split(", expected").next().filter(|_| is_ours);
    let what = told.unwrap_or("not understood, and not shown: it may hold values of a Secret");
    ManifestError(match error.location() {
        Some(location) => {
            let line = first_line + location.line() as usize;
            format!("{what}\n--> {file}:{line}:{}", location.column())
        }
        None => format!("{file}: {what}"),
    })
}

fn quoted(text: &str) -> Option<&str> {
    text.split('`').nth(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELLO: &str = "apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata:\n  name: \
                         hello\nspec:\n  template:\n    spec:\n      containers:\n        - image: \
                         demo/hello\n";

    #[test]
    fn reads_one_or_many_documents() {
        assert_eq!(parse(HELLO, "a.yaml").unwrap()[0].metadata().name, "hello");
        let two = format!("{HELLO}---\n{HELLO}");
        assert_eq!(parse(&two, "a.yaml").unwrap().len(), 2);
    }

    #[test]
    fn a_misspelt_field_is_located_and_corrected() {
        let text = HELLO.replace("    spec:\n", "    spec:\n      containerConcurency: 10\n");
        let error = parse(&text, "hello.yaml").unwrap_err().0;
        assert!(error.contains("containerConcurency"), "{error}");
        assert!(error.contains("hello.yaml:8"), "{error}");
        assert!(
            error.contains("did you mean `containerConcurrency`?"),
            "{error}"
        );
    }

    #[test]
    fn lines_count_from_the_top_of_the_file() {
        let text = format!("{HELLO}---\n{}", HELLO.replace("image", "imag"));
        let error = parse(&text, "a.yaml").unwrap_err().0;
        assert!(error.contains("a.yaml:19"), "{error}");
    }

    #[test]
    fn own_domains_and_their_claims_are_read() {
        let mapping = "apiVersion: serving.knative.dev/v1beta1\nkind: DomainMapping\nmetadata:\n  \
                       name: www.example.org\nspec:\n  ref:\n    apiVersion: \
                       serving.knative.dev/v1\n    kind: Service\n    name: hello\n";
        let claim = "apiVersion: networking.internal.knative.dev/v1alpha1\nkind: \
                     ClusterDomainClaim\nmetadata:\n  name: www.example.org\nspec:\n  namespace: \
                     default\n";
        let both = parse(&format!("{mapping}---\n{claim}"), "a.yaml").unwrap();
        let [
            Document::DomainMapping(mapping),
            Document::DomainClaim(claim),
        ] = &both[..]
        else {
            panic!("{both:?}");
        };
        assert_eq!(mapping.spec.reference.name, "hello");
        assert_eq!(claim.spec.namespace, "default");
        assert_eq!(both[0].metadata().name, both[1].metadata().name);
    }

    const SECRET: &str = "apiVersion: v1\nkind: Secret\nmetadata:\n  name: db\nstringData:\n  \
                          password: hunter2\n";

    #[test]
    fn secrets_are_read_and_none_is_repeated_in_an_error() {
        let read = parse(SECRET, "a.yaml").unwrap();
        let [Document::Secret(secret)] = &read[..] else {
            panic!("not a secret");
        };
        assert_eq!(secret.values["password"].expose(), b"hunter2");
        assert!(!format!("{read:?}").contains("hunter2"));
        let mistakes = [
            (
                "stringData:\n  password: hunter2",
                "stringdata: {password: hunter2}",
                "stringdata",
            ),
            (
                "stringData:\n  password: hunter2",
                "stringData: hunter2",
                "",
            ),
            ("stringData:\n  password: hunter2", "immutable: hunter2", ""),
            (
                "stringData:\n  password: hunter2",
                "data: {password: hunter2}",
                "data[password]",
            ),
            ("hunter2", "[hunter2]", ""),
            ("hunter2", "{hunter2: hunter2}", ""),
            ("hunter2", "hunter2: hunter2", ""),
            ("hunter2", "4711", "put it in quotes"),
            ("hunter2", "'hunter2", ""),
            ("name: db", "name: db\n  hunter2", ""),
            ("kind: Secret", "kind: secret", "`secret`"),
        ];
        for (from, to, want) in mistakes {
            let text = SECRET.replace(from, to);
            let Err(error) = parse(&text, "db.yaml") else {
                // Unquoted numbers are text where the parser says so.
                assert_eq!(to, "4711");
                continue;
            };
            let error = error.0;
            assert!(
                error.contains("db.yaml") && error.contains(want),
                "{to}: {error}"
            );
            assert!(
                !error.contains("hunter2") && !error.contains("4711"),
                "{to}: {error}"
            );
        }
    }

    #[test]
    fn other_kinds_are_refused_by_name() {
        let error = parse(&HELLO.replace("Service", "Deployment"), "a.yaml")
            .unwrap_err()
            .0;
        assert!(error.contains("`Deployment`"), "{error}");
    }
}
