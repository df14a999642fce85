//! "Killing any node at any point of the demo": every stage, with the node that plays each part.

use std::time::Duration;

use nihilo_sim::checker::Evidence;

use crate::backend::{LocalCluster, N_NODES, NodeIndex};
use crate::clock::{boottime_ns, pause};
use crate::judge::CHANGE;
use crate::nemesis::target::Role;
use crate::seed::Random;
use crate::trial::Trial;
use crate::workload::load::{Load, Mix};
use crate::workload::services::{self, Scaling};
use crate::workload::stages::Stage;

/// How long the load goes on with a node missing.
const WITHOUT_IT: Duration = Duration::from_secs(5);
/// A change under way must be through by then: a new leader, its own attempts, and readiness.
const CHANGE_LIMIT: Duration = Duration::from_secs(70);
const PROBES_PER_SECOND: u64 = 10;

/// One stage with one victim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cell {
    pub stage: Stage,
    pub role: Role,
}

impl Cell {
    /// Every cell in which the role is played by somebody.
    pub fn all() -> Vec<Cell> {
        let cells = Stage::ALL
            .into_iter()
            .flat_map(|stage| Role::ALL.map(|role| Cell { stage, role }));
        cells
            .filter(|cell| cell.role != Role::Host || cell.stage.has_instances())
            .collect()
    }

    /// The few that find most, for a gate of minutes; the package's own test has one more.
    pub fn most_valuable() -> Vec<Cell> {
        let cell = |stage, role| Cell { stage, role };
        vec![
            cell(Stage::ScalingUp, Role::Owner),
            cell(Stage::BurstSteady, Role::Host),
            cell(Stage::ColdStart, Role::Owner),
            cell(Stage::TrafficShifting, Role::Leader),
            cell(Stage::ScalingDown, Role::Host),
        ]
    }

    /// `STAGE:ROLE`, either of them `*`; a list of them with commas.
    pub fn parse_list(text: &str) -> Option<Vec<Cell>> {
        let mut cells = Vec::new();
        for part in text.split(',') {
            let (stage, role) = part.split_once(':').unwrap_or((part, "*"));
            let found: Vec<_> = Cell::all()
                .into_iter()
                .filter(|cell| stage == "*" || cell.stage.to_string() == stage)
                .filter(|cell| role == "*" || cell.role.to_string() == role)
                .collect();
            if found.is_empty() {
                return None;
            }
            cells.extend(found);
        }
        Some(cells)
    }
}

/// Runs the cells one after the other on one cluster.
///
/// # Errors
/// The harness broke, or the cluster did not become whole again.
pub async fn run(trial: &mut Trial, cells: &[Cell], random: &mut Random) -> anyhow::Result<()> {
    let focuses = deploy(trial).await?;
    trial.until_zero().await?;
    for (number, cell) in cells.iter().enumerate() {
        run_cell(trial, *cell, &focuses, number, random).await?;
    }
    Ok(())
}

/// One service owned by each node.
async fn deploy(trial: &Trial) -> anyhow::Result<Vec<String>> {
    let client = trial.admin()?;
    let mut names = Vec::new();
    for owner in 0..N_NODES {
        let name = LocalCluster::name_owned_by(&format!("of{}-", owner + 1), owner);
        let service = services::echo(&name, &trial.ledger, Scaling::default());
        let deployed = services::deploy(&client, &service).await;
        deployed.map_err(anyhow::Error::msg)?;
        names.push(name);
    }
    trial.say(&format!("services {} deployed", names.join(", ")));
    Ok(names)
}

async fn run_cell(
    trial: &mut Trial,
    cell: Cell,
    focuses: &[String],
    number: usize,
    random: &mut Random,
) -> anyhow::Result<()> {
    let leader = trial.cluster.leader().await?;
    let owner = cell.role.focus_owner(leader, random);
    let focus = focuses[owner].clone();
    let n_before = trial.recorder.taken().0.len();
    let mut underway = cell.stage.begin(trial, &focus, number, random).await?;
    let host = match cell.role {
        Role::Host => trial.host_of(&focus).await?,
        _ => None,
    };
    // A role that nobody plays at this moment goes to whoever is there.
    let victim = cell.role.node(leader, owner, host).unwrap_or(owner);
    trial
        .recorder
        .fault(format!("cell {} × {}", cell.stage, cell.role), Some(victim));
    trial.kill(victim).await?;
    if cell.stage != Stage::Idle {
        underway.loads.push(probes(trial, focuses, random));
    }
    pause(WITHOUT_IT).await;
    if let Some(change) = underway.change.take() {
        changed(trial, change, cell, &underway.deployed).await?;
    }
    for load in underway.loads {
        load.stop().await;
    }
    check_in_time(trial, focuses, victim).await;
    let back = trial.heal(&[victim]).await?;
    trial.ask_everywhere(focuses).await;
    let zero = trial.until_zero().await?;
    let requests = trial.recorder.taken().0;
    let of_cell = &requests[n_before.min(requests.len())..];
    let text = format!(
        "{number:>2} {} × {} (node{}, focus {focus}): {}; whole {:.1} s after its start, at zero \
         after {:.1} s",
        cell.stage,
        cell.role,
        victim + 1,
        summary(of_cell),
        back.as_secs_f64(),
        zero.as_secs_f64(),
    );
    trial.say(&text);
    Ok(())
}

fn probes(trial: &Trial, focuses: &[String], random: &mut Random) -> Load {
    let mix = Mix {
        services: focuses.to_vec(),
        per_second: PROBES_PER_SECOND,
        app_ms: (0, 50),
    };
    trial.clients.start(mix, random.fork())
}

/// A change that was under way must succeed, and what it deployed must serve.
async fn changed(
    trial: &mut Trial,
    change: tokio::task::JoinHandle<Result<(), String>>,
    cell: Cell,
    deployed: &Option<String>,
) -> anyhow::Result<()> {
    let outcome = tokio::time::timeout(CHANGE_LIMIT, change).await;
    let outcome = match outcome {
        Ok(joined) => joined?,
        Err(_elapsed) => Err(format!("not over after {} s", CHANGE_LIMIT.as_secs())),
    };
    match outcome {
        Ok(()) => trial.confirm(CHANGE),
        Err(why) => {
            let text = format!("the change under way failed: {why}");
            let object = format!("{} × {}", cell.stage, cell.role);
            trial.find(CHANGE, Evidence::new(object, text).at(boottime_ns()));
        }
    }
    if let Some(service) = deployed {
        trial.ask_everywhere(std::slice::from_ref(service)).await;
    }
    Ok(())
}

/// With the node still missing, everything is served through the others.
async fn check_in_time(trial: &Trial, focuses: &[String], victim: NodeIndex) {
    debug_assert!(!trial.clients.in_use().contains(&victim));
    trial.ask_everywhere(focuses).await;
}

fn summary(requests: &[crate::record::RequestRecord]) -> String {
    use crate::record::Outcome;
    let (mut good, mut refused, mut lost) = (0, std::collections::BTreeMap::new(), 0);
    for request in requests {
        match &request.outcome {
            Outcome::Answered(answered) if answered.status < 300 => good += 1,
            Outcome::Answered(answered) => {
                let key = format!("{} {} {}", request.method, answered.status, answered.reason);
                *refused.entry(key).or_insert(0) += 1;
            }
            _ => lost += 1,
        }
    }
    let refused: Vec<_> = refused
        .iter()
        .map(|(key, n)| format!("{n}× {key}"))
        .collect();
    let (refused, n) = (refused.join(", "), requests.len());
    format!("{n} requests, {good} answered, {lost} with the killed gateway, refused: [{refused}]")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_matrix_has_every_stage_with_every_part_that_somebody_plays() {
        let all = Cell::all();
        assert_eq!(all.len(), 9 * 5 - 4);
        assert!(Cell::most_valuable().iter().all(|cell| all.contains(cell)));
        assert_eq!(
            Cell::parse_list("*").map(|cells| cells.len()),
            Some(all.len())
        );
        assert_eq!(
            Cell::parse_list("idle,at-zero:leader").map(|c| c.len()),
            Some(5)
        );
        assert_eq!(Cell::parse_list("at-zero:host"), None);
    }
}
