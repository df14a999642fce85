//! One question to an instance, and its answer.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use nihilo_host::Stream;
use nihilo_types::instance::{Exit, InstanceSpec};
use nihilo_types::probe::{HttpHeader, Probe, ProbePort};

use super::{Subject, grpc, http};
use crate::driver::{Driver, Ended};

/// Characters of what a program answered or printed that a failure repeats.
const SAID_CHARS: usize = 200;

/// What is asked. A port of `None` is the instance's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Check {
    Listens {
        port: Option<u16>,
    },
    Http {
        port: Option<u16>,
        /// Begins with a slash.
        path: String,
        headers: Vec<HttpHeader>,
        /// The port speaks HTTP/2 from the first byte.
        is_h2c: bool,
    },
    Grpc {
        port: Option<u16>,
        service: String,
    },
    Exec {
        command: Vec<String>,
    },
}

/// Why a probe did not pass, in words for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    text: String,
    /// Nobody accepted the connection.
    pub(super) is_unreached: bool,
}

impl Failure {
    pub(super) fn new(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            is_unreached: false,
        }
    }

    fn unreached(address: SocketAddr, error: &std::io::Error) -> Self {
        Self {
            text: format!("nothing answers on port {}: {error}", address.port()),
            is_unreached: true,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Check {
    pub(super) fn of(probe: &Probe, spec: &InstanceSpec) -> Self {
        let other = |port: &Option<ProbePort>| other_port(port.as_ref(), spec.container_port);
        if let Some(exec) = &probe.exec {
            let command = exec.command.clone();
            return Check::Exec { command };
        }
        if let Some(grpc) = &probe.grpc {
            return Check::Grpc {
                port: other(&grpc.port),
                service: grpc.service.clone(),
            };
        }
        let Some(http) = &probe.http_get else {
            let tcp = probe.tcp_socket.as_ref();
            let port = tcp.and_then(|tcp| other(&tcp.port));
            return Check::Listens { port };
        };
        let port = other(&http.port);
        Check::Http {
            path: match http.path.starts_with('/') {
                true => http.path.clone(),
                false => format!("/{}", http.path),
            },
            headers: http.http_headers.clone(),
            is_h2c: spec.h2c && port.is_none(),
            port,
        }
    }

    /// Whether something has to listen before it can pass.
    pub(super) fn dials(&self) -> bool {
        !matches!(self, Check::Exec { .. })
    }

    pub(super) fn address(&self, own: SocketAddr) -> SocketAddr {
        let port = match self {
            Check::Listens { port } | Check::Http { port, .. } | Check::Grpc { port, .. } => *port,
            Check::Exec { .. } => None,
        };
        SocketAddr::new(own.ip(), port.unwrap_or(own.port()))
    }
}

/// Validation has seen that a name is that of the instance's own port, and that only a container,
/// which has an address of its own, has another number.
fn other_port(port: Option<&ProbePort>, own: u16) -> Option<u16> {
    match port {
        Some(ProbePort::Number(number)) if *number != 0 && *number != own => Some(*number),
        Some(ProbePort::Number(_) | ProbePort::Name(_)) | None => None,
    }
}

/// # Errors
/// Why it has not passed; no answer within `timeout` too. What was begun is broken off then.
pub(super) async fn once<D: Driver>(
    subject: Subject<'_, D>,
    check: &Check,
    timeout: Duration,
) -> Result<(), Failure> {
    let asked = ask(subject, check);
    let answer = tokio::time::timeout(timeout, asked).await;
    answer.unwrap_or_else(|_| Err(Failure::new(format!("no answer within {timeout:?}"))))
}

async fn ask<D: Driver>(subject: Subject<'_, D>, check: &Check) -> Result<(), Failure> {
    let address = check.address(subject.address);
    match check {
        Check::Listens { .. } => dial(subject, address).await.map(drop),
        Check::Http {
            path,
            headers,
            is_h2c,
            ..
        } => {
            let stream = dial(subject, address).await?;
            http::get(stream, *is_h2c, address, path, headers).await
        }
        Check::Grpc { service, .. } => {
            let stream = dial(subject, address).await?;
            grpc::check(stream, address, service).await
        }
        Check::Exec { command } => {
            let Subject { inside, spec, .. } = subject;
            let ended = subject.driver.exec(inside, spec, command).await;
            let shown = command.join(" ");
            match ended {
                Ok(ended) => judge(&shown, &ended),
                Err(why) => Err(Failure::new(format!("`{shown}` was not run: {why}"))),
            }
        }
    }
}

async fn dial<D: Driver>(subject: Subject<'_, D>, address: SocketAddr) -> Result<Stream, Failure> {
    let stream = subject.inner.host.net.dial(&address.to_string()).await;
    stream.map_err(|error| Failure::unreached(address, &error))
}

fn judge(command: &str, ended: &Ended) -> Result<(), Failure> {
    let how = match &ended.exit {
        Exit::Code(0) => return Ok(()),
        Exit::Code(code) => format!("exit code {code}"),
        Exit::Signal(signal) => format!("signal {signal}"),
        other => format!("{other:?}"),
    };
    let text = format!("`{command}` ended with {how}");
    Err(Failure::new(with_words(text, ended.said.as_bytes())))
}

/// Adds what was said, in one line, if there was anything.
pub(super) fn with_words(text: String, said: &[u8]) -> String {
    let said = String::from_utf8_lossy(said);
    let words: Vec<_> = said.split_whitespace().collect();
    let words: String = words.join(" ").chars().take(SAID_CHARS).collect();
    match words.is_empty() {
        true => text,
        false => format!("{text}: {words}"),
    }
}

#[cfg(test)]
mod tests {
    use nihilo_types::probe::{GrpcAction, HttpGetAction, TcpSocketAction};

    use super::*;

    #[test]
    fn only_another_number_is_another_port() {
        let name = ProbePort::Name("http1".into());
        for (port, other) in [
            (None, None),
            (Some(ProbePort::Number(0)), None),
            (Some(ProbePort::Number(8_080)), None),
            (Some(name), None),
            (Some(ProbePort::Number(9_000)), Some(9_000)),
        ] {
            assert_eq!(other_port(port.as_ref(), 8_080), other, "{port:?}");
        }
    }

    #[test]
    fn a_probe_asks_what_its_template_says() {
        let spec = |h2c| InstanceSpec {
            h2c,
            container_port: 8_080,
            ..crate::handle::specification()
        };
        let http = Probe {
            http_get: Some(HttpGetAction {
                path: "ready?all=1".into(),
                ..HttpGetAction::default()
            }),
            ..Probe::default()
        };
        for is_h2c in [false, true] {
            let asked = Check::Http {
                port: None,
                path: "/ready?all=1".into(),
                headers: Vec::new(),
                is_h2c,
            };
            assert_eq!(Check::of(&http, &spec(is_h2c)), asked);
        }
        let grpc = Probe {
            grpc: Some(GrpcAction {
                port: Some(ProbePort::Number(9_000)),
                service: "queue".into(),
            }),
            ..Probe::default()
        };
        let (port, service) = (Some(9_000), "queue".into());
        assert_eq!(Check::of(&grpc, &spec(true)), Check::Grpc { port, service });
        let tcp = Probe {
            tcp_socket: Some(TcpSocketAction::default()),
            ..Probe::default()
        };
        assert_eq!(Check::of(&tcp, &spec(false)), Check::Listens { port: None });
    }

    #[test]
    fn a_failed_command_is_told_with_what_it_said() {
        let ended = |exit, said: &str| Ended {
            exit,
            said: said.into(),
        };
        assert_eq!(judge("true", &ended(Exit::Code(0), "noise")), Ok(()));
        let failed = judge("pg_isready -q", &ended(Exit::Code(2), "no\n  response\n"));
        let text = failed.unwrap_err().to_string();
        assert_eq!(text, "`pg_isready -q` ended with exit code 2: no response");
        let killed = judge("true", &ended(Exit::Signal(9), "")).unwrap_err();
        assert_eq!(killed.to_string(), "`true` ended with signal 9");
    }
}
