//! `GET /metrics` on the admin port, beside gRPC.

use std::collections::BTreeMap;

use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use nihilo_gateway::Gateway;
use nihilo_runtime::Agent;
use nihilo_types::instance::InstanceReport;
use tonic::service::Routes;

use super::observe::state_for_people;

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Ends every page.
const END: &str = "# EOF\n";

/// Adds the page to the admin services: what the gateway counts, and this node's instances.
pub(crate) fn add(routes: Routes, gateway: Gateway, agent: Agent) -> Routes {
    let page = move || async move {
        let reports = agent.instances().into_iter().map(|(report, _)| report);
        let text = with_instances(gateway.metrics_text(), reports);
        ([(CONTENT_TYPE, OPEN_METRICS)], text)
    };
    let router = routes.into_axum_router().route("/metrics", get(page));
    Routes::from(router)
}

/// One series for each state in which there is an instance that has not ended.
fn with_instances(gateway: String, reports: impl Iterator<Item = InstanceReport>) -> String {
    let mut by_state: BTreeMap<String, u64> = BTreeMap::new();
    for report in reports.filter(|report| report.state.is_counted()) {
        *by_state.entry(state_for_people(&report)).or_default() += 1;
    }
    let mut text = gateway.strip_suffix(END).unwrap_or(&gateway).to_owned();
    text.push_str("# HELP nihilo_instances Instances of this node that have not ended.\n");
    text.push_str("# TYPE nihilo_instances gauge\n");
    for (state, n) in by_state {
        text.push_str(&format!("nihilo_instances{{state=\"{state}\"}} {n}\n"));
    }
    text + END
}

#[cfg(test)]
mod tests {
    use nihilo_types::id::{Epoch, InstanceId, ObjectKey, ShardId};
    use nihilo_types::instance::InstanceState;

    use super::*;

    #[test]
    fn instances_are_counted_by_state_before_the_end_of_the_page() {
        use InstanceState::{Booting, Destroyed, Frozen, Ready};
        let report = |(state, ready_after_ms)| InstanceReport {
            id: InstanceId::from("r-1-1"),
            revision: ObjectKey::new("default", "r"),
            revision_uid: "u".into(),
            shard: ShardId(1),
            epoch: Epoch(5),
            state,
            address: None,
            pid: None,
            in_flight: 0,
            age_ms: 0,
            spawned_after_ms: 0,
            ready_after_ms,
            exit: None,
            last_output: Vec::new(),
            isolation: None,
            waking: Default::default(),
        };
        let all = [
            (Frozen, 3),
            (Ready, 3),
            (Frozen, 3),
            (Booting, 3),
            (Destroyed, 3),
        ];
        let page = with_instances("one 1\n# EOF\n".into(), all.into_iter().map(report));
        let (before, ours) = page.split_once("# HELP").unwrap();
        assert_eq!(before, "one 1\n");
        let series: Vec<_> = ours.lines().skip(2).collect();
        let wanted = [
            "nihilo_instances{state=\"Frozen\"} 2",
            "nihilo_instances{state=\"NotReady\"} 1",
            "nihilo_instances{state=\"Ready\"} 1",
            "# EOF",
        ];
        assert_eq!(series, wanted);
    }
}
