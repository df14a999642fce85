//! Whom a fault hits, by the part that the node plays at that moment.

use std::fmt;

use crate::backend::{N_NODES, NodeIndex};
use crate::seed::Random;

/// Any node but the leader.
pub(crate) fn follower(leader: NodeIndex, random: &mut Random) -> NodeIndex {
    let others: Vec<_> = (0..N_NODES).filter(|node| *node != leader).collect();
    random.pick(&others).copied().unwrap_or(leader)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Leads, and does not own the service in focus.
    Leader,
    /// Owns the service's shard, and does not lead.
    Owner,
    LeaderAndOwner,
    /// Runs most instances of the service.
    Host,
    /// Neither leads nor owns.
    Other,
}

impl Role {
    pub const ALL: [Role; 5] = [
        Role::Leader,
        Role::Owner,
        Role::LeaderAndOwner,
        Role::Host,
        Role::Other,
    ];

    /// Which node shall own the service in focus, so that the role can be played.
    pub fn focus_owner(self, leader: NodeIndex, random: &mut Random) -> NodeIndex {
        let others: Vec<_> = (0..N_NODES).filter(|node| *node != leader).collect();
        match self {
            Role::LeaderAndOwner => leader,
            Role::Leader | Role::Owner | Role::Host | Role::Other => {
                random.pick(&others).copied().unwrap_or(leader)
            }
        }
    }

    /// The node that plays the role; `None` when nobody does.
    pub fn node(
        self,
        leader: NodeIndex,
        owner: NodeIndex,
        host: Option<NodeIndex>,
    ) -> Option<NodeIndex> {
        match self {
            Role::Leader => Some(leader),
            Role::Owner | Role::LeaderAndOwner => Some(owner),
            Role::Host => host,
            Role::Other => (0..N_NODES).find(|node| *node != leader && *node != owner),
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.to_string() == text)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Role::Leader => "leader",
            Role::Owner => "owner",
            Role::LeaderAndOwner => "leader+owner",
            Role::Host => "host",
            Role::Other => "other",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_role_finds_its_node() {
        let mut random = Random::from_seed(3);
        for leader in 0..N_NODES {
            for role in Role::ALL {
                let owner = role.focus_owner(leader, &mut random);
                assert_eq!(owner == leader, role == Role::LeaderAndOwner);
                let node = role.node(leader, owner, Some(1));
                let others = (0..N_NODES).find(|node| *node != leader && *node != owner);
                let wanted = match role {
                    Role::Leader => Some(leader),
                    Role::Owner | Role::LeaderAndOwner => Some(owner),
                    Role::Host => Some(1),
                    Role::Other => others,
                };
                assert_eq!(node, wanted, "{role}");
                assert_eq!(Role::parse(&role.to_string()), Some(role));
            }
        }
    }
}
