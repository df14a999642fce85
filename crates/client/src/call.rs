//! The servers, and one call over as many of them as it takes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status};

use crate::error::Error;

/// How long a call may take, all attempts together, unless the caller says otherwise.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);
/// One attempt at one server: longer than a server's own limit of a write (5 s).
const ATTEMPT_LIMIT: Duration = Duration::from_secs(8);
/// Nobody listens on any server: a restart is over by then, a mistyped address never is.
pub(crate) const UNREACHABLE_LIMIT: Duration = Duration::from_secs(3);
const CONNECT_LIMIT: Duration = Duration::from_secs(2);
/// Pause after a round over all servers; doubles up to [`LAST_PAUSE`].
pub(crate) const FIRST_PAUSE: Duration = Duration::from_millis(50);
pub(crate) const LAST_PAUSE: Duration = Duration::from_secs(1);
/// A peer that is silent this long, plus [`KEEPALIVE_LIMIT`], is taken for dead.
const KEEPALIVE_EVERY: Duration = Duration::from_secs(5);
const KEEPALIVE_LIMIT: Duration = Duration::from_secs(3);

/// Cheap to clone; clones share connections and the choice of server.
#[derive(Debug, Clone)]
pub struct Client {
    servers: Arc<[Server]>,
    current: Arc<AtomicUsize>,
    timeout: Duration,
}

#[derive(Debug, Clone)]
struct Server {
    address: String,
    channel: Channel,
}

impl Client {
    /// Makes a client of `servers` (`host:port` each) without connecting; needs a tokio runtime.
    ///
    /// # Errors
    /// No server at all, or an address that is none.
    pub fn connect_lazy(servers: Vec<String>) -> Result<Self, Error> {
        if servers.is_empty() {
            return Err(no_server());
        }
        let servers: Vec<_> = servers
            .into_iter()
            .map(Server::new)
            .collect::<Result<_, _>>()?;
        Ok(Self::of(servers))
    }

    /// The same over channels that the caller has made, each with the address it is called by.
    ///
    /// # Errors
    /// No channel at all.
    pub fn over(channels: Vec<(String, Channel)>) -> Result<Self, Error> {
        if channels.is_empty() {
            return Err(no_server());
        }
        let server = |(address, channel)| Server { address, channel };
        Ok(Self::of(channels.into_iter().map(server).collect()))
    }

    fn of(servers: Vec<Server>) -> Self {
        let first = rand::random_range(0..servers.len());
        Self {
            servers: servers.into(),
            current: Arc::new(AtomicUsize::new(first)),
            timeout: DEFAULT_TIMEOUT,
        }
    }

    /// The same servers with another limit for each call.
    #[must_use]
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        Self {
            timeout,
            ..self.clone()
        }
    }

    /// A client of each server alone.
    pub(crate) fn each(&self) -> impl Iterator<Item = Self> + use<'_> {
        self.servers.iter().map(|server| Self {
            servers: Arc::from([server.clone()]),
            current: Arc::default(),
            timeout: self.timeout,
        })
    }

    pub fn servers(&self) -> impl Iterator<Item = &str> {
        self.servers.iter().map(|server| server.address.as_str())
    }

    /// Sends until a server answers, the answer is final, or the time is over.
    pub(crate) async fn call<T, F, Fut>(&self, send: F) -> Result<T, Error>
    where
        F: Fn(Channel) -> Fut,
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        let started = Instant::now();
        let mut pause = FIRST_PAUSE;
        loop {
            let (mut last, mut all_unreachable) = (None, true);
            for _ in 0..self.servers.len() {
                let left = self.timeout.saturating_sub(started.elapsed());
                match self.attempt(&send, left).await {
                    Ok(answer) => return Ok(answer),
                    Err(error) if !error.is_retriable() => return Err(error),
                    Err(error) => {
                        all_unreachable &= error.is_unreachable();
                        last = Some(error);
                    }
                }
                if started.elapsed() >= self.timeout {
                    break;
                }
            }
            let limit = if all_unreachable {
                self.timeout.min(UNREACHABLE_LIMIT)
            } else {
                self.timeout
            };
            if let Some(error) = last
                && started.elapsed() + pause >= limit
            {
                return Err(error);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LAST_PAUSE);
        }
    }

    async fn attempt<T, F, Fut>(&self, send: &F, left: Duration) -> Result<T, Error>
    where
        F: Fn(Channel) -> Fut,
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        let index = self.current.load(Ordering::Relaxed);
        let server = &self.servers[index];
        let limit = left.min(ATTEMPT_LIMIT);
        let error = match tokio::time::timeout(limit, send(server.channel.clone())).await {
            Ok(Ok(response)) => return Ok(response.into_inner()),
            Ok(Err(status)) => Error::from_status(&status, &server.address),
            Err(_elapsed) => Error::timed_out(&server.address),
        };
        if error.is_retriable() {
            self.leave(index);
        }
        Err(error)
    }

    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    pub(crate) fn current(&self) -> usize {
        self.current.load(Ordering::Relaxed)
    }

    pub(crate) fn channel(&self, index: usize) -> Channel {
        self.servers[index].channel.clone()
    }

    pub(crate) fn address(&self, index: usize) -> &str {
        &self.servers[index].address
    }

    /// Turns to the next server, unless somebody else has turned away from `index` already.
    pub(crate) fn leave(&self, index: usize) {
        let next = (index + 1) % self.servers.len();
        // Losing the race means that the choice has moved on, which is what was wanted.
        let _raced =
            self.current
                .compare_exchange(index, next, Ordering::Relaxed, Ordering::Relaxed);
    }
}

pub(crate) fn no_server() -> Error {
    Error::new(Code::InvalidArgument, "", "no server to talk to")
}

impl Server {
    fn new(address: String) -> Result<Self, Error> {
        let bare = address.trim_start_matches("http://").to_owned();
        let well_formed = bare.rsplit_once(':').is_some_and(|(host, port)| {
            !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0)
        });
        let endpoint = Endpoint::from_shared(format!("http://{bare}"));
        let (true, Ok(endpoint)) = (well_formed, endpoint) else {
            let text = format!("server `{address}` is not of the form HOST:PORT");
            return Err(Error::new(Code::InvalidArgument, "", text));
        };
        let channel = endpoint
            .connect_timeout(CONNECT_LIMIT)
            .http2_keep_alive_interval(KEEPALIVE_EVERY)
            .keep_alive_timeout(KEEPALIVE_LIMIT)
            .keep_alive_while_idle(true)
            .tcp_nodelay(true)
            .connect_lazy();
        Ok(Self {
            address: bare,
            channel,
        })
    }
}

/// A request with the deadline that servers want to see.
pub(crate) fn with_deadline<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    // A little more than the client itself waits, so that its own limit is the one that fires.
    request.set_timeout(ATTEMPT_LIMIT + Duration::from_secs(1));
    request
}

/// A new id for one write, kept over all of its attempts.
pub(crate) fn request_id() -> String {
    uuid::Uuid::now_v7().to_string()
}

/// Calls a unary method, cloning the message for each attempt.
macro_rules! unary {
    ($client:expr, $service:ident, $method:ident, $message:expr) => {{
        let message = $message;
        $client
            .call(|channel| {
                let request = $crate::call::with_deadline(message.clone());
                async move { $service::new(channel).$method(request).await }
            })
            .await
    }};
}
pub(crate) use unary;

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    fn client(n: usize) -> Client {
        let servers = (1..=n).map(|port| format!("127.0.0.1:{port}")).collect();
        Client::connect_lazy(servers).unwrap()
    }

    #[tokio::test]
    async fn addresses_are_checked() {
        assert!(Client::connect_lazy(vec![]).is_err());
        for bad in ["localhost", ":7070", "a:b", "a:0", "a b:1"] {
            let error = Client::connect_lazy(vec![bad.into()]).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{bad}");
        }
        let client = Client::connect_lazy(vec!["http://127.0.0.1:7070".into()]).unwrap();
        assert_eq!(client.servers().collect::<Vec<_>>(), ["127.0.0.1:7070"]);
    }

    #[tokio::test(start_paused = true)]
    async fn every_server_is_tried_before_a_pause() {
        let client = client(3);
        let tried = Mutex::new(Vec::new());
        let answer = client
            .call(|_| {
                tried.lock().unwrap().push(client.current());
                let n = tried.lock().unwrap().len();
                async move {
                    if n < 5 {
                        Err(Status::unavailable("no leader"))
                    } else {
                        Ok(Response::new(n))
                    }
                }
            })
            .await;
        assert_eq!(answer.unwrap(), 5);
        let tried = tried.into_inner().unwrap();
        let mut first_round = tried[..3].to_vec();
        first_round.sort_unstable();
        assert_eq!(first_round, [0, 1, 2]);
        assert_eq!(tried[3], tried[0]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_final_answer_is_not_repeated_and_the_time_is_bounded() {
        let client = client(2).with_timeout(Duration::from_secs(4));
        let refused = client.call(|_| async { Err::<Response<()>, _>(Status::not_found("x")) });
        assert_eq!(refused.await.unwrap_err().exit_code(), 3);
        let started = Instant::now();
        let busy = client.call(|_| async { Err::<Response<()>, _>(Status::unavailable("x")) });
        assert_eq!(busy.await.unwrap_err().exit_code(), 7);
        assert!(started.elapsed() <= Duration::from_secs(4));
        let silent = client.call(|_| std::future::pending::<Result<Response<()>, _>>());
        assert_eq!(silent.await.unwrap_err().reason, "TIMEOUT");
    }
}
