//! A node's next program in place of this one: the same process, so that what it has started stays its own
//! and whoever watches over it sees no end, with the listening sockets that are open (decision 0103).
//!
//! ```text
//! asked ─ the next program takes the command line? ─ no ──> said, and nothing else happens
//!           │ yes
//!           v
//!         clients and other nodes' gateways are answered; who dials from here on waits in the kernel's
//!         queue, and what others send here for its instances waits with them or goes elsewhere
//!         the session is closed: shards go, instances run on, nobody sends here any more
//!         the store is closed
//!         execve ──> starts as ever, finds sockets and instances, opens its session
//! ```

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;
use nihilo_host::sockets;
use nihilo_types::node_env::RESTARTED;
use tokio::sync::{mpsc, oneshot};
use tracing::{info, warn};

/// The next program says within this whether it can run.
const CHECK_LIMIT: Duration = Duration::from_secs(10);
/// Who asks is answered within this, the check included.
pub(crate) const ANSWER_LIMIT: Duration = Duration::from_secs(15);
/// One at a time: whoever comes meanwhile is refused.
const QUEUE: usize = 1;

const UNDER_WAY: &str = "it is about to restart already, or to stop";

/// Is told within what time a node that restarts answers what is under way, or why it does not restart.
pub(crate) type Asked = oneshot::Sender<Result<Duration, String>>;

/// Where a restart is asked for.
#[derive(Debug, Clone)]
pub(crate) struct Requests(mpsc::Sender<Asked>);

pub(crate) fn requests() -> (Requests, mpsc::Receiver<Asked>) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    (Requests(sender), receiver)
}

impl Requests {
    /// Returns once the node has begun to restart: within what time it answers what is under way first.
    ///
    /// # Errors
    /// It does not, and goes on as it is; why, in words for people.
    pub(crate) async fn ask(&self) -> Result<Duration, String> {
        let (answer, answered) = oneshot::channel();
        self.0.try_send(answer).map_err(|_| UNDER_WAY.to_owned())?;
        let answered = tokio::time::timeout(ANSWER_LIMIT, answered).await;
        let nobody = "nothing in this process restarts it: stop it, and start it again";
        answered
            .map_err(|_| nobody.to_owned())?
            .map_err(|_| "it stops".to_owned())?
    }
}

/// No wish is taken any more: whoever has one from now on is told so, and so is who waits.
pub(crate) fn refuse_from_now_on(wishes: &mut mpsc::Receiver<Asked>) {
    wishes.close();
    while let Ok(asked) = wishes.try_recv() {
        // Who has gone needs no answer.
        let _gone = asked.send(Err(UNDER_WAY.to_owned()));
    }
}

/// Value of [`RESTARTED`] with which the next program is asked what it understands.
const ASKED: &str = "?";
/// Its word that it hears signals that were held back; one that is older says nothing, and would never be
/// told to stop again.
const HEARS_HELD_SIGNALS: &str = "hears held signals";

/// What the next program understands of what this one leaves to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Understands {
    pub(crate) held_signals: bool,
}

/// What takes this program's place.
#[derive(Debug)]
pub(crate) struct Next {
    executable: PathBuf,
    arguments: Vec<OsString>,
}

impl Next {
    /// By the name that this program was started under, where that is a whole path, else by its file's:
    /// an upgrade puts another file there.
    ///
    /// # Errors
    /// The system does not say.
    pub(crate) fn by_own_name(arguments: Vec<OsString>) -> std::io::Result<Self> {
        let executable = match whole_path(std::env::args_os().next()) {
            Some(name) => name,
            None => std::env::current_exe()?,
        };
        Ok(Self {
            executable,
            arguments,
        })
    }

    /// Whether a program is there that takes this command line with the configuration of now.
    ///
    /// # Errors
    /// Why the node stays what it is, in words for people.
    pub(crate) async fn check(&self, adopts: bool) -> Result<Understands, String> {
        if !adopts {
            return Err(
                "its instances end with its process (`on-node-exit: kill`): drain it, then stop and \
                 start it"
                    .into(),
            );
        }
        let shown = self.executable.display();
        let checked = tokio::process::Command::new(&self.executable)
            .args(&self.arguments)
            .arg("--check")
            .env(RESTARTED, ASKED)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = tokio::time::timeout(CHECK_LIMIT, checked).await;
        let output = output.map_err(|_| format!("`{shown}` does not answer"))?;
        let output = output.map_err(|error| format!("`{shown}` does not run: {error}"))?;
        let said = String::from_utf8_lossy(&output.stdout);
        match output.status.success() {
            true => Ok(Understands {
                held_signals: said.lines().any(|line| line == HEARS_HELD_SIGNALS),
            }),
            false => Err(format!(
                "`{shown}` would not start: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            )),
        }
    }

    /// Becomes it. Returns only where that fails: then the node has ended.
    pub(crate) fn become_it(&self) -> anyhow::Error {
        let sockets = match sockets::hand_over() {
            Ok(sockets) => Stdio::from(sockets),
            Err(error) => {
                warn!(%error, "listening sockets are not handed over: who dials now is refused");
                Stdio::null()
            }
        };
        let error = std::process::Command::new(&self.executable)
            .args(&self.arguments)
            .env(RESTARTED, "1")
            .stdin(sockets)
            .exec();
        let doing = format!("`{}` does not run", self.executable.display());
        anyhow::Error::new(error).context(doing)
    }
}

/// A link stays one: an upgrade may let it point elsewhere.
fn whole_path(name: Option<OsString>) -> Option<PathBuf> {
    let name = PathBuf::from(name?);
    (name.is_absolute() && name.is_file()).then_some(name)
}

/// Whether this program was started in place of another one.
pub(crate) fn is_next() -> bool {
    std::env::var_os(RESTARTED).is_some()
}

/// Tells the program that asks what this one understands; nobody else.
pub(crate) fn answer_asker() {
    use std::io::Write;
    if std::env::var_os(RESTARTED).is_some_and(|value| value == ASKED) {
        // One that has gone needs no answer.
        drop(writeln!(std::io::stdout(), "{HEARS_HELD_SIGNALS}"));
    }
}

/// Takes over what the program before has left.
pub(crate) fn take_over() {
    if !is_next() {
        return;
    }
    match sockets::take_over().context("none on standard input") {
        Ok(n_sockets) => info!(n_sockets, "in place of this node's program before"),
        Err(error) => warn!(
            error = format!("{error:#}"),
            "in place of this node's program before, without its sockets"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(script: &str) -> Next {
        Next {
            executable: "/bin/sh".into(),
            arguments: vec!["-c".into(), script.into()],
        }
    }

    #[test]
    fn a_name_counts_where_it_is_a_whole_path_that_exists() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("nihilo");
        assert_eq!(whole_path(Some(link.clone().into())), None);
        std::os::unix::fs::symlink("/bin/sh", &link).unwrap();
        assert_eq!(whole_path(Some(link.clone().into())), Some(link));
        assert_eq!(whole_path(Some("nihilo".into())), None);
        assert_eq!(whole_path(Some(".".into())), None);
        assert_eq!(whole_path(None), None);
    }

    #[tokio::test]
    async fn only_a_program_that_takes_the_command_line_is_next() {
        let check = async |script: &str, adopts| next(script).check(adopts).await;
        // The shell's script is given the question as its name.
        let older = Understands {
            held_signals: false,
        };
        assert_eq!(check("[ \"$0\" = --check ]", true).await, Ok(older));
        let answers = format!("[ $NIHILO_RESTARTED = '{ASKED}' ] && echo {HEARS_HELD_SIGNALS}");
        let same = Understands { held_signals: true };
        assert_eq!(check(&answers, true).await, Ok(same));
        let refused = check("echo no such key >&2; exit 2", true)
            .await
            .unwrap_err();
        assert!(
            refused.contains("would not start: no such key"),
            "{refused}"
        );
        let kills = check("true", false).await.unwrap_err();
        assert!(kills.contains("on-node-exit: kill"), "{kills}");
        let gone = Next {
            executable: "/no/such/nihilo".into(),
            arguments: Vec::new(),
        };
        let gone = gone.check(true).await.unwrap_err();
        assert!(gone.contains("/no/such/nihilo"), "{gone}");
    }

    #[tokio::test]
    async fn who_asks_is_answered_and_a_second_is_refused_meanwhile() {
        let (requests, mut asked) = requests();
        let first = requests.clone();
        let first = tokio::spawn(async move { first.ask().await });
        let answer = asked.recv().await.unwrap();
        answer.send(Err("not today".into())).unwrap();
        assert_eq!(first.await.unwrap(), Err("not today".into()));

        let waiting = requests.clone();
        let waiting = tokio::spawn(async move { waiting.ask().await });
        tokio::task::yield_now().await;
        while asked.is_empty() {
            tokio::task::yield_now().await;
        }
        let refused = requests.ask().await.unwrap_err();
        assert_eq!(refused, UNDER_WAY);
        refuse_from_now_on(&mut asked);
        assert_eq!(waiting.await.unwrap(), Err(UNDER_WAY.to_owned()));
        assert_eq!(requests.ask().await, Err(UNDER_WAY.to_owned()));
    }
}
