//! A command inside a container, by the engine's own exec: under the container's limits, as its user.
//!
//! The engine cannot end a command that it runs: one that is not waited for any more goes on until
//! its container ends.

use bollard::Docker;
use bollard::exec::{CreateExecOptions, StartExecOptions, StartExecResults};
use futures_util::StreamExt;
use nihilo_types::instance::Exit;

use super::engine::Failed;
use crate::driver::{Ended, MAX_SAID};

/// # Errors
/// The engine did not run it, or does not say how it ended.
pub(super) async fn run(docker: &Docker, id: &str, command: &[String]) -> Result<Ended, Failed> {
    let options = CreateExecOptions {
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        cmd: Some(command.to_vec()),
        ..CreateExecOptions::default()
    };
    let created = docker.create_exec(id, options).await.map_err(Failed::of)?;
    let attached: Option<StartExecOptions> = None;
    let started = docker.start_exec(&created.id, attached).await;
    let mut said = Vec::new();
    if let StartExecResults::Attached { mut output, .. } = started.map_err(Failed::of)? {
        while let Some(piece) = output.next().await {
            let piece = piece.map_err(Failed::of)?.into_bytes();
            let n_kept = piece.len().min(MAX_SAID.saturating_sub(said.len()));
            said.extend_from_slice(&piece[..n_kept]);
        }
    }
    // Its output has ended, which the engine closes with the command.
    let inspected = docker.inspect_exec(&created.id).await;
    let code = inspected.map_err(Failed::of)?.exit_code;
    let code = code.and_then(|code| i32::try_from(code).ok());
    Ok(Ended {
        exit: code.map_or(Exit::Unknown, Exit::Code),
        said: String::from_utf8_lossy(&said).into_owned(),
    })
}
