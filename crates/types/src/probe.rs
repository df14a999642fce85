//! Probes: how it is known whether an instance serves, and whether it is well (01-objects §6.3).

use std::fmt;

use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

/// What is asked, and how often. Times are whole seconds; absent and 0 mean the default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Probe {
    /// Exactly one of these four.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exec: Option<ExecAction>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grpc: Option<GrpcAction>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http_get: Option<HttpGetAction>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp_socket: Option<TcpSocketAction>,
    /// From the program's start to the first question. Default 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initial_delay_seconds: Option<u32>,
    /// What has not answered by then has failed. Default 1; of a readiness probe without a period
    /// it must be absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_seconds: Option<u32>,
    /// Between two questions. Default 10; of a readiness probe 0, which asks without a pause until
    /// it has passed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub period_seconds: Option<u32>,
    /// In a row, to be taken as ready. Default 1, and always 1 of the other kinds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub success_threshold: Option<u32>,
    /// In a row, to be taken as failed. Default 3; of a readiness probe without a period it must be
    /// absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure_threshold: Option<u32>,
}

/// Ends with exit code 0, run inside the instance.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ExecAction {
    /// Not through a shell.
    #[serde(default)]
    pub command: Vec<String>,
}

/// Answers `SERVING` to `grpc.health.v1.Health/Check`, over plain HTTP/2.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GrpcAction {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<ProbePort>,
    /// As the program's health service names it. Empty = the whole program.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub service: String,
}

/// Answers with a status from 200 to 399; a redirect is not followed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpGetAction {
    /// With its query. Default `/`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub path: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<ProbePort>,
    /// Empty, `localhost` or `127.0.0.1`: it is always the instance itself that is asked.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub host: String,
    /// Empty or `HTTP`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub scheme: String,
    /// `Host` among them stands in place of the instance's address.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub http_headers: Vec<HttpHeader>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpHeader {
    pub name: String,
    #[serde(default)]
    pub value: String,
}

/// Accepts a connection.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TcpSocketAction {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<ProbePort>,
    /// As that of [`HttpGetAction`].
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub host: String,
}

/// A port's number, or the name of the container's own. Absent and 0 are that one too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum ProbePort {
    Number(u16),
    Name(String),
}

impl<'de> Deserialize<'de> for ProbePort {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Written;

        impl Visitor<'_> for Written {
            type Value = ProbePort;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a port's number, at most 65535, or its name")
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<ProbePort, E> {
                let port = u16::try_from(number).map(ProbePort::Number);
                port.map_err(|_| E::custom(format!("{number} is no port, at most 65535 is")))
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<ProbePort, E> {
                let port = u16::try_from(number).map(ProbePort::Number);
                port.map_err(|_| E::custom(format!("{number} is no port, 0 to 65535 is")))
            }

            fn visit_str<E: Error>(self, name: &str) -> Result<ProbePort, E> {
                Ok(ProbePort::Name(name.into()))
            }
        }

        deserializer.deserialize_any(Written)
    }
}

impl fmt::Display for ProbePort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ProbePort::Number(number) => write!(f, "{number}"),
            ProbePort::Name(name) => f.write_str(name),
        }
    }
}

/// What a probe is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProbeKind {
    /// Holds the others off until it has passed once.
    Startup,
    /// An instance that fails it is stopped, and replaced by its owner.
    Liveness,
    /// An instance that fails it gets no requests.
    Readiness,
}

impl ProbeKind {
    pub fn as_str(self) -> &'static str {
        match self {
            ProbeKind::Startup => "startup",
            ProbeKind::Liveness => "liveness",
            ProbeKind::Readiness => "readiness",
        }
    }
}

impl Probe {
    /// Seconds between two questions, of readiness after the first success, where none are given.
    pub const DEFAULT_PERIOD_SECONDS: u32 = 10;
    pub const DEFAULT_TIMEOUT_SECONDS: u32 = 1;
    pub const DEFAULT_FAILURE_THRESHOLD: u32 = 3;

    /// Field names of what is to be asked; a valid probe has one.
    pub fn actions(&self) -> Vec<&'static str> {
        let all = [
            (self.exec.is_some(), "exec"),
            (self.grpc.is_some(), "grpc"),
            (self.http_get.is_some(), "httpGet"),
            (self.tcp_socket.is_some(), "tcpSocket"),
        ];
        let named = all.into_iter().filter(|(is_set, _)| *is_set);
        named.map(|(_, name)| name).collect()
    }

    /// No period: asked without a pause, which only a readiness probe can be.
    pub fn is_aggressive(&self) -> bool {
        self.period_seconds.unwrap_or(0) == 0
    }

    /// Seconds until it has failed for good, counted from the program's start; 0 where it has no
    /// period.
    pub fn patience_seconds(&self) -> u64 {
        let period = u64::from(self.period_seconds.unwrap_or(0));
        let n_failures = u64::from(self.failure_threshold.unwrap_or(0));
        let timeout = u64::from(self.timeout_seconds.unwrap_or(0));
        u64::from(self.initial_delay_seconds.unwrap_or(0)) + n_failures * period.max(timeout)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_a_number_or_a_name_and_stays_as_it_was_written() {
        for (json, port) in [
            ("8080", ProbePort::Number(8_080)),
            ("0", ProbePort::Number(0)),
            ("\"http1\"", ProbePort::Name("http1".into())),
        ] {
            let read: ProbePort = serde_json::from_str(json).unwrap();
            assert_eq!(read, port);
            assert_eq!(serde_json::to_string(&read).unwrap(), json);
        }
        for bad in ["65536", "-1", "true", "1.5"] {
            assert!(serde_json::from_str::<ProbePort>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn patience_is_the_delay_and_every_failure() {
        let probe = Probe {
            initial_delay_seconds: Some(5),
            period_seconds: Some(10),
            timeout_seconds: Some(30),
            failure_threshold: Some(4),
            ..Probe::default()
        };
        assert_eq!(probe.patience_seconds(), 125);
        assert_eq!(Probe::default().patience_seconds(), 0);
    }
}
