//! Bugs that runs of the simulation must find.

use clap::ValueEnum;
use nihilo_host::planted;

/// One bug, in the product or in the disk under it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Plant {
    /// The log says "durable" before it is.
    AckBeforeSync,
    /// A vote is answered before it is durable.
    VoteNotSynced,
    /// A failed sync is taken for a good one.
    SyncErrorIgnored,
    /// A batch is not atomic: a power cut leaves half of one.
    TornBatch,
    /// A leader answers reads without asking whether it still leads.
    ReadWithoutQuorum,
    /// An agent obeys owners of the past.
    AgentIgnoresEpochs,
}

impl Plant {
    /// Those that the command `plants` must find, and each of which a seed has found once; the gate
    /// has time for the first alone. No seed has found the others yet (docs/reliability.md).
    pub(crate) const REQUIRED: [Self; 3] = [
        Self::AckBeforeSync,
        Self::SyncErrorIgnored,
        Self::ReadWithoutQuorum,
    ];

    /// Switches the bug on, where it is one of the product's.
    pub(crate) fn switch_on(self) -> Result<(), &'static str> {
        match self {
            Self::ReadWithoutQuorum => planted::switch_on(planted::READ_WITHOUT_QUORUM),
            Self::AgentIgnoresEpochs => planted::switch_on(planted::AGENT_IGNORES_EPOCHS),
            Self::AckBeforeSync
            | Self::VoteNotSynced
            | Self::SyncErrorIgnored
            | Self::TornBatch => Ok(()),
        }
    }

    pub(crate) fn name(self) -> String {
        let value = self.to_possible_value();
        value.map_or_else(String::new, |value| value.get_name().to_owned())
    }
}
