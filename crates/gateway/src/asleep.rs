//! Health probes of monitors and balancers: answered for a service that sleeps, without waking it,
//! and passed on uncounted to one that does not (06-runtime §8.6).

use std::sync::Arc;

use http::header::{UPGRADE, USER_AGENT};
use http::{Method, Request};
use nihilo_types::probe_paths::Listed;
use nihilo_types::route_table::RevisionTarget;

/// Parts of user agents that tell a prober.
#[derive(Debug, Clone, Default)]
pub struct ProbeAgents(Arc<[String]>);

impl ProbeAgents {
    pub fn new(parts: Vec<String>) -> Self {
        Self(parts.into())
    }

    /// Whether it only asks how `target` is.
    pub(crate) fn is_probe<B>(&self, request: &Request<B>, target: &RevisionTarget) -> bool {
        let listed = target.probe_paths.find(request.uri().path());
        let is_question = matches!(*request.method(), Method::GET | Method::HEAD)
            && !request.headers().contains_key(UPGRADE);
        match listed {
            Listed::No => false,
            Listed::Yes => is_question,
            Listed::ForProbers => is_question && self.is_known(request),
        }
    }

    fn is_known<B>(&self, request: &Request<B>) -> bool {
        let agent = request.headers().get(USER_AGENT);
        let agent = agent.and_then(|agent| agent.to_str().ok());
        agent.is_some_and(|agent| self.0.iter().any(|part| agent.contains(part.as_str())))
    }
}

#[cfg(test)]
mod tests {
    use nihilo_types::probe_paths::ProbePaths;

    use super::*;
    use crate::testkit::target;

    #[test]
    fn only_questions_to_listed_paths_or_by_known_probers_are_probes() {
        let agents = ProbeAgents::new(vec!["kube-probe/".into()]);
        let is_probe = |paths: &str, method: &str, path: &str, field: (&str, &str)| {
            let target = RevisionTarget {
                probe_paths: ProbePaths::parse(paths).unwrap_or_default(),
                ..target("r")
            };
            let request = Request::builder().method(method).uri(path);
            let request = request.header(field.0, field.1).body(()).unwrap();
            agents.is_probe(&request, &target)
        };
        let (person, prober) = (
            ("user-agent", "Mozilla"),
            ("user-agent", "x kube-probe/1.2"),
        );
        for (paths, method, path, field, want) in [
            ("/up", "GET", "/up", person, true),
            ("/up", "HEAD", "/up?deep=1", person, true),
            ("/up", "POST", "/up", person, false),
            ("/up", "GET", "/up/", person, false),
            ("/up", "GET", "/", prober, false),
            ("/up", "GET", "/up", ("upgrade", "websocket"), false),
            ("*", "GET", "/", prober, true),
            ("*", "GET", "/", person, false),
            ("", "GET", "/up", prober, false),
        ] {
            assert_eq!(
                is_probe(paths, method, path, field),
                want,
                "{paths} {method} {path}"
            );
        }
    }
}
