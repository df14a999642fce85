//! Manifests: strict YAML (or JSON, which is YAML), one or many documents.
//!
//! The typed document is read from the text itself, so that an error points at its line.

use serde::Deserialize;

use crate::config_map::ConfigMap;
use crate::meta::ObjectMeta;
use crate::names::nearest;
use crate::service::Service;

pub const MAX_BYTES: usize = 4 * 1024 * 1024;
pub const MAX_DOCUMENTS: usize = 1_000;

/// Every field name a manifest may hold, for suggestions.
const FIELDS: [&str; 46] = [
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
}

impl Document {
    pub fn metadata(&self) -> &ObjectMeta {
        match self {
            Document::Service(service) => &service.metadata,
            Document::ConfigMap(config_map) => &config_map.metadata,
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
    let head: Head = serde_saphyr::from_str(document).map_err(fail)?;
    if head.kind == "ConfigMap" && head.api_version == "v1" {
        return serde_saphyr::from_str(document)
            .map(|map| Document::ConfigMap(Box::new(map)))
            .map_err(fail);
    }
    if head.kind != "Service" || !head.api_version.starts_with("serving.knative.dev/") {
        return Err(ManifestError(format!(
            "{file}:{}: kind `{}` of `{}` is not supported; this version reads kind `Service` of \
             `serving.knative.dev/v1` and kind `ConfigMap` of `v1`",
            first_line + 1,
            head.kind,
            head.api_version
        )));
    }
    serde_saphyr::from_str(document)
        .map(|service| Document::Service(Box::new(service)))
        .map_err(fail)
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
        .and_then(|word| nearest(word, FIELDS))
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
    fn other_kinds_are_refused_by_name() {
        let error = parse(&HELLO.replace("Service", "Deployment"), "a.yaml")
            .unwrap_err()
            .0;
        assert!(error.contains("`Deployment`"), "{error}");
    }
}
