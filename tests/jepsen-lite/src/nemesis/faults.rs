//! The faults by name: what they do to a whole trial, and how they are undone.

use std::fmt;
use std::time::Duration;

use crate::backend::{Manner, N_NODES, NodeIndex, Place};
use crate::clock::pause;
use crate::nemesis::cuts::{self, Cut};
use crate::nemesis::disconnect::Disconnect;
use crate::nemesis::disks::DiskFault;
use crate::nemesis::instances::InstanceFault;
use crate::nemesis::links::LinkFault;
use crate::nemesis::membership::MembershipFault;
use crate::nemesis::target::follower;
use crate::nemesis::{overload, wall_clocks};
use crate::seed::Random;
use crate::trial::Trial;

/// How long a fault lasts before it is undone.
const HOLD_MIN_MS: u64 = 1_000;
const HOLD_MAX_MS: u64 = 6_000;
const PAUSE_MIN_MS: u64 = 300;
const PAUSE_MAX_MS: u64 = 8_000;
/// Between the nodes of a rolling restart.
const ROLL_PAUSE: Duration = Duration::from_millis(500);
/// After the name of a cut whose nodes are told by resets.
const WITH_RESETS: &str = "-reset";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nemesis {
    /// No fault: whatever is found then is not about faults.
    None,
    /// N1.
    KillLeader,
    /// N2.
    KillFollower,
    KillOwner,
    /// N39: the node that runs most instances.
    KillHost,
    /// N3.
    KillAll,
    /// N4: SIGTERM, one node after the other.
    RollingRestart,
    /// N5.
    PauseLeader,
    /// N6.
    PauseFollower,
    Cut(Cut, Manner),
    Flap,
    Swizzle,
    Disk(DiskFault),
    Link(LinkFault),
    Instance(InstanceFault),
    Disconnect(Disconnect),
    Membership(MembershipFault),
    /// N24.
    ClockJumps,
    /// N37.
    GatewayOverload,
}

impl Nemesis {
    const OF_PROCESSES: [Nemesis; 9] = [
        Nemesis::None,
        Nemesis::KillLeader,
        Nemesis::KillFollower,
        Nemesis::KillOwner,
        Nemesis::KillHost,
        Nemesis::KillAll,
        Nemesis::RollingRestart,
        Nemesis::PauseLeader,
        Nemesis::PauseFollower,
    ];

    pub fn all() -> Vec<Self> {
        let cut = |cut| [Manner::Silent, Manner::Told].map(|manner| Nemesis::Cut(cut, manner));
        let mut all = Self::OF_PROCESSES.to_vec();
        all.extend(Cut::ALL.into_iter().flat_map(cut));
        all.extend([Nemesis::Flap, Nemesis::Swizzle]);
        all.extend(DiskFault::ALL.map(Nemesis::Disk));
        all.extend(LinkFault::ALL.map(Nemesis::Link));
        all.extend(InstanceFault::ALL.map(Nemesis::Instance));
        all.extend(Disconnect::ALL.map(Nemesis::Disconnect));
        all.extend(MembershipFault::ALL.map(Nemesis::Membership));
        all.extend([Nemesis::ClockJumps, Nemesis::GatewayOverload]);
        all
    }

    /// Where the nodes have to live for it.
    pub fn place(self) -> Place {
        match self {
            Nemesis::Cut(..) | Nemesis::Flap | Nemesis::Swizzle => Place::Network,
            Nemesis::Link(_) => Place::Proxied,
            Nemesis::ClockJumps => Place::Clocks,
            Nemesis::Disk(fault) if fault.needs_disks() => Place::Disks,
            Nemesis::Disconnect(_) => Place::Containers,
            _ => Place::Loopback,
        }
    }

    /// Whether it can be done to containers as well.
    pub fn fits_containers(self) -> bool {
        let by_signals = Self::OF_PROCESSES.contains(&self);
        by_signals || matches!(self, Nemesis::Instance(_) | Nemesis::Disconnect(_))
    }

    pub fn parse(text: &str) -> Option<Self> {
        let mut all = Self::all().into_iter();
        all.find(|nemesis| nemesis.to_string() == text)
    }

    /// Hurts the cluster once and heals it. `focus` is the service under most load.
    ///
    /// # Errors
    /// The harness could not do it, or the cluster did not become whole again.
    pub async fn strike(
        self,
        trial: &mut Trial,
        focus: &str,
        random: &mut Random,
    ) -> anyhow::Result<()> {
        match self {
            Nemesis::None => pause(hold(random)).await,
            Nemesis::KillAll => kill_all(trial, random).await?,
            Nemesis::RollingRestart => roll(trial).await?,
            Nemesis::PauseLeader | Nemesis::PauseFollower => {
                let leader = trial.cluster.leader().await?;
                let node = match self {
                    Nemesis::PauseLeader => leader,
                    _ => follower(leader, random),
                };
                let held = stopped_for(random);
                trial.say(&format!(
                    "pause node{} for {} ms",
                    node + 1,
                    held.as_millis()
                ));
                trial.pause(node)?;
                pause(held).await;
                trial.resume(node).await?;
            }
            Nemesis::Cut(cut, manner) => cuts::strike(cut, manner, trial, random).await?,
            Nemesis::Flap => cuts::flap(trial, random).await?,
            Nemesis::Swizzle => cuts::swizzle(trial, random).await?,
            Nemesis::Disk(fault) => fault.strike(trial, random).await?,
            Nemesis::Link(fault) => fault.strike(trial, random).await?,
            Nemesis::Instance(fault) => fault.strike(trial, random).await?,
            Nemesis::Disconnect(whom) => whom.strike(trial, random).await?,
            Nemesis::Membership(fault) => fault.strike(trial, random).await?,
            Nemesis::ClockJumps => wall_clocks::strike(trial, random).await?,
            Nemesis::GatewayOverload => overload::strike(trial, random).await?,
            Nemesis::KillLeader
            | Nemesis::KillFollower
            | Nemesis::KillOwner
            | Nemesis::KillHost => {
                let node = self.victim(trial, focus, random).await?;
                trial.say(&format!("kill -9 node{}", node + 1));
                trial.kill(node).await?;
                pause(hold(random)).await;
                let took = trial.heal(&[node]).await?;
                let seconds = took.as_secs_f64();
                trial.say(&format!("whole again {seconds:.1} s after its start"));
            }
        }
        Ok(())
    }

    async fn victim(
        self,
        trial: &Trial,
        focus: &str,
        random: &mut Random,
    ) -> anyhow::Result<NodeIndex> {
        let leader = trial.cluster.leader().await?;
        Ok(match self {
            Nemesis::KillLeader => leader,
            Nemesis::KillOwner => trial.cluster.owner_of(focus).unwrap_or(leader),
            Nemesis::KillHost => trial.host_of(focus).await?.unwrap_or(leader),
            _ => follower(leader, random),
        })
    }
}

/// How long a node stays killed.
pub(crate) fn hold(random: &mut Random) -> Duration {
    Duration::from_millis(random.between(HOLD_MIN_MS, HOLD_MAX_MS))
}

/// How long a process stays stopped.
pub(crate) fn stopped_for(random: &mut Random) -> Duration {
    Duration::from_millis(random.between(PAUSE_MIN_MS, PAUSE_MAX_MS))
}

async fn kill_all(trial: &mut Trial, random: &mut Random) -> anyhow::Result<()> {
    trial.say("kill -9 of all nodes");
    let mut order: Vec<_> = (0..N_NODES).collect();
    for node in &order {
        trial.kill(*node).await?;
    }
    random.shuffle(&mut order);
    let took = trial.heal(&order).await?;
    let seconds = took.as_secs_f64();
    trial.say(&format!("whole again {seconds:.1} s after the start"));
    Ok(())
}

async fn roll(trial: &mut Trial) -> anyhow::Result<()> {
    for node in 0..N_NODES {
        trial.say(&format!("restart of node{}", node + 1));
        trial.terminate(node).await?;
        trial.heal(&[node]).await?;
        pause(ROLL_PAUSE).await;
    }
    Ok(())
}

impl fmt::Display for Nemesis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Nemesis::None => "none",
            Nemesis::KillLeader => "kill-leader",
            Nemesis::KillFollower => "kill-follower",
            Nemesis::KillOwner => "kill-owner",
            Nemesis::KillHost => "kill-host",
            Nemesis::KillAll => "kill-all",
            Nemesis::RollingRestart => "rolling-restart",
            Nemesis::PauseLeader => "pause-leader",
            Nemesis::PauseFollower => "pause-follower",
            Nemesis::Cut(cut, Manner::Silent) => return write!(f, "{cut}"),
            Nemesis::Cut(cut, Manner::Told) => return write!(f, "{cut}{WITH_RESETS}"),
            Nemesis::Flap => "flap",
            Nemesis::Swizzle => "swizzle",
            Nemesis::Disk(fault) => return write!(f, "{fault}"),
            Nemesis::Link(fault) => return write!(f, "{fault}"),
            Nemesis::Instance(fault) => return write!(f, "{fault}"),
            Nemesis::Disconnect(whom) => return write!(f, "{whom}"),
            Nemesis::Membership(fault) => return write!(f, "{fault}"),
            Nemesis::ClockJumps => "clock-jumps",
            Nemesis::GatewayOverload => "gateway-overload",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for nemesis in Nemesis::all() {
            assert_eq!(Nemesis::parse(&nemesis.to_string()), Some(nemesis));
        }
    }

    #[test]
    fn whatever_needs_containers_fits_them_and_what_needs_another_place_does_not() {
        for nemesis in Nemesis::all() {
            match nemesis.place() {
                Place::Containers => assert!(nemesis.fits_containers(), "{nemesis}"),
                Place::Network | Place::Proxied | Place::Disks | Place::Clocks => {
                    assert!(!nemesis.fits_containers(), "{nemesis}");
                }
                Place::Loopback => {}
            }
        }
        let kill = Nemesis::parse("kill-leader").unwrap();
        assert!(kill.fits_containers());
        assert!(!Nemesis::parse("sync-fails").unwrap().fits_containers());
    }
}
