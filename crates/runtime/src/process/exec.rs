//! A command inside a program's instance: in its groups, under its limits, as its user, with its
//! environment.

use std::process::Stdio;
use std::time::Duration;

use nihilo_types::image::Image;
use nihilo_types::instance::{Exit, InstanceSpec};
use parking_lot::Mutex;
use rustix::process::Signal;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Child;

use super::leader::{exit_of, signal_group};
use super::{Inside, ProcessDriver, handoff, launcher_failure};
use crate::bundle::Program;
use crate::driver::{Ended, MAX_SAID};

/// What a command has printed is read to its end so long after its own: something that it left
/// behind may hold its output open.
const LAST_WORDS: Duration = Duration::from_millis(20);
const READ_BYTES: usize = 1024;

/// Ends a command with everything that it started in its session.
struct Session(Option<u32>);

impl Drop for Session {
    fn drop(&mut self) {
        signal_group(self.0, Signal::KILL);
    }
}

impl ProcessDriver {
    pub(super) async fn run_inside(
        &self,
        inside: &Inside,
        spec: &InstanceSpec,
        argv: &[String],
    ) -> Result<Ended, String> {
        if let Some(pid) = inside.pid {
            // What is mounted for it, and what it is kept from, is there from then on.
            handoff::until_it_runs(pid).await;
        }
        let program = self.program_inside(spec, argv).await?;
        let (group, pid) = (&inside.group, inside.pid);
        let plan = self.confiner.plan_of_command(spec, group, &program, pid)?;
        let command = self.command(&program, spec, inside.address, &inside.provided, &plan);
        let mut command = command.map_err(|error| error.cause)?;
        command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let child = self.spawned(command).await.map_err(|error| error.cause)?;
        to_its_end(child).await
    }

    /// In a bundle it is found as the instance's own program is, and run where that is.
    async fn program_inside(
        &self,
        spec: &InstanceSpec,
        argv: &[String],
    ) -> Result<Program, String> {
        let Some(bundle) = Image::bundle(&spec.image) else {
            return Ok(Program::at(argv.to_vec(), &spec.working_dir));
        };
        let asked = InstanceSpec {
            command: argv.to_vec(),
            args: Vec::new(),
            ..spec.clone()
        };
        let program = self.of_bundle(bundle, &asked, |_| ()).await;
        program.map_err(|error| error.cause)
    }
}

async fn to_its_end(mut child: Child) -> Result<Ended, String> {
    // Dropped before the child is, whose number is its own until then.
    let session = Session(child.id());
    let said = Mutex::new(Vec::new());
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let mut reading = Box::pin(futures_util::future::join(
        keep(out, &said),
        keep(err, &said),
    ));
    let mut is_read = false;
    let status = loop {
        tokio::select! {
            biased;
            _ = &mut reading, if !is_read => is_read = true,
            status = child.wait() => break status,
        }
    };
    if !is_read {
        drop(tokio::time::timeout(LAST_WORDS, &mut reading).await);
    }
    drop(reading);
    drop(session);
    let said = String::from_utf8_lossy(&said.into_inner()).into_owned();
    let lines: Vec<_> = said.lines().map(str::to_owned).collect();
    let exit = launcher_failure(exit_of(status), &lines);
    match exit {
        Exit::StartFailed { cause, .. } => Err(cause),
        exit => Ok(Ended { exit, said }),
    }
}

/// Reads a stream to its end and keeps the first of it.
async fn keep(stream: Option<impl AsyncRead + Unpin>, said: &Mutex<Vec<u8>>) {
    let Some(mut stream) = stream else { return };
    let mut bytes = [0; READ_BYTES];
    while let Ok(n) = stream.read(&mut bytes).await {
        if n == 0 {
            return;
        }
        let mut said = said.lock();
        let n_kept = n.min(MAX_SAID.saturating_sub(said.len()));
        said.extend_from_slice(&bytes[..n_kept]);
    }
}
