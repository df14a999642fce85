//! `InitCluster`: the first entry of a cluster's life.

use std::sync::Arc;

use super::{Context, Result};
use crate::command::InitCluster;
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
        Ok(Outcome::Done)
    }
}
