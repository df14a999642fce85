//! Conditions and their roll-up into `Ready` (01-objects §3).

use serde::{Deserialize, Serialize};

/// Condition types by name.
pub mod types {
    pub const READY: &str = "Ready";
    pub const CONFIGURATIONS_READY: &str = "ConfigurationsReady";
    pub const ROUTES_READY: &str = "RoutesReady";
    pub const RESOURCES_AVAILABLE: &str = "ResourcesAvailable";
    pub const CONTAINER_HEALTHY: &str = "ContainerHealthy";
    /// Info: the container ends again and again.
    pub const RESTARTING: &str = "Restarting";
    pub const ACTIVE: &str = "Active";
    pub const ALL_TRAFFIC_ASSIGNED: &str = "AllTrafficAssigned";
    pub const INGRESS_READY: &str = "IngressReady";
    pub const CERTIFICATE_PROVISIONED: &str = "CertificateProvisioned";
    pub const DOMAIN_CLAIMED: &str = "DomainClaimed";
    pub const REFERENCE_RESOLVED: &str = "ReferenceResolved";
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ConditionStatus {
    True,
    False,
    Unknown,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    #[serde(rename = "type")]
    pub kind: String,
    pub status: ConditionStatus,
    /// Empty = error; `Info` conditions stay out of the roll-up.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub severity: String,
    /// RFC 3339; moves only when `status` changes.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub last_transition_time: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// What a controller asserts about one condition; the state machine adds the transition time.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Assertion {
    pub kind: String,
    pub status: ConditionStatus,
    pub info: bool,
    pub reason: String,
    pub message: String,
}

impl Assertion {
    pub fn truth(kind: &str) -> Self {
        Self::new(kind, ConditionStatus::True, "", "")
    }

    pub fn falsity(kind: &str, reason: &str, message: impl Into<String>) -> Self {
        Self::new(kind, ConditionStatus::False, reason, message)
    }

    pub fn unknown(kind: &str, reason: &str, message: impl Into<String>) -> Self {
        Self::new(kind, ConditionStatus::Unknown, reason, message)
    }

    pub fn new(
        kind: &str,
        status: ConditionStatus,
        reason: &str,
        message: impl Into<String>,
    ) -> Self {
        Self {
            kind: kind.into(),
            status,
            info: false,
            reason: reason.into(),
            message: message.into(),
        }
    }

    /// What a Route and an own domain say until the gateways serve them.
    pub fn ingress_waits() -> Self {
        let text = "Ingress has not yet been reconciled.";
        Self::unknown(types::INGRESS_READY, "IngressNotConfigured", text)
    }

    /// Which certificates a node has is not in the state.
    pub fn no_certificate() -> Self {
        let text = "external-domain-tls is not enabled";
        let kind = types::CERTIFICATE_PROVISIONED;
        Self::new(kind, ConditionStatus::True, "TLSNotEnabled", text)
    }

    /// Marks the condition `severity: Info`: shown, but not part of `Ready`.
    pub fn as_info(mut self) -> Self {
        self.info = true;
        self
    }
}

/// The conditions of one object, sorted by type.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Conditions(pub Vec<Condition>);

impl Conditions {
    pub fn get(&self, kind: &str) -> Option<&Condition> {
        self.0.iter().find(|condition| condition.kind == kind)
    }

    pub fn status(&self, kind: &str) -> ConditionStatus {
        self.get(kind)
            .map_or(ConditionStatus::Unknown, |condition| condition.status)
    }

    pub fn is_true(&self, kind: &str) -> bool {
        self.status(kind) == ConditionStatus::True
    }

    pub fn is_false(&self, kind: &str) -> bool {
        self.status(kind) == ConditionStatus::False
    }

    /// Whether every assertion already stands, transition times aside.
    pub fn holds(&self, assertions: &[Assertion]) -> bool {
        assertions.iter().all(|wanted| {
            self.get(&wanted.kind).is_some_and(|have| {
                have.status == wanted.status
                    && have.reason == wanted.reason
                    && have.message == wanted.message
            })
        })
    }

    /// Sets one condition at wall time `now` (RFC 3339); the time moves only with the status.
    pub fn set(&mut self, wanted: &Assertion, now: &str) {
        let severity = if wanted.info { "Info" } else { "" };
        match self
            .0
            .iter_mut()
            .find(|condition| condition.kind == wanted.kind)
        {
            Some(condition) => {
                if condition.status != wanted.status {
                    condition.last_transition_time = now.into();
                }
                condition.status = wanted.status;
                condition.severity = severity.into();
                condition.reason = wanted.reason.clone();
                condition.message = wanted.message.clone();
            }
            None => self.0.push(Condition {
                kind: wanted.kind.clone(),
                status: wanted.status,
                severity: severity.into(),
                last_transition_time: now.into(),
                reason: wanted.reason.clone(),
                message: wanted.message.clone(),
            }),
        }
        self.0.sort_by(|a, b| a.kind.cmp(&b.kind));
    }

    /// Returns what `Ready` must say, given the conditions it depends on.
    ///
    /// Any False wins with the reason of the most recently transitioned one, then any Unknown or
    /// missing likewise, else True. Source: 01-objects §3, Knative's `ConditionSet`.
    pub fn roll_up(&self, dependents: &[&str]) -> Assertion {
        let worst = |status: ConditionStatus| {
            self.0
                .iter()
                .filter(|c| dependents.contains(&c.kind.as_str()) && c.status == status)
                .max_by(|a, b| a.last_transition_time.cmp(&b.last_transition_time))
        };
        let copy = |from: &Condition| {
            Assertion::new(
                types::READY,
                from.status,
                &from.reason,
                from.message.clone(),
            )
        };
        if let Some(failed) = worst(ConditionStatus::False) {
            return copy(failed);
        }
        if let Some(unknown) = worst(ConditionStatus::Unknown) {
            return copy(unknown);
        }
        if dependents.iter().any(|kind| self.get(kind).is_none()) {
            return Assertion::unknown(types::READY, "", "");
        }
        Assertion::truth(types::READY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(list: &[(&str, ConditionStatus, &str, &str)]) -> Conditions {
        let mut conditions = Conditions::default();
        for (kind, status, reason, at) in list {
            conditions.set(&Assertion::new(kind, *status, reason, ""), at);
        }
        conditions
    }

    #[test]
    fn false_beats_unknown_even_if_older() {
        use ConditionStatus::{False, Unknown};
        let conditions = set(&[("A", False, "Broken", "1"), ("B", Unknown, "Waiting", "2")]);
        assert_eq!(conditions.roll_up(&["A", "B"]).reason, "Broken");
    }

    #[test]
    fn among_equals_the_most_recent_wins() {
        use ConditionStatus::False;
        let conditions = set(&[("A", False, "Old", "1"), ("B", False, "New", "2")]);
        assert_eq!(conditions.roll_up(&["A", "B"]).reason, "New");
    }

    #[test]
    fn a_missing_dependent_is_unknown() {
        let conditions = set(&[("A", ConditionStatus::True, "", "1")]);
        assert_eq!(
            conditions.roll_up(&["A", "B"]).status,
            ConditionStatus::Unknown
        );
        assert_eq!(conditions.roll_up(&["A"]).status, ConditionStatus::True);
    }

    #[test]
    fn the_transition_time_moves_only_with_the_status() {
        let mut conditions = set(&[("A", ConditionStatus::Unknown, "Deploying", "1")]);
        conditions.set(&Assertion::unknown("A", "Queued", ""), "2");
        assert_eq!(
            conditions.get("A").map(|c| c.last_transition_time.as_str()),
            Some("1")
        );
        conditions.set(&Assertion::truth("A"), "3");
        assert_eq!(
            conditions.get("A").map(|c| c.last_transition_time.as_str()),
            Some("3")
        );
    }
}
