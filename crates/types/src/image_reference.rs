//! Names of container images, as `docker pull` takes them: `[HOST/]PATH[:TAG][@DIGEST]`.
//!
//! Source: distribution/reference:regexp.go (the grammar); nothing is looked up here.

use std::fmt;

/// Longest name without tag and digest.
const MAX_NAME: usize = 255;
const MAX_TAG: usize = 128;
const DEFAULT_TAG: &str = "latest";
/// Hosts of Docker Hub, and where it keeps images without an owner.
const HUB: [&str; 2] = ["docker.io/", "index.docker.io/"];
const OFFICIAL: &str = "library/";
const SHA256: &str = "sha256:";
const SHA256_DIGITS: usize = 64;

/// Which image, and which of its versions.
///
/// Shape: a name of at most 255 bytes; a tag, a digest, or both, and then the digest counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// As it was written: `nginx`, `registry.example:5000/team/app`.
    name: String,
    tag: Option<String>,
    /// `sha256:` and 64 lower-case hexadecimal digits.
    digest: Option<String>,
}

impl Reference {
    /// # Errors
    /// What is wrong with it.
    pub fn parse(image: &str) -> Result<Self, String> {
        let wrong = |why: &str| Err(format!("`{image}`: {why}"));
        if let Some((scheme, rest)) = image.split_once("://") {
            return wrong(&format!(
                "`{scheme}` is no kind of image; a container image is written without it: `{rest}`"
            ));
        }
        let (rest, digest) = match image.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (image, None),
        };
        // A colon before the last slash belongs to a registry's port.
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (rest, None),
        };
        if name.len() > MAX_NAME {
            return wrong(&format!("the name has more than {MAX_NAME} bytes"));
        }
        check_name(name).map_err(|why| format!("`{image}`: {why}"))?;
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return wrong("a tag has letters, digits, `_`, `.` and `-`, at most 128 of them");
        }
        if digest.is_some_and(|digest| !is_digest(digest)) {
            return wrong("a digest is `sha256:` and 64 lower-case hexadecimal digits");
        }
        Ok(Self {
            name: name.into(),
            tag: tag.map(Into::into),
            digest: digest.map(Into::into),
        })
    }

    /// Without tag and digest.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The same without what Docker adds where nothing is written: `docker.io/library/nginx` is `nginx`.
    pub fn familiar_name(&self) -> &str {
        let name = self.name.as_str();
        let on_hub = HUB.iter().find_map(|host| name.strip_prefix(host));
        let Some(path) = on_hub else { return name };
        path.strip_prefix(OFFICIAL).unwrap_or(path)
    }

    /// The tag, `latest` where none is written; `None` = it is named by a digest.
    pub fn tag(&self) -> Option<&str> {
        self.digest.is_none().then(|| self.version())
    }

    /// What distinguishes the version: the digest, else the tag, else `latest`.
    pub fn version(&self) -> &str {
        let version = self.digest.as_ref().or(self.tag.as_ref());
        version.map_or(DEFAULT_TAG, String::as_str)
    }
}

/// With its version always spelled out: `nginx:latest`, `nginx@sha256:…`.
impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let separator = if self.digest.is_some() { '@' } else { ':' };
        write!(f, "{}{separator}{}", self.name, self.version())
    }
}

fn check_name(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("the name is missing".into());
    }
    let mut parts = name.split('/').peekable();
    let first = parts.peek().copied().unwrap_or_default();
    // As Docker tells a host from the first part of a path.
    let is_host = name.contains('/') && (first.contains(['.', ':']) || first == "localhost");
    if is_host {
        parts.next();
        if !is_host_and_port(first) {
            return Err(format!("`{first}` is no host"));
        }
    }
    match parts.find(|part| !is_path_part(part)) {
        Some(part) => Err(format!(
            "`{part}` is no name: lower-case letters and digits, with `.`, `_`, `__` or `-` between \
             them; or did you mean `file:///path/to/program`?"
        )),
        None => Ok(()),
    }
}

fn is_host_and_port(text: &str) -> bool {
    let (host, port) = text.split_once(':').unwrap_or((text, "443"));
    let is_label = |label: &str| {
        !label.is_empty()
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    host.split('.').all(is_label) && port.parse::<u16>().is_ok()
}

fn is_path_part(part: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = part.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else {
        return false;
    };
    let mut separators = part.split(|c: char| c.is_ascii() && is_word(c as u8));
    let is_separator =
        |text: &str| matches!(text, "" | "." | "_" | "__") || text.bytes().all(|b| b == b'-');
    is_word(*first) && is_word(*last) && separators.all(is_separator)
}

pub(crate) fn is_tag(tag: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    tag.len() <= MAX_TAG
        && tag.bytes().next().is_some_and(is_word)
        && tag.bytes().all(|b| is_word(b) || b == b'.' || b == b'-')
}

fn is_digest(digest: &str) -> bool {
    let is_hex = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
    digest
        .strip_prefix(SHA256)
        .is_some_and(|hex| hex.len() == SHA256_DIGITS && hex.bytes().all(is_hex))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(image: &str) -> (String, String) {
        let reference = Reference::parse(image).unwrap();
        (reference.name().into(), reference.version().into())
    }

    #[test]
    fn a_name_a_host_a_tag_and_a_digest_are_told_apart() {
        let digest = format!("sha256:{}", "0a".repeat(32));
        let pinned = format!("ghcr.io/knative/helloworld-go:v1@{digest}");
        let cases = [
            ("nginx", "nginx", "latest"),
            ("nginx:1.27-alpine", "nginx", "1.27-alpine"),
            ("team/app_a.b--c:V2", "team/app_a.b--c", "V2"),
            ("localhost:5000/app", "localhost:5000/app", "latest"),
            ("10.0.0.1:5000/a/b:1", "10.0.0.1:5000/a/b", "1"),
            (&pinned, "ghcr.io/knative/helloworld-go", &digest),
        ];
        for (image, name, version) in cases {
            assert_eq!(parsed(image), (name.into(), version.into()), "{image}");
        }
        let shown = |image| Reference::parse(image).unwrap().to_string();
        assert_eq!(shown("nginx"), "nginx:latest");
        assert_eq!(
            shown(&pinned),
            format!("ghcr.io/knative/helloworld-go@{digest}")
        );
    }

    #[test]
    fn what_no_engine_takes_is_refused_with_a_reason() {
        let long = "a".repeat(256);
        let cases = [
            ("", "missing"),
            (":v1", "missing"),
            ("Nginx", "`Nginx` is no name"),
            ("/bin/app", "file:///path/to/program"),
            ("a//b", "is no name"),
            ("-a", "is no name"),
            ("a:", "a tag has"),
            ("a:b c", "a tag has"),
            ("a@sha256:12", "a digest is"),
            ("docker://nginx", "without it: `nginx`"),
            ("localhost:99999/a", "is no host"),
            (&long, "255 bytes"),
        ];
        for (image, wanted) in cases {
            let why = Reference::parse(image).unwrap_err();
            assert!(why.contains(wanted), "{image}: {why}");
        }
    }
}
