//! The gateway's own health answer, and for how long a balancer needs it before the listeners close
//! (05-gateway §18).

use std::time::Duration;

use http::{Method, Request, Response, StatusCode};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::body::ResponseBody;
use crate::gateway::Phase;
use crate::rescue::{Cause, Tongue};

/// Paths of the gateway itself, whatever the host: no service can have them.
pub(crate) const OWN_PREFIX: &str = "/.well-known/nihilo/";
const OWN_HEALTH: &str = "/.well-known/nihilo/gateway";
/// Accepting goes on so long at most after the health answer fell, and never longer than this part of
/// the grace.
const MAX_NOTICE: Duration = Duration::from_secs(5);
const NOTICE_PART: u32 = 6;
/// A balancer asks more often than this, or would hear of the end too late anyhow.
const WATCHED_WITHIN: Duration = Duration::from_secs(30);

/// When somebody last asked whether this gateway wants traffic.
#[derive(Debug, Default)]
pub(crate) struct Watched(Mutex<Option<Instant>>);

impl Watched {
    /// For how long the listeners stay open although this gateway is about to go.
    pub(crate) fn notice(&self, grace: Duration) -> Duration {
        let asked = *self.0.lock();
        notice(grace, asked.map(|at| at.elapsed()))
    }

    pub(crate) fn answer<B>(&self, request: &Request<B>, phase: Phase) -> Response<ResponseBody> {
        let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
        if request.uri().path() != OWN_HEALTH || !is_read {
            let tongue = match request.version() {
                http::Version::HTTP_2 => Tongue::Http2,
                _ => Tongue::Http1,
            };
            return Cause::UnknownHost.answer(tongue);
        }
        *self.0.lock() = Some(Instant::now());
        let (status, text) = match phase {
            Phase::Leaving | Phase::Draining => (StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
            Phase::Closed | Phase::Open => (StatusCode::OK, "ok\n"),
        };
        let mut response = Response::new(ResponseBody::text(text));
        *response.status_mut() = status;
        response
    }
}

/// `asked` = how long ago somebody last looked at the health answer. Where nobody does, nobody can be
/// told by it, and a longer stay would only make the stop slower.
fn notice(grace: Duration, asked: Option<Duration>) -> Duration {
    match asked {
        Some(ago) if ago < WATCHED_WITHIN => MAX_NOTICE.min(grace / NOTICE_PART),
        Some(_) | None => Duration::ZERO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_is_watched_stays_and_no_longer_than_a_sixth_of_the_grace() {
        let s = Duration::from_secs;
        for (grace, asked, want) in [
            (s(30), Some(s(1)), s(5)),
            (s(600), Some(s(1)), s(5)),
            (s(12), Some(s(1)), s(2)),
            (s(3), Some(s(29)), Duration::from_millis(500)),
            (s(0), Some(s(0)), s(0)),
            (s(30), Some(s(30)), s(0)),
            (s(30), None, s(0)),
        ] {
            assert_eq!(notice(grace, asked), want, "{grace:?}, {asked:?}");
        }
    }
}
