//! Endpoint tables name only instances that existed, and a gateway never goes back to an older one
//! (03-actors §4).

use std::collections::BTreeMap;

use nihilo_types::endpoint::EndpointTable;
use nihilo_types::id::{Epoch, ObjectKey};

use super::Verdict;
use super::instances::Instances;
use crate::world::Address;

#[derive(Debug, Default)]
pub(crate) struct Endpoints {
    taken: BTreeMap<(Address, ObjectKey), (Epoch, u64)>,
}

impl Endpoints {
    pub(crate) fn published(&self, table: &EndpointTable, instances: &Instances) -> Verdict {
        let unknown = table.instances.iter();
        let unknown = unknown
            .map(|e| &e.id)
            .find(|id| !instances.ever_existed(id));
        match unknown {
            None => Ok(()),
            Some(id) => Err(format!("{} names {id}, which never ran", table.revision)),
        }
    }

    pub(crate) fn taken(&mut self, gateway: Address, table: &EndpointTable) -> Verdict {
        let version = (table.epoch, table.seq);
        let place = (gateway, table.revision.clone());
        let known = self.taken.insert(place, version);
        match known.filter(|known| *known > version) {
            None => Ok(()),
            Some(known) => Err(format!(
                "gateway of node {} goes back to {version:?} of {} after {known:?}",
                gateway.0 + 1,
                table.revision
            )),
        }
    }
}
