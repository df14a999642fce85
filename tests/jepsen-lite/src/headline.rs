//! The headline case: leader or owner killed in the middle of a scale-up, exactly at each step of
//! the cold path (03-actors §11, F1 to F8), and at random moments.

use std::fmt;
use std::time::Duration;

use anyhow::Context;
use nihilo_failpoint::Point;
use tokio::task::JoinSet;

use crate::backend::{LocalCluster, N_NODES, NodeIndex};
use crate::clock::pause;
use crate::failpoints::Switchboard;
use crate::seed::Random;
use crate::trial::Trial;
use crate::workload::load::{Load, Mix, Wanted};
use crate::workload::services::{self, Scaling};

/// A cold start comes by all of its points in this time, on a machine that other work shares; the
/// way to the first drain is longest.
const HIT_LIMIT: Duration = Duration::from_secs(60);
const WITHOUT_IT_MIN_MS: u64 = 1_000;
const WITHOUT_IT_MAX_MS: u64 = 4_000;
/// Around a whole cold start: before the demand until after the first answers.
const RANDOM_MOMENT_MS: u64 = 400;
/// Longer than it takes to change a node's duty twice, on a machine that other work shares.
const IN_DOUBT: &str = "sleep 2000";
const BURST_MIN: u64 = 4;
const BURST_MAX: u64 = 20;
const PROBES_PER_SECOND: u64 = 8;

/// A step of the cold path, or any moment of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    At(Point),
    /// Known from outside only: for the binary that is shipped.
    Random,
}

/// F1 to F8, in this order.
const STEPS: [Point; 8] = [
    Point::DemandReceived,
    Point::StartDecided,
    Point::StartReceived,
    Point::InstanceSpawned,
    Point::InstanceBooting,
    Point::InstanceReady,
    Point::InstanceDraining,
    Point::TurnInDoubt,
];

/// Who is killed; leader and owner are two nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Victim {
    Leader,
    Owner,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cell {
    pub step: Step,
    pub victim: Victim,
}

impl Cell {
    /// Each step with each victim.
    pub fn steps() -> Vec<Cell> {
        let each = |point| [Victim::Leader, Victim::Owner].map(|victim| (point, victim));
        let cells = STEPS.into_iter().flat_map(each);
        cells
            .map(|(point, victim)| Cell {
                step: Step::At(point),
                victim,
            })
            .collect()
    }

    pub fn all() -> Vec<Cell> {
        let random = [Victim::Leader, Victim::Owner].map(|victim| Cell {
            step: Step::Random,
            victim,
        });
        Self::steps().into_iter().chain(random).collect()
    }

    /// `f1:leader,…`; `steps` for all of F1 to F8, `random` for both at random moments.
    pub fn parse_list(text: &str) -> Option<Vec<Cell>> {
        let mut cells = Vec::new();
        for part in text.split(',') {
            let (step, victim) = part.split_once(':').unwrap_or((part, "*"));
            let found: Vec<_> = Cell::all()
                .into_iter()
                .filter(|cell| match step {
                    "*" => true,
                    "steps" => cell.step != Step::Random,
                    name => cell.step.to_string() == name,
                })
                .filter(|cell| victim == "*" || cell.victim.to_string() == victim)
                .collect();
            if found.is_empty() {
                return None;
            }
            cells.extend(found);
        }
        Some(cells)
    }

    pub fn needs_failpoints(self) -> bool {
        self.step != Step::Random
    }
}

/// One kill on a cluster of its own.
///
/// # Errors
/// The harness broke, the point was not passed, or the cluster did not become whole again.
pub async fn run(
    trial: &mut Trial,
    cell: Cell,
    board: Option<&Switchboard>,
    random: &mut Random,
) -> anyhow::Result<()> {
    let leader = trial.cluster.leader().await?;
    let others = trial.cluster.others(leader);
    let owner = random.pick(&others).copied().unwrap_or(leader);
    let focus = deploy(trial, owner, random).await?;
    let victim = match cell.victim {
        Victim::Leader => leader,
        Victim::Owner => owner,
    };
    trial.expect_fault(cell.to_string());
    let (mut burst, load) = match (cell.step, board) {
        (Step::At(point), Some(board)) => {
            at_point(trial, board, point, victim, &focus, random).await?
        }
        (Step::At(_), None) => anyhow::bail!("{cell} needs the chaos build"),
        (Step::Random, _) => {
            let (burst, load) = scale_up(trial, &focus, random);
            pause(Duration::from_millis(random.between(0, RANDOM_MOMENT_MS))).await;
            trial.kill(victim).await?;
            (burst, load)
        }
    };
    trial.fault_happened(cell.to_string(), cell.victim == Victim::Leader);
    trial.say(&format!("{cell}: node{} killed", victim + 1));
    let without_it = random.between(WITHOUT_IT_MIN_MS, WITHOUT_IT_MAX_MS);
    pause(Duration::from_millis(without_it)).await;
    load.stop().await;
    while burst.join_next().await.is_some() {}
    let focuses = [focus];
    trial.ask_everywhere(&focuses).await;
    let back = trial.heal(&[victim]).await?;
    trial.ask_everywhere(&focuses).await;
    trial.look_for_orphans().await?;
    let zero = trial.until_zero().await?;
    trial.until_settled().await?;
    trial.say(&format!(
        "{cell}: whole {:.1} s after its start, at zero after {:.1} s",
        back.as_secs_f64(),
        zero.as_secs_f64()
    ));
    Ok(())
}

/// A service at zero from its first moment, of one of three shapes.
async fn deploy(trial: &Trial, owner: NodeIndex, random: &mut Random) -> anyhow::Result<String> {
    let max_scale = [1, 2, 6][usize::try_from(random.between(0, 3))?];
    let scaling = Scaling {
        max_scale,
        ..Scaling::default()
    };
    let name = LocalCluster::name_owned_by(&format!("of{}-", owner + 1), owner);
    let mut service = services::echo(&name, &trial.ledger, scaling);
    let annotations = &mut service.spec.template.metadata.annotations;
    let initial = "autoscaling.knative.dev/initial-scale".to_owned();
    annotations.insert(initial, "0".into());
    let deployed = services::deploy(&trial.admin()?, &service).await;
    deployed.map_err(anyhow::Error::msg)?;
    Ok(name)
}

type Burst = JoinSet<crate::record::RequestRecord>;

/// Stops whoever comes by the point, kills the victim, and lets the other go on.
async fn at_point(
    trial: &mut Trial,
    board: &Switchboard,
    point: Point,
    victim: NodeIndex,
    focus: &str,
    random: &mut Random,
) -> anyhow::Result<(Burst, Load)> {
    let what = match point {
        // F8 is a panic, and the kill comes while the actor is being loaded again.
        Point::TurnInDoubt => {
            trial.expect_panic("failpoint `turn-in-doubt`");
            board.arm(Point::CallLeaves, IN_DOUBT)?;
            "panic"
        }
        _ => "stop",
    };
    let (burst, load) = match point {
        Point::InstanceDraining => {
            let (mut burst, load) = scale_up(trial, focus, random);
            while burst.join_next().await.is_some() {}
            load.stop().await;
            board.arm(point, what)?;
            (burst, None)
        }
        _ => {
            board.arm(point, what)?;
            let (burst, load) = scale_up(trial, focus, random);
            (burst, Some(load))
        }
    };
    if point == Point::TurnInDoubt {
        board.taken(Point::CallLeaves, HIT_LIMIT).await?;
        wake_all_actors(trial, victim).await?;
    }
    let pid = board.taken(point, HIT_LIMIT).await?;
    let board = board.clone();
    let go_on = move || board.go_on(point, pid);
    trial.kill_and(victim, go_on).await?;
    // In a drain: clients come back now.
    let load = match load {
        Some(load) => load,
        None => probes(trial, focus, random),
    };
    Ok((burst, load))
}

/// So that a turn falls between a start's decision and its answer: repeated demand changes nothing
/// for a service that may have one instance, and wakes nobody. A node's duty concerns everyone.
async fn wake_all_actors(trial: &Trial, victim: NodeIndex) -> anyhow::Result<()> {
    let bystander = trial.cluster.others(victim).into_iter().next();
    let bystander = bystander.context("a cluster of one node")?;
    let node = trial.cluster.nodes[bystander].config.node_id;
    let admin = trial.admin()?;
    admin.cordon(node).await?;
    admin.uncordon(node).await?;
    Ok(())
}

/// Many requests at once, and more that follow.
fn scale_up(trial: &Trial, focus: &str, random: &mut Random) -> (Burst, Load) {
    let mut burst = JoinSet::new();
    for _ in 0..random.between(BURST_MIN, BURST_MAX) {
        let wanted = Wanted {
            service: focus.to_owned(),
            gateway: usize::try_from(random.between(0, N_NODES as u64)).unwrap_or(0),
            is_post: random.chance(50),
            body_bytes: usize::try_from(random.between(0, 4_000)).unwrap_or(0),
            app_ms: random.between(0, 300),
        };
        let clients = trial.clients.clone();
        burst.spawn(async move { clients.request(wanted).await });
    }
    (burst, probes(trial, focus, random))
}

fn probes(trial: &Trial, focus: &str, random: &mut Random) -> Load {
    let mix = Mix {
        services: vec![focus.to_owned()],
        per_second: PROBES_PER_SECOND,
        app_ms: (0, 100),
    };
    trial.clients.start(mix, random.fork())
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Random => f.write_str("random"),
            Step::At(point) => {
                let number = STEPS.iter().position(|step| step == point);
                write!(f, "f{}", number.map_or(0, |number| number + 1))
            }
        }
    }
}

impl fmt::Display for Victim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Victim::Leader => "leader",
            Victim::Owner => "owner",
        })
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.step, self.victim)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_read_back_by_their_names() {
        assert_eq!(Cell::parse_list("steps").map(|cells| cells.len()), Some(16));
        assert_eq!(Cell::parse_list("random").map(|cells| cells.len()), Some(2));
        for cell in Cell::all() {
            assert_eq!(Cell::parse_list(&cell.to_string()), Some(vec![cell]));
        }
        assert_eq!(Cell::parse_list("f9"), None);
    }
}
