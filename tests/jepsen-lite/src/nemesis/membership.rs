//! N30: nodes join, vote, lead, leave and are replaced while the cluster serves.
//!
//! ```text
//! guest   joins, learns │ votes │ leads, if the old one led │             leaves
//! old                                                │ leaves, is refused │
//! new     under a new id, at the old one's addresses                 │ joins, votes
//! ```

use std::fmt;
use std::time::Duration;

use anyhow::Context;
use nihilo_client::Client;
use nihilo_sim::checker::Evidence;
use nihilo_wire::cluster::Member;
use tokio::net::TcpStream;

use crate::backend::{GUEST, N_NODES, NodeIndex};
use crate::clock::{self, boottime_ns};
use crate::judge::{MEMBERSHIP, node_name};
use crate::nemesis::target::follower;
use crate::seed::Random;
use crate::trial::Trial;

/// One change, joint configuration and catching up included; the goal is 30 s in all (08 §7.5).
const CHANGE_LIMIT: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(100);
const ASK_LIMIT: Duration = Duration::from_secs(5);

/// How a voter goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MembershipFault {
    /// It is told to end, and removed when it has.
    Leaves,
    /// It is removed while it serves, and ends by itself.
    Removed,
}

impl MembershipFault {
    pub const ALL: [Self; 2] = [Self::Leaves, Self::Removed];

    /// Replaces one voter by another, by way of a guest.
    ///
    /// # Errors
    /// A change is not made in time, or the cluster is not whole afterwards.
    pub(super) async fn strike(self, trial: &mut Trial, random: &mut Random) -> anyhow::Result<()> {
        let leader = trial.cluster.leader().await?;
        let old = match random.chance(50) {
            true => leader,
            false => follower(leader, random),
        };
        let (number, leads) = (old + 1, leader + 1);
        trial.say(&format!("{self}: node{number} goes, node{leads} leads"));
        invite(trial).await?;
        if old == leader {
            hand_over(trial).await?;
        }
        self.take_out(trial, old).await?;
        stays_out(trial, old).await?;
        trial.recorder.fault("join", Some(old));
        trial.cluster.join(old, true).await?;
        until_standing(trial, old, "voter").await?;
        self.take_out(trial, GUEST).await?;
        trial.cluster.dismiss_guest();
        trial.calm("membership is as before").await?;
        three_voters(trial).await
    }

    async fn take_out(self, trial: &mut Trial, node: NodeIndex) -> anyhow::Result<()> {
        match self {
            MembershipFault::Leaves => {
                trial.terminate(node).await?;
                trial.recorder.fault("remove", Some(node));
                until_standing(trial, node, "removed").await
            }
            MembershipFault::Removed => {
                let from_ns = trial.ends_in_order(node, "remove");
                until_standing(trial, node, "removed").await?;
                let how = trial.expelled(node, from_ns).await?;
                trial.say(&format!("node{} ended by itself: {how}", node + 1));
                Ok(())
            }
        }
    }
}

/// A learner joins, its gateway serves, it votes; meanwhile the whole state is read once.
async fn invite(trial: &mut Trial) -> anyhow::Result<()> {
    trial.recorder.fault("join", Some(GUEST));
    trial.cluster.join(GUEST, false).await?;
    until_standing(trial, GUEST, "learner").await?;
    let gateway = trial.cluster.guest_gateway();
    let open = clock::until(CHANGE_LIMIT, LOOK_EVERY, || async {
        let dialled = TcpStream::connect(&gateway).await;
        dialled.map(drop).map_err(|error| error.to_string())
    });
    let open = open.await;
    made(trial, "the guest's gateway opens", open)?;
    trial.clients.use_gateways(&(0..=GUEST).collect::<Vec<_>>());
    back_up(trial).await?;
    until_standing(trial, GUEST, "voter").await
}

/// Every node walks its whole state at one moment when it is asked for a backup, as it does for a
/// snapshot; the CLI proves what came. There is no call that makes a node take a snapshot.
async fn back_up(trial: &mut Trial) -> anyhow::Result<()> {
    let name = format!("backup-{}", boottime_ns());
    let file = trial.options.folder.join(name);
    let shown = file.to_str().context("a file with a name of UTF-8")?;
    trial.recorder.fault("backup", Some(GUEST));
    let server = trial.cluster.admins(&[GUEST]);
    let args = ["cluster", "backup", shown, "--server", &server];
    let said = trial.cluster.cli(&args).await;
    let said = said.map_err(|error| format!("{error:#}"));
    let said = made(trial, "a backup through the guest", said)?;
    trial.say(said.trim());
    std::fs::remove_file(&file)?;
    Ok(())
}

async fn hand_over(trial: &mut Trial) -> anyhow::Result<()> {
    trial.recorder.fault("transfer leadership", Some(GUEST));
    let client = client(trial)?;
    let id = trial.cluster.nodes[GUEST].config.node_id;
    let led = clock::until(CHANGE_LIMIT, LOOK_EVERY, || async {
        let led = client.transfer_leader(id).await;
        match led.map_err(|error| error.to_string())? {
            leader if leader == id => Ok(()),
            other => Err(format!("node {other} leads")),
        }
    });
    let led = led.await;
    made(trial, "the guest leads", led)
}

/// A process that comes back under an id that was removed ends, and takes no part meanwhile.
async fn stays_out(trial: &mut Trial, node: NodeIndex) -> anyhow::Result<()> {
    trial.recorder.fault("start under a removed id", Some(node));
    trial.cluster.start_node(node)?;
    let ended = trial.cluster.expelled(node).await;
    let refused = match ended {
        Ok(how) if how == "exit code 0" => Err("ended as if all were well".to_owned()),
        Ok(how) => Ok(how),
        Err(error) => Err(format!("{error:#}")),
    };
    let how = made(trial, "a removed node stays out", refused)?;
    trial.say(&format!("node{} is refused: {how}", node + 1));
    Ok(())
}

/// Asks for the change that leads there, once for sure, and waits until consensus has made it.
async fn until_standing(trial: &mut Trial, node: NodeIndex, wanted: &str) -> anyhow::Result<()> {
    let client = client(trial)?;
    let id = trial.cluster.nodes[node].config.node_id;
    let stands = clock::until(CHANGE_LIMIT, LOOK_EVERY, || async {
        let members = client.members().await;
        let members = members.map_err(|error| error.to_string())?.members;
        let member = members.into_iter().find(|member| member.id == id);
        let member = member.ok_or_else(|| format!("node {id} is no member"))?;
        ask(&client, &member, wanted).await?;
        match member.standing == wanted {
            true => Ok(()),
            false => Err(format!("node {id} is `{}`", member.standing)),
        }
    });
    let stands = stands.await;
    let what = format!("{} becomes `{wanted}`", node_name(node));
    made(trial, &what, stands)
}

/// What is wanted already is not asked for again.
async fn ask(client: &Client, member: &Member, wanted: &str) -> Result<(), String> {
    if member.wanted == wanted {
        return Ok(());
    }
    let asked = match wanted {
        "voter" => client.promote(member.id).await,
        "removed" => client.remove(member.id).await,
        // A token's holder is a learner by itself.
        _ => return Ok(()),
    };
    asked.map(drop).map_err(|error| error.to_string())
}

async fn three_voters(trial: &mut Trial) -> anyhow::Result<()> {
    let members = client(trial)?.members().await?.members;
    let present = members.iter().filter(|member| member.wanted != "removed");
    let ids: Vec<_> = present
        .filter(|member| member.standing == "voter")
        .map(|member| member.id)
        .collect();
    let is_so = match ids.len() == N_NODES {
        true => Ok(()),
        false => Err(format!("{} voters: {ids:?}", ids.len())),
    };
    made(trial, "three voters are left", is_so)
}

fn client(trial: &Trial) -> anyhow::Result<Client> {
    Ok(trial.admin()?.with_timeout(ASK_LIMIT))
}

/// Books a change that was made, or one that was not: the strike cannot go on from there.
fn made<T>(trial: &mut Trial, what: &str, done: Result<T, String>) -> anyhow::Result<T> {
    match done {
        Ok(made) => {
            trial.confirm(MEMBERSHIP);
            Ok(made)
        }
        Err(why) => {
            let evidence = Evidence::new(what, why.clone()).at(boottime_ns());
            trial.find(MEMBERSHIP, evidence);
            anyhow::bail!("{what}: {why}")
        }
    }
}

impl fmt::Display for MembershipFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            MembershipFault::Leaves => "membership",
            MembershipFault::Removed => "membership-alive",
        })
    }
}
