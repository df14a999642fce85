//! Gateway statistics: taken from this node's gateway each second, sent to every owner, and put
//! into the keepers of the shards this node owns.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use nihilo_entity::EntityKey;
use nihilo_entity::table::{Heard, StatRow};
use nihilo_types::id::SessionId;
use tracing::debug;

use crate::node::Shared;
use crate::ports::{RevisionStat, StatReport, read};

/// How often a gateway reports (04-autoscaler §3.2).
pub const PERIOD: Duration = Duration::from_secs(1);

/// Sends one batch per second to every node with the role `control`, also an empty one.
pub(crate) async fn run(shared: Arc<Shared>) {
    let mut tick = tokio::time::interval(PERIOD);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut seq = 0;
    loop {
        tick.tick().await;
        let gateway = shared.session();
        if gateway == SessionId(0) {
            continue;
        }
        seq += 1;
        send(&shared, gateway, seq, shared.ports.gateway.take_report());
    }
}

fn send(shared: &Arc<Shared>, gateway: SessionId, seq: u64, stats: Vec<RevisionStat>) {
    let (owners, sessions) = read(shared.ports.state.as_ref(), |state| {
        let owners: BTreeMap<_, _> = stats
            .iter()
            .map(|stat| (stat.shard, state.owner(stat.shard).session))
            .collect();
        let sessions: Vec<_> = state
            .sessions()
            .filter(|session| session.opened.roles.control)
            .cloned()
            .collect();
        (owners, sessions)
    });
    for session in sessions {
        let mine = |stat: &&RevisionStat| owners.get(&stat.shard) == Some(&session.id);
        let stats: Vec<_> = stats.iter().filter(mine).cloned().collect();
        let report = StatReport {
            gateway,
            seq,
            stats,
        };
        if session.id == gateway {
            shared.take_stats(report);
            continue;
        }
        let call_shared = shared.clone();
        shared.spawn("stat-report", async move {
            let name = session.opened.name.clone();
            if let Err(error) = call_shared.ports.owners.report(session, report).await {
                debug!(owner = %name, %error, "statistics not delivered");
            }
        });
    }
}

impl Shared {
    /// Files one gateway's batch under the revisions this node owns.
    pub(crate) fn take_stats(&self, report: StatReport) {
        let now = self.now_ms();
        let heard = Heard {
            seq: report.seq,
            at_ms: now,
        };
        // The rows first: who sees the batch heard, and no row of it, takes that for zero.
        for stat in &report.stats {
            let Some(epoch) = self.epoch_of(stat.shard) else {
                continue;
            };
            let row = stat_row(report.seq, stat);
            self.with_keeper(stat.shard, epoch, |keeper| {
                keeper.reported_load(&stat.revision, report.gateway, row);
            });
        }
        for shard in self.owned_shards() {
            let Some(epoch) = self.epoch_of(shard) else {
                continue;
            };
            self.with_keeper(shard, epoch, |keeper| {
                let newest = keeper.table.heard.entry(report.gateway).or_insert(heard);
                if newest.seq <= heard.seq {
                    *newest = heard;
                }
            });
        }
        for stat in report.stats {
            if let Some(epoch) = self.epoch_of(stat.shard) {
                self.mark_dirty(stat.shard, epoch, EntityKey::Autoscaler(stat.revision));
            }
        }
    }
}

fn stat_row(seq: u64, stat: &RevisionStat) -> StatRow {
    StatRow {
        seq,
        area_us: stat.area_us,
        used_us: stat.used_us,
        n_started: stat.n_started,
        in_flight: stat.in_flight,
        queued: stat.queued,
        oldest_ms: stat.oldest_ms,
    }
}
