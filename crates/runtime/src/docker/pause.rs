//! A container without cpu, by the engine's pause: its freezer, whatever the host has for that.

use tracing::{info, warn};

use super::engine::Failed;
use super::{Container, DockerDriver};
use crate::driver::FreezeError;

impl DockerDriver {
    pub(super) async fn pause(&self, handle: &Container) -> Result<(), FreezeError> {
        let ready = self.engine.ready().await;
        let docker = &ready.map_err(|error| FreezeError(error.cause))?.docker;
        match docker.pause_container(&handle.id).await.map_err(Failed::of) {
            Ok(()) => Ok(()),
            Err(_) if self.is_paused(handle).await == Some(true) => Ok(()),
            Err(failed) => Err(FreezeError(failed.to_string())),
        }
    }

    pub(super) async fn unpause(&self, handle: &Container) -> Result<(), FreezeError> {
        let ready = self.engine.ready().await;
        let docker = &ready.map_err(|error| FreezeError(error.cause))?.docker;
        let unpaused = docker.unpause_container(&handle.id).await;
        match unpaused.map_err(Failed::of) {
            Ok(()) => Ok(()),
            Err(_) if self.is_paused(handle).await == Some(false) => Ok(()),
            Err(failed) => Err(FreezeError(failed.to_string())),
        }
    }

    /// Lets a container run whose handle does not say that it is frozen, whoever has paused it.
    pub(crate) async fn let_run(&self, handle: &Container) {
        if self.is_paused(handle).await != Some(true) {
            return;
        }
        match self.unpause(handle).await {
            Ok(()) => info!(container = handle.id, "it was paused, and runs on"),
            Err(error) => warn!(container = handle.id, %error, "it was paused, and stays so"),
        }
    }

    /// `None` = the engine does not say.
    async fn is_paused(&self, handle: &Container) -> Option<bool> {
        let docker = &self.engine.ready().await.ok()?.docker;
        let inspected = docker.inspect_container(&handle.id, None).await;
        inspected.ok()?.state?.paused
    }
}
