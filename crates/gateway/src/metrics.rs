//! What the gateway counts, under Knative's names and ours (07-cli-api-observability §5.1).

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use nihilo_types::id::ObjectKey;
use nihilo_types::route_table::RevisionTarget;
use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::cold::ColdStart;

const BUCKETS: [f64; 14] = [
    0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
];
/// In front of the others where milliseconds count.
const FINE: [f64; 3] = [0.0005, 0.001, 0.0025];
/// Revisions that keep series of their own; further ones share `other`.
const MAX_REVISIONS: usize = 20_000;

fn coarse() -> Histogram {
    Histogram::new(BUCKETS)
}

fn fine() -> Histogram {
    Histogram::new(FINE.into_iter().chain(BUCKETS))
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RevisionLabels {
    k8s_namespace_name: Arc<str>,
    kn_service_name: Arc<str>,
    kn_configuration_name: Arc<str>,
    kn_revision_name: Arc<str>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CodeLabels {
    k8s_namespace_name: Arc<str>,
    kn_service_name: Arc<str>,
    kn_configuration_name: Arc<str>,
    kn_revision_name: Arc<str>,
    http_response_status_code: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StageLabels {
    k8s_namespace_name: Arc<str>,
    kn_service_name: Arc<str>,
    kn_configuration_name: Arc<str>,
    kn_revision_name: Arc<str>,
    stage: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AnswerLabels {
    code: u16,
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LimitLabels {
    limit: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AdmissionLabels {
    answer: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ListenerLabels {
    listener: &'static str,
}

/// All families of one gateway; cheap to clone.
#[derive(Debug, Clone)]
pub struct Metrics(Arc<Families>);

#[derive(Debug)]
struct Families {
    registry: Registry,
    durations: Family<CodeLabels, Histogram, fn() -> Histogram>,
    invocations: Family<RevisionLabels, Histogram, fn() -> Histogram>,
    waits: Family<RevisionLabels, Histogram, fn() -> Histogram>,
    cold: Family<StageLabels, Histogram, fn() -> Histogram>,
    queued: Family<RevisionLabels, Gauge>,
    active: Family<RevisionLabels, Gauge>,
    concurrency: Family<RevisionLabels, Gauge<f64, AtomicU64>>,
    answers: Family<AnswerLabels, Counter>,
    retries: Family<ReasonLabels, Counter>,
    limits: Family<LimitLabels, Counter>,
    admissions: Family<AdmissionLabels, Counter>,
    connections: Family<ListenerLabels, Gauge>,
    dropped_lines: Counter,
    probe_answers: Counter,
    table_index: Gauge,
    /// Of every revision that has some.
    series: Mutex<HashMap<ObjectKey, Series>>,
}

/// What there is of one revision in the families.
#[derive(Debug)]
struct Series {
    labels: RevisionLabels,
    /// With a series of durations.
    codes: BTreeSet<u16>,
    /// That write to it.
    n_lines: usize,
}

impl RevisionLabels {
    fn of(target: &RevisionTarget) -> Self {
        Self {
            k8s_namespace_name: target.revision.namespace.clone(),
            kn_service_name: target.service.clone(),
            kn_configuration_name: target.configuration.clone(),
            kn_revision_name: target.revision.name.clone(),
        }
    }

    /// Of all revisions beyond [`MAX_REVISIONS`] together.
    fn other() -> Self {
        let other: Arc<str> = "other".into();
        Self {
            k8s_namespace_name: other.clone(),
            kn_service_name: other.clone(),
            kn_configuration_name: other.clone(),
            kn_revision_name: other,
        }
    }

    fn key(&self) -> ObjectKey {
        ObjectKey {
            namespace: self.k8s_namespace_name.clone(),
            name: self.kn_revision_name.clone(),
        }
    }

    fn with_code(&self, code: u16) -> CodeLabels {
        let labels = self.clone();
        CodeLabels {
            k8s_namespace_name: labels.k8s_namespace_name,
            kn_service_name: labels.kn_service_name,
            kn_configuration_name: labels.kn_configuration_name,
            kn_revision_name: labels.kn_revision_name,
            http_response_status_code: code,
        }
    }

    fn with_stage(&self, stage: &'static str) -> StageLabels {
        let labels = self.clone();
        StageLabels {
            k8s_namespace_name: labels.k8s_namespace_name,
            kn_service_name: labels.kn_service_name,
            kn_configuration_name: labels.kn_configuration_name,
            kn_revision_name: labels.kn_revision_name,
            stage,
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let mut families = Families {
            registry: Registry::default(),
            durations: Family::new_with_constructor(coarse as fn() -> Histogram),
            invocations: Family::new_with_constructor(fine as fn() -> Histogram),
            waits: Family::new_with_constructor(fine as fn() -> Histogram),
            cold: Family::new_with_constructor(fine as fn() -> Histogram),
            queued: Family::default(),
            active: Family::default(),
            concurrency: Family::default(),
            answers: Family::default(),
            retries: Family::default(),
            limits: Family::default(),
            admissions: Family::default(),
            connections: Family::default(),
            dropped_lines: Counter::default(),
            probe_answers: Counter::default(),
            table_index: Gauge::default(),
            series: Mutex::default(),
        };
        families.register();
        Self(Arc::new(families))
    }
}

impl Families {
    fn register(&mut self) {
        let r = &mut self.registry;
        let (durations, invocations) = (self.durations.clone(), self.invocations.clone());
        let seconds = Unit::Seconds;
        r.register_with_unit(
            "http_server_request_duration",
            "From a request's arrival to the end of its answer",
            seconds,
            durations,
        );
        r.register_with_unit(
            "kn_serving_invocation_duration",
            "From sending to an instance to the end of its answer",
            Unit::Seconds,
            invocations,
        );
        r.register_with_unit(
            "nihilo_queue_wait",
            "Time in the line of a revision",
            Unit::Seconds,
            self.waits.clone(),
        );
        r.register_with_unit(
            "nihilo_cold_start",
            "Where the time of a request went that found nothing ready",
            Unit::Seconds,
            self.cold.clone(),
        );
        let queued = self.queued.clone();
        r.register("kn_revision_request_queued", "Requests that wait", queued);
        let active = self.active.clone();
        r.register("kn_revision_request_active", "Requests under way", active);
        let concurrency = self.concurrency.clone();
        r.register(
            "kn_revision_request_concurrency",
            "Average concurrency of the last report",
            concurrency,
        );
        r.register(
            "nihilo_gateway_answers",
            "Answers made by the gateway itself",
            self.answers.clone(),
        );
        let retries = self.retries.clone();
        r.register("nihilo_gateway_retries", "Requests sent again", retries);
        let limits = self.limits.clone();
        r.register("nihilo_gateway_limit_hits", "Limits that were hit", limits);
        r.register(
            "nihilo_mesh_admissions",
            "What other nodes' gateways were told",
            self.admissions.clone(),
        );
        let connections = self.connections.clone();
        r.register("nihilo_connections", "Open client connections", connections);
        r.register(
            "nihilo_access_log_dropped",
            "Lines not written",
            self.dropped_lines.clone(),
        );
        r.register(
            "nihilo_probe_answers",
            "Health probes answered for services that sleep",
            self.probe_answers.clone(),
        );
        r.register(
            "nihilo_route_table_index",
            "Index of the table in use",
            self.table_index.clone(),
        );
    }
}

impl Families {
    fn end(&self, series: &Series) {
        let labels = &series.labels;
        self.invocations.remove(labels);
        self.waits.remove(labels);
        for code in &series.codes {
            self.durations.remove(&labels.with_code(*code));
        }
        for stage in crate::cold::STAGES {
            self.cold.remove(&labels.with_stage(stage));
        }
    }
}

impl Metrics {
    /// All series, in OpenMetrics text.
    pub fn text(&self) -> String {
        let mut text = String::new();
        if prometheus_client::encoding::text::encode(&mut text, &self.0.registry).is_err() {
            text.clear();
            text.push_str("# EOF\n");
        }
        text
    }

    pub fn answered(&self, code: u16, reason: &'static str) {
        let labels = AnswerLabels { code, reason };
        self.0.answers.get_or_create_owned(&labels).inc();
    }

    pub fn retried(&self, reason: &'static str) {
        let labels = ReasonLabels { reason };
        self.0.retries.get_or_create_owned(&labels).inc();
    }

    pub fn hit(&self, limit: &'static str) {
        let labels = LimitLabels { limit };
        self.0.limits.get_or_create_owned(&labels).inc();
    }

    pub fn told(&self, answer: &'static str) {
        let labels = AdmissionLabels { answer };
        self.0.admissions.get_or_create_owned(&labels).inc();
    }

    pub fn probe_answered(&self) {
        self.0.probe_answers.inc();
    }

    pub fn line_dropped(&self) {
        self.0.dropped_lines.inc();
    }

    pub fn swapped(&self, index: u64) {
        self.0
            .table_index
            .set(i64::try_from(index).unwrap_or(i64::MAX));
    }

    /// Counts one connection until dropped.
    pub fn connected(&self, listener: &'static str) -> Connected {
        let gauge = self
            .0
            .connections
            .get_or_create_owned(&ListenerLabels { listener });
        gauge.inc();
        Connected(gauge)
    }

    /// A revision's handles, taken once.
    pub fn revision(&self, target: &RevisionTarget) -> Meters {
        let labels = self.write_to(target);
        let families = &self.0;
        Meters {
            invocation: families.invocations.get_or_create_owned(&labels),
            wait: families.waits.get_or_create_owned(&labels),
            queued: families.queued.get_or_create_owned(&labels),
            active: families.active.get_or_create_owned(&labels),
            concurrency: families.concurrency.get_or_create_owned(&labels),
            durations: Mutex::default(),
            labels,
            metrics: self.clone(),
        }
    }

    /// Counts one more line that writes to the revision's series, and names them.
    fn write_to(&self, target: &RevisionTarget) -> RevisionLabels {
        let mut all = self.0.series.lock();
        let is_one_too_many = all.len() >= MAX_REVISIONS && !all.contains_key(&target.revision);
        let labels = match is_one_too_many {
            true => RevisionLabels::other(),
            false => RevisionLabels::of(target),
        };
        let series = all.entry(labels.key()).or_insert_with(|| Series {
            labels: labels.clone(),
            codes: BTreeSet::new(),
            n_lines: 0,
        });
        series.n_lines += 1;
        labels
    }

    /// Ends the series of revisions that are not in `kept` and that no line writes to.
    pub fn forget_revisions_beyond(&self, kept: &HashSet<&ObjectKey>) {
        let families = &self.0;
        families.series.lock().retain(|revision, series| {
            let is_kept = series.n_lines > 0 || kept.contains(revision);
            if !is_kept {
                families.end(series);
            }
            is_kept
        });
    }
}

/// One open connection.
#[derive(Debug)]
pub struct Connected(Gauge);

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// One line's handles of its revision's series.
#[derive(Debug)]
pub struct Meters {
    labels: RevisionLabels,
    metrics: Metrics,
    invocation: Histogram,
    wait: Histogram,
    queued: Gauge,
    active: Gauge,
    concurrency: Gauge<f64, AtomicU64>,
    /// By status code.
    durations: Mutex<Vec<(u16, Histogram)>>,
}

impl Meters {
    pub fn answered(&self, code: u16, total: Duration, invocation: Option<Duration>) {
        let mut durations = self.durations.lock();
        let found = durations.iter().position(|(known, _)| *known == code);
        let at = found.unwrap_or_else(|| {
            durations.push((code, self.duration(code)));
            durations.len() - 1
        });
        durations[at].1.observe(total.as_secs_f64());
        if let Some(invocation) = invocation {
            self.invocation.observe(invocation.as_secs_f64());
        }
    }

    pub fn waited(&self, wait: Duration) {
        self.wait.observe(wait.as_secs_f64());
    }

    fn duration(&self, code: u16) -> Histogram {
        let families = &self.metrics.0;
        if let Some(series) = families.series.lock().get_mut(&self.labels.key()) {
            series.codes.insert(code);
        }
        let labels = self.labels.with_code(code);
        families.durations.get_or_create_owned(&labels)
    }

    /// Where a cold start's time went.
    pub(crate) fn started_cold(&self, cold: ColdStart) {
        for (stage, spent) in cold.stages() {
            let labels = self.labels.with_stage(stage);
            let histogram = self.metrics.0.cold.get_or_create_owned(&labels);
            histogram.observe(spent.as_secs_f64());
        }
    }

    /// What the line reports of itself.
    pub fn report(&self, queued: u64, in_flight: u64, area_us: u64, used_us: u64) {
        let int = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        self.queued.set(int(queued));
        self.active.set(int(in_flight.saturating_sub(queued)));
        let average = area_us as f64 / used_us.max(1) as f64;
        self.concurrency.set(average);
    }
}

impl Drop for Meters {
    fn drop(&mut self) {
        let families = &self.metrics.0;
        let mut all = families.series.lock();
        let Some(series) = all.get_mut(&self.labels.key()) else {
            return;
        };
        series.n_lines -= 1;
        if series.n_lines == 0 {
            // Gauges that nobody sets would lie; histograms stay as long as the revision, they only
            // count.
            families.queued.remove(&self.labels);
            families.active.remove(&self.labels);
            families.concurrency.remove(&self.labels);
        }
    }
}

#[cfg(test)]
mod tests {
    use nihilo_types::instance::Waking;

    use super::*;
    use crate::testkit::target;

    fn n_series_of(metrics: &Metrics, name: &str) -> usize {
        let label = format!("kn_revision_name=\"{name}\"");
        let text = metrics.text();
        text.lines().filter(|line| line.contains(&label)).count()
    }

    #[test]
    fn the_series_of_a_revision_that_has_gone_end_once_nobody_writes_to_them() {
        let (metrics, moment) = (Metrics::default(), Duration::from_millis(1));
        let lines = ["old", "new"].map(|name| metrics.revision(&target(name)));
        for line in &lines {
            line.answered(200, moment, Some(moment));
            line.waited(moment);
            line.started_cold(ColdStart::of(moment, Waking::default(), moment));
        }
        let (new, n_all) = (
            ObjectKey::new("default", "new"),
            n_series_of(&metrics, "old"),
        );
        let kept = HashSet::from([&new]);
        metrics.forget_revisions_beyond(&kept);
        assert_eq!(n_series_of(&metrics, "old"), n_all, "a line is there");
        drop(lines);
        metrics.forget_revisions_beyond(&kept);
        assert_eq!(n_series_of(&metrics, "old"), 0, "{}", metrics.text());
        assert!(n_series_of(&metrics, "new") > 0);
    }

    #[test]
    fn a_second_line_of_a_revision_keeps_the_gauges_of_the_first() {
        let metrics = Metrics::default();
        let first = metrics.revision(&target("again"));
        let second = metrics.revision(&target("again"));
        drop(first);
        second.report(7, 7, 0, 0);
        let text = metrics.text();
        let is_shown =
            |line: &str| line.starts_with("kn_revision_request_queued{") && line.ends_with(" 7");
        assert!(text.lines().any(is_shown), "{text}");
    }
}
