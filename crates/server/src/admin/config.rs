//! `nihilo.serving.v1.ConfigService`: ConfigMaps, the cluster's own settings among them, and
//! Secrets.

use nihilo_machine::command::{DeleteConfigMap, Expect, PutConfigMap, RequestKey};
use nihilo_machine::reply::Change;
use nihilo_machine::{Command, Outcome};
use nihilo_raft::RaftNode;
use nihilo_scale::config::unknown_keys;
use nihilo_types::config_map::{CONFIG_AUTOSCALER, ConfigMap, SYSTEM_NAMESPACE};
use nihilo_types::id::{Kind, LogIndex};
use nihilo_wire::serving as pb;
use prost::Message;
use tonic::{Request, Response, Status};

use super::read;
use super::write::{decode, propose};
use super::{error, names, secret};
use crate::secrets_key::SecretsKey;

const PLURAL: &str = "configmaps";

#[derive(Debug, Clone)]
pub struct ConfigApi {
    pub raft: RaftNode,
    pub key: SecretsKey,
}

impl ConfigApi {
    /// `if_unnamed` is what a request without an etag expects of the stored object.
    async fn put(
        &self,
        method: &str,
        request: pb::WriteRequest,
        if_unnamed: Expect,
    ) -> Result<pb::ApplyConfigResponse, Status> {
        let once = RequestKey::new(&request.request_id, method, &request.encode_to_vec());
        let mut config_map: ConfigMap = decode(&request.json)?;
        config_map.default_fields();
        let expect = match names::parse_etag(&request.etag)? {
            Some(version) => Expect::Version(LogIndex(version)),
            None => if_unnamed,
        };
        let warnings = warnings(&config_map);
        let put = PutConfigMap {
            config_map,
            expect,
            uid: uuid::Uuid::now_v7().to_string(),
        };
        let command = Command::PutConfigMap(Box::new(put));
        let reply = propose(&self.raft, command, once).await?;
        match reply.result {
            Ok(Outcome::ConfigMap { config_map, change }) => Ok(pb::ApplyConfigResponse {
                object: Some(read::shown(config_map.as_ref(), &config_map.metadata)),
                unchanged: change == Change::Unchanged,
                index: reply.index.0,
                warnings,
            }),
            Ok(other) => Err(Status::internal(format!("unexpected answer {other:?}"))),
            Err(rejection) => Err(error::rejected(&rejection)),
        }
    }
}

/// Keys of the autoscaler's settings that nothing reads.
fn warnings(map: &ConfigMap) -> Vec<String> {
    let meta = &map.metadata;
    if meta.namespace != SYSTEM_NAMESPACE || meta.name != CONFIG_AUTOSCALER {
        return Vec::new();
    }
    let warn = |(key, near): (String, Option<String>)| match near {
        Some(near) => format!("unknown key `{key}` has no effect, did you mean `{near}`?"),
        None => format!("unknown key `{key}` has no effect"),
    };
    unknown_keys(&map.data).into_iter().map(warn).collect()
}

#[tonic::async_trait]
impl pb::config_service_server::ConfigService for ConfigApi {
    async fn get_config_map(
        &self,
        request: Request<pb::GetRequest>,
    ) -> Result<Response<pb::Object>, Status> {
        read::answer_get(&self.raft, request, Kind::ConfigMap, PLURAL).await
    }

    async fn list_config_maps(
        &self,
        request: Request<pb::ListRequest>,
    ) -> Result<Response<pb::ListResponse>, Status> {
        read::answer_list(&self.raft, request, Kind::ConfigMap).await
    }

    async fn apply_config_map(
        &self,
        request: Request<pb::WriteRequest>,
    ) -> Result<Response<pb::ApplyConfigResponse>, Status> {
        let put = self.put("apply-configmap", request.into_inner(), Expect::Any);
        put.await.map(Response::new)
    }

    async fn create_config_map(
        &self,
        request: Request<pb::WriteRequest>,
    ) -> Result<Response<pb::ApplyConfigResponse>, Status> {
        let put = self.put("create-configmap", request.into_inner(), Expect::Absent);
        put.await.map(Response::new)
    }

    async fn get_secret(
        &self,
        request: Request<pb::GetRequest>,
    ) -> Result<Response<pb::Object>, Status> {
        read::answer_get(&self.raft, request, Kind::Secret, secret::PLURAL).await
    }

    async fn list_secrets(
        &self,
        request: Request<pb::ListRequest>,
    ) -> Result<Response<pb::ListResponse>, Status> {
        read::answer_list(&self.raft, request, Kind::Secret).await
    }

    async fn create_secret(
        &self,
        request: Request<pb::WriteRequest>,
    ) -> Result<Response<pb::ApplyConfigResponse>, Status> {
        let request = request.into_inner();
        let (raft, key) = (&self.raft, &self.key);
        let put = secret::put(raft, key, "create-secret", request, Expect::Absent);
        put.await.map(Response::new)
    }

    async fn apply_secret(
        &self,
        request: Request<pb::WriteRequest>,
    ) -> Result<Response<pb::ApplyConfigResponse>, Status> {
        let request = request.into_inner();
        let (raft, key) = (&self.raft, &self.key);
        let put = secret::put(raft, key, "apply-secret", request, Expect::Any);
        put.await.map(Response::new)
    }

    async fn delete_secret(
        &self,
        request: Request<pb::DeleteRequest>,
    ) -> Result<Response<pb::DeleteResponse>, Status> {
        let deleted = secret::delete(&self.raft, request.into_inner());
        deleted.await.map(Response::new)
    }

    async fn delete_config_map(
        &self,
        request: Request<pb::DeleteRequest>,
    ) -> Result<Response<pb::DeleteResponse>, Status> {
        let request = request.into_inner();
        let once = RequestKey::new(
            &request.request_id,
            "delete-configmap",
            &request.encode_to_vec(),
        );
        let key = names::parse(&request.name, PLURAL)?;
        let expect = match names::parse_etag(&request.etag)? {
            Some(version) => Expect::Version(LogIndex(version)),
            None => Expect::Any,
        };
        let command = Command::DeleteConfigMap(DeleteConfigMap { key, expect });
        let reply = propose(&self.raft, command, once).await?;
        match reply.result {
            Ok(_) => Ok(Response::new(pb::DeleteResponse {
                index: reply.index.0,
            })),
            Err(rejection) => Err(error::rejected(&rejection)),
        }
    }
}
