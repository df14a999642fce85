//! Three member processes on loopback, as the benchmark that started them sees them.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, TcpListener};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use nihilo_types::node_config::Profile;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::watch;
use tokio::time::Instant;

use super::node::NodeReport;
use crate::Common;

const N_MEMBERS: u64 = 3;
const LED_LIMIT: Duration = Duration::from_secs(30);
const STOP_LIMIT: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(crate) struct Group {
    members: Vec<Member>,
    /// Peer address by id.
    pub(crate) addresses: BTreeMap<u64, String>,
    _dir: TempDir,
}

#[derive(Debug)]
struct Member {
    child: Child,
    orders: ChildStdin,
    latest: watch::Receiver<NodeReport>,
}

impl Group {
    /// Starts the processes and waits until they have a leader.
    ///
    /// # Errors
    /// One did not start or ended; its words are on stderr.
    pub(crate) async fn start(common: &Common, profile: Profile) -> anyhow::Result<Self> {
        let below = common.work_dir()?;
        std::fs::create_dir_all(&below).with_context(|| below.display().to_string())?;
        let dir = tempfile::Builder::new()
            .prefix("stores-")
            .tempdir_in(&below)?;
        let addresses = free_addresses()?;
        let members = addresses
            .keys()
            .map(|id| Member::spawn(*id, &dir, profile, &addresses))
            .collect::<anyhow::Result<_>>()?;
        let mut group = Self {
            members,
            addresses,
            _dir: dir,
        };
        group.until_led().await?;
        Ok(group)
    }

    async fn until_led(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + LED_LIMIT;
        while self.leader().is_none() {
            self.must_run()?;
            if Instant::now() > deadline {
                bail!("no leader after {} s", LED_LIMIT.as_secs());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    /// The leader that all members name.
    pub(crate) fn leader(&self) -> Option<u64> {
        let mut named = self.members.iter().map(|m| m.latest.borrow().leader);
        let first = named.next().filter(|leader| *leader != 0)?;
        named.all(|leader| leader == first).then_some(first)
    }

    /// The newest report of each member, at most some seconds old.
    pub(crate) fn reports(&self) -> Vec<NodeReport> {
        let latest = self.members.iter().map(|m| m.latest.borrow().clone());
        latest.collect()
    }

    /// Reports that were made after this call.
    pub(crate) async fn fresh_reports(&mut self) -> anyhow::Result<Vec<NodeReport>> {
        for member in &mut self.members {
            member.latest.mark_unchanged();
            let changed = tokio::time::timeout(LED_LIMIT, member.latest.changed()).await;
            changed
                .context("a member says nothing")?
                .context("a member ended")?;
        }
        Ok(self.reports())
    }

    /// Gives `writers` to the members, as evenly as it goes.
    pub(crate) async fn start_writers(&mut self, writers: u64) -> anyhow::Result<()> {
        for (i, member) in (0..).zip(&mut self.members) {
            let share = writers / N_MEMBERS + u64::from(i < writers % N_MEMBERS);
            member.order(&format!("writers {share}")).await?;
        }
        Ok(())
    }

    pub(crate) async fn stop_writers(&mut self) -> anyhow::Result<()> {
        for member in &mut self.members {
            member.order("stop").await?;
        }
        Ok(())
    }

    /// Ends the members and waits for them, so that nothing writes into the directory any more when
    /// it is removed.
    ///
    /// # Errors
    /// A member ended by itself, or does not end.
    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        self.must_run()?;
        for member in self.members {
            let Member {
                mut child, orders, ..
            } = member;
            drop(orders);
            let ended = tokio::time::timeout(STOP_LIMIT, child.wait()).await;
            ended.context("a store does not end")??;
        }
        Ok(())
    }

    /// # Errors
    /// A member has ended.
    pub(crate) fn must_run(&mut self) -> anyhow::Result<()> {
        for (i, member) in self.members.iter_mut().enumerate() {
            if let Some(status) = member.child.try_wait()? {
                bail!("store {} ended: {status}", i + 1);
            }
        }
        Ok(())
    }
}

impl Member {
    fn spawn(
        id: u64,
        dir: &TempDir,
        profile: Profile,
        addresses: &BTreeMap<u64, String>,
    ) -> anyhow::Result<Self> {
        let members = addresses.iter().map(|(id, at)| format!("{id}={at}"));
        let profile = serde_json::to_value(profile)?;
        let mut child = Command::new(std::env::current_exe()?)
            .arg("store-node")
            .args(["--id", &id.to_string()])
            .arg("--dir")
            .arg(dir.path().join(id.to_string()))
            .args(["--profile", profile.as_str().unwrap_or_default()])
            .args(["--members", &members.collect::<Vec<_>>().join(",")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("start a store")?;
        let missing = || anyhow!("a store without pipes");
        let orders = child.stdin.take().ok_or_else(missing)?;
        let reports = child.stdout.take().ok_or_else(missing)?;
        let (sender, latest) = watch::channel(NodeReport::default());
        tokio::spawn(follow(reports, sender));
        Ok(Self {
            child,
            orders,
            latest,
        })
    }

    async fn order(&mut self, order: &str) -> anyhow::Result<()> {
        let line = format!("{order}\n");
        self.orders
            .write_all(line.as_bytes())
            .await
            .context("a store ended")
    }
}

async fn follow(reports: ChildStdout, latest: watch::Sender<NodeReport>) {
    let mut lines = BufReader::new(reports).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        // Half a line at the end of a process is no report.
        if let Ok(report) = serde_json::from_str(&line) {
            latest.send_replace(report);
        }
    }
}

fn free_addresses() -> anyhow::Result<BTreeMap<u64, String>> {
    let listeners: Vec<_> = (0..N_MEMBERS)
        .map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
        .collect::<Result<_, _>>()?;
    (1..)
        .zip(listeners)
        .map(|(id, listener)| Ok((id, listener.local_addr()?.to_string())))
        .collect()
}
