//! Image names: the scheme picks what runs (06-runtime §7.1).

use crate::bundle::{BundleReference, PREFIX as BUNDLE};
pub use crate::image_reference::Reference;

/// An image that this version can run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Image {
    /// `demo/NAME[:tag]`: an app built into the binary.
    Demo(String),
    /// `file:///abs/path`: a program on every node.
    File(String),
    /// `bundle/NAME:TAG`, `bundle/NAME@sha256:…`: an artefact that the cluster keeps. A container image
    /// among them is `bundle/image/NAME…`.
    Bundle(BundleReference),
    /// Anything else: a container image, named as Docker does.
    Container(Reference),
}

/// Apps built into the binary.
pub const DEMO_APPS: [&str; 7] = [
    "count",
    "crash",
    "echo",
    "hello",
    "ignore-term",
    "never-ready",
    "sleep",
];

/// Reserved for kinds that are designed and not built; on Docker Hub they are `docker.io/…`.
const UNBUILT: [&str; 1] = ["host/"];

impl Image {
    /// # Errors
    /// What is wrong and what would work.
    pub fn parse(image: &str) -> Result<Self, String> {
        if let Some(name) = image.strip_prefix("demo/") {
            let name = name.split(':').next().unwrap_or(name);
            if DEMO_APPS.contains(&name) {
                return Ok(Image::Demo(name.into()));
            }
            let near = crate::names::nearest(name, DEMO_APPS).map_or_else(
                || DEMO_APPS.join(", "),
                |near| format!("did you mean `demo/{near}`?"),
            );
            return Err(format!("no image `{image}`; {near}"));
        }
        if let Some(path) = image.strip_prefix("file://") {
            return match path.starts_with('/') {
                true => Ok(Image::File(path.into())),
                false => Err(format!(
                    "`{image}`: the path must be absolute, as in `file:///app`"
                )),
            };
        }
        if let Some(name) = image.strip_prefix(BUNDLE) {
            return BundleReference::parse(name).map(Image::Bundle);
        }
        if let Some(prefix) = UNBUILT.iter().find(|prefix| image.starts_with(*prefix)) {
            return Err(format!(
                "`{image}`: this version does not run `{prefix}` images, only `demo/NAME`, \
                 `bundle/NAME:TAG`, `file:///path/to/program` and container images"
            ));
        }
        Reference::parse(image).map(Image::Container)
    }

    /// The bundle that `image` names; one that cannot be parsed names none.
    pub fn bundle(image: &str) -> Option<BundleReference> {
        BundleReference::parse(image.strip_prefix(BUNDLE)?).ok()
    }

    /// Whether `image` names a container image, kept by the cluster or not; one that cannot be parsed
    /// names none.
    pub fn is_container(image: &str) -> bool {
        match Self::parse(image) {
            Ok(Image::Container(_)) => true,
            Ok(Image::Bundle(bundle)) => bundle.is_image(),
            Ok(Image::Demo(_) | Image::File(_)) | Err(_) => false,
        }
    }

    /// What `image` is called once it was pushed into the cluster; `None` = it is no container image
    /// that is named by a tag.
    pub fn pushed(image: &str) -> Option<BundleReference> {
        let Ok(Image::Container(image)) = Self::parse(image) else {
            return None;
        };
        BundleReference::of_image(&image)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scheme_picks_the_program() {
        assert_eq!(
            Image::parse("demo/hello:1"),
            Ok(Image::Demo("hello".into()))
        );
        assert_eq!(
            Image::parse("file:///bin/app"),
            Ok(Image::File("/bin/app".into()))
        );
        assert!(
            Image::parse("demo/helo")
                .unwrap_err()
                .contains("did you mean `demo/hello`?")
        );
        for bad in ["", "file://relative", "bundle/", "host/"] {
            assert!(Image::parse(bad).is_err(), "{bad}");
        }
        let bundle = Image::bundle("bundle/hello:v1").unwrap();
        assert_eq!(bundle.image(), "bundle/hello:v1");
        assert!(Image::bundle("hello:v1").is_none());
        assert!(Image::is_container("nginx") && !Image::is_container("demo/hello"));
        assert!(Image::is_container("docker.io/demo/hello"));
        assert!(Image::is_container("bundle/image/team/app:v1"));
        assert!(!Image::is_container("bundle/hello:v1"));
        assert!(Image::pushed("bundle/image/app:v1").is_none());
        assert_eq!(
            Image::pushed("team/app:v1"),
            Image::bundle("bundle/image/team/app:v1")
        );
    }
}
