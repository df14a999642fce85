//! `nihilo cluster members|token|promote|remove|finalize-version`.

use std::time::Duration;

use clap::{Args, Subcommand};
use nihilo_types::time::parse_go_duration_ms;
use nihilo_wire::cluster as pb;
use serde::Serialize;
use tokio::time::Instant;

use super::drain;
use crate::context::Context;
use crate::failure::{Failure, Result, exit};
use crate::output::{self, OutputArgs};

const HEAD: [&str; 6] = ["ID", "NAME", "STANDING", "WANTED", "PEER", "ADMIN"];
/// Role of a node that did not answer.
const UNREACHABLE: &str = "unreachable";
const TOKEN_HEAD: [&str; 3] = ["ID", "VOTER", "EXPIRES"];
/// Between two looks at what consensus has made of a change.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A founded cluster knows its members by then.
const FOUNDED_LIMIT: Duration = Duration::from_secs(10);

#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Make a token for one node; it is shown once.
    Create {
        /// How long it is good.
        #[arg(long, default_value = "1h", value_parser = ttl)]
        ttl: u64,
        /// The node is to vote as soon as it has caught up. Without this it holds the log and
        /// does not vote, unless a voter is missing.
        #[arg(long)]
        voter: bool,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Tokens that were neither used nor revoked.
    List {
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Make a token worthless.
    Revoke { id: String },
}

#[derive(Debug, Args)]
pub(crate) struct RemoveArgs {
    node: String,
    /// Do not drain it first: requests that it has are cut.
    #[arg(long)]
    force: bool,
    /// Seconds that draining it may take.
    #[arg(
        long,
        default_value_t = 300,
        value_name = "SECONDS",
        conflicts_with = "force"
    )]
    drain_timeout: u64,
    /// Seconds to wait until consensus has made the change; 0 = do not wait.
    #[arg(long, default_value_t = 30, value_name = "SECONDS")]
    wait_timeout: u64,
}

fn ttl(text: &str) -> std::result::Result<u64, String> {
    match parse_go_duration_ms(text) {
        Some(0) | None => Err(format!("`{text}` is not a duration above zero such as 30m")),
        Some(milliseconds) => Ok(milliseconds),
    }
}

#[derive(Debug, Serialize)]
struct Members {
    cluster_version: u32,
    members: Vec<Member>,
}

#[derive(Debug, Serialize)]
struct Member {
    id: u64,
    name: String,
    standing: String,
    wanted: String,
    peer: String,
    admin: String,
    founder: bool,
    removed_at: u64,
}

#[derive(Debug, Serialize)]
struct Token {
    id: String,
    voter: bool,
    expires_in_ms: u64,
}

pub(crate) async fn list(context: &Context, output: OutputArgs) -> Result<()> {
    let answer = context.client.members().await?;
    if answer.cluster_version < answer.known_version {
        output::note(&format!(
            "the cluster has version {}, the node asked knows {}\n  hint: once every node runs the \
             new build: nihilo cluster finalize-version",
            answer.cluster_version, answer.known_version
        ));
    }
    let members = Members {
        cluster_version: answer.cluster_version,
        members: answer.members.into_iter().map(Member::from).collect(),
    };
    output::one(output.output, &members, names, |members| {
        let rows: Vec<_> = members.members.iter().map(row).collect();
        output::table(&HEAD, &rows)
    })
}

impl From<pb::Member> for Member {
    fn from(member: pb::Member) -> Self {
        Self {
            id: member.id,
            name: member.name,
            standing: member.standing,
            wanted: member.wanted,
            peer: member.peer,
            admin: member.admin,
            founder: member.founder,
            removed_at: member.removed_at,
        }
    }
}

fn names(members: &Members) -> String {
    let names = members.members.iter();
    let names: Vec<_> = names
        .map(|member| format!("node/{}", member.name))
        .collect();
    names.join("\n")
}

fn row(member: &Member) -> Vec<String> {
    vec![
        member.id.to_string(),
        member.name.clone(),
        member.standing.clone(),
        member.wanted.clone(),
        member.peer.clone(),
        member.admin.clone(),
    ]
}

pub(crate) async fn token(context: &Context, command: TokenCommand) -> Result<()> {
    match command {
        TokenCommand::Create { ttl, voter, output } => {
            let (token, ttl_ms) = context.client.create_token(voter, ttl).await?;
            let text = token.to_string();
            let server = context
                .client
                .servers()
                .next()
                .unwrap_or_default()
                .to_owned();
            output::note(&format!(
                "For one node, for {}. On its host, with an empty data directory:\n  nihilo cluster \
                 join {}@{server} --name NAME --data-dir DIR",
                nihilo_types::time::age(ttl_ms),
                text
            ));
            let shown = serde_json::json!({"id": token.id, "token": text, "ttl_ms": ttl_ms});
            output::one(output.output, &shown, |_| text.clone(), |_| text.clone())
        }
        TokenCommand::List { output } => {
            let tokens: Vec<_> = context
                .client
                .tokens()
                .await?
                .into_iter()
                .map(Token::from)
                .collect();
            output::list(
                output.output,
                &tokens,
                |token| token.id.clone(),
                |tokens| {
                    output::table(
                        &TOKEN_HEAD,
                        &tokens.iter().map(Token::row).collect::<Vec<_>>(),
                    )
                },
            )
        }
        TokenCommand::Revoke { id } => {
            context.client.revoke_token(&id).await?;
            output::data(&format!("token {id} is worth nothing any more"));
            Ok(())
        }
    }
}

impl From<pb::Token> for Token {
    fn from(token: pb::Token) -> Self {
        Self {
            id: token.id,
            voter: token.voter,
            expires_in_ms: token.expires_in_ms,
        }
    }
}

impl Token {
    fn row(&self) -> Vec<String> {
        let expires = match self.expires_in_ms {
            0 => "expired".into(),
            left => format!("in {}", nihilo_types::time::age(left)),
        };
        vec![self.id.clone(), self.voter.to_string(), expires]
    }
}

/// A node by its name among those present, or by its id.
pub(super) async fn find(context: &Context, node: &str) -> Result<pb::Member> {
    let members = known_members(context).await?;
    let by_id = node.parse::<u64>().ok();
    let present = || members.iter().filter(|member| member.wanted != "removed");
    let found = present()
        .find(|member| member.name == node)
        .or_else(|| members.iter().find(|member| Some(member.id) == by_id));
    found.cloned().ok_or_else(|| {
        let names: Vec<_> = present().map(|member| member.name.as_str()).collect();
        Failure::new(exit::NOT_FOUND, format!("no node `{node}`"))
            .because(format!("nodes: {}", names.join(", ")))
    })
}

/// A cluster that was founded just now has yet to write its founders down.
async fn known_members(context: &Context) -> Result<Vec<pb::Member>> {
    let deadline = Instant::now() + FOUNDED_LIMIT;
    loop {
        let answer = context.client.members().await?;
        let will_have_some = answer.cluster_version == answer.known_version;
        let is_late = Instant::now() >= deadline;
        if !answer.members.is_empty() || !will_have_some || is_late {
            return Ok(answer.members);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

pub(crate) async fn promote(context: &Context, node: &str) -> Result<()> {
    let member = find(context, node).await?;
    context.client.promote(member.id).await?;
    output::data(&format!(
        "{} (node {}) votes as soon as it has caught up",
        member.name, member.id
    ));
    Ok(())
}

pub(crate) async fn remove(context: &Context, args: &RemoveArgs) -> Result<()> {
    let member = find(context, &args.node).await?;
    if !args.force {
        drain_first(context, &member, Duration::from_secs(args.drain_timeout)).await?;
    }
    context.client.remove(member.id).await?;
    let limit = Duration::from_secs(args.wait_timeout);
    if !limit.is_zero() {
        wait_removed(context, &member, limit).await?;
    }
    output::data(&format!(
        "{} (node {}) is removed; its id is never used again",
        member.name, member.id
    ));
    Ok(())
}

/// A node that does not answer has nothing that could be moved in order.
async fn drain_first(context: &Context, member: &pb::Member, limit: Duration) -> Result<()> {
    // Before anything moves: a removal that is refused changes nothing.
    context.client.check_removal(member.id).await?;
    let nodes = context.client.nodes().await?;
    let node = nodes.iter().find(|node| node.id == member.id);
    if node.is_none_or(|node| node.role == UNREACHABLE) {
        return Ok(());
    }
    context.client.drain(member.id).await?;
    let drained = drain::until_drained(context, member, limit).await;
    drained.map_err(|failure| {
        let name = &member.name;
        failure.because("it was not removed").hint(format!(
            "call it off: nihilo node uncordon {name}; remove it as it is: nihilo cluster remove \
             {name} --force"
        ))
    })
}

async fn wait_removed(context: &Context, member: &pb::Member, limit: Duration) -> Result<()> {
    let deadline = Instant::now() + limit;
    loop {
        let members = context.client.members().await?.members;
        let now = members.iter().find(|now| now.id == member.id);
        if now.is_none_or(|now| now.standing == "removed") {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(Failure::new(
                exit::STILL_PROGRESSING,
                format!(
                    "{} is to be removed, consensus has not done it yet",
                    member.name
                ),
            )
            .because("it is done as soon as enough of the other voters answer")
            .hint("nihilo cluster members"));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

pub(crate) async fn finalize_version(context: &Context) -> Result<()> {
    let version = context.client.finalize_version().await?;
    output::data(&format!("the cluster has version {version}"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_says_what_is_and_what_is_wanted() {
        let member = |id, standing: &str, wanted: &str| Member {
            id,
            name: format!("node{id}"),
            standing: standing.into(),
            wanted: wanted.into(),
            peer: "h:7071".into(),
            admin: "h:7070".into(),
            founder: id < 4,
            removed_at: 0,
        };
        let members = [
            member(1, "voter", "voter"),
            member(217, "joining", "learner"),
        ];
        let want = "\
ID   NAME     STANDING  WANTED   PEER    ADMIN
1    node1    voter     voter    h:7071  h:7070
217  node217  joining   learner  h:7071  h:7070";
        assert_eq!(
            output::table(&HEAD, &members.iter().map(row).collect::<Vec<_>>()),
            want
        );
    }

    #[test]
    fn a_time_to_live_needs_a_unit() {
        assert_eq!(ttl("30m"), Ok(1_800_000));
        assert!(ttl("30").is_err() && ttl("0s").is_err());
    }
}
