//! `nihilo secret`: values that go to the cluster and to instances, and come back to nobody.

use clap::Subcommand;
use nihilo_types::secret::{OPAQUE, Secret, SecretOutline};

use super::Scope;
use super::literals::Literals;
use crate::context::Context;
use crate::failure::{Failure, Result};
use crate::output::{self, OutputArgs};

#[derive(Debug, Subcommand)]
pub(crate) enum SecretCommand {
    /// A new one, of files and literals.
    Create {
        name: String,
        #[command(flatten)]
        from: Literals,
        /// `Opaque`, `kubernetes.io/tls` (with tls.crt and tls.key) or
        /// `kubernetes.io/dockerconfigjson` (with .dockerconfigjson).
        #[arg(long = "type", value_name = "TYPE", default_value = OPAQUE)]
        secret_type: String,
        /// Its values never change; it can only be deleted.
        #[arg(long)]
        immutable: bool,
    },
    /// All of them.
    List {
        #[command(flatten)]
        scope: Scope,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// One: its keys, and how many bytes each value has.
    Describe {
        name: String,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Remove one; instances that run keep what they have.
    Delete { name: String },
}

pub(crate) async fn run(context: &Context, command: SecretCommand) -> Result<()> {
    match command {
        SecretCommand::Create {
            name,
            from,
            secret_type,
            immutable,
        } => {
            let mut secret = Secret {
                secret_type,
                values: from.read()?,
                immutable,
                ..Secret::default()
            };
            secret.metadata.name = name;
            create(context, secret).await
        }
        SecretCommand::List { scope, output } => list(context, scope, &output).await,
        SecretCommand::Describe { name, output } => {
            let namespace = &context.namespace;
            let outline = context.client.secret(namespace, &name).await?.object;
            let name = |outline: &SecretOutline| outline.metadata.name.clone();
            output::one(output.output, &outline, name, described)
        }
        SecretCommand::Delete { name } => {
            let namespace = &context.namespace;
            context.client.delete_secret(namespace, &name).await?;
            output::data(&format!(
                "Secret '{name}' successfully deleted in namespace '{namespace}'."
            ));
            Ok(())
        }
    }
}

async fn create(context: &Context, mut secret: Secret) -> Result<()> {
    secret.metadata.namespace.clone_from(&context.namespace);
    secret.default_fields();
    secret.check().map_err(Failure::usage)?;
    context.client.create_secret(&secret).await?;
    let (name, namespace) = (&secret.metadata.name, &secret.metadata.namespace);
    output::data(&format!(
        "Secret '{name}' created in namespace '{namespace}'."
    ));
    Ok(())
}

async fn list(context: &Context, scope: Scope, output: &OutputArgs) -> Result<()> {
    let listed = context.client.secrets(scope.namespace(context)).await?;
    let rows = |secrets: &[SecretOutline]| {
        let row = |secret: &SecretOutline| {
            let meta = &secret.metadata;
            let n_keys = secret.bytes.len().to_string();
            let row = vec![meta.name.clone(), secret.secret_type.clone(), n_keys];
            (meta.namespace.clone(), row)
        };
        scope.table(&["NAME", "TYPE", "KEYS"], secrets.iter().map(row).collect())
    };
    let name = |secret: &SecretOutline| format!("secret/{}", secret.metadata.name);
    output::list(output.output, &listed.items, name, rows)
}

fn described(secret: &SecretOutline) -> String {
    let rows: Vec<_> = (secret.bytes.iter())
        .map(|(key, n_bytes)| vec![key.clone(), n_bytes.to_string()])
        .collect();
    output::table(&["KEY", "BYTES"], &rows)
}

pub(crate) async fn apply(context: &Context, mut secret: Secret) -> Result<()> {
    if secret.metadata.namespace.is_empty() {
        secret.metadata.namespace.clone_from(&context.namespace);
    }
    secret.default_fields();
    secret.check().map_err(Failure::usage)?;
    let written = context.client.apply_secret(&secret).await?;
    output::applied("Secret", &secret.metadata, &written);
    Ok(())
}
