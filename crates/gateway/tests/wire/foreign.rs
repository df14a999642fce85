//! Clients that others wrote. One that is not installed is left out, and says so.

use std::process::{Command, Output};

use crate::rig::Rig;

/// Set to a Python that has the packages, if `python3` has not.
const PYTHON: &str = "NIHILO_TEST_PYTHON";

fn run(command: &mut Command) -> Option<Output> {
    command.output().ok()
}

fn has(program: &str) -> bool {
    let found = run(Command::new(program).arg("--version")).is_some();
    if !found {
        eprintln!("skipped: `{program}` is not installed");
    }
    found
}

/// Runs a script with `ADDRESS` in its environment; `false` = its package is missing.
fn python(package: &str, rig: &Rig, script: &str) -> bool {
    let python = std::env::var(PYTHON).unwrap_or_else(|_| "python3".to_owned());
    let import = run(Command::new(&python).args(["-c", &format!("import {package}")]));
    if !import.is_some_and(|import| import.status.success()) {
        eprintln!("skipped: {python} has no package `{package}`");
        return false;
    }
    let output = run(Command::new(&python)
        .args(["-c", script])
        .env("HOST", rig.address.ip().to_string())
        .env("PORT", rig.address.port().to_string()))
    .expect("Python runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    true
}

fn text(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn curl() {
    if !has("curl") {
        return;
    }
    let rig = Rig::start(false);
    let url = format!("http://{}/", rig.address);
    let curl = |arguments: &[&str]| {
        let mut command = Command::new("curl");
        command.args(["-sS", "--max-time", "20", "-H", "Host: echo.test"]);
        text(
            &command
                .args(arguments)
                .arg(&url)
                .output()
                .expect("curl runs"),
        )
    };
    assert_eq!(curl(&[]), "echo");
    assert_eq!(curl(&["--http2-prior-knowledge"]), "echo");
    assert_eq!(curl(&["-d", "hello"]), "hello");
    assert_eq!(curl(&["--http1.0"]), "echo");
    assert_eq!(
        curl(&["-H", "Transfer-Encoding: chunked", "-d", "hello"]),
        "hello"
    );
    assert_eq!(
        curl(&["-H", "Expect: 100-continue", "-d", "hello"]),
        "hello"
    );
    assert_eq!(curl(&["--http2-prior-knowledge", "-d", "hello"]), "hello");
    assert!(curl(&["-I"]).starts_with("HTTP/1.1 200 OK"));
}

#[test]
fn h2load() {
    if !has("h2load") {
        return;
    }
    let rig = Rig::start(false);
    let url = format!("http://{}/", rig.address);
    let load = |protocol: &str| {
        let mut command = Command::new("h2load");
        command.args([
            "-n",
            "2000",
            "-c",
            "10",
            "-m",
            "20",
            "-H",
            "host: echo.test",
        ]);
        command.args(["-H", ":authority: echo.test"]);
        text(
            &command
                .args(["-p", protocol, &url])
                .output()
                .expect("h2load runs"),
        )
    };
    let said = load("h2c");
    assert!(
        said.contains("2000 succeeded") && said.contains("2000 2xx"),
        "{said}"
    );
}

#[test]
fn python_h2() {
    let rig = Rig::start(false);
    python("h2", &rig, include_str!("foreign/h2_client.py"));
}

#[test]
fn python_websockets() {
    let rig = Rig::start(false);
    python(
        "websockets",
        &rig,
        include_str!("foreign/websockets_client.py"),
    );
}

#[test]
fn grpcio() {
    let rig = Rig::start(false);
    python("grpc", &rig, include_str!("foreign/grpc_client.py"));
}
