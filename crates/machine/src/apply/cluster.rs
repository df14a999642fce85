//! `InitCluster`: the first entry of a cluster's life. `SetClusterVersion`: the point of no return.

use std::sync::Arc;

use super::{Context, Result};
use crate::command::{FIRST_CLUSTER_VERSION, InitCluster, SetClusterVersion};
use crate::reply::{Outcome, Rejection};
use crate::rows::{self, tag};
use crate::state::State;

impl State {
    pub(crate) fn init_cluster(&mut self, init: &InitCluster, context: &mut Context) -> Result {
        if self.cluster.is_some() {
            return Err(Rejection::AlreadyInitialised);
        }
        self.make_system_maps(&init.autoscaler, context)?;
        context.row(rows::put(rows::key(tag::CLUSTER, &[]), init));
        self.cluster = Some(Arc::new(init.clone()));
        // A cluster begins with the rules of the build that founds it; there is nothing older to
        // agree with.
        if context.cluster_version > FIRST_CLUSTER_VERSION {
            self.put_version(context.cluster_version, context);
        }
        Ok(Outcome::Done)
    }

    /// Versions follow each other: each one's rules were agreed on before the next one's.
    pub(crate) fn set_cluster_version(
        &mut self,
        set: SetClusterVersion,
        context: &mut Context,
    ) -> Result {
        let (have, wanted) = (self.cluster_version(), set.version);
        if wanted == have {
            return Ok(Outcome::Done);
        }
        if wanted != have + 1 {
            return Err(Rejection::WrongVersion { have, wanted });
        }
        self.put_version(wanted, context);
        Ok(Outcome::Done)
    }

    fn put_version(&mut self, version: u32, context: &mut Context) {
        context.row(rows::put(rows::key(tag::VERSION, &[]), &version));
        self.version = Some(version);
    }
}
