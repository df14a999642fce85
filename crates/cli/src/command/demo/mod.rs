//! `nihilo demo`: the whole promise on the running cluster, with figures that were measured.
//!
//! Every step checks what it claims; the first that did not happen ends the run.

mod fault;
mod load;
mod report;
mod stage;
mod steps;

use std::path::PathBuf;
use std::time::Duration;

use crate::context::{Context, DEFAULT_DATA_DIR};
use crate::failure::{Failure, Result, exit};
use crate::output;
use stage::Stage;

/// The whole run is over by then, or it failed.
const BUDGET: Duration = Duration::from_secs(90);

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct DemoArgs {
    /// Where `nihilo dev` keeps the cluster: the demo kills and restarts one of its nodes.
    #[arg(long, value_name = "DIR", default_value = DEFAULT_DATA_DIR)]
    pub data_dir: PathBuf,
}

pub(crate) async fn run(context: &Context, args: &DemoArgs) -> Result<()> {
    let mut stage = Stage::open(context, &args.data_dir).await?;
    let outcome = tokio::select! {
        outcome = tokio::time::timeout(BUDGET, steps::all(&mut stage)) => outcome,
        _ = tokio::signal::ctrl_c() => Ok(Err(Failure::new(exit::INTERRUPTED, "interrupted"))),
    };
    let outcome = outcome.unwrap_or_else(|_elapsed| {
        let seconds = BUDGET.as_secs();
        Err(stage.failed(format!(
            "not over after {seconds} s, while {}",
            stage.doing()
        )))
    });
    if let Err(failure) = outcome {
        output::note("the demo failed; cleaning up");
        stage.clean_up().await;
        return Err(failure);
    }
    stage.say(&format!(
        "done: every step happened, within {} s",
        BUDGET.as_secs()
    ));
    output::data(
        "next: nihilo service create hello --image demo/hello · nihilo ps · nihilo why autoscaler REVISION",
    );
    Ok(())
}
