//! The log accepts an actor's command only under the epoch of the present owner (03-actors §4).

use nihilo_machine::state::ShardOwner;
use nihilo_machine::{Command, Fence, Reply};

use super::Verdict;

/// The fence that an actor's command carries as a whole; scales carry one each.
pub(crate) fn of(command: &mut Command) -> Option<&mut Fence> {
    match command {
        Command::RecordService(record) => Some(&mut record.fence),
        Command::RecordRevision(record) => Some(&mut record.fence),
        Command::AssignTraffic(assign) => Some(&mut assign.fence),
        Command::RecordRoute(record) => Some(&mut record.fence),
        Command::AdvanceRollout(advance) => Some(&mut advance.fence),
        Command::CollectRevisions(collect) => Some(&mut collect.fence),
        Command::RecordDomainMapping(record) => Some(&mut record.fence),
        Command::InitCluster(_)
        | Command::PutConfigMap(_)
        | Command::DeleteConfigMap(_)
        | Command::PutDomainMapping(_)
        | Command::DeleteDomainMapping(_)
        | Command::PutDomainClaim(_)
        | Command::DeleteDomainClaim(_)
        | Command::PutService(_)
        | Command::DeleteService(_)
        | Command::RecordScale(_)
        | Command::OpenSession(_)
        | Command::CloseSession(_)
        | Command::NodeDown(_)
        | Command::Reassign(_)
        | Command::SetClusterVersion(_)
        | Command::RecordMembers(_)
        | Command::CreateToken(_)
        | Command::RevokeToken(_)
        | Command::AddNode(_)
        | Command::PromoteNode(_)
        | Command::RemoveNode(_)
        | Command::SetDuty(_)
        | Command::PutBundle(_)
        | Command::DeleteBundle(_)
        | Command::PutSecret(_)
        | Command::DeleteSecret(_) => None,
    }
}

/// `fence` as the owner sent it, `owner` as of just before the entry.
pub(crate) fn accepted(fence: Option<Fence>, owner: Option<ShardOwner>, reply: &Reply) -> Verdict {
    let (Some(fence), Some(owner)) = (fence, owner) else {
        return Ok(());
    };
    if reply.result.is_err() || fence.epoch == owner.epoch {
        return Ok(());
    }
    Err(format!(
        "entry {} takes effect for shard {} under epoch {}, the owner's is {}",
        reply.index, fence.shard, fence.epoch, owner.epoch
    ))
}
