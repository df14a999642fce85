//! What must always hold in the world: one invariant, one file, one source each.
//!
//! An invariant sees facts as they happen and says `Err` with what it saw. It trusts nothing that
//! the judged code computed about itself.

pub(crate) mod cap;
pub(crate) mod demand;
pub(crate) mod desired;
pub(crate) mod digest;
pub(crate) mod drain;
pub(crate) mod endpoints;
pub(crate) mod fence;
pub(crate) mod floors;
pub(crate) mod frozen;
pub(crate) mod instances;
pub(crate) mod ledger;
pub(crate) mod limit;
pub(crate) mod owners;
pub(crate) mod reload;
pub(crate) mod routes;
pub(crate) mod sessions;
pub(crate) mod versions;

/// `Err` = violated, with the evidence.
pub(crate) type Verdict = Result<(), String>;

/// Everything that has a memory.
#[derive(Debug, Default)]
pub(crate) struct Invariants {
    pub(crate) digest: digest::Digest,
    pub(crate) owners: owners::Owners,
    pub(crate) floors: floors::FloorsSeen,
    pub(crate) sessions: sessions::Sessions,
    pub(crate) versions: versions::Versions,
    pub(crate) instances: instances::Instances,
    pub(crate) desired: desired::Desired,
    pub(crate) demand: demand::DemandHeard,
    pub(crate) endpoints: endpoints::Endpoints,
    pub(crate) routes: routes::Routes,
}
