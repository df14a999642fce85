//! Secrets: sealed here, before anything is proposed, so that the log never sees a value. What is
//! answered are outlines: keys and sizes.

use nihilo_machine::command::{DeleteSecret, Expect, PutSecret, RequestKey};
use nihilo_machine::reply::Change;
use nihilo_machine::{Command, Outcome};
use nihilo_raft::RaftNode;
use nihilo_types::id::LogIndex;
use nihilo_types::sealing::SealingKey;
use nihilo_types::secret::{LAST_APPLIED, SealedSecret, Secret};
use nihilo_types::secret_value::SecretValue;
use nihilo_wire::serving as pb;
use prost::Message;
use tonic::Status;

use super::write::propose;
use super::{error, names, read};
use crate::secrets_key::SecretsKey;

pub(super) const PLURAL: &str = "secrets";

/// `if_unnamed` is what a request without an etag expects of the stored object.
pub(super) async fn put(
    raft: &RaftNode,
    key: &SecretsKey,
    method: &str,
    request: pb::WriteRequest,
    if_unnamed: Expect,
) -> Result<pb::ApplyConfigResponse, Status> {
    if request.validate_only {
        let text = "`validate_only` is not there for secrets: the client checks them by itself";
        return Err(error::invalid("UNSUPPORTED_FIELD", text));
    }
    let key = key
        .get()
        .map_err(|why| error::precondition("NO_SECRETS_KEY", why.to_string()))?;
    let once = request_key(&key, method, &request);
    let expect = match names::parse_etag(&request.etag)? {
        Some(version) => Expect::Version(LogIndex(version)),
        None => if_unnamed,
    };
    let (secret, warnings) = decoded(&request)?;
    drop(request);
    let stored = raft
        .state()
        .read(|state| state.secret(&secret.metadata.key()).cloned());
    let sealed: SealedSecret = secret.seal(&key, stored.as_deref(), rand::random);
    drop(secret);
    let command = Command::PutSecret(Box::new(PutSecret {
        secret: sealed,
        expect,
        uid: uuid::Uuid::now_v7().to_string(),
    }));
    let reply = propose(raft, command, once).await?;
    match reply.result {
        Ok(Outcome::Secret { secret, change }) => Ok(pb::ApplyConfigResponse {
            object: Some(read::shown(secret.as_ref(), &secret.metadata)),
            unchanged: change == Change::Unchanged,
            index: reply.index.0,
            warnings,
        }),
        Ok(_) => Err(Status::internal("unexpected answer")),
        Err(rejection) => Err(error::rejected(&rejection)),
    }
}

/// The hash of a request stands in the log: without the key, a short value could be guessed by it.
fn request_key(key: &SealingKey, method: &str, request: &pb::WriteRequest) -> RequestKey {
    let asked = SecretValue::new(request.encode_to_vec());
    RequestKey::new(
        &request.request_id,
        method,
        &key.fingerprint(asked.expose()),
    )
}

/// Whatever is wrong is told without the values, so not in serde's words.
fn decoded(request: &pb::WriteRequest) -> Result<(Secret, Vec<String>), Status> {
    let mut secret: Secret = serde_json::from_slice(&request.json).map_err(|failure| {
        let at = format!("line {} column {}", failure.line(), failure.column());
        error::invalid("MALFORMED", format!("not a secret: see {at} of its JSON"))
    })?;
    secret.default_fields();
    let mut warnings = Vec::new();
    if secret.metadata.annotations.remove(LAST_APPLIED).is_some() {
        warnings.push(format!(
            "annotation `{LAST_APPLIED}` was left out: it holds the values in the clear"
        ));
    }
    secret
        .check()
        .map_err(|why| error::invalid("INVALID_FIELD", why))?;
    Ok((secret, warnings))
}

pub(super) async fn delete(
    raft: &RaftNode,
    request: pb::DeleteRequest,
) -> Result<pb::DeleteResponse, Status> {
    let asked = request.encode_to_vec();
    let once = RequestKey::new(&request.request_id, "delete-secret", &asked);
    let key = names::parse(&request.name, PLURAL)?;
    let expect = match names::parse_etag(&request.etag)? {
        Some(version) => Expect::Version(LogIndex(version)),
        None => Expect::Any,
    };
    let command = Command::DeleteSecret(DeleteSecret { key, expect });
    let reply = propose(raft, command, once).await?;
    match reply.result {
        Ok(_) => Ok(pb::DeleteResponse {
            index: reply.index.0,
        }),
        Err(rejection) => Err(error::rejected(&rejection)),
    }
}
