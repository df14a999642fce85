//! What all steps of the demo share: the cluster, the clock, and what must be put back.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nihilo_client::Client;
use nihilo_types::node_config::NodeConfig;
use nihilo_types::service::Service;
use nihilo_wire::cluster::StatusResponse;
use tokio::time::Instant;

use super::fault;
use crate::command::ps::is_running;
use crate::context::Context;
use crate::failure::{Failure, Result, exit};
use crate::flags::ServiceFlags;
use crate::http::HttpClient;
use crate::output;
use crate::wait::{self, Progress, WaitLimit};

/// One request, cold start and retries included.
const REQUEST_LIMIT: Duration = Duration::from_secs(20);
const READY_LIMIT: WaitLimit = WaitLimit { wait_timeout: 30 };
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Marks what the demo may overwrite and delete.
const LABEL: &str = "nihilo.dev/demo";
/// The demo's services.
pub(crate) const HELLO: &str = "hello";
pub(crate) const SLEEP: &str = "sleep";

#[derive(Debug)]
pub(crate) struct Stage {
    pub client: Client,
    pub http: Arc<HttpClient>,
    /// The cluster as it was found.
    pub status: StatusResponse,
    pub dir: PathBuf,
    /// The node that was killed and is not back yet.
    pub killed: Option<NodeConfig>,
    namespace: String,
    started: Instant,
    doing: &'static str,
    deployed: bool,
}

impl Stage {
    /// # Errors
    /// The cluster does not answer.
    pub(crate) async fn open(context: &Context, data_dir: &Path) -> Result<Self> {
        let dir = std::path::absolute(data_dir)
            .map_err(|error| Failure::io(data_dir.display(), &error))?;
        let status = context.client.cluster_status().await?;
        let gateways = status.nodes.iter().map(|node| node.gateway.clone());
        Ok(Self {
            client: context.client.clone(),
            http: Arc::new(HttpClient::new(gateways, REQUEST_LIMIT)),
            status,
            dir,
            killed: None,
            namespace: context.namespace.clone(),
            started: Instant::now(),
            doing: "starting",
            deployed: false,
        })
    }

    pub(crate) fn begin(&mut self, doing: &'static str) {
        self.doing = doing;
    }

    pub(crate) fn doing(&self) -> &'static str {
        self.doing
    }

    pub(crate) fn say(&self, text: &str) {
        let elapsed = self.started.elapsed().as_secs_f64();
        output::data(&format!("{elapsed:5.1}s {}", output::plain(text)));
    }

    /// The failure of a step that did not happen.
    pub(crate) fn failed(&self, what: impl Into<String>) -> Failure {
        Failure::new(exit::NOT_READY, what).because(format!("while {}", self.doing))
    }

    /// Deploys a service of the demo, or replaces the one of an earlier run.
    pub(crate) async fn deploy(&mut self, name: &str, flags: &ServiceFlags) -> Result<Service> {
        match self.client.service(&self.namespace, name).await {
            Ok(found) if !found.object.metadata.labels.contains_key(LABEL) => {
                let what = format!("service '{name}' exists and is not the demo's");
                return Err(Failure::new(exit::CONFLICT, what).hint("nihilo demo -n demo"));
            }
            Err(error) if !error.is_not_found() => return Err(error.into()),
            _ => {}
        }
        let mut service = flags.create(&self.namespace, name)?;
        service.metadata.labels.insert(LABEL.into(), "true".into());
        self.deployed = true;
        let written = self.client.apply_service(&service).await?;
        self.until_ready(written.service, written.index).await
    }

    pub(crate) async fn until_ready(&self, service: Service, index: u64) -> Result<Service> {
        let mut quiet = Progress::quiet();
        wait::until_ready(&self.client, service, index, READY_LIMIT, &mut quiet).await
    }

    pub(crate) fn context(&self) -> Context {
        Context {
            client: self.client.clone(),
            namespace: self.namespace.clone(),
        }
    }

    pub(crate) fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Waits until no instance of the demo's services is left, as all nodes tell.
    pub(crate) async fn until_at_zero(&self) -> Result<Duration> {
        let since = Instant::now();
        loop {
            let mut n_left = 0;
            for service in [HELLO, SLEEP] {
                let answer = self
                    .client
                    .instances(Some(&self.namespace), service)
                    .await?;
                n_left += answer.items.iter().filter(|i| is_running(i)).count();
                // Not to be seen is not the same as not there.
                n_left += answer.unreachable.len();
            }
            if n_left == 0 {
                return Ok(since.elapsed());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Deletes the services; one that is gone already is fine.
    pub(crate) async fn delete_services(&mut self) -> Result<()> {
        for name in [HELLO, SLEEP] {
            match self.client.delete_service(&self.namespace, name).await {
                Err(error) if !error.is_not_found() => return Err(error.into()),
                _ => {}
            }
        }
        self.deployed = false;
        Ok(())
    }

    /// Puts back what a failed run left behind, as far as that goes.
    pub(crate) async fn clean_up(&mut self) {
        if self.killed.is_some()
            && let Err(failure) = fault::restart(self).await
        {
            output::note(&failure.to_string());
        }
        if self.deployed
            && let Err(failure) = self.delete_services().await
        {
            output::note(&failure.to_string());
        }
    }
}
