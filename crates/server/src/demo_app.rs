//! Apps built into the binary, so that a first service needs no image: `demo/hello` and friends.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Either, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

/// Requests that are still running after SIGTERM get this long.
const GRACE: Duration = Duration::from_secs(8);

type Body = Either<Full<Bytes>, Incoming>;

static REQUESTS: AtomicU64 = AtomicU64::new(0);

/// Runs an app until SIGTERM; returns the exit code.
pub fn run(name: &str) -> i32 {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let Ok(runtime) = runtime else { return 70 };
    match name {
        "hello" | "sleep" | "echo" | "count" | "ignore-term" => runtime.block_on(serve(name)),
        "crash" => {
            say("starting\nconnecting to database\nDATABASE_URL is not set");
            1
        }
        "never-ready" => {
            say("starting, and never listening");
            runtime.block_on(terminated());
            0
        }
        unknown => {
            say(&format!("no demo app `{unknown}`"));
            64
        }
    }
}

fn say(text: &str) {
    use std::io::Write;
    drop(writeln!(std::io::stdout(), "{text}"));
}

async fn terminated() {
    if let Ok(mut term) = signal(SignalKind::terminate()) {
        term.recv().await;
    }
}

async fn serve(name: &str) -> i32 {
    // Before it listens: from then on a SIGTERM is this app's to obey or, for one, to ignore.
    let Ok(mut term) = signal(SignalKind::terminate()) else {
        return 70;
    };
    let port = std::env::var("PORT")
        .ok()
        .and_then(|port| port.parse().ok())
        .unwrap_or(8080);
    let host: IpAddr = std::env::var("HOST")
        .ok()
        .and_then(|host| host.parse().ok())
        .unwrap_or([127, 0, 0, 1].into());
    let listener = match TcpListener::bind(SocketAddr::from((host, port))).await {
        Ok(listener) => listener,
        Err(error) => {
            say(&format!("cannot listen on {host}:{port}: {error}"));
            return 1;
        }
    };
    let graceful = GracefulShutdown::new();
    loop {
        tokio::select! {
            biased;
            _ = term.recv(), if name != "ignore-term" => break,
            accepted = listener.accept() => {
                let Ok((socket, _)) = accepted else { continue };
                let app = name.to_owned();
                let service = service_fn(move |request| {
                    let app = app.clone();
                    async move { Ok::<_, Infallible>(answer(&app, request).await) }
                });
                let connection = http1::Builder::new().serve_connection(TokioIo::new(socket), service);
                let watched = graceful.watch(connection);
                tokio::spawn(async move { drop(watched.await) });
            }
        }
    }
    drop(listener);
    drop(tokio::time::timeout(GRACE, graceful.shutdown()).await);
    0
}

async fn answer(app: &str, request: Request<Incoming>) -> Response<Body> {
    let n = REQUESTS.fetch_add(1, Ordering::Relaxed) + 1;
    let query = |key: &str| {
        let pairs = request.uri().query().unwrap_or_default().split('&');
        pairs
            .filter_map(|pair| pair.split_once('='))
            .find(|(k, _)| *k == key)
            .map(|(_, v)| v.to_owned())
    };
    let pause = query("ms").and_then(|ms| ms.parse().ok());
    if let Some(ms) = pause.or((app == "sleep").then_some(100)) {
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }
    match app {
        "echo" => Response::new(Either::Right(request.into_body())),
        "count" => text(format!("{n}\n")),
        _ => {
            // Read to its end, so that the connection can be used again.
            drop(request.into_body().collect().await);
            let target = std::env::var("TARGET").unwrap_or_else(|_| "World".into());
            text(format!("Hello {target}!\n"))
        }
    }
}

fn text(text: String) -> Response<Body> {
    Response::new(Either::Left(Full::new(text.into())))
}
