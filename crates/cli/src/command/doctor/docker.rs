//! The engine that runs container images: whether it is there, and may be used.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;

use super::finding::Finding;

const CHECK: &str = "docker engine";
const LIMIT: Duration = Duration::from_secs(2);
/// What an engine says of itself is a few KiB.
const MAX_ANSWER: u64 = 256 * 1024;
/// API of 20.10, the oldest one that nodes speak to.
const OLDEST_API: (u32, u32) = (1, 41);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Engine {
    Absent,
    Forbidden,
    Silent(String),
    Answers { version: String, api: String },
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Version {
    version: String,
    api_version: String,
}

pub(super) fn examine(socket: &Path) -> Finding {
    judge(socket, &ask(socket))
}

fn ask(socket: &Path) -> Engine {
    let answer = match say(socket) {
        Ok(answer) => answer,
        Err(error) => return refused(&error),
    };
    let object = answer.find('{').zip(answer.rfind('}'));
    let object = object.and_then(|(from, to)| answer.get(from..=to));
    match object.and_then(|text| serde_json::from_str::<Version>(text).ok()) {
        Some(of) => Engine::Answers {
            version: of.version,
            api: of.api_version,
        },
        None => Engine::Silent("what answers is no engine".into()),
    }
}

fn refused(error: &std::io::Error) -> Engine {
    match error.kind() {
        ErrorKind::NotFound => Engine::Absent,
        ErrorKind::PermissionDenied => Engine::Forbidden,
        _ => Engine::Silent(error.to_string()),
    }
}

fn say(socket: &Path) -> std::io::Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    // Answers of this version of HTTP end with the connection, and do not come in chunks.
    stream.write_all(b"GET /version HTTP/1.0\r\nHost: docker\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

fn judge(socket: &Path, engine: &Engine) -> Finding {
    let shown = socket.display();
    match engine {
        Engine::Absent => Finding::note(
            CHECK,
            format!("none at {shown}: programs run, container images do not"),
        ),
        Engine::Forbidden => Finding::warn(
            CHECK,
            format!("{shown} may not be used by this user"),
            "SupplementaryGroups=docker in `systemctl edit nihilo`; it makes the node root here",
        ),
        Engine::Silent(why) => Finding::warn(
            CHECK,
            format!("{shown}: {why}"),
            "see `systemctl status docker`, or set another `docker: {socket: …}`",
        ),
        Engine::Answers { version, api } if !is_new_enough(api) => Finding::warn(
            CHECK,
            format!("{version} with API {api}"),
            "use version 20.10 or newer",
        ),
        Engine::Answers { version, .. } => {
            Finding::ok(CHECK, format!("{version}; whoever may use it is root here"))
        }
    }
}

fn is_new_enough(api: &str) -> bool {
    let (major, minor) = api.split_once('.').unwrap_or((api, "0"));
    match (major.parse(), minor.parse()) {
        (Ok(major), Ok(minor)) => (major, minor) >= OLDEST_API,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;
    use crate::command::doctor::finding::State;

    fn answers(version: &str, api: &str) -> Engine {
        Engine::Answers {
            version: version.into(),
            api: api.into(),
        }
    }

    #[test]
    fn an_engine_is_absent_or_usable_or_says_what_is_wrong() {
        let cases = [
            (Engine::Absent, State::Note, "none at /s"),
            (Engine::Forbidden, State::Warn, "may not be used"),
            (Engine::Silent("refused".into()), State::Warn, "refused"),
            (answers("19.03", "1.40"), State::Warn, "API 1.40"),
            (answers("odd", "new"), State::Warn, "API new"),
            (answers("20.10", "1.41"), State::Ok, "20.10"),
            (answers("30", "2.0"), State::Ok, "30"),
        ];
        for (engine, state, found) in cases {
            let finding = judge(Path::new("/s"), &engine);
            assert_eq!(finding.state, state, "{finding:?}");
            assert!(finding.found.contains(found), "{finding:?}");
        }
    }

    /// What is made of an answer on a real socket.
    fn asked(answer: &'static str) -> Engine {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("docker.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let answering = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut head = [0; 1024];
            let n = stream.read(&mut head).unwrap();
            assert!(head[..n].starts_with(b"GET /version "));
            stream.write_all(answer.as_bytes()).unwrap();
        });
        let engine = ask(&socket);
        answering.join().unwrap();
        engine
    }

    #[test]
    fn an_engine_is_really_asked() {
        let engine = "HTTP/1.0 200 OK\r\n\r\n{\"Platform\":{\"Name\":\"\"},\"Version\":\"28.1\",\
                      \"ApiVersion\":\"1.49\"}\n";
        assert_eq!(asked(engine), answers("28.1", "1.49"));
        let other = asked("HTTP/1.1 404 Not Found\r\n\r\n");
        assert!(matches!(other, Engine::Silent(_)), "{other:?}");
        assert_eq!(ask(Path::new("/nonexistent/docker.sock")), Engine::Absent);
    }
}
