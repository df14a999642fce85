//! `nihilo logs SVC [-f] [--previous] [--revision R]`: of all nodes. One that does not answer is named on
//! stderr, and what the others have is shown all the same.

use nihilo_wire::serving as pb;

use crate::context::Context;
use crate::failure::{Failure, Result, exit};
use crate::output;

#[derive(Debug, clap::Args)]
pub(crate) struct LogsArgs {
    service: String,
    /// Go on with what comes, also of instances that are started from now on.
    #[arg(short, long)]
    follow: bool,
    /// Only of instances that have ended, on every node, also before a node was restarted: of a
    /// revision's last three that crashed for a day, of others for a quarter of an hour.
    #[arg(long, conflicts_with = "follow")]
    previous: bool,
    /// Only of this revision.
    #[arg(long, default_value = "", hide_default_value = true)]
    revision: String,
    /// Only of this instance.
    #[arg(long, default_value = "", hide_default_value = true)]
    instance: String,
}

pub(crate) async fn run(context: &Context, args: LogsArgs) -> Result<()> {
    // So that a name that does not exist is an error, not silence.
    context
        .client
        .service(&context.namespace, &args.service)
        .await?;
    let mut stream = context
        .client
        .logs(pb::LogsRequest {
            namespace: context.namespace.clone(),
            service: args.service,
            revision: args.revision,
            instance: args.instance,
            follow: args.follow,
            previous: args.previous,
        })
        .await?;
    loop {
        let line = tokio::select! {
            line = stream.next() => line?,
            _ = tokio::signal::ctrl_c() => {
                return Err(Failure::new(exit::INTERRUPTED, "interrupted"));
            }
        };
        match line {
            Some(line) if !line.remark.is_empty() => {
                output::note(&format!("warning: {}", output::plain(&line.remark)));
            }
            Some(line) => output::data(&shown(&line)),
            None => return Ok(()),
        }
    }
}

fn shown(line: &pb::LogLine) -> String {
    let text = String::from_utf8_lossy(&line.line);
    format!(
        "{} | {}",
        line.instance,
        output::plain(text.trim_end_matches(['\n', '\r']))
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_its_instance_and_is_harmless() {
        let line = pb::LogLine {
            instance: "hello-00001-1a".into(),
            line: b"\x1b[31mred\n".to_vec().into(),
            ..Default::default()
        };
        assert_eq!(shown(&line), "hello-00001-1a | \\u{1b}[31mred");
    }
}
