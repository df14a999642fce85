//! Image names: the scheme picks what runs (06-runtime §7.1).

/// An image that this version can run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Image {
    /// `demo/NAME[:tag]`: an app built into the binary.
    Demo(String),
    /// `file:///abs/path`: a program on every node.
    File(String),
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
        match image.strip_prefix("file://") {
            Some(path) if path.starts_with('/') => Ok(Image::File(path.into())),
            Some(_) => Err(format!(
                "`{image}`: the path must be absolute, as in `file:///app`"
            )),
            None => Err(format!(
                "`{image}`: this version runs `demo/NAME` and `file:///path/to/program`"
            )),
        }
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
        for bad in ["", "nginx", "file://relative"] {
            assert!(Image::parse(bad).is_err(), "{bad}");
        }
    }
}
