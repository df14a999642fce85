//! `nihilo domain`: own host names of services, and which namespace each name is for.

use clap::Subcommand;
use nihilo_client::{Change, WrittenObject};
use nihilo_types::condition::{Condition, ConditionStatus};
use nihilo_types::domain::{ClusterDomainClaim, DomainMapping, Reference};
use nihilo_types::meta::API_VERSION;

use super::Scope;
use crate::context::Context;
use crate::failure::{Failure, Result};
use crate::output::{self, OutputArgs, explained, status_word};

#[derive(Debug, Subcommand)]
pub(crate) enum DomainCommand {
    /// Give a service a host name of its own.
    Create {
        host: String,
        /// The service; `ksvc:NAME` and `kroute:NAME` say which kind it is.
        #[arg(long = "ref", value_name = "NAME")]
        reference: String,
    },
    /// Give the host name to another service.
    Update {
        host: String,
        #[arg(long = "ref", value_name = "NAME")]
        reference: String,
    },
    /// List own host names.
    #[command(visible_alias = "ls")]
    List {
        #[command(flatten)]
        scope: Scope,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// One with its conditions.
    Describe {
        host: String,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Delete a domain: its host is answered with 404 then, and its name is free.
    Delete { host: String },
    /// Say that a name is for the namespace.
    Claim { host: String },
    /// Say that a name is for nobody.
    Unclaim { host: String },
    /// Which name is for which namespace.
    Claims {
        #[command(flatten)]
        output: OutputArgs,
    },
}

pub(crate) async fn run(context: &Context, command: DomainCommand) -> Result<()> {
    match command {
        DomainCommand::Create { host, reference } => create(context, &host, &reference).await,
        DomainCommand::Update { host, reference } => update(context, &host, &reference).await,
        DomainCommand::List { scope, output } => list(context, scope, &output).await,
        DomainCommand::Describe { host, output } => describe(context, &host, &output).await,
        DomainCommand::Delete { host } => delete(context, &host).await,
        DomainCommand::Claim { host } => {
            let claim = ClusterDomainClaim::new(&host, &context.namespace);
            apply_claim(context, &claim).await
        }
        DomainCommand::Unclaim { host } => unclaim(context, &host).await,
        DomainCommand::Claims { output } => claims(context, &output).await,
    }
}

async fn create(context: &Context, host: &str, reference: &str) -> Result<()> {
    let mut mapping = DomainMapping::default();
    mapping.metadata.name = host.into();
    mapping.metadata.namespace.clone_from(&context.namespace);
    mapping.spec.reference = parse_reference(reference)?;
    mapping.default_fields();
    let written = context.client.create_domain_mapping(&mapping).await;
    let written = written.map_err(|error| match error.reason.as_str() {
        "ALREADY_EXISTS" => {
            Failure::from(error).hint(format!("nihilo domain update {host} --ref {reference}"))
        }
        _ => error.into(),
    })?;
    finish(context, &written).await
}

/// On the version that was read: a concurrent change is a conflict, not a lost update.
async fn update(context: &Context, host: &str, reference: &str) -> Result<()> {
    let stored = context.client.domain_mapping(&context.namespace, host);
    let stored = stored.await.map_err(not_found)?;
    let mut mapping = stored.object;
    mapping.spec.reference = parse_reference(reference)?;
    mapping.default_fields();
    let written = context.client.apply_domain_mapping(&mapping, &stored.etag);
    finish(context, &written.await?).await
}

pub(crate) async fn apply(context: &Context, mut mapping: DomainMapping) -> Result<()> {
    if mapping.metadata.namespace.is_empty() {
        mapping.metadata.namespace.clone_from(&context.namespace);
    }
    let written = context.client.apply_domain_mapping(&mapping, "").await?;
    finish(context, &written).await
}

async fn finish(context: &Context, written: &WrittenObject<DomainMapping>) -> Result<()> {
    let meta = &written.object.metadata;
    let (host, namespace) = (&meta.name, &meta.namespace);
    output::data(&match written.change {
        Change::Unchanged => format!("No changes to apply to domain mapping '{host}'."),
        Change::Created => format!("Domain mapping '{host}' created in namespace '{namespace}'."),
        Change::Updated | Change::Unspecified => {
            format!("Domain mapping '{host}' updated in namespace '{namespace}'.")
        }
    });
    let conditions = &written.object.status.conditions;
    if conditions.is_false("Ready") {
        let claims = context.client.domain_claims().await?.items;
        for remark in remarks(&written.object, &claims) {
            output::note(&remark);
        }
    }
    Ok(())
}

/// Why a name is not served, and what to do about it.
fn remarks(mapping: &DomainMapping, claims: &[ClusterDomainClaim]) -> Vec<String> {
    let meta = &mapping.metadata;
    let (host, namespace) = (&meta.name, &meta.namespace);
    let conditions = mapping.status.conditions.0.iter();
    let failed = conditions.filter(|c| c.status == ConditionStatus::False && c.kind != "Ready");
    let remark = |condition: &Condition| {
        let hint = match condition.kind.as_str() {
            "DomainClaimed" => match claims.iter().find(|claim| claim.metadata.name == *host) {
                Some(claim) => format!("it is for namespace '{}'", claim.spec.namespace),
                None => format!("nihilo domain claim {host} -n {namespace}"),
            },
            "ReferenceResolved" => format!(
                "nihilo service create {} --image IMAGE -n {namespace}",
                mapping.spec.reference.name
            ),
            _ => format!("nihilo domain describe {host} -n {namespace}"),
        };
        format!("not served yet: {}\n  hint: {hint}", explained(condition))
    };
    failed.map(remark).collect()
}

/// `NAME`, `ksvc:NAME` or `kroute:NAME`, each with `:NAMESPACE` if it must be said.
fn parse_reference(text: &str) -> Result<Reference> {
    let parts: Vec<_> = text.split(':').collect();
    let (kind, rest) = match parts.as_slice() {
        ["ksvc" | "service", rest @ ..] => ("Service", rest),
        ["kroute" | "route", rest @ ..] => ("Route", rest),
        rest => ("Service", rest),
    };
    let (name, namespace) = match rest {
        [name] => (*name, ""),
        [name, namespace] if parts.len() == 3 => (*name, *namespace),
        _ => {
            return Err(Failure::usage(format!(
                "`--ref {text}` is none of NAME, ksvc:NAME and kroute:NAME"
            )));
        }
    };
    Ok(Reference {
        api_version: API_VERSION.into(),
        kind: kind.into(),
        name: name.into(),
        namespace: namespace.into(),
    })
}

fn not_found(error: nihilo_client::Error) -> Failure {
    let hint = error.is_not_found().then_some("nihilo domain list -A");
    let failure = Failure::from(error);
    match hint {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}

async fn list(context: &Context, scope: Scope, output: &OutputArgs) -> Result<()> {
    let listed = context.client.domain_mappings(scope.namespace(context));
    let mappings = listed.await?.items;
    let rows = |mappings: &[DomainMapping]| {
        let rows = mappings.iter().map(|mapping| {
            let namespace = mapping.metadata.namespace.clone();
            (namespace, row(mapping))
        });
        let head = ["NAME", "URL", "READY", "REASON", "REF"];
        scope.table(&head, rows.collect())
    };
    output::list(output.output, &mappings, short_name, rows)
}

fn row(mapping: &DomainMapping) -> Vec<String> {
    let (spec, status) = (&mapping.spec, &mapping.status);
    let ready = status.conditions.get("Ready");
    let reason = ready.filter(|ready| ready.status != ConditionStatus::True);
    vec![
        mapping.metadata.name.clone(),
        status.url.clone(),
        status_word(status.conditions.status("Ready")).into(),
        reason.map(|ready| ready.reason.clone()).unwrap_or_default(),
        referred(&spec.reference),
    ]
}

fn referred(reference: &Reference) -> String {
    format!("{}/{}", reference.kind.to_lowercase(), reference.name)
}

fn short_name(mapping: &DomainMapping) -> String {
    format!(
        "domainmapping.serving.knative.dev/{}",
        mapping.metadata.name
    )
}

async fn describe(context: &Context, host: &str, output: &OutputArgs) -> Result<()> {
    let stored = context.client.domain_mapping(&context.namespace, host);
    let mapping = stored.await.map_err(not_found)?.object;
    output::one(output.output, &mapping, short_name, description)
}

fn description(mapping: &DomainMapping) -> String {
    let (meta, status) = (&mapping.metadata, &mapping.status);
    let lines = [
        output::heading(meta, status.observed_generation),
        format!("URL:  {}", status.url),
        format!("Ref:  {}", referred(&mapping.spec.reference)),
        output::conditions_line(&status.conditions),
    ];
    lines.map(|line| output::plain(&line)).join("\n")
}

async fn delete(context: &Context, host: &str) -> Result<()> {
    let namespace = &context.namespace;
    let deleted = context.client.delete_domain_mapping(namespace, host);
    deleted.await.map_err(not_found)?;
    output::data(&format!(
        "Domain mapping '{host}' deleted in namespace '{namespace}'."
    ));
    Ok(())
}

pub(crate) async fn apply_claim(context: &Context, claim: &ClusterDomainClaim) -> Result<()> {
    let written = context.client.apply_domain_claim(claim).await?;
    let (host, namespace) = (&claim.metadata.name, &claim.spec.namespace);
    output::data(&match written.change {
        Change::Unchanged => format!("Domain '{host}' is for namespace '{namespace}' already."),
        _ => format!("Domain '{host}' claimed for namespace '{namespace}'."),
    });
    Ok(())
}

async fn unclaim(context: &Context, host: &str) -> Result<()> {
    let released = context.client.delete_domain_claim(host).await;
    released.map_err(|error| match error.is_not_found() {
        true => Failure::from(error).hint("nihilo domain claims"),
        false => error.into(),
    })?;
    output::data(&format!("Domain '{host}' released."));
    Ok(())
}

async fn claims(context: &Context, output: &OutputArgs) -> Result<()> {
    let claims = context.client.domain_claims().await?.items;
    let name = |claim: &ClusterDomainClaim| {
        let name = &claim.metadata.name;
        format!("clusterdomainclaim.networking.internal.knative.dev/{name}")
    };
    output::list(output.output, &claims, name, |claims| {
        let row = |claim: &ClusterDomainClaim| {
            let name = claim.metadata.name.clone();
            vec![name, claim.spec.namespace.clone()]
        };
        let rows: Vec<_> = claims.iter().map(row).collect();
        output::table(&["NAME", "NAMESPACE"], &rows)
    })
}

#[cfg(test)]
mod tests {
    use nihilo_types::condition::Assertion;

    use super::*;

    fn mapping() -> DomainMapping {
        let mut mapping = DomainMapping::default();
        mapping.metadata.name = "www.example.org".into();
        mapping.metadata.namespace = "default".into();
        mapping.metadata.generation = 1;
        mapping.metadata.resource_version = "7".into();
        mapping.spec.reference = parse_reference("hello").unwrap();
        mapping.status.observed_generation = 1;
        mapping.status.url = "http://www.example.org:8080".into();
        mapping
    }

    #[test]
    fn references_are_written_as_in_kn() {
        let parsed = |text: &str| {
            let reference = parse_reference(text).unwrap();
            (reference.kind, reference.name, reference.namespace)
        };
        let is = |kind: &str, name: &str, namespace: &str| {
            (kind.to_owned(), name.to_owned(), namespace.to_owned())
        };
        assert_eq!(parsed("hello"), is("Service", "hello", ""));
        assert_eq!(parsed("ksvc:hello"), is("Service", "hello", ""));
        assert_eq!(parsed("kroute:hello"), is("Route", "hello", ""));
        assert_eq!(parsed("ksvc:hello:other"), is("Service", "hello", "other"));
        for bad in ["hello:other", "ksvc:a:b:c", "broker:hello", "ksvc"] {
            assert_eq!(parse_reference(bad).unwrap_err().code, 2, "{bad}");
        }
    }

    #[test]
    fn what_keeps_a_name_from_being_served_comes_with_the_next_command() {
        let mut mapping = mapping();
        let conditions = &mut mapping.status.conditions;
        let unclaimed = Assertion::falsity("DomainClaimed", "DomainAlreadyClaimed", "no claim");
        conditions.set(&unclaimed, "now");
        let missing = Assertion::falsity("ReferenceResolved", "ResolveFailed", "not found");
        conditions.set(&missing, "now");
        conditions.set(
            &Assertion::falsity("Ready", "ResolveFailed", "not found"),
            "now",
        );
        assert_eq!(
            remarks(&mapping, &[]),
            [
                "not served yet: DomainAlreadyClaimed : no claim\n  hint: nihilo domain claim \
                 www.example.org -n default",
                "not served yet: ResolveFailed : not found\n  hint: nihilo service create hello \
                 --image IMAGE -n default"
            ]
        );
        let claim = ClusterDomainClaim::new("www.example.org", "other");
        let said = remarks(&mapping, &[claim]);
        assert!(said[0].ends_with("it is for namespace 'other'"), "{said:?}");
        assert_eq!(
            row(&mapping)[2..],
            ["False", "ResolveFailed", "service/hello"]
        );
    }

    #[test]
    fn describe_says_what_the_name_refers_to() {
        let mut mapping = mapping();
        let ready = Assertion::truth("Ready");
        mapping.status.conditions.set(&ready, "now");
        let want = "\
Name: www.example.org   Namespace: default   Age: ?   Generation: 1 (observed 1)   etag \"7\"
URL:  http://www.example.org:8080
Ref:  service/hello
Conditions:  ++ Ready";
        assert_eq!(description(&mapping), want);
    }
}
