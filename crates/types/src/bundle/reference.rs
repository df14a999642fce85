//! Names of bundles in a service's image: `bundle/NAME:TAG`, `bundle/NAME@sha256:…`.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Digest;
use crate::image_reference::is_tag;
use crate::names::check_dns1123;

/// Begins the names of images that are bundles.
pub const PREFIX: &str = "bundle/";
const DEFAULT_TAG: &str = "latest";

/// Which bundle of the service's own namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BundleReference {
    /// A DNS label.
    pub name: String,
    pub version: BundleVersion,
}

/// A tag may move; a digest is one bundle for ever. With both, the digest counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum BundleVersion {
    Tag(String),
    Digest(Digest),
}

impl BundleReference {
    /// Reads what follows [`PREFIX`]; without a version it is the tag `latest`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse()?)),
            None => (text, None),
        };
        let (name, tag) = match rest.split_once(':') {
            Some((name, tag)) => (name, Some(tag)),
            None => (rest, None),
        };
        if name.contains('/') {
            return Err(format!(
                "`{name}`: bundles of other namespaces are not served by this version; push it to \
                 the service's own, as `bundle/NAME:TAG`"
            ));
        }
        check_name(name)?;
        if let Some(tag) = tag {
            check_tag(tag)?;
        }
        let version = match (digest, tag) {
            (Some(digest), _) => BundleVersion::Digest(digest),
            (None, tag) => BundleVersion::Tag(tag.unwrap_or(DEFAULT_TAG).into()),
        };
        Ok(Self {
            name: name.into(),
            version,
        })
    }

    pub fn pinned(name: &str, digest: Digest) -> Self {
        Self {
            name: name.into(),
            version: BundleVersion::Digest(digest),
        }
    }

    /// As the image of a container.
    pub fn image(&self) -> String {
        format!("{PREFIX}{self}")
    }

    /// The digest, where it names one.
    pub fn digest(&self) -> Option<Digest> {
        match &self.version {
            BundleVersion::Digest(digest) => Some(*digest),
            BundleVersion::Tag(_) => None,
        }
    }
}

/// `NAME:TAG` or `NAME@sha256:…`.
impl fmt::Display for BundleReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.version {
            BundleVersion::Tag(tag) => write!(f, "{}:{tag}", self.name),
            BundleVersion::Digest(digest) => write!(f, "{}@{digest}", self.name),
        }
    }
}

/// # Errors
/// What a bundle's name must look like.
pub fn check_name(name: &str) -> Result<(), String> {
    check_dns1123(name).map_err(|why| format!("bundle name `{name}`: {why}"))
}

/// # Errors
/// What a tag must look like.
pub fn check_tag(tag: &str) -> Result<(), String> {
    if is_tag(tag) {
        return Ok(());
    }
    Err(format!(
        "`{tag}`: a tag has letters, digits, `_`, `.` and `-`, at most 128 of them"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_a_tag_or_a_digest() {
        let digest = Digest::of(b"x");
        let pinned = format!("hello@{digest}");
        let both = format!("hello:v1@{digest}");
        let cases = [
            ("hello", "hello:latest"),
            ("hello:v1", "hello:v1"),
            (&pinned, &pinned),
            (&both, &pinned),
        ];
        for (text, wanted) in cases {
            let read = BundleReference::parse(text).unwrap();
            assert_eq!(read.to_string(), wanted, "{text}");
        }
        let read = BundleReference::parse(&pinned).unwrap();
        assert_eq!(read, BundleReference::pinned("hello", digest));
        assert_eq!(read.image(), format!("bundle/{pinned}"));
    }

    #[test]
    fn what_is_no_name_is_refused_in_words() {
        let cases = [
            ("", "RFC 1123"),
            ("Hello", "RFC 1123"),
            ("other/hello:v1", "other namespaces"),
            ("hello:", "a tag has"),
            ("hello@sha256:12", "a digest is"),
        ];
        for (text, wanted) in cases {
            let why = BundleReference::parse(text).unwrap_err();
            assert!(why.contains(wanted), "{text}: {why}");
        }
    }
}
