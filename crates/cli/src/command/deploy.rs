//! `nihilo deploy NAME DIR` and `nihilo deploy NAME -- ./server`: from files to a URL.

use std::path::PathBuf;

use super::{bundle, service};
use crate::context::Context;
use crate::failure::{Failure, Result};
use crate::flags::ServiceFlags;
use crate::wait::WaitArgs;

#[derive(Debug, clap::Args)]
pub(crate) struct DeployArgs {
    /// Name of the service; it is made or changed.
    name: String,
    /// Directory with a Procfile (`web: COMMAND`), or with `--cmd`.
    dir: Option<PathBuf>,
    #[command(flatten)]
    flags: Box<ServiceFlags>,
    #[command(flatten)]
    wait: WaitArgs,
    /// Program, and its arguments, instead of a directory.
    #[arg(last = true, value_name = "PROGRAM [ARGUMENT]")]
    program: Vec<String>,
}

/// Pushes what is named, then makes or changes the service that runs it. The same files again change
/// nothing.
pub(crate) async fn run(context: &Context, args: DeployArgs) -> Result<()> {
    let DeployArgs {
        name,
        dir,
        mut flags,
        wait,
        program,
    } = args;
    if flags.image.is_some() {
        let failure = Failure::usage("`deploy` makes its own image");
        return Err(failure.hint(format!("nihilo service create {name} --image IMAGE")));
    }
    let command = std::mem::take(&mut flags.cmd);
    let path = match (dir, program.split_first()) {
        (Some(dir), None) => dir,
        (None, Some((first, rest))) => {
            if !flags.arg.is_empty() && !rest.is_empty() {
                let text = "arguments stand after the program, or in `--arg`, not in both";
                return Err(Failure::usage(text));
            }
            flags.arg.extend_from_slice(rest);
            first.into()
        }
        _ => {
            let failure = Failure::usage("a directory or a program, and not both");
            return Err(failure.hint(format!("nihilo deploy {name} -- ./server")));
        }
    };
    flags.image = Some(bundle::of_service(context, &path, &command, &name).await?);
    service::deploy(context, &name, &flags, &wait).await
}
