//! Apps built into the binary, so that a first service needs no image: `demo/hello` and friends.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::FromRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Either, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::demo_ledger::{ANSWERED_BY, Ledger, NONCE, Noted};

/// Requests that are still running after SIGTERM get this long.
const GRACE: Duration = Duration::from_secs(8);

/// Names a file whose content says what an app does wrong from now on: one of the words below. A trial
/// writes it while its instances run.
const FAULT_FILE: &str = "NIHILO_DEMO_FAULT";
/// An instance that starts does not listen.
const NEVER_READY: &str = "never-ready";
/// An instance that is told to end goes on.
const IGNORE_TERM: &str = "ignore-term";

/// `/readyz` answers 503.
const UNREADY: &str = "unready";
/// `/healthz` answers 503.
const UNHEALTHY: &str = "unhealthy";

/// `?bytes=` asks for at most so many.
const MAX_BYTES: usize = 1024 * 1024;

type Body = Noted<Either<Full<Bytes>, Incoming>>;

static REQUESTS: AtomicU64 = AtomicU64::new(0);

/// Runs an app until SIGTERM; returns the exit code.
pub fn run(name: &str) -> i32 {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let Ok(runtime) = runtime else { return 70 };
    match name {
        "hello" | "sleep" | "echo" | "count" | IGNORE_TERM if !has_fault(NEVER_READY) => {
            runtime.block_on(serve(name))
        }
        "crash" => {
            say("starting\nconnecting to database\nDATABASE_URL is not set");
            1
        }
        NEVER_READY | "hello" | "sleep" | "echo" | "count" | IGNORE_TERM => {
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

fn has_fault(fault: &str) -> bool {
    let file = std::env::var_os(FAULT_FILE);
    let said = file.and_then(|file| std::fs::read_to_string(file).ok());
    said.is_some_and(|said| said.trim() == fault)
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

/// The socket that was handed over, or one of its own on `$HOST:$PORT`.
async fn listener() -> Result<TcpListener, String> {
    if let Some(socket) = handed_over() {
        let listener = socket.set_nonblocking(true);
        return listener
            .and_then(|()| TcpListener::from_std(socket))
            .map_err(|error| format!("the socket that was handed over: {error}"));
    }
    let port = std::env::var("PORT")
        .ok()
        .and_then(|port| port.parse().ok())
        .unwrap_or(8080);
    let host: IpAddr = std::env::var("HOST")
        .ok()
        .and_then(|host| host.parse().ok())
        .unwrap_or([127, 0, 0, 1].into());
    TcpListener::bind(SocketAddr::from((host, port)))
        .await
        .map_err(|error| format!("cannot listen on {host}:{port}: {error}"))
}

/// sd_listen_fds(3); once only.
#[allow(unsafe_code)]
fn handed_over() -> Option<std::net::TcpListener> {
    /// `SD_LISTEN_FDS_START`
    const FIRST: i32 = 3;
    let number = |name| std::env::var(name).ok()?.parse::<u32>().ok();
    let is_ours = number("LISTEN_PID") == Some(std::process::id());
    let n_sockets = number("LISTEN_FDS").filter(|_| is_ours)?;
    // SAFETY: by the protocol the descriptor is this process's from its first moment, and nothing else
    // here knows its number.
    (n_sockets > 0).then(|| unsafe { std::net::TcpListener::from_raw_fd(FIRST) })
}

async fn serve(name: &str) -> i32 {
    // Before it listens: from then on a SIGTERM is this app's to obey or, for one, to ignore.
    let Ok(mut term) = signal(SignalKind::terminate()) else {
        return 70;
    };
    let listener = match listener().await {
        Ok(listener) => listener,
        Err(why) => {
            say(&why);
            return 1;
        }
    };
    let ledger = Ledger::from_env();
    let graceful = GracefulShutdown::new();
    loop {
        tokio::select! {
            biased;
            _ = term.recv(), if name != IGNORE_TERM => {
                if let Some(ledger) = &ledger {
                    ledger.terminating();
                }
                if !has_fault(IGNORE_TERM) {
                    break;
                }
            }
            accepted = listener.accept() => {
                let Ok((socket, _)) = accepted else { continue };
                let (app, ledger) = (name.to_owned(), ledger.clone());
                let service = service_fn(move |request| {
                    let (app, ledger) = (app.clone(), ledger.clone());
                    async move { Ok::<_, Infallible>(noted(&app, ledger, request).await) }
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

/// Answers, and keeps the books if there are any.
async fn noted(
    app: &str,
    ledger: Option<Arc<Ledger>>,
    request: Request<Incoming>,
) -> Response<Body> {
    let nonce = request.headers().get(NONCE).cloned();
    let running = ledger.as_ref().map(|ledger| {
        let nonce = nonce.as_ref().and_then(|nonce| nonce.to_str().ok());
        ledger.begin(nonce.unwrap_or_default())
    });
    let mut response = answer(app, request).await;
    response.body_mut().running = running;
    if let Some(nonce) = nonce {
        response.headers_mut().insert(NONCE, nonce);
    }
    let instance = ledger.and_then(|ledger| ledger.instance.parse().ok());
    if let Some(instance) = instance {
        response.headers_mut().insert(ANSWERED_BY, instance);
    }
    response
}

async fn answer(app: &str, request: Request<Incoming>) -> Response<Body> {
    match request.uri().path() {
        "/readyz" => return probed(UNREADY),
        "/healthz" => return probed(UNHEALTHY),
        _ => {}
    }
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
        // Without a body to echo, one of the size that is asked for.
        "echo" => match query("bytes").and_then(|n| n.parse::<usize>().ok()) {
            Some(n) => text("x".repeat(n.min(MAX_BYTES))),
            None => response(Either::Right(request.into_body())),
        },
        "count" => text(format!("{n}\n")),
        _ => {
            // Read to its end, so that the connection can be used again.
            drop(request.into_body().collect().await);
            let target = std::env::var("TARGET").unwrap_or_else(|_| "World".into());
            text(format!("Hello {target}!\n"))
        }
    }
}

fn probed(fault: &str) -> Response<Body> {
    let is_well = !has_fault(fault);
    let mut answer = text(if is_well {
        "ok\n".into()
    } else {
        format!("{fault}\n")
    });
    if !is_well {
        *answer.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    answer
}

fn text(text: String) -> Response<Body> {
    response(Either::Left(Full::new(text.into())))
}

fn response(body: Either<Full<Bytes>, Incoming>) -> Response<Body> {
    let running = None;
    Response::new(Noted { body, running })
}
