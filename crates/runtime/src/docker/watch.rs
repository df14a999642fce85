//! A container's output and its end, followed beside its life.

use std::time::Duration;

use bollard::Docker;
use bollard::container::LogOutput;
use bollard::errors::Error;
use bollard::models::{ContainerInspectResponse, ContainerState};
use bollard::query_parameters::{LogsOptions, LogsOptionsBuilder, WaitContainerOptionsBuilder};
use futures_util::StreamExt;
use nihilo_types::instance::Exit;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing::warn;

use super::engine::Failed;
use crate::logs::{Lines, Output, wall_ms};

/// Before an engine that did not answer is asked again.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(500);
/// Output that the engine still holds is waited for so long after an exit.
const OUTPUT_GRACE: Duration = Duration::from_secs(1);
/// An exit by a signal, as the engine writes it: this plus its number. An app may do the same.
const BY_SIGNAL: i32 = 128;
const MAX_SIGNAL: i32 = 64;
const SIGKILL: i32 = 9;

/// Both tasks end with this value.
#[derive(Debug)]
pub(super) struct Watched {
    exit: watch::Receiver<Option<Exit>>,
    waiter: JoinHandle<()>,
    reader: JoinHandle<()>,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.waiter.abort();
        self.reader.abort();
    }
}

/// Whose start it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Begun {
    Now,
    /// An earlier process of this node has read a part of its output.
    Before,
}

impl Watched {
    /// `inspected` is what the engine said of it right after its start, or as it was found.
    pub(super) fn begin(
        docker: &Docker,
        id: &str,
        inspected: &ContainerInspectResponse,
        output: &Output,
        begun: Begun,
    ) -> Self {
        // One that has ended by now has no address, so its exit has to be known before anybody dials.
        let ended = inspected
            .state
            .as_ref()
            .filter(|state| state.running == Some(false));
        let (sender, exit) = watch::channel(ended.map(exit_of));
        let (docker, id) = (docker.clone(), id.to_owned());
        let reader = match begun {
            Begun::Now => tokio::spawn(read(docker.clone(), id.clone(), output.clone())),
            Begun::Before => tokio::spawn(read_again(docker.clone(), id.clone(), output.clone())),
        };
        let waiter = tokio::spawn(wait(docker, id, sender));
        Self {
            exit,
            waiter,
            reader,
        }
    }

    pub(super) async fn exit(&mut self) -> Exit {
        let known = self.exit.wait_for(Option::is_some).await;
        let Ok(known) = known.map(|exit| exit.clone()) else {
            // Nobody waits any more, which says nothing about the container: this process ends.
            return std::future::pending().await;
        };
        known.unwrap_or(Exit::Unknown)
    }

    /// Returns once all output of an ended container is read, or has had its time.
    pub(super) async fn output_read(&mut self) {
        drop(tokio::time::timeout(OUTPUT_GRACE, &mut self.reader).await);
    }
}

/// Ends when the engine says that the container has, however long the engine is away.
async fn wait(docker: Docker, id: String, sender: watch::Sender<Option<Exit>>) {
    while sender.borrow().is_none() {
        match ended(&docker, &id).await {
            Ok(exit) => drop(sender.send_replace(Some(exit))),
            Err(failed) => {
                warn!(container = id, %failed, "its end cannot be waited for now");
                tokio::time::sleep(ASK_AGAIN_AFTER).await;
            }
        }
    }
}

async fn ended(docker: &Docker, id: &str) -> Result<Exit, Failed> {
    let options = WaitContainerOptionsBuilder::new()
        .condition("not-running")
        .build();
    let answers = docker.wait_container(id, Some(options));
    let code = match std::pin::pin!(answers).next().await {
        Some(Ok(answer)) => answer.status_code,
        Some(Err(Error::DockerContainerWaitError { code, .. })) => code,
        Some(Err(error)) => match Failed::of(error) {
            Failed::Refused { status: 404, .. } => return Ok(Exit::Unknown),
            failed => return Err(failed),
        },
        None => {
            return Err(Failed::Unanswered(
                "the engine closed the connection".into(),
            ));
        }
    };
    // Only the container's state says whether it ran out of memory.
    match docker.inspect_container(id, None).await.map_err(Failed::of) {
        Ok(inspected) => Ok(inspected
            .state
            .as_ref()
            .map_or_else(|| exit_of_code(code), exit_of)),
        Err(Failed::Refused { status: 404, .. }) => Ok(exit_of_code(code)),
        Err(failed) => Err(failed),
    }
}

fn exit_of(state: &ContainerState) -> Exit {
    let exit = exit_of_code(state.exit_code.unwrap_or_default());
    // A child's death by memory is told too, and is not the container's end.
    match exit {
        Exit::Signal(SIGKILL) if state.oom_killed == Some(true) => Exit::OutOfMemory,
        exit => exit,
    }
}

fn exit_of_code(code: i64) -> Exit {
    let Ok(code) = i32::try_from(code) else {
        return Exit::Unknown;
    };
    match code - BY_SIGNAL {
        signal @ 1..=MAX_SIGNAL => Exit::Signal(signal),
        _ => Exit::Code(code),
    }
}

/// From the first byte, whenever this began: the engine keeps them.
async fn read(docker: Docker, id: String, output: Output) {
    let lines = (output.lines(false), output.lines(true));
    drop(follow(&docker, &id, every_line().follow(true).build(), lines).await);
}

/// All of it anew, since nobody knows how much was read before: the engine keeps as much as this node
/// does. What was said by now is taken however fast it comes, the rest as ever. The engine counts in
/// whole seconds, and has the end of one in both halves only if something was said right then. What an
/// earlier process has kept goes once all of that has come: an engine that fails meanwhile is asked again.
async fn read_again(docker: Docker, id: String, output: Output) {
    let now = loop {
        let now = i32::try_from(wall_ms() / 1_000).unwrap_or(i32::MAX);
        let again = output.begin_again();
        let lines = (output.lines_again(false), output.lines_again(true));
        let come = follow(&docker, &id, every_line().until(now).build(), lines).await;
        match come {
            Ok(()) => {
                again.done();
                break now;
            }
            // It has nothing more to say of it; anything else may be an engine that starts or stops.
            Err(failed) if failed.is_gone() => return,
            Err(_) => drop(again),
        }
        tokio::time::sleep(ASK_AGAIN_AFTER).await;
    };
    let lines = (output.lines(false), output.lines(true));
    let rest = every_line().since(now).follow(true).build();
    drop(follow(&docker, &id, rest, lines).await);
}

fn every_line() -> LogsOptionsBuilder {
    LogsOptionsBuilder::new().stdout(true).stderr(true)
}

/// To its end, or to the first failure.
async fn follow(
    docker: &Docker,
    id: &str,
    options: LogsOptions,
    (mut out, mut err): (Lines, Lines),
) -> Result<(), Failed> {
    let frames = docker.logs(id, Some(options));
    let mut frames = std::pin::pin!(frames);
    let mut read = Ok(());
    while let Some(frame) = frames.next().await {
        match frame {
            Ok(LogOutput::StdErr { message }) => {
                err.feed(&message);
                err.rest().await;
            }
            Ok(frame) => {
                out.feed(&frame.into_bytes());
                out.rest().await;
            }
            Err(error) => {
                let failed = Failed::of(error);
                warn!(container = id, %failed, "its output breaks off here");
                read = Err(failed);
                break;
            }
        }
    }
    out.end();
    err.end();
    read
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_signals_and_memory_are_told_apart() {
        let state = |code, oom| ContainerState {
            exit_code: Some(code),
            oom_killed: Some(oom),
            ..ContainerState::default()
        };
        assert_eq!(exit_of(&state(0, false)), Exit::Code(0));
        assert_eq!(exit_of(&state(3, true)), Exit::Code(3));
        assert_eq!(exit_of(&state(143, false)), Exit::Signal(15));
        assert_eq!(exit_of(&state(137, false)), Exit::Signal(9));
        assert_eq!(exit_of(&state(137, true)), Exit::OutOfMemory);
        assert_eq!(exit_of(&state(255, false)), Exit::Code(255));
    }
}
