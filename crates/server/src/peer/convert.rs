//! Between control's types and the messages of `nihilo.internal.v1`.

use nihilo_control::ports::{
    CallError, CallFence, CallRefusal, Demand, Handovers, KeepAlive, KeepAliveAnswer, RevisionStat,
    StatReport,
};
use nihilo_types::id::{Epoch, LogIndex, NodeId, ObjectKey, SessionId, ShardId};
use nihilo_wire::internal as pb;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tonic::Status;

pub fn fence_to(fence: CallFence) -> pb::Fence {
    pb::Fence {
        shard: u32::from(fence.shard.0),
        epoch: fence.epoch.0,
        seq: fence.seq,
    }
}

/// # Errors
/// No fence, or a shard that does not exist.
pub fn fence_from(fence: Option<pb::Fence>) -> Result<CallFence, Status> {
    let fence = fence.ok_or_else(|| Status::invalid_argument("no fence"))?;
    let shard = shard_from(fence.shard)?;
    Ok(CallFence {
        shard,
        epoch: Epoch(fence.epoch),
        seq: fence.seq,
    })
}

fn shard_from(shard: u32) -> Result<ShardId, Status> {
    u16::try_from(shard)
        .map(ShardId)
        .map_err(|_| Status::invalid_argument("no such shard"))
}

pub fn json_to<T: Serialize>(value: &T) -> bytes::Bytes {
    serde_json::to_vec(value)
        .expect("soft state holds only string-keyed maps")
        .into()
}

/// # Errors
/// JSON that this build does not read.
pub fn json_from<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Status> {
    serde_json::from_slice(bytes).map_err(|error| Status::invalid_argument(error.to_string()))
}

pub fn refusal_error(refusal: pb::AgentRefusal) -> CallError {
    use pb::agent_refusal::Kind;
    let kind = match refusal.kind() {
        Kind::StaleEpoch | Kind::StaleSeq => CallRefusal::Stale,
        Kind::NotReady | Kind::BehindIndex => CallRefusal::NotReady,
        Kind::NoCapacity => CallRefusal::NoCapacity,
        Kind::Busy => CallRefusal::Busy,
        Kind::TooLate | Kind::UnknownInstance => CallRefusal::TooLate,
        Kind::Failed | Kind::Unspecified => CallRefusal::Failed,
    };
    CallError::Refused {
        kind,
        text: refusal.text,
    }
}

pub fn keep_alive_to(message: &KeepAlive, cluster_id: &str) -> pb::KeepAliveRequest {
    pb::KeepAliveRequest {
        node: message.node.0,
        session: message.session.0,
        boot_id: String::new(),
        seq: 0,
        applied: message.applied.0,
        table: message.table.0,
        t_self_ms: 0,
        cluster_id: cluster_id.to_owned(),
        ..pb::KeepAliveRequest::default()
    }
}

pub fn keep_alive_from(request: &pb::KeepAliveRequest) -> KeepAlive {
    KeepAlive {
        node: NodeId(request.node),
        session: SessionId(request.session),
        applied: LogIndex(request.applied),
        table: LogIndex(request.table),
    }
}

pub fn answer_to(answer: KeepAliveAnswer, leader: NodeId) -> pb::KeepAliveResponse {
    pb::KeepAliveResponse {
        seq: 0,
        leader: leader.0,
        leader_applied: answer.leader_applied.0,
        min_table: answer.min_table.0,
        held_back_by: answer.held_back_by,
        session_open: answer.session_open,
        ..pb::KeepAliveResponse::default()
    }
}

pub fn answer_from(response: pb::KeepAliveResponse) -> KeepAliveAnswer {
    KeepAliveAnswer {
        leader_applied: LogIndex(response.leader_applied),
        min_table: LogIndex(response.min_table),
        held_back_by: response.held_back_by,
        session_open: response.session_open,
    }
}

pub fn demand_to(demand: Demand) -> pb::DemandRequest {
    pb::DemandRequest {
        session: demand.gateway.0,
        namespace: demand.revision.namespace.to_string(),
        revision: demand.revision.name.to_string(),
        uid: demand.uid.to_string(),
        shard: u32::from(demand.shard.0),
        n_waiting: demand.n_waiting,
        in_flight: demand.in_flight,
        oldest_age_ms: demand.oldest_age_ms,
        seq: 0,
    }
}

/// # Errors
/// A shard that does not exist.
pub fn demand_from(request: pb::DemandRequest) -> Result<Demand, Status> {
    Ok(Demand {
        gateway: SessionId(request.session),
        revision: ObjectKey::new(request.namespace, request.revision),
        uid: request.uid.into(),
        shard: shard_from(request.shard)?,
        n_waiting: request.n_waiting,
        in_flight: request.in_flight,
        oldest_age_ms: request.oldest_age_ms,
    })
}

pub fn report_to(report: StatReport) -> pb::ReportRequest {
    let stat = |stat: RevisionStat| pb::RevisionStat {
        namespace: stat.revision.namespace.to_string(),
        revision: stat.revision.name.to_string(),
        uid: stat.uid.to_string(),
        shard: u32::from(stat.shard.0),
        area_us: stat.area_us,
        used_us: stat.used_us,
        n_started: stat.n_started,
        in_flight: stat.in_flight,
        queued: stat.queued,
        oldest_ms: stat.oldest_ms,
    };
    pb::ReportRequest {
        session: report.gateway.0,
        seq: report.seq,
        stats: report.stats.into_iter().map(stat).collect(),
    }
}

/// # Errors
/// A shard that does not exist.
pub fn report_from(request: pb::ReportRequest) -> Result<StatReport, Status> {
    let stat = |stat: pb::RevisionStat| {
        Ok(RevisionStat {
            revision: ObjectKey::new(stat.namespace, stat.revision),
            uid: stat.uid.into(),
            shard: shard_from(stat.shard)?,
            area_us: stat.area_us,
            used_us: stat.used_us,
            n_started: stat.n_started,
            in_flight: stat.in_flight,
            queued: stat.queued,
            oldest_ms: stat.oldest_ms,
        })
    };
    Ok(StatReport {
        gateway: SessionId(request.session),
        seq: request.seq,
        stats: request
            .stats
            .into_iter()
            .map(stat)
            .collect::<Result<_, Status>>()?,
    })
}

pub fn handovers_to(message: &Handovers) -> pb::HandOverRequest {
    let windows = message
        .handovers
        .iter()
        .map(|(shard, handover)| pb::ShardWindows {
            shard: shard.0.into(),
            handover: json_to(handover),
        });
    pb::HandOverRequest {
        epoch: message.epoch.0,
        windows: windows.collect(),
    }
}

pub fn handovers_from(request: pb::HandOverRequest) -> Result<Handovers, Status> {
    let one = |windows: pb::ShardWindows| {
        let shard =
            u16::try_from(windows.shard).map_err(|_| Status::invalid_argument("no such shard"))?;
        Ok((ShardId(shard), json_from(&windows.handover)?))
    };
    Ok(Handovers {
        epoch: Epoch(request.epoch),
        handovers: request
            .windows
            .into_iter()
            .map(one)
            .collect::<Result<_, Status>>()?,
    })
}
