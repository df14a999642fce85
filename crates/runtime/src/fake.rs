//! The fake driver: simulated sandboxes, thousands in one process, for tests and benchmarks of
//! everything around them.
//!
//! An instance takes a drawn time to boot, then answers `200` on its own loopback listener, so
//! readiness and requests take the same way as with a real program. The built-in apps' names say
//! how it behaves: `demo/crash` ends at the end of its boot, `demo/never-ready` never listens,
//! `demo/ignore-term` has to be killed, every other one serves.

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::HeaderValue;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use nihilo_host::net::Reserved;
use nihilo_host::{Listener, Net};
use nihilo_types::id::InstanceId;
use nihilo_types::image::Image;
use nihilo_types::instance::{Exit, InstanceSpec, stage};
use nihilo_types::node_config::BootDelay;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::config::{Provided, Reader};
use crate::driver::{CallOff, Driver, Ended, FreezeError, Freezer, StartError, Started, Trace};
use crate::logs::Output;

/// Connections that the kernel queues for one instance.
const BACKLOG: u32 = 1_024;
const SIGKILL: i32 = 9;

#[derive(Debug)]
pub struct FakeDriver {
    config: FakeConfig,
    net: Net,
}

/// What a simulated sandbox is like.
#[derive(Debug, Clone, Default)]
pub struct FakeConfig {
    pub boot: BootDelay,
    /// Hears of every request that an instance serves.
    pub listener: Option<RequestListener>,
}

/// Called when a request reaches an instance, and when it was answered.
#[derive(Clone)]
pub struct RequestListener(pub Arc<Listen>);

/// Instance, step and the request's own name, empty if it has none.
pub type Listen = dyn Fn(&InstanceId, RequestStep, &str) + Send + Sync;

/// How far a request is within its instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestStep {
    Started,
    Finished,
}

impl fmt::Debug for RequestListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RequestListener")
    }
}

/// A simulated instance; what it serves ends when this is dropped.
#[derive(Debug)]
pub struct FakeInstance {
    behaviour: Behaviour,
    booted_at: Instant,
    output: Output,
    server: Option<JoinHandle<()>>,
    /// Whoever would answer waits while it is `true`.
    frozen: watch::Sender<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Behaviour {
    Serve,
    Crash,
    NeverReady,
    IgnoreTerm,
}

impl Drop for FakeInstance {
    fn drop(&mut self) {
        if let Some(server) = &self.server {
            server.abort();
        }
    }
}

impl FakeDriver {
    pub fn new(config: FakeConfig, net: Net) -> Self {
        Self { config, net }
    }

    /// The same id boots equally long each time; ids spread evenly over the range.
    fn boot_delay(&self, id: &InstanceId) -> Duration {
        let BootDelay { min_ms, max_ms } = self.config.boot;
        let span = max_ms.saturating_sub(min_ms) + 1;
        let drawn = crc32c::crc32c(id.as_str().as_bytes()) % span;
        Duration::from_millis((min_ms + drawn).into())
    }
}

impl Driver for FakeDriver {
    type Handle = FakeInstance;
    type Inside = ();

    fn reader(&self, _: &InstanceSpec) -> Reader {
        Reader::Node
    }

    async fn start(
        &self,
        spec: &InstanceSpec,
        _: Provided,
        output: &Output,
        _: &mut CallOff,
    ) -> Result<Started<FakeInstance>, StartError> {
        let behaviour = behaviour(spec)?;
        let reserved = self.net.reserve();
        let port = reserved.map_err(|error| StartError::not_started("port", error.to_string()))?;
        let address = port.address;
        let booted_at = Instant::now() + self.boot_delay(&spec.id);
        let (frozen, is_frozen) = watch::channel(false);
        let server = match behaviour {
            Behaviour::Serve | Behaviour::IgnoreTerm => {
                let app = App {
                    id: spec.id.clone(),
                    listener: self.config.listener.clone(),
                    is_frozen,
                };
                Some(tokio::spawn(serve(port, booted_at, app)))
            }
            Behaviour::Crash | Behaviour::NeverReady => None,
        };
        output.push(false, b"starting".to_vec());
        Ok(Started {
            handle: FakeInstance {
                behaviour,
                booted_at,
                output: output.clone(),
                server,
                frozen,
            },
            address,
            pid: None,
            trace: None,
            isolation: None,
        })
    }

    async fn wait(&self, handle: &mut FakeInstance) -> Exit {
        if handle.behaviour != Behaviour::Crash {
            std::future::pending::<()>().await;
        }
        tokio::time::sleep_until(handle.booted_at).await;
        handle
            .output
            .push(false, b"connecting to database".to_vec());
        handle
            .output
            .push(true, b"DATABASE_URL is not set".to_vec());
        Exit::Code(1)
    }

    fn inside(&self, _: &FakeInstance) -> Self::Inside {}

    /// A simulated command: nothing runs, and it ends well.
    async fn exec(&self, _: &(), _: &InstanceSpec, _: &[String]) -> Result<Ended, String> {
        Ok(Ended {
            exit: Exit::Code(0),
            said: String::new(),
        })
    }

    async fn freeze(&self, handle: &mut FakeInstance) -> Result<Freezer, FreezeError> {
        handle.frozen.send_replace(true);
        Ok(Freezer::Simulated)
    }

    async fn thaw(&self, handle: &mut FakeInstance) -> Result<(), FreezeError> {
        handle.frozen.send_replace(false);
        Ok(())
    }

    async fn stop(&self, handle: &mut FakeInstance, grace: Duration) -> Exit {
        let exit = match handle.behaviour {
            Behaviour::IgnoreTerm => {
                tokio::time::sleep(grace).await;
                Exit::Signal(SIGKILL)
            }
            Behaviour::Serve | Behaviour::Crash | Behaviour::NeverReady => Exit::Code(0),
        };
        if let Some(server) = handle.server.take() {
            server.abort();
            // Aborted is what was asked for.
            drop(server.await);
        }
        exit
    }

    async fn destroy(&self, handle: FakeInstance, exit: Exit) -> Exit {
        drop(handle);
        exit
    }

    async fn destroy_unknown(&self, _id: &InstanceId) {
        // Nothing outlives its handle.
    }

    fn explain_not_ready(&self, _handle: &FakeInstance) -> Option<String> {
        None
    }

    /// They end with this process.
    fn recover(&self, _: &InstanceSpec, _: &Trace, _: &Output) -> Option<Started<FakeInstance>> {
        None
    }
}

fn behaviour(spec: &InstanceSpec) -> Result<Behaviour, StartError> {
    let failed = |cause: String| StartError::not_started(stage::IMAGE, cause);
    match Image::parse(&spec.image).map_err(failed)? {
        Image::Demo(name) => Ok(match name.as_str() {
            "crash" => Behaviour::Crash,
            "never-ready" => Behaviour::NeverReady,
            "ignore-term" => Behaviour::IgnoreTerm,
            _ => Behaviour::Serve,
        }),
        Image::File(path) if std::fs::metadata(&path).is_err() => {
            Err(failed(format!("no such file `{path}`")))
        }
        Image::File(_) | Image::Bundle(_) | Image::Container(_) => Ok(Behaviour::Serve),
    }
}

async fn serve(port: Reserved, booted_at: Instant, app: App) {
    tokio::time::sleep_until(booted_at).await;
    let Ok(listener) = port.listen(BACKLOG).await else {
        return;
    };
    accept(listener, app).await;
}

/// Connections end with the instance: they are tasks of this set.
async fn accept(listener: Listener, app: App) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        // Ended ones are let go first, so that the set holds only what is open.
        tokio::select! {
            biased;
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                let app = app.clone();
                let service = service_fn(move |request| app.clone().answer(request));
                let connection = http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service);
                connections.spawn(async move { drop(connection.await) });
            }
        }
    }
}

/// What an instance serves.
#[derive(Clone)]
struct App {
    id: InstanceId,
    listener: Option<RequestListener>,
    is_frozen: watch::Receiver<bool>,
}

/// A request's name on the wire, as the demo's echo app has it.
const NONCE: &str = "x-demo-nonce";
/// The instance's own word for who answered.
const ANSWERED_BY: &str = "x-demo-instance";
/// For so many milliseconds a request is served.
const TAKES: &str = "x-demo-ms";

impl App {
    /// The body's length back, under the request's name.
    async fn answer(
        mut self,
        request: Request<Incoming>,
    ) -> Result<Response<Full<Bytes>>, Infallible> {
        let header = |name: &str| {
            let value = request.headers().get(name);
            let value = value.and_then(|value| value.to_str().ok());
            value.unwrap_or_default().to_owned()
        };
        let (nonce, takes) = (header(NONCE), header(TAKES));
        // An instance that is gone answers nobody.
        drop(self.is_frozen.wait_for(|frozen| !frozen).await);
        self.tell(RequestStep::Started, &nonce);
        // Read to its end, so that the connection can be used again.
        let body = request.into_body().collect().await;
        if let Ok(ms) = takes.parse() {
            tokio::time::sleep(Duration::from_millis(ms)).await;
        }
        self.tell(RequestStep::Finished, &nonce);
        let n_bytes = body.map_or(0, |body| body.to_bytes().len());
        let answer = match nonce.is_empty() {
            true => "fake\n".to_owned(),
            false => format!("{n_bytes}\n"),
        };
        let mut response = Response::new(Full::new(Bytes::from(answer)));
        let headers = response.headers_mut();
        for (name, value) in [(NONCE, nonce.as_str()), (ANSWERED_BY, self.id.as_str())] {
            if let Ok(value) = HeaderValue::from_str(value) {
                headers.insert(name, value);
            }
        }
        Ok(response)
    }

    fn tell(&self, step: RequestStep, nonce: &str) {
        if let Some(listener) = &self.listener {
            (listener.0)(&self.id, step, nonce);
        }
    }
}

#[cfg(test)]
mod tests {
    use nihilo_types::id::Epoch;

    use super::*;

    fn of(boot: BootDelay) -> FakeDriver {
        let config = FakeConfig {
            boot,
            listener: None,
        };
        FakeDriver::new(config, Net::System)
    }

    #[test]
    fn boot_times_are_in_range_and_repeatable() {
        let (min_ms, max_ms) = (5, 50);
        let driver = of(BootDelay { min_ms, max_ms });
        let ids = (0..200).map(|n| InstanceId::new("hello-00001", Epoch(7), n));
        let delays: Vec<_> = ids.clone().map(|id| driver.boot_delay(&id)).collect();
        let range = Duration::from_millis(5)..=Duration::from_millis(50);
        assert!(delays.iter().all(|delay| range.contains(delay)));
        let distinct: std::collections::BTreeSet<_> = delays.iter().collect();
        assert!(distinct.len() > 20, "{} distinct delays", distinct.len());
        let again: Vec<_> = ids.map(|id| driver.boot_delay(&id)).collect();
        assert_eq!(delays, again);
        let fixed = of(BootDelay {
            min_ms: 7,
            max_ms: 7,
        });
        let id = InstanceId::new("hello-00001", Epoch(7), 1);
        assert_eq!(fixed.boot_delay(&id), Duration::from_millis(7));
    }
}
