//! Paths by which others ask whether a service is well, and which wake nothing
//! (06-runtime §8.6).

use std::sync::Arc;

/// Paths of one service, at most.
pub const MAX_PROBE_PATHS: usize = 8;
/// Every path, for the user agents that the gateways know as probers.
const ANY: &str = "*";

/// Cheap to clone; none by default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProbePaths(Option<Arc<[Box<str>]>>);

/// Whether a path is one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listed {
    No,
    Yes,
    /// By a known prober alone.
    ForProbers,
}

impl ProbePaths {
    /// `/healthz,/up`, or `*`; `None` = it is neither.
    pub fn parse(text: &str) -> Option<Self> {
        let paths: Vec<Box<str>> = text.split(',').map(|path| path.trim().into()).collect();
        let is_path = |path: &str| {
            let is_plain = |byte: u8| byte.is_ascii_graphic() && !b"?#*".contains(&byte);
            path.starts_with('/') && path.bytes().all(is_plain)
        };
        let is_good = paths.len() <= MAX_PROBE_PATHS
            && paths.iter().all(|path| **path == *ANY || is_path(path));
        is_good.then(|| Self(Some(paths.into())))
    }

    pub fn find(&self, path: &str) -> Listed {
        let Some(paths) = &self.0 else {
            return Listed::No;
        };
        if paths.iter().any(|listed| **listed == *path) {
            return Listed::Yes;
        }
        match paths.iter().any(|listed| **listed == *ANY) {
            true => Listed::ForProbers,
            false => Listed::No,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_paths_are_listed_and_a_star_lists_the_rest_for_probers() {
        let paths = |text| ProbePaths::parse(text).unwrap();
        let cases = [
            (ProbePaths::default(), "/healthz", Listed::No),
            (paths("/healthz, /up"), "/up", Listed::Yes),
            (paths("/healthz,/up"), "/healthz", Listed::Yes),
            (paths("/healthz"), "/healthz/", Listed::No),
            (paths("/healthz"), "/", Listed::No),
            (paths("*"), "/any", Listed::ForProbers),
            (paths("/up,*"), "/up", Listed::Yes),
            (paths("/up,*"), "/down", Listed::ForProbers),
        ];
        for (paths, path, want) in cases {
            assert_eq!(paths.find(path), want, "{path} in {paths:?}");
        }
    }

    #[test]
    fn what_is_no_list_of_paths_is_refused() {
        let many = ["/a"; 9].join(",");
        for bad in ["", "healthz", "/a,", "/a b", "/a?b=1", "/a*", &many] {
            assert_eq!(ProbePaths::parse(bad), None, "{bad}");
        }
        assert!(ProbePaths::parse(&["/a"; 8].join(",")).is_some());
    }
}
