//! One node as a process: what it is told by signals, how it ends, and what its service manager hears.

use std::io::IsTerminal;
use std::time::Duration;

use futures_util::FutureExt;
use nihilo_cli::{NodeFailure, NodeStart};
use nihilo_host::{signals, sockets};
use nihilo_raft::{OpenError, StartError, StoreReplaced};
use nihilo_types::node_config::NodeConfig;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{error, info, warn};

use crate::live_settings::LiveSettings;
use crate::log::Log;
use crate::on_node_exit;
use crate::restart::{self, Next, Understands};
use crate::service_manager::ServiceManager;
use crate::wiring::{Ground, Node, agent_dir, end_everything};

/// Tasks that wait for the disk may take so long to end before another program takes this one's place.
const TASKS_LIMIT: Duration = Duration::from_secs(1);

/// Runs one node in this process until SIGTERM or SIGINT.
///
/// # Errors
/// Anything that keeps it from starting, with what to do about it.
pub(crate) fn run_node(start: NodeStart) -> Result<(), NodeFailure> {
    run(start).map_err(|error| NodeFailure {
        is_store_refused: is_store_refused(&error),
        error,
    })
}

fn is_store_refused(error: &anyhow::Error) -> bool {
    let refused_at_open = matches!(
        error.downcast_ref(),
        Some(StartError::Open(
            OpenError::Damaged { .. } | OpenError::WrongIdentity { .. }
        ))
    );
    let was_removed = matches!(error.downcast_ref(), Some(StartError::Removed(_)));
    refused_at_open || was_removed || error.is::<StoreReplaced>()
}

/// How a node's part in this process ended, where nothing was wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    Stopped,
    /// Another program takes the place of this one.
    Restarts(Understands),
}

fn run(start: NodeStart) -> anyhow::Result<()> {
    let log = Log::start(&start.config.log)?;
    leave_no_core_files();
    restart::take_over();
    let next = Next::by_own_name(start.arguments.clone())?;
    if on_node_exit::adopts(&start.config) {
        sockets::keep_from_now_on();
    }
    let mut heard = Heard::listen()?;
    // Before there is another thread, or a child, which would hold them back too.
    signals::let_through(&OBEYED);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("control")
        .enable_all()
        .build()?;
    let ended = runtime.block_on(live(&start, &log, &next, &mut heard));
    runtime.shutdown_timeout(TASKS_LIMIT);
    match ended? {
        Ended::Stopped => Ok(()),
        Ended::Restarts(next_one) => {
            if next_one.held_signals {
                signals::gather(&OBEYED);
                heard.put_back();
            }
            Err(next.become_it())
        }
    }
}

/// Signals that a node obeys.
const OBEYED: [rustix::process::Signal; 4] = {
    use rustix::process::Signal;
    [Signal::TERM, Signal::INT, Signal::HUP, Signal::USR2]
};
/// Turns of a runtime in which it sees what signals have left for it.
const TURNS: usize = 4;

/// What a node is told by signals, from its first moment to its last.
struct Heard {
    /// Hears them where the node's own runtime is not there yet, or not any more.
    runtime: tokio::runtime::Runtime,
    stop: Stop,
    wishes: Wishes,
}

impl Heard {
    /// Hears every signal from its call on: any of them would end a process that does not listen to it.
    fn listen() -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let within = runtime.enter();
        let (stop, wishes) = (Stop::listen()?, Wishes::listen()?);
        drop(within);
        Ok(Self {
            runtime,
            stop,
            wishes,
        })
    }

    /// Gives back what came when nobody listened any more, for the next program.
    fn put_back(&mut self) {
        let Self {
            runtime,
            stop,
            wishes,
        } = self;
        let each = [
            &mut stop.term,
            &mut stop.int,
            &mut wishes.read_again,
            &mut wishes.restart,
        ];
        let late = runtime.block_on(async move {
            for _ in 0..TURNS {
                tokio::task::yield_now().await;
            }
            let late = each.map(|signal| signal.recv().now_or_never().is_some());
            OBEYED.into_iter().zip(late)
        });
        for (signal, came) in late {
            if came {
                info!(?signal, "came late: it is for the next program to hear");
                signals::put_back(signal);
            }
        }
    }
}

/// SIGTERM and SIGINT, which mean the same.
struct Stop {
    term: Signal,
    int: Signal,
}

impl Stop {
    fn listen() -> std::io::Result<Self> {
        Ok(Self {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
        })
    }

    /// Returns when the node is to stop; may be dropped and called again.
    async fn told(&mut self) {
        tokio::select! {
            biased;
            _ = self.term.recv() => {}
            _ = self.int.recv() => {}
        }
    }
}

/// What a crash would write down holds opened Secrets.
fn leave_no_core_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Core).maximum;
    let none = Rlimit {
        current: Some(0),
        maximum,
    };
    if let Err(error) = setrlimit(Resource::Core, none) {
        warn!(%error, "a crash of this node may leave a core file, which may hold Secrets");
    }
}

/// A node from its start to its end, which the service manager hears of.
async fn live(
    start: &NodeStart,
    log: &Log,
    next: &Next,
    heard: &mut Heard,
) -> anyhow::Result<Ended> {
    let config = &start.config;
    let Heard { stop, wishes, .. } = heard;
    let started = Node::start(config.clone(), Ground::default()).await;
    let node = match started {
        Ok(node) => node,
        Err(error) => {
            end_what_nobody_owns(&error, config).await;
            return Err(error);
        }
    };
    for address in sockets::close_unused() {
        info!(%address, "not listened on any more");
    }
    let manager = ServiceManager::of_environment();
    let following = manager.map(|manager| manager.follow(node.parts()));
    let mut removal = node.raft().removal();
    let mut settings = LiveSettings {
        node: &node,
        log,
        reread: &start.reread,
        in_force: config.clone(),
    };
    // A node that may not take part serves nothing either. Any may come first; all end in the
    // same good order.
    let ended = tokio::select! {
        biased;
        () = stop.told() => Ok(Ended::Stopped),
        words = removal.wait_for(Option::is_some) => {
            let words = words.ok().and_then(|words| words.clone());
            let words = words.unwrap_or_default().to_string();
            Err(anyhow::Error::new(StartError::Removed(words)))
        }
        Err(refused) = node.found(config) => Err(refused),
        ended = wishes.follow(&node, &mut settings, next) => Ok(ended),
    };
    if let Err(why) = &ended {
        error!("{why}");
    }
    if let Ok(Ended::Restarts(_)) = ended {
        if let Some(following) = following {
            following.node_restarts(node.answers_within());
        }
        let is_told_to_stop = tokio::select! {
            biased;
            () = stop.told() => true,
            () = node.step_aside() => false,
        };
        if !is_told_to_stop {
            return ended;
        }
        node.stop().await;
        return Ok(Ended::Stopped);
    }
    if let Some(following) = following {
        following.node_stops();
    }
    node.stop().await;
    ended
}

/// What a running node may be told to do, other than to stop.
struct Wishes {
    /// SIGHUP.
    read_again: Signal,
    /// SIGUSR2.
    restart: Signal,
    /// It was started in one, whose end is a hangup too.
    has_terminal: bool,
}

impl Wishes {
    fn listen() -> std::io::Result<Self> {
        Ok(Self {
            read_again: signal(SignalKind::hangup())?,
            restart: signal(SignalKind::user_defined2())?,
            has_terminal: std::io::stdin().is_terminal(),
        })
    }

    /// Returns when the node is to be restarted, or its terminal is gone.
    async fn follow(&mut self, node: &Node, settings: &mut LiveSettings<'_>, next: &Next) -> Ended {
        loop {
            // One after the other; none is lost meanwhile.
            let asked = tokio::select! {
                biased;
                _ = self.read_again.recv() => {
                    if self.has_terminal && !std::io::stdin().is_terminal() {
                        return Ended::Stopped;
                    }
                    settings.read_again();
                    continue;
                }
                _ = self.restart.recv() => None,
                asked = node.restart_asked() => Some(asked),
            };
            let checked = next.check(node.adopts).await;
            if let Err(why) = &checked {
                warn!(why, "not restarted");
            }
            let understands = checked.as_ref().ok().copied();
            if let Some(asked) = asked {
                // Who has gone has not taken the wish back.
                let _heard = asked.send(checked.map(|_| node.answers_within()));
            }
            if let Some(understands) = understands {
                return Ended::Restarts(understands);
            }
        }
    }
}

/// A node that was removed while it was away has no owner who would stop what outlived it.
async fn end_what_nobody_owns(error: &anyhow::Error, config: &NodeConfig) {
    let Some(StartError::Removed(_)) = error.downcast_ref() else {
        return;
    };
    if let Err(error) = end_everything(&config.docker, &agent_dir(&config.data_dir)).await {
        warn!(%error, "instances of this removed node may still run");
    }
}
