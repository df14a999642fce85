//! Names of bundles in a service's image: `bundle/NAME:TAG`, `bundle/NAME@sha256:…`. Of a container image
//! that was pushed into the cluster the name is `image/` and the image's own: `bundle/image/team/app:v1`.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{BundleKind, Digest};
use crate::image_reference::{Reference, is_tag};
use crate::names::check_dns1123;

/// Begins the names of images that are bundles.
pub const PREFIX: &str = "bundle/";
/// Begins the names of bundles that are container images.
pub const IMAGE_PREFIX: &str = "image/";
const DEFAULT_TAG: &str = "latest";

/// Which bundle of the service's own namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BundleReference {
    /// A DNS label, or [`IMAGE_PREFIX`] and the name of a container image.
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
        // A colon before the last slash belongs to a registry's port.
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (rest, None),
        };
        if name.contains('/') && !name.starts_with(IMAGE_PREFIX) {
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

    /// What a container image is called once it was pushed; `None` = it is named by a registry's digest.
    pub fn of_image(image: &Reference) -> Option<Self> {
        Some(Self {
            name: format!("{IMAGE_PREFIX}{}", image.familiar_name()),
            version: BundleVersion::Tag(image.tag()?.into()),
        })
    }

    /// Whether it is a container image.
    pub fn is_image(&self) -> bool {
        self.name.starts_with(IMAGE_PREFIX)
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
    let checked = match name.strip_prefix(IMAGE_PREFIX) {
        Some(image) => check_image_name(image),
        None => check_dns1123(name),
    };
    checked.map_err(|why| format!("bundle name `{name}`: {why}"))
}

/// One name for one image, and nothing else in it.
fn check_image_name(name: &str) -> Result<(), String> {
    let parsed = Reference::parse(name)?;
    match parsed.name() == name && parsed.familiar_name() == name {
        true => Ok(()),
        false => Err(format!("it is written `{}`", parsed.familiar_name())),
    }
}

/// # Errors
/// As [`check_name`]; or it is a name for another kind.
pub fn check_name_of(kind: BundleKind, name: &str) -> Result<(), String> {
    check_name(name)?;
    let is_archive = kind == BundleKind::DockerArchive;
    match (is_archive, name.starts_with(IMAGE_PREFIX)) {
        (true, true) | (false, false) => Ok(()),
        (true, false) => Err(format!(
            "bundle name `{name}`: an image is named `{IMAGE_PREFIX}NAME`; push it with `nihilo image push`"
        )),
        (false, true) => Err(format!(
            "bundle name `{name}`: names that begin with `{IMAGE_PREFIX}` are for container images"
        )),
    }
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
            ("image/team/app", "image/team/app:latest"),
            (
                "image/reg.example:5000/app:v1",
                "image/reg.example:5000/app:v1",
            ),
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
            ("image/", "the name is missing"),
            ("image/docker.io/library/nginx", "it is written `nginx`"),
        ];
        for (text, wanted) in cases {
            let why = BundleReference::parse(text).unwrap_err();
            assert!(why.contains(wanted), "{text}: {why}");
        }
    }

    #[test]
    fn an_image_has_one_name_however_it_is_written() {
        let name = |image: &str| {
            let image = Reference::parse(image).unwrap();
            BundleReference::of_image(&image).map(|bundle| bundle.image())
        };
        let cases = [
            ("nginx", Some("bundle/image/nginx:latest")),
            ("docker.io/library/nginx:1", Some("bundle/image/nginx:1")),
            ("docker.io/team/app", Some("bundle/image/team/app:latest")),
            ("reg:5000/app:v1", Some("bundle/image/reg:5000/app:v1")),
        ];
        for (image, wanted) in cases {
            let named = name(image);
            assert_eq!(named.as_deref(), wanted, "{image}");
            let read = named.and_then(|image| crate::image::Image::bundle(&image));
            assert!(read.is_some_and(|bundle| bundle.is_image()), "{image}");
        }
        assert_eq!(name(&format!("nginx@{}", Digest::of(b"x"))), None);
    }

    #[test]
    fn images_and_programs_have_names_of_their_own() {
        use BundleKind::{Binary, DockerArchive, Tree};
        assert!(check_name_of(DockerArchive, "image/app").is_ok());
        assert!(check_name_of(Tree, "app").is_ok());
        let why = check_name_of(DockerArchive, "app").unwrap_err();
        assert!(why.contains("nihilo image push"), "{why}");
        let why = check_name_of(Binary, "image/app").unwrap_err();
        assert!(why.contains("for container images"), "{why}");
    }
}
